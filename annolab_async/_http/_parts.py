"""Bodies in parts: a request's in a single one, and an answer's taken in one by one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import count
from typing import TYPE_CHECKING

import httpx
from anyio import CancelScope
from anyio.lowlevel import cancel_shielded_checkpoint

from annolab_async._http._bodies import PARTS_AT_ONCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable

__all__ = ["OnePart", "take_in"]


async def take_in(parts: AsyncIterable[bytes], take: Callable[[bytes], bool]) -> None:
    """Take in an answer's body part by part, giving way to others now and then, however fast it comes.

    Args:
        parts: the parts.
        take: is given each until it returns that it wants no more.
    """
    # Cancelled and not just left: trio warns of a generator that is not read to its end, and httpcore nests three.
    with CancelScope() as scope:
        numbers, is_wanted = count(1), True
        async for part in parts:
            if next(numbers) % PARTS_AT_ONCE == 0:
                await cancel_shielded_checkpoint()
            if is_wanted and not take(part):
                is_wanted = False
                scope.cancel()


class OnePart(httpx.AsyncByteStream):
    """A body for httpx, whose own is an async generator, of which trio warns when a request is broken off.

    Args:
        body: what is to be sent.
    """

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Once(self._body)


class _Once(AsyncIterator[bytes]):
    def __init__(self, part: bytes) -> None:
        self._parts = [part]

    async def __anext__(self) -> bytes:
        if not self._parts:
            raise StopAsyncIteration
        return self._parts.pop()
