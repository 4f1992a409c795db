"""Where SQLite and PostgreSQL differ: how to connect, how to begin, whose clock, and what their errors mean."""

from __future__ import annotations

import os
import secrets
import sqlite3
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from attrs import frozen
from sqlalchemy import URL, Engine, create_engine, text
from sqlalchemy.pool import NullPool

from annolab_async.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

__all__ = ["Dialect", "Fault", "PostgreSQL", "SQLite"]

_RESTORE: Final = "Restore it from a copy, or begin with a new file."


@frozen
class Fault:
    """What an error of a database means.

    Attributes:
        what: what happened.
        hint: how to mend it.
        is_passing: whether doing it again soon may help.
        is_certain: whether a commit that ended so was surely not made.
    """

    what: str
    hint: str
    is_passing: bool = False
    is_certain: bool = True


class Dialect(Protocol):
    """A kind of database."""

    where: str
    errors: tuple[type[Exception], ...]
    """What the driver raises."""

    def make_engine(self, *, read_only: bool = False) -> Engine:
        """Return an engine for the database, which is not connected yet.

        Args:
            read_only: whether its connections are to refuse to write.
        """
        ...

    def prepare(self, connection: Connection) -> None:
        """Check a fresh connection, outside of any transaction."""
        ...

    def begin(self, connection: Connection, *, is_write: bool) -> int:
        """Begin a transaction; return the time in microseconds since 1970."""
        ...

    def lock(self, connection: Connection) -> None:
        """Let nobody else be between here and the end of the transaction."""
        ...

    def analyze(self, connection: Connection) -> None:
        """Let the database look at how much has been added to the table of batches."""
        ...

    def fault(self, error: BaseException, *, is_lost: bool) -> Fault:
        """Return what an error of the driver means.

        Args:
            error: the error.
            is_lost: whether the connection is lost with it.
        """
        ...


class SQLite:
    """A file. Its writers take turns, and wait for each other.

    Args:
        url: its URL.
        clock: the time in seconds since 1970.
        busy_seconds: how long to wait for another process that writes.
    """

    errors: tuple[type[Exception], ...] = (sqlite3.Error,)
    _read_only: bool  # as make_engine() was last told

    def __init__(self, url: URL, clock: Callable[[], float], *, busy_seconds: float) -> None:
        self.where = str(url.database)
        self._url = url.set(drivername="sqlite+pysqlite")
        self._clock = clock
        self._busy_seconds = busy_seconds

    def make_engine(self, *, read_only: bool = False) -> Engine:
        """Return an engine that leaves transactions to :meth:`begin`."""
        self._read_only = read_only
        if not self._url.database or self._url.database == ":memory:":
            raise LedgerError(
                where="sqlite://",
                what="a SQLite database in memory cannot be shared or resumed",
                hint="Give it a path, or take ledger=None for a ledger in memory.",
            )
        # Without an isolation level the driver begins no transactions of its own.
        arguments = {"timeout": self._busy_seconds, "isolation_level": None}
        options: dict[str, Any] = {"connect_args": arguments}
        if read_only and _is_at_rest_and_not_ours(path := Path(self._url.database)):
            uri = f"{path.absolute().as_uri()}?immutable=1"
            options = {"creator": partial(sqlite3.connect, uri, uri=True, **arguments)}
        return create_engine(self._url, poolclass=NullPool, hide_parameters=True, **options)

    def prepare(self, connection: Connection) -> None:
        """Make commits durable, and check that they are; check the file."""
        driver: Any = connection.connection.driver_connection
        if self._read_only:
            driver.execute("PRAGMA query_only = ON")
        else:
            self._make_durable(driver)
        if (verdict := driver.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise LedgerError(where=self.where, what=f"it is damaged ({verdict})", hint=_RESTORE)

    def _make_durable(self, driver: sqlite3.Connection) -> None:
        # Before anything else, for it is what tells a text file from a database.
        mode = driver.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise LedgerError(
                where=self.where,
                what=f"SQLite keeps no write-ahead log there (journal mode {mode})",
                hint="Put it on a local disk that can be written.",
            )
        driver.execute("PRAGMA synchronous = FULL")
        if (level := driver.execute("PRAGMA synchronous").fetchone()[0]) < 2:  # noqa: PLR2004  # FULL
            raise LedgerError(
                where=self.where,
                what=f"SQLite does not sync its commits to disk (synchronous is {level})",
                hint="Use another build of SQLite.",
            )

    def begin(self, connection: Connection, *, is_write: bool) -> int:
        """Begin; a writer at once as one, since one that becomes it later cannot wait for others."""
        connection.begin()
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_write else "BEGIN")
        return round(self._clock() * 1_000_000)

    def lock(self, connection: Connection) -> None:
        """Do nothing: a writer is alone anyway."""

    def analyze(self, connection: Connection) -> None:
        """Do nothing: it takes the right index unseen."""

    def fault(self, error: BaseException, *, is_lost: bool) -> Fault:  # noqa: ARG002  # no connection, no loss
        """Return what an error means, by SQLite's name for it."""
        name = getattr(error, "sqlite_errorname", "") or ""
        for beginning, (what, hint) in _SQLITE_FAULTS.items():
            if name.startswith(beginning):
                return Fault(
                    f"{what} ({name}: {error})",
                    hint,
                    is_passing=beginning == "SQLITE_BUSY",
                    # A commit whose sync failed may still come to light after a crash.
                    is_certain=beginning != "SQLITE_IOERR",
                )
        return Fault(f"{error} ({name})" if name else str(error), _RESTORE)


