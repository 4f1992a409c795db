"""Processes that are killed with -9, again and again, over one ledger and a service that is in trouble itself."""

from __future__ import annotations

import os
import signal
import time
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from annolab_async import BatchState
from annolab_async.emulator import Emulator, Faults
from tests.crash.accounts import check_accounts
from tests.crash.outside import count_in, read_all, seed_for, serving, wait_for
from tests.crash.runner import KEY, a_runner
from tests.depth import often

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.sockets

BATCH_SIZE = 2
SUBMITS = 3


def in_trouble(seed: int) -> Faults:
    """Return what goes wrong with every seventh submission."""
    return Faults(
        unavailable=0.05,
        reset=0.03,
        closed_after_processing=0.04,
        truncated=0.02,
        # Seldom, since each makes the client go slowly for a minute.
        retry_after_share=0.1,
        retry_after=0,
        seed=seed,
    )


@pytest.mark.chance
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("backend", "kills", "batches"),
    [("asyncio", often(200), often(2000)), ("trio", often(50), often(500))],
)
def test_who_is_killed_at_any_instant_sends_no_batch_twice_and_forgets_no_job(
    backend: str, kills: int, batches: int, tmp_path: Path, record_property: Callable[..., None]
) -> None:
    seed = seed_for(kills)
    rng = Random(seed)
    emulator = Emulator(
        api_key=KEY,
        workers=100,
        base_seconds=0.02,
        seconds_per_source=0.0,
        latency=0.004,
        faults=in_trouble(seed),
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
            "max_concurrent_submits": SUBMITS,
        },
    }
    hits = open_at_kills = 0
    began = time.monotonic()
    # Each kill keeps so many batches from ever being sent, at most.
    reachable = batches - SUBMITS * kills
    points = sorted(rng.randint(0, reachable) for _ in range(kills))
    with serving(emulator) as base_url, a_runner(tmp_path / "log") as runner:
        for enough in points:
            process = runner.start(base_url=base_url, **task)
            if rng.random() < 0.3:  # wherever it is, most likely not yet at work
                time.sleep(rng.uniform(0.0, 0.15))
            else:
                wait_for(lambda: emulator.stats.submits >= enough, "no progress")  # noqa: B023
                time.sleep(rng.uniform(0.0, 0.01))
            os.kill(process, signal.SIGKILL)
            # It had not ended before: a kill that comes too late would be none.
            assert runner.wait(process) == -signal.SIGKILL
            was_open = count_in(ledger, BatchState.SENDING)
            assert was_open <= SUBMITS
            open_at_kills += was_open
            hits += was_open > 0
        last = runner.start(base_url=base_url, **task)
        assert runner.wait(last) == 0, (tmp_path / "log").read_text()
    seconds = time.monotonic() - began
    lost = sum(mishap.is_reply_lost for mishap in emulator.mishaps)
    states = check_accounts(
        read_all(ledger, sources, BATCH_SIZE),
        emulator.jobs,
        range(1, sources + 1),
        most_unknown=lost + open_at_kills,
    )
    assert states.keys() <= {BatchState.FINISHED, BatchState.UNKNOWN}
    figures = (
        f"{kills} kills, {hits} of which hit open requests, {open_at_kills} in all; {lost} replies lost;"
        f" {states[BatchState.UNKNOWN]} of {batches} batches unknown; {batches / seconds:.0f} batches/s"
    )
    record_property("figures", figures)
    print(figures)  # noqa: T201
    assert hits > kills / 10, "these kills show nothing"
