"""The lines of one kind in an archive, and the records in them.

Lines are read and unpacked some hundred at a time, which blocks and is meant for a worker thread. Short ones become
records only when someone wants the next: there is no more than one at a time, and it does not change threads.
"""

from __future__ import annotations

import re
from collections import deque
from contextlib import suppress
from sys import getsizeof
from threading import Lock
from typing import TYPE_CHECKING, BinaryIO, Final, Generic, TypeVar, cast

from attrs import frozen

from annolab_async._archive import Archive, Unpacker
from annolab_async._converter import decode_object, reader_of
from annolab_async.errors import ExportError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence

    from annolab_async._archive import ArchiveLimits
    from annolab_async._zip_directory import Member

__all__ = ["Lines", "RecordReader"]

T = TypeVar("T")

# Who iterates without a pause holds up the event loop for as long as these last.
_BATCH_LINES: Final = 500
_LONG_LINE: Final = 2**16
_WHITESPACE: Final = " \t\r"
_LONGEST_CHAR: Final = 4  # bytes of UTF-8
# One that has no end is taken to the end of the text: else each quote in it would be tried as another's beginning.
_STRING: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?')
_BOM: Final = b"\xef\xbb\xbf"
# What lists, objects, names, other values and strings take up, by the mark that tells of each; a string has two.
_MEMORY_OF: Final = {"[": 80, "{": 240, ":": 70, ",": 40, '"': 40}
_SKIP: Final = "Read with on_bad_line='skip' to go on without such lines."
_RAISE: Final = (
    "If you trust it, raise max_line_bytes and max_line_memory of the export's archive_limits."
)


@frozen
class _Bad:
    """A line that no one need look into: what is wrong with it, and how to mend that."""

    what: str
    hint: str = _SKIP


@frozen
class _Long:
    """A line that takes so long to decode that an event loop should not."""

    text: str


@frozen
class Lines(Generic[T]):
    """Some lines of a file in an archive.

    Attributes:
        file: its name.
        before: how many lines stand before these.
        items: the lines as text; the records of long ones; what is wrong with lines that are no text.
        is_last: whether nothing comes after them.
    """

    file: str
    before: int
    items: Sequence[str | T | _Bad]
    is_last: bool


class RecordReader(Generic[T]):
    """Where the reading of one kind of records stands. Between two batches no file is open.

    Args:
        source: the archive, or its path.
        kind: the class of the records.
        limits: what is read of the archive at most, where it is given by its path.
    """

    def __init__(
        self,
        source: Archive | str | os.PathLike[str],
        kind: type[T],
        *,
        limits: ArchiveLimits | None = None,
    ) -> None:
        self._source = source
        self._kind = kind
        self._structured = reader_of(kind)
        self._limits = limits
        self._archive: Archive | None = None
        self._files: deque[_Lines] = deque()
        self._is_over = False
        self._lock = Lock()

    def read(self) -> Lines[T]:
        """Return the next lines: some 500 at most, and perhaps none, even before the last. It blocks.

        Raises:
            ExportError: the archive is at fault, and not only a line in it.
            OSError: it cannot be read.
        """
        # Asyncio's own cancellation leaves a read to itself: whoever comes next waits for its end.
        with self._lock:
            if self._is_over:
                return Lines("", 0, (), is_last=True)
            self._is_over = True  # unless all goes well
            lines = self._read(self._opened())
            self._is_over = lines.is_last
            return lines

    def records(self, lines: Lines[T], on_fault: Callable[[ExportError], object]) -> Iterator[T]:
        """Yield the records of some lines; it does not block, and decodes each line when its turn comes.

        Records that are used where they were made, one by one, stay in the caches of the processor.

        Args:
            lines: what :meth:`read` returned.
            on_fault: called with the error of each bad line; it may raise it.
        """
        structured = self._structured
        number = lines.before
        for item in lines.items:
            number += 1
            if not item:
                continue
            if type(item) is str:
                try:
                    record = structured(decode_object(item))
                except ValueError as error:
                    if not item.strip(_WHITESPACE):
                        continue
                    bad = _Bad(str(error))
                else:
                    yield record
                    continue
            elif isinstance(item, _Bad):
                bad = item
            else:
                yield cast("T", item)
                continue
            on_fault(ExportError(what=bad.what, hint=bad.hint, file=lines.file, line=number))

    def settle(self) -> None:
        """Wait until nothing is being read, and read nothing from now on."""
        with self._lock:
            self._is_over = True
            self._files.clear()

    def _opened(self) -> Archive:
        if self._archive is None:
            source = self._source
            if not isinstance(source, Archive):
                source = Archive.open(source, limits=self._limits)
            self._archive = source
            self._files.extend(
                _Lines(member, source.limits) for member in source.members(self._kind)
            )
        return self._archive

    def _read(self, archive: Archive) -> Lines[T]:
        lines = self._files[0]
        with archive.reopened() as file:
            some = lines.some(file)
        if lines.is_over:
            self._files.popleft()
        items = [item if isinstance(item, str) else self._made(item) for item in some]
        return Lines(lines.name, lines.number - len(items), items, is_last=not self._files)

    def _made(self, item: _Long | _Bad) -> T | _Bad:
        if isinstance(item, _Bad):
            return item
        try:
            return self._structured(decode_object(item.text))
        except ValueError as error:
            return _Bad(str(error))


