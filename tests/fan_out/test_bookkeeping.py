"""What a run keeps of its batches, and what it says of itself in the log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio
import pytest

from annolab_async import BatchState
from annolab_async._fan_out_state import Books
from annolab_async._run_log import RunLog
from annolab_async.ledger import MemoryLedger
from tests.fan_out.service import Service, a_plan, to_end
from tests.service import in_process

if TYPE_CHECKING:
    from annolab_async import FanOutSummary

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


def a_summary(now: float = 0.0) -> FanOutSummary:
    return Books(0.0).summary(now, is_planned=False, repeated=0)


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
