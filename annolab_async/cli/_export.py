"""The command ``export``."""

from __future__ import annotations

import os
import re
import shlex
from enum import StrEnum
from functools import partial
from importlib.util import find_spec
from pathlib import Path  # typer asks for the types at run time
from typing import TYPE_CHECKING, Annotated, Final

import anyio
import typer

from annolab_async import BatchState, ExportState
from annolab_async._results import export_of, sources_of
from annolab_async.cli._export_files import FileFormat
from annolab_async.cli._export_run import Exported, bring
from annolab_async.cli._interrupts import until_interrupted
from annolab_async.cli._ledgers import existing_ledger, find_run, stored_plan, the_run
from annolab_async.cli._options import BaseUrl, Json, MaxPerSecond, identifier, make_client
from annolab_async.cli._problems import ExitStatus, Problem
from annolab_async.cli._sources import read_sources
from annolab_async.cli._terminal import tell, tell_command
from annolab_async.cli._words import plural
from annolab_async.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from annolab_async import AsyncInferenceClient, Export
    from annolab_async.cli._export_run import Begin

__all__ = ["export"]

_FROM: Final = "What to export: of a project, of a run, or an export that is there"
_FORMATS: Final = {
    ".parquet": FileFormat.PARQUET,
    ".csv": FileFormat.CSV,
    ".jsonl": FileFormat.JSONL,
    ".ndjson": FileFormat.JSONL,
}
_NUMBERS: Final = re.compile(r"[0-9,\s]+")
# As the library has it for runs.
_SOURCES_AT_ONCE: Final = 10_000


class Include(StrEnum):
    """What else is to be in the files."""

    SOURCES = "sources"
    TEXT_BOUNDS = "text-bounds"
    ANNOTATION_TYPES = "annotation-types"


