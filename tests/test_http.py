"""What a failure on a real socket proves: whether a batch may exist, and what may be sent again."""

from __future__ import annotations

import gzip
import socket
import struct
import time
from typing import Any, Literal

import anyio
import httpx
import httpx2
import pytest

from annolab_async import (
    AsyncInferenceClient,
    ConfigurationError,
    InvalidResponse,
    JobIdLost,
    NoResponse,
    NotFound,
    NotOpen,
    RequestNotSent,
    RetryPolicy,
    ServerError,
    StatusError,
    SubmissionUnknown,
)
from annolab_async.emulator import Emulator, EmulatorServer
from tests.loop_time import loop_time
from tests.raw_server import http, raw_server
from tests.service import KEY, a_request

pytestmark = [pytest.mark.anyio, pytest.mark.sockets]

JOB = '{"inferenceJobId": 12, "status": "Queued", "sourceIds": [1, 2]}'
Transport = Literal["httpx", "aiohttp"]
AT_ONCE = RetryPolicy(attempts=3, first=0.001)


@pytest.fixture(params=["httpx", "aiohttp"])
def transport(request: pytest.FixtureRequest) -> Transport:
    return "aiohttp" if request.param == "aiohttp" else "httpx"


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


BEFORE_THE_BODY = [close, reset, half_the_headers, say_nothing]
LOST_ANSWERS = [*BEFORE_THE_BODY, half_the_body, drip]


@pytest.mark.parametrize("library", ["own", "httpx2"])
@pytest.mark.parametrize("fault", BEFORE_THE_BODY)
async def test_a_batch_whose_answer_is_lost_is_unknown_and_sent_once(
    fault: object, library: str
) -> None:
    request = a_request()
    http_client = httpx2.AsyncClient() if library == "httpx2" else None
    with raw_server(fault) as server:  # type: ignore[arg-type]
        client = AsyncInferenceClient(
            KEY, base_url=server.base_url, http_client=http_client, timeout=0.3
        )
        async with client, loop_time() as taken:
            with pytest.raises(SubmissionUnknown, match="may pay for it twice") as unknown:
                await client.submit(request)
        if http_client:
            await http_client.aclose()
        assert len(server.requests) == 1
    assert unknown.value.request is request
    assert isinstance(unknown.value.cause, NoResponse)
    assert taken.seconds < 2, "the deadline holds, however slowly the answer drips"


@pytest.mark.parametrize("fault", LOST_ANSWERS)
async def test_a_read_whose_answer_is_lost_is_sent_again(
    fault: object, transport: Transport
) -> None:
    with raw_server(fault, http("200 OK", JOB)) as server:  # type: ignore[arg-type]
        async with AsyncInferenceClient(
            KEY, base_url=server.base_url, transport=transport, timeout=0.3, retry=AT_ONCE
        ) as client:
            assert (await client.get_job(12)).status == "Queued"
        assert len(server.requests) == 2


@pytest.mark.parametrize("fault", [half_the_body, drip])
async def test_the_id_of_a_batch_whose_answer_breaks_off_is_told_if_it_has_come(
    fault: object,
) -> None:
    with raw_server(fault) as server:  # type: ignore[arg-type]
        async with AsyncInferenceClient(KEY, base_url=server.base_url, timeout=0.3) as client:
            with pytest.raises(InvalidResponse, match="The job exists, its id is 12") as invalid:
                await client.submit(a_request())
        assert len(server.requests) == 1
    assert invalid.value.inference_job_id == 12


async def test_a_read_that_is_never_answered_is_an_error(transport: Transport) -> None:
    with raw_server(close) as server:
        async with AsyncInferenceClient(
            KEY, base_url=server.base_url, transport=transport, retry=AT_ONCE
        ) as client:
            with pytest.raises(NoResponse, match="GET /v1/infer/batch/12 was sent"):
                await client.get_job(12)
        assert len(server.requests) == 3


