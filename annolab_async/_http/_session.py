"""The way to one server: polls on a stack of lines, submissions on fresh connections."""

from __future__ import annotations

import asyncio
import re
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Literal, Never, Self

import httpx
from anyio import (
    AsyncContextManagerMixin,
    CancelScope,
    Semaphore,
    WouldBlock,
    current_time,
    fail_after,
    get_cancelled_exc_class,
    move_on_after,
)

from annolab_async._http._faults import Progress, error_of, is_of_the_wire, may_be_stale
from annolab_async._http._lines import PLAIN, AiohttpLines, ClientLines, NativeLines
from annolab_async._replies import Reply
from annolab_async.errors import ConfigurationError, NotOpen

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import httpx2

    from annolab_async._http._lines import Answer, Line, Lines

    HttpClient = httpx.AsyncClient | httpx2.AsyncClient

__all__ = ["HttpClient", "HttpSession", "TransportName", "check_base_url", "check_path"]

TransportName = Literal["auto", "httpx", "aiohttp"]

# The share of the deadline that one phase (connecting, writing, each read) may take. Below 1, since httpx closes a
# connection in the middle of a handshake when its own timeout ends it, but leaves it to the garbage collector when
# the deadline does.
_PHASE: Final = 0.9
_CLOSING_SECONDS: Final = 1.0
_LAST_PORT: Final = 65535
_NOT_IN_A_BASE_URL: Final = {"user name": "@", "query": "?", "fragment": "#"}
# Segments that mean themselves: no query, no fragment, nothing that leads upwards.
_PATH: Final = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~%-]+)+")


def check_base_url(base_url: str) -> str:
    """Return a base URL without its trailing slash.

    Raises:
        ConfigurationError: it is not ``http(s)://host[:port][/path]``.
    """
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, TypeError) as error:
        raise ConfigurationError(f"base_url is not a URL: {error}") from None
    wrong = [part for part, mark in _NOT_IN_A_BASE_URL.items() if mark in base_url]
    is_port = url.port is None or 0 < url.port <= _LAST_PORT
    if url.scheme not in {"http", "https"} or not url.host or not is_port or wrong:
        # The URL itself is not shown: a userinfo or query may hold a password.
        raise ConfigurationError(
            "base_url must look like https://api.annolab.ai: http or https, a host, perhaps a port and a path"
            + (f", and no {' or '.join(wrong)}" if wrong else "")
        )
    return str(url).rstrip("/")


def check_path(path: object) -> str:
    """Return the path of an endpoint, with a slash before it and none behind.

    Raises:
        ConfigurationError: it is not ``/some/path``.
    """
    if isinstance(path, str) and _PATH.fullmatch(whole := "/" + path.strip("/")):
        return whole
    raise ConfigurationError("inference_path must look like /v1/infer/batch")


def _raised_reply(fault: Exception, method: str, path: str) -> Reply | None:
    # A hook of the caller's client may raise for a status that is bad: that is an answer, too.
    response = getattr(fault, "response", None)
    status_code = getattr(response, "status_code", None)
    if type(status_code) is not int:
        return None
    return Reply(method, path, status_code, getattr(response, "headers", {}), b"")


def _check_client(client: object) -> None:
    for name in ("httpx", "httpx2"):
        library = sys.modules.get(name)
        if library and isinstance(client, library.AsyncClient):
            return
    raise ConfigurationError(
        f"http_client is a {type(client).__qualname__}, not an httpx.AsyncClient or httpx2.AsyncClient"
    )


def _check_transport(transport: TransportName, *, has_client: bool) -> None:
    if transport not in {"auto", "httpx", "aiohttp"}:
        raise ConfigurationError(f"transport is {transport!r}, not 'auto', 'httpx' or 'aiohttp'")
    if transport == "aiohttp":
        if has_client:
            raise ConfigurationError("transport='aiohttp' does not go with an http_client of yours")
        if not _has_aiohttp():
            raise ConfigurationError(
                "transport='aiohttp' needs aiohttp: pip install 'annolab-async[aiohttp]'"
            )


def _has_aiohttp() -> bool:
    return find_spec("aiohttp") is not None


