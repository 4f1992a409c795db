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
from annolab_async._retry import (
    RetryBudget,
    Verdict,
    backoff,
    is_overload,
    verdict,
    worth_asking_again,
    worth_submitting_again,
)
from tests.builders import make_status_error, unhurried

NOT_SENT = RequestNotSent(method="GET", path="/", cause=OSError())
NEVER_SENT = RequestNotSent(method="GET", path="/", cause=OSError(), is_final=True)
NO_RESPONSE = NoResponse(method="GET", path="/", cause=OSError())
INVALID = InvalidResponse(method="GET", path="/", fault="bad", excerpt="")
SALVAGED = InvalidResponse(method="POST", path="/", fault="bad", excerpt="", inference_job_id=7)


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
        ({"attempts": True}, ["attempts is True"]),
        ({"first": 0}, ["first <= cap"]),
        ({"first": 31}, ["first <= cap"]),
        ({"first": math.nan}, ["first <= cap"]),
        ({"cap": math.inf}, ["first <= cap"]),
        ({"factor": 0.9}, ["factor is 0.9"]),
        ({"factor": math.inf}, ["factor is inf"]),
        ({"factor": math.nan}, ["factor is nan"]),
        ({"total_time": 0}, ["total_time is 0"]),
        ({"total_time": math.inf}, ["total_time is inf"]),
        ({"longest_retry_after": -1}, ["longest_retry_after is -1"]),
        ({"longest_retry_after": math.nan}, ["longest_retry_after is nan"]),
        ({"longest_retry_after": math.inf}, ["longest_retry_after is inf"]),
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
    RetryPolicy(longest_retry_after=0)


def test_a_delay_is_spread_over_all_of_its_bound() -> None:
    policy, random = RetryPolicy(first=1, factor=2, cap=30), Random(0)
    for failures, bound in ((1, 1), (3, 4), (50, 30)):
        delays = [policy.delay(failures, random) for _ in range(1000)]
        assert 0 <= min(delays) < 0.02 * bound
        assert 0.98 * bound < max(delays) <= bound


def next_delay(
    policy: RetryPolicy, failures: int, error: AnnoLabError = NO_RESPONSE, elapsed: float = 0.0
) -> float | None:
    return policy.next_delay(failures, error, elapsed=elapsed, random=Random(0))


def test_a_call_gives_up_after_its_attempts() -> None:
    policy = RetryPolicy(attempts=3)
    assert next_delay(policy, 2) is not None
    assert next_delay(policy, 3) is None


@pytest.mark.parametrize("asked", [0.0, 0.1, 7, 60])
def test_the_servers_retry_after_is_waited_for(asked: float) -> None:
    policy = RetryPolicy(first=1e-6, longest_retry_after=60)
    delay = next_delay(policy, 1, make_status_error(429, retry_after=asked))
    assert delay == pytest.approx(asked, abs=1e-5)


def test_a_retry_after_makes_no_delay_shorter() -> None:
    policy = RetryPolicy(first=10, cap=10)
    own = policy.delay(1, Random(0))
    assert own > 1
    assert next_delay(policy, 1, make_status_error(429, retry_after=0.1)) == own


@pytest.mark.parametrize("asked", [60.1, 1e9])
def test_a_call_gives_up_at_once_where_the_server_asks_for_too_long(asked: float) -> None:
    policy = RetryPolicy(longest_retry_after=60)
    assert next_delay(policy, 1, make_status_error(429, retry_after=asked)) is None


def test_no_attempt_begins_after_the_total_time() -> None:
    policy = RetryPolicy(first=1e-6, total_time=30)
    assert next_delay(policy, 1, make_status_error(503, retry_after=10), elapsed=20) == 10
    assert next_delay(policy, 1, make_status_error(503, retry_after=10), elapsed=20.1) is None


def test_the_budget_lets_a_tenth_of_many_requests_be_repeated_and_some_of_a_few() -> None:
    budget = RetryBudget()
    assert sum(budget.spend() for _ in range(100)) == 10, "a quiet client has some to begin with"
    repeated = 0
    for _ in range(1000):
        budget.earn()
        repeated += budget.spend()
    assert repeated == pytest.approx(80, abs=1)


def test_a_budget_is_not_saved_up() -> None:
    budget = RetryBudget()
    for _ in range(100_000):
        budget.earn()
    assert sum(budget.spend() for _ in range(100)) == 10


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NOT_SENT, True),
        (NEVER_SENT, False),
        (NO_RESPONSE, True),
        (INVALID, True),
        (NotOpen(), False),
        (ConfigurationError(), False),
        *[(make_status_error(code), True) for code in (408, 425, 429, 500, 502, 503, 504)],
        *[
            (make_status_error(code), False)
            for code in (301, 307, 308, 400, 401, 403, 404, 409, 422)
        ],
    ],
)
def test_a_read_is_repeated_unless_the_answer_is_sure(error: AnnoLabError, expected: bool) -> None:  # noqa: FBT001
    assert worth_asking_again(error) is expected


@pytest.mark.parametrize(
    ("error", "proof", "is_worth_it"),
    [
        (NOT_SENT, Verdict.NOT_SENT, True),
        (NEVER_SENT, Verdict.NOT_SENT, False),
        (NO_RESPONSE, Verdict.UNKNOWN, False),
        (NotOpen(), Verdict.NOT_SENT, False),
        (INVALID, Verdict.ID_LOST, False),
        (SALVAGED, Verdict.PROCESSED, False),
        *[
            (make_status_error(code), Verdict.UNKNOWN, False)
            for code in (302, 303, 408, 500, 502, 503, 504)
        ],
        *[
            (make_status_error(code), Verdict.NOT_PROCESSED, False)
            for code in (301, 307, 308, 400, 401, 403, 404, 422)
        ],
        (make_status_error(429), Verdict.NOT_PROCESSED, True),
        (make_status_error(429, retry_after=5), Verdict.NOT_PROCESSED, True),
        (make_status_error(503, retry_after=0), Verdict.NOT_PROCESSED, True),
        (make_status_error(503, retry_after=5), Verdict.NOT_PROCESSED, True),
        (make_status_error(502, retry_after=5), Verdict.UNKNOWN, False),
    ],
)
def test_a_submission_is_repeated_only_if_no_job_was_made_and_one_may_be(
    error: AnnoLabError,
    proof: Verdict,
    is_worth_it: bool,  # noqa: FBT001
) -> None:
    assert verdict(error) is proof
    assert worth_submitting_again(error) is is_worth_it


@pytest.mark.parametrize(
    ("status_code", "retry_after", "expected"),
    [(429, None, True), (429, 3, True), (503, 3, True), (503, None, False), (500, 3, False)],
)
def test_an_overload_is_what_the_server_calls_so(
    status_code: int,
    retry_after: float | None,
    expected: bool,  # noqa: FBT001
) -> None:
    error = make_status_error(status_code, retry_after=retry_after)
    assert is_overload(error) is expected
