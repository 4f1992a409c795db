"""When to send again, and what a failure proves. Pure: the failure and the randomness come in as arguments."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from attrs import frozen

from annolab_async.errors import NoResponse, RequestNotSent, StatusError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

    from annolab_async.errors import AnnoLabError

__all__ = ["RetryPolicy", "backoff", "growth_faults", "may_exist", "worth_asking_again"]

_REFUSALS: Final = 400
_SERVER_ERRORS: Final = 500
_ELSEWHERE: Final = {
    HTTPStatus.MOVED_PERMANENTLY,
    HTTPStatus.TEMPORARY_REDIRECT,
    HTTPStatus.PERMANENT_REDIRECT,
}
_MAY_PASS: Final = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}


def backoff(failures: int, *, first: float, factor: float, cap: float) -> float:
    """Return ``first * factor ** (failures - 1)`` seconds, at most ``cap``."""
    try:
        return min(cap, first * math.pow(factor, failures - 1))
    except OverflowError:
        return cap


def growth_faults(*, first: float, factor: float, cap: float) -> Iterator[str]:
    """Yield what is wrong with the arguments of :func:`backoff`."""
    if not 0 < first <= cap < math.inf:
        yield f"0 < first <= cap does not hold for {first} and {cap}"
    if not 1 <= factor < math.inf:
        yield f"factor is {factor}, not at least 1"


@frozen(kw_only=True)
class RetryPolicy:
    """How often, and after how long, a request that failed is sent again: exponential backoff, full jitter.

    Args:
        attempts: how often a request is sent at most, the first time included.
        first: upper bound of the first delay, in seconds.
        factor: what each further bound is multiplied with.
        cap: the highest bound, in seconds. A ``Retry-After`` of the server is honoured up to this, too.

    Raises:
        ValueError: an argument makes no sense; the text names each.
    """

    attempts: int = 4
    first: float = 0.5
    factor: float = 2.0
    cap: float = 30.0

    def __attrs_post_init__(self) -> None:
        faults = [*growth_faults(first=self.first, factor=self.factor, cap=self.cap)]
        if type(self.attempts) is not int or self.attempts < 1:
            faults.append(f"attempts is {self.attempts}, not an integer from 1 up")
        if faults:
            raise ValueError("This is no valid RetryPolicy: " + "; ".join(faults))

    def delay(self, failures: int, random: Random, error: AnnoLabError | None = None) -> float:
        """Return the seconds to wait before a request is sent again.

        Args:
            failures: how often it has failed in a row, at least 1.
            random: where the jitter comes from.
            error: the last failure; its ``retry_after`` is waited for.
        """
        bound = backoff(failures, first=self.first, factor=self.factor, cap=self.cap)
        asked = getattr(error, "retry_after", None) or 0.0
        return max(random.uniform(0.0, bound), min(asked, self.cap))


def worth_asking_again(error: AnnoLabError) -> bool:
    """Return whether a read that failed so may succeed if it is simply repeated."""
    if isinstance(error, StatusError):
        return error.status_code >= _SERVER_ERRORS or error.status_code in _MAY_PASS
    return isinstance(error, RequestNotSent | NoResponse)


def may_exist(error: AnnoLabError) -> bool:
    """Return whether a job may exist although its submission failed so.

    A server that answers 4xx has refused the batch, one that answers 503 with a ``Retry-After`` says that it has not
    taken it, and one that answers 301, 307 or 308 wants it elsewhere. Any other failure of the server (a gateway's
    timeout above all) and any other redirect (to what was made, perhaps) may have come after the job was made.
    """
    if isinstance(error, StatusError):
        status_code = error.status_code
        if status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            return error.retry_after is None
        is_refusal = _REFUSALS <= status_code < _SERVER_ERRORS or status_code in _ELSEWHERE
        return not is_refusal or status_code == HTTPStatus.REQUEST_TIMEOUT
    return isinstance(error, NoResponse)
