"""What an HTTP answer says. Pure: the answer comes in as an argument."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Final, cast

from attrs import field, frozen

from annolab_async._converter import decode_json, structure
from annolab_async._records import InferenceJob
from annolab_async.errors import InvalidResponse, StatusError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Redactor", "Reply", "read_job"]

_EXCERPT_LENGTH: Final = 200
_OK: Final = range(200, 300)
# Signed links carry their secret in the query.
_QUERY: Final = re.compile(r"\?[^\s\"]+")
# Only where the job's id stands whole, and among the outermost fields.
_JOB_ID: Final = re.compile(rb'\s*\{[^{}\[\]]*?"inferenceJobId"\s*:\s*([1-9][0-9]{0,17})\s*[,}]')


@frozen
class Reply:
    """An HTTP answer, and what was asked."""

    method: str
    path: str
    status_code: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class Redactor:
    """Makes text from the server fit to be shown; hides the API key, its own included.

    Args:
        secret: the API key, in case that the server echoes it.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def __repr__(self) -> str:
        # Tools that print the local variables of a traceback print this.
        return "Redactor()"

    def shown(self, text: str) -> str:
        """Return the beginning of a text: no secret, nothing unprintable."""
        # Cut only after the key is out, lest a part of it stays; and before the rest, lest a long text takes long.
        text = text.replace(self._secret, "[API key]")[: 16 * _EXCERPT_LENGTH]
        text = _QUERY.sub("?[hidden]", text)
        text = "".join(char if char.isprintable() else " " for char in text[: _EXCERPT_LENGTH + 1])
        return text if len(text) <= _EXCERPT_LENGTH else f"{text[:_EXCERPT_LENGTH]}…"


def read_job(reply: Reply, *, redactor: Redactor, asked_for: int | None = None) -> InferenceJob:
    """Return the job that an answer describes.

    Args:
        reply: the answer to a submission or to a status request.
        redactor: what errors may show of the answer.
        asked_for: the id that the answer must be about, None when any will do.

    Raises:
        StatusError: the status is not a success.
        InvalidResponse: the body is no job, or not the one asked for.
    """
    if reply.status_code not in _OK:
        raise StatusError.of(
            status_code=reply.status_code,
            message=redactor.shown(_message(reply.body)),
            method=reply.method,
            path=reply.path,
            retry_after=_retry_after(reply.headers),
        )
    data: object = None
    try:
        data = decode_json(reply.body)
        job = structure(InferenceJob, data)
        _check_id(job.inference_job_id, asked_for)
    except ValueError as error:
        salvaged = _salvaged_id(data, reply.body)
        raise InvalidResponse(
            method=reply.method,
            path=reply.path,
            fault=redactor.shown(str(error)),
            excerpt=redactor.shown(_text(reply.body)),
            inference_job_id=salvaged if asked_for in {None, salvaged} else None,
        ) from None
    return job


def _check_id(job_id: int, asked_for: int | None) -> None:
    if job_id < 1:
        raise ValueError(f"inferenceJobId is {job_id}, and ids begin at 1")
    if asked_for not in {None, job_id}:
        raise ValueError(f"inferenceJobId is {job_id}, and {asked_for} was asked for")


def _salvaged_id(data: object, body: bytes) -> int | None:
    """Return the id that stands whole in a damaged answer: that job exists, and was paid for."""
    if isinstance(data, dict):
        job_id = cast("dict[str, object]", data).get("inferenceJobId")
        return job_id if type(job_id) is int and job_id >= 1 else None
    match = _JOB_ID.match(body)
    return int(match[1]) if match else None


def _text(body: bytes) -> str:
    return body.decode(errors="replace")


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
