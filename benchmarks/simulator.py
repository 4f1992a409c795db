"""Drives the planners of annolab_async through a world in virtual time, as the watcher does.

A poll takes 50 ms and the service looks at the job halfway. At most 16 polls are under way. A job's delay is the time
from its end until the answer that tells of it has come. A run ends when every end was seen.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from itertools import count
from random import Random
from statistics import fmean
from typing import TYPE_CHECKING, Final

from attrs import frozen

from annolab_async import JobState
from annolab_async._limits import Pacer

if TYPE_CHECKING:
    from annolab_async import PollPlanner, PollSchedule
    from benchmarks.worlds import Job, World

__all__ = ["Oracle", "Outcome", "run"]

LATENCY: Final = 0.05
PERMITS: Final = 16
_STALLS: Final = 1000
"""Times a planner may say "now" and then pick nothing, before that is held to be a fault."""


@frozen
class Outcome:
    """What one run came to.

    Attributes:
        mean: mean delay, in seconds.
        p95: the delay that 95% of the jobs do not exceed, in seconds.
        requests: polls sent.
        longest_gap: the longest that a job went unpolled, from when it was added or last asked for, in seconds.
        most_jobs: how many were watched at once, at most.
    """

    mean: float
    p95: float
    requests: int
    longest_gap: float
    most_jobs: int


def run(world: World, schedule: PollSchedule, *, max_per_second: float | None) -> Outcome:
    """Poll a world's jobs until every end has been seen.

    Args:
        world: what is watched.
        schedule: when to ask for which job.
        max_per_second: bound on the polls of all jobs together, None for none but the permits.

    Raises:
        RuntimeError: the planner stalls.
    """
    planner = schedule.planner(Random(0))
    pacer = Pacer(max_per_second)
    jobs = {job.id: job for job in world.jobs}
    coming = deque(sorted(world.jobs, key=lambda job: (job.added, job.id)))
    answers: list[tuple[float, int, Job, float, JobState]] = []
    tickets = count()
    asked_at: dict[int, float] = {}
    delays: list[float] = []
    now = longest_gap = 0.0
    requests = stalls = most_jobs = 0
    while len(delays) < len(jobs):
        while coming and coming[0].added <= now:
            job = coming.popleft()
            known = None if world.by_id else JobState.QUEUED
            planner.add(job.id, now, known, model_identifier=job.model)
            asked_at[job.id] = now
        most_jobs = max(most_jobs, len(asked_at))
        while answers and answers[0][0] <= now:
            at, _, job, asked, state = heapq.heappop(answers)
            planner.answered(job.id, at, asked, state)
            if state.is_terminal:
                delays.append(at - job.end)
                del asked_at[job.id]
        while len(answers) < PERMITS and pacer.free_at() <= now:
            job_id = planner.pick(now)
            if job_id is None:
                break
            pacer.take(now)
            requests += 1
            longest_gap = max(longest_gap, now - asked_at[job_id])
            asked_at[job_id] = now
            job = jobs[job_id]
            state = _state(job, now + LATENCY / 2, says_running=world.says_running)
            heapq.heappush(answers, (now + LATENCY, next(tickets), job, now, state))
        times = [answers[0][0]] if answers else []
        if coming:
            times.append(coming[0].added)
        if len(answers) < PERMITS:
            free = pacer.free_at()
            due = free if free > now else planner.due_at()
            times.append(math.inf if due is None else due)
        stalls = stalls + 1 if min(times) <= now else 0
        unseen = len(jobs) - len(delays)
        if unseen and (stalls > _STALLS or min(times) == math.inf):
            raise RuntimeError(f"{schedule} stalls at {now} s: {unseen} ends unseen")
        now = max(now, min(times))
    delays.sort()
    return Outcome(fmean(delays), delays[int(0.95 * len(delays))], requests, longest_gap, most_jobs)


def _state(job: Job, at: float, *, says_running: bool) -> JobState:
    if at >= job.end:
        return JobState.FINISHED
    return JobState.RUNNING if says_running and at >= job.start else JobState.QUEUED


class Oracle:
    """A schedule that is told when each job starts, and polls the running ones in turn.

    Args:
        world: the world that it is for.
        min_gap: shortest time between two polls of one job, and from its start to its first, in seconds.
    """

    def __init__(self, world: World, *, min_gap: float = 1.0) -> None:
        self._starts = {job.id: job.start for job in world.jobs}
        self._min_gap = min_gap

    def planner(self, random: Random) -> PollPlanner:  # noqa: ARG002  # the Protocol's
        """Return the rule at work."""
        return _OraclePlanner(self._starts, self._min_gap)


class _OraclePlanner:
    def __init__(self, starts: dict[int, float], min_gap: float) -> None:
        self._starts = starts
        self._min_gap = min_gap
        self._heap: list[tuple[float, int]] = []

    def add(
        self,
        job_id: int,
        now: float,
        state: JobState | None,  # noqa: ARG002  # the Protocol's
        *,
        model_identifier: str | int | None = None,  # noqa: ARG002  # the Protocol's
    ) -> None:
        self._put(job_id, max(now, self._starts[job_id]) + self._min_gap)

    def discard(self, job_id: int) -> None:
        raise NotImplementedError

    def due_at(self) -> float | None:
        return self._heap[0][0] if self._heap else None

    def pick(self, now: float) -> int | None:
        return heapq.heappop(self._heap)[1] if self._heap and self._heap[0][0] <= now else None

    def answered(self, job_id: int, now: float, asked_at: float, state: JobState) -> None:  # noqa: ARG002
        if not state.is_terminal:
            self._put(job_id, asked_at + self._min_gap)

    def failed(self, job_id: int, now: float, retry_at: float | None) -> None:
        self._put(job_id, now if retry_at is None else retry_at)

    def _put(self, job_id: int, due: float) -> None:
        heapq.heappush(self._heap, (due, job_id))
