"""Everything that this library raises of its own accord.

```
AnnoLabError
├── ConfigurationError          no key, a bad base URL or option: raised at construction
├── NotOpen                     a client or watcher used outside its ``async with`` (also a RuntimeError)
├── RequestNotSent              provably never reached the server: safe to send again
├── NoResponse                  a read that was sent, and whose answer never came whole
├── SubmissionUnknown           a submission whose answer is lost: the batch may or may not exist
│   └── JobIdLost               because it is damaged, and the job's id with it (also an InvalidResponse)
├── StatusError                 the server answered with a status that is not a success
│   ├── AuthenticationError     401
│   ├── PermissionDenied        403
│   ├── NotFound                404
│   ├── InvalidRequest          400, 422
│   ├── RateLimited             429
│   └── ServerError             5xx
├── InvalidResponse             a success whose body is not what was asked for
├── WaitTimeout                 the job did not end in the time given
├── JobLost                     the job can no longer be watched
│   └── JobNotFound             because the server does not know it (also a NotFound)
└── LedgerError                 the ledger cannot be read, written or trusted
```

Every error can be pickled, so that it crosses process boundaries; none holds an API key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable

    from annolab_async._records import InferenceJob, InferenceRequest

__all__ = [
    "AnnoLabError",
    "AuthenticationError",
    "ConfigurationError",
    "InvalidRequest",
    "InvalidResponse",
    "JobIdLost",
    "JobLost",
    "JobNotFound",
    "LedgerError",
    "NoResponse",
    "NotFound",
    "NotOpen",
    "PermissionDenied",
    "RateLimited",
    "RequestNotSent",
    "ServerError",
    "StatusError",
    "SubmissionUnknown",
    "WaitTimeout",
]


class AnnoLabError(Exception):
    """Base of every error that this library raises; ``str()`` says what happened and how to mend it."""

    def __reduce__(self) -> tuple[Callable[..., AnnoLabError], tuple[object, ...]]:
        # Exception's own __reduce__ calls the class with its text, which subclasses with
        # keyword arguments refuse; a foreign exception may hold a request and with it the key.
        state = {
            name: _portable(value) if isinstance(value, BaseException) else value
            for name, value in self.__dict__.items()
        }
        return _rebuild, (type(self), self.args, state)


def _rebuild(
    cls: type[AnnoLabError], args: tuple[object, ...], state: dict[str, Any]
) -> AnnoLabError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(state)
    return error


def _portable(error: BaseException) -> AnnoLabError:
    return error if isinstance(error, AnnoLabError) else AnnoLabError(_describe(error))


def _describe(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class ConfigurationError(AnnoLabError):
    """The client cannot work as configured; raised at construction, before any request."""


class NotOpen(AnnoLabError, RuntimeError):
    """A client or watcher was used before its ``async with`` block was entered or after it was left."""


class RequestNotSent(AnnoLabError):
    """The request provably never reached the server, so that it is safe to send it again.

    Attributes:
        method, path: the request.
        cause: what the transport reported.
        is_final: whether sending it again cannot help before something is mended, such as a certificate.
    """

    def __init__(
        self, *, method: str, path: str, cause: BaseException, is_final: bool = False
    ) -> None:
        self.method = method
        self.path = path
        self.cause = cause
        self.is_final = is_final
        super().__init__(
            f"{method} {path} was not sent ({_describe(cause)}). Nothing reached the server: check "
            + (
                "the base URL, its certificate and the proxy settings: sending it again will not help."
                if is_final
                else "the base URL and the network, then send it again."
            )
        )


class NoResponse(AnnoLabError):
    """The request was sent, but no whole answer came back in time.

    A read may be repeated. For a submission this becomes :class:`SubmissionUnknown`.

    Attributes:
        method, path: the request.
        cause: what the transport reported.
    """

    def __init__(self, *, method: str, path: str, cause: BaseException) -> None:
        self.method = method
        self.path = path
        self.cause = cause
        text = f"{method} {path} was sent, but no whole answer came ({_describe(cause)})."
        # Only a read may simply be repeated.
        hint = " Ask again, or give the client a longer timeout." if method == "GET" else ""
        super().__init__(text + hint)


class SubmissionUnknown(AnnoLabError):
    """A batch was sent and its answer lost: the job may or may not exist. It is never sent again by itself.

    Attributes:
        request: the :class:`InferenceRequest` whose fate is unknown.
        cause: what happened instead of an answer.
    """

    def __init__(self, *, request: InferenceRequest, cause: BaseException) -> None:
        self.request = request
        self.cause = cause
        # Not super(): in JobIdLost the next class in line is InvalidResponse.
        AnnoLabError.__init__(
            self,
            f"The batch of {len(request.source_ids)} sources was sent, but its answer is lost: {_describe(cause)} "
            "The job may or may not exist, and sending it again may pay for it twice. "
            f"Look for new predictions in the output layer {request.output_layer_identifier!r} first.",
        )


class StatusError(AnnoLabError):
    """The server answered with a status that is not a success.

    Attributes:
        status_code: the HTTP status.
        message: what the server said, shortened; empty when it said nothing.
        method, path: the request.
        retry_after: seconds the server asked to wait, None when it did not say.
    """

    _hint: ClassVar[str] = ""

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
        super().__init__(f"{text} {self._hint}".rstrip())

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
    """

    def __init__(
        self,
        *,
        method: str,
        path: str,
        fault: str,
        excerpt: str,
        inference_job_id: int | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.fault = fault
        self.excerpt = excerpt
        self.inference_job_id = inference_job_id
        text = f"{method} {path} was answered with something else than a job: {fault}. "
        if inference_job_id is not None:
            text += f"The job exists, its id is {inference_job_id}: watch it by that. "
        hint = " (Is the base URL that of AnnoLab, with no proxy or sign-in page in between?)"
        text += f"The body began: {excerpt!r}." if excerpt else ""
        super().__init__((text + (hint if inference_job_id is None else "")).rstrip())


class JobIdLost(SubmissionUnknown, InvalidResponse):
    """The server reported a batch as taken, but in an answer from which the job's id cannot be told.

    Both a :class:`SubmissionUnknown`, since nothing may be sent again, and the :class:`InvalidResponse` that came.
    """

    @classmethod
    def because(cls, *, request: InferenceRequest, cause: InvalidResponse) -> Self:
        """Return what becomes of a submission that was answered so."""
        error = cls(request=request, cause=cause)
        error.method = cause.method
        error.path = cause.path
        error.fault = cause.fault
        error.excerpt = cause.excerpt
        error.inference_job_id = None
        return error


class WaitTimeout(AnnoLabError):
    """The job did not end within the time given to it. The job itself goes on.

    Attributes:
        inference_job_id: the job.
        job: its last state seen, None if it was never seen.
        timeout: the time given, in seconds.
    """

    def __init__(self, *, inference_job_id: int, job: InferenceJob | None, timeout: float) -> None:
        self.inference_job_id = inference_job_id
        self.job = job
        self.timeout = timeout
        seen = f"last seen {job.status}" if job else "never seen"
        super().__init__(
            f"Job {inference_job_id} did not end within {timeout:g} s ({seen}). "
            "It goes on at the server: watch it again, or give it a longer timeout."
        )


class JobLost(AnnoLabError):
    """The job can no longer be watched: asking for it failed for too long, or the server does not know it.

    Attributes:
        inference_job_id: the job.
        job: its last state seen, None if it was never seen.
        cause: the last failure.
    """

    def __init__(
        self,
        *,
        inference_job_id: int,
        job: InferenceJob | None,
        cause: AnnoLabError | None,
        why: str,
    ) -> None:
        self.inference_job_id = inference_job_id
        self.job = job
        self.cause = cause
        # Not super(): in JobNotFound the next class in line is StatusError.
        AnnoLabError.__init__(self, f"Job {inference_job_id} is lost: {why}")


class JobNotFound(JobLost, NotFound):
    """The server does not know the job, so that it can no longer be watched.

    Both a :class:`JobLost` and the :class:`NotFound` that caused it.
    """

    @classmethod
    def because(cls, *, inference_job_id: int, job: InferenceJob | None, cause: NotFound) -> Self:
        """Return the loss of a job that the server answered a poll for with 404."""
        error = cls(
            inference_job_id=inference_job_id,
            job=job,
            cause=cause,
            why=f"{cause} (Is it an id of this server? Jobs of another account cannot be seen.)",
        )
        error.status_code = cause.status_code
        error.message = cause.message
        error.method = cause.method
        error.path = cause.path
        error.retry_after = cause.retry_after
        return error


class LedgerError(AnnoLabError):
    """The ledger cannot be read, written or trusted, so that nothing more may be sent.

    What is already in it stays as it was: a change is written whole or not at all.

    Attributes:
        where: the ledger, without passwords.
        what: what happened.
        hint: how to mend it.
        is_outcome_known: whether it is certain that the change in question was not written. When it is not, the
            ledger itself says so once it can be read again.
    """

    def __init__(self, *, where: str, what: str, hint: str, is_outcome_known: bool = True) -> None:
        self.where = where
        self.what = what
        self.hint = hint
        self.is_outcome_known = is_outcome_known
        doubt = "" if is_outcome_known else " Whether the last change was written is not known."
        super().__init__(f"The ledger {where} cannot be used: {what}.{doubt} {hint}")
