"""The FastAPI example as it is run: a real uvicorn, real sockets, clients that come and go."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastapi.routing
import httpx
import pytest
from attrs import evolve

from annolab_async import NoResponse, RequestNotSent, WaitTimeout
from annolab_async.emulator import BadReply
from docs.examples.fastapi_service import board as boards
from docs.examples.fastapi_service.answers import explain
from tests.examples.running import Running, messages, running, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from annolab_async.emulator import Emulator, EmulatorServer

pytestmark = [pytest.mark.sockets, pytest.mark.full]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def service(annolab_server: EmulatorServer) -> Iterator[Running]:
    assert annolab_server.base_url
    with running() as it:
        yield it


@pytest.fixture
def api(service: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=20) as client:
        yield client


def test_a_batch_is_submitted_and_waited_for(annolab_emulator: Emulator, api: httpx.Client) -> None:
    annolab_emulator.script(1, ["Running", "Finished"])
    answer = api.post("/jobs", json=[4024, 5853])
    assert answer.status_code == 202
    assert answer.json() == {"job_id": 1, "status": "Queued"}
    assert annolab_emulator.job(1).source_ids == (4024, 5853)
    where = answer.headers["Location"]
    early = api.get(where, params={"seconds": 0})
    assert (early.status_code, early.json()["job_id"]) == (202, 1)
    ended = api.get(where)
    assert (ended.status_code, ended.json()) == (200, {"job_id": 1, "status": "Finished"})
    assert api.get(where, params={"seconds": 61}).status_code == 422


def test_a_stream_tells_each_status_once_and_ends_with_the_job(
    annolab_emulator: Emulator, api: httpx.Client
) -> None:
    annolab_emulator.script(1, ["Queued", "Running", "Running", "Errored"])
    where = api.post("/jobs", json=[1]).headers["Location"] + "/events"
    with api.stream("GET", where) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        told = list(messages(stream))
    assert [each["status"] for each in told] == ["Queued", "Running", "Errored"]
    assert [each["outcome"] for each in told] == [None, None, "errored"]
    with api.stream("GET", where) as stream:
        assert list(messages(stream)) == told, "who comes late is told all of it"
    with api.stream("GET", where, headers={"Last-Event-ID": told[0]["id"]}) as stream:
        assert list(messages(stream)) == told[1:], "who comes again, what is new"
    over = api.get(where, headers={"Last-Event-ID": told[-1]["id"]})
    assert (over.status_code, over.content) == (204, b""), "a browser does not come again"
    for unknown in ("soon", "2026-01-01T00:00:00"):
        assert api.get(where, headers={"Last-Event-ID": unknown}).status_code == 422


def test_one_watcher_asks_for_all_who_look_on(
    annolab_emulator: Emulator, api: httpx.Client
) -> None:
    annolab_emulator.script(1, ["Queued", "Running", "Finished"])
    where = api.post("/jobs", json=[1]).headers["Location"]
    told: list[list[Any]] = []

    def look_on() -> None:
        with api.stream("GET", f"{where}/events") as stream:
            told.append(list(messages(stream)))

    lookers = [threading.Thread(target=look_on) for _ in range(20)]
    for looker in lookers:
        looker.start()
    for looker in lookers:
        looker.join(20)
    assert len(told) == 20
    assert all(each == told[0] for each in told)
    assert annolab_emulator.job(1).polls == 3


def test_a_job_of_an_earlier_life_is_found_by_its_id(
    annolab_emulator: Emulator, annolab_server: EmulatorServer
) -> None:
    assert annolab_server.base_url
    annolab_emulator.script(1, ["Queued", "Running", "Finished"])
    with running() as first:
        where = httpx.post(f"{first.url}/jobs", json=[1]).headers["Location"]
        with httpx.stream("GET", f"{first.url}{where}/events") as stream:
            seen = next(messages(stream))
    assert seen["status"] == "Queued"
    headers = {"Last-Event-ID": seen["id"]}
    with (
        running() as second,
        httpx.stream("GET", f"{second.url}{where}/events", headers=headers) as stream,
    ):
        assert [each["status"] for each in messages(stream)] == ["Running", "Finished"]


@pytest.mark.parametrize(
    ("bad", "status_code", "retry_after"),
    [
        (BadReply(is_lost=True), 409, None),
        (BadReply(body=b"<html>"), 409, None),
        (BadReply(status_code=429, retry_after=100), 503, "100"),
        (BadReply(status_code=400), 422, None),
        (BadReply(status_code=404), 404, None),
        (BadReply(status_code=401), 500, None),
        (BadReply(status_code=403), 500, None),
        (BadReply(body=b'{"inferenceJobId": 1}'), 502, None),
    ],
)
def test_what_goes_wrong_with_a_submission_is_told_in_http(
    annolab_emulator: Emulator,
    api: httpx.Client,
    bad: BadReply,
    status_code: int,
    retry_after: str | None,
) -> None:
    annolab_emulator.plan_submits(bad)
    answer = api.post("/jobs", json=[4024])
    assert answer.status_code == status_code, answer.text
    assert answer.headers.get("Retry-After") == retry_after
    assert answer.json()["detail"]
    assert annolab_emulator.api_key not in answer.text
    if status_code == 409:
        assert answer.json()["job_may_exist"]
        assert answer.json()["source_ids"] == [4024]
    assert annolab_emulator.stats.submits == 1, "nothing was sent again"


@pytest.mark.parametrize("ids", [[], [0], [1, 1], ["x"], "1"])
def test_what_is_no_batch_is_refused_before_it_is_sent(
    annolab_emulator: Emulator, api: httpx.Client, ids: Any
) -> None:
    assert api.post("/jobs", json=ids).status_code == 422
    assert annolab_emulator.stats.submits == 0


def test_errors_that_no_local_server_makes_have_their_answers_too() -> None:
    request: Any = None
    cause = OSError("unreachable")
    not_sent = explain(request, RequestNotSent(method="POST", path="/x", cause=cause))
    assert (not_sent.status_code, not_sent.headers["Retry-After"]) == (503, "5")
    late = explain(request, WaitTimeout(inference_job_id=1, job=None, timeout=5))
    assert late.status_code == 504
    assert explain(request, NoResponse(method="GET", path="/x", cause=cause)).status_code == 502


def test_a_job_that_nobody_knows_is_not_found(api: httpx.Client) -> None:
    assert api.get("/jobs/99").status_code == 404
    assert api.get("/jobs/99/events").status_code == 404
    assert api.get("/jobs/0").status_code == 422
    assert api.get("/jobs/x/events").status_code == 422


def test_clients_that_go_leave_no_task_behind(
    annolab_emulator: Emulator, service: Running, api: httpx.Client
) -> None:
    annolab_emulator.script(1, ["Queued"])
    where = api.post("/jobs", json=[1]).headers["Location"]
    until(lambda: annolab_emulator.job(1).polls > 0)
    before = service.tasks()
    host = service.url.removeprefix("http://")
    gone: list[socket.socket] = []
    for path in [f"{where}/events", f"{where}?seconds=60"] * 10:
        connection = socket.create_connection(("127.0.0.1", int(host.rpartition(":")[2])))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        gone.append(connection)
    for connection in gone[::2]:
        assert connection.recv(15) == b"HTTP/1.1 200 OK"
    until(lambda: len(service.board.waits) == 10)
    assert service.tasks() > before + 20
    for connection in gone:
        connection.close()
    until(lambda: service.tasks() <= before)
    assert not service.board.waits


def test_a_reader_that_is_slow_holds_up_nobody_and_misses_nothing(
    annolab_emulator: Emulator, service: Running, api: httpx.Client
) -> None:
    annolab_emulator.script(1, ["Queued"])
    where = api.post("/jobs", json=[1]).headers["Location"] + "/events"
    until(lambda: bool(service.board.stories[1].told))
    before = service.tasks()
    host = service.url.removeprefix("http://")
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", int(host.rpartition(":")[2])))
        slow.sendall(f"GET {where} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        until(lambda: service.tasks() > before)
        # More than all buffers on the way hold.
        first = service.board.stories[1].told[0]
        assert first.job
        job = evolve(first.job, status="x" * 10_000)
        more = [
            evolve(first, job=job, observed_at=first.observed_at + timedelta(milliseconds=number))
            for number in range(1, 301)
        ]
        service.call(service.board.stories[1].go_on, *more)
        with api.stream("GET", where) as stream:
            told = messages(stream)
            assert len([next(told) for _ in range(301)]) == 301
        annolab_emulator.script(2, ["Finished"])
        another = api.post("/jobs", json=[2]).headers["Location"]
        assert api.get(another).json()["status"] == "Finished"
        slow.settimeout(20)
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1_000_000)
        received = b""
        while received.count(b"data: ") < 301:
            received += slow.recv(1_000_000)
    until(lambda: service.tasks() <= before)


def test_a_stop_ends_streams_and_waits_at_once(
    annolab_emulator: Emulator, service: Running, api: httpx.Client
) -> None:
    annolab_emulator.script(1, ["Queued"])
    where = api.post("/jobs", json=[1]).headers["Location"]
    answers: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: answers.append(api.get(where)))
    waiting.start()
    with api.stream("GET", f"{where}/events") as stream:
        told = messages(stream)
        assert next(told)["status"] == "Queued"
        until(lambda: len(service.board.waits) == 1)
        seconds = service.stop()
        assert list(told) == [], "the stream ends whole"
    waiting.join(20)
    assert (answers[0].status_code, answers[0].json()["status"]) == (202, "Queued")
    assert seconds < 5


def test_a_quiet_stream_is_kept_alive(
    annolab_emulator: Emulator, api: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastapi.routing, "_PING_INTERVAL", 0.05)
    annolab_emulator.script(1, ["Queued"])
    where = api.post("/jobs", json=[1]).headers["Location"]
    with api.stream("GET", f"{where}/events") as stream:
        assert ": ping" in stream.iter_lines()


@pytest.mark.annolab_emulator(base_seconds=0, seconds_per_source=0)
def test_of_ended_jobs_only_the_latest_are_kept_and_older_ones_found_again(
    annolab_emulator: Emulator,
    service: Running,
    api: httpx.Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(boards, "KEPT", 2)
    for _ in range(4):
        where = api.post("/jobs", json=[1]).headers["Location"]
        assert api.get(where).status_code == 200
    until(lambda: list(service.board.stories) == [3, 4])
    polls = annolab_emulator.job(1).polls
    assert api.get("/jobs/1").json() == {"job_id": 1, "status": "Finished"}
    assert annolab_emulator.job(1).polls == polls + 1


def test_a_key_that_is_refused_is_told_to_everyone(
    annolab_server: EmulatorServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert annolab_server.base_url
    monkeypatch.setenv("ANNOLAB_API_KEY", "XXXXXXX-XXXXXXX-XXXXXXX-WRONGXX")
    with running() as it, caplog.at_level(logging.ERROR):
        assert httpx.post(f"{it.url}/jobs", json=[1]).status_code == 500
        assert httpx.get(f"{it.url}/jobs/1", timeout=20).status_code == 500
        assert httpx.get(f"{it.url}/jobs/1/events").status_code == 500
    assert "no job can be watched any more" in caplog.text


def test_a_key_that_is_withdrawn_ends_the_streams(
    annolab_emulator: Emulator, api: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    annolab_emulator.script(1, ["Queued"])
    where = api.post("/jobs", json=[1]).headers["Location"] + "/events"
    with api.stream("GET", where) as stream:
        told = messages(stream)
        assert next(told)["status"] == "Queued"
        annolab_emulator.plan_polls(*[BadReply(status_code=401)] * 10)
        assert list(told) == []
    annolab_emulator.forget_plans()
    assert api.get(where).status_code == 500
    assert "no job can be watched any more" in caplog.text


def test_as_a_process_it_ends_promptly_when_it_is_told_to(
    annolab_emulator: Emulator, annolab_server: EmulatorServer
) -> None:
    assert annolab_server.base_url
    annolab_emulator.script(1, ["Queued"])
    with subprocess.Popen(
        [sys.executable, "-m", "fastapi_service.app"],
        cwd=ROOT / "docs" / "examples",
        env=os.environ | {"PORT": "0"},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        url = next(
            found[0] for line in process.stderr if (found := re.search(r"http://[\d.:]+", line))
        )
        where = httpx.post(f"{url}/jobs", json=[1]).headers["Location"]
        with httpx.stream("GET", f"{url}{where}/events", timeout=20) as stream:
            told = messages(stream)
            assert next(told)["status"] == "Queued"
            begun = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert list(told) == []
        errors = process.stderr.read()
    assert time.monotonic() - begun < 20, "it waited for the stream to end by itself"
    assert process.returncode in {0, -signal.SIGTERM}
    assert "Traceback" not in errors
    assert "Application shutdown complete" in errors
