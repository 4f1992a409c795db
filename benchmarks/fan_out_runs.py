"""What ``fan_out.py`` measures, each in a process of its own: ``python -m benchmarks.fan_out_runs '{"what": …}'``.

Each prints what it measured as JSON.
"""

from __future__ import annotations

import itertools
import json
import resource
import sqlite3
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast
from urllib.request import urlopen

import anyio
from anyio.lowlevel import checkpoint

from annolab_async import AsyncInferenceClient, BatchPlan, BatchState, FanOut, InferenceJob
from annolab_async._batch_plan import Cutter
from annolab_async._http import Progress
from annolab_async._owners import own_name
from annolab_async._records import StatusReply
from annolab_async.ledger import open_ledger
from benchmarks.peers import InMemory

if TYPE_CHECKING:
    from annolab_async import InferenceRequest

__all__ = ["BATCH_SIZE", "SUBMITS"]

BATCH_SIZE: Final = 25
SUBMITS: Final = 8
"""Submissions at once: the default of ``max_concurrent_submits``."""
_KEY: Final = "XXXXXXX-XXXXXXX-XXXXXXX-XXXXXXX"
_UNBOUNDED: Final = 1_000_000
# More than the default, for the jobs end at once, but the default schedule does not look so soon.
_IN_FLIGHT: Final = 1000
# What the process that was killed had under way.
_LEFT_SUBMITTED, _LEFT_SENDING = 92, 8


def _plan(batches: int) -> BatchPlan:
    return BatchPlan(
        group_name="Company Name",
        project_identifier="My Project",
        model_identifier="Staple + Classify Documents",
        output_layer_identifier="Gold Set",
        source_ids=range(1, batches * BATCH_SIZE + 1),
        batch_size=BATCH_SIZE,
    )


def _client(base: str, name: str) -> AsyncInferenceClient:
    return AsyncInferenceClient(_KEY, base_url=f"{base}/taking/{name}")


async def submit(order: dict[str, Any]) -> dict[str, float]:
    """Submit batches, with a fan-out into a ledger or with none; return the rate and the CPU seconds."""
    count: int = order["batches"]
    name: str = order["name"]
    async with _client(order["base"], name) as client:
        begun = time.process_time()
        if order["ledger"] == "none":
            await _submit_bare(client, _plan(count))
        else:
            await _submit_by_fan_out(client, _plan(count), order["ledger"], order["run"])
        cpu = time.process_time() - begun
    with urlopen(f"{order['base']}/taken/{name}") as reply:  # noqa: ASYNC210, S310  # all is over
        taken = json.load(reply)
    if taken["count"] != count:
        raise RuntimeError(f"{taken['count']} of {count} batches were taken")
    return {
        "per_second": (count - 1) / (taken["last"] - taken["first"]),
        "cpu_microseconds": cpu / count * 1e6,
    }


async def _submit_bare(client: AsyncInferenceClient, plan: BatchPlan) -> None:
    source_ids = iter(cast("range", plan.source_ids))

    async def submit_some() -> None:
        while batch := tuple(itertools.islice(source_ids, BATCH_SIZE)):
            await client.submit(plan.request(batch))

    async with anyio.create_task_group() as tasks:
        for _ in range(SUBMITS):
            tasks.start_soon(submit_some)


async def _submit_by_fan_out(
    client: AsyncInferenceClient, plan: BatchPlan, ledger: str | None, name: str
) -> None:
    count = len(cast("range", plan.source_ids)) // BATCH_SIZE
    submitted: set[int] = set()
    async with client.fan_out(
        plan, ledger=ledger, run=name, max_in_flight=_UNBOUNDED, max_concurrent_submits=SUBMITS
    ) as run:
        async for record in run:
            if record.state is BatchState.SUBMITTED:
                submitted.add(record.number)
            if len(submitted) == count:
                return


class _Service(InMemory):
    """A service in this process, whose jobs have ended when they are first asked for."""

    def __init__(self) -> None:
        super().__init__()
        self._job_ids = itertools.count(1)

    def progress(self) -> Progress:
        """Return what nobody tells anything."""
        return Progress()

    async def get_job(self, job: InferenceJob | int) -> NoReturn:
        raise NotImplementedError(f"nobody asks for job {job} here")

    async def export(self, **_: Any) -> NoReturn:
        raise NotImplementedError("nothing is exported here")

    async def submit_once(
        self,
        request: InferenceRequest,
        progress: Progress,  # noqa: ARG002  # the Protocol's
    ) -> InferenceJob:
        """Take a batch."""
        await checkpoint()
        return InferenceJob(
            inference_job_id=next(self._job_ids), status="Queued", source_ids=request.source_ids
        )

    async def poll_status(
        self,
        job_id: int,
        previous: StatusReply | None = None,  # noqa: ARG002  # the Protocol's
        *,
        may_go_back: bool = False,  # noqa: ARG002  # the Protocol's
    ) -> StatusReply:
        """Tell that a job has ended."""
        await checkpoint()
        job = InferenceJob(inference_job_id=job_id, status="Finished", source_ids=(4024, 5853))
        return StatusReply(job, b"")


