from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest
from attrs import evolve
from starlette.responses import JSONResponse

from annolab_async import BatchState, RateLimit
from annolab_async.ledger import MemoryLedger
from tests.fan_out.service import Service, a_plan, in_ledger, states_of, to_end
from tests.service import in_process, task_count

if TYPE_CHECKING:
    from annolab_async import BatchPlan, BatchRecord, FanOut
    from annolab_async.ledger import Ledger

pytestmark = pytest.mark.anyio


async def together(*runs: FanOut) -> None:
    async with anyio.create_task_group() as tasks:
        for run in runs:
            tasks.start_soon(to_end, run)


async def test_two_runs_on_one_client_keep_apart(ledger: Ledger) -> None:
    service = Service(bad_source_ids=[1, 101])
    one, other = a_plan(20), a_plan(range(101, 121))
    async with (
        in_process(service) as client,
        client.fan_out(one, ledger=ledger, run="one") as first,
        client.fan_out(other, ledger=ledger, run="other") as second,
    ):
        await together(first, second)
        assert first.failed_source_ids() == [1, 2]
        assert second.failed_source_ids() == [101, 102]
        for run in (first, second):
            assert run.summary.sources == {BatchState.FINISHED: 18, BatchState.ERRORED: 2}
    assert len(service.sent) == 20
    assert len(await in_ledger(ledger, one, "one")) == 10


async def test_two_runs_on_one_client_share_its_rate_limit() -> None:
    service = Service()
    async with in_process(service, rate_limit=RateLimit(5.0)) as client:
        began = anyio.current_time()
        async with client.fan_out(a_plan(60)) as one, client.fan_out(a_plan(60)) as other:
            await together(one, other)
        requests = service.emulator.stats.requests
        assert requests <= 5.0 * (anyio.current_time() - began + 0.05) + 1


async def test_two_at_work_on_one_run_share_its_batches(ledger: Ledger) -> None:
    service, plan = Service(), a_plan(100)
    async with (
        in_process(service) as client,
        client.fan_out(plan, ledger=ledger) as one,
        client.fan_out(plan, ledger=ledger) as other,
    ):
        await together(one, other)
        for run in (one, other):
            assert run.summary.batches == {BatchState.FINISHED: 50}
    assert len(service.sent) == len(set(service.sent)) == 50


async def test_two_at_work_on_one_run_both_name_all_that_has_gone_wrong(ledger: Ledger) -> None:
    service, plan = Service(bad_source_ids=range(1, 101, 8)), a_plan(100)
    lost = range(3, 100, 8)
    service.loses(lost)
    async with (
        in_process(service) as client,
        client.fan_out(plan, ledger=ledger) as one,
        client.fan_out(plan, ledger=ledger) as other,
    ):
        await together(one, other)
        for run in (one, other):
            assert run.failed_source_ids() == [n for n in range(1, 101) if n % 8 in {1, 2}]
            assert [record.source_ids[0] for record in run.unknown()] == [*lost]
        # What one of them settles is settled for both.
        service.after = None
        for record in one.unknown():
            await one.resolve(record, resend=True)
        await together(one, other)
        assert one.unknown() == []
        await anyio.sleep(60)
        assert other.unknown() == []


async def test_who_begins_while_another_works_takes_nothing_from_it(ledger: Ledger) -> None:
    service, plan = Service(base_seconds=100.0), a_plan(40)
    async with in_process(service) as client, client.fan_out(plan, ledger=ledger) as one:
        async for record in one:
            if record.state is BatchState.SUBMITTED:
                break
        async with client.fan_out(plan, ledger=ledger) as other:
            await together(one, other)
            assert other.unknown() == one.unknown() == []
    assert len(service.sent) == len(set(service.sent)) == 20


async def test_who_leaves_hands_its_jobs_to_who_stays(ledger: Ledger) -> None:
    service, plan = Service(base_seconds=200.0), a_plan(40)
    async with in_process(service) as client, client.fan_out(plan, ledger=ledger) as stays:
        async with client.fan_out(plan, ledger=ledger) as leaves:
            async for _ in leaves:
                if len(service.sent) == 20:
                    break
        await to_end(stays)
        assert stays.summary.batches == {BatchState.FINISHED: 20}
    assert len(service.sent) == len(set(service.sent)) == 20


