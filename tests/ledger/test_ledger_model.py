"""Long random lives of ledgers: each kind does what a model of a page does, and all do the same."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from anyio.from_thread import start_blocking_portal
from attrs import define, field
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from annolab_async import LedgerError
from annolab_async._batch_records import FIRST_SPLIT_NUMBER, NEXT_STATES
from annolab_async.ledger import BatchRecord, BatchState, MemoryLedger
from annolab_async.ledger._sql import SqlLedger
from tests.depth import examples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from annolab_async.ledger import Ledger, LedgerRun

pytestmark = pytest.mark.sockets

P, S = BatchState.PLANNED, BatchState.SENDING
OWNERS = st.sampled_from(["ann", "bob", "eve"])
LEASES = st.sampled_from([0, 3600])  # out at once, or never
PLAN = [(10, 11, 12), (20, 21), (30,), (40, 41, 42, 43), (50,), (60, 61)]


@define
class Row:
    """A batch, as simply as it can be said."""

    source_ids: tuple[int, ...]
    state: BatchState = P
    version: int = 0
    owner: str | None = None
    job_id: int | None = None
    attempts: int = 0
    error: str | None = None
    parent: int | None = None
    past: list[tuple[BatchState, BatchState, str]] = field(factory=list)

    def go(
        self, to: BatchState, owner: str, *, job_id: int | None = None, error: str | None = None
    ) -> None:
        self.past.append((self.state, to, owner))
        if to in {P, S}:
            self.job_id = None
        self.job_id = job_id or self.job_id
        self.state, self.version = to, self.version + 1
        self.owner = owner if to in {S, BatchState.SUBMITTED} else None
        self.attempts += to is S
        self.error = error


def seen(record: BatchRecord) -> tuple[object, ...]:
    return (
        record.source_ids,
        record.state,
        record.version,
        record.owner,
        record.inference_job_id,
        record.attempts,
        bool(record.error),
        record.parent,
    )


def expected(row: Row) -> tuple[object, ...]:
    return (
        row.source_ids,
        row.state,
        row.version,
        row.owner,
        row.job_id,
        row.attempts,
        bool(row.error),
        row.parent,
    )


class LedgerLife(RuleBasedStateMachine):
    makers: ClassVar[list[Callable[[], Ledger]]]
    names: ClassVar[Iterator[str]]

    def __init__(self) -> None:
        super().__init__()
        self.portal_manager = start_blocking_portal()
        self.portal = self.portal_manager.__enter__()
        self.name = next(self.names)
        self.rows: dict[int, Row] = {}
        self.alive: set[str] = set()
        self.records: list[BatchRecord] = []
        self.open()

    def open(self) -> None:
        self.ledger = self.makers[0]()
        self.portal.call(self.ledger.__aenter__)
        self.run: LedgerRun = self.portal.call(self.ledger.begin_run, self.name, "plan")

    def teardown(self) -> None:
        self.portal.call(self.ledger.__aexit__, None, None, None)
        self.portal_manager.__exit__(None, None, None)

    def ask(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        async def call() -> Any:
            return await function(*arguments, **options)

        return self.portal.call(call)

    @initialize(count=st.integers(0, len(PLAN)))
    def plan_some(self, count: int) -> None:
        self.ask(self.run.plan, PLAN[:0]) if not count else None
        self.planned = count
        if count:
            self.ask(self.run.plan, PLAN[:count])
        self.rows = {number: Row(ids) for number, ids in enumerate(PLAN[:count], 1)}

    @rule(count=st.integers(0, len(PLAN)))
    def plan_again(self, count: int) -> None:
        if count == self.planned:
            self.ask(self.run.plan, PLAN[:count])
        else:
            with pytest.raises(LedgerError):
                self.ask(self.run.plan, PLAN[:count])

    @rule(owner=OWNERS, limit=st.integers(0, 3), lease=LEASES)
    def claim(self, owner: str, limit: int, lease: int) -> None:
        claimed = self.ask(self.run.claim, owner, limit=limit, lease_seconds=lease)
        self.lease(owner, lease)
        free = sorted(number for number, row in self.rows.items() if row.state is P)[:limit]
        for number in free:
            self.rows[number].go(S, owner)
        self.check(claimed, free)

    @precondition(lambda self: self.records)
    @rule(
        data=st.data(),
        to=st.sampled_from(BatchState),
        owner=OWNERS,
        job_id=st.none() | st.integers(1, 3),
        error=st.none() | st.just("bad"),
    )
    def change(
        self, data: st.DataObject, to: BatchState, owner: str, job_id: int | None, error: str | None
    ) -> None:
        # Of all records that were ever seen, most are out of date.
        record = data.draw(st.sampled_from(self.records))
        arguments = {"owner": owner, "inference_job_id": job_id, "error": error}
        needs_id = to is BatchState.SUBMITTED and not (job_id or record.inference_job_id)
        if to not in NEXT_STATES[record.state] or needs_id:
            with pytest.raises(ValueError, match=f"Batch {record.number} "):
                self.ask(self.run.change, record, to, **arguments)
            return
        after = self.ask(self.run.change, record, to, **arguments)
        row = self.rows[record.number]
        if row.version == record.version and row.owner in {None, owner}:
            kept = row.error if to is BatchState.SPLIT else None
            row.go(to, owner, job_id=None if to in {P, S} else job_id, error=error or kept)
            self.check([after], [record.number])
        else:
            assert after is None

    @precondition(lambda self: self.records)
    @rule(data=st.data(), owner=OWNERS)
    def split(self, data: st.DataObject, owner: str) -> None:
        record = data.draw(st.sampled_from(self.records))
        parts = [record.source_ids[:1], record.source_ids[1:]]
        if record.state is not BatchState.ERRORED or not parts[1]:
            with pytest.raises(ValueError, match=f"(?i)batch {record.number} "):
                self.ask(self.run.split, record, parts, owner=owner)
            return
        new = self.ask(self.run.split, record, parts, owner=owner)
        row = self.rows[record.number]
        if row.version != record.version:
            assert new is None
            return
        row.go(BatchState.SPLIT, owner, error=row.error)
        first = max([*self.rows, FIRST_SPLIT_NUMBER - 1]) + 1
        self.rows |= {
            number: Row(part, parent=record.number) for number, part in enumerate(parts, first)
        }
        self.check(new, [first, first + 1])

    @rule(owner=OWNERS, lease=LEASES)
    def renew(self, owner: str, lease: int) -> None:
        assert self.ask(self.run.renew, owner, lease_seconds=lease) is (owner in self.alive)
        self.lease(owner, lease)

    @rule(owner=OWNERS)
    def release(self, owner: str) -> None:
        self.ask(self.run.release, owner)
        self.alive.discard(owner)

    @rule(owner=OWNERS, limit=st.integers(0, 3), lease=LEASES, of=st.sets(OWNERS, max_size=1))
    def take_over(self, owner: str, limit: int, lease: int, of: set[str]) -> None:
        taken = self.ask(self.run.take_over, owner, limit=limit, lease_seconds=lease, of=of)
        self.lease(owner, lease)
        self.alive -= of - {owner}
        left = sorted(
            number
            for number, row in self.rows.items()
            if row.owner is not None and row.owner not in self.alive | {owner}
        )[:limit]
        for number in left:
            row = self.rows[number]
            if row.state is S:
                row.go(BatchState.UNKNOWN, owner, error="gone")
            else:
                row.go(BatchState.SUBMITTED, owner)
        self.check(taken, left)

    @rule()
    def open_again(self) -> None:
        if isinstance(self.ledger, SqlLedger):
            self.portal.call(self.ledger.__aexit__, None, None, None)
            self.open()

    def lease(self, owner: str, seconds: int) -> None:
        if seconds:
            self.alive.add(owner)
        else:
            self.alive.discard(owner)

    def check(self, records: list[BatchRecord], numbers: list[int]) -> None:
        assert [record.number for record in records] == numbers
        assert [seen(record) for record in records] == [expected(self.rows[n]) for n in numbers]
        self.records.extend(records)

    @invariant()
    def all_is_as_in_the_model(self) -> None:
        async def read() -> list[BatchRecord]:
            return [record async for record in self.run.batches()]

        records = self.portal.call(read)
        assert {r.number: seen(r) for r in records} == {
            number: expected(row) for number, row in self.rows.items()
        }
        assert [record.number for record in records] == sorted(self.rows)
        counts = self.ask(self.run.counts)
        states = [row.state for row in self.rows.values()]
        assert counts.batches == {state: states.count(state) for state in set(states)}
        assert counts.sources == {
            state: sum(len(r.source_ids) for r in self.rows.values() if r.state is state)
            for state in set(states)
        }
        for number, row in self.rows.items():
            history = self.ask(self.run.history, number)
            assert [(e.previous, e.state, e.owner) for e in history] == row.past
            assert [e.version for e in history] == list(range(1, row.version + 1))


def live(make_ledger: Callable[[], Ledger], times: int) -> None:
    class Life(LedgerLife):
        makers: ClassVar = [make_ledger]
        names: ClassVar = map(str, itertools.count())

    case = Life.TestCase
    case.settings = settings(
        deadline=None,
        max_examples=examples(times),
        stateful_step_count=25,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    case().runTest()


@pytest.mark.chance
def test_in_memory() -> None:
    live(MemoryLedger, 60)


@pytest.mark.chance
def test_in_sqlite(path: Path) -> None:
    live(lambda: SqlLedger(f"sqlite:///{path}"), 15)


@pytest.mark.chance
def test_in_postgresql(postgres_url: str) -> None:
    live(lambda: SqlLedger(postgres_url), 10)
