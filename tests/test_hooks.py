"""What hooks are told, and that they break nothing."""

from __future__ import annotations

import logging
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest

from annolab_async import (
    AsyncInferenceClient,
    BatchChanged,
    BatchPlan,
    BatchState,
    ConfigurationError,
    DownloadBegan,
    DownloadEnded,
    DownloadProgress,
    ExportBegan,
    ExportEnded,
    ExportError,
    ExportState,
    FixedInterval,
    InvalidRequest,
    InvalidResponse,
    JobLost,
    NotFound,
    Outcome,
    RateLimit,
    RateLimited,
    RequestBegan,
    RequestEnded,
    RetryPlanned,
    RetryPolicy,
    ServerError,
    SubmissionBegan,
    SubmissionEnded,
    Transition,
    TurnWaited,
    WatchBegan,
    WatchEnded,
)
from annolab_async._hooks import Hooks
from annolab_async._watch_report import WatchReport
from annolab_async.emulator import Emulator, EmulatorServer, Exports
from tests.builders import make_job, make_transition
from tests.faults.chaos import answer, chaos, reply
from tests.faults.leaks import SECRET, attributes
from tests.observing import Front, Recorder
from tests.service import BASE_URL, KEY, a_request, an_emulator, in_process, submit_many

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

pytestmark = [pytest.mark.anyio, pytest.mark.any_backend]

EVERY_SECOND = FixedInterval(1.0)
PATH = "/v1/infer/batch"


def a_plan(count: int = 4) -> BatchPlan:
    return BatchPlan(
        group_name="Company Name",
        project_identifier="My Project",
        model_identifier="Staple + Classify Documents",
        output_layer_identifier="Gold Set",
        source_ids=range(1, count + 1),
        batch_size=2,
    )


async def test_each_request_is_told_with_its_kind_duration_and_status() -> None:
    hook = Recorder()
    async with in_process(an_emulator(latency=0.25), hooks=[hook]) as client:
        job = await client.submit(a_request())
        await client.get_job(job)
        await client.wait(job, schedule=FixedInterval(20.0))
    began, ended = hook.of(RequestBegan), hook.of(RequestEnded)
    assert [request.kind for request in began] == ["submit", "read", "poll", "poll"]
    assert [request.method for request in began] == ["POST", "GET", "GET", "GET"]
    assert [request.path for request in began] == [PATH] + 3 * [f"{PATH}/1"]
    assert [request.inference_job_id for request in began] == [None, 1, 1, 1]
    assert {request.origin for request in began} == {BASE_URL}
    assert [end.request for end in ended] == began, "each ends before the next begins"
    assert [end.status_code for end in ended] == [200] * 4
    assert all(end.duration == pytest.approx(0.25) for end in ended)
    assert not any(end.error for end in ended)


async def test_a_request_that_fails_is_told_with_its_error_and_when_it_is_repeated() -> None:
    hook, front = Recorder(), Front()
    front.answers["POST"] = [(503, {"Retry-After": "2"}), (429, {"Retry-After": "1"})]
    front.answers["GET"] = [(500, {})]
    async with in_process(front, hooks=[hook]) as client:
        job = await client.submit(a_request())
        await client.get_job(job)
    ended = hook.of(RequestEnded)
    assert [end.status_code for end in ended] == [503, 429, 200, 500, 200]
    assert [type(end.error) for end in ended] == [
        ServerError, RateLimited, type(None), ServerError, type(None),
    ]  # fmt: skip
    assert [end.request.resends for end in ended] == [0, 1, 2, 0, 1]
    retries = hook.of(RetryPlanned)
    assert [(retry.kind, retry.attempt) for retry in retries] == [
        ("submit", 1), ("submit", 2), ("read", 1),
    ]  # fmt: skip
    assert [retry.inference_job_id for retry in retries] == [None, None, 1]
    assert [retry.error for retry in retries] == [end.error for end in ended if end.error]
    assert [retry.delay for retry in retries[:2]] == [2.0, 1.0]


async def test_a_submission_is_told_once_however_often_it_is_sent() -> None:
    hook, front = Recorder(), Front()
    front.answers["POST"] = [(429, {"Retry-After": "3"})]
    request = a_request()
    async with in_process(front, hooks=[hook]) as client:
        job = await client.submit(request)
    (submission,), (ended,) = hook.of(SubmissionBegan), hook.of(SubmissionEnded)
    assert (submission.request, submission.run, submission.batch) == (request, None, None)
    assert submission.attempt == 1
    assert (ended.submission, ended.job, ended.inference_job_id) == (submission, job, 1)
    assert ended.duration == pytest.approx(3.0, abs=0.1)
    assert ended.error is None


