"""What a zip file says it holds, and whether that holds together. Nothing is unpacked, and little is kept in memory.

Python's ``zipfile`` reads archives that others would read differently, and makes an object of a kilobyte for each of
a million entries before anyone can object. Here an archive that can be read in two ways is refused, and its numbers
are believed only where they agree with each other: end, directory, and the header of each entry.
"""

from __future__ import annotations

import os
import re
import stat
from struct import Struct
from typing import TYPE_CHECKING, BinaryIO, Final, NoReturn

from attrs import define, frozen

from annolab_async.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["DAMAGED", "HOSTILE", "ArchiveLimits", "Member", "read_directory", "refuse"]

_END: Final = Struct("<4s4H2LH")
_END_64: Final = Struct("<4sQ2H2L4Q")
_LOCATOR_64: Final = Struct("<4sLQL")
_CENTRAL: Final = Struct("<4s6H3L5H2L")
_LOCAL: Final = Struct("<4s5H3L2H")
_FIELD: Final = Struct("<2H")
_END_SIGN: Final = b"PK\5\6"
_LONGEST_COMMENT: Final = 0xFFFF
_NO_SHORT: Final = 0xFFFF
_NO_LONG: Final = 0xFFFF_FFFF
_STORED: Final = 0
_DEFLATED: Final = 8
_ENCRYPTED: Final = 1 << 0 | 1 << 6 | 1 << 13
_PATCHED: Final = 1 << 5
_SIZES_FOLLOW: Final = 1 << 3
_UTF_8: Final = 1 << 11
_HINTS: Final = 1 << 1 | 1 << 2  # how hard the packer tried
_EXTRA_64: Final = 1
# Small files of a single line may be packed very well.
_RATIO_FROM: Final = 2**20
_OUTSIDE: Final = re.compile(r"(^|[/\\])\.\.([/\\]|$)|^[/\\]|^[A-Za-z]:[/\\]")
# What steers terminals, ends lines, or turns the letters around it about. Others that str.isprintable() denies stand in
# many names: narrow spaces in those of screenshots, joiners in emoji and Persian, what is newer than this Python.
_UNFIT: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_SHOWN: Final = 200
# Bytes of a directory for each file that there may be: numbers, a name, some more fields. Few may have long names.
_TOLD: Final = 256
_TOLD_FROM: Final = 2**20

DAMAGED: Final = "Download it again."
HOSTILE: Final = "No export of AnnoLab's looks like this: do not unpack it by other means either."


@frozen(kw_only=True)
class ArchiveLimits:
    """What is read of an archive at most, since a small one may unfold into a huge one.

    Attributes:
        max_entries: how many files it holds.
        max_bytes: how many bytes they have together, unpacked.
        max_ratio: how much larger a file of a MiB or more is than what it is packed into.
        max_line_bytes: how long a line of a file is.
        max_line_memory: how many bytes of memory a long line takes up while it is decoded, by an estimate.
    """

    max_entries: int = 100_000
    max_bytes: int = 2**36
    max_ratio: float = 500.0
    max_line_bytes: int = 2**23
    max_line_memory: int = 2**25

    def __attrs_post_init__(self) -> None:
        for name in ("max_entries", "max_bytes", "max_ratio", "max_line_bytes", "max_line_memory"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)!r}, not a positive number")


@define
class Member:
    """A file in an archive.

    Attributes:
        name: its name there.
        flags: bits that say how it is packed and named.
        method: 0 if it is stored as it is, 8 if it is deflated.
        crc, size: of what it holds.
        packed_size: how many bytes it takes up.
        header: where in the archive its header begins.
        begins: where its first packed byte is.
    """

    name: str
    flags: int
    method: int
    crc: int
    packed_size: int
    size: int
    header: int
    begins: int = 0

    @property
    def is_deflated(self) -> bool:
        """Whether it is packed at all."""
        return self.method == _DEFLATED

    @property
    def is_directory(self) -> bool:
        """Whether it is not a file, but where some lie."""
        return self.name.endswith("/")


@frozen
class _Directory:
    begins: int
    ends: int
    count: int


def refuse(what: str, hint: str = HOSTILE, *, file: str) -> NoReturn:
    """Raise the error for an archive that cannot be trusted.

    Args:
        what: what is wrong.
        hint: how to mend it.
        file: the archive, or the file in it, at fault.
    """
    raise ExportError(what=what, hint=hint, file=_shown(file))


def _shown(name: str) -> str:
    text = "".join(
        char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in name[:_SHOWN]
    )
    return f"{text}…" if len(name) > _SHOWN else text


