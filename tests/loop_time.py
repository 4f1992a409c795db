"""Time as a loop had it, for what happens on real sockets: a busy machine that keeps a loop from running takes none."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio
from attrs import define

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

_BEAT: Final = 0.01


@define
class LoopTime:
    """Attributes: seconds: for which the loop has run or waited, but was not kept waiting."""

    seconds: float = 0.0


@asynccontextmanager
async def loop_time() -> AsyncGenerator[LoopTime]:
    """Measure the time that a block takes; what it raises is better caught within."""
    taken = LoopTime()

    async def beat() -> None:
        last = time.monotonic()
        while True:
            await anyio.sleep(_BEAT)
            now = time.monotonic()
            taken.seconds += min(now - last, 2 * _BEAT)
            last = now

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(beat)
        try:
            yield taken
        finally:
            tasks.cancel_scope.cancel()
