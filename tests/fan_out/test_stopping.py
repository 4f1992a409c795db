from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from annolab_async import BatchState, LedgerError, RateLimit
from annolab_async.ledger import MemoryLedger
from annolab_async.ledger._memory import MemoryRun
from tests.fan_out.service import Service, a_plan, in_ledger, states_of, to_end
from tests.service import in_process, task_count

if TYPE_CHECKING:
    from annolab_async import BatchRecord
    from annolab_async.ledger import Ledger

pytestmark = pytest.mark.anyio


async def test_after_a_drain_nothing_is_sent_and_a_second_start_goes_on(ledger: Ledger) -> None:
    service, plan = Service(), a_plan(200)
    async with in_process(service) as client:
        async with client.fan_out(plan, ledger=ledger, max_in_flight=10) as run:
            async for record in run:
                if record.state is BatchState.FINISHED:
                    break
            await run.drain()
            sent = len(service.sent)
            await to_end(run)
            await anyio.sleep(100)
            assert len(service.sent) == sent < 100
        records = await in_ledger(ledger, plan)
        assert BatchState.SENDING not in states_of(records)
        assert BatchState.UNKNOWN not in states_of(records)
        assert sum(record.attempts for record in records) == sent
        async with client.fan_out(plan, ledger=ledger) as run:
            await to_end(run)
            assert run.summary.batches == {BatchState.FINISHED: 100}
    assert len(service.sent) == len(set(service.sent)) == 100


async def test_a_drain_lets_open_submissions_be_answered(ledger: Ledger) -> None:
    service, plan = Service(), a_plan(20)
    answered = anyio.Event()
    all_wait = service.holds(answered, count=4)
    async with (
        in_process(service) as client,
        client.fan_out(plan, ledger=ledger, max_concurrent_submits=4) as run,
        anyio.create_task_group() as tasks,
    ):
        await all_wait.wait()
        tasks.start_soon(run.drain, 5.0)
        await anyio.sleep(4.0)
        assert run.summary.batches[BatchState.SENDING] == 4
        answered.set()
        await to_end(run)
    assert states_of(await in_ledger(ledger, plan)) == {
        BatchState.PLANNED: 6,
        BatchState.SUBMITTED: 4,
    }


@pytest.mark.parametrize("timeout", [0, 5.0, None])
async def test_a_drain_breaks_off_what_is_not_answered_in_time(
    ledger: Ledger, timeout: float | None
) -> None:
    service, plan = Service(), a_plan(20)
    all_wait = service.holds(anyio.Event(), count=4)
    async with (
        in_process(service) as client,
        client.fan_out(plan, ledger=ledger, max_concurrent_submits=4, stop_timeout=7.0) as run,
    ):
        await all_wait.wait()
        began = anyio.current_time()
        await run.drain(timeout)
        assert anyio.current_time() - began == pytest.approx(7.0 if timeout is None else timeout)
        assert len(run.unknown()) == 4
        assert all("stopped" in (record.error or "") for record in run.unknown())
        await to_end(run)
    assert states_of(await in_ledger(ledger, plan)) == {
        BatchState.PLANNED: 6,
        BatchState.UNKNOWN: 4,
    }


async def test_draining_twice_is_as_good_as_once() -> None:
    service = Service()
    all_wait = service.holds(anyio.Event(), count=4)
    async with in_process(service) as client, client.fan_out(a_plan(20)) as run:
        await all_wait.wait()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run.drain, 5.0)
            tasks.start_soon(run.drain, 1.0)
        await run.drain()


@pytest.mark.parametrize("timeout", [-1, float("nan"), "5", True])
async def test_a_drain_in_no_time_that_there_is_is_refused(timeout: Any) -> None:
    async with in_process(Service()) as client, client.fan_out(a_plan(2)) as run:
        with pytest.raises(ValueError, match=r"timeout is .*, not a number of seconds"):
            await run.drain(timeout)
        await to_end(run)
        assert run.summary.batches == {BatchState.FINISHED: 1}


async def test_a_consumer_that_waits_is_told_of_a_drain() -> None:
    service = Service(base_seconds=1e6)
    async with (
        in_process(service) as client,
        client.fan_out(a_plan(20)) as run,
        anyio.create_task_group() as tasks,
    ):

        async def drain() -> None:
            await anyio.sleep(100)
            await run.drain()

        tasks.start_soon(drain)
        assert states_of(await to_end(run))[BatchState.SUBMITTED] >= 10
        assert anyio.current_time() < 1000


