"""Predictive: the contract of a planner, the promised longest gap, and what it learns."""

from __future__ import annotations

import math
import sys
from collections import Counter
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from attrs import define, field

from annolab_async import FixedInterval, JobState, Predictive
from annolab_async._frontier import BUCKETS, EDGES, Frontier
from annolab_async._predictive import _PredictivePlanner
from annolab_async._queue import Queue, QueuedJob, _age_at_end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from annolab_async import PollPlanner, PollSchedule

QUEUED, RUNNING, FINISHED = JobState.QUEUED, JobState.RUNNING, JobState.FINISHED
EAGER = Predictive()
LEAN = Predictive(target_delay=2.0)
FAR_BACK = 2 * sum(edge < 101 for edge in EDGES)  # the cell of the hundred and first


def planner_of(schedule: Predictive = EAGER) -> _PredictivePlanner:
    planner = schedule.planner(Random(0))
    assert isinstance(planner, _PredictivePlanner)
    return planner


def next_pick(planner: PollPlanner, now: float = 0.0) -> tuple[float, int]:
    """The next poll of a watcher that is not limited: when, and of which job."""
    while (due := planner.due_at()) is not None:
        now = max(now, due)
        if (job_id := planner.pick(now)) is not None:
            return now, job_id
    raise AssertionError("nothing is due")


@define
class Service:
    """Jobs that a service works through, polled at a steady rate; each poll is answered at once."""

    planner: PollPlanner
    ends: Mapping[int, float]
    starts: Mapping[int, float] = field(factory=dict[int, float])
    rate: float = 10.0
    now: float = 0.0
    polls: list[tuple[float, int]] = field(factory=list[tuple[float, int]])
    seen: dict[int, float] = field(factory=dict[int, float])

    def step(self) -> None:
        self.now += 1 / self.rate
        job_id = self.planner.pick(self.now)
        if job_id is None:
            return
        self.polls.append((self.now, job_id))
        state = QUEUED
        if self.now >= self.ends[job_id]:
            state, self.seen[job_id] = FINISHED, self.now
        elif self.now >= self.starts.get(job_id, math.inf):
            state = RUNNING
        self.planner.answered(job_id, self.now, self.now, state)

    def run(self, until: float = math.inf) -> Service:
        while self.now < until and len(self.seen) < len(self.ends):
            self.step()
        return self

    def mean_delay(self) -> float:
        return sum(at - self.ends[i] for i, at in self.seen.items()) / len(self.seen)

    def longest_gap(self) -> float:
        times: dict[int, list[float]] = {job_id: [0.0] for job_id in self.ends}
        for at, job_id in self.polls:
            times[job_id].append(at)
        return max(b - a for gaps in times.values() for a, b in pairwise(gaps))


def serve(
    schedule: PollSchedule,
    ends: Mapping[int, float],
    *,
    model_of: Callable[[int], str | None] = lambda _: None,
    state: JobState | None = QUEUED,
    rate: float = 10.0,
    starts: Mapping[int, float] | None = None,
) -> Service:
    planner = schedule.planner(Random(0))
    for job_id in ends:
        planner.add(job_id, 0.0, state, model_identifier=model_of(job_id))
    return Service(planner, ends, rate=rate, starts=starts or {})


def in_order(job_ids: Iterable[int], *, every: float = 2.0, seed: int = 1) -> dict[int, float]:
    """Ends of jobs that five workers take in this order: about one every so many seconds."""
    random, free = Random(seed), [0.0] * 5
    ends = dict[int, float]()
    for job_id in job_ids:
        worker = free.index(min(free))
        free[worker] += 5 * every * random.uniform(0.5, 1.5)
        ends[job_id] = free[worker]
    return ends


# Arguments


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"min_gap": 0}, "0 < min_gap <= max_gap does not hold"),
        ({"min_gap": -1}, "min_gap"),
        ({"min_gap": math.nan}, "min_gap"),
        ({"min_gap": 2, "max_gap": 1}, "min_gap <= max_gap"),
        ({"max_gap": math.inf}, "max_gap"),
        ({"max_gap": math.nan}, "max_gap"),
        ({"target_delay": 0}, "target_delay is 0"),
        ({"target_delay": -2.5}, "target_delay is -2.5"),
        ({"target_delay": math.inf}, "target_delay is inf"),
        ({"target_delay": math.nan}, "target_delay is nan"),
    ],
)
def test_arguments_that_make_no_sense_are_named(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match="no valid Predictive") as caught:
        Predictive(**options)
    assert fault in str(caught.value)
    assert ";" not in str(caught.value)


def test_each_fault_is_named() -> None:
    with pytest.raises(ValueError, match=r"min_gap.*; target_delay is 0"):
        Predictive(min_gap=0, target_delay=0)


def test_equal_gaps_make_sense() -> None:
    planner = planner_of(Predictive(min_gap=5, max_gap=5))
    planner.add(1, 0.0, QUEUED)
    assert next_pick(planner) == (5.0, 1)


# The contract of a planner


def test_without_jobs_there_is_nothing_to_wait_for() -> None:
    planner = planner_of()
    assert planner.due_at() is None
    assert planner.pick(1e9) is None


