"""How much of a run is under way at once, what it keeps of its batches, and what it says of itself in the log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from annolab_async import BatchState, FixedInterval
from annolab_async._fan_out_state import Books
from annolab_async._run_log import RunLog
from annolab_async.ledger import MemoryLedger
from annolab_async.ledger._memory import MemoryRun
from tests.fan_out.service import Service, a_plan, to_end
from tests.service import in_process

if TYPE_CHECKING:
    from annolab_async import BatchRecord

pytestmark = [pytest.mark.anyio, pytest.mark.any_backend]


async def test_nothing_is_kept_of_batches_that_have_ended() -> None:
    service = Service(error_share=0.5, seed=1)
    service.loses([3])
    async with in_process(service) as client, client.fan_out(a_plan(20)) as run:
        await to_end(run)
        sender = run._work._sender
        assert not sender.in_flight
        assert not sender.is_busy
        assert not sender._waiting
        assert not sender._being_taken
        assert not run._work._of_job
        assert {record.state for record in run._work.books.troubled.values()} == {
            BatchState.ERRORED,
            BatchState.UNKNOWN,
        }


async def test_a_run_says_when_it_begins_and_ends_and_nothing_else_if_it_is_short(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="annolab_async")
    async with in_process(Service()) as client, client.fan_out(a_plan(2), lease_seconds=3) as run:
        await to_end(run)
    begins, ends = [record.getMessage() for record in caplog.records]
    assert begins == "Run 'default' begins: no batches; 0.0 sources/s."
    assert ends.startswith("Run 'default' ends: 1 finished batches; 0.")
    assert ends.endswith(" sources/s, 0 s to go.")


async def test_a_run_has_a_line_a_minute_and_its_watcher_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="annolab_async")
    async with (
        in_process(Service(workers=2, base_seconds=100.0)) as client,
        client.fan_out(a_plan(4), schedule=FixedInterval(25.0)) as run,
    ):
        await to_end(run)
    assert {record.name for record in caplog.records} == {"annolab_async._fan_out"}
    told = [record.getMessage().partition(";")[0] for record in caplog.records]
    assert told == [
        "Run 'default' begins: no batches",
        "Run 'default' goes on: 2 submitted batches",
        "Run 'default' ends: 2 finished batches",
    ]


async def test_who_has_not_shown_that_it_is_alive_is_warned(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 1e9
    ledger = MemoryLedger(clock=lambda: now)
    async with (
        in_process(Service(base_seconds=100.0)) as client,
        client.fan_out(a_plan(2), ledger=ledger, lease_seconds=60) as run,
    ):
        await anyio.sleep(50)
        assert "has not heard" not in caplog.text
        now += 61
        await anyio.sleep(20)
        assert "The run's ledger has not heard of this process for too long." in caplog.text
        await to_end(run)


def test_a_line_is_due_a_minute_after_the_one_before() -> None:
    log = RunLog("run", 5.0)
    due = [now for now in (5.0, 64.9, 65.0, 65.0, 124.9, 130.0, 189.9, 190.0) if log.is_due(now)]
    assert due == [65.0, 130.0, 190.0]


def test_how_long_the_rest_takes_is_said_only_where_it_is_known(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="annolab_async")
    books = Books(0.0)
    RunLog("run", 0.0).line("goes on", books.summary(1.0, is_planned=False, repeated=0))
    RunLog("run", 0.0).line("goes on", books.summary(1.0, is_planned=True, repeated=0))
    assert [record.getMessage() for record in caplog.records] == [
        "Run 'run' goes on: no batches; 0.0 sources/s.",
        "Run 'run' goes on: no batches; 0.0 sources/s, 0 s to go.",
    ]


@pytest.mark.parametrize("at_once", [1, 2, 3])
async def test_as_many_submissions_are_under_way_as_allowed_each_time_one_is_answered(
    at_once: int,
) -> None:
    service, times = Service(), list[float]()

    async def take_time(_: tuple[int, ...]) -> None:
        times.append(anyio.current_time())
        await anyio.sleep(1.0)

    service.before = take_time
    async with (
        in_process(service) as client,
        client.fan_out(a_plan(12), max_concurrent_submits=at_once) as run,
    ):
        await to_end(run)
    assert [int(time - times[0] + 0.1) for time in times] == [n // at_once for n in range(6)]


@pytest.mark.parametrize("most", [1, 2, 3])
async def test_as_many_jobs_are_unfinished_as_allowed(most: int) -> None:
    service = Service(workers=10, base_seconds=20.0)
    async with (
        in_process(service) as client,
        client.fan_out(a_plan(12), max_in_flight=most) as run,
    ):
        await anyio.sleep(10)
        assert run.summary.batches == {
            BatchState.SUBMITTED: most,
            BatchState.PLANNED: 6 - most,
        }
        assert len(service.sent) == most
        await to_end(run)
    assert len(service.sent) == 6


async def test_the_next_batch_is_sent_while_the_answer_to_one_is_written_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service, may_write = Service(), anyio.Event()
    change = MemoryRun.change

    async def hold(run: MemoryRun, record: BatchRecord, to: BatchState, **news: Any) -> Any:
        if to is BatchState.SUBMITTED:
            await may_write.wait()
        return await change(run, record, to, **news)

    monkeypatch.setattr(MemoryRun, "change", hold)
    async with (
        in_process(service) as client,
        client.fan_out(a_plan(10), max_concurrent_submits=1) as run,
    ):
        await anyio.sleep(1)
        # Of what is being sent and written down there is no more than twice as much as is sent at once.
        assert len(service.sent) == 2
        assert run.summary.batches == {BatchState.SENDING: 2, BatchState.PLANNED: 3}
        may_write.set()
        await to_end(run)
    assert len(service.sent) == 5


async def test_batches_are_claimed_together_and_no_more_of_them_than_are_sent_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service, may_claim, asked = Service(), anyio.Event(), 0
    claim = MemoryRun.claim

    async def hold(run: MemoryRun, owner: str, **options: Any) -> Any:
        nonlocal asked
        asked += 1
        await may_claim.wait()
        return await claim(run, owner, **options)

    monkeypatch.setattr(MemoryRun, "claim", hold)
    async with (
        in_process(service) as client,
        client.fan_out(a_plan(20), max_concurrent_submits=3) as run,
    ):
        await anyio.sleep(0.5)
        assert asked == 3
        may_claim.set()
        await to_end(run)
    assert len(service.sent) == 10
    assert asked <= 2 * 10, "hardly anybody claims what is not there"


async def test_a_job_that_says_what_it_said_before_is_not_written_down_again() -> None:
    ledger, plan = MemoryLedger(), a_plan(2)
    async with in_process(Service(base_seconds=1000.0)) as client:
        for seconds in (10, 100):
            async with client.fan_out(plan, ledger=ledger, schedule=FixedInterval(5.0)):
                await anyio.sleep(seconds)
    async with ledger:
        run = await ledger.begin_run("default", plan.fingerprint)
        told = [(change.state, change.status) for change in await run.history(1)]
    assert told.count((BatchState.SUBMITTED, "Running")) == 2, "once seen, and once taken over"
