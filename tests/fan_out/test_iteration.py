from __future__ import annotations

import threading
from collections import defaultdict
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from annolab_async import (
    AuthenticationError,
    BatchState,
    FixedInterval,
    NotFound,
    NotOpen,
    PermissionDenied,
    _fan_out,
)
from annolab_async._batch_records import NEXT_STATES
from annolab_async.ledger import open_ledger
from annolab_async.ledger._memory import MemoryRun
from tests.fan_out.service import Service, a_plan, in_ledger, states_of, to_end
from tests.service import KEY, in_process, task_count

if TYPE_CHECKING:
    from pathlib import Path

    from annolab_async import BatchRecord, FanOut
    from annolab_async.ledger import Ledger

pytestmark = pytest.mark.anyio


async def test_every_change_of_every_batch_is_told_in_its_order(ledger: Ledger) -> None:
    service, plan = Service(workers=2), a_plan(10)
    told = defaultdict[int, list["BatchRecord"]](list)
    async with in_process(service) as client, client.fan_out(plan, ledger=ledger) as run:
        async for record in run:
            told[record.number].append(record)
    assert sorted(told) == [1, 2, 3, 4, 5]
    for records in told.values():
        assert records[0].state is BatchState.SENDING
        assert records[-1].state is BatchState.FINISHED
        assert [record.version for record in records] == list(range(1, len(records) + 1))
        assert all(after.state in NEXT_STATES[before.state] for before, after in pairwise(records))
        assert len({record.inference_job_id for record in records[1:]}) == 1
    assert sorted(service.batches) == [(1, 2), (3, 4), (5, 6), (7, 8), (9, 10)]


async def test_what_is_told_is_what_the_ledger_has(ledger: Ledger) -> None:
    service, plan = Service(), a_plan(10)
    async with in_process(service) as client, client.fan_out(plan, ledger=ledger) as run:
        last = {record.number: record async for record in run}
    assert await in_ledger(ledger, plan) == [last[number] for number in sorted(last)]


async def test_how_old_an_end_may_have_been_when_it_was_seen_is_in_the_ledger(
    ledger: Ledger,
) -> None:
    service, plan = Service(), a_plan(2)
    schedule = FixedInterval(4)
    async with (
        in_process(service) as client,
        client.fan_out(plan, ledger=ledger, schedule=schedule) as run,
    ):
        await to_end(run)
    async with ledger:
        kept = await ledger.begin_run("default", plan.fingerprint)
        changes = await kept.history(1)
    assert changes[-1].state is BatchState.FINISHED
    assert changes[-1].uncertainty == pytest.approx(4, abs=0.1)
    assert changes[0].uncertainty is None, "no poll has seen that"


async def test_a_record_says_all_about_its_batch(ledger: Ledger) -> None:
    service = Service()
    async with in_process(service) as client, client.fan_out(a_plan(2), ledger=ledger) as run:
        *_, record = await to_end(run)
    assert record.number == 1
    assert record.source_ids == (1, 2)
    assert record.inference_job_id == 1
    assert record.attempts == 1
    assert record.status == "Finished"
    assert record.error is None
    assert record.owner is None
    assert record.parent is None
    times = [record.created_at, record.sent_at, record.submitted_at, record.ended_at]
    assert times == sorted(time for time in times if time)
    assert record.updated_at == record.ended_at


async def test_a_batch_whose_job_fails_is_errored_and_the_others_go_on(ledger: Ledger) -> None:
    service = Service(bad_source_ids=[3])
    async with in_process(service) as client, client.fan_out(a_plan(10), ledger=ledger) as run:
        last = {record.number: record async for record in run}
        assert run.failed_source_ids() == [3, 4]
        assert run.unknown() == []
    assert last.pop(2).state is BatchState.ERRORED
    assert states_of(last.values()) == {BatchState.FINISHED: 4}


async def test_who_stops_iterating_can_begin_again_where_it_was() -> None:
    service = Service()
    async with in_process(service) as client, client.fan_out(a_plan(10)) as run:
        first: list[BatchRecord] = []
        async for record in run:
            first.append(record)
            if len(first) == 7:
                break
        rest = await to_end(run)
    versions = {(record.number, record.version) for record in first + rest}
    assert len(versions) == len(first) + len(rest)
    assert states_of({one.number: one for one in first + rest}.values()) == {BatchState.FINISHED: 5}


