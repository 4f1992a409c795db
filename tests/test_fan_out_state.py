from __future__ import annotations

from collections import Counter
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve
from hypothesis import given, strategies as st

from annolab_async import BatchRecord, BatchState
from annolab_async._batch_records import NEXT_STATES, changed, split_parts
from annolab_async._fan_out_state import Books, FanOutSummary, RecordMailbox
from annolab_async.ledger import LedgerCounts
from tests.builders import NOW, unhurried

if TYPE_CHECKING:
    from collections.abc import Iterator

FAILED = {BatchState.ERRORED, BatchState.TIMED_OUT, BatchState.LOST}
OPEN = {BatchState.PLANNED, BatchState.SENDING, BatchState.SUBMITTED}
CHANGES = [(before, to) for before, after in NEXT_STATES.items() for to in sorted(after)]
NO_CHANGES = [pair for pair in product(BatchState, BatchState) if pair not in CHANGES]


def a_record(
    number: int = 1, state: BatchState = BatchState.PLANNED, *, size: int = 3, **more: Any
) -> BatchRecord:
    first = (number - 1) * 1000 + 1
    fields: dict[str, Any] = {
        "number": number,
        "source_ids": tuple(range(first, first + size)),
        "state": state,
        "created_at": NOW,
        "updated_at": NOW,
    }
    if state is BatchState.SUBMITTED or state in FAILED:
        fields["inference_job_id"] = number
    return BatchRecord(**(fields | more))


def some_books(*records: BatchRecord, now: float = 0.0) -> Books:
    books = Books(0.0)
    for record in records:
        books.enter(None, record, now)
    return books


def look(
    books: Books, now: float = 0.0, *, is_planned: bool = True, repeated: int = 0
) -> FanOutSummary:
    return books.summary(now, is_planned=is_planned, repeated=repeated)


def moved(record: BatchRecord, to: BatchState, **news: Any) -> BatchRecord:
    return changed(record, to, at=NOW, owner="me", **news)


@pytest.mark.parametrize("state", list(BatchState))
def test_a_new_batch_counts_in_its_state_with_its_sources(state: BatchState) -> None:
    summary = look(some_books(a_record(1, state), a_record(2, state, size=2)))
    assert summary.batches == {state: 2}
    assert summary.sources == ({} if state is BatchState.SPLIT else {state: 5})


@pytest.mark.parametrize(("before", "to"), CHANGES)
def test_a_change_moves_a_batch_and_its_sources(before: BatchState, to: BatchState) -> None:
    record = a_record(1, before)
    books = some_books(record)
    books.enter(before, moved(record, to, inference_job_id=1), 1.0)
    summary = look(books, 1.0)
    assert summary.batches == {to: 1}
    assert summary.sources == ({} if to is BatchState.SPLIT else {to: 3})


@pytest.mark.parametrize(("before", "to"), CHANGES)
def test_what_is_in_trouble_is_kept_just_as_long_as_it_is(
    before: BatchState, to: BatchState
) -> None:
    record = a_record(1, before)
    books = some_books(record)
    assert books.failed() == ([record] if before in FAILED else [])
    assert books.unknown() == ([record] if before is BatchState.UNKNOWN else [])
    after = moved(record, to, inference_job_id=1)
    books.enter(before, after, 1.0)
    assert books.failed() == ([after] if to in FAILED else [])
    assert books.unknown() == ([after] if to is BatchState.UNKNOWN else [])


@pytest.mark.parametrize(("before", "to"), NO_CHANGES)
def test_no_other_change_is_possible(before: BatchState, to: BatchState) -> None:
    with pytest.raises(ValueError, match=f"Batch 1 is {before}, and cannot become {to}"):
        moved(a_record(1, before), to, inference_job_id=1)


def test_only_a_request_leads_away_from_an_end() -> None:
    # UNKNOWN above all: nothing sends it again by itself, so the way back is by PLANNED or with a job only.
    assert NEXT_STATES[BatchState.UNKNOWN] == {BatchState.PLANNED, BatchState.SUBMITTED}
    assert not NEXT_STATES[BatchState.FINISHED]
    assert not NEXT_STATES[BatchState.SPLIT]
    assert {state for state in BatchState if state.is_ended} == {
        BatchState.FINISHED,
        BatchState.UNKNOWN,
        BatchState.SPLIT,
        *FAILED,
    }
    assert {state for state in BatchState if state.is_held} == {
        BatchState.SENDING,
        BatchState.SUBMITTED,
    }


