"""What a part of a file can be gone on with, and what an answer to that says. Pure: HTTP's ranges and validators.

The rules are those of RFC 9110, sections 8.8, 13.1.5 and 14. A part is gone on with only if the server says, by a
validator, that the rest belongs to the very same bytes:

- A strong ``ETag`` does. A weak one does not: it stands for files that mean the same, byte for byte or not, and where
  there is one, no date may be sent in its place.
- Without any, ``Last-Modified`` does, if it was a minute old when the first bytes were sent (of a file that changes
  twice within a second, it tells nothing) and if the length is known, too.
- Nothing else does: then everything is sent again. So it is if the rest comes without the validator, since a server
  that knows no ``If-Range`` sends the rest of whatever there is now.

The link is no validator, since each signing makes another of it.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum, auto
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from attrs import frozen

from annolab_async._replies import retry_after
from annolab_async.errors import AnnoLabError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "NOTHING",
    "Held",
    "Remedy",
    "Setback",
    "Take",
    "is_validator",
    "judge",
    "range_headers",
    "too_long",
    "validator_of",
]

# With control characters, or longer than any server's, it would come back as something else.
_STRONG_TAG: Final = re.compile(r'"[!#-~]{1,512}"')
_DATE: Final = re.compile(r"[A-Za-z0-9,: ]{1,40}")
_OLD_ENOUGH: Final = timedelta(seconds=60)
_CONTENT_RANGE: Final = re.compile(
    r"bytes\s+([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.IGNORECASE
)
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
# Storage services answer so to a link that has expired: S3 with 403, and Google with 400.
_OF_THE_LINK: Final = {
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.GONE,
}
_MAY_PASS: Final = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
}
_SERVER_ERRORS: Final = 500


@frozen
class Held:
    """What there is of a file.

    Attributes:
        received: bytes, from the first on.
        length: how long it is in all, None if the server did not say.
        validator: what the server is asked by whether it is still the same; None if nothing would tell for certain.
    """

    received: int
    length: int | None = None
    validator: str | None = None

    @property
    def can_go_on(self) -> bool:
        """Whether the rest can be asked for alone."""
        return self.validator is not None and self.received > 0

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing, as far as the server said how long it is."""
        return self.received == self.length


NOTHING: Final = Held(0)


class Remedy(StrEnum):
    """What may help after a setback."""

    AGAIN = auto()
    """Ask again, later."""
    FROM_THE_START = auto()
    """Ask again, for all of it."""
    ANOTHER_LINK = auto()
    """Ask again, by another link."""
    NONE = auto()
    """Nothing."""


