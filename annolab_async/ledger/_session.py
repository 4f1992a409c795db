"""One transaction of an SQL ledger, seen from inside: what its operations read, write and note."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, insert, select, update

from annolab_async._batch_records import BatchRecord, BatchState
from annolab_async.ledger import _schema as tables

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from sqlalchemy import Connection, Row

    from annolab_async.ledger._dialects import Dialect

__all__ = ["Session", "from_microseconds", "ids_as_text", "microseconds", "record_of", "row_of"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_CHANGING: Final = (
    "state",
    "version",
    "inference_job_id",
    "attempts",
    "status",
    "error",
    "owner",
    "updated_at",
    "sent_at",
    "submitted_at",
    "ended_at",
)
_TIMES: Final = frozenset({"updated_at", "sent_at", "submitted_at", "ended_at"})

# Built once: every batch comes by here, and to build a statement takes longer than to run it.
_VERSIONS: Final = (
    select(tables.batches.c.number, tables.batches.c.version)
    .where(
        tables.batches.c.run_id == bindparam("of_run"),
        tables.batches.c.number.in_(bindparam("of_numbers")),
    )
    # The same order everywhere, so that no two wait for each other.
    .order_by(tables.batches.c.number)
    .with_for_update()
)
_NOTE: Final = insert(tables.transitions)
_COMPARE_AND_SET: Final = (
    update(tables.batches)
    .where(
        tables.batches.c.run_id == bindparam("of_run"),
        tables.batches.c.number == bindparam("of_number"),
        tables.batches.c.version == bindparam("of_version"),
    )
    .values({name: bindparam(name) for name in _CHANGING})
)


def microseconds(time: datetime) -> int:
    """Return a time as it stands in the tables."""
    return (time - _EPOCH) // _MICROSECOND


def from_microseconds(value: int) -> datetime:
    """Return the time that stands in the tables as this."""
    return _EPOCH + timedelta(microseconds=value)


def ids_as_text(source_ids: Sequence[int]) -> str:
    """Return source ids as they stand in the tables: a JSON array without spaces."""
    return f"[{','.join(map(str, source_ids))}]"


def _time(value: int | None) -> datetime | None:
    return None if value is None else from_microseconds(value)


def row_of(run_id: int, record: BatchRecord) -> dict[str, Any]:
    """Return a new batch as a row."""
    return {
        "run_id": run_id,
        "number": record.number,
        "parent": record.parent,
        "created_at": microseconds(record.created_at),
        "source_count": len(record.source_ids),
        "source_ids": ids_as_text(record.source_ids),
        **_changing(record),
    }


def _changing(record: BatchRecord) -> dict[str, Any]:
    values = {name: getattr(record, name) for name in _CHANGING}
    values["state"] = record.state.value
    for name in _TIMES:
        if values[name] is not None:
            values[name] = microseconds(values[name])
    return values


def record_of(row: Row[Any]) -> BatchRecord:
    """Return the batch that a row of the table of batches holds."""
    return BatchRecord(
        number=row.number,
        source_ids=tuple(json.loads(row.source_ids)),
        state=BatchState(row.state),
        version=row.version,
        inference_job_id=row.inference_job_id,
        attempts=row.attempts,
        status=row.status,
        error=row.error,
        owner=row.owner,
        parent=row.parent,
        created_at=from_microseconds(row.created_at),
        updated_at=from_microseconds(row.updated_at),
        sent_at=_time(row.sent_at),
        submitted_at=_time(row.submitted_at),
        ended_at=_time(row.ended_at),
    )


class Session:
    """A transaction under way.

    Args:
        connection: where it runs.
        dialect: what kind of database it is.
        now: the time by the ledger's clock, in microseconds since 1970.
        is_repeat: whether an attempt before this one may have been committed.

    Attributes:
        change_id: by which the changes of the call at work are known in the histories.
    """

    change_id: str

    def __init__(
        self,
        connection: Connection,
        dialect: Dialect,
        *,
        now: int,
        is_repeat: bool,
    ) -> None:
        self.connection = connection
        self._dialect = dialect
        self.now = now
        self.is_repeat = is_repeat
        # The leases that were given within it already: run, owner and until when.
        self.leased: set[tuple[int, str, int]] = set()
        self._changes: list[dict[str, Any]] = []
        self._entries: list[dict[str, Any]] = []

    def lock(self) -> None:
        """Let nobody else be between here and the end of the transaction, where only one may be."""
        self._dialect.lock(self.connection)

    def analyze(self) -> None:
        """Let the database look at how much has been added."""
        self._dialect.analyze(self.connection)

    @property
    def time(self) -> datetime:
        """The time by the ledger's clock, in UTC."""
        return from_microseconds(self.now)

    def lock_versions(self, run_id: int, numbers: Collection[int]) -> dict[int, int]:
        """Lock batches and return their versions: from here to the end of the transaction they stay as they are."""
        rows = self.connection.execute(_VERSIONS, {"of_run": run_id, "of_numbers": numbers})
        return {number: version for number, version in rows}  # noqa: C416  # dict() takes no Rows

    def replace(
        self,
        run_id: int,
        before: BatchRecord,
        after: BatchRecord,
        owner: str,
        uncertainty: float | None = None,
    ) -> None:
        """Change a batch that is locked and of the version given, and note it in its history.

        Args:
            run_id: its run.
            before: the batch as it is.
            after: the batch as it will be.
            owner: who changes it.
            uncertainty: seconds by which the change may be older, None if that is not known.
        """
        self._changes.append({
            "of_run": run_id,
            "of_number": before.number,
            "of_version": before.version,
            **_changing(after),
        })
        self._entries.append({
            "run_id": run_id,
            "number": after.number,
            "version": after.version,
            "change_id": self.change_id,
            "previous": before.state.value,
            "state": after.state.value,
            "owner": owner,
            "inference_job_id": after.inference_job_id,
            "status": after.status,
            "error": after.error,
            "at": self.now,
            "uncertainty": None if uncertainty is None else round(uncertainty * 1_000_000),
        })

    def add(self, run_id: int, records: Iterable[BatchRecord]) -> None:
        """Add new batches."""
        if rows := [row_of(run_id, record) for record in records]:
            self.connection.execute(insert(tables.batches), rows)

    def flush(self) -> None:
        """Write what was changed; to be called before anything that changes is read, and before the commit."""
        if self._changes:
            changes, self._changes = self._changes, []
            entries, self._entries = self._entries, []
            self.connection.execute(_COMPARE_AND_SET, changes)
            self.connection.execute(_NOTE, entries)
