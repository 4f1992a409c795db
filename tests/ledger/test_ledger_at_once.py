"""What comes together: in one commit, or in two of which one is still open when the other begins."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import psycopg
import pytest
from anyio import to_thread
from sqlalchemy import Engine, event

from annolab_async.ledger import BatchState
from annolab_async.ledger._database import Database
from annolab_async.ledger._sql import SqlLedger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Sequence

    from annolab_async.ledger import BatchRecord
    from annolab_async.ledger._session import Session
    from annolab_async.ledger._sql import SqlRun

# What happens here happens in the ledgers' threads and in the databases, whatever the event loop.
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.sockets,
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
]

ME, YOU = "me", "you"
LEASE = 60.0


async def run_of(ledger: SqlLedger, batches: int = 3) -> SqlRun:
    run = await ledger.begin_run("run", "plan 1")
    await run.plan([(2 * number - 1, 2 * number) for number in range(1, batches + 1)])
    return run


async def claim(run: SqlRun, limit: int, owner: str = ME) -> list[BatchRecord]:
    return list(await run.claim(owner, limit=limit, lease_seconds=LEASE))


async def take_over(run: SqlRun, **options: Any) -> list[int]:
    taken = await run.take_over(YOU, limit=10, lease_seconds=LEASE, **options)
    return [record.number for record in taken]


def numbers(records: Sequence[BatchRecord]) -> list[int]:
    return [record.number for record in records]


class Commits:
    """The commits of all ledgers, of which one can be held open.

    Attributes:
        count: how many were made.
        is_held: set when the one that was to be held is about to be made.
        may_go_on: what it waits for then.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.is_held = threading.Event()
        self.may_go_on = threading.Event()
        self._is_to_be_held = False
        commit = Database._commit

        def count(database: Database, connection: Any) -> None:
            if self._is_to_be_held:
                self._is_to_be_held = False
                self.is_held.set()
                self.may_go_on.wait(60)
            commit(database, connection)
            self.count += 1

        monkeypatch.setattr(Database, "_commit", count)

    def hold_next(self) -> None:
        self._is_to_be_held = True


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> Commits:
    return Commits(monkeypatch)


async def in_one_commit(
    ledger: SqlLedger, commits: Commits, *calls: Callable[[], Awaitable[Any]]
) -> list[Any]:
    """Make calls in their order, all of which are asked for while the ledger's thread is busy."""
    is_busy, may_go_on = threading.Event(), threading.Event()

    def be_busy(_: Session) -> None:
        is_busy.set()
        may_go_on.wait(60)

    results = list[Any]([None] * len(calls))

    async def keep(at: int, call: Callable[[], Awaitable[Any]]) -> None:
        results[at] = await call()

    def is_queued(at: int) -> bool:
        return ledger.writer._queue.qsize() > at

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ledger.writer.do, be_busy)
        await to_thread.run_sync(is_busy.wait)
        commits.count = 0
        for at, call in enumerate(calls):
            tasks.start_soon(keep, at, call)
            await until(partial(is_queued, at))
        may_go_on.set()
    # What was busy makes one, and all the calls together another.
    assert commits.count == 2, "they were not made together, but one by one"
    return results


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(60):
        while not condition():  # noqa: ASYNC110  # a thread sets no event of anyio's
            await anyio.sleep(0.001)


async def test_of_two_changes_of_a_batch_in_one_commit_the_first_is_made(
    make_sql: Callable[[], SqlLedger], commits: Commits
) -> None:
    async with make_sql() as ledger:
        run = await run_of(ledger)
        one, two, _ = await claim(run, 3)

        def submit(record: BatchRecord, job_id: int) -> Callable[[], Awaitable[BatchRecord | None]]:
            return lambda: run.change(
                record, BatchState.SUBMITTED, owner=ME, inference_job_id=job_id
            )

        first, late, other = await in_one_commit(
            ledger, commits, submit(one, 7), submit(one, 8), submit(two, 9)
        )
        assert first == await run.get(1)
        assert first.inference_job_id == 7
        assert late is None
        assert other == await run.get(2)
        assert [len(await run.history(number)) for number in (1, 2)] == [2, 2]


