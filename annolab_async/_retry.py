"""What a failure proves, and when to send again. Pure: the failure, time and randomness come in as arguments."""

from __future__ import annotations

import math
from enum import StrEnum, auto
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from attrs import frozen

from annolab_async._records import is_positive
from annolab_async.errors import (
    ConfigurationError,
    InvalidResponse,
    NoResponse,
    RequestNotSent,
    StatusError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

    from annolab_async.errors import AnnoLabError

__all__ = [
    "RetryBudget",
    "RetryPolicy",
    "Verdict",
    "backoff",
    "growth_faults",
    "is_overload",
    "policy_of",
    "verdict",
    "worth_asking_again",
    "worth_submitting_again",
]

_REFUSALS: Final = 400
_SERVER_ERRORS: Final = 500
_ELSEWHERE: Final = {
    HTTPStatus.MOVED_PERMANENTLY,
    HTTPStatus.TEMPORARY_REDIRECT,
    HTTPStatus.PERMANENT_REDIRECT,
}
_MAY_PASS: Final = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
}
# Of the requests that fail, the share that is repeated once a few were. Below the tenth that is promised, so that the
# few are made up for, too.
_SHARE: Final = 0.08
_RESERVE: Final = 10.0


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

    A client repeats at most a tenth of its requests besides, once ten were repeated, so that a service that is down
    is not kept down by who asks.

    Args:
        attempts: how often a request is sent at most, the first time included.
        first: upper bound of the first delay, in seconds.
        factor: what each further bound is multiplied with.
        cap: the highest bound, in seconds.
        total_time: seconds from the first attempt after which no other begins.
        longest_retry_after: the longest time that a server may ask for, in seconds; what is longer fails at once.

    Raises:
        ValueError: an argument makes no sense; the text names each.
    """

    attempts: int = 4
    first: float = 0.5
    factor: float = 2.0
    cap: float = 30.0
    total_time: float = 120.0
    longest_retry_after: float = 60.0

    def __attrs_post_init__(self) -> None:
        faults = [*growth_faults(first=self.first, factor=self.factor, cap=self.cap)]
        if type(self.attempts) is not int or self.attempts < 1:
            faults.append(f"attempts is {self.attempts}, not an integer from 1 up")
        if not is_positive(self.total_time):
            faults.append(f"total_time is {self.total_time}, not a positive number of seconds")
        if not 0 <= self.longest_retry_after < math.inf:
            faults.append(
                f"longest_retry_after is {self.longest_retry_after}, not a number of seconds"
            )
        if faults:
            raise ValueError("This is no valid RetryPolicy: " + "; ".join(faults))

    def delay(self, failures: int, random: Random) -> float:
        """Return the seconds to wait before a request is sent again.

        Args:
            failures: how often it has failed in a row, at least 1.
            random: where the jitter comes from.
        """
        return random.uniform(
            0.0, backoff(failures, first=self.first, factor=self.factor, cap=self.cap)
        )

    def next_delay(
        self, failures: int, error: AnnoLabError, *, elapsed: float, random: Random
    ) -> float | None:
        """Return the seconds to wait before a call goes on, None if it is to give up.

        Args:
            failures: how often it has failed in a row, at least 1.
            error: the last failure; what its ``retry_after`` asks for is waited for.
            elapsed: seconds since the first attempt.
            random: where the jitter comes from.
        """
        if failures >= self.attempts:
            return None
        delay = self.delay(failures, random)
        if asked := getattr(error, "retry_after", None):
            if asked > self.longest_retry_after:
                return None
            delay = max(delay, asked)
        return delay if elapsed + delay <= self.total_time else None


def policy_of(retry: RetryPolicy | None) -> RetryPolicy:
    """Return the policy that a client is given, else the usual one.

    Raises:
        ConfigurationError: that is no policy.
    """
    if retry is None:
        return RetryPolicy()
    if not isinstance(retry, RetryPolicy):
        raise ConfigurationError(
            f"retry is {retry!r}, not a policy such as RetryPolicy(attempts=3)"
        )
    return retry


class RetryBudget:
    """Keeps the requests that repeat others to a share of all requests: a token bucket."""

    def __init__(self) -> None:
        self._tokens = _RESERVE

    def earn(self) -> None:
        """Take note of a request that repeats none."""
        self._tokens = min(_RESERVE, self._tokens + _SHARE)

    def spend(self) -> bool:
        """Return whether a request may be repeated now, and if so take note of it."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class Verdict(StrEnum):
    """What a failed submission proves of its job."""

    NOT_SENT = auto()
    """The server cannot have seen it."""
    NOT_PROCESSED = auto()
    """The server says that it has not taken it."""
    UNKNOWN = auto()
    """It may exist, or not."""
    PROCESSED = auto()
    """It exists, and its id is known."""
    ID_LOST = auto()
    """The server reported success, but the job's id did not come through."""


def verdict(error: AnnoLabError) -> Verdict:
    """Return what a failed submission proves.

    A server that answers 4xx has refused the batch, one that answers 503 with a ``Retry-After`` says that it has not
    taken it, and one that answers 301, 307 or 308 wants it elsewhere. Any other failure of the server (a gateway's
    timeout above all) and any other redirect (to what was made, perhaps) may have come after the job was made.
    """
    if isinstance(error, StatusError):
        status_code = error.status_code
        if status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            is_refusal = error.retry_after is not None
        else:
            is_refusal = _REFUSALS <= status_code < _SERVER_ERRORS or status_code in _ELSEWHERE
        if is_refusal and status_code != HTTPStatus.REQUEST_TIMEOUT:
            return Verdict.NOT_PROCESSED
        return Verdict.UNKNOWN
    if isinstance(error, InvalidResponse):
        return Verdict.ID_LOST if error.inference_job_id is None else Verdict.PROCESSED
    return Verdict.UNKNOWN if isinstance(error, NoResponse) else Verdict.NOT_SENT


def is_overload(error: StatusError) -> bool:
    """Return whether the server says that it gets too many requests: 429, or 503 that names a time."""
    is_unavailable = error.status_code == HTTPStatus.SERVICE_UNAVAILABLE
    return error.status_code == HTTPStatus.TOO_MANY_REQUESTS or (
        is_unavailable and error.retry_after is not None
    )


def worth_submitting_again(error: AnnoLabError) -> bool:
    """Return whether a submission that failed so made no job, and may make one if it is simply repeated."""
    if isinstance(error, RequestNotSent):
        return not error.is_final
    return verdict(error) is Verdict.NOT_PROCESSED and _may_pass(error)


def worth_asking_again(error: AnnoLabError) -> bool:
    """Return whether a read that failed so may succeed if it is simply repeated."""
    if isinstance(error, RequestNotSent):
        return not error.is_final
    return _may_pass(error) or isinstance(error, NoResponse | InvalidResponse)


def _may_pass(error: AnnoLabError) -> bool:
    return isinstance(error, StatusError) and (
        error.status_code >= _SERVER_ERRORS or error.status_code in _MAY_PASS
    )
