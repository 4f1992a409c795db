"""A report as a terminal shows it."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from annolab_async import BatchState
from annolab_async.report import Report
from annolab_async.report._terminal import sparkline
from tests.report.runs import BEGIN, History, a_run, many


def shown(report: Report, *, width: int = 120, encoding: str = "utf-8") -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    report.show(Console(file=file, width=width, highlight=False, _environ={}))
    file.seek(0)
    return file.read()


def test_it_tells_what_became_of_a_run() -> None:
    run = a_run(*many(200, bad=0.3, unfinished=20), seconds=200)
    text = shown(Report((run,), BEGIN.timestamp()))
    assert "Run default" in text
    assert "Not over: 10 planned, 10 submitted, 124" in text
    assert "Staple + Classify Documents, 25 sources" in text
    assert "Sources           5,000 in 200 batches" in text
    assert "Finished" in text
    assert f"the first 20 of {len(run.troubled)}; the page has all" in text
    first = run.troubled[0]
    assert f"{first.source_ids[0]} {first.source_ids[1]}" in text
    assert "and 15 more" in text
    assert "Ends were seen within" in text
    assert "▁" in text
    assert "█" in text


def test_all_source_ids_of_a_small_batch_are_shown() -> None:
    run = a_run(*many(5, bad=1.0, size=3))
    text = shown(Report((run,), 0.0))
    assert "3 4 5 " in text
    assert "more" not in text.partition("Batches in trouble")[2]


def test_parts_of_split_batches_have_numbers_of_their_own() -> None:
    whole = History(1, [1, 2]).sent(1, job_id=1).to(BatchState.ERRORED, 2).to(BatchState.SPLIT, 3)
    part = History(1_000_000_001, [2]).sent(4, job_id=3).to(BatchState.ERRORED, 6)
    text = shown(Report((a_run(whole, part),), 0.0))
    assert "part 2" in text
    assert "1 errored, 1 split" in text


def test_on_a_terminal_it_has_its_colors(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(sys, "stdout", file)
    monkeypatch.setenv("FORCE_COLOR", "1")
    Report((a_run(*many(5, bad=1.0)),), 0.0).show()
    assert "\x1b[31mErrored" in file.getvalue()


def test_runs_that_are_empty_or_have_only_begun_are_told_of() -> None:
    assert shown(Report((), 0.0)).strip() == "There are no runs in this ledger."
    text = shown(Report((a_run(), a_run(*many(2, unfinished=2), name="other")), 0.0))
    assert "Nothing was sent yet: no batches." in text
    assert "Run other" in text
    assert "How long batches took" not in text


def test_where_there_is_only_ascii_bars_are_drawn_in_it() -> None:
    run = a_run(*many(200))
    text = shown(Report((run,), 0.0), encoding="ascii")
    assert text.isascii()
    assert "@@@" in text


def test_nothing_of_others_is_taken_for_markup_or_commands() -> None:
    hostile = "\x1b]0;title\x07[bold]x[/bold] [/] :smile: \u202e"
    run = a_run(*many(5, bad=1.0, error=hostile), name=hostile, modelIdentifier=hostile)
    text = shown(Report((run,), 0.0), width=300)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\u202e" not in text
    assert text.count("]0;title�[bold]x[/bold] [/] :smile: �") >= 3


def test_it_goes_to_standard_output_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    Report((a_run(*many(5, bad=1.0, error="x" * 40)),), 0.0).show()
    text = capsys.readouterr().out
    assert "x" * 40 in text, "not cut to the width of a terminal that is not there"
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("values", "bars"),
    [
        ([], ""),
        ([0, 0], "▁▁"),
        ([0, 1, 1000], "▁▂█"),
        ([7] * 72, "█" * 36),
        ([0] * 71 + [5], "▁" * 35 + "█"),
    ],
)
def test_numbers_become_bars_and_none_above_zero_is_lost(values: list[float], bars: str) -> None:
    assert sparkline(values) == bars