async def test_a_server_that_is_not_there_proves_that_nothing_was_sent(
    transport: Transport,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    async with AsyncInferenceClient(
        KEY, base_url=f"http://127.0.0.1:{port}", transport=transport, retry=AT_ONCE
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
        (http("302 Found", Location="/v1/infer/batch/12"), SubmissionUnknown),
        (http("200 OK", '{"inferenceJobId": 12}'), InvalidResponse),
        (http("200 OK", "no json"), JobIdLost),
    ],
)
async def test_what_each_status_says_of_a_batch(answer: bytes, error: type[Exception]) -> None:
    retry = RetryPolicy(attempts=1)
    with raw_server(answer) as server:
        async with AsyncInferenceClient(KEY, base_url=server.base_url, retry=retry) as client:
            with pytest.raises(error) as raised:
                await client.submit(a_request())
        assert len(server.requests) == 1
    if error is SubmissionUnknown:
        assert isinstance(raised.value.cause, StatusError)  # type: ignore[attr-defined]


async def test_every_batch_goes_on_a_fresh_connection_and_polls_share_theirs(
    transport: Transport,
) -> None:
    with raw_server(http("200 OK", JOB)) as server:
        async with AsyncInferenceClient(
            KEY, base_url=server.base_url, transport=transport
        ) as client:
            for _ in range(5):
                await client.submit(a_request())
            assert server.connections == 5
            for _ in range(5):
                await client.get_job(12)
            assert server.connections == 6


@pytest.mark.parametrize("chosen", ["auto", "aiohttp", "httpx"])
async def test_reads_go_over_aiohttp_where_that_may_be_and_batches_never(
    chosen: Literal["auto", "aiohttp", "httpx"], anyio_backend_name: str
) -> None:
    if anyio_backend_name == "trio" and chosen == "aiohttp":
        return  # which is refused
    with raw_server(http("200 OK", JOB)) as server:
        async with AsyncInferenceClient(KEY, base_url=server.base_url, transport=chosen) as client:
            await client.get_job(12)
            await client.submit(a_request())
    read, batch = [b" aiohttp/" in request for request in server.requests]
    assert read == (anyio_backend_name == "asyncio" and chosen != "httpx")
    assert not batch


async def test_more_requests_than_connections_wait_for_their_turn_however_long_it_takes(
    transport: Transport,
) -> None:
    emulator = Emulator(api_key=KEY, latency=0.05)
    async with EmulatorServer(emulator) as server:
        client = AsyncInferenceClient(
            KEY, base_url=server.base_url, transport=transport, max_connections=4, timeout=0.5
        )
        async with client:
            job = await client.submit(a_request())
            async with anyio.create_task_group() as tasks:
                for _ in range(100):  # 1.25 s of work
                    tasks.start_soon(client.get_job, job)
    assert emulator.stats.polls == 100
    assert emulator.stats.max_in_flight == 4


async def test_redirects_are_not_followed(transport: Transport) -> None:
    with raw_server(http("200 OK", JOB)) as elsewhere:
        answer = http("302 Found", Location=f"{elsewhere.base_url}/v1/infer/batch/12")
        with raw_server(answer) as server:
            async with AsyncInferenceClient(
                KEY, base_url=server.base_url, transport=transport
            ) as client:
                with pytest.raises(StatusError, match="answered 302"):
                    await client.get_job(12)
        assert not elsewhere.requests


@pytest.mark.parametrize("faulty", [close, reset])
async def test_a_kept_connection_that_the_server_has_closed_is_no_failure(
    faulty: object, transport: Transport
) -> None:
    good = http("200 OK", JOB)
    with raw_server(good, faulty, good) as server:  # type: ignore[arg-type]
        async with AsyncInferenceClient(
            KEY, base_url=server.base_url, transport=transport, retry=RetryPolicy(attempts=1)
        ) as client:
            await client.get_job(12)
            await client.get_job(12)
        assert len(server.requests) == 3


async def test_an_answer_without_end_is_refused(transport: Transport) -> None:
    def endless(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"x" * 2**20)

    with raw_server(endless) as server:
        async with AsyncInferenceClient(
            KEY, base_url=server.base_url, transport=transport, retry=RetryPolicy(attempts=1)
        ) as client:
            with pytest.raises(InvalidResponse, match="longer than"):
                await client.get_job(12)