async def test_who_is_at_work_is_not_thought_gone_though_a_sign_of_life_be_half_a_lease_late() -> (
    None
):
    lease, ahead = 6.0, 0.0
    ledger = MemoryLedger(clock=lambda: anyio.current_time() + ahead)
    service, plan = Service(base_seconds=10 * lease), a_plan(4)
    looks = 0
    async with (
        in_process(service) as client,
        client.fan_out(plan, ledger=ledger, lease_seconds=lease) as run,
        anyio.create_task_group() as tasks,
    ):
        others = await ledger.begin_run("default", plan.fingerprint)

        async def look() -> None:
            nonlocal ahead, looks
            while True:
                await anyio.sleep(lease / 16)
                ahead, looks = lease / 2, looks + 1
                assert await others.take_over("another", limit=10, lease_seconds=lease) == []
                ahead = 0.0

        tasks.start_soon(look)
        await to_end(run)
        tasks.cancel_scope.cancel()
    assert looks > 100
    assert states_of(await in_ledger(ledger, plan)) == {BatchState.FINISHED: 2}


@pytest.mark.parametrize("has_answer", [True, False])
async def test_who_shows_no_sign_of_life_loses_what_it_has(has_answer: bool) -> None:  # noqa: FBT001
    # The stale owner's request is open all the time; what comes of it is known to nobody, until its answer comes.
    now = [1e9]
    ledger = MemoryLedger(clock=lambda: now[0])
    service, plan = Service(), a_plan(4)
    async with ledger:
        run = await ledger.begin_run("default", plan.fingerprint)
        await run.plan([(1, 2), (3, 4)])
        (stale,) = await run.claim("elsewhere.invalid:1:1:ab", limit=1, lease_seconds=60)
        async with in_process(service) as client, client.fan_out(plan, ledger=ledger) as other:
            await anyio.sleep(50)
            assert other.unknown() == []
            now[0] += 61
            await to_end(other)
            (unknown,) = other.unknown()
            assert (unknown.number, unknown.error) == (
                1,
                "Its sender is gone, and may or may not have sent it.",
            )
            refused = await run.change(
                stale, BatchState.SUBMITTED, owner="elsewhere.invalid:1:1:ab", inference_job_id=9
            )
            assert refused is None
            if has_answer:
                # Here the request comes through at last.
                job = await client.submit(plan.request(unknown.source_ids))
                await other.resolve(unknown, job_id=job.inference_job_id)
                *_, last = await to_end(other)
                assert last.state is BatchState.FINISHED
            else:
                assert await to_end(other) == []
    assert service.sent == ([(3, 4), (1, 2)] if has_answer else [(3, 4)])


async def test_who_comes_back_late_with_an_answer_still_tells_the_job() -> None:
    # It lost its lease while its request was open, which was not sent again: the job is this batch's.
    now = [1e9]
    ledger = MemoryLedger(clock=lambda: now[0])
    service, plan = Service(), a_plan(2)
    answered = anyio.Event()
    waiting = service.holds(answered)
    async with in_process(service) as client, client.fan_out(plan, ledger=ledger) as late:
        await waiting.wait()
        now[0] += 61
        async with client.fan_out(plan, ledger=ledger) as other:
            assert len(other.unknown()) == 1
        answered.set()
        await to_end(late)
        assert late.summary.batches == {BatchState.FINISHED: 1}
    assert service.sent == [(1, 2)]


