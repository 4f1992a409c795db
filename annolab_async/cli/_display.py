"""What is shown of a run while it goes on: a display that is redrawn on a terminal, else a line now and then."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Final, Self

from anyio import sleep
from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from annolab_async import BatchState
from annolab_async.cli._terminal import live, safe, tell
from annolab_async.cli._words import (
    FAILED,
    batch_line,
    counts,
    duration,
    plural,
    progress_line,
    sources_ended,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

    from annolab_async import BatchRecord, FanOut, RequestBegan, RetryPlanned

__all__ = ["Display", "Traffic"]

_TROUBLE: Final = frozenset({*FAILED, BatchState.UNKNOWN})
_REDRAWN_EVERY: Final = 0.2
_LINE_EVERY: Final = 5.0
_LATEST: Final = 3
# Further ones can be read in the ledger.
_MOST_LINES: Final = 20
_TROUBLE_SECONDS: Final = 30.0
_STYLES: Final = {
    "finished": "green",
    "errored": "red",
    "timed out": "red",
    "lost": "red",
    "unknown": "yellow",
}


class Traffic:
    """A hook that counts requests, and keeps the last reason for sending one again.

    Attributes:
        requests: how many were sent.
    """

    def __init__(self) -> None:
        self.requests = 0
        self._trouble: tuple[str, float] | None = None

    def on_request(self, _: RequestBegan, /) -> None:
        """Take note that a request is sent."""
        self.requests += 1

    def on_retry(self, retry: RetryPlanned, /) -> None:
        """Take note that one will be sent again."""
        self._trouble = str(retry.error), time.monotonic()

    def trouble(self) -> str | None:
        """Return why requests are sent again at the moment, None if none are."""
        if self._trouble is None or time.monotonic() - self._trouble[1] > _TROUBLE_SECONDS:
            return None
        return f"trying again: {self._trouble[0]}"

    async def tell_trouble(self) -> None:
        """Tell in a line why requests are sent again, whenever that is news, until cancelled."""
        last: str | None = None
        while True:
            await sleep(_LINE_EVERY)
            if (trouble := self.trouble()) and trouble != last:
                tell(trouble)
            last = trouble


class Display:
    """Shows a run on stderr for as long as its block lasts.

    Args:
        run: the run, which is open.
        traffic: what has been sent.
        is_live: whether it can be redrawn.
    """

    def __init__(self, run: FanOut, traffic: Traffic, *, is_live: bool) -> None:
        self._run = run
        self._traffic = traffic
        self._latest: deque[str] = deque(maxlen=_LATEST)
        self._told = 0
        # Redrawn by a task, not by a thread: what it shows changes only between two steps of the loop.
        self._live = live() if is_live else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def note(self, record: BatchRecord) -> None:
        """Take note of a batch that has changed."""
        if record.state not in _TROUBLE:
            return
        if self._live is not None:
            self._latest.append(batch_line(record, most_ids=2))
            return
        self._told += 1
        if self._told <= _MOST_LINES:
            tell(batch_line(record))
        elif self._told == _MOST_LINES + 1:
            tell("Further batches in trouble are told at the end.")

    async def keep(self) -> None:
        """Show where the run stands, again and again, until cancelled."""
        last = ""
        while True:
            await sleep(_LINE_EVERY if self._live is None else _REDRAWN_EVERY)
            if self._live is not None:
                self._live.update(self._drawn(), refresh=True)
            elif (line := self._line()) != last:
                tell(line)
                last = line

    def _line(self) -> str:
        line = progress_line(self._run.summary, requests=self._traffic.requests)
        trouble = self._traffic.trouble()
        return f"{line}; {trouble}" if trouble else line

    def _drawn(self) -> RenderableType:
        summary = self._run.summary
        ended, total = sources_ended(summary)
        bar = Table.grid(padding=(0, 2), expand=True)
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True)
        bar.add_column(no_wrap=True)
        left = "" if summary.eta is None else f"{duration(summary.eta)} left"
        is_total_known = summary.is_planned and total > 0
        bar.add_row(
            ProgressBar(total=total if is_total_known else None, completed=ended),
            f"{ended:,} of {total:,} sources",
            left,
        )
        states = Text("Batches  ", no_wrap=True, overflow="ellipsis")
        for place, (state, count) in enumerate(counts(summary.batches)):
            states.append(", " if place else "")
            states.append(f"{count:,} {state}", style=_STYLES.get(state, ""))
        pace = Text(
            f"{summary.sources_per_second:.1f} sources/s, {plural(self._traffic.requests, 'request')}, "
            f"{duration(summary.elapsed)} so far",
            style="dim",
            no_wrap=True,
            overflow="ellipsis",
        )
        trouble = self._traffic.trouble()
        news = [*self._latest, *([trouble] if trouble else [])]
        return Group(
            bar,
            states,
            pace,
            *(Text(safe(line), style="red", no_wrap=True, overflow="ellipsis") for line in news),
        )
