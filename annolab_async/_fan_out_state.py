"""What a fan-out knows of its batches, and what it has yet to tell. Pure: time comes in as an argument."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping  # noqa: TC003  # for who resolves the types of the records at run time
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from attrs import frozen

from annolab_async._batch_records import BatchRecord, BatchState
from annolab_async._mailbox import Mailbox

if TYPE_CHECKING:
    from annolab_async.ledger import LedgerCounts

__all__ = ["TROUBLED", "Books", "FanOutSummary", "RecordMailbox"]

_OPEN: Final = frozenset({BatchState.PLANNED, BatchState.SENDING, BatchState.SUBMITTED})
_FAILED: Final = frozenset({BatchState.ERRORED, BatchState.TIMED_OUT, BatchState.LOST})
_ENDED: Final = frozenset({BatchState.FINISHED, *_FAILED})
TROUBLED: Final = frozenset({BatchState.UNKNOWN, *_FAILED})
"""States of batches that ended badly, or of which it is not known."""
# Over how many seconds the rate is averaged.
_WINDOW: Final = 60.0
# What ends within so many seconds is noted together, so that a fast run keeps no more than a slow one.
_GRAIN: Final = 1.0


@frozen(kw_only=True)
class FanOutSummary:
    """Where a run stands.

    Attributes:
        batches: how many batches are in which state.
        sources: how many sources are in batches of which state; each source counts once.
        is_planned: whether all sources have been cut into batches.
        repeated_source_ids: how many source ids of the plan were left out since they had occurred before.
        elapsed: seconds since this process began to work on the run, until it stopped.
        sources_per_second: how many sources came to an end lately.
        eta: seconds until the rest will have ended at that rate; None while that cannot be told.
    """

    batches: Mapping[BatchState, int]
    sources: Mapping[BatchState, int]
    is_planned: bool
    repeated_source_ids: int
    elapsed: float
    sources_per_second: float
    eta: float | None


class Books:
    """Counts batches and sources by state, and keeps those in trouble.

    Args:
        now: the time.
    """

    def __init__(self, now: float) -> None:
        self._began = now
        self._batches: Counter[BatchState] = Counter()
        self._sources: Counter[BatchState] = Counter()
        self._ends: deque[tuple[float, int]] = deque()
        self.troubled: dict[int, BatchRecord] = {}

    def copy_counts(self, counts: LedgerCounts) -> None:
        """Take the ledger's word for how many there are."""
        self._batches = Counter(dict(counts.batches))
        self._sources = Counter(dict(counts.sources))

    def enter(self, before: BatchState | None, record: BatchRecord, now: float) -> None:
        """Enter a change.

        Args:
            before: the batch's state until now, None if it is new.
            record: the batch as it is now.
            now: the time.
        """
        size = len(record.source_ids)
        if before is not None:
            self._batches[before] -= 1
            self._sources[before] -= size
        self._batches[record.state] += 1
        self._sources[record.state] += size
        if record.state in _ENDED and before not in _ENDED:
            self._note_end(now, size)
        self.keep(record)

    def _note_end(self, now: float, size: int) -> None:
        if self._ends and now - self._ends[-1][0] < _GRAIN:
            began, others = self._ends[-1]
            self._ends[-1] = (began, others + size)
        else:
            self._ends.append((now, size))
            self._forget_old(now)  # here too: perhaps nobody ever asks for a summary

    def _forget_old(self, now: float) -> None:
        while self._ends and self._ends[0][0] < now - _WINDOW:
            self._ends.popleft()

    def keep(self, record: BatchRecord) -> None:
        """Remember a batch if it is in trouble, forget it if it no longer is."""
        if record.state in TROUBLED:
            self.troubled[record.number] = record
        else:
            self.troubled.pop(record.number, None)

    def has_all_troubled(self, counts: LedgerCounts) -> bool:
        """Return whether as many batches are in trouble here as the ledger says."""
        kept = Counter(record.state for record in self.troubled.values())
        return all(kept[state] == counts.batches.get(state, 0) for state in TROUBLED)

    def count(self, *states: BatchState) -> int:
        """Return how many batches are in one of these states."""
        return sum(self._batches[state] for state in states)

    @property
    def open(self) -> int:
        """How many batches have yet to come to an end."""
        return self.count(*_OPEN)

    def failed(self) -> list[BatchRecord]:
        """Return the batches that ended badly, by number."""
        return sorted(
            (record for record in self.troubled.values() if record.state in _FAILED),
            key=lambda record: record.number,
        )

    def unknown(self) -> list[BatchRecord]:
        """Return the batches of which nobody knows whether a job exists, by number."""
        return sorted(
            (record for record in self.troubled.values() if record.state is BatchState.UNKNOWN),
            key=lambda record: record.number,
        )

    def summary(self, now: float, *, is_planned: bool, repeated: int) -> FanOutSummary:
        """Return where the run stands."""
        self._forget_old(now)
        since = max(self._began, now - _WINDOW)
        ended = sum(size for _, size in self._ends)
        rate = ended / (now - since) if now > since else 0.0
        left = sum(self._sources[state] for state in _OPEN)
        # Sources of a batch that was split count in its parts.
        sources = +self._sources
        del sources[BatchState.SPLIT]
        return FanOutSummary(
            batches=MappingProxyType(+self._batches),
            sources=MappingProxyType(sources),
            is_planned=is_planned,
            repeated_source_ids=repeated,
            elapsed=now - self._began,
            sources_per_second=rate,
            eta=left / rate if rate and is_planned else (0.0 if is_planned and not left else None),
        )


class RecordMailbox(Mailbox[BatchRecord]):
    """Changed batches: merged, what was skipped is not told."""

    def _subject(self, news: BatchRecord) -> int:
        return news.number

    def _merged(self, older: BatchRecord, newer: BatchRecord) -> BatchRecord:  # noqa: ARG002
        return newer
