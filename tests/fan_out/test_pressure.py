from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest
from starlette.responses import JSONResponse

from annolab_async import BatchState, RateLimit
from tests.fan_out.service import Service, a_plan, to_end
from tests.service import in_process

if TYPE_CHECKING:
    from annolab_async.ledger import Ledger

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("most", "at_once"), [(1, 8), (3, 1), (7, 8)])
async def test_no_more_jobs_are_unfinished_than_allowed(
    ledger: Ledger, most: int, at_once: int
) -> None:
    service = Service(workers=100)
    unfinished = list[int]()

    async def count(_: tuple[int, ...]) -> None:
        held = run.summary.batches
        unfinished.append(held.get(BatchState.SENDING, 0) + held.get(BatchState.SUBMITTED, 0))

    service.before = count
    async with in_process(service) as client:
        run = client.fan_out(
            a_plan(40), ledger=ledger, max_in_flight=most, max_concurrent_submits=at_once
        )
        async with run:
            await to_end(run)
            assert run.summary.batches == {BatchState.FINISHED: 20}
    assert max(unfinished) == most


async def test_a_full_house_pauses_submission_and_not_watching() -> None:
    service = Service(workers=100, base_seconds=200.0)
    async with (
        in_process(service) as client,
        client.fan_out(a_plan(40), max_in_flight=5) as run,
    ):
        await anyio.sleep(100)
        assert len(service.sent) == 5
        polls = service.emulator.stats.polls
        await anyio.sleep(20)
        assert len(service.sent) == 5
        assert service.emulator.stats.polls > polls
        await to_end(run)
    assert len(service.sent) == 20


@pytest.mark.parametrize("at_once", [1, 3, 8])
async def test_no_more_submissions_are_under_way_than_allowed(ledger: Ledger, at_once: int) -> None:
    service = Service()
    under_way = [0]
    most = [0]

    async def take_time(_: tuple[int, ...]) -> None:
        under_way[0] += 1
        most[0] = max(most[0], under_way[0])
        await anyio.sleep(1.0)
        under_way[0] -= 1

    service.before = take_time
    async with in_process(service) as client:
        began = anyio.current_time()
        async with client.fan_out(a_plan(48), ledger=ledger, max_concurrent_submits=at_once) as run:
            async for _ in run:
                if len(service.sent) == 24 and under_way[0] == 0:
                    break
    assert most[0] == at_once
    assert anyio.current_time() - began >= 24 / at_once


@pytest.mark.any_backend
async def test_a_slow_consumer_pauses_submission_and_not_watching() -> None:
    service = Service(workers=10_000)
    async with (
        in_process(service) as client,
        client.fan_out(a_plan(1400), max_in_flight=50) as run,
    ):
        await anyio.sleep(200)
        sent = len(service.sent)
        # It has read nothing. What waits for it, 1024 changes, are those of fewer batches than that.
        assert 200 < sent < 700
        assert run.summary.batches[BatchState.FINISHED] == sent, "all that was sent is watched"
        await anyio.sleep(100)
        assert len(service.sent) == sent
        assert len(run._work.mailbox) < 1024 + 100
        async for _ in run:
            if len(service.sent) > sent:
                break
        await to_end(run)
        assert run.summary.batches == {BatchState.FINISHED: 700}


@pytest.mark.any_backend
async def test_to_a_slow_consumer_the_end_of_each_batch_is_told_all_the_same() -> None:
    service = Service(workers=10_000)
    ends = list[int]()
    async with in_process(service) as client, client.fan_out(a_plan(800), max_in_flight=50) as run:
        async for record in run:
            await anyio.sleep(0.2)
            if record.state is BatchState.FINISHED:
                ends.append(record.number)
    assert sorted(ends) == list(range(1, 401))


async def test_the_clients_rate_limit_bounds_everything_together() -> None:
    service = Service(workers=100)
    async with in_process(service, rate_limit=RateLimit(5.0)) as client:
        began = anyio.current_time()
        async with client.fan_out(a_plan(200)) as run:
            await to_end(run)
        requests = service.emulator.stats.requests
        assert requests <= 5.0 * (anyio.current_time() - began + 0.05) + 1
    assert requests >= 200


async def test_a_pause_that_the_server_asks_for_is_kept_by_all_submissions() -> None:
    service = Service()
    times = list[float]()

    async def busy(_: tuple[int, ...]) -> JSONResponse | None:
        times.append(anyio.current_time())
        if len(times) > 1:
            return None
        return JSONResponse({"message": "slow down"}, 429, {"Retry-After": "30"})

    service.before = busy
    async with in_process(service) as client, client.fan_out(a_plan(40)) as run:
        await to_end(run)
    late = [time for time in times if time - times[0] >= 30]
    assert len(times) - len(late) <= 8, "what was under way, and no more"


async def test_polls_of_many_jobs_are_few_at_a_time() -> None:
    service = Service(workers=1000, latency=1.0)
    async with in_process(service) as client, client.fan_out(a_plan(400)) as run:
        await to_end(run)
    assert service.emulator.stats.max_polls_in_flight <= 16
    assert service.emulator.stats.max_in_flight <= 16 + 8


@pytest.mark.parametrize(
    ("option", "value", "fault"),
    [
        ("max_in_flight", 0, "max_in_flight is 0, not an integer from 1 up"),
        ("max_in_flight", True, "max_in_flight is True"),
        ("max_in_flight", 1.5, "max_in_flight is 1.5"),
        ("max_in_flight", None, "max_in_flight is None"),
        ("max_concurrent_submits", 0, "max_concurrent_submits is 0, not an integer from 1 up"),
        ("on_error", "halve", "on_error is 'halve', neither 'keep' nor 'split'"),
        ("on_error", None, "on_error is None"),
        ("on_error", [], r"on_error is \[\]"),
        ("run", "", "run is '', not a name"),
        ("run", None, "run is None, not a name"),
        ("run", 7, "run is 7, not a name"),
        ("run", "a\udcff", "run is 'a.udcff', not a name"),
        ("job_timeout", 0, "job_timeout is 0, not a positive number of seconds"),
        ("job_timeout", float("nan"), "job_timeout is nan"),
        ("job_timeout", float("inf"), "job_timeout is inf"),
        ("failure_budget", None, "failure_budget is None"),
        ("failure_budget", -1, "failure_budget is -1"),
        ("stop_timeout", "10", "stop_timeout is '10'"),
        ("stop_timeout", True, "stop_timeout is True"),
        ("lease_seconds", 0, "lease_seconds is 0"),
        ("plan", [1, 2], "plan is a list, not a BatchPlan"),
    ],
)
async def test_an_option_that_makes_no_sense_is_named_before_anything_is_sent(
    option: str, value: Any, fault: str
) -> None:
    service = Service()
    async with in_process(service) as client:
        options: dict[str, Any] = {"plan": a_plan(), option: value}
        with pytest.raises(ValueError, match=fault):
            client.fan_out(**options)
    assert service.emulator.stats.requests == 0


async def test_an_option_that_is_none_is_refused() -> None:
    async with in_process(Service()) as client:
        with pytest.raises(TypeError, match="batch_size"):
            client.fan_out(a_plan(), batch_size=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