async def test_iterating_over_a_run_that_has_ended_ends_at_once() -> None:
    async with in_process(Service()) as client, client.fan_out(a_plan(2)) as run:
        assert await to_end(run)
        began = anyio.current_time()
        assert await to_end(run) == []
        assert anyio.current_time() == began


async def test_several_consumers_share_the_news() -> None:
    told: list[BatchRecord] = []

    async def consume() -> None:
        told.extend([record async for record in run])

    async with (
        in_process(Service()) as client,
        client.fan_out(a_plan(40)) as run,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(3):
            tasks.start_soon(consume)
    assert len({(record.number, record.version) for record in told}) == len(told)
    assert sum(record.state is BatchState.FINISHED for record in told) == 20


async def test_a_finished_run_started_again_sends_and_tells_nothing(ledger: Ledger) -> None:
    service, plan = Service(), a_plan(10)
    async with in_process(service) as client:
        async with client.fan_out(plan, ledger=ledger) as run:
            await to_end(run)
        requests = service.emulator.stats.requests
        async with client.fan_out(plan, ledger=ledger) as run:
            assert await to_end(run) == []
            assert run.summary.batches == {BatchState.FINISHED: 5}
            assert run.summary.sources == {BatchState.FINISHED: 10}
    assert service.emulator.stats.requests == requests


@pytest.mark.parametrize(
    ("key", "error"),
    [("OTHERKEY-OTHERKEY", AuthenticationError), ("WITHOUT-MODELRUN", PermissionDenied)],
)
async def test_a_key_that_may_not_is_raised_and_costs_no_batch(
    ledger: Ledger, key: str, error: type[Exception]
) -> None:
    service = Service(api_keys_without_model_run=["WITHOUT-MODELRUN"])
    plan = a_plan(100)
    async with (
        in_process(service, api_key=key) as client,
        client.fan_out(plan, ledger=ledger) as run,
    ):
        for _ in range(2):
            with pytest.raises(error) as caught:
                await to_end(run)
            assert key not in str(caught.value)
    records = await in_ledger(ledger, plan)
    assert states_of(records) == {BatchState.PLANNED: 50}
    async with in_process(service) as client, client.fan_out(plan, ledger=ledger) as run:
        await to_end(run)
    assert sorted(service.batches) == [record.source_ids for record in records]


async def test_a_project_that_is_not_known_is_raised_and_costs_no_batch(ledger: Ledger) -> None:
    service, plan = Service(), a_plan(100, project_identifier="Elsewhere")
    async with in_process(service) as client, client.fan_out(plan, ledger=ledger) as run:
        with pytest.raises(NotFound, match="Elsewhere"):
            await to_end(run)
    assert states_of(await in_ledger(ledger, plan)) == {BatchState.PLANNED: 50}


async def test_what_makes_a_run_senseless_is_raised_though_nobody_iterates() -> None:
    async def look_away() -> None:
        async with in_process(Service(), api_key="OTHER") as client, client.fan_out(a_plan()):
            await anyio.sleep(60)

    with pytest.raises(AuthenticationError):
        await look_away()


async def test_what_was_raised_and_dealt_with_is_not_raised_again_at_the_end() -> None:
    async with in_process(Service(), api_key="OTHER") as client, client.fan_out(a_plan()) as run:
        with pytest.raises(AuthenticationError):
            await to_end(run)


async def test_what_the_body_raises_comes_out_as_it_is_and_leaves_no_task() -> None:
    tasks = task_count()
    error = ZeroDivisionError("the body's own")

    async def fail() -> None:
        async with client.fan_out(a_plan(100)) as run:
            async for _ in run:
                raise error

    async with in_process(Service()) as client:
        with pytest.raises(ZeroDivisionError) as caught:
            await fail()
        assert caught.value is error
        assert task_count() == tasks


async def test_a_run_is_used_in_its_block() -> None:
    async with in_process(Service()) as client:
        run = client.fan_out(a_plan())
        for use in (
            lambda: run.summary,
            run.unknown,
            run.failed_source_ids,
        ):
            with pytest.raises(NotOpen, match=r"async with client\.fan_out"):
                use()
        for call in (
            lambda: anext(run),
            run.retry,
            run.drain,
            lambda: run.resolve(1, resend=True),
        ):
            with pytest.raises(NotOpen, match=r"async with client\.fan_out"):
                await call()


async def test_after_its_block_a_run_still_tells_and_does_nothing_more(ledger: Ledger) -> None:
    service = Service(bad_source_ids=[1])
    async with in_process(service) as client:
        async with client.fan_out(a_plan(10), ledger=ledger) as run:
            async for record in run:
                if record.state is BatchState.ERRORED:
                    break
        assert run.failed_source_ids() == [1, 2]
        assert run.unknown() == []
        assert sum(run.summary.sources.values()) == 10
        rest = await to_end(run)
        assert all(record.number for record in rest)
        for call in (
            run.retry,
            run.drain,
            run.export,
            run.results,
            run.report,
            lambda: run.resolve(1, resend=True),
            lambda: anext(run.batches()),
        ):
            with pytest.raises(NotOpen):
                await call()
        with pytest.raises(NotOpen, match="make another one"):
            async with run:
                pass


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_where_a_run_was_when_it_stopped_is_told_when_its_event_loop_has_ended(
    backend: str,
) -> None:
    async def start_and_stop() -> FanOut:
        async with in_process(Service()) as client, client.fan_out(a_plan(10)) as run:
            await run.drain(0)
        return run

    run = anyio.run(start_and_stop, backend=backend)
    summary = run.summary
    assert sum(summary.batches.values()) in {0, 5}
    assert 0 <= summary.elapsed < 100
    assert run.summary == summary


@pytest.mark.any_backend
async def test_who_reads_what_is_there_already_can_be_cancelled() -> None:
    async with in_process(Service()) as client, client.fan_out(a_plan(4)) as run:
        await anyio.sleep(20)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anext(run)
        assert scope.cancelled_caught
        assert len(await to_end(run)) >= 6, "it has taken nothing"


@pytest.mark.any_backend
async def test_who_reads_before_the_block_is_entered_is_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_count = anyio.Event()
    counts = MemoryRun.counts

    async def wait(run: MemoryRun) -> Any:
        await may_count.wait()
        return await counts(run)

    monkeypatch.setattr(MemoryRun, "counts", wait)
    async with in_process(Service()) as client, anyio.create_task_group() as tasks:
        run = client.fan_out(a_plan(4))

        async def enter() -> None:
            async with run:
                await to_end(run)

        tasks.start_soon(enter)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(NotOpen):
            await anext(run)
        may_count.set()


@pytest.mark.any_backend
async def test_what_a_ledger_needs_is_imported_in_another_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    def note(spec: Any) -> Any:
        threads.append(threading.get_ident())
        return open_ledger(spec)

    monkeypatch.setattr(_fan_out, "open_ledger", note)
    async with in_process(Service()) as client:
        for ledger, elsewhere in ((str(tmp_path / "run.db"), True), (None, False)):
            threads.clear()
            async with client.fan_out(a_plan(2), ledger=ledger) as run:
                await to_end(run)
            assert (threads[0] != threading.get_ident()) is elsewhere


async def test_the_client_is_used_in_its_block() -> None:
    async with in_process(Service()) as client:
        pass
    async with client.fan_out(a_plan()) as run:
        with pytest.raises(NotOpen):
            await to_end(run)


async def test_a_client_that_is_closed_meanwhile_ends_the_run() -> None:
    service = Service()
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(in_process(service))
        async with client.fan_out(a_plan(1000), max_in_flight=10) as run:
            async for record in run:
                if record.state is BatchState.FINISHED:
                    break
            await stack.aclose()
            with pytest.raises(NotOpen):
                await to_end(run)


async def test_no_key_is_in_what_a_run_shows() -> None:
    async with in_process(Service()) as client, client.fan_out(a_plan(2)) as run:
        shown = [repr(record) for record in await to_end(run)]
        shown += [repr(run), repr(run.summary), str(vars(run))]
    assert KEY not in " ".join(shown)


async def test_batches_are_read_as_they_stand_those_of_earlier_starts_included(
    ledger: Ledger,
) -> None:
    service, plan = Service(bad_source_ids=[3]), a_plan(10)
    async with in_process(service) as client:
        async with client.fan_out(plan, ledger=ledger) as run:
            await to_end(run)
        async with client.fan_out(plan, ledger=ledger) as run:
            await to_end(run)
            assert [one.number async for one in run.batches()] == [1, 2, 3, 4, 5]
            for states in (BatchState.ERRORED, [BatchState.ERRORED]):
                assert [one.number async for one in run.batches(states)] == [2]
            assert [one async for one in run.batches([])] == []
        with pytest.raises(NotOpen):
            await anext(run.batches())
