"""What an HTTP answer says. Pure: the answer and the time come in as arguments."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urlsplit

from attrs import evolve, field, frozen

from annolab_async._converter import decode_json, structure
from annolab_async._records import InferenceJob, JobState
from annolab_async._salvage import salvaged_id
from annolab_async.errors import InvalidResponse, StatusError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from annolab_async._secret import ApiKey

__all__ = ["Reply", "goes_back", "read_as", "read_job", "retry_after"]

T = TypeVar("T")

_OK: Final = range(200, 300)
_REDIRECTS: Final = range(300, 400)
_SECONDS: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?")


@frozen
class Reply:
    """An HTTP answer, and what was asked.

    Attributes:
        fault: what is wrong with the body as such, None if it came whole; then it is what could be read of it.
    """

    method: str
    path: str
    status_code: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    fault: str | None = field(default=None, repr=False)


def read_job(
    reply: Reply, *, key: ApiKey, utc_now: Callable[[], datetime], asked_for: int | None = None
) -> InferenceJob:
    """Return the job that an answer describes.

    Args:
        reply: the answer to a submission or to a status request.
        key: what errors must not show of the answer.
        utc_now: tells the time, for a ``Retry-After`` that names a date.
        asked_for: the id that the answer must be about, None when any will do.

    Raises:
        StatusError: the status is not a success.
        InvalidResponse: the body is no job, or not the one asked for.
    """
    _check_status(reply, key, utc_now)
    found = _job_or_fault(reply, asked_for)
    if isinstance(found, InferenceJob):
        # A word that is not known may be anything, also what the server was sent.
        is_known = found.state is not JobState.UNKNOWN
        return found if is_known else evolve(found, status=key.strike(found.status))
    found = key.shown(found)
    # Raised here, where no local variable and no exception on the way holds the body.
    salvaged = salvaged_id(reply.body)
    raise InvalidResponse(
        method=reply.method,
        path=reply.path,
        fault=found,
        excerpt=key.shown(_text(reply.body)),
        inference_job_id=salvaged if asked_for in {None, salvaged} else None,
    )


def read_as(
    cls: type[T], reply: Reply, *, key: ApiKey, utc_now: Callable[[], datetime], name: str
) -> T:
    """Return the record that an answer describes.

    Args:
        cls: the attrs class of the record.
        reply: the answer.
        key: what errors must not show of the answer.
        utc_now: tells the time, for a ``Retry-After`` that names a date.
        name: what was asked for, such as "an export".

    Raises:
        StatusError: the status is not a success.
        InvalidResponse: the body is something else.
    """
    _check_status(reply, key, utc_now)
    fault = reply.fault or ""
    if not fault:
        try:
            return structure(cls, decode_json(reply.body))
        except ValueError as error:
            fault = str(error)
    # Raised here, where no exception on the way holds the body; nor is any of it shown: it may hold a signed link.
    raise InvalidResponse(
        method=reply.method, path=reply.path, fault=key.shown(fault), excerpt="", wanted=name
    )


def goes_back(before: InferenceJob, now: InferenceJob) -> bool:
    """Return whether a job that ran is queued again, as a server behind the others says, perhaps, or a cache.

    Of words that are not known, nothing can be said.
    """
    return before.state is JobState.RUNNING and now.state is JobState.QUEUED


def _check_status(reply: Reply, key: ApiKey, utc_now: Callable[[], datetime]) -> None:
    if reply.status_code not in _OK:
        raise StatusError.of(
            status_code=reply.status_code,
            message=key.shown(_message(reply)),
            method=reply.method,
            path=reply.path,
            retry_after=retry_after(reply.headers, utc_now),
        )


def _job_or_fault(reply: Reply, asked_for: int | None) -> InferenceJob | str:
    if reply.fault is not None:
        return reply.fault
    try:
        job = structure(InferenceJob, decode_json(reply.body))
    except ValueError as error:
        return str(error)
    job_id = job.inference_job_id
    if job_id < 1:
        return f"inferenceJobId is {job_id}, and ids begin at 1"
    if asked_for not in {None, job_id}:
        return f"inferenceJobId is {job_id}, and {asked_for} was asked for"
    return job


def _text(body: bytes) -> str:
    return body.decode("utf-8-sig", errors="replace")


def _message(reply: Reply) -> str:
    """Return the ``message`` of an error's body, or what plain text stands there instead."""
    if reply.status_code in _REDIRECTS and (location := reply.headers.get("location")):
        return f"it redirects to {_origin(location)}, which is not followed"
    try:
        message = json.loads(reply.body)["message"]
    except (ValueError, RecursionError, LookupError, TypeError):
        text = _text(reply.body).strip()
        return "" if text.startswith(("<", "{", "[")) else text
    return message if isinstance(message, str) else ""


def _origin(location: str) -> str:
    # No more of it than that: what follows may be signed, what stands before a password.
    try:
        url = urlsplit(location)
    except ValueError:
        return "something that is not a URL"
    if not url.hostname:
        return "something that is not a URL" if url.scheme else "another path"
    return f"{url.scheme or 'http'}://{url.hostname}"


def retry_after(headers: Mapping[str, str], utc_now: Callable[[], datetime]) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks for, None if there is none that makes sense.

    A date that has passed is 0. Dates are compared with the server's own ``Date``, lest a clock that is wrong
    makes a second an hour.

    Args:
        headers: those of the answer.
        utc_now: tells the time, for an answer without a ``Date``.
    """
    text, date = headers.get("retry-after"), headers.get("date")
    if text is None:
        return None
    text = text.strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    at = _date(text)
    if at is None:
        return None
    now = (_date(date) if date else None) or utc_now()
    return max(0.0, (at - now).total_seconds())


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
