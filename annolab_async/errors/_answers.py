"""What the server answered, where that is not what was asked for."""

from __future__ import annotations

from typing import ClassVar, Final, Self

from annolab_async.errors._base import AnnoLabError

__all__ = [
    "AuthenticationError",
    "InvalidRequest",
    "InvalidResponse",
    "NotFound",
    "PermissionDenied",
    "RateLimited",
    "ServerError",
    "StatusError",
]


class StatusError(AnnoLabError):
    """The server answered with a status that is not a success.

    Attributes:
        status_code: the HTTP status.
        message: what the server said, shortened; empty when it said nothing.
        method, path: the request.
        retry_after: seconds the server asked to wait, None when it did not say.
    """

    _hint: ClassVar[str] = "(Is the base URL that of AnnoLab, with no proxy in between?)"

    def __init__(
        self,
        *,
        status_code: int,
        message: str,
        method: str,
        path: str,
        retry_after: float | None = None,
    ) -> None:
        self.status_code = status_code
        self.message = message
        self.method = method
        self.path = path
        self.retry_after = retry_after
        text = f"{method} {path} answered {status_code}"
        text += f": {message}" if message else "."
        super().__init__(f"{text} {self._hint}")

    @classmethod
    def of(
        cls,
        *,
        status_code: int,
        message: str,
        method: str,
        path: str,
        retry_after: float | None = None,
    ) -> StatusError:
        """Return the error of the subclass that stands for a status."""
        kind = _BY_STATUS.get(
            status_code, ServerError if status_code >= _SERVER_ERRORS else StatusError
        )
        return kind(
            status_code=status_code,
            message=message,
            method=method,
            path=path,
            retry_after=retry_after,
        )


class AuthenticationError(StatusError):
    """401: the server does not accept the API key."""

    _hint = "(Check the API key: pass api_key=... or set ANNOLAB_API_KEY.)"


class PermissionDenied(StatusError):
    """403: the API key may not do this."""

    _hint = '(The key needs the "Model Run" permission on the project that holds the sources.)'


class NotFound(StatusError):
    """404: the server knows no such group, project, model, layer or job."""

    _hint = "(Check the names and ids, and that the base URL is that of their account.)"


class InvalidRequest(StatusError):
    """400 or 422: the server understood the request and refuses it."""

    _hint = "(Mend what it names; sending the same again will not help.)"


class RateLimited(StatusError):
    """429: too many requests; ``retry_after`` says how long to wait, when the server said so."""

    _hint = "(Ask less often: rate_limit=RateLimit(...) bounds all that a client sends.)"

    @classmethod
    def instead_of_sending(cls, *, method: str, path: str, seconds: float) -> Self:
        """Return the error of a request that was not sent since the server, answering others, asked for a pause."""
        message = f"the server asked to be left alone for {seconds:.0f} s more"
        error = cls(status_code=429, message=message, method=method, path=path, retry_after=seconds)
        error.args = (f"{method} {path} was not sent: {message}. {cls._hint}",)
        return error


class ServerError(StatusError):
    """5xx: the server failed."""

    _hint = "(The fault is the server's: ask again later.)"


_SERVER_ERRORS: Final = 500
_BY_STATUS: Final[dict[int, type[StatusError]]] = {
    400: InvalidRequest,
    401: AuthenticationError,
    403: PermissionDenied,
    404: NotFound,
    422: InvalidRequest,
    429: RateLimited,
}


class InvalidResponse(AnnoLabError):
    """The server reported success, but its body is not what was asked for.

    Attributes:
        method, path: the request.
        fault: what is wrong, naming the field.
        excerpt: the beginning of the body, without secrets.
        inference_job_id: the job's id, when it could be told from the damaged body.
        went_back: whether the body is the job's, but says Queued of one that was seen running.
    """

    def __init__(
        self,
        *,
        method: str,
        path: str,
        fault: str,
        excerpt: str,
        inference_job_id: int | None = None,
        wanted: str = "a job",
        went_back: bool = False,
    ) -> None:
        self.method = method
        self.path = path
        self.fault = fault
        self.excerpt = excerpt
        self.inference_job_id = inference_job_id
        self.went_back = went_back
        text = f"{method} {path} was answered with something else than {wanted}: {fault}. "
        if inference_job_id is not None:
            text += f"The job exists, its id is {inference_job_id}: watch it by that. "
        hint = " (Is the base URL that of AnnoLab, with no proxy or sign-in page in between?)"
        text += f"The body began: {excerpt!r}." if excerpt else ""
        super().__init__((text + (hint if inference_job_id is None else "")).rstrip())
