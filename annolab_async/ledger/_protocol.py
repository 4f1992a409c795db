"""What a ledger does, whatever it is kept in."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  # for who resolves the types of the records at run time
from datetime import datetime  # noqa: TC003  # likewise
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

from attrs import frozen

from annolab_async._batch_records import BatchState  # likewise

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterable,
        Collection,
        Iterable,
        Sequence,
    )
    from types import TracebackType

    from annolab_async._batch_records import BatchChange, BatchRecord

__all__ = ["Ledger", "LedgerCounts", "LedgerRun", "RunInfo"]


@frozen(kw_only=True)
class RunInfo:
    """A run as its ledger has it.

    Attributes:
        name: its name, unique in its ledger.
        fingerprint: what tells its plan from others.
        details: a text of the caller's choice, such as the plan's fields as JSON.
        created_at: when it was begun, in UTC.
        planned_batches: how many batches its plan has; None until all of them have been written down.
    """

    name: str
    fingerprint: str
    details: str
    created_at: datetime
    planned_batches: int | None

    @property
    def is_planned(self) -> bool:
        """Whether the whole plan has been written down."""
        return self.planned_batches is not None


@frozen(kw_only=True)
class LedgerCounts:
    """How many batches, and how many sources in them, stand where.

    Sources of SPLIT batches are counted there and again in the batches that took their place.
    """

    batches: Mapping[BatchState, int]
    sources: Mapping[BatchState, int]

    @property
    def sources_once(self) -> Mapping[BatchState, int]:
        """How many sources stand where, each counted once."""
        return {state: n for state, n in self.sources.items() if state is not BatchState.SPLIT}


class LedgerRun(Protocol):
    """One run in a ledger.

    Each method is one transaction, and is told only after it is on disk. Cancellation comes before a method begins
    or after it has ended, never in between: who is returned a claim knows of it. All raise ``LedgerError`` if the
    ledger cannot be read or written; a ``LedgerError`` from a method that writes means that it did nothing, unless
    the error says that this is not known.

    An owner is one process, or one part of it, at work on the run: a name that nobody else has. Its lease says until
    when it is believed to be alive.
    """

    @property
    def info(self) -> RunInfo:
        """The run as it was when last read or written here."""
        ...

    async def plan(
        self, batches: Iterable[Sequence[int]] | AsyncIterable[Sequence[int]], *, after: int = 0
    ) -> RunInfo:
        """Write down all batches of the plan, numbered from 1, and that they are all.

        They are taken and written in chunks, each of which can be claimed at once. Doing it again, also after it was
        cut short, writes only what is missing. What comes over time, as an asynchronous iterable, may bring more than
        it did when it ended.

        Args:
            batches: the source ids of each batch.
            after: how many of the first are left out, since they are known to be here.

        Raises:
            LedgerError: a batch is here already, but with other sources, or the plan has fewer batches than are here,
                or more than it had.
            ValueError: a batch is empty or holds what is no id.
        """
        ...

    async def claim(self, owner: str, *, limit: int, lease_seconds: float) -> Sequence[BatchRecord]:
        """Take up to ``limit`` PLANNED batches, the lowest numbers first; they are SENDING from now on.

        No batch is given to two. The owner's lease is renewed.
        """
        ...

    async def change(
        self,
        record: BatchRecord,
        to: BatchState,
        *,
        owner: str,
        inference_job_id: int | None = None,
        status: str | None = None,
        error: str | None = None,
        uncertainty: float | None = None,
    ) -> BatchRecord | None:
        """Bring a batch from the state that a record of it shows to another.

        Args:
            record: the batch as last seen.
            to: its new state.
            owner: who says so, and has the batch from now on if it is SUBMITTED.
            inference_job_id: its job; needed for SUBMITTED unless the record has it.
            status: the server's last word, if it is new.
            error: what went wrong, without secrets.
            uncertainty: seconds by which the change may be older than its note, if that is known.

        Returns:
            The batch as it is now; None, and nothing is changed, if it has moved on since or is another owner's.

        Raises:
            ValueError: this state may not follow that one.
        """
        ...

    async def split(
        self, record: BatchRecord, parts: Sequence[Sequence[int]], *, owner: str
    ) -> Sequence[BatchRecord] | None:
        """Put smaller PLANNED batches in the place of an ERRORED one, which becomes SPLIT.

        Args:
            record: the batch as last seen.
            parts: the source ids of each new batch, together the batch's own in their order.
            owner: who says so.

        Returns:
            The new batches; None, and nothing is changed, if the batch has moved on since.

        Raises:
            ValueError: the batch is not ERRORED, or the parts are not its sources.
        """
        ...

    async def renew(self, owner: str, *, lease_seconds: float) -> bool:
        """Give an owner a lease from now on; return whether the one before had not run out.

        If it had, others may have taken over any of the owner's batches. Changes to those will be refused.
        """
        ...

    async def release(self, owner: str) -> None:
        """End an owner's lease: others may take over what it still has, at once."""
        ...

    async def take_over(
        self, owner: str, *, limit: int, lease_seconds: float, of: Collection[str] = ()
    ) -> Sequence[BatchRecord]:
        """Take up to ``limit`` batches, the lowest numbers first, from owners whose lease has run out.

        Their SUBMITTED batches are the new owner's to watch. Their SENDING ones become UNKNOWN: they may have gone out.

        Args:
            owner: the new owner; its lease is renewed.
            limit: how many at most.
            lease_seconds: how long the new owner is believed to be alive.
            of: owners known to be gone before their lease has run out.

        Returns:
            The batches as they are now. None at all: there is nothing to take over.
        """
        ...

    async def get(self, number: int) -> BatchRecord | None:
        """Return a batch; None if there is none of that number."""
        ...

    def batches(
        self,
        *,
        states: Collection[BatchState] | None = None,
        after: int | None = None,
        limit: int | None = None,
    ) -> AsyncGenerator[BatchRecord]:
        """Yield batches by their numbers, read in pages.

        Args:
            states: only those in these states; None for all.
            after: only those with higher numbers.
            limit: how many at most; None for all.
        """
        ...

    async def counts(self) -> LedgerCounts:
        """Count batches and sources by state."""
        ...

    async def history(self, number: int) -> Sequence[BatchChange]:
        """Return every change of a batch, oldest first."""
        ...

    def changes(self) -> AsyncGenerator[BatchChange]:
        """Yield every change of every batch, by their numbers, then oldest first, read in pages."""
        ...


@runtime_checkable
class Ledger(Protocol):
    """Where runs are written down.

    A context manager that may be entered again while it is open: it closes when it is left as often as entered.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    async def begin_run(self, name: str, fingerprint: str, *, details: str = "") -> LedgerRun:
        """Begin a run, or go on with the one of that name.

        Args:
            name: its name.
            fingerprint: what tells its plan from others.
            details: a text of the caller's choice, without secrets; of a run that is here already, the old one stays.

        Raises:
            LedgerError: the run of that name has another plan.
        """
        ...

    async def runs(self) -> Sequence[RunInfo]:
        """Return all runs, oldest first."""
        ...
