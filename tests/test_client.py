"""What the client sends, and what it makes of the answers."""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import anyio
import httpx
import httpx2
import pytest

from annolab_async import (
    AsyncInferenceClient,
    AuthenticationError,
    ConfigurationError,
    FixedInterval,
    InferenceJob,
    InvalidRequest,
    InvalidResponse,
    JobNotFound,
    JobState,
    NoResponse,
    NotFound,
    NotOpen,
    PermissionDenied,
    RateLimited,
    RequestNotSent,
    RetryPolicy,
    ServerError,
    SubmissionUnknown,
    WaitTimeout,
)
from tests.raw_server import raw_server
from tests.service import BASE_URL, KEY, a_request, an_emulator, in_process, task_count

pytestmark = pytest.mark.anyio


def answering(*answers: httpx.Response) -> tuple[httpx.AsyncClient, list[httpx.Request]]:
    """Return an HTTP client that gives answers, the last again and again, and the requests it gets."""
    requests = list[httpx.Request]()

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return answers[min(len(requests), len(answers)) - 1]

    return httpx.AsyncClient(transport=httpx.MockTransport(answer)), requests


JOB = {"inferenceJobId": 12, "status": "Queued", "sourceIds": [1, 2]}


async def test_submit_sends_what_the_page_documents() -> None:
    http_client, requests = answering(
        httpx.Response(200, json={**JOB, "projectName": "My Project"})
    )
    async with (
        http_client,
        AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=http_client) as client,
    ):
        job = await client.submit(a_request())
    assert job == InferenceJob(12, "Queued", (1, 2), project_name="My Project")
    (request,) = requests
    assert (request.method, str(request.url)) == ("POST", f"{BASE_URL}/v1/infer/batch")
    assert request.headers["authorization"] == f"Api-Key {KEY}"
    assert request.headers["content-type"] == "application/json"
    assert json.loads(request.content) == {
        "groupName": "Company Name",
        "projectIdentifier": "My Project",
        "modelIdentifier": "Staple + Classify Documents",
        "sourceIds": [1, 2],
        "outputLayerIdentifier": "Gold Set",
    }


async def test_get_job_asks_for_its_id_without_a_body() -> None:
    http_client, requests = answering(httpx.Response(200, json=JOB))
    async with (
        http_client,
        AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=http_client) as client,
    ):
        job = await client.get_job(12)
        assert await client.get_job(job) == job
    assert {(request.method, str(request.url)) for request in requests} == {
        ("GET", f"{BASE_URL}/v1/infer/batch/12")
    }
    assert requests[0].content == b""
    assert requests[0].headers["authorization"] == f"Api-Key {KEY}"


async def test_the_second_path_works() -> None:
    async with in_process(an_emulator(), inference_path="v1/model/infer/batch/") as client:
        job = await client.wait(await client.submit(a_request()))
    assert job.state is JobState.FINISHED


@pytest.mark.parametrize("job_id", ["../../admin", "12", True, 0, -1, 1.0, None])
async def test_what_is_no_job_id_is_refused_before_any_request(job_id: object) -> None:
    emulator = an_emulator()
    async with in_process(emulator) as client:
        for call in (client.get_job, client.wait):
            with pytest.raises(ValueError, match="neither an InferenceJob nor a job id"):
                await call(job_id)  # type: ignore[arg-type]  # that is the point
    assert emulator.stats.requests == 0


async def test_refusals_have_an_error_each() -> None:
    emulator = an_emulator(api_keys_without_model_run=[KEY + "-RUNS-NOTHING"])
    unknown_model = a_request().__class__(
        group_name="Company Name",
        project_identifier="My Project",
        model_identifier="No Such Model",
        source_ids=[1],
        output_layer_identifier="Gold Set",
    )
    async with in_process(emulator) as client:
        with pytest.raises(NotFound) as not_found:
            await client.submit(unknown_model)
        with pytest.raises(NotFound):
            await client.get_job(1)
    assert "No Such Model" in not_found.value.message
    assert (not_found.value.method, not_found.value.path) == ("POST", "/v1/infer/batch")
    async with in_process(emulator, api_key=KEY + "-RUNS-NOTHING") as client:
        with pytest.raises(PermissionDenied, match='"Model Run" permission'):
            await client.submit(a_request())
    async with in_process(emulator, api_key="WRONG") as client:
        with pytest.raises(AuthenticationError, match="ANNOLAB_API_KEY") as denied:
            await client.submit(a_request())
    assert "WRONG" not in str(denied.value)
    assert not emulator.jobs


