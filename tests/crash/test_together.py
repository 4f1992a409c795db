"""Processes that work on one run together, over a PostgreSQL server that is restarted again and again."""

from __future__ import annotations

import os
import signal
import time
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from annolab_async import BatchState
from annolab_async.emulator import Emulator
from tests.crash.accounts import check_accounts
from tests.crash.outside import read_all, read_histories, seed_for, serving, wait_for
from tests.crash.runner import KEY, a_runner, refusal
from tests.crash.test_killed import in_trouble
from tests.depth import often

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from annolab_async.ledger import BatchChange
    from tests.ledger.postgres import PostgresServer

pytestmark = pytest.mark.sockets

BATCHES = often(400) + 80
MANY = round(0.8 * BATCHES)
BATCH_SIZE = 2
SUBMITS = 3
LEASE = 2.0
GONE = {BatchState.FINISHED, BatchState.UNKNOWN}


def in_hand(url: str, process: int, *states: BatchState) -> int:
    """Count the batches that a process has in one of these states."""
    import psycopg  # noqa: PLC0415  # the fixture has made sure that it is there

    query = "SELECT count(*) FROM annolab_batches WHERE owner LIKE %s AND state = ANY(%s)"
    with psycopg.connect(url) as connection:
        row = connection.execute(
            query, [f"%:{process}:%", [state.value for state in states]]
        ).fetchone()
    return int(row[0]) if row else 0


def stop_while_it_sends(url: str, process: int) -> None:
    """Stop a process at a moment at which it has requests open and jobs to watch."""

    def is_caught() -> bool:
        os.kill(process, signal.SIGSTOP)
        sending = in_hand(url, process, BatchState.SENDING)
        if sending and in_hand(url, process, BatchState.SUBMITTED):
            return True
        os.kill(process, signal.SIGCONT)
        time.sleep(0.01)
        return False

    wait_for(is_caught, "it sends nothing")


@pytest.mark.chance
@pytest.mark.full
def test_four_processes_outlive_stops_kills_and_restarts_and_send_no_batch_twice(
    postgres_server: PostgresServer, tmp_path: Path, record_property: Callable[..., None]
) -> None:
    seed = seed_for(4)
    emulator = Emulator(
        api_key=KEY,
        workers=100,
        base_seconds=0.3,
        seconds_per_source=0.0,
        latency=0.1,
        faults=in_trouble(seed),
    )
    url, log, sources = postgres_server.new_schema(), tmp_path / "log", BATCHES * BATCH_SIZE
    task: dict[str, Any] = {
        "sources": sources,
        "batch_size": BATCH_SIZE,
        "options": {
            "ledger": url,
            "max_in_flight": 20,
            "max_concurrent_submits": SUBMITS,
            "lease_seconds": LEASE,
        },
    }
    random = Random(seed)
    restarts = 0
    began = time.monotonic()

    def restart() -> None:
        """Restart the server, and wait until work has gone on, or nearly all is done."""
        nonlocal restarts
        postgres_server.restart()
        restarts += 1
        enough = min(len(emulator.jobs) + random.randint(10, 40), MANY)
        wait_for(lambda: len(emulator.jobs) >= enough, "work does not go on")

    with serving(emulator) as base_url, a_runner(log) as runner:
        stopped, killed, *others = [
            runner.start(base_url=base_url, backend=backend, **task)
            for backend in ("asyncio", "trio", "asyncio", "trio")
        ]
        wait_for(lambda: len(emulator.jobs) > 10, "no job is made")
        restart()
        stop_while_it_sends(url, killed)
        os.kill(killed, signal.SIGKILL)
        assert runner.wait(killed) == -signal.SIGKILL
        stop_while_it_sends(url, stopped)
        restart()
        # Past its lease, all that it had is in other hands.
        held = (BatchState.SENDING, BatchState.SUBMITTED)
        wait_for(lambda: in_hand(url, stopped, *held) == 0, "nobody takes over")
        restart()
        os.kill(stopped, signal.SIGCONT)
        restart()
        while len(emulator.jobs) < MANY:
            restart()
        for process in (stopped, *others):
            assert runner.wait(process) == 0, log.read_text()
    seconds = time.monotonic() - began
    states = check_accounts(
        read_all(url, sources, BATCH_SIZE),
        emulator.jobs,
        range(1, sources + 1),
        most_unknown=sum(mishap.is_reply_lost for mishap in emulator.mishaps) + 2 * SUBMITS,
    )
    assert states.keys() <= GONE
    refused = log.read_text().count(refusal(stopped))
    assert refused > 0
    histories = read_histories(url, sources, BATCH_SIZE)
    taken_over = sum(check_history(history) for history in histories)
    assert taken_over > 0
    figures = (
        f"{restarts} restarts, {taken_over} batches taken over, {refused} changes refused to who was stopped;"
        f" {states[BatchState.UNKNOWN]} of {BATCHES} batches unknown; {BATCHES / seconds:.0f} batches/s"
    )
    record_property("figures", figures)
    print(figures)  # noqa: T201


def check_history(history: Sequence[BatchChange]) -> bool:
    """Check that a batch was its owner's alone; return whether it was taken over."""
    owner, state, was_taken = None, BatchState.PLANNED, False
    for version, change in enumerate(history, 1):
        assert (change.version, change.previous) == (version, state)
        if state.is_held and change.owner != owner:
            was_taken = True
            is_sending = state is BatchState.SENDING
            assert change.state is (BatchState.UNKNOWN if is_sending else BatchState.SUBMITTED)
        owner, state = change.owner, change.state
    return was_taken
