"""When to ask for which job: schedules, the planners they make, and the pacer."""

from __future__ import annotations

import math
from collections.abc import Sized
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from annolab_async import Backoff, FixedInterval, JobState
from annolab_async._limits import Pacer
from tests.builders import unhurried
from tests.depth import examples

if TYPE_CHECKING:
    from annolab_async import PollPlanner, PollSchedule

EVERY_SCHEDULE = [FixedInterval(10), Backoff()]


def planner_of(schedule: PollSchedule, *job_ids: int, now: float = 0.0) -> PollPlanner:
    planner = schedule.planner(Random(0))
    for job_id in job_ids:
        planner.add(job_id, now, None)
    return planner


def gaps_of(schedule: PollSchedule, polls: int, seed: int = 0) -> list[float]:
    """The gaps between the polls of one job that is asked for whenever it is due."""
    planner, now, gaps = schedule.planner(Random(seed)), 100.0, list[float]()
    planner.add(1, now, None)
    for _ in range(polls):
        assert planner.pick(now) == 1
        planner.answered(1, now, now, JobState.RUNNING)
        due = planner.due_at()
        assert due is not None
        gaps.append(due - now)
        now = due
    return gaps


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf])
def test_a_fixed_interval_is_a_positive_number(seconds: float) -> None:
    with pytest.raises(ValueError, match=f"seconds is {seconds}"):
        FixedInterval(seconds)


@pytest.mark.parametrize(
    ("options", "faults"),
    [
        ({"first": 0}, ["first <= cap"]),
        ({"first": 40}, ["first <= cap"]),
        ({"cap": math.inf}, ["first <= cap"]),
        ({"factor": 0.5}, ["factor is 0.5"]),
        ({"factor": math.nan}, ["factor is nan"]),
        ({"jitter": 1}, ["jitter is 1"]),
        ({"jitter": -0.1}, ["jitter is -0.1"]),
        ({"first": -1, "factor": 0, "jitter": 2}, ["first <= cap", "factor is 0", "jitter is 2"]),
    ],
)
def test_a_backoff_that_makes_no_sense_names_each_fault(
    options: dict[str, Any], faults: list[str]
) -> None:
    with pytest.raises(ValueError, match="Backoff") as caught:
        Backoff(**options)
    assert str(caught.value).count(";") == len(faults) - 1
    assert all(fault in str(caught.value) for fault in faults)


def test_a_backoff_may_be_at_the_edge_of_sense() -> None:
    assert gaps_of(Backoff(first=2, factor=1, cap=2, jitter=0), 3) == [2, 2, 2]


def test_backoff_begins_at_a_second_and_ends_at_half_a_minute() -> None:
    assert gaps_of(Backoff(jitter=0), 10) == pytest.approx([
        1,
        1.5,
        2.25,
        3.375,
        5.0625,
        7.59375,
        11.390625,
        17.0859375,
        25.62890625,
        30,
    ])


def test_a_fixed_interval_asks_at_the_same_gaps() -> None:
    assert gaps_of(FixedInterval(7), 5) == [7] * 5


def test_backoff_without_jitter_grows_by_its_factor_to_its_cap() -> None:
    gaps = gaps_of(Backoff(first=1, factor=2, cap=10, jitter=0), 6)
    assert gaps == pytest.approx([1, 2, 4, 8, 10, 10])


@unhurried
@given(st.integers(), st.floats(0.1, 5), st.floats(1, 3), st.floats(1, 100), st.floats(0, 0.9))
def test_each_backoff_gap_is_off_by_no_more_than_its_jitter(
    seed: int, first: float, factor: float, ratio: float, jitter: float
) -> None:
    schedule = Backoff(first=first, factor=factor, cap=first * ratio, jitter=jitter)
    exact = [min(first * ratio, first * factor**polls) for polls in range(12)]
    for gap, middle in zip(gaps_of(schedule, 12, seed), exact, strict=True):
        assert middle * (1 - jitter) * 0.999 <= gap <= middle * 1.001


def test_jitter_lets_jobs_that_were_added_together_drift_apart() -> None:
    planner = planner_of(Backoff(), *range(1, 101))
    while (job_id := planner.pick(0.0)) is not None:
        planner.answered(job_id, 0.0, 0.0, JobState.QUEUED)
    seen = list[float]()
    while (due := planner.due_at()) is not None:
        seen.append(due)
        planner.pick(due)
    assert len(set(seen)) == 100
    assert 0.9 <= min(seen) < 0.92
    assert 0.98 < max(seen) <= 1.0


