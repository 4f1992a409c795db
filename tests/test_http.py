"""What a failure on a real socket proves: whether a batch may exist, and what may be sent again."""

from __future__ import annotations

import socket
import struct
import time

import anyio
import httpx2
import pytest

from annolab_async import (
    AsyncInferenceClient,
    InvalidResponse,
    NoResponse,
    RequestNotSent,
    RetryPolicy,
    ServerError,
    StatusError,
    SubmissionUnknown,
)
from annolab_async.emulator import Emulator, EmulatorServer
from tests.raw_server import http, raw_server
from tests.service import KEY, a_request

pytestmark = [pytest.mark.anyio, pytest.mark.sockets]

JOB = '{"inferenceJobId": 12, "status": "Queued", "sourceIds": [1, 2]}'
AT_ONCE = RetryPolicy(attempts=3, first=0.001)


def close(_: socket.socket) -> None:
    pass


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def half_the_headers(connection: socket.socket) -> None:
    connection.sendall(http("200 OK", JOB)[:20])


def half_the_body(connection: socket.socket) -> None:
    connection.sendall(http("200 OK", JOB)[:-20])


def say_nothing(connection: socket.socket) -> None:
    connection.recv(1)


def drip(connection: socket.socket) -> None:
    connection.sendall(http("200 OK", JOB)[:-40])
    for _ in range(40):
        connection.sendall(b" ")
        time.sleep(0.1)


LOST_ANSWERS = [close, reset, half_the_headers, half_the_body, say_nothing, drip]


@pytest.mark.parametrize("library", ["own", "httpx2"])
@pytest.mark.parametrize("fault", LOST_ANSWERS)
async def test_a_batch_whose_answer_is_lost_is_unknown_and_sent_once(
    fault: object, library: str
) -> None:
    request = a_request()
    http_client = httpx2.AsyncClient() if library == "httpx2" else None
    began = time.monotonic()
    with raw_server(fault) as server:  # type: ignore[arg-type]
        async with AsyncInferenceClient(
            KEY, base_url=server.base_url, http_client=http_client, timeout=0.3
        ) as client:
            with pytest.raises(SubmissionUnknown, match="may pay for it twice") as unknown:
                await client.submit(request)
        if http_client:
            await http_client.aclose()
        assert len(server.requests) == 1
    assert unknown.value.request is request
    assert isinstance(unknown.value.cause, NoResponse)
    assert time.monotonic() - began < 2, "the deadline holds, however slowly the answer drips"


@pytest.mark.parametrize("fault", LOST_ANSWERS)
async def test_a_read_whose_answer_is_lost_is_sent_again(fault: object) -> None:
    with raw_server(fault, http("200 OK", JOB)) as server:  # type: ignore[arg-type]
        async with AsyncInferenceClient(
            KEY, base_url=server.base_url, timeout=0.3, retry=AT_ONCE
        ) as client:
            assert (await client.get_job(12)).status == "Queued"
        assert len(server.requests) == 2


async def test_a_read_that_is_never_answered_is_an_error() -> None:
    with raw_server(close) as server:
        async with AsyncInferenceClient(KEY, base_url=server.base_url, retry=AT_ONCE) as client:
            with pytest.raises(NoResponse, match="GET /v1/infer/batch/12 was sent"):
                await client.get_job(12)
        assert len(server.requests) == 3


async def test_a_server_that_is_not_there_proves_that_nothing_was_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    async with AsyncInferenceClient(
        KEY, base_url=f"http://127.0.0.1:{port}", retry=AT_ONCE
    ) as client:
        with pytest.raises(RequestNotSent, match="Nothing reached the server"):
            await client.submit(a_request())
        with pytest.raises(RequestNotSent):
            await client.get_job(12)


async def test_tls_to_a_plain_port_proves_that_nothing_was_sent() -> None:
    with raw_server(http("200 OK", JOB)) as server:
        base_url = server.base_url.replace("http:", "https:")
        async with AsyncInferenceClient(KEY, base_url=base_url, timeout=1.0) as client:
            with pytest.raises(RequestNotSent):
                await client.submit(a_request())
        assert not server.requests


async def test_a_stall_while_connecting_proves_that_nothing_was_sent() -> None:
    # A listener whose queue is full answers no more connection attempts.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        try:
            async with AsyncInferenceClient(
                KEY, base_url=f"http://127.0.0.1:{address[1]}", timeout=0.3
            ) as client:
                with pytest.raises(RequestNotSent):
                    await client.submit(a_request())
        finally:
            for filler in fillers:
                filler.close()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (http("500 Oops", '{"message": "disk full"}'), SubmissionUnknown),
        (http("502 Bad Gateway", "<html>"), SubmissionUnknown),
        (http("503 Unavailable"), SubmissionUnknown),
        (http("503 Unavailable", Retry_After="9"), ServerError),
        (http("504 Gateway Timeout"), SubmissionUnknown),
        (http("408 Timeout"), SubmissionUnknown),
        (http("429 Slow down"), StatusError),
        (http("409 Conflict"), StatusError),
        (http("307 Elsewhere", Location="/v1/elsewhere"), StatusError),
        (http("200 OK", "no json"), InvalidResponse),
    ],
)
async def test_what_each_status_says_of_a_batch(answer: bytes, error: type[Exception]) -> None:
    with raw_server(answer) as server:
        async with AsyncInferenceClient(KEY, base_url=server.base_url) as client:
            with pytest.raises(error) as raised:
                await client.submit(a_request())
        assert len(server.requests) == 1
    if error is SubmissionUnknown:
        assert isinstance(raised.value.cause, StatusError)  # type: ignore[attr-defined]


async def test_every_batch_goes_on_a_fresh_connection_and_polls_share_theirs() -> None:
    with raw_server(http("200 OK", JOB)) as server:
        async with AsyncInferenceClient(KEY, base_url=server.base_url) as client:
            for _ in range(5):
                await client.submit(a_request())
            assert server.connections == 5
            for _ in range(5):
                await client.get_job(12)
            assert server.connections == 6


async def test_more_requests_than_connections_wait_for_their_turn_however_long_it_takes() -> None:
    emulator = Emulator(api_key=KEY, latency=0.05)
    async with EmulatorServer(emulator) as server:
        client = AsyncInferenceClient(KEY, base_url=server.base_url, max_connections=4, timeout=0.5)
        async with client:
            job = await client.submit(a_request())
            async with anyio.create_task_group() as tasks:
                for _ in range(100):  # 1.25 s of work
                    tasks.start_soon(client.get_job, job)
    assert emulator.stats.polls == 100
    assert emulator.stats.max_in_flight == 4


async def test_redirects_are_not_followed() -> None:
    with raw_server(http("200 OK", JOB)) as elsewhere:
        answer = http("302 Found", Location=f"{elsewhere.base_url}/v1/infer/batch/12")
        with raw_server(answer) as server:
            async with AsyncInferenceClient(KEY, base_url=server.base_url) as client:
                with pytest.raises(StatusError, match="answered 302"):
                    await client.get_job(12)
        assert not elsewhere.requests
