"""``submit``, against a local AnnoLab."""

from __future__ import annotations

import json
import re
import signal
from typing import TYPE_CHECKING

import anyio
import pytest

from annolab_async import AsyncInferenceClient
from annolab_async.cli import _interrupts
from annolab_async.emulator import BadReply
from tests.cli.conftest import PLAN, Place
from tests.cli.terminal import CTRL_C, until

if TYPE_CHECKING:
    from annolab_async import InferenceJob, InferenceRequest

pytestmark = pytest.mark.sockets


def test_the_job_is_told_and_how_to_watch_it(place: Place) -> None:
    done = place.run("submit", "7", "8", *PLAN)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "job 1 queued, sources 7, 8\n"
    assert done.stderr == "To watch it:\n  annolab-async watch 1\n"
    assert place.emulator.job(1).source_ids == (7, 8)
    assert place.emulator.job(1).output_layer_name == "Gold Set"


def test_sources_come_from_files_and_standard_input_too(place: Place) -> None:
    (place.folder / "sources.csv").write_text("name,source_id\na,3\nb,4\n")
    done = place.call("submit", "sources.csv", "-", *PLAN, given="5\n6\n")
    assert done.stdout == "job 1 queued, sources 3, 4, 5, 6\n"


def test_ids_of_models_and_layers_are_sent_as_such(place: Place) -> None:
    plan = ["--group", "Company Name", "--project", "2", "--model", "1", "--output-layer", "12"]
    assert place.call("submit", "1", *plan).returncode == 0
    assert place.emulator.job(1).model_name == "Staple + Classify Documents"


def test_machines_get_the_job_and_no_prose(place: Place) -> None:
    done = place.call("submit", "7", *PLAN, "--json")
    job = json.loads(done.stdout)
    assert (job["event"], job["inference_job_id"], job["state"]) == ("job", 1, "queued")
    assert (job["project_name"], job["output_layer_id"]) == ("My Project", 12)
    assert not done.stderr


def test_waiting_ends_with_the_job(place: Place) -> None:
    place.emulator.script(1, ["Running", "Finished"])
    done = place.call("submit", "7", *PLAN, "--wait")
    assert done.returncode == 0
    first, *changes, last = done.stdout.splitlines()
    assert first == "job 1 queued, source 7"
    assert [change.split(" after ")[0] for change in changes] == ["job 1 running", "job 1 finished"]
    assert re.fullmatch(r"1 job: 1 finished; 3 requests in 0:0\d\.", last)
    assert not done.stderr
    place.emulator.script(2, ["Errored"])
    assert place.call("submit", "7", *PLAN, "--wait").returncode == 1
    place.emulator.script(3, ["Queued"])
    done = place.call("submit", "7", *PLAN, "--wait", "--timeout", "0.1", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout.splitlines()[-1])["outcomes"] == {"timed_out": 1}


@pytest.mark.parametrize("bad", [BadReply(is_lost=True), BadReply(body=b"<html>\x1b[31m</html>")])
def test_where_nobody_knows_if_there_is_a_job_it_says_so_and_sends_nothing_again(
    bad: BadReply, place: Place
) -> None:
    place.emulator.plan_submits(bad)
    done = place.call("submit", "7", "8", *PLAN)
    assert done.returncode == 1
    assert not done.stdout
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: POST /v1/infer/batch was ")
    assert error.endswith("The job may or may not exist.")
    assert hint.startswith("hint: Look at AnnoLab for a job over sources 7, 8, or for new ")
    assert "layer 'Gold Set'" in hint
    assert "annolab-async watch JOB" in hint
    assert len(place.emulator.jobs) == 1
    assert "\x1b" not in done.stderr
    place.emulator.plan_submits(bad)
    lines = place.call("submit", "7", *PLAN, "--json").stdout.splitlines()
    (told,) = map(json.loads, lines)
    assert (told["event"], told["source_ids"]) == ("unknown", [7])
    assert "may or may not exist" in told["error"]


def test_an_answer_that_is_damaged_behind_the_jobs_id_is_a_job(place: Place) -> None:
    damaged = b'{"inferenceJobId": 1, "status": 5}'
    place.emulator.plan_submits(BadReply(body=damaged))
    done = place.call("submit", "7", *PLAN, "--wait")
    assert done.returncode == 0, done.stderr
    assert "The job exists, its id is 1" in done.stderr
    assert done.stdout.startswith("job 1, source 7\n")
    assert "1 job: 1 finished" in done.stdout


