"""Decides how a download is answered: who may have it, which part of it, and what goes wrong. Pure."""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from attrs import frozen

from annolab_async.emulator._exports import DOWNLOADS_PATH
from annolab_async.emulator._links import Denied

if TYPE_CHECKING:
    from collections.abc import Mapping

    from annolab_async.emulator._archive import Archive
    from annolab_async.emulator._download_faults import BadDownload, DownloadFaults
    from annolab_async.emulator._exports import ExportDesk
    from annolab_async.emulator._settings import Settings

_PATH: Final = re.compile(rf"{re.escape(DOWNLOADS_PATH)}/([1-9][0-9]{{0,18}})\.zip")
_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


class DownloadAsked(NamedTuple):
    """A request for a download.

    Attributes:
        method: ``GET`` or ``HEAD``.
        path: Its path, unquoted.
        query: Its query.
        headers: Its headers, names in lower case.
        now: Seconds on the emulator's clock.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    now: float


@frozen(kw_only=True)
class DownloadRequest:
    """A request that reached the downloads, and how it was answered.

    Attributes:
        at: When, in seconds on the emulator's clock.
        method: Its method.
        export_id: The export that its link is for; None if the link was of no use.
        range: Its ``Range``; None if it had none.
        if_range: Its ``If-Range``; None if it had none.
        status_code: The status of the answer.
        etag: The ``ETag`` of the answer; None if it had none.
        start: The first byte of the file in the answer's body.
        size: How many bytes that body should have: none for a ``HEAD``.
        bad: What went wrong on purpose; None if nothing did.
        has_key: Whether the request had an ``Authorization``, or the key anywhere else.
    """

    at: float
    method: str
    export_id: int | None
    range: str | None
    if_range: str | None
    status_code: int
    etag: str | None = None
    start: int = 0
    size: int = 0
    bad: BadDownload | None = None
    has_key: bool = False


class Reply(NamedTuple):
    """What to send back.

    Attributes:
        status_code: The HTTP status.
        headers: The headers, ``Content-Length`` with them if it is to be said.
        body: What there is to send.
        bad: How sending it goes wrong; None if it does not.
    """

    status_code: int
    headers: dict[str, str]
    body: memoryview
    bad: BadDownload | None = None


class DownloadDesk:
    """Hands out the zips of exports to whoever has a good link.

    Args:
        settings: Gives the faults, and the key that must not come here.
        exports: What there is to hand out.
    """

    def __init__(self, settings: Settings, exports: ExportDesk) -> None:
        self.requests: list[DownloadRequest] = []
        self.faults: DownloadFaults | None = settings.download_faults
        self.planned: deque[BadDownload | None] = deque()
        self._key = settings.api_key
        self._exports = exports
        self._versions: dict[int, int] = {}
        self._attempts = 0

    def admit(self, asked: DownloadAsked) -> int:
        """Return which export a link is for.

        Raises:
            Denied: The link is of no use.
        """
        match = _PATH.fullmatch(asked.path)
        self._exports.links.check(asked.path, asked.query, now=asked.now)
        if match is None or (export_id := int(match[1])) not in self._exports.exports:
            raise Denied("NoSuchKey")
        return export_id

    def archive(self, export_id: int) -> Archive:
        """Return the zip of an export as it is now; it may still have to be written."""
        return self._exports.archive(export_id, self._versions.get(export_id, 0))

    def draw(self, asked: DownloadAsked, export_id: int, size: int) -> BadDownload | None:
        """Decide what goes wrong with an answer, and change the file if that is it.

        Args:
            asked: The request.
            export_id: What it asks for.
            size: How many bytes that has.
        """
        if asked.method == "HEAD":
            return None
        self._attempts += 1
        if self.planned:
            bad = self.planned.popleft()
        else:
            bad = self.faults.draw(self._attempts, size) if self.faults else None
        if bad is not None and bad.is_changed:
            self._versions[export_id] = self._versions.get(export_id, 0) + 1
        return bad

    def deny(self, asked: DownloadAsked, denied: Denied, bad: BadDownload | None = None) -> Reply:
        """Answer 403, in a form that is not the API's."""
        code, _, message = denied.reason.partition(": ")
        text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        body = memoryview(text.encode())
        headers = {"Content-Type": "application/xml", "Content-Length": str(len(body))}
        self._note(asked, None, 403, bad=bad)
        return Reply(403, headers, body)

    def reply(
        self, asked: DownloadAsked, export_id: int, archive: Archive, bad: BadDownload | None
    ) -> Reply:
        """Answer with the file, or with the part that was asked for.

        Args:
            asked: The request.
            export_id: What it asks for.
            archive: That, written.
            bad: What goes wrong.
        """
        content = archive.content
        assert content is not None  # noqa: S101  # the caller has seen to it
        headers = {
            "Content-Type": "application/zip",
            "Accept-Ranges": "bytes",
            "ETag": archive.etag,
        }
        status_code, span = _span(asked, len(content), archive.etag)
        if status_code == 416:  # noqa: PLR2004
            headers["Content-Range"] = f"bytes */{len(content)}"
        elif status_code == 206:  # noqa: PLR2004
            headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{len(content)}"
        body = content[span.start : span.stop]
        if bad is None or bad.has_length:
            length = len(body) + (bad.length_error if bad else 0)
            headers["Content-Length"] = str(max(0, length))
        if asked.method == "HEAD":
            body = body[:0]
        self._note(asked, export_id, status_code, archive.etag, span.start, len(body), bad)
        return Reply(status_code, headers, body, bad)

    def _note(
        self,
        asked: DownloadAsked,
        export_id: int | None,
        status_code: int,
        etag: str | None = None,
        start: int = 0,
        size: int = 0,
        bad: BadDownload | None = None,
    ) -> None:
        said = [asked.path, asked.query, *asked.headers.values()]
        self.requests.append(
            DownloadRequest(
                at=asked.now,
                method=asked.method,
                export_id=export_id,
                range=asked.headers.get("range"),
                if_range=asked.headers.get("if-range"),
                status_code=status_code,
                etag=etag,
                start=start,
                size=size,
                bad=bad,
                has_key="authorization" in asked.headers or any(self._key in text for text in said),
            )
        )


def _span(asked: DownloadAsked, size: int, etag: str) -> tuple[int, range]:
    """Return the status and the bytes to send; a ``Range`` that is none, or of several parts, is passed over."""
    whole = range(size)
    match = _RANGE.fullmatch(asked.headers.get("range", ""))
    if asked.method != "GET" or match is None or match.groups() == ("", ""):
        return 200, whole
    # A date is no validator of this file: it says when nothing of it was changed.
    if asked.headers.get("if-range", etag) != etag:
        return 200, whole
    first, last = match.groups()
    if not first:
        part = whole[max(0, size - int(last)) :]
    elif last and int(last) < int(first):
        return 200, whole
    else:
        part = whole[int(first) : int(last) + 1 if last else size]
    return (206, part) if part else (416, whole[:0])
