"""A process that dies at a chosen boundary between its ledger and the service, without a process.

From the crash on, nothing that the dead still want to do has any effect: what cleans up cannot reach the ledger, nor
the service. That is all that anybody else could see of a process killed at that point.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

import httpx

from annolab_async import AsyncInferenceClient, BatchState, RetryPolicy
from tests.service import BASE_URL, KEY

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Iterable, Iterator, Sequence
    from types import TracebackType

    from annolab_async import BatchRecord
    from annolab_async.emulator import Emulator
    from annolab_async.ledger import BatchChange, Ledger, LedgerCounts, LedgerRun, RunInfo


class Crash(BaseException):
    """Nothing catches it."""


class Boundaries:
    """Where a process passes by, and where it dies.

    Attributes:
        passed: how often it came to which boundary.
        is_dead: whether it has died.
    """

    def __init__(self, crash_at: tuple[str, int] | None = None) -> None:
        self.passed: Counter[str] = Counter()
        self.is_dead = False
        self._crash_at = crash_at

    def reach(self, boundary: str) -> None:
        """Come to a boundary, and perhaps no further."""
        if not self.is_dead:
            self.passed[boundary] += 1
            self.is_dead = self._crash_at == (boundary, self.passed[boundary])
        if self.is_dead:
            raise Crash(boundary)


class CrashingLedger:
    """A ledger before and after each of whose transactions a process can die."""

    def __init__(self, inner: Ledger, boundaries: Boundaries) -> None:
        self._inner = inner
        self._boundaries = boundaries

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._inner.__aexit__(exc_type, exc_value, traceback)

    async def begin_run(self, name: str, fingerprint: str, *, details: str = "") -> CrashingRun:
        self._boundaries.reach("before begin_run")
        run = await self._inner.begin_run(name, fingerprint, details=details)
        self._boundaries.reach("after begin_run")
        return CrashingRun(run, self._boundaries)

    async def runs(self) -> Sequence[RunInfo]:
        return await self._inner.runs()


class CrashingRun:
    """A run in such a ledger."""

    def __init__(self, inner: LedgerRun, boundaries: Boundaries) -> None:
        self._inner = inner
        self._boundaries = boundaries

    @property
    def info(self) -> RunInfo:
        return self._inner.info

    @asynccontextmanager
    async def _step(self, name: str) -> AsyncGenerator[None]:
        self._boundaries.reach(f"before {name}")
        yield
        self._boundaries.reach(f"after {name}")

    async def plan(
        self, batches: Iterable[Sequence[int]] | AsyncIterable[Sequence[int]], *, after: int = 0
    ) -> RunInfo:
        assert not isinstance(batches, AsyncIterable), "no plan here is streamed"

        def one_by_one() -> Iterator[Sequence[int]]:
            for batch in batches:
                self._boundaries.reach("within plan")
                yield batch

        async with self._step("plan"):
            return await self._inner.plan(one_by_one(), after=after)

    async def claim(self, owner: str, *, limit: int, lease_seconds: float) -> Sequence[BatchRecord]:
        async with self._step("claim"):
            return await self._inner.claim(owner, limit=limit, lease_seconds=lease_seconds)

    async def change(
        self, record: BatchRecord, to: BatchState, *, owner: str, **news: Any
    ) -> BatchRecord | None:
        async with self._step(f"change from {record.state} to {to}"):
            return await self._inner.change(record, to, owner=owner, **news)

    async def split(
        self, record: BatchRecord, parts: Sequence[Sequence[int]], *, owner: str
    ) -> Sequence[BatchRecord] | None:
        async with self._step("split"):
            return await self._inner.split(record, parts, owner=owner)

    async def renew(self, owner: str, *, lease_seconds: float) -> bool:
        async with self._step("renew"):
            return await self._inner.renew(owner, lease_seconds=lease_seconds)

    async def release(self, owner: str) -> None:
        async with self._step("release"):
            await self._inner.release(owner)

    async def take_over(
        self, owner: str, *, limit: int, lease_seconds: float, of: Collection[str] = ()
    ) -> Sequence[BatchRecord]:
        async with self._step("take_over"):
            return await self._inner.take_over(
                owner, limit=limit, lease_seconds=lease_seconds, of=of
            )

    async def get(self, number: int) -> BatchRecord | None:
        async with self._step("get"):
            return await self._inner.get(number)

    async def batches(
        self,
        *,
        states: Collection[BatchState] | None = None,
        after: int | None = None,
        limit: int | None = None,
    ) -> AsyncGenerator[BatchRecord]:
        async with self._step("batches"):
            pages = self._inner.batches(states=states, after=after, limit=limit)
            read = [record async for record in pages]
        for record in read:
            yield record

    async def counts(self) -> LedgerCounts:
        async with self._step("counts"):
            return await self._inner.counts()

    async def history(self, number: int) -> Sequence[BatchChange]:
        return await self._inner.history(number)

    async def changes(self) -> AsyncGenerator[BatchChange]:
        async for change in self._inner.changes():
            yield change


class CrashingTransport(httpx.AsyncBaseTransport):
    """The way to an emulator in the same process: it tells of each step as a real one does, and can end at each.

    Args:
        emulator: where it leads.
        boundaries: where it can end.
        refused: a source for whose sake the service refuses batches.
    """

    def __init__(self, emulator: Emulator, boundaries: Boundaries, *, refused: int) -> None:
        self._inner = httpx.ASGITransport(app=emulator.app)
        self._boundaries = boundaries
        self._refused = refused

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        async def tell(event: str) -> None:
            if trace := request.extensions.get("trace"):
                await trace(event, {})

        self._boundaries.reach(f"before {request.method}")
        await tell("connection.connect_tcp.started")
        await tell("connection.connect_tcp.complete")
        self._boundaries.reach(f"{request.method} connected")
        await tell("http11.send_request_headers.started")
        self._boundaries.reach(f"{request.method} first byte")
        if request.method == "POST" and self._refused in json.loads(request.content)["sourceIds"]:
            response = httpx.Response(400, json={"message": f"no source {self._refused}"})
        else:
            response = await self._inner.handle_async_request(request)
        self._boundaries.reach(f"{request.method} answered")
        return response


@asynccontextmanager
async def a_client(
    emulator: Emulator, boundaries: Boundaries, *, refused: int
) -> AsyncGenerator[AsyncInferenceClient]:
    transport = CrashingTransport(emulator, boundaries, refused=refused)
    async with (
        httpx.AsyncClient(transport=transport) as http_client,
        AsyncInferenceClient(
            KEY,
            base_url=BASE_URL,
            http_client=http_client,
            retry=RetryPolicy(first=0.05, cap=0.1),
        ) as client,
    ):
        yield client


def in_state(records: Iterable[BatchRecord], state: BatchState) -> int:
    return sum(record.state is state for record in records)
