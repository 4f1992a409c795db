"""The ASGI app in-process, on both backends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import httpx
import pytest

from annolab_async.emulator import Emulator, _app

if TYPE_CHECKING:
    from starlette.types import Message

pytestmark = [pytest.mark.anyio, pytest.mark.any_backend]

KEY = "XXXXXXX-XXXXXXX-XXXXXXX-XXXXXXX"
HEADERS = {"Authorization": f"Api-Key {KEY}"}
PATHS = ("/v1/infer/batch", "/v1/model/infer/batch")
PATH = PATHS[0]
BODY: dict[str, Any] = {
    "groupName": "Company Name",
    "projectIdentifier": "My Project",
    "sourceIds": [4024, 5853],
    "modelIdentifier": "Staple + Classify Documents",
    "outputLayerIdentifier": "Gold Set",
}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def client_for(emulator: Emulator, **options: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=emulator.app)
    options = {"headers": HEADERS} | options
    return httpx.AsyncClient(transport=transport, base_url="http://emulator", **options)


@pytest.mark.parametrize("path", PATHS)
async def test_a_job_goes_its_way_on_both_paths(path: str) -> None:
    clock = Clock()
    emulator = Emulator(clock=clock, workers=1)
    async with client_for(emulator) as client:
        await client.post(path, json=BODY)
        created = await client.post(path, json=BODY)
        assert created.status_code == 200
        assert created.headers["content-type"] == "application/json"
        assert created.json() == {
            "inferenceJobId": 2,
            "status": "Queued",
            "projectName": "My Project",
            "projectId": 2,
            "outputLayerName": "Gold Set",
            "outputLayerId": 12,
            "sourceIds": [4024, 5853],
        }
        shown: list[Any] = []
        job = emulator.job(2)
        for clock.now in (0.0, job.started_at, job.ended_at):
            shown.append((await client.get(f"{path}/2")).json())
    assert [answer["status"] for answer in shown] == ["Queued", "Running", "Finished"]
    assert shown[0] == {
        "inferenceJobId": 2,
        "status": "Queued",
        "projectId": 2,
        "sourceIds": [4024, 5853],
    }
    assert emulator.job(2).statuses_shown == ("Queued", "Running", "Finished")
    assert emulator.job(2).terminal_answers == 1


async def test_both_paths_know_the_same_jobs() -> None:
    async with client_for(Emulator()) as client:
        await client.post(PATHS[0], json=BODY)
        assert (await client.get(f"{PATHS[1]}/1")).status_code == 200


async def test_the_clock_of_the_emulator_is_read_at_each_request() -> None:
    clock = Clock()
    clock.now = 123.0
    emulator = Emulator(clock=clock)
    async with client_for(emulator) as client:
        await client.post(PATH, json=BODY)
    assert emulator.job(1).submitted_at == 123.0


async def test_a_poll_with_a_body_is_answered_like_any_other() -> None:
    async with client_for(Emulator()) as client:
        await client.post(PATH, json=BODY)
        answer = await client.request("GET", f"{PATH}/1", json=BODY)
        assert (answer.status_code, answer.json()["inferenceJobId"]) == (200, 1)


@pytest.mark.parametrize(
    ("method", "path", "status_code", "told"),
    [
        ("GET", f"{PATH}/7", 404, "inference job '7'"),
        ("GET", f"{PATH}/abc", 404, "inference job 'abc'"),
        ("GET", f"{PATH}/1.5", 404, "inference job '1.5'"),
        ("GET", f"{PATH}/1/more", 404, f"{PATH}/1/more"),
        ("GET", f"{PATH}/", 404, f"{PATH}/"),
        ("POST", f"{PATH}/", 404, f"{PATH}/"),
        ("GET", "/", 404, "GET /"),
        ("GET", "/v2/infer/batch/1", 404, "/v2/infer/batch/1"),
        ("GET", PATH, 405, f"GET {PATH}"),
        ("DELETE", f"{PATH}/1", 405, f"DELETE {PATH}/1"),
        ("POST", f"{PATHS[1]}/1", 405, f"POST {PATHS[1]}/1"),
        ("POST", PATH, 400, "not JSON"),
    ],
)
async def test_refusals_are_json_with_a_message(
    method: str, path: str, status_code: int, told: str
) -> None:
    emulator = Emulator()
    async with client_for(emulator) as client:
        answer = await client.request(method, path)
    assert answer.status_code == status_code
    assert answer.headers["content-type"] == "application/json"
    assert told in answer.json()["message"]
    assert emulator.stats.requests == 1


async def test_a_wrong_method_is_told_the_right_ones() -> None:
    async with client_for(Emulator()) as client:
        assert (await client.get(PATH)).headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("header", "status_code"), [("Api-Key nonsense", 401), ("Api-Key weak", 403), (None, 401)]
)
async def test_the_key_is_checked_on_both_calls(header: str | None, status_code: int) -> None:
    emulator = Emulator(api_keys_without_model_run=["weak"])
    async with client_for(emulator) as client:
        await client.post(PATH, json=BODY)
    headers = {"Authorization": header} if header else {}
    async with client_for(emulator, headers=headers) as client:
        assert (await client.post(PATH, json=BODY)).status_code == status_code
        assert (await client.get(f"{PATH}/1")).status_code == status_code
    assert len(emulator.jobs) == 1
    assert emulator.job(1).polls == 0


async def test_a_name_that_is_no_valid_text_is_still_answered() -> None:
    async with client_for(Emulator()) as client:
        answer = await client.post(PATH, content=b'{"groupName": "\\ud800"}')
        assert answer.status_code == 400
        raw = str(BODY | {"groupName": "?"}).replace("'", '"').replace("?", "\\ud800")
        answer = await client.post(PATH, content=raw.encode())
        assert answer.status_code == 404
        assert r"group '\ud800'" in answer.json()["message"]


async def test_traffic_is_counted_by_kind_whatever_the_answer() -> None:
    emulator = Emulator()
    async with client_for(emulator) as client:
        await client.post(PATHS[0], json=BODY)
        await client.post(PATHS[1])
        await client.get(f"{PATHS[0]}/1")
        await client.get(f"{PATHS[1]}/1")
        await client.get(f"{PATHS[1]}/99")
        await client.get("/elsewhere")
        await client.get(PATHS[0])
    stats = emulator.stats
    assert (stats.requests, stats.submits, stats.polls, stats.in_flight) == (7, 2, 3, 0)
    assert (stats.max_in_flight, stats.max_polls_in_flight) == (1, 1)
    assert emulator.job(1).polls == 2


async def test_requests_sent_together_are_seen_in_flight_together() -> None:
    emulator = Emulator()
    async with client_for(emulator) as client, anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(client.get, f"{PATH}/1")
        for _ in range(2):
            group.start_soon(client.post, PATH)
    stats = emulator.stats
    assert (stats.max_in_flight, stats.max_polls_in_flight) == (7, 5)
    assert (stats.in_flight, stats.polls_in_flight) == (0, 0)


async def test_every_answer_takes_the_latency() -> None:
    async with client_for(Emulator(latency=120.0)) as client:
        for method, path in (("POST", PATH), ("GET", f"{PATH}/1"), ("GET", "/nowhere")):
            before = anyio.current_time()
            await client.request(method, path)
            assert anyio.current_time() - before == pytest.approx(120.0)


class Gate:
    """Stands in for the latency: lets the first waits pass, then stops."""

    def __init__(self, passes: int) -> None:
        self.passes = passes
        self.reached = anyio.Event()

    async def sleep(self, _seconds: float) -> None:
        self.passes -= 1
        if self.passes < 0:
            self.reached.set()
            await anyio.sleep_forever()


@pytest.mark.parametrize(("passes", "jobs"), [(0, 0), (1, 1)])
async def test_giving_up_on_the_way_in_makes_no_job_and_on_the_way_back_makes_one(
    passes: int, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(passes)
    monkeypatch.setattr(_app, "anyio", SimpleNamespace(sleep=gate.sleep))
    emulator = Emulator()
    async with client_for(emulator) as client, anyio.create_task_group() as group:

        async def send() -> None:
            await client.post(PATH, json=BODY)

        group.start_soon(send)
        await gate.reached.wait()
        assert emulator.stats.in_flight == 1
        group.cancel_scope.cancel()
    assert len(emulator.jobs) == jobs
    assert emulator.stats.in_flight == 0


@pytest.mark.parametrize(("method", "path"), [("POST", PATH), ("GET", f"{PATH}/1")])
async def test_a_client_that_hangs_up_early_leaves_no_trace(method: str, path: str) -> None:
    emulator = Emulator()
    async with client_for(emulator) as client:
        await client.post(PATH, json=BODY)

    async def receive() -> Message:
        await anyio.lowlevel.checkpoint()
        return {"type": "http.disconnect"}

    async def send(_message: Message) -> None:
        await anyio.lowlevel.checkpoint()

    key = HEADERS["Authorization"].encode()
    scope: dict[str, Any] = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(b"authorization", key)],
    }
    await emulator.app(scope, receive, send)
    assert len(emulator.jobs) == 1
    assert emulator.job(1).polls == 0
    assert emulator.stats.requests == 2
    assert emulator.stats.in_flight == 0


async def test_servers_may_send_lifespan_events() -> None:
    emulator = Emulator(latency=3600)
    events = iter(["lifespan.startup", "lifespan.shutdown"])
    sent: list[str] = []

    async def receive() -> Message:
        await anyio.lowlevel.checkpoint()
        return {"type": next(events)}

    async def send(message: Message) -> None:
        await anyio.lowlevel.checkpoint()
        sent.append(message["type"])

    await emulator.app({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert emulator.stats.requests == 0


async def test_jobs_are_a_snapshot_that_cannot_be_changed() -> None:
    emulator = Emulator()
    async with client_for(emulator) as client:
        before = emulator.jobs
        await client.post(PATH, json=BODY)
    assert dict(before) == {}
    assert list(emulator.jobs) == [1]
    assert emulator.jobs[1] is emulator.job(1)
    assert not hasattr(emulator.jobs, "__setitem__")


async def test_hours_pass_in_no_time_on_a_virtual_clock() -> None:
    emulator = Emulator(clock=anyio.current_time, base_seconds=3600.0, latency=2.0)
    start = anyio.current_time()
    async with client_for(emulator) as client:
        await client.post(PATH, json=BODY)
        while (await client.get(f"{PATH}/1")).json()["status"] != "Finished":  # noqa: ASYNC110
            await anyio.sleep(60)
    elapsed = anyio.current_time() - start
    job = emulator.job(1)
    ran = job.ended_at - job.submitted_at
    assert ran > 1000
    assert ran < elapsed < ran + 70
    assert job.statuses_shown == ("Running", "Finished")
