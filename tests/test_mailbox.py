"""Transitions on their way to a consumer that may be slow."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st

from annolab_async import Outcome
from annolab_async._delivery import TransitionMailbox
from tests.builders import make_job, make_transition, unhurried
from tests.depth import examples

if TYPE_CHECKING:
    from annolab_async import InferenceJob, Transition


def step(job_id: int, before: str | None, after: str, outcome: Outcome | None = None) -> Transition:
    previous = make_job(job_id, before) if before else None
    return make_transition(job_id, make_job(job_id, after), previous, outcome)


def drain(mailbox: TransitionMailbox) -> list[Transition]:
    return list(iter(mailbox.take, None))


def test_an_empty_mailbox_gives_nothing() -> None:
    assert TransitionMailbox().take() is None
    assert len(TransitionMailbox()) == 0


def test_within_the_room_everything_comes_as_it_was_put_and_in_order() -> None:
    mailbox = TransitionMailbox(room=4)
    letters = [
        step(1, None, "Queued"),
        step(2, None, "Queued"),
        step(1, "Queued", "Running"),
        step(1, "Running", "Finished", Outcome.FINISHED),
    ]
    for letter in letters:
        mailbox.put(letter)
    assert len(mailbox) == 4
    assert drain(mailbox) == letters


def test_beyond_the_room_a_jobs_new_transition_is_merged_into_its_waiting_one() -> None:
    mailbox = TransitionMailbox(room=2)
    mailbox.put(step(1, None, "Queued"))
    mailbox.put(step(2, None, "Queued"))
    mailbox.put(step(1, "Queued", "Running"))
    mailbox.put(step(1, "Running", "Finished", Outcome.FINISHED))
    assert len(mailbox) == 2
    assert drain(mailbox) == [
        step(1, None, "Finished", Outcome.FINISHED),
        step(2, None, "Queued"),
    ]


def test_the_previous_of_a_merged_transition_is_what_the_consumer_sees_before_it() -> None:
    mailbox = TransitionMailbox(room=2)
    mailbox.put(step(1, None, "Queued"))
    mailbox.put(step(1, "Queued", "Running"))
    mailbox.put(step(1, "Running", "Finished", Outcome.FINISHED))
    assert drain(mailbox) == [
        step(1, None, "Queued"),
        step(1, "Queued", "Finished", Outcome.FINISHED),
    ]


def test_a_job_of_which_nothing_waits_finds_a_place_beyond_the_room() -> None:
    mailbox = TransitionMailbox(room=1)
    for job_id in range(1, 6):
        mailbox.put(step(job_id, None, "Queued"))
    assert [letter.inference_job_id for letter in drain(mailbox)] == [1, 2, 3, 4, 5]


def test_what_was_taken_is_not_merged_into() -> None:
    mailbox = TransitionMailbox(room=1)
    mailbox.put(step(1, None, "Queued"))
    mailbox.put(step(2, None, "Queued"))
    assert mailbox.take() == step(1, None, "Queued")
    mailbox.put(step(1, "Queued", "Running"))
    assert drain(mailbox) == [step(2, None, "Queued"), step(1, "Queued", "Running")]


def test_discard_drops_all_that_waits_for_a_job_and_nothing_else() -> None:
    mailbox = TransitionMailbox()
    mailbox.put(step(1, None, "Queued"))
    mailbox.put(step(2, None, "Queued"))
    mailbox.put(step(1, "Queued", "Running"))
    mailbox.discard(1)
    mailbox.discard(3)
    assert drain(mailbox) == [step(2, None, "Queued")]


def test_what_is_discarded_behind_one_that_nobody_reads_does_not_pile_up() -> None:
    mailbox, most = TransitionMailbox(), 0
    mailbox.put(step(1, None, "Queued"))
    for job_id in range(2, 1000):
        mailbox.put(step(job_id, None, "Queued"))
        mailbox.discard(job_id)
        most = max(most, len(mailbox._letters))
    assert most == 2, "half of them may be void"
    assert drain(mailbox) == [step(1, None, "Queued")]


def test_a_discarded_job_is_not_merged_with_what_it_was_before() -> None:
    mailbox = TransitionMailbox(room=1)
    mailbox.put(step(1, "Queued", "Running"))
    mailbox.put(step(2, None, "Queued"))
    mailbox.discard(1)
    mailbox.put(step(1, None, "Finished", Outcome.FINISHED))
    assert drain(mailbox)[-1] == step(1, None, "Finished", Outcome.FINISHED)


JOB_IDS = st.integers(1, 4)
OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["change", "change", "change", "take", "end", "discard"]), JOB_IDS),
    max_size=60,
)


class Consumer:
    """One that knows what was put, and checks that what it is given tells the same story."""

    def __init__(self, room: int) -> None:
        self.mailbox = TransitionMailbox(room)
        self.room = room
        self.put: dict[int, list[Transition]] = {}
        self.seen: dict[int, InferenceJob | None] = {}
        self.ended = set[int]()
        self.was_full = False
        self.words = count()

    def change(self, job_id: int, outcome: Outcome | None = None) -> None:
        if job_id in self.ended:
            return
        told = self.put.setdefault(job_id, [])
        previous = told[-1].job if told else self.seen.get(job_id)
        job = make_job(job_id, f"state {next(self.words)}")
        self.was_full = self.was_full or len(self.mailbox) >= self.room
        told.append(make_transition(job_id, job, previous, outcome))
        self.mailbox.put(told[-1])
        if outcome:
            self.ended.add(job_id)

    def end(self, job_id: int) -> None:
        self.change(job_id, Outcome.ERRORED)

    def discard(self, job_id: int) -> None:
        self.mailbox.discard(job_id)
        self.put.pop(job_id, None)
        self.seen.pop(job_id, None)
        self.ended.discard(job_id)

    def take(self, _: int = 0) -> bool:
        transition = self.mailbox.take()
        if transition is None:
            assert not any(self.put.values()), "something was dropped"
            return False
        job_id = transition.inference_job_id
        told = self.put[job_id]
        jobs = [each.job for each in told]
        position = jobs.index(transition.job)  # told, and not told before
        assert position == 0 or self.was_full, "merged although there was room"
        assert transition.previous == self.seen.get(job_id)
        assert transition.outcome == told[position].outcome
        self.seen[job_id] = transition.job
        del told[: position + 1]
        return True


@settings(unhurried, max_examples=examples(300))
@given(st.integers(1, 5), OPERATIONS)
def test_whatever_happens_the_consumer_is_told_a_true_story(
    room: int, operations: list[tuple[str, int]]
) -> None:
    consumer = Consumer(room)
    for operation, job_id in operations:
        getattr(consumer, operation)(job_id)
        assert len(consumer.mailbox) <= room + 4
    while consumer.take():
        pass
    assert len(consumer.mailbox) == 0
    assert not consumer.mailbox._of_subject, "nothing is kept of a job whose news were read"


@pytest.mark.parametrize("room", [1, 10])
def test_a_consumer_that_never_reads_costs_no_more_than_room_and_jobs(room: int) -> None:
    consumer = Consumer(room)
    for _ in range(100):
        for job_id in range(50):
            consumer.change(job_id)
    assert len(consumer.mailbox) <= room + 50