def test_troubled_batches_come_by_number() -> None:
    records = [a_record(number, BatchState.ERRORED) for number in (3, 1, 2)]
    unknown = [a_record(number, BatchState.UNKNOWN) for number in (6, 4, 5)]
    books = some_books(*records, *unknown)
    assert [record.number for record in books.failed()] == [1, 2, 3]
    assert [record.number for record in books.unknown()] == [4, 5, 6]


def test_what_was_in_trouble_before_is_kept_without_being_counted() -> None:
    books = Books(0.0)
    books.keep(a_record(1, BatchState.UNKNOWN))
    assert len(books.unknown()) == 1
    assert look(books).batches == {}


@pytest.mark.parametrize("state", list(BatchState))
def test_batches_are_open_until_they_have_ended(state: BatchState) -> None:
    books = some_books(a_record(1, state))
    assert books.open == (state in OPEN)
    assert books.count(state) == 1
    assert books.count(*(other for other in BatchState if other is not state)) == 0


def test_the_ledgers_counts_replace_ones_own() -> None:
    books = some_books(a_record(1), a_record(2))
    books.copy_counts(
        LedgerCounts(batches={BatchState.FINISHED: 7}, sources={BatchState.FINISHED: 70})
    )
    summary = look(books)
    assert summary.batches == {BatchState.FINISHED: 7}
    assert summary.sources == {BatchState.FINISHED: 70}


def test_counting_goes_on_from_the_ledgers_counts_without_changing_them() -> None:
    counts = LedgerCounts(batches={BatchState.PLANNED: 7}, sources={BatchState.PLANNED: 21})
    books = Books(0.0)
    books.copy_counts(counts)
    record = a_record(1)
    books.enter(BatchState.PLANNED, moved(record, BatchState.SENDING), 0.0)
    assert look(books).batches == {BatchState.PLANNED: 6, BatchState.SENDING: 1}
    assert counts.batches == {BatchState.PLANNED: 7}


def test_the_rate_is_what_ended_since_the_beginning_at_first() -> None:
    books = some_books(a_record(1, BatchState.SUBMITTED, size=30), a_record(2, size=90))
    books.enter(BatchState.SUBMITTED, a_record(1, BatchState.FINISHED, size=30), 10.0)
    summary = look(books, 10.0)
    assert summary.sources_per_second == 3.0
    assert summary.elapsed == 10.0
    assert summary.eta == 30.0


def test_the_rate_is_that_of_the_last_minute_later() -> None:
    books = some_books(*(a_record(number, size=30) for number in range(1, 12)))
    for number in range(1, 11):
        books.enter(BatchState.SUBMITTED, a_record(number, BatchState.FINISHED, size=30), number)
    books.enter(BatchState.SUBMITTED, a_record(11, BatchState.FINISHED, size=30), 100.0)
    assert look(books, 100.0).sources_per_second == 30 / 60


def test_nothing_ends_for_a_minute_and_the_rate_is_nothing() -> None:
    books = some_books(a_record(1, BatchState.SUBMITTED), a_record(2))
    books.enter(BatchState.SUBMITTED, a_record(1, BatchState.FINISHED), 1.0)
    summary = look(books, 61.1)
    assert summary.sources_per_second == 0.0
    assert summary.eta is None


@pytest.mark.parametrize("state", sorted({BatchState.FINISHED, *FAILED}))
def test_every_end_counts_for_the_rate(state: BatchState) -> None:
    books = some_books(a_record(1, BatchState.SUBMITTED))
    books.enter(BatchState.SUBMITTED, a_record(1, state), 1.0)
    assert look(books, 1.0).sources_per_second == 3.0


@pytest.mark.parametrize("state", sorted(set(BatchState) - FAILED - {BatchState.FINISHED}))
def test_what_is_no_end_does_not_count_for_the_rate(state: BatchState) -> None:
    books = some_books(a_record(1, BatchState.SENDING))
    books.enter(BatchState.SENDING, a_record(1, state), 1.0)
    assert look(books, 1.0).sources_per_second == 0.0


