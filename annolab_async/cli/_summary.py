"""What is said at the end of a run: how everything ended, what is in trouble, and what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from attrs import frozen

from annolab_async import BatchState
from annolab_async.cli._ledgers import shown_spec
from annolab_async.cli._problems import ExitStatus
from annolab_async.cli._terminal import (
    Own,
    print_json,
    print_line,
    print_table,
    tell,
    tell_command,
)
from annolab_async.cli._words import FAILED, OPEN, batch_line, counts, duration, plural

if TYPE_CHECKING:
    from annolab_async import BatchRecord, FanOutSummary
    from annolab_async.cli._go_on import Way

__all__ = ["MOST_TOLD", "End", "print_end"]

MOST_TOLD: Final = 10
"""How many batches in trouble are named, of each kind."""


@frozen(kw_only=True)
class End:
    """How a run was left.

    Attributes:
        summary: where it stands.
        unknown: batches of which nobody knows whether a job exists.
        failed: batches that ended badly, the first of them.
        failed_source_ids: the sources of all of those.
        failure: why it could not go on; None if it came to its end or was stopped.
        is_stopped: whether it was told to stop.
    """

    summary: FanOutSummary
    unknown: list[BatchRecord]
    failed: list[BatchRecord]
    failed_source_ids: list[int]
    failure: Exception | None
    is_stopped: bool


def print_end(end: End, way: Way, *, requests: int, status: ExitStatus, again: str) -> None:
    """Print what became of a run, and the commands that come next.

    Args:
        end: how it was left.
        way: how it was gone about.
        requests: how many were sent.
        status: the exit status.
        again: the command that starts it again, for when its plan is not in the ledger yet.
    """
    steps = _next_steps(end, way, again)
    if way.is_json:
        _print_for_machines(end, way, requests=requests, status=status, steps=steps)
    else:
        _print_for_people(end, way, requests=requests)
    for command, why in steps:
        tell(f"{why}:")
        tell_command(command)


def _next_steps(end: End, way: Way, again: str) -> list[tuple[str, str]]:
    batches = end.summary.batches
    steps: list[tuple[str, str]] = []
    if not end.summary.is_planned:
        steps.append((again, "Not all sources are in the ledger yet. To go on, give them again"))
    elif any(batches.get(state) for state in OPEN):
        steps.append((way.command("resume"), "To go on where it stopped"))
    if unknown := batches.get(BatchState.UNKNOWN):
        what = f"{plural(unknown, 'batch')} may or may not have a job. To see what can be done"
        steps.append((way.command("resolve"), what))
    if failed := sum(batches.get(state, 0) for state in FAILED):
        steps.append((way.command("resume", "--retry"), f"To try {plural(failed, 'batch')} again"))
    return steps


def _print_for_people(end: End, way: Way, *, requests: int) -> None:
    summary = end.summary
    sources = dict(counts(summary.sources))
    failed = sum(summary.batches.get(state, 0) for state in FAILED)
    for title, records, total in (
        ("unknown", end.unknown, len(end.unknown)),
        ("failed", end.failed, failed),
    ):
        for record in records[:MOST_TOLD]:
            # Why a batch is unknown takes long to tell; `resolve` does.
            print_line(batch_line(record, with_error=title == "failed"))
        if (more := total - MOST_TOLD) > 0:
            print_line(f"and {plural(more, 'batch')} more {title}")
    print_table(
        ("batches", "sources", "state"),
        [
            (f"{count:,}", f"{sources.get(state, 0):,}", state)
            for state, count in counts(summary.batches)
        ],
        right=("batches", "sources"),
    )
    if repeated := summary.repeated_source_ids:
        print_line(
            f"{plural(repeated, 'source id')} occurred again and {'was' if repeated == 1 else 'were'} left out."
        )
    print_line(
        Own(
            f"Run {way.run!r} in {shown_spec(way.ledger)}: {plural(sum(summary.sources.values()), 'source')}, "
            f"{plural(requests, 'request')} in {duration(summary.elapsed)}."
        )
    )


def _print_for_machines(
    end: End, way: Way, *, requests: int, status: ExitStatus, steps: list[tuple[str, str]]
) -> None:
    summary = end.summary
    print_json({
        "event": "summary",
        "run": way.run,
        "ledger": shown_spec(way.ledger),
        "batches": {str(state): count for state, count in summary.batches.items()},
        "sources": {str(state): count for state, count in summary.sources.items()},
        "is_planned": summary.is_planned,
        "is_stopped": end.is_stopped,
        "repeated_source_ids": summary.repeated_source_ids,
        "failed_source_ids": end.failed_source_ids,
        "unknown_batches": [record.number for record in end.unknown],
        "elapsed": round(summary.elapsed, 3),
        "requests": requests,
        "error": None if end.failure is None else str(end.failure),
        "next": [command for command, _ in steps],
        "exit_status": status,
    })