@pytest.mark.parametrize("schedule", [EAGER, LEAN, Predictive(target_delay=1000)])
@pytest.mark.parametrize("jobs", [1, 30, 2000])
def test_jobs_of_which_nothing_is_known_are_asked_for_at_once(
    schedule: Predictive, jobs: int
) -> None:
    planner = planner_of(schedule)
    for job_id in range(jobs):
        planner.add(job_id, 42.0, None)
    assert planner.pick(41.9) is None
    picked = [next_pick(planner, 42.0) for _ in range(jobs)]
    assert {at for at, _ in picked} == {42.0}
    assert {job_id for _, job_id in picked} == {*range(jobs)}
    assert planner.due_at() is None


def test_a_job_of_which_nothing_is_known_is_due_at_once_after_a_failure_too() -> None:
    planner = planner_of(LEAN)
    planner.add(1, 0.0, None)
    assert planner.pick(0.0) == 1
    planner.failed(1, 0.0, 0.25)
    assert next_pick(planner) == (0.25, 1)
    planner.answered(1, 0.3, 0.25, QUEUED)
    due = planner.due_at()
    assert due is not None
    assert due >= 1.25


def test_a_job_of_which_something_is_known_holds_up_none_of_which_nothing_is() -> None:
    planner = planner_of(Predictive(target_delay=1000.0))
    planner.add(1, 0.0, None)
    assert planner.pick(0.0) == 1
    planner.answered(1, 0.0, 0.0, QUEUED)
    planner.add(2, 5.0, None)
    assert planner.due_at() == 5.0
    assert planner.pick(5.0) == 2


def test_a_crowd_of_unknown_jobs_leaves_room_for_those_that_are_about_to_end() -> None:
    ends = in_order(range(400))
    service = serve(EAGER, ends, state=None).run(until=100)
    assert service.mean_delay() < serve(FixedInterval(1), ends).run(until=100).mean_delay() / 4


@pytest.mark.parametrize("state", [QUEUED, RUNNING, JobState.UNKNOWN])
def test_a_job_whose_state_is_known_waits_the_shortest_gap(state: JobState) -> None:
    planner = planner_of(Predictive(min_gap=3))
    planner.add(1, 10.0, state)
    assert next_pick(planner, 10.0) == (13.0, 1)


@pytest.mark.parametrize("state", [QUEUED, None])
def test_a_job_in_flight_is_not_picked_however_late(state: JobState | None) -> None:
    planner = planner_of()
    planner.add(1, 0.0, state)
    now, _ = next_pick(planner)
    assert planner.due_at() is None
    assert planner.pick(now + 1e9) is None


@pytest.mark.parametrize("state", list(JobState))
def test_only_an_ended_job_is_forgotten_with_its_answer(state: JobState) -> None:
    planner = planner_of()
    planner.add(1, 0.0, None)
    planner.pick(0.0)
    planner.answered(1, 1.0, 0.0, state)
    assert (planner.due_at() is None) is state.is_terminal
    assert (planner.pick(1e9) is None) is state.is_terminal


def test_a_discarded_job_is_never_picked() -> None:
    planner = planner_of()
    for job_id in range(5):
        planner.add(job_id, 0.0, None)
    planner.discard(0)  # never asked for
    assert planner.pick(0.0) == 1
    planner.discard(1)  # in flight
    assert planner.pick(0.0) == 2
    planner.answered(2, 0.0, 0.0, QUEUED)
    planner.discard(2)  # waiting for its next poll
    assert planner.pick(0.0) == 3
    planner.failed(3, 0.0, 5.0)
    planner.discard(3)  # waiting to be tried again
    planner.discard(77)  # not known
    assert planner.pick(0.0) == 4
    assert planner.pick(1e9) is None
    assert planner.due_at() is None


@pytest.mark.parametrize("stage", ["new", "in flight", "answered", "failed"])
def test_a_job_discarded_at_any_stage_can_be_added_again_and_begins_anew(stage: str) -> None:
    planner = planner_of(Predictive(min_gap=1, max_gap=50))
    planner.add(1, 0.0, QUEUED)
    if stage != "new":
        assert next_pick(planner) == (1.0, 1)
    if stage == "answered":
        planner.answered(1, 1.0, 1.0, RUNNING)
    if stage == "failed":
        planner.failed(1, 1.0, 2.0)
    planner.discard(1)
    planner.add(1, 4.0, QUEUED)
    assert next_pick(planner, 4.0) == (5.0, 1)
    assert planner.pick(100.0) is None


def test_a_retry_time_of_before_does_not_bind_a_job_added_again() -> None:
    planner = planner_of()
    planner.add(1, 0.0, None)
    planner.pick(0.0)
    planner.failed(1, 0.0, 9.0)
    planner.discard(1)
    planner.add(1, 1.0, None)
    assert planner.pick(1.0) == 1
    planner.failed(1, 1.0, 20.0)
    assert planner.pick(9.0) is None  # when the first retry time has come
    assert planner.pick(20.0) == 1


def test_a_failed_job_that_is_not_to_be_repeated_keeps_its_rhythm() -> None:
    planner = planner_of()
    planner.add(1, 0.0, None)
    planner.pick(0.0)
    planner.answered(1, 0.0, 0.0, QUEUED)
    gap, _ = next_pick(planner)
    at = gap
    for _ in range(5):
        planner.failed(1, at, None)
        before, (at, _) = at, next_pick(planner)
        assert at - before == pytest.approx(max(gap, 1.0))


