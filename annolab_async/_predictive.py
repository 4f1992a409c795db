"""`Predictive`: spends each poll where an unseen end is most likely, weighing how long it may have waited. Pure.

A job whose end has hazard h (ends per second) and that was last known unfinished g seconds ago has, on average, waited
h * g**2 / 2 seconds to be seen. The job with the most such delay is polled first, and none before its delay is worth
a request. :class:`Frontier` learns h from the job's rank among the unfinished of its queue and from its last status
word. Where nothing can be learned all hazards are equal, and this is "every job in turn".

One pick in four, at most, goes to a job that is overdue, however improbable its end: one unpolled for longer than
``max_gap``, or one of which nothing is known yet, as it may have ended long ago. Hence no job goes unpolled longer than
``max_gap + 4 * jobs / polls per second`` (from its retry time, if it failed).
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from attrs import frozen

from annolab_async._queue import Queue, QueuedJob
from annolab_async._records import JobState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

    from annolab_async._schedule import PollPlanner

__all__ = ["Predictive"]

_SWEEP: Final = 4
"""One pick in so many may go to an overdue job rather than to the most probable end."""
_FAILURES_OF_A_SERVICE_DOWN: Final = 5
"""After how many failures in a row, of whichever jobs, the service is held to be down."""
_PROBE_GAP: Final = 5.0
"""Seconds between two polls of such a service that are not due anyway."""


@frozen(kw_only=True)
class Predictive:
    """Poll the jobs whose ends are likely to have gone unseen.

    It learns, from the ends that it sees, how a service works through its queue (jobs with lower ids were made
    earlier), and needs no set-up. Jobs of different models may wait in different queues: say which model a job is for
    when adding it to the watcher.

    Args:
        target_delay: None for the least delay that the watcher's ``max_polls_per_second`` allows; or the mean delay in
            seconds, from the end of a job until it is seen, to be met with the fewest requests.
        min_gap: shortest time between two polls of one job, in seconds.
        max_gap: longest time between two polls of one job, in seconds. Under a limit of r polls a second, n jobs cannot
            all be polled so often and leave room for anything else; then it is ``max_gap + 4 * n / r``.

    Raises:
        ValueError: an argument makes no sense; the text names each.
    """

    target_delay: float | None = None
    min_gap: float = 1.0
    max_gap: float = 60.0

    def __attrs_post_init__(self) -> None:
        delay = self.target_delay
        faults = [
            *(
                []
                if 0 < self.min_gap <= self.max_gap < math.inf
                else ["0 < min_gap <= max_gap does not hold"]
            ),
            *(
                []
                if delay is None or 0 < delay < math.inf
                else [f"target_delay is {delay}, not a positive number"]
            ),
        ]
        if faults:
            raise ValueError("This is no valid Predictive: " + "; ".join(faults))

    def planner(self, random: Random) -> PollPlanner:  # noqa: ARG002  # the Protocol's
        """Return the rule at work on one watcher's jobs."""
        return _PredictivePlanner(self)


