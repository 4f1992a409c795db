"""Requests and answers that were lost on their way, told apart by what may have become of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from annolab_async.errors._answers import InvalidResponse
from annolab_async.errors._base import AnnoLabError, describe

if TYPE_CHECKING:
    from annolab_async._records import InferenceRequest

__all__ = ["JobIdLost", "NoResponse", "RequestNotSent", "SubmissionUnknown"]


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
            f"{method} {path} was not sent ({describe(cause)}). Nothing reached the server: check "
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
        text = f"{method} {path} was sent, but no whole answer came ({describe(cause)})."
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
            f"The batch of {len(request.source_ids)} sources was sent, but its answer is lost: {describe(cause)} "
            "The job may or may not exist, and sending it again may pay for it twice. "
            f"Look for new predictions in the output layer {request.output_layer_identifier!r} first.",
        )


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
        error.went_back = False
        return error