class _Lines:
    """The lines of one file in an archive.

    Args:
        member: the file.
        limits: how long its lines are at most.
    """

    def __init__(self, member: Member, limits: ArchiveLimits) -> None:
        self.name = member.name
        self.number = 0
        """How many lines have been handed out."""
        self._limits = limits
        self._unpacker = Unpacker(member)
        self._lines: deque[str | _Long | _Bad] = deque()
        self._begun: list[bytes] = []  # a line whose end has not come yet
        self._begun_length = 0
        self._is_first = True
        self._has_ended = False

    @property
    def is_over(self) -> bool:
        """Whether all lines have been handed out."""
        return self._has_ended and not self._lines

    def some(self, file: BinaryIO) -> list[str | _Long | _Bad]:
        """Return the next lines: 500 at most, and perhaps none, even before the last.

        Raises:
            ExportError: the archive is damaged.
            OSError: it cannot be read.
        """
        if not self._lines and not self._has_ended:
            if data := self._unpacker.read(file):
                self._take(data)
            else:
                self._has_ended = True
                if self._begun_length:
                    self._end(b"")
        count = min(_BATCH_LINES, len(self._lines))
        self.number += count
        return [self._lines.popleft() for _ in range(count)]

    def _take(self, data: bytes) -> None:
        if self._is_first:
            self._is_first = False
            data = data.removeprefix(_BOM)
        head, newline, rest = data.partition(b"\n")
        if newline:
            self._end(head)
            whole, newline, head = rest.rpartition(b"\n")
            if newline:
                self._lines.extend(self._split(whole))
        self._begin(head)

    def _begin(self, part: bytes) -> None:
        self._begun_length += len(part)
        if self._begun_length <= self._limits.max_line_bytes:
            self._begun.append(part)
        else:
            self._begun.clear()  # it is too long already: its length is all that counts

    def _end(self, part: bytes) -> None:
        self._begin(part)
        raw = b"".join(self._begun)
        length = self._begun_length
        self._begun.clear()
        self._begun_length = 0
        self._lines.append(self._line(raw, length))

    def _split(self, whole: bytes) -> Sequence[str | _Long | _Bad]:
        short = min(_LONG_LINE, self._limits.max_line_bytes) // _LONGEST_CHAR
        with suppress(UnicodeDecodeError):
            lines = whole.decode().split("\n")
            if max(map(len, lines)) <= short:
                return lines
        return [self._line(raw, len(raw)) for raw in whole.split(b"\n")]

    def _line(self, raw: bytes, length: int) -> str | _Long | _Bad:
        limits = self._limits
        if length > limits.max_line_bytes:
            return _Bad(f"it is longer than {limits.max_line_bytes:,} bytes", _RAISE)
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            return _Bad("it is no UTF-8")
        if (
            length > _LONG_LINE
            and _memory_of(text, limits.max_line_memory) > limits.max_line_memory
        ):
            return _Bad(f"it holds more than fits into {limits.max_line_memory:,} bytes", _RAISE)
        return _Long(text) if length > _LONG_LINE else text


def _memory_of(text: str, most: int) -> int:
    """Return an estimate of the memory that decoding a line takes; too high a one if it is below ``most``."""
    # As text, and once more as strings.
    memory = 2 * getsizeof(text) + _of_marks(text)
    # Each quote that no backslash stands before begins or ends a string: so many that to look at each would take up
    # as much are too many, whatever else there is.
    quotes = text.count('"') - text.count('\\"')
    if memory > most >= quotes * _MEMORY_OF['"']:
        # Marks inside strings are none.
        memory = 2 * getsizeof(text) + _of_marks(_STRING.sub('""', text))
    return memory


def _of_marks(text: str) -> int:
    return sum(size * text.count(mark) for mark, size in _MEMORY_OF.items())
