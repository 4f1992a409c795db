"""Random lives of a watcher, each made from a seed, in virtual time: whatever happens, it keeps its promises."""

from __future__ import annotations

import asyncio
import math
import os
from random import Random
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest
from attrs import define

from annolab_async import Backoff, FixedInterval, InferenceJob, InferenceWatcher, Outcome, _watcher
from annolab_async._hooks import NO_HOOKS
from annolab_async._limits import Throttle, Turnstile
from annolab_async._records import StatusReply
from annolab_async._retry import RetryBudget, RetryPolicy
from annolab_async.errors import JobLost, NotOpen, StatusError, WaitTimeout
from annolab_async.testing import run_in_virtual_time
from tests.service import task_count

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from annolab_async import Transition

# To look for more: FUZZ_SEEDS=5000 pytest tests/test_watcher_fuzz.py
SEEDS: Final = int(os.environ.get("FUZZ_SEEDS", "60"))
SEEDS_A_TEST: Final = 10
HANG: Final = 1e7  # virtual seconds, more than any life takes
AN_INSTANT: Final = 1e-3
LEAVINGS: Final = ["drained"] * 4 + ["break", "raise", "raise while cancelled", "be cancelled"]

FAILURES: Final[list[Any]] = [
    {"status_code": 404, "message": "no such job"},
    {"status_code": 429, "message": "not so fast"},
    {"status_code": 429, "message": "not so fast", "retry_after": 99.0},
    {"status_code": 500, "message": "out of order"},
]


class BodyError(Exception):
    """Raised in the watcher's block."""


@define(eq=False)
class Watch:
    """One job from when it is added until it is discarded, and what was said of it."""

    timeout: float
    polls_in_flight: int = 0
    reply: StatusReply | None = None
    final: InferenceJob | None = None
    last_yielded: InferenceJob | None = None
    outcome: Outcome | None = None
    was_heard: bool = False  # its end, by somebody who waits for it


class ScriptedSource:
    """Answers polls late, with failures, or never, and notes every fault in what is asked and in what is told.

    Jobs end at random times, some never; from some time on, the client may be closed.
    """

    def __init__(self, random: Random, permits: int, rate: float | None) -> None:
        self.retry = RetryPolicy(first=random.choice([0.01, 0.5]), cap=random.choice([1, 30]))
        self.budget = RetryBudget()
        self.hooks = NO_HOOKS
        self.turns = Turnstile(random.choice([1, 4, 100]), Throttle())
        self.watches: dict[int, Watch] = {}
        self.faults: list[str] = []
        self.is_closed = self.is_left = False
        self.in_flight = self._polls = 0
        self._random, self._permits, self._rate = random, permits, rate or math.inf
        self._closes_at = random.choice([1, 50, 500] + [math.inf] * 17)
        self._failing_share = random.choice([0, 0, 0.1, 0.5])
        self._ends: dict[int, float] = {}

    async def poll_status(
        self,
        job_id: int,
        previous: StatusReply | None = None,
        *,
        may_go_back: bool = False,  # noqa: ARG002
    ) -> StatusReply:
        watch = self.watches.get(job_id) or Watch(0)
        self._polls += 1
        self.in_flight += 1
        watch.polls_in_flight += 1
        self._check_poll(job_id, watch, previous)
        try:
            if self._random.random() < 0.9:
                delays = [0, 0, 0.01, 0.5, 5, 40, math.inf]
                await anyio.sleep(self._random.choices(delays, [20] * 6 + [1])[0])
            self._fail_perhaps()
            return self._answer(job_id, watch)
        finally:
            self.in_flight -= 1
            watch.polls_in_flight -= 1

    def fault_if(self, is_wrong: object, fault: str) -> None:
        if is_wrong:
            self.faults.append(fault)

    def _check_poll(self, job_id: int, watch: Watch, previous: StatusReply | None) -> None:
        fault_if, poll = self.fault_if, f"a poll of job {job_id}"
        fault_if(job_id not in self.watches, f"{poll}, which is not watched")
        fault_if(watch.final or watch.outcome or watch.was_heard, f"{poll} after its outcome")
        fault_if(watch.polls_in_flight > 1, f"{poll} while another is in flight")
        fault_if(previous is not watch.reply, f"{poll} with another reply than its last")
        fault_if(self.in_flight > self._permits, f"{poll} beyond {self._permits} permits")
        allowed = self._rate * (anyio.current_time() + 0.05) + 1.01
        fault_if(self._polls > allowed, f"{poll} beyond {self._rate} polls a second")
        fault_if(self.is_left, f"{poll} after the block was left")

    def _fail_perhaps(self) -> None:
        if anyio.current_time() >= self._closes_at:
            self.is_closed = True
            raise NotOpen
        if self._random.random() < self._failing_share:
            raise StatusError.of(method="GET", path="/", **self._random.choice(FAILURES))

    def _answer(self, job_id: int, watch: Watch) -> StatusReply:
        now, random = anyio.current_time(), self._random
        end = self._ends.setdefault(job_id, now + random.choice([0, 1, 10, 100, math.inf]))
        last_word = "Finished" if job_id % 3 else "Errored"
        status = last_word if now >= end else random.choice(["Queued", "Running", "Odd"])
        if watch.reply is None or watch.reply.job.status != status:
            watch.reply = StatusReply(InferenceJob(job_id, status, (1,)), status.encode())
        watch.final = watch.reply.job if watch.reply.job.is_terminal else None
        return watch.reply

    def check_yielded(self, seen: Transition) -> None:
        name = f"job {seen.inference_job_id}"
        self.fault_if(seen.inference_job_id not in self.watches, f"{name} yielded, but discarded")
        watch = self.watches.get(seen.inference_job_id) or Watch(0)
        self.fault_if(watch.outcome, f"{name} was yielded after its outcome")
        self.fault_if(seen.previous != watch.last_yielded, f"{name}: a state was left out")
        watch.last_yielded, watch.outcome = seen.job, seen.outcome
        if seen.job and seen.outcome in {Outcome.FINISHED, Outcome.ERRORED}:
            is_wrong = seen.job != watch.final or seen.outcome != str(seen.job.state)
            self.fault_if(is_wrong, f"{name} did not end so: {seen}")
        is_wrong = isinstance(seen.error, JobLost) and isinstance(seen.error.cause, NotOpen)
        self.fault_if(is_wrong, f"{name} pays for what is the client's fault: {seen}")
        is_late = abs(seen.elapsed - watch.timeout) > AN_INSTANT
        self.fault_if(seen.outcome is Outcome.TIMED_OUT and is_late, f"{name} not in time: {seen}")


