"""What is written down while batches are counted, and counted while it is written: the books agree with the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from annolab_async import BatchState
from annolab_async._fan_out_state import Books, RecordMailbox
from annolab_async._hooks import Hooks
from annolab_async._scribe import Scribe
from annolab_async.ledger import MemoryLedger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

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


async def a_scribe() -> tuple[Scribe, Books, LedgerRun]:
    run = await MemoryLedger().begin_run("run", "plan")
    await run.plan([(1, 2), (3, 4), (5, 6)])
    books = Books(0.0)
    scribe = Scribe(
        run,
        run_name="run",
        owner="me",
        lease_seconds=60,
        books=books,
        mailbox=RecordMailbox(),
        hooks=Hooks(),
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
