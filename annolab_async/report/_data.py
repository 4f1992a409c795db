"""What a report says of runs, in whichever form it is shown. All of it is immutable."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  # for who resolves the types of the records at run time
from enum import StrEnum, auto

from attrs import frozen

from annolab_async._batch_records import BatchState  # noqa: TC001  # likewise

__all__ = [
    "Activity",
    "BatchReport",
    "DurationGroup",
    "PlanFacts",
    "RunReport",
    "Span",
    "SpanKind",
    "Spread",
]


class SpanKind(StrEnum):
    """What a batch was doing, as far as that was seen."""

    SENDING = auto()
    """Its request was open."""
    QUEUED = auto()
    """The server had its job, and nobody had yet seen it run."""
    RUNNING = auto()
    """Its job had been seen running."""


@frozen
class Span:
    """A stretch of a batch's life.

    Attributes:
        kind: what it was doing.
        began, ended: from when to when, in seconds since 1970.
    """

    kind: SpanKind
    began: float
    ended: float


@frozen
class Spread:
    """How some numbers are spread.

    Attributes:
        count: how many there are; at least one.
        least, quarter, median, three_quarters, p95, most: what that share of them does not exceed.
    """

    count: int
    least: float
    quarter: float
    median: float
    three_quarters: float
    p95: float
    most: float


@frozen(kw_only=True)
class BatchReport:
    """What became of one batch.

    Attributes:
        number: its place in the plan.
        state: where it stands.
        size: how many sources it has.
        source_ids: their ids, if it is in trouble; else empty: there may be millions.
        inference_job_id: its job, None while there is none.
        attempts: how often it was sent, or nearly so.
        error: what went wrong last, as text that is fit to be shown; None while nothing did.
        spans: what it was doing when, oldest first.
        ends: when it came to an end, in seconds since 1970, each with whether it was a good one: a batch that is
            tried again has several.
        duration: seconds from when the server took its job to when its end was seen; None without such an end.
        uncertainty: seconds by which that end may have been older; None if that is not known.
    """

    number: int
    state: BatchState
    size: int
    source_ids: tuple[int, ...] = ()
    inference_job_id: int | None
    attempts: int
    error: str | None
    spans: tuple[Span, ...]
    ends: tuple[tuple[float, bool], ...]
    duration: float | None
    uncertainty: float | None


@frozen(kw_only=True)
class Activity:
    """What went on in a stretch of time.

    Attributes:
        began: from when, in seconds since 1970.
        seconds: for how long.
        finished_sources, failed_sources: how many sources came to a good and a bad end in it.
        in_flight: the most jobs that were unfinished at a time in it.
    """

    began: float
    seconds: float
    finished_sources: int
    failed_sources: int
    in_flight: int

    @property
    def sources_per_minute(self) -> float:
        """How many sources came to an end in a minute."""
        return (self.finished_sources + self.failed_sources) * 60 / self.seconds


@frozen(kw_only=True)
class PlanFacts:
    """What the ledger says of a run's plan; None where it does not."""

    group_name: str | None = None
    project: str | None = None
    model: str | None = None
    output_layer: str | None = None
    batch_size: int | None = None


@frozen(kw_only=True)
class DurationGroup:
    """How long batches of one size took with one model.

    Attributes:
        model: the model, None if the ledger does not say.
        size: how many sources each batch has.
        seconds: from when the server took a job to when its end was seen.
    """

    model: str | None
    size: int
    seconds: Spread


@frozen(kw_only=True)
class RunReport:
    """What became of one run.

    Attributes:
        name: its name in the ledger.
        plan: what was to be run.
        created_at: when it was begun, in seconds since 1970.
        made_at: when this was read.
        is_planned: whether the whole plan had been written down.
        batches: its batches, by number; those that were split are among them.
        counts, sources: how many batches, and sources in them, are in which state; each source counts once.
        began, ended: when the first batch was sent, and when the last came to an end, or ``made_at`` if some had
            not; both None if none was sent.
        activity: what went on, in equal stretches of time.
        duration: how long batches took; None if none has ended.
        uncertainty: how old ends may have been when they were seen; None where that is not known.
    """

    name: str
    plan: PlanFacts
    created_at: float
    made_at: float
    is_planned: bool
    batches: tuple[BatchReport, ...]
    counts: Mapping[BatchState, int]
    sources: Mapping[BatchState, int]
    began: float | None
    ended: float | None
    activity: tuple[Activity, ...]
    duration: Spread | None
    uncertainty: Spread | None

    @property
    def is_over(self) -> bool:
        """Whether the whole plan was written down and every batch has come to an end."""
        return self.is_planned and all(state.is_ended for state in self.counts)

    @property
    def troubled(self) -> tuple[BatchReport, ...]:
        """The batches that ended badly, or of which nobody knows whether they have a job."""
        return tuple(batch for batch in self.batches if batch.source_ids)

    @property
    def seconds(self) -> float:
        """From when the first batch was sent to when the last had ended."""
        return 0.0 if self.began is None or self.ended is None else self.ended - self.began
