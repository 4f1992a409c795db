"""A ledger that lives and dies with its process."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterable
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from heapq import heappop, heappush
from itertools import chain, islice
from typing import TYPE_CHECKING, Final, Self

from anyio.lowlevel import checkpoint
from attrs import evolve

from annolab_async._batch_records import (
    FIRST_SPLIT_NUMBER,
    BatchRecord,
    BatchState,
    changed,
    history_entry,
    split_parts,
)
from annolab_async.ledger._plan import (
    SENDER_IS_GONE,
    chunks,
    other_plan,
    other_sources,
    too_few,
)
from annolab_async.ledger._protocol import LedgerCounts, RunInfo

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        Callable,
        Collection,
        Iterable,
        Iterator,
        Sequence,
    )
    from types import TracebackType

    from annolab_async._batch_records import BatchChange

__all__ = ["MemoryLedger", "MemoryRun"]

_NAME: Final = "in memory"
_PAGE: Final = 500


class MemoryLedger:
    """A ledger in memory: for runs that need not outlive their process, and for tests.

    Args:
        clock: the time in seconds since 1970, by which leases run out and records are dated.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._runs: dict[str, MemoryRun] = {}

    def __repr__(self) -> str:
        return f"<MemoryLedger with {len(self._runs)} runs>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    async def begin_run(self, name: str, fingerprint: str, *, details: str = "") -> MemoryRun:
        """Begin a run, or go on with the one of that name; see :meth:`Ledger.begin_run`."""
        await checkpoint()
        run = self._runs.get(name)
        if run is None:
            info = RunInfo(
                name=name,
                fingerprint=fingerprint,
                details=details,
                created_at=_utc(self._clock()),
                planned_batches=None,
            )
            run = self._runs[name] = MemoryRun(info, self._clock)
        elif run.info.fingerprint != fingerprint:
            raise other_plan(_NAME, name)
        return run

    async def runs(self) -> Sequence[RunInfo]:
        """Return all runs, oldest first."""
        await checkpoint()
        return [run.info for run in self._runs.values()]


