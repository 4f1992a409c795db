"""Lines to the server, each for one read at a time.

httpx's pool looks at every connection for every request that waits, which makes a poll among many cost a multiple of
one alone. Here each line has a connection of its own, the idle ones lie on a stack, and a request that only
ever differs in its path is built once.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

import httpx

from annolab_async._http._bodies import Body, NoBody, plain_length
from annolab_async._http._closing import close_in_time
from annolab_async._http._faults import Progress
from annolab_async._http._given import build
from annolab_async._http._parts import take_in
from annolab_async._http._transports import is_behind_proxy, own_client

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterable, Mapping

    import yarl

    from annolab_async._http._given import HttpClient

    # Status, headers, body, and what is wrong with the body if it did not come whole.
    Answer = tuple[int, Mapping[str, str], bytes, str | None]
    Phases = tuple[float, float, float, float]

__all__ = [
    "AiohttpLines",
    "ClientLines",
    "Line",
    "Lines",
    "NativeLines",
    "with_more",
]

# Servers and load balancers commonly keep an idle connection for 60 s.
_KEEP_ALIVE_SECONDS: Final = 55.0
_OK: Final = range(200, 300)


class Line(Protocol):
    """A way to the server, for one read at a time."""

    async def read(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Return the answer to a GET request; after an error or a cancellation the line is broken.

        Args:
            path: what to ask for.
            headers: what to send besides the headers of every request.
        """
        ...

    async def release(self) -> None:
        """Take note that the answer is what was asked for: its connection may be used again."""
        ...

    async def aclose(self) -> None:
        """Hang up, so that nobody is given what may still come on this connection."""
        ...


class Lines(Protocol):
    """Where lines come from."""

    def open(self) -> Line:
        """Return a new line; it connects when it is first used."""
        ...


def with_more(ours: httpx.Headers, more: Mapping[str, str] | None) -> httpx.Headers:
    """Return our headers with others besides; ours themselves if there are none."""
    if not more:
        return ours
    headers = ours.copy()
    headers.update(more)
    return headers


class NativeLines:
    """Lines on httpx's own transport: one that has a single connection for each, called directly.

    Where the environment names a proxy, each line is a client instead, since a client knows which way to take.

    Args:
        origin: scheme, host and port.
        headers: of every request.
        context: what all lines do TLS with.
        phases: seconds that connecting, reading, writing and waiting for a pool may take.
    """

    def __init__(
        self, origin: str, headers: httpx.Headers, context: ssl.SSLContext, phases: Phases
    ) -> None:
        self._origin = origin
        self._headers = headers
        self._context = context
        self._phases = phases
        self._limits = httpx.Limits(max_connections=1, keepalive_expiry=_KEEP_ALIVE_SECONDS)
        self._is_behind_proxy = is_behind_proxy(origin)

    def open(self) -> Line:
        """Return a new line."""
        if self._is_behind_proxy:
            client = own_client(self._context, self._limits, self._origin)
            return _OwnClientLine(client, self._origin, self._headers, self._phases)
        transport = httpx.AsyncHTTPTransport(verify=self._context, limits=self._limits)
        # The deadline bounds everything; connecting has a timeout of its own, since httpx leaves a handshake that
        # is cancelled to the garbage collector.
        request = httpx.Request(
            "GET",
            self._origin,
            headers=self._headers,
            extensions={"timeout": {"connect": self._phases[0]}},
        )
        return _TransportLine(transport, request)