class _PredictivePlanner:
    """Predictive at work: a queue for each model, and over all of them the guarantee of ``max_gap``."""

    def __init__(self, schedule: Predictive) -> None:
        self._schedule = schedule
        self._queues: dict[str | int | None, Queue] = {}
        self._jobs: dict[int, QueuedJob] = {}
        self._oldest: OrderedDict[int, None] = (
            OrderedDict()
        )  # jobs that may be picked, the longest unpolled first
        # Jobs that are due whatever was learned, since nothing is known of them or their last poll failed: since when,
        # in that order.
        self._due: OrderedDict[int, float] = OrderedDict()
        self._parked: list[tuple[float, int]] = []  # (retry_at, id), cleaned lazily
        self._picks = 0  # since the last that went to an overdue job
        self._picked_at: float  # from the first pick on
        self._failures = 0  # since the last answer

    def add(
        self,
        job_id: int,
        now: float,
        state: JobState | None,
        *,
        model_identifier: str | int | None = None,
    ) -> None:
        queue = self._queues.get(model_identifier)
        if queue is None:
            queue = self._queues[model_identifier] = Queue(
                min_gap=self._schedule.min_gap, target_delay=self._schedule.target_delay
            )
        # A job of which nothing is known is due at once. QUEUED is no news here, unlike in a poll's answer: every job
        # is, when just submitted.
        job = QueuedJob(job_id, queue, now if state else now - self._schedule.min_gap)
        job.known = state is not None
        self._jobs[job_id] = job
        queue.add(job, now)
        self._oldest[job_id] = None
        if not job.known:
            self._due[job_id] = now

    def discard(self, job_id: int) -> None:
        job = self._jobs.pop(job_id, None)
        if job is not None:
            self._oldest.pop(job_id, None)
            self._due.pop(job_id, None)
            job.queue.discard(job)

    def due_at(self) -> float | None:
        times = [max(worth_at, self._free_at) for _, worth_at, _ in self._candidates()]
        times.append(self._overdue()[0])
        if self._parked:
            times.append(self._parked[0][0])
        due = min(times, default=math.inf)
        return due if due < math.inf else None

    def pick(self, now: float) -> int | None:
        self._unpark(now)
        overdue_at, chosen = self._overdue()
        if overdue_at > now:
            chosen = None
        most = 0.0
        is_their_turn = chosen is None or self._picks < _SWEEP - 1
        if is_their_turn and self._free_at <= now:
            for job, worth_at, hazard in self._candidates():
                if worth_at <= now:
                    delay = hazard * (now - job.since) ** 2
                    if delay > most:
                        chosen, most = job, delay
        if chosen is None:
            return None
        self._picks = self._picks + 1 if most else 0
        self._picked_at = now
        chosen.ready = False
        del self._oldest[chosen.id]
        self._due.pop(chosen.id, None)
        return chosen.id

    def answered(self, job_id: int, now: float, asked_at: float, state: JobState) -> None:  # noqa: ARG002
        self._failures = 0
        job = self._jobs[job_id]
        if state.is_terminal:
            del self._jobs[job_id]
            job.queue.ended(job, asked_at)
        else:
            job.known = True
            job.rhythm = None
            job.queue.unfinished(job, asked_at, queued=state is JobState.QUEUED)
            self._release(job)

    def failed(self, job_id: int, now: float, retry_at: float | None) -> None:
        self._failures += 1
        job = self._jobs[job_id]
        if job.rhythm is None or not job.known:
            # The time since it was last answered for is kept to. A job that never was has no such rhythm: it is asked
            # for at gaps that double.
            job.rhythm = min(now - job.polled, self._schedule.max_gap)
        if retry_at is None:
            retry_at = now + job.rhythm
        job.retry_at = retry_at
        heapq.heappush(self._parked, (retry_at, job_id))

    @property
    def _free_at(self) -> float:
        """When a job may be picked for what was learned: of a service that is down, nothing is learned."""
        is_down = self._failures >= _FAILURES_OF_A_SERVICE_DOWN
        return self._picked_at + _PROBE_GAP if is_down else -math.inf

    def _candidates(self) -> Iterator[tuple[QueuedJob, float, float]]:
        for queue in self._queues.values():
            yield from queue.candidates()

    def _overdue(self) -> tuple[float, QueuedJob | None]:
        """Return which job is overdue first, and from when on."""
        at, chosen = math.inf, None
        if self._oldest:
            chosen = self._jobs[next(iter(self._oldest))]
            at = chosen.polled + self._schedule.max_gap
        if self._due:
            job_id, since = next(iter(self._due.items()))
            if since < at:
                at, chosen = since, self._jobs[job_id]
        return at, chosen

    def _unpark(self, now: float) -> None:
        while self._parked and self._parked[0][0] <= now:
            retry_at, job_id = heapq.heappop(self._parked)
            job = self._jobs.get(job_id)
            if job is not None and job.retry_at == retry_at:
                self._release(job)

    def _release(self, job: QueuedJob) -> None:
        self._oldest[job.id] = None
        if job.retry_at < math.inf:
            self._due[job.id] = job.retry_at
        job.ready = True
        job.retry_at = math.inf
        job.queue.push(job)