class MemoryRun:
    """One run in a :class:`MemoryLedger`; see :class:`LedgerRun`."""

    def __init__(self, info: RunInfo, clock: Callable[[], float]) -> None:
        self.info = info
        self._clock = clock
        # Both are in the order of their numbers, without gaps.
        self._planned: list[BatchRecord] = []
        self._parts: list[BatchRecord] = []
        self._to_claim: list[int] = []
        self._held: dict[int, None] = {}
        self._leases: dict[str, float] = {}
        self._history: defaultdict[int, list[BatchChange]] = defaultdict(list)
        self._batches: Counter[BatchState] = Counter()
        self._sources: Counter[BatchState] = Counter()

    async def plan(
        self, batches: Iterable[Sequence[int]] | AsyncIterable[Sequence[int]], *, after: int = 0
    ) -> RunInfo:
        """Write down all batches of the plan; see :meth:`LedgerRun.plan`."""
        count = after
        async with aclosing(chunks(batches, first=after + 1)) as stream:
            async for first, chunk in stream:
                self._plan_chunk(first, chunk, may_grow=isinstance(batches, AsyncIterable))
                count = first - 1 + len(chunk)
        await checkpoint()
        if count < len(self._planned):
            raise too_few(_NAME, self.info.name, here=len(self._planned), given=count)
        self.info = evolve(self.info, planned_batches=count)
        return self.info

    def _plan_chunk(self, first: int, chunk: Sequence[tuple[int, ...]], *, may_grow: bool) -> None:
        begin = first - 1
        here = self._planned[begin : begin + len(chunk)]
        for record, source_ids in zip(here, chunk, strict=False):
            if record.source_ids != source_ids:
                raise other_sources(_NAME, self.info.name, record.number)
        if self.info.is_planned and len(here) < len(chunk):
            if not may_grow:
                raise other_plan(_NAME, self.info.name)
            self.info = evolve(self.info, planned_batches=None)
        now = _utc(self._clock())
        for number, source_ids in enumerate(chunk[len(here) :], first + len(here)):
            self._add(
                BatchRecord(
                    number=number,
                    source_ids=source_ids,
                    state=BatchState.PLANNED,
                    created_at=now,
                    updated_at=now,
                ),
                self._planned,
            )

    async def claim(self, owner: str, *, limit: int, lease_seconds: float) -> Sequence[BatchRecord]:
        """Take up PLANNED batches; see :meth:`LedgerRun.claim`."""
        await checkpoint()
        now = self._lease(owner, lease_seconds)
        claimed: list[BatchRecord] = []
        while self._to_claim and len(claimed) < limit:
            record = self._record(heappop(self._to_claim))
            if record.state is BatchState.PLANNED:  # by a change it may have gone on meanwhile
                claimed.append(self._put(record, BatchState.SENDING, now, owner))
        return claimed

    async def change(
        self,
        record: BatchRecord,
        to: BatchState,
        *,
        owner: str,
        inference_job_id: int | None = None,
        status: str | None = None,
        error: str | None = None,
        uncertainty: float | None = None,
    ) -> BatchRecord | None:
        """Bring a batch to another state; see :meth:`LedgerRun.change`."""
        await checkpoint()
        after = changed(
            record,
            to,
            at=_utc(self._clock()),
            owner=owner,
            inference_job_id=inference_job_id,
            status=status,
            error=error,
        )
        if not self._is_current(record, owner):
            return None
        self._replace(record, after, owner, uncertainty)
        return after

    async def split(
        self, record: BatchRecord, parts: Sequence[Sequence[int]], *, owner: str
    ) -> Sequence[BatchRecord] | None:
        """Put smaller batches in the place of one; see :meth:`LedgerRun.split`."""
        await checkpoint()
        now = _utc(self._clock())
        after = changed(record, BatchState.SPLIT, at=now, owner=owner)
        new = split_parts(record, parts, first_number=FIRST_SPLIT_NUMBER + len(self._parts), at=now)
        if not self._is_current(record, owner):
            return None
        self._replace(record, after, owner)
        for part in new:
            self._add(part, self._parts)
        return new

    async def renew(self, owner: str, *, lease_seconds: float) -> bool:
        """Give an owner a lease from now on; see :meth:`LedgerRun.renew`."""
        await checkpoint()
        was_valid = self._leases.get(owner, 0.0) > self._clock()
        self._lease(owner, lease_seconds)
        return was_valid

    async def release(self, owner: str) -> None:
        """End an owner's lease; see :meth:`LedgerRun.release`."""
        await checkpoint()
        self._leases.pop(owner, None)

    async def take_over(
        self, owner: str, *, limit: int, lease_seconds: float, of: Collection[str] = ()
    ) -> Sequence[BatchRecord]:
        """Take batches from owners whose lease has run out; see :meth:`LedgerRun.take_over`."""
        await checkpoint()
        now = self._lease(owner, lease_seconds)
        for gone in set(of) - {owner}:
            self._leases.pop(gone, None)
        at = self._clock()
        live = {name for name, until in self._leases.items() if until > at} | {owner}
        left = [self._record(number) for number in sorted(self._held)]
        taken: list[BatchRecord] = []
        for record in [record for record in left if record.owner not in live][:limit]:
            if record.state is BatchState.SENDING:
                after = self._put(record, BatchState.UNKNOWN, now, owner, error=SENDER_IS_GONE)
            else:
                after = self._put(record, BatchState.SUBMITTED, now, owner)
            taken.append(after)
        return taken

    async def get(self, number: int) -> BatchRecord | None:
        """Return a batch; None if there is none of that number."""
        await checkpoint()
        with suppress(IndexError):
            return self._record(number)
        return None

    async def batches(
        self,
        *,
        states: Collection[BatchState] | None = None,
        after: int | None = None,
        limit: int | None = None,
    ) -> AsyncGenerator[BatchRecord]:
        """Yield batches by their numbers; see :meth:`LedgerRun.batches`."""
        last, left = after or 0, limit
        while True:
            await checkpoint()
            page = list(
                islice(self._after(last, states), _PAGE if left is None else min(_PAGE, left))
            )
            for record in page:
                yield record
            if len(page) < _PAGE:
                return
            last = page[-1].number
            left = None if left is None else left - len(page)

    def _after(self, last: int, states: Collection[BatchState] | None) -> Iterator[BatchRecord]:
        planned = islice(self._planned, max(last, 0), None)
        parts = islice(self._parts, max(last - FIRST_SPLIT_NUMBER + 1, 0), None)
        for record in chain(planned, parts):
            if states is None or record.state in states:
                yield record

    async def counts(self) -> LedgerCounts:
        """Count batches and sources by state."""
        await checkpoint()
        return LedgerCounts(batches=dict(+self._batches), sources=dict(+self._sources))

    async def history(self, number: int) -> Sequence[BatchChange]:
        """Return every change of a batch, oldest first."""
        await checkpoint()
        return list(self._history.get(number, ()))

    async def changes(self) -> AsyncGenerator[BatchChange]:
        """Yield every change of every batch; see :meth:`LedgerRun.changes`."""
        for number in sorted(self._history):
            for change in await self.history(number):
                yield change

    def _lease(self, owner: str, seconds: float) -> datetime:
        now = self._clock()
        self._leases[owner] = now + seconds
        return _utc(now)

    def _record(self, number: int) -> BatchRecord:
        if number >= FIRST_SPLIT_NUMBER:
            return self._parts[number - FIRST_SPLIT_NUMBER]
        if number < 1:
            raise IndexError(number)
        return self._planned[number - 1]

    def _is_current(self, record: BatchRecord, owner: str) -> bool:
        current = self._record(record.number)
        return current.version == record.version and current.owner in {None, owner}

    def _put(
        self,
        record: BatchRecord,
        to: BatchState,
        at: datetime,
        owner: str,
        *,
        error: str | None = None,
    ) -> BatchRecord:
        after = changed(record, to, at=at, owner=owner, error=error)
        self._replace(record, after, owner)
        return after

    def _add(self, record: BatchRecord, to: list[BatchRecord]) -> None:
        to.append(record)
        self._count(record, 1)
        heappush(self._to_claim, record.number)

    def _replace(
        self,
        before: BatchRecord,
        after: BatchRecord,
        owner: str,
        uncertainty: float | None = None,
    ) -> None:
        number = after.number
        if number >= FIRST_SPLIT_NUMBER:
            self._parts[number - FIRST_SPLIT_NUMBER] = after
        else:
            self._planned[number - 1] = after
        self._history[number].append(history_entry(before, after, owner, uncertainty))
        self._count(before, -1)
        self._count(after, 1)
        if after.state.is_held:
            self._held[number] = None
        else:
            self._held.pop(number, None)
        if after.state is BatchState.PLANNED:
            heappush(self._to_claim, number)

    def _count(self, record: BatchRecord, by: int) -> None:
        self._batches[record.state] += by
        self._sources[record.state] += by * len(record.source_ids)


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
