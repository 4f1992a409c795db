"""Calls that are cancelled at any point: what may have been sent is said, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import time
from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any, Final, Literal

import anyio
import pytest
from anyio.lowlevel import checkpoint
from attrs import define, field, frozen

from annolab_async import AsyncInferenceClient, InferenceJob, SubmissionUnknown
from tests.depth import IS_THOROUGH, often
from tests.faults.chaos import answer, by_request, chaos, cut, held, reply, stall
from tests.faults.kinds import GIVEN, ONCE, OWN, Kind, Stepped, a_client, fd_count, settled_fd_count
from tests.service import KEY, a_request, task_count

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Coroutine

    from tests.faults.chaos import ChaosServer, Peer, Request, Script

    Ask = Callable[[int], Coroutine[Any, Any, InferenceJob]]

pytestmark = [pytest.mark.anyio, pytest.mark.sockets]

SEED: Final = 4
POOL: Final = 8
CALLERS: Final = 2 * POOL
# Numbers from here on are asked for at the end, when everything is to be as before.
LATER: Final = 10**6

How = Literal["by its scope", "by its task"]


def job(number: int) -> bytes:
    return reply(json.dumps({"inferenceJobId": number, "status": "Queued", "sourceIds": [number]}))


def number_of(request: Request) -> int:
    """Return what stands for a call in its request: the one source of a batch, the id of a job."""
    if request.body:
        return int(json.loads(request.body)["sourceIds"][0])
    return int(request.line.split()[1].rpartition("/")[2])


def is_lost(number: int) -> bool:
    return number < LATER and number % 10 == 0


def usual(request: Request) -> Script:
    """Answer at once, or slowly and in two parts; to some batches, not at all."""
    number = number_of(request)
    data = job(number)
    if number >= LATER:
        return held(answer(data))
    if request.body and is_lost(number):
        return cut(by="rst")
    random = Random(number)
    if random.random() < 0.4:
        return answer(data)
    at, before, between = random.randrange(1, len(data)), *(random.uniform(0, 0.002) for _ in "12")

    async def slowly(peer: Peer) -> None:
        await peer.pause(before)
        await peer.send(data[:at])
        await peer.pause(between)
        await peer.send(data[at:])

    return slowly


@define
class Fates:
    """What became of calls, by their numbers."""

    jobs: dict[int, InferenceJob] = field(factory=dict[int, InferenceJob])
    errors: dict[int, Exception] = field(factory=dict[int, Exception])
    cancelled: set[int] = field(factory=set[int])


@frozen
class Plan:
    """When to cancel a call: at points where it gives way to others, after some turns of the loop, after some time."""

    steps: Container[int] = ()
    turns: int | None = None
    seconds: float = 10.0


async def call(ask: Ask, number: int, how: How, plan: Plan) -> InferenceJob | Exception | None:
    """Ask, and be cancelled as planned; return what came of it, None if that was a cancellation."""
    has_ended = anyio.Event()
    result: InferenceJob | Exception | None = None

    async def cancel_later() -> None:
        with anyio.move_on_after(plan.seconds):
            if plan.turns is None:
                await has_ended.wait()
            for _ in range(plan.turns or 0):
                await checkpoint()
        if not has_ended.is_set():
            cancel()

    async with anyio.create_task_group() as others:
        with anyio.CancelScope() as scope:
            task = asyncio.current_task() if how == "by its task" else None
            cancel: Callable[[], object] = task.cancel if task else scope.cancel
            others.start_soon(cancel_later)
            try:
                result = await Stepped(ask(number), cancel, plan.steps)
            except Exception as error:  # noqa: BLE001  # looked at later
                result = error
            except asyncio.CancelledError:
                if not task:
                    raise
            finally:
                has_ended.set()
                while task and task.uncancel():
                    pass
    return result


async def cancelled_at_random(ask: Ask, count: int, how: How) -> Fates:
    """Make calls, 1 and so on, each of them cancelled at a random moment, or just not."""
    random = Random(SEED)
    steps, seconds = 0, 0.0
    for number in range(LATER - 9, LATER):
        began, stepped = time.monotonic(), Stepped(ask(number), int, ())
        await stepped
        steps, seconds = max(steps, stepped.steps), max(seconds, time.monotonic() - began)

    def plan() -> Plan:
        way = random.random()
        if way < 0.3:
            return Plan(seconds=random.uniform(0, 3 * seconds))
        if way < 0.6:
            return Plan(turns=int(random.expovariate(1 / 20)))
        # Waiting for a turn takes a step, too. Some are cancelled again while they hang up.
        first = random.randrange(1, steps + 3)
        return Plan(steps=[first, first + 1] if random.random() < 0.2 else [first])

    plans = [plan() for _ in range(count)]
    numbers = iter(range(1, count + 1))
    fates = Fates()

    async def go_on() -> None:
        for number in numbers:
            result = await call(ask, number, how, plans[number - 1])
            if isinstance(result, InferenceJob):
                fates.jobs[number] = result
            elif result:
                fates.errors[number] = result
            else:
                fates.cancelled.add(number)

    async with anyio.create_task_group() as tasks:
        for _ in range(CALLERS):
            tasks.start_soon(go_on)
    # Of a few calls, a busy machine may see very few at just the right moment.
    assert not IS_THOROUGH or len(fates.jobs) > count / 50, "else this shows little"
    assert not IS_THOROUGH or len(fates.cancelled) > count / 10, "else this shows little"
    return fates


async def check_that_all_slots_are_free(ask: Ask, server: ChaosServer) -> None:
    """Have as many calls under way at once as ever may be."""
    jobs: list[int] = []

    async def ask_for_one(number: int) -> None:
        jobs.append((await ask(number)).inference_job_id)

    looked_at, under_way = len(server.requests), set[int]()

    def are_under_way() -> bool:
        # Any number of those that were cancelled may come in only now, behind these.
        nonlocal looked_at
        came = server.requests[looked_at:]
        looked_at += len(came)
        under_way.update(number for request in came if (number := number_of(request)) >= LATER)
        return len(under_way) == POOL

    async with anyio.create_task_group() as tasks:
        for number in range(POOL):
            tasks.start_soon(ask_for_one, LATER + number)
        await server.until(are_under_way)
        server.gate.set()
    assert sorted(jobs) == [LATER + number for number in range(POOL)]


def warned_of(caplog: pytest.LogCaptureFixture) -> Counter[int]:
    """Return the sources of the batches of which a warning says that they may have been sent."""
    return Counter(
        source_id
        for record in caplog.records
        if record.name.startswith("annolab_async") and record.levelname == "WARNING"
        if "was cancelled after it was sent" in record.getMessage()
        for source_id in record.__dict__["source_ids"]
    )


@pytest.fixture(params=["by its scope", "by its task"])
def how(request: pytest.FixtureRequest, anyio_backend_name: str) -> How:
    if request.param == "by its task" and anyio_backend_name != "asyncio":
        pytest.skip("on trio there are scopes only")
    how: How = request.param
    return how


@pytest.fixture
def transport(request: pytest.FixtureRequest) -> Kind:
    transport: Kind = request.param
    return transport


@pytest.mark.chance
@pytest.mark.parametrize("transport", ["httpx", *GIVEN], indirect=True)
async def test_a_cancelled_batch_is_never_passed_over_in_silence_if_it_may_exist(
    transport: Kind, how: How, caplog: pytest.LogCaptureFixture
) -> None:
    count = often(2000 if how == "by its scope" else 500)
    with chaos(by_request(usual)) as server:
        fds, tasks = settled_fd_count(), task_count()
        async with a_client(transport, server, pool=POOL) as client:

            async def submit(number: int) -> InferenceJob:
                return await client.submit(a_request(number, 1))

            fates = await cancelled_at_random(submit, count, how)
            await check_that_all_slots_are_free(submit, server)
            assert task_count() == tasks
        await server.until(lambda: server.open_sockets == 0)
        await server.until(lambda: fd_count() <= fds)
        came = Counter(number_of(request) for request in server.requests)
    warned = warned_of(caplog)
    told = {
        *fates.jobs,
        *warned,
        *(number for number, error in fates.errors.items() if is_unknown(error)),
    }
    silent = {number for number in came if number <= count} - told
    assert not silent, (
        f"these came, and nobody was told (seed {SEED}, {transport}, cancelled {how})"
    )
    in_doubt = fates.cancelled & came.keys()
    assert not IS_THOROUGH or len(in_doubt) > count / 50, "else this shows little"
    assert max(came.values()) == 1, "a batch came twice"
    assert max(warned.values(), default=1) == 1, "a warning came twice"
    assert fates.jobs.keys() <= came.keys()
    assert all(job.source_ids == (number,) for number, job in fates.jobs.items())
    assert all(is_lost(number) for number in fates.errors), fates.errors
    assert all(is_unknown(error) for error in fates.errors.values()), fates.errors


def is_unknown(error: Exception) -> bool:
    return isinstance(error, SubmissionUnknown)


@pytest.mark.parametrize("transport", [*OWN, *GIVEN], indirect=True)
async def test_a_cancelled_read_harms_no_other(transport: Kind, how: How) -> None:
    with chaos(by_request(usual)) as server:
        fds, tasks = settled_fd_count(), task_count()
        async with a_client(transport, server, pool=POOL) as client:
            fates = await cancelled_at_random(client.get_job, 500, how)
            await server.until(lambda: server.open_sockets <= POOL)
            await check_that_all_slots_are_free(client.get_job, server)
        await server.until(lambda: server.open_sockets == 0)
        await server.until(lambda: fd_count() <= fds)
        assert task_count() == tasks
    # Nor is an answer ever taken for that to another's request.
    assert not fates.errors, f"seed {SEED}"
    assert all(job.inference_job_id == number for number, job in fates.jobs.items())


@pytest.mark.parametrize("transport", ["httpx", *GIVEN], indirect=True)
async def test_a_batch_that_is_cancelled_while_it_waits_for_its_turn_is_not_warned_of(
    transport: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    with chaos(by_request(usual)) as server:
        async with (
            a_client(transport, server, pool=POOL) as client,
            anyio.create_task_group() as tasks,
        ):
            for number in range(POOL):
                tasks.start_soon(client.submit, a_request(LATER + number, 1))
            await server.until(lambda: len(server.requests) == POOL)
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as waiting:
                    for number in range(100):
                        waiting.start_soon(client.submit, a_request(number + 1, 1))
                    await anyio.wait_all_tasks_blocked()
                    scope.cancel()
            server.gate.set()
        assert len(server.requests) == POOL
    assert not warned_of(caplog)


async def test_a_batch_that_is_cancelled_while_it_connects_is_not_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # A listener whose queue is full answers no more connection attempts.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        base_url = f"http://127.0.0.1:{address[1]}"
        async with AsyncInferenceClient(KEY, base_url=base_url, retry=ONCE) as client:
            with anyio.move_on_after(0.1) as scope:
                await client.submit(a_request())
        for filler in fillers:
            filler.close()
    assert scope.cancelled_caught
    assert not warned_of(caplog)


@pytest.mark.parametrize("transport", ["httpx", *GIVEN], indirect=True)
async def test_a_batch_that_is_cancelled_while_its_answer_is_awaited_is_warned_of_once(
    transport: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    with chaos(stall()) as server:
        async with a_client(transport, server, pool=1) as client:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(client.submit, a_request(7, 3))
                    await server.until(lambda: len(server.requests) == 1)
                    scope.cancel()
    assert warned_of(caplog) == Counter([7, 8, 9])


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("transport", OWN)
@pytest.mark.parametrize("at", [{1}, {1, 2}, {1, 2, 3, 4}])
async def test_a_client_that_asyncio_cancels_while_it_hangs_up_hangs_up_everywhere(
    transport: Kind, at: set[int]
) -> None:
    task = asyncio.current_task()
    assert task
    with chaos(by_request(usual)) as server:
        opened = a_client(transport, server, pool=POOL)
        client = await opened.__aenter__()
        async with anyio.create_task_group() as tasks:
            for number in range(POOL):
                tasks.start_soon(client.get_job, LATER + number)
            await server.until(lambda: len(server.requests) == POOL)
            server.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await Stepped(opened.__aexit__(None, None, None), task.cancel, at)
        while task.uncancel():
            pass
        # By itself: what is left to the garbage collector is warned of, which fails the test.
        gc.collect()
        await server.until(lambda: server.open_sockets == 0)
