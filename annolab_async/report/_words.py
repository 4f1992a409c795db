"""How numbers, times and states are put into words, alike in all forms of a report."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from annolab_async._batch_records import FIRST_SPLIT_NUMBER, BatchState

if TYPE_CHECKING:
    from annolab_async.report._data import BatchReport, RunReport

__all__ = ["TROUBLE", "as_time", "as_utc", "facts", "label", "verdict", "word"]

TROUBLE: Final = (BatchState.ERRORED, BatchState.UNKNOWN, BatchState.LOST, BatchState.TIMED_OUT)
"""The states of batches in trouble, the most frequent first."""

_MINUTES: Final = 100
_TENTHS: Final = 10


def word(state: BatchState) -> str:
    """Return a state as a heading has it."""
    return state.replace("_", " ").capitalize()


def label(batch: BatchReport) -> str:
    """Return what a batch is called: parts of split ones have numbers of their own."""
    if batch.number < FIRST_SPLIT_NUMBER:
        return str(batch.number)
    return f"part {batch.number - FIRST_SPLIT_NUMBER + 1}"


def as_time(seconds: float) -> str:
    """Return a number of seconds for people."""
    if seconds < _MINUTES:
        return f"{seconds:.{2 if seconds < _TENTHS else 1}f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def as_utc(at: float) -> str:
    """Return a time in seconds since 1970 for people, in UTC."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}"


def verdict(run: RunReport) -> str:
    """Return how a run stands, in a sentence."""
    counts = [
        f"{count:,} {state.replace('_', ' ')}"
        for state in BatchState
        if (count := run.counts.get(state))
    ]
    stands = ", ".join(counts) or "no batches"
    if run.began is None:
        return f"Nothing was sent yet: {stands}."
    if not run.is_over:
        return f"Not over: {stands}."
    return f"Over after {as_time(run.seconds)}: {stands}."


def facts(run: RunReport) -> list[tuple[str, str]]:
    """Return what there is to say of a run, each with its name."""
    plan, sources = run.plan, sum(run.sources.values())
    ended = sum(part.finished_sources + part.failed_sources for part in run.activity)
    again = sum(max(batch.attempts - 1, 0) for batch in run.batches)
    found: list[tuple[str, str | None]] = [
        ("Model", plan.model),
        ("Project", plan.project),
        ("Group", plan.group_name),
        ("Output layer", plan.output_layer),
        ("Begun", as_utc(run.created_at)),
        ("Sources", f"{sources:,} in {sum(run.counts.values()):,} batches"),
        ("Batch size", None if plan.batch_size is None else f"{plan.batch_size:,}"),
        ("Pace", f"{ended * 60 / run.seconds:,.0f} sources a minute" if run.seconds else None),
        (
            "Most in flight",
            f"{max(part.in_flight for part in run.activity):,} jobs" if run.activity else None,
        ),
        ("Sent again", f"{again:,} times" if again else None),
        ("Median duration", as_time(run.duration.median) if run.duration else None),
        ("Ends seen within", f"{as_time(run.uncertainty.p95)} (95 %)" if run.uncertainty else None),
    ]
    return [(name, value) for name, value in found if value is not None]