async def memory(order: dict[str, Any]) -> float:
    """Run batches to their ends; return how many bytes the process had at most."""
    count: int = order["batches"]
    run = FanOut(_Service(), _plan(count), ledger=order["ledger"], max_in_flight=_IN_FLIGHT)
    async with run:
        async for _ in run:
            pass
        finished = run.summary.batches[BatchState.FINISHED]
    if finished != count:
        raise RuntimeError(f"{finished} of {count} batches have finished")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


async def half_done(order: dict[str, Any]) -> int:
    """Write down a run that was killed when half of its batches were done; return how many were."""
    count: int = order["batches"]
    path: str = order["ledger"]
    plan = _plan(count)
    async with open_ledger(path) as ledger:
        run = await ledger.begin_run("default", plan.fingerprint, details=plan.details)
        await run.plan(Cutter(plan).batches())
    done = count // 2
    now = time.time_ns() // 1000
    changes = [("planned", "sending"), ("sending", "submitted"), ("submitted", "finished")]
    last = [(1, done, 3), (done + 1, done + _LEFT_SUBMITTED, 2)]
    last.append((done + _LEFT_SUBMITTED + 1, done + _LEFT_SUBMITTED + _LEFT_SENDING, 1))
    with own_name() as owner:
        pass  # so that it is gone
    # Behind the library's back, for it would take a minute: each batch is written down three times.
    with closing(sqlite3.connect(path)) as database, database:
        for first, to, version in last:
            is_ended = version == len(changes)
            database.execute(
                "UPDATE annolab_batches SET state = ?, version = ?, attempts = 1, updated_at = ?, sent_at = ?, "
                "inference_job_id = iif(? > 1, number, NULL), owner = ?, submitted_at = ?, ended_at = ? "
                "WHERE number BETWEEN ? AND ?",
                (
                    changes[version - 1][1],
                    version,
                    now,
                    now,
                    version,
                    None if is_ended else owner,
                    now if version > 1 else None,
                    now if is_ended else None,
                    first,
                    to,
                ),
            )
            for number, (before, after) in enumerate(changes[:version], 1):
                database.execute(
                    "INSERT INTO annolab_transitions (run_id, number, version, change_id, previous, state, owner, "
                    "inference_job_id, at) SELECT run_id, number, ?, hex(randomblob(16)), ?, ?, ?, "
                    "iif(? > 1, number, NULL), ? FROM annolab_batches WHERE number BETWEEN ? AND ?",
                    (number, before, after, owner, number, now, first, to),
                )
        database.execute(
            "INSERT INTO annolab_leases SELECT id, ?, ? FROM annolab_runs",
            (owner, now + 60_000_000),
        )
    return done


async def resume(order: dict[str, Any]) -> dict[str, float]:
    """Go on with a run until a batch is submitted; return when it began to, by ``time.monotonic()``."""
    begun = time.monotonic()
    async with (
        _client(order["base"], order["name"]) as client,
        client.fan_out(_plan(order["batches"]), ledger=order["ledger"]) as run,
    ):
        async for record in run:
            if record.state is BatchState.SUBMITTED and record.number > order["batches"] // 2 + 100:
                break
        counts = run.summary.batches
    if (
        counts[BatchState.FINISHED] < order["batches"] // 2
        or counts[BatchState.UNKNOWN] != _LEFT_SENDING
    ):
        raise RuntimeError(f"it did not go on where it had stopped: {dict(counts)}")
    return {"begun": begun}


_WHAT: Final = {"submit": submit, "memory": memory, "half done": half_done, "resume": resume}


def main() -> None:
    """Measure what the command line asks for."""
    order = json.loads(sys.argv[1])

    async def run() -> object:
        return await _WHAT[order["what"]](order)

    print(json.dumps(anyio.run(run, backend=order.get("loop", "asyncio"))))


if __name__ == "__main__":
    main()
