from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from annolab_async import BatchState, InvalidRequest
from annolab_async._batch_records import FIRST_SPLIT_NUMBER
from annolab_async.ledger import MemoryLedger
from tests.depth import often
from tests.fan_out.service import Service, a_plan, in_ledger, states_of, to_end
from tests.service import in_process

if TYPE_CHECKING:
    from annolab_async.ledger import Ledger

pytestmark = pytest.mark.anyio


@pytest.mark.chance
@pytest.mark.parametrize("bad", [[64], [1], [1, 2, 3], [1, 33, 64], [7, 20, 50]], ids=str)
async def test_of_a_batch_of_64_just_the_bad_sources_are_named(
    ledger: Ledger, bad: list[int]
) -> None:
    service, plan = Service(bad_source_ids=bad), a_plan(64, batch_size=64)
    async with (
        in_process(service) as client,
        client.fan_out(plan, ledger=ledger, on_error="split") as run,
    ):
        async for _ in run:
            assert sum(run.summary.sources.values()) == 64
        assert sorted(run.failed_source_ids()) == bad
        summary = run.summary
        assert summary.sources == {
            BatchState.FINISHED: 64 - len(bad),
            BatchState.ERRORED: len(bad),
        }
    extra = len(service.sent) - 1
    assert extra <= 2 * 6 * len(bad)
    assert summary.batches[BatchState.ERRORED] == len(bad)
    assert len(service.emulator.jobs) == len(set(service.sent)) == len(service.sent)