async def test_a_submission_that_fails_or_is_cancelled_ends_with_what_was_raised() -> None:
    hook, front = Recorder(), Front(latency=5.0)
    front.answers["POST"] = [(400, {})]
    async with in_process(front, hooks=[hook]) as client:
        with pytest.raises(InvalidRequest) as failure:
            await client.submit(a_request())
        with anyio.move_on_after(1.0):
            await client.submit(a_request())
    refused, cancelled = hook.of(SubmissionEnded)
    assert refused.error is failure.value
    assert (refused.inference_job_id, refused.job) == (None, None)
    assert isinstance(cancelled.error, anyio.get_cancelled_exc_class())
    assert cancelled.duration == pytest.approx(1.0)
    assert isinstance(hook.of(RequestEnded)[-1].error, anyio.get_cancelled_exc_class())


@pytest.mark.sockets
async def test_the_id_of_a_job_whose_answer_is_damaged_is_told() -> None:
    hook = Recorder()
    damaged = reply('{"inferenceJobId": 77, "status": 5}')
    with chaos(answer(damaged)) as server:
        async with AsyncInferenceClient(KEY, base_url=server.base_url, hooks=[hook]) as client:
            with pytest.raises(InvalidResponse):
                await client.submit(a_request())
    (ended,) = hook.of(SubmissionEnded)
    assert (ended.inference_job_id, ended.job) == (77, None)


async def test_each_job_that_is_watched_begins_and_ends_once() -> None:
    hook = Recorder()
    async with in_process(an_emulator(workers=10), hooks=[hook]) as client:
        jobs = await submit_many(client, 4)
        async with client.watch(keep_open=True, schedule=EVERY_SECOND) as watcher:
            watcher.add(jobs[0], model_identifier="Staple")
            watcher.add(jobs[1], job_timeout=5.0)
            watcher.add(jobs[2], 404)
            await anyio.sleep(5.5)
            watcher.add(jobs[3], jobs[0])
            watcher.discard(jobs[2])
            await watcher.wait(jobs[0])
            await anyio.sleep(0.1)
            watcher.add(jobs[2])
    began, ended = hook.of(WatchBegan), hook.of(WatchEnded)
    assert {end.watch for end in ended} == {*began}
    assert len(began) == len(ended) == 6, "a job that is added twice is watched once"
    assert (began[0].job, began[0].model_identifier) == (jobs[0], "Staple")
    told = [(end.watch.inference_job_id, end.outcome) for end in ended]
    assert sorted(told[:3]) == [(2, Outcome.TIMED_OUT), (3, None), (404, Outcome.LOST)]
    assert told[3] == (1, Outcome.FINISHED)
    assert {job_id for job_id, _ in told[4:]} == {3, 4}
    by_id = {end.watch.inference_job_id: end for end in ended[:4]}
    assert isinstance(by_id[404].error, JobLost)
    assert by_id[404].job is None
    change = next(one for one in hook.of(Transition) if one.outcome is Outcome.FINISHED)
    assert (by_id[1].job, by_id[1].polls, by_id[1].elapsed) == (
        change.job, change.polls, change.elapsed,
    )  # fmt: skip
    assert by_id[3].elapsed == pytest.approx(5.5)
    assert by_id[3].polls > 1


async def test_a_job_that_had_ended_before_begins_and_ends_at_once() -> None:
    hook = Recorder()
    async with in_process(an_emulator(), hooks=[hook]) as client:
        job = await client.wait(await client.submit(a_request()))
        hook.records.clear()
        async with client.watch([job]) as watcher:
            await watcher.wait(job)
    assert [type(record) for record in hook.records] == [WatchBegan, Transition, WatchEnded]
    assert hook.of(WatchEnded)[0].outcome is Outcome.FINISHED


async def test_transitions_are_told_as_they_are_yielded() -> None:
    hook = Recorder()
    async with in_process(an_emulator(), hooks=[hook]) as client:
        jobs = await submit_many(client, 5)
        async with client.watch(jobs, schedule=EVERY_SECOND) as watcher:
            yielded = [transition async for transition in watcher]
    assert hook.of(Transition) == yielded


