"""Where a fan-out is written down, so that it can be killed at any moment and started again.

:func:`open_ledger` makes one of a path or URL; :class:`Ledger` and :class:`LedgerRun` say what it does.
"""

from __future__ import annotations

import os

from annolab_async._batch_records import BatchChange, BatchRecord, BatchState
from annolab_async.errors import LedgerError
from annolab_async.ledger._memory import MemoryLedger
from annolab_async.ledger._protocol import Ledger, LedgerCounts, LedgerRun, RunInfo

__all__ = [
    "BatchChange",
    "BatchRecord",
    "BatchState",
    "Ledger",
    "LedgerCounts",
    "LedgerRun",
    "MemoryLedger",
    "RunInfo",
    "open_ledger",
]


def open_ledger(spec: Ledger | str | os.PathLike[str] | None, *, read_only: bool = False) -> Ledger:
    """Return a ledger, which opens when its ``async with`` block is entered.

    What an SQL ledger needs is imported here, which takes a quarter of a second the first time: where an event loop
    must not stand still for that, call it in a worker thread.

    Args:
        spec: None for one in memory; a path or ``sqlite:///run.db`` for a SQLite file; ``postgresql://…`` for a
            PostgreSQL database; or a ledger, which is returned as it is.
        read_only: whether a path or URL is to be read only, which takes no right to write there. Who writes to it
            meanwhile is not disturbed. Only tables of an older version are brought to today's, if that is possible.

    Raises:
        LedgerError: it is no such thing, or what it needs is not installed.
    """
    if spec is None:
        return MemoryLedger()
    if isinstance(spec, Ledger):
        return spec
    given: object = spec  # whatever the types say
    if not given or not isinstance(given, str | os.PathLike):
        raise LedgerError(
            where=f"of type {type(spec).__name__}",
            what="it is neither a path, nor a URL, nor a Ledger",
            hint='Give a path such as "run.db", a sqlite:// or postgresql:// URL, a Ledger, or None.',
        )
    text = os.fspath(spec)
    try:
        from annolab_async.ledger._sql import SqlLedger  # noqa: PLC0415  # only for whom it serves
    except ImportError as error:
        raise LedgerError(
            where="in SQL",
            what=f"SQLAlchemy is not installed ({error})",
            hint="Install it: pip install 'annolab-async[ledger]'.",
        ) from error
    is_url = isinstance(spec, str) and "://" in text
    make = SqlLedger if is_url else SqlLedger.at
    return make(text, read_only=read_only)
