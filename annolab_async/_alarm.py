"""A sleep that others can cut short."""

from __future__ import annotations

import math

from anyio import CancelScope, Event

__all__ = ["Alarm"]


class Alarm:
    """Sleeps until a time that others may bring forward."""

    def __init__(self) -> None:
        self._until = -math.inf
        self._rung = Event()

    @property
    def is_awaited(self) -> bool:
        """Whether somebody sleeps, so that it is worth working out a time to bring this forward to."""
        return self._until > -math.inf

    async def sleep(self, until: float | None) -> None:
        """Sleep until a time on the loop's clock, None for ever, or until :meth:`bring_forward`."""
        self._until = math.inf if until is None else until
        self._rung = Event()
        with CancelScope(deadline=self._until):
            await self._rung.wait()
        self._until = -math.inf

    def bring_forward(self, to: float | None) -> None:
        """Wake the sleeper if it sleeps beyond a time."""
        if to is not None and to < self._until:
            self._rung.set()
