"""Ctrl-C, SIGTERM and SIGHUP: the first lets a run stop in good order, the second at once."""

from __future__ import annotations

import math
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from anyio import create_task_group, current_time, open_signal_receiver

from annolab_async.errors import NotOpen

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio import CancelScope

    from annolab_async import FanOut

__all__ = ["ONE_PRESS_SECONDS", "Stopping", "stop_signals"]

# Who starts programs for others may pass a signal on that the terminal has sent to all of them: that is one, not two.
ONE_PRESS_SECONDS: Final = 0.1
_FIRST: Final = "Stopping: nothing more is sent, and what is open has {:g} s to be answered. Ctrl-C stops at once."
_SECOND: Final = "Stopping at once: what was sent and not answered will be unknown."


def stop_signals() -> list[signal.Signals]:
    """Return the signals that stop a command: Ctrl-C, SIGTERM, and SIGHUP, which comes when the terminal is closed."""
    signals = [signal.SIGINT, signal.SIGTERM]
    # Whoever has it ignored, as nohup does, wants to outlive the terminal.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signals.append(signal.SIGHUP)
    return signals


class Stopping:
    """Listens to signals for a run.

    Args:
        seconds: how long requests that are open may take when the run is stopped.
        say: prints a line.

    Attributes:
        run: what is to be stopped; until it is set, there is nothing to be kept in order.
        signals: how many have come.
    """

    def __init__(self, seconds: float, say: Callable[[str], object]) -> None:
        self._seconds = seconds
        self._say = say
        self.run: FanOut | None = None
        self.signals = 0

    async def listen(self, scope: CancelScope) -> None:
        """Do as the signals say, until cancelled.

        Args:
            scope: what is cancelled when there is no run yet.
        """
        # After the second there is nothing left to wait for but the ledger, which takes seconds at most.
        last = -math.inf
        with open_signal_receiver(*stop_signals()) as signals:
            async with create_task_group() as tasks:
                async for _ in signals:
                    if (now := current_time()) - last < ONE_PRESS_SECONDS:
                        continue
                    last = now
                    self.signals += 1
                    if self.run is None:
                        self._say("Stopping.")
                        scope.cancel()
                    elif self.signals == 1:
                        self._say(_FIRST.format(self._seconds))
                        tasks.start_soon(self._drain, self.run, self._seconds)
                    elif self.signals == 2:  # noqa: PLR2004
                        self._say(_SECOND)
                        tasks.start_soon(self._drain, self.run, 0)

    @staticmethod
    async def _drain(run: FanOut, seconds: float) -> None:
        with suppress(NotOpen):  # it has come to its end meanwhile
            await run.drain(seconds)
