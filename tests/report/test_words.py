"""Numbers, times and states in words, as all forms of a report have them."""

from __future__ import annotations

import pytest

from annolab_async import BatchState
from annolab_async.report._words import as_time, as_utc, facts, label, verdict, word
from tests.report.runs import BEGIN, History, a_run


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.00 s"),
        (9.994, "9.99 s"),
        (10, "10.0 s"),
        (99.94, "99.9 s"),
        (100, "0:01:40"),
        (3599.6, "1:00:00"),
        (36_061, "10:01:01"),
    ],
)
def test_times(seconds: float, text: str) -> None:
    assert as_time(seconds) == text


def test_times_of_day_are_in_utc() -> None:
    assert as_utc(BEGIN.timestamp()) == "2026-11-24 09:30:00"


def test_states_are_headings() -> None:
    assert [word(BatchState.TIMED_OUT), word(BatchState.LOST)] == ["Timed out", "Lost"]


def test_parts_of_split_batches_are_counted_from_one() -> None:
    numbers = (1, 999_999_999, 1_000_000_000, 1_000_000_001)
    assert [label(History(number, [1]).report()) for number in numbers] == [
        "1", "999999999", "part 1", "part 2",
    ]  # fmt: skip


def test_how_a_run_stands() -> None:
    finished = History(1, [1]).sent(0, job_id=1).to(BatchState.FINISHED, 50)
    assert verdict(a_run()) == "Nothing was sent yet: no batches."
    assert verdict(a_run(History(1, [1]))) == "Nothing was sent yet: 1 planned."
    assert verdict(a_run(finished)) == "Over after 50.0 s: 1 finished."
    assert verdict(a_run(finished, History(2, [2]))) == "Not over: 1 planned, 1 finished."


def test_what_there_is_to_say_of_a_run() -> None:
    sent_once = History(1, range(60)).sent(0, job_id=1)
    sent_once.to(BatchState.FINISHED, 30, uncertainty=0.5)
    sent_thrice = History(2, range(60)).to(BatchState.SENDING, 0).to(BatchState.PLANNED, 1)
    sent_thrice.to(BatchState.SENDING, 2).to(BatchState.PLANNED, 3).sent(4, job_id=2)
    sent_thrice.to(BatchState.ERRORED, 120)
    assert facts(a_run(sent_once, sent_thrice, History(3, range(1000)))) == [
        ("Model", "Staple + Classify Documents"),
        ("Project", "My Project"),
        ("Group", "Company Name"),
        ("Output layer", "Gold Set"),
        ("Begun", "2026-11-24 09:30:00"),
        ("Sources", "1,120 in 3 batches"),
        ("Batch size", "25"),
        ("Pace", "7 sources a minute"),
        ("Most in flight", "2 jobs"),
        ("Sent again", "2 times"),
        ("Median duration", "29.8 s"),
        ("Ends seen within", "0.50 s (95 %)"),
    ]


def test_what_is_not_known_of_a_run_is_left_out() -> None:
    run = a_run(modelIdentifier=None, batchSize=None)
    assert [name for name, _ in facts(run)] == [
        "Project", "Group", "Output layer", "Begun", "Sources",
    ]  # fmt: skip
