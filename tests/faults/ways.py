"""The ways to a server that the library can take: its own transports, and clients that the caller made."""

from __future__ import annotations

import functools
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Literal

import httpx
import httpx2

from annolab_async import AsyncInferenceClient
from tests.service import KEY

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

Way = Literal["own httpx", "own aiohttp", "a caller's httpx", "a caller's httpx2"]
# What submissions go over: aiohttp serves reads only.
OF_SUBMISSIONS: Final[list[Way]] = ["own httpx", "a caller's httpx", "a caller's httpx2"]
OF_READS: Final[list[Way]] = ["own httpx", "own aiohttp", "a caller's httpx", "a caller's httpx2"]

# What takes longest to make.
_tls: Final = functools.cache(httpx.create_ssl_context)
_CALLERS: Final[dict[Way, Callable[[int], httpx.AsyncClient | httpx2.AsyncClient]]] = {
    "a caller's httpx": lambda size: httpx.AsyncClient(
        limits=httpx.Limits(max_connections=size), verify=_tls()
    ),
    "a caller's httpx2": lambda size: httpx2.AsyncClient(
        limits=httpx2.Limits(max_connections=size), verify=_tls()
    ),
}


@asynccontextmanager
async def client_of(
    way: Way, base_url: str, *, connections: int = 50, **settings: Any
) -> AsyncGenerator[AsyncInferenceClient]:
    """Open a client that takes a way and has at most so many connections."""
    async with AsyncExitStack() as stack:
        if make := _CALLERS.get(way):
            settings["http_client"] = await stack.enter_async_context(make(connections))
        else:
            settings["transport"] = "aiohttp" if way == "own aiohttp" else "httpx"
        client = AsyncInferenceClient(
            KEY, base_url=base_url, max_connections=connections, **settings
        )
        yield await stack.enter_async_context(client)
