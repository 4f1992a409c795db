"""A process at work on a ledger, to be stopped and killed by tests.

It claims batches, "sends" each by a line in the journal, and brings it to its end. A line is written before the ledger
is told, as a POST would be sent, and in one system call, so that no line is ever lost or torn.
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import sys
import time
from typing import Any

import anyio

from annolab_async.ledger import BatchRecord, BatchState, LedgerRun
from annolab_async.ledger._sql import SqlLedger


class Journal:
    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, *words: object) -> None:
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())


class Worker:
    """One owner.

    Args:
        url: the ledger.
        owner: its name; one that is named "stopped" or "killed" is so once, between a claim and what follows.
        journal: where it notes what it does.
        batches: how many batches the plan has.
        limit: how many batches to claim at a time.
        pause: seconds that sending takes.
        lease: seconds of its leases.
    """

    def __init__(
        self,
        url: str,
        owner: str,
        journal: Journal,
        *,
        batches: int,
        limit: int,
        pause: float,
        lease: float,
    ) -> None:
        self.url = url
        self.owner = owner
        self.journal = journal
        self.batches = batches
        self.limit = limit
        self.pause = pause
        self.lease = lease
        self.rounds = 0
        self.fate = owner

    async def work(self) -> None:
        async with SqlLedger(self.url, reconnect_seconds=30, open_seconds=30) as ledger:
            run = await ledger.begin_run("run", "plan 1")
            await run.plan((3 * n + 1, 3 * n + 2, 3 * n + 3) for n in range(self.batches))
            while True:
                taken = await run.take_over(self.owner, limit=50, lease_seconds=self.lease)
                for record in taken:
                    self.journal.write("took", record.number, record.state)
                claimed = await run.claim(self.owner, limit=self.limit, lease_seconds=self.lease)
                for record in claimed:
                    self.journal.write("claimed", record.number, record.version)
                self.rounds += 1
                if claimed and self.rounds > 3:
                    self.misfortune()
                watched = [record for record in taken if record.state is BatchState.SUBMITTED]
                for record in watched:
                    await self.change(run, record, BatchState.FINISHED)
                for record in claimed:
                    await self.send(run, record)
                if not claimed and not taken:
                    states = (await run.counts()).batches
                    if not states.keys() & {
                        BatchState.PLANNED,
                        BatchState.SENDING,
                        BatchState.SUBMITTED,
                    }:
                        return
                    await anyio.sleep(0.1)

    def misfortune(self) -> None:
        fate, self.fate = self.fate, ""
        if fate == "stopped":
            self.journal.write("stopping", os.getpid())
            os.kill(os.getpid(), signal.SIGSTOP)
        elif fate == "killed":
            self.journal.write("dying", os.getpid())
            os.kill(os.getpid(), signal.SIGKILL)

    async def send(self, run: LedgerRun, record: BatchRecord) -> None:
        self.journal.write("sent", record.number, self.owner)
        await anyio.sleep(self.pause)
        if self.lease < 5:  # seconds
            await run.renew(self.owner, lease_seconds=self.lease)
        now = await self.change(run, record, BatchState.SUBMITTED)
        if now:
            await self.change(run, now, BatchState.FINISHED)

    async def change(
        self, run: LedgerRun, record: BatchRecord, to: BatchState
    ) -> BatchRecord | None:
        job_id = record.number + 1_000_000
        now = await run.change(record, to, owner=self.owner, inference_job_id=job_id)
        self.journal.write("told" if now else "refused", record.number, to)
        return now


def run_worker(url: str, owner: str, journal: str, **options: Any) -> None:
    worker = Worker(url, owner, Journal(journal), **options)
    anyio.run(worker.work, backend=random.choice(["asyncio", "trio"]))


def kill_again_and_again(url: str, journal: str, kills: int, **options: Any) -> None:
    """Work with processes each of which is killed after a random time, until one lives to the end.

    They are forked, since starting Python takes longer than they live.
    """
    for life in range(kills + 1):
        child = os.fork()
        if child == 0:
            run_worker(url, f"life{life}", journal, **options)
            os._exit(0)
        if life < kills:
            time.sleep(random.uniform(0.0, 0.15))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if status == 0:
            return
        if not os.WIFSIGNALED(status):
            sys.exit(f"life {life} ended with {status}")


def work_together(url: str, journal: str, workers: int, **options: Any) -> None:
    """Work with several processes."""
    children: list[int] = []
    for name in range(workers):
        child = os.fork()
        if child == 0:
            run_worker(url, f"owner{name}", journal, **options)
            os._exit(0)
        children.append(child)
    if failures := [child for child in children if os.waitpid(child, 0)[1]]:
        sys.exit(f"{len(failures)} workers failed")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    mode, url, name, journal, rest = sys.argv[1:]
    if mode == "kill":
        kill_again_and_again(url, journal, int(name), **json.loads(rest))
    elif mode == "together":
        work_together(url, journal, int(name), **json.loads(rest))
    else:
        run_worker(url, name, journal, **json.loads(rest))
