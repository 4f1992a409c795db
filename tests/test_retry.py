"""When to send again, and what a failure proves."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest
from hypothesis import given, strategies as st

from annolab_async import (
    AnnoLabError,
    ConfigurationError,
    InvalidResponse,
    NoResponse,
    NotOpen,
    RequestNotSent,
    RetryPolicy,
)
from annolab_async._retry import backoff, may_exist, worth_asking_again
from tests.builders import make_status_error, unhurried

NOT_SENT = RequestNotSent(method="GET", path="/", cause=OSError())
NO_RESPONSE = NoResponse(method="GET", path="/", cause=OSError())
INVALID = InvalidResponse(method="GET", path="/", fault="bad", excerpt="")


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 0.5), (2, 1), (3, 2), (7, 32), (8, 60), (9, 60), (10**9, 60)]
)
def test_backoff_grows_by_its_factor_up_to_its_cap(failures: int, seconds: float) -> None:
    assert backoff(failures, first=0.5, factor=2, cap=60) == pytest.approx(seconds)


@pytest.mark.parametrize("failures", [1, 2, 10**300])
def test_backoff_with_factor_one_stays(failures: int) -> None:
    assert backoff(failures, first=3, factor=1, cap=60) == 3


@unhurried
@given(
    st.integers(1, 10**400),
    st.floats(1e-3, 1e3),
    st.floats(1, 1e3),
    st.floats(1, 1e6),
)
def test_backoff_never_overflows_shrinks_or_exceeds_its_cap(
    failures: int, first: float, factor: float, ratio: float
) -> None:
    cap = first * ratio
    seconds = backoff(failures, first=first, factor=factor, cap=cap)
    assert 0 < seconds <= cap
    assert seconds <= backoff(failures + 1, first=first, factor=factor, cap=cap) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("first", "factor", "cap"), [(1.0, 1e200, 1e150), (1e-300, 2.0, 1e10), (1.0, 1e300, 1e10)]
)
def test_backoff_with_extreme_numbers_is_at_its_cap(
    first: float, factor: float, cap: float
) -> None:
    RetryPolicy(first=first, factor=factor, cap=cap)  # they are valid
    assert backoff(10**6, first=first, factor=factor, cap=cap) == cap


@pytest.mark.parametrize(
    ("options", "faults"),
    [
        ({"attempts": 0}, ["attempts is 0"]),
        ({"first": 0}, ["first <= cap"]),
        ({"first": 31}, ["first <= cap"]),
        ({"first": math.nan}, ["first <= cap"]),
        ({"cap": math.inf}, ["first <= cap"]),
        ({"factor": 0.9}, ["factor is 0.9"]),
        ({"factor": math.inf}, ["factor is inf"]),
        ({"factor": math.nan}, ["factor is nan"]),
        (
            {"attempts": -1, "first": -1, "factor": 0},
            ["attempts is -1", "first <= cap", "factor is 0"],
        ),
    ],
)
def test_a_policy_that_makes_no_sense_names_each_fault(
    options: dict[str, Any], faults: list[str]
) -> None:
    with pytest.raises(ValueError, match="RetryPolicy") as caught:
        RetryPolicy(**options)
    assert str(caught.value).count(";") == len(faults) - 1
    assert all(fault in str(caught.value) for fault in faults)


def test_a_policy_may_be_at_the_edge_of_sense() -> None:
    policy = RetryPolicy(attempts=1, first=2, factor=1, cap=2)
    assert 0 <= policy.delay(100, Random(0)) <= 2


def test_a_delay_is_spread_over_all_of_its_bound() -> None:
    policy, random = RetryPolicy(first=1, factor=2, cap=30), Random(0)
    for failures, bound in ((1, 1), (3, 4), (50, 30)):
        delays = [policy.delay(failures, random) for _ in range(1000)]
        assert 0 <= min(delays) < 0.02 * bound
        assert 0.98 * bound < max(delays) <= bound


@pytest.mark.parametrize(("asked", "at_least"), [(0, 0), (7, 7), (30, 30), (86_400, 30)])
def test_the_servers_retry_after_is_waited_for_up_to_the_cap(asked: float, at_least: float) -> None:
    policy, random = RetryPolicy(first=1, cap=30), Random(0)
    for _ in range(100):
        delay = policy.delay(1, random, make_status_error(429, retry_after=asked))
        assert at_least <= delay <= max(at_least, 1)


@pytest.mark.parametrize("error", [None, NO_RESPONSE, make_status_error(500)])
def test_a_failure_without_retry_after_is_backed_off_from(error: AnnoLabError | None) -> None:
    assert RetryPolicy(first=1).delay(1, Random(0), error) <= 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NOT_SENT, True),
        (NO_RESPONSE, True),
        (INVALID, False),
        (NotOpen(), False),
        (ConfigurationError(), False),
        *[(make_status_error(code), True) for code in (408, 429, 500, 502, 503, 504)],
        *[
            (make_status_error(code), False)
            for code in (301, 307, 308, 400, 401, 403, 404, 409, 422)
        ],
    ],
)
def test_a_read_is_repeated_only_if_that_may_help(error: AnnoLabError, expected: bool) -> None:  # noqa: FBT001
    assert worth_asking_again(error) is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NOT_SENT, False),
        (NO_RESPONSE, True),
        (NotOpen(), False),
        *[(make_status_error(code), True) for code in (302, 303, 408, 500, 502, 503, 504)],
        *[
            (make_status_error(code), False)
            for code in (301, 307, 308, 400, 401, 403, 404, 422, 429)
        ],
        (make_status_error(503, retry_after=0), False),
        (make_status_error(503, retry_after=5), False),
        (make_status_error(502, retry_after=5), True),
    ],
)
def test_a_job_may_exist_unless_the_failure_proves_that_it_does_not(
    error: AnnoLabError,
    expected: bool,  # noqa: FBT001
) -> None:
    assert may_exist(error) is expected
