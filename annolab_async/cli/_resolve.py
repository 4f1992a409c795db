"""The command ``resolve``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from annolab_async import BatchState
from annolab_async._owners import own_name
from annolab_async.cli._ledgers import existing_ledger, find_run, stored_plan, the_run
from annolab_async.cli._options import BaseUrl, Json, Ledger, RunName, command_line, make_client
from annolab_async.cli._problems import ExitStatus, Problem
from annolab_async.cli._terminal import print_json, print_line, print_table, tell, tell_command
from annolab_async.cli._words import batch_json, clock, ids, plural, short

if TYPE_CHECKING:
    from collections.abc import Sequence

    from annolab_async import BatchRecord
    from annolab_async.ledger import LedgerRun

__all__ = ["resolve"]


async def resolve(
    batches: Annotated[
        list[int] | None,
        typer.Argument(
            metavar="BATCHES", help="The numbers of unknown batches.", show_default=False
        ),
    ] = None,
    *,
    job_id: Annotated[
        int | None,
        typer.Option(
            "--job-id",
            metavar="ID",
            min=1,
            help="The batch has this job: it is watched from now on, if it runs over the batch's sources.",
        ),
    ] = None,
    resend: Annotated[
        bool, typer.Option("--resend", help="The batches have no job: they are sent again.")
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help="With --resend: all unknown batches.")
    ] = False,
    ledger: Ledger = "run.db",
    run_name: RunName = "default",
    base_url: BaseUrl = None,
    is_json: Json = False,
) -> int:
    """List unknown batches, or say what became of them.

    An answer that was lost leaves a batch unknown, and nothing sends it again by itself: it may be paid for already.
    Look for a job over its sources at AnnoLab, or for new predictions in the output layer. What is said here is written
    down; [bold]annolab-async resume[/bold] then goes on with it.
    """
    _check(batches, job_id=job_id, resend=resend, every=every)
    is_list = job_id is None and not resend
    async with existing_ledger(ledger, read_only=is_list) as opened:
        info = await find_run(opened, run_name, spec=ledger)
        run = await the_run(opened, info)
        unknown = {
            record.number: record async for record in run.batches(states=[BatchState.UNKNOWN])
        }
        if is_list:
            layer = stored_plan(info).output_layer_identifier if info.is_planned else None
            number = str(min(unknown, default=0))
            ways = [
                command_line(
                    "resolve", number, *more, ledger=ledger, run=run_name, base_url=base_url
                )
                for more in (("--job-id", "JOB"), ("--resend",))
            ]
            return _list([*unknown.values()], ways, layer=layer, is_json=is_json)
        chosen = await _chosen(run, unknown, batches, every=every)
        if job_id is not None:
            await _check_job(run, chosen[0], job_id, base_url)
        to = BatchState.PLANNED if resend else BatchState.SUBMITTED
        with own_name() as owner:
            changed = [
                await run.change(record, to, owner=owner, inference_job_id=job_id)
                for record in chosen
            ]
    for record, after in zip(chosen, changed, strict=True):
        if after is None:
            raise Problem(
                f"Batch {record.number} was resolved by somebody else meanwhile.",
                status=ExitStatus.FAILED,
            )
        if is_json:
            print_json({"event": "batch", **batch_json(after)})
        else:
            became = f"has job {job_id}" if job_id is not None else "is sent again"
            print_line(f"Batch {after.number} {became}.")
    tell("To go on with the run:")
    tell_command(command_line("resume", ledger=ledger, run=run_name, base_url=base_url))
    return ExitStatus.FINISHED


def _check(batches: list[int] | None, *, job_id: int | None, resend: bool, every: bool) -> None:
    if job_id is not None and resend:
        raise Problem("--job-id and --resend cannot both be so: a batch has a job, or it has none.")
    if every and (batches or not resend):
        raise Problem("--all goes with --resend, and without numbers of batches.")
    if job_id is not None and len(batches or ()) != 1:
        raise Problem("--job-id is for one batch: give its number.")
    if resend and not batches and not every:
        raise Problem(
            "--resend wants the numbers of the batches.", hint="--all takes all unknown ones."
        )
    if batches and job_id is None and not resend:
        raise Problem(
            "What became of them?",
            hint="--job-id says which job it has, --resend that there is none.",
        )


def _list(
    unknown: list[BatchRecord], ways: Sequence[str], *, layer: str | int | None, is_json: bool
) -> int:
    if is_json:
        for record in unknown:
            print_json({"event": "batch", **batch_json(record)})
    elif unknown:
        print_table(
            ("batch", "sent", "sources", "why"),
            [
                (
                    record.number,
                    clock(record.sent_at),
                    ids(record.source_ids),
                    short(record.error or ""),
                )
                for record in unknown
            ],
            right=("batch",),
            whole=("sent",),
        )
        where = "" if layer is None else f" {layer!r}"
        tell(
            f"{plural(len(unknown), 'batch')} may or may not have a job. Look for jobs over these sources, or for "
            f"new predictions in the output layer{where}, then say for each:",
        )
        tell_command(f"{ways[0]}    # it has this job")
        tell_command(f"{ways[1]}    # it has none, and is to be sent again")
    else:
        tell("No batch is unknown.")
    return ExitStatus.FINISHED


async def _chosen(
    run: LedgerRun,
    unknown: dict[int, BatchRecord],
    numbers: list[int] | None,
    *,
    every: bool,
) -> list[BatchRecord]:
    if every:
        return [*unknown.values()]
    faults: list[str] = []
    for number in numbers or ():
        if number not in unknown:
            record = await run.get(number)
            state = "not in this run" if record is None else f"{record.state}, not unknown"
            faults.append(f"Batch {number} is {state}.")
    if faults:
        raise Problem(*faults, hint="annolab-async resolve lists the unknown ones.")
    return [unknown[number] for number in dict.fromkeys(numbers or ())]


async def _check_job(run: LedgerRun, batch: BatchRecord, job_id: int, base_url: str | None) -> None:
    async for other in run.batches():
        if other.inference_job_id == job_id:
            raise Problem(f"Job {job_id} is batch {other.number}'s.")
    async with make_client(base_url) as client:
        job = await client.get_job(job_id)
    if sorted(job.source_ids) != sorted(batch.source_ids):
        raise Problem(
            f"Job {job_id} runs over other sources than batch {batch.number}: {ids(job.source_ids)} instead of "
            f"{ids(batch.source_ids)}."
        )
