"""Many processes on one ledger, some of them stopped and killed, the server restarted under them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import anyio
import psycopg
import pytest

from annolab_async.ledger import BatchState
from annolab_async.ledger._sql import SqlLedger

if TYPE_CHECKING:
    from pathlib import Path

    from annolab_async.ledger import BatchRecord
    from tests.ledger.postgres import PostgresServer

pytestmark = pytest.mark.sockets

SUBMITTED, FINISHED = BatchState.SUBMITTED, BatchState.FINISHED


def start(
    mode: str, url: str, name: object, journal: Path, **options: Any
) -> subprocess.Popen[str]:
    words = [mode, url, str(name), str(journal), json.dumps(options)]
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-W", "error", "-m", "tests.ledger.worker", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(*processes: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for their ends; return what they have logged."""
    logged = ""
    for process in processes:
        _, errors = process.communicate(timeout=100)
        assert process.returncode == code, errors
        logged += errors
    return logged


def read_all(url: str) -> list[BatchRecord]:
    """All batches, each checked against its history."""

    async def read() -> list[BatchRecord]:
        async with SqlLedger(url) as ledger:
            run = await ledger.begin_run("run", "plan 1")
            records = [record async for record in run.batches()]
            for record in records:
                history = await run.history(record.number)
                states = [entry.previous for entry in history] + [record.state]
                assert states[0] is BatchState.PLANNED
                assert states[1:] == [entry.state for entry in history]
                assert [e.version for e in history] == list(range(1, record.version + 1))
            counts = await run.counts()
            assert counts.batches == Counter(record.state for record in records)
            return records

    return anyio.run(read)


class Notes:
    """What the processes say that they did."""

    def __init__(self, path: Path) -> None:
        lines = [line.split() for line in path.read_text().splitlines()]
        self.sent = Counter(int(number) for verb, number, *_ in lines if verb == "sent")
        self.claimed = Counter(int(number) for verb, number, *_ in lines if verb == "claimed")
        self.told: dict[int, BatchState] = {
            int(number): BatchState(rest[0]) for verb, number, *rest in lines if verb == "told"
        }
        self.refused = [int(number) for verb, number, *_ in lines if verb == "refused"]
        self.pids = {
            verb: int(number) for verb, number, *_ in lines if verb in {"stopping", "dying"}
        }

    def agree_with(self, records: list[BatchRecord]) -> None:
        """Nothing was sent twice, and what a process was told is so."""
        assert set(self.sent.values()) <= {1}
        assert set(self.claimed.values()) <= {1}
        for record in records:
            told = self.told.get(record.number)
            if told is FINISHED:
                assert record.state is FINISHED
            if told is SUBMITTED:
                assert record.inference_job_id == record.number + 1_000_000
            if record.state is FINISHED:
                assert self.sent[record.number] == 1


def test_eight_processes_on_one_file_never_find_it_busy(path: Path, tmp_path: Path) -> None:
    url, journal = f"sqlite:///{path}", tmp_path / "journal"
    # Each batch is claimed in tens, submitted and finished: 4,050 changes by 8 processes.
    logged = end(start("together", url, 8, journal, batches=1350, limit=10, pause=0, lease=60))
    # What is busy is tried again, and that is logged: not once was it needed.
    assert not logged
    records = read_all(url)
    assert {record.state for record in records} == {FINISHED}
    assert sum(record.version for record in records) == 4050
    Notes(journal).agree_with(records)


def test_killed_at_any_moment_it_goes_on_where_it_was(path: Path, tmp_path: Path) -> None:
    url, journal = f"sqlite:///{path}", tmp_path / "journal"
    end(start("kill", url, 50, journal, batches=1000, limit=5, pause=0, lease=0.5))
    records = read_all(url)
    assert [record.number for record in records] == list(range(1, 1001))
    assert {record.state for record in records} <= {FINISHED, BatchState.UNKNOWN}
    notes = Notes(journal)
    notes.agree_with(records)
    # Of each claim that a kill hit, up to five batches; but never one more.
    assert sum(record.state is BatchState.UNKNOWN for record in records) <= 5 * 50


def wait_for(journal: Path, verb: str) -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if journal.exists() and (pid := Notes(journal).pids.get(verb)):
            return pid
        time.sleep(0.05)
    pytest.fail(f"nobody is {verb}")


def wait_until_taken_over(url: str, *owners: str) -> None:
    query = "SELECT count(*) FROM annolab_batches WHERE owner = ANY(%s)"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with psycopg.connect(url) as connection:
            if connection.execute(query, [list(owners)]).fetchone() == (0,):
                return
        time.sleep(0.05)
    pytest.fail(f"nobody takes over what {owners} have left")


@pytest.mark.full
def test_processes_on_one_server_outlive_each_other_and_its_restarts(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    one, two, stopped, killed = [
        start("work", postgres_url, name, journal, batches=300, limit=3, pause=0.04, lease=1)
        for name in ("one", "two", "stopped", "killed")
    ]
    pid = wait_for(journal, "stopping")
    assert wait_for(journal, "dying")
    for _ in range(3):
        time.sleep(0.7)  # longer than a lease, all in all
        postgres_server.restart()
    wait_until_taken_over(postgres_url, "stopped", "killed")
    os.kill(pid, signal.SIGCONT)
    end(killed, code=-signal.SIGKILL)
    end(one, two, stopped)
    records = read_all(postgres_url)
    states: Any = Counter(record.state for record in records)
    assert sum(states.values()) == 300
    assert states.keys() <= {FINISHED, BatchState.UNKNOWN}
    assert states[FINISHED] >= 200
    notes = Notes(journal)
    notes.agree_with(records)
    # Both left three claimed batches: nobody else has sent them, and what the stopped one said later was refused.
    assert states[BatchState.UNKNOWN] >= 6
    assert len(notes.refused) >= 3
