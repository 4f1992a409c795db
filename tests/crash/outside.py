"""What a test sees and does from outside of the processes that run a fan-out."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import anyio
from anyio.from_thread import start_blocking_portal

from annolab_async.emulator import EmulatorServer
from annolab_async.ledger import open_ledger
from tests.crash.runner import a_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from annolab_async import BatchRecord, BatchState
    from annolab_async.emulator import Emulator
    from annolab_async.ledger import BatchChange, Ledger

_PATIENCE = 60.0


def seed_for(default: int) -> int:
    """Return the seed of a test, and print it: it is shown when the test fails, and CRASH_SEED repeats it."""
    seed = int(os.environ.get("CRASH_SEED", default))
    print("seed", seed)  # noqa: T201
    return seed


@contextmanager
def serving(emulator: Emulator) -> Generator[str]:
    """Serve an emulator from a thread, so that a test can wait for other things."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(EmulatorServer(emulator)) as server,
    ):
        yield server.base_url


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds, or fail."""
    until = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.0005)


async def records_in(ledger: Ledger, sources: int, batch_size: int) -> list[BatchRecord]:
    """Return all batches of the one run in a ledger."""
    async with ledger:
        run = await ledger.begin_run("default", a_plan(sources, batch_size).fingerprint)
        return [record async for record in run.batches()]


def read_all(ledger: Path | str, sources: int, batch_size: int) -> list[BatchRecord]:
    """Return all batches, where there is no event loop."""
    return anyio.run(records_in, open_ledger(ledger), sources, batch_size)


def read_histories(ledger: str, sources: int, batch_size: int) -> list[list[BatchChange]]:
    """Return what became of each batch, step by step."""

    async def read() -> list[list[BatchChange]]:
        async with (opened := open_ledger(ledger)):
            run = await opened.begin_run("default", a_plan(sources, batch_size).fingerprint)
            numbers = [record.number async for record in run.batches()]
            return [list(await run.history(number)) for number in numbers]

    return anyio.run(read)


def count_in(ledger: Path, state: BatchState) -> int:
    """Count the batches in a SQLite ledger as a killed process left it."""
    if not ledger.exists():
        return 0
    with closing(sqlite3.connect(ledger)) as connection:
        try:
            query = "SELECT count(*) FROM annolab_batches WHERE state = ?"
            return int(connection.execute(query, [state.value]).fetchone()[0])
        except sqlite3.OperationalError:  # it was killed before there was a table
            return 0
