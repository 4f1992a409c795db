"""How long a ledger waits for a connection, when it makes another one, and what it then believes was written."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy.exc import DBAPIError, InvalidRequestError

from annolab_async import LedgerError
from annolab_async.ledger import _database, open_ledger
from annolab_async.ledger._database import Database
from annolab_async.ledger._sql import SqlLedger
from annolab_async.ledger._writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Connection

    from annolab_async.ledger._session import Session

# What happens here happens in the ledgers' threads, whatever the event loop.
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.sockets,
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
]


def lost() -> DBAPIError:
    cause = psycopg.OperationalError("server closed the connection unexpectedly")
    return DBAPIError("COMMIT", None, cause, connection_invalidated=True)


def refused(error: type[psycopg.Error]) -> DBAPIError:
    """As the server refuses over a connection that goes on."""
    return DBAPIError("COMMIT", None, error("on purpose"))


def locked() -> DBAPIError:
    cause = sqlite3.OperationalError("database is locked")
    cause.sqlite_errorname = "SQLITE_BUSY"
    return DBAPIError("COMMIT", None, cause)


class Waits:
    """The pauses of a ledger that has lost its connection, which take no time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[float] = []
        waits = self

        class Event:
            def set(self) -> None:
                pass

            def wait(self, seconds: float) -> bool:
                waits.made.append(seconds)
                return False

        class Time:
            @staticmethod
            def monotonic() -> float:
                return sum(waits.made)

        monkeypatch.setattr(_database, "Event", Event)
        monkeypatch.setattr(_database, "time", Time)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    return Waits(monkeypatch)


def break_commits(monkeypatch: pytest.MonkeyPatch, *errors: Exception | None) -> None:
    """Have the next commits fail, each before it is made, where an error is given."""
    commit, left = Database._commit, list(errors)

    def refuse(database: Database, connection: Connection) -> None:
        error = left.pop(0) if left else None
        if error is not None:
            database._is_committing = True
            raise error
        commit(database, connection)

    monkeypatch.setattr(Database, "_commit", refuse)


async def test_a_server_that_is_not_there_is_looked_for_ever_more_rarely_for_5_seconds(
    waits: Waits,
) -> None:
    with pytest.raises(LedgerError, match="the connection is lost or was refused"):
        async with open_ledger("postgresql://127.0.0.1:1/db"):
            pytest.fail("nobody is there")
    assert waits.made == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6]


async def test_one_that_was_there_is_waited_for_for_a_minute(
    path: Path, waits: Waits, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_ledger(path) as ledger:
        break_commits(monkeypatch, *[locked()] * 100)
        with pytest.raises(LedgerError, match="another process has it locked"):
            await ledger.begin_run("run", "plan 1")
    assert waits.made[:7] == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0])
    assert set(waits.made[6:]) == {2.0}
    assert 58 < sum(waits.made) <= 60


async def test_a_ledger_that_hangs_at_the_end_is_left_after_half_a_minute(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    close = Writer.close

    async def do_not_wait(writer: Writer, *, timeout: float) -> bool:
        assert timeout == 30
        assert await close(writer, timeout=timeout)
        return False

    monkeypatch.setattr(Writer, "close", do_not_wait)
    async with open_ledger(path):
        pass
    assert "did not answer for 30 s: left as it is" in caplog.text


async def pid(ledger: SqlLedger) -> Any:
    query = "SELECT pg_backend_pid()"
    return await ledger.writer.do(lambda s: s.connection.exec_driver_sql(query).scalar())


@pytest.mark.parametrize(
    ("error", "is_kept"),
    [
        (refused(psycopg.errors.DeadlockDetected), True),
        (refused(psycopg.errors.AdminShutdown), False),
        (lost(), False),
    ],
    ids=["rolled back", "in doubt", "lost"],
)
async def test_a_connection_is_made_anew_where_it_is_lost_or_a_doubt_is_left(
    postgres_url: str,
    error: DBAPIError,
    is_kept: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with SqlLedger(postgres_url) as ledger:
        before = await pid(ledger)
        break_commits(monkeypatch, error)
        await ledger.begin_run("run", "plan 1")
        assert (await pid(ledger) == before) is is_kept


async def test_a_connection_is_kept_when_a_call_fails_by_itself_and_not_when_sqlalchemy_is_lost(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Session) -> None:
        raise ZeroDivisionError

    async with SqlLedger(postgres_url) as ledger:
        before = await pid(ledger)
        with pytest.raises(ZeroDivisionError):
            await ledger.writer.do(fail)
        assert await pid(ledger) == before
        break_commits(monkeypatch, InvalidRequestError("in an odd state"))
        with pytest.raises(LedgerError, match="in an odd state"):
            await ledger.begin_run("run", "plan 1")
        assert await pid(ledger) != before


def in_an_odd_state(_: Session) -> None:
    raise InvalidRequestError("in an odd state")


@pytest.mark.parametrize("is_at_commit", [True, False])
async def test_what_sqlalchemy_does_not_like_leaves_a_doubt_at_a_commit(
    path: Path,
    is_at_commit: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with SqlLedger.at(str(path)) as ledger:
        if is_at_commit:
            break_commits(monkeypatch, InvalidRequestError("in an odd state"))
        with pytest.raises(LedgerError, match="in an odd state") as caught:
            await ledger.writer.do(
                (lambda _: None) if is_at_commit else in_an_odd_state, is_write=False
            )
    assert caught.value.is_outcome_known is not is_at_commit


async def test_a_commit_that_was_rolled_back_leaves_no_doubt_when_the_connection_is_lost_later(
    postgres_url: str, waits: Waits, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = Database._connected

    def refuse(database: Database) -> Connection:
        if waits.made:
            raise lost()
        return connect(database)

    async with SqlLedger(postgres_url) as ledger:
        monkeypatch.setattr(Database, "_connected", refuse)
        break_commits(monkeypatch, refused(psycopg.errors.DeadlockDetected))
        with pytest.raises(LedgerError, match="the connection is lost") as caught:
            await ledger.begin_run("run", "plan 1")
    assert caught.value.is_outcome_known


async def test_nothing_is_left_of_a_connection_that_is_let_go_of(
    make_sql: Callable[[], SqlLedger], monkeypatch: pytest.MonkeyPatch
) -> None:
    drivers: list[Any] = []
    connect = Database._connected

    def keep(database: Database) -> Connection:
        connection = connect(database)
        drivers.append(connection.connection.driver_connection)
        return connection

    monkeypatch.setattr(Database, "_connected", keep)
    async with make_sql() as ledger:
        await ledger.runs()
    for driver in {id(driver): driver for driver in drivers}.values():
        with pytest.raises(Exception, match=r"(?i)closed"):
            driver.execute("SELECT 1")
