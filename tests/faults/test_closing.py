"""What does not let go: a call waits a second for it at most, and closes all that it has, also when it is cancelled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio
import httpx
import pytest

from annolab_async import (
    AnnoLabError,
    AsyncInferenceClient,
    InvalidResponse,
    NoResponse,
    RetryPolicy,
)
from annolab_async._http import Fetcher, signed_link
from tests.service import BASE_URL, KEY, a_request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

pytestmark = pytest.mark.anyio

JOB: Final = b'{"inferenceJobId": 12, "status": "Queued", "sourceIds": [1, 2]}'
ONCE: Final = RetryPolicy(attempts=1)


class Body(httpx.AsyncByteStream):
    """A body that is slow to come, breaks off, and is slow to close.

    Attributes:
        has_closed: whether it has been closed to the end.
    """

    def __init__(self, data: bytes, *, after: float = 0.0, closing: float = 0.0) -> None:
        self.has_closed = False
        self._data = data
        self._after = after
        self._closing = closing

    async def __aiter__(self) -> AsyncIterator[bytes]:
        await anyio.sleep(self._after)
        yield self._data
        raise httpx.ReadError("gone")

    async def aclose(self) -> None:
        await anyio.sleep(self._closing)
        self.has_closed = True


def a_client_of(body: Body, status: int = 200) -> httpx.AsyncClient:
    def answer(_: httpx.Request) -> httpx.Response:
        headers = {"Location": "/elsewhere"} if status in range(300, 400) else {}
        return httpx.Response(status, headers=headers, stream=body)

    return httpx.AsyncClient(transport=httpx.MockTransport(answer))


def calls_of(client: AsyncInferenceClient) -> dict[str, Callable[[], Awaitable[object]]]:
    return {"read": lambda: client.get_job(12), "batch": lambda: client.submit(a_request())}


@pytest.mark.parametrize("call", ["read", "batch"])
async def test_an_answer_that_does_not_close_is_left_after_a_second(call: str) -> None:
    async with (
        a_client_of(Body(JOB, closing=1e9)) as http_client,
        AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=http_client, retry=ONCE) as client,
    ):
        began = anyio.current_time()
        with pytest.raises(NoResponse if call == "read" else InvalidResponse):
            await calls_of(client)[call]()
        assert anyio.current_time() - began == pytest.approx(1.0)


async def test_an_answer_that_is_whole_and_does_not_close_is_taken_after_a_second() -> None:
    class Whole(Body):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield JOB

    async with (
        a_client_of(Whole(JOB, closing=1e9)) as http_client,
        AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=http_client, retry=ONCE) as client,
    ):
        began = anyio.current_time()
        assert (await client.get_job(12)).status == "Queued"
        assert anyio.current_time() - began == pytest.approx(1.0)


@pytest.mark.parametrize("call", ["read", "batch"])
async def test_an_answer_is_closed_also_when_the_call_is_cancelled(call: str) -> None:
    body = Body(JOB, after=10.0, closing=0.9)
    async with (
        a_client_of(body) as http_client,
        AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=http_client) as client,
    ):
        with anyio.move_on_after(5) as scope:
            await calls_of(client)[call]()
        assert scope.cancelled_caught
        assert body.has_closed


async def take_all(_: int, __: Mapping[str, str]) -> Callable[[bytes], None]:
    return lambda _: None


LINK: Final = signed_link("https://files.example/export.zip?signature=canary")


async def test_a_file_that_does_not_close_is_left_after_a_second() -> None:
    body = Body(b"PK", closing=1e9)
    async with Fetcher(timeout=60.0, make_client=lambda: a_client_of(body)) as fetcher:
        began = anyio.current_time()
        with pytest.raises(NoResponse):
            await fetcher.get(LINK, {}, take_all)
        assert anyio.current_time() - began == pytest.approx(1.0)


async def test_a_redirect_that_does_not_close_is_left_after_a_second() -> None:
    body = Body(b"", closing=1e9)
    async with Fetcher(timeout=60.0, make_client=lambda: a_client_of(body, 302)) as fetcher:
        began = anyio.current_time()
        with pytest.raises(AnnoLabError, match="redirects for ever"):
            await fetcher.get(LINK, {}, take_all)
        assert anyio.current_time() - began == pytest.approx(6.0), "five redirects, and one more"


async def test_a_file_is_closed_also_when_its_download_is_cancelled() -> None:
    body = Body(b"PK", after=10.0, closing=0.9)
    async with Fetcher(timeout=60.0, make_client=lambda: a_client_of(body)) as fetcher:
        with anyio.move_on_after(5) as scope:
            await fetcher.get(LINK, {}, take_all)
        assert scope.cancelled_caught
        assert body.has_closed


class SlowToClose(httpx.MockTransport):
    """A transport that is slow to close."""

    def __init__(self, seconds: float) -> None:
        super().__init__(self._answer)
        self.has_closed = False
        self._seconds = seconds

    async def _answer(self, _: httpx.Request) -> httpx.Response:
        await anyio.sleep(0.1)
        return httpx.Response(200, content=JOB)

    async def aclose(self) -> None:
        await anyio.sleep(self._seconds)
        self.has_closed = True


@pytest.mark.parametrize("seconds", [0.9, 1e9])
async def test_a_client_of_downloads_is_closed_within_a_second(seconds: float) -> None:
    transport = SlowToClose(seconds)
    began = 0.0
    with anyio.CancelScope() as scope:
        async with Fetcher(
            timeout=60.0, make_client=lambda: httpx.AsyncClient(transport=transport)
        ):
            began = anyio.current_time()
            scope.cancel()
    assert anyio.current_time() - began == pytest.approx(min(seconds, 1.0))
    assert transport.has_closed == (seconds < 1)


@pytest.mark.parametrize("seconds", [0.2, 1e9])
async def test_connections_that_are_kept_are_closed_within_a_second(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    transports = list[SlowToClose]()

    def transport(**_: object) -> SlowToClose:
        transports.append(SlowToClose(seconds))
        return transports[-1]

    client = AsyncInferenceClient(KEY, base_url=BASE_URL, transport="httpx", retry=ONCE)
    began = 0.0
    with anyio.CancelScope() as scope:
        async with client:
            monkeypatch.setattr(httpx, "AsyncHTTPTransport", transport)
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(client.get_job, 12)
            began = anyio.current_time()
            scope.cancel()
    assert len(transports) == 3
    assert anyio.current_time() - began == pytest.approx(min(seconds * len(transports), 1.0))
    assert all(each.has_closed for each in transports) == (seconds < 1)
