"""A request's body in one part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["OnePart"]


class OnePart(httpx.AsyncByteStream):
    """A body for httpx, whose own is an async generator, of which trio warns when a request is broken off.

    Args:
        body: what is to be sent.
    """

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Once(self._body)


class _Once:
    def __init__(self, part: bytes) -> None:
        self._parts = [part]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._parts:
            raise StopAsyncIteration
        return self._parts.pop()
