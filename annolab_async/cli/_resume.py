"""The command ``resume``."""

from __future__ import annotations

from typing import Annotated

import typer

from annolab_async.cli._go_on import JobTimeout, MaxInFlight, OnError, OnErrorOption, Way, go_on
from annolab_async.cli._ledgers import existing_ledger, find_run, stored_plan
from annolab_async.cli._options import BaseUrl, Json, Ledger, LedgerPath, MaxPerSecond, RunName

__all__ = ["resume"]


async def resume(
    path: LedgerPath = None,
    ledger: Ledger = "run.db",
    run_name: RunName = "default",
    *,
    retry: Annotated[
        bool,
        typer.Option(
            "--retry",
            help="First try batches once more that errored, timed out or were lost: errored ones are sent again, "
            "as new jobs; the jobs of the others are watched again.",
        ),
    ] = False,
    on_error: OnErrorOption = OnError.KEEP,
    max_in_flight: MaxInFlight = 100,
    job_timeout: JobTimeout = None,
    max_per_second: MaxPerSecond = None,
    base_url: BaseUrl = None,
    is_json: Json = False,
) -> int:
    """Go on with a run where it stopped, from its ledger alone.

    Batches that have finished stay so, jobs under way are watched again, and what was never sent is sent.
    Batches that may or may not have been sent stay unknown: [bold]annolab-async resolve[/bold] is for those.
    """
    ledger = path or ledger
    async with existing_ledger(ledger) as opened:
        plan = stored_plan(await find_run(opened, run_name, spec=ledger))
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
    return await go_on(plan, way, again=way.command("resume"), tries_failed_again=retry)
