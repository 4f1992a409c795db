"""Requests as callers make them: in their turn, and again where that is worth it and allowed."""

from __future__ import annotations

import logging
from random import Random
from typing import TYPE_CHECKING, Final, TypeVar

from anyio import current_time, sleep

from annolab_async._limits import TooLongAPause
from annolab_async._retry import is_overload
from annolab_async.errors import AnnoLabError, RateLimited, StatusError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from annolab_async._http import HttpSession, Progress
    from annolab_async._limits import Kind, Turnstile
    from annolab_async._replies import Reply
    from annolab_async._retry import RetryBudget, RetryPolicy

__all__ = ["Calls"]

_log: Final = logging.getLogger(__name__)
T = TypeVar("T")


class Calls:
    """Sends a client's requests.

    Args:
        session: what sends one.
        retry: how often one that failed is repeated, and when.
        budget: how many of all may be repeated.
        turns: where each waits for its turn.
    """

    def __init__(
        self, session: HttpSession, *, retry: RetryPolicy, budget: RetryBudget, turns: Turnstile
    ) -> None:
        self._session = session
        self._retry = retry
        self._budget = budget
        self._turns = turns
        self._random = Random()

    async def repeat(
        self,
        kind: Kind,
        path: str,
        send: Callable[[], Awaitable[T]],
        is_worth: Callable[[AnnoLabError], bool],
    ) -> T:
        """Wait for a turn and send a request, and again as long as that is worth it and allowed.

        Args:
            kind: whose turn to wait for.
            path: where it goes.
            send: sends it once.
            is_worth: tells whether a failure may not happen again.

        Raises:
            AnnoLabError: what it failed with the last time.
        """
        self._session.check_open()
        began = current_time()
        self._budget.earn()
        failures = 0
        while True:
            await self._enter(kind, path)
            try:
                return await send()
            except AnnoLabError as error:
                failures += 1
                delay = self._retry.next_delay(
                    failures, error, elapsed=current_time() - began, random=self._random
                )
                if not is_worth(error) or delay is None or not self._budget.spend():
                    raise
            finally:
                self._turns.leave()
            await sleep(delay)

    async def _enter(self, kind: Kind, path: str) -> None:
        try:
            return await self._turns.enter(kind, patience=self._retry.longest_retry_after)
        except TooLongAPause as pause:
            seconds = pause.seconds
        raise RateLimited.instead_of_sending(
            method="POST" if kind == "submit" else "GET", path=path, seconds=seconds
        )

    async def get(self, path: str, read: Callable[[Reply], T]) -> T:
        """Send a GET request once, whose turn it is, and return what its answer says; see :class:`HttpSession`."""
        asked_at = current_time()
        try:
            return await self._session.get(path, read)
        except StatusError as error:
            self._note(error, asked_at)
            raise

    async def post(
        self, path: str, body: bytes, progress: Progress, read: Callable[[Reply], T]
    ) -> T:
        """Send a POST request once, whose turn it is, and return what its answer says; see :class:`HttpSession`."""
        asked_at = current_time()
        try:
            return read(await self._session.post(path, body, progress))
        except StatusError as error:
            self._note(error, asked_at)
            raise

    def _note(self, error: StatusError, asked_at: float) -> None:
        if is_overload(error) and self._turns.slow_down(
            asked_at=asked_at,
            pause=error.retry_after,
            is_too_fast=isinstance(error, RateLimited),
        ):
            _log.warning(
                "The server answered %d and asks to be left alone for %.0f s: all requests of this client wait.",
                error.status_code,
                error.retry_after,
            )
