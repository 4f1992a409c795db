"""Archives are hostile until shown otherwise."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

import pytest

from annolab_async import (
    Annotation,
    AnnotationLayer,
    AnnotationRelation,
    AnnotationType,
    ExportedSource,
    ExportError,
    TextBounds,
)
from annolab_async._archive import Archive, ArchiveLimits, Unpacker, check_archive
from tests.results.zips import LINE, NAME, File, archive, deflated, end_64, file, lines, written

if TYPE_CHECKING:
    from collections.abc import Callable

MIB: Final = 2**20
MOST_GROWTH: Final = 64 * MIB


def spaces(size: int) -> bytes:
    """Return packed spaces: made in no time, since the blocks repeat themselves."""
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(b" " * MIB) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * (size // MIB) + b"\x03\x00"


def a_bomb(**lies: object) -> bytes:
    size = 4096 * MIB - MIB
    return archive(File(packed=spaces(size), size=size, crc=0, **lies))  # type: ignore[arg-type]


def many(count: int) -> bytes:
    return archive(*[file(b"", f"{number}.pdf") for number in range(count)])


def long_names() -> bytes:
    return archive(*[
        File(name=b"%d" % number + b"\xc4" * 65_000, packed=b"", size=0, crc=0)
        for number in range(400)
    ])


def a_million() -> bytes:
    one = File(name=b"x.pdf", packed=b"", size=0, crc=0, method=0)
    entry = one.entry(0)
    count, head = 10**6, one.header()
    at = len(head) + count * len(entry)
    ends = end_64(count, len(entry) * count, len(head), at=at)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    return head + entry * count + ends + end


def a_million_said_to_be_one() -> bytes:
    one = File(name=b"x.pdf", packed=b"", size=0, crc=0, method=0)
    return archive(
        one, before_end=one.entry(0) * 10**6, length=10**6 * len(one.entry(0)) + len(one.entry(0))
    )


def overlapping() -> bytes:
    """Return two files in the directory that are one in the archive, under its one header."""
    return archive(File(), File(name=b"other.annotations.jsonl", at=0))


def nested() -> bytes:
    """Return a file whose packed bytes hold another's header and bytes, the heart of a quine bomb."""
    inner = File(name=b"b.annotations.jsonl")
    inside = inner.header() + inner.packed
    outer = File(
        name=b"a.annotations.jsonl",
        packed=inside,
        size=len(inside),
        crc=zlib.crc32(inside),
        method=0,
    )
    entries = outer.entry(0) + inner.entry(len(outer.header()))
    body = outer.header() + inside
    return (
        body + entries + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2, 2, len(entries), len(body), 0)
    )


def behind_a_chunk() -> bytes:
    """Return a file behind whose stream, of just the 128 KiB that are read at once, something stands."""
    data = b" " * (2**16 - 5)
    blocks = [struct.pack("<BHH", is_last, len(data), len(data) ^ 0xFFFF) for is_last in (0, 1)]
    return archive(file(2 * data, packed=blocks[0] + data + blocks[1] + data + b"more"))


def two_ends() -> bytes:
    """Return an archive whose comment is the end of another archive: readers differ on which one they read."""
    other = archive(file(LINE, "evil.annotations.jsonl"))
    whole = archive(file(LINE))
    at = len(whole) - 22
    return whole[: at + 20] + struct.pack("<H", len(other)) + other


def with_64(told: int, **lies: int) -> bytes:
    """Return an archive with an end in 64 bits that says so many files."""
    body, entry = File().header() + File().packed, File().entry(0)
    ends = end_64(
        told,
        len(entry),
        len(body),
        at=lies.get("at", len(body) + len(entry)),
        size=lies.get("size", 44),
    )
    end = struct.pack(
        "<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(entry), lies.get("offset", 2**32 - 1), 0
    )
    return body + entry + ends + end


