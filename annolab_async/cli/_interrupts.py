"""What Ctrl-C, SIGTERM and SIGHUP do to commands that only wait: they end, and say how to go on."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from anyio import (
    CancelScope,
    create_task_group,
    current_time,
    move_on_after,
    open_signal_receiver,
)

from annolab_async.cli._stopping import ONE_PRESS_SECONDS, stop_signals
from annolab_async.cli._terminal import tell

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

__all__ = ["Interrupts", "until_interrupted"]

_GRACE_SECONDS: Final = 10.0


class Interrupts:
    """Whether a signal has come, and whether what is under way is to be ended at once.

    Attributes:
        have_come: whether one has come.
        wait_for: what is to be waited for a while at the first signal, for it must not be cut short; None for nothing.
    """

    def __init__(self) -> None:
        self.have_come = False
        self.wait_for: str | None = None


@asynccontextmanager
async def until_interrupted() -> AsyncGenerator[Interrupts]:
    """Cancel a block at Ctrl-C, SIGTERM or SIGHUP, and go on behind it."""
    interrupts = Interrupts()
    listening = CancelScope()
    with open_signal_receiver(*stop_signals()) as signals:
        async with create_task_group() as tasks:

            async def listen() -> None:
                with listening:
                    await anext(signals)
                    came_at = current_time()
                    interrupts.have_come = True
                    if interrupts.wait_for is not None:
                        tell(
                            f"Waiting for {interrupts.wait_for}, {_GRACE_SECONDS:g} s at most. "
                            "Once more stops at once."
                        )
                        with move_on_after(_GRACE_SECONDS):
                            async for _ in signals:
                                if current_time() - came_at >= ONE_PRESS_SECONDS:
                                    break
                    tasks.cancel_scope.cancel()

            tasks.start_soon(listen)
            yield interrupts
            listening.cancel()
