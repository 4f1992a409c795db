"""``status``, against a local AnnoLab."""

from __future__ import annotations

import json
import signal

import anyio
import pytest

from annolab_async import AsyncInferenceClient, InferenceJob
from annolab_async.cli import _status
from annolab_async.emulator import BadReply
from tests.cli.conftest import PLAN, Place
from tests.cli.test_terminal import HOSTILE, is_inert

pytestmark = pytest.mark.sockets


def submit(place: Place, *statuses: list[str]) -> None:
    for number, each in enumerate(statuses, 1):
        place.emulator.script(number, each)
        assert place.call("submit", str(100 + number), *PLAN).returncode == 0


def test_jobs_are_shown_in_their_order_and_all_well_is_0(place: Place) -> None:
    submit(place, ["Queued"], ["Running"], ["Finished"])
    done = place.run("status", "3", "1", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "JOB  STATE     SOURCES\n  3  finished  103\n  1  queued    101\n  2  running   102\n"
    )


def test_an_errored_job_is_1(place: Place) -> None:
    submit(place, ["Errored"])
    done = place.call("status", "1")
    assert done.returncode == 1
    assert "  1  errored  101" in done.stdout


def test_a_job_that_is_not_known_is_1_and_does_not_hide_the_others(place: Place) -> None:
    submit(place, ["Queued"])
    done = place.call("status", "99", "1")
    assert done.returncode == 1
    assert " 99  lost    GET /v1/infer/batch/99 answered 404: " in done.stdout
    assert "  1  queued  101" in done.stdout
    assert not done.stderr


def test_a_job_that_could_not_be_asked_for_is_1_and_says_why(place: Place) -> None:
    submit(place, ["Queued"], ["Queued"])
    place.emulator.plan_polls(BadReply(status_code=400), job_id=1)
    done = place.call("status", "1", "2")
    assert done.returncode == 1
    assert "  1  no answer  GET /v1/infer/batch/1 answered 400" in done.stdout
    assert "  2  queued" in done.stdout


def test_machines_get_each_job_as_json(place: Place) -> None:
    submit(place, ["Paused"])
    done = place.call("status", "1", "99", "--json")
    assert done.returncode == 1
    first, second = map(json.loads, done.stdout.splitlines())
    assert first["event"] == "job"
    assert (first["inference_job_id"], first["state"], first["status"]) == (1, "unknown", "Paused")
    assert first["source_ids"] == [101]
    assert first["error"] is None
    assert (second["inference_job_id"], second["state"]) == (99, "lost")
    assert "404" in second["error"]


def test_a_word_of_the_servers_reaches_the_terminal_inert(place: Place) -> None:
    submit(place, [HOSTILE.replace("\ud800", "")], ["x" * 1000])
    done = place.call("status", "1", "2")
    assert done.returncode == 0
    assert is_inert(done.stdout)
    assert r"in state '\x1b]0;owned\x07" in done.stdout
    assert len(max(done.stdout.splitlines(), key=len)) < 300


def test_a_bad_key_is_told_once_for_all(place: Place) -> None:
    wrong = {"ANNOLAB_API_KEY": "XXXXXXX-XXXXXXX-XXXXXXX-YYYYYYY"}
    done = place.call("status", *"123456", env=wrong)
    assert done.returncode == 1
    assert not done.stdout
    assert len(done.stderr.splitlines()) == 2
    assert "hint: Check the key in the environment variable ANNOLAB_API_KEY." in done.stderr
    assert "YYYYYYY" not in done.stderr


def test_a_service_that_is_not_there_is_told_in_a_line(place: Place) -> None:
    done = place.call("status", "1", "2", env={"ANNOLAB_BASE_URL": "http://127.0.0.1:9"})
    assert done.returncode == 1
    assert "hint: Check --base-url and the network." in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_interrupted_it_shows_what_it_has(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    submit(place, ["Queued"], ["Queued"])
    get_job = AsyncInferenceClient.get_job

    async def interrupted(self: AsyncInferenceClient, job: InferenceJob | int) -> InferenceJob:
        if job == 2:
            signal.raise_signal(signal.SIGTERM)
            await anyio.sleep_forever()
        return await get_job(self, job)

    monkeypatch.setattr(_status, "_AT_ONCE", 1)
    monkeypatch.setattr(AsyncInferenceClient, "get_job", interrupted)
    done = place.call("status", "1", "2")
    assert done.returncode == 130
    assert done.stdout.splitlines()[1:] == ["  1  queued  101"]
    assert done.stderr == "Interrupted.\n"
    assert place.call("status", "2").stdout == ""