def cut_end_64() -> bytes:
    """Return an archive whose end in 64 bits begins so late that the rest of the file is shorter than one."""
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, 0, 1)
    whole = archive(File(), before_end=locator, comment=b"PK\6\6")
    return whole.replace(locator, struct.pack("<4sLQL", b"PK\6\7", 0, len(whole) - 4, 1))


def cut_entry() -> bytes:
    """Return an archive whose second entry begins in the last four bytes of the file."""
    one, filling, comment = File(), b"x" * 25, b"PK\1\2"
    size = len(one.entry(0)) + len(filling)
    whole = archive(one, before_end=filling, comment=comment, count=2, length=size)
    at = whole.index(b"PK\1\2") + 32
    return whole[:at] + struct.pack("<H", len(filling) + 22) + whole[at + 2 :]


def with_byte(data: bytes, at: int, to: int) -> bytes:
    """Return an archive of which one byte, counted from its end, is another."""
    assert data[at] != to
    return data[:at] + bytes([to]) + data[at + 1 :]


def named(name: str) -> bytes:
    return archive(file(LINE, name, flags=1 << 11))


WHOLE: Final = archive(File())
# The first and the last of each kind: controls, line ends, and what turns the letters around it about.
UNFIT: Final = "\x1f\x7f\x9f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
HOSTILE: Final[dict[str, tuple[Callable[[], bytes], str]]] = {
    "traversal": (lambda: archive(file(LINE, "../../evil.annotations.jsonl")), "leads out"),
    "traversal inside": (lambda: archive(file(LINE, "a/../../e.annotations.jsonl")), "leads out"),
    "traversal, backslashes": (lambda: archive(file(LINE, "a\\..\\..\\e.jsonl")), "leads out"),
    "absolute": (lambda: archive(file(LINE, "/etc/x.annotations.jsonl")), "leads out"),
    "a drive": (lambda: archive(file(LINE, "C:\\x.annotations.jsonl")), "leads out"),
    "a network drive": (lambda: archive(file(LINE, "\\\\host\\x.annotations.jsonl")), "leads out"),
    "NUL in the name": (lambda: archive(file(LINE, "x\0.annotations.jsonl")), "cannot be shown"),
    "an escape in the name": (lambda: archive(file(LINE, "\x1b[2J.jsonl")), "cannot be shown"),
    **{
        f"U+{ord(char):04X} in the name": (partial(named, f"x{char}gpj"), "cannot be shown")
        for char in UNFIT
    },
    "names without end": (long_names, "its directory is"),
    "no name": (lambda: archive(file(LINE, "")), "no name"),
    "no UTF-8": (lambda: archive(File(name=b"\xff.jsonl", flags=1 << 11)), "UTF-8"),
    "symlink": (lambda: archive(file(b"/etc/passwd", mode=0o120777)), "a link"),
    "device": (lambda: archive(file(LINE, mode=0o020666)), "a device"),
    "duplicate": (lambda: archive(File(), File()), "twice"),
    "overlap": (overlapping, "different things|overlaps"),
    "nested": (nested, "overlaps"),
    "reaches into the directory": (lambda: archive(File(packed_size=60)), "directory"),
    "on another disk": (lambda: archive(File(disk=1)), "another part"),
    "its end on another disk": (lambda: with_byte(WHOLE, -18, 1), "several parts"),
    "its directory on another disk": (lambda: with_byte(WHOLE, -16, 1), "several parts"),
    "some of it on another disk": (lambda: with_byte(WHOLE, -14, 0), "several parts"),
    "encrypted": (lambda: archive(File(flags=1)), "encrypted"),
    "strongly encrypted": (lambda: archive(File(flags=1 << 6)), "encrypted"),
    "its names encrypted": (lambda: archive(File(flags=1 << 13)), "encrypted"),
    "a patch": (lambda: archive(File(flags=1 << 5)), "a patch"),
    "lzma": (lambda: archive(File(method=14)), "method 14"),
    "deflate64": (lambda: archive(File(method=9)), "method 9"),
    "unfolds to more than it says": (lambda: archive(file(LINE * 9, size=30)), "more than"),
    "unfolds to less than it says": (lambda: archive(file(LINE, size=500)), "too early"),
    "stored, two sizes": (lambda: archive(file(LINE, method=0, packed=LINE, size=9)), "two sizes"),
    "local size differs": (lambda: archive(file(LINE, local={"size": 9})), "another size"),
    "local name differs": (
        lambda: archive(file(LINE, local={"name": b"jab.annotations.jsonl"})),
        "different things",
    ),
    "local packed size differs": (
        lambda: archive(file(LINE, local={"packed_size": 9})),
        "another size",
    ),
    "local checksum differs": (lambda: archive(file(LINE, local={"crc": 9})), "or checksum"),
    "local flags differ": (
        lambda: archive(file(LINE, local={"flags": 1 << 4})),
        "different things",
    ),
    "local method differs": (lambda: archive(file(LINE, local={"method": 0})), "different things"),
    "wrong checksum": (lambda: archive(file(LINE, crc=7)), "checksum"),
    "damaged": (lambda: archive(file(LINE, packed=b"\xff" * 20)), "damaged"),
    "its stream goes on": (lambda: archive(file(LINE, packed=deflated(LINE) + b"more")), "behind"),
    "more than a chunk goes on": (behind_a_chunk, "behind"),
    "its stream is cut": (
        lambda: archive(file(LINE, packed=deflated(LINE)[:-4])),
        "too early|damaged",
    ),
    "a full directory": (lambda: archive(file(LINE, "dir/")), "directory with something"),
    "a bomb": (a_bomb, "unfold to"),
    "a bomb that lies": (lambda: archive(File(packed=spaces(999 * MIB))), "more than"),
    "a million files": (a_million, "1,000,000 files"),
    "a million files, said to be one": (a_million_said_to_be_one, "its directory is"),
    "truncated": (lambda: WHOLE[:-1], "only the beginning"),
    "truncated front": (lambda: WHOLE[9:], "it was cut"),
    "cut in the middle": (lambda: WHOLE[: len(WHOLE) // 2], "only the beginning"),
    "empty": (lambda: b"", "no zip"),
    "garbage": (lambda: b"<html>" * 99, "no zip"),
    "garbage in front": (lambda: archive(File(), front=b"MZ" * 99), "something was added"),
    "garbage behind": (lambda: WHOLE + b"\0", "only the beginning"),
    "garbage before the end": (
        lambda: archive(File(), before_end=b"x" * 30),
        "something was added",
    ),
    "two ends": (two_ends, "two ends"),
    "says more files than it has": (lambda: archive(File(), count=2), "too short"),
    "says fewer files": (lambda: archive(File(), file(LINE, "b"), count=1), "or shorter"),
    "an entry leads beyond": (lambda: with_byte(WHOLE, -22 - len(NAME) - 14, 9), "longer or"),
    "directory out of the file": (lambda: archive(File(), offset=2**31), "something was added"),
    "header is something else": (lambda: archive(File(at=1)), "not where"),
    "header cut short": (
        lambda: archive(File(at=len(WHOLE)), comment=b"PK\3\4"),
        "not where",
    ),
    "entry cut short": (cut_entry, "directory is damaged"),
    "header out of the file": (lambda: archive(File(at=2**31)), "not where"),
    "64 bits: other counts": (lambda: with_64(2), "different things"),
    "64 bits: something else": (lambda: with_64(1, at=0), "no end in 64 bits"),
    "64 bits: cut short": (cut_end_64, "no end in 64 bits"),
    "64 bits: elsewhere": (lambda: with_64(1, at=2**63 - 1), "no end in 64 bits"),
    "64 bits: far beyond": (lambda: with_64(1, at=2**64 - 1), "no end in 64 bits"),
    "64 bits: on another disk": (lambda: with_byte(with_64(1), -38, 1), "no end in 64 bits"),
    "64 bits: of several disks": (lambda: with_byte(with_64(1), -26, 2), "no end in 64 bits"),
    "64 bits: something between": (lambda: with_64(1, size=10), "between its ends"),
    "64 bits: left out": (lambda: archive(File(), offset=2**32 - 1), "leaves out"),
    "64 bits: a length left out": (lambda: archive(File(), length=2**32 - 1), "leaves out"),
    "64 bits: a size left out": (lambda: archive(file(LINE, size=2**32 - 1)), "left out"),
    "64 bits: a field cut short": (
        lambda: archive(file(LINE, size=2**32 - 1, extra=b"\1\0\x08\0\1")),
        "left out",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused(name: str, tmp_path: Path) -> None:
    make, fault = HOSTILE[name]
    path = tmp_path / "in" / "export.zip"
    path.parent.mkdir()
    path.write_bytes(make())
    with pytest.raises(ExportError, match=fault) as caught:
        check_archive(path)
    assert caught.value.file
    assert str(caught.value).isprintable()
    assert [*tmp_path.rglob("*")] == [path.parent, path]


# Run in a process of its own, whose memory is nobody else's.
CHECK: Final = """
import sys
import anyio
from annolab_async import Annotation, ExportError
from annolab_async._archive import check_archive
from annolab_async._reading import read_records

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))

async def read(path):
    async for _ in read_records(path, Annotation, on_bad_line="skip"):
        pass

good, *paths = sys.argv[1:]
check_archive(good)
anyio.run(read, good)
base = peak()
for path in paths:
    refused = 0
    for look in (check_archive, lambda path: anyio.run(read, path)):
        try:
            look(path)
        except ExportError:
            refused += 1
    print(1024 * (peak() - base), refused, path)
"""


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the peak")
def test_no_hostile_archive_takes_up_64_mib_or_writes_a_file(tmp_path: Path) -> None:
    (tmp_path / "good.zip").write_bytes(WHOLE)
    for number, (make, _) in enumerate(HOSTILE.values()):
        (tmp_path / f"{number:02}.zip").write_bytes(make())
    long_lines = {
        "values": b'{"sourceId": 1, "x": [' + b"{}," * (2 * MIB) + b"{}]}\n",
        "names": b'{"sourceId": 1' + b"".join(b',"%d":0' % n for n in range(900_000)) + b"}\n",
        "numbers": b'{"sourceId": 1, "x": [' + b"1.5," * (3 * MIB) + b"1]}\n",
        "depth": b"[" * MIB + b"\n",
        "strings": b'{"sourceId": 1, "x": [' + b'"ab",' * 800_000 + b"1]}\n",
        "strings with faces": b'{"sourceId": 1, "x": [' + '"😀",'.encode() * 800_000 + b"1]}\n",
        "a face": b'{"sourceId": 1, "value": "' + "😀".encode() + b"x" * (8 * MIB - 99) + b'"}\n',
        "faces": b'{"sourceId": 1, "value": "' + "😀".encode() * (MIB // 2) + b'"}\n',
        "blank lines": b"\n" * (8 * MIB),
        "bad lines": b"x\n" * (MIB // 8),
        "one line": b" " * (100 * MIB),
    }
    for name, data in long_lines.items():
        # Not packed, or the ratio would give them away.
        (tmp_path / f"{name}.zip").write_bytes(archive(file(data, method=0, packed=data)))
    before = sorted(tmp_path.iterdir())
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", CHECK, *map(str, [tmp_path / "good.zip", *before])],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    growths = [int(line.split()[0]) for line in done.stdout.splitlines()]
    assert len(growths) == len(before)
    assert max(growths) < MOST_GROWTH, done.stdout
    assert sorted(tmp_path.iterdir()) == before


def opened(tmp_path: Path, data: bytes, **limits: float) -> Archive:
    path = tmp_path / "export.zip"
    path.write_bytes(data)
    return check_archive(path, limits=ArchiveLimits(**limits))  # type: ignore[arg-type]


def test_files_are_recognised_in_any_directory_and_case_and_others_are_listed(
    tmp_path: Path,
) -> None:
    path = written(
        tmp_path / "x.zip",
        {
            "a/p.Annotations.JSONL": LINE,
            "p.layers.jsonl": lines({"name": "gold"}),
            "sources.jsonl": lines({"sourceId": 1}),
            "Uploads/deed.pdf": b"%PDF",
            "p.novelties.jsonl": b"{}",
            "empty/": b"",
        },
    )
    found = check_archive(path)
    assert found.unknown_entries == ("Uploads/deed.pdf", "p.novelties.jsonl")
    assert len(found.entries) == 5
    assert found.holds(Annotation)
    assert found.holds(AnnotationLayer)
    assert found.holds(ExportedSource)
    assert not found.holds(TextBounds)
    with pytest.raises(ExportError, match="include_text_bounds=True"):
        found.members(TextBounds)


@pytest.mark.parametrize(
    "name",
    [
        "Screenshot at 3.45.12\N{NARROW NO-BREAK SPACE}PM.png",
        "契約\N{IDEOGRAPHIC SPACE}書.pdf",
        "👩\N{ZERO WIDTH JOINER}👧.png",
        "می\N{ZERO WIDTH NON-JOINER}خواهم.pdf",
        "from a Mac\uf022.pdf",
        "not yet assigned \U0001faff.pdf",
        "hard\N{NO-BREAK SPACE}spaces and points\N{HYPHENATION POINT}.pdf",
    ],
)
def test_names_are_what_people_call_their_files(tmp_path: Path, name: str) -> None:
    assert check_archive(written(tmp_path / "x.zip", {name: b"%PDF"})).entries == (name,)


@pytest.mark.parametrize("comment", [b"", b"made by AnnoLab", b"x" * 65535, b"PK\5\6"])
def test_a_comment_does_no_harm(tmp_path: Path, comment: bytes) -> None:
    assert opened(tmp_path, archive(File(), comment=comment)).entries == (NAME,)


def test_an_archive_that_was_streamed_is_read(tmp_path: Path) -> None:
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.data = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: bytes) -> int:  # type: ignore[override]
            self.data += data
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr(NAME, LINE * 999)
        made.writestr("other.pdf", b"%PDF")
    assert len(opened(tmp_path, bytes(pipe.data)).entries) == 2


def test_an_archive_in_64_bits_is_read(tmp_path: Path) -> None:
    assert opened(tmp_path, with_64(1)).entries == (NAME,)
    path = tmp_path / "big.zip"
    with zipfile.ZipFile(path, "w") as made, made.open(NAME, "w", force_zip64=True) as inside:
        inside.write(LINE)
    assert check_archive(path).entries == (NAME,)


def test_an_archive_of_nothing_is_read(tmp_path: Path) -> None:
    assert opened(tmp_path, archive()).entries == ()


NO_LONG: Final = 2**32 - 1
LOCAL: Final = {"size": len(LINE), "packed_size": len(deflated(LINE)), "extra": b""}


@pytest.mark.parametrize("before", [b"", b"\7\7\0\0", b"\7\7\3\0abc"])
@pytest.mark.parametrize(
    "left_out", [["size"], ["packed_size"], ["at"], ["size", "at"], ["size", "packed_size", "at"]]
)
def test_what_does_not_fit_into_32_bits_is_found_behind(
    tmp_path: Path, left_out: list[str], before: bytes
) -> None:
    first = file(b"%PDF", "first.pdf")
    at = len(first.header()) + len(first.packed)
    told = {"size": len(LINE), "packed_size": len(deflated(LINE)), "at": at}
    longs = struct.pack(f"<{len(left_out)}Q", *[told[name] for name in left_out])
    extra = before + struct.pack("<2H", 1, len(longs)) + longs
    second: dict[str, Any] = dict.fromkeys(left_out, NO_LONG)
    data = archive(first, File(**second, extra=extra, local=LOCAL))
    assert opened(tmp_path, data).entries == ("first.pdf", NAME)
    # Where its own header leaves them out, too.
    in_both = {name: NO_LONG for name in left_out if name != "at"}
    head = archive(first, File(**second, extra=extra, local={**LOCAL, **in_both, "extra": extra}))
    if "at" not in left_out:
        assert opened(tmp_path, head).entries == ("first.pdf", NAME)


def test_how_hard_the_packer_tried_is_all_the_same(tmp_path: Path) -> None:
    for flag in (1 << 1, 1 << 2):
        assert opened(tmp_path, archive(File(local={"flags": flag}))).entries == (NAME,)
    for flag in (1 << 4, 1 << 7, 1 << 12, 1 << 15):
        assert opened(tmp_path, archive(File(flags=flag))).entries == (NAME,)


@pytest.mark.parametrize(("name", "mode"), [(NAME, 0o100644), ("directory/", 0o040755)])
def test_files_and_directories_may_say_what_they_are(tmp_path: Path, name: str, mode: int) -> None:
    data = b"" if name.endswith("/") else LINE
    found = opened(tmp_path, archive(file(data, name, mode=mode)))
    assert found.entries == (() if name.endswith("/") else (name,))


@pytest.mark.parametrize("length", [199, 200, 201, 300])
def test_of_a_long_name_the_beginning_is_shown(tmp_path: Path, length: int) -> None:
    name = "../\x1b" + "x" * (length - 4)
    with pytest.raises(ExportError) as caught:
        opened(tmp_path, archive(file(LINE, name)))
    whole = name.replace("\x1b", "\N{REPLACEMENT CHARACTER}")
    assert caught.value.file == (whole if length <= 200 else whole[:200] + "…")


def listing(size: int) -> bytes:
    """Return an archive whose directory has so many bytes, of which nothing is packed."""
    count = size // 2**16
    rest = size - (count - 1) * 2**16
    names = [b"%02d" % number for number in range(count)]
    lengths = [2**16 - 46] * (count - 1) + [rest - 46]
    return archive(*[
        File(name=name + b"x" * (length - 2), packed=b"", size=0, crc=0, method=0)
        for name, length in zip(names, lengths, strict=True)
    ])


@pytest.mark.parametrize(("max_entries", "most"), [(99, MIB), (4096, MIB), (5120, 5 * MIB // 4)])
def test_a_directory_may_be_as_long_as_so_many_files_need(
    tmp_path: Path, max_entries: int, most: int
) -> None:
    assert opened(tmp_path, listing(most), max_entries=max_entries).entries
    with pytest.raises(ExportError, match="its directory is"):
        opened(tmp_path, listing(most + 1), max_entries=max_entries)


def test_limits_hold_for_what_is_more_and_not_for_what_is_as_much(tmp_path: Path) -> None:
    data = archive(file(b" " * MIB), file(b"x", "x.pdf"))
    opened(tmp_path, data, max_bytes=MIB + 1)
    with pytest.raises(ExportError, match="max_bytes"):
        opened(tmp_path, data, max_bytes=MIB)
    # A file of a MiB may unfold from as little as it likes.
    opened(tmp_path, data, max_ratio=0.5)
    one_more = b" " * (MIB + 1)
    with pytest.raises(ExportError, match="max_ratio"):
        opened(tmp_path, archive(file(one_more)), max_ratio=0.5)
    as_it_is = archive(file(one_more, method=0, packed=one_more))
    opened(tmp_path, as_it_is, max_ratio=1)
    with pytest.raises(ExportError, match="max_ratio"):
        opened(tmp_path, as_it_is, max_ratio=0.999)


@pytest.mark.parametrize(
    "name", ["max_entries", "max_bytes", "max_ratio", "max_line_bytes", "max_line_memory"]
)
def test_a_limit_is_a_positive_number(name: str) -> None:
    for wrong in (0, -1, float("nan")):
        with pytest.raises(ValueError, match=f"{name} is {wrong}, not a positive"):
            ArchiveLimits(**{name: wrong})  # type: ignore[arg-type]
    assert getattr(ArchiveLimits(**{name: 1}), name) == 1


def test_limits_can_be_raised_and_lowered(tmp_path: Path) -> None:
    data = archive(file(b" " * 3 * MIB))
    for limits in ({"max_ratio": 10}, {"max_bytes": MIB}):
        with pytest.raises(ExportError, match=next(iter(limits))):
            opened(tmp_path, data, **limits)
    opened(tmp_path, data, max_ratio=2000)
    with pytest.raises(ExportError, match="max_entries"):
        opened(tmp_path, many(3), max_entries=2)
    assert opened(tmp_path, archive(file(LINE, "x" * 65_000)), max_entries=1).entries
    assert len(opened(tmp_path, many(3), max_entries=3).entries) == 3


@pytest.mark.parametrize(
    ("kind", "name", "hint"),
    [
        (Annotation, "annotations", "It may be the file of something else."),
        (AnnotationLayer, "layers", "It may be the file of something else."),
        (AnnotationRelation, "relations", "It may be the file of something else."),
        (ExportedSource, "sources", "Export with include_sources=True."),
        (TextBounds, "text-bounds", "Export with include_text_bounds=True."),
        (AnnotationType, "atntypes", "Export with include_annotation_types=True."),
    ],
)
def test_what_is_not_there_is_named_with_how_to_have_it(
    tmp_path: Path, kind: type, name: str, hint: str
) -> None:
    empty = opened(tmp_path, archive())
    assert not empty.holds(kind)
    with pytest.raises(ExportError) as caught:
        empty.members(kind)
    assert caught.value.what == f"it holds no *.{name}.jsonl"
    assert (caught.value.hint, caught.value.file) == (hint, str(empty.path))
    names = [f"b.{name}.jsonl", f"a.{name}.jsonl"]
    found = opened(tmp_path, archive(*[file(LINE, each) for each in names]))
    assert found.holds(kind)
    assert [member.name for member in found.members(kind)] == names[::-1]


@pytest.mark.parametrize("method", [0, 8])
def test_128_kib_at_most_are_unpacked_at_once(tmp_path: Path, method: int) -> None:
    data = Random(1).randbytes(600_000) + bytes(300_000)
    packed = deflated(data) if method else data
    path = tmp_path / "x.zip"
    path.write_bytes(archive(file(data, method=method, packed=packed)))
    archived = Archive.open(path)
    unpacker, parts = Unpacker(archived.members(Annotation)[0]), list[bytes]()
    with archived.reopened() as opened:
        while part := unpacker.read(opened):
            parts.append(part)
    assert b"".join(parts) == data
    assert max(map(len, parts)) == 2**17


def test_a_check_can_be_given_up(tmp_path: Path) -> None:
    path = written(tmp_path / "x.zip", {NAME: LINE * 100_000})

    def give_up() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        check_archive(path, on_chunk=give_up)


def test_any_byte_that_is_cut_or_changed_is_found_or_does_no_harm(tmp_path: Path) -> None:
    data = archive(file(LINE * 3), file(b"%PDF", "x.pdf"))
    path = tmp_path / "x.zip"
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(ExportError):
            check_archive(path)
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :])
        try:
            names = check_archive(path).entries
        except ExportError:
            continue
        assert len(names) == 2


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Archive.open(os.fspath(tmp_path / "none.zip"))