class Life:
    """What happens to one watcher, from its making until nobody uses it any more."""

    def __init__(self, seed: int, backend: str) -> None:
        self._random = random = Random(seed)
        natively = ["be cancelled natively"] if backend == "asyncio" else []
        self._leaving = random.choice(LEAVINGS + natively)
        self._keep_open = random.random() < 0.5
        self._name = f"seed {seed} on {backend} ({self._leaving}, keep_open={self._keep_open})"
        self._timeout = random.choice([50.0, 500.0, 3000.0])
        self._job_count = random.choice([0, 1, 20])
        permits, rate = random.choice([1, 2, 16]), random.choice([None, None, 1, 10])
        self._source = ScriptedSource(random, permits, rate)
        first_jobs = range(1, self._job_count + 1)
        self._source.watches = {job_id: Watch(self._timeout) for job_id in first_jobs}
        self._watcher = InferenceWatcher(
            self._source,
            first_jobs,
            max_concurrent_polls=permits,
            max_polls_per_second=rate,
            schedule=random.choice([None, FixedInterval(2), FixedInterval(20), Backoff(first=0.1)]),
            job_timeout=self._timeout,
            failure_budget=random.choice([0, 10, 300]),
            keep_open=self._keep_open,
        )
        self._error = BodyError()
        self._left_at = math.inf
        self._is_closed = self._is_drained = False

    async def run(self) -> None:
        tasks_before = task_count()
        with anyio.move_on_after(HANG) as hang:
            # Some iterate and wait outside of the block: they must not hang when it is left.
            async with anyio.create_task_group() as users:
                await self._enter_and_leave(users)
                self._assert_it_was_left_at_once()
        assert not hang.cancelled_caught, f"{self._name}: somebody hangs"
        assert task_count() == tasks_before, f"{self._name}: a task is left"
        await anyio.sleep(1000)  # in which polls after leaving would be noticed
        assert not self._source.faults, f"{self._name}: {self._source.faults[:5]}"
        if self._is_drained:
            self._assert_each_job_has_its_outcome()

    async def _enter_and_leave(self, users: TaskGroup) -> None:
        delay = self._random.choice([0, 0.01, 1, 30, 300])
        if self._leaving == "be cancelled natively":
            task = asyncio.create_task(self._block(users))
            await asyncio.wait([task], timeout=delay)
            was_running = task.cancel()
            await asyncio.wait([task])
            assert task.cancelled() == was_running, f"{self._name}: the cancellation was swallowed"
        elif self._leaving.startswith("raise"):
            with pytest.raises(BodyError) as caught, anyio.CancelScope() as self._scope:
                await self._block(users)
            assert caught.value is self._error, f"{self._name}: {caught.value!r} is not itself"
        else:
            cancel_after = delay if self._leaving == "be cancelled" else math.inf
            with anyio.move_on_after(cancel_after) as scope:
                await self._block(users)
            is_late = anyio.current_time() > scope.deadline + AN_INSTANT
            assert not is_late, f"{self._name}: the cancellation was swallowed"

    async def _block(self, users: TaskGroup) -> None:
        async with self._watcher:
            try:
                for _ in range(self._random.randrange(60)):
                    await anyio.sleep(self._random.choice([0, 0, 0, 0.01, 0.3, 7, 60]))
                    self._use(users)
                await self._leave()
            finally:
                self._left_at = anyio.current_time()

    def _use(self, users: TaskGroup) -> None:
        job_id = self._random.randint(1, self._job_count + 1)
        uses = ["add", "add again", "discard", "wait", "iterate"]
        match self._random.choices(uses, [40, 10, 15, 30, 5])[0]:
            case "add":
                new = self._random.choice([1, 1, 5, 40])
                self._job_count += new
                job_ids = [self._job_count - number for number in range(new)]
                self._add(job_ids, self._random.choice([None, 0.5, 20, 2000]))
            case "add again":
                self._add([job_id], None)
            case "discard":
                self._watcher.discard(job_id)
                self._source.watches.pop(job_id, None)
            case "wait":
                users.start_soon(self._wait, job_id)
            case _:
                users.start_soon(self._iterate, self._random.choice([1, 100, math.inf]))

    def _add(self, job_ids: list[int], timeout: float | None) -> None:
        for job_id in job_ids:
            self._source.watches.setdefault(job_id, Watch(timeout or self._timeout))
        try:
            self._watcher.add(job_ids, job_timeout=timeout)
        except NotOpen as error:
            self._fault_unless_over(error)

    async def _leave(self) -> None:
        if self._leaving == "raise while cancelled":
            self._scope.cancel()
        if self._leaving.startswith("raise"):
            raise self._error
        if self._leaving == "break":
            with anyio.move_on_after(10):
                await self._iterate(3)
        else:
            self._is_closed = True
            self._watcher.close()
            self._is_drained = await self._iterate(math.inf)

    async def _iterate(self, at_most: float) -> bool:
        """Return whether the iteration ended by itself."""
        try:
            async for transition in self._watcher:
                self._source.check_yielded(transition)
                at_most -= 1
                if not at_most:
                    return False
                if self._random.random() < 0.3:
                    await anyio.sleep(self._random.choice([0, 0.1, 30]))
        except NotOpen as error:
            self._fault_unless_over(error)
            return False
        ends_early = self._keep_open and not self._is_closed and self._left_at == math.inf
        self._source.fault_if(ends_early, "the iteration ended although the watcher is kept open")
        return True

    async def _wait(self, job_id: int) -> None:
        watches, fault_if = self._source.watches, self._source.fault_if
        watch = watches.get(job_id)
        heard = watch or Watch(0)
        try:
            with anyio.move_on_after(self._random.choice([0.1, 10, math.inf])):
                job = await self._watcher.wait(job_id)
                heard.was_heard = True
                fault_if(job != heard.final, f"waiting got {job}, not {heard.final}")
        except (WaitTimeout, JobLost) as error:
            was_discarded = isinstance(error, JobLost) and error.cause is None
            heard.was_heard = not was_discarded
            is_wrong = was_discarded and watches.get(job_id) is watch
            fault_if(is_wrong, f"not discarded, and yet waiting got {error!r}")
        except ValueError as error:
            fault_if(watch, f"watched, and yet waiting got {error!r}")
        except NotOpen as error:
            self._fault_unless_over(error)
            is_wrong = bool(heard.outcome) or watches.get(job_id) is not watch
            fault_if(
                is_wrong, f"job {job_id} has ended or was discarded, and nobody told who waits"
            )

    def _fault_unless_over(self, error: NotOpen) -> None:
        is_over = self._source.is_closed or self._left_at < math.inf
        self._source.fault_if(not is_over, f"watcher and client are open, and yet {error!r}")

    def _assert_it_was_left_at_once(self) -> None:
        self._source.is_left = True
        is_late = anyio.current_time() > self._left_at + AN_INSTANT
        assert not is_late, f"{self._name}: leaving took time"
        assert self._watcher.stats.in_flight == 0, f"{self._name}: {self._watcher.stats}"
        assert self._source.in_flight == 0, f"{self._name}: a poll goes on after leaving"

    def _assert_each_job_has_its_outcome(self) -> None:
        assert self._watcher.stats.active == 0, f"{self._name}: {self._watcher.stats}"
        for job_id, watch in self._source.watches.items():
            assert watch.outcome, f"{self._name}: job {job_id} has no outcome"


@pytest.mark.parametrize("first_seed", range(0, SEEDS, SEEDS_A_TEST))
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_whatever_happens_the_watcher_keeps_its_promises(
    backend: str, first_seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(first_seed, min(first_seed + SEEDS_A_TEST, SEEDS)):
        # What else is random, so that a seed that fails does so again.
        monkeypatch.setattr(_watcher, "Random", lambda seed=seed: Random(seed))
        if backend == "trio":
            monkeypatch.setattr("trio._core._run._r", Random(seed))
        try:
            run_in_virtual_time(Life(seed, backend).run, backend=backend)
        except BaseException as error:
            error.add_note(f"This is seed {seed} on {backend}.")
            raise
