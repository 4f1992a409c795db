"""Downloads by signed links: on a client of our own that knows no key, no cookie and no caller."""

from __future__ import annotations

import math
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Final, Self

import anyio.to_thread
import httpx
from anyio import (
    AsyncContextManagerMixin,
    CancelScope,
    CapacityLimiter,
    current_time,
    fail_after,
)
from anyio.lowlevel import cancel_shielded_checkpoint

from annolab_async._http._bodies import PARTS_AT_ONCE, PLAIN
from annolab_async._http._closing import close_in_time
from annolab_async._http._faults import Progress, error_of, scrubbed
from annolab_async._http._quiet import CURRENT_KEY, quieten
from annolab_async._http._transports import own_client
from annolab_async._ranges import Remedy, Setback
from annolab_async._secret import LINKS
from annolab_async.errors import NoResponse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from annolab_async._http._links import SignedLink

    # Takes a part of a body, and returns what is to be waited for before the next, if anything is.
    Sink = Callable[[bytes], Awaitable[None] | None]

__all__ = ["Fetcher"]

# httpx closes a connection in the middle of a handshake when its own timeout ends it, but leaves it to the garbage
# collector when ours does.
_CONNECTING: Final = 0.45
_MOST_REDIRECTS: Final = 5
_REDIRECTS: Final = {301, 302, 303, 307, 308}
# Setting a deadline costs more than taking a part of a body.
_DEADLINES_IN_TIMEOUT: Final = 16
_HEADERS: Final = {"Accept": "*/*", "User-Agent": "annolab-async", **PLAIN}


class Fetcher(AsyncContextManagerMixin):
    """Sends GET requests by signed links, within its ``async with`` block.

    Args:
        timeout: seconds without a byte after which a request has failed; and those in which its answer has to begin.
        make_client: makes the client. Of what it is set up with, only what concerns connections is used: no headers,
            no cookies, no auth. None makes one that takes the proxies of the environment.
    """

    def __init__(
        self, *, timeout: float, make_client: Callable[[], httpx.AsyncClient] | None = None
    ) -> None:
        self._timeout = timeout
        self._make_client = make_client or _own_client
        phases = httpx.Timeout(timeout, connect=_CONNECTING * timeout)
        self._extensions = {"timeout": phases.as_dict()}
        self._client: httpx.AsyncClient
        quieten()

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        token = CURRENT_KEY.set(LINKS)
        try:
            async with AsyncExitStack() as stack:
                # Reading the certificates takes 20 ms and more. Others may keep all the usual threads busy.
                self._client = await anyio.to_thread.run_sync(
                    self._make_client, limiter=CapacityLimiter(1)
                )
                stack.push_async_callback(close_in_time, self._client.aclose)
                yield self
        finally:
            CURRENT_KEY.reset(token)

    async def get(
        self,
        link: SignedLink,
        headers: Mapping[str, str],
        begin: Callable[[int, Mapping[str, str]], Awaitable[Sink]],
    ) -> None:
        """Send a request, and hand on the answer; at most five redirects are followed.

        Args:
            link: where to.
            headers: what it asks for.
            begin: is given the answer's status and headers, and returns what takes its body.

        Raises:
            RequestNotSent, NoResponse: no whole answer came.
            Setback: it led on for too long, or where it must not.
            Exception: what ``begin`` or the sink raised.
        """
        for _ in range(1 + _MOST_REDIRECTS):
            response = await self._send(link, headers)
            try:
                target = _target(response, link)
                if target is None:
                    sink = await begin(response.status_code, response.headers)
                    return await self._pour(response, sink, link)
                link = target
            finally:
                await close_in_time(response.aclose)
        raise Setback(f"{link.shown} redirects for ever", Remedy.AGAIN)

    async def _send(self, link: SignedLink, headers: Mapping[str, str]) -> httpx.Response:
        progress = Progress()
        try:
            with fail_after(self._timeout):
                # A request of our own making, which client.build_request() would add its headers and cookies to.
                return await self._client.send(
                    httpx.Request(
                        "GET",
                        link.url,
                        headers={**_HEADERS, **headers},
                        extensions={**self._extensions, "trace": progress.trace},
                    ),
                    auth=None,
                    follow_redirects=False,
                    stream=True,
                )
        except Exception as error:  # noqa: BLE001  # whatever it was: it is told without the link
            is_redirect = progress.redirect(error) is not None
            fault = scrubbed(error, LINKS)
        if is_redirect:  # its text would show some of where to
            raise Setback(f"{link.shown} redirects to what is no URL", Remedy.NONE)
        raise error_of(fault, method="GET", path=link.shown, progress=progress) from fault

    async def _pour(self, response: httpx.Response, sink: Sink, link: SignedLink) -> None:
        # What is wrong with who takes it, or with the way here.
        refusal: Exception | None = None
        fault: Exception | None = None
        numbers, renewed = count(1), current_time()
        # Cancelled and not just left, nor raised from within: trio warns of a generator that is not read to its end,
        # and httpcore nests three.
        with CancelScope(deadline=renewed + self._timeout) as scope:
            try:
                async for part in response.aiter_raw():
                    if refusal is not None:
                        continue  # until the cancellation comes through
                    try:
                        if (pending := sink(part)) is not None:
                            scope.deadline, renewed = math.inf, -math.inf
                            with CancelScope(shield=True):
                                await pending
                    except Exception as error:  # noqa: BLE001  # raised below
                        refusal = error
                        scope.cancel()
                        continue
                    if next(numbers) % PARTS_AT_ONCE == 0:
                        await cancel_shielded_checkpoint()
                    now = current_time()
                    if now - renewed > self._timeout / _DEADLINES_IN_TIMEOUT:
                        scope.deadline, renewed = now + self._timeout, now
            except Exception as error:  # noqa: BLE001  # as above
                fault = scrubbed(error, LINKS)
        if refusal is not None:
            raise refusal
        if fault is None and scope.cancelled_caught:
            fault = TimeoutError(f"nothing came for {self._timeout:g} s")
        if fault is not None:
            raise NoResponse(method="GET", path=link.shown, cause=fault) from fault


def _target(response: httpx.Response, link: SignedLink) -> SignedLink | None:
    # Where no other local variable holds it: some tools show those with a traceback.
    location = response.headers.get("location")
    if response.status_code not in _REDIRECTS or location is None:
        return None
    return link.redirected(location)


def _own_client() -> httpx.AsyncClient:
    # No connection is used twice: after one answer that is whole there is nothing left to ask.
    return own_client(httpx.create_ssl_context(), httpx.Limits(max_keepalive_connections=0))