def test_a_job_that_was_never_answered_for_is_asked_for_at_gaps_that_double() -> None:
    planner = planner_of()
    planner.add(1, 0.0, None)
    times = [0.0]
    planner.pick(0.0)
    for _ in range(8):
        planner.failed(1, times[-1], None)
        times.append(next_pick(planner)[0])
    gaps = [after - before for before, after in pairwise(times)]
    assert gaps == [1, 2, 4, 8, 16, 32, 60, 60]


def test_an_answer_ends_the_rhythm_of_the_failures_before_it() -> None:
    planner = planner_of()
    planner.add(1, 0.0, QUEUED)
    assert planner.pick(1.0) == 1
    planner.failed(1, 1.0, None)
    assert next_pick(planner) == (2.0, 1)  # as from the first to the second
    planner.answered(1, 2.0, 2.0, QUEUED)
    assert planner.pick(32.0) == 1
    planner.failed(1, 32.0, None)
    assert planner.due_at() == 32.0 + 30.0


def test_a_failed_job_is_not_asked_for_before_its_time() -> None:
    planner = planner_of()
    planner.add(1, 0.0, QUEUED)
    now, _ = next_pick(planner)
    planner.failed(1, now, now + 2.5)
    assert planner.due_at() == now + 2.5
    assert planner.pick(now + 2.4) is None
    assert planner.pick(now + 2.5) == 1


def test_after_a_queue_ran_empty_unseen_the_next_job_does_not_wait_long() -> None:
    planner = planner_of()
    planner.add(1, 0.0, QUEUED)
    planner.discard(1)  # nothing was ever learned
    assert planner.due_at() is None
    assert planner.pick(0.5) is None
    planner.add(2, 1.0, QUEUED)
    assert next_pick(planner, 1.0) == (2.0, 2)


# The gaps


@pytest.mark.parametrize("min_gap", [0.1, 1.0, 7.0])
def test_no_job_is_asked_for_again_before_the_shortest_gap(min_gap: float) -> None:
    planner = planner_of(Predictive(min_gap=min_gap))
    asked = dict.fromkeys(range(20), 0.0)
    for job_id in asked:
        planner.add(job_id, 0.0, QUEUED)
    now = 0.0
    for poll in range(500):
        now, job_id = next_pick(planner, now)
        assert now - asked[job_id] >= min_gap - 1e-9
        asked[job_id] = now
        planner.answered(job_id, now, now, RUNNING if poll % 3 else QUEUED)


@pytest.mark.parametrize("schedule", [EAGER, LEAN, Predictive(target_delay=1000.0)])
@pytest.mark.parametrize("rate", [1.0, 4.0])
def test_the_stated_longest_gap_is_kept_under_a_limit(schedule: Predictive, rate: float) -> None:
    jobs = 150
    ends = in_order(range(jobs), every=10.0)
    service = serve(schedule, ends, rate=rate).run(until=800.0)
    assert service.longest_gap() <= 60.0 + 4 * jobs / rate
    last_poll = dict.fromkeys(ends, 0.0) | {job_id: at for at, job_id in service.polls}
    silent = (service.now - at for i, at in last_poll.items() if i not in service.seen)
    assert max(silent, default=0.0) <= 60.0 + 4 * jobs / rate


def test_the_stated_longest_gap_is_kept_where_all_that_was_learned_speaks_against_it() -> None:
    planner, rate, step = planner_of(), 2.0, 0
    idle = dict.fromkeys(range(100_000, 100_100), 0.0)  # never end
    for job_id in [*range(20), *idle]:
        planner.add(job_id, 0.0, QUEUED)
    ends = 0
    for step in range(4000):
        now = step / rate
        job_id = planner.pick(now)
        if job_id in idle:
            assert now - idle[job_id] <= 60.0 + 4 * 120 / rate
            idle[job_id] = now
        if job_id is not None:
            is_over = job_id < ends + 5  # any of the first five has ended whenever it is asked for
            planner.answered(job_id, now, now, FINISHED if is_over else QUEUED)
            if is_over:
                planner.add(20 + ends, now, QUEUED)
                ends += 1
    assert min(idle.values()) > step / rate - (60.0 + 4 * 120 / rate)
    assert ends > 1000


@pytest.mark.parametrize("schedule", [EAGER, LEAN, Predictive(target_delay=1000.0)])
def test_without_a_limit_no_job_goes_unpolled_for_longer_than_max_gap(
    schedule: Predictive,
) -> None:
    planner = planner_of(schedule)
    asked = dict.fromkeys(range(60), 0.0)
    for job_id in asked:
        planner.add(job_id, 0.0, QUEUED)
    now, newest = 0.0, 60
    while now < 150.0:
        now, job_id = next_pick(planner, now)
        assert now - asked[job_id] <= 60.0 + 1e-9
        asked[job_id] = now
        is_first = job_id == min(asked)
        planner.answered(job_id, now, now, FINISHED if is_first else QUEUED)
        if is_first:
            del asked[job_id]
            newest += 1
            asked[newest] = now
            planner.add(newest, now, QUEUED)


