"""The unfinished jobs of one queue, ranked by age and sorted by how much delay each may have piled up. Pure."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from itertools import pairwise
from operator import mul
from typing import TYPE_CHECKING, Final

from annolab_async._frontier import CELLS, EDGES, Frontier

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Queue", "QueuedJob"]

_WORTH: Final = 0.02
"""Seconds of expected delay that are worth a request, when there is no target delay."""
_AIM: Final = 0.9
"""Share of the target delay to aim at: the rest is for the requests' own time and for ends foreseen late."""
_STALE: Final = 16
"""Events other than ends after which hazards are computed anew; ends count at once."""
_TINY: Final = 1e-3
"""Below this, an exponential is a uniform distribution as far as floats can tell."""
_REST: Final = len(EDGES)
"""The bucket of all ranks behind the last edge."""


class QueuedJob:
    """One unfinished job.

    Attributes:
        id: its id.
        queue: where it waits.
        polled: when it was last known unfinished, in seconds.
        since: the same, moved on when the job passes into a cell of greater hazard so that its expected delay stays
            what it was: time at the back of the queue counts for little.
        bucket: the ranks that it is among.
        known: whether anything is known of its state.
        queued: whether the last answer said QUEUED.
        ready: whether it may be picked.
        retry_at: when it is to be picked again after a failure, in seconds.
        rhythm: the gaps at which it is asked for while polls of it fail, in seconds; None while they do not.
        path: the buckets that it has left since ``polled``, each with the time.
    """

    __slots__ = (
        "bucket",
        "id",
        "known",
        "path",
        "polled",
        "queue",
        "queued",
        "ready",
        "retry_at",
        "rhythm",
        "since",
    )

    def __init__(self, job_id: int, queue: Queue, polled: float) -> None:
        self.id = job_id
        self.queue = queue
        self.polled = self.since = polled
        self.bucket: int  # from when it is added on
        self.known: bool
        self.queued = False
        self.ready = True
        self.retry_at = math.inf
        self.rhythm: float | None = None
        self.path: list[tuple[float, int]] = []

    @property
    def cell(self) -> int:
        """The job's bucket, and whether it is queued."""
        return 2 * self.bucket + self.queued


