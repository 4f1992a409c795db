"""Makes a report of what a ledger holds. Pure: the time comes in as an argument."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast

from annolab_async._batch_records import BatchState
from annolab_async._records import JobState
from annolab_async._secret import LINKS
from annolab_async.report._data import (
    Activity,
    BatchReport,
    DurationGroup,
    PlanFacts,
    RunReport,
    Span,
    SpanKind,
    Spread,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from annolab_async._batch_records import BatchChange, BatchRecord
    from annolab_async.ledger import RunInfo

__all__ = ["batch_report", "durations_of", "fit_to_show", "run_report", "spread_of"]

_FAILED: Final = frozenset({BatchState.ERRORED, BatchState.TIMED_OUT, BatchState.LOST})
_TROUBLED: Final = _FAILED | {BatchState.UNKNOWN}
# Only of these is it known when the job ended.
_SEEN_ENDS: Final = frozenset({BatchState.FINISHED, BatchState.ERRORED})
_LONGEST_TEXT: Final = 500
_MOST_STRETCHES: Final = 120
_STEPS: Final = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800)
_HOUR: Final = 3600


def fit_to_show(text: str) -> str:
    """Return a text of others' without what a terminal or a page may not merely print, cut if it is long."""
    shown = "".join(
        char if char.isprintable() else " " if char.isspace() else "\N{REPLACEMENT CHARACTER}"
        for char in text[:_LONGEST_TEXT]
    )
    return f"{shown}…" if len(text) > _LONGEST_TEXT else shown


def batch_report(
    record: BatchRecord, changes: Sequence[BatchChange], *, at: datetime
) -> BatchReport:
    """Return what became of a batch.

    Args:
        record: the batch as it is.
        changes: its history, oldest first; it may lack what has changed lately.
        at: the time, in UTC.
    """
    end = record.ended_at or at
    seen = changes[-1] if changes and changes[-1].state in _SEEN_ENDS else None
    took = None
    # What the server has refused has a state that tells of an end, but never had a job that could end.
    if seen and record.state in _SEEN_ENDS and record.submitted_at and record.ended_at:
        took = (record.ended_at - record.submitted_at).total_seconds()
    return BatchReport(
        number=record.number,
        state=record.state,
        size=len(record.source_ids),
        source_ids=record.source_ids if record.state in _TROUBLED else (),
        inference_job_id=record.inference_job_id,
        attempts=record.attempts,
        error=None if record.error is None else fit_to_show(LINKS.hide(record.error)),
        spans=tuple(_spans(changes, end.timestamp())),
        ends=tuple(
            (change.at.timestamp(), change.state is BatchState.FINISHED)
            for change in changes
            if change.state is BatchState.FINISHED or change.state in _FAILED
        ),
        duration=took,
        uncertainty=seen.uncertainty if seen and took is not None else None,
    )


def _spans(changes: Iterable[BatchChange], end: float) -> Iterator[Span]:
    kind, began = None, 0.0
    for change in changes:
        at, now = change.at.timestamp(), _kind_of(change)
        if now is kind:
            continue
        if kind:
            yield Span(kind, began, at)
        kind, began = now, at
    if kind:
        yield Span(kind, began, max(began, end))


def _kind_of(change: BatchChange) -> SpanKind | None:
    if change.state is BatchState.SENDING:
        return SpanKind.SENDING
    if change.state is not BatchState.SUBMITTED:
        return None
    is_running = change.status is not None and JobState.of(change.status) is JobState.RUNNING
    return SpanKind.RUNNING if is_running else SpanKind.QUEUED


