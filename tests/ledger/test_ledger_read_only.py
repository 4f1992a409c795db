"""A ledger that is only read: it takes no right to write there, and disturbs nobody."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from annolab_async import LedgerError
from annolab_async.ledger import open_ledger
from annolab_async.ledger._sql import SqlLedger

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from annolab_async.ledger import Ledger

pytestmark = [pytest.mark.anyio, pytest.mark.sockets, pytest.mark.any_backend]

NOBODY = 65534


async def begun(spec: str | Path) -> None:
    async with open_ledger(spec) as ledger:
        run = await ledger.begin_run("run", "plan 1")
        await run.plan([(1, 2), (3,)])


async def batches_in(ledger: Ledger) -> list[tuple[int, ...]]:
    async with ledger as opened:
        (info,) = await opened.runs()
        run = await opened.begin_run(info.name, info.fingerprint)
        return [record.source_ids async for record in run.batches()]


async def fault_of(ledger: Ledger) -> LedgerError:
    with pytest.raises(LedgerError) as caught:
        await batches_in(ledger)
    return caught.value


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        for statement in statements:
            database.execute(statement)


def make_older(path: Path) -> None:
    change(
        path,
        "ALTER TABLE annolab_transitions DROP COLUMN uncertainty",
        "UPDATE annolab_schema SET schema_version = 1",
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that other users can get at, unlike pytest's."""
    with TemporaryDirectory() as folder:
        yield Path(folder)


@contextmanager
def who_may_not_write(folder: Path, *, file: int = 0o444, mode: int = 0o555) -> Generator[None]:
    """Be somebody who may not write in a folder; root always may."""
    for path in folder.iterdir():
        path.chmod(file)
    folder.chmod(mode)
    user = os.geteuid()
    os.seteuid(NOBODY if user == 0 else user)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o700)
        for path in folder.iterdir():
            path.chmod(0o600)


@pytest.mark.parametrize(("file", "mode"), [(0o444, 0o555), (0o444, 0o777), (0o666, 0o555)])
async def test_what_may_not_be_written_is_read_and_left_as_it_is(
    shared: Path, file: int, mode: int
) -> None:
    await begun(shared / "a ?%23.db")
    before = contents(shared)
    await batches_in(open_ledger(shared / "a ?%23.db", read_only=True))  # imports what it needs
    with who_may_not_write(shared, file=file, mode=mode):
        found = await batches_in(open_ledger(shared / "a ?%23.db", read_only=True))
    assert found == [(1, 2), (3,)]
    assert contents(shared) == before


async def test_who_writes_meanwhile_is_seen_and_neither_waited_for_nor_disturbed(
    shared: Path,
) -> None:
    path = shared / "run.db"
    async with open_ledger(path) as ledger:
        await (await ledger.begin_run("run", "plan 1")).plan([(1, 2), (3,)])
        with closing(sqlite3.connect(path, isolation_level=None)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            reader = SqlLedger(
                f"sqlite:///{path}", busy_seconds=0.1, open_seconds=0.1, read_only=True
            )
            assert await batches_in(reader) == [(1, 2), (3,)]
            with who_may_not_write(shared):
                found = await batches_in(open_ledger(path, read_only=True))
    assert found == [(1, 2), (3,)]


async def test_a_ledger_that_is_read_refuses_to_be_written(shared: Path, postgres_url: str) -> None:
    for spec, told in ((str(shared / "run.db"), "cannot be written"), (postgres_url, "read-only")):
        await begun(spec)
        async with open_ledger(spec, read_only=True) as ledger:
            with pytest.raises(LedgerError, match=told):
                await ledger.begin_run("another", "plan 1")
            run = await ledger.begin_run("run", "plan 1")
            with pytest.raises(LedgerError, match=told):
                await run.claim("me", limit=1, lease_seconds=60)
        assert await batches_in(open_ledger(spec, read_only=True)) == [(1, 2), (3,)]


async def test_an_older_one_is_brought_up_to_date_where_that_is_possible(shared: Path) -> None:
    path = shared / "run.db"
    await begun(path)
    make_older(path)
    before = contents(shared)
    with who_may_not_write(shared):
        error = await fault_of(open_ledger(path, read_only=True))
    assert "was written by an older annolab-async, and cannot be brought up to date" in str(error)
    assert error.hint == "Give this user the right to write the file and its directory."
    assert contents(shared) == before
    async with open_ledger(path, read_only=True) as ledger:
        with pytest.raises(LedgerError, match="cannot be written"):
            await ledger.begin_run("another", "plan 1")
    assert await batches_in(open_ledger(path, read_only=True)) == [(1, 2), (3,)]


@pytest.mark.parametrize("statements", [(), ("CREATE TABLE theirs (x)",)])
async def test_what_is_no_ledger_is_left_as_it_is(
    shared: Path, statements: tuple[str, ...]
) -> None:
    path = shared / "theirs.db"
    path.touch()
    change(path, *statements)
    before = contents(shared)
    error = await fault_of(open_ledger(path, read_only=True))
    assert error.what == "it holds no ledger"
    assert contents(shared) == before
    path.write_text("no database at all " * 20)
    assert "it is no SQLite database" in str(await fault_of(open_ledger(path, read_only=True)))


async def test_nor_is_a_database_of_postgresql_that_has_none(postgres_url: str) -> None:
    for _ in range(2):
        error = await fault_of(open_ledger(postgres_url, read_only=True))
        assert error.what == "it holds no ledger"


async def test_who_begins_to_write_later_is_seen(shared: Path) -> None:
    # What nobody writes to, and oneself could, is no file that never changes.
    path = shared / "run.db"
    await begun(path)
    async with open_ledger(path, read_only=True) as ledger:
        assert len(await ledger.runs()) == 1
        async with open_ledger(path) as writer:
            await writer.begin_run("another", "plan 1")
        assert len(await ledger.runs()) == 2
