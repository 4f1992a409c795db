"""The command ``run``."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import anyio
import typer

from annolab_async import BatchPlan
from annolab_async.cli._go_on import JobTimeout, MaxInFlight, OnError, OnErrorOption, Way, go_on
from annolab_async.cli._ledgers import shown_spec
from annolab_async.cli._options import (
    BaseUrl,
    Group,
    Json,
    Ledger,
    MaxPerSecond,
    Model,
    OutputLayer,
    Project,
    RunName,
    identifier,
)
from annolab_async.cli._problems import Problem
from annolab_async.cli._sources import Column, Format, Sources, read_sources
from annolab_async.cli._terminal import Own

__all__ = ["run"]


def run(
    sources: Sources = None,
    *,
    group: Group,
    project: Project,
    model: Model,
    output_layer: OutputLayer,
    ledger: Ledger = "run.db",
    run_name: RunName = "default",
    column: Column = None,
    kind: Format = None,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size",
            rich_help_panel="What to run",
            metavar="N",
            min=1,
            help="Sources in a batch.",
        ),
    ] = 25,
    on_error: OnErrorOption = OnError.KEEP,
    max_in_flight: MaxInFlight = 100,
    job_timeout: JobTimeout = None,
    max_per_second: MaxPerSecond = None,
    base_url: BaseUrl = None,
    is_json: Json = False,
) -> int:
    """Run a model over many sources, batch by batch.

    Each step is written down in the ledger before it is taken: started again with the same arguments, or with
    [bold]annolab-async resume[/bold], it goes on where it stopped, however it was stopped, and pays for no batch twice.
    A batch that fails never ends the run. Ctrl-C stops in good order; a second one stops at once.
    """
    source_ids = read_sources(sources, column=column, kind=kind)
    try:
        plan = BatchPlan(
            group_name=group,
            project_identifier=identifier(project),
            model_identifier=identifier(model),
            output_layer_identifier=identifier(output_layer),
            source_ids=source_ids,
            batch_size=batch_size,
        )
    except ValueError as error:
        raise Problem(str(error)) from None
    way = Way(
        ledger=ledger,
        run=run_name,
        on_error=on_error,
        max_in_flight=max_in_flight,
        job_timeout=job_timeout,
        max_per_second=max_per_second,
        base_url=base_url,
        is_json=is_json,
    )

    # A ledger's URL may hold a password.
    again = Own(shlex.join(["annolab-async", *map(shown_spec, sys.argv[1:])]))

    async def go() -> int:
        return await go_on(plan, way, again=again)

    return anyio.run(go)
