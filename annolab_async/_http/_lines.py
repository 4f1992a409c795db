"""Lines to the server, each for one read at a time.

httpx's pool looks at every connection for every request that waits, which makes a poll among many cost a multiple of
one alone. Here each line has a connection of its own, the idle ones lie on a stack, and a request that only
ever differs in its path is built once.
"""

from __future__ import annotations

import urllib.request
from typing import TYPE_CHECKING, Any, Final, Protocol

import httpx
from anyio import CancelScope

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterable, Awaitable, Callable, Mapping

    import aiohttp
    import yarl

    from annolab_async._http._session import HttpClient

    Answer = tuple[int, Mapping[str, str], bytes]

__all__ = [
    "PLAIN",
    "AiohttpLines",
    "ClientLines",
    "Line",
    "Lines",
    "NativeLines",
    "is_behind_proxy",
]

# A status with 100,000 source ids is about 0.8 MB.
_LARGEST_BODY: Final = 4 * 2**20
# Servers and load balancers commonly keep an idle connection for 60 s.
_KEEP_ALIVE_SECONDS: Final = 55.0
_GOODBYE_SECONDS: Final = 1.0
# An answer is smaller than what unpacking it costs.
PLAIN: Final = {"Accept-Encoding": "identity"}


class Line(Protocol):
    """A way to the server, for one read at a time."""

    async def read(self, path: str) -> Answer:
        """Return the whole answer to a GET request; after an error or a cancellation the line is broken."""
        ...

    async def aclose(self) -> None:
        """Hang up."""
        ...


class Lines(Protocol):
    """Where lines come from."""

    def open(self) -> Line:
        """Return a new line; it connects when it is first used."""
        ...

    async def aclose(self) -> None:
        """Let go of what the lines share."""
        ...


def is_behind_proxy() -> bool:
    """Return whether the environment names a proxy."""
    return not urllib.request.getproxies().keys().isdisjoint({"http", "https", "all"})


class NativeLines:
    """Lines on httpx's own transport: one that has a single connection for each, called directly.

    Where the environment names a proxy, each line is a client instead, since a client knows which way to take.

    Args:
        origin: scheme, host and port.
        headers: of every request.
        context: what all lines do TLS with.
        timeout: seconds that connecting may take.
    """

    def __init__(
        self, origin: str, headers: httpx.Headers, context: ssl.SSLContext, timeout: float
    ) -> None:
        self._origin = origin
        self._headers = httpx.Headers({**headers, **PLAIN})
        self._context = context
        self._timeout = timeout
        self._limits = httpx.Limits(max_connections=1, keepalive_expiry=_KEEP_ALIVE_SECONDS)
        self._is_behind_proxy = is_behind_proxy()

    def open(self) -> Line:
        """Return a new line."""
        if self._is_behind_proxy:
            client = httpx.AsyncClient(
                verify=self._context, limits=self._limits, timeout=self._timeout
            )
            return _ClientLine(client, self._origin, self._headers, self._timeout, client.aclose)
        transport = httpx.AsyncHTTPTransport(verify=self._context, limits=self._limits)
        # The deadline bounds everything; connecting has a timeout of its own, since httpx leaves a handshake that
        # is cancelled to the garbage collector.
        request = httpx.Request(
            "GET",
            self._origin,
            headers=self._headers,
            extensions={"timeout": {"connect": self._timeout}},
        )
        return _TransportLine(transport, request)

    async def aclose(self) -> None:
        """Nothing is shared but the TLS context."""


class _TransportLine:
    def __init__(self, transport: httpx.AsyncHTTPTransport, request: httpx.Request) -> None:
        self._transport = transport
        self._request = request

    async def read(self, path: str) -> Answer:
        # httpcore's extension takes the place of the URL's path: parsing a URL costs more than the rest of this.
        self._request.extensions["target"] = path.encode("ascii")
        response = await self._transport.handle_async_request(self._request)
        stream: Any = response.stream
        try:
            if "content-encoding" in response.headers:  # although "identity" was asked for
                body = await _whole(response.aiter_bytes(), None)
            else:
                body = await _whole(stream, _length(response.headers))
        finally:
            await stream.aclose()
        return response.status_code, response.headers, body

    async def aclose(self) -> None:
        await self._transport.aclose()