async def test_a_planned_batch_that_is_changed_and_claimed_in_one_commit_goes_to_one(
    make_sql: Callable[[], SqlLedger], commits: Commits
) -> None:
    async with make_sql() as ledger:
        run = await run_of(ledger)
        first = await run.get(1)
        assert first
        changed, claimed = await in_one_commit(
            ledger,
            commits,
            lambda: run.change(first, BatchState.SENDING, owner=ME),
            lambda: claim(run, 1, YOU),
        )
        assert changed is None
        assert claimed == [await run.get(1)]
        assert len(await run.history(1)) == 1


async def test_of_claims_in_one_commit_each_gets_as_much_as_it_asks_for(
    make_sql: Callable[[], SqlLedger], commits: Commits
) -> None:
    async with make_sql() as ledger:
        run = await run_of(ledger, 5)
        claims = await in_one_commit(
            ledger,
            commits,
            lambda: claim(run, 2),
            lambda: claim(run, 1, YOU),
            lambda: claim(run, 3),
        )
        assert [numbers(claimed) for claimed in claims] == [[1, 2], [3], [4, 5]]
        owners = [record.owner async for record in run.batches()]
        assert owners == [ME, ME, YOU, ME, ME]


async def test_claims_in_one_commit_take_hardly_more_statements_than_one(
    make_sql: Callable[[], SqlLedger], commits: Commits
) -> None:
    counts: list[int] = []

    def count(*_: object) -> None:
        counts[-1] += 1

    async with make_sql() as ledger:
        run = await run_of(ledger, 5)
        await claim(run, 1)  # it has a lease from now on
        event.listen(Engine, "before_cursor_execute", count)
        try:
            for claims in (1, 3):
                counts.append(0)
                await in_one_commit(ledger, commits, *[partial(claim, run, 1)] * claims)
        finally:
            event.remove(Engine, "before_cursor_execute", count)
    assert counts[0] == counts[1]


async def test_a_lease_that_is_ended_and_begun_anew_in_one_commit_holds(
    make_sql: Callable[[], SqlLedger], commits: Commits
) -> None:
    async with make_sql() as ledger:
        run = await run_of(ledger)
        _, _, was_valid = await in_one_commit(
            ledger,
            commits,
            lambda: claim(run, 2),
            lambda: run.release(ME),
            lambda: run.renew(ME, lease_seconds=LEASE),
        )
        assert not was_valid
        assert await take_over(run) == []


async def test_a_lease_that_is_taken_away_and_begun_anew_in_one_commit_holds(
    make_sql: Callable[[], SqlLedger], commits: Commits
) -> None:
    async with make_sql() as ledger:
        run = await run_of(ledger)
        _, taken, was_valid = await in_one_commit(
            ledger,
            commits,
            lambda: claim(run, 2),
            lambda: take_over(run, of=[ME]),
            lambda: run.renew(ME, lease_seconds=LEASE),
        )
        assert taken == [1, 2]
        assert not was_valid
        assert await run.renew(ME, lease_seconds=LEASE)


@contextmanager
def at_work_on(url: str, *of: int) -> Generator[None]:
    """Have batches locked, as by another process that is about to change them."""
    with psycopg.connect(url) as connection:
        locked = "SELECT number FROM annolab_batches WHERE number = ANY(%s) FOR UPDATE"
        assert connection.execute(locked, [list(of)]).rowcount == len(of)
        yield
        connection.rollback()


@pytest.fixture
def impatient_url(postgres_url: str) -> str:
    """A database in which nobody waits for who has something locked."""
    return f"{postgres_url}%20-clock_timeout%3D1s"


async def test_batches_that_another_process_is_at_are_passed_over_by_claims(
    impatient_url: str,
) -> None:
    async with SqlLedger(impatient_url, reconnect_seconds=0) as ledger:
        run = await run_of(ledger)
        with at_work_on(impatient_url, 1):
            assert numbers(await claim(run, 1)) == [2]
        assert numbers(await claim(run, 2)) == [1, 3]


