"""What hooks are told: one record for each event. None holds a secret: no key, and no signed link."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

# For who resolves the types of the records at run time.
from annolab_async._batch_records import BatchRecord, BatchState  # noqa: TC001
from annolab_async._export_records import ExportState  # noqa: TC001
from annolab_async._limits import Kind, Reason  # noqa: TC001
from annolab_async._records import InferenceJob, InferenceRequest, Outcome  # noqa: TC001

__all__ = [
    "BatchChanged",
    "DownloadBegan",
    "DownloadEnded",
    "ExportBegan",
    "ExportEnded",
    "RequestBegan",
    "RequestEnded",
    "RequestKind",
    "RetryPlanned",
    "SubmissionBegan",
    "SubmissionEnded",
    "TurnWaited",
    "WatchBegan",
    "WatchEnded",
]

RequestKind = Literal["submit", "poll", "read", "export"]


@frozen(kw_only=True, eq=False)
class ExportBegan:
    """An export is about to be made, or one that was made before is seen for the first time.

    Attributes:
        export_id: its id; None while it is about to be made.
    """

    export_id: int | None = None


@frozen(kw_only=True, eq=False)
class ExportEnded:
    """What became of an export; there is one for each that began.

    Attributes:
        export: which one.
        export_id: its id; None if it was not made.
        state: its last state; None if it was not made. It is no end where the client was closed before.
        duration: seconds since it began.
        error: why it could not be made; None if it was.
    """

    export: ExportBegan
    export_id: int | None
    state: ExportState | None
    duration: float
    error: BaseException | None = None


@frozen(kw_only=True, eq=False)
class DownloadBegan:
    """The file of an export is about to be downloaded, in one request or in several, of which nothing else is told.

    Attributes:
        export_id: the export.
    """

    export_id: int


@frozen(kw_only=True, eq=False)
class DownloadEnded:
    """What became of a download; there is one for each that began.

    Attributes:
        download: which one.
        size: bytes of the file; None if it is not there.
        duration: seconds since it began, the file's check included.
        error: what was raised, a cancellation included; None if all went well.
    """

    download: DownloadBegan
    size: int | None
    duration: float
    error: BaseException | None


@frozen(eq=False)
class RequestBegan:
    """A request is about to be sent.

    Attributes:
        kind: ``"submit"`` a batch, ``"poll"`` a job for a watcher, ``"read"`` a job for ``get_job``, or ``"export"``.
        method: the HTTP method.
        origin: scheme, host and port that it goes to.
        path: what is asked for there, below the base URL.
        inference_job_id: the job that is asked for, None for other kinds.
        resends: how often this call has sent it before. A watcher counts otherwise: see :class:`RetryPlanned`.
        export: the export that it is about, if its beginning was told.
    """

    kind: RequestKind
    method: str
    origin: str
    path: str
    inference_job_id: int | None = None
    resends: int = 0
    export: ExportBegan | None = None


@frozen(eq=False)
class RequestEnded:
    """What became of a request; there is one for each that began.

    Attributes:
        request: which one.
        duration: seconds from the beginning to the end of the answer.
        status_code: the answer's status, None if none came.
        error: what was raised, a cancellation included; None if the answer was as it should be.
    """

    request: RequestBegan
    duration: float
    status_code: int | None
    error: BaseException | None


@frozen(kw_only=True, eq=False)
class SubmissionBegan:
    """A batch is about to be submitted, in one request or, if that is repeated, in several.

    Attributes:
        request: the batch.
        run: the fan-out's name, None outside of one.
        batch: the batch's number in it, None outside of one.
        attempt: how often the fan-out has claimed the batch, this time included.
    """

    request: InferenceRequest
    run: str | None = None
    batch: int | None = None
    attempt: int = 1


@frozen(kw_only=True, eq=False)
class SubmissionEnded:
    """What became of a submission; there is one for each that began.

    Attributes:
        submission: which one.
        inference_job_id: its job, None if there is none or its id is not known.
        job: its job as the server made it, None if it is not known.
        duration: seconds since it began, waiting included.
        error: what was raised, a cancellation included; None if all went well.
    """

    submission: SubmissionBegan
    inference_job_id: int | None
    job: InferenceJob | None
    duration: float
    error: BaseException | None


@frozen(kw_only=True, eq=False)
class WatchBegan:
    """A watcher has taken up a job.

    Attributes:
        inference_job_id: the job.
        job: what is known of it; None if it was given by its id.
        model_identifier: the model that it is for, if that was said.
    """

    inference_job_id: int
    job: InferenceJob | None
    model_identifier: str | int | None = None


@frozen(kw_only=True, eq=False)
class WatchEnded:
    """A watcher watches a job no more; there is one for each that it has taken up.

    Attributes:
        watch: which one.
        job: its last state; None if it was never seen.
        outcome: how it ended; None if it was discarded, or the watcher left, before.
        elapsed: seconds since it was taken up.
        polls: how often it was asked for.
        error: why the job timed out or was lost.
    """

    watch: WatchBegan
    job: InferenceJob | None
    outcome: Outcome | None
    elapsed: float
    polls: int
    error: BaseException | None = None


@frozen(kw_only=True, eq=False)
class RetryPlanned:
    """A request has failed, and is going to be sent again.

    Attributes:
        kind: of the request.
        attempt: how often it has failed in a row, at least 1.
        delay: seconds until it is sent again; in a fan-out, until anything is.
        error: what it has failed with.
        inference_job_id: the job that was asked for, None for other kinds.
    """

    kind: RequestKind
    attempt: int
    delay: float
    error: BaseException
    inference_job_id: int | None = None


@frozen(kw_only=True, eq=False)
class TurnWaited:
    """A request has had to wait for its turn, and has it now.

    Attributes:
        kind: whose turn it is; exports are made in the turn of ``"submit"`` and asked for in that of ``"read"``.
        seconds: how long it has waited.
        reason: what for when it began to: the client's ``"rate_limit"``, or the slower rate after a 429; the server's
            wish to be left alone, ``"retry_after"``; or one of the client's ``"connections"``.
    """

    kind: Kind
    seconds: float
    reason: Reason


@frozen(kw_only=True, eq=False)
class BatchChanged:
    """A batch of a fan-out has changed, and the ledger knows.

    Attributes:
        run: the fan-out's name.
        previous: its state before; None for a part of a batch that was split.
        record: the batch as it is now.
    """

    run: str
    previous: BatchState | None
    record: BatchRecord
