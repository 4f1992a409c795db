"""What becomes of the batches of a run: their states, which may follow which, and what each change does. Pure."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003  # for who resolves the types of the records at run time
from enum import StrEnum, auto
from typing import TYPE_CHECKING, Final

from attrs import evolve, frozen

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

__all__ = [
    "FIRST_SPLIT_NUMBER",
    "NEXT_STATES",
    "BatchChange",
    "BatchRecord",
    "BatchState",
    "changed",
    "history_entry",
    "number_of",
    "split_parts",
    "states_of",
]


class BatchState(StrEnum):
    """Where a batch stands."""

    PLANNED = auto()
    """To be sent, by whoever claims it."""
    SENDING = auto()
    """Claimed by an owner, who may have sent it: written down before the first byte leaves."""
    SUBMITTED = auto()
    """Taken by the server; its job id is known, and its owner watches it."""
    FINISHED = auto()
    """Its job ended well."""
    ERRORED = auto()
    """Its job ended with an error, or the server refused it."""
    TIMED_OUT = auto()
    """Its job had not ended when its time was over; it goes on at the server."""
    LOST = auto()
    """Its job could no longer be watched; what became of it is not known."""
    UNKNOWN = auto()
    """Sent, perhaps, but nobody knows whether a job exists. Never sent again without being told."""
    SPLIT = auto()
    """Replaced by smaller batches, which hold its sources from now on."""

    @classmethod
    def _missing_(cls, value: object) -> BatchState | None:
        # By its name, too, as the documentation writes it.
        return cls.__members__.get(value) if isinstance(value, str) else None

    @property
    def is_held(self) -> bool:
        """Whether a batch in this state has an owner at work on it."""
        return self is BatchState.SENDING or self is BatchState.SUBMITTED

    @property
    def is_ended(self) -> bool:
        """Whether a batch in this state stays in it unless somebody asks for more."""
        return not self.is_held and self is not BatchState.PLANNED


NEXT_STATES: Final = {
    # Back to PLANNED: provably never sent.
    BatchState.SENDING: frozenset({
        BatchState.SUBMITTED,
        BatchState.PLANNED,
        BatchState.ERRORED,
        BatchState.UNKNOWN,
    }),
    # To SUBMITTED again: a new owner, or a new word from the server.
    BatchState.SUBMITTED: frozenset({
        BatchState.SUBMITTED,
        BatchState.FINISHED,
        BatchState.ERRORED,
        BatchState.TIMED_OUT,
        BatchState.LOST,
    }),
    BatchState.PLANNED: frozenset({BatchState.SENDING}),
    # From here on only by request: to be sent again, or watched again.
    BatchState.UNKNOWN: frozenset({BatchState.SUBMITTED, BatchState.PLANNED}),
    BatchState.ERRORED: frozenset({BatchState.PLANNED, BatchState.SPLIT}),
    BatchState.TIMED_OUT: frozenset({BatchState.SUBMITTED, BatchState.PLANNED}),
    BatchState.LOST: frozenset({BatchState.SUBMITTED, BatchState.PLANNED}),
    BatchState.FINISHED: frozenset[BatchState](),
    BatchState.SPLIT: frozenset[BatchState](),
}
"""Which states may follow a state."""

FIRST_SPLIT_NUMBER: Final = 1_000_000_000
"""The parts of split batches are numbered from here: how many batches a plan has shows only at its end."""

_LARGEST_ID: Final = 2**63 - 1


@frozen(kw_only=True)
class BatchRecord:
    """A batch of a run as its ledger has it.

    Attributes:
        number: its place in the plan, from 1 up; :data:`FIRST_SPLIT_NUMBER` and up for parts of split batches.
        source_ids: ids of its sources.
        state: where it stands.
        version: how often it was changed. A change names the version that it changes, and is refused when the
            batch has moved on: what a stale owner still wants to say finds no hold.
        inference_job_id: its job, None while there is none.
        attempts: how often it was claimed, and with that sent or nearly so.
        status: the server's last word on its job.
        error: what went wrong last; None while nothing did.
        owner: who is at work on it; None while nobody is.
        parent: number of the batch that it is a part of, None if it was planned so.
        created_at, updated_at: when it was planned and last changed, in UTC.
        sent_at, submitted_at, ended_at: when it was last claimed, taken by the server, and came to its
            end, whichever it is; None if it was not.
    """

    number: int
    source_ids: tuple[int, ...]
    state: BatchState
    version: int = 0
    inference_job_id: int | None = None
    attempts: int = 0
    status: str | None = None
    error: str | None = None
    owner: str | None = None
    parent: int | None = None
    created_at: datetime
    updated_at: datetime
    sent_at: datetime | None = None
    submitted_at: datetime | None = None
    ended_at: datetime | None = None


def number_of(batch: BatchRecord | int) -> int:
    """Return the number of a batch, given as itself or as its number.

    Raises:
        ValueError: it is neither.
    """
    number = batch.number if isinstance(batch, BatchRecord) else batch
    if type(number) is not int:
        raise ValueError(f"{batch!r} is neither a BatchRecord nor the number of a batch")
    return number


def states_of(states: BatchState | Collection[BatchState]) -> set[BatchState]:
    """Return states, given as several or a single one.

    Raises:
        ValueError: something is no state.
    """
    # A single one is text, and with that a collection of letters.
    return {BatchState(state) for state in ({states} if isinstance(states, str) else states)}


@frozen(kw_only=True)
class BatchChange:
    """One entry of a batch's history.

    Attributes:
        number: the batch.
        version: which change of it this is, from 1 up.
        previous, state: where it stood before and after.
        owner: who made the change.
        inference_job_id, status, error: as they were after it.
        at: when, in UTC.
        uncertainty: seconds since the poll before the one that saw it: by so much it may be older; None if no poll
            did, or it was not noted.
    """

    number: int
    version: int
    previous: BatchState
    state: BatchState
    owner: str
    inference_job_id: int | None
    status: str | None
    error: str | None
    at: datetime
    uncertainty: float | None = None


def changed(
    record: BatchRecord,
    to: BatchState,
    *,
    at: datetime,
    owner: str,
    inference_job_id: int | None = None,
    status: str | None = None,
    error: str | None = None,
) -> BatchRecord:
    """Return a batch as it is after a change.

    Args:
        record: the batch before.
        to: its new state.
        at: the time, in UTC.
        owner: who changes it, and has it from now on if the new state is one that is held.
        inference_job_id: its job, if that is new.
        status: the server's last word, if that is new.
        error: what went wrong, if something did.

    Raises:
        ValueError: the new state may not follow the old, or a job id is missing, or is none.
    """
    if to not in NEXT_STATES[record.state]:
        raise ValueError(
            f"Batch {record.number} is {record.state}, and cannot become {to} from there"
        )
    is_new = to is BatchState.PLANNED or to is BatchState.SENDING
    job_id = record.inference_job_id if inference_job_id is None else inference_job_id
    job_id = None if is_new else job_id
    if to is BatchState.SUBMITTED and job_id is None:
        raise ValueError(f"Batch {record.number} is submitted only with the id of its job")
    if job_id is not None and (type(job_id) is not int or not 0 < job_id <= _LARGEST_ID):
        raise ValueError(f"{job_id!r} is no job id (an integer from 1 to {_LARGEST_ID})")
    if error is None and to is BatchState.SPLIT:
        error = record.error
    return evolve(
        record,
        state=to,
        version=record.version + 1,
        inference_job_id=job_id,
        attempts=record.attempts + (to is BatchState.SENDING),
        status=None if is_new else _storable(status) or record.status,
        error=_storable(error),
        owner=owner if to.is_held else None,
        updated_at=at,
        sent_at={BatchState.PLANNED: None, BatchState.SENDING: at}.get(to, record.sent_at),
        submitted_at=_submitted_at(record, to, at),
        ended_at=at if to.is_ended else None,
    )


def _submitted_at(record: BatchRecord, to: BatchState, at: datetime) -> datetime | None:
    if to is BatchState.PLANNED or to is BatchState.SENDING:
        return None
    is_first = to is BatchState.SUBMITTED and record.submitted_at is None
    return at if is_first else record.submitted_at


def _storable(text: str | None) -> str | None:
    # PostgreSQL takes no NUL, and no database half a surrogate pair.
    if text is None:
        return None
    return text.replace("\0", "�").encode(errors="replace").decode()


def split_parts(
    record: BatchRecord, parts: Sequence[Sequence[int]], *, first_number: int, at: datetime
) -> list[BatchRecord]:
    """Return the batches that take the place of a batch.

    Args:
        record: the batch to replace.
        parts: the source ids of each new batch.
        first_number: the number of the first of them; the others are counted on from it.
        at: the time, in UTC.

    Raises:
        ValueError: the parts are not the batch's sources in their order, or there are fewer than two.
    """
    joined = tuple(source_id for part in parts for source_id in part)
    if len(parts) < 2 or not all(parts) or joined != record.source_ids:  # noqa: PLR2004  # one is no split
        raise ValueError(
            f"The parts of batch {record.number} must be its own sources, in order, in two parts or more"
        )
    return [
        BatchRecord(
            number=number,
            source_ids=tuple(part),
            state=BatchState.PLANNED,
            parent=record.number,
            created_at=at,
            updated_at=at,
        )
        for number, part in enumerate(parts, first_number)
    ]


def history_entry(
    before: BatchRecord, after: BatchRecord, owner: str, uncertainty: float | None = None
) -> BatchChange:
    """Return what a change leaves in a batch's history."""
    return BatchChange(
        number=after.number,
        version=after.version,
        previous=before.state,
        state=after.state,
        owner=owner,
        inference_job_id=after.inference_job_id,
        status=after.status,
        error=after.error,
        at=after.updated_at,
        uncertainty=uncertainty,
    )