async def test_polls_that_are_repeated_are_told() -> None:
    hook, front = Recorder(), Front()
    async with in_process(front, hooks=[hook]) as client:
        (job,) = await submit_many(client, 1)
        front.answers["GET"] = [(500, {}), (500, {}), (429, {"Retry-After": "4"})]
        await client.wait(job, schedule=FixedInterval(100.0))
    retries = hook.of(RetryPlanned)
    assert [(retry.kind, retry.attempt) for retry in retries] == [("poll", 1), ("poll", 2)]
    assert {retry.inference_job_id for retry in retries} == {1}
    assert all(isinstance(retry.error, ServerError) for retry in retries)
    assert all(retry.delay >= 0 for retry in retries)


async def test_waiting_for_a_turn_is_told_with_what_was_waited_for() -> None:
    hook, front = Recorder(), Front(latency=1.0)
    limits: dict[str, Any] = {"rate_limit": RateLimit(1.0, burst=2), "max_connections": 100}
    async with in_process(front, hooks=[hook], **limits) as client:
        for _ in range(3):
            await client.submit(a_request())
        assert hook.of(TurnWaited) == []
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(client.get_job, 1)
        waits = hook.of(TurnWaited)
        assert {(wait.kind, wait.reason) for wait in waits} == {("read", "rate_limit")}
        assert [wait.seconds for wait in waits][-1] == pytest.approx(1.0, abs=0.2)
        await anyio.sleep(10)
        front.answers["GET"] = [(429, {"Retry-After": "7"})]
        await client.get_job(1)
    last = hook.of(TurnWaited)[-1]
    assert last.reason in {"retry_after", "rate_limit"}


