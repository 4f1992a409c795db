"""Lives of a client and its watcher against a model of the server, in virtual time; hypothesis looks for a bad one."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from typing import TYPE_CHECKING, Final

import anyio
import httpx
import pytest
from attrs import define, field, frozen
from hypothesis import HealthCheck, event, given, settings, strategies as st

from annolab_async import (
    AsyncInferenceClient,
    FixedInterval,
    InvalidResponse,
    JobLost,
    Outcome,
    RequestNotSent,
    RetryPolicy,
    StatusError,
    SubmissionUnknown,
    WaitTimeout,
)
from annolab_async.testing import run_in_virtual_time
from tests.builders import unhurried
from tests.depth import examples
from tests.service import BASE_URL, KEY, a_request

if TYPE_CHECKING:
    from annolab_async import AnnoLabError, InferenceWatcher, Transition

PERMITS: Final = 3
TIMEOUT: Final = 5.0  # s
LATER: Final = 10**6  # sources from here on belong to the last submissions, which must all succeed

# What may become of a request: before the server has taken note of it, or afterwards.
BEFORE: Final = ["429", "429 later", "503 later", "400", "reset"]
AFTER: Final = ["500", "lost", "cut", "no json", "of another"]


@frozen
class Fate:
    what: str
    delay: float


fates: Final = st.builds(
    Fate,
    st.sampled_from(["good"] * 8 + BEFORE + AFTER),
    st.sampled_from([0.0, 0.0, 0.01, 0.5, 2 * TIMEOUT]),
)
moments: Final = st.sampled_from([0.0, 0.005, 0.3, 4.0, 60.0])
numbers: Final = st.integers(0, 9)
commands: Final = st.one_of(
    st.tuples(st.just("submit"), numbers, moments),
    st.tuples(st.just("submit"), numbers, st.just(math.inf)),
    st.tuples(st.just("discard"), numbers, moments),
    st.tuples(st.just("wait"), numbers, moments),
    st.tuples(st.just("sleep"), numbers, moments),
)


@define(eq=False)
class ModelServer:
    """Makes a job of each batch that it takes, each with an end of its own, and meets requests with the fates given."""

    fates: list[Fate]
    sources: dict[int, int] = field(factory=dict[int, int])
    taken: Counter[int] = field(factory=Counter[int])
    ended: set[int] = field(factory=set[int])
    faults: list[str] = field(factory=list[str])
    in_flight: int = 0
    is_kind: bool = False
    all_here: anyio.Event = field(factory=anyio.Event)
    _requests: int = 0
    _began: dict[int, float] = field(factory=dict[int, float])

    async def handle(self, request: httpx.Request) -> httpx.Response:
        self.in_flight += 1
        if self.in_flight > PERMITS:
            self.faults.append(f"{self.in_flight} requests at once")
        try:
            return await self._answer(request)
        finally:
            self.in_flight -= 1

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        fate = self._fate()
        if fate.what in BEFORE:
            await anyio.sleep(fate.delay)
            return refusal(fate.what)
        if request.method == "POST":
            source_id = json.loads(request.content)["sourceIds"][0]
            self.taken[source_id] += 1
            job_id = len(self.sources) + 1
            self.sources[job_id] = source_id
            self._began[job_id] = anyio.current_time()
            if source_id >= LATER:
                await self._until_all_are_here()
        else:
            job_id = int(request.url.path.rpartition("/")[2])
            if job_id in self.ended:
                self.faults.append(f"job {job_id} was asked for after its end")
        status = self.status_of(job_id)
        await anyio.sleep(fate.delay)
        if fate.what == "good" and status in {"Finished", "Errored"} and request.method == "GET":
            self.ended.add(job_id)
        return spoilt(fate.what, job_id, self.sources[job_id], status)

    def _fate(self) -> Fate:
        self._requests += 1
        if self.is_kind:
            return Fate("good", 0.0)
        return self.fates[self._requests % len(self.fates)]

    async def _until_all_are_here(self) -> None:
        if self.in_flight == PERMITS:
            self.all_here.set()
        await self.all_here.wait()

    def status_of(self, job_id: int) -> str:
        age = anyio.current_time() - self._began[job_id]
        if age < 7 * (job_id % 5):
            return "Queued" if age < 3 else "Running"
        return last_word(job_id)


def last_word(job_id: int) -> str:
    return "Finished" if job_id % 3 else "Errored"


def refusal(what: str) -> httpx.Response:
    if what == "reset":
        raise httpx.ConnectError("connection refused")
    later = {"Retry-After": "3"} if what.endswith("later") else {}
    return httpx.Response(int(what[:3]), headers=later, json={"message": "no"})


def spoilt(what: str, job_id: int, source_id: int, status: str) -> httpx.Response:
    """Return the answer about a job, or what is left of it."""
    wrong = {"of another": 1}.get(what, 0)
    job = {"inferenceJobId": job_id + wrong, "status": status, "sourceIds": [source_id + wrong]}
    match what:
        case "500":
            return httpx.Response(500)
        case "lost":
            raise httpx.ReadError("connection reset")
        case "cut":
            return httpx.Response(201, text=json.dumps(job)[:-30])
        case "no json":
            return httpx.Response(201, text="<html>Sign in</html>")
        case _:
            return httpx.Response(201, json=job)


@define(eq=False)
class Life:
    """What a client and its watcher are asked to do, and what they must keep to meanwhile."""

    server: ModelServer
    commands: list[tuple[str, int, float]]
    seen: list[Transition] = field(factory=list["Transition"])
    watched: list[int] = field(factory=list[int])
    _numbers: itertools.count[int] = field(factory=lambda: itertools.count(1))

    async def run(self) -> None:
        transport = httpx.MockTransport(self.server.handle)
        async with (
            httpx.AsyncClient(transport=transport) as http_client,
            AsyncInferenceClient(
                KEY,
                base_url=BASE_URL,
                http_client=http_client,
                timeout=TIMEOUT,
                retry=RetryPolicy(first=0.1, total_time=60.0),
                max_connections=PERMITS,
            ) as client,
        ):
            schedule = FixedInterval(2.0)
            async with (
                client.watch(schedule=schedule, job_timeout=900, keep_open=True) as watcher,
                anyio.create_task_group() as tasks,
            ):
                tasks.start_soon(self._note, watcher)
                for what, number, seconds in self.commands:
                    await self._do(client, watcher, what, number, seconds)
                watcher.close()
            assert watcher.stats.in_flight == 0
            await self._all_permits_are_free(client)
        self._check()

    async def _note(self, watcher: InferenceWatcher) -> None:
        async for transition in watcher:
            self.seen.append(transition)

    async def _do(
        self,
        client: AsyncInferenceClient,
        watcher: InferenceWatcher,
        what: str,
        number: int,
        seconds: float,
    ) -> None:
        job_id = self.watched[number % len(self.watched)] if self.watched else 1
        match what:
            case "submit":
                with anyio.move_on_after(seconds):
                    async with anyio.create_task_group() as tasks:
                        for _ in range(1 + number):
                            tasks.start_soon(self._submit, client, watcher)
            case "discard" if job_id in self.watched:
                watcher.discard(job_id)
                self.watched.remove(job_id)
                self.seen = [seen for seen in self.seen if seen.inference_job_id != job_id]
            case "wait" if job_id in self.watched:
                with anyio.move_on_after(seconds):
                    try:
                        job = await watcher.wait(job_id)
                        self._fault_if(job.status != last_word(job_id), f"{job} has not ended")
                    except (JobLost, WaitTimeout):
                        pass
            case _:
                await anyio.sleep(seconds)

    async def _submit(self, client: AsyncInferenceClient, watcher: InferenceWatcher) -> None:
        number = next(self._numbers)
        taken, sources = self.server.taken, self.server.sources
        try:
            job = await client.submit(a_request(number, 1))
        except (RequestNotSent, StatusError) as error:
            self._fault_if(taken[number], f"batch {number} was taken, in spite of {error!r}")
        except SubmissionUnknown:
            pass
        except InvalidResponse:
            self._fault_if(not taken[number], f"batch {number} was said to be taken, and was not")
        else:
            self._fault_if(not taken[number], f"batch {number} was said to be taken, and was not")
            # The one thing by which a server can mislead a client: another job's answer, whole and sound.
            if sources.get(job.inference_job_id) == number:
                self.watched.append(job.inference_job_id)
                watcher.add(job)

    def _fault_if(self, is_wrong: object, fault: str) -> None:
        if is_wrong:
            self.server.faults.append(fault)

    async def _all_permits_are_free(self, client: AsyncInferenceClient) -> None:
        self.server.is_kind = True
        with anyio.fail_after(10_000):
            async with anyio.create_task_group() as tasks:
                for number in range(PERMITS):
                    tasks.start_soon(client.submit, a_request(LATER + number, 1))
        assert self.server.in_flight == 0

    def _check(self) -> None:
        server = self.server
        assert max(server.taken.values()) == 1, "a batch was taken twice"
        assert not server.faults, server.faults
        ends = [seen for seen in self.seen if seen.outcome]
        assert Counter(end.inference_job_id for end in ends) == Counter(self.watched)
        assert all(seen.inference_job_id in self.watched for seen in self.seen)
        for end in ends:
            if end.outcome in {Outcome.FINISHED, Outcome.ERRORED}:
                assert end.job
                assert end.job.status == last_word(end.inference_job_id)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@settings(
    unhurried,
    max_examples=examples(100),
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
@given(
    fates=st.lists(fates, min_size=1, max_size=50), commands=st.lists(commands, min_size=3, max_size=30)
)  # fmt: skip
def test_whatever_the_server_does_each_batch_is_taken_once_and_each_job_ends_once(
    backend: str, fates: list[Fate], commands: list[tuple[str, int, float]]
) -> None:
    async def live() -> None:
        server = ModelServer(fates)
        await Life(server, commands).run()
        event(f"{len(server.ended) // 10 * 10} or more jobs were seen to end")

    run_in_virtual_time(live, backend=backend)


def test_the_model_finds_a_client_that_sends_again_what_was_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def always(_: AnnoLabError) -> bool:
        return True

    monkeypatch.setattr("annolab_async._client.worth_submitting_again", always)
    fates = [Fate("good", 0.0), Fate("lost", 0.0)]

    async def live() -> None:
        await Life(ModelServer(fates), [("submit", 0, math.inf)] * 2).run()

    with pytest.raises(AssertionError, match="twice"):
        run_in_virtual_time(live)