def test_overdue_jobs_get_their_share_of_the_polls_and_no_more_the_longest_unpolled_first() -> None:
    planner = planner_of(Predictive(max_gap=10.0))
    ends = in_order(range(100, 600))
    for job_id in ends:
        planner.add(job_id, 0.0, QUEUED)
    service = Service(planner, ends, rate=4.0).run(until=300.0)
    polls = [job_id for at, job_id in service.polls if at > 200.0]
    ended = sum(1 for end in ends.values() if end < 300.0)
    far = [job_id for job_id in polls if job_id > 100 + ended + 60]
    assert 0.25 * 0.9 < len(far) / len(polls) < 0.6
    assert far[0] != far[-1]
    assert [*dict.fromkeys(far)] == far  # one after the other, none twice


def test_one_pick_in_four_goes_to_an_overdue_job_while_others_are_worth_more() -> None:
    planner = planner_of(Predictive(max_gap=1000.0))
    for job_id in range(20):
        planner.add(job_id, 0.0, QUEUED)
    for job_id in range(20, 25):
        planner.add(job_id, 100.0, None)
    picked = [planner.pick(100.0) for _ in range(24)]
    is_overdue = [job_id is not None and job_id >= 20 for job_id in picked]
    assert is_overdue == [False, False, False, True] * 5 + [False] * 4


def test_of_jobs_that_are_worth_the_same_the_first_model_goes_first() -> None:
    planner = planner_of()
    for job_id, model in ((2, "a"), (1, "b")):
        planner.add(job_id, 0.0, QUEUED, model_identifier=model)
    assert [planner.pick(5.0) for _ in range(2)] == [2, 1]


@pytest.mark.parametrize(("share", "first"), [(0.99, 2), (1.01, 1)])
def test_the_job_with_the_greatest_delay_to_expect_goes_first(share: float, first: int) -> None:
    planner = planner_of(Predictive(max_gap=1e6))
    for job_id, model in ((1, "a"), (2, "b")):
        planner.add(job_id, 0.0, None, model_identifier=model)
    assert {planner.pick(0.0), planner.pick(0.0)} == {1, 2}
    planner.answered(2, 0.0, 0.0, QUEUED)
    planner.answered(1, 20.0, 20.0, RUNNING)
    assert planner.due_at() is not None
    slow, fast = (hazard for _, _, hazard in sorted(planner._candidates(), key=lambda it: it[2]))
    # From here on the shorter time of the greater hazard weighs more than the longer one of the other.
    turn = 20.0 * math.sqrt(fast) / (math.sqrt(fast) - math.sqrt(slow))
    assert planner.pick(share * turn) == first


def pick_and_fail(planner: PollPlanner, now: float, times: int) -> None:
    for _ in range(times):
        job_id = planner.pick(now)
        assert job_id is not None
        planner.failed(job_id, now, 1e6)


def test_a_service_that_is_down_gets_a_poll_in_five_seconds_besides_those_that_are_due() -> None:
    planner = planner_of(Predictive(max_gap=1000.0))
    for job_id in range(40):
        planner.add(job_id, 0.0, QUEUED)
    pick_and_fail(planner, 10.0, times=5)
    for now in (15.0, 20.0):
        assert planner.due_at() == now
        assert planner.pick(now - 0.1) is None
        pick_and_fail(planner, now, times=1)
    # What is due anyway is not held up by that.
    planner.add(99, 21.0, None)
    assert planner.due_at() == 21.0
    assert planner.pick(21.0) == 99
    assert planner.pick(22.0) is None
    # One answer, and it is up.
    planner.answered(99, 22.0, 21.0, RUNNING)
    due = planner.due_at()
    assert due is not None
    assert due <= 22.0
    pick_and_fail(planner, 22.0, times=5)
    assert planner.pick(22.0) is None


@pytest.mark.parametrize("why", ["nothing is known of it", "its poll has failed"])
@pytest.mark.parametrize(("due", "first"), [(61.0, 2), (62.0, 1), (63.0, 1)])
def test_of_the_overdue_jobs_the_one_that_is_so_for_longest_goes_first(
    why: str, due: float, first: int
) -> None:
    planner, has_failed = planner_of(Predictive(max_gap=60.0)), why == "its poll has failed"
    for job_id in (2 if has_failed else 3, 4, 5):
        planner.add(job_id, 0.0, QUEUED)
        assert planner.pick(2.0) == job_id  # the fourth is the turn of the overdue
    planner.add(1, 2.0, QUEUED)  # overdue from 62 on
    if has_failed:
        planner.failed(2, 2.0, due)
    else:
        planner.add(2, due, None)
    assert planner.pick(100.0) == first
    assert planner.pick(100.0) == 3 - first


# What is learned


def test_a_job_seen_running_goes_before_one_queued() -> None:
    planner = planner_of()
    for job_id in (1, 2, 3):
        planner.add(job_id, 0.0, None)
    states = {1: QUEUED, 2: RUNNING, 3: QUEUED}
    for _ in range(3):
        picked = planner.pick(0.0)
        assert picked is not None
        planner.answered(picked, 0.0, 0.0, states[picked])
    assert next_pick(planner)[1] == 2


def test_words_show_which_jobs_run_where_order_does_not() -> None:
    jobs = [*range(200)]
    Random(3).shuffle(jobs)
    ends = in_order(jobs)
    starts = {job_id: end - 10.0 for job_id, end in ends.items()}
    mute = serve(EAGER, ends, rate=5.0).run()
    talks = serve(EAGER, ends, rate=5.0, starts=starts).run()
    assert talks.mean_delay() < 0.7 * mute.mean_delay()


