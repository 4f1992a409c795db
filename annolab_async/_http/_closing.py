"""How answers and connections are closed: whatever comes, and not for long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from anyio import move_on_after

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["close_in_time"]

_SECONDS: Final = 1.0


async def close_in_time(close: Callable[[], Awaitable[object]]) -> None:
    """Close something, also when this is cancelled; after a second it is left as it is.

    Args:
        close: does it. It may wait for a peer that never answers.
    """
    with move_on_after(_SECONDS, shield=True):
        await close()
