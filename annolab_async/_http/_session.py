"""The way to one server: polls on a stack of lines, submissions on fresh connections."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import httpx
from anyio import (
    AsyncContextManagerMixin,
    CancelScope,
    current_time,
    fail_after,
    get_cancelled_exc_class,
)
from attrs import field, frozen

from annolab_async._http._apart import apart
from annolab_async._http._bodies import PLAIN, Incoming
from annolab_async._http._closing import close_in_time
from annolab_async._http._faults import (
    Progress,
    error_of,
    is_of_the_wire,
    may_be_stale,
    scrubbed,
)
from annolab_async._http._given import build, check_client, is_stock, pool_size
from annolab_async._http._lines import AiohttpLines, ClientLines, NativeLines, with_more
from annolab_async._http._origins import path_within
from annolab_async._http._parts import OnePart, take_in
from annolab_async._http._quiet import CURRENT_KEY, quieten
from annolab_async._http._transports import check_transport, own_client, suits_aiohttp
from annolab_async._replies import Reply
from annolab_async.errors import AnnoLabError, ConfigurationError, InvalidResponse, NotOpen

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from annolab_async._http._given import HttpClient
    from annolab_async._http._lines import Answer, Line, Lines
    from annolab_async._http._transports import TransportName
    from annolab_async._secret import ApiKey

__all__ = ["HttpSession"]

T = TypeVar("T")

# The share of the deadline that one phase may take: connecting and the TLS handshake; waiting for the pool, writing and
# each read. Together the first two stay below 1, since httpx closes a connection in the middle of a handshake when its
# own timeout ends it, but leaves it to the garbage collector when the deadline does.
_CONNECTING: Final = 0.45
_PHASE: Final = 0.9
_MOST_REDIRECTS: Final = 5
_REDIRECTS: Final = {301, 302, 303, 307, 308}


class HttpSession(AsyncContextManagerMixin):
    """The way to one server, open within its ``async with`` block.

    Reads share kept-alive connections. Each submission goes on a fresh one: a server may close a kept connection
    at the moment at which it is used again, and then nobody knows whether it took the batch.

    Args:
        base_url: checked by :func:`check_base_url`.
        key: sent with each request, to no other server.
        http_client: the caller's client, for everything; it is not closed here. None makes our own.
        transport: what reads go over if there is no client of the caller's: ``"auto"`` is aiohttp where it is
            installed, asyncio runs and there is no proxy, else httpx.
        timeout: seconds that a request may take in all, whatever the server does.
        max_connections: requests under way at once; the caller sees to that.

    Attributes:
        max_at_once: how many requests may be under way at once: no more than the caller's pool has connections.

    Raises:
        ConfigurationError: ``http_client`` or ``transport`` is something else.
    """

    def __init__(
        self,
        *,
        base_url: str,
        key: ApiKey,
        http_client: HttpClient | None,
        transport: TransportName,
        timeout: float,
        max_connections: int,
    ) -> None:
        if http_client is not None:
            check_client(http_client)
        check_transport(transport, has_client=http_client is not None)
        url = httpx.URL(base_url)
        self._origin = f"{url.scheme}://{url.netloc.decode('ascii')}"
        self._prefix = url.raw_path.decode("ascii").rstrip("/")
        self._key = key
        self._given_client = http_client
        self._transport = transport
        # httpx.Headers hides the key in its repr.
        self._read_headers = httpx.Headers({"Authorization": key.authorization, **PLAIN})
        self._write_headers = httpx.Headers(self._read_headers)
        self._write_headers["Content-Type"] = "application/json"
        self._timeout = timeout
        phase = _PHASE * timeout
        self._phases = _CONNECTING * timeout, phase, phase, phase
        self.max_at_once: int = max_connections
        self._is_traced = True
        if http_client is not None:
            self._is_traced = is_stock(http_client, base_url)
            size = pool_size(http_client, base_url)
            self.max_at_once = min(max_connections, size or max_connections)
        self._is_open = False
        self._lines: Lines
        # A stack: the line used last is the least likely to have gone stale.
        self._idle: list[Line] = []
        self._under_way: set[CancelScope] = set()
        self._submit_client: HttpClient
        quieten()

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        async with AsyncExitStack() as stack:
            if self._given_client is not None:
                self._submit_client = self._given_client
                self._lines = ClientLines(
                    self._given_client, self._origin, self._read_headers, self._phases
                )
            else:
                # Made once: it takes 20 ms and more.
                context = httpx.create_ssl_context()
                limits = httpx.Limits(max_connections=self.max_at_once, max_keepalive_connections=0)
                client = own_client(context, limits, self._origin)
                self._submit_client = await stack.enter_async_context(client)
                if self._uses_aiohttp():
                    self._lines = AiohttpLines(
                        self._origin,
                        {"Authorization": self._key.authorization, **PLAIN},
                        context,
                    )
                else:
                    self._lines = NativeLines(
                        self._origin, self._read_headers, context, self._phases
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
        return self._transport != "httpx" and is_asyncio and suits_aiohttp(self._origin)

    async def _hang_up(self) -> None:
        self._is_open = False
        # Apart: a task.cancel() that breaks in would leave the lines that are still idle to the garbage collector.
        # And shielded: where the block is left by a cancellation, trio would not even begin.
        with CancelScope(shield=True):
            await apart(partial(close_in_time, self._hang_up_each))

    async def _hang_up_each(self) -> None:
        for scope in self._under_way:
            scope.cancel()
        while self._idle:
            await self._idle.pop().aclose()

    async def get(
        self, path: str, read: Callable[[Reply], T], headers: Mapping[str, str] | None = None
    ) -> T:
        """Send a GET request, on a kept connection if there is one, and return what its answer says.

        Redirects are followed within the server's origin, and nowhere else.

        Args:
            path: what to ask for.
            read: takes the answer. When it raises InvalidResponse, the connection is not used again: the answer may
                have been another's, and the next one would be, too.
            headers: what to send besides our own headers.

        Raises:
            RequestNotSent, NoResponse, NotOpen
        """
        self.check_open()
        scope = CancelScope(deadline=current_time() + self._timeout)
        self._under_way.add(scope)
        token = CURRENT_KEY.set(self._key)
        reply = failure = None
        fault: Exception = TimeoutError(f"after {self._timeout:g} s")
        try:
            with scope:
                result = await self._follow(path, read, headers)
                if not isinstance(result, _Failed):
                    return result
                failure = result.error
        except Exception as error:
            reply = _raised_reply(error, "GET", path)
            if self._is_open and not reply and not is_of_the_wire(error):
                raise  # somebody's mistake in a program
            fault = scrubbed(error, self._key)
        finally:
            CURRENT_KEY.reset(token)
            self._under_way.remove(scope)
        # Outside of the handler, so that nothing raised below drags along what was raised above.
        if failure:
            raise failure
        self.check_open(fault)
        if reply:
            return read(reply)
        raise error_of(fault, method="GET", path=path) from fault

    async def _follow(
        self, path: str, read: Callable[[Reply], T], headers: Mapping[str, str] | None
    ) -> T | _Failed:
        target = self._prefix + path
        moves = 0

        def take(answer: Answer) -> T | _Moved | _Failed:
            location = answer[1].get("location") if answer[0] in _REDIRECTS else None
            if location and moves < _MOST_REDIRECTS:
                moved_to = path_within(self._origin, target, location)
                if moved_to is not None:
                    return _Moved(moved_to)
            try:
                return read(Reply("GET", path, *answer))
            except AnnoLabError as error:
                # Raised where no local variable holds the answer: some tools show those with a traceback.
                return _Failed(error.with_traceback(None))

        while isinstance(result := await self._ask(target, take, headers), _Moved):
            target = result.target
            moves += 1
        return result

    async def _ask(
        self, target: str, take: Callable[[Answer], T], headers: Mapping[str, str] | None
    ) -> T:
        is_kept = bool(self._idle)
        line = self._idle.pop() if is_kept else self._lines.open()
        try:
            return await self._ask_apart(line, target, take, headers)
        except Exception as fault:
            # The server may have closed a kept connection just before: that is no failure yet.
            if not (is_kept and may_be_stale(fault) and self._is_open):
                raise
        return await self._ask_apart(self._lines.open(), target, take, headers)

    async def _ask_apart(
        self,
        line: Line,
        target: str,
        take: Callable[[Answer], T],
        headers: Mapping[str, str] | None,
    ) -> T:
        if self._given_client is None:  # each of our own lines closes all that it has
            return await self._ask_on(line, target, take, headers)
        return await apart(partial(self._ask_on, line, target, take, headers))

    async def _ask_on(
        self,
        line: Line,
        target: str,
        take: Callable[[Answer], T],
        headers: Mapping[str, str] | None,
    ) -> T:
        is_sound = False
        try:
            answer = await line.read(target, headers)
            result = take(answer)
            is_wrong = isinstance(result, _Failed) and isinstance(result.error, InvalidResponse)
            is_sound = self._is_open and answer[3] is None and not is_wrong
        finally:
            if is_sound:
                await line.release()
                self._idle.append(line)
            else:
                await close_in_time(line.aclose)
        return result

    def progress(self) -> Progress:
        """Return what is to be told how far a submission has come."""
        return Progress(is_traced=self._is_traced)

    async def post(
        self,
        path: str,
        body: bytes,
        progress: Progress,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send a JSON body in a POST request, once; return as much of the answer as has come.

        Args:
            path: where to.
            body: the JSON.
            progress: is told how far it has come, also if this is cancelled.
            headers: what to send besides our own headers.

        Raises:
            RequestNotSent, NoResponse, NotOpen
        """
        self.check_open()
        incoming = Incoming()
        reply = None
        fault: Exception = TimeoutError()
        token = CURRENT_KEY.set(self._key)
        try:
            with fail_after(self._timeout):
                await apart(partial(self._exchange, path, body, headers, progress, incoming))
        except Exception as error:  # noqa: BLE001  # whatever it was: what it proves about the batch comes first
            reply = _raised_reply(error, "POST", path)
            if (head := progress.redirect(error)) is not None:
                reply = Reply("POST", path, head[0], httpx.Headers(head[1]), b"")
            fault = scrubbed(error, self._key)
            incoming.fail(f"it broke off ({type(fault).__name__})")
        finally:
            CURRENT_KEY.reset(token)
        if reply or incoming.has_begun:
            return reply or incoming.reply("POST", path)
        if progress.proves_unsent(fault):
            self.check_open(fault)
        raise error_of(fault, method="POST", path=path, progress=progress) from fault

    async def _exchange(
        self,
        path: str,
        body: bytes,
        headers: Mapping[str, str] | None,
        progress: Progress,
        incoming: Incoming,
    ) -> None:
        client: Any = self._submit_client
        request = build(
            client,
            "POST",
            self._origin + self._prefix + path,
            content=body,
            headers=with_more(self._write_headers, headers),
            timeout=self._phases,
            extensions={"trace": progress.trace},
        )
        if isinstance(request, httpx.Request):  # and not httpx2's, which needs no such help
            request.stream = OnePart(body)
        progress.begin()
        # Not following redirects: they could carry the key to another server, or a batch twice.
        response = await client.send(request, auth=None, follow_redirects=False, stream=True)
        try:
            # Consumed by a hook of the client's, or it never was a stream.
            is_there = response.is_stream_consumed
            incoming.begin(response.status_code, response.headers, is_unpacked=is_there)
            if is_there:
                incoming.feed(response.content)
            elif incoming.wants_more:
                await take_in(response.aiter_raw(), incoming.feed)
        finally:
            await close_in_time(response.aclose)

    def check_open(self, fault: Exception | None = None) -> None:
        """See to it that requests can be sent.

        Raises:
            NotOpen: the block was not entered, or was left; or the caller's client is closed.
        """
        if not self._is_open:
            raise NotOpen(
                "The client was closed while a request was under way."
                if fault
                else "The client is not open: use it inside `async with AsyncInferenceClient(...) as client:`."
            ) from fault
        if self._given_client is not None and self._given_client.is_closed:
            raise NotOpen("The http_client that this client was given is closed.") from fault


@frozen
class _Failed:
    """What an answer's reader raised."""

    error: AnnoLabError


@frozen
class _Moved:
    """Where within the origin a redirect leads."""

    target: str = field(repr=False)


def _raised_reply(fault: Exception, method: str, path: str) -> Reply | None:
    # A hook of the caller's client may raise for a status that is bad: that is an answer, too.
    response = getattr(fault, "response", None)
    status_code = getattr(response, "status_code", None)
    if type(status_code) is not int:
        return None
    return Reply(method, path, status_code, getattr(response, "headers", {}), b"")
