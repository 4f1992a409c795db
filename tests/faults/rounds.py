"""A program that makes requests and cancels them, round after round, and prints what of that stays behind.

``python -m tests.faults.rounds asyncio httpx http://127.0.0.1:8000``; the server is to answer nothing.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio.lowlevel import checkpoint

from annolab_async import AsyncInferenceClient, RetryPolicy
from tests.depth import IS_THOROUGH
from tests.service import KEY, a_request, task_count

if TYPE_CHECKING:
    from collections.abc import Coroutine

ROUNDS: Final = 100 if IS_THOROUGH else 25
WARM_UP: Final = ROUNDS // 5
AT_ONCE: Final = 300
_POOL: Final = 20
# How often a call gives way before all that is left to do is to wait.
_TURNS: Final = 40


async def _count() -> dict[str, int]:
    gc.collect()
    # What was cancelled last hangs up a turn or two later.
    for _ in range(_TURNS):
        await checkpoint()
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])  # noqa: ASYNC240
    return {
        "bytes": pages * os.sysconf("SC_PAGE_SIZE"),
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208  # counted, not walked
        "tasks": task_count(),
    }


async def _cancel_some(client: AsyncInferenceClient, turns: int) -> int:
    cancelled = 0

    async def ask(call: Coroutine[Any, Any, object]) -> None:
        nonlocal cancelled
        try:
            await call
        except BaseException:
            cancelled += 1
            raise

    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            for number in range(1, 1 + AT_ONCE):
                submits = number % 2
                call = client.submit(a_request(number)) if submits else client.get_job(number)
                tasks.start_soon(ask, call)
            for _ in range(turns):
                await checkpoint()
            if turns % 10 == 0:
                await anyio.sleep(0.05)  # the first half of an answer is there by then
            scope.cancel()
    return cancelled


async def main(transport: str, base_url: str) -> None:
    """Go through all rounds, and print the counts as JSON."""
    cancelled = 0
    async with AsyncInferenceClient(
        KEY,
        base_url=base_url,
        transport="aiohttp" if transport == "aiohttp" else "httpx",
        max_connections=_POOL,
        retry=RetryPolicy(attempts=1),
    ) as client:
        counts: dict[int, dict[str, int]] = {}
        for number in range(1, 1 + ROUNDS):
            cancelled += await _cancel_some(client, 1 + number % _TURNS)
            if number in {WARM_UP, ROUNDS}:
                counts[number] = await _count()
    early, late = counts[WARM_UP], counts[ROUNDS]
    growth = {name: late[name] - early[name] for name in late}
    print(json.dumps({"cancelled": cancelled, "growth": growth}))  # noqa: T201  # its result


if __name__ == "__main__":
    # Of what was cancelled after it was sent there is a warning each.
    logging.getLogger("annolab_async").addHandler(logging.NullHandler())
    anyio.run(main, sys.argv[2], sys.argv[3], backend=sys.argv[1])
