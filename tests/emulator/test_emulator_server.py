"""The emulator on a real socket, driven from both backends."""

from __future__ import annotations

import errno
import functools
import logging
import socket
import threading
from contextlib import AsyncExitStack
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import httpx
import pytest
import requests
import uvicorn
from anyio.lowlevel import current_token

from annolab_async.emulator import Emulator, EmulatorServer, _server

pytestmark = [pytest.mark.anyio, pytest.mark.sockets, pytest.mark.any_backend]

HEADERS = {"Authorization": "Api-Key XXXXXXX-XXXXXXX-XXXXXXX-XXXXXXX"}
PATH = "/v1/infer/batch"
BODY: dict[str, Any] = {
    "groupName": "Company Name",
    "projectIdentifier": "My Project",
    "sourceIds": [4024, 5853],
    "modelIdentifier": "Staple + Classify Documents",
    "outputLayerIdentifier": "Gold Set",
}


def serving_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "annolab-emulator"]


async def until_in_flight(emulator: Emulator) -> None:
    with anyio.fail_after(10):
        # The server's thread has no event of this loop to set.
        while not emulator.stats.in_flight:  # noqa: ASYNC110
            await anyio.sleep(0.001)


async def test_it_serves_async_clients() -> None:
    emulator = Emulator(base_seconds=0, seconds_per_source=0)
    async with (
        EmulatorServer(emulator) as server,
        httpx.AsyncClient(base_url=server.base_url, headers=HEADERS) as client,
    ):
        assert (await client.post(PATH, json=BODY)).json()["inferenceJobId"] == 1
        assert (await client.get(f"{PATH}/1")).json()["status"] == "Finished"
    assert emulator.job(1).polls == 1


async def test_it_serves_blocking_clients_and_polls_with_a_body_on_one_connection() -> None:
    emulator = Emulator()

    def talk(base_url: str) -> list[int]:
        with requests.Session() as session:
            session.headers.update(HEADERS)
            answers = [session.post(base_url + PATH, json=BODY, timeout=10)]
            body = BODY | {"sourceIds": list(range(1, 50_000))}
            answers += [session.get(f"{base_url}{PATH}/1", json=body, timeout=10) for _ in range(3)]
            return [answer.status_code for answer in answers]

    async with EmulatorServer(emulator) as server:
        assert await anyio.to_thread.run_sync(talk, server.base_url) == [200] * 4
    assert emulator.job(1).polls == 3


async def test_requests_run_side_by_side() -> None:
    emulator = Emulator(latency=0.2)
    async with (
        EmulatorServer(emulator) as server,
        httpx.AsyncClient(base_url=server.base_url, headers=HEADERS) as client,
        anyio.create_task_group() as group,
    ):
        for _ in range(20):
            group.start_soon(functools.partial(client.post, PATH, json=BODY))
    assert emulator.stats.max_in_flight > 1
    assert sorted(emulator.jobs) == list(range(1, 21))


def test_answers_do_not_wait_for_acknowledgements() -> None:
    with _server.listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), listener.accept()[0] as connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_the_address_is_known_only_inside_the_block() -> None:
    server = EmulatorServer(Emulator())
    with pytest.raises(RuntimeError, match="async with"):
        _ = server.base_url
    assert repr(server) == "<EmulatorServer not serving>"
    async with server as entered:
        assert entered is server
        assert server.base_url.startswith("http://127.0.0.1:")
        assert repr(server) == f"<EmulatorServer {server.base_url}>"
    with pytest.raises(RuntimeError, match="async with"):
        _ = server.base_url


async def test_leaving_the_block_closes_the_port_and_ends_the_thread() -> None:
    async with EmulatorServer(Emulator()) as server:
        port = int(server.base_url.rpartition(":")[2])
        assert len(serving_threads()) == 1
    assert not serving_threads()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


async def test_it_can_serve_again_on_the_same_port() -> None:
    emulator = Emulator()
    async with EmulatorServer(emulator) as server:
        base_url = server.base_url
        async with httpx.AsyncClient(base_url=base_url, headers=HEADERS) as client:
            await client.post(PATH, json=BODY)
    again = EmulatorServer(emulator, port=int(base_url.rpartition(":")[2]))
    for _ in range(2):
        async with again, httpx.AsyncClient(base_url=base_url, headers=HEADERS) as client:
            assert (await client.get(f"{PATH}/1")).status_code == 200
    assert emulator.job(1).polls == 2


async def test_two_servers_serve_one_emulator() -> None:
    emulator = Emulator()
    async with EmulatorServer(emulator) as one, EmulatorServer(emulator) as two:
        assert one.base_url != two.base_url
        async with httpx.AsyncClient(headers=HEADERS) as client:
            await client.post(one.base_url + PATH, json=BODY)
            assert (await client.get(f"{two.base_url}{PATH}/1")).status_code == 200


async def test_an_exception_in_the_block_comes_out_and_the_server_stops() -> None:
    with pytest.raises(LookupError, match="mine"):
        async with EmulatorServer(Emulator()):
            raise LookupError("mine")
    assert not serving_threads()


