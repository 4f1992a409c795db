"""How runs, batches and times are put into words. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from annolab_async import BatchState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from annolab_async import BatchRecord, FanOutSummary

__all__ = [
    "FAILED",
    "OPEN",
    "batch_json",
    "batch_line",
    "clock",
    "counts",
    "duration",
    "ids",
    "plural",
    "progress_line",
    "short",
    "sources_ended",
]

OPEN: Final = (BatchState.PLANNED, BatchState.SENDING, BatchState.SUBMITTED)
FAILED: Final = (BatchState.ERRORED, BatchState.TIMED_OUT, BatchState.LOST)
# The order in which states are told: how things ended, then how far they are.
_ORDER: Final = (
    BatchState.FINISHED,
    *FAILED,
    BatchState.UNKNOWN,
    BatchState.SUBMITTED,
    BatchState.SENDING,
    BatchState.PLANNED,
    BatchState.SPLIT,
)


def plural(count: int, word: str) -> str:
    """Return a number of things, such as ``1 batch``."""
    ending = "" if count == 1 else "es" if word.endswith("ch") else "s"
    return f"{count:,} {word}{ending}"


def duration(seconds: float) -> str:
    """Return a time span, such as ``1:02`` or ``3:00:00``."""
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def clock(time: datetime | None) -> str:
    """Return a time in UTC to the second, nothing for none."""
    return "" if time is None else f"{time:%Y-%m-%d %H:%M:%S}Z"


def ids(source_ids: Sequence[int], most: int = 6) -> str:
    """Return ids, of many only the first and how many more there are."""
    shown = ", ".join(map(str, source_ids[:most]))
    more = len(source_ids) - most
    return f"{shown} and {more} more" if more > 0 else shown


def counts(by_state: Mapping[BatchState, int]) -> list[tuple[str, int]]:
    """Return the states in which there is something, and how much; ends first."""
    return [(state.replace("_", " "), by_state[state]) for state in _ORDER if by_state.get(state)]


def sources_ended(summary: FanOutSummary) -> tuple[int, int]:
    """Return how many sources have come to an end, whichever, and how many there are."""
    total = sum(summary.sources.values())
    return total - sum(summary.sources.get(state, 0) for state in OPEN), total


def progress_line(summary: FanOutSummary, *, requests: int) -> str:
    """Return where a run stands, in a line."""
    ended, total = sources_ended(summary)
    states = ", ".join(f"{count:,} {state}" for state, count in counts(summary.batches))
    of = f" of {total:,}" if summary.is_planned else ""
    left = "" if summary.eta is None else f", {duration(summary.eta)} left"
    return (
        f"{ended:,}{of} sources ended; batches: {states or 'none yet'}; "
        f"{summary.sources_per_second:.1f} sources/s{left}, {plural(requests, 'request')}"
    )


def batch_line(record: BatchRecord, *, most_ids: int = 6, with_error: bool = True) -> str:
    """Return what became of a batch, in a line.

    Args:
        record: the batch.
        most_ids: how many of its sources are named.
        with_error: whether to say why.
    """
    job = f" (job {record.inference_job_id})" if record.inference_job_id is not None else ""
    state = record.state.replace("_", " ")
    is_news = record.status and record.status.lower() != state
    why = (record.error if with_error else None) or (
        f"the server says {record.status!r}" if is_news else ""
    )
    line = f"batch {record.number}{job} {state}, sources {ids(record.source_ids, most_ids)}"
    # Of those that are unknown it takes long to say, and is much the same for all: `resolve` has it.
    return f"{line}: {short(why) if record.state is BatchState.UNKNOWN else why}" if why else line


def short(text: str, longest: int = 100) -> str:
    """Return a text, or its beginning if it is longer than that."""
    return text if len(text) <= longest else f"{text[:longest]}…"


def batch_json(record: BatchRecord) -> dict[str, Any]:
    """Return a batch for machines."""
    return {
        "number": record.number,
        "state": record.state,
        "source_ids": record.source_ids,
        "inference_job_id": record.inference_job_id,
        "attempts": record.attempts,
        "status": record.status,
        "error": record.error,
        "parent": record.parent,
        **{
            name: None if (time := getattr(record, name)) is None else time.isoformat()
            for name in ("created_at", "updated_at", "sent_at", "submitted_at", "ended_at")
        },
    }