def export(
    group: Annotated[
        str | None,
        typer.Option(
            "--group",
            rich_help_panel=_FROM,
            metavar="NAME",
            help="The group that owns the project.",
        ),
    ] = None,
    project: Annotated[
        str | None,
        typer.Option(
            "--project",
            rich_help_panel=_FROM,
            metavar="NAME|ID",
            help="The project. A number is an id; name:123 is the name 123.",
        ),
    ] = None,
    *,
    source_ids: Annotated[
        list[str] | None,
        typer.Option(
            "--source-ids",
            rich_help_panel=_FROM,
            metavar="IDS|FILE",
            help="Only of these of its sources: ids, a file that holds them, or - for standard input; may be repeated.",
            show_default=False,
        ),
    ] = None,
    ledger: Annotated[
        str | None,
        typer.Option(
            "--ledger",
            rich_help_panel=_FROM,
            metavar="PATH|URL",
            help="The ledger of a run: of the sources that have finished there.",
        ),
    ] = None,
    run_name: Annotated[
        str,
        typer.Option(
            "--run", rich_help_panel=_FROM, metavar="NAME", help="The run's name in the ledger."
        ),
    ] = "default",
    export_id: Annotated[
        list[int] | None,
        typer.Option(
            "--export",
            rich_help_panel=_FROM,
            metavar="ID",
            min=1,
            help="An export that was made before; may be repeated. Its download goes on where it stopped.",
            show_default=False,
        ),
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(
            "--layers",
            metavar="NAME",
            help="Only annotations in this layer; may be repeated. Without it, of a run those in its output layer.",
            show_default=False,
        ),
    ] = None,
    include: Annotated[
        list[Include] | None,
        typer.Option(
            help="What else is to be in the zip file; may be repeated.", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", dir_okay=False, help="The file to write."),
    ] = Path("export.zip"),
    form: Annotated[
        FileFormat | None,
        typer.Option(
            "--to",
            help="What it is to be: the zip file as it is made, or a table of the annotations. "
            "Without it, the file's suffix says so.",
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0.001, help="How long an export may take to be made."),
    ] = 3600.0,
    max_per_second: MaxPerSecond = None,
    base_url: BaseUrl = None,
    is_json: Json = False,
) -> int:
    """Bring annotations here: of a project, or what a run has brought.

    The file appears when it is whole; one of that name is replaced. Exits with 1 if something in it cannot be read.
    """
    begin = _chosen(
        group,
        project,
        source_ids,
        ledger=ledger,
        run=run_name,
        export_ids=export_id,
        layers=layers,
        include=include,
    )
    if not output.parent.is_dir():
        raise Problem(f"There is no folder {output.parent}.")
    form = form or _FORMATS.get(output.suffix.lower(), FileFormat.ZIP)
    if form is FileFormat.PARQUET and find_spec("pyarrow") is None:
        raise Problem("Parquet needs pyarrow.", hint="pip install 'annolab-async[arrow]'")
    exported = Exported(output, form, timeout, is_json)

    async def go() -> tuple[bool, Exception | None]:
        client = make_client(base_url, max_per_second=max_per_second, hooks=[exported.traffic])
        return await _bring(client, begin, exported)

    is_interrupted, failure = anyio.run(go)
    if is_interrupted:
        status = ExitStatus.INTERRUPTED
    else:
        is_whole = failure is None and not exported.skipped
        status = ExitStatus.FINISHED if is_whole else ExitStatus.FAILED
    if exported.files:
        exported.print_end(status=status)
    else:
        _tell_how_to_go_on(exported, failure, base_url)
    if failure is not None:
        raise failure
    return status


async def _bring(
    client: AsyncInferenceClient, begin: Begin, exported: Exported
) -> tuple[bool, Exception | None]:
    failure: Exception | None = None
    async with until_interrupted() as interrupts, client:
        try:
            await bring(client, begin, exported)
        except Exception as error:  # noqa: BLE001  # raised when it was said what is there
            failure = error
    return interrupts.have_come, failure


def _tell_how_to_go_on(exported: Exported, failure: Exception | None, base_url: str | None) -> None:
    is_there = all(each.state is not ExportState.ERRORED for each in exported.exports)
    is_worth_it = failure is None or isinstance(failure, ExportError)
    if failure is None:
        tell("Interrupted.")
    if not (exported.exports and is_there and is_worth_it):
        return
    words = ["annolab-async", "export"]
    for each in exported.exports:
        words += ["--export", str(each.export_id)]
    words += ["-o", str(exported.output), "--to", exported.form]
    if base_url and base_url != os.environ.get("ANNOLAB_BASE_URL"):
        words += ["--base-url", base_url]
    tell("To go on where it stopped:")
    tell_command(shlex.join(words))


def _chosen(
    group: str | None,
    project: str | None,
    source_ids: Sequence[str] | None,
    *,
    ledger: str | None,
    run: str,
    export_ids: Sequence[int] | None,
    layers: Sequence[str] | None,
    include: Sequence[Include] | None,
) -> Begin:
    is_of_project = not (group is None and project is None)
    if [is_of_project, ledger is not None, bool(export_ids)].count(True) != 1:
        raise Problem(
            "It is not clear what to export.",
            hint="Give --group and --project, or --ledger, or --export.",
        )
    if source_ids and not is_of_project:
        raise Problem("--source-ids go with --group and --project.")
    options = {f"include_{each.replace('-', '_')}": True for each in include or ()}
    if export_ids:
        if layers or options:
            raise Problem("--layers and --include come too late for an export that is there.")
        return partial(_there, export_ids)
    if ledger is not None:
        return partial(_of_run, ledger, run, layers or None, options)
    if group is None or project is None:
        raise Problem("--group and --project go together.")
    return partial(_of_project, group, project, _ids(source_ids), layers or None, options)


def _ids(given: Sequence[str] | None) -> list[int] | None:
    if not given:
        return None
    words: list[str] = []
    for each in given:
        words += each.replace(",", " ").split() if _NUMBERS.fullmatch(each) else [each]
    return [*dict.fromkeys(read_sources(words))]


async def _there(export_ids: Sequence[int], client: AsyncInferenceClient) -> AsyncGenerator[Export]:
    for export_id in dict.fromkeys(export_ids):
        yield await client.get_export(export_id)


async def _of_project(
    group: str,
    project: str,
    source_ids: Sequence[int] | None,
    layers: Sequence[str] | None,
    options: Mapping[str, bool],
    client: AsyncInferenceClient,
) -> AsyncGenerator[Export]:
    try:
        made = await client.export(
            group_name=group,
            project=identifier(project),
            source_ids=source_ids,
            layers=layers,
            **options,
        )
    except ValueError as error:
        raise Problem(str(error)) from None
    yield made


async def _of_run(
    ledger: str,
    run: str,
    layers: Sequence[str] | None,
    options: Mapping[str, bool],
    client: AsyncInferenceClient,
) -> AsyncGenerator[Export]:
    async with existing_ledger(ledger) as opened:
        info = await find_run(opened, run, spec=ledger)
        plan = stored_plan(info)
        opened_run = await the_run(opened, info)
        finished = [each async for each in opened_run.batches(states=[BatchState.FINISHED])]
        total = sum((await opened_run.counts()).sources_once.values())
    there = sum(len(each.source_ids) for each in finished)
    if not there:
        raise Problem(
            f"No source of run {run!r} has finished yet.",
            hint="annolab-async resume goes on with it.",
            status=ExitStatus.FAILED,
        )
    if there < total:
        tell(f"Of {plural(total, 'source')} {there:,} have finished.")
    for source_ids in sources_of(finished, at_once=_SOURCES_AT_ONCE):
        made = await export_of(client, plan, [source_ids], layers=layers, **options)
        yield made.parts[0]
