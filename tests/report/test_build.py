"""What a report makes of what a ledger holds."""

from __future__ import annotations

import json

import pytest
from attrs import evolve

from annolab_async._batch_records import BatchState
from annolab_async.report import Activity, DurationGroup, Span, SpanKind, Spread
from annolab_async.report._build import durations_of, fit_to_show, run_report, spread_of
from annolab_async.report._data import PlanFacts
from tests.report.runs import BEGIN, History, a_run, after, an_info, many

START = BEGIN.timestamp()


def of_kinds(spans: tuple[Span, ...]) -> list[tuple[SpanKind, float, float]]:
    return [(s.kind, round(s.began - START, 3), round(s.ended - START, 3)) for s in spans]


def test_a_batch_is_sent_then_queued_then_running_until_its_end() -> None:
    batch = History(1, [7]).sent(1, job_id=5)
    batch.to(BatchState.SUBMITTED, 4, status="Running").to(BatchState.FINISHED, 9)
    assert of_kinds(batch.report().spans) == [
        (SpanKind.SENDING, 1, 1.2),
        (SpanKind.QUEUED, 1.2, 4),
        (SpanKind.RUNNING, 4, 9),
    ]
    assert batch.report().ends == ((START + 9, True),)


def test_a_new_owner_begins_no_new_span() -> None:
    batch = History(1, [7]).sent(1, job_id=5).to(BatchState.SUBMITTED, 3)
    assert of_kinds(batch.report(20).spans)[-1] == (SpanKind.QUEUED, 1.2, 20)


def test_a_batch_without_an_end_goes_on_until_now() -> None:
    batch = History(1, [7]).sent(1, job_id=5).to(BatchState.SUBMITTED, 4, status="Running")
    assert of_kinds(batch.report(30).spans)[-1] == (SpanKind.RUNNING, 4, 30)
    assert batch.report(30).duration is None
    assert batch.report(30).ends == ()


def test_a_batch_that_is_tried_again_has_several_ends_and_the_last_duration() -> None:
    batch = History(1, [7]).sent(1, job_id=5).to(BatchState.ERRORED, 9, uncertainty=2.0)
    batch.to(BatchState.PLANNED, 20).sent(30, job_id=6)
    batch.to(BatchState.FINISHED, 35, uncertainty=0.5)
    report = batch.report()
    assert report.ends == ((START + 9, False), (START + 35, True))
    assert report.duration == pytest.approx(4.8)
    assert report.uncertainty == 0.5
    assert report.attempts == 2
    assert of_kinds(report.spans)[2] == (SpanKind.SENDING, 30, 30.2)


def test_a_batch_that_the_server_refused_took_no_time() -> None:
    batch = (
        History(1, [7])
        .to(BatchState.SENDING, 1)
        .to(BatchState.ERRORED, 2, error="400", uncertainty=1.0)
    )
    assert batch.report().duration is None
    assert batch.report().uncertainty is None
    assert of_kinds(batch.report().spans) == [(SpanKind.SENDING, 1, 2)]


def test_an_end_that_was_not_seen_has_no_duration() -> None:
    batch = History(1, [7]).sent(1, job_id=5).to(BatchState.TIMED_OUT, 9, uncertainty=1.0)
    assert batch.report().duration is None
    assert batch.report().uncertainty is None


def test_a_record_that_is_newer_than_its_history_counts() -> None:
    batch = History(1, [7]).sent(1, job_id=5).to(BatchState.FINISHED, 9)
    del batch.changes[-1]
    assert of_kinds(batch.report(99).spans)[-1] == (SpanKind.QUEUED, 1.2, 9)
    assert batch.report(99).duration is None, "who saw the end is not known"


@pytest.mark.parametrize("state", ["errored", "timed_out", "lost", "unknown", "finished"])
def test_source_ids_are_kept_of_batches_in_trouble_alone(state: str) -> None:
    batch = History(1, [7, 8])
    if state == "unknown":
        batch.to(BatchState.SENDING, 1)
    else:
        batch.sent(1, job_id=5)
    batch.to(BatchState(state), 2)
    assert batch.report().source_ids == (() if state == "finished" else (7, 8))
    assert bool(a_run(batch).troubled) is (state != "finished")


