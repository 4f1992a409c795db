"""Plans that come over time, such as what another run has finished: whatever the order, each source is sent once."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.lowlevel import checkpoint
from attrs import define, field

from annolab_async import BatchRecord, BatchState
from annolab_async.ledger import MemoryLedger
from tests.fan_out.service import Service, a_plan, in_ledger, to_end
from tests.service import in_process

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from annolab_async import AsyncInferenceClient
    from annolab_async.ledger import Ledger

pytestmark = pytest.mark.anyio


async def a_stream(source_ids: Iterable[int], *, stop_after: int = 10**9) -> AsyncGenerator[int]:
    for count, source_id in enumerate(source_ids):
        if count == stop_after:
            await anyio.sleep_forever()
        await checkpoint()
        yield source_id


async def test_a_stream_in_another_order_goes_on_with_what_is_new(ledger: Ledger) -> None:
    service = Service()
    async with in_process(service) as client:
        first = a_plan(a_stream(range(1, 101), stop_after=25))
        async with client.fan_out(first, ledger=ledger) as run:
            async for record in run:
                if record.number == 12 and record.state is BatchState.FINISHED:
                    break
        shuffled = Random(4).sample(range(1, 101), 100)
        second = a_plan(a_stream(shuffled))
        async with client.fan_out(second, ledger=ledger) as run:
            await to_end(run)
            assert run.summary.sources == {BatchState.FINISHED: 100}
            assert run.summary.repeated_source_ids == 0, "what came before is not repeated"
    assert Counter(source_id for batch in service.batches for source_id in batch) == Counter(
        range(1, 101)
    )
    numbers = [record.number for record in await in_ledger(ledger, second)]
    assert numbers == [*range(1, len(numbers) + 1)]


async def test_what_comes_over_time_is_sent_at_once(ledger: Ledger) -> None:
    service = Service()
    plan = a_plan(a_stream(range(1, 11), stop_after=6))
    async with in_process(service) as client, client.fan_out(plan, ledger=ledger) as run:
        await anyio.sleep(0.1)
        assert sorted(service.sent) == [(1, 2), (3, 4), (5, 6)]
        await run.drain()


async def test_a_stream_that_has_ended_brings_nothing_new_the_next_time(ledger: Ledger) -> None:
    service = Service()
    async with in_process(service) as client:
        for order in (1, -1):
            plan = a_plan(a_stream([*range(1, 21)][::order]))
            async with client.fan_out(plan, ledger=ledger) as run:
                await to_end(run)
                assert run.summary.sources == {BatchState.FINISHED: 20}
    assert len(service.batches) == 10


async def test_a_stream_of_which_batches_were_split_goes_on_with_what_is_new(
    ledger: Ledger,
) -> None:
    service = Service(bad_source_ids=[2])
    async with in_process(service) as client:
        for count in (4, 8):
            plan = a_plan(a_stream(range(1, count + 1)))
            async with client.fan_out(plan, ledger=ledger, on_error="split") as run:
                await to_end(run)
                assert run.failed_source_ids() == [2]
                assert sum(run.summary.sources.values()) == count
    assert sorted(service.batches) == [(1,), (1, 2), (2,), (3, 4), (5, 6), (7, 8)]


async def test_what_occurs_twice_in_a_stream_is_counted_and_sent_once(ledger: Ledger) -> None:
    service = Service()
    async with in_process(service) as client:
        plan = a_plan(a_stream([1, 2, 3, 2, 4, 1]))
        async with client.fan_out(plan, ledger=ledger) as run:
            await to_end(run)
            assert run.summary.repeated_source_ids == 2
    assert sorted(service.batches) == [(1, 2), (3, 4)]


async def test_batches_are_read_as_they_stand_in_the_ledger(ledger: Ledger) -> None:
    service = Service(bad_source_ids=[3])
    async with (
        in_process(service) as client,
        client.fan_out(a_plan(6), ledger=ledger) as run,
    ):
        await to_end(run)
        assert [record.number async for record in run.batches()] == [1, 2, 3]
        errored = [record async for record in run.batches(BatchState.ERRORED)]
        assert [record.source_ids for record in errored] == [(3, 4)]
        sound = run.batches([BatchState.FINISHED, BatchState.LOST])
        assert [record.number async for record in sound] == [1, 3]


@define
class Stages:
    """A run whose finished sources feed another, both begun again and again."""

    client: AsyncInferenceClient
    ledgers: list[Ledger] = field(factory=lambda: [MemoryLedger(), MemoryLedger()])

    async def start(self, *, stop_after: float) -> bool:
        """Return whether both came to their end in that time."""
        done, finished = anyio.create_memory_object_stream[int](max_buffer_size=10)
        first_plan = a_plan(40, batch_size=2)
        second_plan = a_plan(finished, batch_size=3, output_layer_identifier="Second Set")
        with anyio.move_on_after(stop_after):
            async with (
                finished,
                self.client.fan_out(first_plan, ledger=self.ledgers[0]) as first,
                self.client.fan_out(second_plan, ledger=self.ledgers[1]) as second,
                anyio.create_task_group() as tasks,
            ):

                async def pass_on(record: BatchRecord) -> None:
                    if record.state is BatchState.FINISHED:
                        for source_id in record.source_ids:
                            await done.send(source_id)

                async def feed() -> None:
                    async with done:
                        async for record in first.batches():
                            await pass_on(record)
                        async for record in first:
                            await pass_on(record)

                tasks.start_soon(feed)
                await to_end(second)
                return True
        return False


async def test_what_a_stage_still_finishes_later_reaches_the_next_one() -> None:
    service = Service(workers=8, layers={"Gold Set": 12, "Second Set": 13})
    service.loses([5, 9], times=2)
    async with in_process(service) as client:
        stages = Stages(client)
        assert await stages.start(stop_after=1000)
        assert len(service.batches) == 20 + 12
        # Of the two that nobody knows of, one has a job, and one is said to have none.
        async with client.fan_out(a_plan(40), ledger=stages.ledgers[0]) as first:
            one, other = first.unknown()
            await first.resolve(one, job_id=1 + service.batches.index(one.source_ids))
            await first.resolve(other, resend=True)
            await to_end(first)
        assert await stages.start(stop_after=1000)
        second = a_plan(40, batch_size=3, output_layer_identifier="Second Set")
        records = await in_ledger(stages.ledgers[1], second)
    assert Counter(one for record in records for one in record.source_ids) == Counter(range(1, 41))
    assert {record.state for record in records} == {BatchState.FINISHED}


async def test_stages_that_are_stopped_at_any_moment_do_everything_once() -> None:
    random, starts = Random(4), 1
    service = Service(workers=8, layers={"Gold Set": 12, "Second Set": 13})
    async with in_process(service) as client:
        stages = Stages(client)
        while not await stages.start(stop_after=random.uniform(0, 12)):
            starts += 1
            assert starts < 100
    assert starts > 5, "else this shows little"
    sent = Counter(
        (job.output_layer_name, source_id)
        for job in service.emulator.jobs.values()
        for source_id in job.source_ids
    )
    assert set(sent.values()) == {1}
    assert set(Counter(source_id for _, source_id in sent).values()) == {2}
    assert len(sent) == 2 * 40
