"""What an HTTP answer says. Pure: the answer comes in as an argument."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any, Final

from attrs import field, frozen

from annolab_async._converter import structure
from annolab_async._records import InferenceJob
from annolab_async.errors import InvalidResponse, StatusError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Reply", "read_job", "redacted"]

_EXCERPT_LENGTH: Final = 200
_OK: Final = range(200, 300)
# Signed links carry their secret in the query.
_QUERY: Final = re.compile(r"(https?://[^\s\"'?]*)\?[^\s\"']*", re.IGNORECASE)


@frozen
class Reply:
    """An HTTP answer, and what was asked."""

    method: str
    path: str
    status_code: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


def redacted(text: str, *, secret: str) -> str:
    """Return the beginning of a text from the server, fit to be shown: no secret, nothing unprintable.

    Args:
        text: what the server sent.
        secret: the API key, in case that the server echoes it.
    """
    text = _QUERY.sub(r"\1?[hidden]", text.replace(secret, "[API key]"))
    text = "".join(char if char.isprintable() else " " for char in text[: 2 * _EXCERPT_LENGTH])
    return text if len(text) <= _EXCERPT_LENGTH else f"{text[:_EXCERPT_LENGTH]}…"


def read_job(reply: Reply, *, secret: str, asked_for: int | None = None) -> InferenceJob:
    """Return the job that an answer describes.

    Args:
        reply: the answer to a submission or to a status request.
        secret: the API key, which no error may show.
        asked_for: the id that the answer must be about, None when any will do.

    Raises:
        StatusError: the status is not a success.
        InvalidResponse: the body is no job, or not the one asked for.
    """
    if reply.status_code not in _OK:
        raise StatusError.of(
            status_code=reply.status_code,
            message=redacted(_message(reply.body), secret=secret),
            method=reply.method,
            path=reply.path,
            retry_after=_retry_after(reply.headers),
        )
    job_id: int | None = None
    try:
        job = structure(InferenceJob, _decode(reply.body))
        job_id = job.inference_job_id
        if job_id < 1:
            raise ValueError(f"inferenceJobId is {job_id}, and ids begin at 1")  # noqa: TRY301
        if asked_for not in {None, job_id}:
            raise ValueError(f"inferenceJobId is {job_id}, and {asked_for} was asked for")  # noqa: TRY301
    except ValueError as error:
        raise InvalidResponse(
            method=reply.method,
            path=reply.path,
            fault=redacted(str(error), secret=secret),
            excerpt=redacted(_text(reply.body), secret=secret),
        ) from None
    return job


def _text(body: bytes) -> str:
    return body[: 16 * _EXCERPT_LENGTH].decode(errors="replace")


def _decode(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON ({error})") from None


def _message(body: bytes) -> str:
    """Return the ``message`` of an error's body, or what plain text stands there instead."""
    try:
        message = json.loads(body)["message"]
    except (ValueError, RecursionError, LookupError, TypeError):
        text = _text(body).strip()
        return "" if text.startswith(("<", "{", "[")) else text
    return message if isinstance(message, str) else ""


def _retry_after(headers: Mapping[str, str]) -> float | None:
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None
