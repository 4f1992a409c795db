"""The command ``runs``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from annolab_async.cli._ledgers import existing_ledger, the_run
from annolab_async.cli._options import Json, Ledger, LedgerPath
from annolab_async.cli._terminal import print_json, print_line, print_table, tell
from annolab_async.cli._words import clock, counts

if TYPE_CHECKING:
    from datetime import datetime

    from annolab_async.ledger import Ledger as OpenLedger, LedgerCounts, RunInfo

__all__ = ["runs"]


async def runs(
    path: LedgerPath = None,
    ledger: Ledger = "run.db",
    *,
    is_json: Json = False,
) -> None:
    """Show what a ledger holds."""
    async with existing_ledger(path or ledger) as opened:
        found = await opened.runs()
        rows = [(info, *await _state(opened, info)) for info in found]
    if is_json:
        for info, counted, changed_at in rows:
            print_json(_for_machines(info, counted, changed_at))
        return
    if not rows:
        tell("It has no runs.")
        return
    print_table(
        ("run", "begun", "last change", "batches", "sources", "states"),
        [
            (
                info.name,
                clock(info.created_at),
                clock(changed_at),
                f"{sum(counted.batches.values()):,}" + ("" if info.is_planned else "+"),
                f"{sum(counted.sources_once.values()):,}" + ("" if info.is_planned else "+"),
                ", ".join(f"{count:,} {state}" for state, count in counts(counted.batches)),
            )
            for info, counted, changed_at in rows
        ],
        right=("batches", "sources"),
        whole=("begun", "last change"),
    )
    if any(not info.is_planned for info, *_ in rows):
        print_line("+: not all of its sources were written down.")


async def _state(opened: OpenLedger, info: RunInfo) -> tuple[LedgerCounts, datetime]:
    run = await the_run(opened, info)
    last = info.created_at
    async for record in run.batches():
        last = max(last, record.updated_at)
    return await run.counts(), last


def _for_machines(info: RunInfo, counted: LedgerCounts, changed_at: datetime) -> dict[str, Any]:
    try:
        plan = json.loads(info.details)
    except ValueError:
        plan = info.details
    return {
        "event": "run",
        "run": info.name,
        "created_at": info.created_at.isoformat(),
        "updated_at": changed_at.isoformat(),
        "is_planned": info.is_planned,
        "plan": plan,
        "batches": {str(state): count for state, count in counted.batches.items()},
        "sources": {str(state): count for state, count in counted.sources_once.items()},
    }