def test_sources_of_split_batches_count_once() -> None:
    whole = History(1, [1, 2]).sent(1, job_id=1).to(BatchState.ERRORED, 2).to(BatchState.SPLIT, 3)
    parts = [
        History(1_000_000_000, [1]).sent(4, job_id=2).to(BatchState.FINISHED, 6),
        History(1_000_000_001, [2]).sent(4, job_id=3).to(BatchState.ERRORED, 6),
    ]
    run = a_run(whole, *parts)
    assert run.counts == {BatchState.SPLIT: 1, BatchState.FINISHED: 1, BatchState.ERRORED: 1}
    assert run.sources == {BatchState.FINISHED: 1, BatchState.ERRORED: 1}
    assert run.is_over


def test_a_run_that_is_over_ends_with_its_last_batch() -> None:
    run = a_run(History(1, [1]).sent(3, job_id=1).to(BatchState.FINISHED, 8), seconds=500)
    assert (run.began, run.ended, run.seconds) == (START + 3, START + 8, 5)
    assert run.is_over


def test_a_run_that_is_not_over_ends_now() -> None:
    ended = History(1, [1]).sent(3, job_id=1).to(BatchState.FINISHED, 8)
    open_ = History(2, [2]).sent(4, job_id=2)
    assert a_run(ended, open_, seconds=50).ended == START + 50
    assert not a_run(ended, open_).is_over
    assert not a_run(ended, History(2, [2])).is_over
    assert a_run(ended, History(2, [2]), seconds=50).ended == START + 50
    assert not a_run(ended, is_planned=False).is_over
    assert a_run(ended, is_planned=False, seconds=50).ended == START + 50


def test_an_end_after_the_report_was_made_is_within_it() -> None:
    ended = History(1, [1]).sent(3, job_id=1).to(BatchState.FINISHED, 80)
    run = a_run(ended, History(2, [2]), seconds=50)
    assert run.ended == START + 80
    assert run.activity[-1].finished_sources == 1


def test_a_run_of_which_nothing_was_sent_has_no_times() -> None:
    for run in (a_run(), a_run(History(1, [1]))):
        assert (run.began, run.ended, run.seconds) == (None, None, 0)
        assert run.activity == ()
        assert run.duration is run.uncertainty is None


def test_what_went_on_is_told_in_equal_stretches() -> None:
    first = History(1, [1, 2, 3]).sent(0, job_id=1).to(BatchState.FINISHED, 11)
    second = History(2, [4]).sent(0, job_id=2).to(BatchState.ERRORED, 11.5)
    third = History(3, [5, 6]).sent(59, job_id=3).to(BatchState.FINISHED, 60)
    run = a_run(first, second, third)
    assert {part.seconds for part in run.activity} == {0.5}
    assert len(run.activity) == 120
    assert run.activity[22] == Activity(
        began=START + 11, seconds=0.5, finished_sources=3, failed_sources=0, in_flight=2
    )
    assert run.activity[22].sources_per_minute == 360
    assert (run.activity[23].failed_sources, run.activity[23].in_flight) == (1, 1)
    assert {part.in_flight for part in run.activity[24:118]} == {0}
    assert (run.activity[119].finished_sources, run.activity[119].in_flight) == (2, 1)
    assert sum(part.finished_sources + part.failed_sources for part in run.activity) == 6


def test_what_ends_in_the_first_stretch_or_before_it_is_told_there() -> None:
    first = History(1, [1]).sent(0, job_id=1).to(BatchState.FINISHED, 0.3)
    last = History(2, [2, 3]).sent(0.3, job_id=2).to(BatchState.FINISHED, 60)
    run = a_run(first, last)
    assert [part.finished_sources for part in run.activity] == [1, *[0] * 118, 2]
    assert [part.in_flight for part in run.activity] == [1] * 120
    ended_before = evolve(first.report(), ends=((START - 5, True),))
    run = run_report(an_info(), [ended_before, last.report()], at=after(100))
    assert run.activity[0].finished_sources == 1


def test_a_plan_is_told_by_its_names() -> None:
    assert a_run().plan == PlanFacts(
        group_name="Company Name",
        project="My Project",
        model="Staple + Classify Documents",
        output_layer="Gold Set",
        batch_size=25,
    )


def test_requests_that_are_open_are_not_in_flight() -> None:
    batch = History(1, [1]).to(BatchState.SENDING, 0).to(BatchState.UNKNOWN, 10)
    assert {part.in_flight for part in a_run(batch).activity} == {0}


