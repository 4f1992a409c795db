"""What keeps httpx's pools whole when asyncio cancels a task."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from anyio import create_task_group, get_cancelled_exc_class
from anyio.lowlevel import checkpoint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["apart"]

T = TypeVar("T")


async def apart(function: Callable[[], Awaitable[T]]) -> T:
    """Call a function in a task of its own, which a cancellation of the caller reaches as one of anyio's.

    httpcore shields its cleanup from those. A plain ``task.cancel()``, also that of ``asyncio.timeout`` and
    ``asyncio.wait_for``, breaks through, and each time may take one of the pool's connections out of use for good.
    Trio knows no other than anyio's; there a task more would only wrap a KeyboardInterrupt in a group.

    Raises:
        Exception: what the function raised, itself.
    """
    if get_cancelled_exc_class() is not asyncio.CancelledError:
        await (
            checkpoint()
        )  # as a task more would, lest a client that never has to wait holds up all others
        return await function()
    results: list[T] = []
    faults: list[Exception] = []

    async def call() -> None:
        try:
            results.append(await function())
        except Exception as fault:  # noqa: BLE001  # raised below: the group would wrap it in another
            faults.append(fault)

    async with create_task_group() as tasks:
        tasks.start_soon(call)
    if faults:
        raise faults.pop()
    return results[0]