@pytest.mark.parametrize("jobs", [300, 3000])
def test_after_ends_in_order_polls_are_near_the_front(jobs: int) -> None:
    ends = in_order(range(jobs))
    service = serve(EAGER, ends).run(until=150.0)
    begin = len(service.polls)
    assert len(service.seen) > 60
    front = min(job_id for job_id in ends if job_id not in service.seen)
    service.run(until=160.0)
    near = [job_id for _, job_id in service.polls[begin:] if front <= job_id < front + 16]
    by_chance = 16 / (jobs - len(service.seen))
    assert len(near) >= 5 * by_chance * (len(service.polls) - begin)
    assert service.mean_delay() < 1.0


def test_time_counts_for_the_ranks_where_a_job_spent_it() -> None:
    frontier = Frontier()
    frontier.observe(0, 100.0, 110.0, [(103.0, 4), (106.0, 2)], ended=False)
    assert {b: t for b, t in enumerate(frontier._waits) if t} == {8: 3.0, 4: 3.0, 0: 4.0}


def test_what_a_job_did_after_it_was_asked_for_is_not_in_the_answer() -> None:
    frontier = Frontier()
    frontier.observe(0, 100.0, 110.0, [(115.0, 2)], ended=False)
    assert {b: t for b, t in enumerate(frontier._waits) if t} == {4: 10.0}


def test_only_some_fifty_ends_are_remembered() -> None:
    frontier = Frontier()
    for _ in range(1000):
        frontier.observe(0, 0.0, math.e, [], ended=True)
    assert sum(frontier._ends) == pytest.approx(50)
    assert sum(frontier._waits) == pytest.approx(50 * math.e / 2)
    assert frontier._spans == pytest.approx([50.0] * BUCKETS)


def a_front_and_a_far_back(jobs: int) -> list[int]:
    """Sizes: one job at the front, the others in the last bucket that there is in so many ranks."""
    sizes = [0] * (2 * BUCKETS)
    sizes[0], sizes[FAR_BACK] = 1, jobs - 1
    return sizes


def test_before_any_end_no_order_is_as_likely_as_order() -> None:
    hazard = Frontier().hazards(a_front_and_a_far_back(101))[FAR_BACK]
    # Half of the half of an end that is assumed beforehand, spread over all; and what leaks from any order.
    assert 0.25 < hazard * 101 < 0.3


def test_half_an_end_a_second_is_expected_of_a_single_job_and_no_more_behind_it() -> None:
    sizes = [1] + [0] * (2 * BUCKETS - 1)
    assert max(Frontier().hazards(sizes)) == pytest.approx(0.5)


@pytest.mark.parametrize("seconds", [1e3, 1e6])
def test_two_ends_at_two_ranks_speak_for_no_order_however_long_the_jobs_took(
    seconds: float,
) -> None:
    frontier, sizes = Frontier(), [0] * (2 * BUCKETS)
    sizes[0] = sizes[2] = 1
    for cell in (0, 2):
        frontier.observe(cell, 0.0, seconds, [], ended=True)
    first, second = frontier.hazards(sizes)[0:4:2]
    # Of order alone, it would be 1.8.
    assert 1.05 < first / second < 1.15


def test_of_the_time_in_which_a_job_ended_half_counts() -> None:
    frontier = Frontier()
    frontier.observe(6, 100.0, 110.0, [], ended=True)
    assert frontier._waits[6] == 5.0
    assert frontier._ends[6] == 1.0


def test_a_job_found_ended_as_soon_as_it_came_within_a_frontier_is_no_proof_of_it() -> None:
    sizes = [0] * (2 * BUCKETS)
    sizes[0], sizes[2], sizes[40] = 1, 1, 100
    frontier = Frontier()
    for _ in range(
        5
    ):  # it may have ended at any time in the ten seconds, nearly all of them further back
        frontier.observe(0, 0.0, 10.0, [(9.9, 1)], ended=True)
    first, second = frontier.hazards(sizes)[0:4:2]
    assert first < 1.2 * second


def test_a_poll_goes_when_the_delay_to_expect_is_worth_a_request() -> None:
    planner = planner_of(Predictive(min_gap=0.01))
    planner.add(1, 0.0, QUEUED)
    gap, _ = next_pick(planner)
    hazard = Frontier().hazards([1] + [0] * (2 * BUCKETS - 1))[0]
    assert hazard * gap**2 / 2 == pytest.approx(0.02)  # seconds


@pytest.mark.parametrize("target", [None, 0.5, 30.0])
def test_polls_of_jobs_that_end_at_unlike_rates_keep_to_the_target_on_average(
    target: float | None,
) -> None:
    ends = in_order(range(200))
    planner = planner_of(Predictive(target_delay=target, min_gap=1e-6, max_gap=1e9))
    for job_id in ends:
        planner.add(job_id, 0.0, QUEUED)
    Service(planner, ends).run(until=90.0)
    assert planner.due_at() is not None
    queue = planner._queues[None]
    cells = [*zip(queue._sizes, queue._hazards, queue._gaps, strict=True)]
    assert len({hazard for size, hazard, _ in cells if size}) > 5
    if target is None:
        assert {round(h * gap**2 / 2, 9) for _, h, gap in cells} == {0.02}
    else:
        missed = sum(size * h * gap / 2 for size, h, gap in cells)
        assert missed / sum(size * h for size, h, _ in cells) == pytest.approx(0.9 * target)


