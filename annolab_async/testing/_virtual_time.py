"""Virtual time: an hour of waiting passes at once, on asyncio and on trio.

Time jumps to the next timer as soon as every task waits. It knows nothing of threads and sockets: what waits for those
sees its timeouts pass.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
from typing import TYPE_CHECKING, Any, Final, ParamSpec, overload

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    P = ParamSpec("P")

__all__ = ["VirtualTimeLoop", "run_in_virtual_time", "virtual_backend", "virtual_time"]

DEADLOCK_SECONDS: Final = 5.0


class JumpingSelector(selectors.DefaultSelector):
    """A selector that never waits while there is a timer, and tells how long it was asked to wait instead."""

    now: float = 0.0

    def wait(self, timeout: float) -> list[tuple[selectors.SelectorKey, int]]:
        """Really wait, for what comes from other threads."""
        return super().select(timeout)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            # Nothing can happen any more, unless another thread makes it happen.
            if not (events := self.wait(DEADLOCK_SECONDS)):
                raise RuntimeError("deadlock: every task waits for another, and no timer is set")
            return events
        if not (events := self.wait(0)):
            self.now += timeout
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop of asyncio in which sleeping takes no time: a loop factory for what takes one."""

    selector = JumpingSelector

    def __init__(self) -> None:
        self._jumping = self.selector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return the virtual time, in seconds; it begins at 0."""
        return self._jumping.now

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ARG002
        """Wait for the threads of the default executor, however long they take: they know no virtual time."""
        await super().shutdown_default_executor()


def virtual_backend(name: str) -> tuple[str, dict[str, Any]]:
    """Return anyio's backend of that name, in virtual time: for a fixture ``anyio_backend`` of yours.

    Args:
        name: ``"asyncio"`` or ``"trio"``.

    Raises:
        ValueError: There is no such backend.
    """
    if name == "asyncio":
        return name, {"loop_factory": VirtualTimeLoop}
    if name != "trio":
        raise ValueError(f"the backends are 'asyncio' and 'trio', not {name!r}")
    from trio.testing import MockClock  # noqa: PLC0415  # trio is not needed unless it is asked for

    return name, {"clock": MockClock(autojump_threshold=0)}


def run_in_virtual_time(
    function: Callable[[], Awaitable[object]], *, backend: str = "asyncio"
) -> None:
    """Run an async function to its end, in virtual time.

    Args:
        function: It takes no arguments.
        backend: ``"asyncio"`` or ``"trio"``.

    Raises:
        RuntimeError: Every task waits for another, and no timer is set (on asyncio).
        Exception: What the function raises.
    """
    name, options = virtual_backend(backend)
    if name == "asyncio":
        anyio.run(function, backend_options=options)
    else:
        import trio  # noqa: PLC0415  # likewise

        # Not anyio.run(), which in some versions drops trio's options, and with them the clock.
        trio.run(function, clock=options["clock"])


@overload
def virtual_time(test: Callable[P, Awaitable[object]]) -> Callable[P, None]: ...


@overload
def virtual_time(
    *, backend: str
) -> Callable[[Callable[P, Awaitable[object]]], Callable[P, None]]: ...


def virtual_time(
    test: Callable[P, Awaitable[object]] | None = None, *, backend: str = "asyncio"
) -> Any:
    """Make an async test one that runs in virtual time, whichever plugin for async tests there is, or none.

    ``@virtual_time``, or ``@virtual_time(backend="trio")``. To pytest the test is then a plain function: it may use
    any fixture that is none of an async plugin's.

    Args:
        test: The test.
        backend: ``"asyncio"`` or ``"trio"``.
    """
    if test is None:
        return functools.partial(_in_virtual_time, backend=backend)
    return _in_virtual_time(test, backend=backend)


def _in_virtual_time(test: Callable[P, Awaitable[object]], *, backend: str) -> Callable[P, None]:
    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        run_in_virtual_time(functools.partial(test, *args, **kwargs), backend=backend)

    return run
