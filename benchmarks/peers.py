"""Who polls: this library in its various set-ups, and its peers, each against the same canned answers.

A contender is an async function that polls until its meter has seen enough. This library's do all that a user gets:
request, answer, deadline, decoding, schedule, transitions, an iterated watcher. The peers' do only what their entry in
:data:`CONTENDERS` says.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
from anyio.lowlevel import checkpoint
from attrs import frozen

from annolab_async import (
    AsyncInferenceClient,
    FixedInterval,
    InferenceJob,
    InferenceWatcher,
    Predictive,
    RetryPolicy,
)
from annolab_async._hooks import NO_HOOKS
from annolab_async._limits import Throttle, Turnstile
from annolab_async._records import StatusReply
from annolab_async._retry import RetryBudget

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from annolab_async import PollSchedule, RequestBegan, RequestEnded, WatchBegan
    from annolab_async._status_source import StatusSource
    from benchmarks.meter import Meter

    Run = Callable[[Meter, str, int], Awaitable[None]]
    Get = Callable[[str], Awaitable[object]]

__all__ = ["CONTENDERS", "PREDICTIVE_AT_ONCE", "Contender", "InMemory"]

JOBS: Final = 1024
_KEY: Final = "XXXXXXX-XXXXXXX-XXXXXXX-XXXXXXX"
_HEADERS: Final = {"Authorization": f"Api-Key {_KEY}"}
_TICK: Final = 0.02
# A queue of 512 requests on httpx's pool takes longer than its default of 5 s.
_PATIENCE: Final = 120.0

# Neither ever waits: the loop is bound by the CPU.
AT_ONCE: Final = FixedInterval(1e-6)
PREDICTIVE_AT_ONCE: Final = Predictive(target_delay=1e-6, min_gap=1e-6)


@frozen
class Contender:
    """One who polls.

    Attributes:
        run: polls until the meter has seen enough, given the meter, the address and the requests under way at once.
        note: what it does, and what it does not.
        loops: the event loops that it runs on.
        permits: how many requests are under way at once, in one run after the other.
    """

    run: Run
    note: str
    loops: tuple[str, ...] = ("asyncio",)
    permits: tuple[int, ...] = (1, 16, 128, 512)


async def _watch(
    client: StatusSource,
    meter: Meter,
    permits: int,
    *,
    jobs: int,
    schedule: PollSchedule,
    is_ready: Callable[[], bool] = lambda: True,
) -> None:
    """Watch jobs that never end, and iterate over what is seen of them, until the meter has seen enough."""
    async with InferenceWatcher(
        client, range(1, jobs + 1), max_concurrent_polls=permits, schedule=schedule
    ) as watcher:

        async def iterate() -> None:
            async for _ in watcher:
                pass

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(iterate)
            # The first answer about each job is decoded, and a transition: that is not what most polls are.
            await _enough(
                meter,
                lambda: watcher.stats.polls if is_ready() and watcher.stats.polls >= jobs else 0,
            )
            tasks.cancel_scope.cancel()


def _ours(path: str = "", schedule: PollSchedule = AT_ONCE, **options: Any) -> Run:
    async def run(meter: Meter, base: str, permits: int) -> None:
        async with AsyncInferenceClient(
            _KEY, base_url=base + path, max_connections=permits, **options
        ) as client:
            await _watch(client, meter, permits, jobs=JOBS, schedule=schedule)

    return run


class _Counting:
    """A hook as users write them: it counts requests, and adds up how long they take."""

    def __init__(self) -> None:
        self.requests = 0
        self.seconds = 0.0
        self.jobs = 0

    def on_request(self, request: RequestBegan, /) -> None:
        """Count a request."""
        self.requests += request.kind == "poll"

    def on_request_end(self, ended: RequestEnded, /) -> None:
        """Add up its time."""
        self.seconds += ended.duration

    def on_watch(self, watch: WatchBegan, /) -> None:
        """Count a job."""
        self.jobs += watch.inference_job_id > 0


def _with_hooks(transport: str) -> Run:
    return _ours(transport=transport, hooks=[_Counting()])


def _with_opentelemetry(transport: str) -> Run:
    async def run(meter: Meter, base: str, permits: int) -> None:
        metrics = _module("opentelemetry.sdk.metrics")
        reader = _module("opentelemetry.sdk.metrics.export").InMemoryMetricReader()
        hooks = _module("annolab_async.otel").OpenTelemetryHooks(
            tracer_provider=_module("opentelemetry.sdk.trace").TracerProvider(),
            meter_provider=metrics.MeterProvider([reader]),
        )
        await _ours(transport=transport, hooks=[hooks])(meter, base, permits)

    return run


def _over_client(library: str) -> Run:
    async def run(meter: Meter, base: str, permits: int) -> None:
        async with _httpx_client(library) as http_client:
            await _ours(http_client=http_client)(meter, base, permits)

    return run


def _httpx_client(library: str) -> Any:
    """Return a client of httpx or httpx2 as it is by default, but with the patience that its pool needs."""
    return _module(library).AsyncClient(timeout=_PATIENCE)


class InMemory:
    """A source of answers that costs next to nothing: what is left is the watcher's own."""

    def __init__(self) -> None:
        self.retry = RetryPolicy()
        self.budget = RetryBudget()
        self.hooks = NO_HOOKS
        self.turns = Turnstile(10_000, Throttle())
        self.jobs_seen = 0

    async def poll_status(
        self,
        job_id: int,
        previous: StatusReply | None = None,
        *,
        may_go_back: bool = False,  # noqa: ARG002  # the Protocol's
    ) -> StatusReply:
        """Return the same answer again; the first time, one decoded from bytes as a real one is."""
        await checkpoint()  # as a real request would
        if previous is not None:
            return previous
        self.jobs_seen += 1
        body = (
            b'{"inferenceJobId":%d,"status":"Running","projectId":7,"sourceIds":[4024,5853]}'
            % job_id
        )
        return StatusReply(InferenceJob.from_json(body), body)


