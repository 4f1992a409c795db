"""What the tests of cancellation share: a client of each kind, and ways to cancel a call and to count what it holds."""

from __future__ import annotations

import gc
import os
from collections.abc import Awaitable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, cast

import httpx
import httpx2

from annolab_async import AsyncInferenceClient, RetryPolicy
from tests.service import KEY

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Container, Coroutine, Generator

    from tests.faults.chaos import ChaosServer

Kind = Literal["httpx", "aiohttp", "given_httpx", "given_httpx2"]

T = TypeVar("T")

OWN: Final[list[Kind]] = ["httpx", "aiohttp"]
GIVEN: Final[list[Kind]] = ["given_httpx", "given_httpx2"]
ONCE: Final = RetryPolicy(attempts=1)


@asynccontextmanager
async def a_client(
    kind: Kind, server: ChaosServer, *, pool: int
) -> AsyncGenerator[AsyncInferenceClient]:
    """Open a client that can have ``pool`` requests under way, because of its own limit or of the caller's pool."""
    settings: dict[str, Any] = {"base_url": server.base_url, "retry": ONCE, "timeout": 10.0}
    if kind == "httpx" or kind == "aiohttp":  # noqa: PLR1714  # narrows the type
        async with AsyncInferenceClient(
            KEY, transport=kind, max_connections=pool, **settings
        ) as client:
            yield client
        return
    library = httpx if kind == "given_httpx" else httpx2
    # Of those, httpx keeps 20 open by default. With 100 it looks at each of them for each of them: 10 ms a request.
    limits: Any = library.Limits(max_connections=pool, max_keepalive_connections=20)
    async with (
        library.AsyncClient(limits=limits) as http_client,
        AsyncInferenceClient(KEY, http_client=http_client, **settings) as client,
    ):
        yield client


class Stepped(Awaitable[T]):
    """Runs a coroutine, and has it cancelled at the very points at which it gives way to others.

    Args:
        coroutine: what to run.
        cancel: how to cancel it.
        at: at which of these points, 1 for the first; none for never.
    """

    def __init__(
        self, coroutine: Coroutine[Any, Any, T], cancel: Callable[[], object], at: Container[int]
    ) -> None:
        self.steps = 0
        self._coroutine = coroutine
        self._cancel = cancel
        self._at = at

    def __await__(self) -> Generator[Any, Any, T]:
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                throw, send = self._coroutine.throw, self._coroutine.send
                waits_for = throw(error) if error else send(value)
            except StopIteration as stop:
                return cast("T", stop.value)
            self.steps += 1
            if self.steps in self._at:
                self._cancel()
            value, error = None, None
            try:
                value = yield waits_for
            except BaseException as thrown:  # noqa: BLE001  # handed on to the coroutine
                error = thrown


def settled_fd_count() -> int:
    """Return how many file descriptors this process has open when none is about to be closed as garbage.

    Those of earlier tests would be closed just then, and be missed for ever.
    """
    gc.collect()
    return fd_count()


def fd_count() -> int:
    """Return how many file descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # counted, not walked