class ClientLines:
    """Lines through a client of the caller's, with its auth, hooks, cookies, proxies and pool, whatever they cost.

    Args:
        client: the caller's client.
        origin: scheme, host and port.
        headers: of every request.
        timeout: seconds that one phase of a request may take.
    """

    def __init__(
        self, client: HttpClient, origin: str, headers: httpx.Headers, timeout: float
    ) -> None:
        self._line = _ClientLine(client, origin, headers, timeout, _do_nothing)

    def open(self) -> Line:
        """Return the one line that there is: it takes any number of reads at once."""
        return self._line

    async def aclose(self) -> None:
        """The caller closes what the caller made."""


class _ClientLine:
    def __init__(
        self,
        client: HttpClient,
        origin: str,
        headers: httpx.Headers,
        timeout: float,
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self._client: Any = client
        self._origin = origin
        self._headers = headers
        self._timeout = timeout
        self._close = close

    async def read(self, path: str) -> Answer:
        # Built anew each time: a request once built does not follow the client's headers and cookies.
        request = self._client.build_request(
            "GET", self._origin + path, headers=self._headers, timeout=self._timeout
        )
        # Not following redirects, nor putting the client's auth in the place of the key.
        response = await self._client.send(request, auth=None, follow_redirects=False)
        return response.status_code, response.headers, response.content

    async def aclose(self) -> None:
        await self._close()


async def _do_nothing() -> None:
    pass


class AiohttpLines:
    """Lines on aiohttp, which reads HTTP with a parser in C. On asyncio only.

    Args:
        origin: scheme, host and port.
        headers: of every request.
        context: what all lines do TLS with.
    """

    def __init__(self, origin: str, headers: httpx.Headers, context: ssl.SSLContext) -> None:
        import aiohttp  # noqa: PLC0415  # an extra
        from yarl import URL  # noqa: PLC0415  # aiohttp's own

        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, ssl=context, keepalive_timeout=_KEEP_ALIVE_SECONDS
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={**headers, **PLAIN},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            trust_env=is_behind_proxy(),
        )
        self._line = _AiohttpLine(self._session, URL(origin))

    def open(self) -> Line:
        """Return the one line that there is: it takes any number of reads at once."""
        return self._line

    async def aclose(self) -> None:
        """Close the session and with it all connections."""
        await self._session.close()


class _AiohttpLine:
    def __init__(self, session: aiohttp.ClientSession, origin: yarl.URL) -> None:
        self._session = session
        self._origin = origin

    async def read(self, path: str) -> Answer:
        # Already encoded, and cheaper than parsing the whole.
        url = self._origin.with_path(path, encoded=True)
        async with self._session.get(url, allow_redirects=False) as response:
            length = response.content_length
            is_plain = "Content-Encoding" not in response.headers
            if is_plain and length is not None and length <= _LARGEST_BODY:
                return response.status, response.headers, await response.read()
            body = bytearray()
            async for part in response.content.iter_any():
                body += part
                # From a fast server this loop may never yield to the event loop: nothing else would end it.
                if len(body) > _LARGEST_BODY:
                    raise _too_long()
            return response.status, response.headers, bytes(body)

    async def aclose(self) -> None:
        """The session drops a connection that failed by itself."""


def _length(headers: Mapping[str, str]) -> int | None:
    # Two of them, or none: then the body is measured as it comes.
    length = headers.get("content-length", "")
    return int(length) if length.isdecimal() else None


async def _whole(parts: AsyncIterable[bytes], length: int | None) -> bytes:
    """Return a body of httpx's in one piece.

    Args:
        parts: the body.
        length: its length as announced; the transport sees to it that this is so.

    Raises:
        httpx.RemoteProtocolError: it is longer than any status is.
    """
    if length is not None and length <= _LARGEST_BODY:
        return b"".join([part async for part in parts])
    body = b""
    # Cancelled and not just left: trio warns of a generator that is not read to its end, and httpcore nests three.
    with CancelScope() as scope:
        async for part in parts:
            body += part
            if len(body) > _LARGEST_BODY:
                scope.cancel()
    if scope.cancel_called:
        raise _too_long()
    return body


def _too_long() -> httpx.RemoteProtocolError:
    return httpx.RemoteProtocolError(
        f"the answer is longer than {_LARGEST_BODY} bytes, which no job's status is"
    )
