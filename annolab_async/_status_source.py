"""What a watcher needs of a client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from annolab_async._hooks import Hooks
    from annolab_async._limits import Turnstile
    from annolab_async._records import StatusReply
    from annolab_async._retry import RetryBudget, RetryPolicy

__all__ = ["StatusSource"]


class StatusSource(Protocol):
    """Asks for one job, once; and tells how often and how fast that may be done."""

    @property
    def retry(self) -> RetryPolicy:
        """How long to wait after a poll that failed."""
        ...

    @property
    def budget(self) -> RetryBudget:
        """How many polls that failed may be repeated before their time."""
        ...

    @property
    def turns(self) -> Turnstile:
        """Where each poll waits for its turn among all requests of the client."""
        ...

    @property
    def hooks(self) -> Hooks:
        """Who wants to hear of what happens."""
        ...

    async def poll_status(
        self, job_id: int, previous: StatusReply | None = None, *, may_go_back: bool = False
    ) -> StatusReply:
        """Ask for a job's state; return ``previous`` itself if it is the same.

        It must give way to other tasks, as everything does that waits for a network.
        """
        ...