def read_directory(file: BinaryIO, path: str, limits: ArchiveLimits) -> list[Member]:
    """Return the files that a zip archive holds, in the order in which they lie there.

    Args:
        file: the archive, open and buffered.
        path: its name, for errors.
        limits: what it may hold.

    Raises:
        ExportError: it is no zip, not a whole one, not one that can be trusted, or larger than the limits allow.
    """
    directory = _find(file, path)
    if directory.count > limits.max_entries:
        what = f"it holds {directory.count:,} files, more than {limits.max_entries:,}"
        refuse(what, _too_low("max_entries"), file=path)
    size = directory.ends - directory.begins
    if size > max(_TOLD_FROM, _TOLD * limits.max_entries):
        what = f"its directory is {size:,} bytes long, more than {limits.max_entries:,} files need"
        refuse(what, _too_low("max_entries"), file=path)
    members = sorted(_listed(file, path, directory), key=lambda member: member.header)
    _check_names(members)
    _check_sizes(members, path, limits)
    before = 0
    for member in members:
        if member.header < before:
            refuse("it overlaps with another file", file=member.name)
        member.begins = _begin(file, member)
        before = member.begins + member.packed_size
        if before > directory.begins:
            refuse("it reaches into the archive's directory", file=member.name)
    return members


def _too_low(limit: str) -> str:
    return f"If you trust it, raise {limit} of the export's archive_limits."


def _check_names(members: Sequence[Member]) -> None:
    seen = set[str]()
    for member in members:
        if member.name in seen:
            refuse("the archive holds it twice", file=member.name)
        seen.add(member.name)


def _check_sizes(members: Sequence[Member], path: str, limits: ArchiveLimits) -> None:
    if (size := sum(member.size for member in members)) > limits.max_bytes:
        what = f"it unfolds to {size:,} bytes, more than {limits.max_bytes:,}"
        refuse(what, _too_low("max_bytes"), file=path)
    for member in members:
        if member.size > max(_RATIO_FROM, limits.max_ratio * member.packed_size):
            what = f"its {member.packed_size:,} bytes unfold to {member.size:,}"
            refuse(what, _too_low("max_ratio"), file=member.name)


def _find(file: BinaryIO, path: str) -> _Directory:
    size = file.seek(0, 2)
    begins = max(0, size - _END.size - _LONGEST_COMMENT)
    file.seek(begins)
    tail = file.read()
    ends = [at for at in _all_of(tail, _END_SIGN) if _is_end(tail, at)]
    if not ends:
        refuse("it is no zip file, or only the beginning of one", DAMAGED, file=path)
    if len(ends) > 1:
        refuse("it has two ends", file=path)
    at = begins + ends[0]
    told: tuple[int, ...] = _END.unpack_from(tail, ends[0])[1:7]
    ends_at = at
    if (locator := _read(file, at - _LOCATOR_64.size, _LOCATOR_64.size))[:4] == b"PK\6\7":
        told = _told_in_64_bits(file, path, at, locator, told)
        ends_at = _LOCATOR_64.unpack(locator)[2]
    elif _NO_LONG in told[4:]:
        refuse("its end leaves out what it does not say elsewhere", file=path)
    disk, first_disk, here, count, length, offset = told
    if disk or first_disk or here != count:
        refuse("it is one of several parts", file=path)
    if offset + length != ends_at:
        refuse(
            "its directory is not where its end says: it was cut, or something was added", file=path
        )
    if count * _CENTRAL.size > length:
        refuse("its directory is too short for what it is to list", file=path)
    return _Directory(offset, ends_at, count)


def _all_of(data: bytes, sign: bytes) -> Iterator[int]:
    at = data.find(sign)
    while at >= 0:
        yield at
        at = data.find(sign, at + 1)


def _is_end(tail: bytes, at: int) -> bool:
    if at + _END.size > len(tail):
        return False
    comment: int = _END.unpack_from(tail, at)[-1]
    return at + _END.size + comment == len(tail)


def _told_in_64_bits(
    file: BinaryIO, path: str, end: int, locator: bytes, short: tuple[int, ...]
) -> tuple[int, ...]:
    """Return what the end in 64 bits says, if it agrees with the short one."""
    _, disk, at, disks = _LOCATOR_64.unpack(locator)
    record = _read(file, at, _END_64.size)
    if disk or disks > 1 or len(record) < _END_64.size or record[:4] != b"PK\6\6":
        refuse("it has no end in 64 bits where it says that there is one", file=path)
    _, length, _, _, *long = _END_64.unpack(record)
    if at + 12 + length != end - _LOCATOR_64.size:
        refuse("something stands between its ends", file=path)
    left_out = (_NO_SHORT,) * 4 + (_NO_LONG,) * 2
    if any(
        told not in {none, whole} for told, whole, none in zip(short, long, left_out, strict=True)
    ):
        refuse("its two ends say different things", file=path)
    return tuple(long)


