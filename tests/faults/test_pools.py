"""Pools under cancellation and load: no slot is lost, and nobody ever hears of a pool."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

import anyio
import httpx
import httpx2
import pytest
from anyio.lowlevel import checkpoint

from annolab_async import AsyncInferenceClient, InvalidResponse
from tests.faults.chaos import answer, by_request, chaos, held, reply, stall
from tests.faults.kinds import GIVEN, ONCE, OWN, Kind, a_client
from tests.loop_time import loop_time
from tests.service import KEY, a_request

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from tests.faults.chaos import ChaosServer, Peer, Request, Script

pytestmark = [pytest.mark.anyio, pytest.mark.sockets]

Phase = Literal["connecting", "waiting for a turn", "waiting for the answer", "reading the body"]

IN_ALL: Final = 500
MORE: Final = 500
SECONDS: Final = 5.0


def job(request: Request) -> bytes:
    if request.body:
        number = json.loads(request.body)["sourceIds"][0]
    else:
        number = int(request.line.split()[1].rpartition("/")[2])
    return reply(json.dumps({"inferenceJobId": number, "status": "Queued", "sourceIds": [number]}))


class Moods:
    """What a server does with a request: nothing, half of it, or what it should, once the gate is open."""

    def __init__(self) -> None:
        self.mood: Literal["silent", "halting", "good"] = "silent"
        self.begun = 0

    def have(self, begun: int) -> bool:
        return self.begun == begun

    def __call__(self, request: Request) -> Script:
        if self.mood == "good":
            return held(answer(job(request)))
        data = job(request)[:-9] if self.mood == "halting" else b""

        async def begin(peer: Peer) -> None:
            if data:
                await peer.send(data)
            self.begun += 1
            await stall()(peer)

        return begin


async def ask(client: AsyncInferenceClient, number: int) -> None:
    """Submit a batch or ask for a job, by turns."""
    if number % 2:
        assert (await client.submit(a_request(number, 1))).inference_job_id == number
    else:
        assert (await client.get_job(number)).inference_job_id == number


async def some_turns() -> None:
    """Let every task come as far as it can with what has come from outside."""
    for _ in range(40):
        await checkpoint()


async def cancel_some(
    client: AsyncInferenceClient, server: ChaosServer, count: int, has_come: Callable[[], bool]
) -> None:
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            for number in range(1, 1 + count):
                tasks.start_soon(ask, client, number)
            await server.until(has_come)
            await some_turns()
            scope.cancel()
    assert scope.cancelled_caught


def sticking(may_go_on: threading.Event) -> Script:
    """Hold up the whole server, so that it does not even accept connections any more."""

    async def script(peer: Peer) -> None:
        await peer.request()
        may_go_on.wait(30)

    return script


@contextmanager
def full_queue(server: ChaosServer, may_go_on: threading.Event) -> Generator[None]:
    """Have a server whose first script is a sticking one answer no connection attempts in this block."""
    address = server.listener.getsockname()
    with socket.create_connection(address) as first:
        first.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while server.heads == 0:
            time.sleep(0.001)
        server.listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        try:
            yield
        finally:
            for filler in fillers:
                filler.close()
            server.listener.listen(1024)
            may_go_on.set()


async def cancel_in_phase(
    phase: Phase, client: AsyncInferenceClient, server: ChaosServer, moods: Moods, pool: int
) -> None:
    """Cancel requests, as many as fit at a time."""
    left = IN_ALL // 4
    moods.mood = "halting" if phase == "reading the body" else "silent"
    while left > 0:
        count = min(pool, left)
        left -= count
        moods.begun = 0
        match phase:
            case "connecting":
                await cancel_some(client, server, count, lambda: True)
            case "waiting for a turn":
                await cancel_some(client, server, pool + IN_ALL // 4, lambda: moods.have(pool))
                return
            case _:
                await cancel_some(client, server, count, partial(moods.have, count))


@pytest.fixture
def transport(request: pytest.FixtureRequest) -> Kind:
    transport: Kind = request.param
    return transport


@pytest.mark.parametrize("pool", [10, 100])
@pytest.mark.parametrize("transport", [*OWN, *GIVEN], indirect=True)
async def test_no_slot_is_lost_to_requests_that_are_cancelled_in_any_phase(
    transport: Kind, pool: int, anyio_backend_name: str
) -> None:
    if pool == 100 and anyio_backend_name == "trio" and transport in GIVEN:
        pytest.skip("takes long, and is tried on asyncio")
    moods, may_go_on = Moods(), threading.Event()
    with chaos(sticking(may_go_on), by_request(moods)) as server:
        async with a_client(transport, server, pool=pool) as client:
            with full_queue(server, may_go_on):
                await cancel_in_phase("connecting", client, server, moods, pool)
            assert moods.begun == 0, "else they were not cancelled while they connected"
            for phase in ("waiting for a turn", "waiting for the answer", "reading the body"):
                await cancel_in_phase(phase, client, server, moods, pool)
            await server.until(lambda: server.open_sockets <= pool)

            moods.mood = "good"
            asked = server.heads
            async with anyio.create_task_group() as tasks:
                for number in range(1, 1 + pool):
                    tasks.start_soon(ask, client, number)
                await server.until(lambda: server.heads == asked + pool)
                server.gate.set()
            async with loop_time() as taken, anyio.create_task_group() as tasks:
                for number in range(1, 1 + MORE):
                    tasks.start_soon(ask, client, number)
            # A slot that is lost costs the timeout.
            assert taken.seconds < SECONDS
            assert server.heads == asked + pool + MORE


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_a_thousand_reads_at_once_on_a_client_of_the_callers_all_succeed(
    library: Any,
) -> None:
    with chaos(by_request(lambda request: answer(job(request)))) as server:
        async with (
            library.AsyncClient() as http_client,
            AsyncInferenceClient(
                KEY, base_url=server.base_url, http_client=http_client, retry=ONCE
            ) as client,
            anyio.create_task_group() as tasks,
        ):
            for number in range(1, 1001):
                tasks.start_soon(client.get_job, number)
        assert len(server.requests) == 1000


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_a_pool_that_the_caller_uses_up_in_part_is_waited_for(library: Any) -> None:
    moods = Moods()
    moods.mood = "good"
    seconds = 0.4
    limits = library.Limits(max_connections=10)
    with chaos(by_request(moods)) as server:
        async with (
            library.AsyncClient(limits=limits, timeout=10) as http_client,
            AsyncInferenceClient(
                KEY, base_url=server.base_url, http_client=http_client, retry=ONCE, timeout=2.0
            ) as client,
            anyio.create_task_group() as tasks,
        ):

            async def use_it_up() -> None:
                await http_client.get(f"{server.base_url}/slow/1")

            for _ in range(9):
                tasks.start_soon(use_it_up)
            await server.until(lambda: server.heads == 9)
            for number in range(1, 101):
                tasks.start_soon(ask, client, number)
            # One slot is left, and the server keeps that occupied, too.
            await server.until(lambda: server.heads == 10)
            await anyio.sleep(seconds)
            server.gate.set()
        assert server.heads == 109


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_a_wrong_answer_costs_a_request_of_the_callers_nothing(library: Any) -> None:
    # The connection that it came on is to be closed, but not in the hands of who got it next.
    anothers = '{"inferenceJobId": 7, "status": "Queued", "sourceIds": [7]}'
    limits = library.Limits(max_connections=1)

    def by_path(request: Request) -> Script:
        if request.line.startswith("GET"):
            return held(answer(reply(anothers)))
        return answer(reply("taken"))

    with chaos(by_request(by_path)) as server:
        async with (
            library.AsyncClient(limits=limits, timeout=10) as http_client,
            AsyncInferenceClient(
                KEY, base_url=server.base_url, http_client=http_client, retry=ONCE
            ) as client,
            anyio.create_task_group() as tasks,
        ):

            async def get_a_wrong_answer() -> None:
                with pytest.raises(InvalidResponse, match="12 was asked for"):
                    await client.get_job(12)

            async def send() -> None:
                assert (await http_client.post(server.base_url, content=b"{}")).text == "taken"

            tasks.start_soon(get_a_wrong_answer)
            await server.until(lambda: server.heads == 1)
            for _ in range(5):
                tasks.start_soon(send)
            await anyio.wait_all_tasks_blocked()
            server.gate.set()
        assert sum(server.posts.values()) == 5
        assert server.accepted == 2