async def test_a_bad_request_carries_the_servers_message() -> None:
    http_client, requests = answering(
        httpx.Response(400, json={"message": "sourceIds: unknown source 7"})
    )
    async with (
        http_client,
        AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=http_client) as client,
    ):
        with pytest.raises(InvalidRequest, match="unknown source 7"):
            await client.submit(a_request())
    assert len(requests) == 1


async def test_a_read_that_fails_is_repeated_and_then_raised() -> None:
    failing, requests = answering(
        httpx.Response(502), httpx.Response(429), httpx.Response(200, json=JOB)
    )
    async with failing, AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=failing) as client:
        assert (await client.get_job(12)).inference_job_id == 12
    assert len(requests) == 3
    failing, requests = answering(httpx.Response(500, json={"message": "out of memory"}))
    retry = RetryPolicy(attempts=3)
    async with (
        failing,
        AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=failing, retry=retry) as client,
    ):
        with pytest.raises(ServerError, match="out of memory"):
            await client.get_job(12)
    assert len(requests) == 3


async def test_retry_after_is_waited_for() -> None:
    http_client, _ = answering(
        httpx.Response(429, headers={"Retry-After": "7"}), httpx.Response(200, json=JOB)
    )
    async with (
        http_client,
        AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=http_client) as client,
    ):
        began = anyio.current_time()
        await client.get_job(12)
        assert anyio.current_time() - began == pytest.approx(7)


async def test_a_date_to_wait_for_is_compared_with_this_machines_clock_where_the_server_tells_none() -> (
    None
):
    tomorrow = format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True)
    http_client, _ = answering(httpx.Response(429, headers={"Retry-After": tomorrow}))
    async with (
        http_client,
        AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=http_client) as client,
    ):
        with pytest.raises(RateLimited) as caught:
            await client.get_job(12)
    assert caught.value.retry_after == pytest.approx(24 * 3600, abs=3600)


async def test_an_answer_about_another_job_is_no_answer() -> None:
    http_client, _ = answering(httpx.Response(200, json={**JOB, "inferenceJobId": 13}))
    async with (
        http_client,
        AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=http_client) as client,
    ):
        with pytest.raises(InvalidResponse, match="inferenceJobId is 13, and 12 was asked for"):
            await client.get_job(12)
        with pytest.raises(InvalidResponse, match="inferenceJobId is 13, and 12 was asked for"):
            await client.poll_status(12)


async def test_an_answer_with_the_bytes_of_the_last_one_is_that_one_itself() -> None:
    http_client, _ = answering(httpx.Response(200, json=JOB))
    async with (
        http_client,
        AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=http_client) as client,
    ):
        reply = await client.poll_status(12)
        assert await client.poll_status(12, reply) is reply


async def test_a_poll_believes_that_a_job_went_back_only_where_that_may_be() -> None:
    running, queued = ({**JOB, "status": status} for status in ("Running", "Queued"))
    http_client, _ = answering(
        httpx.Response(200, json=running), *[httpx.Response(200, json=queued)] * 2
    )
    async with (
        http_client,
        AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=http_client) as client,
    ):
        reply = await client.poll_status(12)
        with pytest.raises(InvalidResponse) as caught:
            await client.poll_status(12, reply)
        assert caught.value.went_back
        assert (await client.poll_status(12, reply, may_go_back=True)).job.state is JobState.QUEUED


async def test_an_error_with_the_bytes_of_the_last_answer_is_still_an_error() -> None:
    http_client, _ = answering(httpx.Response(200, json=JOB), httpx.Response(500, json=JOB))
    async with (
        http_client,
        AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=http_client) as client,
    ):
        reply = await client.poll_status(12)
        with pytest.raises(ServerError):
            await client.poll_status(12, reply)


class StallingTransport(httpx.AsyncBaseTransport):
    """Tells how far it has come, in httpcore's events, and goes no further."""

    def __init__(self, *events: str) -> None:
        self._events = events

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        for event in self._events:
            await request.extensions["trace"](event, {})
        await anyio.sleep_forever()
        raise AssertionError("this is never reached")


