"""``watch``, against a local AnnoLab."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from datetime import UTC, datetime
from io import StringIO
from typing import TYPE_CHECKING

import anyio
import pytest
from rich.console import Console

from annolab_async import InferenceJob, Outcome, RetryPlanned, Transition
from annolab_async.cli import _follow, _terminal
from annolab_async.cli._display import Traffic
from annolab_async.cli._watch_display import WatchDisplay
from annolab_async.emulator import BadReply
from tests.cli import terminal
from tests.cli.conftest import PLAN, Place
from tests.cli.test_terminal import HOSTILE, is_inert

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

pytestmark = pytest.mark.sockets


def submit(place: Place, *statuses: Sequence[str] | Mapping[float, str]) -> list[str]:
    first = len(place.emulator.jobs) + 1
    for number, each in enumerate(statuses, first):
        place.emulator.script(number, each)
        assert place.call("submit", str(100 + number), *PLAN).returncode == 0
    return [str(number) for number in range(first, first + len(statuses))]


def test_each_change_is_a_line_and_all_finished_is_0(place: Place) -> None:
    submit(place, ["Queued", "Running", "Finished"], ["Finished"])
    done = place.run("watch", "1", "2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sorted(lines[:2]) == ["job 1 queued", "job 2 finished"]
    assert re.fullmatch(r"job 1 running after 0:0\d", lines[2])
    assert re.fullmatch(r"job 1 finished after 0:0\d", lines[3])
    assert re.fullmatch(r"2 jobs: 2 finished; 4 requests in 0:0\d\.", lines[4])
    assert not done.stderr


def test_one_that_errored_is_1_with_its_sources(place: Place) -> None:
    submit(place, ["Finished"], ["Errored"])
    done = place.call("watch", "1", "2")
    assert done.returncode == 1
    assert "job 2 errored, source 102\n" in done.stdout
    assert "2 jobs: 1 finished, 1 errored; " in done.stdout


def test_one_that_is_not_known_is_1_and_stops_no_other(place: Place) -> None:
    submit(place, ["Queued", "Finished"])
    done = place.call("watch", "99", "1")
    assert done.returncode == 1
    assert "job 99 lost: GET /v1/infer/batch/99 answered 404: " in done.stdout
    assert "job 1 finished" in done.stdout
    assert not done.stderr, "what is shown is not logged as well"


def test_one_that_takes_too_long_is_given_up_with_1(place: Place) -> None:
    submit(place, ["Queued"])
    done = place.call("watch", "1", "--timeout", "0.2")
    assert done.returncode == 1
    assert "job 1 timed out after 0:00, source 101, last seen queued\n" in done.stdout
    assert "1 job: 1 timed out; " in done.stdout


def test_one_that_was_never_seen_is_given_up_too(place: Place) -> None:
    submit(place, ["Queued"])
    place.emulator.plan_polls(BadReply(delay=5), job_id=1)
    done = place.call("watch", "1", "--timeout", "0.2")
    assert done.returncode == 1
    assert "job 1 timed out\n" in done.stdout


def test_machines_get_each_change_as_json(place: Place) -> None:
    submit(place, ["Queued", "Errored"])
    done = place.call("watch", "1", "99", "--json")
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    of_1 = [line for line in lines if line.get("inference_job_id") == 1]
    assert [line["state"] for line in of_1] == ["queued", "errored"]
    assert [line["outcome"] for line in of_1] == [None, "errored"]
    assert [line["previous_state"] for line in of_1] == [None, "queued"]
    assert of_1[1]["source_ids"] == [101]
    (lost,) = [line for line in lines if line.get("inference_job_id") == 99]
    assert (lost["outcome"], lost["state"], lost["source_ids"]) == ("lost", None, [])
    assert "404" in lost["error"]
    summary = lines[-1]
    assert summary["event"] == "summary"
    assert summary["outcomes"] == {"errored": 1, "lost": 1}
    assert summary["unfinished_job_ids"] == []
    assert summary["exit_status"] == 1


@pytest.mark.parametrize("command", ["submit", "status", "watch"])
def test_what_the_other_commands_write_as_json_can_be_watched(command: str, place: Place) -> None:
    place.emulator.script(1, ["Finished"])
    written = place.call("submit", "7", *PLAN, "--json")
    if command != "submit":
        written = place.call(command, "1", "--json")
    (place.folder / "jobs.jsonl").write_text(written.stdout)
    for arguments in (["--file", "jobs.jsonl"], ["-"], ["--file", "-"]):
        done = place.call("watch", *arguments, given=written.stdout)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("job 1 finished\n1 job: 1 finished; ")


def test_a_bad_key_is_told_once_and_is_1(place: Place) -> None:
    wrong = {"ANNOLAB_API_KEY": "XXXXXXX-XXXXXXX-XXXXXXX-YYYYYYY"}
    done = place.call("watch", *"123", env=wrong)
    assert done.returncode == 1
    assert not done.stdout
    assert len(done.stderr.splitlines()) == 2
    assert "hint: Check the key" in done.stderr
    assert "YYYYYYY" not in done.stdout + done.stderr


def test_without_a_key_nothing_is_asked(place: Place) -> None:
    done = place.call("watch", "1", env={"ANNOLAB_API_KEY": ""})
    assert done.returncode == 2
    assert "error: There is no API key." in done.stderr


def test_words_of_the_server_reach_no_terminal_raw(place: Place) -> None:
    hostile = HOSTILE.replace("\ud800", "")
    submit(place, [hostile, "Finished"])
    done = place.call("watch", "1")
    assert done.returncode == 0
    assert is_inert(done.stdout)
    assert r"job 1 in state '\x1b]0;owned" in done.stdout
    submit(place, [hostile, hostile, "x" * 300, "Finished"])
    with place.on_terminal("watch", "2") as screen:
        assert screen.wait() == 0
    assert b"\x1b]0" not in screen.raw
    assert b"\x1b[31mred" not in screen.raw


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_is_130_with_the_command_that_watches_on(
    number: signal.Signals, place: Place
) -> None:
    submit(place, ["Finished"], ["Queued"])
    with subprocess.Popen(  # noqa: S603
        [*terminal.PROGRAM, "watch", "1", "2", "--base-url", place.base_url],
        env=terminal.settings(ANNOLAB_API_KEY=place.env["ANNOLAB_API_KEY"]),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        seen = [process.stdout.readline(), process.stdout.readline()]
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert sorted(seen) == ["job 1 finished\n", "job 2 queued\n"]
    assert process.returncode == 130
    assert re.fullmatch(r"2 jobs: 1 finished, 1 not ended yet; \d requests in 0:0\d\.\n", out)
    assert err == (
        "The jobs go on at the server. To watch them again:\n"
        f"  annolab-async watch 2 --base-url {place.base_url}\n"
    )


def test_interrupted_with_many_jobs_left_the_same_command_is_told(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_follow, "_MOST_IDS", 1)
    submit(place, ["Queued"], ["Queued"])
    (place.folder / "jobs").write_text("1 2")

    def interrupt(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(_follow, "_print", interrupt)
    done = place.call("watch", "--file", "jobs", "--json")
    assert done.returncode == 130
    assert json.loads(done.stdout)["unfinished_job_ids"] == [1, 2]
    assert done.stderr.endswith("\n  annolab-async watch --file jobs --json\n")


def test_on_a_terminal_each_of_a_few_jobs_is_shown_and_then_the_sum(place: Place) -> None:
    submit(place, ["Queued", "Running", "Running", "Finished"], ["Errored"])
    with place.on_terminal("watch", "1", "2", "99") as screen:
        screen.read_until("2 of 3 jobs ended")
        assert screen.wait() == 1
    assert re.search(r"JOB +STATE +FOR +SOURCES", screen.shown)
    assert re.search(r" 1  queued +0:0\d  101", screen.shown)
    assert "1 errored, 1 lost, 1 queued" in screen.shown
    assert "about 0:0" in screen.shown
    assert "job 2 errored, source 102\r\n" in screen.shown
    assert re.search(r"3 jobs: 1 finished, 1 errored, 1 lost; \d+ requests in", screen.shown)


def test_on_a_terminal_of_many_jobs_only_the_numbers_are_shown(place: Place) -> None:
    statuses = [["Queued", "Errored"]] * 13
    jobs = submit(place, *statuses)
    with place.on_terminal("watch", *jobs) as screen:
        screen.read_until("13 queued")
        screen.press(terminal.CTRL_C)
        assert screen.wait() == 130
    assert "STATE" not in screen.shown
    assert "annolab-async watch 1 2 3 " in screen.shown
    with place.on_terminal("watch", *jobs) as screen:
        assert screen.wait() == 1
    assert "and 3 jobs more that did not finish" in screen.shown
    assert "13 jobs: 13 errored; " in screen.shown


def test_with_only_the_messages_on_a_terminal_the_lines_go_where_they_are_wanted(
    place: Place,
) -> None:
    submit(place, ["Queued", "Finished"])
    reads, writes = os.pipe()
    with place.on_terminal("watch", "1", stdout=writes) as screen:
        os.close(writes)
        assert screen.wait() == 0
    with os.fdopen(reads) as lines:
        assert lines.read().splitlines()[0] == "job 1 queued"
    assert "1 queued" in screen.shown


def test_json_on_a_terminal_is_not_written_over(place: Place) -> None:
    submit(place, ["Queued", "Finished"])
    with place.on_terminal("watch", "1", "--json") as screen:
        assert screen.wait() == 0
    events = [json.loads(line)["event"] for line in screen.shown.splitlines()]
    assert events == ["transition", "transition", "summary"]


def test_what_is_shown_for_a_while_is_told_at_the_end(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = submit(place, *[["Queued", "Errored"]] * 12, ["Queued", "Finished"])
    monkeypatch.setattr(_follow, "is_live", lambda: True)
    monkeypatch.setattr(_terminal.OUT, "_force_terminal", True)
    done = place.call("watch", *jobs)
    assert done.returncode == 1
    assert done.stdout.splitlines()[10] == "and 2 jobs more that did not finish"
    assert re.match(r"job \d+ errored after 0:0\d, source 1\d\d$", done.stdout.splitlines()[0])
    assert done.stdout.splitlines()[11].startswith("13 jobs: 1 finished, 12 errored; ")


def transition(
    job_id: int, status: str | None, *, ago: str | None = None, outcome: Outcome | None = None
) -> Transition:
    return Transition(
        inference_job_id=job_id,
        job=None if status is None else InferenceJob(job_id, status, (100 + job_id,)),
        previous=None if ago is None else InferenceJob(job_id, ago, (100 + job_id,)),
        outcome=outcome,
        observed_at=datetime.now(UTC),
        elapsed=1.0,
        polls=2,
        uncertainty=1.0,
    )


def drawn(display: WatchDisplay) -> str:
    screen = Console(file=StringIO(), width=80)
    with screen.capture() as captured:
        screen.print(display._drawn())
    return captured.get()


@pytest.mark.anyio
async def test_each_of_a_few_jobs_has_a_row() -> None:
    traffic = Traffic()
    display = WatchDisplay([1, 2, 3, 4], traffic)
    display.note(transition(1, "Queued"))
    display.note(transition(2, "\x1b[2J"))
    display.note(transition(3, None, outcome=Outcome.LOST))
    text = drawn(display)
    assert re.search(r"^  1  queued +0:00  101", text, re.MULTILINE)
    assert re.search(r"^  2  in state '\\x1b\[2J' +0:00  102", text, re.MULTILINE)
    assert re.search(r"^  3  lost", text, re.MULTILINE)
    assert re.search(r"^  4  not seen yet +0:00", text, re.MULTILINE)
    assert "1 in an unknown state, 1 lost, 1 not seen yet, 1 queued" in text
    assert "1 of 4 jobs ended" in text
    assert "0 requests, 0:00 so far, about 0:00 left" in text
    assert "job 3 lost after 0:01" in text
    with display:
        with anyio.move_on_after(0.01):
            await display.keep()


def test_of_many_jobs_only_the_numbers_and_the_latest_troubles_are_drawn() -> None:
    traffic = Traffic()
    display = WatchDisplay(range(1, 21), traffic)
    for job_id in range(1, 20):
        display.note(transition(job_id, "Errored", ago="Queued", outcome=Outcome.ERRORED))
    traffic.on_retry(
        RetryPlanned(kind="poll", attempt=1, delay=1, error=ValueError("x\x1b"), inference_job_id=1)
    )
    text = drawn(display)
    assert "STATE" not in text
    assert "19 errored, 1 not seen yet" in text
    assert [f"job {number} errored after" in text for number in (16, 17, 18, 19)] == [
        False,
        True,
        True,
        True,
    ]
    assert r"trying again: x\x1b" in text
