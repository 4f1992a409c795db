"""The records of an export's file, one after the other, without blocking the event loop."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final, Literal, TypedDict, TypeVar

from anyio import CancelScope, get_cancelled_exc_class, to_thread

from annolab_async._json_lines import RecordReader

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
    from types import TracebackType

    from annolab_async._archive import Archive, ArchiveLimits
    from annolab_async.errors import ExportError

__all__ = ["OnBadLine", "ReadingOptions", "Records", "read_records"]

T = TypeVar("T")
S = TypeVar("S")

OnBadLine = Literal["raise", "skip"]


class ReadingOptions(TypedDict, total=False):
    """How to read records; see :func:`read_records`."""

    on_bad_line: OnBadLine
    on_skipped: Callable[[ExportError], None] | None


_LOGGER: Final = logging.getLogger("annolab_async")


class Records(AsyncIterator[T]):
    """Records as they come out of a file; see :func:`read_records`.

    A worker thread reads some lines at a time, and only when those before have been used up. In between neither thread
    nor file is held: leaving the loop early, by whatever way, leaves nothing behind. One task at a time may iterate.

    Args:
        readers: return what reads the files, one after the other, each called when it is needed.
        on_skipped: called with the error of each line that is skipped.
        is_strict: whether bad lines are raised, and not skipped.

    Attributes:
        skipped: how many bad lines have been skipped.
    """

    def __init__(
        self,
        readers: Iterable[Callable[[], Awaitable[RecordReader[T]]]],
        *,
        on_skipped: Callable[[ExportError], None] | None,
        is_strict: bool,
    ) -> None:
        self.skipped: int = 0
        self._readers = deque(readers)
        self._reader: RecordReader[T] | None = None
        self._on_skipped = on_skipped
        self._is_strict = is_strict
        self._batch: Iterator[T] = iter(())
        self._is_over = False
        self._is_reading = False

    @staticmethod
    def of(several: Sequence[Records[S]]) -> Records[S]:
        """Return several as one: one after the other, read as the first would be."""
        first = several[0]
        return Records(
            [reader for records in several for reader in records._readers],  # noqa: SLF001
            on_skipped=first._on_skipped,  # noqa: SLF001
            is_strict=first._is_strict,  # noqa: SLF001
        )

    def __aiter__(self) -> Records[T]:
        return self

    async def __anext__(self) -> T:
        for record in self._batch:
            return record
        return await self._next()

    async def __aenter__(self) -> Records[T]:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the iteration; a batch that is being read is read to its end."""
        self._is_over = True
        self._batch = iter(())
        if self._reader is not None:
            with CancelScope(shield=True):
                await to_thread.run_sync(self._reader.settle)

    async def _next(self) -> T:
        if self._is_reading:
            # Each would drop what the other has read.
            raise RuntimeError("two tasks iterate over the same records: let one, and hand them on")
        self._is_reading = True
        try:
            while not self._is_over:
                if self._reader is None:
                    self._reader = await self._readers[0]()
                    continue  # meanwhile they may have been closed
                self._batch = await self._read(self._reader)
                for record in self._batch:
                    return record
        finally:
            self._is_reading = False
        raise StopAsyncIteration

    async def _read(self, reader: RecordReader[T]) -> Iterator[T]:
        try:
            lines = await in_thread(reader.read, reader.settle)
        except BaseException:
            # What comes after would be taken for all that there is.
            self._is_over = True
            raise
        if lines.is_last:
            self._reader = None
            self._readers.popleft()
            self._is_over = self._is_over or not self._readers
        return reader.records(lines, self._note)

    def _note(self, fault: ExportError) -> None:
        is_over, self._is_over = (
            self._is_over,
            True,
        )  # whatever is raised from here ends the iteration
        if self._is_strict:
            raise fault
        if not self.skipped:
            _LOGGER.warning("skipped a bad line; further ones are only counted: %s", fault)
        self.skipped += 1
        if self._on_skipped is not None:
            self._on_skipped(fault)
        self._is_over = is_over


async def in_thread(function: Callable[[], T], settle: Callable[[], None]) -> T:
    """Have a worker thread do something, and leave no thread at it, by whatever way this ends.

    Args:
        function: what to do; it does not take long.
        settle: waits until the function has ended.
    """
    try:
        return await to_thread.run_sync(function)
    except get_cancelled_exc_class():
        # Asyncio's own cancellation, unlike anyio's, does not wait for the thread.
        with CancelScope(shield=True):
            await to_thread.run_sync(settle)
        raise


def read_records(
    source: Archive | str | os.PathLike[str],
    kind: type[T],
    *,
    on_bad_line: OnBadLine = "raise",
    on_skipped: Callable[[ExportError], None] | None = None,
    limits: ArchiveLimits | None = None,
) -> Records[T]:
    """Iterate over the records of one kind in an export's file, without blocking the event loop.

    Files are recognised by their names, such as ``*.annotations.jsonl``, in any directory; where there are several of
    a kind, they are read one after the other in the order of their names. The file is read as the iteration goes on,
    in some MB of memory however large it is. A field that the library does not know goes to the record's ``extra``,
    and so does an optional one of a wrong type, which is then None itself.

    Args:
        source: the file that was downloaded, or an :class:`Archive` of it.
        kind: the class of the records, such as :class:`Annotation`.
        on_bad_line: what to do about a line that is no JSON object, says a field twice, holds NaN, is nested too
            deeply or too long, or whose required fields are missing or of a wrong type: raise an ExportError that
            has its file and number, or skip it. The first one that is skipped is logged.
        on_skipped: called with the ExportError of each line that is skipped.
        limits: what is read at most, the default ones if None; an :class:`Archive` has its own.

    Returns:
        An iterator that nobody has to close.

    Raises:
        ValueError: an argument is wrong. While iterating, ExportError: the file cannot be trusted, is damaged, or
            has nothing of the kind; OSError: it cannot be read.
    """
    if on_bad_line not in {"raise", "skip"}:
        raise ValueError(f"on_bad_line is {on_bad_line!r}, neither 'raise' nor 'skip'")
    is_strict = on_bad_line == "raise"
    reader = RecordReader(source, kind, limits=limits)

    async def begin() -> RecordReader[T]:
        return reader

    return Records([begin], on_skipped=on_skipped, is_strict=is_strict)
