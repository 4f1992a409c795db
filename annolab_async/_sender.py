"""Sends planned batches: written down before the first byte leaves, and again when the answer has come."""

from __future__ import annotations

import logging
from collections import deque
from contextlib import ExitStack
from random import Random
from typing import TYPE_CHECKING, Final, cast

from anyio import CancelScope, Event, current_time, get_cancelled_exc_class, sleep

from annolab_async._batch_records import BatchRecord, BatchState
from annolab_async._hook_records import RetryPlanned
from annolab_async._hooks import told_of_submission
from annolab_async._mailbox import ROOM
from annolab_async._retry import is_overload, worth_submitting_again
from annolab_async.errors import (
    AnnoLabError,
    AuthenticationError,
    InvalidResponse,
    NotFound,
    NotOpen,
    PermissionDenied,
    RequestNotSent,
    StatusError,
    SubmissionUnknown,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from annolab_async._batch_client import BatchClient
    from annolab_async._batch_plan import BatchPlan
    from annolab_async._fan_out_state import Books, RecordMailbox
    from annolab_async._records import InferenceJob
    from annolab_async._scribe import Scribe

__all__ = ["Sender"]

_log: Final = logging.getLogger(__name__)
# How many answers in a row may be lost, or batches be refused before any was taken, until it is no accident.
_MOST_UNKNOWN_IN_A_ROW: Final = 20
_MOST_REFUSED_AT_FIRST: Final = 3
# What a batch can only be in if the server has taken it, and with it the plan's names.
_TAKEN: Final = (
    BatchState.SUBMITTED,
    BatchState.FINISHED,
    BatchState.TIMED_OUT,
    BatchState.LOST,
)


class Sender:
    """Sends one run's batches, with as many tasks as run :meth:`work`.

    A batch has its turn from its claim to its answer. While one task has an answer written down, another claims the
    next batch, so that the ledger does both at once. The answer comes first: of those that are being sent, the ledger
    never has more than ``max_concurrent_submits``, and that many are unknown at most after a crash.

    Args:
        client: what to send with.
        plan: what the batches are for.
        scribe: writes down what becomes of them.
        books: what is known of the run.
        mailbox: what its consumer has yet to read; when that is much, nothing is sent.
        max_in_flight: how many jobs may be unfinished at once.
        max_concurrent_submits: how many batches may have their turn at once; twice as many tasks keep them busy.
        failure_budget: seconds for which no batch may reach the server until that is raised.
        on_taken: is told of each batch that the server has taken.
        on_refused: is told of each batch that the server has refused.
        batch_of: returns the batch whose job is being watched, by the job's id.
    """

    def __init__(
        self,
        client: BatchClient,
        plan: BatchPlan,
        scribe: Scribe,
        *,
        books: Books,
        mailbox: RecordMailbox,
        max_in_flight: int,
        max_concurrent_submits: int,
        failure_budget: float,
        on_taken: Callable[[BatchRecord, InferenceJob | None], None],
        on_refused: Callable[[BatchRecord], None],
        batch_of: Callable[[int], int | None],
    ) -> None:
        self._client = client
        self._plan = plan
        self._scribe = scribe
        self._books = books
        self._mailbox = mailbox
        self._max_in_flight = max_in_flight
        self._max_at_once = max_concurrent_submits
        self._failure_budget = failure_budget
        self._on_taken = on_taken
        self._on_refused = on_refused
        self._batch_of = batch_of
        self._being_taken: dict[int, int] = {}
        self._random = Random()
        self.in_flight: set[int] = set()
        self.may_find_more = False
        self.has_sent = False
        self.is_stopping = False
        self._have_turns = 0
        self._busy = 0  # of those, who has not claimed yet
        self._idle: deque[Event] = deque()
        scribe.on_news(self._look_for_work)
        self._waiting: set[CancelScope] = set()
        self._sending: set[CancelScope] = set()
        self._failures = 0
        self._failing_since = 0.0
        self._pause_until = 0.0
        self._unknown_in_a_row = 0
        self._refused = 0

    @property
    def is_busy(self) -> bool:
        """Whether a batch is being sent."""
        return bool(self._sending)

    def stop(self) -> None:
        """Send no further batch; those that are being sent go on."""
        self.is_stopping = True
        for scope in self._waiting:
            scope.cancel()
        while self._idle:
            self._idle.popleft().set()

    def cut_off(self) -> None:
        """Break off what is being sent; what that proves is written down."""
        for scope in self._sending:
            scope.cancel()

    async def work(self) -> None:
        """Send batch after batch until stopped.

        Raises:
            AnnoLabError: it makes no sense to go on.
        """
        while not self.is_stopping:
            if not self._may_send():
                await self._wait_for_work()
            elif await self._has_turn():
                with ExitStack() as turn:
                    turn.callback(self._leave_turn)
                    await self._send_next(turn)

    def _may_send(self) -> bool:
        # Those that are being claimed at this moment are in flight soon.
        room = self._max_in_flight - len(self.in_flight) - self._busy
        has_work = self.may_find_more or self._books.count(BatchState.PLANNED) > self._busy
        has_turn = self._have_turns < self._max_at_once
        return has_turn and has_work and room > 0 and len(self._mailbox) < ROOM

    async def _wait_for_work(self) -> None:
        woken = Event()
        self._idle.append(woken)
        await woken.wait()

    def _look_for_work(self) -> None:
        # One, who wakes the next if there is more: there is news several times for each batch, and rarely work for all.
        if self._idle and self._may_send():
            self._idle.popleft().set()

    async def _has_turn(self) -> bool:
        self._busy += 1
        self._have_turns += 1
        self._look_for_work()
        # Who is not let in is so because the run ends, and nobody counts any more.
        is_mine = False
        with CancelScope() as scope:
            self._waiting.add(scope)
            try:
                if (pause := self._pause_until - current_time()) > 0:
                    await sleep(pause)
                await self._client.turns.enter("submit")
                is_mine = True
            finally:
                self._waiting.discard(scope)
        return is_mine

    def _leave_turn(self) -> None:
        self._client.turns.leave()
        self._have_turns -= 1
        self._look_for_work()

    async def _send_next(self, turn: ExitStack) -> None:
        # A cancellation from outside waits until the answer has come: stopping in good order breaks it off if need be.
        with CancelScope(shield=True) as scope:
            self._sending.add(scope)
            try:
                try:
                    record = None if self.is_stopping else await self._scribe.claim()
                finally:
                    self._busy -= 1
                if record is not None:
                    self.in_flight.add(record.number)
                    await self._send(record, turn)
                elif not self.is_stopping:
                    # Others were faster, or the plan has not come this far.
                    self.may_find_more = False
                    if self._books.count(BatchState.PLANNED):
                        # It would be looked for again and again.
                        await self._scribe.count()
            finally:
                self._sending.discard(scope)
                self._scribe.tell_news()

    async def _send(self, record: BatchRecord, turn: ExitStack) -> None:
        progress = self._client.progress()
        request = self._plan.request(record.source_ids)
        try:
            with told_of_submission(
                self._client.hooks,
                request,
                run=self._scribe.run_name,
                batch=record.number,
                attempt=record.attempts,
            ) as told:
                job = told.job = await self._client.submit_once(request, progress)
        except get_cancelled_exc_class():
            may_exist = progress.may_have_arrived
            to = BatchState.UNKNOWN if may_exist else BatchState.PLANNED
            await self._write(
                record,
                to,
                error="It was being sent when the run was stopped." if may_exist else None,
            )
            raise  # to where the scope of it ends
        except SubmissionUnknown as error:
            await self._write(record, BatchState.UNKNOWN, error=str(error))
            self._note_unknown(error, record)
        except InvalidResponse as error:  # with an id: it would be a SubmissionUnknown otherwise
            _log.warning("Batch %d: %s", record.number, error, extra=self._fields(record, error))
            await self._taken(record, cast("int", error.inference_job_id), None)
        except AnnoLabError as error:
            await self._not_taken(record, error)
        else:
            # What is woken by this runs after this has asked the ledger to write.
            turn.close()
            await self._taken(record, job.inference_job_id, job)

    async def _taken(self, record: BatchRecord, job_id: int, job: InferenceJob | None) -> None:
        other = self._being_taken.get(job_id) or self._batch_of(job_id)
        if other is not None:
            # As of a server that was set up anew, and counts from 1 again.
            error = f"The server named job {job_id} for it, which is batch {other}'s."
            _log.error("Batch %d: %s", record.number, error, extra=self._fields(record))
            await self._write(record, BatchState.UNKNOWN, error=error)
            return
        self.has_sent = True
        self._failures = self._unknown_in_a_row = 0
        status = job.status if job else None
        self._being_taken[job_id] = record.number
        try:
            after = await self._write(
                record, BatchState.SUBMITTED, inference_job_id=job_id, status=status
            )
        except BaseException:
            _log.error(  # it is raised, too; this is the one place that still knows the id
                "Batch %d was taken as job %s, but the ledger could not be told: resolve it with that id.",
                record.number,
                job_id,
                extra=self._fields(record) | {"inference_job_id": job_id},
            )
            raise
        finally:
            del self._being_taken[job_id]
        if after is not None:
            self._on_taken(after, job)
            return
        # Taken over while this process showed no sign of life, and settled since: perhaps sent again.
        _log.error(
            "Batch %d was taken as job %d, but others have settled it meanwhile: it may have two jobs.",
            record.number,
            job_id,
            extra=self._fields(record) | {"inference_job_id": job_id},
        )

    async def _not_taken(self, record: BatchRecord, error: AnnoLabError) -> None:
        if isinstance(error, StatusError) and is_overload(error):
            await self._write(record, BatchState.PLANNED)
            self._tell_retry(record, error, error.retry_after or 0.0)
            return
        if worth_submitting_again(error):
            await self._write(record, BatchState.PLANNED)
            self._tell_retry(record, error, self._note_failure(error))
            return
        is_for_all = isinstance(
            error, RequestNotSent | NotOpen | AuthenticationError | PermissionDenied
        ) or (isinstance(error, NotFound) and not self._is_plan_sound)
        if is_for_all or not isinstance(error, StatusError):
            await self._write(record, BatchState.PLANNED)
            raise error
        after = await self._write(record, BatchState.ERRORED, error=str(error))
        self._refused += 1
        if after is not None:
            self._on_refused(after)
        if not self._is_plan_sound and self._refused >= _MOST_REFUSED_AT_FIRST:
            raise error

    @property
    def _is_plan_sound(self) -> bool:
        # Also when that was shown before this process began: what is left may be all that is ever refused.
        return self.has_sent or self._books.count(*_TAKEN) > 0

    async def _write(
        self, record: BatchRecord, to: BatchState, **news: object
    ) -> BatchRecord | None:
        after = None
        # Not to be cancelled: what was learned by sending would be lost.
        with CancelScope(shield=True):
            after = await self._scribe.change(record, to, **news)
            if after is None and to is BatchState.SUBMITTED:
                # Taken over by somebody who thought this process gone, and who could not know the job.
                newest = await self._scribe.look_up(record.number)
                if newest is not None and newest.state is BatchState.UNKNOWN:
                    after = await self._scribe.change(newest, to, **news)
        if after is None or to is not BatchState.SUBMITTED:
            self.in_flight.discard(record.number)
        return after

    def _fields(self, record: BatchRecord, error: AnnoLabError | None = None) -> dict[str, object]:
        fields: dict[str, object] = {
            "run": self._scribe.run_name,
            "batch": record.number,
            "attempt": record.attempts,
            "source_ids": record.source_ids,
        }
        return fields | ({"error": type(error).__name__} if error else {})

    def _tell_retry(self, record: BatchRecord, error: AnnoLabError, delay: float) -> None:
        _log.debug(
            "Batch %d was not taken, and is sent again: %s",
            record.number,
            error,
            extra=self._fields(record, error) | {"delay": delay},
        )
        if self._client.hooks.retry is not None:
            self._client.hooks.retry(
                RetryPlanned(kind="submit", attempt=record.attempts, delay=delay, error=error)
            )

    def _note_unknown(self, error: SubmissionUnknown, record: BatchRecord) -> None:
        _log.warning("Batch %d: %s", record.number, error, extra=self._fields(record, error))
        self._unknown_in_a_row += 1
        if self._unknown_in_a_row >= _MOST_UNKNOWN_IN_A_ROW:
            raise error
        self._note_failure(error)

    def _note_failure(self, error: AnnoLabError) -> float:
        now = current_time()
        if self._failures == 0:
            self._failing_since = now
        self._failures += 1
        delay = self._client.retry.delay(self._failures, self._random)
        self._pause_until = now + delay
        if now - self._failing_since >= self._failure_budget:
            raise error
        return delay