async def test_waiting_for_a_connection_is_no_rate_limit() -> None:
    hook = Recorder()
    async with (
        in_process(an_emulator(latency=2.0), hooks=[hook], max_connections=1) as client,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(2):
            tasks.start_soon(client.submit, a_request())
    (wait,) = hook.of(TurnWaited)
    assert (wait.kind, wait.reason) == ("submit", "connections")
    assert wait.seconds == pytest.approx(2.0)


async def test_a_pause_that_the_server_asks_for_is_told() -> None:
    hook, front = Recorder(), Front()
    once = RetryPolicy(attempts=1)
    async with in_process(front, hooks=[hook], retry=once) as client:
        front.answers["GET"] = [(503, {"Retry-After": "9"})]
        with pytest.raises(ServerError):
            await client.get_job(1)
        with pytest.raises(NotFound):
            await client.get_job(1)
    (wait,) = hook.of(TurnWaited)
    assert wait.reason == "retry_after"
    assert wait.seconds == pytest.approx(9.0)


async def test_each_change_of_a_batch_is_told_and_each_of_its_submissions() -> None:
    hook, front = Recorder(), Front()
    front.answers["POST"] = [(429, {"Retry-After": "1"})]
    async with (
        in_process(front, hooks=[hook]) as client,
        client.fan_out(a_plan(), run="nightly") as run,
    ):
        async for _ in run:
            pass
    changes = hook.of(BatchChanged)
    assert {change.run for change in changes} == {"nightly"}
    for number in (1, 2):
        path = [
            (change.previous, change.record.state)
            for change in changes
            if change.record.number == number
        ]
        assert path[0] == (BatchState.PLANNED, BatchState.SENDING)
        assert path[-1][1] is BatchState.FINISHED
        assert all(before == after for (_, before), (after, _) in pairwise(path))
    submissions = hook.of(SubmissionBegan)
    assert len(submissions) == len(hook.of(SubmissionEnded)) == 3
    assert {submission.run for submission in submissions} == {"nightly"}
    assert sorted((one.batch, one.attempt) for one in submissions if one.batch)[:1] == [(1, 1)]
    assert {one.attempt for one in submissions} == {1, 2}
    (retry,) = hook.of(RetryPlanned)
    assert (retry.kind, retry.delay, type(retry.error)) == ("submit", 1.0, RateLimited)


async def test_a_batch_that_could_not_be_sent_is_told_to_be_retried() -> None:
    hook = Recorder()

    class Unreachable(httpx.AsyncBaseTransport):
        left = 2

        def __init__(self, behind: httpx.AsyncBaseTransport) -> None:
            self._behind = behind

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if self.left:
                self.left -= 1
                raise httpx.ConnectError("no")
            return await self._behind.handle_async_request(request)

    transport = Unreachable(httpx.ASGITransport(app=an_emulator().app))
    async with (
        httpx.AsyncClient(transport=transport) as http_client,
        AsyncInferenceClient(
            KEY, base_url=BASE_URL, http_client=http_client, hooks=[hook]
        ) as client,
        client.fan_out(a_plan(2)) as run,
    ):
        async for _ in run:
            pass
    assert [retry.attempt for retry in hook.of(RetryPlanned)] == [1, 2]


async def test_an_export_begins_and_ends_once() -> None:
    hook = Recorder()
    emulator = an_emulator(exports=Exports(wait_seconds=5.0, seconds=5.0))
    async with in_process(emulator, hooks=[hook]) as client:
        await client.wait(await client.submit(a_request()))
        export = await client.export(group_name="Company Name", project="My Project")
        await export.wait()
        await export.refresh()
        other = await client.export(group_name="Company Name", project="My Project")
        followed = await client.get_export(other.job)
        await client.get_export(export.job)
        assert followed.export_id == other.export_id
        assert not hook.of(ExportEnded)[0].error
        await client.get_export(other.job)
        ended_before = len(hook.of(ExportEnded))
        with pytest.raises(NotFound):
            await client.export(group_name="Company Name", project="Nowhere")
    began, ended = hook.of(ExportBegan), hook.of(ExportEnded)
    assert {end.export for end in ended} == set(began)
    assert len(began) == len(ended) == 4
    assert ended_before == 2, "an export that has ended before ends at once"
    first, _, failed, left = ended
    assert (first.export_id, first.state) == (export.export_id, ExportState.FINISHED)
    assert first.duration == pytest.approx(10.0, abs=5.0)
    assert (failed.export_id, failed.state) == (None, None)
    assert isinstance(failed.error, NotFound)
    assert (left.export, left.export_id) == (began[1], other.export_id)
    assert left.state is not ExportState.FINISHED
    requests = [one for one in hook.of(RequestBegan) if one.kind == "export"]
    assert requests[0].export is requests[1].export is began[0]


@pytest.mark.sockets
async def test_a_download_begins_and_ends_once(tmp_path: Path) -> None:
    hook = Recorder()
    emulator = Emulator(
        api_key=KEY,
        base_seconds=0.0,
        seconds_per_source=0.0,
        exports=Exports(wait_seconds=0.0, seconds=0.0),
    )
    async with (
        EmulatorServer(emulator) as server,
        AsyncInferenceClient(KEY, base_url=server.base_url, hooks=[hook]) as client,
    ):
        await client.wait(await client.submit(a_request()))
        export = await client.export(group_name="Company Name", project="My Project")
        file = await export.download(tmp_path / "whole.zip")
        with pytest.raises(ExportError):
            await export.download(tmp_path / "short.zip", max_bytes=1)

        def leave(_: DownloadProgress) -> None:
            scope.cancel()

        with anyio.CancelScope() as scope:
            await export.download(tmp_path / "left.zip", progress=leave)
    began, ended = hook.of(DownloadBegan), hook.of(DownloadEnded)
    assert [end.download for end in ended] == began
    assert {download.export_id for download in began} == {export.export_id}
    whole, failed, left = ended
    assert (whole.size, whole.error) == ((await anyio.Path(file).stat()).st_size, None)
    assert whole.duration > 0
    assert (failed.size, type(failed.error)) == (None, ExportError)
    assert left.size is None
    assert left.error is not None


@pytest.mark.sockets
async def test_no_record_shows_the_key_or_a_signed_link() -> None:
    hook = Recorder()
    emulator = Emulator(
        api_key=KEY,
        base_seconds=0.0,
        seconds_per_source=0.0,
        exports=Exports(wait_seconds=0.0, seconds=0.0),
    )
    async with (
        EmulatorServer(emulator) as server,
        AsyncInferenceClient(KEY, base_url=server.base_url, hooks=[hook]) as client,
        client.fan_out(a_plan()) as run,
    ):
        async for _ in run:
            pass
        assert await run.results()
    echo = f"the key {KEY} may not have https://files.example/x?X-Sig=CANARYSIG"
    with chaos(answer(reply(f'{{"message": "{echo}"}}', "400 Bad"))) as bad:
        async with AsyncInferenceClient(KEY, base_url=bad.base_url, hooks=[hook]) as client:
            for call in (client.submit(a_request()), client.get_job(1)):
                with pytest.raises(InvalidRequest):
                    await call
    told: set[type] = {type(record) for record in hook.records}
    assert told >= {RequestEnded, ExportEnded, DownloadEnded, BatchChanged}
    assert SECRET.search(echo)
    for record in hook.records:
        assert not [*attributes(record, type(record).__name__)]


@pytest.mark.sockets
@pytest.mark.parametrize("transport", ["httpx", "aiohttp"])
async def test_headers_of_hooks_go_along_with_every_request(transport: Any) -> None:
    hook, numbers = Recorder(), Recorder()
    hook.headers = {"traceparent": "00-1-2-01"}
    job = '{"inferenceJobId": 1, "status": "Running", "sourceIds": [1, 2]}'
    with chaos(answer(reply(job))) as server:
        async with AsyncInferenceClient(
            KEY, base_url=server.base_url, transport=transport, hooks=[hook, numbers]
        ) as client:
            await client.submit(a_request())
            await client.get_job(1)
            hook.headers = {"X-Other": "2"}
            await client.get_job(1)
            hook.headers = None
            await client.get_job(1)
    texts = [request.head.lower() for request in server.requests]
    assert [b"traceparent: 00-1-2-01" in text for text in texts] == [True, True, False, False]
    assert [b"x-other: 2" in text for text in texts] == [False, False, True, False]
    assert all(text.count(b"authorization: api-key") == 1 for text in texts)


@pytest.mark.parametrize(
    "name",
    [
        "Accept-Encoding",
        "Authorization",
        "Connection",
        "Content-Length",
        "Content-Type",
        "Expect",
        "Host",
        "TE",
        "Trailer",
        "Transfer-Encoding",
        "Upgrade",
    ],
)
def test_a_hook_may_not_say_what_the_library_says_itself_or_where_a_request_ends(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    hook = Recorder()
    hook.headers = {name: "1"}
    ask = Hooks([hook]).request
    assert ask is not None
    assert ask(RequestBegan("poll", "GET", BASE_URL, PATH)) is None
    assert "a hook may not send a header" in caplog.text


METHODS = [name for name in vars(Recorder) if name.startswith("on_")]


@pytest.mark.parametrize("method", METHODS)
def test_an_object_with_any_one_of_the_methods_is_a_hook_and_hears_of_that_alone(
    method: str,
) -> None:
    heard = list[object]()
    hook: Any = SimpleNamespace(**{method: heard.append})
    hooks = Hooks([hook])
    tells = {name: getattr(hooks, name.removeprefix("on_")) for name in METHODS}
    assert [name for name, tell in tells.items() if tell is not None] == [method]
    tells[method](method)
    assert heard == [method]


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Api-Key other"},
        {"host": "elsewhere"},
        {"bad name": "1"},
        {"x-a": "1\r\nx-b: 2"},
        {"x-a": "ä"},
        {"x-a": 5},
    ],
)
async def test_headers_that_would_break_a_request_are_left_out(
    headers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    hook, other, front = Recorder(), Recorder(), Front()
    hook.headers, other.headers = headers, {"x-good": "1"}
    async with in_process(front, hooks=[hook, other]) as client:
        await client.submit(a_request())
        await client.get_job(1)
    for _, _, sent in front.asked:
        assert sent["x-good"] == "1"
        assert sent["authorization"] == f"Api-Key {KEY}"
        assert sent["host"] == "localhost"
        assert not {"x-a", "x-b", "bad name"} & sent.keys()
    assert len([line for line in caplog.messages if "has raised" in line]) == 1


@pytest.mark.parametrize("method", ["on_request", "on_request_end"])
async def test_a_hook_of_requests_hears_of_reads_also_when_they_are_not_logged(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="annolab_async")
    heard = list[object]()
    hook: Any = SimpleNamespace(**{method: heard.append})
    async with in_process(an_emulator(), hooks=[hook]) as client:
        await client.get_job(await client.submit(a_request()))
    assert len(heard) == 2


async def test_a_hook_that_raises_is_logged_once_and_breaks_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Recorder):
        def on_request(self, request: RequestBegan, /) -> Mapping[str, str] | None:
            super().on_request(request)
            raise RuntimeError("begin")

        def on_transition(self, transition: Transition, /) -> None:
            super().on_transition(transition)
            raise RuntimeError("transition")

    broken, sound = Broken(), Recorder()
    async with in_process(an_emulator(), hooks=[broken, sound]) as client:
        jobs = await submit_many(client, 3)
        async with client.watch(jobs, schedule=EVERY_SECOND) as watcher:
            transitions = [transition async for transition in watcher]
    assert sound.of(Transition) == broken.of(Transition) == transitions
    told = [record for record in caplog.records if "has raised" in record.getMessage()]
    assert [record.levelno for record in told] == [logging.ERROR] * 2
    assert [record.__dict__["hook"].rpartition(".")[2] for record in told] == [
        "on_request", "on_transition",
    ]  # fmt: skip
    assert all(record.exc_info for record in told)


