"""What a job is told to go through, instead of what the queue would make of it. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

from attrs import evolve, field, frozen

from annolab_async._records import JobState
from annolab_async.emulator._settings import is_mapping, is_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from annolab_async.emulator._jobs import EmulatedJob, FinalStatus


def _steps(statuses: Any) -> Any:
    # What is neither is left as it is, for the validation to name it.
    if is_mapping(statuses):
        return tuple(statuses.items())
    return tuple((None, status) for status in statuses) if _is_list(statuses) else statuses


def _is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


@frozen
class Script:
    """The statuses that a job shows: one a poll, or each from some time on. The last one stays.

    Args:
        steps: The statuses, one for each poll, or by the seconds since the submission from which each is shown.
        polls_before: How often the job had been asked for when it was given this script.

    Raises:
        ValueError: These are no such statuses.
    """

    steps: tuple[tuple[float | None, str], ...] = field(converter=_steps)
    polls_before: int = 0

    def __attrs_post_init__(self) -> None:
        steps: Any = self.steps
        if not isinstance(steps, tuple) or not steps:
            raise ValueError(
                "statuses must be some words, one a poll, or a mapping of seconds to words,"
                f" not {steps!r}"
            )
        for at, status in self.steps:
            if not is_name(status):
                raise ValueError(f"a status must be a word, not {status!r}")
            if at is not None and not (type(at) in {int, float} and 0 <= at < math.inf):
                raise ValueError(f"a status is shown from some second on, not from {at!r}")
        times = [at for at, _ in self.steps if at is not None]
        if times and (times[0] != 0 or times != sorted(times)):
            raise ValueError(
                f"the seconds must begin with 0 and go up, not be {', '.join(map(str, times))}"
            )

    def beginning(self, job: EmulatedJob) -> EmulatedJob:
        """Return a job as it is when it begins to follow this script.

        Args:
            job: The job as the queue, or an earlier script, would have it.
        """
        begin = job.submitted_at
        return evolve(
            job,
            started_at=begin + self._seconds_until(_has_started),
            ended_at=begin + self._seconds_until(_has_ended),
            final_status=self._final_status,
        )

    def shown(self, job: EmulatedJob, now: float) -> tuple[str, EmulatedJob]:
        """Tell what the next poll of a job is shown, and return the job with that on record.

        Args:
            job: The job.
            now: Seconds on the emulator's clock.
        """
        steps = self.steps
        if steps[0][0] is None:
            status = steps[min(job.polls - self.polls_before, len(steps) - 1)][1]
            # Where polls decide, what is shown is so from now on.
            if _has_started(status):
                job = evolve(job, started_at=min(job.started_at, now))
            if _has_ended(status):
                job = evolve(job, ended_at=min(job.ended_at, now))
        else:
            elapsed = now - job.submitted_at
            status = [word for at, word in steps if at is not None and at <= elapsed][-1]
        return status, job.shown(status)

    def _seconds_until(self, is_so: Callable[[str], bool]) -> float:
        times = (at for at, status in self.steps if at is not None and is_so(status))
        return next(times, math.inf)

    @property
    def _final_status(self) -> FinalStatus:
        ends = (status for _, status in self.steps if _has_ended(status))
        return "Errored" if JobState.of(next(ends, "")) is JobState.ERRORED else "Finished"


def _has_started(status: str) -> bool:
    return JobState.of(status) is JobState.RUNNING or _has_ended(status)


def _has_ended(status: str) -> bool:
    return JobState.of(status).is_terminal
