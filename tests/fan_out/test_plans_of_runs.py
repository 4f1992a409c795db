from __future__ import annotations

import os
import pathlib
import sqlite3
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from starlette.responses import JSONResponse

from annolab_async import BatchPlan, BatchState, LedgerError
from annolab_async.ledger import MemoryLedger
from tests.fan_out.service import Service, a_plan, in_ledger, states_of, to_end
from tests.service import KEY, in_process

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable
    from pathlib import Path

    from annolab_async import AsyncInferenceClient, FanOut
    from annolab_async.ledger import Ledger

pytestmark = pytest.mark.anyio


async def streamed(
    values: Iterable[Any], closed: list[str] | None = None
) -> AsyncGenerator[Any, None]:
    try:
        for value in values:
            await anyio.sleep(0.01)
            yield value
    finally:
        if closed is not None:
            closed.append("closed")


async def ran(client: AsyncInferenceClient, plan: BatchPlan, **options: Any) -> FanOut:
    async with client.fan_out(plan, **options) as run:
        await to_end(run)
    return run


@pytest.mark.parametrize(
    "changes",
    [
        {"group_name": "Another"},
        {"model_identifier": 1},
        {"output_layer_identifier": 12},
        {"project_identifier": "Sample Project"},
        {"batch_size": 5},
    ],
    ids=str,
)
async def test_another_plan_on_the_same_run_is_refused_and_told_what_to_do(
    ledger: Ledger, changes: dict[str, Any]
) -> None:
    service = Service()
    async with in_process(service) as client:
        await ran(client, a_plan(10), ledger=ledger)
        with pytest.raises(LedgerError, match="begun with another plan") as caught:
            await ran(client, a_plan(10, **changes), ledger=ledger)
    assert 'run="another name"' in str(caught.value)
    assert len(service.sent) == 5


@pytest.mark.parametrize(
    ("sources", "fault"),
    [
        pytest.param(range(2, 12), "batch 1 .* other sources", id="other sources"),
        pytest.param(range(10, 0, -1), "batch 1 .* other sources", id="another order"),
        pytest.param([*range(1, 10), 11], "batch 5 .* other sources", id="another last"),
        pytest.param(range(1, 9), "has 5 batches, but the plan only 4", id="fewer"),
        pytest.param(range(1, 13), "begun with another plan", id="more"),
    ],
)
async def test_other_sources_on_the_same_run_are_refused_before_anything_is_sent(
    ledger: Ledger, sources: Iterable[int], fault: str
) -> None:
    service = Service(bad_source_ids=[1])
    async with in_process(service) as client:
        await ran(client, a_plan(10), ledger=ledger)
        with pytest.raises(LedgerError, match=fault) as caught:
            await ran(client, a_plan(sources), ledger=ledger)
        assert 'run="another name"' in str(caught.value)
        assert len(service.sent) == 5
        await ran(client, a_plan(sources), ledger=ledger, run="another name")


async def test_the_same_plan_under_another_name_is_another_run(ledger: Ledger) -> None:
    service = Service()
    async with in_process(service) as client:
        await ran(client, a_plan(10), ledger=ledger)
        await ran(client, a_plan(10), ledger=ledger, run="again")
        await ran(client, a_plan(10), ledger=ledger, run="again")
    assert len(service.sent) == 10
    async with ledger:
        assert [info.name for info in await ledger.runs()] == ["default", "again"]


async def test_a_plan_in_memory_begins_anew_each_time() -> None:
    service = Service()
    async with in_process(service) as client:
        for _ in range(2):
            await ran(client, a_plan(10))
    assert len(service.sent) == 10


async def test_sources_are_the_same_whatever_they_come_in(ledger: Ledger) -> None:
    service = Service()
    async with in_process(service) as client:
        for sources in (list(range(1, 11)), set(range(1, 11)), iter(range(1, 11))):
            await ran(client, a_plan(sources), ledger=ledger)
        await ran(client, a_plan(streamed(range(1, 11))), ledger=ledger)
    assert len(service.sent) == 5


