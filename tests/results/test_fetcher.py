"""How a signed link is asked: for how long, by which way, and how its answer is handed on; in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import anyio
import httpx
import pytest

from annolab_async import AnnoLabError, NoResponse
from annolab_async._http import Fetcher, signed_link
from annolab_async._http._quiet import CURRENT_KEY
from annolab_async._ranges import Remedy, Setback

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

pytestmark = [pytest.mark.anyio, pytest.mark.any_backend]

LINK: Final = signed_link("https://files.example/export.zip?signature=canary")


class Parts(httpx.AsyncByteStream):
    """A body whose parts come after so many seconds each, and which then falls silent if it is to."""

    def __init__(self, *seconds: float, is_silent: bool = False, count: int = 0) -> None:
        self._seconds = seconds or (0.0,) * count
        self._is_silent = is_silent

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for seconds in self._seconds:
            if seconds:
                await anyio.sleep(seconds)
            yield b"part"
        if self._is_silent:
            await anyio.sleep_forever()


class Asked:
    """A server that answers each request in its turn, the last way for ever, and keeps them."""

    def __init__(self, *answers: httpx.Response | Callable[[], Awaitable[httpx.Response]]) -> None:
        self.requests: list[httpx.Request] = []
        self._answers = answers

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self._answers[min(len(self.requests), len(self._answers)) - 1]
        return answer if isinstance(answer, httpx.Response) else await answer()

    def client(self, **settings: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self), **settings)


class Taken:
    """Takes an answer, and keeps what came."""

    def __init__(self, sink: Callable[[bytes], Awaitable[None] | None] | None = None) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.parts: list[bytes] = []
        self._sink = sink

    async def begin(
        self, status: int, headers: Mapping[str, str]
    ) -> Callable[[bytes], Awaitable[None] | None]:
        assert not self.status
        self.status, self.headers = status, headers
        return self._take

    def _take(self, part: bytes) -> Awaitable[None] | None:
        self.parts.append(part)
        return self._sink(part) if self._sink else None


async def fetch(
    asked: Asked, taken: Taken | None = None, *, timeout: float = 16.0, **settings: Any
) -> Taken:
    taken = taken or Taken()
    async with Fetcher(timeout=timeout, make_client=lambda: asked.client(**settings)) as fetcher:
        await fetcher.get(LINK, {"Range": "bytes=1-"}, taken.begin)
    assert CURRENT_KEY.get() is None, "outside of a request, nobody's log lines are changed"
    return taken


async def test_an_answer_is_handed_on_as_it_comes() -> None:
    asked = Asked(httpx.Response(206, headers={"ETag": '"a"'}, stream=Parts(1, 2, 3)))
    taken = await fetch(asked)
    assert (taken.status, taken.headers["etag"], taken.parts) == (206, '"a"', [b"part"] * 3)


async def test_a_request_says_what_it_has_to_and_nothing_of_the_clients() -> None:
    asked = Asked(httpx.Response(200, stream=Parts()))
    await fetch(asked, headers={"X-Ours": "1"}, cookies={"session": "1"}, auth=("user", "password"))
    (request,) = asked.requests
    assert request.method == "GET"
    assert dict(request.headers) == {
        "host": "files.example",
        "accept": "*/*",
        "user-agent": "annolab-async",
        "accept-encoding": "identity",
        "range": "bytes=1-",
    }


async def test_a_connection_has_not_half_of_the_time_that_an_answer_has() -> None:
    asked = Asked(httpx.Response(200, stream=Parts()))
    await fetch(asked, timeout=20.0)
    timeouts = {"connect": 9.0, "read": 20.0, "write": 20.0, "pool": 20.0}
    assert asked.requests[0].extensions["timeout"] == pytest.approx(timeouts)


async def never() -> httpx.Response:
    await anyio.sleep_forever()
    raise AssertionError


async def test_an_answer_that_does_not_begin_in_time_is_not_waited_for() -> None:
    began = anyio.current_time()
    with pytest.raises(AnnoLabError) as caught:
        await fetch(Asked(never))
    assert anyio.current_time() - began == pytest.approx(16.0)
    assert "GET https://files.example" in str(caught.value)


async def test_silence_ends_it_however_much_came_before() -> None:
    taken, began = Taken(), anyio.current_time()
    with pytest.raises(NoResponse, match=r"GET https://files\.example .*nothing came for 16 s"):
        await fetch(
            Asked(httpx.Response(200, stream=Parts(10, 10, 0.5, 0.5, is_silent=True))), taken
        )
    assert len(taken.parts) == 4
    assert 21 + 15 <= anyio.current_time() - began <= 21 + 16
    # A connection that is slow but not silent has all the time that there is.
    assert len((await fetch(Asked(httpx.Response(200, stream=Parts(*[15.9] * 9))))).parts) == 9


async def test_who_takes_a_part_may_take_longer_than_a_server_may() -> None:
    done = list[bytes]()

    async def slowly(part: bytes) -> None:
        await anyio.sleep(100)
        done.append(part)

    await fetch(Asked(httpx.Response(200, stream=Parts(15, 15, 15))), Taken(slowly))
    assert len(done) == 3
    # Then a server has as long as ever.
    began = anyio.current_time()
    with pytest.raises(NoResponse):
        await fetch(Asked(httpx.Response(200, stream=Parts(15, is_silent=True))), Taken(slowly))
    assert anyio.current_time() - began == pytest.approx(15 + 100 + 16)


async def test_a_part_that_is_being_taken_is_taken_to_its_end() -> None:
    done = list[bytes]()

    async def slowly(part: bytes) -> None:
        await anyio.sleep(100)
        done.append(part)

    asked = Asked(httpx.Response(200, stream=Parts(1, 1, 1)))
    # Opened before: while a thread makes the client, virtual time would go on to the deadline.
    async with Fetcher(timeout=16.0, make_client=asked.client) as fetcher:
        with anyio.move_on_after(50) as scope:
            await fetcher.get(LINK, {}, Taken(slowly).begin)
    assert scope.cancelled_caught
    assert len(done) == 1


@pytest.mark.parametrize("is_late", [True, False])
async def test_what_the_one_who_takes_raises_is_raised_at_once(*, is_late: bool) -> None:
    async def late(_: bytes) -> None:
        await anyio.sleep(1)
        raise LookupError("enough")

    def at_once(_: bytes) -> None:
        raise LookupError("enough")

    for parts in (Parts(count=9), Parts(0, 5, 5), Parts(0, is_silent=True)):
        taken, began = Taken(late if is_late else at_once), anyio.current_time()
        with pytest.raises(LookupError, match="enough"):
            await fetch(Asked(httpx.Response(200, stream=parts)), taken)
        assert len(taken.parts) == 1
        assert anyio.current_time() - began == (1 if is_late else 0)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # trio draws whose turn is next
async def test_others_have_their_turn_after_32_parts_that_come_together() -> None:
    turns, seen = 0, list[int]()

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    asked = Asked(httpx.Response(200, stream=Parts(count=100)))
    taken = Taken(lambda _: seen.append(turns))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(others)
        await fetch(asked, taken)
        tasks.cancel_scope.cancel()
    assert [number for number in range(1, 100) if seen[number] != seen[number - 1]] == [32, 64, 96]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed(status: int) -> None:
    asked = Asked(
        httpx.Response(status, headers={"Location": "/other?x=1"}, stream=Parts()),
        httpx.Response(200, stream=Parts(1)),
    )
    taken = await fetch(asked)
    assert (taken.status, b"".join(taken.parts)) == (200, b"part")
    assert [str(request.url) for request in asked.requests] == [
        "https://files.example/export.zip?signature=canary",
        "https://files.example/other?x=1",
    ]
    assert asked.requests[1].headers["range"] == "bytes=1-"


@pytest.mark.parametrize("status", [200, 300, 304, 305, 306, 309, 403])
async def test_other_statuses_with_a_location_are_no_redirects(status: int) -> None:
    asked = Asked(httpx.Response(status, headers={"Location": "/other"}, stream=Parts()))
    assert (await fetch(asked)).status == status
    assert len(asked.requests) == 1


async def test_a_redirect_to_nowhere_is_an_answer() -> None:
    assert (await fetch(Asked(httpx.Response(302, stream=Parts())))).status == 302


async def test_a_redirect_that_the_client_cannot_read_is_not_asked_for_again() -> None:
    async def redirect() -> httpx.Response:
        await asked.requests[-1].extensions["trace"](
            "http11.receive_response_headers.complete",
            {"return_value": (b"HTTP/1.1", 302, b"Found", [], None)},
        )
        raise httpx.InvalidURL("https://files.example/?signature=canary")

    asked = Asked(redirect)
    with pytest.raises(Setback, match=r"files\.example redirects to what is no URL") as caught:
        await fetch(asked)
    assert caught.value.remedy is Remedy.NONE
    assert len(asked.requests) == 1


async def test_a_server_that_redirects_for_ever_may_be_asked_again() -> None:
    asked = Asked(httpx.Response(302, headers={"Location": "/again"}))
    with pytest.raises(Setback, match=r"files\.example redirects for ever") as caught:
        await fetch(asked)
    assert caught.value.remedy is Remedy.AGAIN
    assert len(asked.requests) == 6