async def test_what_is_asked_for_after_a_drain_is_done_by_the_next_start(ledger: Ledger) -> None:
    service, plan = Service(bad_source_ids=[1]), a_plan(4)
    service.loses([3])
    async with in_process(service) as client:
        async with client.fan_out(plan, ledger=ledger) as run:
            await to_end(run)
            await run.drain()
            assert await run.retry() == 1
            await run.resolve(2, resend=True)
            assert await to_end(run) != []
        service.after = None
        async with client.fan_out(plan, ledger=ledger) as run:
            await to_end(run)
            assert run.summary.batches == {BatchState.ERRORED: 1, BatchState.FINISHED: 1}
    assert len(service.sent) == 4


async def test_leaving_the_block_waits_for_open_submissions_and_no_longer(ledger: Ledger) -> None:
    service, plan = Service(), a_plan(20)
    answered = anyio.Event()
    all_wait = service.holds(answered, count=4)
    async with in_process(service) as client, anyio.create_task_group() as tasks:
        async with client.fan_out(plan, ledger=ledger, max_concurrent_submits=4):
            await all_wait.wait()

            async def answer() -> None:
                await anyio.sleep(3.0)
                answered.set()

            tasks.start_soon(answer)
            began = anyio.current_time()
        assert 2.9 < anyio.current_time() - began < 3.5
    assert states_of(await in_ledger(ledger, plan)) == {
        BatchState.PLANNED: 6,
        BatchState.SUBMITTED: 4,
    }


@pytest.mark.parametrize("how", ["cancelled", "raises", "leaves"])
async def test_however_the_block_is_left_a_second_start_goes_on(ledger: Ledger, how: str) -> None:
    service, plan = Service(), a_plan(100)

    async def start(scope: anyio.CancelScope) -> None:
        run = client.fan_out(plan, ledger=ledger, max_in_flight=5)
        try:
            async with run:
                async for record in run:
                    if record.state is BatchState.FINISHED:
                        if how == "leaves":
                            break
                        if how == "cancelled":
                            scope.cancel()
                        else:
                            _ = 1 / 0
        finally:
            assert run.unknown() == []

    tasks = task_count()
    async with in_process(service) as client:
        for _ in range(4):
            with anyio.CancelScope() as scope:
                if how == "raises":
                    with pytest.raises(ZeroDivisionError):
                        await start(scope)
                else:
                    await start(scope)
            assert scope.cancelled_caught is (how == "cancelled")
            assert task_count() == tasks
        async with client.fan_out(plan, ledger=ledger) as run:
            await to_end(run)
            assert run.summary.batches == {BatchState.FINISHED: 50}
    assert len(service.sent) == len(set(service.sent)) == 50


async def test_a_run_that_is_cancelled_at_any_moment_loses_and_doubles_nothing() -> None:
    for step in range(30):
        ledger, service, plan = MemoryLedger(), Service(latency=1.0), a_plan(12)
        async with in_process(service) as client:
            with anyio.move_on_after(step * 0.5):
                async with client.fan_out(plan, ledger=ledger, max_concurrent_submits=2) as run:
                    await to_end(run)
            async with client.fan_out(plan, ledger=ledger) as run:
                await to_end(run)
                assert run.unknown() == []
                assert run.summary.batches == {BatchState.FINISHED: 6}
        assert len(service.sent) == len(set(service.sent)) == 6, step


async def test_cancelled_in_the_middle_of_a_request_that_is_not_answered_it_ends_in_time(
    ledger: Ledger,
) -> None:
    service, plan = Service(), a_plan(20)
    all_wait = service.holds(anyio.Event(), count=4)
    async with in_process(service) as client:
        run = client.fan_out(plan, ledger=ledger, max_concurrent_submits=4, stop_timeout=2.0)
        with anyio.CancelScope() as scope:
            async with run:
                await all_wait.wait()
                scope.cancel()
                await to_end(run)
        assert 2.0 <= run.summary.elapsed < 3.0
    records = await in_ledger(ledger, plan)
    assert states_of(records) == {BatchState.PLANNED: 6, BatchState.UNKNOWN: 4}


async def test_jobs_go_on_at_the_server_and_are_watched_by_the_second_start(
    ledger: Ledger,
) -> None:
    service, plan = Service(base_seconds=500.0), a_plan(20)
    async with in_process(service) as client:
        async with client.fan_out(plan, ledger=ledger) as run:
            async for record in run:
                if record.number == 10 and record.state is BatchState.SUBMITTED:
                    break
        async with client.fan_out(plan, ledger=ledger) as run:
            news = await to_end(run)
            assert run.summary.batches == {BatchState.FINISHED: 10}
    assert len(service.sent) == 10
    assert all(record.inference_job_id for record in news)


async def test_a_run_that_is_stopped_before_it_has_begun_has_sent_nothing(ledger: Ledger) -> None:
    service, plan = Service(), a_plan(20)
    async with in_process(service) as client:
        async with client.fan_out(plan, ledger=ledger) as run:
            await run.drain(0)
        assert service.sent == []
        async with client.fan_out(plan, ledger=ledger) as run:
            await to_end(run)
    assert len(service.sent) == 10