@pytest.mark.parametrize(
    ("events", "error"),
    [
        (["connection.connect_tcp.started"], RequestNotSent),
        (
            ["connection.connect_tcp.started", "http11.send_request_headers.started"],
            SubmissionUnknown,
        ),
        (["http11.send_request_headers.started"], SubmissionUnknown),
        ([], SubmissionUnknown),
    ],
)
async def test_a_deadline_proves_what_the_transport_told_until_then(
    events: list[str], error: type[Exception]
) -> None:
    http_client = httpx.AsyncClient(transport=StallingTransport(*events))
    retry = RetryPolicy(attempts=1)
    async with (
        http_client,
        AsyncInferenceClient(
            KEY, base_url=BASE_URL, http_client=http_client, retry=retry
        ) as client,
    ):
        with pytest.raises(error):
            await client.submit(a_request())
        assert anyio.current_time() % 60 == pytest.approx(30)


class MisansweredTransport(httpx.AsyncBaseTransport):
    """Reports a bad answer as httpcore does over HTTP/2, once, and a good one from then on."""

    def __init__(self) -> None:
        self.asked = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        if self.asked > 1:
            return httpx.Response(200, json={**JOB, "status": "Finished"})
        for event in ("send_request_headers.started", "send_request_headers.complete"):
            await request.extensions["trace"](f"http2.{event}", {})
        raise httpx.LocalProtocolError("Error decoding header block")


async def test_a_bad_answer_over_http2_is_no_bad_request() -> None:
    async with (
        httpx.AsyncClient(transport=MisansweredTransport()) as http_client,
        AsyncInferenceClient(
            KEY, base_url=BASE_URL, http_client=http_client, retry=RetryPolicy(attempts=1)
        ) as client,
    ):
        with pytest.raises(NoResponse, match="Error decoding header block"):
            await client.get_job(12)
    async with (
        httpx.AsyncClient(transport=MisansweredTransport()) as http_client,
        AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=http_client) as client,
    ):
        assert (await client.wait(12)).state is JobState.FINISHED


async def test_an_unknown_status_word_is_kept_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pausing = httpx.Response(200, json={**JOB, "status": "Pausing\x1b[31m"})
    done = httpx.Response(200, json={**JOB, "status": "COMPLETE"})
    http_client, _ = answering(pausing, pausing, pausing, done)
    async with (
        http_client,
        AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=http_client) as client,
    ):
        assert (await client.get_job(12)).state is JobState.UNKNOWN
        job = await client.wait(12, schedule=FixedInterval(1.0))
    assert (job.status, job.state) == ("COMPLETE", JobState.FINISHED)
    warnings = [line for line in caplog.messages if "Pausing" in line]
    assert warnings == ["Status 'Pausing [31m' is not known; it is not taken for an end."]


async def test_of_very_many_unknown_status_words_the_first_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    words = [httpx.Response(200, json={**JOB, "status": f"W{number}"}) for number in range(150)]
    http_client, _ = answering(*words)
    async with (
        http_client,
        AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=http_client) as client,
    ):
        for number in range(150):
            assert (await client.get_job(12)).status == f"W{number}"
    told = [line for line in caplog.records if "is not known" in line.getMessage()]
    assert len(told) == 100
    assert {line.__dict__["inference_job_id"] for line in told} == {12}


async def test_wait_returns_an_errored_job_as_it_does_a_finished_one() -> None:
    async with in_process(an_emulator(error_share=1.0)) as client:
        job = await client.wait(await client.submit(a_request()))
    assert job.state is JobState.ERRORED


async def test_wait_gives_up_after_its_timeout_with_the_last_job() -> None:
    async with in_process(an_emulator(base_seconds=1e5)) as client:
        job = await client.submit(a_request())
        began = anyio.current_time()
        with pytest.raises(WaitTimeout) as timed_out:
            await client.wait(job, timeout=90)
        assert anyio.current_time() - began == pytest.approx(90)
    assert timed_out.value.job is not None
    assert timed_out.value.job.state is JobState.RUNNING


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), True, "90"])
async def test_a_time_to_wait_that_makes_no_sense_is_refused(timeout: Any) -> None:
    client = AsyncInferenceClient(KEY)
    with pytest.raises(
        ValueError, match=f"^timeout is {timeout}, not a positive number of seconds"
    ):
        await client.wait(1, timeout=timeout)


