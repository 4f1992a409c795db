"""Runs as a ledger would have them, made up by chance from a seed."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any

from annolab_async._batch_records import (
    BatchChange,
    BatchRecord,
    BatchState,
    changed,
    history_entry,
)
from annolab_async.ledger import RunInfo
from annolab_async.report._build import batch_report, run_report

if TYPE_CHECKING:
    from collections.abc import Sequence

    from annolab_async.report import BatchReport, RunReport

BEGIN = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


class History:
    """A batch, and what becomes of it."""

    def __init__(self, number: int, source_ids: Sequence[int]) -> None:
        self.record = BatchRecord(
            number=number,
            source_ids=tuple(source_ids),
            state=BatchState.PLANNED,
            created_at=BEGIN,
            updated_at=BEGIN,
        )
        self.changes: list[BatchChange] = []

    def to(
        self, state: BatchState, seconds: float, *, uncertainty: float | None = None, **news: Any
    ) -> History:
        before = self.record
        self.record = changed(before, state, at=after(seconds), owner="me", **news)
        self.changes.append(history_entry(before, self.record, "me", uncertainty))
        return self

    def sent(self, seconds: float, *, job_id: int, status: str = "Queued") -> History:
        self.to(BatchState.SENDING, seconds)
        return self.to(BatchState.SUBMITTED, seconds + 0.2, inference_job_id=job_id, status=status)

    def report(self, seconds: float = 1000.0) -> BatchReport:
        return batch_report(self.record, self.changes, at=after(seconds))


def an_info(name: str = "default", *, is_planned: bool = True, **details: Any) -> RunInfo:
    plan = {
        "groupName": "Company Name",
        "projectIdentifier": "My Project",
        "modelIdentifier": "Staple + Classify Documents",
        "outputLayerIdentifier": "Gold Set",
        "batchSize": 25,
    }
    return RunInfo(
        name=name,
        fingerprint="f",
        details=json.dumps(plan | details),
        created_at=BEGIN,
        planned_batches=1 if is_planned else None,
    )


def a_run(*histories: History, seconds: float = 1000.0, **info: Any) -> RunReport:
    reports = [history.report(seconds) for history in histories]
    return run_report(an_info(**info), reports, at=after(seconds))


def many(
    count: int,
    *,
    seed: int = 0,
    workers: int = 20,
    in_flight: int = 60,
    bad: float = 0.02,
    size: int = 25,
    error: str = "Source 17 has no text layer",
    unfinished: int = 0,
) -> list[History]:
    """Return batches that a service works through in order, some of them ending badly."""
    chance = Random(seed)
    free = [0.0] * workers
    ends: list[float] = []
    histories: list[History] = []
    for number in range(1, count + 1):
        history = History(number, range(number * size, (number + 1) * size))
        sent = number * 0.05 if number <= in_flight else sorted(ends)[number - in_flight - 1]
        sent += chance.uniform(0.0, 0.3)
        if number > count - unfinished:
            if number % 2:
                history.sent(sent, job_id=1000 + number)
            histories.append(history)
            ends.append(sent + 30)
            continue
        place = min(range(workers), key=free.__getitem__)
        started = max(free[place], sent + 0.5)
        free[place] = ended = started + chance.lognormvariate(2.0, 0.45)
        ends.append(ended)
        fate = chance.random() / bad
        if fate < 0.1:
            history.to(BatchState.SENDING, sent)
            history.to(
                BatchState.UNKNOWN, sent + 5, error="NoResponse: sent, but no whole answer came"
            )
        else:
            history.sent(sent, job_id=1000 + number)
            history.to(BatchState.SUBMITTED, started + chance.uniform(0, 1), status="Running")
            seen = ended + chance.uniform(0, 1.5)
            gap = chance.uniform(seen - ended, 2.0)
            if fate < 0.2:
                history.to(BatchState.LOST, seen + 30, error="Polling failed for 300 s")
            elif fate < 0.3:
                history.to(BatchState.TIMED_OUT, seen + 30, error="It had not ended after 30 s")
            elif fate < 1:
                history.to(BatchState.ERRORED, seen, status="Errored", error=error, uncertainty=gap)
            else:
                history.to(BatchState.FINISHED, seen, status="Finished", uncertainty=gap)
        histories.append(history)
    return histories
