"""Ledgers that fail in the middle of a run: it ends with a LedgerError, and nothing is sent from then on."""

from __future__ import annotations

import time
from random import Random
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from annolab_async import BatchState, LedgerError
from annolab_async.emulator import Emulator
from annolab_async.ledger._dialects import SQLite
from annolab_async.ledger._sql import SqlLedger
from tests.crash.accounts import check_accounts
from tests.crash.outside import records_in, seed_for
from tests.crash.runner import CLOSELY, a_plan
from tests.depth import often
from tests.service import KEY, in_process, task_count

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Connection

    from annolab_async.ledger import Ledger
    from tests.ledger.postgres import PostgresServer

pytestmark = [pytest.mark.anyio, pytest.mark.sockets]

BATCHES = 30
SOURCES = range(1, BATCHES + 1)
SUBMITS = 3
# What a disk that is full, and one that may only be read from now on, are to SQLite.
TROUBLES = {
    "full": ("PRAGMA max_page_count = 1", "the disk is full"),
    "read-only": ("PRAGMA query_only = ON", "it cannot be written"),
}


def an_emulator() -> Emulator:
    return Emulator(
        api_key=KEY, workers=10, base_seconds=0.01, seconds_per_source=0.0, latency=0.002
    )


async def live(emulator: Emulator, ledger: Ledger, **options: Any) -> None:
    options = {"max_in_flight": 10, "max_concurrent_submits": SUBMITS} | options
    async with (
        in_process(emulator) as client,
        client.fan_out(a_plan(BATCHES, 1), ledger=ledger, schedule=CLOSELY, **options) as run,
    ):
        async for _ in run:
            pass


async def check_what_is_left(emulator: Emulator, failed: Ledger, healed: Ledger) -> int:
    """Check what a failed run has left behind, and that the next one goes on; return how many batches are unknown."""
    before = await records_in(failed, BATCHES, 1)
    # No request without its batch written down before.
    planned = {record.source_ids for record in before if record.state is BatchState.PLANNED}
    assert planned.isdisjoint(job.source_ids for job in emulator.jobs.values())
    open_at_failure = sum(record.state is BatchState.SENDING for record in before)
    assert open_at_failure <= SUBMITS
    await live(emulator, healed, lease_seconds=1.0)
    states = check_accounts(
        await records_in(healed, BATCHES, 1), emulator.jobs, SOURCES, most_unknown=open_at_failure
    )
    assert states.keys() <= {BatchState.FINISHED, BatchState.UNKNOWN}
    return states[BatchState.UNKNOWN]


@pytest.mark.chance
@pytest.mark.parametrize("trouble", TROUBLES)
async def test_a_disk_that_fails_at_any_moment_ends_the_run_and_nothing_is_sent_from_then_on(
    trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pragma, says = TROUBLES[trouble]
    random = Random(seed_for(7))
    begin = SQLite.begin
    tasks = task_count()
    failures = unknown = 0
    for number in range(rounds := often(20)):
        emulator = an_emulator()
        url = f"sqlite:///{tmp_path}/{number}.db"
        # The first transaction makes the tables.
        writes, fails_at = 0, random.randint(2, 60)
        sent_before: int | None = None
        has_failed = False

        def begin_or_fail(dialect: SQLite, connection: Connection, *, is_write: bool) -> int:
            nonlocal writes, sent_before
            writes += is_write
            if writes == fails_at and is_write:  # noqa: B023
                driver: Any = connection.connection.driver_connection
                driver.execute(pragma)
                sent_before = emulator.stats.submits  # noqa: B023
            return begin(dialect, connection, is_write=is_write)

        with monkeypatch.context() as context:
            context.setattr(SQLite, "begin", begin_or_fail)
            try:
                await live(emulator, SqlLedger(url))
            except LedgerError as error:
                assert says in str(error)  # noqa: PT017  # it need not be raised: the end may have been near
                failures += 1
                has_failed = True
        if not has_failed:  # too late to matter, or there was just enough room
            records = await records_in(SqlLedger(url), BATCHES, 1)
            assert {record.state for record in records} == {BatchState.FINISHED}
        assert task_count() == tasks
        sent = emulator.stats.submits
        if trouble == "read-only" and sent_before is not None:
            # Those that were claimed already, and no more.
            assert sent - sent_before <= SUBMITS
        await anyio.sleep(0.02)
        assert emulator.stats.submits == sent
        unknown += await check_what_is_left(
            emulator,
            SqlLedger(url),
            SqlLedger(url, clock=lambda: time.time() + 1e6),  # when all leases have run out
        )
    print(f"{failures} of {rounds} runs failed, {unknown} batches unknown")  # noqa: T201
    assert failures >= rounds / 2


@pytest.mark.full
@pytest.mark.chance
async def test_a_server_that_stays_away_ends_the_run_and_nothing_is_sent_from_then_on(
    postgres_server: PostgresServer, record_property: Callable[..., None]
) -> None:
    random = Random(seed_for(8))
    unknown = 0
    for _ in range(rounds := max(1, often(5))):
        emulator = an_emulator()
        url = await anyio.to_thread.run_sync(postgres_server.new_schema)
        enough = random.randint(0, BATCHES // 2)
        tasks = task_count()
        async with anyio.create_task_group() as group:

            async def stop_the_server() -> None:
                # The emulator tells nobody of a new job.
                while len(emulator.jobs) < enough:  # noqa: ASYNC110, B023
                    await anyio.sleep(0.001)
                await anyio.to_thread.run_sync(postgres_server.stop)

            group.start_soon(stop_the_server)
            with pytest.raises(LedgerError, match="the connection is lost or was refused"):
                await live(emulator, SqlLedger(url, reconnect_seconds=0.3), lease_seconds=1.0)
        assert task_count() == tasks
        sent = emulator.stats.submits
        await anyio.to_thread.run_sync(postgres_server.start)
        assert emulator.stats.submits == sent
        unknown += await check_what_is_left(emulator, SqlLedger(url), SqlLedger(url))
    record_property("unknown", f"{unknown} in {rounds} runs")
