"""The part of a file that has come so far, on the disk: locked, resumable, and put in place only when it is whole.

All of this blocks, and is called in a worker thread. Beside ``export.zip`` there are, until it is whole,
``export.zip.part``, and ``export.zip.part.json`` that says what it is a part of. The second is written only once the
first is empty, and describes it from then on: whenever a process dies, the two go together, or nothing is gone on with.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final

from annolab_async._ranges import NOTHING, Held, is_validator
from annolab_async.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

__all__ = ["PartFile"]

_VERSION: Final = 1
_LONGEST_NOTE: Final = 4096
_MOST_TRIES: Final = 10
_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT}
_HINTS: Final = {
    errno.ENOSPC: "Make room there, then download it again: it goes on where it stopped.",
    errno.EDQUOT: "Make room there, then download it again: it goes on where it stopped.",
    errno.EFBIG: "This process or file system takes no files as large as that: choose another place.",
    errno.ENOENT: "Make the directory first.",
    errno.ENOTDIR: "Name a file in a directory.",
    errno.ELOOP: "It is a symbolic link, and may lead elsewhere: remove it, or choose another name.",
}
_HINT: Final = "Choose a place that can be written to."


class PartFile:
    """The part of one file.

    Args:
        path: where the file is to be when it is whole.
        export_id: the export that it is of, for errors.

    Attributes:
        part: where the part is.
    """

    def __init__(self, path: Path, *, export_id: int | None = None) -> None:
        self._path = path
        self.part: Path  # from open() on, as the note beside it
        self._note: Path
        self._export_id = export_id
        self._file = -1
        # Whoever is told to stop closes the file only after a thread that writes to it has written.
        self._lock = Lock()

    def open(self) -> Held:
        """Open the part, or begin one, for nobody else to write to; return what there is of it.

        Raises:
            ExportError: there can be none, or another download is at work on it.
        """
        # Also when the process changes its directory meanwhile.
        self._path = Path(os.path.abspath(self._path))  # noqa: PTH100  # resolve() would follow links
        self.part = (
            self._path.with_name(self._path.name + ".part") if self._path.name else self._path
        )
        self._note = self.part.with_name(self.part.name + ".json")
        with self._lock, self._trouble(self._path):
            for path in (self._path, self.part, self._note):
                self._check_place(path)
        with self._lock, self._trouble(self.part):
            for _ in range(_MOST_TRIES):
                self._file = _open(self.part, os.O_RDWR | os.O_CREAT)
                self._lock_file()
                if self._is_there():
                    return self._held()
                # Another download has just put it in place.
                self._let_go()
            raise self._error(self.part, "others keep replacing it", "Download it elsewhere.")

    def begin(self, held: Held) -> None:
        """Drop what there is, and note what is to come.

        Raises:
            ExportError: it cannot be written.
        """
        with self._lock, self._trouble(self.part):
            if os.fstat(self._file).st_size:
                os.ftruncate(self._file, 0)
                # Before the note: it must not describe the old bytes, not even after a power failure.
                os.fsync(self._file)
            self._write_note(held)

    def note(self, held: Held) -> None:
        """Note what has become known about what is there.

        Raises:
            ExportError: it cannot be written.
        """
        with self._lock, self._trouble(self.part):
            self._write_note(held)

    def write(self, data: Iterable[bytes], at: int) -> None:
        """Write bytes.

        Args:
            data: the bytes.
            at: where in the file the first belongs.

        Raises:
            ExportError: they cannot be written, or not all of them.
        """
        with self._lock, self._trouble(self.part):
            rest = memoryview(b"".join(data))
            os.lseek(self._file, at, os.SEEK_SET)
            while rest:
                rest = rest[os.write(self._file, rest) :]

    def sync(self) -> None:
        """See to it that the bytes are on the disk.

        Raises:
            ExportError: they are not.
        """
        with self._lock, self._trouble(self.part):
            os.fsync(self._file)

    def publish(self) -> None:
        """Put the file in place, of whatever file was there.

        Raises:
            ExportError: that cannot be done. The part stays.
        """
        with self._lock, self._trouble(self._path):
            self._check_place(self._path)
            os.replace(self.part, self._path)  # noqa: PTH105  # all others here are of os, too
            with suppress(FileNotFoundError):
                os.unlink(self._note)  # noqa: PTH108
            self._let_go()
            _sync_directory(self._path.parent)

    def discard(self) -> None:
        """Drop what there is, since it is good for nothing.

        Raises:
            ExportError: that cannot be done.
        """
        with self._lock, self._trouble(self.part):
            os.ftruncate(self._file, 0)
            with suppress(FileNotFoundError):
                os.unlink(self._note)  # noqa: PTH108

    def close(self) -> None:
        """Let go of it, and leave nothing behind if there is nothing of it."""
        # What it would fail with says nothing about a file that is in place: that was synced before.
        with self._lock, suppress(OSError):
            if self._file < 0:
                return
            try:
                if os.fstat(self._file).st_size == 0 and self._is_there():
                    for path in (self._note, self.part):
                        with suppress(FileNotFoundError):
                            os.unlink(path)  # noqa: PTH108
            finally:
                self._let_go()

    def _check_place(self, path: Path) -> None:
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            mode = 0
        if not path.name or stat.S_ISDIR(mode):
            raise self._error(path, "it is a directory", "Name a file in it.")
        if stat.S_ISLNK(mode):
            raise self._error(path, "it is a symbolic link", _HINTS[errno.ELOOP])
        if mode and not stat.S_ISREG(mode):
            raise self._error(path, "there is something else than a file", _HINT)

    def _lock_file(self) -> None:
        import fcntl  # noqa: PLC0415  # not on every system, and only needed here

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._let_go()
            raise self._error(
                self._path,
                "another download writes to it",
                "Wait for that one, or choose another name.",
            ) from None

    def _is_there(self) -> bool:
        try:
            there = os.lstat(self.part)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self._file))

    def _held(self) -> Held:
        received = os.fstat(self._file).st_size
        try:
            note = json.loads(self._read_note())
            version, length, validator = note["version"], note["length"], note["validator"]
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return NOTHING
        is_length = length is None or (type(length) is int and received <= length)
        is_sound = version == _VERSION and is_length
        if not is_sound or not isinstance(validator, str) or not is_validator(validator):
            return NOTHING
        return Held(received, length, validator)

    def _read_note(self) -> bytes:
        file = _open(self._note, os.O_RDONLY)
        try:
            return os.read(file, _LONGEST_NOTE)
        finally:
            os.close(file)

    def _write_note(self, held: Held) -> None:
        note = {"version": _VERSION, "length": held.length, "validator": held.validator}
        file = _open(self._note, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            os.write(file, json.dumps(note).encode())
        finally:
            os.close(file)

    def _let_go(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    @contextmanager
    def _trouble(self, path: Path) -> Generator[None]:
        try:
            yield
        except OSError as fault:
            what = "the disk is full" if fault.errno in _NO_ROOM else "it cannot be written"
            hint = _HINTS.get(fault.errno or 0, _HINT)
            raise self._error(path, f"{what} ({fault.strerror or fault})", hint) from fault

    def _error(self, path: Path, what: str, hint: str) -> ExportError:
        return ExportError(what=what, hint=hint, export_id=self._export_id, file=str(path))


def _open(path: Path, flags: int) -> int:
    # A link that somebody else has laid there is not followed, nor is a pipe waited for.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def _sync_directory(directory: Path) -> None:
    file = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as fault:
        # Some file systems sync no directories; the file is in place all the same.
        if fault.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(file)
