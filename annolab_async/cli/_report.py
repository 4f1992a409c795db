"""The command ``report``."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path  # noqa: TC003  # typer asks for the types at run time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from attrs import asdict

from annolab_async.cli._options import Json
from annolab_async.cli._problems import ExitStatus, Problem
from annolab_async.cli._terminal import print_json, tell
from annolab_async.report import read_report

if TYPE_CHECKING:
    from collections.abc import Mapping

    from annolab_async import BatchState
    from annolab_async.report import BatchReport, DurationGroup, RunReport, Spread

__all__ = ["report"]


async def report(
    ledger: Annotated[
        str,
        typer.Argument(
            metavar="LEDGER",
            help="Where the runs are written down: a SQLite file, or postgresql://…",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            dir_okay=False,
            help="Write a page to look at in a browser: one file, which loads nothing.",
        ),
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", metavar="NAME", help="Only the run of this name.")
    ] = None,
    *,
    is_json: Json = False,
) -> int:
    """Show what became of the runs in a ledger: when which batch did what, how long it took, what went wrong.

    Without -o it is printed here. The runs may be going on meanwhile.
    """
    found = await read_report(ledger, run=run)
    try:
        if output is not None:
            path = await found.save(output)
            tell(f"The report is in {path}.")
        elif not is_json:
            found.show()
    except ImportError as error:
        raise Problem(
            f"A report needs {error.name}.", hint="pip install 'annolab-async[ledger,report]'"
        ) from error
    if is_json:
        for each in found.runs:
            print_json({"event": "run", **_run_json(each)})
        for group in found.durations:
            print_json({"event": "durations", **_durations_json(group)})
    return ExitStatus.FINISHED


def _run_json(run: RunReport) -> dict[str, Any]:
    return {
        "run": run.name,
        "plan": asdict(run.plan),
        "created_at": _clock(run.created_at),
        "began_at": _clock(run.began),
        "ended_at": _clock(run.ended),
        "made_at": _clock(run.made_at),
        "is_planned": run.is_planned,
        "is_over": run.is_over,
        "batches": _by_state(run.counts),
        "sources": _by_state(run.sources),
        "duration": _spread_json(run.duration),
        "uncertainty": _spread_json(run.uncertainty),
        "troubled": [_batch_json(each) for each in run.troubled],
    }


def _batch_json(batch: BatchReport) -> dict[str, Any]:
    return {
        "batch": batch.number,
        "state": batch.state,
        "inference_job_id": batch.inference_job_id,
        "attempts": batch.attempts,
        "source_ids": batch.source_ids,
        "error": batch.error,
    }


def _durations_json(group: DurationGroup) -> dict[str, Any]:
    return {"model": group.model, "size": group.size, "seconds": _spread_json(group.seconds)}


def _by_state(counts: Mapping[BatchState, int]) -> dict[str, int]:
    return {str(state): count for state, count in counts.items()}


def _spread_json(spread: Spread | None) -> dict[str, Any] | None:
    return None if spread is None else asdict(spread)


def _clock(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()