async def test_a_large_answer_is_taken(transport: Transport) -> None:
    body = JOB.replace("[1, 2]", str(list(range(1, 100_001))))
    with raw_server(http("200 OK", body)) as server:
        async with AsyncInferenceClient(
            KEY, base_url=server.base_url, transport=transport
        ) as client:
            assert len((await client.get_job(12)).source_ids) == 100_000


async def test_an_answer_that_is_packed_although_it_should_not_be_is_unpacked(
    transport: Transport,
) -> None:
    packed = gzip.compress(JOB.encode())
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n"
    with raw_server(head.encode() + packed) as server:
        async with AsyncInferenceClient(
            KEY, base_url=server.base_url, transport=transport
        ) as client:
            assert (await client.get_job(12)).status == "Queued"
        assert b"identity" in server.requests[0]


async def test_a_small_answer_that_unpacks_into_a_huge_one_is_refused(transport: Transport) -> None:
    bomb = gzip.compress(bytes(64 * 2**20))
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n"
    with raw_server(head.encode() + bomb) as server:
        async with AsyncInferenceClient(
            KEY, base_url=server.base_url, transport=transport, retry=RetryPolicy(attempts=1)
        ) as client:
            with pytest.raises(InvalidResponse, match="longer than"):
                await client.get_job(12)


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
async def test_the_proxy_of_the_environment_is_used_and_no_proxy_honoured(
    transport: Transport, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with raw_server(http("200 OK", JOB)) as proxy:
        monkeypatch.setenv(variable, proxy.base_url)
        async with AsyncInferenceClient(
            KEY,
            base_url="http://annolab.example",
            transport=transport,
            plain_http_hosts=["annolab.example"],
        ) as client:
            await client.get_job(12)
            await client.submit(a_request())
        lines = [request.split(b"\r\n")[0] for request in proxy.requests]
        assert lines == [
            b"GET http://annolab.example/v1/infer/batch/12 HTTP/1.1",
            b"POST http://annolab.example/v1/infer/batch HTTP/1.1",
        ]
        monkeypatch.setenv("NO_PROXY", "annolab.example")
        look_up = socket.getaddrinfo

        def look_up_here(_: object, *args: Any, **options: Any) -> Any:
            return look_up("127.0.0.1", *args, **options)

        monkeypatch.setattr(socket, "getaddrinfo", look_up_here)
        with raw_server(http("200 OK", JOB)) as server:
            async with AsyncInferenceClient(
                KEY,
                base_url=server.base_url.replace("127.0.0.1", "annolab.example"),
                transport=transport,
                plain_http_hosts=["annolab.example"],
            ) as client:
                await client.get_job(12)
                await client.submit(a_request())
            assert len(server.requests) == 2
        assert len(proxy.requests) == 2


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost"])
async def test_what_may_stay_on_this_machine_takes_no_proxy(
    transport: Transport, variable: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with raw_server(http("200 OK", JOB)) as proxy, raw_server(http("200 OK", JOB)) as server:
        monkeypatch.setenv(variable, proxy.base_url)
        base_url = server.base_url.replace("127.0.0.1", host)
        async with AsyncInferenceClient(
            KEY, base_url=base_url, transport=transport, retry=RetryPolicy(attempts=1)
        ) as client:
            if host == "127.0.0.2":  # where nobody listens
                with pytest.raises(RequestNotSent):
                    await client.get_job(12)
            else:
                await client.get_job(12)
                await client.submit(a_request())
        assert not proxy.requests


@pytest.mark.parametrize("is_behind_proxy", [False, True])
async def test_no_cookie_is_kept(
    transport: Transport, monkeypatch: pytest.MonkeyPatch, *, is_behind_proxy: bool
) -> None:
    with raw_server(http("200 OK", JOB, Set_Cookie="session=é; Path=/")) as server:
        if is_behind_proxy:
            monkeypatch.setenv("HTTP_PROXY", server.base_url)
        async with AsyncInferenceClient(
            KEY,
            base_url="http://annolab.example" if is_behind_proxy else server.base_url,
            transport=transport,
            plain_http_hosts=["annolab.example"],
        ) as client:
            for _ in range(2):
                await client.submit(a_request())
                await client.get_job(12)
    assert len(server.requests) == 4
    assert not any(b"cookie" in request.lower() for request in server.requests)


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_a_redirect_with_a_cookie_that_fits_into_no_header_is_an_answer(library: Any) -> None:
    moved = http("307 Moved", Set_Cookie="session=é; Path=/", Location="https://other.example/")
    for method in ("get_job", "submit"):
        with raw_server(moved) as server:
            async with (
                library.AsyncClient() as http_client,
                AsyncInferenceClient(
                    KEY, base_url=server.base_url, http_client=http_client, retry=AT_ONCE
                ) as client,
            ):
                with pytest.raises(StatusError, match="307"):
                    await (
                        client.get_job(12) if method == "get_job" else client.submit(a_request())
                    )
        assert len(server.requests) == 1


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_a_cookie_that_spoils_a_client_of_the_callers_is_told_of(library: Any) -> None:
    with raw_server(http("200 OK", JOB, Set_Cookie="session=é; Path=/")) as server:
        async with (
            library.AsyncClient() as http_client,
            AsyncInferenceClient(KEY, base_url=server.base_url, http_client=http_client) as client,
        ):
            await client.get_job(12)
            for call in (client.get_job(12), client.submit(a_request())):
                with pytest.raises(RequestNotSent, match="a cookie or header") as caught:
                    await call
                assert caught.value.is_final
    assert len(server.requests) == 1


async def test_a_base_url_may_have_a_path(transport: Transport) -> None:
    with raw_server(http("200 OK", JOB)) as server:
        async with AsyncInferenceClient(
            KEY, base_url=f"{server.base_url}/a%20b/", transport=transport
        ) as client:
            await client.get_job(12)
            await client.submit(a_request())
        lines = [request.split(b" HTTP")[0] for request in server.requests]
        assert lines == [b"GET /a%20b/v1/infer/batch/12", b"POST /a%20b/v1/infer/batch"]


async def test_cancelled_reads_lose_no_connection(transport: Transport) -> None:
    emulator = Emulator(api_key=KEY, latency=0.004)
    async with EmulatorServer(emulator) as server:
        client = AsyncInferenceClient(
            KEY, base_url=server.base_url, transport=transport, max_connections=8
        )
        async with client:
            job = await client.submit(a_request())

            async def give_up_soon(number: int) -> None:
                with anyio.move_on_after(0.001 * (number % 10)):
                    await client.get_job(job)

            async with anyio.create_task_group() as tasks:
                for number in range(300):
                    tasks.start_soon(give_up_soon, number)
            with anyio.fail_after(10):
                async with anyio.create_task_group() as tasks:
                    for _ in range(50):
                        tasks.start_soon(client.get_job, job)


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_aiohttp_on_trio_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="asyncio only"):
        async with AsyncInferenceClient(KEY, transport="aiohttp"):
            pass
    async with AsyncInferenceClient(KEY, transport="auto"):
        pass


@pytest.mark.parametrize("location", ["localhost:8080/login", "mailto:x", "/" + "x" * 66_000])
@pytest.mark.parametrize("own_client", [True, False])
async def test_a_batch_that_was_answered_with_a_strange_redirect_is_never_called_unsent(
    location: str, *, own_client: bool
) -> None:
    http_client = None if own_client else httpx.AsyncClient()
    with raw_server(http("303 See Other", Location=location)) as server:
        async with AsyncInferenceClient(
            KEY, base_url=server.base_url, http_client=http_client
        ) as client:
            with pytest.raises(SubmissionUnknown):
                await client.submit(a_request())
    if http_client:
        await http_client.aclose()


@pytest.mark.parametrize("own_client", [True, False])
async def test_a_batch_under_way_when_the_client_is_closed_is_unknown(*, own_client: bool) -> None:
    http_client = None if own_client else httpx.AsyncClient()
    with raw_server(lambda connection: connection.recv(1)) as server:
        client = AsyncInferenceClient(
            KEY, base_url=server.base_url, http_client=http_client, timeout=1.0
        )

        async def submit() -> None:
            with pytest.raises(SubmissionUnknown):
                await client.submit(a_request())

        async with anyio.create_task_group() as tasks, client:
            tasks.start_soon(submit)
            await server.wait_for_request()
    if http_client:
        await http_client.aclose()


async def test_a_batch_that_waits_for_its_turn_is_not_sent_once_the_block_is_left() -> None:
    with raw_server(lambda connection: connection.recv(1)) as server:
        async with httpx.AsyncClient() as http_client:
            client = AsyncInferenceClient(
                KEY,
                base_url=server.base_url,
                http_client=http_client,
                timeout=1.0,
                max_connections=1,
            )

            async def submit(error: type[Exception]) -> None:
                with pytest.raises(error):
                    await client.submit(a_request())

            async with anyio.create_task_group() as tasks, client:
                tasks.start_soon(submit, SubmissionUnknown)
                await server.wait_for_request()
                tasks.start_soon(submit, NotOpen)
                await anyio.wait_all_tasks_blocked()
        assert len(server.requests) == 1


async def test_a_batch_that_was_not_sent_when_the_block_is_left_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # to which no handshake is answered
        base_url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        client = AsyncInferenceClient(KEY, base_url=base_url, timeout=0.3)

        async def submit() -> None:
            with pytest.raises(NotOpen, match="closed while a request was under way"):
                await client.submit(a_request())

        async with anyio.create_task_group() as tasks, client:
            tasks.start_soon(submit)
            await anyio.wait_all_tasks_blocked()


class TriesTwice(httpx.AsyncBaseTransport):
    """A transport that fails over: its second try does not even connect."""

    def __init__(self) -> None:
        self._first = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return await self._first.handle_async_request(request)
        except httpx.TransportError as error:
            raise httpx.ConnectError("the other one is not there") from error

    async def aclose(self) -> None:
        await self._first.aclose()


async def test_what_a_second_try_met_says_nothing_about_the_first() -> None:
    with raw_server(close) as server:
        async with (
            httpx.AsyncClient(transport=TriesTwice()) as http_client,
            AsyncInferenceClient(KEY, base_url=server.base_url, http_client=http_client) as client,
        ):
            with pytest.raises(SubmissionUnknown):
                await client.submit(a_request())
        assert len(server.requests) == 1


async def test_a_hook_that_raises_for_bad_statuses_changes_nothing() -> None:
    async def raise_for_status(response: httpx.Response) -> None:
        response.raise_for_status()

    hooks = {"response": [raise_for_status]}
    with raw_server(http("502 Bad Gateway"), http("404 Not Found")) as server:
        async with (
            httpx.AsyncClient(event_hooks=hooks) as http_client,
            AsyncInferenceClient(KEY, base_url=server.base_url, http_client=http_client) as client,
        ):
            with pytest.raises(SubmissionUnknown):
                await client.submit(a_request())
            with pytest.raises(NotFound):
                await client.get_job(12)


async def test_a_hook_that_fails_after_a_batch_was_sent_leaves_it_unknown() -> None:
    async def fail(_: httpx.Response) -> None:
        raise LookupError("not today")

    with raw_server(http("200 OK", JOB)) as server:
        async with (
            httpx.AsyncClient(event_hooks={"response": [fail]}) as http_client,
            AsyncInferenceClient(KEY, base_url=server.base_url, http_client=http_client) as client,
        ):
            with pytest.raises(SubmissionUnknown, match="not today"):
                await client.submit(a_request())


@pytest.mark.parametrize("anyio_backend", ["trio"])  # asyncio cancels the main task instead
async def test_an_interrupt_while_a_request_is_under_way_arrives_plain() -> None:
    def interrupt(_: httpx.Request) -> httpx.Response:
        raise KeyboardInterrupt

    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(interrupt)) as http_client,
        AsyncInferenceClient(KEY, base_url="http://localhost", http_client=http_client) as client,
    ):
        with pytest.raises(KeyboardInterrupt):
            await client.submit(a_request())
        with pytest.raises(KeyboardInterrupt):
            await client.get_job(12)