@pytest.mark.parametrize("state", [QUEUED, RUNNING])
def test_a_single_job_is_asked_for_at_twice_the_target_less_what_requests_take(
    state: JobState,
) -> None:
    planner = planner_of(Predictive(target_delay=10.0))
    planner.add(1, 0.0, state)
    # The end falls anywhere within a gap, so that half a gap is the mean delay.
    gap, _ = next_pick(planner)
    assert gap == pytest.approx(2 * 9.0)


@pytest.mark.parametrize("kind", ["added", "discarded", "answered"])
def test_of_other_events_sixteen_count_together(kind: str) -> None:
    planner = planner_of()
    for job_id in range(50):
        planner.add(job_id, 0.0, QUEUED)
    assert planner.due_at() is not None
    hazards = planner._queues[None]._hazards
    for event in range(16):
        assert planner._queues[None]._hazards is hazards
        if kind == "added":
            planner.add(100 + event, 0.0, QUEUED)
        elif kind == "discarded":
            planner.discard(event)
        else:
            now, picked = next_pick(planner)
            planner.answered(picked, now, now, QUEUED)
        assert planner.due_at() is not None
    assert planner._queues[None]._hazards is not hazards


@pytest.mark.parametrize("hazard", [0.0, 1e-15, 1e-9, 1e-5, 1.5e-4, 0.05, 0.5, 4.0])
def test_the_time_of_an_end_is_the_mean_of_where_it_may_fall(hazard: float) -> None:
    gap = 10.0
    times = [gap * (step + 0.5) / 10_000 for step in range(10_000)]
    weights = [math.exp(-hazard * at) for at in times]
    mean = sum(at * weight for at, weight in zip(times, weights, strict=True)) / sum(weights)
    assert _age_at_end(hazard, gap) == pytest.approx(mean, rel=1e-4)
    assert _age_at_end(1e9, gap) == pytest.approx(1e-9)


def test_who_comes_to_the_front_has_been_there_since_the_end_and_not_since_that_was_seen() -> None:
    planner = planner_of()
    for job_id in (1, 2):
        planner.add(job_id, 0.0, QUEUED)
    assert planner.pick(10.0) == 1
    planner.answered(1, 10.0, 10.0, FINISHED)
    [(moved_at, _)] = planner._jobs[2].path
    assert 0.0 < moved_at <= 5.0


def test_the_delay_to_expect_of_a_job_stays_the_same_when_it_comes_nearer_to_the_front() -> None:
    planner, ends = planner_of(), in_order(range(60))
    for job_id in ends:
        planner.add(job_id, 0.0, QUEUED)
    queue, jobs, now, moves = planner._queues[None], planner._jobs, 0.0, 0
    while len(jobs) > 30:
        now, picked = next_pick(planner, now + 0.5)
        before = {job_id: (queue._hazards[job.cell], job.since) for job_id, job in jobs.items()}
        planner.answered(picked, now, now, FINISHED if now >= ends[picked] else QUEUED)
        for job in jobs.values():
            hazard, since = before[job.id]
            if job.id != picked and queue._hazards[job.cell] <= hazard:
                assert job.since == since
            elif job.id != picked:
                moves += job.since != since
                moved_at = max(job.path[-1][0], since)
                delay = hazard * (moved_at - since) ** 2
                assert queue._hazards[job.cell] * (moved_at - job.since) ** 2 == pytest.approx(
                    delay
                )
    assert moves > 10


def test_who_is_pushed_back_by_a_new_job_is_there_from_then_on() -> None:
    planner = planner_of()
    planner.add(2, 0.0, QUEUED)
    planner.add(1, 7.0, QUEUED)
    assert planner._jobs[2].path == [(7.0, 0)]


def test_an_end_counts_at_once() -> None:
    planner = planner_of()
    for job_id in range(50):
        planner.add(job_id, 0.0, QUEUED)
    now, picked = next_pick(planner)
    hazards = planner._queues[None]._hazards
    planner.answered(picked, now, now, FINISHED)
    assert planner.due_at() is not None
    assert planner._queues[None]._hazards != hazards


def test_a_job_that_comes_to_the_front_counts_little_for_its_time_at_the_back() -> None:
    planner = planner_of()
    ends = in_order(range(300))
    for job_id in ends:
        planner.add(job_id, 0.0, QUEUED)
    Service(planner, ends, rate=2.0).run(until=60.0)
    unpolled = [job for job in planner._jobs.values() if job.polled == 0.0]
    assert max(job.since for job in unpolled if job.id > 200) < 1.0
    assert max(job.since for job in unpolled if job.id < 60) > 3.0
    assert all(job.polled <= job.since <= 60.0 for job in planner._jobs.values())


def test_ends_in_order_are_seen_ten_times_sooner_than_by_asking_in_turn() -> None:
    ends = in_order(range(300))
    mine, turn = serve(EAGER, ends).run(), serve(FixedInterval(1), ends).run()
    assert mine.mean_delay() < turn.mean_delay() / 10
    assert len(mine.polls) <= len(turn.polls)


