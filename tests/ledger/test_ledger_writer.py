"""The writer's thread: groups, cancellation, closing, and a loop that never waits for it."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio import CancelScope, to_thread
from anyio.lowlevel import checkpoint

from annolab_async import NotOpen
from annolab_async.ledger import BatchState, LedgerRun, open_ledger
from annolab_async.ledger._database import Database
from annolab_async.ledger._sql import SqlLedger
from annolab_async.ledger._writer import Awaited, Work, Writer, _deliver

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from annolab_async.ledger import BatchRecord

pytestmark = [pytest.mark.anyio, pytest.mark.sockets, pytest.mark.any_backend]

only_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])


async def run_of(ledger: Any, batches: int) -> LedgerRun:
    run: LedgerRun = await ledger.begin_run("run", "plan 1")
    await run.plan([(number,) for number in range(1, batches + 1)])
    return run


async def claim(run: LedgerRun, limit: int) -> Sequence[BatchRecord]:
    return await run.claim("me", limit=limit, lease_seconds=60)


async def submit(run: LedgerRun, record: BatchRecord) -> BatchRecord | None:
    return await run.change(record, BatchState.SUBMITTED, owner="me", inference_job_id=7)


async def states(run: LedgerRun) -> list[BatchState]:
    records = [record async for record in run.batches()]
    for record in records:
        assert len(await run.history(record.number)) == record.version
    return [record.state for record in records]


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    times: list[float] = []
    commit = Database._commit

    def count(database: Database, connection: Any) -> None:
        commit(database, connection)
        times.append(time.monotonic())

    monkeypatch.setattr(Database, "_commit", count)
    return times


async def test_what_is_asked_for_meanwhile_is_committed_together(
    path: Path, commits: list[float]
) -> None:
    async with open_ledger(path) as ledger:
        run = await run_of(ledger, 500)
        claimed = await claim(run, 500)
        before = len(commits)
        async with anyio.create_task_group() as group:
            for record in claimed:
                group.start_soon(submit, run, record)
        assert len(commits) - before < 50
        assert set(await states(run)) == {BatchState.SUBMITTED}


async def test_ten_thousand_changes_do_not_hold_up_the_loop(path: Path) -> None:
    # Time on the processor, for on a busy machine a thread may wait for that much longer; that nothing in the loop
    # waits for locks or disks is blockbuster's to watch.
    turns: list[float] = []

    async def beat() -> None:
        while True:
            before = time.thread_time()
            await anyio.sleep(0.001)
            turns.append(time.thread_time() - before)

    async def work(run: LedgerRun, records: Sequence[BatchRecord]) -> None:
        for record in records:
            now = await submit(run, record)
            assert now
            assert await run.change(now, BatchState.FINISHED, owner="me")

    async with open_ledger(path) as ledger:
        run = await run_of(ledger, 5000)
        claimed = await claim(run, 5000)
        async with anyio.create_task_group() as beating:
            beating.start_soon(beat)
            async with anyio.create_task_group() as group:
                for first in range(100):
                    group.start_soon(work, run, claimed[first::100])
            beating.cancel_scope.cancel()
        assert (await run.counts()).batches == {BatchState.FINISHED: 5000}
        # But for the one or two in which the garbage of all tests before is collected.
        assert sorted(turns)[-3] < 0.05


@pytest.mark.parametrize("turns", range(12))
async def test_cancelled_at_any_moment_a_call_has_been_made_whole_or_not_at_all(
    path: Path, turns: int
) -> None:
    async with open_ledger(path) as ledger:
        run = await run_of(ledger, 30)
        told: list[int] = []

        async def work(record: BatchRecord) -> None:
            now = await submit(run, record)
            assert now
            told.append(record.number)

        claimed = await claim(run, 30)
        async with anyio.create_task_group() as group:
            for record in claimed:
                group.start_soon(work, record)
            for _ in range(turns):
                await checkpoint()
            group.cancel_scope.cancel()
        # Who was not told has changed nothing: there is no doubt about any batch.
        assert await states(run) == [
            BatchState.SUBMITTED if number in told else BatchState.SENDING
            for number in range(1, 31)
        ]


async def test_a_claim_is_not_lost_to_cancellation(path: Path) -> None:
    async with open_ledger(path) as ledger:
        run = await run_of(ledger, 100)
        claimed: list[int] = []

        async def claim_all() -> None:
            while True:
                claimed.extend([record.number for record in await claim(run, 1)])

        for delay in (0.0, 0.001, 0.002, 0.003, 0.005, 0.01):
            async with anyio.create_task_group() as group:
                group.start_soon(claim_all)
                await anyio.sleep(delay)
                group.cancel_scope.cancel()
        sending = [b.number async for b in run.batches(states=[BatchState.SENDING])]
        assert sending == claimed


@only_asyncio
async def test_what_asyncio_itself_cancels_is_made_all_the_same(path: Path) -> None:
    async with open_ledger(path) as ledger:
        run = await run_of(ledger, 30)
        tasks = [asyncio.create_task(submit(run, record)) for record in await claim(run, 30)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
    async with open_ledger(path) as ledger:
        run = await run_of(ledger, 30)
        assert set(await states(run)) == {BatchState.SUBMITTED}


async def test_leaving_while_cancelled_closes_the_ledger(path: Path) -> None:
    with CancelScope() as scope:
        async with open_ledger(path) as ledger:
            await run_of(ledger, 3)
            scope.cancel()
            await checkpoint()
    assert scope.cancelled_caught
    await wait_until(lambda: not [t for t in threading.enumerate() if str(path) in t.name])


@only_asyncio
async def test_an_opening_that_is_cancelled_leaves_no_thread(path: Path) -> None:
    ledger = SqlLedger.at(str(path))
    task = asyncio.create_task(ledger.__aenter__())
    await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await wait_until(lambda: not [t for t in threading.enumerate() if str(path) in t.name])
    async with ledger:
        assert await ledger.runs() == []


async def test_a_cancelled_caller_begins_nothing(path: Path) -> None:
    ledger = SqlLedger.at(str(path))
    with CancelScope() as scope:
        scope.cancel()
        async with ledger:
            pytest.fail("it should not have opened")
    async with ledger:
        with CancelScope() as scope:
            scope.cancel()
            await ledger.begin_run("run", "plan 1")
        assert await ledger.runs() == []


async def wait_until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110  # a thread's end sets no event of anyio's
            await anyio.sleep(0.005)


async def cancel_when(scope: CancelScope, event: threading.Event) -> None:
    await wait_until(event.is_set)
    scope.cancel()


def nothing(session: object) -> None:
    pass


class SlowEngine:
    """An engine whose work hangs until it is let go."""

    def __init__(self) -> None:
        self.is_let_go = threading.Event()
        self.is_at_work = threading.Event()
        self.events: list[str] = []

    def open(self) -> None:
        self.events.append("open")

    def execute(self, group: Sequence[Work[Any]]) -> None:
        self.is_at_work.set()
        self.is_let_go.wait(10)
        self.events.append(f"execute {len(group)}")

    def close(self) -> None:
        self.events.append("close")

    def hurry(self) -> None:
        self.events.append("hurry")


async def test_closing_waits_for_what_is_under_way(path: Path) -> None:
    engine = SlowEngine()
    writer = Writer(engine, str(path))
    await writer.open()
    async with anyio.create_task_group() as group:
        group.start_soon(writer.do, nothing)
        await wait_until(engine.is_at_work.is_set)
        for _ in range(3):
            group.start_soon(writer.do, nothing)
        await anyio.sleep(0.01)
        threading.Timer(0.05, engine.is_let_go.set).start()
        assert await writer.close(timeout=10)
    assert engine.events == ["open", "hurry", "execute 1", "execute 3", "close"]


async def test_closing_does_not_wait_for_ever(path: Path) -> None:
    engine = SlowEngine()
    writer = Writer(engine, str(path))
    await writer.open()
    async with anyio.create_task_group() as group:
        group.start_soon(writer.do, nothing)
        await wait_until(engine.is_at_work.is_set)
        assert not await writer.close(timeout=0.05)
        engine.is_let_go.set()
    await to_thread.run_sync(writer._thread.join)
    assert engine.events[-1] == "close"


async def test_closing_waits_also_for_who_is_cancelled(path: Path) -> None:
    engine = SlowEngine()
    writer = Writer(engine, str(path))
    await writer.open()
    has_ended = False
    async with anyio.create_task_group() as group:
        group.start_soon(writer.do, nothing)
        await wait_until(engine.is_at_work.is_set)
        threading.Timer(0.05, engine.is_let_go.set).start()
        with CancelScope() as scope:
            scope.cancel()
            has_ended = await writer.close(timeout=10)
    assert has_ended
    assert engine.events == ["open", "hurry", "execute 1", "close"]


class SlowlyOpened(SlowEngine):
    """An engine whose opening hangs until it is let go, or fails then."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error

    def open(self) -> None:
        self.is_at_work.set()
        self.is_let_go.wait(10)
        super().open()
        if self.error:
            raise self.error


