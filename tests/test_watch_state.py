"""What a watcher concludes from each answer; the time is an argument."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from annolab_async import (
    AnnoLabError,
    AuthenticationError,
    FixedInterval,
    InferenceJob,
    JobLost,
    JobNotFound,
    JobState,
    NoResponse,
    NotFound,
    Outcome,
    PermissionDenied,
    RequestNotSent,
    RetryPolicy,
    Transition,
    WaitTimeout,
)
from annolab_async._limits import Pacer
from annolab_async._retry import RetryBudget
from annolab_async._watch_state import Watched, WatchState
from tests.builders import NOW, make_job, make_status_error, make_status_reply

if TYPE_CHECKING:
    from annolab_async._records import StatusReply

NO_RESPONSE = NoResponse(method="GET", path="/v1/infer/batch/1", cause=TimeoutError())


class Watch(WatchState):
    """A watch state with an interval of 10 s, delays of at most 1 s, and its polls in one call."""

    def __init__(
        self,
        *job_ids: int,
        rate: float | None = None,
        budget: float = 300.0,
        keep_open: bool = False,
        retry: RetryPolicy | None = None,
        random: Random | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            planner=FixedInterval(10).planner(Random(0)),
            pacer=Pacer(rate),
            retry=retry or RetryPolicy(first=1, factor=1, cap=1),
            budget=RetryBudget(),
            random=random or Random(0),
            failure_budget=budget,
            keep_open=keep_open,
            utc_now=lambda: NOW,
        )
        for job_id in job_ids:
            assert self.add_at(0.0, job_id, **options) is None

    def add_at(
        self, now: float, job: InferenceJob | int, timeout: float | None = None
    ) -> Transition | None:
        known = job if isinstance(job, InferenceJob) else None
        return self.add(
            known.inference_job_id if known else int(str(job)), now, job=known, timeout=timeout
        )

    def ask(self, now: float, job_id: int | None = None) -> Watched:
        watched = self.pick(now)
        assert watched is not None
        assert job_id in {None, watched.job_id}
        return watched

    def hear(
        self, now: float, said: str | AnnoLabError, *, job_id: int | None = None, took: float = 0.0
    ) -> Transition | None:
        """Ask for the next job, and take the answer or the failure some seconds later."""
        watched = self.ask(now, job_id)
        if isinstance(said, str):
            return self.answered(watched, now + took, make_status_reply(watched.job_id, said))
        return self.failed(watched, now + took, said)


def told(transition: Transition | None) -> Transition:
    assert transition is not None
    return transition


def change(transition: Transition | None) -> tuple[str | None, str | None, Outcome | None]:
    seen = told(transition)
    assert seen.observed_at == NOW
    return (
        seen.previous.status if seen.previous else None,
        seen.job.status if seen.job else None,
        seen.outcome,
    )


def test_a_job_s_changes_are_told_once_and_its_end_with_its_outcome() -> None:
    state = Watch(1)
    assert change(state.hear(0, "Queued")) == (None, "Queued", None)
    assert state.hear(10, "Queued") is None
    assert change(state.hear(20, "Running")) == ("Queued", "Running", None)
    assert state.hear(30, "Running") is None
    assert change(state.hear(40, "Finished")) == ("Running", "Finished", Outcome.FINISHED)
    assert len(state) == 0
    assert 1 not in state
    assert state.due_at() is None
    assert state.pick(1e9) is None


def test_a_job_that_has_ended_at_first_sight_has_one_transition() -> None:
    state = Watch(1)
    assert change(state.hear(0, "Errored")) == (None, "Errored", Outcome.ERRORED)
    assert len(state) == 0


def test_the_first_sight_of_a_job_that_the_caller_knows_is_told_too() -> None:
    state = Watch()
    assert state.add_at(0, make_job(1, "Queued")) is None
    assert change(state.hear(0, "Queued")) == (None, "Queued", None)


def test_a_word_that_is_not_known_is_a_change_and_no_end() -> None:
    state = Watch(1)
    assert change(state.hear(0, "Sleeping")) == (None, "Sleeping", None)
    assert change(state.hear(10, "Dreaming")) == ("Sleeping", "Dreaming", None)
    assert 1 in state


def test_the_same_reply_again_is_no_change() -> None:
    state, reply = Watch(1), make_status_reply(1, "Queued")
    told(state.answered(state.ask(0), 0, reply))
    watched = state.ask(10)
    assert watched.reply is reply
    assert state.answered(watched, 10, reply) is None
    assert watched.job is reply.job


def test_the_figures_of_a_transition_count_from_adding_and_from_the_poll_before() -> None:
    state = Watch()
    state.add_at(100, 1)
    first = told(state.hear(103, "Queued", took=2))  # asked at 103, answered at 105
    assert (first.polls, first.elapsed, first.uncertainty) == (1, 5, 5)
    assert state.hear(115, "Queued", took=1) is None
    last = told(state.hear(126, "Finished", took=4))
    # The answer of the poll that was sent at 115 may have been made at any time from 115 on.
    assert (last.polls, last.elapsed, last.uncertainty) == (3, 30, 15)


def test_a_failed_poll_counts_and_tells_nothing_about_the_job() -> None:
    state = Watch(1)
    state.hear(0, "Queued")
    assert state.hear(10, NO_RESPONSE, took=5) is None
    seen = told(state.hear(20, "Running"))
    assert (seen.polls, seen.uncertainty) == (3, 20)


@pytest.mark.parametrize(
    ("word", "outcome"), [("Finished", Outcome.FINISHED), ("Errored", Outcome.ERRORED)]
)
def test_a_job_known_to_have_ended_is_told_at_once_and_never_asked_for(
    word: str, outcome: Outcome
) -> None:
    state = Watch()
    end = told(state.add_at(7, make_job(1, word), timeout=5))
    assert change(end) == (None, word, outcome)
    assert (end.polls, end.elapsed, end.uncertainty) == (0, 0, 0)
    assert len(state) == 0
    assert state.due_at() is None
    assert state.next_deadline() is None


def test_a_job_whose_time_is_over_is_timed_out_with_its_last_state() -> None:
    state = Watch(1, timeout=25)
    state.hear(0, "Queued")
    state.hear(10, "Running")
    assert state.next_deadline() == 25
    assert list(state.expire(24.9)) == []
    [end] = state.expire(25)
    assert change(end) == ("Running", "Running", Outcome.TIMED_OUT)
    assert (end.polls, end.elapsed, end.uncertainty) == (2, 25, 15)
    assert isinstance(end.error, WaitTimeout)
    assert (end.error.job, end.error.timeout) == (end.job, 25)
    assert 1 not in state
    assert state.due_at() is None
    assert state.next_deadline() is None


def test_a_job_that_was_never_seen_is_timed_out_without_a_state() -> None:
    state = Watch(1, timeout=5)
    [end] = state.expire(6)
    assert change(end) == (None, None, Outcome.TIMED_OUT)
    assert end.elapsed == 6
    assert end.polls == 0


def test_each_job_is_timed_out_by_its_own_limit() -> None:
    state = Watch()
    for job_id, timeout in ((1, 30), (2, 10), (3, None), (4, 20)):
        state.add_at(0, job_id, timeout)
    assert [end.inference_job_id for end in state.expire(20)] == [2, 4]
    assert state.next_deadline() == 30
    assert [end.inference_job_id for end in state.expire(1e9)] == [1]
    assert state.next_deadline() is None
    assert 3 in state


def test_an_ended_or_discarded_job_is_not_timed_out() -> None:
    state = Watch(1, 2, timeout=5)
    state.hear(0, "Finished", job_id=1)
    assert state.discard(2) is not None
    assert state.discard(2) is None
    assert state.next_deadline() is None
    assert list(state.expire(100)) == []


def test_a_job_added_again_has_its_new_limit_only() -> None:
    state = Watch(1, timeout=5)
    state.discard(1)
    state.add_at(3, 1, timeout=10)
    assert list(state.expire(12)) == []
    assert [end.elapsed for end in state.expire(13)] == [10]


def test_a_stranger_that_the_server_does_not_know_is_lost_at_once() -> None:
    state = Watch(1)
    end = told(state.hear(0, make_status_error(404)))
    assert change(end) == (None, None, Outcome.LOST)
    assert isinstance(end.error, JobNotFound)
    assert 1 not in state


@pytest.mark.parametrize("how", ["given", "seen"])
def test_a_job_known_to_exist_is_lost_only_when_denied_three_times(how: str) -> None:
    state = Watch()
    state.add_at(0, make_job(1) if how == "given" else 1)
    if how == "seen":
        state.hear(0, "Queued")
    not_found = make_status_error(404)
    assert state.hear(10, not_found) is None
    assert state.hear(20, not_found) is None
    end = told(state.hear(30, not_found))
    assert change(end) == ("Queued" if how == "seen" else None, "Queued", Outcome.LOST)
    assert isinstance(end.error, JobNotFound)
    assert end.error.cause is not_found
    assert end.error.job is not None, "what the caller knew of it is not forgotten"
    assert isinstance(not_found, NotFound)


def test_denials_are_counted_anew_after_another_failure() -> None:
    state = Watch()
    state.add_at(0, make_job(1))
    for said in (404, 404, 500, 404, 404):
        now = state.due_at()
        assert now is not None
        assert state.hear(now + 10, make_status_error(said)) is None
    assert told(state.hear(100, make_status_error(404))).outcome is Outcome.LOST


def test_denials_are_counted_anew_after_an_answer() -> None:
    state = Watch()
    state.add_at(0, make_job(1))
    for now in (0, 20, 40, 60):
        assert state.hear(now, make_status_error(404)) is None
        assert state.hear(now + 5, make_status_error(404)) is None
        state.hear(now + 10, "Queued")


def test_a_job_whose_polls_fail_for_the_whole_budget_is_lost_with_the_cause() -> None:
    state = Watch(1, budget=60)
    state.hear(0, "Queued")
    for now in (10, 30, 60):
        assert state.hear(now, NO_RESPONSE, took=4) is None
    end = told(state.hear(66, NO_RESPONSE, took=4))  # 60 s after the first failing poll was sent
    assert change(end) == ("Queued", "Queued", Outcome.LOST)
    assert (end.polls, end.uncertainty) == (5, 70)
    assert type(end.error) is JobLost
    assert end.error.cause is NO_RESPONSE
    assert "4 polls in a row failed over 60 s" in str(end.error)
    assert len(state) == 0


def test_an_answer_opens_a_new_budget() -> None:
    state = Watch(1, budget=60)
    for now in range(0, 1000, 50):
        assert state.hear(now, make_status_error(500)) is None
        state.hear(now + 10, "Queued")


def test_without_a_budget_the_first_failure_is_the_end() -> None:
    assert told(Watch(1, budget=0).hear(0, NO_RESPONSE)).outcome is Outcome.LOST


@pytest.mark.parametrize("error", [make_status_error(429), make_status_error(503, retry_after=5)])
def test_a_poll_that_came_too_many_is_not_repeated_before_its_time(error: AnnoLabError) -> None:
    state = Watch(1)
    state.hear(0, error, took=2)
    assert state.due_at() == 12, "the whole client slows down, and the job keeps its rhythm"


def test_polls_are_repeated_before_their_time_only_as_far_as_the_budget_goes() -> None:
    state = Watch(*range(1, 101))
    for _ in range(100):
        state.hear(0, NO_RESPONSE)
    soon = sum(state.pick(1) is not None for _ in range(100))
    assert 10 <= soon <= 20
    assert sum(state.pick(10) is not None for _ in range(100)) == 100 - soon


class Latest(Random):
    """Jitter at its latest."""

    def uniform(self, a: float, b: float) -> float:
        return max(a, b)


def test_delays_grow_while_a_job_s_polls_fail_and_begin_anew_after_an_answer() -> None:
    state = Watch(1, retry=RetryPolicy(first=1, factor=2, cap=30), random=Latest())
    for _ in range(2):
        now = state.due_at()
        assert now is not None
        for delay in (1, 2, 4):
            assert state.hear(now, NO_RESPONSE) is None
            assert state.due_at() == now + delay
            now += delay
        state.hear(now, "Queued")


def test_a_poll_that_repeats_another_earns_no_further_one() -> None:
    state, now, gaps = Watch(1, budget=1e9), 0.0, list[float]()
    for _ in range(25):
        assert state.hear(now, NO_RESPONSE) is None
        due = state.due_at()
        assert due is not None
        gaps.append(due - now)
        now = due
    is_repeated = [gap < 10 for gap in gaps]
    # What a client may repeat at first, and then one for every thirteen regular polls.
    assert is_repeated == [True] * 10 + [False] * 13 + [True, False]


@pytest.mark.parametrize("polls", ["first", "further"])
def test_polls_that_repeat_none_earn_repeats(polls: str) -> None:
    state = Watch(*range(1, 11))
    for _ in range(10):  # use up what may be repeated
        assert state.hear(0, NO_RESPONSE) is None
    for _ in range(10):
        state.hear(1, "Finished")
    for number in range(13):
        if polls == "first" or number == 0:
            state.add_at(100, 100 + number)
        state.hear(100 + 10 * number, "Finished" if polls == "first" else "Queued")
    state.add_at(300, 99)
    state.discard(100)
    assert state.hear(300, NO_RESPONSE, job_id=99) is None
    assert (state.due_at() or 0) <= 301


def not_sent(*, is_final: bool) -> RequestNotSent:
    return RequestNotSent(method="GET", path="/", cause=OSError(), is_final=is_final)


def test_what_can_never_be_sent_is_raised_as_it_came() -> None:
    state, error = Watch(1, 2), not_sent(is_final=True)
    with pytest.raises(RequestNotSent) as caught:
        state.hear(0, error)
    assert caught.value is error


def test_what_may_be_sent_another_time_costs_nobody_anything() -> None:
    state = Watch(1, 2)
    assert state.hear(0, not_sent(is_final=False)) is None
    assert 1 in state


def test_once_a_job_was_answered_what_cannot_be_sent_is_that_jobs_trouble() -> None:
    state = Watch(1, 2, budget=60)
    state.hear(0, "Queued", job_id=1)
    assert state.hear(0, not_sent(is_final=True), job_id=2) is None
    end = told(state.hear(100, not_sent(is_final=True), job_id=2))
    assert end.outcome is Outcome.LOST
    assert 1 in state


def test_401_for_all_jobs_is_raised_as_it_came() -> None:
    state, error = Watch(1, 2, 3), make_status_error(401)
    assert state.hear(0, error) is None
    assert state.hear(0, error) is None
    with pytest.raises(AuthenticationError) as caught:
        state.hear(0, error)
    assert caught.value is error


def test_401_for_the_only_job_is_raised_at_once() -> None:
    with pytest.raises(AuthenticationError):
        Watch(1).hear(0, make_status_error(401))


def test_401_for_one_job_again_and_again_is_not_401_for_all() -> None:
    state = Watch(1, 2)
    told(state.hear(0, "Queued", job_id=1))
    for now in (1, 5):
        assert state.hear(now, make_status_error(401), job_id=2) is None
    assert told(state.hear(9, make_status_error(401), job_id=2)).outcome is Outcome.LOST


def test_ten_refusals_in_a_row_prove_that_the_key_is_bad_however_few_jobs_they_are_about() -> None:
    state = Watch(1, 2)
    assert state.pick(0)  # under way for long
    for now in range(0, 90, 10):
        assert state.hear(now, make_status_error(401), job_id=2) is None
    with pytest.raises(AuthenticationError):
        state.hear(90, make_status_error(401), job_id=2)


@pytest.mark.parametrize("status_code", [401, 403])
def test_one_refusal_ends_no_service(status_code: int) -> None:
    state = Watch(1, keep_open=True)
    assert state.hear(0, make_status_error(status_code)) is None
    assert state.hear(10, make_status_error(status_code)) is None
    if status_code == 401:
        with pytest.raises(AuthenticationError):
            state.hear(20, make_status_error(401))
    else:
        assert told(state.hear(20, make_status_error(403))).outcome is Outcome.LOST


def test_being_asked_to_slow_down_costs_no_job_its_budget() -> None:
    state = Watch(1, budget=300)
    for _ in range(100):
        due = state.due_at()
        assert due is not None
        assert state.hear(due, make_status_error(429, retry_after=30)) is None
    assert 1 in state


@pytest.mark.parametrize(("now", "outcome"), [(4.99, None), (5.0, Outcome.LOST)])
def test_a_job_just_made_has_a_while_to_be_known(now: float, outcome: Outcome | None) -> None:
    state = Watch()
    state.add_at(100, make_job(1))
    for asked_at in (100, 101, 102):
        assert state.hear(asked_at, make_status_error(404)) is None
    end = state.hear(104, make_status_error(404), took=now - 4)
    assert (end and end.outcome) is outcome


def test_deadlines_of_jobs_that_have_ended_do_not_pile_up() -> None:
    state, most = Watch(), 0.0
    state.add_at(0, 1, timeout=10)
    for job_id in range(2, 5000):
        state.add_at(0, job_id, timeout=1000)
        most = max(most, len(state._deadlines) / len(state))
        if job_id % 100:
            state.discard(job_id)
    assert most == 2, "half of them may be void"
    assert state.next_deadline() == 10


def test_each_job_is_timed_out_by_its_own_limit_however_many_went_away_meanwhile() -> None:
    state, random = Watch(), Random(0)
    limits = {job_id: random.uniform(1, 1000) for job_id in range(2000)}
    for job_id, limit in limits.items():
        state.add_at(0, job_id, timeout=limit)
        if job_id % 10:
            state.discard(job_id)
    left = {job_id: limit for job_id, limit in limits.items() if job_id in state}
    ended = list[int]()
    while (deadline := state.next_deadline()) is not None:
        ended += [end.inference_job_id for end in state.expire(deadline)]
    assert ended == sorted(left, key=left.__getitem__)


@pytest.mark.parametrize("status_code", [401, 403])
def test_ten_refused_jobs_prove_that_the_key_is_bad(status_code: int) -> None:
    state = Watch(*range(1, 1001))
    for _ in range(9):
        assert state.hear(0, make_status_error(status_code)) is None
    with pytest.raises(AuthenticationError if status_code == 401 else PermissionDenied):
        state.hear(0, make_status_error(status_code))


@pytest.mark.parametrize("status_code", [401, 403])
def test_one_refused_job_is_lost_after_three_times_while_others_are_answered(
    status_code: int,
) -> None:
    state = Watch(1, 2)
    ends = list[Transition | None]()
    for now in range(0, 50, 10):
        for _ in range(len(state)):
            watched = state.ask(now)
            if watched.job_id == 1:
                ends.append(state.failed(watched, now, make_status_error(status_code)))
            else:
                state.answered(watched, now, make_status_reply(2, "Queued"))
    assert [end and end.outcome for end in ends] == [None, None, Outcome.LOST]
    error = told(ends[-1]).error
    assert type(error) is JobLost
    assert isinstance(error.cause, AuthenticationError | PermissionDenied)
    assert 2 in state


def test_403_is_never_raised_once_a_job_was_answered() -> None:
    state = Watch(1)
    told(state.hear(0, "Finished"))
    state.add_at(0, make_job(2))
    for now in (10, 20):
        assert state.hear(now, make_status_error(403)) is None
    end = told(state.hear(30, make_status_error(403)))
    assert change(end) == (None, "Queued", Outcome.LOST)
    assert isinstance(end.error, JobLost)
    assert end.error.job == make_job(2), "what the caller knew of it is not forgotten"


def test_401_for_all_that_is_left_is_raised_though_jobs_were_answered() -> None:
    state = Watch(1)
    state.hear(0, "Queued")
    assert state.hear(10, make_status_error(401)) is None
    assert state.hear(20, make_status_error(401)) is None
    with pytest.raises(AuthenticationError):
        state.hear(30, make_status_error(401))


@pytest.mark.parametrize("status_code", [401, 403])
def test_jobs_refused_while_others_are_answered_do_not_prove_that_the_key_is_bad(
    status_code: int,
) -> None:
    state = Watch(*range(31))
    for job_id in range(31):
        if job_id % 2 == 1:
            assert state.hear(0, make_status_error(status_code), job_id=job_id) is None
        else:
            told(state.hear(0, "Queued", job_id=job_id))
    # Nor do nine in a row, of which each was refused before the last answer, too.
    for _ in range(9):
        assert state.hear(1, make_status_error(status_code)) is None
    assert len(state) == 31


def test_jobs_that_went_away_are_not_needed_for_all() -> None:
    state = Watch(1, 2, 3)
    assert state.hear(0, make_status_error(401), job_id=1) is None
    state.discard(1)
    state.discard(3)
    with pytest.raises(AuthenticationError):
        state.hear(0, make_status_error(401), job_id=2)


def test_a_refusal_of_a_job_that_went_away_is_none_of_another() -> None:
    state = Watch(1, 2, 3)
    assert state.hear(0, make_status_error(401), job_id=1) is None
    state.discard(1)
    assert state.hear(0, make_status_error(401), job_id=2) is None, "job 3 was not asked for yet"
    with pytest.raises(AuthenticationError):
        state.hear(0, make_status_error(401), job_id=3)


SAID: list[StatusReply | AnnoLabError] = [
    make_status_reply(1, "Queued"),
    make_status_reply(1, "Finished"),
    make_status_error(404),
    make_status_error(401),
    NO_RESPONSE,
]


@pytest.mark.parametrize("how", ["discard", "expire", "discard and add"])
@pytest.mark.parametrize("said", SAID, ids=type)
def test_what_comes_after_a_job_was_given_up_is_ignored(
    how: str, said: StatusReply | AnnoLabError
) -> None:
    state = Watch(1, timeout=5)
    watched = state.ask(0)
    if how == "expire":
        assert [end.outcome for end in state.expire(5)] == [Outcome.TIMED_OUT]
    else:
        assert state.discard(1)
    if how == "discard and add":
        state.add_at(6, 1)
    due = state.due_at()
    if isinstance(said, AnnoLabError):
        assert state.failed(watched, 7, said) is None
    else:
        assert state.answered(watched, 7, said) is None
    assert (1 in state) is (how == "discard and add")
    assert state.due_at() == due
    assert list(state.expire(1e9)) == []


def test_a_timer_may_ring_a_millionth_of_a_second_early() -> None:
    state = Watch(1, timeout=50)
    state.hear(0, "Queued")
    early = 10 - 1e-6
    assert early + 1e-6 == 10
    assert not state.is_due(10 - 1.5e-6)
    assert state.pick(10 - 1.5e-6) is None
    assert state.is_due(early)
    assert state.pick(early) is not None
    early = 50 - 1e-6
    assert early + 1e-6 == 50
    assert list(state.expire(50 - 1.5e-6)) == []
    assert len(list(state.expire(early))) == 1


def test_the_pacer_holds_all_jobs_back_and_lets_them_go_a_hair_early() -> None:
    state = Watch(1, 2, rate=1)
    state.ask(0)
    assert state.due_at() == pytest.approx(0.95)
    assert state.pick(0.9) is None
    early = 0.95 - 1e-6
    assert early + 1e-6 == state.due_at()
    assert state.pick(0.95 - 1.5e-6) is None
    assert state.pick(early) is not None


def test_a_poll_that_is_not_due_takes_nothing_from_the_rate() -> None:
    state = Watch(1, rate=1)
    state.hear(0, "Queued")
    for _ in range(100):
        assert state.pick(5) is None
    assert state.due_at() == 10


def test_every_state_that_is_an_end_has_an_outcome() -> None:
    for word, state in {"Finished": JobState.FINISHED, "Errored": JobState.ERRORED}.items():
        assert told(Watch(1).hear(0, word)).outcome == state.value
