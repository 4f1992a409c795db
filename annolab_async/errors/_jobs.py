"""Jobs whose end was not seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from annolab_async.errors._answers import NotFound
from annolab_async.errors._base import AnnoLabError

if TYPE_CHECKING:
    from annolab_async._records import InferenceJob

__all__ = ["JobLost", "JobNotFound", "WaitTimeout", "shown_word"]

_LONGEST_WORD: Final = 40


def shown_word(status: str) -> str:
    """Return a status word of the server's, which may be anything, as it can be shown: short and printable."""
    word = "".join(char if char.isprintable() else " " for char in status[:_LONGEST_WORD])
    return f"{word}…" if len(status) > _LONGEST_WORD else word


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
        seen = f"last seen {shown_word(job.status)}" if job else "never seen"
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
