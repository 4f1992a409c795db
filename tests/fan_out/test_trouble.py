from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
from starlette.responses import JSONResponse

from annolab_async import (
    AuthenticationError,
    BatchState,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    RequestNotSent,
    RetryPlanned,
    RetryPolicy,
    SubmissionUnknown,
)
from annolab_async.emulator import Faults
from annolab_async.ledger import MemoryLedger
from tests.fan_out.service import Service, a_plan, in_ledger, states_of, to_end
from tests.observing import Recorder
from tests.service import in_process

if TYPE_CHECKING:
    from random import Random

    from annolab_async.ledger import Ledger

pytestmark = pytest.mark.anyio


async def test_a_batch_whose_answer_is_lost_is_unknown_and_is_not_sent_again(
    ledger: Ledger,
) -> None:
    service, plan = Service(), a_plan(10)
    service.loses([3])
    async with in_process(service) as client:
        for _ in range(3):
            async with client.fan_out(plan, ledger=ledger) as run:
                await to_end(run)
                (record,) = run.unknown()
                assert (record.number, record.source_ids) == (2, (3, 4))
                assert record.error is not None
                assert record.owner is None
                assert run.failed_source_ids() == []
                assert run.summary.sources == {BatchState.FINISHED: 8, BatchState.UNKNOWN: 2}
    assert sorted(service.sent) == [(1, 2), (3, 4), (5, 6), (7, 8), (9, 10)]


@pytest.mark.parametrize("by", ["record", "number"])
async def test_an_unknown_batch_that_has_a_job_is_watched(ledger: Ledger, by: str) -> None:
    service = Service()
    service.loses([3])
    async with in_process(service) as client, client.fan_out(a_plan(10), ledger=ledger) as run:
        await to_end(run)
        (record,) = run.unknown()
        job_id = 1 + service.batches.index((3, 4))
        after = await run.resolve(record if by == "record" else record.number, job_id=job_id)
        assert (after.state, after.inference_job_id) == (BatchState.SUBMITTED, job_id)
        news = await to_end(run)
        assert news[0] == after
        assert news[-1].state is BatchState.FINISHED
        assert news[-1].error is None
        assert run.unknown() == []
    assert len(service.sent) == 5


async def test_an_unknown_batch_that_has_no_job_is_sent_again_when_told(ledger: Ledger) -> None:
    service = Service()
    service.loses([3], times=1)
    async with in_process(service) as client, client.fan_out(a_plan(10), ledger=ledger) as run:
        await to_end(run)
        after = await run.resolve(run.unknown()[0], resend=True)
        assert after.state is BatchState.PLANNED
        *_, last = await to_end(run)
        assert (last.number, last.state, last.attempts) == (2, BatchState.FINISHED, 2)
        assert run.unknown() == []
    assert service.sent.count((3, 4)) == 2


async def test_a_batch_is_resolved_by_another_process_than_the_one_that_lost_it(
    ledger: Ledger,
) -> None:
    service, plan = Service(), a_plan(10)
    service.loses([3], times=1)
    async with in_process(service) as client:
        async with client.fan_out(plan, ledger=ledger) as run:
            await to_end(run)
        async with client.fan_out(plan, ledger=ledger) as run:
            await run.resolve(2, resend=True)
            await to_end(run)
            assert run.summary.batches == {BatchState.FINISHED: 5}


async def test_a_job_that_is_not_there_is_refused_and_changes_nothing(ledger: Ledger) -> None:
    service = Service()
    service.loses([3])
    async with in_process(service) as client, client.fan_out(a_plan(10), ledger=ledger) as run:
        await to_end(run)
        with pytest.raises(NotFound, match="4711"):
            await run.resolve(2, job_id=4711)
        assert [record.number for record in run.unknown()] == [2]
        assert await to_end(run) == []


