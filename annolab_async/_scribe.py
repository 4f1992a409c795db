"""Writes what becomes of batches into the ledger first, then into the books, and last to who iterates."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from anyio import Event, current_time

from annolab_async._batch_records import BatchRecord, BatchState
from annolab_async._fan_out_state import TROUBLED
from annolab_async._hook_records import BatchChanged

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Sequence

    from annolab_async._fan_out_state import Books, RecordMailbox
    from annolab_async._hooks import Hooks
    from annolab_async.ledger import LedgerRun

__all__ = ["Scribe"]

_PAGE = 500


class Scribe:
    """Writes down changes of one run.

    Args:
        run: the run in its ledger.
        run_name: its name.
        owner: whose changes these are.
        lease_seconds: for how long after each sign of life the owner is believed to be alive.
        books: what this process knows of the run.
        mailbox: what it has yet to tell.
        hooks: who wants to hear of changes.
    """

    def __init__(
        self,
        run: LedgerRun,
        *,
        run_name: str,
        owner: str,
        lease_seconds: float,
        books: Books,
        mailbox: RecordMailbox,
        hooks: Hooks,
    ) -> None:
        self._run = run
        self.run_name = run_name
        self._hooks = hooks
        self.owner = owner
        self._lease_seconds = lease_seconds
        self._books = books
        self._mailbox = mailbox
        self._news = Event()
        self._listeners: list[Callable[[], None]] = []
        self._writing = 0
        self._is_taken = False

    async def wait_for_news(self) -> None:
        """Wait until something has changed."""
        await self._news.wait()

    def tell_news(self) -> None:
        """Let all look again who wait for something to change."""
        self._news.set()
        self._news = Event()
        for listener in self._listeners:
            listener()

    def on_news(self, listener: Callable[[], None]) -> None:
        """Have a function called whenever something has changed."""
        self._listeners.append(listener)

    async def claim(self) -> BatchRecord | None:
        """Take the next planned batch, if there is one: its sending is written down from now on."""
        await self._until_free()
        with self._writes():
            records = await self._run.claim(self.owner, limit=1, lease_seconds=self._lease_seconds)
            return self._enter(BatchState.PLANNED, records[0]) if records else None

    async def change(self, record: BatchRecord, to: BatchState, **news: Any) -> BatchRecord | None:
        """Write down a change.

        Args:
            record: the batch as last seen.
            to: its new state.
            news: what else is new, as :meth:`LedgerRun.change` takes it.

        Returns:
            The batch as it is now; None if somebody else has changed it since.
        """
        await self._until_free()
        with self._writes():
            after = await self._run.change(record, to, owner=self.owner, **news)
            return self._enter(record.state, after) if after else None

    async def look_up(self, number: int) -> BatchRecord | None:
        """Return a batch as the ledger has it."""
        return await self._run.get(number)

    async def split(self, record: BatchRecord) -> None:
        """Put the two halves of a batch in its place."""
        middle = len(record.source_ids) // 2
        halves = [record.source_ids[:middle], record.source_ids[middle:]]
        # A half that is claimed before it is entered here would be counted beside the whole.
        async with self._alone():
            parts = await self._run.split(record, halves, owner=self.owner)
            if parts is None:
                return
            whole = await self._run.get(record.number)
            if whole is not None:
                self._enter(record.state, whole)
            for part in parts:
                self._enter(None, part)

    async def renew(self) -> bool:
        """Show that this owner is alive; return whether nobody can have thought otherwise."""
        return await self._run.renew(self.owner, lease_seconds=self._lease_seconds)

    async def release(self) -> None:
        """Let others take over at once what this owner still has."""
        await self._run.release(self.owner)

    async def take_over(self, *, of: Sequence[str] = ()) -> list[BatchRecord]:
        """Take over what owners have left behind who are gone; return it as it is now."""
        taken: list[BatchRecord] = []
        await self._until_free()
        with self._writes():
            while records := await self._run.take_over(
                self.owner, limit=_PAGE, lease_seconds=self._lease_seconds, of=of
            ):
                for record in records:
                    is_unknown = record.state is BatchState.UNKNOWN
                    before = BatchState.SENDING if is_unknown else record.state
                    taken.append(self._enter(before, record))
        return taken

    async def count(self) -> None:
        """Take the ledger's word for where the batches stand: others may be at work, too."""
        # What is being written would be counted twice, or not at all.
        async with self._alone():
            counts = await self._run.counts()
            if not self._books.has_all_troubled(counts):
                found = [record async for record in self._run.batches(states=TROUBLED)]
                self._books.troubled = {record.number: record for record in found}
            self._books.copy_counts(counts)

    @asynccontextmanager
    async def _alone(self) -> AsyncGenerator[None]:
        await self._until_free()
        self._is_taken = True
        try:
            while self._writing:
                await self.wait_for_news()
            yield
        finally:
            self._is_taken = False
            self.tell_news()

    async def _until_free(self) -> None:
        while self._is_taken:
            await self.wait_for_news()

    @contextmanager
    def _writes(self) -> Generator[None]:
        self._writing += 1
        try:
            yield
        finally:
            self._writing -= 1
            self.tell_news()

    def _enter(self, before: BatchState | None, record: BatchRecord) -> BatchRecord:
        self._books.enter(before, record, current_time())
        self._mailbox.put(record)
        if self._hooks.batch is not None:
            self._hooks.batch(BatchChanged(run=self.run_name, previous=before, record=record))
        return record