def _is_at_rest_and_not_ours(path: Path) -> bool:
    """Return whether this user may not write a file, and nobody else is at it, so that it can be read as it is.

    Else SQLite would want to make files beside it to read it, which is refused, or in the way of its owner.
    """
    return (
        path.is_file()
        and not Path(f"{path}-wal").exists()
        and not all(
            os.access(each, os.W_OK, effective_ids=hasattr(os, "geteuid"))
            for each in (path, path.absolute().parent)
        )
    )


_SQLITE_FAULTS: Final = {
    "SQLITE_FULL": ("the disk is full", "Make room, and start again: it goes on where it was."),
    "SQLITE_READONLY": (
        "it cannot be written",
        "Give this user the right to write the file and its directory.",
    ),
    "SQLITE_CORRUPT": ("it is damaged", _RESTORE),
    "SQLITE_NOTADB": ("it is no SQLite database", "Check the path; nothing in it was changed."),
    "SQLITE_CANTOPEN": (
        "it cannot be opened",
        "Check that its directory exists, and that this user may write there.",
    ),
    "SQLITE_PERM": ("it cannot be opened", "Check that this user may read and write it."),
    "SQLITE_BUSY": (
        "another process has it locked for too long",
        "End that process, or let it end; then start again.",
    ),
    "SQLITE_IOERR": (
        "the disk failed, or its quota is used up",
        "Mend the disk or make room, and start again: it goes on where it was.",
    ),
}


