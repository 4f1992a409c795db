"""Nothing grows, however much is cancelled; and of a watcher that is left, in whatever way, nothing stays."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final
from weakref import ref

import anyio
import pytest
from anyio.lowlevel import checkpoint

from annolab_async import FixedInterval, NotOpen
from annolab_async.testing import virtual_backend
from tests.depth import often
from tests.faults.chaos import by_request, chaos, stall
from tests.faults.kinds import Stepped
from tests.faults.rounds import AT_ONCE, ROUNDS
from tests.service import a_request, an_emulator, in_process, submit_many, task_count

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator

    from annolab_async import InferenceWatcher, Transition
    from tests.faults.chaos import Request, Script

    Leave = Callable[[InferenceWatcher, Random], Awaitable[None]]

pytestmark = pytest.mark.anyio

SEED: Final = 4
TIMES: Final = often(500)
MB: Final = 2**20
EVERY_SECOND: Final = FixedInterval(1.0)


def nothing_or_half(request: Request) -> Script:
    if len(request.line) % 2:
        return stall()
    return stall(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"inference')


@pytest.mark.full
@pytest.mark.chance
@pytest.mark.sockets
@pytest.mark.parametrize("transport", ["httpx", "aiohttp"])
async def test_memory_and_descriptors_do_not_grow_with_cancellations(
    transport: str, anyio_backend_name: str
) -> None:
    program = "tests.faults.rounds"
    with chaos(by_request(nothing_or_half)) as server:
        ended = await anyio.run_process(
            [sys.executable, "-m", program, anyio_backend_name, transport, server.base_url],
            cwd=Path(__file__).parents[2],
            check=False,
        )
    assert ended.returncode == 0, ended.stderr.decode()[-2000:]
    found = json.loads(ended.stdout)
    assert found["cancelled"] == ROUNDS * AT_ONCE
    growth = found["growth"]
    assert growth["bytes"] < 2 * MB
    assert growth["descriptors"] <= 0
    assert growth["tasks"] == 0


class OurError(Exception):
    """Raised by who watches."""


@contextmanager
def no_message(backend: str) -> Generator[None]:
    """Check that the event loop has nothing to tell, such as of a task whose exception nobody took."""
    messages: list[object] = []
    if backend == "asyncio":
        loop = asyncio.get_running_loop()
        before = loop.get_exception_handler()
        loop.set_exception_handler(lambda _, context: messages.append(context))
        yield
        gc.collect()
        loop.set_exception_handler(before)
    else:  # trio has no handler: it warns, and warnings are errors here
        yield
        gc.collect()
    assert not messages


async def leave_many_times(backend: str, leave: Leave) -> Counter[str]:
    """Watch jobs again and again, and leave each time; return what was raised.

    Each time there is a job more, and of the last few that are watched some end meanwhile.
    """
    random = Random(SEED)
    raised: Counter[str] = Counter()
    watchers: list[ref[InferenceWatcher]] = []
    watcher = None
    emulator = an_emulator(latency=0.3)
    async with in_process(emulator) as client:
        jobs = await submit_many(client, 3)
        tasks = task_count()
        with no_message(backend):
            for number in range(TIMES):
                jobs = [*jobs[-3:], await client.submit(a_request())]
                watcher = client.watch(jobs, schedule=EVERY_SECOND, max_concurrent_polls=2)
                watchers.append(ref(watcher))
                try:
                    await leave(watcher, random)
                except BaseException as error:  # noqa: BLE001  # counted
                    raised[type(error).__name__] += 1
                assert task_count() == tasks, f"seed {SEED}, the {number}th time"
                assert emulator.stats.in_flight == 0
                assert watcher.stats.in_flight == 0
            watcher = None
            gc.collect()
            assert not [watcher for watcher in watchers if watcher()]
        assert (await client.wait(jobs[-1])).is_terminal
    return raised


async def take_some(watcher: InferenceWatcher, random: Random) -> None:
    """Iterate for some time: until something has happened, or until something after that."""
    left = random.randrange(8)
    async for _ in watcher:
        left -= 1
        if left < 0:
            break
    await anyio.sleep(random.choice([0.0, random.uniform(0.0, 2.0)]))


@pytest.mark.chance
async def test_a_break_leaves_nothing(anyio_backend_name: str) -> None:
    async def leave(watcher: InferenceWatcher, random: Random) -> None:
        async with watcher:
            await take_some(watcher, random)

    assert not await leave_many_times(anyio_backend_name, leave)


@pytest.mark.chance
async def test_an_exception_leaves_nothing_and_arrives_plain(anyio_backend_name: str) -> None:
    async def leave(watcher: InferenceWatcher, random: Random) -> None:
        async with watcher:
            await take_some(watcher, random)
            raise OurError

    assert await leave_many_times(anyio_backend_name, leave) == {"OurError": TIMES}


@pytest.mark.chance
async def test_an_exception_past_others_who_watch_leaves_nothing_and_arrives_plain(
    anyio_backend_name: str,
) -> None:
    async def leave(watcher: InferenceWatcher, random: Random) -> None:
        ours: OurError | None = None

        async def take_all() -> None:
            with suppress(NotOpen):
                async for _ in watcher:
                    pass

        async def wait(job_id: int) -> None:
            with suppress(NotOpen):
                await watcher.wait(job_id)

        # Outside of the block, so that it is the leaving that ends them.
        async with anyio.create_task_group() as tasks:
            try:
                async with watcher:
                    tasks.start_soon(wait, (await anext(watcher)).inference_job_id)
                    tasks.start_soon(take_all)
                    await anyio.sleep(random.uniform(0.0, 4.0))
                    raise OurError  # noqa: TRY301  # leaving the block is what is tested
            except OurError as error:
                ours = error
        assert ours
        raise ours

    assert await leave_many_times(anyio_backend_name, leave) == {"OurError": TIMES}


@pytest.mark.chance
@pytest.mark.parametrize("by_its_task", [False, True])
async def test_a_cancellation_at_any_point_leaves_nothing_and_arrives(
    anyio_backend_name: str, *, by_its_task: bool
) -> None:
    if by_its_task and anyio_backend_name == "trio":
        pytest.skip("on trio there are scopes only")
    went_by = 0

    async def watch(watcher: InferenceWatcher, random: Random) -> None:
        nonlocal went_by
        async with watcher:
            await take_some(watcher, random)
            await anyio.sleep(1)
        went_by += 1

    async def leave(watcher: InferenceWatcher, random: Random) -> None:
        at = {random.randrange(1, 8)}
        if not by_its_task:
            with anyio.CancelScope() as scope:
                await Stepped(watch(watcher, random), scope.cancel, at)
            return
        task = asyncio.current_task()
        assert task
        try:
            await Stepped(watch(watcher, random), task.cancel, at)
        finally:
            while task.cancelling():
                task.uncancel()

    raised = await leave_many_times(anyio_backend_name, leave)
    assert raised == ({"CancelledError": TIMES - went_by} if by_its_task else {})
    assert went_by < TIMES / 2, "else this shows little"


async def test_an_iterator_that_is_dropped_takes_nothing_with_it(anyio_backend_name: str) -> None:
    async def leave(watcher: InferenceWatcher, random: Random) -> None:
        async with watcher:
            seen: list[Transition] = []
            for _ in range(2):
                iterator = aiter(watcher)
                seen.append(await anext(iterator))
                del iterator
            if random.random() < 0.02:
                gc.collect()
            seen += [await anext(watcher) for _ in range(2)]
            assert len({transition.inference_job_id for transition in seen}) == 4

    assert not await leave_many_times(anyio_backend_name, leave)


@pytest.mark.parametrize("anyio_backend", [virtual_backend("asyncio")], ids=["asyncio"])
async def test_a_generator_around_an_iterator_may_be_dropped_without_being_closed(
    anyio_backend_name: str,
) -> None:
    # Not on trio, which warns of every generator that is.
    async def states(watcher: InferenceWatcher) -> AsyncGenerator[Transition]:
        async for transition in watcher:
            yield transition

    async def leave(watcher: InferenceWatcher, random: Random) -> None:
        async with watcher:
            for _ in range(random.randrange(1, 4)):
                async for _ in states(watcher):
                    break
                await checkpoint()  # it is closed in a task of its own

    assert not await leave_many_times(anyio_backend_name, leave)


async def test_a_watcher_may_be_dropped_without_being_entered(anyio_backend_name: str) -> None:
    async def leave(watcher: InferenceWatcher, random: Random) -> None:
        pass

    assert not await leave_many_times(anyio_backend_name, leave)
