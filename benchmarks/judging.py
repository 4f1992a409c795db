"""Targets: how they are told, and when a run fails for them."""

from __future__ import annotations

import os
import platform
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from attrs import asdict, frozen

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Target", "facts", "judge", "machine_line", "target_table"]

_FAIL_AT: Final = 2.0


@frozen
class Target:
    """A figure that has a limit.

    Attributes:
        says: what is measured.
        value: what came of it.
        limit: what it is to be at most, or at least.
        is_least: whether it is to be at least that.
    """

    says: str
    value: float
    limit: float
    is_least: bool = False

    @property
    def is_met(self) -> bool:
        """Whether it is as it is to be."""
        return self.value >= self.limit if self.is_least else self.value <= self.limit

    @property
    def is_far_missed(self) -> bool:
        """Whether it is so far off that a busy machine is no excuse."""
        times = self.limit / self.value if self.is_least else self.value / self.limit
        return not times < _FAIL_AT


def target_table(targets: Iterable[Target]) -> Iterable[str]:
    """Yield a table of targets, line by line."""
    yield "| target | measured | limit | |"
    yield "| --- | ---: | ---: | --- |"
    for target in targets:
        limit = f"at {'least' if target.is_least else 'most'} {target.limit:.3g}"
        verdict = "met" if target.is_met else "missed"
        yield f"| {target.says} | {target.value:.3g} | {limit} | {verdict} |"


def machine_line(begun: float) -> str:
    """Return how long it took since a time of ``time.monotonic()``, and on what."""
    return (
        f"{time.monotonic() - begun:.0f} s on {os.cpu_count()} cores, "
        f"Python {platform.python_version()}"
    )


def facts(targets: Iterable[Target]) -> dict[str, Any]:
    """Return what every result says besides its own figures."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "targets": [asdict(target) | {"is_met": target.is_met} for target in targets],
    }


def judge(targets: Sequence[Target]) -> int:
    """Name the targets that are missed by far; return the exit status of the run."""
    far = [target.says for target in targets if target.is_far_missed]
    for says in far:
        print(f"missed by a factor of {_FAIL_AT:g} or more: {says}", file=sys.stderr)
    return 1 if far else 0