class Queue:
    """The unfinished jobs that one service works through.

    Jobs of one cell (a bucket of ranks, last seen QUEUED or not) share a hazard, so that the longest unpolled of each
    cell is its best, and one job a cell is all that a pick has to compare.

    Args:
        min_gap: shortest time between two polls of one job, in seconds.
        target_delay: mean delay from a job's end until it is seen, in seconds, None for the least.
    """

    def __init__(self, *, min_gap: float, target_delay: float | None) -> None:
        self._min_gap = min_gap
        self._target_delay = target_delay
        self._frontier = Frontier()
        self._jobs: dict[int, QueuedJob] = {}
        # Ids by rank: a sorted list a bucket, all full up to the last one in use; a heap, cleaned lazily, behind.
        self._ranks: list[list[int]] = [[] for _ in EDGES]
        self._room = [high - low for low, high in pairwise((0, *EDGES))]
        self._rest: list[int] = []
        # (since, id) a cell, cleaned lazily: an entry counts while it says what the job says.
        self._heaps: list[list[tuple[float, int]]] = [[] for _ in range(CELLS)]
        self._sizes = [0] * CELLS
        self._hazards = [0.0] * CELLS
        self._gaps: list[float]  # from when there is a job on
        self._moved_at: float  # when the change happened that now makes jobs move up or down
        self._fresh = 0  # events until the hazards are computed anew

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: QueuedJob, now: float) -> None:
        """Take up a job, at its rank by id."""
        self._jobs[job.id] = job
        self._moved_at = now
        self._insert(job)
        self._fresh -= 1

    def discard(self, job: QueuedJob) -> None:
        """Let go of a job."""
        del self._jobs[job.id]
        self._remove(job)
        self._fresh -= 1

    def unfinished(self, job: QueuedJob, asked_at: float, *, queued: bool) -> None:
        """Learn that a job had not ended when it was asked for; :meth:`push` makes it ready again."""
        self._frontier.observe(job.cell, job.polled, asked_at, job.path, ended=False)
        self._sizes[job.cell] -= 1
        job.queued = queued
        self._sizes[job.cell] += 1
        job.since = job.polled = asked_at
        job.path = []
        self._fresh -= 1

    def ended(self, job: QueuedJob, asked_at: float) -> None:
        """Learn that a job had ended when it was asked for, and let go of it."""
        self._frontier.observe(job.cell, job.polled, asked_at, job.path, ended=True)
        # The place became free when the job ended, not when that was seen. Whoever has moved up since may have
        # ended too; dating the move back lets a run of short jobs be caught up with.
        self._moved_at = job.since + _age_at_end(self._hazards[job.cell], asked_at - job.since)
        self.discard(job)
        self._fresh = 0

    def candidates(self) -> Iterator[tuple[QueuedJob, float, float]]:
        """Yield the best job of each cell, when it is worth a poll (in seconds), and its hazard (ends per second)."""
        self._refresh()
        for cell, size in enumerate(self._sizes):
            heap = self._heaps[cell]
            while size and heap:
                if self._is_current(heap[0], cell):
                    since, job_id = heap[0]
                    yield self._jobs[job_id], since + self._gaps[cell], self._hazards[cell]
                    break
                heapq.heappop(heap)

    def push(self, job: QueuedJob) -> None:
        """Put a job that is ready among the candidates."""
        cell = job.cell
        heap = self._heaps[cell]
        heapq.heappush(heap, (job.since, job.id))
        # Mostly leftovers: keep what counts, at O(1) a push in the long run.
        if len(heap) > 2 * self._sizes[cell]:
            self._heaps[cell] = sorted({entry for entry in heap if self._is_current(entry, cell)})

    def _is_current(self, entry: tuple[float, int], cell: int) -> bool:
        since, job_id = entry
        job = self._jobs.get(job_id)
        return job is not None and job.ready and job.since == since and job.cell == cell

    def _refresh(self) -> None:
        if self._fresh > 0 or not self._jobs:  # of no jobs there is nothing to compute, nor to keep
            return
        self._fresh = _STALE
        self._hazards = self._frontier.hazards(self._sizes)
        worth = _WORTH
        if self._target_delay is not None:
            # With gaps of sqrt(2 * worth / hazard), half a gap, averaged over the ends to come, is the target.
            ends = sum(map(mul, self._sizes, self._hazards))
            roots = sum(map(mul, self._sizes, map(math.sqrt, self._hazards)))
            worth = 2.0 * (_AIM * self._target_delay * ends / roots) ** 2 if roots else _WORTH
        self._gaps = [
            max(self._min_gap, math.sqrt(2.0 * worth / h)) if h else math.inf for h in self._hazards
        ]

    def _insert(self, job: QueuedJob) -> None:
        """Rank a new job by id; each bucket that overflows passes its last on to the next."""
        places = enumerate(bisect_left(ids, job.id) for ids in self._ranks)
        bucket = next((b for b, place in places if place < self._room[b]), _REST)
        self._enter(job, bucket)
        while bucket < _REST and len(self._ranks[bucket]) > self._room[bucket]:
            last = self._jobs[self._ranks[bucket].pop()]
            bucket += 1
            self._move(last, bucket)

    def _remove(self, job: QueuedJob) -> None:
        """Close the gap that a job leaves: each bucket behind passes its first on."""
        self._sizes[job.cell] -= 1
        if job.bucket == _REST:
            return
        ids = self._ranks[job.bucket]
        del ids[bisect_left(ids, job.id)]
        for bucket in range(job.bucket, _REST):
            first = self._pop_first(bucket + 1)
            if first is None:
                break
            self._move(first, bucket)

    def _pop_first(self, bucket: int) -> QueuedJob | None:
        if bucket < _REST:
            return self._jobs[self._ranks[bucket].pop(0)] if self._ranks[bucket] else None
        while self._rest:
            job = self._jobs.get(heapq.heappop(self._rest))
            if job is not None and job.bucket == _REST:
                return job
        return None

    def _move(self, job: QueuedJob, bucket: int) -> None:
        before = self._hazards[job.cell]
        self._sizes[job.cell] -= 1
        # More only if jobs are added in front and end in turns, unpolled.
        if len(job.path) < CELLS:
            job.path.append((self._moved_at, job.bucket))
        self._enter(job, bucket, before)

    def _enter(self, job: QueuedJob, bucket: int, before: float = math.inf) -> None:
        job.bucket = bucket
        after = self._hazards[job.cell]
        if after > before:
            moved_at = max(self._moved_at, job.since)
            job.since = moved_at - (moved_at - job.since) * math.sqrt(before / after)
        if bucket < _REST:
            insort(self._ranks[bucket], job.id)
        else:
            heapq.heappush(self._rest, job.id)
            if len(self._rest) > 2 * (len(self._jobs) - EDGES[-1]):
                self._rest = sorted({
                    i for i in self._rest if i in self._jobs and self._jobs[i].bucket == _REST
                })
        self._sizes[job.cell] += 1
        if job.ready:
            self.push(job)


def _age_at_end(hazard: float, gap: float) -> float:
    """Return the mean time at which an exponential end falls, given that it fell within the first `gap` seconds."""
    x = hazard * gap
    if x < _TINY:
        return gap / 2.0
    return 1.0 / hazard - gap / math.expm1(min(x, 700.0))
