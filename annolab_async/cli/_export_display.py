"""What is shown of exports while they are made, downloaded and read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Self

from anyio import sleep
from rich.progress_bar import ProgressBar
from rich.table import Table

from annolab_async.cli._terminal import live, safe, tell
from annolab_async.cli._words import duration

if TYPE_CHECKING:
    from annolab_async import DownloadProgress
    from annolab_async.cli._display import Traffic

__all__ = ["ExportDisplay", "size"]

_REDRAWN_EVERY: Final = 0.2
_LINE_EVERY: Final = 5.0
_KILO: Final = 1000.0


def size(count: int) -> str:
    """Return a number of bytes, such as ``12.3 MB``."""
    if count < _KILO:
        return f"{count} bytes"
    number, unit = count / _KILO, "kB"
    for larger in ("MB", "GB", "TB"):
        if number < _KILO:
            break
        number, unit = number / _KILO, larger
    return f"{number:.1f} {unit}"


class ExportDisplay:
    """Shows exports on stderr for as long as its block lasts: a bar on a terminal, else a line now and then.

    Args:
        traffic: what has been sent.
        is_live: whether it can be redrawn.
    """

    def __init__(self, traffic: Traffic, *, is_live: bool) -> None:
        self._traffic = traffic
        self._live = live() if is_live else None
        self._what = ""
        self._began = time.monotonic()
        self._progress: DownloadProgress | None = None
        self._annotations: int | None = None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def begin(self, what: str, *, reads: bool = False) -> None:
        """Take note of what is done now.

        Args:
            what: that, such as ``Waiting for export 1``.
            reads: whether annotations are read.
        """
        self._what, self._began = what, time.monotonic()
        self._progress, self._annotations = None, 0 if reads else None

    def downloaded(self, progress: DownloadProgress) -> None:
        """Take note of how far a download has come."""
        self._progress = progress

    def read(self, annotations: int) -> None:
        """Take note of how many annotations have been read."""
        self._annotations = annotations

    async def keep(self) -> None:
        """Show how far it is, again and again, until cancelled."""
        while True:
            if self._live is None:
                await sleep(_LINE_EVERY)
                tell(self._line())
            else:
                self._live.update(self._drawn(), refresh=True)
                await sleep(_REDRAWN_EVERY)

    def _line(self) -> str:
        parts = [f"{self._what}, {duration(time.monotonic() - self._began)}"]
        if (progress := self._progress) is not None:
            total = "" if progress.total is None else f" of {size(progress.total)}"
            parts.append(f"{size(progress.received)}{total}")
        if self._annotations is not None:
            parts.append(f"{self._annotations:,} annotations")
        if trouble := self._traffic.trouble():
            parts.append(trouble)
        return ", ".join(parts)

    def _drawn(self) -> Table:
        drawn = Table.grid(padding=(0, 2), expand=True)
        drawn.add_column(ratio=1)
        total = self._progress.total if self._progress is not None else None
        received = self._progress.received if self._progress is not None else 0
        drawn.add_row(ProgressBar(total=total, completed=received, pulse=total is None))
        drawn.add_row(safe(self._line()))
        return drawn
