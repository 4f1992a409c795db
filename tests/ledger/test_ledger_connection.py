"""Connections to PostgreSQL that break: what was being written is looked up, never assumed, and never done twice."""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import psycopg
import pytest
from anyio import to_thread
from sqlalchemy.exc import DBAPIError

from annolab_async import LedgerError
from annolab_async.ledger import BatchState
from annolab_async.ledger._database import Database
from annolab_async.ledger._sql import SqlLedger, SqlRun

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection

    from annolab_async.ledger import BatchRecord
    from annolab_async.ledger._session import Session
    from annolab_async.ledger._writer import Work
    from tests.ledger.postgres import PostgresServer

pytestmark = [pytest.mark.anyio, pytest.mark.sockets, pytest.mark.any_backend]


def lost() -> DBAPIError:
    cause = psycopg.OperationalError("server closed the connection unexpectedly")
    return DBAPIError("COMMIT", None, cause, connection_invalidated=True)


def after_commit(_: Database, connection: Connection) -> None:
    connection.commit()


def before_commit(_: Database, connection: Connection) -> None:
    connection.rollback()


def during_commit(database: Database, connection: Connection) -> None:
    """The server goes on with a transaction of which the client has lost sight."""
    database._connection = None
    threading.Timer(0.3, connection.commit).start()