@pytest.mark.parametrize("by", ["id", "job"])
async def test_a_job_over_other_sources_is_refused_also_when_it_has_ended(
    ledger: Ledger, by: str
) -> None:
    service = Service()
    service.loses([3])
    async with in_process(service) as client, client.fan_out(a_plan(10), ledger=ledger) as run:
        await to_end(run)
        job = await client.get_job(1 + service.batches.index((5, 6)))
        with pytest.raises(ValueError, match="runs over other sources than batch 2"):
            await run.resolve(2, job_id=job if by == "job" else job.inference_job_id)
        assert [record.number for record in run.unknown()] == [2]
        assert await to_end(run) == []


@pytest.mark.parametrize(
    ("number", "state"), [(1, "finished"), (99, "not here"), (0, "not here"), (-1, "not here")]
)
async def test_only_an_unknown_batch_is_resolved(ledger: Ledger, number: int, state: str) -> None:
    async with in_process(Service()) as client, client.fan_out(a_plan(2), ledger=ledger) as run:
        await to_end(run)
        with pytest.raises(ValueError, match=f"batch {number} is {state}, not unknown"):
            await run.resolve(number, resend=True)


@pytest.mark.parametrize("said", [{}, {"job_id": 1, "resend": True}])
async def test_one_of_two_things_is_said_of_an_unknown_batch(said: Any) -> None:
    async with in_process(Service()) as client, client.fan_out(a_plan(2)) as run:
        with pytest.raises(ValueError, match=r"either job_id=\.\.\. or resend=True"):
            await run.resolve(1, **said)


@pytest.mark.parametrize("job_id", [0, -1, True, "7", 1.0])
async def test_what_is_no_job_id_is_refused_and_changes_nothing(
    ledger: Ledger, job_id: Any
) -> None:
    service = Service()
    service.loses([1])
    async with in_process(service) as client, client.fan_out(a_plan(2), ledger=ledger) as run:
        await to_end(run)
        with pytest.raises(ValueError, match="id"):
            await run.resolve(1, job_id=job_id)
        assert len(run.unknown()) == 1
        assert await to_end(run) == []


async def test_a_batch_has_a_job_that_is_given_itself(ledger: Ledger) -> None:
    service = Service()
    service.loses([1], times=1)
    async with in_process(service) as client, client.fan_out(a_plan(2), ledger=ledger) as run:
        await to_end(run)
        job = await client.get_job(1)
        assert (await run.resolve(run.unknown()[0], job_id=job)).inference_job_id == 1
        await to_end(run)
        assert run.summary.batches == {BatchState.FINISHED: 1}


@pytest.mark.parametrize("batch", ["1", None, True, 1.0])
async def test_what_is_no_batch_is_refused(ledger: Ledger, batch: Any) -> None:
    async with in_process(Service()) as client, client.fan_out(a_plan(2), ledger=ledger) as run:
        await to_end(run)
        with pytest.raises(ValueError, match="neither a BatchRecord nor the number of a batch"):
            await run.resolve(batch, resend=True)


async def test_a_job_that_is_another_batchs_is_refused(ledger: Ledger) -> None:
    service = Service(base_seconds=100.0)
    service.loses([1])
    async with in_process(service) as client, client.fan_out(a_plan(4), ledger=ledger) as run:
        async for _ in run:
            if run.unknown() and run.summary.batches.get(BatchState.SUBMITTED):
                break
        job_id = 1 + service.batches.index((3, 4))
        with pytest.raises(ValueError, match=f"job {job_id} is batch 2's"):
            await run.resolve(1, job_id=job_id)
        await to_end(run)
        assert run.summary.batches == {BatchState.FINISHED: 1, BatchState.UNKNOWN: 1}