class PostgreSQL:
    """A database of a PostgreSQL server, whose clock counts.

    Args:
        url: its URL.
    """

    errors: tuple[type[Exception], ...] = ()

    def __init__(self, url: URL) -> None:
        host = url.host or url.query.get("host", "")
        place = ",".join([host] if isinstance(host, str) else host)
        port = f":{url.port}" if url.port else ""
        self.where = f"postgresql://{place}{port}/{url.database or ''}"
        self._url = url.set(drivername="postgresql+psycopg")
        self._secrets = [
            secret
            for secret in (url.password, *_texts(url, "password"), *_texts(url, "sslpassword"))
            if secret
        ]
        # All transactions of this ledger queue up behind each other, also behind one that a lost connection has left
        # at the server: once it is its turn, what became of that one is settled.
        self._turn = secrets.randbits(63)

    def make_engine(self, *, read_only: bool = False) -> Engine:
        """Return an engine whose connections notice when the server is gone."""
        arguments = {
            name: value for name, value in _PATIENCE.items() if name not in self._url.query
        }
        return create_engine(
            self._url,
            poolclass=NullPool,
            connect_args=arguments,
            hide_parameters=True,
            isolation_level="READ COMMITTED",
            # Not False, which would overrule a server that refuses to be written.
            execution_options={"postgresql_readonly": True} if read_only else {},
        )

    def prepare(self, connection: Connection) -> None:
        """Do nothing: what matters is set in each transaction, which works through a pooler, too."""

    def begin(self, connection: Connection, *, is_write: bool) -> int:
        """Begin; a writer with commits that are durable."""
        connection.begin()
        if not is_write:
            return 0
        row = connection.execute(_BEGIN_WRITE, {"turn": self._turn}).one()
        return int(row.now)

    def lock(self, connection: Connection) -> None:
        """Wait until nobody else is at what only one may be at."""
        connection.execute(_LOCK)

    def analyze(self, connection: Connection) -> None:
        """Have statistics made: without them, each claim and page would sort all that is planned."""
        connection.execute(_ANALYZE)

    def fault(self, error: BaseException, *, is_lost: bool) -> Fault:
        """Return what an error means, by its SQLSTATE."""
        state = getattr(error, "sqlstate", None) or ""
        lines = str(error).strip().splitlines()
        what = "; ".join(line.strip() for line in lines[:2]) or type(error).__name__
        for secret in self._secrets:
            what = what.replace(secret, "***")
        if state in _ROLLED_BACK:
            return Fault(what, "Start again: it goes on where it was.", is_passing=True)
        for phrase, hint in _REFUSALS.items():
            if not state and phrase in what:
                return Fault(what, hint)
        is_down = state in _DOWN or state.startswith("08")
        if is_lost or is_down or (not state and isinstance(error, _operational_error())):
            return Fault(
                f"the connection is lost or was refused ({what})",
                "Check the server and the network, and start again: it goes on where it was.",
                is_passing=True,
                is_certain=False,
            )
        for beginning, hint in _HINTS.items():
            if state.startswith(beginning):
                return Fault(what, hint)
        return Fault(f"{what} ({state})" if state else what, "See the server's log.")


def _texts(url: URL, name: str) -> tuple[str, ...]:
    value = url.query.get(name, ())
    return (value,) if isinstance(value, str) else value


def _operational_error() -> type[Exception]:
    import psycopg  # noqa: PLC0415  # SQLite's users need not have it

    return psycopg.OperationalError


# libpq's names. Without them, a server that is cut off from the network is waited for for a quarter of an hour.
_PATIENCE: Final[dict[str, Any]] = {
    "application_name": "annolab-async",
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}
_BEGIN_WRITE: Final = text("""
    SELECT
        set_config('synchronous_commit', CASE current_setting('synchronous_commit')
            WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, true),
        set_config('idle_in_transaction_session_timeout', '30s', true),
        pg_advisory_xact_lock(:turn),
        (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now
""")
_ANALYZE: Final = text("ANALYZE annolab_batches")
# A number that no one else is likely to take.
_LOCK: Final = text("SELECT pg_advisory_xact_lock(7310579641552930163)")
_ROLLED_BACK: Final = frozenset({
    "40001",  # serialization failure
    "40P01",  # deadlock
    "55P03",  # lock timeout
})
_DOWN: Final = frozenset({
    "25P03",  # idle in transaction for too long
    "53300",  # too many connections
    "57P01",  # shut down by an administrator
    "57P02",  # crashed
    "57P03",  # starting up or in recovery
})
# A refused connection has no SQLSTATE, only a text; in other languages than this it is tried again in vain.
_REFUSALS: Final = {
    "authentication failed": "Check the user and the password.",
    "no password supplied": "Give the password in the URL, in PGPASSWORD or in ~/.pgpass.",
    "pg_hba.conf": "Allow this user and address in the server's pg_hba.conf.",
    "does not exist": "Create the database and the user, or check their names.",
    "permission denied for": "Give the user the right to connect to the database.",
    "invalid": "Check the URL and its options.",
}
_HINTS: Final = {
    "25006": "It is a read-only server or user: give the address of the primary server.",
    "42501": "Give the user the right to create and write tables in its schema.",
    "53100": "The server's disk is full: make room, and start again: it goes on where it was.",
}