def test_a_job_polled_ten_thousand_times_overflows_nothing() -> None:
    assert gaps_of(Backoff(first=1, factor=1.5, cap=30, jitter=0), 10_000)[-1] == 30


@pytest.mark.parametrize("schedule", EVERY_SCHEDULE)
def test_a_job_is_due_at_once_when_added(schedule: PollSchedule) -> None:
    planner = planner_of(schedule)
    assert planner.due_at() is None
    assert planner.pick(1e9) is None
    planner.add(5, 42.0, JobState.QUEUED)
    assert planner.due_at() == 42.0
    assert planner.pick(41.9) is None
    assert planner.pick(42.0) == 5


@pytest.mark.parametrize("schedule", EVERY_SCHEDULE)
def test_a_job_in_flight_is_not_picked_however_late(schedule: PollSchedule) -> None:
    planner = planner_of(schedule, 1)
    assert planner.pick(0.0) == 1
    assert planner.due_at() is None
    assert planner.pick(1e9) is None


@pytest.mark.parametrize("state", list(JobState))
def test_only_an_ended_job_is_forgotten_with_its_answer(state: JobState) -> None:
    planner = planner_of(FixedInterval(10), 1)
    planner.pick(0.0)
    planner.answered(1, 3.0, 0.0, state)
    assert planner.due_at() == (None if state.is_terminal else 13.0)


@pytest.mark.parametrize("schedule", EVERY_SCHEDULE)
def test_a_discarded_job_is_never_picked(schedule: PollSchedule) -> None:
    planner = planner_of(schedule, 1, 2, 3)
    planner.discard(1)  # never asked for
    assert planner.pick(0.0) == 2
    planner.discard(2)  # in flight
    assert planner.pick(0.0) == 3
    planner.answered(3, 0.0, 0.0, JobState.QUEUED)
    planner.discard(3)  # waiting for its next poll
    planner.discard(4)  # not known
    assert planner.due_at() is None
    assert planner.pick(1e9) is None


def test_a_discarded_job_can_be_added_again_and_begins_anew() -> None:
    schedule = Backoff(first=1, factor=2, cap=10, jitter=0)
    planner = planner_of(schedule, 1)
    for now in (0.0, 1.0, 3.0):
        assert planner.pick(now) == 1
        planner.answered(1, now, now, JobState.QUEUED)
    planner.discard(1)
    planner.add(1, 5.0, None)
    assert planner.pick(5.0) == 1
    assert planner.pick(1e9) is None
    planner.answered(1, 5.0, 5.0, JobState.QUEUED)
    assert planner.due_at() == 6.0


def test_a_failed_job_is_not_asked_for_before_its_time() -> None:
    planner = planner_of(FixedInterval(10), 1)
    planner.pick(0.0)
    planner.failed(1, 0.0, 2.5)
    assert planner.due_at() == 2.5
    assert planner.pick(2.4) is None
    assert planner.pick(2.5) == 1


def test_a_failed_job_that_is_not_to_be_repeated_is_asked_for_as_though_it_were_answered() -> None:
    planner = planner_of(Backoff(first=1, factor=2, cap=10, jitter=0), 1)
    now = 0.0
    for gap in (1, 2, 4, 8, 10):
        assert planner.pick(now) == 1
        planner.failed(1, now, None)
        assert planner.due_at() == now + gap
        now += gap


def test_a_failure_does_not_lengthen_the_gap_after_the_next_answer() -> None:
    planner = planner_of(Backoff(first=1, factor=2, cap=10, jitter=0), 1)
    for retry_at in (1.0, 2.0, 3.0):
        planner.pick(retry_at)
        planner.failed(1, retry_at, retry_at)
    planner.pick(3.0)
    planner.answered(1, 3.0, 3.0, JobState.QUEUED)
    assert planner.due_at() == 4.0


@pytest.mark.parametrize("schedule", EVERY_SCHEDULE)
def test_ended_jobs_leave_nothing_behind(schedule: PollSchedule) -> None:
    planner = planner_of(schedule, *range(1000))
    for job_id in range(1000):
        assert planner.pick(0.0) == job_id
        planner.answered(job_id, 0.0, 0.0, JobState.FINISHED)
    assert not [held for held in vars(planner).values() if isinstance(held, Sized) and len(held)]


def test_overdue_jobs_are_asked_for_in_turn() -> None:
    planner = planner_of(FixedInterval(1), *range(5))
    picked = list[int]()
    for now in range(0, 200, 10):  # always overdue: one poll every ten intervals
        job_id = planner.pick(float(now))
        assert job_id is not None
        picked.append(job_id)
        planner.answered(job_id, float(now), float(now), JobState.QUEUED)
    assert picked == [*range(5)] * 4