async def test_who_is_cancelled_while_it_is_opened_has_it_open(path: Path) -> None:
    engine = SlowlyOpened()
    writer = Writer(engine, str(path))
    threading.Timer(0.02, engine.is_let_go.set).start()
    with CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(cancel_when, scope, engine.is_at_work)
            await writer.open()
            assert await writer.close(timeout=10)
    assert scope.cancel_called
    assert engine.events == ["open", "hurry", "close"]


async def test_what_cannot_be_opened_is_closed_and_its_thread_ends(path: Path) -> None:
    engine = SlowlyOpened(error=ZeroDivisionError())
    engine.is_let_go.set()
    writer = Writer(engine, str(path))
    with pytest.raises(ZeroDivisionError):
        await writer.open()
    await wait_until(lambda: not writer._thread.is_alive())
    assert engine.events == ["open", "close"]
    with pytest.raises(NotOpen):
        await writer.do(nothing)


async def test_no_more_than_256_calls_are_made_in_one_commit(path: Path) -> None:
    engine = SlowEngine()
    writer = Writer(engine, str(path))
    await writer.open()
    async with anyio.create_task_group() as group:
        group.start_soon(writer.do, nothing)
        await wait_until(engine.is_at_work.is_set)
        for _ in range(257):
            group.start_soon(writer.do, nothing)
        await wait_until(lambda: writer._queue.qsize() == 257)
        engine.is_let_go.set()
    assert await writer.close(timeout=10)
    assert engine.events == ["open", "execute 1", "execute 256", "execute 1", "hurry", "close"]