async def test_repeated_ids_are_left_out_counted_and_logged(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service()
    async with in_process(service) as client:
        run = await ran(client, a_plan([1, 2, 1, 3, 3, 3]), ledger=ledger)
    assert run.summary.repeated_source_ids == 3
    assert "Source ids that occur more than once in the plan are sent once: 3, such as 1, 3, 3" in (
        caplog.text
    )
    assert sorted(service.sent) == [(1, 2), (3,)]


async def test_a_bad_id_from_a_generator_is_raised_before_anything_is_sent(ledger: Ledger) -> None:
    service = Service()
    plan = a_plan(iter([*range(1, 5000), 0, "a"]))
    async with in_process(service) as client:
        with pytest.raises(ValueError, match=r"source_ids\[4999\] is 0, source_ids\[5000\] is 'a'"):
            await ran(client, plan, ledger=ledger)
        assert service.sent == []
        await ran(client, a_plan(10), ledger=ledger, run="other")


async def test_a_generator_that_was_read_before_is_no_run_of_nothing(ledger: Ledger) -> None:
    plan = a_plan(iter(range(1, 11)))
    async with in_process(Service()) as client:
        await ran(client, plan, ledger=ledger)
        with pytest.raises(ValueError, match="source_ids is empty"):
            await ran(client, plan, ledger=MemoryLedger())


async def test_a_generator_that_fails_is_raised_and_can_be_given_again(ledger: Ledger) -> None:
    service = Service()

    def failing() -> Iterable[int]:
        yield from range(1, 5000)
        raise ZeroDivisionError

    async with in_process(service) as client:
        with pytest.raises(ZeroDivisionError):
            await ran(client, a_plan(failing()), ledger=ledger)
        assert service.sent == []
        run = await ran(client, a_plan(range(1, 5001), batch_size=500), ledger=MemoryLedger())
    assert run.summary.batches == {BatchState.FINISHED: 10}


async def test_a_stream_is_sent_while_it_is_read(ledger: Ledger) -> None:
    service = Service()
    send, receive = anyio.create_memory_object_stream[int](100)
    async with (
        receive,
        in_process(service) as client,
        client.fan_out(a_plan(receive), ledger=ledger) as run,
    ):
        async with send:
            for first in (1, 3, 5):
                await send.send(first)
                await send.send(first + 1)
                async for record in run:
                    if record.state is BatchState.FINISHED:
                        assert record.source_ids == (first, first + 1)
                        break
                assert not run.summary.is_planned
                assert run.summary.eta is None
            await send.send(7)
        last = await to_end(run)
        assert last[-1].source_ids == (7,)
        assert run.summary.is_planned
        assert run.summary.eta == 0.0


async def test_how_much_of_a_stream_has_come_shows_within_a_second(ledger: Ledger) -> None:
    service = Service(base_seconds=100.0)
    send, receive = anyio.create_memory_object_stream[int](100)
    async with (
        send,
        receive,
        in_process(service) as client,
        client.fan_out(a_plan(receive), ledger=ledger, max_in_flight=1) as run,
    ):
        for come, first in ((1, 1), (2, 3), (3, 5)):
            await send.send(first)
            await send.send(first + 1)
            await anyio.sleep(1.1)
            assert sum(run.summary.batches.values()) == come
            assert run.summary.batches.get(BatchState.PLANNED, 0) == come - 1


async def test_a_stream_that_pauses_does_not_end_the_run() -> None:
    service = Service()

    async def with_pauses() -> AsyncGenerator[int, None]:
        for number in range(1, 7):
            await anyio.sleep(100)
            yield number

    async with in_process(service) as client:
        run = await ran(client, a_plan(with_pauses()))
    assert run.summary.batches == {BatchState.FINISHED: 3}


async def test_a_stream_that_brings_nothing_is_a_run_of_nothing(ledger: Ledger) -> None:
    async with in_process(Service()) as client:
        run = await ran(client, a_plan(streamed([])), ledger=ledger)
    assert run.summary.batches == {}
    assert run.summary.is_planned


@pytest.mark.parametrize("value", [0, "a", None])
async def test_a_bad_id_from_a_stream_is_raised_and_what_was_sent_goes_on(
    ledger: Ledger, value: Any
) -> None:
    service, closed = Service(), list[str]()
    plan = a_plan(streamed([1, 2, 3, 4, value, 5], closed))
    async with in_process(service) as client:
        with pytest.raises(ValueError, match=r"source_ids\[4\] is"):
            await ran(client, plan, ledger=ledger)
        assert closed == ["closed"]
        run = await ran(client, a_plan(streamed([1, 2, 3, 4, 5])), ledger=ledger)
    assert run.summary.batches == {BatchState.FINISHED: 3}
    assert sorted(service.sent) == [(1, 2), (3, 4), (5,)]


async def test_of_two_failures_the_first_is_raised(ledger: Ledger) -> None:
    service, is_sent = Service(), anyio.Event()

    async def fail() -> AsyncGenerator[int, None]:
        yield 1
        yield 2
        await is_sent.wait()
        raise OSError("the list of sources is gone")

    async def refuse(_: object) -> JSONResponse:
        is_sent.set()
        await anyio.sleep(10)
        return JSONResponse({"message": "no such key"}, 401)

    service.before = refuse
    async with (
        in_process(service) as client,
        client.fan_out(a_plan(fail()), ledger=ledger) as run,
    ):
        with pytest.raises(OSError, match="gone"):
            await to_end(run)
    assert service.sent == [(1, 2)]


async def test_a_stream_that_fails_is_raised_as_it_is(ledger: Ledger) -> None:
    async def failing() -> AsyncGenerator[int, None]:
        yield 1
        raise ZeroDivisionError

    async with in_process(Service()) as client:
        with pytest.raises(ZeroDivisionError):
            await ran(client, a_plan(failing()), ledger=ledger)


@pytest.mark.parametrize("how", ["refused", "left", "cancelled"])
async def test_a_stream_that_is_not_read_to_its_end_is_closed(ledger: Ledger, how: str) -> None:
    # Trio calls a generator that is left open a leak, and a warning is an error here.
    closed = list[str]()
    async with in_process(Service()) as client:
        await ran(client, a_plan(10), ledger=ledger)
        if how == "refused":
            plan = a_plan(streamed(range(1, 1_000_000), closed))
            async with ledger, client.fan_out(plan, ledger=ledger, run="other") as run:
                # By another process, whose stream came in another order.
                other = await ledger.begin_run("other", plan.fingerprint)
                await other.plan([(2, 1), (4, 3)])
                with pytest.raises(LedgerError, match="other sources"):
                    await to_end(run)
        else:
            plan = a_plan(streamed(range(1, 1_000_000), closed))
            with anyio.CancelScope() as scope:
                async with client.fan_out(plan, ledger=ledger, run="other") as run:
                    async for _ in run:
                        if how == "cancelled":
                            scope.cancel()
                        else:
                            break
    assert closed == ["closed"]


async def test_no_key_is_in_a_ledger_file_though_the_server_says_it(tmp_path: Path) -> None:
    service = Service()
    service.refuses([])

    async def tell(source_ids: tuple[int, ...]) -> Any:
        from starlette.responses import JSONResponse  # noqa: PLC0415

        if source_ids[0] == 5:
            return None
        return JSONResponse({"message": f"no good: Api-Key {KEY}"}, 400)

    service.before = tell
    path = tmp_path / "run.db"
    async with (
        in_process(service) as client,
        client.fan_out(a_plan(6), ledger=path, run="a run", max_concurrent_submits=1) as run,
    ):
        records = await to_end(run)
        shown = " ".join(map(repr, [*records, run, run.summary, *run._work.books.failed()]))
    assert "no good" in shown
    assert KEY not in shown
    written = b"".join(map(pathlib.Path.read_bytes, tmp_path.glob("run.db*")))  # noqa: ASYNC240
    assert b"no good" in written
    assert KEY.encode() not in written
    with sqlite3.connect(path) as connection:
        assert KEY not in "\n".join(connection.iterdump())
    connection.close()


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("run.db", str),
        ("run.db", pathlib.Path),
        ("50% of a run?.db", str),
        ("50% of a run?.db", pathlib.Path),
        ("run.db", "sqlite:///{}".format),
    ],
    ids=["text", "path", "odd text", "odd path", "URL"],
)
async def test_a_ledger_is_given_by_path_or_url(tmp_path: Path, name: str, given: Any) -> None:
    service = Service()
    async with in_process(service) as client:
        for _ in range(2):
            await ran(client, a_plan(10), ledger=given(tmp_path / name))
    assert len(service.sent) == 5
    assert name in os.listdir(tmp_path)  # noqa: PTH208  # no disk work that the loop could wait for


