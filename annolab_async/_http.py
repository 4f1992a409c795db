"""The only module that knows httpx and httpx2: it sends requests and tells what a failure proves."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Self

import httpx
from anyio import AsyncContextManagerMixin, Semaphore, fail_after

from annolab_async._replies import Reply
from annolab_async.errors import ConfigurationError, NoResponse, NotOpen, RequestNotSent

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from types import ModuleType

    import httpx2

    HttpClient = httpx.AsyncClient | httpx2.AsyncClient

__all__ = ["HttpSession", "check_base_url"]

# By name, so that the classes of httpx and of httpx2 need not both be there. The names stand for phases before
# the first byte of the request is written.
_NOT_SENT: Final = frozenset({
    "ConnectError",
    "ConnectTimeout",
    "InvalidURL",
    "LocalProtocolError",
    "PoolTimeout",
    "ProxyError",
    "UnsupportedProtocol",
})
# The share of the deadline that one phase (connecting, writing, each read) may take. Below 1, since httpx closes a
# connection in the middle of a handshake when its own timeout ends it, but leaves it to the garbage collector when
# the deadline does.
_PHASE: Final = 0.9
_STATED_IN_ADDRESS: Final = ("userinfo", "query", "fragment")


def check_base_url(base_url: str) -> str:
    """Return a base URL without its trailing slash.

    Raises:
        ConfigurationError: it is not ``http(s)://host[:port][/path]``.
    """
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, TypeError) as error:
        raise ConfigurationError(f"base_url is not a URL: {error}") from None
    wrong = [part for part in _STATED_IN_ADDRESS if getattr(url, part)]
    if url.scheme not in {"http", "https"} or not url.host or wrong:
        # The URL itself is not shown: a userinfo or query may hold a password.
        raise ConfigurationError(
            "base_url must look like https://api.annolab.ai: http or https, a host, perhaps a port and a path"
            + (f", and no {' or '.join(wrong)}" if wrong else "")
        )
    return str(url).rstrip("/")


def _library_of(client: object) -> ModuleType:
    for name in ("httpx", "httpx2"):
        library = sys.modules.get(name)
        if library and isinstance(client, library.AsyncClient):
            return library
    raise ConfigurationError(
        f"http_client is a {type(client).__qualname__}, not an httpx.AsyncClient or httpx2.AsyncClient"
    )


class HttpSession(AsyncContextManagerMixin):
    """The way to one server, open within its ``async with`` block.

    Polls share kept-alive connections. Each submission goes on a fresh one: a server may close a kept connection
    at the moment at which it is used again, and then nobody knows whether it took the batch.

    Args:
        base_url: checked by :func:`check_base_url`.
        api_key: sent with each request, to no other server.
        http_client: the caller's client, for everything; it is not closed here. None makes clients of our own.
        timeout: seconds that a request may take in all, whatever the server does.
        max_connections: requests under way at once.

    Raises:
        ConfigurationError: ``http_client`` is something else.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        http_client: HttpClient | None,
        timeout: float,
        max_connections: int,
    ) -> None:
        self._base_url = base_url
        self._given_client = http_client
        self._library = _library_of(http_client) if http_client is not None else httpx
        # httpx.Headers hides the key in its repr.
        self._read_headers = httpx.Headers({"Authorization": f"Api-Key {api_key}"})
        self._write_headers = httpx.Headers(self._read_headers)
        self._write_headers["Content-Type"] = "application/json"
        self._timeout = timeout
        self._max_connections = max_connections
        self._permits = Semaphore(max_connections)
        self._is_open = False
        self._poll_client: HttpClient
        self._submit_client: HttpClient

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        async with AsyncExitStack() as stack:
            if self._given_client is not None:
                self._poll_client = self._submit_client = self._given_client
            else:
                self._poll_client = await stack.enter_async_context(self._make_client(keep=None))
                self._submit_client = await stack.enter_async_context(self._make_client(keep=0))
            self._is_open = True
            try:
                yield self
            finally:
                self._is_open = False

    def _make_client(self, *, keep: int | None) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=self._max_connections, max_keepalive_connections=keep)
        return httpx.AsyncClient(limits=limits)

    async def get(self, path: str) -> Reply:
        """Send a GET request, on a kept-alive connection if there is one.

        Raises:
            RequestNotSent, NoResponse, NotOpen
        """
        return await self._send("GET", path)

    async def post(self, path: str, body: bytes) -> Reply:
        """Send a JSON body in a POST request, once.

        Raises:
            RequestNotSent, NoResponse, NotOpen
        """
        return await self._send("POST", path, body)

    async def _send(self, method: str, path: str, body: bytes | None = None) -> Reply:
        if not self._is_open:
            raise NotOpen(
                "The client is not open: use it inside `async with AsyncInferenceClient(...) as client:`."
            )
        client: Any = self._poll_client if body is None else self._submit_client
        if client.is_closed:
            raise NotOpen("The http_client that this client was given is closed.")
        progress = _Progress()
        try:
            request = client.build_request(
                method,
                self._base_url + path,
                content=body,
                headers=self._read_headers if body is None else self._write_headers,
                timeout=_PHASE * self._timeout,
                extensions={"trace": progress.trace},
            )
            async with self._permits:
                with fail_after(self._timeout):
                    # Not following redirects: they could carry the key to another server, or a batch twice.
                    response = await client.send(request, auth=None, follow_redirects=False)
        except Exception as error:
            if not self._is_open:
                raise NotOpen("The client was closed while a request was under way.") from error
            if not isinstance(
                error, (self._library.RequestError, self._library.InvalidURL, OSError)
            ):
                raise
            was_sent = progress.may_have_begun and _NOT_SENT.isdisjoint(_names(error))
            kind = NoResponse if was_sent else RequestNotSent
            raise kind(method=method, path=path, cause=error) from error
        return Reply(method, path, response.status_code, response.headers, response.content)


class _Progress:
    """How far a request has come, as the transport tells it while it goes: what a deadline that passes proves."""

    def __init__(self) -> None:
        self._is_connecting = False
        self._has_begun = False

    async def trace(self, event: str, _: object) -> None:
        """Take note of an event of httpcore's trace extension."""
        self._is_connecting = self._is_connecting or event.startswith("connection.")
        self._has_begun = self._has_begun or event.endswith(".send_request_headers.started")

    @property
    def may_have_begun(self) -> bool:
        """Whether the server may have seen any of it; a transport that tells nothing proves nothing."""
        return self._has_begun or not self._is_connecting


def _names(error: BaseException) -> set[str]:
    return {cls.__name__ for cls in type(error).__mro__}