class _TransportLine:
    def __init__(self, transport: httpx.AsyncHTTPTransport, request: httpx.Request) -> None:
        self._transport = transport
        self._request = request
        self._headers = request.headers  # with those that httpx adds

    async def read(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        self._request.headers = with_more(self._headers, headers)
        # httpcore's extension takes the place of the URL's path: parsing a URL costs more than the rest of this.
        self._request.extensions["target"] = path.encode("ascii")
        response = await self._transport.handle_async_request(self._request)
        stream: Any = response.stream
        try:
            return await _received(response.status_code, response.headers, stream)
        finally:
            await stream.aclose()

    async def release(self) -> None:
        """The connection is the line's own."""

    async def aclose(self) -> None:
        await self._transport.aclose()


class ClientLines:
    """Lines through a client of the caller's, with its auth, hooks, cookies, proxies and pool, whatever they cost.

    Args:
        client: the caller's client.
        origin: scheme, host and port.
        headers: of every request.
        phases: seconds that connecting, reading, writing and waiting for the pool may take.
    """

    def __init__(
        self, client: HttpClient, origin: str, headers: httpx.Headers, phases: Phases
    ) -> None:
        self._parts = client, origin, headers, phases

    def open(self) -> Line:
        """Return a new line; whose connection it gets is up to the client's pool."""
        return _ClientLine(*self._parts)


class _ClientLine:
    def __init__(
        self, client: HttpClient, origin: str, headers: httpx.Headers, phases: Phases
    ) -> None:
        self._client: Any = client
        self._origin = origin
        self._headers = headers
        self._phases = phases
        self._response: Any = None  # whose connection is still held
        self._is_whole = False

    async def read(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        self._response, self._is_whole = None, False
        # Built anew each time: a request once built does not follow the client's headers and cookies.
        progress = Progress()
        request = build(
            self._client,
            "GET",
            self._origin + path,
            headers=with_more(self._headers, headers),
            timeout=self._phases,
            extensions={"trace": progress.trace},
        )
        try:
            # Not following redirects, nor putting the client's auth in the place of the key.
            response = await self._client.send(
                request, auth=None, follow_redirects=False, stream=True
            )
        except Exception as fault:
            if (head := progress.redirect(fault)) is not None:
                return head[0], httpx.Headers(head[1]), b"", "it is not read"
            if Progress().proves_unsent(fault) and not progress.proves_unsent(fault):
                # Over HTTP/2 a bad answer goes by the name of a bad request, which no repetition would mend.
                raise ConnectionError(f"{type(fault).__name__}: {fault}") from fault
            raise
        if response.is_stream_consumed:  # by a hook of the client's, or it never was a stream
            return response.status_code, response.headers, response.content, None
        self._response = response
        # Not response.aiter_raw(), which at its end hands the connection to who is next: that is to wait until
        # somebody has looked at the answer.
        answer = await _received(response.status_code, response.headers, response.stream)
        self._is_whole = True
        return answer

    async def release(self) -> None:
        if self._response is not None:
            await close_in_time(self._response.aclose)

    async def aclose(self) -> None:
        # The caller closes what the caller made: just this connection is taken out of use. After a failure the
        # library has done that, and it may be another's by now; over HTTP/2 others have requests under way.
        response = self._response
        if response is None:
            return
        if self._is_whole and response.http_version != "HTTP/2":
            # Not closed, which its pool on trio does not bear: so it looks as if the server had, and the pool drops it.
            with suppress(OSError, AttributeError, KeyError):
                connection = response.extensions["network_stream"].get_extra_info("socket")
                connection.shutdown(socket.SHUT_RDWR)
        await response.aclose()


class _OwnClientLine(_ClientLine):
    async def aclose(self) -> None:
        await self._client.aclose()


class AiohttpLines:
    """Lines on aiohttp, which reads HTTP with a parser in C. On asyncio only, and behind no proxy.

    Args:
        origin: scheme, host and port.
        headers: of every request.
        context: what all lines do TLS with.
    """

    def __init__(self, origin: str, headers: dict[str, str], context: ssl.SSLContext) -> None:
        from yarl import URL  # noqa: PLC0415  # aiohttp's own

        self._origin = URL(origin)
        self._headers = headers
        self._context = context

    def open(self) -> Line:
        """Return a new line."""
        import aiohttp  # noqa: PLC0415  # an extra

        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=1, ssl=self._context, keepalive_timeout=_KEEP_ALIVE_SECONDS
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            auto_decompress=False,
        )
        # By itself it sends a read whose connection breaks once more, also on a fresh one: in an outage that would
        # be twice as many. There is no public switch.
        setattr(session, "_retry_connection", False)  # noqa: B010
        return _AiohttpLine(session, self._origin)


class _AiohttpLine:
    def __init__(self, session: Any, origin: yarl.URL) -> None:
        self._session = session
        self._origin = origin

    async def read(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        plain, _, query = path.partition("?")
        # Already encoded, and cheaper than parsing the whole.
        url = self._origin.with_path(plain, encoded=True)
        if query:
            url = self._origin.join(type(url)(path, encoded=True))
        async with self._session.get(url, headers=headers, allow_redirects=False) as response:
            if plain_length(response.headers) is not None:
                return response.status, response.headers, await response.read(), None
            return await _received(response.status, response.headers, response.content.iter_any())

    async def release(self) -> None:
        """The connection is the line's own."""

    async def aclose(self) -> None:
        await self._session.close()


async def _received(
    status_code: int, headers: Mapping[str, str], parts: AsyncIterable[bytes]
) -> Answer:
    """Return an answer of which the head has come.

    Args:
        status_code: its status.
        headers: its headers.
        parts: its body, as it stands on the wire.

    Raises:
        Exception: whatever the parts raise, unless the status alone tells enough.
    """
    try:
        if plain_length(headers) is not None:  # the transport sees to it that the length is so
            return status_code, headers, b"".join([part async for part in parts]), None
        body, fault = await _measured(headers, parts)
    except Exception:
        if status_code in _OK:
            raise
        body, fault = b"", "it is cut off"
    return status_code, headers, body, fault


async def _measured(
    headers: Mapping[str, str], parts: AsyncIterable[bytes]
) -> tuple[bytes, str | None]:
    reason: str | None = None
    try:
        body = Body(headers)
    except NoBody as fault:
        return b"", str(fault)

    def take(part: bytes) -> bool:
        nonlocal reason
        try:
            body.feed(part)
        except NoBody as fault:
            reason = str(fault)
        return reason is None

    await take_in(parts, take)
    if reason is None:
        try:
            return body.whole(), None
        except NoBody as fault:
            reason = str(fault)
    return body.so_far(), reason