async def test_a_process_does_not_wait_for_a_ledger_that_hangs(path: Path) -> None:
    async with open_ledger(path):
        (thread,) = [thread for thread in threading.enumerate() if str(path) in thread.name]
        assert thread.daemon


async def test_two_who_open_a_ledger_at_once_share_one_thread(path: Path) -> None:
    ledger, both = SqlLedger.at(str(path)), anyio.Event()
    opened = 0

    async def use() -> None:
        nonlocal opened
        async with ledger:
            opened += 1
            if opened == 2:
                both.set()
            await both.wait()
            assert len([t for t in threading.enumerate() if str(path) in t.name]) == 1

    async with anyio.create_task_group() as group:
        group.start_soon(use)
        group.start_soon(use)
    await wait_until(lambda: not [t for t in threading.enumerate() if str(path) in t.name])


async def test_nothing_is_done_after_the_end(path: Path) -> None:
    writer = Writer(SlowEngine(), str(path))
    await writer.open()
    assert await writer.close(timeout=10)
    with pytest.raises(NotOpen):
        await writer.do(nothing)


async def test_a_ledger_that_hangs_is_left_with_a_warning(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    is_let_go = threading.Event()
    close = Database.close

    def hang(database: Database) -> None:
        is_let_go.wait(10)
        close(database)

    async with SqlLedger(f"sqlite:///{path}", close_seconds=0.05):
        monkeypatch.setattr(Database, "close", hang)
    is_let_go.set()
    assert "did not answer for 0.05 s: left as it is" in caplog.text
    assert [vars(record)["ledger"] for record in caplog.records] == [str(path)]
    await wait_until(lambda: not [t for t in threading.enumerate() if str(path) in t.name])


@only_asyncio
async def test_a_loop_that_has_ended_is_told_nothing() -> None:
    loop = asyncio.SelectorEventLoop()
    loop.close()
    work = Awaited(loop=loop)
    _deliver([work])
    assert not work.done.is_set()