def test_a_refusal_is_told_with_the_mend(place: Place) -> None:
    done = place.call("submit", "7", *PLAN[:-1], "No Such Layer")
    assert done.returncode == 1
    assert re.fullmatch(r"error: .* 404: .*No Such Layer.*\nhint: .*\n", done.stderr)
    assert not place.emulator.jobs


def test_a_service_that_is_not_there_has_made_no_job(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_pause(_: float) -> None: ...

    monkeypatch.setattr("annolab_async._calls.sleep", no_pause)
    done = place.call("submit", "7", *PLAN, env={"ANNOLAB_BASE_URL": "http://127.0.0.1:9"})
    assert done.returncode == 1
    assert "was not sent" in done.stderr
    assert done.stderr.endswith("\nhint: Check --base-url and the network.\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["7", "7", *PLAN], "error: source_ids repeats 7\n"),
        ([*PLAN], "error: No sources were given.\n"),
        (["7", *PLAN[:-1], " "], "error: output_layer_identifier is empty\n"),
        (["7", *PLAN, "--timeout", "0"], "--timeout"),
        (["7", *PLAN[2:]], "error: Missing option '--group'."),
    ],
)
def test_wrong_input_is_2_and_nothing_is_sent(
    arguments: list[str], told: str, place: Place
) -> None:
    done = place.call("submit", *arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert not place.emulator.stats.requests


def test_ctrl_c_waits_for_the_answer_that_is_on_its_way(place: Place) -> None:
    place.emulator.plan_submits(BadReply(delay=1))
    with place.on_terminal("submit", "7", *PLAN, "--wait") as screen:
        until_sent(place)
        screen.press(CTRL_C)
        screen.read_until("Waiting for the answer to the submission, 10 s at most.")
        assert screen.wait() == 130
    assert "job 1 queued, source 7" in screen.shown
    assert "annolab-async watch 1" in screen.shown


def test_a_second_ctrl_c_stops_at_once_and_says_that_there_may_be_a_job(place: Place) -> None:
    place.emulator.plan_submits(BadReply(delay=30))
    with place.on_terminal("submit", "7", *PLAN) as screen:
        until_sent(place)
        screen.press(CTRL_C)
        screen.read_until("Once more stops at once.")
        screen.press(CTRL_C)
        assert screen.wait() == 130
    assert "Interrupted." in screen.shown
    assert "The job may or may not exist. Look at AnnoLab for a job over source 7" in screen.shown


def until_sent(place: Place) -> None:
    until(lambda: place.emulator.stats.submits)


@pytest.mark.parametrize("is_sent", [False, True])
def test_how_far_it_had_come_decides_what_is_said(
    *, is_sent: bool, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = AsyncInferenceClient.submit

    async def interrupted(self: AsyncInferenceClient, request: InferenceRequest) -> InferenceJob:
        if is_sent:
            await submit(self, request)
        signal.raise_signal(signal.SIGTERM)
        await anyio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(_interrupts, "_GRACE_SECONDS", 0.01)
    monkeypatch.setattr(AsyncInferenceClient, "submit", interrupted)
    done = place.call("submit", "7", *PLAN)
    assert done.returncode == 130
    assert ("may or may not exist" in done.stderr) is is_sent
    assert not done.stdout


def test_an_answer_within_the_time_is_not_lost(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = AsyncInferenceClient.submit

    async def slow(self: AsyncInferenceClient, request: InferenceRequest) -> InferenceJob:
        job = await submit(self, request)
        told = anyio.Event()

        def tell(_: str) -> None:
            told.set()

        monkeypatch.setattr(_interrupts, "tell", tell)
        signal.raise_signal(signal.SIGINT)
        with anyio.fail_after(5):
            await told.wait()
        return job

    monkeypatch.setattr(AsyncInferenceClient, "submit", slow)
    done = place.call("submit", "7", *PLAN, "--wait")
    assert done.returncode == 130
    assert done.stdout.startswith("job 1 queued, source 7\n1 job: 1 not ended yet; ")
