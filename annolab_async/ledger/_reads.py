"""What is read of an SQL ledger, each function within one transaction; the same for SQLite and PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from annolab_async._batch_records import BatchChange, BatchRecord, BatchState
from annolab_async.ledger._protocol import LedgerCounts, RunInfo
from annolab_async.ledger._schema import batches, runs, transitions
from annolab_async.ledger._session import from_microseconds, record_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sqlalchemy import Row, Select

    from annolab_async.ledger._session import Session

__all__ = [
    "batches_of",
    "changes",
    "counts",
    "get",
    "history",
    "info_of",
    "list_runs",
    "page",
    "records",
]


def list_runs(session: Session) -> list[RunInfo]:
    """Return all runs, oldest first."""
    return [info_of(row) for row in session.connection.execute(select(runs).order_by(runs.c.id))]


def get(session: Session, *, run_id: int, number: int) -> BatchRecord | None:
    """Return a batch."""
    found = records(session, batches_of(run_id).where(batches.c.number == number))
    return found[0] if found else None


def page(
    session: Session,
    *,
    run_id: int,
    states: Collection[BatchState] | None,
    after: int,
    limit: int,
) -> list[BatchRecord]:
    """Return batches by their numbers."""
    query = (
        batches_of(run_id).where(batches.c.number > after).order_by(batches.c.number).limit(limit)
    )
    if states is None:
        return records(session, query)
    # State by state, for each is in order in the index; together they would have to be sorted.
    found = [
        record
        for state in set(states)
        for record in records(session, query.where(batches.c.state == state.value))
    ]
    return sorted(found, key=lambda record: record.number)[:limit]


def counts(session: Session, *, run_id: int) -> LedgerCounts:
    """Count batches and sources by state."""
    rows = session.connection.execute(
        select(batches.c.state, func.count(), func.sum(batches.c.source_count))
        .where(batches.c.run_id == run_id)
        .group_by(batches.c.state)
    ).all()
    return LedgerCounts(
        batches={BatchState(state): int(count) for state, count, _ in rows},
        sources={BatchState(state): int(sources) for state, _, sources in rows},
    )


def history(session: Session, *, run_id: int, number: int) -> list[BatchChange]:
    """Return every change of a batch."""
    rows = session.connection.execute(
        select(transitions)
        .where(transitions.c.run_id == run_id, transitions.c.number == number)
        .order_by(transitions.c.version)
    )
    return [_change_of(row) for row in rows]


def changes(
    session: Session, *, run_id: int, after: tuple[int, int], limit: int
) -> list[BatchChange]:
    """Return changes of all batches, in the order of the primary key, after a number and version."""
    number, version = after
    rows = session.connection.execute(
        select(transitions)
        .where(
            transitions.c.run_id == run_id,
            # Said once more in a way that every database finds in the index.
            transitions.c.number >= number,
            (transitions.c.number > number) | (transitions.c.version > version),
        )
        .order_by(transitions.c.number, transitions.c.version)
        .limit(limit)
    )
    return [_change_of(row) for row in rows]


def _change_of(row: Row[Any]) -> BatchChange:
    return BatchChange(
        number=row.number,
        version=row.version,
        previous=BatchState(row.previous),
        state=BatchState(row.state),
        owner=row.owner,
        inference_job_id=row.inference_job_id,
        status=row.status,
        error=row.error,
        at=from_microseconds(row.at),
        uncertainty=None if row.uncertainty is None else row.uncertainty / 1_000_000,
    )


def info_of(row: Row[Any]) -> RunInfo:
    """Return what a row says of a run."""
    return RunInfo(
        name=row.name,
        fingerprint=row.fingerprint,
        details=row.details,
        created_at=from_microseconds(row.created_at),
        planned_batches=row.planned_batches,
    )


def batches_of(run_id: int) -> Select[Any]:
    """Return the query for all batches of a run, to be narrowed down."""
    return select(batches).where(batches.c.run_id == run_id)


def records(
    session: Session, query: Select[Any], parameters: Mapping[str, object] | None = None
) -> list[BatchRecord]:
    """Return the batches that a query finds."""
    return [record_of(row) for row in session.connection.execute(query, parameters)]
