"""Where a disk or a place is not as it should be, there is a typed error, no new file, and the old one as it was."""

from __future__ import annotations

import errno
import os
import resource
import stat
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from annolab_async import ExportError
from annolab_async._part_file import PartFile
from annolab_async._ranges import Held
from tests.faults.chaos import answer, reply
from tests.results.downloads import (
    FILE,
    a_file,
    accept,
    check,
    get,
    good,
    left_in,
    put,
    ranges,
    refused,
    remove,
    serve,
    there,
)

if TYPE_CHECKING:
    from collections.abc import Generator

pytestmark = [pytest.mark.anyio, pytest.mark.sockets]

BIG: Final = a_file(3 * 2**20)


@contextmanager
def no_file_longer_than(size: int) -> Generator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


async def test_a_file_that_finds_no_room_leaves_what_was_there_and_is_gone_on_with(
    path: Path,
) -> None:
    put(path, b"an older one")
    with serve(good(BIG)) as server:
        with no_file_longer_than(2 * 2**20 + 5):
            error = await refused(server, path)
        assert "File too large" in str(error)
        assert error.file == f"{path}.part"
        assert server.heads == 1
        await get(server, path)
    assert there(path) == BIG
    assert ranges(server) == [None, 2 * 2**20 + 4]  # what fitted was kept


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EIO, "Input/output error"),
        (errno.EROFS, "Read-only"),
    ],
)
@pytest.mark.parametrize("function", ["open", "write", "ftruncate", "fsync", "replace"])
async def test_a_system_that_refuses_is_told_about(
    path: Path, monkeypatch: pytest.MonkeyPatch, function: str, number: int, words: str
) -> None:
    put(path, b"an older one")
    put(path.with_name("export.zip.part"), b"?")

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with serve(good()) as server:
        with monkeypatch.context() as patch:
            patch.setattr(f"annolab_async._part_file.os.{function}", fail)
            error = await refused(server, path)
        assert words in str(error)
        assert isinstance(error.__cause__, OSError)
        assert ("Make room" in error.hint) == (number in {errno.ENOSPC, errno.EDQUOT})
        await get(server, path)
    assert there(path) == FILE


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "Make room there, then download it again: it goes on where it stopped."),
        (errno.EDQUOT, "Make room there, then download it again: it goes on where it stopped."),
        (errno.EFBIG, "This process or file system takes no files as large as that"),
        (errno.ENOENT, "Make the directory first."),
        (errno.ENOTDIR, "Name a file in a directory."),
        (errno.ELOOP, "It is a symbolic link, and may lead elsewhere"),
        (errno.EIO, "Choose a place that can be written to."),
        (None, "Choose a place that can be written to."),
    ],
)
def test_each_trouble_has_its_hint(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None, hint: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError("odd") if number is None else OSError(number, "odd")

    monkeypatch.setattr("annolab_async._part_file.os.open", fail)
    with pytest.raises(ExportError, match=r"\(odd\)") as caught:
        PartFile(path, export_id=7).open()
    assert caught.value.hint.startswith(hint)
    assert caught.value.export_id == 7


def test_a_file_has_the_permissions_of_any_that_is_made(path: Path) -> None:
    before = os.umask(0o027)
    try:
        part = PartFile(path)
        part.open()
        part.begin(Held(0, 3, '"a"'))
        part.write([b"abc"], 0)
        note = path.with_name("export.zip.part.json").stat().st_mode
        part.publish()
        part.close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(note) == 0o640


def test_a_part_whose_descriptor_is_0_is_let_go_of(path: Path) -> None:
    """As it is in a process that was begun without any standard input."""
    part, before = PartFile(path), os.dup(0)
    os.close(0)
    try:
        part.open()
        assert os.fstat(0).st_ino == path.with_name("export.zip.part").stat().st_ino
        part.close()
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(0)
        assert not left_in(path.parent)
    finally:
        os.dup2(before, 0)
        os.close(before)


@pytest.mark.parametrize(("length", "is_read"), [(4096, True), (4097, False)])
def test_a_note_is_no_longer_than_those_that_are_written(
    path: Path, length: int, *, is_read: bool
) -> None:
    note = '{"version": 1, "length": 3, "validator": "\\"a\\""}'
    path.with_name("export.zip.part").write_bytes(b"abc")
    path.with_name("export.zip.part.json").write_text(note.rjust(length))
    part = PartFile(path)
    assert part.open() == (Held(3, 3, '"a"') if is_read else Held(0))
    part.close()


@pytest.mark.parametrize(
    ("number", "is_trouble"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)]
)
async def test_a_directory_of_a_system_that_syncs_none_is_no_trouble(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int, *, is_trouble: bool
) -> None:
    sync = os.fsync

    def fail(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(number, "not for directories")
        sync(file)

    monkeypatch.setattr(os, "fsync", fail)
    with serve(good()) as server:
        if is_trouble:
            with pytest.raises(ExportError, match="not for directories"):
                await get(server, path)
        else:
            await get(server, path)
    assert there(path) == FILE, "it is in place all the same"


async def test_what_is_put_in_place_is_on_the_disk_and_so_is_its_name(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = list[tuple[str, int]]()
    sync, replace = os.fsync, os.replace

    def note_sync(file: int) -> None:
        is_directory = stat.S_ISDIR(os.fstat(file).st_mode)
        done.append(("name", 0) if is_directory else ("file", os.fstat(file).st_size))
        sync(file)

    def note_replace(*paths: Any) -> None:
        done.append(("in place", 0))
        replace(*paths)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    with serve(good()) as server:
        await get(server, path)
    assert done == [("file", len(FILE)), ("in place", 0), ("name", 0)]


def test_old_bytes_are_gone_from_the_disk_before_a_note_says_what_is_to_come(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(path.with_name("export.zip.part"), b"old bytes")
    put(note := path.with_name("export.zip.part.json"), b"an old note")
    real, synced = os.fsync, list[tuple[int, bytes | None]]()

    def sync(file: int) -> None:
        synced.append((os.fstat(file).st_size, there(note)))
        real(file)

    monkeypatch.setattr("annolab_async._part_file.os.fsync", sync)
    part = PartFile(path)
    part.open()
    part.begin(Held(0, 3, '"new"'))
    part.close()
    assert synced == [(0, b"an old note")]


def test_a_note_that_somebody_has_removed_is_missed_by_nobody(path: Path) -> None:
    note = path.with_name("export.zip.part.json")
    for end in ("publish", "discard", "close"):
        part = PartFile(path)
        part.open()
        part.begin(Held(0, 3, '"a"'))
        if end != "close":
            part.write([b"abc"], 0)
        remove(note)
        getattr(part, end)()
        part.close()
        assert left_in(path.parent) == ["export.zip"], end


def test_what_a_system_writes_only_in_part_is_written_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write

    def write_little(file: int, data: memoryview) -> int:
        return real(file, data[:2])

    part = PartFile(path)
    part.open()
    part.write([b"01", b"2?"], 0)
    with monkeypatch.context() as patch:
        patch.setattr("annolab_async._part_file.os.write", write_little)
        part.write([b"345", b"6", b"789"], 3)
    part.close()
    assert there(path.with_name("export.zip.part")) == b"0123456789"


def test_who_has_nothing_leaves_the_part_of_another_alone(path: Path) -> None:
    mine, yours = PartFile(path), PartFile(path)
    mine.open()
    remove(path.with_name("export.zip.part"))
    yours.open()
    yours.begin(Held(0, 3, '"a"'))
    mine.close()
    assert left_in(path.parent) == ["export.zip.part", "export.zip.part.json"]
    yours.close()
    assert not left_in(path.parent)


def a_directory(path: Path) -> None:
    path.mkdir()


def a_link(path: Path) -> None:
    path.with_name("other").write_bytes(b"kept")
    path.symlink_to("other")


def a_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


PLACES: Final = [a_directory, a_link, a_dangling_link, a_pipe]


@pytest.mark.parametrize("name", ["export.zip", "export.zip.part", "export.zip.part.json"])
@pytest.mark.parametrize("occupy", PLACES)
async def test_something_else_in_a_files_place_is_left_alone(
    path: Path, name: str, occupy: Any
) -> None:
    occupy(path.with_name(name))
    before = left_in(path.parent)
    with serve(good()) as server, pytest.raises(ExportError) as caught:
        await get(server, path)
    assert str(path) in (caught.value.file or "")
    assert server.accepted == 0
    assert left_in(path.parent) == before
    if occupy is a_link:
        assert there(path.with_name("other")) == b"kept"


@pytest.mark.parametrize("where", ["missing/export.zip", "file/export.zip", ".", "", "a" * 300])
async def test_a_place_that_is_none_is_refused_before_anything_is_asked(
    path: Path, where: str
) -> None:
    put(path.with_name("file"), b"")
    with serve(good()) as server:
        await refused_anywhere(server, path.with_name("x").parent / where)
    assert server.accepted == 0


async def refused_anywhere(server: Any, path: Path) -> None:
    with pytest.raises(ExportError):
        await get(server, path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
async def test_a_directory_that_is_read_only_is_refused(path: Path) -> None:
    path.parent.chmod(0o500)
    with serve(good()) as server:
        error = await refused(server, path)
    assert "Permission denied" in str(error)
    assert server.accepted == 0


async def test_a_place_that_is_taken_while_the_file_comes_is_left_alone(path: Path) -> None:
    def take_it(part: Path) -> None:
        check(part)
        path.mkdir()

    with serve(good()) as server, pytest.raises(ExportError, match="is a directory"):
        await get(server, path, check=take_it)
    assert left_in(path.parent) == ["export.zip", "export.zip.part", "export.zip.part.json"]


def count_open(path: Path) -> int:
    """Return how many descriptors this process has of a file."""
    count = 0
    for number in os.listdir("/dev/fd"):  # noqa: PTH208  # the listing's own is closed by then
        with suppress(OSError):
            count += os.path.samestat(os.fstat(int(number)), path.stat())
    return count


async def test_only_one_download_at_a_time_writes_to_a_path(path: Path) -> None:
    inside = threading.Event()

    def check_while_another_tries(part: Path) -> None:
        inside.set()
        files = count_open(part)
        # By another way to the same file, too.
        for way in (path, path.parent / "." / path.name):
            with pytest.raises(ExportError, match="another download writes to it"):
                PartFile(way).open()
        assert count_open(part) == files
        check(part)

    with serve(good()) as server:
        await get(server, path, check=check_while_another_tries)
    assert inside.is_set()
    assert there(path) == FILE
    assert left_in(path.parent) == ["export.zip"]


def test_a_part_that_was_put_in_place_in_the_very_moment_is_not_written_to(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, opened = os.open, list[Any]()

    def open_late(name: Any, *rest: Any) -> int:
        file = real(name, *rest)
        if not opened:
            path.with_name("export.zip.part").rename(path)
        opened.append(name)
        return file

    monkeypatch.setattr("annolab_async._part_file.os.open", open_late)
    part = PartFile(path)
    part.open()
    part.write([b"new"], 0)
    part.close()
    assert path.read_bytes() == b""
    assert path.with_name("export.zip.part").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["export.zip.part", "export.zip.part.json"])
def test_a_link_that_is_laid_in_the_last_moment_is_not_followed(
    path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    real, other = os.open, path.with_name("other")
    other.write_bytes(b"kept")

    def lay_link(place: Any, *rest: Any) -> int:
        if Path(place).name == name and not Path(place).exists():
            Path(place).symlink_to(other)
        return real(place, *rest)

    monkeypatch.setattr("annolab_async._part_file.os.open", lay_link)
    part = PartFile(path)
    with pytest.raises(ExportError, match="symbolic link"):  # noqa: PT012  # either may raise
        part.open()
        part.begin(Held(0))
    part.close()
    assert other.read_bytes() == b"kept"


def test_a_part_that_others_replace_for_ever_is_given_up(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, opened = os.open, list[int]()

    def open_late(name: Any, *rest: Any) -> int:
        opened.append(real(name, *rest))
        Path(name).unlink()
        return opened[-1]

    monkeypatch.setattr("annolab_async._part_file.os.open", open_late)
    with pytest.raises(ExportError, match="others keep replacing it"):
        PartFile(path).open()
    assert len(opened) == 10
    for file in opened:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(file)


def test_nothing_is_written_once_a_part_is_closed(path: Path) -> None:
    part = PartFile(path)
    part.open()
    part.begin(Held(0, 3, '"a"'))
    part.write([b"abc"], 0)
    part.close()
    part.close()
    with pytest.raises(ExportError):
        part.write([b"xyz"], 0)
    assert path.with_name("export.zip.part").read_bytes() == b"abc"


def test_what_a_note_says_of_other_bytes_is_not_believed(path: Path) -> None:
    note = '{"version": %d, "length": %s, "validator": %s}'
    path.with_name("export.zip.part").write_bytes(b"abc")
    for version, length, validator in [
        (2, "3", '"\\"a\\""'),
        (1, "2", '"\\"a\\""'),
        (1, "true", '"\\"a\\""'),
        (1, '"3"', '"\\"a\\""'),
        (1, "3", "null"),
        (1, "3", '"W/\\"a\\""'),
        (1, "3", '"\\"a\\"\\r\\nX: y"'),
        (1, "3", '"yesterday"'),
    ]:
        text = note % (version, length, validator)
        path.with_name("export.zip.part.json").write_text(text)
        part = PartFile(path)
        assert part.open() == Held(0), text
        part.close()
    path.with_name("export.zip.part.json").write_text(note % (1, "3", '"\\"a\\""'))
    part = PartFile(path)
    assert part.open() == Held(3, 3, '"a"')
    part.close()


async def test_a_relative_path_stays_the_same_when_the_process_goes_elsewhere(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)

    def go_away(_: Path) -> None:
        os.chdir("/")

    with serve(good()) as server:
        await get(server, Path("export.zip"), check=go_away)
    assert there(path) == FILE


async def test_a_file_that_cannot_be_read_back_is_told_about(path: Path) -> None:
    def fail(_: Path) -> None:
        raise OSError(errno.EIO, "broken")

    with serve(lambda _: answer(reply(FILE))) as server:
        error = await refused(server, path, check=fail)
        assert "cannot be read (broken)" in str(error)
        await get(server, path, check=accept)
    assert there(path) == FILE
