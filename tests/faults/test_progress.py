"""What is concluded from how far a request came and from what was raised, whichever library raised it."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, Final

import anyio
import httpcore
import httpx
import pytest

from annolab_async import AsyncInferenceClient, NoResponse, RequestNotSent, RetryPolicy
from annolab_async._http import Progress
from annolab_async._http._faults import error_of, is_of_the_wire, may_be_stale, scrubbed
from annolab_async._secret import LINKS, ApiKey
from tests.service import BASE_URL, KEY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HEADERS: Final = [(b"content-type", b"application/json")]
POST: Final = httpcore.Request("POST", "https://api.example")
CONNECTING: Final[tuple[str, Any]] = ("connect_tcp.started", {})
CONNECTED: Final[tuple[str, Any]] = ("connect_tcp.complete", {})
STARTED: Final[tuple[str, Any]] = ("send_request_headers.started", {"request": POST})
COMPLETE: Final[tuple[str, Any]] = ("send_request_headers.complete", {})
FAILED: Final[tuple[str, Any]] = ("send_request_headers.failed", {})
CONNECT: Final = httpcore.Request("CONNECT", "https://api.example")
TUNNEL: Final[tuple[str, Any]] = ("send_request_headers.started", {"request": CONNECT})


def answered(status: int) -> tuple[str, Any]:
    told = (b"HTTP/1.1", status, b"Reason", HEADERS, None)
    return "receive_response_headers.complete", {"return_value": told}


def progress_of(*events: tuple[str, Any], is_traced: bool = False) -> Progress:
    async def tell() -> Progress:
        progress = Progress(is_traced=is_traced)
        for event, info in events:
            await progress.trace(f"http11.{event}", info)
        return progress

    return anyio.run(tell)


READ: Final = httpx.ReadTimeout("late")
LOCAL: Final = httpx.LocalProtocolError("no header")


@pytest.mark.parametrize(
    ("events", "may_have_arrived", "is_unsent", "is_unsent_if_local"),
    [
        ([CONNECTING], False, True, True),
        ([STARTED], True, False, True),
        ([CONNECTED, STARTED], True, False, True),
        ([STARTED, FAILED], True, False, True),
        ([STARTED, COMPLETE], True, False, False),
        ([STARTED, COMPLETE, FAILED], True, False, False),
        ([STARTED, COMPLETE, answered(200)], True, False, False),
        ([TUNNEL], False, True, True),
        ([TUNNEL, COMPLETE, answered(200)], False, True, True),
        ([TUNNEL, COMPLETE, answered(200), STARTED], True, False, True),
        ([TUNNEL, COMPLETE, answered(200), STARTED, COMPLETE], True, False, False),
        ([STARTED, COMPLETE, TUNNEL], True, False, False),
    ],
)
def test_how_far_a_request_came_outranks_what_was_raised(
    events: list[tuple[str, Any]],
    *,
    may_have_arrived: bool,
    is_unsent: bool,
    is_unsent_if_local: bool,
) -> None:
    progress = progress_of(*events)
    progress.begin()
    assert progress.may_have_arrived is may_have_arrived
    assert progress.proves_unsent(READ) is is_unsent
    assert progress.proves_unsent(LOCAL) is is_unsent_if_local


@pytest.mark.parametrize("is_traced", [True, False])
def test_of_what_tells_nothing_the_name_of_what_was_raised_is_believed(*, is_traced: bool) -> None:
    progress = Progress(is_traced=is_traced)
    assert not progress.may_have_arrived
    progress.begin()
    assert progress.may_have_arrived is not is_traced
    assert progress.proves_unsent(READ) is is_traced
    assert progress.proves_unsent(httpx.ConnectError("")) is True


def test_the_answer_is_told_whatever_the_protocol_and_not_the_proxys() -> None:
    assert progress_of(STARTED, COMPLETE).answer is None
    assert progress_of(STARTED, COMPLETE, answered(302)).answer == (302, HEADERS)
    http2 = ("receive_response_headers.complete", {"return_value": (303, HEADERS)})
    assert progress_of(STARTED, COMPLETE, http2).answer == (303, HEADERS)
    assert progress_of(TUNNEL, COMPLETE, answered(307)).answer is None


@pytest.mark.parametrize(
    ("status", "fault", "is_redirect"),
    [
        (302, httpx.InvalidURL("x"), True),
        (300, httpx.RemoteProtocolError("x"), True),
        (399, UnicodeEncodeError("ascii", "é", 0, 1, "x"), True),
        (302, httpx.ReadTimeout("x"), False),
        (299, httpx.InvalidURL("x"), False),
        (400, httpx.InvalidURL("x"), False),
    ],
)
def test_a_redirect_that_is_none_is_an_answer(
    status: int, fault: Exception, *, is_redirect: bool
) -> None:
    progress = progress_of(STARTED, COMPLETE, answered(status))
    assert progress.redirect(fault) == ((status, HEADERS) if is_redirect else None)
    assert progress_of(STARTED).redirect(fault) is None


def named(name: str) -> Exception:
    """Return an exception of one of the libraries, which need not be there."""
    found = getattr(httpx, name, None) or type(name, (Exception,), {})
    return found("what happened")  # type: ignore[no-any-return]


UNSENT: Final = [
    "ConnectError",
    "ConnectTimeout",
    "LocalProtocolError",
    "PoolTimeout",
    "ProxyError",
    "UnsupportedProtocol",
    "ClientConnectorError",
]
MAYBE: Final = [
    "ReadError",
    "WriteError",
    "ReadTimeout",
    "WriteTimeout",
    "RemoteProtocolError",
    "CloseError",
    "DecodingError",
    "ServerDisconnectedError",
    "ClientOSError",
]


@pytest.mark.parametrize("name", UNSENT + MAYBE)
def test_only_what_is_raised_before_the_first_byte_proves_that_nothing_was_sent(name: str) -> None:
    error = error_of(named(name), method="POST", path="/")
    assert isinstance(error, RequestNotSent if name in UNSENT else NoResponse)


@pytest.mark.parametrize(
    ("fault", "is_final"),
    [
        (ssl.SSLCertVerificationError("x"), True),
        (named("ClientConnectorCertificateError"), True),
        (httpx.InvalidURL("x"), True),
        (httpx.UnsupportedProtocol("x"), True),
        (LOCAL, True),
        (ImportError("x"), True),
        (httpx.ConnectError("x"), False),
        (ssl.SSLError("x"), False),
        (OSError("x"), False),
    ],
)
def test_what_has_to_be_mended_before_is_final_wherever_it_stands(
    fault: Exception, *, is_final: bool
) -> None:
    cause, context, both = (httpx.ConnectError("it failed") for _ in range(3))
    cause.__cause__ = fault
    context.__context__ = fault
    # As anyio has it where a host has several addresses.
    both.__cause__ = ExceptionGroup("attempts", [TimeoutError(), ExceptionGroup("", [fault])])
    for raised in (cause, context, both):
        error = error_of(raised, method="GET", path="/")
        assert isinstance(error, RequestNotSent)
        assert error.is_final is is_final


@pytest.mark.parametrize("name", ["RequestError", "InvalidURL", "ClientError", "ConnectionError"])
def test_what_libraries_raise_about_a_request_is_of_the_wire(name: str) -> None:
    fault = ConnectionError() if name == "ConnectionError" else type(name, (Exception,), {})()
    assert is_of_the_wire(fault)
    assert not is_of_the_wire(ValueError())


@pytest.mark.parametrize(
    ("name", "is_stale"),
    [
        ("ReadError", True),
        ("WriteError", True),
        ("RemoteProtocolError", True),
        ("ServerDisconnectedError", True),
        ("ClientOSError", True),
        ("ReadTimeout", False),
        ("ConnectError", False),
    ],
)
def test_only_what_a_closed_connection_raises_is_tried_on_another(
    name: str, *, is_stale: bool
) -> None:
    assert may_be_stale(named(name)) is is_stale


def test_nothing_of_a_failure_that_is_shown_holds_the_request() -> None:
    key = ApiKey(KEY)
    request = httpx.Request("GET", "https://x.example", headers={"Authorization": KEY})
    inner = httpx.ReadError(f"about {KEY}", request=request)
    inner.args = (f"about {KEY}", 7, None, request, OSError("kept"))
    inner.message = [KEY]  # type: ignore[attr-defined]  # aiohttp's may be half an answer
    outer = httpx.HTTPStatusError("no", request=request, response=httpx.Response(500))
    outer.message = "a text"  # type: ignore[attr-defined]
    try:
        raise outer from ExceptionGroup("several", [inner])
    except httpx.HTTPStatusError as error:
        fault = scrubbed(error, key)
    assert fault is outer
    assert fault.__traceback__ is None
    assert [vars(outer)[name] for name in ("_request", "response")] == [None, None]
    assert outer.message == "a text"  # type: ignore[attr-defined]
    assert inner._request is None
    assert inner.message == ""  # type: ignore[attr-defined]
    assert [*inner.args[:4]] == ["about [API key]", 7, None, "Request"]
    assert isinstance(inner.args[4], OSError)


def test_failures_that_led_to_each_other_come_to_an_end() -> None:
    one, other = httpx.ConnectError("one"), OSError("other")
    one.__cause__, other.__context__ = other, one
    assert scrubbed(one, LINKS) is one
    assert error_of(one, method="GET", path="/").cause is one  # type: ignore[attr-defined]


def test_a_failure_that_cannot_be_without_its_request_becomes_another() -> None:
    fault = type("ClientResponseError", (Exception,), {"request_info": "all of it"})("a?b=secret")
    shown = scrubbed(fault, LINKS)
    assert type(shown) is ConnectionError
    assert str(shown) == "ClientResponseError: a?[hidden]"


@pytest.mark.anyio
@pytest.mark.any_backend
@pytest.mark.parametrize("status", [200, 299, 300, 404])
async def test_of_an_answer_that_is_no_success_the_status_tells_enough(status: int) -> None:
    class Broken(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b'{"message": '
            raise httpx.ReadError("gone")

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(status, stream=Broken())

    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http_client,
        AsyncInferenceClient(
            KEY, base_url=BASE_URL, http_client=http_client, retry=RetryPolicy(attempts=1)
        ) as client,
    ):
        with pytest.raises(Exception, match="gone" if status < 300 else f"answered {status}"):
            await client.get_job(12)
