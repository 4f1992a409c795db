"""A client whose key is looked for afterwards, over each of the ways that the library can take."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Literal

import httpx
import httpx2

from annolab_async import AsyncInferenceClient, RetryPolicy

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

Way = Literal["own httpx", "own aiohttp", "caller's httpx", "caller's httpx2"]

WAYS: Final[list[Way]] = ["own httpx", "own aiohttp", "caller's httpx", "caller's httpx2"]
KEY: Final = "XXXXXXX-XXXXXXX-XXXXXXX-XXXXXXX"
JOB: Final = '{"inferenceJobId": %d, "status": "Queued", "sourceIds": [1, 2]}'


@asynccontextmanager
async def keyed_client(
    way: Way, base_url: str, **options: Any
) -> AsyncGenerator[AsyncInferenceClient]:
    """Open a client that repeats nothing; a caller's client under it would follow every redirect."""
    settings: dict[str, Any] = {
        "base_url": base_url,
        "retry": RetryPolicy(attempts=1),
        "timeout": 10.0,
    }
    settings |= options
    async with AsyncExitStack() as stack:
        if way in {"own httpx", "own aiohttp"}:
            settings["transport"] = way.removeprefix("own ")
        else:
            library: Any = httpx if way == "caller's httpx" else httpx2
            http_client = library.AsyncClient(follow_redirects=True)
            settings["http_client"] = await stack.enter_async_context(http_client)
        yield await stack.enter_async_context(AsyncInferenceClient(KEY, **settings))