def run_report(info: RunInfo, batches: Iterable[BatchReport], *, at: datetime) -> RunReport:
    """Return what became of a run.

    Args:
        info: the run.
        batches: all of its batches.
        at: the time, in UTC.
    """
    batches = tuple(batches)
    made_at = at.timestamp()
    counts, sources = Counter[BatchState](), Counter[BatchState]()
    for batch in batches:
        counts[batch.state] += 1
        if batch.state is not BatchState.SPLIT:
            sources[batch.state] += batch.size
    began = min((batch.spans[0].began for batch in batches if batch.spans), default=None)
    ended, activity = None, tuple[Activity, ...]()
    if began is not None:
        is_open = not info.is_planned or not all(state.is_ended for state in counts)
        last = max(batch.spans[-1].ended for batch in batches if batch.spans)
        # A clock that was set back may have put the last end after the time of the report.
        ended = max(made_at if is_open else last, last)
        activity = tuple(_activity(batches, began, ended))
    return RunReport(
        name=fit_to_show(info.name),
        plan=_plan_facts(info.details),
        created_at=info.created_at.timestamp(),
        made_at=made_at,
        is_planned=info.is_planned,
        batches=batches,
        counts=MappingProxyType(counts),
        sources=MappingProxyType(sources),
        began=began,
        ended=ended,
        activity=activity,
        duration=spread_of(batch.duration for batch in batches),
        uncertainty=spread_of(batch.uncertainty for batch in batches),
    )


def durations_of(runs: Iterable[RunReport]) -> tuple[DurationGroup, ...]:
    """Return how long batches took by model and size: each model's largest batches first."""
    seconds: defaultdict[tuple[str | None, int], list[float]] = defaultdict(list)
    for run in runs:
        for batch in run.batches:
            if batch.duration is not None:
                seconds[run.plan.model, batch.size].append(batch.duration)
    return tuple(
        DurationGroup(model=model, size=size, seconds=_spread(seconds[model, size]))
        for model, size in sorted(seconds, key=lambda key: (key[0] or "", -key[1]))
    )


def spread_of(values: Iterable[float | None]) -> Spread | None:
    """Return how numbers are spread, leaving out what is None; None if there are none."""
    known = [value for value in values if value is not None]
    return _spread(known) if known else None


def _spread(values: Sequence[float]) -> Spread:
    ordered = sorted(values)
    shares = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)
    return Spread(len(ordered), *(ordered[round(share * (len(ordered) - 1))] for share in shares))


def _activity(batches: Sequence[BatchReport], began: float, ended: float) -> Iterator[Activity]:
    step = _step(ended - began)
    count = max(1, -int((began - ended) // step))
    finished, failed = [0] * count, [0] * count
    changes: list[tuple[float, int]] = []
    for batch in batches:
        for at, is_good in batch.ends:
            sources = finished if is_good else failed
            sources[_place(at - began, step, count)] += batch.size
        for span in batch.spans:
            if span.kind is not SpanKind.SENDING:
                changes += (span.began, 1), (span.ended, -1)
    most = _most_in_flight(sorted(changes), began, step, count)
    for place in range(count):
        yield Activity(
            began=began + place * step,
            seconds=step,
            finished_sources=finished[place],
            failed_sources=failed[place],
            in_flight=most[place],
        )


def _step(seconds: float) -> float:
    for step in _STEPS:
        if step * _MOST_STRETCHES >= seconds:
            return step
    return _HOUR * -int(-seconds // (_HOUR * _MOST_STRETCHES))


def _place(elapsed: float, step: float, count: int) -> int:
    # What ended at the very end belongs to the last stretch; clocks of several machines may differ.
    return min(max(int(elapsed // step), 0), count - 1)


def _most_in_flight(
    changes: Sequence[tuple[float, int]], began: float, step: float, count: int
) -> list[int]:
    most, level = [0] * count, 0
    last = 0
    for at, change in changes:
        place = _place(at - began, step, count)
        # In all stretches since the last change, it was what it was then.
        for between in range(last, place + 1):
            most[between] = max(most[between], level)
        last = place
        level += change  # until the next one; the last one leaves nothing in flight
    return most


def _plan_facts(details: str) -> PlanFacts:
    # The text is of the caller's choice: it may be anything.
    try:
        found: object = json.loads(details)
    except ValueError:
        return PlanFacts()
    fields = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    size = fields.get("batchSize")
    return PlanFacts(
        group_name=_name(fields.get("groupName")),
        project=_name(fields.get("projectIdentifier")),
        model=_name(fields.get("modelIdentifier")),
        output_layer=_name(fields.get("outputLayerIdentifier")),
        batch_size=size if type(size) is int else None,
    )


def _name(value: object) -> str | None:
    return fit_to_show(str(value)) if isinstance(value, str | int) else None
