"""What all ledgers do alike with plans: take them in chunks, and refuse one that is not the run's. Pure."""

from __future__ import annotations

from collections.abc import AsyncIterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from anyio.lowlevel import checkpoint

from annolab_async.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Sequence

__all__ = ["SENDER_IS_GONE", "chunks", "other_plan", "other_sources", "too_few"]

SENDER_IS_GONE: Final = "Its sender is gone, and may or may not have sent it."

# Large enough that a chunk's commit does not count, small enough that others get their turn.
_BATCHES_AT_ONCE: Final = 250
_SOURCES_AT_ONCE: Final = 25_000


async def chunks(
    batches: Iterable[Sequence[int]] | AsyncIterable[Sequence[int]], *, first: int
) -> AsyncGenerator[tuple[int, list[tuple[int, ...]]]]:
    """Yield the batches of a plan, some at a time, each time with the number of the first of them.

    Args:
        batches: the batches, or the last of them.
        first: the number of the first of these.

    Raises:
        ValueError: a batch is empty or holds what is no id.
    """
    chunk, sources = list[tuple[int, ...]](), 0
    # What comes over time is not kept waiting for what comes later.
    at_once = 1 if isinstance(batches, AsyncIterable) else _BATCHES_AT_ONCE
    async with aclosing(_stream(batches)) as stream:
        async for batch in stream:
            source_ids = tuple(batch)
            if {*map(type, source_ids)} != {int} or min(source_ids) < 1:
                raise ValueError(
                    f"Batch {first + len(chunk)} of the plan is empty or holds what is no id (an integer from 1 up)"
                )
            chunk.append(source_ids)
            sources += len(source_ids)
            if len(chunk) == at_once or sources >= _SOURCES_AT_ONCE:
                yield first, chunk
                first, chunk, sources = first + len(chunk), [], 0
    if chunk:
        yield first, chunk


async def _stream(
    batches: Iterable[Sequence[int]] | AsyncIterable[Sequence[int]],
) -> AsyncGenerator[Sequence[int]]:
    if isinstance(batches, AsyncIterable):
        async for batch in batches:
            yield batch
        return
    for count, batch in enumerate(batches):
        if count % _BATCHES_AT_ONCE == 0:
            await checkpoint()
        yield batch


def other_plan(where: str, run: str) -> LedgerError:
    """Return the refusal of a plan that is not the run's."""
    return LedgerError(
        where=where,
        what=f"run {run!r} was begun with another plan",
        hint='Go on with the plan that it was begun with, or begin a new run: run="another name".',
    )


def other_sources(where: str, run: str, number: int) -> LedgerError:
    """Return the refusal of a plan in which a batch is not the one that was written down."""
    return LedgerError(
        where=where,
        what=f"batch {number} of run {run!r} was written down with other sources than the plan has now",
        hint='Give the sources in the order of the first time, or begin a new run: run="another name".',
    )


def too_few(where: str, run: str, *, here: int, given: int) -> LedgerError:
    """Return the refusal of a plan that ends too soon."""
    return LedgerError(
        where=where,
        what=f"run {run!r} has {here} batches, but the plan only {given}",
        hint='Give all sources of the first time, or begin a new run: run="another name".',
    )