async def test_a_ledger_that_cannot_be_written_at_the_end_does_not_hide_what_the_body_raised(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise LedgerError(where="on a disk", what="it is full", hint="Make room.")

    monkeypatch.setattr(MemoryRun, "release", broken)

    async def fail() -> None:
        async with client.fan_out(a_plan(4)) as run:
            async for _ in run:
                raise ZeroDivisionError

    async with in_process(Service()) as client:
        with pytest.raises(ZeroDivisionError):
            await fail()
    assert "it is full" in caplog.text


async def test_a_ledger_that_takes_long_at_the_end_is_waited_for_and_no_longer(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, plan = Service(base_seconds=1e6), a_plan(2)
    with anyio.fail_after(1000):
        async with (
            in_process(service) as client,
            client.fan_out(plan, ledger=ledger, stop_timeout=1.0) as run,
        ):
            change, is_asked = run._work.run.change, anyio.Event()

            async def slow(record: BatchRecord, to: BatchState, **news: Any) -> BatchRecord | None:
                is_asked.set()
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(100)
                return await change(record, to, **news)

            monkeypatch.setattr(run._work.run, "change", slow)
            await is_asked.wait()
            began = anyio.current_time()
        assert anyio.current_time() - began == pytest.approx(100, abs=1)
    assert states_of(await in_ledger(ledger, plan)) == {BatchState.SUBMITTED: 1}


async def test_a_lease_that_takes_long_to_be_ended_is_left_to_run_out(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(_: str) -> None:
        await anyio.sleep(100)

    async with in_process(Service()) as client:
        async with client.fan_out(a_plan(2), ledger=ledger) as run:
            await to_end(run)
            monkeypatch.setattr(run._work.run, "release", slow)
            began = anyio.current_time()
        assert anyio.current_time() - began == pytest.approx(10, abs=1)


async def test_who_waits_for_a_turn_when_the_run_is_stopped_sends_nothing(ledger: Ledger) -> None:
    service = Service()
    async with in_process(service, rate_limit=RateLimit(0.01)) as client:
        async with client.fan_out(a_plan(20), ledger=ledger) as run:
            await anyio.sleep(5)
            assert len(service.sent) == 1
            began = anyio.current_time()
            await run.drain()
            assert anyio.current_time() == began
        await anyio.sleep(1000)
    assert len(service.sent) == 1


async def test_a_job_of_which_the_ledger_could_not_be_told_is_raised_logged_and_unknown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    change = MemoryRun.change

    async def broken(run: MemoryRun, record: BatchRecord, to: BatchState, **news: Any) -> Any:
        if to is BatchState.SUBMITTED:
            raise LedgerError(where="on a disk", what="it is full", hint="Make room.")
        return await change(run, record, to, **news)

    ledger, service = MemoryLedger(), Service()
    async with in_process(service) as client:
        with monkeypatch.context() as patch:
            patch.setattr(MemoryRun, "change", broken)

            async def look_away() -> None:
                async with client.fan_out(a_plan(2), ledger=ledger):
                    await anyio.sleep(5)

            with pytest.raises(LedgerError, match="it is full"):
                await look_away()
        assert "Batch 1 was taken as job 1" in caplog.text
        async with client.fan_out(a_plan(2), ledger=ledger) as run:
            (record,) = run.unknown()
            await run.resolve(record, job_id=1)
            await to_end(run)
            assert run.summary.batches == {BatchState.FINISHED: 1}
    assert service.sent == [(1, 2)]


def test_a_run_that_asyncio_ends_with_all_other_tasks_ends_at_once() -> None:
    """As ``asyncio.run`` does with what is left when its main coroutine has returned."""
    service, plan, ledger = Service(), a_plan(20), MemoryLedger()

    async def run_in_the_background(is_sending: anyio.Event) -> None:
        all_wait = service.holds(anyio.Event(), count=4)
        async with (
            in_process(service) as client,
            client.fan_out(plan, ledger=ledger, max_concurrent_submits=4),
        ):
            await all_wait.wait()
            is_sending.set()
            await anyio.sleep_forever()

    async def main() -> asyncio.Task[None]:
        is_sending = anyio.Event()
        background = asyncio.create_task(run_in_the_background(is_sending))
        await is_sending.wait()
        return background

    assert asyncio.run(main()).cancelled()
    assert len(service.sent) == 4
    assert states_of(asyncio.run(in_ledger(ledger, plan))) == {
        BatchState.PLANNED: 6,
        BatchState.UNKNOWN: 4,
    }
