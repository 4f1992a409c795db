"""What goes wrong with ledgers: each time one LedgerError that says how to mend it, and nothing half-written."""

from __future__ import annotations

import os
import re
import resource
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy
from sqlalchemy import inspect
from sqlalchemy.exc import DBAPIError, InvalidRequestError

from annolab_async import LedgerError, NotOpen
from annolab_async.ledger import BatchState, _schema, _sql, open_ledger
from annolab_async.ledger._database import Database
from annolab_async.ledger._dialects import SQLite
from annolab_async.ledger._sql import SqlLedger
from tests.builders import pickled

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from annolab_async.ledger._session import Session
    from tests.ledger.postgres import PostgresServer

pytestmark = [pytest.mark.anyio, pytest.mark.sockets, pytest.mark.any_backend]

SECRET = "hunter2"


async def fault_of(ledger: Any) -> LedgerError:
    """The error that opening a ledger and beginning a run raises."""
    with pytest.raises(LedgerError) as caught:
        async with ledger:
            await ledger.begin_run("run", "plan 1")
    error = caught.value
    assert SECRET not in repr(error) + str(error) + repr(vars(error))
    assert error.__cause__ is None
    assert str(pickled(error)) == str(error)
    return error


def contents(path: Path) -> bytes:
    return path.read_bytes()


def fill(path: Path, data: bytes) -> None:
    path.write_bytes(data)


async def use(ledger: Any, batches: int = 3) -> None:
    async with ledger:
        run = await ledger.begin_run("run", "plan 1")
        await run.plan([(number,) for number in range(1, batches + 1)])


async def test_a_missing_directory(tmp_path: Path) -> None:
    error = await fault_of(open_ledger(tmp_path / "nowhere" / "run.db"))
    assert "cannot be opened" in str(error)
    assert "Check that its directory exists" in error.hint
    assert error.where == str(tmp_path / "nowhere" / "run.db")


async def test_a_directory(tmp_path: Path) -> None:
    assert "cannot be opened" in str(await fault_of(open_ledger(tmp_path)))


async def test_a_text_file_is_left_as_it_is(path: Path) -> None:
    text = b"source_id,name\n1,invoice\n" * 100
    fill(path, text)
    assert "it is no SQLite database" in str(await fault_of(open_ledger(path)))
    assert contents(path) == text


async def test_a_file_that_cannot_be_written(path: Path) -> None:
    await use(open_ledger(path))
    before = contents(path)
    error = await fault_of(open_ledger(f"sqlite:///file:{path}?mode=ro&uri=true"))
    assert "it cannot be written" in str(error)
    assert contents(path) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_file_of_somebody_else(path: Path) -> None:
    path.touch(mode=0o600)
    code = """
import os, sys, anyio
from annolab_async import LedgerError
from annolab_async.ledger import open_ledger
async def main():
    # All that is imported on the way: somebody else may not be let into the environment.
    async with open_ledger(sys.argv[1] + ".own"):
        pass
    os.setuid(65534)
    try:
        async with open_ledger(sys.argv[1]):
            pass
    except LedgerError as error:
        print(error)
anyio.run(main)
"""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert "it cannot be opened" in done.stdout


async def test_a_damaged_file(path: Path) -> None:
    await use(open_ledger(path), 2000)
    data = bytearray(contents(path))
    middle = len(data) // 2
    data[middle : middle + 8192] = os.urandom(8192)
    fill(path, bytes(data))
    error = await fault_of(open_ledger(path))
    assert "it is damaged" in str(error)
    assert "Restore it from a copy" in error.hint