def _scheduling(jobs: int, schedule: PollSchedule) -> Run:
    async def run(meter: Meter, _: str, permits: int) -> None:
        source = InMemory()
        # Not before each job was asked for: first answers are decoded and kept.
        await _watch(
            source,
            meter,
            permits,
            jobs=jobs,
            schedule=schedule,
            is_ready=lambda: source.jobs_seen == jobs,
        )

    return run


def _paths() -> Callable[[], str]:
    numbers = itertools.count()
    return lambda: f"/v1/infer/batch/{1 + next(numbers) % JOBS}"


async def _in_waves(meter: Meter, permits: int, get: Get) -> None:
    """Gather as many requests as are permitted, again and again: the loop that most people write."""
    path = _paths()
    while True:
        await asyncio.gather(*(get(path()) for _ in range(permits)))
        meter.polls += permits
        if meter.mark():
            return


async def _in_loops(meter: Meter, permits: int, get: Get) -> None:
    """Keep as many requests under way as are permitted, each in a loop of its own."""
    path = _paths()

    async def loop() -> None:
        while True:
            await get(path())
            meter.polls += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(permits):
            tasks.start_soon(loop)
        await _enough(meter)
        tasks.cancel_scope.cancel()


async def _enough(meter: Meter, count: Callable[[], int] | None = None) -> None:
    """Wait until the meter has seen enough, of the polls that it is told of or of those that ``count`` counts."""
    while not meter.mark():
        await anyio.sleep(_TICK)
        if count is not None:
            meter.polls = count()


def _module(name: str) -> Any:
    """Import a peer: the checkers of types need not know it."""
    return import_module(name)


def _plain(library: str) -> Run:
    async def run(meter: Meter, base: str, permits: int) -> None:
        async with _httpx_client(library) as client:

            async def get(path: str) -> object:
                return (await client.get(base + path, headers=_HEADERS)).json()

            await _in_waves(meter, permits, get)

    return run


async def _raw_aiohttp(meter: Meter, base: str, permits: int) -> None:
    import aiohttp  # noqa: PLC0415  # an extra

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def get(path: str) -> object:
            async with session.get(base + path, headers=_HEADERS) as response:
                return await response.json()

        await _in_loops(meter, permits, get)


async def _openai(meter: Meter, base: str, permits: int) -> None:
    openai = _module("openai")
    async with openai.AsyncOpenAI(
        api_key=_KEY, base_url=f"{base}/openai", max_retries=0, timeout=_PATIENCE
    ) as client:

        async def get(path: str) -> object:
            return await client.batches.retrieve(path.rpartition("/")[2])

        await _in_loops(meter, permits, get)


async def _azure(meter: Meter, base: str, permits: int) -> None:
    polling = _module("azure.core.polling")
    async_polling = _module("azure.core.polling.async_base_polling")
    rest = _module("azure.core.rest")

    async with _module("azure.core").AsyncPipelineClient(base) as client:

        async def poll(job_id: int) -> None:
            request = rest.HttpRequest("GET", f"{base}/azure/{job_id}", headers=_HEADERS)
            begun = await client.send_request(request, _return_pipeline_response=True)
            method = async_polling.AsyncLROBasePolling(timeout=0)
            update_status = method.update_status

            async def counted() -> None:
                await update_status()
                meter.polls += 1

            method.update_status = counted
            await polling.AsyncLROPoller(client, begun, str, method).result()

        async with anyio.create_task_group() as tasks:
            for job_id in range(1, permits + 1):
                tasks.start_soon(poll, job_id)
            await _enough(meter)
            tasks.cancel_scope.cancel()