def test_without_order_every_job_gets_its_turn() -> None:
    random = Random(7)
    ends = {job_id: random.expovariate(1 / 200) for job_id in range(300)}
    mine, turn = serve(EAGER, ends).run(), serve(FixedInterval(1), ends).run()
    assert mine.mean_delay() < 1.1 * turn.mean_delay()
    polls = Counter(job_id for at, job_id in mine.polls if at < 200.0)
    still = [polls[job_id] for job_id, end in ends.items() if end > 200.0]
    assert max(still) <= 2.5 * min(still)


def test_the_other_order_is_believed_when_the_service_turns_round() -> None:
    ends = in_order([*range(200), *range(399, 199, -1)])
    mine, turn = serve(EAGER, ends).run(), serve(FixedInterval(1), ends).run()
    assert mine.mean_delay() < 0.6 * turn.mean_delay()


def test_lean_spends_fewer_polls_and_keeps_near_its_delay() -> None:
    ends = in_order(range(150))
    eager, lean = (serve(s, ends, rate=20.0).run() for s in (EAGER, LEAN))
    lazy = serve(Predictive(target_delay=10.0), ends, rate=20.0).run()
    assert lean.mean_delay() <= 2.0
    assert len(lean.polls) < 0.75 * len(eager.polls)
    assert lazy.mean_delay() <= 10.0
    assert len(lazy.polls) < 0.8 * len(lean.polls)


def test_models_with_unlike_queues_are_learned_apart() -> None:
    quick = in_order(range(0, 240, 2), every=2.0)
    slow = in_order(range(1, 240, 2), every=6.0)
    ends = dict(sorted((quick | slow).items()))
    apart = serve(EAGER, ends, model_of=lambda i: "slow" if i % 2 else "quick", rate=5.0).run()
    mixed = serve(EAGER, ends, rate=5.0).run()
    assert apart.mean_delay() < 0.6 * mixed.mean_delay()
    assert len(apart.polls) < len(mixed.polls)


def test_one_promise_of_the_longest_gap_holds_over_all_models() -> None:
    ends = dict.fromkeys(range(100), math.inf)
    service = serve(EAGER, ends, model_of=lambda i: f"model {i % 10}", rate=2.0).run(until=600.0)
    assert service.longest_gap() <= 60.0 + 4 * 100 / 2.0
    assert len({job_id for _, job_id in service.polls}) == 100


# Any history


def check_ranks(planner: _PredictivePlanner, alive: Mapping[int, float]) -> None:
    """Ranks are exact, sizes agree, every job is somewhere, and the longest unpolled of each cell is its best."""
    queue = planner._queues.get(None)
    if queue is None:
        assert not alive
        return
    ranked = [job_id for ids in queue._ranks for job_id in ids]
    assert ranked == sorted(alive)[: EDGES[-1]]
    assert len(queue) == sum(queue._sizes) == len(alive)
    assert planner._jobs.keys() == alive.keys()
    cells = Counter(job.cell for job in planner._jobs.values())
    assert [cells[cell] for cell in range(2 * BUCKETS)] == queue._sizes
    ready = {job.id for job in planner._jobs.values() if job.ready}
    assert planner._oldest.keys() == ready
    assert {i for i in ready if not planner._jobs[i].known} <= planner._due.keys() <= ready
    best: dict[int, tuple[float, int]] = {}
    for job_id in ready:
        job = planner._jobs[job_id]
        best[job.cell] = min(best.get(job.cell, (math.inf, 0)), (job.since, job_id))
    seen = [*queue.candidates()]
    assert {job.cell: (job.since, job.id) for job, _, _ in seen} == best
    assert len(seen) == len(best)
    for job, worth_at, hazard in seen:
        assert worth_at == job.since + queue._gaps[job.cell]
        assert hazard == queue._hazards[job.cell]


@pytest.mark.parametrize("seed", range(24))
def test_the_contract_holds_in_any_history(seed: int) -> None:
    random = Random(seed)
    most = (5, 50, 1500)[seed % 3]
    min_gap, max_gap = random.choice([0.1, 1.0]), random.choice([5.0, 60.0])
    delay = random.choice([None, 2.0])
    planner = planner_of(Predictive(target_delay=delay, min_gap=min_gap, max_gap=max_gap))
    now = random.choice([0.0, -1e6, 1e6])
    polled = dict[int, float]()  # the jobs there are, and when each was last known unfinished
    waits_since = dict[int, float]()  # those that may be picked, and since when
    in_flight = dict[int, float]()
    retry_at = dict[int, float]()

    def add(job_id: int, state: JobState | None) -> None:
        planner.add(job_id, now, state)
        polled[job_id] = waits_since[job_id] = now if state else -math.inf

    if most > 50:  # more than there are ranks
        for job_id in random.sample(range(4 * most), most):
            add(job_id, QUEUED)
    for step in range(600):
        now += random.choice([0.0, 0.01, 0.1, 1.0])
        event, job_id = random.random(), random.randrange(4 * most)
        if event < (0.35 if len(polled) < most else 0.05):
            if job_id not in polled:
                add(job_id, random.choice([None, QUEUED, RUNNING]))
        elif event < 0.45:
            planner.discard(job_id)
            for jobs in (polled, waits_since, in_flight, retry_at):
                jobs.pop(job_id, None)
        elif event < 0.8:
            due, picked = planner.due_at(), planner.pick(now)
            for ready in [job_id for job_id, at in retry_at.items() if at <= now]:
                del retry_at[ready]
                waits_since[ready] = now
            if picked is None:
                assert all(now - since < max_gap for since in waits_since.values())
            else:
                assert due is not None
                assert due <= now
                del waits_since[picked]  # it was to be had
                assert now - polled[picked] >= min_gap - 1e-6
                in_flight[picked] = now
        elif in_flight:
            answered = random.choice([*in_flight])
            asked_at = in_flight.pop(answered)
            if random.random() < 0.2:
                retry_at[answered] = now + random.choice([0.0, 3.0, 50.0])
                planner.failed(answered, now, retry_at[answered])
            else:
                state = random.choice([*JobState])
                planner.answered(answered, now, asked_at, state)
                polled[answered], waits_since[answered] = asked_at, now
                if state.is_terminal:
                    del polled[answered], waits_since[answered]
                else:
                    assert not planner._jobs[answered].path  # where it was before tells no more
        if step % 50 == 0:
            check_ranks(planner, polled)
    check_ranks(planner, polled)


