"""CPU time per poll, scaled by how fast the machine is just now."""

from __future__ import annotations

import time
from statistics import median
from typing import Final

__all__ = ["Meter", "yardstick"]

NOMINAL: Final = 0.0045
"""CPU seconds of :func:`yardstick` on the machine of the published results when nobody else uses it."""


def yardstick() -> float:
    """Return the CPU seconds of a fixed piece of interpreter work.

    A busy neighbour can slow a core to half its speed without showing in this process; the yardstick slows with it.
    """
    begun = time.thread_time()
    seen: dict[bytes, tuple[int, object]] = {}
    for i in range(17_000):
        key = b"key-%d" % (i & 255)
        seen[key] = (i, seen[key][0] if key in seen else None)
        key.split(b"-")
    return time.thread_time() - begun


class Meter:
    """Divides a run into segments and tells the CPU time of one poll: the median over the segments.

    Who polls counts each poll in ``polls`` and calls :meth:`mark` now and then. The first segment warms up: in it,
    connections are opened, and what is built once is built.

    Args:
        segments: how many to measure.
        seconds: CPU seconds of one segment, at least.
        first_polls: how many polls the first segment has, at least.
    """

    def __init__(self, *, segments: int, seconds: float, first_polls: int) -> None:
        self.polls = 0
        self._segments = segments
        self._seconds = seconds
        self._least_polls = first_polls
        self._costs: list[float] = []
        self._is_warm = False
        self._before = yardstick()
        self._begun_polls = self.polls
        self._begun_cpu = time.process_time()

    def mark(self) -> bool:
        """Close the segment if it is long enough; return whether that was the last."""
        cpu = time.process_time() - self._begun_cpu
        polls = self.polls - self._begun_polls
        if cpu < self._seconds or polls < self._least_polls:
            return False
        after = yardstick()
        if self._is_warm:
            self._costs.append(cpu / polls * 1e6 * 2 * NOMINAL / (self._before + after))
        self._is_warm = True
        self._least_polls = 1
        self._before = after
        self._begun_polls = self.polls
        self._begun_cpu = time.process_time()
        return len(self._costs) >= self._segments

    @property
    def microseconds(self) -> float:
        """CPU time of one poll, scaled."""
        return median(self._costs)
