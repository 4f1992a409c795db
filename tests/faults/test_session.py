"""How reads and batches are sent: for how long, on which connection, and what is made of what a client raises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import anyio
import httpx
import httpx2
import pytest

from annolab_async import (
    AsyncInferenceClient,
    InvalidResponse,
    NoResponse,
    NotOpen,
    RateLimited,
    RetryPolicy,
    SubmissionUnknown,
)
from annolab_async._http._quiet import CURRENT_KEY
from tests.service import BASE_URL, KEY, a_request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

pytestmark = [pytest.mark.anyio, pytest.mark.any_backend]

JOB: Final = {"inferenceJobId": 12, "status": "Queued", "sourceIds": [1, 2]}
ONCE: Final = RetryPolicy(attempts=1)


class Server:
    """Answers each request in its turn, the last way for ever; what is an exception is raised."""

    def __init__(self, *answers: Exception | dict[str, Any], library: Any = httpx) -> None:
        self.requests: list[Any] = []
        self._answers = answers or (JOB,)
        self._library = library

    def __call__(self, request: Any) -> Any:
        self.requests.append(request)
        answer = self._answers[min(len(self.requests), len(self._answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return self._library.Response(200, json=answer)

    def client(self, **settings: Any) -> Any:
        transport = self._library.MockTransport(self)
        return self._library.AsyncClient(transport=transport, **settings)


def client_of(http_client: Any, **settings: Any) -> AsyncInferenceClient:
    settings.setdefault("retry", ONCE)
    return AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=http_client, **settings)


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_connecting_and_each_phase_have_less_than_the_whole_time(library: Any) -> None:
    server = Server(library=library)
    async with server.client() as http_client, client_of(http_client, timeout=20.0) as client:
        await client.get_job(12)
        await client.submit(a_request())
    phases = {"connect": 9.0, "read": 18.0, "write": 18.0, "pool": 18.0}
    for request in server.requests:
        assert request.extensions["timeout"] == pytest.approx(phases)


@pytest.mark.parametrize(
    ("answers", "requests", "is_answered"),
    [
        ([JOB, httpx.ReadError("x"), JOB], 3, True),
        ([JOB, httpx.RemoteProtocolError("x"), JOB], 3, True),
        ([JOB, httpx.ReadError("x"), httpx.ReadError("x"), JOB], 3, False),
        ([JOB, httpx.ReadTimeout("x"), JOB], 2, False),
    ],
)
async def test_only_a_kept_connection_that_was_closed_is_no_failure(
    answers: list[Any], requests: int, *, is_answered: bool
) -> None:
    server = Server(*answers)
    async with server.client() as http_client, client_of(http_client) as client:
        await client.get_job(12)
        if is_answered:
            await client.get_job(12)
        else:
            with pytest.raises(NoResponse):
                await client.get_job(12)
        assert len(server.requests) == requests


async def test_a_fresh_connection_that_was_closed_is_a_failure() -> None:
    server = Server(httpx.ReadError("x"), JOB)
    async with server.client() as http_client, client_of(http_client) as client:
        with pytest.raises(NoResponse):
            await client.get_job(12)
        assert len(server.requests) == 1


class Socket:
    """Keeps whether it was shut down."""

    def __init__(self) -> None:
        self.was_shut_down = False

    def get_extra_info(self, name: str) -> Socket:
        assert name == "socket"
        return self

    def shutdown(self, _: int) -> None:
        self.was_shut_down = True


@pytest.mark.parametrize(
    ("version", "is_whole", "is_shut_down"),
    [("HTTP/1.1", True, True), ("HTTP/2", True, False), ("HTTP/1.1", False, False)],
)
async def test_only_a_connection_that_is_nobody_elses_is_shut_down_after_a_wrong_answer(
    version: str, *, is_whole: bool, is_shut_down: bool
) -> None:
    class Body(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"<html>"
            if not is_whole:
                raise httpx.ReadError("gone")

    connection = Socket()

    def answer(_: httpx.Request) -> httpx.Response:
        extensions = {"http_version": version.encode(), "network_stream": connection}
        return httpx.Response(200, stream=Body(), extensions=extensions)

    transport = httpx.MockTransport(answer)
    async with httpx.AsyncClient(transport=transport) as given, client_of(given) as client:
        with pytest.raises(InvalidResponse if is_whole else NoResponse):
            await client.get_job(12)
    assert connection.was_shut_down is is_shut_down


async def test_a_mistake_in_a_program_is_raised_as_it_is() -> None:
    mistake = LookupError("mine")
    server = Server(mistake)
    async with server.client() as http_client, client_of(http_client) as client:
        with pytest.raises(LookupError) as caught:
            await client.get_job(12)
        assert caught.value is mistake
        with pytest.raises(SubmissionUnknown, match="LookupError: mine"):
            await client.submit(a_request())


async def test_nothing_is_kept_of_a_request_that_is_over() -> None:
    server = Server(JOB, httpx.ReadTimeout("x"), JOB, httpx.ReadTimeout("x"))
    async with server.client() as http_client, client_of(http_client) as client:
        calls: list[Awaitable[object]] = [client.get_job(12), client.get_job(12)]
        calls += [client.submit(a_request()), client.submit(a_request())]
        for number, call in enumerate(calls):
            if number % 2:
                with pytest.raises((NoResponse, SubmissionUnknown)):
                    await call
            else:
                await call
            assert CURRENT_KEY.get() is None
            assert not client._session._under_way


@pytest.mark.parametrize("call", ["get_job", "submit"])
async def test_what_a_hook_raises_of_an_answer_is_read_with_its_headers(call: str) -> None:
    async def raise_for_status(response: httpx.Response) -> None:
        response.raise_for_status()

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(429, headers={"Retry-After": "7"})

    async with (
        httpx.AsyncClient(
            transport=httpx.MockTransport(answer), event_hooks={"response": [raise_for_status]}
        ) as http_client,
        client_of(http_client) as client,
    ):
        with pytest.raises(RateLimited) as caught:
            await (client.get_job(12) if call == "get_job" else client.submit(a_request()))
    assert (caught.value.retry_after, caught.value.message) == (7, "")


def test_only_what_surely_tells_how_far_a_request_came_is_believed_when_it_tells_nothing() -> None:
    for http_client, is_believed in [
        (None, True),
        (httpx.AsyncClient(), True),
        (httpx2.AsyncClient(), True),
        (Server().client(), False),
    ]:
        progress = client_of(http_client)._session.progress()
        progress.begin()
        assert progress.may_have_arrived is not is_believed


@pytest.mark.parametrize("call", ["get_job", "submit"])
async def test_what_is_not_open_says_why(call: str) -> None:
    def called(client: AsyncInferenceClient) -> Awaitable[object]:
        return client.get_job(12) if call == "get_job" else client.submit(a_request())

    http_client = Server().client()
    client = client_of(http_client)
    with pytest.raises(NotOpen, match="inside `async with"):
        await called(client)
    async with client:
        await called(client)
        await http_client.aclose()
        with pytest.raises(NotOpen, match="http_client that this client was given is closed"):
            await called(client)
    with pytest.raises(NotOpen, match="inside `async with"):
        await called(client)


async def test_a_read_that_is_under_way_when_the_client_is_closed_says_so() -> None:
    async def never(_: httpx.Request) -> httpx.Response:
        await anyio.sleep_forever()
        raise AssertionError

    errors = list[Exception]()

    async def read(client: AsyncInferenceClient) -> None:
        try:
            await client.get_job(12)
        except NotOpen as error:
            errors.append(error)

    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(never)) as http_client,
        anyio.create_task_group() as tasks,
        client_of(http_client) as client,
    ):
        tasks.start_soon(read, client)
        await anyio.wait_all_tasks_blocked()
    assert [str(error) for error in errors] == [
        "The client was closed while a request was under way."
    ]
    assert isinstance(errors[0].__cause__, TimeoutError)
