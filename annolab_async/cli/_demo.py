"""The demonstration: a local AnnoLab, hundreds of batches, and what it took to watch them."""

from __future__ import annotations

import math
import time
from collections import Counter
from statistics import fmean
from typing import TYPE_CHECKING, Final, Self

from anyio import create_task_group
from attrs import define, field, frozen
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from annolab_async import (
    AsyncInferenceClient,
    InferenceRequest,
    InferenceWatcher,
    JobState,
    Outcome,
    Transition,
)
from annolab_async.cli._demo_run import API_KEY
from annolab_async.emulator import Emulator, EmulatorServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

__all__ = ["DemoPlan", "run_demo"]

_SUBMITTERS: Final = 8
_PLAIN_LINE_EVERY: Final = 2.0
_OUTCOME_OF: Final = {"Finished": Outcome.FINISHED, "Errored": Outcome.ERRORED}


@frozen(kw_only=True)
class DemoPlan:
    """What to run.

    Args:
        batches: how many batches to submit.
        batch_size: how many sources each has.
        workers: how many jobs the local AnnoLab runs at once.
        error_share: share of jobs that end with an error, from 0 to 1.
        seed: where durations and errors come from.
    """

    batches: int
    batch_size: int
    workers: int
    error_share: float
    seed: int

    def requests(self) -> Iterator[InferenceRequest]:
        """Yield the batches, over consecutive source ids."""
        for number in range(self.batches):
            first = 1 + number * self.batch_size
            yield InferenceRequest(
                group_name="Company Name",
                project_identifier="My Project",
                model_identifier="Staple + Classify Documents",
                source_ids=range(first, first + self.batch_size),
                output_layer_identifier="Gold Set",
            )


@define
class _Tally:
    """What was seen, as it comes in."""

    submitted: int = 0
    state: dict[int, JobState] = field(factory=dict)
    ends: dict[int, list[Outcome]] = field(factory=dict)
    delays: list[float] = field(factory=list)

    def line(self) -> str:
        """Return where things stand, in a line."""
        states = Counter(self.state.values())
        counts = ", ".join(f"{states[state]} {state}" for state in JobState if states[state])
        return f"{self.submitted} submitted" + (f": {counts}" if counts else "")


async def run_demo(plan: DemoPlan, console: Console) -> bool:
    """Run the demonstration and print what came of it.

    Returns:
        Whether every job got exactly one outcome, and the one that it really had.
    """
    emulator = Emulator(
        api_key=API_KEY,
        workers=plan.workers,
        base_seconds=0.08,
        seconds_per_source=0.008,
        error_share=plan.error_share,
        seed=plan.seed,
    )
    tally = _Tally()
    began = time.monotonic()
    async with (
        EmulatorServer(emulator) as server,
        AsyncInferenceClient(API_KEY, base_url=server.base_url) as client,
    ):
        console.print(
            f"A local AnnoLab serves at {server.base_url}: {plan.workers} workers. Submitting {plan.batches} "
            f"batches of {plan.batch_size} sources, and watching them."
        )
        async with (
            client.watch(keep_open=True) as watcher,
            create_task_group() as tasks,
        ):
            tasks.start_soon(_submit_all, client, watcher, plan, tally)
            with _Display(plan, tally, console) as display:
                async for transition in watcher:
                    _take_note(tally, transition, emulator)
                    display.update()
    _print_summary(plan, tally, emulator, time.monotonic() - began, console)
    truth = {job_id: [_OUTCOME_OF[job.final_status]] for job_id, job in emulator.jobs.items()}
    is_right = tally.ends == truth and len(truth) == plan.batches
    console.print(
        "Every job got exactly one outcome, and it is the one that the local AnnoLab gave it."
        if is_right
        else "WRONG: the outcomes seen are not those that the local AnnoLab gave."
    )
    return is_right


async def _submit_all(
    client: AsyncInferenceClient, watcher: InferenceWatcher, plan: DemoPlan, tally: _Tally
) -> None:
    requests = plan.requests()

    async def submit_some() -> None:
        for request in requests:  # all submitters draw from one iterator
            watcher.add(await client.submit(request))
            tally.submitted += 1

    async with create_task_group() as submitters:
        for _ in range(_SUBMITTERS):
            submitters.start_soon(submit_some)
    watcher.close()


def _take_note(tally: _Tally, transition: Transition, emulator: Emulator) -> None:
    job_id = transition.inference_job_id
    if transition.job:
        tally.state[job_id] = transition.job.state
    if transition.outcome:
        tally.ends.setdefault(job_id, []).append(transition.outcome)
        # Both on one clock: the emulator runs in this process.
        tally.delays.append(time.monotonic() - emulator.job(job_id).ended_at)


class _Display:
    """The live progress: a bar on a terminal, else a plain line now and then."""

    def __init__(self, plan: DemoPlan, tally: _Tally, console: Console) -> None:
        self._plan = plan
        self._tally = tally
        self._console = console
        self._next_line = time.monotonic() + _PLAIN_LINE_EVERY
        self._bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=plan.batches)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self) -> None:
        ended = len(self._tally.ends)
        self._bar.update(self._task, completed=ended, description=self._tally.line())
        if self._bar.disable and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _PLAIN_LINE_EVERY
            self._console.print(f"{ended} of {self._plan.batches} ended; {self._tally.line()}")


def _print_summary(
    plan: DemoPlan, tally: _Tally, emulator: Emulator, seconds: float, console: Console
) -> None:
    stats, jobs = emulator.stats, emulator.jobs
    for job in jobs.values():
        if Outcome.ERRORED in tally.ends.get(job.inference_job_id, ()):
            ids = ", ".join(map(str, job.source_ids))
            console.print(f"Job {job.inference_job_id} errored; its sources: {ids}")
    outcomes = Counter(outcome for ends in tally.ends.values() for outcome in ends)
    delays = sorted(tally.delays) or [math.nan]
    table = Table.grid(padding=(0, 2))
    for name, value in {
        "Jobs": ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common()),
        "Wall time": f"{seconds:.1f} s",
        "Requests": f"{stats.submits} submits, {stats.polls} polls ({stats.polls / plan.batches:.1f} a job)",
        "At once": f"at most {stats.max_polls_in_flight} polls",
        "Delay": f"mean {fmean(delays):.2f} s, 95% within {delays[int(0.95 * (len(delays) - 1))]:.2f} s, "
        "from a job's end",
    }.items():
        table.add_row(name, value)
    console.print(table)