def _read(file: BinaryIO, at: int, size: int) -> bytes:
    # What lies beyond the largest file that there can be is not even looked for without an error.
    if not 0 <= at < os.fstat(file.fileno()).st_size:
        return b""
    file.seek(at)
    return file.read(size)


def _listed(file: BinaryIO, path: str, directory: _Directory) -> Iterator[Member]:
    """Yield the files that the directory lists, each a sound one by what it says there."""
    at = directory.begins
    for _ in range(directory.count):
        head = _read(file, at, _CENTRAL.size)
        if len(head) < _CENTRAL.size or head[:4] != b"PK\1\2":
            refuse("its directory is damaged", DAMAGED, file=path)
        fields = _CENTRAL.unpack(head)
        flags, method = fields[3:5]
        crc, packed_size, size, name_size, extra_size, comment_size, disk = fields[7:14]
        attributes, header = fields[15:]
        name = _name(file.read(name_size), flags, path)
        extra = file.read(extra_size)
        at += _CENTRAL.size + name_size + extra_size + comment_size
        size, packed_size, header = _in_64_bits(extra, (size, packed_size, header), name)
        member = Member(name, flags, method, crc, packed_size, size, header)
        _check_member(member, file_type=stat.S_IFMT(attributes >> 16), disk=disk)
        yield member
    if at != directory.ends:
        refuse("its directory is longer or shorter than its end says", file=path)


def _name(raw: bytes, flags: int, path: str) -> str:
    try:
        return raw.decode("utf-8" if flags & _UTF_8 else "cp437")
    except UnicodeDecodeError:
        refuse("it holds a file whose name is not what it says: UTF-8", file=path)


def _check_member(member: Member, *, file_type: int, disk: int) -> None:
    name = member.name
    if not name or _UNFIT.search(name):
        refuse("it has no name, or one that cannot be shown", file=name or "?")
    if _OUTSIDE.search(name):
        refuse("its name leads out of where the archive would be unpacked", file=name)
    if file_type not in {0, stat.S_IFREG, stat.S_IFDIR}:
        refuse("it is no plain file, but a link or a device", file=name)
    if member.flags & (_ENCRYPTED | _PATCHED):
        refuse("it is encrypted, or a patch to another file", file=name)
    if member.method not in {_STORED, _DEFLATED}:
        refuse(f"it is packed by method {member.method}, not deflated", file=name)
    if member.method == _STORED and member.size != member.packed_size:
        refuse("it is not packed, and still has two sizes", file=name)
    if member.is_directory and member.size:
        refuse("it is a directory with something in it", file=name)
    if disk:
        refuse("it lies in another part of the archive", file=name)


def _in_64_bits(extra: bytes, told: tuple[int, int, int], name: str) -> tuple[int, int, int]:
    """Return sizes and place of a file, those that do not fit into 32 bits taken from where they stand then."""
    if _NO_LONG not in told:
        return told
    at = 0
    while at + _FIELD.size <= len(extra):
        kind, size = _FIELD.unpack_from(extra, at)
        at += _FIELD.size
        if kind == _EXTRA_64:
            data = extra[at : at + size]
            longs = iter(Struct(f"<{len(data) // 8}Q").unpack_from(data))
            whole = tuple(next(longs, -1) if part == _NO_LONG else part for part in told)
            if min(whole) >= 0:
                return whole[0], whole[1], whole[2]
        at += size
    refuse("its size or place is left out", file=name)


def _begin(file: BinaryIO, member: Member) -> int:
    """Return where the packed bytes of a file begin, if its own header agrees with the directory."""
    head = _read(file, member.header, _LOCAL.size)
    if len(head) < _LOCAL.size or head[:4] != b"PK\3\4":
        refuse("it is not where the archive's directory says", file=member.name)
    _, _, flags, method, _, _, crc, packed_size, size, name_size, extra_size = _LOCAL.unpack(head)
    name, extra = file.read(name_size), file.read(extra_size)
    says = (flags & ~_HINTS, method, name.decode("utf-8" if flags & _UTF_8 else "cp437", "replace"))
    if says != (member.flags & ~_HINTS, member.method, member.name):
        refuse("its own header and the archive's directory say different things", file=member.name)
    if not flags & _SIZES_FOLLOW:
        size, packed_size, _ = _in_64_bits(extra, (size, packed_size, 0), member.name)
        if (crc, packed_size, size) != (member.crc, member.packed_size, member.size):
            refuse("its own header says another size or checksum", file=member.name)
    return file.tell()