class HttpSession(AsyncContextManagerMixin):
    """The way to one server, open within its ``async with`` block.

    Reads share kept-alive connections. Each submission goes on a fresh one: a server may close a kept connection
    at the moment at which it is used again, and then nobody knows whether it took the batch.

    Args:
        base_url: checked by :func:`check_base_url`.
        api_key: sent with each request, to no other server.
        http_client: the caller's client, for everything; it is not closed here. None makes our own.
        transport: what reads go over if there is no client of the caller's: ``"auto"`` is aiohttp where it is
            installed and asyncio runs, else httpx.
        timeout: seconds that a request may take in all, whatever the server does.
        max_connections: requests under way at once.

    Raises:
        ConfigurationError: ``http_client`` or ``transport`` is something else.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        http_client: HttpClient | None,
        transport: TransportName,
        timeout: float,
        max_connections: int,
    ) -> None:
        if http_client is not None:
            _check_client(http_client)
        _check_transport(transport, has_client=http_client is not None)
        url = httpx.URL(base_url)
        self._origin = f"{url.scheme}://{url.netloc.decode('ascii')}"
        self._prefix = url.raw_path.decode("ascii").rstrip("/")
        self._given_client = http_client
        self._transport = transport
        # httpx.Headers hides the key in its repr.
        self._read_headers = httpx.Headers({"Authorization": f"Api-Key {api_key}"})
        self._write_headers = httpx.Headers(self._read_headers)
        self._write_headers.update({"Content-Type": "application/json", **PLAIN})
        self._timeout = timeout
        self._max_connections = max_connections
        self._permits = Semaphore(max_connections, fast_acquire=True)
        self._is_open = False
        self._lines: Lines
        # A stack: the line used last is the least likely to have gone stale.
        self._idle: list[Line] = []
        self._under_way: set[CancelScope] = set()
        self._submit_client: HttpClient

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        async with AsyncExitStack() as stack:
            if self._given_client is not None:
                self._submit_client = self._given_client
                self._lines = ClientLines(
                    self._given_client, self._origin, self._read_headers, _PHASE * self._timeout
                )
            else:
                # Made once: it takes 20 ms and more.
                context = httpx.create_ssl_context()
                limits = httpx.Limits(
                    max_connections=self._max_connections, max_keepalive_connections=0
                )
                self._submit_client = await stack.enter_async_context(
                    httpx.AsyncClient(verify=context, limits=limits)
                )
                if self._uses_aiohttp():
                    self._lines = AiohttpLines(self._origin, self._read_headers, context)
                else:
                    self._lines = NativeLines(
                        self._origin, self._read_headers, context, _PHASE * self._timeout
                    )
            stack.push_async_callback(self._hang_up)
            self._is_open = True
            yield self

    def _uses_aiohttp(self) -> bool:
        is_asyncio = get_cancelled_exc_class() is asyncio.CancelledError
        if self._transport == "aiohttp" and not is_asyncio:
            raise ConfigurationError(
                "transport='aiohttp' works on asyncio only: leave it out, or take 'httpx'"
            )
        return self._transport != "httpx" and is_asyncio and _has_aiohttp()

    async def _hang_up(self) -> None:
        self._is_open = False
        with move_on_after(_CLOSING_SECONDS, shield=True):
            for scope in self._under_way:
                scope.cancel()
            while self._idle:
                await self._idle.pop().aclose()
            await self._lines.aclose()

    async def get(self, path: str) -> Reply:
        """Send a GET request, on a kept connection if there is one.

        Raises:
            RequestNotSent, NoResponse, NotOpen
        """
        self._check_open()
        full_path = self._prefix + path
        try:
            self._permits.acquire_nowait()
        except WouldBlock:
            await self._permits.acquire()
        scope = CancelScope(deadline=current_time() + self._timeout)
        self._under_way.add(scope)
        try:
            with scope:
                return Reply("GET", path, *await self._ask(full_path))
            self._raise_late()
        except Exception as fault:
            self._check_open(fault)
            if reply := _raised_reply(fault, "GET", path):
                return reply
            if is_of_the_wire(fault):
                raise error_of(fault, method="GET", path=path) from fault
            raise
        finally:
            self._under_way.remove(scope)
            self._permits.release()

    def _raise_late(self) -> Never:
        raise TimeoutError(f"after {self._timeout:g} s")

    async def _ask(self, path: str) -> Answer:
        is_kept = bool(self._idle)
        line = self._idle.pop() if is_kept else self._lines.open()
        try:
            return await self._ask_on(line, path)
        except Exception as fault:
            # The server may have closed a kept connection just before: that is no failure yet.
            if not (is_kept and may_be_stale(fault) and self._is_open):
                raise
        return await self._ask_on(self._lines.open(), path)

    async def _ask_on(self, line: Line, path: str) -> Answer:
        is_whole = False
        try:
            answer = await line.read(path)
            is_whole = self._is_open
        finally:
            if is_whole:
                self._idle.append(line)
            else:
                with move_on_after(_CLOSING_SECONDS, shield=True):
                    await line.aclose()
        return answer

    async def post(self, path: str, body: bytes) -> Reply:
        """Send a JSON body in a POST request, once.

        Raises:
            RequestNotSent, NoResponse, NotOpen
        """
        self._check_open()
        client: Any = self._submit_client
        progress = Progress()
        request = client.build_request(
            "POST",
            self._origin + self._prefix + path,
            content=body,
            headers=self._write_headers,
            timeout=_PHASE * self._timeout,
            extensions={"trace": progress.trace},
        )
        async with self._permits:
            self._check_open()  # again: a permit may come after the block was left
            try:
                with fail_after(self._timeout):
                    # Not following redirects: they could carry the key to another server, or a batch twice.
                    response = await client.send(request, auth=None, follow_redirects=False)
            except Exception as fault:
                if reply := _raised_reply(fault, "POST", path):
                    return reply
                # Whatever it was, somebody's hook included: what it proves about the batch comes first.
                if progress.proves_unsent(fault):
                    self._check_open(fault)
                raise error_of(fault, method="POST", path=path, progress=progress) from fault
        return Reply("POST", path, response.status_code, response.headers, response.content)

    def _check_open(self, fault: Exception | None = None) -> None:
        if not self._is_open:
            raise NotOpen(
                "The client was closed while a request was under way."
                if fault
                else "The client is not open: use it inside `async with AsyncInferenceClient(...) as client:`."
            ) from fault
        if self._given_client is not None and self._given_client.is_closed:
            raise NotOpen("The http_client that this client was given is closed.") from fault
