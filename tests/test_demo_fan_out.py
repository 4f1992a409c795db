"""The demonstration's fan-out: in processes that are really killed, against a local AnnoLab on a real socket."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from rich.console import Console

from annolab_async.cli import _demo_fan_out, _demo_run
from annolab_async.cli._demo import DemoPlan
from annolab_async.cli._demo_run import API_KEY, Task
from annolab_async.emulator import Emulator, EmulatorServer, Faults
from tests.cli.terminal import HEEDS_INTERRUPTS

if TYPE_CHECKING:
    from annolab_async import BatchRecord

PLAN = DemoPlan(batches=40, batch_size=3, workers=20, error_share=0.0, seed=0)


def shown(folder: Path, plan: DemoPlan = PLAN) -> tuple[bool, str]:
    console = Console(file=io.StringIO(), soft_wrap=True)
    is_right = anyio.run(_demo_fan_out.run_fan_out_demo, plan, folder, console)
    assert isinstance(console.file, io.StringIO)
    return is_right, console.file.getvalue()


@pytest.mark.full
def test_a_fan_out_that_is_killed_goes_on_and_every_source_is_in_one_job(tmp_path: Path) -> None:
    is_right, text = shown(tmp_path)
    assert is_right, text
    killed = re.search(r"was killed \(SIGKILL\). Its ledger: (.*)\.", text)
    assert killed, text
    assert killed[1] != "40 finished", "it was killed before the end"
    assert re.search(r"went on to the end\. The ledger: .*\d+ finished", text)
    assert "Batches    40 finished" in text
    assert "40 by AnnoLab's own count; 0 batches paid twice" in text
    assert "120, 120 of them in exactly one job" in text
    assert "every source is in exactly one job, and the ledger knows each" in text


@pytest.mark.full
def test_batches_that_nobody_knows_of_are_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def often(**settings: Any) -> Any:
        # Those that lose their answers have a job, the others have none.
        settings |= {"reset": 0.2, "closed_after_processing": 0.2}
        return Faults(**settings)

    monkeypatch.setattr(_demo_fan_out, "Faults", often)
    monkeypatch.setattr(_demo_fan_out, "_LISTED", 5)
    is_right, text = shown(tmp_path)
    assert is_right, text
    first = re.search(r"^(\d+) unknown: ", text, re.MULTILINE)
    assert first
    named = re.findall(r"batch (\d+): .*: run\.resolve\((\d+), (\w+)=", text)
    assert len(named) == 5
    assert all(number == again for number, again, _ in named)
    more = re.search(r"and (\d+) more, likewise", text)
    assert more, "those that are not named are counted"
    assert int(more[1]) >= int(first[1]) - 5
    assert "0 batches paid twice" in text


@pytest.mark.full
def test_a_ledger_that_does_not_know_all_jobs_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forgetful(task: Task) -> list[BatchRecord]:
        return (await read(task))[1:]

    read = _demo_fan_out._read
    monkeypatch.setattr(_demo_fan_out, "_read", forgetful)
    is_right, text = shown(tmp_path)
    assert not is_right
    assert "WRONG" in text


@pytest.mark.full
def test_a_process_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Task, "command", property(lambda _: [sys.executable, "-c", "import sys; sys.exit(3)"])
    )
    is_right, text = shown(tmp_path)
    assert not is_right
    assert text.count("ended with status 3") == 2


@pytest.mark.anyio
@pytest.mark.sockets
async def test_what_is_killed_goes_on_where_it_stopped(tmp_path: Path) -> None:
    emulator = Emulator(api_key=API_KEY, workers=20, base_seconds=0.01, seconds_per_source=0.0)
    async with EmulatorServer(emulator) as server:
        task = Task(
            base_url=server.base_url, ledger=str(tmp_path / "run.db"), batches=5, batch_size=2
        )
        await task.run()
        await task.run()
    assert Counter(job.source_ids for job in emulator.jobs.values()) == Counter([
        (1, 2),
        (3, 4),
        (5, 6),
        (7, 8),
        (9, 10),
    ])


def test_the_command_line_of_what_is_killed_says_all_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = Task(base_url="http://localhost:1", ledger="run.db", batches=7, batch_size=3)
    ran: list[Any] = []
    monkeypatch.setattr(anyio, "run", ran.append)
    _demo_run.main(task.command[2:])
    assert [run.__self__ for run in ran] == [task]
    assert API_KEY not in json.dumps(task.command)


def children_of(process: int) -> list[int]:
    """Return the processes that a process has started, by any of its threads."""
    files = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for file in files for child in file.read_text().split()]


@pytest.mark.full
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks into /proc")
def test_an_interrupt_ends_the_process_too_that_was_started() -> None:
    command = f"{HEEDS_INTERRUPTS}; from annolab_async.cli import main; main()"
    arguments = ["demo", "--batches", "20", "--workers", "1", "--batch-size", "1"]
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        while "Now a fan-out" not in (line := process.stdout.readline()):
            assert line, "it ended before its fan-out"
        deadline = time.monotonic() + 20
        while not (children := children_of(process.pid)):
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert "Interrupted" in out
    assert not err
    assert not any(Path(f"/proc/{child}").exists() for child in children)