class Setback(AnnoLabError):
    """An answer brought nothing, or not all of it.

    Attributes:
        what: what happened.
        remedy: what may help.
        hint: how to mend it, where that is known.
        retry_after: the seconds that the server asks to be left alone for, None if it does not.
    """

    def __init__(
        self, what: str, remedy: Remedy, *, hint: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy
        self.hint = hint
        self.retry_after = retry_after


@frozen
class Take:
    """A body that is to be taken.

    Attributes:
        end: where in the file the byte after its last one would; None if its length is not known.
        held: what is held of the file before it; it belongs right behind.
        is_anew: whether that replaces what was held.
    """

    end: int | None
    held: Held
    is_anew: bool = False


def range_headers(held: Held) -> dict[str, str]:
    """Return the headers of a request for what is missing; none to ask for everything.

    The last byte that is there is asked for, too, so that there is something to answer with when no other is missing.
    """
    if not held.can_go_on or held.validator is None:
        return {}
    return {"Range": f"bytes={held.received - 1}-", "If-Range": held.validator}


def judge(
    status: int,
    headers: Mapping[str, str],
    held: Held,
    *,
    max_bytes: int,
    utc_now: Callable[[], datetime],
) -> Take:
    """Return what is to be done with the body of an answer to a request with :func:`range_headers`.

    Args:
        status: the answer's status.
        headers: its headers, by names in lower case or without regard to case.
        held: what the request was made from.
        max_bytes: how long the file may be.
        utc_now: tells the time, for a ``Retry-After`` that names a date.

    Raises:
        Setback: nothing, but for what the setback says.
    """
    if status in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
        coding = headers.get("content-encoding", "").strip().lower()
        if coding not in {"", "identity"}:
            raise Setback(
                f"it was sent packed as {coding[:40]!r}, which was not asked for",
                Remedy.NONE,
                hint="(Is there a proxy in between that packs what it passes on?)",
            )
        take = _whole(headers) if status == HTTPStatus.OK else _rest(headers, held)
        if (take.held.length or 0) > max_bytes:
            raise too_long(f"it is {take.held.length} bytes long", max_bytes)
        return take
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        raise Setback("the server has no such range of it (416)", Remedy.FROM_THE_START)
    if status in _OF_THE_LINK:
        raise Setback(f"the link was refused ({status})", Remedy.ANOTHER_LINK)
    may_pass = status >= _SERVER_ERRORS or status in _MAY_PASS
    raise Setback(
        f"the server answered {status}",
        Remedy.AGAIN if may_pass else Remedy.NONE,
        retry_after=retry_after(headers, utc_now) if may_pass else None,
    )


def too_long(what: str, max_bytes: int) -> Setback:
    """Return the setback of a file that is longer than it may be."""
    hint = "Allow more if you trust it, or export less at a time."
    return Setback(f"{what}, and max_bytes is {max_bytes}", Remedy.NONE, hint=hint)


def _whole(headers: Mapping[str, str]) -> Take:
    length = None
    if (text := headers.get("content-length")) is not None:
        if not _LENGTH.fullmatch(text):
            raise Setback(f"its Content-Length is {text[:40]!r}", Remedy.AGAIN)
        length = int(text)
    held = Held(0, length, validator_of(headers, length))
    return Take(length, held, is_anew=True)


def _rest(headers: Mapping[str, str], held: Held) -> Take:
    def setback(what: str) -> Setback:
        return Setback(what, Remedy.FROM_THE_START)

    if not held.can_go_on:
        raise setback("a part of it came that nobody had asked for")
    content_range = headers.get("content-range", "")
    found = _CONTENT_RANGE.fullmatch(content_range.strip())
    if found is None or found[3] == "*":
        raise setback(f"the Content-Range of its rest is {content_range[:60]!r}")
    first, last, length = (int(group) for group in found.groups())
    if first != held.received - 1 or not first <= last < length:
        raise setback(f"the Content-Range of its rest is {content_range[:60]!r}")
    if held.length not in {None, length}:
        raise setback(f"it was {held.length} bytes long, and is {length} now")
    if headers.get("content-length", str(last + 1 - first)) != str(last + 1 - first):
        raise setback("the Content-Length of its rest does not go with the Content-Range")
    # A date is compared as it stands: the minute that it must be old was seen to when it came first.
    name = "etag" if (held.validator or "").startswith('"') else "last-modified"
    if headers.get(name, "").strip() != held.validator:
        raise setback("it has changed meanwhile")
    return Take(last + 1, Held(first, length, held.validator))


def validator_of(headers: Mapping[str, str], length: int | None) -> str | None:
    """Return what can stand in ``If-Range``: a strong ``ETag``, or a date that is as good as one; None if neither is.

    Args:
        headers: those of the answer that the first bytes come with.
        length: how long the file is, None if the server does not say.
    """
    if (tag := headers.get("etag")) is not None:
        return tag.strip() if _STRONG_TAG.fullmatch(tag.strip()) else None
    modified = headers.get("last-modified", "").strip()
    then, now = _date(modified), _date(headers.get("date", "").strip())
    if length is None or then is None or now is None or now - then < _OLD_ENOUGH:
        return None
    return modified


def is_validator(text: str) -> bool:
    """Return whether a text from elsewhere can be one of :func:`validator_of`."""
    return _STRONG_TAG.fullmatch(text) is not None or _date(text) is not None


def _date(text: str) -> datetime | None:
    if not _DATE.fullmatch(text):
        return None
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
