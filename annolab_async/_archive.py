"""The zip file of an export: what it holds, by kind, and its bytes. Nothing of it is ever unpacked to disk.

All here blocks, and is meant for a worker thread. Between two reads no file is open, so that nobody has to close one.
"""

from __future__ import annotations

import os
import re
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, NoReturn

from annolab_async._annotations import (
    Annotation,
    AnnotationLayer,
    AnnotationRelation,
    AnnotationType,
    ExportedSource,
    TextBounds,
)
from annolab_async._zip_directory import (
    DAMAGED,
    HOSTILE,
    ArchiveLimits,
    Member,
    read_directory,
    refuse,
)
from annolab_async.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["Archive", "ArchiveLimits", "Unpacker", "check_archive"]

_KINDS: Final[dict[type, str]] = {
    Annotation: "annotations",
    ExportedSource: "sources",
    TextBounds: "text-bounds",
    AnnotationLayer: "layers",
    AnnotationRelation: "relations",
    AnnotationType: "atntypes",
}
# What must be asked for when the export is made.
_ASKED_FOR: Final[dict[type, str]] = {
    ExportedSource: "include_sources=True",
    TextBounds: "include_text_bounds=True",
    AnnotationType: "include_annotation_types=True",
}
_NAME: Final = re.compile(
    r"(?:^|[./\\])(annotations|sources|text-bounds|layers|relations|atntypes)\.jsonl$",
    re.IGNORECASE,
)
# Packed or not.
_CHUNK: Final = 2**17


class Archive:
    """An export's zip file, looked through once and found to hold together; see :meth:`open`.

    Attributes:
        path: the file.
        limits: what is read of it at most.
        unknown_entries: names of the files in it that hold no records, such as sources' own files.
    """

    def __init__(
        self, path: Path, limits: ArchiveLimits, members: list[Member], identity: tuple[int, ...]
    ) -> None:
        self.path = path
        self.limits = limits
        self._members = [member for member in members if not member.is_directory]
        self._by_kind: dict[str, list[Member]] = {}
        self._identity = identity
        unknown = list[str]()
        for member in self._members:
            if match := _NAME.search(member.name):
                self._by_kind.setdefault(match[1].lower(), []).append(member)
            else:
                unknown.append(member.name)
        self.unknown_entries = tuple(sorted(unknown))

    def __repr__(self) -> str:
        return f"Archive({str(self.path)!r})"

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, limits: ArchiveLimits | None = None) -> Archive:
        """Look through an archive: its directory and the headers of its files, not what is in them.

        Args:
            path: the file.
            limits: what it may hold, the default ones if None.

        Raises:
            ExportError: it cannot be trusted, holds more than the limits allow, or is no whole zip file.
            OSError: it cannot be read.
        """
        limits = limits or ArchiveLimits()
        with Path(path).open("rb") as file:
            members = read_directory(file, str(path), limits)
            return cls(Path(path), limits, members, _identity(file))

    @property
    def entries(self) -> tuple[str, ...]:
        """The names of all files in it."""
        return tuple(member.name for member in self._members)

    def holds(self, kind: type) -> bool:
        """Return whether it has a file for a kind of records."""
        return _KINDS[kind] in self._by_kind

    def members(self, kind: type) -> list[Member]:
        """Return the files that hold a kind of records.

        Raises:
            ExportError: there is none.
        """
        if kind not in _KINDS:
            raise ValueError(f"{kind!r} is no kind of record that an export holds")
        if found := self._by_kind.get(_KINDS[kind]):
            return sorted(found, key=lambda member: member.name)
        asked_for = _ASKED_FOR.get(kind)
        hint = f"Export with {asked_for}." if asked_for else "It may be the file of something else."
        raise ExportError(
            what=f"it holds no *.{_KINDS[kind]}.jsonl", hint=hint, file=str(self.path)
        )

    @contextmanager
    def reopened(self) -> Generator[BinaryIO]:
        """Open the file for a moment.

        Raises:
            ExportError: it is no longer the one that was looked through.
            OSError: it cannot be read.
        """
        with self.path.open("rb", buffering=0) as file:
            if _identity(file) != self._identity:
                refuse(
                    "it was changed while it was read",
                    "Read it from the start.",
                    file=str(self.path),
                )
            yield file

    def check(self, *, on_chunk: Callable[[], object] | None = None) -> None:
        """Unpack all of it, keeping nothing, and compare sizes and checksums.

        Args:
            on_chunk: called again and again, to raise where the check is to be given up.

        Raises:
            ExportError: something in it is damaged.
        """
        with self.reopened() as file:
            for member in self._members:
                unpacker = Unpacker(member)
                while unpacker.read(file):
                    if on_chunk is not None:
                        on_chunk()


def check_archive(
    path: str | os.PathLike[str],
    *,
    limits: ArchiveLimits | None = None,
    on_chunk: Callable[[], object] | None = None,
) -> Archive:
    """Check all of an archive that was downloaded: how it hangs together, and each file's size and checksum.

    It blocks, a second for some 200 MB; call it in a worker thread, with ``anyio.from_thread.check_cancelled`` as
    ``on_chunk``.

    Args:
        path: the file.
        limits: what it may hold, the default ones if None.
        on_chunk: called again and again, to raise where the check is to be given up.

    Raises:
        ExportError: it cannot be trusted, is damaged, or holds more than the limits allow.
        OSError: it cannot be read.
    """
    archive = Archive.open(path, limits=limits)
    archive.check(on_chunk=on_chunk)
    return archive


class Unpacker:
    """Where the reading of one file in an archive stands.

    Args:
        member: the file.
    """

    def __init__(self, member: Member) -> None:
        self._member = member
        self._at = member.begins
        self._left = member.packed_size
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS) if member.is_deflated else None
        self._waiting = b""
        self._size = 0
        self._crc = 0

    def read(self, file: BinaryIO) -> bytes:
        """Return what comes next, at most 128 KiB; nothing at the end, when all of it has been found to be sound.

        Raises:
            ExportError: the file is damaged, or not as long as the archive says.
        """
        data = self._next(file)
        self._size += len(data)
        if self._size > self._member.size:
            self._refuse("it unfolds to more than the archive says")
        self._crc = zlib.crc32(data, self._crc)
        if not data:
            if self._size != self._member.size:
                self._refuse("it ends too early", DAMAGED)
            if self._crc != self._member.crc:
                self._refuse("its checksum is wrong", DAMAGED)
        return data

    def _next(self, file: BinaryIO) -> bytes:
        if self._inflater is None:
            return self._packed(file)
        while not self._inflater.eof:
            packed = self._waiting or self._packed(file)
            try:
                data = self._inflater.decompress(packed, _CHUNK)
            except zlib.error:
                self._refuse("it is damaged", DAMAGED)
            self._waiting = self._inflater.unconsumed_tail
            if data:
                return data
            if not packed and not self._inflater.eof:
                self._refuse("it ends too early", DAMAGED)
        if self._left or self._inflater.unused_data:
            self._refuse("something stands behind its end")
        return b""

    def _packed(self, file: BinaryIO) -> bytes:
        file.seek(self._at)
        data = file.read(min(_CHUNK, self._left))
        if self._left and not data:
            self._refuse("the archive ends in the middle of it", DAMAGED)
        self._at += len(data)
        self._left -= len(data)
        return data

    def _refuse(self, what: str, hint: str = HOSTILE) -> NoReturn:
        refuse(what, hint, file=self._member.name)


def _identity(file: BinaryIO) -> tuple[int, ...]:
    about = os.fstat(file.fileno())
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns
