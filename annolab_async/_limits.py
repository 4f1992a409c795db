"""How many requests may go, and how fast. Pure but for :class:`Turnstile`, at which requests wait for their turn."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Literal

from anyio import CancelScope, Lock, Semaphore, current_time, sleep
from attrs import frozen

from annolab_async._records import is_positive
from annolab_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["Kind", "Pacer", "RateLimit", "Reason", "Throttle", "TooLongAPause", "Turnstile"]

Kind = Literal["submit", "read", "poll"]
Reason = Literal["rate_limit", "retry_after", "connections"]

# Timers may ring a hair before their time; asking again for a wait of a nanosecond would be a busy loop.
_EARLY_RING: Final = 1e-6
# How late timers commonly ring, in seconds. A limiter that allows nothing for it stays below its rate.
_LATENESS: Final = 0.05
# Over how many seconds a client's recent rate is averaged.
_MEMORY: Final = 5.0
# After a 429: the share of the rate so far at which to go on, how much of it is added back each second, the multiple
# at which the brake is off again, and the lowest rate that is halved, in requests a second.
_SLOWED_TO: Final = 0.5
_REGAINED_A_SECOND: Final = 0.05
_LIFTED_AT: Final = 4.0
_SLOWEST: Final = 2.0
# The longest that a server's wish to be left alone is granted, in seconds.
_LONGEST_PAUSE: Final = 3600.0


@frozen
class RateLimit:
    """A bound on all requests of a client together, submissions and polls alike.

    Over any stretch of ``t`` seconds at most ``burst + max_per_second * t`` requests are sent.

    Args:
        max_per_second: requests a second in the long run.
        burst: requests that may go at once after a quiet time; None is what 0.05 s bring, at least 1.

    Raises:
        ValueError: an argument makes no sense; the text names each.
    """

    max_per_second: float
    burst: int | None = None

    def __attrs_post_init__(self) -> None:
        faults: list[str] = []
        if not is_positive(self.max_per_second):
            faults.append(f"max_per_second is {self.max_per_second!r}, not a positive number")
        if self.burst is not None and (type(self.burst) is not int or self.burst < 1):
            faults.append(f"burst is {self.burst!r}, not an integer from 1 up")
        if faults:
            raise ValueError("This is no valid RateLimit: " + "; ".join(faults))


class Pacer:
    """Keeps requests to a number a second, however many tasks send them: the generic cell rate algorithm.

    Args:
        max_per_second: requests a second, None for no limit.
        burst: how many may go at once after a quiet time. None is a little more than one at a time: over any stretch
            of ``t`` seconds at most ``max_per_second * (t + 0.05) + 1`` go, which makes up for timers that ring late.
    """

    def __init__(self, max_per_second: float | None, *, burst: int | None = None) -> None:
        self._interval = 1 / max_per_second if max_per_second else 0.0
        self._tolerance = _LATENESS if burst is None else (burst - 1) * self._interval
        self._arrival = -math.inf

    def free_at(self) -> float:
        """Return the earliest time at which the next request may go."""
        return self._arrival - self._tolerance

    def take(self, now: float) -> None:
        """Take note that a request goes now."""
        if self._interval:
            self._arrival = max(self._arrival, now) + self._interval


class Throttle:
    """How fast a client may send: what its user allows, and what the server has shown that it can bear.

    A 429, or a 503 that names a time, pauses the whole client for that time. After it the client goes on at half the
    rate that it had, gains 5 % of that rate each second, and is free again at four times the rate.

    Args:
        limit: what the user allows, None for anything.

    Raises:
        ConfigurationError: that is no limit.
    """

    def __init__(self, limit: RateLimit | None = None) -> None:
        if limit is not None and not isinstance(limit, RateLimit):
            raise ConfigurationError(f"rate_limit is {limit!r}, not a bound such as RateLimit(10)")
        rate = limit.max_per_second if limit else None
        burst = None
        if limit:
            burst = limit.burst or math.ceil(limit.max_per_second * _LATENESS)
        self._pacer = Pacer(rate, burst=burst)
        self._sent = 0.0  # recently, each request counting less the longer ago it was
        self._sent_at = -math.inf
        self._paused_until = -math.inf
        self._slowed_at = -math.inf
        self._slow_rate: float | None = None  # at the time from which the brake is let off
        self._slow_since = -math.inf
        self._slow_arrival = -math.inf

    def free_at(self) -> float:
        """Return the earliest time at which the next request may go."""
        return max(self._pacer.free_at(), self._paused_until, self._slow_arrival)

    def take(self, now: float) -> None:
        """Take note that a request goes now."""
        self._pacer.take(now)
        self._sent = self._recently_sent(now) + 1.0
        self._sent_at = now
        if self._slow_rate is not None:
            rate = self._rate_now(self._slow_rate, now)
            if rate < _LIFTED_AT * self._slow_rate:
                self._slow_arrival = max(self._slow_arrival, now) + 1 / rate
            else:
                self._slow_rate, self._slow_arrival = None, -math.inf

    def pause_left(self, now: float) -> float:
        """Return for how many more seconds the server wants to be left alone."""
        return max(0.0, self._paused_until - now)

    def slow_down(
        self, now: float, *, asked_at: float, pause: float | None, is_too_fast: bool = True
    ) -> bool:
        """Take note that the server refused a request because there are too many; return whether a pause begins.

        Args:
            now: the time.
            asked_at: when the request was sent. Of those under way together only the first counts.
            pause: seconds for which the server wants to be left alone, None if it did not say.
            is_too_fast: whether it is the rate that it minds, and not that it can serve nobody. Then a client that
                is slowed down already becomes slower still.
        """
        until = now + min(pause or 0.0, _LONGEST_PAUSE)
        begins = bool(pause) and self._paused_until <= now
        self._paused_until = max(self._paused_until, until)
        if asked_at > self._slowed_at:
            if self._slow_rate is None:
                rate = self._recently_sent(now) / _MEMORY
            else:
                rate = self._rate_now(self._slow_rate, now) if is_too_fast else self._slow_rate
            self._slow_rate = max(_SLOWEST, rate)
            self._slow_arrival = max(until, now + 1 / (_SLOWED_TO * self._slow_rate))
            self._slowed_at = now
        self._slow_since = max(self._slow_since, until)
        return begins

    def _recently_sent(self, now: float) -> float:
        return self._sent * math.exp((self._sent_at - now) / _MEMORY)

    def _rate_now(self, slow_rate: float, now: float) -> float:
        passed = max(0.0, now - self._slow_since)
        return slow_rate * (_SLOWED_TO + _REGAINED_A_SECOND * passed)


class TooLongAPause(Exception):
    """The server wants to be left alone for longer than a caller is ready to wait.

    Attributes:
        seconds: for how long.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class Turnstile:
    """Lets requests through: so many at once, and so fast. Of those that wait, each kind has its turn by turns.

    Args:
        max_at_once: how many may be under way at once.
        throttle: how fast they may go.
        on_wait: is told what has waited, for how many seconds, and what for when it began to.
    """

    def __init__(
        self,
        max_at_once: int,
        throttle: Throttle,
        on_wait: Callable[[Kind, float, Reason], None] | None = None,
    ) -> None:
        self._throttle = throttle
        self._on_wait = on_wait
        self._permits = Semaphore(max_at_once, fast_acquire=True)
        # Both are first come, first served. At the gate there is at most one of each kind, hence by turns.
        self._gate = Lock(fast_acquire=True)
        self._queues = {kind: Lock(fast_acquire=True) for kind in ("submit", "read", "poll")}
        self._impatient: dict[CancelScope, float] = {}

    def is_free(self, now: float) -> bool:
        """Return whether a request could go through without waiting."""
        return (
            self._permits.value > 0
            and not self._gate.locked()
            and self._throttle.free_at() <= now + _EARLY_RING
        )

    def enter_nowait(self, now: float) -> bool:
        """Go through if that is possible without waiting; return whether it was."""
        if not self.is_free(now):
            return False
        self._permits.acquire_nowait()
        self._throttle.take(now)
        return True

    async def enter(self, kind: Kind, *, patience: float = math.inf) -> None:
        """Wait for a turn and go through; :meth:`leave` must follow.

        Args:
            kind: what waits.
            patience: seconds for which the server's wish to be left alone is granted.

        Raises:
            TooLongAPause: the server wants to be left alone for longer.
        """
        began = current_time()
        if self.enter_nowait(began):
            return
        reason = self._reason(began)
        with self._unless_paused_for(patience):
            async with self._queues[kind], self._gate:
                await self._permits.acquire()
                try:
                    await self._wait_until_free()
                except BaseException:
                    self._permits.release()
                    raise
            if self._on_wait is not None:
                self._on_wait(kind, current_time() - began, reason)
            return
        raise TooLongAPause(self._throttle.pause_left(current_time()))

    def _reason(self, now: float) -> Reason:
        if self._throttle.pause_left(now) > 0:
            return "retry_after"
        return "rate_limit" if self._permits.value > 0 else "connections"

    async def _wait_until_free(self) -> None:
        # Again after each sleep: the server may have asked for a pause meanwhile.
        while (free_at := self._throttle.free_at()) > (now := current_time()) + _EARLY_RING:  # noqa: ASYNC110
            await sleep(free_at - now)
        self._throttle.take(now)

    @contextmanager
    def _unless_paused_for(self, patience: float) -> Generator[None]:
        with CancelScope() as scope:
            self._impatient[scope] = patience
            try:
                if _is_longer(self._throttle.pause_left(current_time()), patience):
                    scope.cancel()
                yield
            finally:
                del self._impatient[scope]

    def leave(self) -> None:
        """Take note that a request is over."""
        self._permits.release()

    def slow_down(self, *, asked_at: float, pause: float | None, is_too_fast: bool) -> bool:
        """Take note that the server refused a request because there are too many: see :meth:`Throttle.slow_down`."""
        now = current_time()
        begins = self._throttle.slow_down(
            now, asked_at=asked_at, pause=pause, is_too_fast=is_too_fast
        )
        left = self._throttle.pause_left(now)
        for scope, patience in self._impatient.items():
            if _is_longer(left, patience):
                scope.cancel()
        return begins


def _is_longer(pause: float, patience: float) -> bool:
    # Adding a minute to a time and subtracting that time again may give slightly more than a minute.
    return pause > patience + _EARLY_RING
