"""The body of an answer as it comes in: never more of it than fits, packed or unpacked. Pure."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from annolab_async._replies import Reply

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LARGEST_BODY", "PARTS_AT_ONCE", "PLAIN", "Body", "Incoming", "NoBody", "plain_length"]

# A job with 100,000 source ids takes about 0.8 MB. Much more could not be decoded without holding up the event loop.
LARGEST_BODY: Final = 2**20
# An answer is smaller than what unpacking it costs.
PLAIN: Final = {"Accept-Encoding": "identity"}
# Tiny parts that have come together are taken without giving way to other tasks, but not more than so many.
PARTS_AT_ONCE: Final = 32
_GZIP: Final = 16 + zlib.MAX_WBITS


class NoBody(Exception):
    """What came cannot be taken as the body of an answer; the text says why."""


def plain_length(headers: Mapping[str, str]) -> int | None:
    """Return the length of a body that can be taken as it comes; None if it is to be measured or unpacked."""
    if "content-encoding" in headers:
        return None
    # Two of them, or none: then the body is measured as it comes.
    length = headers.get("content-length")
    if length is None or len(length) >= len(str(LARGEST_BODY)) or not length.isdecimal():
        return None
    return int(length)


class Body:
    """The body of one answer, part by part.

    "identity" is asked for, but a proxy may pack an answer all the same. Only what the standard library unpacks
    is taken, since that can be bounded while it goes: a bomb never gets to unfold.

    Args:
        headers: those of the answer.

    Raises:
        NoBody: it is packed in a way that was not asked for.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._body = (
            bytearray()
        )  # not a list of parts: many tiny ones would take many times their size
        encoding = headers.get("content-encoding", "").strip().lower() or "identity"
        self._is_packed = encoding != "identity"
        if encoding in {"gzip", "x-gzip"}:
            self._unpacker = zlib.decompressobj(_GZIP)
        elif encoding == "deflate":
            self._unpacker = zlib.decompressobj()
        elif self._is_packed:
            raise NoBody(f"it is encoded as {encoding[:40]!r}, which was not asked for")

    def feed(self, part: bytes) -> None:
        """Take in the next part.

        Raises:
            NoBody: it is too long, or damaged.
        """
        if self._is_packed:
            part = self._unpacked(part)
        self._body += part
        if len(self._body) > LARGEST_BODY:
            raise NoBody(f"it is longer than {LARGEST_BODY} bytes, which no job is")

    def _unpacked(self, part: bytes) -> bytes:
        if self._unpacker.eof:
            raise NoBody("more follows where its packed content ends")
        try:
            return self._unpacker.decompress(part, LARGEST_BODY + 1 - len(self._body))
        except zlib.error as error:
            raise NoBody(f"it cannot be unpacked ({error})") from None

    def so_far(self) -> bytes:
        """Return what has come, unpacked."""
        return bytes(self._body)

    def whole(self) -> bytes:
        """Return all of it, unpacked.

        Raises:
            NoBody: the end of its packed content is missing.
        """
        if self._is_packed and self._body:
            if not self._unpacker.eof:
                # Libraries deliver this as though it were whole.
                raise NoBody("its packed content is cut off")
            if self._unpacker.unused_data:
                raise NoBody("more follows where its packed content ends")
        return self.so_far()


class Incoming:
    """An answer to a submission as it comes in: however it ends, what has come of it counts.

    Attributes:
        has_begun: whether its status and headers have come.
        wants_more: whether more of it is of use.
    """

    def __init__(self) -> None:
        self.has_begun = False
        self.wants_more = True
        self._status_code: int
        self._headers: Mapping[str, str]
        self._body = Body({})
        self._fault: str | None = None

    def begin(self, status_code: int, headers: Mapping[str, str], *, is_unpacked: bool) -> None:
        """Take in the head.

        Args:
            status_code: the status.
            headers: the headers.
            is_unpacked: whether the body was unpacked by somebody else.
        """
        self.has_begun = True
        self._status_code = status_code
        self._headers = headers
        try:
            self._body = Body({} if is_unpacked else headers)
        except NoBody as fault:
            self.fail(str(fault))

    def feed(self, part: bytes) -> bool:
        """Take in the next part of the body; return whether it wants more."""
        try:
            self._body.feed(part)
        except NoBody as fault:
            self.fail(str(fault))
        return self.wants_more

    def fail(self, why: str) -> None:
        """Take note that the rest will not come, or is of no use; the first reason counts."""
        self._fault = self._fault or why
        self.wants_more = False

    def reply(self, method: str, path: str) -> Reply:
        """Return what has come."""
        if self._fault is None:
            try:
                self._body.whole()
            except NoBody as fault:
                self.fail(str(fault))
        return Reply(
            method, path, self._status_code, self._headers, self._body.so_far(), self._fault
        )
