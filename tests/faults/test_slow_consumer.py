"""A consumer that takes its time over thousands of jobs: nothing is lost, nothing piles up, nothing stalls."""

from __future__ import annotations

import sys
import time
from collections import Counter
from statistics import quantiles
from typing import Final

import anyio
import httpx
import pytest
from anyio.lowlevel import checkpoint

from annolab_async import AsyncInferenceClient, FixedInterval, Transition
from annolab_async._delivery import TransitionMailbox
from tests.depth import often
from tests.service import BASE_URL, KEY

# In real time, since it is to be measured what stalls; without sockets, so that it is us who are measured.
pytestmark = [pytest.mark.anyio, pytest.mark.sockets]

JOBS: Final = often(5000)
POLLS_OF_A_JOB: Final = 8
ROOM: Final = 1024  # of the mailbox, besides one place for each job


@pytest.mark.chance
async def test_a_slow_consumer_of_5000_jobs_gets_all_outcomes_and_little_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    polls, waiting = Counter[int](), list[int]()
    seen, gaps = list[Transition](), list[float]()

    def answer(request: httpx.Request) -> httpx.Response:
        job_id = int(request.url.path.rpartition("/")[2])
        polls[job_id] += 1
        has_ended = polls[job_id] == POLLS_OF_A_JOB
        status = "Finished" if has_ended else f"Step {polls[job_id]}"
        job = {"inferenceJobId": job_id, "status": status, "sourceIds": [job_id]}
        return httpx.Response(200, json=job)

    def put(mailbox: TransitionMailbox, transition: Transition) -> None:
        usual_put(mailbox, transition)
        waiting.append(len(mailbox))

    async def tick() -> None:
        last = time.thread_time()  # what others do on this machine is not our fault
        while True:
            await checkpoint()
            now = time.thread_time()
            gaps.append(now - last)
            last = now

    usual_put = TransitionMailbox.put
    monkeypatch.setattr(TransitionMailbox, "put", put)
    transport = httpx.MockTransport(answer)
    async with (
        httpx.AsyncClient(transport=transport) as http_client,
        AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=http_client) as client,
        anyio.create_task_group() as tasks,
        client.watch(range(1, JOBS + 1), schedule=FixedInterval(0.02)) as watcher,
    ):
        tasks.start_soon(tick)
        async for transition in watcher:
            seen.append(transition)
            if watcher.stats.active:
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()

    assert Counter(end.inference_job_id for end in seen if end.outcome) == Counter(
        range(1, JOBS + 1)
    )
    assert set(polls.values()) == {POLLS_OF_A_JOB}
    assert len(seen) < JOBS * POLLS_OF_A_JOB, "else it was not slow"
    assert max(waiting) <= ROOM + JOBS
    p99 = quantiles(gaps, n=100)[98]
    # Coverage, which traces every line, takes as long again.
    assert p99 < (0.04 if sys.gettrace() else 0.02), (
        f"{p99 * 1000:.0f} ms, {max(gaps) * 1000:.0f} ms at most"
    )
