"""Starts processes that run a fan-out, quickly: everything is imported once, and each process is a fork of this one.

It reads a JSON line for each thing to do: ``{"start": …}`` answers with the process id, ``{"wait": process id}`` with
the exit code, minus the signal that killed it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import anyio

from annolab_async import (
    AsyncInferenceClient,
    BatchPlan,
    FixedInterval,
    RetryPolicy,
)

if TYPE_CHECKING:
    from collections.abc import Generator

    from annolab_async import BatchRecord, BatchState

KEY = "XXXXXXX-XXXXXXX-XXXXXXX-XXXXXXX"
ROOT = Path(__file__).parent.parent.parent


# By default no job is asked for again within a second.
CLOSELY = FixedInterval(0.2)


def a_plan(sources: int, batch_size: int) -> BatchPlan:
    return BatchPlan(
        group_name="Company Name",
        project_identifier="My Project",
        model_identifier="Staple + Classify Documents",
        output_layer_identifier="Gold Set",
        source_ids=range(1, sources + 1),
        batch_size=batch_size,
    )


async def run_to_its_end(task: dict[str, Any]) -> None:
    """Run a plan, in a process that may be killed at any moment."""
    client = AsyncInferenceClient(
        KEY,
        base_url=task["base_url"],
        # What fails is tried again soon: tests have no time.
        retry=RetryPolicy(first=0.005, cap=0.02),
    )
    plan = a_plan(task["sources"], task["batch_size"])
    async with client, client.fan_out(plan, schedule=CLOSELY, **task["options"]) as run:
        async for _ in run:
            pass


class Runner:
    """The parent of the processes, from a test's side."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def start(self, **task: Any) -> int:
        """Start a process that runs a plan; return its id."""
        return self._ask(start=task)

    def wait(self, process: int) -> int:
        """Wait until a process has ended; return its exit code, minus the signal that killed it."""
        return self._ask(wait=process)

    def _ask(self, **what: Any) -> int:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextlib.contextmanager
def a_runner(log: Path) -> Generator[Runner]:
    """Start a runner; its processes write what they fail with to a file."""
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.runner"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
    with process:
        yield Runner(process)
        assert process.stdin
        process.stdin.close()  # which ends it


def _note_refused_changes() -> None:
    """Have every change that a ledger refuses written to the log, since nobody outside sees what is not done."""
    from annolab_async.ledger._sql import SqlRun  # noqa: PLC0415  # not for who only starts a runner

    change = SqlRun.change

    async def noted(
        run: SqlRun, record: BatchRecord, to: BatchState, **news: Any
    ) -> BatchRecord | None:
        after = await change(run, record, to, **news)
        if after is None:
            print(refusal(os.getpid()), record.number, "to", to, file=sys.stderr, flush=True)  # noqa: T201
        return after

    patch.object(SqlRun, "change", noted).start()


def refusal(process: int) -> str:
    """Return how a line of the log begins that tells of a process whose change was refused."""
    return f"process {process} was refused: batch"


def _start(task: dict[str, Any]) -> int:
    process = os.fork()
    if process:
        return process
    # From here on in the child, which never comes back.
    try:
        # The commands are not for it, nor is the way to answer them.
        os.close(0)
        os.dup2(2, 1)
        anyio.run(run_to_its_end, task, backend=task.get("backend", "asyncio"))
    except BaseException:  # noqa: BLE001  # it is shown, and the exit code tells
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main() -> None:
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    for name in ("sqlite3", "aiohttp", "psycopg", "trio", "annolab_async.ledger._sql"):
        import_module(name)  # so that no child has to
    _note_refused_changes()
    for line in sys.stdin:
        command = json.loads(line)
        if "start" in command:
            answer = _start(command["start"])
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(command["wait"], 0)[1])
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