class Asynchronous:
    async def on_transition(self, transition: Transition, /) -> None: ...


@pytest.mark.parametrize("hook", [object(), Recorder, print, Asynchronous()])
def test_what_is_no_hook_is_refused_at_construction(hook: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"is no hook|is asynchronous"):
        AsyncInferenceClient(KEY, hooks=[hook])


async def test_hooks_may_come_one_by_one() -> None:
    recorder = Recorder()
    async with in_process(an_emulator(), hooks=(hook for hook in [recorder])) as client:  # pyright: ignore[reportArgumentType]
        await client.submit(a_request())
    assert recorder.of(SubmissionEnded)


def test_an_attribute_that_is_no_method_is_refused() -> None:
    class Odd:
        on_retry = 5

    class OddInPart(Recorder):
        on_retry = 5  # type: ignore[assignment]

    for odd in (Odd(), OddInPart()):
        hooks: Any = [odd]
        with pytest.raises(ConfigurationError, match="is no hook"):
            AsyncInferenceClient(KEY, hooks=hooks)


async def test_a_hook_needs_only_the_methods_that_it_has_a_use_for() -> None:
    class Ends:
        count = 0

        def on_watch_end(self, ended: WatchEnded, /) -> None:
            self.count += ended.outcome is Outcome.FINISHED

    class Others:
        count = 0

        def on_submission_end(self, ended: SubmissionEnded, /) -> None:
            self.count += ended.error is None

        def on_export_end(self, ended: ExportEnded, /) -> None:
            self.count += 10 * (ended.error is None)

        def on_request_end(self, ended: RequestEnded, /) -> None:
            self.count += 100 * (ended.error is None)

    ends, others = Ends(), Others()
    emulator = an_emulator(exports=Exports(wait_seconds=0.0, seconds=0.0))
    async with in_process(emulator, hooks=[ends, others]) as client:
        await client.wait(await client.submit(a_request()), schedule=FixedInterval(20.0))
        export = await client.export(group_name="Company Name", project="My Project")
        await export.refresh()
    assert ends.count == 1
    assert others.count == 1 + 10 + 500