@pytest.mark.parametrize(
    ("seconds", "step"),
    [
        (1, 0.1),
        *[(120 * step, step) for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300)],
        *[(120 * step, step) for step in (600, 900, 1800, 3600, 7200, 10_800)],
        (86_400, 900),
        (2 * 86_400, 1800),
        (7 * 86_400, 7200),
    ],
)
def test_long_runs_are_told_in_no_more_stretches_than_short_ones(
    seconds: float, step: float
) -> None:
    run = a_run(History(1, [1]).sent(0, job_id=1).to(BatchState.FINISHED, seconds))
    assert {part.seconds for part in run.activity} == {step}
    assert len(run.activity) <= 120
    assert run.activity[-1].finished_sources == 1


def test_a_run_that_was_over_at_once_has_one_stretch() -> None:
    batch = History(1, [1]).to(BatchState.SENDING, 0).to(BatchState.ERRORED, 0)
    assert [part.failed_sources for part in a_run(batch).activity] == [1]


def test_durations_are_told_by_model_and_size() -> None:
    def took(number: int, size: int, seconds: float) -> History:
        batch = History(number, range(1, size + 1)).sent(0, job_id=number)
        return batch.to(BatchState.FINISHED, 0.2 + seconds)

    runs = [
        a_run(took(1, 2, 4), took(2, 5, 10), took(3, 2, 6), History(4, [1])),
        a_run(took(1, 2, 5), took(2, 2, 1000)),
        a_run(took(1, 1, 3), modelIdentifier=12),
        a_run(took(1, 1, 3), modelIdentifier=None),
    ]
    groups = durations_of(runs)
    assert [(group.model, group.size, group.seconds.count) for group in groups] == [
        (None, 1, 1),
        ("12", 1, 1),
        ("Staple + Classify Documents", 5, 1),
        ("Staple + Classify Documents", 2, 4),
    ]
    assert groups[-1] == DurationGroup(
        model="Staple + Classify Documents",
        size=2,
        seconds=Spread(4, *map(pytest.approx, (4, 5, 6, 6, 1000, 1000))),  # type: ignore[arg-type]
    )


def test_the_spread_of_nothing_is_nothing() -> None:
    assert spread_of([None, None]) is None
    assert spread_of([None, 3.0]) == Spread(1, 3, 3, 3, 3, 3, 3)


@pytest.mark.parametrize(
    "details", ["", "no JSON", "[1]", "12", json.dumps({"batchSize": "x", "modelIdentifier": [1]})]
)
def test_a_plan_may_be_described_by_anything(details: str) -> None:
    info = evolve(an_info(), details=details)
    run = run_report(info, [], at=after(1))
    assert (run.plan.model, run.plan.batch_size) == (None, None)


def test_texts_of_others_become_printable_and_short() -> None:
    assert fit_to_show("a\x1b[31mb\u202ec\nd\te\x00é") == "a�[31mb�c d e�é"
    link = History(1, [7]).to(BatchState.SENDING, 1)
    link.to(BatchState.ERRORED, 2, error="see https://x/y?signature=s3cret")
    assert link.report().error == "see https://x/y?[hidden]"
    assert fit_to_show("x" * 500) == "x" * 500
    assert fit_to_show("x" * 501) == "x" * 500 + "…"


def test_names_and_errors_are_made_fit_to_be_shown() -> None:
    batch = History(1, [1]).to(BatchState.SENDING, 0)
    batch.to(BatchState.UNKNOWN, 1, error="\x1b]0;gone\x07")
    run = a_run(batch, name="a\x1b[2Jb", modelIdentifier="m\u202e")
    assert run.batches[0].error == "�]0;gone�"
    assert (run.name, run.plan.model) == ("a�[2Jb", "m�")


def test_ten_thousand_batches_are_told_of_within_their_bounds() -> None:
    run = a_run(*many(2_000), seconds=100_000)
    assert sum(run.counts.values()) == 2_000
    assert run.duration
    assert run.duration.count == run.counts[BatchState.FINISHED] + run.counts[BatchState.ERRORED]
    assert max(part.in_flight for part in run.activity) <= 70
    assert len(run.activity) <= 120


def test_sources_that_failed_are_part_of_the_pace() -> None:
    stretch = Activity(began=0, seconds=30, finished_sources=3, failed_sources=2, in_flight=1)
    assert stretch.sources_per_minute == 10