async def test_a_file_that_was_cut_off(path: Path) -> None:
    await use(open_ledger(path), 2000)
    data = contents(path)
    fill(path, data[: len(data) // 2])
    assert "damaged" in str(await fault_of(open_ledger(path)))


async def test_a_file_that_another_has_locked(path: Path) -> None:
    await use(open_ledger(path))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    ledger = SqlLedger(f"sqlite:///{path}", busy_seconds=0.1, open_seconds=0.1)
    assert "another process has it locked for too long" in str(await fault_of(ledger))
    other.execute("ROLLBACK")
    other.close()
    await use(ledger)


async def test_a_database_in_memory(path: Path) -> None:
    for url in ("sqlite://", "sqlite:///:memory:"):
        error = await fault_of(open_ledger(url))
        assert "ledger=None" in error.hint
    error = await fault_of(open_ledger(f"sqlite:///file:{path}?mode=memory&uri=true"))
    assert "keeps no write-ahead log there (journal mode memory)" in str(error)


async def test_commits_reach_the_disk(path: Path) -> None:
    def pragmas(session: Session) -> list[Any]:
        run = session.connection.exec_driver_sql
        return [run(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]

    async with SqlLedger.at(str(path)) as ledger:
        assert await ledger.writer.do(pragmas) == ["wal", 2]


async def test_commits_of_postgresql_reach_the_disk(postgres_url: str) -> None:
    def setting(session: Session) -> Any:
        return session.connection.exec_driver_sql("SHOW synchronous_commit").scalar()

    url = postgres_url + "%20-csynchronous_commit%3Doff"
    async with SqlLedger(url) as ledger:
        assert await ledger.writer.do(setting, is_write=False) == "off"
        assert await ledger.writer.do(setting) == "on"


async def test_a_sqlite_that_does_not_sync(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        def execute(self, sql: str) -> Driver:
            self.answer = "wal" if "journal_mode" in sql else 1
            return self

        def fetchone(self) -> tuple[object]:
            return (self.answer,)

    monkeypatch.setattr(
        "sqlalchemy.pool.base._ConnectionFairy.driver_connection", Driver(), raising=False
    )
    error = await fault_of(open_ledger(path))
    assert "does not sync its commits to disk (synchronous is 1)" in str(error)


def limit_pages(monkeypatch: pytest.MonkeyPatch, pages: int) -> None:
    prepare = SQLite.prepare

    def prepare_small(self: SQLite, connection: sqlalchemy.Connection) -> None:
        prepare(self, connection)
        driver: Any = connection.connection.driver_connection
        driver.execute(f"PRAGMA max_page_count = {pages}")

    monkeypatch.setattr(SQLite, "prepare", prepare_small)


async def test_a_disk_that_is_full_at_the_beginning(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as context:
        limit_pages(context, 3)
        error = await fault_of(open_ledger(path))
        assert "the disk is full" in str(error)
        assert error.is_outcome_known
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []
    connection.close()
    await use(open_ledger(path))


async def test_a_disk_that_fills_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = [tuple(range(1, 26)) for _ in range(3000)]
    with monkeypatch.context() as context:
        limit_pages(context, 100)
        async with open_ledger(path) as ledger:
            run = await ledger.begin_run("run", "plan 1")
            with pytest.raises(LedgerError, match="the disk is full"):
                await run.plan(plan)
            here = [batch async for batch in run.batches()]
            assert len(here) % 250 == 0  # whole chunks
            assert not run.info.is_planned
    async with open_ledger(path) as ledger:
        run = await ledger.begin_run("run", "plan 1")
        assert [batch async for batch in run.batches()] == here
        assert (await run.plan(plan)).planned_batches == 3000


def test_a_file_that_may_not_grow(path: Path) -> None:
    code = """
import resource, sys, anyio
from annolab_async import LedgerError
from annolab_async.ledger import open_ledger
async def main():
    async with open_ledger(sys.argv[1]) as ledger:
        run = await ledger.begin_run("run", "plan 1")
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        try:
            await run.plan([tuple(range(1, 26))] * 100_000)
        except LedgerError as error:
            print(error)
        counts = (await run.counts()).batches
        print(*counts.values())
anyio.run(main)
"""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    text, *counts = done.stdout.splitlines()
    assert re.search("make room", text, re.IGNORECASE)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 300_000
    with sqlite3.connect(path) as connection:
        here = connection.execute("SELECT count(*) FROM annolab_batches").fetchone()[0]
    connection.close()
    assert here == int(" ".join(counts) or 0)
    assert here % 250 == 0


async def test_a_newer_schema_is_refused(make_sql: Callable[[], SqlLedger]) -> None:
    await use(make_sql())
    async with make_sql() as ledger:
        await ledger.writer.do(
            lambda session: session.connection.execute(
                _schema.schema.update().values(schema_version=99)
            ).close()
        )
    error = await fault_of(make_sql())
    assert f"schema version 99, and this one knows {_schema.VERSION}" in str(error)
    assert error.hint == "Upgrade annolab-async here."


async def test_tables_of_unknown_version_are_refused(make_sql: Callable[[], SqlLedger]) -> None:
    await use(make_sql())
    async with make_sql() as ledger:
        await ledger.writer.do(
            lambda session: session.connection.execute(_schema.schema.delete()).close()
        )
    assert "0 notes of a schema version" in str(await fault_of(make_sql()))


async def test_tables_without_their_version_are_refused(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE annolab_batches (id INTEGER)")
    connection.close()
    error = await fault_of(open_ledger(path))
    assert "it has a table annolab_batches, but no note of a schema version" in str(error)


async def test_tables_that_are_gone(path: Path) -> None:
    await use(open_ledger(path))
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE annolab_runs")
    connection.close()
    assert "no such table: annolab_runs" in str(await fault_of(open_ledger(path)))


async def test_other_tables_in_the_database_are_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine AS SELECT 1 AS one")
    await use(open_ledger(path))
    assert connection.execute("SELECT one FROM mine").fetchall() == [(1,)]
    connection.close()


async def test_the_tables_are_as_the_code_has_them(make_sql: Callable[[], SqlLedger]) -> None:
    def columns(session: Session) -> dict[str, tuple[set[str], set[str]]]:
        inspector = inspect(session.connection)
        return {
            name: (
                {column["name"] for column in inspector.get_columns(name)},
                set(inspector.get_pk_constraint(name)["constrained_columns"]),
            )
            for name in inspector.get_table_names()
        }

    async with make_sql() as ledger:
        found = await ledger.writer.do(columns)
    found["annolab_schema"] = ({"schema_version"}, set())
    assert found == {
        table.name: (set(table.columns.keys()), set(table.primary_key.columns.keys()))
        for table in _schema.METADATA.sorted_tables
    }


async def test_an_older_schema_is_brought_up_to_date(
    make_sql: Callable[[], SqlLedger], monkeypatch: pytest.MonkeyPatch
) -> None:
    await use(make_sql())
    steps = [
        *_schema._MIGRATIONS,
        ("ALTER TABLE annolab_runs ADD COLUMN colour TEXT",),
        ("UPDATE annolab_runs SET colour = 'green'",),
    ]
    broken = [*steps[:-1], ("UPDATE annolab_runs SET colours = 'green'",)]

    def colours(session: Session) -> Any:
        return session.connection.exec_driver_sql("SELECT colour FROM annolab_runs").scalar()

    monkeypatch.setattr(_schema, "_MIGRATIONS", broken)
    assert "colours" in str(await fault_of(make_sql()))
    monkeypatch.setattr(_schema, "_MIGRATIONS", steps)
    for _ in range(2):
        async with make_sql() as ledger:
            assert await ledger.writer.do(colours) == "green"


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("", "neither a path, nor a URL, nor a Ledger"),
        (5, "of type int"),
        (b"run.db", "of type bytes"),
        (f"mysql://me:{SECRET}@host/db", "The ledger mysql://…"),
        (f"://{SECRET}", "neither a SQLite nor a PostgreSQL URL"),
        (f"postgresql://me:{SECRET}@host:port/db", "neither a SQLite nor a PostgreSQL URL"),
        (f"postgresql://me:my@{SECRET}@host/db", "holds an @. Write it as %40 there."),
    ],
)
def test_what_is_no_ledger(spec: Any, text: str) -> None:
    with pytest.raises(LedgerError) as caught:
        open_ledger(spec)
    assert text in str(caught.value)
    assert SECRET not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("name", ["odd ?&%20 name.db", "sub.sqlite3"])
async def test_a_path_may_have_any_name(tmp_path: Path, name: str) -> None:
    await use(open_ledger(str(tmp_path / name)))
    assert (tmp_path / name).stat().st_size > 0


@pytest.mark.parametrize("decodes", [True, False])
def test_a_url_names_the_same_file_with_every_sqlalchemy(
    decodes: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = "50% of/a run?.db"
    encoded = "50%25%20of/a%20run%3F.db"

    def parse(_: str) -> sqlalchemy.URL:
        return sqlalchemy.URL.create("sqlite", database=path if decodes else encoded)

    monkeypatch.setattr(_sql, "make_url", parse)
    for url in (f"sqlite:///{encoded}", f"sqlite:///{encoded}?timeout=5"):
        assert SqlLedger(url).where == path


async def test_a_ledger_that_is_not_open(path: Path) -> None:
    ledger = open_ledger(path)
    with pytest.raises(NotOpen):
        await ledger.runs()
    async with ledger:
        run = await ledger.begin_run("run", "plan 1")
    with pytest.raises(NotOpen):
        await run.counts()


@pytest.mark.parametrize(
    ("missing", "spec", "extra"),
    [
        ("annolab_async.ledger._sql", "run.db", "ledger"),
        ("psycopg", "postgresql://host/db", "postgres"),
    ],
)
def test_the_extra_that_is_missing_is_named(
    missing: str, spec: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(LedgerError, match="is not installed") as caught:
        open_ledger(spec)
    assert caught.value.hint == f"Install it: pip install 'annolab-async[{extra}]'."


def test_the_memory_ledger_needs_no_extra() -> None:
    code = """
import sys
from annolab_async.ledger import open_ledger
open_ledger(None)
assert not {"sqlalchemy", "psycopg"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603


def with_(server: PostgresServer, user: str, **options: str) -> str:
    """A server's URL for another user, database or with other options."""
    rest = "".join(f"&{name}={value}" for name, value in options.items() if name != "database")
    database = options.get("database", "postgres")
    place = server.url().partition("?")[2].partition("&")[0]
    return f"postgresql://{user}:{SECRET}@/{database}?{place}{rest}"


async def test_a_database_that_is_not_there(postgres_server: PostgresServer) -> None:
    error = await fault_of(open_ledger(with_(postgres_server, "postgres", database="nowhere")))
    assert 'database "nowhere" does not exist' in str(error)
    assert error.hint == "Create the database and the user, or check their names."


async def test_a_user_that_is_not_there(postgres_server: PostgresServer) -> None:
    error = await fault_of(open_ledger(with_(postgres_server, "nobody")))
    assert 'role "nobody" does not exist' in str(error)


async def test_an_option_that_is_not_there(postgres_server: PostgresServer) -> None:
    error = await fault_of(open_ledger(with_(postgres_server, "postgres", colour=SECRET)))
    assert "invalid" in str(error)
    assert error.hint == "Check the URL and its options."


async def test_a_server_that_may_only_be_read(postgres_url: str) -> None:
    error = await fault_of(open_ledger(postgres_url + "%20-cdefault_transaction_read_only%3Don"))
    assert "read-only" in str(error)
    assert "primary server" in error.hint


async def test_a_server_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    ledger = SqlLedger(
        f"postgresql://me:{SECRET}@127.0.0.1:1/db?password={SECRET}", open_seconds=1.0
    )
    error = await fault_of(ledger)
    assert error.where == "postgresql://127.0.0.1:1/db"
    assert "the connection is lost or was refused" in str(error)
    assert "Trying again" in caplog.text
    assert {vars(record)["ledger"] for record in caplog.records} == {ledger.where}
    assert SECRET not in caplog.text + repr(ledger) + ledger.where


async def test_no_api_key_has_a_place(path: Path) -> None:
    async with open_ledger(path) as ledger:
        run = await ledger.begin_run("run", "plan 1")
        await run.plan([(1,)])
        (sending,) = await run.claim("me", limit=1, lease_seconds=60)
        await run.change(sending, BatchState.SUBMITTED, owner="me", inference_job_id=7)
    with sqlite3.connect(path) as connection:
        text = "\n".join(connection.iterdump())
    connection.close()
    assert "CREATE TABLE annolab_leases" in text
    assert not re.search(
        "key|secret|token|password", text.replace("PRIMARY KEY", ""), re.IGNORECASE
    )


async def test_what_sqlalchemy_itself_does_not_like(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise InvalidRequestError("the connection is in an odd state")

    async with SqlLedger.at(str(path)) as ledger:
        run = await ledger.begin_run("run", "plan 1")
        with monkeypatch.context() as context:
            context.setattr(Database, "_commit", refuse)
            with pytest.raises(LedgerError, match="odd state"):
                await run.plan([(1,)])
        assert (await run.plan([(1,)])).planned_batches == 1


async def test_what_cannot_be_rolled_back_is_dropped(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise DBAPIError("ROLLBACK", None, sqlite3.OperationalError("stuck"))

    async with SqlLedger.at(str(path)) as ledger:
        run = await ledger.begin_run("run", "plan 1")
        await run.plan([(1,)])
        with monkeypatch.context() as context:
            context.setattr(sqlalchemy.Connection, "rollback", refuse)
            with pytest.raises(LedgerError, match="only 0"):
                await run.plan([])
        assert await run.get(1)


async def test_it_says_what_it_is(path: Path) -> None:
    async with open_ledger(path) as ledger:
        run = await ledger.begin_run("run", "plan 1")
        assert repr(run) == f"<SqlRun 'run' in {path}>"
