"""Runs a model over many sources, batch by batch, and goes on where it stopped, however it was stopped."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Final, Literal, Self

from anyio import (
    AsyncContextManagerMixin,
    CancelScope,
    create_task_group,
    get_cancelled_exc_class,
    to_thread,
)
from anyio.lowlevel import checkpoint

from annolab_async._batch_records import BatchState, number_of, states_of
from annolab_async._fan_out_options import check_options
from annolab_async._fan_out_work import RunWork
from annolab_async._owners import own_name
from annolab_async._records import InferenceJob, is_positive, job_id_of
from annolab_async._results import export_of, results_of, sources_of
from annolab_async._watcher import InferenceWatcher
from annolab_async.errors import NotOpen
from annolab_async.ledger import open_ledger
from annolab_async.report import report_on

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Iterable

    from annolab_async._batch_client import BatchClient
    from annolab_async._batch_plan import BatchPlan
    from annolab_async._batch_records import BatchRecord
    from annolab_async._fan_out_state import FanOutSummary
    from annolab_async._results import Results, RunExport
    from annolab_async._schedule import PollSchedule
    from annolab_async.ledger import Ledger
    from annolab_async.report import Report

__all__ = ["FanOut"]

_NOT_OPEN: Final = "The run is not open: use it inside `async with client.fan_out(...) as run:`."
_TRIED_AGAIN: Final = frozenset({BatchState.ERRORED, BatchState.TIMED_OUT, BatchState.LOST})


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
        schedule: when to ask for which job; None is :class:`Predictive`.
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
        schedule: PollSchedule | None = None,
        job_timeout: float | None = None,
        failure_budget: float = 300.0,
        stop_timeout: float = 10.0,
        lease_seconds: float = 60.0,
    ) -> None:
        check_options(
            plan,
            run=run,
            on_error=on_error,
            numbers={
                "max_in_flight": max_in_flight,
                "max_concurrent_submits": max_concurrent_submits,
            },
            seconds={
                "job_timeout": job_timeout,
                "failure_budget": failure_budget,
                "stop_timeout": stop_timeout,
                "lease_seconds": lease_seconds,
            },
        )
        self._client = client
        self._plan = plan
        self._ledger = ledger
        self._name = run
        self._max_in_flight = max_in_flight
        self._submits = max_concurrent_submits
        self._splits = on_error == "split"
        self._schedule = schedule
        self._job_timeout = job_timeout
        self._failure_budget = failure_budget
        self._stop_timeout = stop_timeout
        self._lease_seconds = lease_seconds
        self._has_begun = self._is_open = self._has_told_failure = False
        self._begun_work: RunWork | None = None

    def __repr__(self) -> str:
        return f"<FanOut {self._name!r}>"

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        if self._has_begun:
            raise NotOpen("The run's block was left before: make another one; it goes on there.")
        self._has_begun = True
        async with AsyncExitStack() as stack:
            ledger = self._ledger
            if isinstance(ledger, str | os.PathLike):  # its driver is imported, which takes a while
                ledger = await to_thread.run_sync(open_ledger, ledger)
            ledger = await stack.enter_async_context(open_ledger(ledger))
            watcher = InferenceWatcher(
                self._client,
                schedule=self._schedule,
                job_timeout=self._job_timeout,
                failure_budget=self._failure_budget,
                keep_open=True,
            )
            work = self._begun_work = RunWork(
                self._client,
                self._plan,
                await ledger.begin_run(
                    self._name, self._plan.fingerprint, details=self._plan.details
                ),
                await stack.enter_async_context(watcher),
                name=self._name,
                owner=stack.enter_context(own_name()),
                max_in_flight=self._max_in_flight,
                max_concurrent_submits=self._submits,
                splits=self._splits,
                failure_budget=self._failure_budget,
                lease_seconds=self._lease_seconds,
            )
            await work.prepare()
            async with self._at_work(work):
                yield self

    @asynccontextmanager
    async def _at_work(self, work: RunWork) -> AsyncGenerator[None]:
        self._is_open = True
        failure: BaseException | None = None
        try:
            async with create_task_group() as tasks:
                tasks.start_soon(work.work)
                try:
                    yield
                except get_cancelled_exc_class():
                    raise
                except BaseException as error:  # noqa: BLE001  # raised below: the group would wrap it in another
                    failure = error
                finally:
                    self._is_open = False
                    with CancelScope(shield=True):
                        await work.stop(self._stop_timeout)
        finally:
            # Also when a cancellation that is pending ends the group: what the body raised comes first.
            if failure is not None:
                raise failure
        if work.failure is not None and not self._has_told_failure:
            # Nobody iterates, or not long enough to be told there.
            raise work.failure_to_raise

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> BatchRecord:
        work = self._work
        await checkpoint()
        while (record := work.mailbox.take()) is None:
            if work.has_failed:
                self._has_told_failure = True
                raise work.failure_to_raise
            if work.is_over:
                raise StopAsyncIteration
            self._check_open()
            await work.scribe.wait_for_news()
        work.scribe.tell_news()  # there is room for another
        return record

    @property
    def summary(self) -> FanOutSummary:
        """Where the run stands."""
        return self._work.summary()

    async def batches(
        self, states: BatchState | Collection[BatchState] | None = None
    ) -> AsyncGenerator[BatchRecord]:
        """Yield batches by their numbers as they stand in the ledger, those of earlier starts included.

        Args:
            states: only those in these states; None for all.
        """
        self._check_open()
        wanted = None if states is None else states_of(states)
        async with aclosing(self._work.batches(wanted)) as found:
            async for record in found:
                yield record

    def unknown(self) -> list[BatchRecord]:
        """Return the batches of which nobody knows whether a job exists, for :meth:`resolve`."""
        return self._work.books.unknown()

    def failed_source_ids(self) -> list[int]:
        """Return the ids of the sources in batches that ended badly."""
        return [
            source_id for record in self._work.books.failed() for source_id in record.source_ids
        ]

    async def retry(self, states: BatchState | Collection[BatchState] = _TRIED_AGAIN) -> int:
        """Try batches once more that ended badly; return how many.

        ERRORED ones are sent again, as new jobs. The jobs of TIMED_OUT and LOST ones may go on, and are watched again.

        Args:
            states: which.

        Raises:
            ValueError: these are other states.
        """
        self._check_open()
        wanted = states_of(states)
        if wrong := ", ".join(sorted(wanted - _TRIED_AGAIN)):
            raise ValueError(f"{wrong} batches are not tried again; resolve() is for unknown ones")
        work, count = self._work, 0
        for record in work.books.failed():
            if record.state in wanted:
                is_errored = record.state is BatchState.ERRORED
                to = BatchState.PLANNED if is_errored else BatchState.SUBMITTED
                if (after := await work.scribe.change(record, to)) is not None:
                    count += 1
                    work.watch(after)
        work.look_for_work()
        return count

    async def resolve(
        self,
        batch: BatchRecord | int,
        *,
        job_id: InferenceJob | int | None = None,
        resend: bool = False,
    ) -> BatchRecord:
        """Say what became of a batch that nobody knows of.

        Args:
            batch: the batch, or its number.
            job_id: the job that it has, or its id, which is asked for: it is watched from now on.
            resend: that it has none: it is sent again.

        Raises:
            ValueError: the batch is not UNKNOWN, the job runs over other sources or is watched for another batch, or
                neither or both of the two were said.
            NotFound, StatusError, RequestNotSent, NoResponse, InvalidResponse: the job could not be asked for.
        """
        self._check_open()
        if (job_id is not None) is bool(resend):
            raise ValueError("say either job_id=... or resend=True")
        work = self._work
        number = number_of(batch)
        job = job_id
        job_id = None if job_id is None else job_id_of(job_id)
        record = await work.scribe.look_up(number)
        if record is None or record.state is not BatchState.UNKNOWN:
            raise ValueError(
                f"batch {number} is {record.state if record else 'not here'}, not unknown"
            )
        if job_id is not None and (other := work.batch_of(job_id)) is not None:
            raise ValueError(f"job {job_id} is batch {other}'s")
        if job is not None:
            job = job if isinstance(job, InferenceJob) else await self._client.get_job(job)
            if {*job.source_ids} != {*record.source_ids}:
                raise ValueError(f"job {job_id} runs over other sources than batch {number}")
        to = BatchState.PLANNED if resend else BatchState.SUBMITTED
        after = await work.scribe.change(record, to, inference_job_id=job_id)
        if after is None:
            raise ValueError(f"batch {number} was resolved by somebody else meanwhile")
        work.watch(after)
        work.look_for_work()
        return after

    async def export(
        self,
        *,
        layers: Iterable[str] | None = None,
        include_annotation_types: bool = False,
        include_sources: bool = False,
        include_text_bounds: bool = False,
        sources_at_once: int = 10_000,
    ) -> RunExport:
        """Have the annotations of the sources that have finished exported.

        Args:
            layers: only the annotations in the layers of these names; None for the output layer, as far as it has a
                name in the plan, else for all.
            include_annotation_types: whether the types are to be in the files, too.
            include_sources: whether the sources and their texts are.
            include_text_bounds: whether it is to be told where the texts stand on their pages.
            sources_at_once: how many sources one export is for; if there are more, there are several.

        Returns:
            The exports, which have just begun; there is at least one.

        Raises:
            ExportError: no source has finished.
            RequestNotSent, NoResponse, StatusError, InvalidResponse: it failed, as often as the client's ``retry``
                allows.
            ValueError, NotOpen
        """
        finished = [record async for record in self.batches(BatchState.FINISHED)]
        return await export_of(
            self._client,
            self._plan,
            sources_of(finished, at_once=sources_at_once),
            layers=layers,
            include_annotation_types=include_annotation_types,
            include_sources=include_sources,
            include_text_bounds=include_text_bounds,
        )

    async def results(self) -> Results:
        """Return what the run has brought: for each source that has finished its annotations in the output layer.

        It waits for the exports and downloads them. Sources without annotations are there, too. Annotations that were
        in the layer before are among them: nothing tells them from new ones.

        Raises:
            ExportError: no source has finished, or an export failed or cannot be read.
            RequestNotSent, NoResponse, StatusError, InvalidResponse, NotOpen: as :meth:`export`.
        """
        # Looked up once: what finishes meanwhile is in no export, and would look as if nothing had been found in it.
        finished = [record async for record in self.batches(BatchState.FINISHED)]
        exports = await export_of(self._client, self._plan, sources_of(finished))
        return await results_of(finished, exports, layer=self._plan.output_layer_identifier)

    async def report(self) -> Report:
        """Return what has become of the run until now, to be looked at: ``await report.save("report.html")``.

        Raises:
            LedgerError, NotOpen
        """
        self._check_open()
        return await report_on(self._work.run)

    async def drain(self, timeout: float | None = None) -> None:
        """Stop in good order: submit nothing more, let what is open be answered, write all down, end the iteration.

        Jobs go on at the server; who starts the run again watches them again.

        Args:
            timeout: seconds that open requests have, 0 for none; None is the run's ``stop_timeout``.

        Raises:
            ValueError: that is no time.
        """
        self._check_open()
        if not (timeout is None or timeout == 0 or is_positive(timeout)):
            raise ValueError(f"timeout is {timeout!r}, not a number of seconds from 0 up")
        await self._work.stop(self._stop_timeout if timeout is None else timeout)

    @property
    def _work(self) -> RunWork:
        if self._begun_work is None:
            raise NotOpen(_NOT_OPEN)
        return self._begun_work

    def _check_open(self) -> None:
        if not self._is_open:
            raise NotOpen(_NOT_OPEN)
