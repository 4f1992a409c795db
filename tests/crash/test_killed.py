"""Processes that are killed with -9, again and again, over one ledger and a service that is in trouble itself."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from contextlib import closing, contextmanager
from random import Random
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.from_thread import start_blocking_portal

from annolab_async import BatchState
from annolab_async.emulator import Emulator, EmulatorServer, Faults
from annolab_async.ledger import open_ledger
from tests.crash.accounts import check_accounts
from tests.crash.runner import KEY, a_plan, a_runner

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from annolab_async import BatchRecord

pytestmark = pytest.mark.sockets

BATCH_SIZE = 2
TROUBLE = {
    "unavailable": 0.05,
    "reset": 0.03,
    "closed_after_processing": 0.04,
    "truncated": 0.02,
    # Seldom, since each makes the client go slowly for a minute.
    "retry_after_share": 0.1,
    "retry_after": 0,
}
PATIENCE = 60.0


@contextmanager
def serving(emulator: Emulator) -> Generator[str]:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(EmulatorServer(emulator)) as server,
    ):
        yield server.base_url


def read_all(ledger: Path, sources: int) -> list[BatchRecord]:
    closed = open_ledger(ledger)

    async def read() -> list[BatchRecord]:
        async with closed as opened:
            run = await opened.begin_run("default", a_plan(sources, BATCH_SIZE).fingerprint)
            return [record async for record in run.batches()]

    return anyio.run(read)


def count_in(ledger: Path, state: BatchState) -> int:
    """Count batches as the killed process left them."""
    if not ledger.exists():
        return 0
    with closing(sqlite3.connect(ledger)) as connection:
        try:
            query = "SELECT count(*) FROM annolab_batches WHERE state = ?"
            return int(connection.execute(query, [state.value]).fetchone()[0])
        except sqlite3.OperationalError:  # it was killed before there was a table
            return 0


def wait_for(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.0005)


@pytest.mark.parametrize(
    ("kills", "batches", "backend"),
    [
        (20, 200, "asyncio"),
        (20, 200, "trio"),
        pytest.param(200, 2000, "asyncio", marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
def test_who_is_killed_at_any_instant_sends_no_batch_twice_and_forgets_no_job(
    kills: int, batches: int, backend: str, tmp_path: Path, record_property: Callable[..., None]
) -> None:
    seed = int(os.environ.get("CRASH_SEED", kills))
    print("seed", seed)  # noqa: T201  # shown when it fails; CRASH_SEED repeats it
    rng = Random(seed)
    emulator = Emulator(
        api_key=KEY,
        workers=100,
        base_seconds=0.02,
        seconds_per_source=0.0,
        latency=0.004,
        faults=Faults(**TROUBLE, seed=seed),
    )
    ledger = tmp_path / "run.db"
    sources = batches * BATCH_SIZE
    task: dict[str, Any] = {
        "sources": sources,
        "batch_size": BATCH_SIZE,
        "backend": backend,
        "options": {
            "ledger": str(ledger),
            "max_in_flight": 400,
            "max_concurrent_submits": 3,
        },
    }
    hit = killed = 0
    began = time.monotonic()
    per_life = batches / kills
    with serving(emulator) as base_url, a_runner(tmp_path / "log") as runner:
        for _ in range(kills):
            process = runner.start(base_url=base_url, **task)
            if rng.random() < 0.3:  # wherever it is, most likely not yet at work
                time.sleep(rng.uniform(0.0, 0.15))
            else:
                enough = emulator.stats.submits + rng.randint(0, round(2.6 * per_life))
                wait_for(lambda: emulator.stats.submits >= enough, "no progress")  # noqa: B023
                time.sleep(rng.uniform(0.0, 0.01))
            os.kill(process, signal.SIGKILL)
            killed += runner.wait(process) == -signal.SIGKILL
            hit += count_in(ledger, BatchState.SENDING)
        assert runner.wait(runner.start(base_url=base_url, **task)) == 0, (
            tmp_path / "log"
        ).read_text()
    assert killed == kills
    lost = sum(mishap.is_reply_lost for mishap in emulator.mishaps)
    states = check_accounts(
        read_all(ledger, sources), emulator.jobs, range(1, sources + 1), most_unknown=lost + hit
    )
    assert states.keys() <= {BatchState.FINISHED, BatchState.UNKNOWN}
    figures = f"{killed} kills, {hit} hit open, {lost} lost, {dict(states)}, {time.monotonic() - began:.1f} s"
    record_property("figures", figures)
    print(figures)  # noqa: T201