def test_a_batch_that_is_split_does_not_end_twice() -> None:
    record = a_record(1, BatchState.ERRORED)
    books = some_books(a_record(1, BatchState.SUBMITTED))
    books.enter(BatchState.SUBMITTED, record, 1.0)
    books.enter(BatchState.ERRORED, moved(record, BatchState.SPLIT), 1.0)
    assert look(books, 1.0).sources_per_second == 3.0


def test_nothing_is_left_and_the_rest_takes_no_time() -> None:
    books = some_books(a_record(1, BatchState.FINISHED), a_record(2, BatchState.UNKNOWN))
    assert look(books, 1000.0).eta == 0.0


def test_nobody_can_tell_how_long_the_rest_takes() -> None:
    books = some_books(a_record(1, BatchState.SUBMITTED), a_record(2))
    assert look(books, 0.0).eta is None, "at the first instant"
    assert look(books, 10.0).eta is None, "before anything has ended"
    books.enter(BatchState.SUBMITTED, a_record(1, BatchState.FINISHED), 10.0)
    assert look(books, 10.0).eta == 10.0
    assert look(books, 10.0, is_planned=False).eta is None, "while more may come"
    assert look(Books(0.0), 10.0, is_planned=False).eta is None, "of a plan that has yet to come"


def test_a_summary_says_what_it_was_told() -> None:
    summary = look(Books(5.0), 7.0, is_planned=False, repeated=4)
    assert summary.repeated_source_ids == 4
    assert not summary.is_planned
    assert summary.elapsed == 2.0


def test_a_summary_is_a_picture_that_does_not_change() -> None:
    books = some_books(a_record(1))
    before = look(books)
    books.enter(None, a_record(2), 0.0)
    assert before.batches == {BatchState.PLANNED: 1}
    with pytest.raises(TypeError):
        before.batches[BatchState.PLANNED] = 5  # type: ignore[index]  # pyright: ignore[reportIndexIssue]


def test_looking_twice_shows_the_same() -> None:
    books = some_books(a_record(1, BatchState.SUBMITTED), a_record(2))
    books.enter(BatchState.SUBMITTED, a_record(1, BatchState.FINISHED), 10.0)
    assert look(books, 30.0) == look(books, 30.0)


@pytest.mark.parametrize("gap", [1.0, 0.01])
def test_what_has_ended_takes_little_room_though_nobody_looks(gap: float) -> None:
    books = Books(0.0)
    for number in range(1, 10_001):
        books.enter(BatchState.SUBMITTED, a_record(number, BatchState.FINISHED), number * gap)
    assert len(books._ends) <= 62
    assert look(books, 10_000 * gap).sources_per_second == pytest.approx(3 / gap, rel=0.02)


def ended_at(*times: float) -> Books:
    """Books in which a batch of three sources ended at each of these times."""
    books = Books(0.0)
    for number, time in enumerate(times, 1):
        books.enter(BatchState.SUBMITTED, a_record(number, BatchState.FINISHED), time)
    return books


def test_an_end_counts_for_a_minute_to_the_moment() -> None:
    assert look(ended_at(10.0), 70.0).sources_per_second == 3 / 60
    assert look(ended_at(10.0), 70.1).sources_per_second == 0.0


def test_what_ends_within_a_second_counts_together_and_what_ends_later_by_itself() -> None:
    assert look(ended_at(10.0, 10.9), 70.5).sources_per_second == 0.0
    assert look(ended_at(10.0, 11.0), 70.5).sources_per_second == 3 / 60
    # A second is counted from the first end in it.
    assert look(ended_at(10.0, 10.9, 11.5), 71.2).sources_per_second == 3 / 60


@pytest.mark.parametrize(
    ("kept", "counted", "has_all"),
    [
        ({}, {}, True),
        ({}, {BatchState.FINISHED: 3, BatchState.PLANNED: 1, BatchState.SPLIT: 1}, True),
        ({1: BatchState.ERRORED}, {BatchState.ERRORED: 1}, True),
        ({1: BatchState.ERRORED}, {}, False),
        ({}, {BatchState.ERRORED: 1}, False),
        ({1: BatchState.ERRORED}, {BatchState.ERRORED: 2}, False),
        ({1: BatchState.ERRORED}, {BatchState.LOST: 1}, False),
        ({1: BatchState.ERRORED}, {BatchState.ERRORED: 1, BatchState.UNKNOWN: 1}, False),
        (
            {1: BatchState.ERRORED, 2: BatchState.UNKNOWN},
            {BatchState.ERRORED: 1, BatchState.UNKNOWN: 1},
            True,
        ),
    ],
)
def test_what_is_in_trouble_is_looked_for_where_the_ledger_counts_otherwise(
    kept: dict[int, BatchState],
    counted: dict[BatchState, int],
    has_all: bool,  # noqa: FBT001
) -> None:
    books = Books(0.0)
    for number, state in kept.items():
        books.keep(a_record(number, state))
    assert books.has_all_troubled(LedgerCounts(batches=counted, sources={})) is has_all