async def test_any_bad_sources_among_many_batches_are_named_within_the_bound() -> None:
    for seed in range(often(100)):
        rng = random.Random(seed)
        size = rng.choice([1, 2, 3, 5, 8, 25])
        bad = rng.sample(range(1, 41), rng.randrange(6))
        service = Service(bad_source_ids=bad, seed=seed)
        plan = a_plan(40, batch_size=size)
        async with in_process(service) as client, client.fan_out(plan, on_error="split") as run:
            await to_end(run)
            assert sorted(run.failed_source_ids()) == sorted(bad), seed
        extra = len(service.sent) - -(-40 // size)
        assert extra <= 2 * (size - 1).bit_length() * len(bad), seed


async def test_the_parts_say_what_they_are_parts_of(ledger: Ledger) -> None:
    service, plan = Service(bad_source_ids=[1]), a_plan(4, batch_size=4)
    async with (
        in_process(service) as client,
        client.fan_out(plan, ledger=ledger, on_error="split") as run,
    ):
        await to_end(run)
    whole, *parts = await in_ledger(ledger, plan)
    assert (whole.state, whole.source_ids) == (BatchState.SPLIT, (1, 2, 3, 4))
    assert whole.error is None or whole.error
    first, second, third, fourth = parts
    assert first.number == FIRST_SPLIT_NUMBER
    assert {first.parent, second.parent} == {1}
    assert {first.source_ids, second.source_ids} == {(1, 2), (3, 4)}
    assert {third.parent, fourth.parent} == {first.number}
    assert {third.source_ids, fourth.source_ids} == {(1,), (2,)}


async def test_a_split_is_told_like_every_other_change(ledger: Ledger) -> None:
    service, plan = Service(bad_source_ids=[1]), a_plan(2, batch_size=2)
    async with (
        in_process(service) as client,
        client.fan_out(plan, ledger=ledger, on_error="split") as run,
    ):
        told = [(record.source_ids, record.state) for record in await to_end(run)]
    assert told.index(((1, 2), BatchState.ERRORED)) < told.index(((1, 2), BatchState.SPLIT))
    for ids in ((1,), (2,)):
        assert told.index(((1, 2), BatchState.SPLIT)) < told.index((ids, BatchState.PLANNED))
    assert (((1,), BatchState.ERRORED)) in told
    assert (((2,), BatchState.FINISHED)) in told


async def test_unless_told_so_nothing_is_split(ledger: Ledger) -> None:
    service, plan = Service(bad_source_ids=[1]), a_plan(64, batch_size=64)
    async with in_process(service) as client, client.fan_out(plan, ledger=ledger) as run:
        await to_end(run)
        assert run.failed_source_ids() == list(range(1, 65))
    assert len(service.sent) == 1


async def test_what_errored_before_is_split_by_who_is_told_to(ledger: Ledger) -> None:
    service, plan = Service(bad_source_ids=[3]), a_plan(16, batch_size=8)
    async with in_process(service) as client:
        async with client.fan_out(plan, ledger=ledger) as run:
            await to_end(run)
            assert len(run.failed_source_ids()) == 8
        async with client.fan_out(plan, ledger=ledger, on_error="split") as run:
            assert len(run.failed_source_ids()) == 8
            await to_end(run)
            assert run.failed_source_ids() == [3]


async def test_a_split_goes_on_where_it_was_stopped(ledger: Ledger) -> None:
    service, plan = Service(bad_source_ids=[3, 11]), a_plan(16, batch_size=16)
    async with in_process(service) as client:
        for _ in range(30):
            async with client.fan_out(plan, ledger=ledger, on_error="split") as run:
                async for record in run:
                    if record.state.is_ended:
                        break
        async with client.fan_out(plan, ledger=ledger, on_error="split") as run:
            await to_end(run)
            assert sorted(run.failed_source_ids()) == [3, 11]
    assert len(service.sent) == len(set(service.sent)) <= 1 + 2 * 4 * 2


@pytest.mark.parametrize("status_code", [400, 404, 422])
async def test_a_source_for_which_batches_are_refused_is_found(
    ledger: Ledger, status_code: int
) -> None:
    service, plan = Service(), a_plan(64, batch_size=16)
    service.refuses([20, 40], status_code)
    async with (
        in_process(service) as client,
        client.fan_out(plan, ledger=ledger, on_error="split", max_concurrent_submits=1) as run,
    ):
        await to_end(run)
        assert sorted(run.failed_source_ids()) == [20, 40]
        assert run.summary.sources == {BatchState.FINISHED: 62, BatchState.ERRORED: 2}
    assert len(service.sent) - 4 <= 2 * 4 * 2


async def test_a_plan_of_which_every_batch_is_refused_is_not_split_to_pieces(
    ledger: Ledger,
) -> None:
    service, plan = Service(), a_plan(64, batch_size=16)
    service.refuses(range(1, 65))
    async with (
        in_process(service) as client,
        client.fan_out(plan, ledger=ledger, on_error="split", max_concurrent_submits=1) as run,
    ):
        with pytest.raises(InvalidRequest):
            await to_end(run)
    assert len(service.sent) == 3
    assert BatchState.SPLIT not in states_of(await in_ledger(ledger, plan))


async def test_a_refused_batch_is_split_once_another_was_taken(ledger: Ledger) -> None:
    service, plan = Service(), a_plan(16, batch_size=8)
    service.refuses([1])
    async with (
        in_process(service) as client,
        client.fan_out(plan, ledger=ledger, on_error="split", max_concurrent_submits=1) as run,
    ):
        await to_end(run)
        assert run.failed_source_ids() == [1]


@pytest.mark.any_backend
async def test_where_one_batch_was_taken_earlier_all_that_errored_are_split() -> None:
    service, ledger, plan = Service(bad_source_ids=[1]), MemoryLedger(), a_plan(4)
    service.refuses([3])
    async with in_process(service) as client:
        async with client.fan_out(plan, ledger=ledger) as run:
            await to_end(run)
            assert run.summary.batches == {BatchState.ERRORED: 2}
        async with client.fan_out(plan, ledger=ledger, on_error="split") as run:
            await to_end(run)
            assert run.failed_source_ids() == [1, 3]
            assert run.summary.sources == {BatchState.ERRORED: 2, BatchState.FINISHED: 2}


async def test_a_batch_sent_again_by_request_is_split_when_it_fails_again() -> None:
    service = Service(bad_source_ids=[1])
    async with (
        in_process(service) as client,
        client.fan_out(a_plan(4, batch_size=4), on_error="split") as run,
    ):
        await to_end(run)
        assert await run.retry() == 1
        await to_end(run)
        assert run.failed_source_ids() == [1]
    assert service.sent.count((1,)) == 2
    assert service.sent.count((1, 2, 3, 4)) == 1
