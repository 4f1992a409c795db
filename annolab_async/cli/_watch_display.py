"""What is shown of jobs while they are watched on a terminal: how many are how far, and which are in trouble."""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Final, Self

from anyio import sleep
from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from annolab_async import Outcome
from annolab_async.cli._job_words import STYLES, state_of, transition_line
from annolab_async.cli._terminal import live, safe
from annolab_async.cli._words import duration, ids, plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from annolab_async import Transition
    from annolab_async.cli._display import Traffic

__all__ = ["WatchDisplay"]

_REDRAWN_EVERY: Final = 0.2
_MOST_ROWS: Final = 12
_LATEST: Final = 3
_NOT_SEEN: Final = "not seen yet"


class WatchDisplay:
    """Shows jobs on stderr for as long as its block lasts: each of a few, of many how many are how far.

    Args:
        job_ids: the jobs.
        traffic: what has been sent.
    """

    def __init__(self, job_ids: Sequence[int], traffic: Traffic) -> None:
        self._latest_of: dict[int, Transition | None] = dict.fromkeys(job_ids)
        self._changed_at: dict[int, float] = {}
        self._states = Counter({_NOT_SEEN: len(job_ids)})
        self._ended = 0
        self._troubles: deque[str] = deque(maxlen=_LATEST)
        self._traffic = traffic
        self._began = time.monotonic()
        # Redrawn by a task, not by a thread: what it shows changes only between two steps of the loop.
        self._live = live()

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def note(self, transition: Transition) -> None:
        """Take note of a change."""
        job_id = transition.inference_job_id
        before = self._latest_of[job_id]
        self._states[_NOT_SEEN if before is None else _column(before)] -= 1
        self._states[_column(transition)] += 1
        self._latest_of[job_id] = transition
        self._changed_at[job_id] = time.monotonic()
        if transition.outcome is not None:
            self._ended += 1
            if transition.outcome is not Outcome.FINISHED:
                self._troubles.append(transition_line(transition, most_ids=2))

    async def keep(self) -> None:
        """Show where the jobs stand, again and again, until cancelled."""
        while True:
            self._live.update(self._drawn(), refresh=True)
            await sleep(_REDRAWN_EVERY)

    def _drawn(self) -> RenderableType:
        total = len(self._latest_of)
        bar = Table.grid(padding=(0, 2), expand=True)
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True)
        bar.add_row(
            ProgressBar(total=total, completed=self._ended),
            f"{self._ended:,} of {plural(total, 'job')} ended",
        )
        states = Text(no_wrap=True, overflow="ellipsis")
        for state, count in sorted(self._states.items()):
            if count:
                states.append(", " if states else "")
                states.append(f"{count:,} {state}", style=STYLES.get(state, ""))
        now = time.monotonic()
        pace = Text(
            f"{plural(self._traffic.requests, 'request')}, {duration(now - self._began)} so far{self._eta(now)}",
            style="dim",
            no_wrap=True,
            overflow="ellipsis",
        )
        trouble = self._traffic.trouble()
        news = [*self._troubles, *([trouble] if trouble else [])]
        return Group(
            *([self._rows(now)] if total <= _MOST_ROWS else []),
            bar,
            states,
            pace,
            *(Text(safe(line), style="red", no_wrap=True, overflow="ellipsis") for line in news),
        )

    def _eta(self, now: float) -> str:
        left = len(self._latest_of) - self._ended
        if not self._ended or not left:
            return ""
        return f", about {duration((now - self._began) / self._ended * left)} left"

    def _rows(self, now: float) -> Table:
        rows = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for name in ("JOB", "STATE", "FOR", "SOURCES"):
            rows.add_column(
                name, no_wrap=True, justify="right" if name in {"JOB", "FOR"} else "left"
            )
        for job_id, transition in self._latest_of.items():
            if transition is None:
                rows.add_row(str(job_id), _NOT_SEEN, duration(now - self._began), "")
                continue
            state = _column(transition)
            job = transition.job
            rows.add_row(
                str(job_id),
                Text(safe(state_of(transition)), style=STYLES.get(state, "")),
                duration(now - self._changed_at[job_id]) if transition.outcome is None else "",
                ids(job.source_ids) if job is not None else "",
            )
        return rows


def _column(transition: Transition) -> str:
    # All words that are not known are one state, lest a server that invents them fills the screen.
    state = state_of(transition)
    return "in an unknown state" if state.startswith("in state") else state