def test_every_source_is_accounted_for_at_every_moment_of_any_run() -> None:
    @unhurried
    @given(st.data())
    def runs(data: st.DataObject) -> None:
        sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
        records = {number: a_record(number, size=size) for number, size in enumerate(sizes, 1)}
        books = some_books(*records.values())
        for step in range(data.draw(st.integers(0, 30))):
            number = data.draw(st.sampled_from(sorted(records)))
            record = records[number]
            choices = NEXT_STATES[record.state]
            if len(record.source_ids) == 1:
                choices -= {BatchState.SPLIT}
            if not choices:
                continue
            to = data.draw(st.sampled_from(sorted(choices)))
            after = moved(record, to, inference_job_id=number)
            books.enter(record.state, after, float(step))
            records[number] = after
            if to is BatchState.SPLIT:
                middle = len(record.source_ids) // 2
                ids = record.source_ids
                first = len(records) + 100
                for part in split_parts(
                    record, [ids[:middle], ids[middle:]], first_number=first, at=NOW
                ):
                    books.enter(None, part, float(step))
                    records[part.number] = part
            summary = look(books, float(step))
            live = [one for one in records.values() if one.state is not BatchState.SPLIT]
            assert summary.sources == Counter(
                state for one in live for state in [one.state] * len(one.source_ids)
            )
            assert sum(summary.sources.values()) == sum(sizes)
            assert summary.batches == Counter(one.state for one in records.values())
            assert books.failed() == [
                records[key] for key in sorted(records) if records[key].state in FAILED
            ]

    runs()


def bisected(record: BatchRecord, bad: set[int]) -> Iterator[BatchRecord]:
    """Yield every batch that a job is made for when a batch fails wherever one of its sources is bad."""
    yield record
    if bad.isdisjoint(record.source_ids) or len(record.source_ids) == 1:
        return
    ids = record.source_ids
    middle = len(ids) // 2
    for part in split_parts(record, [ids[:middle], ids[middle:]], first_number=2, at=NOW):
        yield from bisected(part, bad)


@given(st.integers(0, 7), st.data())
def test_finding_bad_sources_takes_no_more_jobs_than_promised(
    power: int, data: st.DataObject
) -> None:
    size = 2**power
    record = a_record(1, size=size)
    bad = data.draw(st.sets(st.sampled_from(record.source_ids), max_size=5))
    extra = len(list(bisected(record, bad))) - 1
    assert extra <= 2 * power * len(bad)


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([(1, 2, 3)], id="one"),
        pytest.param([(1, 2), ()], id="an empty one"),
        pytest.param([(1, 2), (2, 3)], id="one source twice"),
        pytest.param([(1,), (2,)], id="one source missing"),
        pytest.param([(2, 3), (1,)], id="another order"),
    ],
)
def test_parts_that_are_not_the_batch_are_refused(parts: list[tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="must be its own sources, in order"):
        split_parts(a_record(), parts, first_number=10, at=NOW)


def test_news_of_a_batch_are_merged_to_the_latest_when_nobody_reads() -> None:
    mailbox = RecordMailbox(room=2)
    records = [a_record(1)]
    for state in (BatchState.SENDING, BatchState.SUBMITTED, BatchState.FINISHED):
        records.append(moved(records[-1], state, inference_job_id=1))
    for record in records:
        mailbox.put(record)
    mailbox.put(a_record(2))
    assert [mailbox.take() for _ in range(4)] == [records[0], records[3], a_record(2), None]


def test_news_come_as_they_were_while_there_is_room() -> None:
    mailbox = RecordMailbox()
    records = [evolve(a_record(), version=version) for version in range(5)]
    for record in records:
        mailbox.put(record)
    taken = [mailbox.take() for _ in records]
    assert taken == records
    assert all(one.version < two.version for one, two in pairwise(taken) if one and two)
