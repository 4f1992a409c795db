"""What SQLite and PostgreSQL are asked for, and what their errors mean."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import URL, make_url

from annolab_async import LedgerError
from annolab_async.ledger import open_ledger
from annolab_async.ledger._dialects import PostgreSQL, SQLite
from annolab_async.ledger._sql import SqlLedger

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import sqlalchemy

    from annolab_async.ledger._session import Session

pytestmark = [pytest.mark.anyio, pytest.mark.sockets, pytest.mark.any_backend]

RESTORE = "Restore it from a copy"
AGAIN = "start again: it goes on where it was"
LOST = "the connection is lost or was refused"


def sqlite_fault(name: str | None) -> Any:
    error = sqlite3.OperationalError("on purpose")
    if name is not None:
        error.sqlite_errorname = name
    dialect = SQLite(URL.create("sqlite", database="run.db"), lambda: 0.0, busy_seconds=1.0)
    return dialect.fault(error, is_lost=False)


@pytest.mark.parametrize(
    ("name", "what", "hint"),
    [
        ("SQLITE_FULL", "the disk is full", AGAIN),
        ("SQLITE_READONLY", "it cannot be written", "the right to write the file"),
        ("SQLITE_READONLY_DIRECTORY", "it cannot be written", "the right to write the file"),
        ("SQLITE_CORRUPT", "it is damaged", RESTORE),
        ("SQLITE_CORRUPT_INDEX", "it is damaged", RESTORE),
        ("SQLITE_NOTADB", "it is no SQLite database", "Check the path"),
        ("SQLITE_CANTOPEN", "it cannot be opened", "its directory exists"),
        ("SQLITE_PERM", "it cannot be opened", "may read and write it"),
        ("SQLITE_BUSY", "another process has it locked for too long", "End that process"),
        ("SQLITE_BUSY_SNAPSHOT", "another process has it locked for too long", "End that process"),
        ("SQLITE_IOERR", "the disk failed, or its quota is used up", AGAIN),
        ("SQLITE_IOERR_FSYNC", "the disk failed, or its quota is used up", AGAIN),
    ],
)
def test_what_sqlite_has_a_name_for_is_told_with_it_and_with_a_hint(
    name: str, what: str, hint: str
) -> None:
    fault = sqlite_fault(name)
    assert fault.what == f"{what} ({name}: on purpose)"
    assert hint in fault.hint
    assert fault.is_passing is name.startswith("SQLITE_BUSY")
    assert fault.is_certain is not name.startswith("SQLITE_IOERR")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("SQLITE_MISUSE", "on purpose (SQLITE_MISUSE)"),
        ("", "on purpose"),
        (None, "on purpose"),
    ],
)
def test_what_sqlite_says_besides_is_told_as_it_is(name: str | None, what: str) -> None:
    fault = sqlite_fault(name)
    assert (fault.what, fault.is_passing, fault.is_certain) == (what, False, True)
    assert RESTORE in fault.hint


def postgres_fault(
    error: BaseException,
    sqlstate: str | None = None,
    *,
    url: str = "postgresql://host/db",
    is_lost: bool = False,
) -> Any:
    if sqlstate is not None:
        vars(error)["sqlstate"] = sqlstate
    return PostgreSQL(make_url(url)).fault(error, is_lost=is_lost)


@pytest.mark.parametrize("is_lost", [True, False])
@pytest.mark.parametrize("sqlstate", ["40001", "40P01", "55P03"])
def test_what_postgresql_has_rolled_back_passes_and_leaves_no_doubt(
    sqlstate: str,
    is_lost: bool,  # noqa: FBT001
) -> None:
    fault = postgres_fault(psycopg.Error("on purpose"), sqlstate, is_lost=is_lost)
    assert (fault.what, fault.is_passing, fault.is_certain) == ("on purpose", True, True)
    assert fault.hint == "Start again: it goes on where it was."


@pytest.mark.parametrize(
    ("error", "sqlstate", "is_lost"),
    [
        *(
            (psycopg.Error, sqlstate, False)
            for sqlstate in ("08000", "08006", "25P03", "53300", "57P01", "57P02", "57P03")
        ),
        (psycopg.OperationalError, None, False),
        (psycopg.OperationalError, None, True),
        (psycopg.Error, None, True),
        (psycopg.Error, "42501", True),
    ],
)
def test_a_connection_that_is_lost_passes_and_leaves_a_doubt(
    error: type[Exception],
    sqlstate: str | None,
    is_lost: bool,  # noqa: FBT001
) -> None:
    fault = postgres_fault(error("on purpose"), sqlstate, is_lost=is_lost)
    assert fault.what == f"{LOST} (on purpose)"
    assert (fault.is_passing, fault.is_certain) == (True, False)
    assert AGAIN in fault.hint


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ('password authentication failed for user "me"', "Check the user and the password."),
        ("fe_sendauth: no password supplied", "Give the password in the URL"),
        ('no pg_hba.conf entry for host "10.0.0.1"', "server's pg_hba.conf"),
        ('database "db" does not exist', "Create the database and the user"),
        ('permission denied for database "db"', "the right to connect"),
        ('invalid URI query parameter: "colour"', "Check the URL and its options."),
    ],
)
def test_a_refusal_is_told_at_once_and_one_from_within_a_connection_is_no_refusal(
    text: str, hint: str
) -> None:
    fault = postgres_fault(psycopg.OperationalError(text))
    assert (fault.what, fault.is_passing, fault.is_certain) == (text, False, True)
    assert hint in fault.hint
    assert postgres_fault(psycopg.OperationalError(text), "42P01").what == f"{text} (42P01)"


@pytest.mark.parametrize(
    ("sqlstate", "what", "hint"),
    [
        ("25006", "on purpose", "the primary server"),
        ("42501", "on purpose", "the right to create and write tables"),
        ("53100", "on purpose", "disk is full"),
        ("22012", "on purpose (22012)", "See the server's log."),
        (None, "on purpose", "See the server's log."),
    ],
)
def test_what_else_postgresql_says_does_not_pass_and_leaves_no_doubt(
    sqlstate: str | None, what: str, hint: str
) -> None:
    fault = postgres_fault(psycopg.DatabaseError("on purpose"), sqlstate)
    assert (fault.what, fault.is_passing, fault.is_certain) == (what, False, True)
    assert hint in fault.hint


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("  one \n  two\nthree", "one; two"),
        ("one\n", "one"),
        ("", "DatabaseError"),
    ],
)
def test_of_what_postgresql_says_the_first_two_lines_are_told(text: str, what: str) -> None:
    assert postgres_fault(psycopg.DatabaseError(text)).what == what


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@host/db",
        "postgresql://host/db?password=hunter2",
        "postgresql://host/db?sslpassword=hunter2",
        "postgresql://me:another@host/db?password=other&password=hunter2",
    ],
)
def test_no_password_is_told_though_the_driver_says_it(url: str) -> None:
    error = psycopg.DatabaseError('no such thing: "hunter2", hunter2')
    assert postgres_fault(error, url=url).what == 'no such thing: "***", ***'


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("postgresql://me:secret@host/db", "postgresql://host/db"),
        ("postgres://host:5433/db", "postgresql://host:5433/db"),
        ("postgresql+psycopg://host", "postgresql://host/"),
        ("postgresql:///db?host=/run/sockets", "postgresql:///run/sockets/db"),
        ("postgresql:///db?host=one&host=two", "postgresql://one,two/db"),
        ("postgresql:///db", "postgresql:///db"),
        ("sqlite:///run.db", "run.db"),
        ("sqlite+pysqlite:///run.db", "run.db"),
    ],
)
def test_a_url_may_be_written_in_several_ways(url: str, where: str) -> None:
    assert SqlLedger(url).where == where


def parameters(session: Session) -> dict[str, str]:
    driver: Any = session.connection.connection.driver_connection
    found: dict[str, str] = driver.info.get_parameters()
    return found


PATIENCE = {
    "application_name": "annolab-async",
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "4",
    "tcp_user_timeout": "30000",
}


async def test_a_server_that_is_cut_off_is_waited_for_for_half_a_minute(postgres_url: str) -> None:
    async with open_ledger(postgres_url) as ledger:
        assert isinstance(ledger, SqlLedger)
        assert (await ledger.writer.do(parameters)).items() >= PATIENCE.items()


async def test_what_a_url_says_of_patience_counts(postgres_url: str) -> None:
    async with SqlLedger(f"{postgres_url}&keepalives_idle=7&application_name=mine") as ledger:
        found = await ledger.writer.do(parameters)
    changed = {"keepalives_idle": "7", "application_name": "mine"}
    assert found.items() >= (PATIENCE | changed).items()


async def test_sqlite_waits_half_a_minute_for_who_writes(path: Path) -> None:
    def timeout(session: Session) -> Any:
        return session.connection.exec_driver_sql("PRAGMA busy_timeout").scalar()

    async with SqlLedger(f"sqlite:///{path}") as ledger:
        assert await ledger.writer.do(timeout) == 30_000


async def test_commits_are_synced_whatever_sqlite_does_by_itself(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = SQLite.prepare

    def prepare_built_otherwise(self: SQLite, connection: sqlalchemy.Connection) -> None:
        driver: Any = connection.connection.driver_connection
        driver.execute("PRAGMA synchronous = OFF")
        prepare(self, connection)

    def level(session: Session) -> Any:
        return session.connection.exec_driver_sql("PRAGMA synchronous").scalar()

    monkeypatch.setattr(SQLite, "prepare", prepare_built_otherwise)
    async with SqlLedger.at(str(path)) as ledger:
        assert await ledger.writer.do(level) == 2


async def test_what_sqlalchemy_logs_shows_no_values(
    make_sql: Callable[[], SqlLedger], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="sqlalchemy.engine"):
        async with make_sql() as ledger:
            await ledger.begin_run("hunter2", "plan 1")
    assert "INSERT INTO annolab_runs" in caplog.text
    assert "hunter2" not in caplog.text


async def test_a_transaction_is_a_writers_from_its_beginning_or_a_readers(path: Path) -> None:
    # One that becomes a writer's later could not wait for others.
    def begin_another(session: Session) -> tuple[bool, str]:
        driver: Any = session.connection.connection.driver_connection
        with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other:
            try:
                other.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                return driver.in_transaction, str(error)
        return driver.in_transaction, ""

    async with SqlLedger.at(str(path)) as ledger:
        assert await ledger.writer.do(begin_another) == (True, "database is locked")
        assert await ledger.writer.do(begin_another, is_write=False) == (True, "")


async def test_what_is_wrong_with_a_url_names_the_kind_and_no_more() -> None:
    with pytest.raises(LedgerError) as caught:
        SqlLedger("oracle://me:hunter2@host/db")
    assert caught.value.where == "oracle://…"
    with pytest.raises(LedgerError) as caught:
        SqlLedger("hunter2")
    assert caught.value.where == "with that URL"


def test_ledgers_of_postgresql_queue_up_each_in_a_line_of_its_own() -> None:
    turns = [PostgreSQL(make_url("postgresql://host/db"))._turn for _ in range(100)]
    assert len(set(turns)) == 100
    assert all(0 <= turn < 2**63 for turn in turns), "what PostgreSQL takes"
