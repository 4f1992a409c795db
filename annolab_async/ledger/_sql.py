"""A ledger in an SQL database: SQLite in a file, or PostgreSQL for many machines."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterable
from contextlib import aclosing
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar
from urllib.parse import unquote

from anyio import Lock
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from annolab_async.errors import LedgerError, NotOpen
from annolab_async.ledger import _operations as operations, _reads as reads
from annolab_async.ledger._database import Database
from annolab_async.ledger._dialects import Dialect, PostgreSQL, SQLite
from annolab_async.ledger._plan import chunks
from annolab_async.ledger._writer import Writer

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        Callable,
        Collection,
        Iterable,
        Sequence,
    )
    from types import TracebackType

    from annolab_async._batch_records import BatchChange, BatchRecord, BatchState
    from annolab_async.ledger._protocol import LedgerCounts, RunInfo

__all__ = ["SqlLedger", "SqlRun"]

T = TypeVar("T")

_logger: Final = logging.getLogger(__name__)

_PAGE: Final = 500
_CHANGES_PAGE: Final = 2_000
_POSTGRES: Final = frozenset({"postgres", "postgresql", "postgresql+psycopg"})
_SQLITE: Final = frozenset({"sqlite", "sqlite+pysqlite"})


class SqlLedger:
    """A ledger in a SQLite file or a PostgreSQL database; see :class:`Ledger`.

    Args:
        url: ``sqlite:///run.db`` or ``postgresql://user@host/database``.
        busy_seconds: how long to wait for another process that writes to a SQLite file.
        open_seconds: how long to try to reach a server at the beginning.
        reconnect_seconds: how long to try to reach it again when a connection was lost; until then every call waits.
        close_seconds: how long to wait at the end for what is still being written.
        clock: for SQLite, the time in seconds since 1970; for PostgreSQL, its own counts.
        read_only: whether it is to be read, and not written.

    Raises:
        LedgerError: the URL is none, or of a database that is not supported.
    """

    def __init__(
        self,
        url: str | URL,
        *,
        busy_seconds: float = 30.0,
        open_seconds: float = 5.0,
        reconnect_seconds: float = 60.0,
        close_seconds: float = 30.0,
        clock: Callable[[], float] = time.time,
        read_only: bool = False,
    ) -> None:
        self._dialect = _dialect(url, clock, busy_seconds)
        self._open_seconds = open_seconds
        self._reconnect_seconds = reconnect_seconds
        self._close_seconds = close_seconds
        self._read_only = read_only
        self._writer: Writer | None = None
        self._entered = 0
        self._turn = Lock()

    @classmethod
    def at(cls, path: str, *, read_only: bool = False) -> Self:
        """Return a ledger in a SQLite file."""
        # Not pasted into a URL: "?" and "%" are good characters of a path.
        return cls(URL.create("sqlite", database=path), read_only=read_only)

    def __repr__(self) -> str:
        return f"<SqlLedger {self.where}>"

    @property
    def where(self) -> str:
        """The path, or the server and database, without user and password."""
        return self._dialect.where

    @property
    def writer(self) -> Writer:
        """What the runs have their work done by.

        Raises:
            NotOpen: the ledger is not open.
        """
        if self._writer is None:
            raise NotOpen("The ledger is not open: use it inside its async with block.")
        return self._writer

    async def __aenter__(self) -> Self:
        async with self._turn:
            if self._writer is None:
                database = Database(
                    self._dialect,
                    open_seconds=self._open_seconds,
                    reconnect_seconds=self._reconnect_seconds,
                    read_only=self._read_only,
                )
                writer = Writer(database, self.where)
                await writer.open()
                self._writer = writer
            self._entered += 1
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._entered -= 1
        if self._entered or self._writer is None:
            return
        writer, self._writer = self._writer, None
        if not await writer.close(timeout=self._close_seconds):
            _logger.warning(
                "Ledger %s did not answer for %g s: left as it is.",
                self.where,
                self._close_seconds,
                extra={"ledger": self.where},
            )

    async def begin_run(self, name: str, fingerprint: str, *, details: str = "") -> SqlRun:
        """Begin a run, or go on with the one of that name; see :meth:`Ledger.begin_run`."""
        begin = partial(
            operations.begin_run,
            where=self.where,
            name=name,
            fingerprint=fingerprint,
            details=details,
        )
        run_id, info = await self.writer.do(begin, is_write=not self._read_only)
        return SqlRun(self, run_id, info)

    async def runs(self) -> Sequence[RunInfo]:
        """Return all runs, oldest first."""
        return await self.writer.do(reads.list_runs, is_write=False)


def _dialect(url: str | URL, clock: Callable[[], float], busy_seconds: float) -> Dialect:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # Not chained, and not shown: what cannot be read may be a password.
        parsed = None
    if parsed is not None and parsed.drivername in _SQLITE:
        if isinstance(url, str) and (path := url.partition(":///")[2].partition("?")[0]):
            # SQLAlchemy does so since 2.1: by another version, it would be another file, and all be sent again.
            parsed = parsed.set(database=unquote(path))
        return SQLite(parsed, clock, busy_seconds=busy_seconds)
    if parsed is not None and "@" in str(parsed.host):
        # What stands before it is the end of the password.
        raise LedgerError(
            where=f"{parsed.drivername}://…",
            what="the user or the password in its URL holds an @",
            hint="Write it as %40 there.",
        )
    if parsed is not None and parsed.drivername in _POSTGRES:
        _need_psycopg()
        return PostgreSQL(parsed)
    raise LedgerError(
        where=f"{parsed.drivername}://…" if parsed is not None else "with that URL",
        what="it is neither a SQLite nor a PostgreSQL URL",
        hint='Give a path, "sqlite:///run.db" or "postgresql://user:password@host/database".',
    )


def _need_psycopg() -> None:
    try:
        import_module("psycopg")
    except ImportError as error:
        raise LedgerError(
            where="in PostgreSQL",
            what=f"its driver is not installed ({error})",
            hint="Install it: pip install 'annolab-async[postgres]'.",
        ) from error


class SqlRun:
    """One run in a :class:`SqlLedger`; see :class:`LedgerRun`."""

    def __init__(self, ledger: SqlLedger, run_id: int, info: RunInfo) -> None:
        self.info = info
        self._ledger = ledger
        self._run_id = run_id

    def __repr__(self) -> str:
        return f"<SqlRun {self.info.name!r} in {self._ledger.where}>"

    async def plan(
        self, batches: Iterable[Sequence[int]] | AsyncIterable[Sequence[int]], *, after: int = 0
    ) -> RunInfo:
        """Write down all batches of the plan; see :meth:`LedgerRun.plan`."""
        count = after
        where = self._ledger.where
        write = partial(
            operations.plan_chunk, where=where, may_grow=isinstance(batches, AsyncIterable)
        )
        async with aclosing(chunks(batches, first=after + 1)) as stream:
            async for first, chunk in stream:
                await self._do(write, first=first, chunk=chunk)
                count = first - 1 + len(chunk)
        self.info = await self._do(operations.end_plan, where=where, count=count)
        return self.info

    async def claim(self, owner: str, *, limit: int, lease_seconds: float) -> Sequence[BatchRecord]:
        """Take up PLANNED batches; see :meth:`LedgerRun.claim`."""
        claim = operations.Claim(
            run_id=self._run_id,
            owner=owner,
            limit=limit,
            lease_microseconds=_microseconds(lease_seconds),
        )
        return await self._ledger.writer.do(claim)

    async def change(
        self,
        record: BatchRecord,
        to: BatchState,
        *,
        owner: str,
        inference_job_id: int | None = None,
        status: str | None = None,
        error: str | None = None,
        uncertainty: float | None = None,
    ) -> BatchRecord | None:
        """Bring a batch to another state; see :meth:`LedgerRun.change`."""
        change = operations.Change(
            run_id=self._run_id,
            before=record,
            to=to,
            owner=owner,
            values={"inference_job_id": inference_job_id, "status": status, "error": error},
            uncertainty=uncertainty,
        )
        return await self._ledger.writer.do(change)

    async def split(
        self, record: BatchRecord, parts: Sequence[Sequence[int]], *, owner: str
    ) -> Sequence[BatchRecord] | None:
        """Put smaller batches in the place of one; see :meth:`LedgerRun.split`."""
        return await self._do(operations.split, before=record, parts=parts, owner=owner)

    async def renew(self, owner: str, *, lease_seconds: float) -> bool:
        """Give an owner a lease from now on; see :meth:`LedgerRun.renew`."""
        return await self._do(
            operations.renew, owner=owner, lease_microseconds=_microseconds(lease_seconds)
        )

    async def release(self, owner: str) -> None:
        """End an owner's lease; see :meth:`LedgerRun.release`."""
        await self._do(operations.release, owner=owner)

    async def take_over(
        self, owner: str, *, limit: int, lease_seconds: float, of: Collection[str] = ()
    ) -> Sequence[BatchRecord]:
        """Take batches from owners whose lease has run out; see :meth:`LedgerRun.take_over`."""
        return await self._do(
            operations.take_over,
            owner=owner,
            limit=limit,
            lease_microseconds=_microseconds(lease_seconds),
            of=frozenset(of),
        )

    async def get(self, number: int) -> BatchRecord | None:
        """Return a batch; None if there is none of that number."""
        return await self._read(reads.get, number=number)

    async def batches(
        self,
        *,
        states: Collection[BatchState] | None = None,
        after: int | None = None,
        limit: int | None = None,
    ) -> AsyncGenerator[BatchRecord]:
        """Yield batches by their numbers; see :meth:`LedgerRun.batches`."""
        last, left = after or 0, limit
        while left is None or left > 0:
            size = _PAGE if left is None else min(_PAGE, left)
            page = await self._read(reads.page, states=states, after=last, limit=size)
            for record in page:
                yield record
            if len(page) < _PAGE:
                return
            last = page[-1].number
            left = None if left is None else left - len(page)

    async def counts(self) -> LedgerCounts:
        """Count batches and sources by state."""
        return await self._read(reads.counts)

    async def history(self, number: int) -> Sequence[BatchChange]:
        """Return every change of a batch, oldest first."""
        return await self._read(reads.history, number=number)

    async def changes(self) -> AsyncGenerator[BatchChange]:
        """Yield every change of every batch; see :meth:`LedgerRun.changes`."""
        last = (0, 0)
        while page := await self._read(reads.changes, after=last, limit=_CHANGES_PAGE):
            for change in page:
                yield change
            last = (page[-1].number, page[-1].version)

    async def _do(self, operation: Callable[..., T], **arguments: Any) -> T:
        return await self._ledger.writer.do(partial(operation, run_id=self._run_id, **arguments))

    async def _read(self, operation: Callable[..., T], **arguments: Any) -> T:
        return await self._ledger.writer.do(
            partial(operation, run_id=self._run_id, **arguments), is_write=False
        )


def _microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)