async def test_wait_for_an_unknown_id_is_lost_and_not_found() -> None:
    async with in_process(an_emulator()) as client:
        with pytest.raises(JobNotFound):
            await client.wait(99)


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
async def test_clients_of_both_libraries_are_taken_and_left_open(library: str) -> None:
    app, auth = an_emulator().app, ("somebody", "else")
    http_client: httpx.AsyncClient | httpx2.AsyncClient
    if library == "httpx":
        http_client = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), auth=auth)
    else:
        http_client = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), auth=auth)
    async with http_client:
        async with AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=http_client) as client:
            job = await client.wait(await client.submit(a_request()))
            assert job.state is JobState.FINISHED
        assert not http_client.is_closed
        assert KEY not in str(http_client.headers)
        client = AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=http_client)
    async with client:
        with pytest.raises(NotOpen, match="http_client that this client was given is closed"):
            await client.get_job(1)


async def test_what_your_own_http_client_raises_is_yours() -> None:
    async def refuse(_: httpx.Request) -> None:
        raise LookupError("not today")

    http_client, _ = answering(httpx.Response(200, json=JOB))
    http_client.event_hooks["request"] = [refuse]
    async with (
        http_client,
        AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=http_client) as client,
    ):
        with pytest.raises(LookupError, match="not today"):
            await client.get_job(12)


async def test_two_clients_in_one_loop_do_not_mix() -> None:
    one, other = an_emulator(), an_emulator(error_share=1.0)
    async with in_process(one) as first, in_process(other) as second:
        job, job_too = await first.submit(a_request()), await second.submit(a_request())
        assert (await first.wait(job)).state is JobState.FINISHED
        assert (await second.wait(job_too)).state is JobState.ERRORED


async def test_a_client_can_be_opened_again() -> None:
    client = AsyncInferenceClient(KEY)
    for _ in range(2):
        async with client:
            pass
        with pytest.raises(NotOpen, match="async with AsyncInferenceClient"):
            await client.get_job(1)


@pytest.mark.sockets
async def test_closing_the_client_under_a_request_is_a_clear_error() -> None:
    with raw_server(lambda connection: connection.recv(1)) as server:
        client = AsyncInferenceClient(KEY, base_url=server.base_url)

        async def ask() -> None:
            with pytest.raises(NotOpen, match="closed while a request"):
                await client.get_job(1)

        async with anyio.create_task_group() as tasks, client:
            tasks.start_soon(ask)
            await server.wait_for_request()


def test_key_and_base_url_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANNOLAB_API_KEY", KEY)
    assert repr(AsyncInferenceClient()) == "AsyncInferenceClient(base_url='https://api.annolab.ai')"
    monkeypatch.setenv("ANNOLAB_BASE_URL", "http://localhost:8000/annolab/")
    assert (
        repr(AsyncInferenceClient())
        == "AsyncInferenceClient(base_url='http://localhost:8000/annolab')"
    )
    monkeypatch.setenv("ANNOLAB_BASE_URL", "")
    assert repr(AsyncInferenceClient()) == "AsyncInferenceClient(base_url='https://api.annolab.ai')"
    named = AsyncInferenceClient(base_url="https://elsewhere.example")
    assert repr(named) == "AsyncInferenceClient(base_url='https://elsewhere.example')"


def test_an_empty_base_url_is_refused_and_not_taken_for_none() -> None:
    with pytest.raises(ConfigurationError, match="base_url must look like"):
        AsyncInferenceClient(KEY, base_url="")


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"retry": 3}, r"retry is 3, not a policy such as RetryPolicy\("),
        ({"rate_limit": 10}, r"rate_limit is 10, not a bound such as RateLimit\("),
        ({"hooks": None}, "hooks is None, not a list"),
        ({"hooks": 5}, "hooks is 5, not a list"),
    ],
)
def test_options_of_another_type_are_refused_at_construction(
    options: dict[str, Any], fault: str
) -> None:
    with pytest.raises(ConfigurationError, match=fault):
        AsyncInferenceClient(KEY, **options)


