"""A service that is down, or that refuses what is too much, is not made worse by this library. In virtual time."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from functools import cache
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import anyio
import httpx
import pytest
from attrs import define, field

from annolab_async import (
    AnnoLabError,
    AsyncInferenceClient,
    Backoff,
    FixedInterval,
    RateLimit,
    RateLimited,
    RequestNotSent,
    ServerError,
    SubmissionUnknown,
)
from annolab_async.testing import run_in_virtual_time
from tests.depth import IS_THOROUGH
from tests.faults.keyed import JOB
from tests.service import BASE_URL, KEY, a_request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from annolab_async import PollSchedule, Transition

    Fault = Callable[[httpx.Request], httpx.Response]

DOWN_AT: Final = 10.0
UP_AT: Final = 70.0
BACKENDS: Final = ["asyncio", "trio"]
SCHEDULES: Final[dict[str, PollSchedule | None]] = {
    "FixedInterval": FixedInterval(5),
    "Backoff": Backoff(),
    "default": None,
}
# Of fewer, the usual peak is so low that asking for each once after the outage is more than twice as much.
WATCHES: Final = 1000 if IS_THOROUGH else 400
# In seconds: long enough after the outage for every job to be asked for.
SPANS: Final = {"FixedInterval": 110.0, "Backoff": 130.0, "default": 150.0}


def unavailable(_: httpx.Request) -> httpx.Response:
    return httpx.Response(503)


def unavailable_for_20_s(_: httpx.Request) -> httpx.Response:
    return httpx.Response(503, headers={"Retry-After": "20"})


def refused(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("All connection attempts failed", request=request)


FAULTS: Final[dict[str, Fault]] = {
    "503": unavailable,
    "503, Retry-After: 20": unavailable_for_20_s,
    "refused": refused,
}


@define
class Service:
    """A service whose jobs never end, down for a while or able to bear only so many requests a second.

    Attributes:
        asked_at: when each request came, in seconds since the first moment.
        answered: when which job was last told of.
        refusals: when a request was one too many.
    """

    fault: Fault | None = None
    bears: float | None = None
    retry_after: str | None = None
    latency: float = 0.02
    began: float = field(factory=anyio.current_time)
    asked_at: list[float] = field(factory=list[float])
    asked_for: Counter[str] = field(factory=Counter[str])
    answered: dict[int, float] = field(factory=dict[int, float])
    refusals: list[float] = field(factory=list[float])
    ends: list[Transition] = field(factory=list["Transition"])
    _numbers: count[int] = field(factory=lambda: count(10_000))
    _room: float = 0.0
    _room_at: float = DOWN_AT

    async def answer(self, request: httpx.Request) -> httpx.Response:
        now = anyio.current_time() - self.began
        self.asked_at.append(now)
        await anyio.sleep(self.latency)
        is_bad_time = DOWN_AT <= now < UP_AT
        if self.fault and is_bad_time:
            return self.fault(request)
        if self.bears and is_bad_time and not self._has_room(now):
            self.refusals.append(now)
            headers = {"Retry-After": self.retry_after} if self.retry_after else {}
            return httpx.Response(429, headers=headers)
        if request.method == "POST":
            job_id = next(self._numbers)
            self.asked_for["submit"] += 1
        else:
            job_id = int(request.url.path.rpartition("/")[2])
            self.asked_for[f"poll {job_id // 1000}"] += 1
            self.answered[job_id] = now
        return httpx.Response(200, content=(JOB % job_id).encode())

    def _has_room(self, now: float) -> bool:
        # A bucket that holds what it bears in a second.
        assert self.bears
        self._room = min(self.bears, self._room + self.bears * (now - self._room_at))
        self._room_at = now
        if self._room < 1:
            return False
        self._room -= 1
        return True

    def asked_between(self, start: float, end: float) -> int:
        return bisect_left(self.asked_at, end) - bisect_left(self.asked_at, start)

    def busiest_second(self, *, since: float) -> int:
        times = self.asked_at[bisect_left(self.asked_at, since) :]
        return max(bisect_left(times, time + 1, first) - first for first, time in enumerate(times))


class Direct(httpx.AsyncClient):
    """A client that leaves out what most of its time goes to, which is nothing but the way to a transport."""

    def __init__(
        self, answer: Callable[[httpx.Request], Coroutine[None, None, httpx.Response]]
    ) -> None:
        super().__init__(transport=httpx.MockTransport(answer))
        self._answer = answer

    async def send(self, request: httpx.Request, **_: Any) -> httpx.Response:
        response = await self._answer(request)
        response.request = request
        return response


def connected(service: Service, **settings: Any) -> tuple[httpx.AsyncClient, AsyncInferenceClient]:
    http_client = Direct(service.answer)
    client = AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=http_client, **settings)
    return http_client, client


@cache
def watched(backend: str, schedule: str, jobs: int, span: float, **settings: Any) -> Service:
    """Watch jobs for a while and return what the service saw of it."""
    services = list[Service]()

    async def watch() -> None:
        service = Service(**settings)
        services.append(service)
        http_client, client = connected(service)
        async with http_client, client:
            with anyio.move_on_after(span):
                # Less would lose a job that failed all the time, more would hide that one was not asked for.
                watcher = client.watch(
                    range(1, jobs + 1), schedule=SCHEDULES[schedule], failure_budget=61.0
                )
                async with watcher:
                    async for transition in watcher:
                        if transition.outcome:
                            service.ends.append(transition)

    run_in_virtual_time(watch, backend=backend)
    return services[0]


@pytest.mark.chance
@pytest.mark.parametrize(
    ("backend", "schedule", "fault"),
    [
        *(
            ("asyncio", schedule, fault)
            for schedule in SCHEDULES
            for fault in FAULTS
            # For a fixed interval it is as 503, and takes long.
            if (schedule, fault) != ("FixedInterval", "refused")
        ),
        *(("trio", "default", fault) for fault in FAULTS),
    ],
)
def test_an_outage_of_a_minute_under_1000_watches_adds_a_tenth_at_most_and_ends_in_no_rush(
    backend: str, schedule: str, fault: str
) -> None:
    span = SPANS[schedule]
    usual = watched(backend, schedule, WATCHES, span)
    service = watched(backend, schedule, WATCHES, span, fault=FAULTS[fault])
    requests, usually = len(service.asked_at), len(usual.asked_at)
    assert requests <= 1.1 * usually, f"{requests} instead of {usually} requests"
    peak, usual_peak = service.busiest_second(since=UP_AT), usual.busiest_second(since=1.0)
    assert peak <= 2 * usual_peak, f"{peak} in a second instead of {usual_peak}"
    assert not service.ends, "no job is lost"
    seen = {job_id for job_id, time in service.answered.items() if time >= UP_AT}
    assert len(seen) == WATCHES, "all are asked for again"


@pytest.mark.parametrize(
    ("backend", "retry_after"), [("asyncio", None), ("asyncio", "2"), ("trio", None)]
)
def test_a_server_that_bears_a_quarter_of_the_polls_refuses_few_and_gets_all_afterwards(
    backend: str, retry_after: str | None
) -> None:
    service = watched(backend, "FixedInterval", 300, 160.0, bears=15.0, retry_after=retry_after)
    in_storm = service.asked_between(DOWN_AT, UP_AT)
    refusals = len(service.refusals)
    assert 0 < refusals <= 0.05 * in_storm + 16, "those under way at first, and few more"
    settled = service.asked_between(DOWN_AT + 20, UP_AT)
    assert settled >= 0.5 * 15 * (UP_AT - DOWN_AT - 20), "what it bears is used"
    assert service.asked_between(140, 160) >= 0.9 * 20 * 60, "the rate is back"
    assert not service.ends, "being refused is no job's fault"


def calls(
    backend: str,
    make: Callable[[AsyncInferenceClient], Awaitable[object]],
    fault: Fault,
    *,
    at_once: bool,
) -> tuple[int, set[type[AnnoLabError]]]:
    """Make 1000 calls to a service that is down; return how many requests came, and what was raised."""
    requests = list[httpx.Request]()
    raised = Counter[type[AnnoLabError]]()

    async def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        await anyio.sleep(0.02)
        return fault(request)

    async def call(client: AsyncInferenceClient) -> None:
        try:
            await make(client)
        except AnnoLabError as error:
            raised[type(error)] += 1

    async def run() -> None:
        async with Direct(answer) as http_client:
            client = AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=http_client)
            async with client, anyio.create_task_group() as tasks:
                for _ in range(1000):
                    if at_once:
                        tasks.start_soon(call, client)
                    else:
                        await call(client)

    run_in_virtual_time(run, backend=backend)
    assert raised.total() == 1000
    return len(requests), {*raised}


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "in turn"])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_1000_reads_of_a_service_that_is_down_are_1110_requests_at_most(
    backend: str, fault: str, *, at_once: bool
) -> None:
    requests, raised = calls(
        backend, lambda client: client.get_job(7), FAULTS[fault], at_once=at_once
    )
    assert requests <= 1.1 * 1000 + 10
    assert raised <= {RequestNotSent if fault == "refused" else ServerError, RateLimited}


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "in turn"])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_1000_batches_for_a_service_that_is_down_are_1110_requests_at_most(
    backend: str, fault: str, *, at_once: bool
) -> None:
    requests, raised = calls(
        backend, lambda client: client.submit(a_request()), FAULTS[fault], at_once=at_once
    )
    if fault == "503":
        assert requests == 1000, "nobody knows what became of them"
        assert raised == {SubmissionUnknown}
    else:
        assert requests <= 1.1 * 1000 + 10
        assert raised <= {RequestNotSent if fault == "refused" else ServerError, RateLimited}


@pytest.mark.parametrize("backend", BACKENDS)
def test_reads_that_fail_now_and_then_are_repeated_and_succeed(backend: str) -> None:
    # The budget that keeps an outage small is not to deny what a single fault needs.
    asked = count(1)

    async def answer(_: httpx.Request) -> httpx.Response:
        await anyio.sleep(0.02)
        is_bad = next(asked) % 20 == 0
        return httpx.Response(503) if is_bad else httpx.Response(200, content=(JOB % 7).encode())

    async def run() -> None:
        async with Direct(answer) as http_client:
            client = AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=http_client)
            async with client:
                for _ in range(1000):
                    await client.get_job(7)

    run_in_virtual_time(run, backend=backend)
    assert next(asked) > 1050


@pytest.mark.parametrize("burst", [1, 5, 40, None])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_rate_limit_holds_over_every_window_and_nobody_starves(
    backend: str, burst: int | None
) -> None:
    rate, span, services = 20.0, 60.0, list[Service]()

    async def for_ever(call: Callable[[], Awaitable[object]]) -> None:
        while True:
            await call()

    async def run() -> None:
        service = Service()
        services.append(service)
        http_client, client = connected(service, rate_limit=RateLimit(rate, burst))
        with anyio.move_on_after(span):
            async with (
                http_client,
                client,
                client.watch(range(1000, 1200), schedule=FixedInterval(1.0)),
                client.watch(range(2000, 2200), schedule=FixedInterval(1.0)),
                anyio.create_task_group() as tasks,
            ):
                for _ in range(30):
                    tasks.start_soon(for_ever, lambda: client.submit(a_request()))
                    tasks.start_soon(for_ever, lambda: client.get_job(7))

    run_in_virtual_time(run, backend=backend)
    (service,) = services
    allowed = burst or 1
    excess = _excess(service.asked_at, rate)
    assert excess <= allowed + 1e-6, f"{excess} requests more than {rate} a second bring"
    requests = len(service.asked_at)
    assert requests >= 0.95 * rate * span, "what is allowed is used"
    asked_for = service.asked_for
    assert asked_for["submit"] >= 0.3 * requests
    assert asked_for["poll 0"] >= 0.3 * requests, "single reads"
    assert asked_for["poll 1"] + asked_for["poll 2"] >= 0.3 * requests
    assert min(asked_for["poll 1"], asked_for["poll 2"]) >= 0.1 * requests, "no watcher starves"


def _excess(times: list[float], rate: float) -> float:
    """Return by how many requests any window holds more than its length brings."""
    excess, least = 0.0, float("inf")
    for number, time in enumerate(times):
        least = min(least, number - rate * time)
        excess = max(excess, number + 1 - rate * time - least)
    return excess
