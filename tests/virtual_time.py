"""An asyncio event loop whose clock jumps to the next timer instead of waiting for it.

Trio's ``MockClock(autojump_threshold=0)`` is the same for trio. No worker thread may be involved: the loop would not
know that there is something to wait for.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping


class JumpingSelector(selectors.DefaultSelector):
    """A selector that never waits, and tells how long it was asked to wait instead."""

    now = 0.0

    def wait(self, timeout: float) -> list[tuple[selectors.SelectorKey, int]]:
        """Really wait, for what comes from other threads."""
        return super().select(timeout)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events:
            if timeout is None:
                raise RuntimeError("deadlock: every task waits for another, and no timer is set")
            self.now += timeout
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop in which sleeping takes no time."""

    selector = JumpingSelector

    def __init__(self) -> None:
        self._jumping = self.selector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def virtual_backend(name: str) -> tuple[str, Mapping[str, object]]:
    """Return anyio's backend of that name, in virtual time."""
    if name == "asyncio":
        return name, {"loop_factory": VirtualTimeLoop}
    from trio.testing import MockClock  # noqa: PLC0415  # so that only tests on trio import it

    return name, {"clock": MockClock(autojump_threshold=0)}


def run_virtually(name: str, function: Callable[[], Awaitable[object]]) -> None:
    """Run a function of no arguments on a backend, in virtual time."""
    if name == "asyncio":
        anyio.run(function, backend_options={"loop_factory": VirtualTimeLoop})
    else:
        import trio  # noqa: PLC0415  # so that only tests on trio import it
        from trio.testing import MockClock  # noqa: PLC0415

        # Not anyio.run(), which in some versions drops trio's options, and with them the clock.
        trio.run(function, clock=MockClock(autojump_threshold=0))
