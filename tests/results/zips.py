"""Zip files made byte by byte, so that each byte can be a lie."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from attrs import evolve, frozen

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

NAME: Final = "job.annotations.jsonl"
LINE: Final = b'{"sourceId": 1, "id": 2}\n'


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, wbits=-15)
    return packer.compress(data) + packer.flush()


@frozen(kw_only=True)
class File:
    """A file as the local header and the directory tell of it; what they tell can be changed."""

    name: bytes = NAME.encode()
    packed: bytes = deflated(LINE)
    size: int = len(LINE)
    crc: int = zlib.crc32(LINE)
    method: int = 8
    flags: int = 0
    mode: int = 0
    extra: bytes = b""
    packed_size: int | None = None
    disk: int = 0
    """On which of several disks the directory says that it is."""
    local: Mapping[str, Any] = MappingProxyType({})
    at: int | None = None
    """Where the directory says that it is."""

    def header(self) -> bytes:
        told = evolve(self, **self.local)
        size = len(told.packed) if told.packed_size is None else told.packed_size
        parts = (20, told.flags, told.method, 0, 0, told.crc, size, told.size)
        lengths = (len(told.name), len(told.extra))
        head = struct.pack("<4s5H3L2H", b"PK\3\4", *parts, *lengths)
        return head + told.name + told.extra

    def entry(self, at: int) -> bytes:
        size = len(self.packed) if self.packed_size is None else self.packed_size
        parts = (0x0314, 20, self.flags, self.method, 0, 0, self.crc, size, self.size)
        rest = (len(self.name), len(self.extra), 0, self.disk, 0, self.mode << 16)
        at = at if self.at is None else self.at
        head = struct.pack("<4s6H3L5H2L", b"PK\1\2", *parts, *rest, at)
        return head + self.name + self.extra


def file(data: bytes, name: str = NAME, **lies: Any) -> File:
    told: dict[str, Any] = {
        "name": name.encode(),
        "packed": deflated(data),
        "size": len(data),
        "crc": zlib.crc32(data),
    }
    return File(**(told | lies))


def archive(
    *files: File,
    front: bytes = b"",
    comment: bytes = b"",
    count: int | None = None,
    length: int | None = None,
    offset: int | None = None,
    before_end: bytes = b"",
) -> bytes:
    # Not added up as bytes, of which each sum would be a copy.
    body, entries = bytearray(), bytearray()
    for each in files:
        entries += each.entry(len(body))
        body += each.header() + each.packed
    count = len(files) if count is None else count
    told = (
        min(count, 65535),
        min(count, 65535),
        len(entries) if length is None else length,
        len(body) if offset is None else offset,
    )
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, *told, len(comment))
    return b"".join([front, body, entries, before_end, end, comment])


def end_64(count: int, length: int, offset: int, *, at: int, size: int = 44) -> bytes:
    """Return an end in 64 bits, and the locator that says that it is at ``at``."""
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", size, 45, 45, 0, 0, count, count, length, offset)
    return record + struct.pack("<4sLQL", b"PK\6\7", 0, at, 1)


def written(path: Path, files: dict[str, bytes] | Sequence[tuple[str, bytes]]) -> Path:
    """Write an archive with the standard library's means."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in files.items() if isinstance(files, dict) else files:
            made.writestr(name, data)
    return path


def lines(*data: Any) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in data)


def some_annotations(count: int, first: int = 0) -> Iterable[dict[str, Any]]:
    return ({"sourceId": 1 + number % 7, "id": number} for number in range(first, first + count))
