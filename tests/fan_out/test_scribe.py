"""What is written down while batches are counted, and counted while it is written: the books agree with the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from annolab_async import BatchChanged, BatchState
from annolab_async._fan_out_state import Books, RecordMailbox
from annolab_async._hooks import Hooks
from annolab_async._scribe import Scribe
from annolab_async.ledger import MemoryLedger
from tests.observing import Recorder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from annolab_async.ledger import LedgerRun

pytestmark = pytest.mark.anyio

STATES = tuple(BatchState)


class Held:
    """A method of a ledger's run whose answers are held back, each until it is let go."""

    def __init__(self, run: LedgerRun, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._usual = getattr(run, name)
        self._gates: list[anyio.Event] = []
        monkeypatch.setattr(run, name, self._call)

    async def _call(self, *args: Any, **options: Any) -> Any:
        answer = await self._usual(*args, **options)
        self._gates.append(gate := anyio.Event())
        await gate.wait()
        return answer

    async def let_go(self) -> None:
        """Let go of the answer that has waited longest, and see what comes of it."""
        self._gates.pop(0).set()
        await anyio.wait_all_tasks_blocked()

    @property
    def count(self) -> int:
        """How many answers are held back."""
        return len(self._gates)


async def a_scribe(
    *hooks: Any, plan: Sequence[Sequence[int]] = ((1, 2), (3, 4), (5, 6))
) -> tuple[Scribe, Books, LedgerRun]:
    run = await MemoryLedger().begin_run("run", "plan")
    await run.plan(plan)
    books = Books(0.0)
    scribe = Scribe(
        run,
        run_name="run",
        owner="me",
        lease_seconds=60,
        books=books,
        mailbox=RecordMailbox(),
        hooks=Hooks(hooks),
    )
    await scribe.count()
    return scribe, books, run


def counted(books: Books) -> dict[BatchState, int]:
    return {state: books.count(state) for state in STATES if books.count(state)}


async def begin(tasks: Any, function: Callable[[], Awaitable[object]]) -> None:
    tasks.start_soon(function)
    await anyio.wait_all_tasks_blocked()


@pytest.mark.parametrize("name", ["claim", "change", "take_over"])
async def test_what_is_written_when_batches_are_counted_counts_once(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    scribe, books, run = await a_scribe()
    write = await a_write(scribe, run, name)
    held = Held(run, name, monkeypatch)
    async with anyio.create_task_group() as tasks:
        await begin(tasks, write)
        await begin(tasks, scribe.count)
        while held.count:
            await held.let_go()
    assert counted(books) == (await run.counts()).batches


@pytest.mark.parametrize("name", ["claim", "change", "take_over"])
@pytest.mark.parametrize("counts", [1, 2])
async def test_what_is_written_after_batches_were_counted_counts_on(
    monkeypatch: pytest.MonkeyPatch, name: str, counts: int
) -> None:
    scribe, books, run = await a_scribe()
    write = await a_write(scribe, run, name)
    held = Held(run, "counts", monkeypatch)
    async with anyio.create_task_group() as tasks:
        for _ in range(counts):
            await begin(tasks, scribe.count)
        for _ in range(counts - 1):
            await held.let_go()
        await begin(tasks, write)
        while held.count:
            await held.let_go()
    monkeypatch.undo()
    assert counted(books) == (await run.counts()).batches


async def test_what_is_taken_over_is_told_with_what_it_was_before() -> None:
    hook = Recorder()
    scribe, books, run = await a_scribe(hook)
    sent, *_ = await run.claim("another", limit=3, lease_seconds=60)
    await run.change(sent, BatchState.SUBMITTED, owner="another", inference_job_id=7)
    await scribe.count()
    taken = await scribe.take_over(of=["another"])
    assert [record.number for record in taken] == [1, 2, 3]
    assert [(one.run, one.previous, one.record) for one in hook.of(BatchChanged)] == [
        ("run", before, record)
        for before, record in zip(
            (BatchState.SUBMITTED, BatchState.SENDING, BatchState.SENDING), taken, strict=True
        )
    ]
    assert counted(books) == (await run.counts()).batches
    assert await scribe.take_over(of=["another"]) == []
    assert await scribe.renew()


@pytest.mark.parametrize("size", [2, 3, 5])
async def test_the_halves_of_a_batch_are_halves(size: int) -> None:
    hook = Recorder()
    scribe, books, run = await a_scribe(hook, plan=[range(1, size + 1)])
    record = await scribe.claim()
    assert record
    errored = await scribe.change(record, BatchState.ERRORED)
    assert errored
    await scribe.split(errored)
    assert [(one.previous, one.record.source_ids) for one in hook.of(BatchChanged)][2:] == [
        (BatchState.ERRORED, tuple(range(1, size + 1))),
        (None, tuple(range(1, size // 2 + 1))),
        (None, tuple(range(size // 2 + 1, size + 1))),
    ]
    assert counted(books) == (await run.counts()).batches
    told = len(hook.records)
    await scribe.split(errored)
    assert len(hook.records) == told, "somebody else has split it"


async def a_write(scribe: Scribe, run: LedgerRun, name: str) -> Callable[[], Awaitable[object]]:
    """Return a call that changes a batch."""
    if name == "claim":
        return scribe.claim
    if name == "change":
        record = await scribe.claim()
        assert record
        return lambda: scribe.change(record, BatchState.ERRORED)
    await run.claim("another", limit=2, lease_seconds=60)
    await scribe.count()
    return lambda: scribe.take_over(of=["another"])
