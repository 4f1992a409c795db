"""Where the next ends will be: a model of how a service works through its queue, learned from polls.

The jobs not yet seen to end are ranked by id, the oldest first, and the ranks are cut into buckets that grow
geometrically. A service that takes jobs in order, w at a time, has all its ends within the first w ranks, however long
the jobs take; one that runs everything at once has them at every rank alike. So the only thing to learn is *how many
ranks from the front the ends reach*, and the candidates are few: one for each edge between buckets, and "everywhere".

Each candidate is a hypothesis with a conjugate prior, so its probability given all polls has a closed form. The
hazard of a rank (ends per second and job) is the average over the hypotheses, which makes the change from "in order"
to "no order at all" smooth, and leaves no threshold to tune.
"""

from __future__ import annotations

import math
from itertools import accumulate
from operator import add, mul
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BUCKETS", "CELLS", "EDGES", "Frontier"]

_GROWTH = 1.25
"""Ratio of one edge to the one before: a frontier of w jobs is overestimated by at most a quarter."""
_WIDEST = 1024
"""The last edge, in ranks. A service with more workers than that looks as if it ran everything at once."""
_MEMORY = 50.0
"""Ends after which an observation counts 1/e: how soon a change of speed or order is believed."""
_FLAT = 0.5
"""Prior probability that order tells nothing; the evidence of a few ends outweighs it either way."""
_LEAK = 0.1
"""Pseudo-count of ends outside the frontier (inside: one)."""
_QUEUED = 0.25
"""Prior hazard of a job last seen QUEUED, relative to one not so seen."""
_SHORTEST = 0.02
"""Seconds; the least interval an end is narrowed to, well below the time of a request."""


def _edges() -> tuple[int, ...]:
    edges = [1]
    while edges[-1] < _WIDEST:
        edges.append(max(edges[-1] + 1, round(edges[-1] * _GROWTH)))
    return tuple(edges)


EDGES = _edges()
"""Bucket b holds the ranks from EDGES[b - 1] (or 0) to EDGES[b] - 1; one more bucket holds the rest."""
BUCKETS = len(EDGES) + 1
CELLS = 2 * BUCKETS
"""The jobs of one bucket, last seen QUEUED (odd cells) or not (even cells)."""


class Frontier:
    """Learns the hazard of each *cell*."""

    def __init__(self) -> None:
        self._ends = [0.0] * CELLS
        self._waits = [0.0] * CELLS
        # Sum of log(length of the interval in which an end fell), as hypothesis k narrows it; the last is "no order".
        self._spans = [0.0] * BUCKETS

    def observe(
        self,
        cell: int,
        polled: float,
        asked: float,
        path: Sequence[tuple[float, int]],
        *,
        ended: bool,
    ) -> None:
        """Learn from one answer.

        Args:
            cell: where the job is now.
            polled: when it was last known not to have ended, in seconds.
            asked: when the poll that brought this answer was sent, in seconds.
            path: the buckets the job has left since `polled`, each with the time in seconds, in order of time.
            ended: whether the answer says that the job has ended.
        """
        bucket, queued = divmod(cell, 2)
        if ended:
            keep = 1.0 - 1.0 / _MEMORY
            self._ends = [n * keep for n in self._ends]
            self._waits = [t * keep for t in self._waits]
            self._ends[cell] += 1.0
            # Under hypothesis k the end fell after the job came within the frontier. Without this, a frontier held
            # to be too narrow proves itself: jobs beyond it are found ended only once they have moved inside.
            entered = [polled] * BUCKETS
            for left_at, left in path:
                for k in range(bucket, left):
                    entered[k] = max(entered[k], left_at)
            logs = (math.log(max(asked - at, _SHORTEST)) for at in entered)
            self._spans = [*map(add, (span * keep for span in self._spans), logs)]
        start = polled
        for left_at, left in path:
            until = min(max(left_at, start), asked)
            self._waits[2 * left + queued] += until - start
            start = until
        self._waits[cell] += max(0.0, asked - start) * (0.5 if ended else 1.0)

    def hazards(self, sizes: Sequence[int]) -> list[float]:
        """Return the ends per second and job to expect in each cell.

        Args:
            sizes: number of jobs in each cell, at least one in all; no bucket has any while one before it has room.
        """
        levels = self._by_rank(sizes)
        hazards = [0.0] * CELLS
        # What the words add to the order: how many ends were seen, for how many the order alone foretold.
        for queued, prior in ((0, 1.0), (1, _QUEUED)):
            foretold = sum(map(mul, levels, self._waits[queued::2]))
            factor = (sum(self._ends[queued::2]) + prior) / (foretold + 1.0)
            hazards[queued::2] = [h * factor for h in levels]
        return hazards

    def _by_rank(self, sizes: Sequence[int]) -> list[float]:
        """Return the hazard of each bucket, whatever the words say, averaged over the hypotheses."""
        # One second of watching each job, assumed beforehand: before the first end, hazards are as 1 / frontier.
        seen = [*map(add, self._waits, sizes)]
        ends = [*accumulate(map(add, self._ends[::2], self._ends[1::2]))]
        waits = [*accumulate(map(add, seen[::2], seen[1::2]))]
        n, t = ends[-1], waits[-1]
        scale = n + 0.5
        live = sum(sizes)
        count = sum(edge < live for edge in EDGES)
        # Per hypothesis: log of prior x likelihood, hazard inside, hazard outside.
        beliefs = [(math.log(_FLAT) - n * math.log(t) + self._spans[-1], scale / t, scale / t)]
        prior = (
            math.log((1.0 - _FLAT) / max(count, 1)) + math.lgamma(1.0 + _LEAK) - math.lgamma(_LEAK)
        )
        for k in range(count):
            inside, t_in = ends[k], waits[k]
            outside, t_out = n - inside, t - waits[k]
            # The share of the ends that fall inside is Beta(1, _LEAK), integrated out; each end is equally likely at
            # every job-second watched on its side, over the interval it is known to have fallen into.
            evidence = (
                math.lgamma(inside + 1.0)
                + math.lgamma(outside + _LEAK)
                - math.lgamma(n + 1.0 + _LEAK)
                - inside * math.log(t_in)
                - outside * math.log(t_out)
                + self._spans[k]
            )
            share = (inside + 1.0) / (n + 1.0 + _LEAK)
            beliefs.append((prior + evidence, scale * share / t_in, scale * (1.0 - share) / t_out))
        best = max(score for score, _, _ in beliefs)
        weights = [math.exp(score - best) for score, _, _ in beliefs]
        total = sum(weights)
        # Hypothesis k is level `high` up to bucket k and `low` behind: sum the levels from the back.
        hazard = sum(map(mul, weights, (low for _, _, low in beliefs))) / total
        levels = [hazard] * BUCKETS
        for k in reversed(range(count)):
            _, high, low = beliefs[k + 1]
            hazard = max(hazard + weights[k + 1] * (high - low) / total, 0.0)
            levels[k] = hazard
        return levels