async def test_batches_that_another_process_is_at_are_passed_over_by_who_takes_over(
    impatient_url: str,
) -> None:
    async with SqlLedger(impatient_url, reconnect_seconds=0) as ledger:
        run = await run_of(ledger)
        await claim(run, 3)
        await run.release(ME)
        with at_work_on(impatient_url, 1, 3):
            assert await take_over(run) == [2]
        assert await take_over(run) == [1, 3]


async def one_after_the_other(
    commits: Commits,
    url: str,
    first: Callable[[], Awaitable[Any]],
    second: Callable[[], Awaitable[Any]],
) -> list[Any]:
    """Make two calls, the second while all of the first but its commit has been done."""
    results = list[Any]([None, None])
    has_ended = False

    async def keep_first() -> None:
        results[0] = await first()

    async def keep_second() -> None:
        nonlocal has_ended
        try:
            results[1] = await second()
        finally:
            has_ended = True

    async with anyio.create_task_group() as tasks:
        commits.hold_next()
        tasks.start_soon(keep_first)
        try:
            await to_thread.run_sync(commits.is_held.wait)
            tasks.start_soon(keep_second)
            await until(lambda: has_ended or someone_waits(url))
        finally:
            commits.may_go_on.set()
    return results


def someone_waits(url: str) -> bool:
    with psycopg.connect(url, autocommit=True) as connection:
        query = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        return connection.execute(query).rowcount > 0


async def test_a_change_waits_for_another_processs_and_is_refused(
    postgres_url: str, commits: Commits
) -> None:
    async with SqlLedger(postgres_url) as mine, SqlLedger(postgres_url) as yours:
        run = await run_of(mine)
        other = await run_of(yours)
        (one,) = await claim(run, 1)
        won, late = await one_after_the_other(
            commits,
            postgres_url,
            lambda: run.change(one, BatchState.SUBMITTED, owner=ME, inference_job_id=7),
            lambda: other.change(one, BatchState.PLANNED, owner=ME),
        )
        assert won == await run.get(1)
        assert late is None


async def test_two_processes_that_split_at_the_same_time_share_no_number(
    postgres_url: str, commits: Commits
) -> None:
    async with SqlLedger(postgres_url) as mine, SqlLedger(postgres_url) as yours:
        run = await run_of(mine)
        other = await run_of(yours)
        one, two = [
            await run.change(record, BatchState.ERRORED, owner=ME) for record in await claim(run, 2)
        ]
        assert one
        assert two
        halves = await one_after_the_other(
            commits,
            postgres_url,
            lambda: run.split(one, [(1,), (2,)], owner=ME),
            lambda: other.split(two, [(3,), (4,)], owner=YOU),
        )
        assert len({part.number for parts in halves for part in parts}) == 4


async def test_two_processes_that_begin_a_run_at_the_same_time_begin_one(
    postgres_url: str, commits: Commits
) -> None:
    async with SqlLedger(postgres_url) as mine, SqlLedger(postgres_url) as yours:
        one, other = await one_after_the_other(
            commits,
            postgres_url,
            lambda: mine.begin_run("run", "plan 1"),
            lambda: yours.begin_run("run", "plan 1"),
        )
        assert one.info == other.info
        assert await mine.runs() == [one.info]


async def test_two_processes_that_plan_at_the_same_time_write_one_plan(
    postgres_url: str, commits: Commits
) -> None:
    async with SqlLedger(postgres_url) as mine, SqlLedger(postgres_url) as yours:
        one, other = [await each.begin_run("run", "plan 1") for each in (mine, yours)]
        plan = [(1,), (2,), (3,)]
        infos = await one_after_the_other(
            commits, postgres_url, lambda: one.plan(plan), lambda: other.plan(plan)
        )
        assert [info.planned_batches for info in infos] == [3, 3]
        assert (await one.counts()).batches == {BatchState.PLANNED: 3}
