"""When to ask for which job. Pure: time and randomness come in as arguments.

A :class:`PollSchedule` is a rule, immutable and shared freely; the :class:`PollPlanner` that it makes is the rule
at work on the jobs of one watcher. Times are seconds on any monotonic clock.
"""

from __future__ import annotations

import math
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Protocol

from attrs import frozen

from annolab_async._retry import backoff, growth_faults

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from annolab_async._records import JobState

__all__ = ["Backoff", "FixedInterval", "PollPlanner", "PollSchedule", "check_schedule"]


class PollPlanner(Protocol):
    """Decides, for the jobs of one watcher, which to ask for next and when.

    A job is picked, is then in flight, and is not picked again until it was answered or has failed. Nothing is
    told of a job that was discarded, or has ended, until it is added again.
    """

    def add(
        self,
        job_id: int,
        now: float,
        state: JobState | None,
        *,
        model_identifier: str | int | None = None,
    ) -> None:
        """Take up a job that is not known; ``state`` and ``model_identifier`` are what the caller knows of it."""
        ...

    def discard(self, job_id: int) -> None:
        """Forget a job, in flight or not; one that is not known is ignored."""
        ...

    def due_at(self) -> float | None:
        """Return the earliest time at which :meth:`pick` may return a job, None if there is nothing to wait for."""
        ...

    def pick(self, now: float) -> int | None:
        """Return the id of the job to ask for now, None if none is due yet."""
        ...

    def answered(self, job_id: int, now: float, asked_at: float, state: JobState) -> None:
        """Take note of the answer to a poll that was sent at ``asked_at``; a terminal state forgets the job."""
        ...

    def failed(self, job_id: int, now: float, retry_at: float | None) -> None:
        """Take note that a poll was not answered.

        The job is asked for again at ``retry_at``; if that is None, when it would have been had it been answered, so
        that a service that is down gets no more polls than usual.
        """
        ...


class PollSchedule(Protocol):
    """A rule for when to poll: :class:`Predictive`, :class:`FixedInterval`, :class:`Backoff` or one of your own."""

    def planner(self, random: Random) -> PollPlanner:
        """Return the rule at work on one watcher's jobs; ``random`` is where jitter comes from."""
        ...


def check_schedule(schedule: object) -> None:
    """See to it that something is a schedule.

    Raises:
        ValueError: it is not.
    """
    if isinstance(schedule, type) or not callable(getattr(schedule, "planner", None)):
        raise ValueError(  # noqa: TRY004  # as every other option that makes no sense
            f"schedule is {schedule!r}, not a schedule such as FixedInterval(10)"
        )


@frozen
class FixedInterval:
    """Poll a job at once, and then again some time after each answer.

    When the polls of all jobs together are limited, this is "every job in turn".

    Args:
        seconds: from an answer to the next poll of the same job.

    Raises:
        ValueError: ``seconds`` is not a positive, finite number.
    """

    seconds: float

    def __attrs_post_init__(self) -> None:
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"FixedInterval: seconds is {self.seconds}, not a positive number")

    def planner(self, random: Random) -> PollPlanner:  # noqa: ARG002  # the Protocol's
        """Return the rule at work on one watcher's jobs."""
        return _GapPlanner(lambda _: self.seconds)


@frozen
class Backoff:
    """Poll a job at once, and then at gaps that grow.

    Args:
        first: the gap after the first answer, in seconds.
        factor: what each further gap is multiplied with.
        cap: the longest gap, in seconds.
        jitter: how much shorter a gap may be, as a share of itself, so that jobs added together drift apart.

    Raises:
        ValueError: an argument makes no sense; the text names each.
    """

    first: float = 1.0
    factor: float = 1.5
    cap: float = 30.0
    jitter: float = 0.1

    def __attrs_post_init__(self) -> None:
        faults = [*growth_faults(first=self.first, factor=self.factor, cap=self.cap)]
        if not 0 <= self.jitter < 1:
            faults.append(f"jitter is {self.jitter}, not in [0, 1)")
        if faults:
            raise ValueError("This is no valid Backoff: " + "; ".join(faults))

    def planner(self, random: Random) -> PollPlanner:
        """Return the rule at work on one watcher's jobs."""

        def gap(polls: int) -> float:
            exact = backoff(polls, first=self.first, factor=self.factor, cap=self.cap)
            return exact * random.uniform(1 - self.jitter, 1)

        return _GapPlanner(gap)


class _GapPlanner:
    """A planner that looks at each job by itself: its next poll comes a gap after its last answer.

    Args:
        gap: seconds from a job's answer to its next poll, given how many polls it has had.
    """

    def __init__(self, gap: Callable[[int], float]) -> None:
        self._gap = gap
        self._polls: dict[int, int] = {}
        # A heap cannot be searched: what becomes invalid stays in it until it comes up, and is told from what
        # counts by its ticket. Tickets grow, so that of jobs due together the one due longest goes first.
        self._heap: list[tuple[float, int, int]] = []
        self._ticket: dict[int, int] = {}
        self._tickets = count()

    def _put(self, job_id: int, due: float) -> None:
        ticket = next(self._tickets)
        self._ticket[job_id] = ticket
        heappush(self._heap, (due, ticket, job_id))

    def add(
        self,
        job_id: int,
        now: float,
        state: JobState | None,  # noqa: ARG002
        *,
        model_identifier: str | int | None = None,  # noqa: ARG002
    ) -> None:
        self._polls[job_id] = 0
        self._put(job_id, now)

    def discard(self, job_id: int) -> None:
        self._polls.pop(job_id, None)
        self._ticket.pop(job_id, None)

    def due_at(self) -> float | None:
        heap = self._heap
        while heap and self._ticket.get(heap[0][2]) != heap[0][1]:
            heappop(heap)
        return heap[0][0] if heap else None

    def pick(self, now: float) -> int | None:
        due = self.due_at()
        if due is None or due > now:
            return None
        job_id = heappop(self._heap)[2]
        del self._ticket[job_id]
        return job_id

    def answered(self, job_id: int, now: float, asked_at: float, state: JobState) -> None:  # noqa: ARG002
        if state.is_terminal:
            self.discard(job_id)
        else:
            polls = self._polls[job_id] = self._polls[job_id] + 1
            self._put(job_id, now + self._gap(polls))

    def failed(self, job_id: int, now: float, retry_at: float | None) -> None:
        if retry_at is None:
            polls = self._polls[job_id] = self._polls[job_id] + 1
            retry_at = now + self._gap(polls)
        self._put(job_id, retry_at)
