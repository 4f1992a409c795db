"""The watcher: a few polling tasks that share many jobs, and an iterator over what they see."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import asynccontextmanager
from copy import copy
from datetime import UTC, datetime
from random import Random
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Self, TypedDict

from anyio import (
    AsyncContextManagerMixin,
    CancelScope,
    Lock,
    create_task_group,
    current_time,
    get_cancelled_exc_class,
)
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from annolab_async._alarm import Alarm
from annolab_async._delivery import Delivery
from annolab_async._limits import Pacer
from annolab_async._predictive import Predictive
from annolab_async._records import InferenceJob, WatchStats, is_positive, job_id_of
from annolab_async._schedule import check_schedule
from annolab_async._watch_report import WatchReport
from annolab_async._watch_state import WatchState
from annolab_async.errors import AnnoLabError, JobLost, NotOpen

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from annolab_async._records import Transition
    from annolab_async._schedule import PollSchedule
    from annolab_async._status_source import StatusSource
    from annolab_async._watch_state import Watched

__all__ = ["InferenceWatcher", "WatchOptions"]

_BETWEEN_CHECKPOINTS: Final = 100


class WatchOptions(TypedDict, total=False):
    """The options of :class:`InferenceWatcher`."""

    max_concurrent_polls: int
    max_polls_per_second: float | None
    schedule: PollSchedule | None
    job_timeout: float | None
    failure_budget: float
    keep_open: bool


class InferenceWatcher(AsyncContextManagerMixin):
    """Watches jobs until each has its outcome; to be used in an ``async with`` block, and iterated in it.

    ```python
    async with InferenceWatcher(client, jobs) as watcher:
        async for transition in watcher:
            print(transition.inference_job_id, transition.job, transition.outcome)
    ```

    The first poll of a job yields its state, each change after that another transition, and its end or the end of
    watching it exactly one with an outcome. One job's trouble is that job's outcome and stops no other. What makes
    every poll pointless (a bad key, a closed client) is raised from the iteration and from :meth:`wait`. When the
    consumer is slow, polling goes on and states between may be merged, in order; outcomes are never dropped.

    Iteration ends when no job is unfinished. Leaving the block ends all polling at once and never touches the jobs.

    Args:
        client: what to ask with, an :class:`AsyncInferenceClient`.
        jobs: jobs, or their ids, or a single one; more can be added at any time.
        max_concurrent_polls: requests under way at once, and with that the number of tasks.
        max_polls_per_second: a bound on the polls of all jobs together, None for none.
        schedule: when to ask for which job; None is ``Predictive()``.
        job_timeout: seconds after which a job without an outcome is TIMED_OUT, None for never.
        failure_budget: seconds for which polls of a job may keep failing before it is LOST.
        keep_open: whether iteration goes on when no job is unfinished, until :meth:`close`.

    Raises:
        ValueError: an argument makes no sense.
    """

    def __init__(
        self,
        client: StatusSource,
        jobs: InferenceJob | int | Iterable[InferenceJob | int] = (),
        *,
        max_concurrent_polls: int = 16,
        max_polls_per_second: float | None = None,
        schedule: PollSchedule | None = None,
        job_timeout: float | None = None,
        failure_budget: float = 300.0,
        keep_open: bool = False,
    ) -> None:
        if type(max_concurrent_polls) is not int or max_concurrent_polls < 1:
            raise ValueError(
                f"max_concurrent_polls is {max_concurrent_polls}, not an integer from 1 up"
            )
        if max_polls_per_second is not None and not is_positive(max_polls_per_second):
            raise ValueError(
                f"max_polls_per_second is {max_polls_per_second}, not a positive number"
            )
        if failure_budget != 0 and not is_positive(failure_budget):
            raise ValueError(f"failure_budget is {failure_budget}, not a number of seconds")
        schedule = Predictive() if schedule is None else schedule
        check_schedule(schedule)
        random = Random()
        self._client = client
        self._state = WatchState(
            planner=schedule.planner(random),
            pacer=Pacer(max_polls_per_second),
            retry=client.retry,
            budget=client.budget,
            random=random,
            failure_budget=failure_budget,
            keep_open=keep_open,
            utc_now=lambda: datetime.now(UTC),
        )
        self._permits = max_concurrent_polls
        self._job_timeout = _checked_timeout(job_timeout)
        self._early = [job for job, _ in _flat((jobs,))]
        self._takes_jobs = True
        self._keep_open = keep_open
        self._has_begun = False
        self._is_open = False
        self._failure: Exception | None = None
        self._polling: CancelScope
        self._turn = Lock(fast_acquire=True)
        self._next_poll = Alarm()
        self._next_deadline = Alarm()
        self._delivery = Delivery(keep_open=keep_open)
        self._polls = 0
        self._in_flight = 0
        self._until_checkpoint = _BETWEEN_CHECKPOINTS
        self.report: WatchReport = WatchReport(client.hooks)

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        if self._has_begun:
            raise NotOpen("The watcher's block was left before: make another one.")
        self._has_begun = self._is_open = True
        self._polling = CancelScope()
        self.report.open(current_time())
        self.add(*self._early)
        self._early.clear()
        failure: BaseException | None = None
        try:
            async with create_task_group() as tasks:
                tasks.start_soon(self._poll_all)
                try:
                    yield self
                except get_cancelled_exc_class():
                    raise
                except BaseException as error:  # noqa: BLE001  # raised below: the group would wrap it in another
                    failure = error
                finally:
                    # Not the group's own scope, which would cancel the body, too.
                    self._is_open = False
                    self._polling.cancel()
                    self._delivery.let_all_go()
        finally:
            for watched in self._state:
                self.report.dropped(watched, current_time())
            # Also when a cancellation that is pending ends the group: what the body raised comes first.
            if failure is not None:
                raise failure

    def add(
        self,
        *jobs: InferenceJob | int | Iterable[InferenceJob | int],
        job_timeout: float | None = None,
        model_identifier: str | int | None = None,
    ) -> None:
        """Watch more jobs, at any time. One that is already watched or has its outcome is not taken up again.

        Args:
            jobs: jobs, or their ids, or iterables of such.
            job_timeout: seconds from now in which they are to end; None takes the watcher's.
            model_identifier: the model that they are for: jobs of unlike models may wait in unlike queues, and
                :class:`Predictive` learns about each.

        Raises:
            ValueError: something is no job, or the timeout is no positive number; none was added.
            NotOpen: the watcher is used outside its block, or was closed.
            Exception: what ended the watching of all jobs.
        """
        self._check_open()
        if not self._takes_jobs:
            raise NotOpen("The watcher was closed: it takes no more jobs. Make another one.")
        timeout = _checked_timeout(job_timeout) or self._job_timeout
        now = current_time()
        for job, job_id in [*_flat(jobs)]:
            if job_id in self._state or self._delivery.end_of(job_id):
                continue
            known = job if isinstance(job, InferenceJob) else None
            self.report.added(job_id, known, model_identifier)
            self._publish(
                self._state.add(
                    job_id, now, job=known, timeout=timeout, model_identifier=model_identifier
                )
            )
        self._next_poll.bring_forward(self._state.due_at())
        self._next_deadline.bring_forward(self._state.next_deadline())

    def discard(self, job: InferenceJob | int) -> None:
        """Stop watching a job: nothing more is yielded of it, and who waits for it gets :class:`JobLost`.

        The job itself goes on at the server. One that is not watched is ignored.

        Raises:
            ValueError: that is no job.
        """
        job_id = job_id_of(job)
        self._delivery.forget(job_id)
        if (watched := self._state.discard(job_id)) is not None:
            self.report.dropped(watched, current_time())
            self._delivery.tell_news()

    def close(self) -> None:
        """Take no more jobs: iteration ends when those there are have their outcomes. It may be called twice."""
        self._takes_jobs = False
        self._delivery.tell_news()

    async def wait(self, job: InferenceJob | int) -> InferenceJob:
        """Wait until a watched job has ended. Any number of tasks may wait for the same job, or has waited.

        Args:
            job: the job, or its id.

        Returns:
            The ended job; look at its ``state``.

        Raises:
            ValueError: it is not watched.
            WaitTimeout: its time is over; carries its last state.
            JobLost: it can no longer be watched, or was discarded.
            NotOpen: the watcher's block was left.
            Exception: what ended the watching of all jobs.
        """
        job_id = job_id_of(job)
        end = self._delivery.end_of(job_id)
        if end is None:
            self._check_open()
            if job_id not in self._state:
                raise ValueError(f"job {job_id} is not watched: add() it first")
            end = await self._delivery.wait_for_end(job_id)
        if end is None:
            self._check_open()
            raise JobLost(
                inference_job_id=job_id,
                job=job if isinstance(job, InferenceJob) else None,
                cause=None,
                why="it was discarded from the watcher.",
            )
        self._delivery.was_heard(job_id)
        if end.error is not None:
            # A copy: of an exception raised in many tasks, the traceback would grow with each.
            raise copy(end.error) from end.error
        assert end.job is not None  # noqa: S101  # only an end without a sight has an error instead
        return end.job

    @property
    def stats(self) -> WatchStats:
        """What the watcher has done so far."""
        return WatchStats(
            polls=self._polls,
            active=len(self._state),
            in_flight=self._in_flight,
            outcomes=MappingProxyType(dict(self._delivery.outcomes)),
        )

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Transition:
        # Before anything is taken, so that a cancellation loses nothing. Giving way each time would hand out a single
        # transition for each round of polls; never, and a consumer that does not wait would hold everybody up.
        self._until_checkpoint -= 1
        if self._until_checkpoint:
            await checkpoint_if_cancelled()
        else:
            self._until_checkpoint = _BETWEEN_CHECKPOINTS
            await checkpoint()
        while (transition := self._delivery.take()) is None:
            if self._is_done:
                raise StopAsyncIteration
            self._check_open()
            await self._delivery.wait_for_news()
        return transition

    @property
    def _is_done(self) -> bool:
        may_get_more = self._keep_open and self._takes_jobs and self._is_open
        return self._has_begun and not (self._state or may_get_more or self._failure)

    def _check_open(self) -> None:
        if isinstance(self._failure, AnnoLabError):
            # A copy: of an exception raised again and again, the traceback would grow each time.
            raise copy(self._failure) from self._failure
        if self._failure is not None:
            raise self._failure
        if not self._is_open:
            raise NotOpen(
                "The watcher is not open: use it inside `async with InferenceWatcher(...) as watcher:`."
            )

    async def _poll_all(self) -> None:
        with self._polling:
            async with create_task_group() as tasks:
                tasks.start_soon(self._end_overdue_jobs)
                for _ in range(self._permits):
                    tasks.start_soon(self._poll_due_jobs)

    async def _poll_due_jobs(self) -> None:
        try:
            while True:
                watched = await self._next_due()
                self._polls += 1
                self._in_flight += 1
                try:
                    await self._poll(watched)
                finally:
                    self._in_flight -= 1
                    self._client.turns.leave()
                if self._next_poll.is_awaited:
                    self._next_poll.bring_forward(self._state.due_at())
        except Exception as error:  # noqa: BLE001  # raised from iteration and wait(), to everyone
            self._failure = self._failure or error
            self._polling.cancel()
            self._delivery.let_all_go()

    async def _next_due(self) -> Watched:
        """Wait until a job is due and may be asked for; return it, its request being let through the turnstile."""
        turns = self._client.turns
        now = current_time()
        if turns.is_free(now) and (watched := self._state.pick(now)) is not None:
            turns.enter_nowait(now)
            return watched
        # One task at a time waits for the next job to fall due, the others for their turn to do so.
        async with self._turn:
            while True:
                while not self._state.is_due(current_time()):
                    await self._next_poll.sleep(self._state.due_at())
                await turns.enter("poll")
                # Only now, since in the meantime another may have become the one to ask for, or none.
                if (watched := self._state.pick(current_time())) is not None:
                    return watched
                turns.leave()
                await checkpoint()

    async def _poll(self, watched: Watched) -> None:
        try:
            reply = await self._client.poll_status(
                watched.job_id, watched.reply, may_go_back=watched.went_back
            )
        except NotOpen:
            raise
        except AnnoLabError as error:
            now = current_time()
            self.report.failed(watched, error, now)
            self._publish(self._state.failed(watched, now, error))
            if watched.is_repeat and watched.job_id in self._state:
                self.report.put_back(watched, error, watched.delay)
        else:
            now = current_time()
            self._publish(self._state.answered(watched, now, reply))
        if now >= self.report.line_due:
            self.report.line(now, self.stats)

    async def _end_overdue_jobs(self) -> None:
        while True:
            await self._next_deadline.sleep(self._state.next_deadline())
            for transition in self._state.expire(current_time()):
                self._publish(transition)

    def _publish(self, transition: Transition | None) -> None:
        if transition is not None:
            self._delivery.publish(transition)
            self.report.changed(transition)


def _flat(
    jobs: Iterable[InferenceJob | int | Iterable[InferenceJob | int]],
) -> Iterator[tuple[InferenceJob | int, int]]:
    for some in jobs:
        for job in some if isinstance(some, Iterable) else (some,):
            yield job, job_id_of(job)


def _checked_timeout(timeout: float | None) -> float | None:
    if timeout is not None and not is_positive(timeout):
        raise ValueError(f"job_timeout is {timeout}, not a positive number of seconds")
    return timeout
