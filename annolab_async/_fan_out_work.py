"""The tasks of a run: write the plan down, send, watch, keep the lease, split; and stop in good order."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from copy import copy
from typing import TYPE_CHECKING, Final

from anyio import CancelScope, create_task_group, current_time, move_on_after, sleep

from annolab_async._batch_plan import Cutter
from annolab_async._batch_records import FIRST_SPLIT_NUMBER, BatchRecord, BatchState
from annolab_async._fan_out_state import Books, RecordMailbox
from annolab_async._owners import is_gone
from annolab_async._records import Outcome
from annolab_async._run_log import RunLog
from annolab_async._scribe import Scribe
from annolab_async._sender import Sender
from annolab_async.errors import AnnoLabError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from annolab_async._batch_client import BatchClient
    from annolab_async._batch_plan import BatchPlan
    from annolab_async._fan_out_state import FanOutSummary
    from annolab_async._records import InferenceJob, Transition
    from annolab_async._watcher import InferenceWatcher
    from annolab_async.ledger import LedgerRun

__all__ = ["RunWork"]

_log: Final = logging.getLogger(__name__)
_OUTCOMES: Final = {
    Outcome.FINISHED: BatchState.FINISHED,
    Outcome.ERRORED: BatchState.ERRORED,
    Outcome.TIMED_OUT: BatchState.TIMED_OUT,
    Outcome.LOST: BatchState.LOST,
}
# How often the ledger is asked how far the plan is written down, in seconds.
_PLANNING_GLANCE: Final = 1.0
_SIGNS_OF_LIFE: Final = 3
_WRITING_SECONDS: Final = 10.0


class RunWork:
    """What is done for one run in this process.

    Args:
        client: what to send and ask with.
        plan: what is to be run.
        run: the run in its ledger.
        name: its name.
        watcher: what watches its jobs; it is kept open.
        owner: the name of who does it.
        max_in_flight: unfinished jobs at once.
        max_concurrent_submits: submissions at once.
        splits: whether batches that fail are halved.
        failure_budget: seconds for which no batch may reach the server.
        lease_seconds: after how long without a sign of life others may take over.

    Attributes:
        run: the run in its ledger.
        books: how many batches are in which state, and which are in trouble.
        scribe: writes down what becomes of them.
        mailbox: what has yet to be told to who iterates.
        failure: what makes it senseless to go on.
    """

    def __init__(
        self,
        client: BatchClient,
        plan: BatchPlan,
        run: LedgerRun,
        watcher: InferenceWatcher,
        *,
        name: str,
        owner: str,
        max_in_flight: int,
        max_concurrent_submits: int,
        splits: bool,
        failure_budget: float,
        lease_seconds: float,
    ) -> None:
        self._plan = plan
        self.run = run
        self._watcher = watcher
        self._submits = max_concurrent_submits
        self._splits = splits
        self._lease_seconds = lease_seconds
        self.mailbox = RecordMailbox()
        self.books = Books(current_time())
        self.scribe = Scribe(
            run,
            run_name=name,
            owner=owner,
            lease_seconds=lease_seconds,
            books=self.books,
            mailbox=self.mailbox,
            hooks=client.hooks,
        )
        self._sender = Sender(
            client,
            plan,
            self.scribe,
            books=self.books,
            mailbox=self.mailbox,
            max_in_flight=max_in_flight,
            max_concurrent_submits=max_concurrent_submits,
            failure_budget=failure_budget,
            on_taken=self.watch,
            on_refused=self._split_later,
            batch_of=self.batch_of,
        )
        self._cutter = Cutter(plan)
        self._log_lines = RunLog(name, current_time())
        watcher.report.level = logging.DEBUG  # the run has a line of its own
        self._planned_earlier = 0
        self._to_split: list[BatchRecord] = []
        self._of_job: dict[int, BatchRecord] = {}
        self._scope = CancelScope()
        self.is_planned = self._is_counted = False
        self._stopped_at: float | None = None
        self.failure: Exception | None = None

    @property
    def repeated(self) -> int:
        """How many source ids of the plan were left out since they had occurred before."""
        return self._cutter.repeated

    @property
    def has_failed(self) -> bool:
        """Whether it makes no sense to go on, and what was open has been answered."""
        return self.failure is not None and not self._sender.is_busy

    @property
    def failure_to_raise(self) -> Exception:
        """What makes it senseless to go on, as a copy: of what is raised again and again, the traceback would grow."""
        failure = self.failure
        return copy(failure) if isinstance(failure, AnnoLabError) else failure or RuntimeError()

    @property
    def is_stopped(self) -> bool:
        """Whether all of it has ended."""
        return self._stopped_at is not None

    @property
    def is_over(self) -> bool:
        """Whether no batch will change any more unless somebody asks for it."""
        is_done = self._is_counted and not self.books.open
        return self.is_stopped or (is_done and not (self._to_split and self._may_split))

    @property
    def _may_split(self) -> bool:
        # What is refused before anything was taken may be the plan's fault, and not that of any source.
        has_taken = self._sender.has_sent or self.books.count(BatchState.FINISHED) > 0
        return has_taken or any(record.inference_job_id for record in self._to_split)

    async def prepare(self) -> None:
        """Take over what those who are gone have left behind, and look at what there is."""
        held = (BatchState.SENDING, BatchState.SUBMITTED)
        owners = {record.owner async for record in self.run.batches(states=held)}
        gone = [owner for owner in owners if owner is not None and is_gone(owner)]
        for record in await self.scribe.take_over(of=gone):
            self.watch(record)
        if self._plan.is_streamed:
            await self._leave_out_what_came_earlier()
        await self.scribe.count()
        for record in self.books.failed():
            if record.state is BatchState.ERRORED:
                self._split_later(record)
        self._log_lines.line("begins", self.summary())

    def summary(self) -> FanOutSummary:
        """Return where the run stands."""
        # Once it has stopped, there need be no event loop any more, whose time it is.
        now = current_time() if self._stopped_at is None else self._stopped_at
        return self.books.summary(now, is_planned=self.is_planned, repeated=self.repeated)

    def _log_if_due(self) -> None:
        if self._log_lines.is_due(current_time()):
            self._log_lines.line("goes on", self.summary())

    async def _leave_out_what_came_earlier(self) -> None:
        # What comes over time may come in another order each time.
        async for record in self.run.batches():
            if record.number < FIRST_SPLIT_NUMBER:
                self._cutter.leave_out(record.source_ids)
                self._planned_earlier = record.number

    async def work(self) -> None:
        """Do all that is to be done, until stopped."""
        with self._scope:
            async with create_task_group() as tasks:
                for work in (self._write_plan, self._follow, self._keep_alive, self._split):
                    tasks.start_soon(self._guarded, work)
                # Half of them send while the others have written down what came of it.
                for _ in range(2 * self._submits):
                    tasks.start_soon(self._guarded, self._send)

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001  # raised from the iteration, to everyone
            self.failure = self.failure or error
            self._sender.stop()
            self.scribe.tell_news()

    def look_for_work(self) -> None:
        """Look again for batches to send: there may be some that the books do not show."""
        self._sender.may_find_more = True
        self.scribe.tell_news()

    async def _write_plan(self) -> None:
        self._sender.may_find_more = self._plan.is_streamed
        batches = self._cutter.batches()
        if isinstance(batches, AsyncGenerator):
            async with aclosing(batches), aclosing(self._told(batches)) as told:
                await self.run.plan(told, after=self._planned_earlier)
        else:
            await self.run.plan(batches, after=self._planned_earlier)
        self.is_planned = True
        await self.scribe.count()
        self._is_counted = True
        self.look_for_work()
        if repeated := self._cutter.repeated:
            _log.warning(
                "Source ids that occur more than once in the plan are sent once: %d, such as %s.",
                repeated,
                ", ".join(map(str, self._cutter.some_repeated)),
                extra={"run": self.scribe.run_name},
            )

    async def _told(
        self, batches: AsyncGenerator[tuple[int, ...]]
    ) -> AsyncGenerator[tuple[int, ...]]:
        async for batch in batches:
            yield batch
            # Who asks for the next one has written this one down.
            self.look_for_work()

    async def _send(self) -> None:
        # A plan that is there as a whole is written down, and with that checked, before anything is sent.
        while not (self.is_planned or self._plan.is_streamed or self.failure):
            await self.scribe.wait_for_news()
        await self._sender.work()

    async def _keep_alive(self) -> None:
        while True:
            gap = self._lease_seconds / _SIGNS_OF_LIFE
            await sleep(gap if self.is_planned else min(gap, _PLANNING_GLANCE))
            if not await self.scribe.renew():
                _log.warning(
                    "The run's ledger has not heard of this process for too long.",
                    extra={"run": self.scribe.run_name},
                )
            for record in await self.scribe.take_over():
                self.watch(record)
            await self.scribe.count()
            self._log_if_due()

    def watch(self, record: BatchRecord, job: InferenceJob | None = None) -> None:
        """Watch the job of a batch, if it is SUBMITTED.

        Args:
            record: the batch.
            job: its job, as far as that is known.
        """
        if record.state is BatchState.SUBMITTED and record.inference_job_id is not None:
            self._sender.in_flight.add(record.number)
            self._of_job[record.inference_job_id] = record
            # It may have been watched before, and given up.
            self._watcher.discard(record.inference_job_id)
            self._watcher.add(job or record.inference_job_id)

    def batches(self, states: Collection[BatchState] | None) -> AsyncGenerator[BatchRecord]:
        """Yield the run's batches as the ledger has them."""
        return self.run.batches(states=states)

    def batch_of(self, job_id: int) -> int | None:
        """Return the number of the batch whose job this is, None if it is not watched here."""
        record = self._of_job.get(job_id)
        return record.number if record else None

    def _split_later(self, record: BatchRecord) -> None:
        if self._splits and len(record.source_ids) > 1:
            self._to_split.append(record)
            self.scribe.tell_news()

    async def _split(self) -> None:
        while True:
            if self._to_split and self._may_split and not self._sender.is_stopping:
                # Until its halves are there, the run is not over.
                await self.scribe.split(self._to_split[0])
                del self._to_split[0]
            else:
                await self.scribe.wait_for_news()

    async def _follow(self) -> None:
        async for transition in self._watcher:
            await self._write_transition(transition)
            self._log_if_due()

    async def _write_transition(self, transition: Transition) -> None:
        record = self._of_job.get(transition.inference_job_id)
        status = transition.job.status if transition.job else None
        if record is None or (transition.outcome is None and status == record.status):
            return
        to = _OUTCOMES[transition.outcome] if transition.outcome else BatchState.SUBMITTED
        error = str(transition.error) if transition.error else None
        after = None
        with CancelScope(shield=True):
            after = await self.scribe.change(
                record, to, status=status, error=error, uncertainty=transition.uncertainty
            )
        if after is not None and transition.outcome is None:
            self._of_job[transition.inference_job_id] = after
            return
        if self._of_job.get(transition.inference_job_id) is not record:
            # It was somebody else's when this was written, and has been taken back meanwhile: it is watched anew.
            return
        # It has ended, or it is somebody else's by now.
        self._watcher.discard(transition.inference_job_id)
        del self._of_job[transition.inference_job_id]
        self._sender.in_flight.discard(record.number)
        if after is not None and after.state is BatchState.ERRORED:
            self._split_later(after)
        self.scribe.tell_news()

    async def stop(self, timeout: float) -> None:
        """Send nothing more, let what is open be answered, write all down, end all tasks.

        Args:
            timeout: seconds that open requests have.
        """
        if self.is_stopped:
            return
        self._sender.stop()
        with move_on_after(timeout):
            await self._until_idle()
        self._sender.cut_off()
        with move_on_after(_WRITING_SECONDS, shield=True):
            try:
                await self._until_idle()
            finally:
                # Also if the ledger takes too long: nothing else would end them.
                self._scope.cancel()
            try:
                await self.scribe.release()
            except AnnoLabError as error:
                _log.warning("%s", error, extra={"run": self.scribe.run_name})
        self._stopped_at = current_time()
        self._log_lines.line("ends", self.summary())
        self.scribe.tell_news()

    async def _until_idle(self) -> None:
        while self._sender.is_busy:
            await self.scribe.wait_for_news()
