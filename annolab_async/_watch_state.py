"""What a watcher knows of its jobs, and what it concludes from each answer. Pure: time comes in as an argument."""

from __future__ import annotations

import math
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final

from attrs import define

from annolab_async._records import JobState, Outcome, Transition
from annolab_async._retry import is_overload
from annolab_async.errors import (
    AuthenticationError,
    InvalidResponse,
    JobLost,
    JobNotFound,
    NotFound,
    PermissionDenied,
    RateLimited,
    RequestNotSent,
    StatusError,
    WaitTimeout,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from random import Random

    from annolab_async._limits import Pacer
    from annolab_async._records import InferenceJob, StatusReply
    from annolab_async._retry import RetryBudget, RetryPolicy
    from annolab_async._schedule import PollPlanner
    from annolab_async.errors import AnnoLabError

__all__ = ["WatchState", "Watched"]

# How many jobs must be refused with 401 or 403, without an answer to any other in between, before the key is
# held to be at fault and not the jobs. With fewer jobs, all of them.
_JOBS_THAT_PROVE_A_BAD_KEY: Final = 10
# How often in a row one job must be denied before that is believed: a job that was just made may not be known
# to every server behind a load balancer yet.
_DENIALS_BELIEVED: Final = 3
_SECONDS_UNTIL_KNOWN: Final = 5.0
# Timers may ring a hair before their time; asking again for a wait of a nanosecond would be a busy loop.
_EARLY_RING: Final = 1e-6


@define(eq=False)
class Watched:
    """One watched job."""

    job_id: int
    added_at: float
    timeout: float | None
    known: InferenceJob | None
    seen_at: float
    asked_at: float = 0.0
    polls: int = 0
    reply: StatusReply | None = None
    failing_since: float = 0.0
    failures: int = 0
    denials: int = 0
    is_repeat: bool = False
    delay: float = 0.0  # of the repetition
    went_back: bool = False  # from running to queued, as an answer said that is not believed yet

    @property
    def job(self) -> InferenceJob | None:
        """The state last seen, by a poll or by who added it."""
        return self.reply.job if self.reply else self.known

    @property
    def deadline(self) -> float:
        """When the job's time is over."""
        return math.inf if self.timeout is None else self.added_at + self.timeout


class WatchState:
    """The jobs of one watcher that have no outcome yet.

    Args:
        planner: decides which job is next.
        pacer: bounds the polls of all jobs together.
        retry: how long to wait after a failed poll.
        budget: how many polls may be repeated before their time.
        random: where jitter comes from.
        failure_budget: seconds for which polls of a job may keep failing before it is LOST.
        keep_open: whether more jobs may come when none is left, as in a service.
        utc_now: tells the time of day that transitions carry.
    """

    def __init__(
        self,
        *,
        planner: PollPlanner,
        pacer: Pacer,
        retry: RetryPolicy,
        budget: RetryBudget,
        random: Random,
        failure_budget: float,
        keep_open: bool,
        utc_now: Callable[[], datetime],
    ) -> None:
        self._planner = planner
        self._pacer = pacer
        self._retry = retry
        self._budget = budget
        self._random = random
        self._failure_budget = failure_budget
        self._keep_open = keep_open
        self._utc_now = utc_now
        self._watched: dict[int, Watched] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._refused: set[int] = set()
        self._refusals = 0
        self._has_answered = False

    def __len__(self) -> int:
        return len(self._watched)

    def __iter__(self) -> Iterator[Watched]:
        return iter([*self._watched.values()])

    def __contains__(self, job_id: int) -> bool:
        return job_id in self._watched

    def add(
        self,
        job_id: int,
        now: float,
        *,
        job: InferenceJob | None,
        timeout: float | None,
        model_identifier: str | int | None = None,
    ) -> Transition | None:
        """Take up a job; return its end at once if the caller already knows it.

        Args:
            job_id: the job.
            now: the time.
            job: what the caller knows of it.
            timeout: seconds from now in which it is to end, None for no limit.
            model_identifier: the model that it is for, if the caller says so.
        """
        watched = Watched(
            job_id=job_id,
            added_at=now,
            timeout=timeout,
            known=job,
            seen_at=now,
        )
        if job and job.is_terminal:
            return self._transition(watched, now, job=job, outcome=_OUTCOMES[job.state])
        self._watched[job_id] = watched
        if timeout is not None:
            self._put_deadline(watched)
        self._planner.add(
            job_id, now, job.state if job else None, model_identifier=model_identifier
        )
        return None

    def discard(self, job_id: int) -> Watched | None:
        """Forget a job; return what was known of it, None if it was not watched."""
        self._planner.discard(job_id)
        self._refused.discard(job_id)
        return self._watched.pop(job_id, None)

    def due_at(self) -> float | None:
        """Return when the next poll may go, None if there is none to wait for."""
        due = self._planner.due_at()
        return None if due is None else max(due, self._pacer.free_at())

    def is_due(self, now: float) -> bool:
        """Return whether a poll may go now."""
        due_at = self.due_at()
        return due_at is not None and due_at <= now + _EARLY_RING

    def pick(self, now: float) -> Watched | None:
        """Return the job to ask for now, None if none is due."""
        soon = now + _EARLY_RING
        if self._pacer.free_at() > soon or (job_id := self._planner.pick(soon)) is None:
            return None
        self._pacer.take(now)
        watched = self._watched[job_id]
        watched.asked_at = now
        watched.polls += 1
        if not watched.is_repeat:
            self._budget.earn()
        return watched

    def answered(self, watched: Watched, now: float, reply: StatusReply) -> Transition | None:
        """Take note of an answer; return the transition that it shows, if any."""
        if self._watched.get(watched.job_id) is not watched:
            return None  # discarded or timed out while the poll was in flight
        previous, job = watched.reply, reply.job
        uncertainty = now - watched.seen_at
        watched.reply = reply
        watched.seen_at = watched.asked_at
        watched.failures = watched.denials = 0
        watched.is_repeat = watched.went_back = False
        self._has_answered = True
        self._refused.clear()
        self._refusals = 0
        self._planner.answered(watched.job_id, now, watched.asked_at, job.state)
        if previous is reply or (previous and previous.job.status == job.status):
            return None
        if job.is_terminal:
            del self._watched[watched.job_id]
        return self._transition(
            watched,
            now,
            job=job,
            previous=previous.job if previous else None,
            outcome=_OUTCOMES.get(job.state),
            uncertainty=uncertainty,
        )

    def failed(self, watched: Watched, now: float, error: AnnoLabError) -> Transition | None:
        """Take note of a poll that failed; return the job's end, if this is it.

        Raises:
            AnnoLabError: ``error`` itself, when it makes every further poll pointless.
        """
        if self._watched.get(watched.job_id) is not watched:
            return None
        if isinstance(error, RateLimited):
            # Asking too often is no job's fault, and costs it nothing. The client sees to it that all ask less.
            self._put_back(watched, now, error)
            return None
        if watched.failures == 0:
            watched.failing_since = watched.asked_at
        watched.failures += 1
        is_denial = isinstance(error, AuthenticationError | PermissionDenied | NotFound)
        watched.denials = watched.denials + 1 if is_denial else 0
        if isinstance(error, InvalidResponse) and error.went_back:
            watched.went_back = True
        if self._is_refused_to_all(watched.job_id, error) or self._can_never_be_sent(error):
            raise error
        loss = self._loss(watched, now, error)
        if loss is None:
            self._put_back(watched, now, error)
            return None
        return self._end(watched, now, Outcome.LOST, loss)

    def _put_back(self, watched: Watched, now: float, error: AnnoLabError) -> None:
        # Where the server names a time, the whole client waits for it, and nobody comes sooner.
        is_told_when = isinstance(error, StatusError) and is_overload(error)
        watched.is_repeat = not is_told_when and self._budget.spend()
        retry_at = None
        if watched.is_repeat:
            watched.delay = self._retry.delay(watched.failures, self._random)
            retry_at = now + watched.delay
        self._planner.failed(watched.job_id, now, retry_at)

    def _can_never_be_sent(self, error: AnnoLabError) -> bool:
        return isinstance(error, RequestNotSent) and error.is_final and not self._has_answered

    def _is_refused_to_all(self, job_id: int, error: AnnoLabError) -> bool:
        if not isinstance(error, AuthenticationError | PermissionDenied):
            return False
        if isinstance(error, PermissionDenied) and (self._has_answered or self._keep_open):
            return False  # the key may do this elsewhere: the job's project is at fault
        self._refused.add(job_id)
        self._refusals += 1
        # A key that has worked, or that others may still come to use, is not given up after one bad answer.
        enough = _DENIALS_BELIEVED if self._has_answered or self._keep_open else 1
        jobs = min(len(self._watched), _JOBS_THAT_PROVE_A_BAD_KEY)
        is_all = len(self._refused) >= jobs or self._refusals >= _JOBS_THAT_PROVE_A_BAD_KEY
        return self._refusals >= enough and is_all

    def _loss(self, watched: Watched, now: float, error: AnnoLabError) -> JobLost | None:
        job_id, job = watched.job_id, watched.job
        is_new = job is not None and now - watched.added_at < _SECONDS_UNTIL_KNOWN
        if isinstance(error, NotFound) and is_new:
            return None
        if isinstance(error, NotFound) and (job is None or watched.denials >= _DENIALS_BELIEVED):
            return JobNotFound.because(inference_job_id=job_id, job=job, cause=error)
        is_the_jobs_fault = self._has_answered or self._keep_open
        if watched.denials >= _DENIALS_BELIEVED and is_the_jobs_fault:
            return JobLost(inference_job_id=job_id, job=job, cause=error, why=str(error))
        failing_for = now - watched.failing_since
        if failing_for >= self._failure_budget:
            why = f"{watched.failures} polls in a row failed over {failing_for:.0f} s, the last: {error}"
            return JobLost(inference_job_id=job_id, job=job, cause=error, why=why)
        return None

    def _put_deadline(self, watched: Watched) -> None:
        heappush(self._deadlines, (watched.deadline, watched.job_id))
        if len(self._deadlines) > 2 * len(self._watched):
            # Mostly of jobs that have ended, behind one that has not: a service would pile them up.
            self._deadlines = [entry for entry in self._deadlines if self._is_current(*entry)]
            heapify(self._deadlines)

    def next_deadline(self) -> float | None:
        """Return when the next job's time is over, None if no job has a limit."""
        deadlines = self._deadlines
        while deadlines and not self._is_current(*deadlines[0]):
            heappop(deadlines)
        return deadlines[0][0] if deadlines else None

    def _is_current(self, deadline: float, job_id: int) -> bool:
        watched = self._watched.get(job_id)
        return watched is not None and watched.deadline == deadline

    def expire(self, now: float) -> Iterator[Transition]:
        """Yield the end of each job whose time is over."""
        while (deadline := self.next_deadline()) is not None and deadline <= now + _EARLY_RING:
            watched = self._watched[heappop(self._deadlines)[1]]
            error = WaitTimeout(
                inference_job_id=watched.job_id, job=watched.job, timeout=watched.timeout or 0.0
            )
            yield self._end(watched, now, Outcome.TIMED_OUT, error)

    def _end(
        self, watched: Watched, now: float, outcome: Outcome, error: AnnoLabError
    ) -> Transition:
        self.discard(watched.job_id)
        return self._transition(
            watched,
            now,
            job=watched.job,
            previous=watched.reply.job if watched.reply else None,
            outcome=outcome,
            error=error,
        )

    def _transition(
        self,
        watched: Watched,
        now: float,
        *,
        job: InferenceJob | None,
        previous: InferenceJob | None = None,
        outcome: Outcome | None,
        uncertainty: float | None = None,
        error: AnnoLabError | None = None,
    ) -> Transition:
        return Transition(
            inference_job_id=watched.job_id,
            job=job,
            previous=previous,
            outcome=outcome,
            observed_at=self._utc_now(),
            elapsed=now - watched.added_at,
            polls=watched.polls,
            uncertainty=now - watched.seen_at if uncertainty is None else uncertainty,
            error=error,
        )


_OUTCOMES: Final = {JobState.FINISHED: Outcome.FINISHED, JobState.ERRORED: Outcome.ERRORED}
