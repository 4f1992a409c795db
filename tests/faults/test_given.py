"""What can be told of a client that the caller brought, and of the environment; what libraries log of our requests."""

from __future__ import annotations

import logging
import socket
import ssl
import sys
from typing import TYPE_CHECKING, Any

import httpx
import httpx2
import pytest

from annolab_async import AsyncInferenceClient, ConfigurationError, InvalidResponse
from annolab_async._http import Fetcher, check_bounds, has_network
from annolab_async._http._given import build, check_client, is_stock, pool_size
from annolab_async._http._quiet import CURRENT_KEY, quieten
from annolab_async._http._transports import (
    check_transport,
    is_behind_proxy,
    own_client,
    suits_aiohttp,
)
from annolab_async._secret import ApiKey
from tests.service import BASE_URL, KEY

if TYPE_CHECKING:
    from collections.abc import Callable

URL = "https://api.example"
LIBRARIES = pytest.mark.parametrize("library", [httpx, httpx2])


def nobody(_: object) -> Any:
    raise AssertionError


@LIBRARIES
def test_a_client_that_has_a_network_tells_how_many_connections_it_makes(library: Any) -> None:
    client = library.AsyncClient(limits=library.Limits(max_connections=7))
    assert has_network(client, URL)
    assert is_stock(client, URL)
    assert pool_size(client, URL) == 7
    check_client(client)
    unbounded = library.AsyncClient(limits=library.Limits(max_connections=None))
    size = pool_size(unbounded, URL)
    assert size is None or size > 10**6


@LIBRARIES
@pytest.mark.parametrize("kind", ["ASGITransport", "MockTransport"])
def test_a_client_in_this_process_tells_nothing(library: Any, kind: str) -> None:
    client = library.AsyncClient(transport=getattr(library, kind)(nobody))
    assert not has_network(client, URL)
    assert not is_stock(client, URL)
    assert pool_size(client, URL) is None


def test_what_counts_is_where_requests_for_the_url_go() -> None:
    mounts = {"https://api.example": httpx.MockTransport(nobody)}
    client = httpx.AsyncClient(mounts=mounts)
    assert not has_network(client, URL)
    assert has_network(client, "https://other.example")


class Wrapped(httpx.AsyncBaseTransport):
    """A transport of the caller's own, with a pool of whatever."""

    def __init__(self, size: object) -> None:
        self._pool = self
        self._max_connections = size


@pytest.mark.parametrize(
    ("size", "told"), [(1, 1), (2, 2), (0, None), (-1, None), (True, None), ("9", None)]
)
def test_of_another_transport_only_a_number_is_believed(size: object, told: int | None) -> None:
    client = httpx.AsyncClient(transport=Wrapped(size))
    assert has_network(client, URL)
    assert not is_stock(client, URL)
    assert pool_size(client, URL) == told


def test_a_client_that_is_not_as_we_know_it_has_a_network_of_which_nothing_is_known() -> None:
    client = httpx.AsyncClient()
    setattr(client, "_transport_for_url", nobody)  # noqa: B010  # type checkers would not have it
    assert has_network(client, URL)
    assert not is_stock(client, URL)
    assert pool_size(client, URL) is None


@pytest.mark.parametrize("client", [None, object(), httpx.Client(), httpx.AsyncHTTPTransport()])
def test_what_is_no_client_is_named(client: Any) -> None:
    name = type(client).__qualname__
    with pytest.raises(ConfigurationError, match=rf"http_client is a {name}, not an httpx\.Async"):
        check_client(client)


@LIBRARIES
def test_a_cookie_that_fits_into_no_header_is_a_typed_error(library: Any) -> None:
    client = library.AsyncClient()
    assert build(client, "GET", URL, headers={"X": "1"}).headers["X"] == "1"
    client.headers["X"] = "1"
    client.build_request = too_odd
    with pytest.raises(httpx.LocalProtocolError, match="other characters than ASCII"):
        build(client, "GET", URL)


def too_odd(*_: object, **__: object) -> None:
    "é".encode("ascii")


@pytest.mark.parametrize(
    ("variable", "is_behind"),
    [("HTTP_PROXY", True), ("HTTPS_PROXY", True), ("ALL_PROXY", True), ("FTP_PROXY", False)],
)
def test_a_proxy_for_http_in_the_environment_may_be_taken(
    monkeypatch: pytest.MonkeyPatch, variable: str, *, is_behind: bool
) -> None:
    assert not is_behind_proxy(URL)
    assert suits_aiohttp(URL)
    monkeypatch.setenv(variable, "http://proxy.example:3128")
    assert is_behind_proxy(URL) is is_behind
    assert suits_aiohttp(URL) is not is_behind
    for here in ("http://localhost", "http://a.localhost:80", "http://127.0.0.9", "http://[::1]"):
        assert not is_behind_proxy(here)


