"""``run`` and ``resume``, as processes against a local AnnoLab."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from typing import Any

import anyio
import pytest

from annolab_async.cli._stopping import ONE_PRESS_SECONDS
from annolab_async.emulator import Faults
from tests.cli.conftest import PLAN, MakePlace, Place
from tests.cli.terminal import CTRL_C, PROGRAM, OnTerminal, settings, until

pytestmark = pytest.mark.sockets

SLOW: dict[str, Any] = {"workers": 2, "base_seconds": 0.4}


def summary_of(stdout: str) -> dict[str, Any]:
    lines = [json.loads(line) for line in stdout.splitlines()]
    assert [line["event"] for line in lines].count("summary") == 1
    last: dict[str, Any] = lines[-1]
    return last


def states_in(place: Place) -> list[str]:
    with place.database() as database:
        return [state for (state,) in database.execute("SELECT state FROM annolab_batches")]


def test_all_finished_is_0_and_told_in_plain_lines(place: Place) -> None:
    done = place.run("run", *map(str, range(1, 11)), *PLAN, "--batch-size", "2")
    assert done.returncode == 0, done.stderr
    assert "      5       10  finished" in done.stdout
    assert "Run 'default' in run.db: 10 sources, " in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert sorted(each for job in place.emulator.jobs.values() for each in job.source_ids) == [
        *range(1, 11)
    ]


def test_started_again_with_the_same_plan_it_sends_nothing_again(place: Place) -> None:
    first = place.call("run", "1", "2", *PLAN)
    second = place.call("run", "1", "2", *PLAN)
    assert (first.returncode, second.returncode) == (0, 0)
    assert len(place.emulator.jobs) == 1


def test_another_plan_in_the_same_run_is_refused_with_the_option_that_helps(place: Place) -> None:
    place.call("run", "1", *PLAN)
    done = place.call("run", "1", *PLAN[:-1], "Other Layer")
    assert done.returncode == 2
    assert "was begun with another plan" in done.stderr
    assert "--run" in done.stderr
    done = place.call("run", "2", *PLAN)
    assert done.returncode == 2
    assert "with other sources than the plan has now" in done.stderr


def test_errored_batches_are_1_and_are_tried_again_by_the_command_that_is_named(
    make_place: MakePlace,
) -> None:
    with make_place(bad_source_ids=[3]) as place:
        done = place.call("run", "1", "2", "3", "4", *PLAN, "--batch-size", "2")
        assert done.returncode == 1
        assert "batch 2 (job 2) errored, sources 3, 4" in done.stdout
        assert "annolab-async resume --retry" in done.stderr
        done = place.call("resume", "run.db", "--retry")
        assert done.returncode == 1
        assert "Trying 1 batch once more" in done.stderr
        assert len(place.emulator.jobs) == 3


def test_split_leaves_the_bad_source_alone(make_place: MakePlace) -> None:
    with make_place(bad_source_ids=[3]) as place:
        done = place.call("run", *"12345678", *PLAN, "--on-error", "split", "--json")
        assert done.returncode == 1
        summary = summary_of(done.stdout)
        assert summary["failed_source_ids"] == [3]
        assert summary["sources"] == {"finished": 7, "errored": 1}
        assert summary["exit_status"] == 1


def test_json_is_one_object_a_line_and_nothing_else(place: Place) -> None:
    done = place.run("run", *"1234", *PLAN, "--batch-size", "2", "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["number"] for line in lines if line["event"] == "batch"} == {1, 2}
    last = {line["number"]: line for line in lines if line["event"] == "batch"}
    assert [last[number]["state"] for number in (1, 2)] == ["finished", "finished"]
    assert [last[number]["source_ids"] for number in (1, 2)] == [[1, 2], [3, 4]]
    assert lines[-1]["event"] == "summary"
    assert lines[-1]["exit_status"] == done.returncode == 0


def test_unknown_batches_are_1_and_are_resolved(make_place: MakePlace) -> None:
    faults = Faults(closed_after_processing=0.99999, seed=1)
    with make_place(faults=faults) as place:
        done = place.call("run", *"1234", *PLAN, "--batch-size", "2")
        assert done.returncode == 1
        assert "batch 1 unknown, sources 1, 2" in done.stdout
        assert "annolab-async resolve" in done.stderr

        listed = place.call("resolve")
        assert listed.returncode == 0
        assert "its answer is lost" in listed.stdout
        assert "'Gold Set'" in listed.stderr
        elsewhere = place.call("resolve", "--base-url", "http://127.0.0.1:1").stderr
        assert elsewhere.count(" --base-url http://127.0.0.1:1 ") == 2
        in_json = place.call("resolve", "--json")
        assert [json.loads(line)["number"] for line in in_json.stdout.splitlines()] == [1, 2]

        of_two = {job.source_ids: job.inference_job_id for job in place.emulator.jobs.values()}
        wrong = place.call("resolve", "1", "--job-id", str(of_two[3, 4]))
        assert wrong.returncode == 2
        assert "runs over other sources than batch 1: 3, 4 instead of 1, 2" in wrong.stderr
        assert place.call("resolve", "1", "--job-id", "4711").returncode == 1
        right = place.call("resolve", "1", "--job-id", str(of_two[1, 2]))
        assert right.returncode == 0, right.stderr
        assert f"Batch 1 has job {of_two[1, 2]}." in right.stdout
        taken = place.call("resolve", "2", "--job-id", str(of_two[1, 2]))
        assert taken.returncode == 2
        assert "is batch 1's" in taken.stderr
        again = place.call("resolve", "2", "--resend", "--json")
        assert json.loads(again.stdout)["state"] == "planned"
        done = place.call("resume", "--json")
        assert summary_of(done.stdout)["batches"] == {"finished": 1, "unknown": 1}
        everything = place.call("resolve", "--resend", "--all")
        assert "Batch 2 is sent again." in everything.stdout
        assert len(place.emulator.jobs) == 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["1", "--job-id", "1", "--resend"], "cannot both be so"),
        (["--all"], "--all goes with --resend"),
        (["1", "--resend", "--all"], "--all goes with --resend"),
        (["--job-id", "1"], "is for one batch"),
        (["1", "2", "--job-id", "1"], "is for one batch"),
        (["--resend"], "wants the numbers"),
        (["1"], "What became of them?"),
        (["1", "--resend"], "Batch 1 is finished, not unknown."),
        (["7", "--resend"], "Batch 7 is not in this run."),
    ],
)
def test_senseless_resolutions_are_refused(place: Place, arguments: list[str], told: str) -> None:
    place.call("run", "1", *PLAN)
    done = place.call("resolve", *arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert place.call("resolve").stderr == "No batch is unknown.\n"


def test_ctrl_c_once_drains_and_names_the_command_that_goes_on(
    make_place: MakePlace,
) -> None:
    with make_place(**SLOW) as place:
        more = ["--batch-size", "2", "--max-in-flight", "4", "--run", "a b", "--job-timeout", "90"]
        with place.on_terminal("run", *map(str, range(1, 41)), *PLAN, *more) as shown:
            shown.read_until("finished")
            shown.press(CTRL_C)
            assert shown.wait() == 130
        assert "Stopping: nothing more is sent" in shown.shown
        assert b"\x1b[" in shown.raw
        assert "of 40 sources" in shown.shown
        assert "sending" not in states_in(place)
        command = "annolab-async resume --max-in-flight 4 --job-timeout 90 --run 'a b'"
        assert command in shown.shown
        done = place.call(*shlex.split(command)[1:])
        assert done.returncode == 0, done.stderr
        assert len(place.emulator.jobs) == 20, "each batch was paid for once"


def test_ctrl_c_twice_stops_at_once_and_leaves_what_is_open_unknown(
    make_place: MakePlace,
) -> None:
    with make_place(latency=8.0) as place:
        with place.on_terminal("run", *"12345678", *PLAN, "--batch-size", "2") as shown:
            shown.read_until("4 sending")
            until(lambda: place.emulator.stats.submits == 4)
            shown.press(CTRL_C)
            shown.read_until("Stopping: ")
            time.sleep(ONE_PRESS_SECONDS)  # what comes sooner is the same press
            shown.press(CTRL_C)
            assert shown.wait() == 1, "nothing is open any more, and nothing is known"
        assert "Stopping at once" in shown.shown
        assert states_in(place) == ["unknown"] * 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_and_a_terminal_that_is_closed_drain(
    number: signal.Signals, make_place: MakePlace
) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("these tests are to outlive their terminal, and so does what they start")
    with make_place(**SLOW) as place:
        arguments = ["run", *map(str, range(1, 41)), *PLAN, "--batch-size", "2", "--json"]
        with subprocess.Popen(  # noqa: S603
            [*PROGRAM, *arguments],
            env=settings(**place.env),
            cwd=place.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if '"finished"' in line:
                    break
            process.send_signal(number)
            out, err = process.communicate(timeout=30)
        assert process.returncode == 130
        assert "Stopping" in err
        summary = json.loads(out.splitlines()[-1])
        assert summary["is_stopped"]
        assert summary["next"] == ["annolab-async resume"]
        assert "sending" not in states_in(place)


def test_killed_and_resumed_every_source_is_in_one_job(make_place: MakePlace) -> None:
    with make_place(**SLOW) as place:
        with place.on_terminal("run", *map(str, range(1, 41)), *PLAN, "--batch-size", "2") as shown:
            shown.read_until("20 submitted")
            os.kill(shown.process_id, signal.SIGKILL)
            shown.wait()
        done = place.run("resume", "--json")
        assert done.returncode == 0, done.stderr
        assert summary_of(done.stdout)["sources"] == {"finished": 40}
        assert len(place.emulator.jobs) == 20


def test_an_interrupt_before_the_run_is_open_sends_nothing(place: Place) -> None:
    # Whoever writes to the ledger makes all others wait.
    place.call("run", "1", *PLAN)
    with place.database() as database:
        database.execute("BEGIN IMMEDIATE")
        with place.on_terminal("run", "1", *PLAN) as shown:
            until(shown.catches_sigterm)
            shown.press(CTRL_C)
            shown.read_until("Stopping.")
            database.execute("ROLLBACK")
            assert shown.wait() == 130
    assert "Interrupted before anything was sent." in shown.shown
    assert len(place.emulator.jobs) == 1


def test_a_key_that_is_not_accepted_ends_the_run_in_a_line(place: Place) -> None:
    env = {"ANNOLAB_API_KEY": "XXXXXXX-XXXXXXX-XXXXXXX-OTHERXX"}
    done = place.run("run", "1", "2", *PLAN, env=env)
    assert done.returncode == 1
    assert "error: POST /v1/infer/batch answered 401" in done.stderr
    assert "hint: Check the key in the environment variable ANNOLAB_API_KEY." in done.stderr
    assert "annolab-async resume" in done.stderr
    assert "Traceback" not in done.stderr
    assert "OTHERXX" not in done.stdout + done.stderr
    debugged = place.run("run", "1", "2", *PLAN, "--debug", env=env)
    assert "Traceback" in debugged.stderr
    assert "OTHERXX" not in debugged.stdout + debugged.stderr


def test_an_output_that_nobody_reads_stops_the_run_in_silence(
    make_place: MakePlace,
) -> None:
    with make_place(**SLOW) as place:
        arguments = [*PROGRAM, "run", *map(str, range(1, 41)), *PLAN, "--json"]
        with subprocess.Popen(  # noqa: S603
            [*arguments, "--batch-size", "2"],
            env=settings(**place.env),
            cwd=place.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.readline()
            process.stdout.close()
            err = process.stderr.read()
        assert process.returncode == 141
        assert not err
        assert "sending" not in states_in(place)


def test_progress_without_a_terminal_comes_in_lines(make_place: MakePlace) -> None:
    with make_place(workers=1, base_seconds=2.5, bad_source_ids=[1]) as place:
        done = place.call("run", *"123", *PLAN, "--batch-size", "1")
        assert done.returncode == 1
        assert "batch 1 (job 1) errored, sources 1\n" in done.stderr
        assert "of 3 sources ended; batches: " in done.stderr
        assert len(done.stderr.splitlines()) < 8


def test_a_terminal_shows_progress_also_where_the_results_go_into_a_file(place: Place) -> None:
    with (
        (place.folder / "out").open("wb") as out,
        place.on_terminal(
            "run", *"1234", *PLAN, "--batch-size", "1", "--json", stdout=out.fileno()
        ) as shown,
    ):
        assert shown.wait() == 0
    assert b"\x1b[" in shown.raw
    assert "event" not in shown.shown
    events = (place.folder / "out").read_text()
    assert summary_of(events)["batches"] == {"finished": 4}
    assert len([line for line in events.splitlines() if '"event": "batch"' in line]) >= 4


def test_a_dumb_terminal_gets_plain_lines(place: Place) -> None:
    place_env = place.env | {"TERM": "dumb"}
    with place.on_terminal("run", "1", *PLAN) as colourful:
        assert colourful.wait() == 0
    with OnTerminal(["run", "2", *PLAN, "--run", "2"], env=place_env, cwd=place.folder) as plain:
        assert plain.wait() == 0
    assert b"\x1b[" in colourful.raw
    assert b"\x1b" not in plain.raw


def test_what_the_service_refuses_for_all_ends_the_run_with_what_it_said(place: Place) -> None:
    done = place.call("run", *map(str, range(1, 31)), *PLAN[:-1], "No Such", "--batch-size", "1")
    assert done.returncode == 1
    assert "error: POST /v1/infer/batch answered " in done.stderr
    assert "annolab-async resume" in done.stderr


def test_of_many_failed_batches_the_first_are_named(make_place: MakePlace) -> None:
    with make_place(error_share=1.0) as place:
        done = place.call("run", *map(str, range(1, 13)), *PLAN, "--batch-size", "1")
    assert done.returncode == 1
    assert done.stdout.count(" errored, sources ") == 10
    assert "and 2 batches more failed\n" in done.stdout


def test_a_batch_that_somebody_else_resolves_meanwhile_is_told(
    make_place: MakePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_place(faults=Faults(reset=0.99999, seed=1)) as place:
        place.call("run", "1", *PLAN)

        async def nothing_to_change(*_: object, **__: object) -> None:
            await anyio.lowlevel.checkpoint()

        monkeypatch.setattr("annolab_async.ledger._sql.SqlRun.change", nothing_to_change)
        done = place.call("resolve", "1", "--resend")
    assert done.returncode == 1
    assert "Batch 1 was resolved by somebody else meanwhile." in done.stderr