@pytest.mark.parametrize("value", ["", b"run.db", 7, "mysql://host/db", "file://run.db"])
async def test_what_is_no_ledger_is_refused_before_anything_is_sent(value: Any) -> None:
    service = Service()
    async with in_process(service) as client:
        with pytest.raises(LedgerError):
            await ran(client, a_plan(10), ledger=value)
    assert service.emulator.stats.requests == 0


async def test_a_ledger_in_a_folder_that_is_not_there_is_refused_before_anything_is_sent(
    tmp_path: Path,
) -> None:
    service = Service()
    async with in_process(service) as client:
        with pytest.raises(LedgerError):
            await ran(client, a_plan(10), ledger=tmp_path / "none" / "run.db")
    assert service.emulator.stats.requests == 0


async def test_a_plan_is_there_as_a_whole_before_anything_is_sent(ledger: Ledger) -> None:
    service = Service()

    def watched() -> Iterable[int]:
        for number in range(1, 4001):
            assert service.sent == []
            yield number

    async with in_process(service) as client:
        run = await ran(client, a_plan(watched(), batch_size=100), ledger=ledger)
    assert run.summary.batches == {BatchState.FINISHED: 40}
    assert states_of(await in_ledger(ledger, a_plan(batch_size=100))) == {BatchState.FINISHED: 40}
