"""What the log has of a run: a line when it begins, one a minute, and one when it ends."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from annolab_async._fan_out_state import FanOutSummary

__all__ = ["RunLog"]

# Its lines are those of the run.
_log: Final = logging.getLogger("annolab_async._fan_out")
_SECONDS_BETWEEN_LINES: Final = 60.0


class RunLog:
    """Logs where a run stands.

    Args:
        run: its name.
        now: the time.
    """

    def __init__(self, run: str, now: float) -> None:
        self._run = run
        self._due = now + _SECONDS_BETWEEN_LINES

    def is_due(self, now: float) -> bool:
        """Return whether the line of this minute is still to be logged; from then on it is not."""
        if now < self._due:
            return False
        self._due = now + _SECONDS_BETWEEN_LINES
        return True

    def line(self, what: str, summary: FanOutSummary) -> None:
        """Log a line.

        Args:
            what: what the run does, such as "goes on".
            summary: where it stands.
        """
        batches = {str(state): count for state, count in summary.batches.items()}
        counts = ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in batches.items())
        rest = "" if summary.eta is None else f", {summary.eta:.0f} s to go"
        _log.info(
            "Run %r %s: %s batches; %.1f sources/s%s.",
            self._run,
            what,
            counts or "no",
            summary.sources_per_second,
            rest,
            extra={
                "run": self._run,
                "batches": batches,
                "sources_per_second": summary.sources_per_second,
                "eta": summary.eta,
            },
        )