async def test_who_comes_back_when_its_batch_was_sent_again_says_which_job_nobody_has(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [1e9]
    ledger = MemoryLedger(clock=lambda: now[0])
    service, plan = Service(), a_plan(2)
    answered = anyio.Event()
    waiting = service.holds(answered)
    async with in_process(service) as client, client.fan_out(plan, ledger=ledger) as late:
        await waiting.wait()
        now[0] += 61
        service.before = None
        async with client.fan_out(plan, ledger=ledger) as other:
            await other.resolve(1, resend=True)
            await to_end(other)
        answered.set()
        await to_end(late)
    assert service.sent == [(1, 2), (1, 2)]
    assert "Batch 1 was taken as job 2, but others have settled it meanwhile" in caplog.text


async def test_a_batch_that_another_took_away_is_let_go_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [1e9]
    ledger = MemoryLedger(clock=lambda: now[0])
    service, plan = Service(base_seconds=100.0), a_plan(2)
    async with in_process(service) as client, client.fan_out(plan, ledger=ledger) as late:
        async for record in late:
            if record.state is BatchState.SUBMITTED:
                break
        now[0] += 61
        async with client.fan_out(plan, ledger=ledger) as other:
            await to_end(other)
            assert other.summary.batches == {BatchState.FINISHED: 1}
            await to_end(late)
            assert late.summary.batches == {BatchState.FINISHED: 1}
    assert service.sent == [(1, 2)]
    assert "has not heard of this process for too long" in caplog.text


@pytest.mark.parametrize("on_disk", [False, True])
async def test_a_batch_that_finished_feeds_the_next_model_at_once(
    ledger: Ledger,
    on_disk: bool,  # noqa: FBT001
) -> None:
    # The recipe of docs/fan-out.md.
    service = Service(workers=4)
    done, finished = anyio.create_memory_object_stream[int](max_buffer_size=10_000)
    first_plan = a_plan(range(1, 41), batch_size=4)
    second_plan: BatchPlan = a_plan(finished, batch_size=8, model_identifier=1)
    options: dict[str, Any] = {"ledger": ledger} if on_disk else {}
    overlap = False
    tasks_before = task_count()
    async with (
        finished,
        in_process(service) as client,
        client.fan_out(first_plan, run="classify", **options) as first,
        client.fan_out(second_plan, run="extract", **options) as second,
        anyio.create_task_group() as tasks,
    ):

        async def feed() -> None:
            async with done:
                async for record in first:
                    if record.state is BatchState.FINISHED:
                        for source_id in record.source_ids:
                            await done.send(source_id)

        tasks.start_soon(feed)
        async for record in second:
            is_first_open = first.summary.sources.get(BatchState.FINISHED, 0) < 40
            overlap |= record.state is BatchState.SUBMITTED and is_first_open
        assert first.summary.sources == second.summary.sources == {BatchState.FINISHED: 40}
    assert overlap, "the second model waited for all of the first"
    assert task_count() == tasks_before
    second_sent = [ids for ids in service.sent if len(ids) == 8]
    assert sorted(one for ids in second_sent for one in ids) == list(range(1, 41))


async def test_a_job_that_is_named_for_two_batches_is_the_first_ones(ledger: Ledger) -> None:
    # As by a server that was set up anew, and counts from 1 again.
    service = Service()

    async def always_the_same(_: tuple[int, ...]) -> JSONResponse:
        return JSONResponse({"inferenceJobId": 1, "status": "Queued"})

    service.after = always_the_same
    async with in_process(service) as client, client.fan_out(a_plan(4), ledger=ledger) as run:
        await to_end(run)
        assert run.summary.batches == {BatchState.FINISHED: 1, BatchState.UNKNOWN: 1}
        assert "job 1 for it, which is batch" in (run.unknown()[0].error or "")


async def test_of_two_who_try_a_batch_again_one_does(ledger: Ledger) -> None:
    service, plan = Service(error_share=1.0), a_plan(10)
    async with (
        in_process(service) as client,
        client.fan_out(plan, ledger=ledger) as one,
        client.fan_out(plan, ledger=ledger) as other,
    ):
        await together(one, other)
        async with client.fan_out(plan, ledger=ledger) as late:
            assert await late.retry() == 5
            assert await one.retry() + await other.retry() == 0
            await together(one, other, late)
    assert len(service.sent) == 10


async def test_of_two_who_split_a_batch_one_does(ledger: Ledger) -> None:
    service, plan = Service(bad_source_ids=[1]), a_plan(8, batch_size=8)
    async with in_process(service) as client:
        async with client.fan_out(plan, ledger=ledger) as run:
            await to_end(run)
        async with (
            client.fan_out(plan, ledger=ledger, on_error="split") as one,
            client.fan_out(plan, ledger=ledger, on_error="split") as other,
        ):
            await together(one, other)
    assert len(service.sent) == len(set(service.sent)) == 7
    records = await in_ledger(ledger, plan)
    assert [one.source_ids for one in records if one.state is BatchState.ERRORED] == [(1,)]


async def test_a_job_that_is_taken_back_while_its_end_is_refused_is_watched_on(
    ledger: Ledger,
) -> None:
    service = Service()
    async with in_process(service) as client, client.fan_out(a_plan(2), ledger=ledger) as run:
        scribe, is_refused = run._work.scribe, False
        usual = scribe.change

        async def change(record: BatchRecord, to: BatchState, **news: Any) -> BatchRecord | None:
            nonlocal is_refused
            if to is BatchState.FINISHED and not is_refused:
                is_refused = True
                # Another had taken it over; while this is being found out, it is taken back.
                run._work.watch(evolve(record))
                return None
            return await usual(record, to, **news)

        scribe.change = change  # type: ignore[method-assign]  # that is the point
        with anyio.fail_after(100):
            await to_end(run)
        assert is_refused
        assert run.summary.batches == {BatchState.FINISHED: 1}