@pytest.mark.parametrize(
    ("method", "kind"), [("on_watch", WatchBegan), ("on_watch_end", WatchEnded)]
)
def test_a_hook_may_hear_of_either_end_of_a_watch_alone(method: str, kind: type) -> None:
    heard = list[object]()
    hook: Any = SimpleNamespace(**{method: heard.append})
    report = WatchReport(Hooks([hook]))
    report.added(7, None, None)
    report.changed(make_transition(7, make_job(7, "Finished"), None, Outcome.FINISHED))
    assert [type(record) for record in heard] == [kind]


async def test_a_hook_of_beginnings_alone_is_told_of_them() -> None:
    class Begins:
        def __init__(self) -> None:
            self.seen: list[object] = []

        def on_submission(self, submission: SubmissionBegan, /) -> None:
            self.seen.append(submission)

        def on_watch(self, watch: WatchBegan, /) -> None:
            self.seen.append(watch)

        def on_export(self, export: ExportBegan, /) -> None:
            self.seen.append(export)

    begins = Begins()
    emulator = an_emulator(exports=Exports(wait_seconds=0.0, seconds=0.0))
    async with in_process(emulator, hooks=[begins]) as client:
        await client.wait(await client.submit(a_request()))
        export = await client.export(group_name="Company Name", project="My Project")
        await export.refresh()
    assert [type(record) for record in begins.seen] == [SubmissionBegan, WatchBegan, ExportBegan]