@pytest.mark.parametrize("here", ["localhost", "a.localhost", "127.0.0.1", "[::1]"])
@pytest.mark.parametrize("url", [None, URL])
def test_a_client_of_our_own_takes_the_proxy_and_none_to_this_machine(
    monkeypatch: pytest.MonkeyPatch, url: str | None, here: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://proxy.example:3128")
    client = own_client(ssl.create_default_context(), httpx.Limits(), url)
    # Which transport a client takes is told in public by nothing but a proxy that is asked.
    assert client._transport_for_url(httpx.URL(URL)) is not client._transport
    assert client._transport_for_url(httpx.URL(f"http://{here}/x")) is client._transport


def test_a_proxy_that_cannot_be_used_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "gopher://proxy.example")
    with pytest.raises(ConfigurationError, match=r"cannot be used: .*gopher"):
        own_client(ssl.create_default_context(), httpx.Limits())


def found_nowhere(_: str) -> None:
    return None


def test_a_transport_is_one_of_three_and_has_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[Any] = ["auto", "httpx", "aiohttp"]
    for name in names:
        check_transport(name, has_client=False)
    for name in names[:2]:
        check_transport(name, has_client=True)
    with pytest.raises(ConfigurationError, match="does not go with an http_client"):
        check_transport("aiohttp", has_client=True)
    for name in ("", "AIOHTTP", "requests", None):
        with pytest.raises(ConfigurationError, match=f"transport is {name!r}, not 'auto'"):
            check_transport(name, has_client=False)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.setattr("annolab_async._http._transports.find_spec", found_nowhere)
    for name in names[:2]:
        check_transport(name, has_client=False)
    assert not suits_aiohttp(URL)
    with pytest.raises(ConfigurationError, match=r"pip install 'annolab-async\[aiohttp\]'"):
        check_transport("aiohttp", has_client=False)


def test_bounds_that_make_no_sense_are_named() -> None:
    check_bounds(timeout=0.1, max_connections=1)
    for timeout in (0, -1, float("nan")):
        with pytest.raises(ConfigurationError, match=f"timeout is {timeout}, not a positive"):
            check_bounds(timeout=timeout, max_connections=1)
    most: Any
    for most in (0, -1, True, 1.0):
        with pytest.raises(ConfigurationError, match=f"max_connections is {most}, not an integer"):
            check_bounds(timeout=0.1, max_connections=most)


def test_a_client_takes_no_more_at_once_than_its_pool() -> None:
    def at_once(client: httpx.AsyncClient | None, most: int = 5) -> int:
        made = AsyncInferenceClient(
            KEY, base_url=BASE_URL, http_client=client, max_connections=most
        )
        return made._session.max_at_once

    limited = httpx.AsyncClient(limits=httpx.Limits(max_connections=3))
    assert at_once(limited) == 3
    assert at_once(limited, 2) == 2
    assert at_once(httpx.AsyncClient(transport=httpx.MockTransport(nobody))) == 5
    assert at_once(None) == 5


LOGGERS = [
    *("httpx", "httpx2"),
    *(
        f"{core}.{part}"
        for core in ("httpcore", "httpcore2")
        for part in ("connection", "http11", "http2", "proxy", "socks")
    ),
]


def set_up_a_client() -> None:
    AsyncInferenceClient(KEY, base_url=BASE_URL)


def set_up_a_download() -> None:
    Fetcher(timeout=1.0)


@pytest.mark.parametrize("set_up", [set_up_a_client, set_up_a_download, quieten])
def test_no_logger_of_the_libraries_shows_a_secret_of_ours(
    set_up: Callable[[], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (*LOGGERS, "hpack.hpack", "hpack.table"):
        monkeypatch.setattr(logging.getLogger(name), "filters", [])
        caplog.set_level(logging.DEBUG, name)
    set_up()
    token = CURRENT_KEY.set(ApiKey(KEY))
    try:
        for name in LOGGERS:
            logging.getLogger(name).debug("a %s at %s", f"key {KEY}", "/x?signature=1")
        for name in ("hpack.hpack", "hpack.table"):
            logging.getLogger(name).debug("packed")
    finally:
        CURRENT_KEY.reset(token)
    assert [record.message for record in caplog.records] == ["a key [API key] at /x?[hidden]"] * 12
    caplog.clear()
    for name in (*LOGGERS, "hpack.hpack", "hpack.table"):
        logging.getLogger(name).debug("of others: %s", "/x?signature=1")
    assert [record.message for record in caplog.records] == ["of others: /x?signature=1"] * 14


@pytest.mark.anyio
@pytest.mark.parametrize(("version", "is_shut"), [(b"HTTP/1.1", True), (b"HTTP/2", False)])
async def test_a_connection_that_gave_nonsense_is_shut_unless_others_have_requests_on_it(
    version: bytes, *, is_shut: bool
) -> None:
    ours, theirs = socket.socketpair()

    class Stream:
        def get_extra_info(self, _: str) -> socket.socket:
            return ours

    def answer(_: httpx.Request) -> httpx.Response:
        extensions = {"http_version": version, "network_stream": Stream()}
        return httpx.Response(200, stream=httpx.ByteStream(b"<html>"), extensions=extensions)

    with ours, theirs:
        theirs.setblocking(False)
        async with (
            httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http_client,
            AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=http_client) as client,
        ):
            with pytest.raises(InvalidResponse):
                await client.get_job(1)
        if is_shut:
            assert theirs.recv(1) == b""
        else:
            with pytest.raises(BlockingIOError):
                theirs.recv(1)