async def _vendor(meter: Meter, base: str, permits: int) -> None:
    import requests  # noqa: PLC0415

    is_over = threading.Event()
    counts = [0] * permits

    def poll(number: int) -> None:
        url = f"{base}/v1/infer/batch/{1 + number}"
        status: str | None = None
        # As in the vendor's page, with the pause taken out: a request that opens a connection of its own each time.
        while not is_over.is_set() and status not in {"Finished", "Errored"}:
            reply = requests.get(url, headers=_HEADERS, json=_VENDOR_BODY, timeout=_PATIENCE)
            status = cast("dict[str, str]", reply.json())["status"]
            counts[number] += 1

    threads = [threading.Thread(target=poll, args=(number,)) for number in range(permits)]
    for thread in threads:
        thread.start()
    try:
        await _enough(meter, lambda: sum(counts))
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


_VENDOR_BODY: Final = {
    "groupName": "Company Name",
    "projectIdentifier": "My Project",
    "sourceIds": [4024, 5853],
    "modelIdentifier": "Staple + Classify Documents",
    "outputLayerIdentifier": "Gold Set",
}
_BOTH: Final = ("asyncio", "trio")
# 512 requests at once on these take minutes (a pool that is searched in whole for each), or as many threads.
_FEW: Final = (1, 16, 128)
_ONE: Final = (128,)
_CHANGING: Final = "every tenth answer of a job is another"
_WITHOUT_NETWORK: Final = "answers from memory: the watcher alone"

CONTENDERS: Final[Mapping[str, Contender]] = {
    "default install": Contender(_ours(transport="httpx"), 'transport="httpx"', _BOTH),
    "aiohttp": Contender(_ours(transport="aiohttp"), 'transport="aiohttp"'),
    "your httpx client": Contender(
        _over_client("httpx"), "http_client=httpx.AsyncClient()", permits=_FEW
    ),
    "your httpx2 client": Contender(
        _over_client("httpx2"), "http_client=httpx2.AsyncClient()", permits=_FEW
    ),
    "default install, changing": Contender(
        _ours("/changing", transport="httpx"), _CHANGING, _BOTH, _ONE
    ),
    "aiohttp, changing": Contender(
        _ours("/changing", transport="aiohttp"), _CHANGING, permits=_ONE
    ),
    "default install, Predictive": Contender(
        _ours(schedule=PREDICTIVE_AT_ONCE, transport="httpx"),
        "the default schedule, without its pauses",
        _BOTH,
        _ONE,
    ),
    "aiohttp, Predictive": Contender(
        _ours(schedule=PREDICTIVE_AT_ONCE, transport="aiohttp"),
        "the default schedule, without its pauses",
        permits=_ONE,
    ),
    **{
        f"{name}, {what}": Contender(with_hooks(transport), note, permits=_ONE)
        for name, transport in (("default install", "httpx"), ("aiohttp", "aiohttp"))
        for what, with_hooks, note in (
            ("hooks", _with_hooks, "hooks that count requests and add up their time"),
            ("OpenTelemetry", _with_opentelemetry, "spans, metrics and traceparent, with the SDK"),
        )
    },
    "plain httpx": Contender(_plain("httpx"), "gather(get()), json()", permits=_FEW),
    "plain httpx2": Contender(_plain("httpx2"), "gather(get()), json()", permits=_FEW),
    "raw aiohttp": Contender(_raw_aiohttp, "a hand-written loop that only decodes JSON"),
    "vendor's sample": Contender(
        _vendor, "requests in threads, a connection for each poll; no pause", permits=_FEW
    ),
    "openai": Contender(
        _openai, "batches.retrieve(): request, decoding to a model; no schedule", permits=_FEW
    ),
    "azure-core": Contender(
        _azure, "AsyncLROPoller over aiohttp, one for each job; no pause", permits=_FEW
    ),
    **{
        f"{jobs:,} jobs, {type(schedule).__name__}": Contender(
            _scheduling(jobs, schedule), _WITHOUT_NETWORK, permits=_ONE
        )
        for schedule in (AT_ONCE, PREDICTIVE_AT_ONCE)
        for jobs in (1_000, 100_000)
    },
}