class PlannerMachine(RuleBasedStateMachine):
    """Random use of a planner beside a list that is searched from end to end."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.placed = 0
        self.waiting: dict[int, tuple[float, int]] = {}
        self.in_flight = set[int]()
        self.polls: dict[int, int] = {}

    @initialize(schedule=st.sampled_from([FixedInterval(3), Backoff(factor=2, cap=8, jitter=0)]))
    def begin(self, schedule: FixedInterval | Backoff) -> None:
        self.schedule = schedule
        self.planner = schedule.planner(Random(0))

    def place(self, job_id: int, due: float) -> None:
        self.placed += 1
        self.waiting[job_id] = due, self.placed

    @rule(job_id=st.integers(1, 6))
    def add(self, job_id: int) -> None:
        if job_id not in self.waiting and job_id not in self.in_flight:
            self.planner.add(job_id, self.now, None)
            self.polls[job_id] = 0
            self.place(job_id, self.now)

    @rule(job_id=st.integers(1, 6))
    def discard(self, job_id: int) -> None:
        self.planner.discard(job_id)
        self.waiting.pop(job_id, None)
        self.in_flight.discard(job_id)

    @rule(seconds=st.integers(0, 10))
    def let_time_pass(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def pick(self) -> None:
        due = [(key, job_id) for job_id, key in self.waiting.items() if key[0] <= self.now]
        expected = min(due)[1] if due else None
        assert self.planner.pick(self.now) == expected
        if expected is not None:
            del self.waiting[expected]
            self.in_flight.add(expected)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), state=st.sampled_from(JobState))
    def answer(self, data: st.DataObject, state: JobState) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.in_flight)))
        self.in_flight.discard(job_id)
        self.planner.answered(job_id, self.now, self.now, state)
        if not state.is_terminal:
            self.polls[job_id] += 1
            gap = 3 if isinstance(self.schedule, FixedInterval) else 2 ** (self.polls[job_id] - 1)
            self.place(job_id, self.now + min(gap, 8))

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), seconds=st.integers(0, 10))
    def fail(self, data: st.DataObject, seconds: int) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.in_flight)))
        self.in_flight.discard(job_id)
        self.planner.failed(job_id, self.now, self.now + seconds)
        self.place(job_id, self.now + seconds)

    @invariant()
    def due_at_is_the_earliest_time(self) -> None:
        assert self.planner.due_at() == min((due for due, _ in self.waiting.values()), default=None)


@pytest.mark.chance
def test_a_planner_behaves_like_a_list_searched_from_end_to_end() -> None:
    run_state_machine_as_test(
        PlannerMachine,
        settings=settings(unhurried, max_examples=examples(60), stateful_step_count=40),
    )


def test_without_a_rate_any_number_of_polls_may_go_at_once() -> None:
    pacer = Pacer(None)
    for _ in range(1000):
        assert pacer.free_at() <= 0.0
        pacer.take(0.0)


@unhurried
@given(
    st.sampled_from([0.1, 1.0, 10.0, 37.0, 1000.0]),
    st.lists(
        st.sampled_from([0.0, 0.0, 0.0, 0.001, 0.06, 0.3, 5.0]) | st.floats(0, 2), max_size=120
    ),
)
def test_no_stretch_of_time_sees_more_polls_than_the_rate_allows(
    rate: float, idle: list[float]
) -> None:
    pacer, now, sent = Pacer(rate), 1000.0, list[float]()
    for pause in idle:  # each poll goes as soon as it may, some come later of themselves
        now = max(now + pause, pacer.free_at())
        pacer.take(now)
        sent.append(now)
    for first, begin in enumerate(sent):
        for last in range(first, len(sent)):
            assert last - first + 1 <= rate * (sent[last] - begin + 0.05) + 1 + 1e-6


@pytest.mark.parametrize("rate", [0.5, 10.0, 100.0, 1000.0])
def test_the_rate_is_reached_with_timers_that_ring_late(rate: float) -> None:
    pacer, now, random = Pacer(rate), 0.0, Random(0)
    for _ in range(1001):
        now = max(now, pacer.free_at() + random.uniform(0, 0.049))
        pacer.take(now)
    assert now <= 1000 / rate + 0.05


def test_an_idle_time_is_not_made_up_for_by_a_burst() -> None:
    pacer = Pacer(1.0)
    pacer.take(0.0)
    pacer.take(100.0)
    assert pacer.free_at() == pytest.approx(101 - 0.05)