class Trouble:
    """Breaks the next commit in a way of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, way: Callable[..., None]) -> None:
        self.way = way
        self.is_due = False
        self.commits = 0
        self.commit = Database._commit
        trouble = self

        def commit(database: Database, connection: Connection) -> None:
            trouble.break_(database, connection)

        monkeypatch.setattr(Database, "_commit", commit)

    def break_(self, database: Database, connection: Connection) -> None:
        self.commits += 1
        if not self.is_due:
            self.commit(database, connection)
            return
        self.is_due = False
        database._is_committing = True
        self.way(database, connection)
        raise lost()


@pytest.fixture(params=[after_commit, before_commit, during_commit])
def trouble(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Trouble:
    return Trouble(monkeypatch, request.param)


async def run_of(ledger: SqlLedger, batches: int = 4) -> SqlRun:
    run = await ledger.begin_run("run", "plan 1")
    await run.plan([(2 * number - 1, 2 * number) for number in range(1, batches + 1)])
    return run


async def claim(run: SqlRun, limit: int = 2) -> list[BatchRecord]:
    return list(await run.claim("me", limit=limit, lease_seconds=60))


async def versions(run: SqlRun) -> list[int]:
    """How often each batch was changed, by itself and by its history, which must agree."""
    records = [record async for record in run.batches()]
    for record in records:
        assert len(await run.history(record.number)) == record.version
    return [record.version for record in records]


async def test_a_claim_is_made_once(postgres_url: str, trouble: Trouble) -> None:
    async with SqlLedger(postgres_url) as ledger:
        run = await run_of(ledger)
        trouble.is_due = True
        claimed = await claim(run)
        assert [record.number for record in claimed] == [1, 2]
        assert await versions(run) == [1, 1, 0, 0]
        assert [record.number for record in await claim(run)] == [3, 4]


async def test_a_change_is_made_once_and_won(postgres_url: str, trouble: Trouble) -> None:
    async with SqlLedger(postgres_url) as ledger:
        run = await run_of(ledger)
        one, two = await claim(run)
        trouble.is_due = True
        change = partial(run.change, to=BatchState.SUBMITTED, owner="me", inference_job_id=7)
        after = await change(one)
        assert after == await run.get(1)
        assert await change(one) is None
        assert await versions(run) == [2, 1, 0, 0]
        assert await change(two)


async def test_a_doubt_outlives_faults_that_leave_none(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, refusals = Database._connected, list[DBAPIError]()

    def commit_and_be_refused(database: Database, connection: Connection) -> None:
        after_commit(database, connection)
        refusals[:] = [lost()]

    def refuse(database: Database) -> Connection:
        if refusals:
            raise refusals.pop()
        return connect(database)

    trouble = Trouble(monkeypatch, commit_and_be_refused)
    monkeypatch.setattr(Database, "_connected", refuse)
    async with SqlLedger(postgres_url) as ledger:
        run = await run_of(ledger)
        trouble.is_due = True
        assert [record.number for record in await claim(run)] == [1, 2]
        assert await versions(run) == [1, 1, 0, 0]


async def test_of_many_changes_each_is_made_once(postgres_url: str, trouble: Trouble) -> None:
    async with SqlLedger(postgres_url) as ledger:
        run = await run_of(ledger, 50)
        results: list[BatchRecord | None] = []

        async def change(record: BatchRecord) -> None:
            results.append(
                await run.change(record, BatchState.SUBMITTED, owner="me", inference_job_id=7)
            )

        claimed = await claim(run, 50)
        trouble.is_due = True
        async with anyio.create_task_group() as group:
            for record in claimed:
                group.start_soon(change, record)
                group.start_soon(change, record)
        assert len([record for record in results if record]) == 50
        assert await versions(run) == [2] * 50


async def test_a_split_is_made_once(postgres_url: str, trouble: Trouble) -> None:
    async with SqlLedger(postgres_url) as ledger:
        run = await run_of(ledger)
        one, _ = await claim(run)
        errored = await run.change(one, BatchState.ERRORED, owner="me")
        assert errored
        trouble.is_due = True
        halves = await run.split(errored, [(1,), (2,)], owner="me")
        assert halves
        assert [half.source_ids for half in halves] == [(1,), (2,)]
        assert (await run.counts()).sources == {
            BatchState.SENDING: 2,
            BatchState.PLANNED: 6,
            BatchState.SPLIT: 2,
        }


async def test_a_take_over_is_made_once(postgres_url: str, trouble: Trouble) -> None:
    async with SqlLedger(postgres_url) as ledger:
        run = await run_of(ledger)
        await claim(run)
        trouble.is_due = True
        taken = await run.take_over("you", limit=1, lease_seconds=60, of=["me"])
        assert [record.number for record in taken] == [1]
        assert await versions(run) == [2, 1, 0, 0]


async def test_a_plan_is_made_once(postgres_url: str, trouble: Trouble) -> None:
    async with SqlLedger(postgres_url) as ledger:
        trouble.is_due = True
        run = await ledger.begin_run("run", "plan 1")
        trouble.is_due = True
        await run.plan([(number,) for number in range(1, 301)])
        assert (await run.counts()).batches == {BatchState.PLANNED: 300}
        assert [info.name for info in await ledger.runs()] == ["run"]


async def test_a_commit_that_cannot_be_looked_up_is_said_to_be_unknown(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble = Trouble(monkeypatch, after_commit)
    async with SqlLedger(postgres_url, reconnect_seconds=0) as ledger:
        run = await run_of(ledger)
        trouble.is_due = True
        with pytest.raises(LedgerError, match="Whether the last change was written is not known"):
            await claim(run)
        assert await versions(run) == [1, 1, 0, 0]


async def test_of_many_changes_whose_commit_cannot_be_looked_up_each_is_said_to_be_unknown(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble, execute = Trouble(monkeypatch, after_commit), Database.execute
    is_busy, may_go_on = threading.Event(), threading.Event()

    def be_busy(_: Session) -> None:
        is_busy.set()
        may_go_on.wait(60)

    def in_trouble_together(database: Database, group: Sequence[Work[Any]]) -> None:
        trouble.is_due = len(group) == 2
        execute(database, group)

    monkeypatch.setattr(Database, "execute", in_trouble_together)
    async with SqlLedger(postgres_url, reconnect_seconds=0) as ledger:
        run = await run_of(ledger)
        errors: list[LedgerError] = []

        async def change(record: BatchRecord) -> None:
            with pytest.raises(LedgerError, match="last change was written is not known") as caught:
                await run.change(record, BatchState.SUBMITTED, owner="me", inference_job_id=7)
            errors.append(caught.value)

        claimed = await claim(run)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ledger.writer.do, be_busy)
            await to_thread.run_sync(is_busy.wait)
            for record in claimed:
                tasks.start_soon(change, record)
            await anyio.wait_all_tasks_blocked()
            may_go_on.set()
        assert len({id(error) for error in errors}) == 2
        assert await versions(run) == [2, 2, 0, 0]


async def test_what_the_server_rolled_back_is_done_again(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = Database._commit
    failures = [
        psycopg.errors.DeadlockDetected("deadlock"),
        psycopg.errors.LockNotAvailable("lock"),
    ]

    def refuse(database: Database, connection: Connection) -> None:
        if failures:
            cause = failures.pop()
            raise DBAPIError("COMMIT", None, cause)
        commit(database, connection)

    async with SqlLedger(postgres_url) as ledger:
        run = await run_of(ledger)
        monkeypatch.setattr(Database, "_commit", refuse)
        assert len(await claim(run)) == 2
        assert not failures
        assert await versions(run) == [1, 1, 0, 0]


# The first change of a batch fails; a sequence remembers that, since it is not rolled back.
FAILING = """
    CREATE SEQUENCE changes;
    CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF nextval('changes') = 1 THEN
                RAISE EXCEPTION 'on purpose' USING ERRCODE = TG_ARGV[0];
            END IF;
            RETURN NEW;
        END $$;
    CREATE TRIGGER failing BEFORE UPDATE ON annolab_batches
        FOR EACH ROW EXECUTE FUNCTION fail('{sqlstate}');