async def test_a_cancelled_block_stops_the_server() -> None:
    with anyio.CancelScope() as scope:
        async with EmulatorServer(Emulator()):
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert not serving_threads()


async def test_a_block_cancelled_before_it_begins_leaves_nothing_behind() -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with EmulatorServer(Emulator()):
            pytest.fail("it must not serve")
    assert scope.cancelled_caught
    assert not serving_threads()


async def test_a_block_cancelled_while_the_server_starts_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real_startup = uvicorn.Server.startup

    with anyio.CancelScope() as scope:
        token = current_token()

        def cancel() -> None:
            scope.cancel()

        async def startup(self: uvicorn.Server, sockets: Any = None) -> None:
            await anyio.to_thread.run_sync(
                functools.partial(anyio.from_thread.run_sync, cancel, token=token)
            )
            await real_startup(self, sockets)

        monkeypatch.setattr(uvicorn.Server, "startup", startup)
        async with EmulatorServer(Emulator()):
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert not serving_threads()


async def test_stopping_waits_neither_for_idle_connections_nor_for_slow_answers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    emulator = Emulator(latency=3600)
    answers: list[httpx.Response] = []

    async def send(url: str) -> None:
        async with httpx.AsyncClient(headers=HEADERS, timeout=60) as client:
            answers.append(await client.post(url, json=BODY))

    async with AsyncExitStack() as stack:
        group = await stack.enter_async_context(anyio.create_task_group())
        async with EmulatorServer(emulator) as server:
            port = int(server.base_url.rpartition(":")[2])
            await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", port))
            group.start_soon(send, server.base_url + PATH)
            await until_in_flight(emulator)
            before = anyio.current_time()
        assert anyio.current_time() - before < 5
    assert [answer.status_code for answer in answers] == [503]
    assert answers[0].json() == {"message": "the emulator is stopping"}
    assert not emulator.jobs
    told = [record for record in caplog.records if record.name.startswith("uvicorn")]
    assert not [record for record in told if record.levelno >= logging.WARNING]


async def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on http://127.0.0.1:{port}") as caught:
            async with EmulatorServer(Emulator(), port=port):
                pytest.fail("it must not serve")
    assert caught.value.errno == errno.EADDRINUSE
    assert "port=0" in str(caught.value)
    assert not serving_threads()


def test_blocking_code_serves_it_in_a_plain_block() -> None:
    emulator = Emulator()
    before = emulator.downloads_url
    with EmulatorServer(emulator) as server:
        assert requests.get(server.base_url, timeout=10).status_code == 404
        assert emulator.downloads_url == server.downloads_url
    assert not serving_threads()
    assert emulator.downloads_url == before


def test_a_plain_block_that_cannot_serve_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def startup(_self: uvicorn.Server, **_: Any) -> None:
        await anyio.lowlevel.checkpoint()
        raise LookupError

    monkeypatch.setattr(uvicorn.Server, "startup", startup)
    with pytest.raises(RuntimeError, match="did not start"), EmulatorServer(Emulator()):
        pytest.fail("it must not serve")
    assert not serving_threads()


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="the machine has no IPv6")
async def test_it_serves_on_ipv6() -> None:
    async with EmulatorServer(Emulator(), host="::1") as server:
        assert server.base_url.startswith("http://[::1]:")
        async with httpx.AsyncClient() as client:
            assert (await client.get(server.base_url)).status_code == 404


@pytest.mark.parametrize("port", [-1, 65536, True, "80", None, 1.0])
def test_an_invalid_port_is_named(port: Any) -> None:
    with pytest.raises(ValueError, match="port must be"):
        EmulatorServer(Emulator(), port=port)


@pytest.mark.parametrize("host", ["", None, 1])
def test_an_invalid_host_is_named(host: Any) -> None:
    with pytest.raises(ValueError, match="host must be"):
        EmulatorServer(Emulator(), host=host)


async def test_a_server_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    async def startup(_self: uvicorn.Server, sockets: Any = None) -> None:
        await anyio.lowlevel.checkpoint()
        raise LookupError(f"no luck with {len(sockets)} sockets")

    monkeypatch.setattr(uvicorn.Server, "startup", startup)
    with pytest.raises(RuntimeError, match="did not start") as caught:
        async with EmulatorServer(Emulator()):
            pytest.fail("it must not serve")
    assert str(caught.value.__cause__) == "no luck with 2 sockets"
    assert not serving_threads()


async def test_a_server_that_does_not_stop_in_time_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_server, "STOP_SECONDS", 0.0)
    with pytest.warns(ResourceWarning, match="did not stop within 0 s"):
        async with EmulatorServer(Emulator()):
            thread = serving_threads()[0]
    await anyio.to_thread.run_sync(thread.join, 10)
    assert not thread.is_alive()


async def test_serving_leaves_the_logs_alone(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with EmulatorServer(Emulator()) as server, httpx.AsyncClient() as client:
        await client.get(server.base_url)
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.name == "uvicorn.access"]
