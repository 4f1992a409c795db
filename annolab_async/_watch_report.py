"""What is told of a watcher: hooks hear of each job, and the log has a line a minute."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Final

from annolab_async._hook_records import RetryPlanned, WatchBegan, WatchEnded
from annolab_async.errors import InvalidResponse

if TYPE_CHECKING:
    from annolab_async._hooks import Hooks
    from annolab_async._records import InferenceJob, Outcome, Transition, WatchStats
    from annolab_async._watch_state import Watched
    from annolab_async.errors import AnnoLabError

__all__ = ["WatchReport"]

# Its lines are those of the watcher.
_log: Final = logging.getLogger("annolab_async._watcher")
_SECONDS_BETWEEN_LINES: Final = 60.0


class WatchReport:
    """Tells what becomes of a watcher's jobs.

    Args:
        hooks: who wants to hear of it.

    Attributes:
        noun: what is watched, as the log calls it.
        level: at which level the line a minute is logged.
        line_due: when the next line is due, on the loop's clock.
    """

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks
        self._watches: dict[int, WatchBegan] = {}
        self._jobs = 0
        self._polls = 0
        self._quiet_until = -math.inf  # after a warning, for a while
        self.noun = "job"
        self.level = logging.INFO
        self.line_due: float  # from open() on

    def open(self, now: float) -> None:
        """Take note that the watcher begins."""
        self.line_due = now + _SECONDS_BETWEEN_LINES

    def added(
        self, job_id: int, job: InferenceJob | None, model_identifier: str | int | None
    ) -> None:
        """Tell of a job that is taken up."""
        self._jobs += 1
        hooks = self._hooks
        if hooks.watch is not None or hooks.watch_end is not None:
            watch = self._watches[job_id] = WatchBegan(
                inference_job_id=job_id, job=job, model_identifier=model_identifier
            )
            if hooks.watch is not None:
                hooks.watch(watch)

    def changed(self, transition: Transition) -> None:
        """Tell of a transition."""
        if self._hooks.transition is not None:
            self._hooks.transition(transition)
        if transition.outcome is not None:
            self._ended(
                transition.inference_job_id,
                transition.job,
                transition.elapsed,
                transition.polls,
                outcome=transition.outcome,
                error=transition.error,
            )
        # Of anything else, the errors speak of jobs, and better ones are raised.
        if self.noun == "job" and (transition.error or _log.isEnabledFor(logging.DEBUG)):
            _log_transition(transition)

    def dropped(self, watched: Watched, now: float) -> None:
        """Tell of a job that is not watched any more, though it has no outcome."""
        self._ended(watched.job_id, watched.job, now - watched.added_at, watched.polls)

    def _ended(
        self,
        job_id: int,
        job: InferenceJob | None,
        elapsed: float,
        polls: int,
        *,
        outcome: Outcome | None = None,
        error: AnnoLabError | None = None,
    ) -> None:
        watch = self._watches.pop(job_id, None)
        if watch is not None and self._hooks.watch_end is not None:
            self._hooks.watch_end(
                WatchEnded(
                    watch=watch,
                    job=job,
                    outcome=outcome,
                    elapsed=elapsed,
                    polls=polls,
                    error=error,
                )
            )

    def failed(self, watched: Watched, error: AnnoLabError, now: float) -> None:
        """Tell of a poll that failed."""
        level = logging.DEBUG
        if isinstance(error, InvalidResponse) and now >= self._quiet_until:
            level = logging.WARNING
            self._quiet_until = now + _SECONDS_BETWEEN_LINES
        _log.log(
            level,
            "Poll of %s %d failed: %s",
            self.noun,
            watched.job_id,
            error,
            extra={
                "inference_job_id" if self.noun == "job" else f"{self.noun}_id": watched.job_id,
                "attempt": watched.failures + 1,
                "error": type(error).__name__,
            },
        )

    def put_back(self, watched: Watched, error: AnnoLabError, delay: float) -> None:
        """Tell of a poll that failed, and is going to be repeated before its regular time."""
        if self._hooks.retry is not None:
            self._hooks.retry(
                RetryPlanned(
                    kind="poll",
                    attempt=watched.failures,
                    delay=delay,
                    error=error,
                    inference_job_id=watched.job_id,
                )
            )

    def line(self, now: float, stats: WatchStats) -> None:
        """Log the line of this minute: how things stand, and how many polls it took.

        Args:
            now: the time.
            stats: how things stand.
        """
        self.line_due = now + _SECONDS_BETWEEN_LINES
        polls, self._polls = stats.polls - self._polls, stats.polls
        outcomes = {str(outcome): count for outcome, count in stats.outcomes.items()}
        # Services wait for many a single job at once: a line for each of them is a line too many.
        _log.log(
            self.level if self._jobs > 1 else logging.DEBUG,
            "%d %ss are watched%s; %d polls since the last line.",
            stats.active,
            self.noun,
            "".join(
                f", {count} {outcome.replace('_', ' ')}" for outcome, count in outcomes.items()
            ),
            polls,
            extra={
                "jobs": stats.active,
                "polls": polls,
                "in_flight": stats.in_flight,
                "outcomes": outcomes,
            },
        )


def _log_transition(transition: Transition) -> None:
    error = transition.error
    # Not the server's word, which may be anything.
    state = str(transition.job.state) if transition.job else None
    _log.log(
        logging.DEBUG if error is None else logging.WARNING,
        "%s",
        error or f"Job {transition.inference_job_id} is {state}.",
        extra={
            "inference_job_id": transition.inference_job_id,
            "state": state,
            "outcome": transition.outcome and str(transition.outcome),
            "elapsed": transition.elapsed,
            "polls": transition.polls,
        },
    )