async def test_of_two_who_resolve_a_batch_at_once_one_is_told_that_it_was_late() -> None:
    service = Service()
    service.loses([1], times=1)
    came: list[object] = []

    async def resolve() -> None:
        try:
            came.append((await run.resolve(1, resend=True)).state)
        except ValueError as error:
            came.append(str(error))

    async with in_process(service) as client, client.fan_out(a_plan(2)) as run:
        await to_end(run)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(resolve)
            tasks.start_soon(resolve)
        await to_end(run)
    assert BatchState.PLANNED in came
    assert any("somebody else" in str(one) or "not unknown" in str(one) for one in came)
    assert len(service.sent) == 2


async def test_errored_batches_are_sent_again_when_told(ledger: Ledger) -> None:
    service = Service(error_share=1.0)
    plan = a_plan(10)
    async with in_process(service) as client:
        async with client.fan_out(plan, ledger=ledger) as run:
            await to_end(run)
            assert run.failed_source_ids() == list(range(1, 11))
            assert await run.retry() == 5
            assert run.failed_source_ids() == []
            last = {record.number: record for record in await to_end(run)}
            assert {record.attempts for record in last.values()} == {2}
            assert run.failed_source_ids() == list(range(1, 11))
        async with client.fan_out(plan, ledger=ledger) as run:
            assert run.failed_source_ids() == list(range(1, 11))
            assert await run.retry([BatchState.ERRORED]) == 5
            await to_end(run)
    assert len(service.sent) == 15