# What it costs


def calls_per_poll(jobs: int, *, polls: int = 300) -> float:
    """Calls of functions, built-in ones included, that a poll takes: a measure of work that no busy machine changes."""
    ends = {job_id: math.inf if job_id % 10 else 0.0 for job_id in range(jobs)}
    service = serve(EAGER, ends)
    service.run(until=20.0)
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    before = len(service.polls)
    tracer = sys.getprofile()
    sys.setprofile(count)
    try:
        for _ in range(polls):
            service.step()
            service.planner.due_at()
    finally:
        sys.setprofile(tracer)
    return calls / (len(service.polls) - before)


def test_a_poll_of_many_jobs_takes_hardly_more_work_than_one_of_few() -> None:
    assert calls_per_poll(20_000) < 2.0 * calls_per_poll(500)


def test_what_is_kept_is_bounded_by_the_jobs_there_are() -> None:
    jobs = 100
    planner = planner_of()
    for job_id in range(jobs):
        planner.add(job_id, 0.0, QUEUED)
    now = 1.0
    for _ in range(3000):  # with words that change, each answer leaves something in another heap
        now += 0.05
        if (picked := planner.pick(now)) is not None:
            planner.answered(picked, now, now, RUNNING if now % 2 < 1 else QUEUED)
    queue = planner._queues[None]
    assert all(len(h) <= 2 * n + 1 for h, n in zip(queue._heaps, queue._sizes, strict=True))


def test_of_what_is_kept_of_a_cell_half_may_be_void() -> None:
    queue = Queue(min_gap=1.0, target_delay=None)
    jobs = [QueuedJob(job_id, queue, 0.0) for job_id in range(8)]
    for job in jobs:
        queue.add(job, 0.0)
    first, second = jobs[-2:]
    cell = first.cell
    assert second.cell == cell
    kept = list[int]()
    for now in range(
        1, 20
    ):  # the first is the best: what the second leaves behind it is not looked at
        queue.unfinished(second, float(now), queued=False)
        queue.push(second)
        kept.append(len(queue._heaps[cell]))
        assert [job for job, _, _ in queue.candidates() if job.cell == cell] == [first]
    assert (min(kept), max(kept)) == (2, 4)


def test_jobs_that_come_and_go_leave_nothing_behind() -> None:
    planner, most = planner_of(), 0.0
    alive = dict.fromkeys(range(10_000, 11_200), 0.0)  # more than there are ranks
    for job_id in alive:
        planner.add(job_id, 0.0, QUEUED)
    for job_id in range(500):
        planner.add(job_id, 0.0, QUEUED)  # in front: pushes another job over the last edge
        planner.discard(job_id)  # and takes it back
        planner.add(100_000 + job_id, 0.0, QUEUED)  # behind
        most = max(most, len(planner._queues[None]._rest) / (len(planner._jobs) - EDGES[-1]))
        planner.discard(100_000 + job_id)
    queue = planner._queues[None]
    assert most == 2, "half of them may be void"
    assert all(len(h) <= 2 * n + 1 for h, n in zip(queue._heaps, queue._sizes, strict=True))
    assert max(len(job.path) for job in planner._jobs.values()) == 2 * BUCKETS
    check_ranks(planner, alive)


@pytest.mark.parametrize("jobs", [1, 5, EDGES[-2] + 1, EDGES[-1], EDGES[-1] + 1, EDGES[-1] + 40])
@pytest.mark.parametrize("step", [1, -1])
def test_ranks_close_up_behind_each_end(jobs: int, step: int) -> None:
    planner = planner_of()
    alive = dict.fromkeys([*range(jobs)][::step], 0.0)
    for job_id in [*alive]:
        planner.add(job_id, 0.0, QUEUED)
    for job_id in range(jobs, jobs + 30):
        planner.add(job_id, 0.0, QUEUED)
        planner.discard(job_id)
    for job_id in range(jobs - 10, jobs):
        if job_id in alive:
            planner.discard(job_id)
            planner.add(job_id, 0.0, QUEUED)
    for ended in range(min(jobs, 60)):
        planner.discard(ended)
        del alive[ended]
        check_ranks(planner, alive)