async def test_what_is_no_request_is_refused_before_anything_is_sent() -> None:
    emulator = an_emulator()
    async with in_process(emulator) as client:
        with pytest.raises(TypeError, match="request is a dict, not an InferenceRequest"):
            await client.submit({"groupName": "Company Name"})  # type: ignore[arg-type]  # that is the point
    assert emulator.stats.requests == 0


def test_without_a_key_there_is_no_client() -> None:
    with pytest.raises(ConfigurationError, match="set ANNOLAB_API_KEY"):
        AsyncInferenceClient()


def test_a_client_that_was_never_finished_can_be_shown() -> None:
    client = AsyncInferenceClient.__new__(AsyncInferenceClient)
    with pytest.raises(ConfigurationError):
        client.__init__("")  # type: ignore[misc]  # as what shows the local variables of a traceback finds it
    assert repr(client) == "AsyncInferenceClient(base_url='?')"


async def test_waiting_for_one_job_takes_one_task_that_polls() -> None:
    async with in_process(an_emulator()) as client, anyio.create_task_group() as tasks:
        job = await client.submit(a_request())
        before = task_count()
        tasks.start_soon(client.wait, job)
        await anyio.sleep(1)
        # Who waits, the watcher's two of its own, and the one.
        assert task_count() - before == 4


def test_a_key_that_is_no_text_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="api_key is a int"):
        AsyncInferenceClient(123)  # type: ignore[arg-type]  # that is the point


def test_no_local_variable_of_a_failure_shows_the_key() -> None:
    http_client, _ = answering(httpx.Response(401, json={"message": "no"}))

    async def ask() -> None:
        async with AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=http_client) as client:
            await client.get_job(12)

    try:
        anyio.run(ask)
    except AuthenticationError as error:
        shown = traceback.TracebackException.from_exception(error, capture_locals=True).format()
        assert KEY not in "".join(line for line in shown if "tests" not in line)


@pytest.mark.parametrize("key", ["SECRET\n", "SECRET KEY", "SECRÉT", "SECRET\0", " SECRET"])
def test_a_key_that_cannot_be_one_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        AsyncInferenceClient(key)
    assert "SECR" not in str(refused.value)


@pytest.mark.parametrize(
    "base_url",
    [
        "api.annolab.ai",
        "ftp://api.annolab.ai",
        "https://",
        "https://user:SECRET@api.annolab.ai",
        "https://api.annolab.ai?key=SECRET",
        "https://api.annolab.ai/#top",
        "https://api.annolab.ai:port",
        "https://api.annolab.ai:99999",
        "https://api.annolab.ai?",
    ],
)
def test_a_base_url_that_cannot_be_one_is_refused(base_url: str) -> None:
    with pytest.raises(ConfigurationError, match="base_url") as refused:
        AsyncInferenceClient(KEY, base_url=base_url)
    assert "SECRET" not in str(refused.value)


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": float("nan")},
        {"timeout": None},
        {"timeout": httpx.Timeout(5)},
        {"max_connections": 0},
        {"max_connections": 2.5},
        {"max_connections": True},
        {"inference_path": "/v1/infer?x=1"},
        {"inference_path": "/v1/../admin"},
        {"inference_path": "/v1/infer#top"},
        {"inference_path": "/v1/infer\n"},
        {"inference_path": None},
        {"inference_path": ""},
        {"http_client": object()},
        {"base_url": 12},
        {"transport": "carrier pigeon"},
        {"transport": "aiohttp", "http_client": httpx.AsyncClient()},
    ],
)
def test_senseless_options_are_refused_at_construction(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        AsyncInferenceClient(KEY, **options)  # type: ignore[arg-type]  # that is the point


def test_aiohttp_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("annolab_async._http._transports.has_aiohttp", lambda: False)
    with pytest.raises(ConfigurationError, match=r"pip install 'annolab-async\[aiohttp\]'"):
        AsyncInferenceClient(KEY, transport="aiohttp")
    AsyncInferenceClient(KEY, transport="auto")


def test_a_sync_http_client_is_refused() -> None:
    with httpx.Client() as sync_client, pytest.raises(ConfigurationError, match="AsyncClient"):
        AsyncInferenceClient(KEY, http_client=sync_client)  # type: ignore[arg-type]  # that is the point


def test_nothing_is_logged_without_being_asked_for() -> None:
    assert any(
        isinstance(handler, logging.NullHandler)
        for handler in logging.getLogger("annolab_async").handlers
    )