"""


async def fail(postgres_url: str, sqlstate: str) -> None:
    """Have PostgreSQL fail the next change of a batch for a reason of one's choice."""

    def make() -> None:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(FAILING.format(sqlstate=sqlstate).encode())

    await to_thread.run_sync(make)


@pytest.mark.parametrize(
    "sqlstate",
    [
        "08006",  # connection failure
        "25P03",  # idle in transaction for too long
        "40001",  # serialization failure
        "40P01",  # deadlock
        "53300",  # too many connections
        "55P03",  # lock timeout
        "57P01",  # shut down by an administrator
        "57P02",  # crashed
        "57P03",  # starting up
    ],
)
async def test_what_passes_at_the_server_is_waited_out(postgres_url: str, sqlstate: str) -> None:
    async with SqlLedger(postgres_url) as ledger:
        run = await run_of(ledger)
        await fail(postgres_url, sqlstate)
        assert len(await claim(run)) == 2
        assert await versions(run) == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("sqlstate", "hint"),
    [
        ("42501", "Give the user the right to create and write tables"),
        ("53100", "The server's disk is full: make room"),
        ("22012", "See the server's log"),
    ],
)
async def test_what_does_not_pass_is_an_error_with_a_hint(
    postgres_url: str, sqlstate: str, hint: str
) -> None:
    async with SqlLedger(postgres_url) as ledger:
        run = await run_of(ledger)
        await fail(postgres_url, sqlstate)
        with pytest.raises(LedgerError, match=rf"on purpose.*{hint}") as caught:
            await claim(run)
        assert caught.value.is_outcome_known
        assert await versions(run) == [0, 0, 0, 0]


async def test_a_connection_that_an_administrator_ends_is_made_anew(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    def end(me: int) -> None:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute("SELECT pg_terminate_backend(%s)", [me])

    async with SqlLedger(postgres_url) as ledger:
        run = await run_of(ledger)
        pid: Any = await ledger.writer.do(
            lambda session: session.connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        )
        await to_thread.run_sync(end, pid)
        assert len(await claim(run)) == 2
        assert [
            record.levelno for record in caplog.records if "Trying again" in record.message
        ] == [logging.WARNING]


async def test_a_server_that_comes_back_and_one_that_does_not(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    async with SqlLedger(postgres_url, reconnect_seconds=30) as ledger:
        run = await run_of(ledger)
        await to_thread.run_sync(postgres_server.restart)
        (one,) = await claim(run, 1)
    async with SqlLedger(postgres_url, reconnect_seconds=0.3) as ledger:
        run = await run_of(ledger)
        await to_thread.run_sync(postgres_server.stop)
        try:
            with pytest.raises(
                LedgerError, match="the connection is lost or was refused"
            ) as caught:
                await run.change(one, BatchState.UNKNOWN, owner="me")
        finally:
            await to_thread.run_sync(postgres_server.start)
        assert caught.value.is_outcome_known
        assert await versions(run) == [1, 0, 0, 0]
