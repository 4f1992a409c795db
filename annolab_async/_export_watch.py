"""Exports as what watches jobs sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from annolab_async._export_records import ExportState
from annolab_async._hooks import NO_HOOKS
from annolab_async._records import InferenceJob, StatusReply
from annolab_async._schedule import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable

    from annolab_async._export_calls import ExportCalls
    from annolab_async._export_records import ExportJob
    from annolab_async._hooks import Hooks
    from annolab_async._limits import Turnstile
    from annolab_async._retry import RetryBudget, RetryPolicy

__all__ = ["SCHEDULE", "AsJob"]

# As often as the vendor's SDK asks at first, and in the end as seldom as its sample.
SCHEDULE: Final = Backoff(first=1.0, cap=15.0)
_WORDS: Final = {ExportState.FINISHED: "Finished", ExportState.ERRORED: "Errored"}


class AsJob:
    """An export as a watcher sees it: a job that ends.

    Args:
        calls: what to ask with.
        current: returns the export as it was last seen.
        note: is told the export and the link to its file, as they are.
    """

    def __init__(
        self,
        calls: ExportCalls,
        current: Callable[[], ExportJob],
        note: Callable[[ExportJob, str | None], object],
    ) -> None:
        self._calls = calls
        self._current = current
        self._note = note

    @property
    def retry(self) -> RetryPolicy:
        """How long to wait after a question that failed."""
        return self._calls.retry

    @property
    def budget(self) -> RetryBudget:
        """How many questions may be repeated before their time."""
        return self._calls.budget

    @property
    def turns(self) -> Turnstile:
        """Where each waits for its turn."""
        return self._calls.turns

    @property
    def hooks(self) -> Hooks:
        """Nobody: it is no job. Who wants to hear of exports is told where they are asked for."""
        return NO_HOOKS

    async def poll_status(
        self,
        job_id: int,
        previous: StatusReply | None = None,
        *,
        may_go_back: bool = False,  # noqa: ARG002  # words that are not known do not count
    ) -> StatusReply:
        """Ask for the export once."""
        job, link = await self._calls.ask_once(self._current())
        self._note(job, link)
        status = _WORDS.get(job.state, "Running")
        if previous and previous.job.status == status:
            return previous
        return StatusReply(InferenceJob(job_id, status, ()), b"")
