"""Leaving a watcher's block, in every way that there is: polling stops, nothing stays behind, nothing is swallowed."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import pytest

from annolab_async import AsyncInferenceClient, FixedInterval, InferenceWatcher, NotOpen
from annolab_async.emulator import Emulator, EmulatorServer
from tests.service import KEY, a_request, an_emulator, in_process, submit_many, task_count

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = pytest.mark.anyio

EVERY_SECOND = FixedInterval(1.0)


class OurError(Exception):
    """Raised by the consumer."""


@asynccontextmanager
async def nothing_stays(emulator: Emulator) -> AsyncGenerator[AsyncInferenceClient]:
    """Check that after the block no task is left, nothing is polled, and the client still works."""
    async with in_process(emulator) as client:
        before = task_count()
        yield client
        assert task_count() == before
        assert emulator.stats.in_flight == 0
        polls = emulator.stats.polls
        await anyio.sleep(1000)
        assert emulator.stats.polls == polls
        job = await client.wait(await client.submit(a_request()))
        assert job.is_terminal


async def test_break() -> None:
    async with nothing_stays(an_emulator(latency=0.5)) as client:
        jobs = await submit_many(client, 30)
        async with client.watch(jobs, schedule=EVERY_SECOND) as watcher:
            async for _ in watcher:
                break
            assert watcher.stats.in_flight > 0
        assert watcher.stats.in_flight == 0


async def test_iteration_can_be_taken_up_again_after_a_break() -> None:
    async with nothing_stays(an_emulator()) as client:
        jobs = await submit_many(client, 3)
        async with client.watch(jobs) as watcher:
            async for _ in watcher:
                break
            rest = [transition async for transition in watcher]
    assert sum(transition.outcome is not None for transition in rest) == 3


async def test_an_exception_arrives_plain_and_itself() -> None:
    ours = OurError()
    async with nothing_stays(an_emulator(latency=0.5)) as client:
        jobs = await submit_many(client, 30)
        with pytest.raises(OurError) as caught:  # noqa: PT012  # leaving the block is what is tested
            async with client.watch(jobs, schedule=EVERY_SECOND) as watcher:
                async for _ in watcher:
                    raise ours
        assert caught.value is ours
        assert ours.__context__ is None


async def test_an_exception_arrives_even_if_a_cancellation_is_pending() -> None:
    async with nothing_stays(an_emulator(latency=0.5)) as client:
        jobs = await submit_many(client, 30)
        # Outside of the scope, which would swallow a cancellation that took the error's place.
        with pytest.raises(OurError), anyio.CancelScope() as scope:  # noqa: PT012
            async with client.watch(jobs, schedule=EVERY_SECOND) as watcher:
                async for _ in watcher:
                    scope.cancel()
                    raise OurError


async def test_an_outer_cancellation_is_not_swallowed() -> None:
    async with nothing_stays(an_emulator(latency=0.5)) as client:
        jobs = await submit_many(client, 30)
        with anyio.move_on_after(5.2) as scope:
            async with client.watch(jobs, schedule=EVERY_SECOND) as watcher:
                async for _ in watcher:
                    pass
            raise AssertionError("this is never reached")
        assert scope.cancelled_caught
        assert anyio.current_time() % 1 == pytest.approx(0.2), "polling stopped at once"


async def test_a_cancelled_iteration_takes_nothing_from_what_waits() -> None:
    async with nothing_stays(an_emulator()) as client:
        jobs = await submit_many(client, 30)
        async with client.watch(jobs, schedule=EVERY_SECOND) as watcher:
            await anyio.sleep(5)
            with anyio.CancelScope() as scope:
                scope.cancel()
                async for _ in watcher:
                    raise AssertionError("this is never reached")
            first_sights = [await anext(watcher) for _ in jobs]
    assert all(transition.previous is None for transition in first_sights)


async def test_a_cancellation_in_a_task_group_takes_only_the_one_who_is_cancelled() -> None:
    async with nothing_stays(an_emulator()) as client:
        jobs = await submit_many(client, 20)
        ended = 0
        async with (
            client.watch(jobs, keep_open=True) as watcher,
            anyio.create_task_group() as tasks,
        ):

            async def wait_in_vain() -> None:
                with anyio.move_on_after(1):
                    await watcher.wait(20)

            tasks.start_soon(wait_in_vain)
            async for transition in watcher:
                ended += transition.outcome is not None
                if ended == 20:
                    break


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancelled_asyncio_task_ends_cancelled() -> None:
    emulator = an_emulator()
    async with in_process(emulator) as client:
        jobs = await submit_many(client, 30)

        async def consume() -> None:
            async with client.watch(jobs, schedule=FixedInterval(0.01)) as watcher:
                async for _ in watcher:
                    began.set()

        began = asyncio.Event()
        task = asyncio.create_task(consume())
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(asyncio.all_tasks()) == task_count()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(consume(), 0.05)
        assert (await client.get_job(1)).inference_job_id == 1


async def test_those_who_wait_outside_of_the_block_are_told_when_it_is_left() -> None:
    async with nothing_stays(an_emulator()) as client:
        job = await client.submit(a_request())
        async with anyio.create_task_group() as tasks, client.watch([job]) as watcher:

            async def wait() -> None:
                with pytest.raises(NotOpen, match="async with"):
                    await watcher.wait(job)

            async def iterate() -> None:
                with pytest.raises(NotOpen, match="async with"):
                    _ = [transition async for transition in watcher]

            tasks.start_soon(wait)
            tasks.start_soon(iterate)
            await anyio.sleep(1)
        with pytest.raises(NotOpen):
            watcher.add(2)


async def test_a_watcher_outside_of_its_block_says_so() -> None:
    async with in_process(an_emulator()) as client:
        job = await client.submit(a_request())
        watcher = InferenceWatcher(client, [job])
        with pytest.raises(NotOpen, match="async with InferenceWatcher"):
            await anext(watcher)
        with pytest.raises(NotOpen, match="async with InferenceWatcher"):
            watcher.add(2)
        with pytest.raises(NotOpen, match="async with InferenceWatcher"):
            await watcher.wait(job)


async def test_a_client_closed_under_its_watcher_is_an_error_and_no_hang() -> None:
    client = AsyncInferenceClient(KEY, base_url="http://localhost")
    async with client.watch([1]) as watcher:
        with pytest.raises(NotOpen, match="async with AsyncInferenceClient"):
            await anext(watcher)
    with pytest.raises(NotOpen, match="async with AsyncInferenceClient"):
        await client.submit(a_request())
    async with in_process(an_emulator()) as client:
        job = await client.submit(a_request())
    with pytest.raises(NotOpen, match="async with AsyncInferenceClient"):
        await client.get_job(job)


@pytest.mark.sockets
async def test_over_sockets_no_connection_is_left_in_use_and_the_client_goes_on() -> None:
    emulator = Emulator(api_key=KEY, base_seconds=0.2, seconds_per_source=0.0, latency=0.05)
    async with (
        EmulatorServer(emulator) as server,
        AsyncInferenceClient(KEY, base_url=server.base_url, max_connections=16) as client,
    ):
        jobs = await submit_many(client, 40)
        for _ in range(5):
            async with client.watch(jobs, schedule=FixedInterval(0.01)) as watcher:
                async for _ in watcher:
                    break
        # More than there are connections: had one been lost at each leaving, this would hang.
        async with client.watch(jobs, schedule=FixedInterval(0.05)) as watcher:
            ends = [seen async for seen in watcher if seen.outcome]
        assert len(ends) == 40
