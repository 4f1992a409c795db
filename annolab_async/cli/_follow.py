"""Jobs watched from the command line: shown while they run, and summed up."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections import Counter
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Final

from anyio import create_task_group, current_time, to_thread
from attrs import Factory, define

from annolab_async import Outcome
from annolab_async.cli._job_words import transition_json, transition_line
from annolab_async.cli._problems import ExitStatus
from annolab_async.cli._terminal import OUT, is_live, print_json, print_line, tell, tell_command
from annolab_async.cli._watch_display import WatchDisplay
from annolab_async.cli._words import duration, plural

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from annolab_async import AsyncInferenceClient, Transition
    from annolab_async.cli._display import Traffic

__all__ = ["Followed", "follow"]

_MOST_IDS: Final = 20
_MOST_LINES: Final = 10
_ORDER: Final = (Outcome.FINISHED, Outcome.ERRORED, Outcome.TIMED_OUT, Outcome.LOST)
# What these warn of is shown here.
_SHOWN_HERE: Final = "annolab_async._watcher"


@define
class Followed:
    """What has been seen of jobs that are watched.

    Args:
        job_ids: the jobs.
        traffic: what has been sent.
        base_url: where the service is, None for where it usually is.
        is_json: whether each change is written for machines.

    Attributes:
        ends: how watching them ended, by job.
        untold: lines about jobs that ended badly, which were shown only for a while, if at all.
        seconds: how long they have been watched.
    """

    job_ids: Sequence[int]
    traffic: Traffic
    base_url: str | None
    is_json: bool
    ends: dict[int, Outcome] = Factory(dict[int, Outcome])
    untold: list[str] = Factory(list[str])
    seconds: float = 0.0

    @property
    def unfinished(self) -> list[int]:
        """The jobs without an outcome."""
        return [job_id for job_id in self.job_ids if job_id not in self.ends]

    def print_end(self) -> ExitStatus:
        """Print what became of them, and how to go on; return the exit status."""
        if self.unfinished:
            status = ExitStatus.INTERRUPTED
        else:
            is_well = all(outcome is Outcome.FINISHED for outcome in self.ends.values())
            status = ExitStatus.FINISHED if is_well else ExitStatus.FAILED
        if self.is_json:
            self._print_for_machines(status)
        else:
            self._print_for_people()
        if self.unfinished:
            tell("The jobs go on at the server. To watch them again:")
            tell_command(self.command())
        return status

    def _counts(self) -> list[tuple[Outcome, int]]:
        counted = Counter(self.ends.values())
        return [(outcome, counted[outcome]) for outcome in _ORDER if counted[outcome]]

    def _print_for_machines(self, status: ExitStatus) -> None:
        print_json({
            "event": "summary",
            "outcomes": {str(outcome): count for outcome, count in self._counts()},
            "unfinished_job_ids": self.unfinished,
            "requests": self.traffic.requests,
            "elapsed": round(self.seconds, 3),
            "exit_status": status,
        })

    def _print_for_people(self) -> None:
        for line in self.untold[:_MOST_LINES]:
            print_line(line)
        if (more := len(self.untold) - _MOST_LINES) > 0:
            print_line(f"and {plural(more, 'job')} more that did not finish")
        counts = [f"{count:,} {outcome.replace('_', ' ')}" for outcome, count in self._counts()]
        if unfinished := len(self.unfinished):
            counts.append(f"{unfinished:,} not ended yet")
        print_line(
            f"{plural(len(self.job_ids), 'job')}: {', '.join(counts)}; "
            f"{plural(self.traffic.requests, 'request')} in {duration(self.seconds)}."
        )

    def command(self) -> str:
        """Return the command line that watches on."""
        words = ["annolab-async", "watch", *map(str, self.unfinished)]
        if len(self.unfinished) > _MOST_IDS:
            words = ["annolab-async", *sys.argv[1:]]
        elif self.base_url and self.base_url != os.environ.get("ANNOLAB_BASE_URL"):
            words += ["--base-url", self.base_url]
        return shlex.join(words)


async def follow(
    client: AsyncInferenceClient, followed: Followed, *, timeout: float | None = None
) -> None:
    """Watch jobs until each has its outcome.

    Args:
        client: what to ask with, which is open.
        followed: the jobs, and what is seen of them.
        timeout: seconds after which a job without an end is given up, None for never.

    Raises:
        AnnoLabError: none of them can be watched.
    """
    began = current_time()
    # Lines on the same terminal would be written over what is shown.
    is_shown = is_live() and not (followed.is_json and OUT.is_terminal)
    has_lines = not (is_shown and OUT.is_terminal)
    display = WatchDisplay(followed.job_ids, followed.traffic) if is_shown else None
    failure: Exception | None = None
    try:
        with display or nullcontext(), _without_what_is_shown():
            async with create_task_group() as tasks:
                # Where nothing is drawn, a server that is away would look like jobs that take long.
                tasks.start_soon(followed.traffic.tell_trouble if display is None else display.keep)
                try:
                    async with client.watch(followed.job_ids, job_timeout=timeout) as watcher:
                        async for transition in watcher:
                            _take_note(followed, transition, display, has_lines=has_lines)
                            if has_lines:
                                # In a thread: whatever reads it may be slow.
                                await to_thread.run_sync(_print, transition, followed.is_json)
                except Exception as error:  # noqa: BLE001  # raised below: the group would wrap it in another
                    failure = error
                tasks.cancel_scope.cancel()
    finally:
        followed.seconds += current_time() - began
    if failure is not None:
        raise failure


def _take_note(
    followed: Followed, transition: Transition, display: WatchDisplay | None, *, has_lines: bool
) -> None:
    if display is not None:
        display.note(transition)
    if transition.outcome is not None:
        followed.ends[transition.inference_job_id] = transition.outcome
        if transition.outcome is not Outcome.FINISHED and not has_lines:
            followed.untold.append(transition_line(transition))


def _print(transition: Transition, is_json: bool) -> None:  # noqa: FBT001  # called through a thread
    if is_json:
        print_json({"event": "transition", **transition_json(transition)})
    else:
        print_line(transition_line(transition))


@contextmanager
def _without_what_is_shown() -> Generator[None]:
    logger = logging.getLogger(_SHOWN_HERE)
    level = logger.level
    if not logger.isEnabledFor(logging.DEBUG):
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
