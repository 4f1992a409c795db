"""How much a run keeps for each batch, its ledger and its service left aside."""

from __future__ import annotations

import gc
import logging
import tracemalloc
from collections import Counter
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from annolab_async import AsyncInferenceClient, BatchRecord, BatchState, InferenceJob
from annolab_async._batch_records import changed
from annolab_async._fan_out import FanOut
from annolab_async._records import StatusReply
from annolab_async.ledger import LedgerCounts, MemoryLedger
from annolab_async.ledger._memory import MemoryRun
from tests.builders import NOW
from tests.fan_out.service import a_plan
from tests.service import KEY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from annolab_async import InferenceRequest

pytestmark = pytest.mark.anyio


class ThinRun(MemoryRun):
    """A run that knows no batch but those at work."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._count_of_all = 0
        self._next = 1
        self._states = Counter[BatchState]()

    async def plan(self, batches: Any, *, after: int = 0) -> Any:  # noqa: ARG002
        self._count_of_all = sum(1 for _ in batches)
        self._states = Counter({BatchState.PLANNED: self._count_of_all})
        return self.info

    async def claim(self, owner: str, *, limit: int, lease_seconds: float) -> Sequence[BatchRecord]:  # noqa: ARG002
        await anyio.lowlevel.checkpoint()
        if self._next > self._count_of_all:
            return []
        number = self._next
        self._next += 1
        record = BatchRecord(
            number=number,
            source_ids=(number,),
            state=BatchState.PLANNED,
            created_at=NOW,
            updated_at=NOW,
        )
        return [self._moved(record, BatchState.SENDING, owner)]

    async def change(
        self,
        record: BatchRecord,
        to: BatchState,
        *,
        owner: str,
        uncertainty: float | None = None,  # noqa: ARG002  # for the history
        **news: Any,
    ) -> BatchRecord | None:
        await anyio.lowlevel.checkpoint()
        return self._moved(record, to, owner, **news)

    def _moved(self, record: BatchRecord, to: BatchState, owner: str, **news: Any) -> BatchRecord:
        self._states[record.state] -= 1
        self._states[to] += 1
        return changed(record, to, at=NOW, owner=owner, **news)

    async def counts(self) -> LedgerCounts:
        return LedgerCounts(batches=dict(+self._states), sources=dict(+self._states))


class ThinLedger(MemoryLedger):
    async def begin_run(self, name: str, fingerprint: str, *, details: str = "") -> MemoryRun:
        run = await super().begin_run(name, fingerprint, details=details)
        return ThinRun(run.info, self._clock)


class ThinClient(AsyncInferenceClient):
    """A service that keeps nothing: each job has ended when it is first asked for."""

    def __init__(self) -> None:
        super().__init__(KEY)
        self.submitted = 0
        self._ends = dict[int, float]()

    async def submit_once(self, request: InferenceRequest, progress: Any) -> InferenceJob:  # noqa: ARG002
        await anyio.sleep(0.01)
        self.submitted += 1
        self._ends[self.submitted] = anyio.current_time()
        return InferenceJob(self.submitted, "Queued", request.source_ids)

    async def poll_status(
        self,
        job_id: int,
        previous: StatusReply | None = None,  # noqa: ARG002
        *,
        may_go_back: bool = False,  # noqa: ARG002
    ) -> StatusReply:
        await anyio.sleep(0.01)
        status = "Running"
        if self._ends[job_id] <= anyio.current_time():
            del self._ends[job_id]
            status = "Finished"
        return StatusReply(InferenceJob(job_id, status, ()), status.encode())


@pytest.mark.thorough
@pytest.mark.timeout(400)  # seconds: each batch takes ten times as long while memory is traced
async def test_a_run_keeps_nothing_of_batches_that_have_finished(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR, "annolab_async")  # pytest keeps every line
    count = 2_000
    marks = [count // 4, count // 2, count - 200]
    held, ended = list[int](), 0
    plan = a_plan(range(1, count + 1), batch_size=1)
    tracemalloc.start()
    try:
        async with (
            ThinClient() as client,
            FanOut(
                client, plan, ledger=ThinLedger(), max_in_flight=20, max_concurrent_submits=2
            ) as run,
        ):
            async for record in run:
                if record.state is BatchState.FINISHED:
                    ended += 1
                    if ended in marks:
                        gc.collect()
                        held.append(tracemalloc.get_traced_memory()[0])
            assert run.summary.batches == {BatchState.FINISHED: count}
    finally:
        tracemalloc.stop()
    grown = (held[-1] - held[0]) / (marks[-1] - marks[0])
    print(f"{grown:.1f} bytes a batch; held: {[round(size / 1000) for size in held]} kB")  # noqa: T201
    assert grown < 32