async def test_only_batches_in_the_states_asked_for_are_tried_again() -> None:
    service = Service(error_share=1.0)
    async with in_process(service) as client, client.fan_out(a_plan(10)) as run:
        await to_end(run)
        assert await run.retry([BatchState.LOST, BatchState.TIMED_OUT]) == 0
        assert await run.retry([]) == 0
        assert await to_end(run) == []
        assert await run.retry(BatchState.ERRORED) == 5
        await to_end(run)
        named: Any = "ERRORED"
        assert await run.retry(named) == 5
        await to_end(run)
        assert await run.retry({named}) == 5
        await to_end(run)
        with pytest.raises(ValueError, match="'BROKEN' is not a valid BatchState"):
            await run.retry(["BROKEN"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
        assert await run.retry(iter([BatchState.ERRORED])) == 5  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        await to_end(run)


@pytest.mark.parametrize(
    "state", sorted(set(BatchState) - {"errored", "timed_out", "lost"}), ids=str
)
async def test_no_other_batches_are_tried_again_above_all_no_unknown_ones(
    state: BatchState,
) -> None:
    async with in_process(Service()) as client, client.fan_out(a_plan(2)) as run:
        with pytest.raises(ValueError, match=f"{state} batches are not tried again"):
            await run.retry([BatchState.ERRORED, state])


async def test_a_job_that_takes_too_long_is_timed_out_and_watched_on_when_told(
    ledger: Ledger,
) -> None:
    service = Service(base_seconds=100.0)
    async with (
        in_process(service) as client,
        client.fan_out(a_plan(4), ledger=ledger, job_timeout=30.0) as run,
    ):
        began = anyio.current_time()
        last = {record.number: record async for record in run}
        assert 29.0 < anyio.current_time() - began < 40.0
        assert states_of(last.values()) == {BatchState.TIMED_OUT: 2}
        assert all(record.error for record in last.values())
        assert run.failed_source_ids() == [1, 2, 3, 4]
        rounds = 0
        while tried := await run.retry():
            assert tried == len({record.number for record in await to_end(run)})
            rounds += 1
        assert rounds >= 2
        assert run.summary.batches == {BatchState.FINISHED: 2}
    assert len(service.sent) == 2


async def test_a_job_that_is_lost_is_watched_on_when_told(ledger: Ledger) -> None:
    service = Service()

    async def away(_: str) -> JSONResponse:
        return JSONResponse({"message": "away"}, 500)

    service.polls = away
    async with (
        in_process(service) as client,
        client.fan_out(a_plan(2), ledger=ledger, failure_budget=60.0) as run,
    ):
        *_, last = await to_end(run)
        assert last.state is BatchState.LOST
        assert "away" in (last.error or "")
        service.polls = None
        assert await run.retry([BatchState.LOST]) == 1
        *_, last = await to_end(run)
        assert last.state is BatchState.FINISHED
        assert last.error is None
    assert len(service.sent) == 1


async def test_what_was_provably_not_processed_is_sent_again_by_itself(ledger: Ledger) -> None:
    service = Service(faults=Faults(unavailable=0.3, retry_after_share=1.0, seed=5))
    async with in_process(service) as client, client.fan_out(a_plan(60), ledger=ledger) as run:
        await to_end(run)
        assert run.summary.batches == {BatchState.FINISHED: 30}
    assert len(service.emulator.mishaps) > 3
    assert len(service.sent) == 30 + len(service.emulator.mishaps)


async def test_an_answer_that_is_damaged_but_for_its_id_is_an_answer(ledger: Ledger) -> None:
    service = Service()

    async def damage(_: tuple[int, ...]) -> JSONResponse:
        return JSONResponse({"inferenceJobId": len(service.emulator.jobs), "status": 7})

    service.after = damage
    async with in_process(service) as client, client.fan_out(a_plan(2), ledger=ledger) as run:
        *_, last = await to_end(run)
    assert (last.state, last.inference_job_id) == (BatchState.FINISHED, 1)


async def test_an_answer_without_an_id_leaves_the_batch_unknown(ledger: Ledger) -> None:
    service = Service()

    async def empty(_: tuple[int, ...]) -> JSONResponse:
        return JSONResponse({})

    service.after = empty
    async with in_process(service) as client, client.fan_out(a_plan(2), ledger=ledger) as run:
        *_, last = await to_end(run)
    assert last.state is BatchState.UNKNOWN


async def test_twenty_lost_answers_in_a_row_are_no_accident(ledger: Ledger) -> None:
    service, plan = Service(), a_plan(200)
    service.loses()
    async with (
        in_process(service) as client,
        client.fan_out(plan, ledger=ledger, max_concurrent_submits=1) as run,
    ):
        with pytest.raises(SubmissionUnknown):
            await to_end(run)
        assert len(run.unknown()) == 20
    assert states_of(await in_ledger(ledger, plan)) == {
        BatchState.PLANNED: 80,
        BatchState.UNKNOWN: 20,
    }


async def test_lost_answers_for_as_long_as_the_budget_are_no_accident(ledger: Ledger) -> None:
    service, plan = Service(), a_plan(200)
    service.loses()
    began = anyio.current_time()
    async with (
        in_process(service, retry=RetryPolicy(first=10.0, cap=10.0)) as client,
        client.fan_out(plan, ledger=ledger, max_concurrent_submits=1, failure_budget=20) as run,
    ):
        with pytest.raises(SubmissionUnknown):
            await to_end(run)
        assert len(run.unknown()) < 20
    assert anyio.current_time() - began >= 20


async def test_lost_answers_now_and_then_are_lived_with() -> None:
    service = Service()
    service.loses(range(3, 160, 4))
    async with in_process(service) as client, client.fan_out(a_plan(160)) as run:
        await to_end(run)
        assert len(run.unknown()) == 40


async def test_three_refusals_at_first_are_the_plans_fault(ledger: Ledger) -> None:
    service, plan = Service(), a_plan(100)
    service.refuses(range(1, 101))
    async with (
        in_process(service) as client,
        client.fan_out(plan, ledger=ledger, max_concurrent_submits=1) as run,
    ):
        with pytest.raises(InvalidRequest, match="unknown source"):
            await to_end(run)
    assert states_of(await in_ledger(ledger, plan)) == {
        BatchState.PLANNED: 47,
        BatchState.ERRORED: 3,
    }


async def test_three_refusals_at_first_are_no_plans_fault_of_which_batches_were_taken_before(
    ledger: Ledger,
) -> None:
    service, plan = Service(), a_plan(12)
    async with in_process(service) as client:
        async with client.fan_out(plan, ledger=ledger, max_in_flight=1) as run:
            async for record in run:
                if record.state is BatchState.FINISHED:
                    break
        service.refuses(range(1, 13))
        async with client.fan_out(plan, ledger=ledger, max_concurrent_submits=1) as run:
            await to_end(run)
            errored = run.summary.batches[BatchState.ERRORED]
    assert errored > 3
    assert errored + len(service.emulator.jobs) == 6


@pytest.mark.any_backend
@pytest.mark.parametrize("has_taken", [False, True])
@pytest.mark.parametrize(
    ("status_code", "error"),
    [(401, AuthenticationError), (403, PermissionDenied), (404, NotFound)],
)
async def test_what_holds_for_all_batches_is_raised_at_once_and_costs_none(
    status_code: int,
    error: type[Exception],
    has_taken: bool,  # noqa: FBT001
) -> None:
    service, ledger, plan = Service(), MemoryLedger(), a_plan(10)
    service.refuses(range(3 if has_taken else 1, 11), status_code)
    async with (
        in_process(service) as client,
        client.fan_out(plan, ledger=ledger, max_concurrent_submits=1, max_in_flight=1) as run,
    ):
        if status_code == 404 and has_taken:
            # Then it is the batch's sources that are not found.
            await to_end(run)
        else:
            with pytest.raises(error):
                await to_end(run)
    states = states_of(await in_ledger(ledger, plan))
    if status_code == 404 and has_taken:
        assert states == {BatchState.FINISHED: 1, BatchState.ERRORED: 4}
        return
    assert states.pop(BatchState.FINISHED, 0) == has_taken
    assert states == {BatchState.PLANNED: 5 - has_taken}
    assert len(service.sent) == 1 + has_taken


@pytest.mark.any_backend
async def test_refusals_are_no_plans_fault_of_which_a_batch_was_taken_whatever_became_of_it() -> (
    None
):
    service, plan = Service(error_share=1.0), a_plan(12)
    service.refuses(range(3, 13))
    async with (
        in_process(service) as client,
        client.fan_out(plan, max_concurrent_submits=1, max_in_flight=1) as run,
    ):
        await to_end(run)
        assert run.summary.batches == {BatchState.ERRORED: 6}
    assert len(service.emulator.jobs) == 1


@pytest.mark.any_backend
async def test_after_a_failure_nothing_is_sent_for_as_long_as_the_policy_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service, times, hook = Service(), list[float](), Recorder()

    async def away_at_first(_: tuple[int, ...]) -> None:
        times.append(anyio.current_time())
        if len(times) <= 4:
            raise httpx.ConnectError("nobody there")

    def delay(_policy: RetryPolicy, failures: int, _random: Random) -> float:
        return failures / 8

    service.before = away_at_first
    monkeypatch.setattr(RetryPolicy, "delay", delay)
    async with (
        in_process(service, hooks=[hook]) as client,
        client.fan_out(a_plan(2), max_concurrent_submits=1) as run,
    ):
        await to_end(run)
    delays = [0.125, 0.25, 0.375, 0.5]
    assert [later - earlier for earlier, later in pairwise(times)] == pytest.approx(delays)
    assert [(one.kind, one.attempt, one.delay) for one in hook.of(RetryPlanned)] == [
        ("submit", attempt, attempt / 8) for attempt in (1, 2, 3, 4)
    ]


@pytest.mark.any_backend
@pytest.mark.parametrize(("headers", "delay"), [({}, 0.0), ({"Retry-After": "30"}, 30.0)])
async def test_a_batch_that_an_overloaded_server_did_not_take_is_said_to_be_sent_again(
    headers: dict[str, str], delay: float
) -> None:
    service, hook = Service(), Recorder()

    async def busy_at_first(_: tuple[int, ...]) -> JSONResponse | None:
        return JSONResponse({}, 429, headers) if len(service.sent) == 1 else None

    service.before = busy_at_first
    async with (
        in_process(service, hooks=[hook]) as client,
        client.fan_out(a_plan(2)) as run,
    ):
        await to_end(run)
    assert [(one.kind, one.attempt, one.delay) for one in hook.of(RetryPlanned)] == [
        ("submit", 1, delay)
    ]


@pytest.mark.parametrize("status_code", [400, 404, 422])
async def test_a_batch_that_is_refused_is_errored_and_the_others_go_on(
    ledger: Ledger, status_code: int
) -> None:
    service = Service()
    service.refuses([7], status_code)
    async with (
        in_process(service) as client,
        client.fan_out(a_plan(10), ledger=ledger, max_concurrent_submits=1) as run,
    ):
        await to_end(run)
        assert run.failed_source_ids() == [7, 8]
        (record,) = run._work.books.failed()
        assert record.inference_job_id is None
        assert "unknown source" in (record.error or "")
        assert run.summary.batches == {BatchState.FINISHED: 4, BatchState.ERRORED: 1}


async def test_a_server_that_is_away_for_too_long_is_raised_and_costs_no_batch(
    ledger: Ledger,
) -> None:
    service, plan = Service(), a_plan(10)

    async def away(_: tuple[int, ...]) -> None:
        raise httpx.ConnectError("nobody there")

    service.before = away
    await anyio.sleep(1000)
    began = anyio.current_time()
    async with (
        in_process(service, retry=RetryPolicy(cap=2.0)) as client,
        client.fan_out(plan, ledger=ledger, failure_budget=60.0) as run,
    ):
        with pytest.raises(RequestNotSent):
            await to_end(run)
    assert 60 <= anyio.current_time() - began < 70
    assert states_of(await in_ledger(ledger, plan)) == {BatchState.PLANNED: 5}


async def test_a_server_that_comes_back_in_time_takes_all(ledger: Ledger) -> None:
    service = Service()
    until = anyio.current_time() + 200

    async def away(_: tuple[int, ...]) -> None:
        if anyio.current_time() < until:
            raise httpx.ConnectError("nobody there")

    service.before = away
    async with in_process(service) as client, client.fan_out(a_plan(10), ledger=ledger) as run:
        await to_end(run)
        assert run.summary.batches == {BatchState.FINISHED: 5}


async def test_a_server_that_is_away_again_and_again_takes_all(ledger: Ledger) -> None:
    # All in all for longer than the budget, but each time it takes something in between.
    service = Service(base_seconds=50.0)
    is_away = False

    async def now_and_then(_: tuple[int, ...]) -> None:
        nonlocal is_away
        is_away = not is_away
        if is_away:
            raise httpx.ConnectError("nobody there")

    service.before = now_and_then
    began = anyio.current_time()
    async with (
        in_process(service) as client,
        client.fan_out(
            a_plan(10), ledger=ledger, max_in_flight=1, max_concurrent_submits=1, failure_budget=60
        ) as run,
    ):
        await to_end(run)
        assert run.summary.batches == {BatchState.FINISHED: 5}
    assert anyio.current_time() - began > 200


async def test_a_server_that_is_overloaded_is_waited_for_as_long_as_it_takes(
    ledger: Ledger,
) -> None:
    service = Service()
    until = anyio.current_time() + 3600

    async def busy(_: tuple[int, ...]) -> JSONResponse | None:
        if anyio.current_time() >= until:
            return None
        return JSONResponse({"message": "slow down"}, 429, {"Retry-After": "30"})

    service.before = busy
    async with in_process(service) as client, client.fan_out(a_plan(4), ledger=ledger) as run:
        await to_end(run)
        assert run.summary.batches == {BatchState.FINISHED: 2}
    assert anyio.current_time() >= until
