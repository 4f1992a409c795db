"""Requests as callers make them: in their turn, and again where that is worth it and allowed."""

from __future__ import annotations

import logging
import math
from random import Random
from typing import TYPE_CHECKING, Final, Protocol, TypeVar
from urllib.parse import urlsplit

from anyio import current_time, sleep

from annolab_async._hook_records import RequestBegan, RequestEnded, RetryPlanned
from annolab_async._limits import TooLongAPause
from annolab_async._retry import is_overload
from annolab_async.errors import AnnoLabError, RateLimited, StatusError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from annolab_async._hook_records import ExportBegan, RequestKind
    from annolab_async._hooks import Hooks
    from annolab_async._http import HttpSession, Progress
    from annolab_async._limits import Kind, Turnstile
    from annolab_async._replies import Reply
    from annolab_async._retry import RetryBudget, RetryPolicy

__all__ = ["Calls"]

_log: Final = logging.getLogger(__name__)
T = TypeVar("T")

_SECONDS_BETWEEN_WARNINGS: Final = 60.0


class _Send(Protocol[T]):
    """Sends a request once."""

    async def __call__(
        self, path: str, read: Callable[[Reply], T], headers: Mapping[str, str] | None, /
    ) -> T: ...


class Calls:
    """Sends a client's requests.

    Args:
        session: what sends one.
        retry: how often one that failed is repeated, and when.
        budget: how many of all may be repeated.
        turns: where each waits for its turn.
        hooks: who wants to hear of them.
        base_url: where they go, for those.
    """

    def __init__(
        self,
        session: HttpSession,
        *,
        retry: RetryPolicy,
        budget: RetryBudget,
        turns: Turnstile,
        hooks: Hooks,
        base_url: str,
    ) -> None:
        self._session = session
        self._hooks = hooks
        self._is_observed = hooks.request is not None or hooks.request_end is not None
        url = urlsplit(base_url)
        self._origin = f"{url.scheme}://{url.netloc}"
        self._retry = retry
        self._budget = budget
        self._turns = turns
        self._random = Random()
        self._quiet_until = -math.inf  # after a warning, for a while

    async def repeat(
        self,
        kind: Kind,
        path: str,
        send: Callable[[int], Awaitable[T]],
        is_worth: Callable[[AnnoLabError], bool],
        *,
        of: RequestKind,
        job_id: int | None = None,
    ) -> T:
        """Wait for a turn and send a request, and again as long as that is worth it and allowed.

        Args:
            kind: whose turn to wait for.
            path: where it goes.
            send: sends it once, given how often it was sent before.
            is_worth: tells whether a failure may not happen again.
            of: what it is, for hooks and logs.
            job_id: the job that it is about, for those.

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
                return await send(failures)
            except AnnoLabError as error:
                failures += 1
                delay = self._retry.next_delay(
                    failures, error, elapsed=current_time() - began, random=self._random
                )
                if not is_worth(error) or delay is None or not self._budget.spend():
                    raise
                self._tell_retry(of, failures, delay, error, job_id)
            finally:
                self._turns.leave()
            await sleep(delay)

    def _tell_retry(
        self, of: RequestKind, failures: int, delay: float, error: AnnoLabError, job_id: int | None
    ) -> None:
        _log.debug(
            "A %s request is sent again in %.2f s: %s",
            of,
            delay,
            error,
            extra={
                "kind": of,
                "attempt": failures,
                "delay": delay,
                "inference_job_id": job_id,
                "error": type(error).__name__,
            },
        )
        if self._hooks.retry is not None:
            self._hooks.retry(
                RetryPlanned(
                    kind=of, attempt=failures, delay=delay, error=error, inference_job_id=job_id
                )
            )

    async def _enter(self, kind: Kind, path: str) -> None:
        try:
            return await self._turns.enter(kind, patience=self._retry.longest_retry_after)
        except TooLongAPause as pause:
            seconds = pause.seconds
        raise RateLimited.instead_of_sending(
            method="POST" if kind == "submit" else "GET", path=path, seconds=seconds
        )

    def get(
        self,
        path: str,
        read: Callable[[Reply], T],
        *,
        kind: RequestKind,
        job_id: int | None = None,
        resends: int = 0,
        export: ExportBegan | None = None,
    ) -> Awaitable[T]:
        """Send a GET request once, whose turn it is, and return what its answer says; see :class:`HttpSession`."""
        # Nobody looks on, as a rule, and then a request costs no more than itself.
        if not (self._is_observed or _log.isEnabledFor(logging.DEBUG)):
            return self._get(path, read)
        request = RequestBegan(kind, "GET", self._origin, path, job_id, resends, export)
        return self._observed(request, read, self._session.get)

    def post(
        self,
        path: str,
        body: bytes,
        progress: Progress,
        read: Callable[[Reply], T],
        *,
        kind: RequestKind,
        resends: int = 0,
        export: ExportBegan | None = None,
    ) -> Awaitable[T]:
        """Send a POST request once, whose turn it is, and return what its answer says; see :class:`HttpSession`."""
        request = RequestBegan(kind, "POST", self._origin, path, None, resends, export)

        async def send(
            path: str, read: Callable[[Reply], T], headers: Mapping[str, str] | None
        ) -> T:
            return read(await self._session.post(path, body, progress, headers))

        return self._observed(request, read, send)

    async def _get(self, path: str, read: Callable[[Reply], T]) -> T:
        asked_at = current_time()
        try:
            return await self._session.get(path, read)
        except StatusError as error:
            self._note(error, asked_at)
            raise

    async def _observed(
        self, request: RequestBegan, read: Callable[[Reply], T], send: _Send[T]
    ) -> T:
        # As a poll goes through here, too, if there are hooks: no coroutine and no clock more than it takes.
        hooks = self._hooks
        headers = None if hooks.request is None else hooks.request(request)
        status_code: int | None = None
        fault: BaseException | None = None

        def noted(reply: Reply) -> T:
            nonlocal status_code
            status_code = reply.status_code
            return read(reply)

        began = current_time()
        try:
            return await send(request.path, noted, headers)
        except BaseException as error:
            fault = error
            if isinstance(error, StatusError):
                self._note(error, began)
            raise
        finally:
            ended = RequestEnded(request, current_time() - began, status_code, fault)
            fault = None  # it holds this frame
            if hooks.request_end is not None:
                hooks.request_end(ended)
            if _log.isEnabledFor(logging.DEBUG):
                _log_request(ended)

    def _note(self, error: StatusError, asked_at: float) -> None:
        if is_overload(error) and self._turns.slow_down(
            asked_at=asked_at,
            pause=error.retry_after,
            is_too_fast=isinstance(error, RateLimited),
        ):
            now, level = current_time(), logging.DEBUG
            # One that is overloaded for an hour may ask so each second.
            pause = error.retry_after or 0.0
            if now >= self._quiet_until or pause >= _SECONDS_BETWEEN_WARNINGS:
                level = logging.WARNING
                self._quiet_until = now + _SECONDS_BETWEEN_WARNINGS
            _log.log(
                level,
                "The server answered %d and asks to be left alone for %.0f s: all requests of this client wait.",
                error.status_code,
                error.retry_after,
                extra={"status_code": error.status_code, "retry_after": error.retry_after},
            )


def _log_request(ended: RequestEnded) -> None:
    request, error = ended.request, ended.error
    result = ended.status_code if error is None else type(error).__name__
    _log.debug(
        "%s %s: %s after %.3f s",
        request.method,
        request.path,
        result,
        ended.duration,
        extra={
            "kind": request.kind,
            "method": request.method,
            "path": request.path,
            "inference_job_id": request.inference_job_id,
            "attempt": request.resends + 1,
            "duration": ended.duration,
            "status_code": ended.status_code,
            "error": error and type(error).__name__,
        },
    )
