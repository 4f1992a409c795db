"""Submissions and polls that go wrong as a test has planned it."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest

from annolab_async import (
    AsyncInferenceClient,
    InvalidResponse,
    JobIdLost,
    NoResponse,
    RateLimited,
    RetryPolicy,
    ServerError,
    SubmissionUnknown,
)
from annolab_async.emulator import BadReply, EmulatorServer, Fault
from annolab_async.testing import client_of, new_emulator
from tests.service import a_request

pytestmark = [pytest.mark.anyio, pytest.mark.any_backend]
ONCE = RetryPolicy(attempts=1)


async def test_a_submission_whose_answer_is_lost_has_made_its_job() -> None:
    emulator = new_emulator()
    emulator.plan_submits(BadReply(is_lost=True))
    async with client_of(emulator) as client:
        with pytest.raises(SubmissionUnknown):
            await client.submit(a_request())
        assert (await client.submit(a_request())).inference_job_id == 2
    assert [(each.fault, each.inference_job_id) for each in emulator.mishaps] == [
        (Fault.CLOSED_AFTER_PROCESSING, 1)
    ]


async def test_a_submission_that_is_dropped_has_made_none() -> None:
    emulator = new_emulator()
    emulator.plan_submits(BadReply(is_dropped=True))
    async with client_of(emulator) as client:
        with pytest.raises(SubmissionUnknown):
            await client.submit(a_request())
    assert not emulator.jobs
    assert emulator.mishaps[0].fault is Fault.RESET


async def test_a_refused_submission_is_sent_again_after_the_time_that_was_asked_for() -> None:
    emulator = new_emulator()
    emulator.plan_submits(BadReply(status_code=503, retry_after=20), None)
    async with client_of(emulator) as client:
        job = await client.submit(a_request())
        await client.submit(a_request())
    assert job.inference_job_id == 1
    assert emulator.job(1).submitted_at >= 20
    assert [each.status_code for each in emulator.requests] == [503, 200, 200]
    assert emulator.mishaps[0].retry_after == 20


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (BadReply(status_code=500), ServerError),
        (BadReply(status_code=429), RateLimited),
        (BadReply(body=b"<html>"), InvalidResponse),
        (BadReply(status_code=502, body=b"<html>"), ServerError),
        (BadReply(is_dropped=True), NoResponse),
        (BadReply(is_lost=True), NoResponse),
        (BadReply(cut_after=7), NoResponse),
        (BadReply(delay=31), NoResponse),
    ],
)
async def test_a_poll_goes_wrong_as_planned_and_the_job_knows_nothing_of_it(
    bad: BadReply, error: type[Exception]
) -> None:
    emulator = new_emulator()
    emulator.script(1, ["Queued", "Finished"])
    emulator.plan_polls(bad)
    async with client_of(emulator, retry=ONCE) as client:
        await client.submit(a_request())
        with pytest.raises(error):
            await client.get_job(1)
        expected = "Finished" if bad.delay else "Queued"  # the slow one was answered
        assert (await client.get_job(1)).status == expected
    assert emulator.job(1).polls == (2 if bad.delay else 1)
    assert not emulator.mishaps


async def test_the_polls_of_one_job_go_wrong_and_no_others() -> None:
    emulator = new_emulator()
    emulator.plan_polls(BadReply(status_code=500), job_id=2)
    emulator.plan_polls(BadReply(status_code=404), None)
    async with client_of(emulator, retry=ONCE) as client:
        for _ in range(2):
            await client.submit(a_request())
        with pytest.raises(ServerError):
            await client.get_job(2)
        with pytest.raises(Exception, match="404"):
            await client.get_job(1)
        await client.get_job(1)
        assert emulator.planned == 0


async def test_an_hour_of_outage_costs_no_job() -> None:
    emulator = new_emulator()
    emulator.script(1, {0: "Queued", 60: "Finished"})
    emulator.plan_polls(*[BadReply(status_code=503, retry_after=600)] * 6)
    async with client_of(emulator) as client:
        job = await client.submit(a_request())
        async with client.watch([job], failure_budget=7200) as watcher:
            ended = await watcher.wait(job)
    assert ended.status == "Finished"
    assert anyio.current_time() >= 3600


async def test_a_slow_answer_comes_late_but_its_job_is_made_at_once() -> None:
    emulator = new_emulator()
    emulator.plan_submits(BadReply(delay=10), BadReply(delay=40))
    async with client_of(emulator) as client:
        await client.submit(a_request())
        assert anyio.current_time() >= 10
        with pytest.raises(SubmissionUnknown):
            await client.submit(a_request())
    assert [job.submitted_at for job in emulator.jobs.values()] == [0, 10]


async def test_a_body_of_ones_own_takes_the_place_of_the_right_one() -> None:
    emulator = new_emulator()
    emulator.plan_submits(BadReply(body=b'{"status": "Queued"}'))
    async with client_of(emulator) as client:
        with pytest.raises(JobIdLost):
            await client.submit(a_request())
    assert list(emulator.jobs) == [1]


async def test_what_is_planned_goes_before_chance_and_can_be_forgotten() -> None:
    emulator = new_emulator()
    emulator.plan_submits(None, BadReply(status_code=500))
    emulator.plan_polls(BadReply(status_code=500), job_id=7)
    assert emulator.planned == 2
    emulator.forget_plans()
    assert emulator.planned == 0
    async with client_of(emulator) as client:
        await client.submit(a_request())
        await client.submit(a_request())


@pytest.mark.sockets
@pytest.mark.parametrize("cut_after", [0, 10, 120])
async def test_on_a_socket_an_answer_breaks_off_at_that_byte(cut_after: int) -> None:
    emulator = new_emulator()
    emulator.plan_polls(BadReply(cut_after=cut_after))
    async with EmulatorServer(emulator) as server:
        async with AsyncInferenceClient(emulator.api_key, base_url=server.base_url) as client:
            await client.submit(a_request())
        stream = await anyio.connect_tcp("127.0.0.1", int(server.base_url.rpartition(":")[2]))
        async with stream:
            head = f"GET /v1/infer/batch/1 HTTP/1.1\r\nHost: x\r\nAuthorization: Api-Key {emulator.api_key}\r\n\r\n"
            await stream.send(head.encode())
            received = b"".join([part async for part in stream])
    assert len(received) == cut_after
    assert emulator.requests[-1].status_code is None


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ({}, "nothing is wrong"),
        ({"status_code": 99}, "from 200 to 599"),
        ({"status_code": "503"}, "from 200 to 599"),
        ({"retry_after": 5}, "needs a status_code"),
        ({"status_code": 503, "retry_after": 0.5}, "retry_after must"),
        ({"cut_after": -1}, "cut_after must"),
        ({"delay": -1}, "delay must"),
        ({"delay": float("nan")}, "delay must"),
        ({"body": "text"}, "body must"),
        ({"is_lost": True, "is_dropped": True}, "only one"),
        ({"is_lost": True, "status_code": 500}, "only one"),
        ({"cut_after": 5, "body": b""}, "only one"),
    ],
)
async def test_what_cannot_go_wrong_is_refused(wrong: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        BadReply(**wrong)


async def test_a_plan_is_made_of_bad_replies() -> None:
    plans: list[Any] = [503]
    with pytest.raises(TypeError, match=r"BadReply\(\.\.\.\) and None, not 503"):
        new_emulator().plan_submits(*plans)
    with pytest.raises(TypeError, match=r"BadReply\(\.\.\.\) and None, not 503"):
        new_emulator().plan_polls(*plans)


async def test_requests_are_remembered_without_the_key() -> None:
    emulator = new_emulator()
    async with client_of(emulator) as client:
        await client.submit(a_request())
        await anyio.sleep(9)
        await client.get_job(1)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=emulator.app)) as stranger:
        url, headers = "http://x/v1/infer/batch", {"X-Key": emulator.api_key}
        await stranger.post(url, content=f'["{emulator.api_key}"]', headers=headers)
        await stranger.post(url, content=b"\xff")
        await stranger.post(f"{url}/{emulator.api_key}")
    submit, poll, odd, odder, oddest = emulator.requests
    assert (submit.method, submit.path) == ("POST", "/v1/infer/batch")
    assert submit.json["sourceIds"] == [1, 2]
    assert submit.headers["authorization"] == "Api-Key ***"
    assert (submit.is_authorized, submit.status_code, submit.at) == (True, 200, 0)
    assert (poll.method, poll.path, poll.json, poll.at) == ("GET", "/v1/infer/batch/1", None, 9)
    assert (odd.json, odd.headers["x-key"]) == (["***"], "***")
    assert (odd.is_authorized, odd.status_code, odder.json) == (False, 401, None)
    assert (oddest.path, oddest.status_code) == ("/v1/infer/batch/***", 405)
    assert emulator.api_key not in repr(emulator.requests)


async def test_a_request_that_got_no_answer_has_no_status() -> None:
    emulator = new_emulator()
    emulator.plan_submits(BadReply(is_lost=True))
    async with client_of(emulator) as client:
        with pytest.raises(SubmissionUnknown):
            await client.submit(a_request())
    assert emulator.requests[0].status_code is None


async def test_what_is_no_request_is_passed_on() -> None:
    sent: list[Any] = []
    received = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> Any:
        await anyio.lowlevel.checkpoint()
        return {"type": next(received)}

    async def send(message: Any) -> None:
        await anyio.lowlevel.checkpoint()
        sent.append(message["type"])

    emulator = new_emulator()
    await emulator.app({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert not emulator.requests


async def test_only_the_latest_requests_are_remembered() -> None:
    emulator = new_emulator(keep_requests=2)
    async with client_of(emulator) as client:
        for size in (1, 2, 3):
            await client.submit(a_request(size=size))
    assert [request.json["sourceIds"] for request in emulator.requests] == [[1, 2], [1, 2, 3]]
