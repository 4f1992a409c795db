"""What every ledger does, whatever it is kept in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from annolab_async import LedgerError
from annolab_async._batch_records import FIRST_SPLIT_NUMBER
from annolab_async.ledger import BatchState, Ledger, MemoryLedger, _reads, _sql, open_ledger
from annolab_async.ledger._sql import SqlLedger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    from annolab_async.ledger import BatchRecord, LedgerRun
    from annolab_async.ledger._session import Session
    from tests.ledger.clock import Clock

pytestmark = [pytest.mark.anyio, pytest.mark.sockets, pytest.mark.any_backend]

PLAN = [(1, 2), (3, 4), (5,)]
ME = "me"
YOU = "you"


async def planned(ledger: Ledger, plan: Sequence[Sequence[int]] = PLAN) -> LedgerRun:
    run = await ledger.begin_run("run", "plan 1")
    await run.plan(plan)
    return run


async def claim(run: LedgerRun, limit: int = 1, owner: str = ME) -> Sequence[BatchRecord]:
    return await run.claim(owner, limit=limit, lease_seconds=60)


async def submitted(run: LedgerRun, job_id: int = 7, owner: str = ME) -> BatchRecord:
    (sending,) = await claim(run, owner=owner)
    record = await run.change(sending, BatchState.SUBMITTED, owner=owner, inference_job_id=job_id)
    assert record
    return record


async def errored(run: LedgerRun) -> BatchRecord:
    (sending,) = await claim(run)
    record = await run.change(sending, BatchState.ERRORED, owner=ME, error="refused")
    assert record
    return record


async def everything(run: LedgerRun) -> list[BatchRecord]:
    return [record async for record in run.batches()]


async def test_a_plan_is_numbered_from_one(ledger: Ledger) -> None:
    async with ledger:
        run = await planned(ledger)
        assert [(b.number, b.source_ids) for b in await everything(run)] == list(enumerate(PLAN, 1))
        assert {b.state for b in await everything(run)} == {BatchState.PLANNED}
        assert run.info.planned_batches == 3
        assert await ledger.runs() == [run.info]


async def test_a_plan_may_be_a_stream(ledger: Ledger) -> None:
    async def stream() -> AsyncIterator[Sequence[int]]:
        for number in range(1, 1001):
            await anyio.lowlevel.checkpoint()
            yield [number]

    async with ledger:
        run = await ledger.begin_run("run", "plan 1")
        assert (await run.plan(stream())).planned_batches == 1000
        assert len(await everything(run)) == 1000


async def test_an_empty_plan_is_planned(ledger: Ledger) -> None:
    async with ledger:
        run = await planned(ledger, [])
        assert run.info.is_planned
        assert await claim(run) == []
        assert (await run.counts()).batches == {}


async def test_a_plan_that_was_cut_short_goes_on(ledger: Ledger) -> None:
    batches = [(number,) for number in range(1, 601)]

    async def stream() -> AsyncIterator[Sequence[int]]:
        for batch in batches[:400]:
            yield batch
        raise OSError("the list of sources is gone")

    async with ledger:
        run = await ledger.begin_run("run", "plan 1")
        with pytest.raises(OSError, match="gone"):
            await run.plan(stream())
        here = len(await everything(run))
        assert 0 < here <= 400
        assert not run.info.is_planned
        await claim(run, limit=5)
        await run.plan(batches)
        assert [b.source_ids for b in await everything(run)] == batches
        assert (await run.counts()).batches == {
            BatchState.PLANNED: 595,
            BatchState.SENDING: 5,
        }


async def test_planning_again_changes_nothing(ledger: Ledger) -> None:
    async with ledger:
        run = await planned(ledger)
        await claim(run)
        before = await everything(run)
        await run.plan(PLAN)
        assert await everything(run) == before


@pytest.mark.parametrize(
    ("plan", "fault"),
    [
        ([(1, 2), (3, 5), (5,)], "batch 2 of run 'run' was written down with other sources"),
        (PLAN[:2], "run 'run' has 3 batches, but the plan only 2"),
        ([*PLAN, (6,)], "run 'run' was begun with another plan"),
    ],
)
async def test_another_plan_is_refused(
    ledger: Ledger, plan: Sequence[Sequence[int]], fault: str
) -> None:
    async with ledger:
        run = await planned(ledger)
        before = await everything(run)
        with pytest.raises(LedgerError, match=fault):
            await run.plan(plan)
        assert await everything(run) == before


async def test_a_stream_may_bring_more_than_it_did_when_it_ended(ledger: Ledger) -> None:
    async def later() -> AsyncIterator[Sequence[int]]:
        yield (6,)
        assert not (await ledger.begin_run("run", "plan 1")).info.is_planned
        yield (7, 8)

    async with ledger:
        run = await planned(ledger)
        before = await everything(run)
        assert (await run.plan(later(), after=3)).planned_batches == 5
        after = await everything(run)
        assert after[:3] == before
        assert [record.source_ids for record in after[3:]] == [(6,), (7, 8)]


@pytest.mark.parametrize("batch", [(), (0,), (3, 0), (0, 3), (True,), (3, True), ("1",), (3, "1")])
async def test_a_batch_of_what_is_no_id_is_refused(ledger: Ledger, batch: Sequence[int]) -> None:
    async with ledger:
        run = await ledger.begin_run("run", "plan 1")
        with pytest.raises(ValueError, match="Batch 2 of the plan is empty or holds what is no id"):
            await run.plan([(1,), batch])


async def test_a_run_goes_on_under_its_name_and_another_plan_needs_another(ledger: Ledger) -> None:
    async with ledger:
        await planned(ledger)
        again = await ledger.begin_run("run", "plan 1", details="not looked at")
        assert again.info.planned_batches == 3
        with pytest.raises(LedgerError, match=r'another plan.*run="another name"'):
            await ledger.begin_run("run", "plan 2")
        other = await ledger.begin_run("other", "plan 2", details="{}")
        await other.plan([(9,)])
        assert len(await everything(other)) == 1
        assert [(run.name, run.details) for run in await ledger.runs()] == [
            ("run", ""),
            ("other", "{}"),
        ]


async def test_claims_give_each_batch_once_the_lowest_numbers_first(ledger: Ledger) -> None:
    async with ledger:
        run = await planned(ledger)
        first = await claim(run, limit=2)
        second = await claim(run, limit=2, owner=YOU)
        assert [b.number for b in first] == [1, 2]
        assert [b.number for b in second] == [3]
        assert await claim(run) == []
        assert {b.state for b in [*first, *second]} == {BatchState.SENDING}
        assert [b.owner for b in await everything(run)] == [ME, ME, YOU]
        assert all(b.sent_at and b.attempts == 1 for b in first)


async def test_claims_at_the_same_time_give_each_batch_once(ledger: Ledger) -> None:
    async with ledger:
        run = await planned(ledger, [(number,) for number in range(1, 101)])
        claimed: list[int] = []

        async def claim_some(owner: str) -> None:
            while found := await claim(run, limit=3, owner=owner):
                claimed.extend(record.number for record in found)

        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(claim_some, str(number))
        assert sorted(claimed) == list(range(1, 101))


async def test_a_batch_that_a_change_has_taken_up_is_not_claimed(ledger: Ledger) -> None:
    async with ledger:
        run = await planned(ledger)
        one, *_ = await everything(run)
        assert await run.change(one, BatchState.SENDING, owner=ME)
        assert [b.number for b in await claim(run, limit=3, owner=YOU)] == [2, 3]


async def test_a_batch_that_is_claimed_while_it_is_changed_goes_to_one_of_both(
    ledger: Ledger,
) -> None:
    async with ledger:
        run = await planned(ledger, [(number,) for number in range(1, 101)])
        mine: set[int] = set()
        yours: set[int] = set()

        async def change(record: BatchRecord) -> None:
            if await run.change(record, BatchState.SENDING, owner=ME):
                mine.add(record.number)

        async def claim_it() -> None:
            yours.update(record.number for record in await claim(run, owner=YOU))

        async with anyio.create_task_group() as group:
            for record in await everything(run):
                group.start_soon(claim_it)
                group.start_soon(change, record)
        assert not mine & yours
        owners = {record.number: record.owner for record in await everything(run)}
        assert owners == dict.fromkeys(mine, ME) | dict.fromkeys(yours, YOU) | {
            number: None for number in owners if number not in mine | yours
        }
        for record in await everything(run):
            assert len(await run.history(record.number)) == record.version


async def test_a_batch_goes_its_way_and_its_history_tells(ledger: Ledger, clock: Clock) -> None:
    async with ledger:
        run = await planned(ledger)
        (sending,) = await claim(run)
        first = await run.change(
            sending, BatchState.SUBMITTED, owner=ME, inference_job_id=7, status="Queued"
        )
        assert first
        clock.now += 1
        second = await run.change(first, BatchState.SUBMITTED, owner=ME, status="Running")
        assert second
        assert second.submitted_at == first.submitted_at == first.updated_at
        assert second.updated_at > first.updated_at
        third = await run.change(second, BatchState.ERRORED, owner=ME, error="a bad source")
        assert third
        assert await run.get(1) == third
        assert (third.inference_job_id, third.status, third.error) == (7, "Running", "a bad source")
        assert third.owner is None
        assert third.ended_at
        entries = [(e.previous, e.state, e.owner, e.status) for e in await run.history(1)]
        assert entries == [
            (BatchState.PLANNED, BatchState.SENDING, ME, None),
            (BatchState.SENDING, BatchState.SUBMITTED, ME, "Queued"),
            (BatchState.SUBMITTED, BatchState.SUBMITTED, ME, "Running"),
            (BatchState.SUBMITTED, BatchState.ERRORED, ME, "Running"),
        ]
        assert [e.version for e in await run.history(1)] == [1, 2, 3, 4]
        assert await run.history(2) == []


async def test_all_changes_are_read_in_pages_batch_by_batch(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sql, "_CHANGES_PAGE", 2)
    async with ledger:
        run = await planned(ledger)
        records = await claim(run, limit=3)
        for job_id, record in enumerate(records, 1):
            after = await run.change(
                record, BatchState.SUBMITTED, owner=ME, inference_job_id=job_id, status="Queued"
            )
            assert after
            if job_id != 2:
                await run.change(after, BatchState.FINISHED, owner=ME, uncertainty=1.25)
        changes = [change async for change in run.changes()]
        assert changes == [change for number in (1, 2, 3) for change in await run.history(number)]
    assert [(c.number, c.version) for c in changes] == [
        *((1, version) for version in (1, 2, 3)),
        *((2, version) for version in (1, 2)),
        *((3, version) for version in (1, 2, 3)),
    ]
    assert [c.uncertainty for c in changes[:3]] == [None, None, 1.25]


async def test_a_record_that_is_out_of_date_changes_nothing(ledger: Ledger) -> None:
    async with ledger:
        run = await planned(ledger)
        (sending,) = await claim(run)
        now = await run.change(sending, BatchState.SUBMITTED, owner=ME, inference_job_id=7)
        late = await run.change(sending, BatchState.SUBMITTED, owner=ME, inference_job_id=8)
        assert late is None
        assert await run.get(1) == now
        assert len(await run.history(1)) == 2


async def test_of_two_changes_at_the_same_time_one_wins(ledger: Ledger) -> None:
    async with ledger:
        run = await planned(ledger)
        (sending,) = await claim(run)
        results: list[BatchRecord | None] = []

        async def change(job_id: int) -> None:
            results.append(
                await run.change(sending, BatchState.SUBMITTED, owner=ME, inference_job_id=job_id)
            )

        async with anyio.create_task_group() as group:
            for job_id in range(1, 11):
                group.start_soon(change, job_id)
        (winner,) = filter(None, results)
        assert await run.get(1) == winner
        assert len(results) == 10


async def test_what_is_another_owners_is_not_changed(ledger: Ledger) -> None:
    async with ledger:
        run = await planned(ledger)
        mine = await submitted(run)
        assert await run.change(mine, BatchState.FINISHED, owner=YOU) is None
        assert await run.get(1) == mine


async def test_what_may_not_follow_is_an_error(ledger: Ledger) -> None:
    async with ledger:
        run = await planned(ledger)
        (sending,) = await claim(run)
        with pytest.raises(ValueError, match="Batch 1 is sending, and cannot become finished"):
            await run.change(sending, BatchState.FINISHED, owner=ME)
        with pytest.raises(ValueError, match="only with the id of its job"):
            await run.change(sending, BatchState.SUBMITTED, owner=ME)
        for job_id in (0, -1, 2**63):
            with pytest.raises(ValueError, match=f"{job_id} is no job id"):
                await run.change(sending, BatchState.SUBMITTED, owner=ME, inference_job_id=job_id)
        assert await run.get(1) == sending
        largest = 2**63 - 1
        assert await run.change(sending, BatchState.SUBMITTED, owner=ME, inference_job_id=largest)


async def test_a_wrong_change_does_not_hurt_those_beside_it(ledger: Ledger) -> None:
    async with ledger:
        run = await planned(ledger)
        one, two, three = await claim(run, limit=3)
        results: list[object] = []

        async def finish(record: BatchRecord, to: BatchState) -> None:
            try:
                results.append(await run.change(record, to, owner=ME, inference_job_id=7))
            except ValueError:
                results.append("wrong")

        async with anyio.create_task_group() as group:
            group.start_soon(finish, one, BatchState.SUBMITTED)
            group.start_soon(finish, two, BatchState.SPLIT)
            group.start_soon(finish, three, BatchState.SUBMITTED)
        assert results.count("wrong") == 1
        assert (await run.counts()).batches == {BatchState.SUBMITTED: 2, BatchState.SENDING: 1}


async def test_what_was_not_sent_is_planned_again(ledger: Ledger) -> None:
    async with ledger:
        run = await planned(ledger)
        (sending,) = await claim(run)
        back = await run.change(sending, BatchState.PLANNED, owner=ME, error="not sent")
        assert back
        assert (back.owner, back.sent_at, back.attempts) == (None, None, 1)
        (again,) = await claim(run, owner=YOU)
        assert (again.number, again.attempts, again.owner) == (1, 2, YOU)
        assert await run.change(sending, BatchState.UNKNOWN, owner=ME) is None


async def test_an_unknown_batch_stays_so_until_somebody_decides(ledger: Ledger) -> None:
    async with ledger:
        run = await planned(ledger, [(1,), (2,)])
        one, two = [
            await run.change(record, BatchState.UNKNOWN, owner=ME, error="no answer")
            for record in await claim(run, limit=2)
        ]
        assert one
        assert two
        assert await claim(run) == []
        found = await run.change(one, BatchState.SUBMITTED, owner=YOU, inference_job_id=8)
        assert found
        assert (found.owner, found.error, found.ended_at) == (YOU, None, None)
        await run.change(two, BatchState.PLANNED, owner=YOU)
        (again,) = await claim(run)
        assert (again.number, again.inference_job_id) == (2, None)


async def test_halves_take_the_place_of_a_batch(ledger: Ledger) -> None:
    async with ledger:
        run = await planned(ledger)
        record = await errored(run)
        halves = await run.split(record, [(1,), (2,)], owner=ME)
        assert halves
        assert [(b.source_ids, b.parent, b.state) for b in halves] == [
            ((1,), 1, BatchState.PLANNED),
            ((2,), 1, BatchState.PLANNED),
        ]
        old = await run.get(1)
        assert old
        assert (old.state, old.error) == (BatchState.SPLIT, "refused")
        assert [await run.get(half.number) for half in halves] == halves
        assert await run.split(record, [(1,), (2,)], owner=ME) is None
        assert [b.number for b in await everything(run)][:3] == [1, 2, 3]
        counts = await run.counts()
        assert counts.batches == {BatchState.PLANNED: 4, BatchState.SPLIT: 1}
        assert counts.sources == {BatchState.PLANNED: 5, BatchState.SPLIT: 2}
        # Planning goes by its own numbers, whatever was split in the meantime.
        await run.plan(PLAN)


@pytest.mark.parametrize("parts", [[(1, 2)], [(1,), (3,)], [(2,), (1,)], [(1, 2), ()], []])
async def test_parts_that_are_not_the_batch_are_refused(
    ledger: Ledger, parts: Sequence[Sequence[int]]
) -> None:
    async with ledger:
        run = await planned(ledger)
        record = await errored(run)
        with pytest.raises(ValueError, match="parts of batch 1 must be its own sources"):
            await run.split(record, parts, owner=ME)
        assert await run.get(1) == record


async def test_a_part_goes_its_way_and_can_be_split_again(ledger: Ledger) -> None:
    async with ledger:
        run = await planned(ledger, [(1, 2, 3, 4)])
        record = await errored(run)
        assert await run.split(record, [(1, 2), (3, 4)], owner=ME)
        part = await errored(run)
        assert part.source_ids == (1, 2)
        assert await run.split(part, [(1,), (2,)], owner=ME)
        records = await everything(run)
        assert [(b.source_ids, b.parent) for b in records if b.state is BatchState.PLANNED] == [
            ((3, 4), 1),
            ((1,), part.number),
            ((2,), part.number),
        ]


async def test_two_splits_share_no_number(ledger: Ledger) -> None:
    async with ledger:
        run = await planned(ledger)
        numbers: list[int] = []
        for _ in range(2):
            record = await errored(run)
            parts = await run.split(
                record, [record.source_ids[:1], record.source_ids[1:]], owner=ME
            )
            assert parts
            numbers += [part.number for part in parts]
        assert len(set(numbers)) == 4


async def test_what_a_dead_owner_left_is_taken_over(ledger: Ledger) -> None:
    async with ledger:
        run = await planned(ledger)
        watched = await submitted(run)
        (sending,) = await claim(run)
        assert await run.take_over(YOU, limit=10, lease_seconds=60) == []
        taken = await run.take_over(YOU, limit=10, lease_seconds=60, of=[ME])
        assert [(b.number, b.state, b.owner) for b in taken] == [
            (1, BatchState.SUBMITTED, YOU),
            (2, BatchState.UNKNOWN, None),
        ]
        assert taken[1].error
        assert taken == [await run.get(1), await run.get(2)]
        # The dead wakes up, and is told that both are no longer its own.
        assert await run.change(watched, BatchState.FINISHED, owner=ME) is None
        assert await run.change(sending, BatchState.SUBMITTED, owner=ME, inference_job_id=8) is None
        assert await run.change(taken[0], BatchState.FINISHED, owner=YOU)
        assert await run.take_over(YOU, limit=10, lease_seconds=60, of=[ME]) == []


async def test_who_is_released_is_taken_over_at_once(ledger: Ledger) -> None:
    async with ledger:
        run = await planned(ledger)
        await submitted(run)
        await run.release(ME)
        (taken,) = await run.take_over(YOU, limit=10, lease_seconds=60)
        assert taken.owner == YOU
        assert not await run.renew(ME, lease_seconds=60)
        assert await run.renew(ME, lease_seconds=60)


async def test_nobody_takes_over_from_itself(ledger: Ledger) -> None:
    async with ledger:
        run = await planned(ledger)
        await submitted(run)
        assert await run.take_over(ME, limit=10, lease_seconds=60, of=[ME]) == []
        assert await run.renew(ME, lease_seconds=60)


async def test_taking_over_goes_in_portions(ledger: Ledger) -> None:
    async with ledger:
        run = await planned(ledger)
        await claim(run, limit=3)
        first = await run.take_over(YOU, limit=2, lease_seconds=60, of=[ME])
        assert [b.number for b in first] == [1, 2]
        (last,) = await run.take_over(YOU, limit=2, lease_seconds=60, of=[ME])
        assert last.number == 3


async def test_batches_are_read_by_state_and_from_a_number_on(ledger: Ledger) -> None:
    async with ledger:
        run = await planned(ledger, [(number,) for number in range(1, 1201)])
        await claim(run, limit=3)
        assert [b.number async for b in run.batches()] == list(range(1, 1201))
        some = [b.number async for b in run.batches(states=[BatchState.SENDING])]
        assert some == [1, 2, 3]
        both = [
            b.number
            async for b in run.batches(
                states=[BatchState.PLANNED, BatchState.SENDING], after=2, limit=700
            )
        ]
        assert both == list(range(3, 703))
        assert [b.number async for b in run.batches(after=1199)] == [1200]
        assert [b.number async for b in run.batches(limit=1)] == [1]
        assert [b.number async for b in run.batches(limit=501)] == list(range(1, 502))
        assert [b async for b in run.batches(limit=0)] == []
        assert [b async for b in run.batches(states=[])] == []
        assert await run.get(0) is None
        assert await run.get(1201) is None
        assert await run.get(2_000_000_000) is None


async def test_batches_of_several_states_are_read_in_pages_and_none_is_passed_over(
    ledger: Ledger,
) -> None:
    async with ledger:
        run = await planned(ledger, [(number,) for number in range(1, 1201)])
        await claim(run, limit=600)
        states = [BatchState.PLANNED, BatchState.SENDING]
        assert [b.number async for b in run.batches(states=states)] == list(range(1, 1201))
        some = [b.number async for b in run.batches(states=states, after=598, limit=3)]
        assert some == [599, 600, 601]


async def test_what_is_read_is_at_most_a_page_old(ledger: Ledger) -> None:
    async with ledger:
        run = await planned(ledger, [(number,) for number in range(1, 502)])
        batches = run.batches()
        states = [(await anext(batches)).state]
        await claim(run, limit=501)
        states += [record.state async for record in batches]
        assert states == [*[BatchState.PLANNED] * 500, BatchState.SENDING]


async def test_a_ledger_in_a_database_is_read_page_by_page_and_no_further_than_asked_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    page = _reads.page

    def read(*arguments: Any, **options: Any) -> list[BatchRecord]:
        sizes.append(options["limit"])
        return page(*arguments, **options)

    monkeypatch.setattr(_reads, "page", read)
    async with open_ledger(path) as ledger:
        run = await planned(ledger, [(number,) for number in range(1, 1101)])
        for limit, expected in (
            (None, [500, 500, 500]),
            (0, []),
            (1, [1]),
            (3, [3]),
            (500, [500]),
            (501, [500, 1]),
            (700, [500, 200]),
            (1000, [500, 500]),
        ):
            sizes.clear()
            found = [record.number async for record in run.batches(limit=limit)]
            assert found == list(range(1, 1101))[:limit]
            assert sizes == expected


async def test_parts_are_read_from_a_number_on_like_all_others(ledger: Ledger) -> None:
    async with ledger:
        run = await planned(ledger)
        for _ in range(2):
            record = await errored(run)
            assert await run.split(record, [record.source_ids[:1], record.source_ids[1:]], owner=ME)
        numbers = [record.number for record in await everything(run)]
        assert numbers == [1, 2, 3, *range(FIRST_SPLIT_NUMBER, FIRST_SPLIT_NUMBER + 4)]
        for after in (-1, 0, *numbers, FIRST_SPLIT_NUMBER - 1):
            found = [record.number async for record in run.batches(after=after)]
            assert found == [number for number in numbers if number > after]


def test_parts_are_numbered_from_a_billion_on_as_in_ledgers_that_are_out_there() -> None:
    assert FIRST_SPLIT_NUMBER == 1_000_000_000


async def test_all_times_are_the_clocks(ledger: Ledger, clock: Clock) -> None:
    is_servers = "postgresql" in repr(ledger)
    within = timedelta(minutes=5 if is_servers else 0)

    def is_now(*times: datetime | None) -> bool:
        now = datetime.now(UTC) if is_servers else datetime.fromtimestamp(clock.now, UTC)
        return all(time is not None and abs(time - now) <= within for time in times)

    async with ledger:
        run = await planned(ledger)
        (first, *_) = await everything(run)
        assert is_now(run.info.created_at, first.created_at, first.updated_at)
        clock.now += 0.25
        (sending,) = await claim(run)
        assert is_now(sending.updated_at, sending.sent_at)
        clock.now += 0.25
        record = await run.change(sending, BatchState.SUBMITTED, owner=ME, inference_job_id=7)
        assert record
        assert is_now(record.updated_at, record.submitted_at)
        clock.now += 0.25
        ended = await run.change(record, BatchState.FINISHED, owner=ME)
        assert ended
        assert is_now(ended.updated_at, ended.ended_at)
        assert ended == await run.get(1)
        assert (ended.created_at, ended.sent_at) == (first.created_at, sending.sent_at)
        assert ended.submitted_at == record.submitted_at
        assert [change.at for change in await run.history(1)] == [
            sending.updated_at,
            record.updated_at,
            ended.updated_at,
        ]


async def test_who_takes_over_has_a_lease(ledger: Ledger) -> None:
    async with ledger:
        run = await planned(ledger)
        await run.take_over(YOU, limit=1, lease_seconds=60)
        assert await run.renew(YOU, lease_seconds=60)


async def picture(run: LedgerRun) -> list[object]:
    """All that can be seen of a run."""
    changes = [change async for change in run.changes()]
    return [run.info, await everything(run), await run.counts(), changes]


async def test_whatever_happens_to_a_run_another_stays_as_it_is(ledger: Ledger) -> None:
    async with ledger:
        other = await ledger.begin_run("other", "plan 1")
        await other.plan(PLAN)
        await claim(other, limit=2, owner=YOU)
        run = await planned(ledger)
        third = await ledger.begin_run("third", "plan 1")
        await third.plan(PLAN)
        before = [await picture(other), await picture(third)]
        one, two, three = await claim(run, limit=3, owner=YOU)
        assert await run.change(one, BatchState.SUBMITTED, owner=YOU, inference_job_id=7)
        refused = await run.change(two, BatchState.ERRORED, owner=YOU)
        assert refused
        assert await run.split(refused, [(3,), (4,)], owner=YOU)
        taken = await run.take_over(ME, limit=9, lease_seconds=60, of=[YOU])
        assert [record.number for record in taken] == [1, 3]
        assert three.number == 3
        await run.release(ME)
        with pytest.raises(LedgerError, match="only 1"):
            await run.plan(PLAN[:1])
        assert [await picture(other), await picture(third)] == before
        # Its lease is another one, too.
        assert await other.take_over(ME, limit=9, lease_seconds=60) == []
        assert await other.renew(YOU, lease_seconds=60)


CALLS: dict[str, Callable[[Ledger, LedgerRun, BatchRecord], Awaitable[object]]] = {
    "begin_run": lambda ledger, _run, _: ledger.begin_run("another", "plan 1"),
    "runs": lambda ledger, _run, _: ledger.runs(),
    "plan": lambda _, run, _record: run.plan(PLAN),
    "plan nothing": lambda _, run, _record: run.plan([], after=3),
    "claim": lambda _, run, _record: claim(run),
    "change": lambda _, run, record: run.change(record, BatchState.PLANNED, owner=ME),
    "split": lambda _, run, record: run.split(record, [(1,), (2,)], owner=ME),
    "renew": lambda _, run, _record: run.renew(ME, lease_seconds=60),
    "release": lambda _, run, _record: run.release(ME),
    "take_over": lambda _, run, _record: run.take_over(YOU, limit=9, lease_seconds=60, of=[ME]),
    "get": lambda _, run, _record: run.get(1),
    "batches": lambda _, run, _record: everything(run),
    "counts": lambda _, run, _record: run.counts(),
    "history": lambda _, run, _record: run.history(1),
    "changes": lambda _, run, _record: anext(run.changes()),
}


async def test_a_cancelled_caller_changes_nothing(ledger: Ledger) -> None:
    async with ledger:
        run = await planned(ledger)
        record = await errored(run)
        before = [*await ledger.runs(), await picture(run)]
        for name, call in CALLS.items():
            with anyio.CancelScope() as scope:
                scope.cancel()
                await call(ledger, run, record)
            assert scope.cancelled_caught, name
        assert [*await ledger.runs(), await picture(run)] == before
        assert await run.renew(ME, lease_seconds=60)


async def test_any_text_can_be_kept(ledger: Ledger) -> None:
    async with ledger:
        run = await planned(ledger)
        (sending,) = await claim(run, owner="o'wner %s :name")
        text = "nul \0, half \ud800, 'quotes\", %s, :name, 😀"
        record = await run.change(
            sending,
            BatchState.UNKNOWN,
            owner="o'wner %s :name",
            error=text,
            status=text,
        )
        assert record
        assert record.error == "nul �, half ?, 'quotes\", %s, :name, 😀"
        assert await run.get(1) == record


async def test_entering_again_keeps_it_open(ledger: Ledger) -> None:
    async with ledger:
        run = await planned(ledger)
        async with open_ledger(ledger) as same:
            assert same is ledger
        assert await run.get(1)
    async with ledger:
        again = await ledger.begin_run("run", "plan 1")
        assert again.info.name == "run"


def test_none_is_a_ledger_in_memory() -> None:
    assert isinstance(open_ledger(None), MemoryLedger)


def test_each_is_a_ledger(ledger: Ledger) -> None:
    assert isinstance(ledger, Ledger)
    assert open_ledger(ledger) is ledger
    assert "password" not in repr(ledger)


async def test_a_lease_runs_out_by_the_clock(ledger: Ledger, clock: Clock) -> None:
    if "postgresql" in repr(ledger):
        pytest.skip("its clock is the server's")
    async with ledger:
        run = await planned(ledger)
        await claim(run)
        clock.now += 60
        # From here on others could have taken over.
        assert not await run.renew(ME, lease_seconds=60)
        clock.now += 59
        assert await run.take_over(YOU, limit=10, lease_seconds=60) == []
        assert await run.renew(ME, lease_seconds=60)
        clock.now += 59
        assert await run.take_over(YOU, limit=10, lease_seconds=60) == []
        clock.now += 1
        assert len(await run.take_over(YOU, limit=10, lease_seconds=60)) == 1
        assert not await run.renew(ME, lease_seconds=60)


async def test_postgresql_knows_how_large_a_plan_is_as_soon_as_it_is_written(
    postgres_url: str,
) -> None:
    # Else it sorts all that is planned for each claim and page, until it looks by itself.
    def known(session: Session) -> object:
        query = "SELECT reltuples FROM pg_class WHERE oid = 'annolab_batches'::regclass"
        return session.connection.exec_driver_sql(query).scalar()

    async with SqlLedger(postgres_url) as ledger:
        await planned(ledger)
        assert await ledger.writer.do(known, is_write=False) == len(PLAN)
