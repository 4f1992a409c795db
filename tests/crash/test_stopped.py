"""Runs that are stopped at any instant: cancelled, drained, left by an exception; and what the next one finds."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest

from annolab_async import AsyncInferenceClient, BatchState
from annolab_async.emulator import Emulator, EmulatorServer
from annolab_async.ledger import MemoryLedger, open_ledger
from tests.crash.accounts import WITH_A_JOB, check_accounts
from tests.crash.outside import records_in, seed_for
from tests.crash.runner import a_plan
from tests.depth import often
from tests.service import BASE_URL, KEY, an_emulator, in_process, task_count

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from annolab_async import FanOut

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

BATCHES = 12
SOURCES = range(1, 2 * BATCHES + 1)
SUBMITS = 3
# Who is told that a run has ended in good order waits for no lease.
LEASE = 1_000_000.0


def a_ledger() -> MemoryLedger:
    return MemoryLedger(clock=lambda: 1e9 + anyio.current_time())


async def a_life(
    emulator: Emulator, ledger: MemoryLedger, *, drain_at: float | None = None, **options: Any
) -> FanOut:
    options = {
        "max_in_flight": 5,
        "max_concurrent_submits": SUBMITS,
        "lease_seconds": LEASE,
    } | options
    async with (
        in_process(emulator) as client,
        client.fan_out(a_plan(len(SOURCES), 2), ledger=ledger, **options) as run,
        anyio.create_task_group() as tasks,
    ):

        async def drain() -> None:
            await anyio.sleep(drain_at or 0.0)
            await run.drain(timeout=5.0)

        if drain_at is not None:
            tasks.start_soon(drain)
        async for _ in run:
            pass
        tasks.cancel_scope.cancel()
    return run


async def cut_off(emulator: Emulator, ledger: MemoryLedger) -> int:
    """Return how many requests were broken off; that many batches are unknown, none of them is left being sent."""
    records = await records_in(ledger, len(SOURCES), 2)
    states = [record.state for record in records]
    assert BatchState.SENDING not in states
    count = emulator.stats.submits - sum(state in WITH_A_JOB for state in states)
    assert states.count(BatchState.UNKNOWN) == count <= SUBMITS
    return count


async def finish(emulator: Emulator, ledger: MemoryLedger, *, most_unknown: int = 0) -> int:
    """Start again, and check that all ends without waiting for a lease; return how many batches are unknown."""
    began = anyio.current_time()
    await a_life(emulator, ledger)
    assert anyio.current_time() - began < LEASE
    states = check_accounts(
        await records_in(ledger, len(SOURCES), 2),
        emulator.jobs,
        SOURCES,
        most_unknown=most_unknown,
    )
    assert states.keys() <= {BatchState.FINISHED, BatchState.UNKNOWN}
    return states[BatchState.UNKNOWN]


@pytest.mark.chance
async def test_cancelled_at_any_instant_it_lets_open_requests_end_and_leaves_no_task() -> None:
    random = Random(seed_for(0))
    for number in range(often(200)):
        emulator, ledger = an_emulator(latency=0.6, workers=3, seed=number), a_ledger()
        tasks = task_count()
        with anyio.move_on_after(random.uniform(0.0, 20.0)) as scope:
            await a_life(emulator, ledger)
        assert scope.cancelled_caught
        assert task_count() == tasks
        assert await cut_off(emulator, ledger) == 0
        assert await finish(emulator, ledger) == 0


@pytest.mark.chance
async def test_cancelled_while_the_server_is_slow_only_what_is_open_is_unknown(
    record_property: Callable[..., None],
) -> None:
    random = Random(seed_for(1))
    unknown = 0
    for number in range(rounds := often(200)):
        emulator, ledger = an_emulator(latency=6.0, workers=3, seed=number), a_ledger()
        tasks = task_count()
        began = anyio.current_time()
        with anyio.move_on_after(after := random.uniform(0.0, 40.0)):
            await a_life(emulator, ledger, stop_timeout=1.0)
        assert anyio.current_time() - began < after + 1.5
        assert task_count() == tasks
        broken = await cut_off(emulator, ledger)
        assert await finish(emulator, ledger, most_unknown=broken) == broken
        unknown += broken
    record_property("figures", f"{unknown} unknown after {rounds} cancellations of a slow server")
    assert unknown > 0


@pytest.mark.chance
async def test_drained_at_any_instant_it_ends_and_the_next_one_goes_on() -> None:
    random = Random(seed_for(2))
    for number in range(often(200)):
        emulator, ledger = an_emulator(latency=0.6, workers=3, seed=number), a_ledger()
        run = await a_life(emulator, ledger, drain_at=random.uniform(0.0, 20.0))
        assert run.summary.batches[BatchState.PLANNED] > 0
        assert await cut_off(emulator, ledger) == 0
        assert await finish(emulator, ledger) == 0


@pytest.mark.parametrize("error", [ValueError("mine"), KeyError("mine"), EOFError()])
async def test_what_the_body_raises_comes_out_as_it_is(error: Exception) -> None:
    emulator, ledger = an_emulator(latency=0.6), a_ledger()
    tasks = task_count()
    with pytest.raises(type(error)) as caught:  # noqa: PT012  # it comes out of both blocks
        async with (
            in_process(emulator) as client,
            client.fan_out(a_plan(len(SOURCES), 2), ledger=ledger) as run,
        ):
            async for _ in run:
                raise error
    assert caught.value is error
    assert task_count() == tasks
    assert await finish(emulator, ledger) == 0


async def test_left_by_break_it_stops_submitting() -> None:
    emulator, ledger = an_emulator(latency=0.6), a_ledger()
    async with in_process(emulator) as client:
        async with client.fan_out(
            a_plan(len(SOURCES), 2), ledger=ledger, max_concurrent_submits=2, lease_seconds=LEASE
        ) as run:
            async for _ in run:
                break
        jobs = len(emulator.jobs)
        assert 0 < jobs <= 2 * 2
        await anyio.sleep(100)
        assert len(emulator.jobs) == jobs
    assert await finish(emulator, ledger) == 0


class RefusingTransport(httpx.AsyncBaseTransport):
    """The way to an emulator behind which some sources are not known."""

    def __init__(self, emulator: Emulator, status_code: int, first_refused: int) -> None:
        self._inner = httpx.ASGITransport(app=emulator.app)
        self._status_code = status_code
        self._first_refused = first_refused

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            source_ids = json.loads(request.content)["sourceIds"]
            if max(source_ids) >= self._first_refused:
                return httpx.Response(self._status_code, json={"message": f"no {source_ids}"})
        return await self._inner.handle_async_request(request)


@pytest.mark.parametrize("status_code", [400, 404])
async def test_a_second_start_ends_also_if_all_that_is_left_is_refused(status_code: int) -> None:
    emulator, ledger = an_emulator(), a_ledger()
    transport = RefusingTransport(emulator, status_code, first_refused=9)
    async with (
        httpx.AsyncClient(transport=transport) as http_client,
        AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=http_client) as client,
    ):

        def a_run() -> FanOut:
            return client.fan_out(
                a_plan(len(SOURCES), 2), ledger=ledger, max_in_flight=4, lease_seconds=LEASE
            )

        async with a_run() as first:
            async for record in first:
                if record.state is BatchState.FINISHED:
                    break
        async with a_run() as second:
            async for _ in second:
                pass
    assert second.failed_source_ids() == [*SOURCES][8:]
    assert second.summary.batches == {
        BatchState.FINISHED: 4,
        BatchState.ERRORED: BATCHES - 4,
    }


@pytest.mark.chance
@pytest.mark.sockets
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_cancelled_by_asyncio_itself_again_and_again_it_forgets_no_job(
    tmp_path: Path,
) -> None:
    emulator = Emulator(api_key=KEY, base_seconds=0.01, seconds_per_source=0.0, latency=0.05)
    random = Random(seed_for(3))
    path, sources, submits = tmp_path / "run.db", 80, 2
    lives = 2 + often(40)

    async def live(base_url: str) -> None:
        async with (
            AsyncInferenceClient(KEY, base_url=base_url) as client,
            client.fan_out(
                a_plan(sources, 2),
                ledger=str(path),
                max_concurrent_submits=submits,
                # It may be all that tells that a life is over: its process goes on.
                lease_seconds=1.0,
            ) as run,
        ):
            async for _ in run:
                pass

    async with EmulatorServer(emulator) as server:
        for _ in range(lives):
            task = asyncio.create_task(live(server.base_url))
            # Asyncio's own cancellation breaks through every shield, each time once.
            for _ in range(3):
                await anyio.sleep(random.uniform(0.0, 0.2))
                task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await live(server.base_url)
    states = check_accounts(
        await records_in(open_ledger(path), sources, 2),
        emulator.jobs,
        range(1, sources + 1),
        most_unknown=lives * submits,
    )
    assert states.keys() <= {BatchState.FINISHED, BatchState.UNKNOWN}
