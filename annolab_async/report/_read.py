"""Reads runs out of a ledger."""

from __future__ import annotations

from collections import defaultdict
from contextlib import aclosing
from typing import TYPE_CHECKING

from annolab_async.errors import LedgerError
from annolab_async.report._build import batch_report, run_report

if TYPE_CHECKING:
    from datetime import datetime

    from annolab_async._batch_records import BatchChange
    from annolab_async.ledger import Ledger, LedgerRun
    from annolab_async.report._data import RunReport

__all__ = ["read_run", "read_runs"]


async def read_run(run: LedgerRun, *, at: datetime) -> RunReport:
    """Read what became of one run of an open ledger."""
    # The histories first: what changes meanwhile is then in the records, which say how each batch stands.
    changes: defaultdict[int, list[BatchChange]] = defaultdict(list)
    async with aclosing(run.changes()) as stream:
        async for change in stream:
            changes[change.number].append(change)
    # Each record is let go of at once: together, the source ids may be millions.
    async with aclosing(run.batches()) as found:
        batches = [
            batch_report(record, changes.pop(record.number, ()), at=at) async for record in found
        ]
    return run_report(run.info, batches, at=at)


async def read_runs(ledger: Ledger, *, run: str | None, at: datetime) -> list[RunReport]:
    """Read one run of an open ledger, or all, the newest first.

    Raises:
        LedgerError: there is no run of that name, or the ledger cannot be read.
    """
    here = await ledger.runs()
    wanted = [info for info in here if run is None or info.name == run]
    if run is not None and not wanted:
        names = ", ".join(repr(info.name) for info in here[:10])
        raise LedgerError(
            where=str(getattr(ledger, "where", "in memory")),
            what=f"it has no run {run!r}",
            hint=f"Its runs are {names}." if names else "It has no runs at all.",
        )
    return [
        await read_run(
            await ledger.begin_run(info.name, info.fingerprint, details=info.details), at=at
        )
        for info in reversed(wanted)
    ]
