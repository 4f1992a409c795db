"""The demonstration's second part: a fan-out that is killed halfway, goes on, and is held against AnnoLab's count."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

from anyio import create_task_group, open_process, sleep
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from annolab_async import BatchState
from annolab_async.cli._demo_run import API_KEY, Task
from annolab_async.emulator import Emulator, EmulatorServer, Faults
from annolab_async.ledger._sql import SqlLedger

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence
    from pathlib import Path

    from anyio.abc import Process
    from rich.console import Console

    from annolab_async import BatchRecord
    from annolab_async.cli._demo import DemoPlan

__all__ = ["run_fan_out_demo"]

_GLANCE: Final = 0.02
# What is sent again can lose its answer again.
_MOST_ROUNDS: Final = 10
_LISTED: Final = 6


async def run_fan_out_demo(demo: DemoPlan, folder: Path, console: Console) -> bool:
    """Run a fan-out in a process that is killed and started again, and print what came of it.

    Args:
        demo: how many batches of which size.
        folder: where the ledger is put.
        console: where to print.

    Returns:
        Whether every source is in exactly one job by AnnoLab's own count, and the ledger knows all these jobs.
    """
    emulator = Emulator(
        api_key=API_KEY,
        workers=demo.workers,
        base_seconds=0.05,
        seconds_per_source=0.001,
        faults=Faults(
            unavailable=0.01,
            reset=0.01,
            closed_after_processing=0.01,
            truncated=0.01,
            retry_after_share=0.0,
            seed=demo.seed,
        ),
        seed=demo.seed,
    )
    began = time.monotonic()
    async with EmulatorServer(emulator) as server:
        task = Task(
            base_url=server.base_url,
            ledger=str(folder / "run.db"),
            batches=demo.batches,
            batch_size=demo.batch_size,
        )
        console.print(
            f"\nNow a fan-out of {task.batches} batches, with a ledger, in a process that is killed halfway. "
            "Of 100 submissions, 4 fail or lose their answers."
        )
        await _kill_halfway(task, emulator, console)
        went_on = await _go_on(task, emulator, console)
        sent_again = await _resolve(task, emulator, console)
        records = await _read(task)
        seconds = time.monotonic() - began
        is_right = _print_proof(records, emulator, task, sent_again, seconds, console)
        is_right &= await _show_results(task, emulator, folder, console)
    return went_on and is_right


@asynccontextmanager
async def _started(task: Task, emulator: Emulator, console: Console) -> AsyncGenerator[Process]:
    """Start a process that does the task; on a terminal, a bar shows how many jobs there are."""
    bar = Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("batches have a job"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    line = bar.add_task("", total=task.batches)

    async def draw() -> None:
        while True:
            bar.update(line, completed=len(emulator.jobs))
            await sleep(_GLANCE)

    # In a session of its own: Ctrl-C ends it through this process, without a traceback of its own.
    process = await open_process(
        task.command, stdin=None, stdout=None, stderr=None, start_new_session=True
    )
    async with process, create_task_group() as tasks:
        try:
            with bar:
                tasks.start_soon(draw)
                yield process
        finally:
            # Who is interrupted does not wait until it has come to its end.
            with suppress(ProcessLookupError):
                process.kill()
            tasks.cancel_scope.cancel()


async def _kill_halfway(task: Task, emulator: Emulator, console: Console) -> None:
    async with _started(task, emulator, console) as process:
        while (  # noqa: ASYNC110  # the emulator wakes nobody up
            process.returncode is None and len(emulator.jobs) < (task.batches + 1) // 2
        ):
            await sleep(_GLANCE)
        with suppress(ProcessLookupError):
            process.kill()
        status = await process.wait()
    end = "was killed (SIGKILL)" if status < 0 else f"ended with status {status}"
    console.print(f"Process {process.pid} {end}. Its ledger: {await _states(task)}.")


async def _go_on(task: Task, emulator: Emulator, console: Console) -> bool:
    async with _started(task, emulator, console) as process:
        status = await process.wait()
    end = "went on to the end" if status == 0 else f"ended with status {status}"
    console.print(f"Process {process.pid} {end}. The ledger: {await _states(task)}.")
    return status == 0


async def _read(task: Task) -> list[BatchRecord]:
    plan = task.plan
    async with SqlLedger.at(task.ledger) as ledger:
        run = await ledger.begin_run("default", plan.fingerprint)
        return [record async for record in run.batches()]


async def _states(task: Task) -> str:
    count = Counter(record.state for record in await _read(task))
    return ", ".join(f"{count[state]} {state}" for state in BatchState if count[state])


async def _resolve(task: Task, emulator: Emulator, console: Console) -> int:
    """Say what became of the batches that nobody knows of, as a user does; return how many are sent again."""
    sent_again = listed = 0
    async with task.client() as client, client.fan_out(task.plan, ledger=task.ledger) as run:
        for _ in range(_MOST_ROUNDS):
            async for _ in run:
                pass
            if not (unknown := run.unknown()):
                break
            if not listed:
                console.print(
                    f"{len(unknown)} unknown: sent, perhaps, but no answer came. Nothing sends them again by itself; "
                    "a look at AnnoLab tells:"
                )
            job_ids = {job.source_ids: job.inference_job_id for job in emulator.jobs.values()}
            for record in unknown:
                job_id = job_ids.get(record.source_ids)
                is_resent = job_id is None
                await run.resolve(record, job_id=job_id, resend=is_resent)
                sent_again += is_resent
                listed += 1
                if listed <= _LISTED:
                    found = "it has no job" if is_resent else f"it has job {job_id}"
                    what = "resend=True" if is_resent else f"job_id={job_id}"
                    console.print(
                        f"  batch {record.number}: {found}: run.resolve({record.number}, {what})"
                    )
    if listed > _LISTED:
        console.print(f"  and {listed - _LISTED} more, likewise")
    return sent_again


def _print_proof(
    records: Sequence[BatchRecord],
    emulator: Emulator,
    task: Task,
    sent_again: int,
    seconds: float,
    console: Console,
) -> bool:
    jobs = emulator.jobs
    sources = Counter(source_id for job in jobs.values() for source_id in job.source_ids)
    paid = Counter(job.source_ids for job in jobs.values())
    twice = sum(times - 1 for times in paid.values())
    known = {record.inference_job_id: record.source_ids for record in records}
    is_complete = sources == dict.fromkeys(range(1, task.batches * task.batch_size + 1), 1)
    is_known = known == {job_id: job.source_ids for job_id, job in jobs.items()}
    states = Counter(record.state for record in records)
    is_right = is_complete and is_known and twice == 0 and states.keys() == {BatchState.FINISHED}
    _print_table(
        {
            "Batches": ", ".join(f"{count} {state}" for state, count in states.most_common()),
            "Jobs": f"{len(jobs)} by AnnoLab's own count; {twice} batches paid twice",
            "Sources": f"{len(sources)}, {sum(n == 1 for n in sources.values())} of them in exactly one job",
            "Failures": f"{len(emulator.mishaps)} of {emulator.stats.submits} submissions, on purpose; "
            f"{sent_again} sent again by run.resolve()",
            "Wall time": f"{seconds:.1f} s",
        },
        console,
    )
    console.print(
        "Killed halfway, and yet every source is in exactly one job, and the ledger knows each."
        if is_right
        else "WRONG: a source is missing or was paid for twice, or the ledger does not know its job."
    )
    return is_right


async def _show_results(task: Task, emulator: Emulator, folder: Path, console: Console) -> bool:
    """Export what the jobs have left, and count it; return whether it is all that AnnoLab's models made."""
    async with task.client() as client, client.fan_out(task.plan, ledger=task.ledger) as run:
        export = await run.export()
        files = await export.download(folder)
        found = [annotation async for annotation in export.annotations()]
    counts = Counter((each.layer_name, each.type_name) for each in found)
    made = [each.id for job_id in emulator.jobs for each in emulator.predictions(job_id)]
    sources = {each.source_id for each in found}
    console.print(
        f"\nThe results, exported and downloaded: {len(found)} annotations in {len(sources)} sources."
    )
    table = Table(box=None, pad_edge=False)
    for name in ("Layer", "Type"):
        table.add_column(name)
    table.add_column("Annotations", justify="right")
    for (layer, kind), count in sorted(counts.items(), key=str):
        table.add_row(layer, kind, str(count))
    console.print(table)
    console.print(f"File: {', '.join(map(str, files))}")
    is_right = sorted(each.id or 0 for each in found) == sorted(made)
    if not is_right:
        console.print("WRONG: these are not the annotations that the local AnnoLab's models made.")
    return is_right


def _print_table(rows: Mapping[str, str], console: Console) -> None:
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)
