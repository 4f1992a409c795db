"""What goes wrong with AnnoLab, as an answer to who asked this service."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fastapi.responses import JSONResponse

from annolab_async import errors

if TYPE_CHECKING:
    from fastapi import Request

CODES = {
    errors.SubmissionUnknown: 409,  # no 5xx: what repeats those by itself would pay twice
    errors.NotFound: 404,  # a job's, too
    errors.InvalidRequest: 422,
    errors.RateLimited: 503,
    errors.RequestNotSent: 503,
    errors.WaitTimeout: 504,
    errors.AuthenticationError: 500,  # the service is set up wrongly, which its users cannot mend
    errors.PermissionDenied: 500,
    errors.AnnoLabError: 502,
}


def explain(_: Request, error: Exception) -> JSONResponse:
    code = next(code for kind, code in CODES.items() if isinstance(error, kind))
    body: dict[str, Any] = {"detail": str(error)}
    if isinstance(error, errors.SubmissionUnknown):
        body |= {"job_may_exist": True, "source_ids": error.request.source_ids}
    seconds = math.ceil(getattr(error, "retry_after", None) or 5)
    return JSONResponse(body, code, {"Retry-After": str(seconds)} if code == 503 else None)
