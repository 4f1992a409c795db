"""A report on runs, and the forms in which it can be had."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from anyio import to_thread
from attrs import frozen

from annolab_async.errors import LedgerError
from annolab_async.ledger import Ledger, open_ledger
from annolab_async.report._build import durations_of
from annolab_async.report._data import DurationGroup, RunReport  # noqa: TC001  # for who resolves the types at run time
from annolab_async.report._read import read_run, read_runs

if TYPE_CHECKING:
    from rich.console import Console

    from annolab_async.ledger import LedgerRun

__all__ = ["Report", "read_report", "report_on"]


@frozen
class Report:
    """What became of runs, to be looked at.

    ```python
    report = await read_report("run.db")
    await report.save("report.html")
    ```

    Attributes:
        runs: the runs, the newest first.
        made_at: when they were read, in seconds since 1970.
    """

    runs: tuple[RunReport, ...]
    made_at: float

    @property
    def durations(self) -> tuple[DurationGroup, ...]:
        """How long batches took, by model and size."""
        return durations_of(self.runs)

    def html(self) -> str:
        """Return a page that holds all it needs, and asks no network for anything.

        It takes the processor a second for 10,000 batches: in an event loop, use :meth:`save`.

        Raises:
            ImportError: the extra ``report`` is not installed; the text says what to install.
        """
        try:
            from annolab_async.report._page import page_of  # noqa: PLC0415  # its libraries are an extra
        except ImportError as error:
            raise ImportError(
                f"a report as a page needs {error.name}: pip install 'annolab-async[report]'",
                name=error.name,
            ) from error
        return page_of(self.runs, made_at=self.made_at)

    async def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page into a file, in a worker thread.

        Args:
            path: the file. There is never half of a page in it.

        Returns:
            The path.

        Raises:
            ImportError: the extra ``report`` is not installed; the text says what to install.
            OSError: the file cannot be written.
        """
        return await to_thread.run_sync(self._save, Path(path))

    def _save(self, path: Path) -> Path:
        page = self.html()
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            part.write_text(page, encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return path

    def show(self, console: Console | None = None) -> None:
        """Print it on a terminal.

        Args:
            console: where; None for standard output.

        Raises:
            ImportError: rich is not installed; the text says what to install.
        """
        try:
            from annolab_async.report._terminal import show  # noqa: PLC0415  # its library is an extra
        except ImportError as error:
            raise ImportError(
                f"a report on a terminal needs {error.name}: pip install 'annolab-async[cli]'",
                name=error.name,
            ) from error
        show(self.runs, console)


async def report_on(run: LedgerRun, *, at: datetime | None = None) -> Report:
    """Return a report on one run of a ledger that is open.

    Args:
        run: the run.
        at: the time at which it stands, if it is not over, in UTC; None for now.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    at = at or datetime.now(UTC)
    return Report((await read_run(run, at=at),), at.timestamp())


async def read_report(
    ledger: Ledger | str | os.PathLike[str], *, run: str | None = None, at: datetime | None = None
) -> Report:
    """Read a report on runs out of a ledger, which may be in use meanwhile.

    Args:
        ledger: where the runs are written down: a path, a URL or a :class:`Ledger`.
        run: the name of one of them; None for all.
        at: the time at which runs stand that are not over, in UTC; None for now.

    Raises:
        LedgerError: there is no such file or run, or the ledger cannot be read.
    """
    if isinstance(ledger, str | os.PathLike):
        ledger = await to_thread.run_sync(_open_existing, ledger)
    at = at or datetime.now(UTC)
    async with open_ledger(ledger) as opened:
        return Report(tuple(await read_runs(opened, run=run, at=at)), at.timestamp())


def _open_existing(spec: str | os.PathLike[str]) -> Ledger:
    # To open a file that is not there would make an empty one.
    ledger = open_ledger(spec, read_only=True)
    scheme, is_url, rest = os.fspath(spec).partition("://")
    path = unquote(rest.removeprefix("/").partition("?")[0]) if is_url else scheme
    if (not is_url or scheme.startswith("sqlite")) and not Path(path).exists():
        raise LedgerError(
            where=path,
            what="there is no such file",
            hint="Give the path that the run was started with.",
        )
    return ledger
