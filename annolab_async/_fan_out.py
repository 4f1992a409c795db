"""Runs a model over many sources, batch by batch, and goes on where it stopped, however it was stopped."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack, asynccontextmanager
from copy import copy
from typing import TYPE_CHECKING, Final, Literal, Self, TypedDict

from anyio import (
    AsyncContextManagerMixin,
    CancelScope,
    create_task_group,
    current_time,
    get_cancelled_exc_class,
    move_on_after,
    sleep,
    to_thread,
)
from anyio.lowlevel import checkpoint

from annolab_async._batch_plan import Cutter
from annolab_async._batch_records import BatchRecord, BatchState
from annolab_async._fan_out_state import Books, RecordMailbox
from annolab_async._owners import is_gone, owner_name
from annolab_async._records import Outcome, is_positive
from annolab_async._scribe import Scribe
from annolab_async._sender import Sender
from annolab_async._watcher import InferenceWatcher
from annolab_async.errors import AnnoLabError, NotOpen
from annolab_async.ledger import open_ledger

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, Awaitable, Callable, Collection

    from annolab_async._batch_plan import BatchPlan
    from annolab_async._fan_out_state import FanOutSummary
    from annolab_async._records import InferenceJob, Transition
    from annolab_async._sender import BatchClient
    from annolab_async.ledger import Ledger, LedgerRun

__all__ = ["FanOut", "FanOutOptions"]

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


class FanOutOptions(TypedDict, total=False):
    """The options of :class:`FanOut`."""

    ledger: Ledger | str | os.PathLike[str] | None
    run: str
    max_in_flight: int
    max_concurrent_submits: int
    on_error: Literal["keep", "split"]
    job_timeout: float | None
    failure_budget: float
    stop_timeout: float
    lease_seconds: float


class FanOut(AsyncContextManagerMixin):
    """Submits the batches of a plan, watches their jobs, and yields each batch that changes.

    ```python
    async with client.fan_out(plan, ledger="run.db") as run:
        async for record in run:
            print(record.number, record.state)
        print(run.summary)
    ```

    Each step is in the ledger before the next is taken: PLANNED, then SENDING, then the request, then SUBMITTED with
    the job's id. Who is killed at any moment and started again with the same plan, ledger and run name goes on where
    it stopped: no batch is sent twice, no job is forgotten. What cannot be known then, because a request was open, is
    UNKNOWN; that is never sent again without being told.

    Iteration ends when every batch has come to an end. When the consumer is slow, or ``max_in_flight`` jobs are
    unfinished, nothing more is submitted; watching goes on. Leaving the block stops in good order: no further batch is
    sent, those that are being sent have ``stop_timeout`` seconds to be answered, and all is written down.

    Args:
        client: an :class:`AsyncInferenceClient`.
        plan: what to run over which sources.
        ledger: where to write it down: a path or ``sqlite:///…`` (the extra ``ledger``), ``postgresql://…`` (the extra
            ``postgres``), a :class:`Ledger`, or None for memory, which outlives no process.
        run: the run's name in the ledger.
        max_in_flight: unfinished jobs at once.
        max_concurrent_submits: submissions at once.
        on_error: ``"keep"`` leaves a batch ERRORED; ``"split"`` halves it and sends the halves, until the
            sources that do not work stand alone.
        job_timeout: seconds after which a job without an end is TIMED_OUT, None for never.
        failure_budget: seconds for which no batch may reach the server, or polls of a job may fail.
        stop_timeout: seconds that open requests have when the run is stopped.
        lease_seconds: after how long without a sign of life others may take over what this process has.

    Raises:
        ValueError: an option makes no sense.
    """

    def __init__(
        self,
        client: BatchClient,
        plan: BatchPlan,
        *,
        ledger: Ledger | str | os.PathLike[str] | None = None,
        run: str = "default",
        max_in_flight: int = 100,
        max_concurrent_submits: int = 8,
        on_error: Literal["keep", "split"] = "keep",
        job_timeout: float | None = None,
        failure_budget: float = 300.0,
        stop_timeout: float = 10.0,
        lease_seconds: float = 60.0,
    ) -> None:
        if not run or not isinstance(run, str):
            raise ValueError(f"run is {run!r}, not a name")
        if on_error not in {"keep", "split"}:
            raise ValueError(f"on_error is {on_error!r}, neither 'keep' nor 'split'")
        for name, number in (
            ("max_in_flight", max_in_flight),
            ("max_concurrent_submits", max_concurrent_submits),
        ):
            if type(number) is not int or number < 1:
                raise ValueError(f"{name} is {number!r}, not an integer from 1 up")
        for name, seconds in (
            ("job_timeout", job_timeout),
            ("failure_budget", failure_budget),
            ("stop_timeout", stop_timeout),
            ("lease_seconds", lease_seconds),
        ):
            if not (is_positive(seconds) or (name == "job_timeout" and seconds is None)):
                raise ValueError(f"{name} is {seconds!r}, not a positive number of seconds")
        self._client = client
        self._plan = plan
        self._ledger = ledger
        self._name = run
        self._max_in_flight = max_in_flight
        self._submits = max_concurrent_submits
        self._splits = on_error == "split"
        self._job_timeout = job_timeout
        self._failure_budget = failure_budget
        self._stop_timeout = stop_timeout
        self._lease_seconds = lease_seconds
        self._cutter = Cutter(plan)
        self._mailbox = RecordMailbox()
        self._is_planned = self._is_counted = False
        self._is_open = self._has_begun = self._is_stopped = False
        self._failure: Exception | None = None
        self._to_split: list[BatchRecord] = []
        self._of_job: dict[int, BatchRecord] = {}
        self._run: LedgerRun
        self._books: Books
        self._scribe: Scribe
        self._sender: Sender
        self._watcher: InferenceWatcher
        self._working: CancelScope

    def __repr__(self) -> str:
        return f"<FanOut {self._name!r}>"

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        if self._has_begun:
            raise NotOpen("The run's block was left before: make another one; it goes on there.")
        self._has_begun = True
        async with AsyncExitStack() as stack:
            ledger = self._ledger
            if isinstance(ledger, str):  # its driver is imported, which takes a while
                ledger = await to_thread.run_sync(open_ledger, ledger)
            ledger = await stack.enter_async_context(open_ledger(ledger))
            self._run = await ledger.begin_run(
                self._name, self._plan.fingerprint, details=self._plan.details
            )
            self._watcher = await stack.enter_async_context(
                InferenceWatcher(
                    self._client,
                    job_timeout=self._job_timeout,
                    failure_budget=self._failure_budget,
                    keep_open=True,
                )
            )
            await self._open_books()
            async with self._at_work():
                yield self

    async def _open_books(self) -> None:
        self._books = Books(current_time())
        self._scribe = Scribe(
            self._run,
            owner=owner_name(),
            lease_seconds=self._lease_seconds,
            books=self._books,
            mailbox=self._mailbox,
        )
        self._sender = Sender(
            self._client,
            self._plan,
            self._scribe,
            books=self._books,
            mailbox=self._mailbox,
            max_in_flight=self._max_in_flight,
            failure_budget=self._failure_budget,
            on_taken=self._taken,
            on_refused=self._refused,
        )
        held = [BatchState.SENDING, BatchState.SUBMITTED]
        owners = {record.owner or "" async for record in self._run.batches(states=held)}
        self._watch(await self._scribe.take_over(of=[name for name in owners if is_gone(name)]))
        in_trouble = [state for state in BatchState if state.is_ended]
        in_trouble.remove(BatchState.FINISHED)
        in_trouble.remove(BatchState.SPLIT)
        async for record in self._run.batches(states=in_trouble):
            self._books.keep(record)
            if record.state is BatchState.ERRORED:
                self._split_later(record)
        await self._scribe.count()

    @asynccontextmanager
    async def _at_work(self) -> AsyncGenerator[None]:
        self._working = CancelScope()
        self._is_open = True
        failure: BaseException | None = None
        try:
            async with create_task_group() as tasks:
                tasks.start_soon(self._work)
                try:
                    yield
                except get_cancelled_exc_class():
                    raise
                except BaseException as error:  # noqa: BLE001  # raised below: the group would wrap it in another
                    failure = error
                finally:
                    self._is_open = False
                    with CancelScope(shield=True):
                        await self._stop(self._stop_timeout)
        finally:
            if failure is not None:
                raise failure

    async def _work(self) -> None:
        with self._working:
            async with create_task_group() as tasks:
                for work in (self._write_plan, self._follow, self._keep_alive, self._split):
                    tasks.start_soon(self._guarded, work)
                for _ in range(self._submits):
                    tasks.start_soon(self._guarded, self._send)

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001  # raised from the iteration, to everyone
            self._failure = self._failure or error
            self._sender.stop()
            self._scribe.tell_news()

    async def _write_plan(self) -> None:
        self._sender.may_find_more = self._plan.is_streamed
        await self._run.plan(self._cutter.batches())
        self._is_planned = True
        await self._scribe.count()
        self._is_counted = True
        self._sender.may_find_more = True
        self._scribe.tell_news()
        if repeated := self._cutter.repeated:
            _log.warning(
                "%d source ids of the plan occur more than once and are sent once, such as %s.",
                repeated,
                ", ".join(map(str, self._cutter.some_repeated)),
            )

    async def _send(self) -> None:
        # A plan that is there as a whole is written down, and with that checked, before anything is sent.
        while not (self._is_planned or self._plan.is_streamed or self._failure):
            await self._scribe.wait_for_news()
        await self._sender.work()

    async def _keep_alive(self) -> None:
        while True:
            lease = self._lease_seconds / _SIGNS_OF_LIFE
            await sleep(lease if self._is_planned else min(lease, _PLANNING_GLANCE))
            if not await self._scribe.renew():
                _log.warning("Run %r: nothing was heard of this process for too long.", self._name)
            self._watch(await self._scribe.take_over())
            await self._scribe.count()
            self._sender.may_find_more = True
            self._scribe.tell_news()

    def _watch(self, records: list[BatchRecord]) -> None:
        for record in records:
            if record.state is BatchState.SUBMITTED:
                self._taken(record, None)

    def _taken(self, record: BatchRecord, job: InferenceJob | None) -> None:
        assert record.inference_job_id is not None  # noqa: S101  # a batch is submitted only with one
        self._sender.in_flight.add(record.number)
        self._of_job[record.inference_job_id] = record
        self._watcher.add(job or record.inference_job_id)

    def _refused(self, record: BatchRecord) -> None:
        self._split_later(record)

    def _split_later(self, record: BatchRecord) -> None:
        if self._splits and len(record.source_ids) > 1:
            self._to_split.append(record)
            self._scribe.tell_news()

    async def _split(self) -> None:
        while True:
            # What is refused before anything was taken may be the plan's fault, and not that of any source.
            may_split = self._sender.has_sent or self._books.count(BatchState.FINISHED)
            if self._to_split and may_split and not self._sender.is_stopping:
                await self._scribe.split(self._to_split.pop())
            else:
                await self._scribe.wait_for_news()

    async def _follow(self) -> None:
        async for transition in self._watcher:
            await self._write_transition(transition)

    async def _write_transition(self, transition: Transition) -> None:
        record = self._of_job.get(transition.inference_job_id)
        status = transition.job.status if transition.job else None
        if record is None or (transition.outcome is None and status == record.status):
            return
        to = _OUTCOMES[transition.outcome] if transition.outcome else BatchState.SUBMITTED
        error = str(transition.error) if transition.error else None
        with CancelScope(shield=True):
            after = await self._scribe.change(record, to, status=status, error=error)
        if after is not None and transition.outcome is None:
            self._of_job[transition.inference_job_id] = after
            return
        del self._of_job[transition.inference_job_id]
        self._sender.in_flight.discard(record.number)
        if after is not None and after.state is BatchState.ERRORED:
            self._split_later(after)
        self._scribe.tell_news()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> BatchRecord:
        await checkpoint()
        while (record := self._mailbox.take()) is None:
            if self._failure is not None and not self._sender.is_busy:
                raise _again(self._failure)
            if self._is_over:
                raise StopAsyncIteration
            if not self._is_open:
                raise NotOpen(
                    "The run is not open: use it inside `async with client.fan_out(...) as run:`."
                )
            await self._scribe.wait_for_news()
        self._scribe.tell_news()
        return record

    @property
    def _is_over(self) -> bool:
        is_done = self._is_counted and not self._books.open
        is_splitting = self._to_split and self._sender.has_sent
        return self._is_stopped or (is_done and not is_splitting)

    @property
    def summary(self) -> FanOutSummary:
        """Where the run stands."""
        self._check_begun()
        return self._books.summary(
            current_time(), is_planned=self._is_planned, repeated=self._cutter.repeated
        )

    def unknown(self) -> list[BatchRecord]:
        """Return the batches of which nobody knows whether a job exists, for :meth:`resolve`."""
        self._check_begun()
        return self._books.unknown()

    def failed_source_ids(self) -> list[int]:
        """Return the ids of the sources in batches that ended badly."""
        self._check_begun()
        return [source_id for record in self._books.failed() for source_id in record.source_ids]

    async def retry(
        self,
        states: Collection[BatchState] = (
            BatchState.ERRORED,
            BatchState.TIMED_OUT,
            BatchState.LOST,
        ),
    ) -> int:
        """Try batches once more that ended badly; return how many.

        ERRORED ones are sent again, as new jobs. The jobs of TIMED_OUT and LOST ones may go on, and are watched again.

        Args:
            states: which.

        Raises:
            ValueError: these are other states.
        """
        self._check_open()
        if wrong := [*{*states} - {BatchState.ERRORED, BatchState.TIMED_OUT, BatchState.LOST}]:
            raise ValueError(f"{wrong[0]} batches are not to be tried again: see resolve()")
        count = 0
        for record in self._books.failed():
            if record.state in states:
                to = (
                    BatchState.PLANNED
                    if record.state is BatchState.ERRORED
                    else BatchState.SUBMITTED
                )
                after = await self._scribe.change(record, to)
                count += after is not None
                self._watch([after] if after else [])
        self._sender.may_find_more = True
        self._scribe.tell_news()
        return count

    async def resolve(
        self, batch: BatchRecord | int, *, job_id: int | None = None, resend: bool = False
    ) -> BatchRecord:
        """Say what became of a batch that nobody knows of.

        Args:
            batch: the batch, or its number.
            job_id: the job that it has: it is watched from now on.
            resend: that it has none: it is sent again.

        Raises:
            ValueError: the batch is not UNKNOWN, or neither or both of the two were said.
        """
        self._check_open()
        if (job_id is None) is not resend:
            raise ValueError("say either job_id=... or resend=True")
        number = batch if isinstance(batch, int) else batch.number
        record = await self._scribe.look_up(number)
        if record is None or record.state is not BatchState.UNKNOWN:
            raise ValueError(
                f"batch {number} is {record.state if record else 'not here'}, not unknown"
            )
        to = BatchState.PLANNED if resend else BatchState.SUBMITTED
        after = await self._scribe.change(record, to, inference_job_id=job_id)
        if after is None:
            raise ValueError(f"batch {number} was resolved by somebody else meanwhile")
        self._watch([after])
        self._sender.may_find_more = True
        self._scribe.tell_news()
        return after

    async def drain(self, timeout: float | None = None) -> None:
        """Stop in good order: submit nothing more, let what is open be answered, write all down, end the iteration.

        Jobs go on at the server; who starts the run again watches them again.

        Args:
            timeout: seconds that open requests have; None is the run's ``stop_timeout``.
        """
        self._check_open()
        await self._stop(self._stop_timeout if timeout is None else timeout)

    async def _stop(self, timeout: float) -> None:
        if self._is_stopped:
            return
        self._sender.stop()
        with move_on_after(timeout):
            while self._sender.is_busy:
                await self._scribe.wait_for_news()
        self._sender.cut_off()
        with move_on_after(_WRITING_SECONDS, shield=True):
            while self._sender.is_busy:
                await self._scribe.wait_for_news()
            self._working.cancel()
            try:
                await self._scribe.release()
            except AnnoLabError as error:
                _log.warning("Run %r: %s", self._name, error)
        self._is_stopped = True
        self._scribe.tell_news()

    def _check_begun(self) -> None:
        if not self._has_begun:
            raise NotOpen(
                "The run has not begun: use it inside `async with client.fan_out(...) as run:`."
            )

    def _check_open(self) -> None:
        if not self._is_open:
            raise NotOpen(
                "The run is not open: use it inside `async with client.fan_out(...) as run:`."
            )


def _again(failure: Exception) -> Exception:
    # A copy: of an exception raised again and again, the traceback would grow each time.
    return copy(failure) if isinstance(failure, AnnoLabError) else failure
