"""The program as a whole: help, versions, completion, wrong usage; and what a ledger holds."""

from __future__ import annotations

import json
import os
import re
import shlex
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from annolab_async import __version__
from annolab_async.cli import _app, _run, main
from annolab_async.cli._options import command_line
from tests.cli import terminal
from tests.cli.conftest import PLAN, Place
from tests.service import KEY

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = [
    command.name or getattr(command.callback, "__name__", "")
    for command in _app.app.registered_commands
]


def test_the_version_is_shown() -> None:
    assert terminal.run("--version").stdout == f"annolab-async {__version__}\n"


def test_without_a_command_the_help_is_shown() -> None:
    done = terminal.call()
    assert done.returncode == 2
    assert "Usage: annolab-async" in done.stdout
    for name in COMMANDS:
        assert name in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_for_itself_and_all_its_options(name: str) -> None:
    done = terminal.call(name, "--help", env={"COLUMNS": "120", "TERMINAL_WIDTH": "120"})
    assert done.returncode == 0
    assert f"Usage: annolab-async {name}" in done.stdout
    for line in done.stdout.splitlines():
        if re.match(r"│ (\*)?\s+--", line):
            assert len(line.split("  ")) > 2, line
    assert "--debug" in done.stdout
    assert terminal.call(name, "-h").stdout.split()[:3] == ["Usage:", "annolab-async", name]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["rnu"], "error: No such command 'rnu'. Did you mean 'run'"),
        (["run", "--bogus"], "No such option: --bogus"),
        (["run", "1"], "error: Missing option '--group'."),
        (["run", "1", *PLAN, "--batch-size", "0"], "--batch-size"),
        (["run", "1", *PLAN, "--on-error", "explode"], "--on-error"),
        (["run", "1", *PLAN, "--job-timeout", "0"], "--job-timeout"),
        (["run", "1", *PLAN, "--max-per-second", "-1"], "--max-per-second is -1.0, not a positive"),
        (["run", "1", *PLAN[:-1], " "], "output_layer_identifier is empty"),
        (["run", "1", *PLAN, "--base-url", "ftp://x"], "error: "),
        (["run", "1", *PLAN, "--run", ""], "error: run is '', not a name."),
        (["run", "1", *PLAN, "--ledger", "."], "error: The ledger . cannot be used"),
        (["runs", "nope.db"], "error: There is no ledger nope.db."),
        (["resume", "--ledger", "sqlite:///nope.db"], "There is no ledger sqlite:///nope.db"),
    ],
)
def test_wrong_usage_is_2_a_line_and_the_way_to_the_help(
    arguments: list[str], told: str, tmp_path: Path
) -> None:
    env = {"ANNOLAB_API_KEY": KEY}
    done = terminal.call(*arguments, env=env, cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) <= 2
    assert not done.stdout


@pytest.mark.parametrize(
    ("missing", "arguments", "told"),
    [
        ("sqlalchemy", ["run", "1", *PLAN], "annolab-async[ledger]"),
        ("starlette", ["--version"], ""),
        ("uvicorn", ["demo"], "annolab-async[cli,emulator,ledger]"),
    ],
)
def test_only_what_needs_an_extra_asks_for_it(
    missing: str, arguments: list[str], told: str, tmp_path: Path
) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None; from annolab_async.cli import main; main()"
    )
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code, *arguments],
        env=terminal.settings(ANNOLAB_API_KEY=KEY),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (2 if told else 0)
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_completion_script(shell: str) -> None:
    done = terminal.run("", env={"_ANNOLAB_ASYNC_COMPLETE": f"source_{shell}"})
    assert done.returncode == 0, done.stderr
    assert "_ANNOLAB_ASYNC_COMPLETE=complete_" in done.stdout


def test_commands_and_options_are_completed() -> None:
    def completions(line: str) -> list[str]:
        env = {"_ANNOLAB_ASYNC_COMPLETE": "complete_bash", "COMP_WORDS": line}
        return terminal.run(env=env | {"COMP_CWORD": str(line.count(" "))}).stdout.split()

    assert completions("annolab-async re") == [name for name in COMMANDS if name.startswith("re")]
    assert completions("annolab-async run --on-e") == ["--on-error"]


@pytest.mark.sockets
@pytest.mark.parametrize("command", [["runs"], ["report", "run.db"]])
def test_an_output_that_nobody_reads_ends_a_command_in_silence(
    command: list[str], place: Place
) -> None:
    place.call("run", "1", *PLAN)
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run(  # noqa: S603
        [*terminal.PROGRAM, *command],
        stdout=writes,
        stderr=subprocess.PIPE,
        env=terminal.settings(),
        cwd=place.folder,
        check=False,
    )
    os.close(writes)
    assert done.returncode == 141
    assert not done.stderr


def with_streams(place: Place, streams: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command whose standard streams are as a shell is told to make them."""
    return subprocess.run(  # noqa: S603
        ["/bin/sh", "-c", f'exec "$@" {streams}', "sh", *terminal.PROGRAM, *arguments],
        env=terminal.settings(**place.env),
        cwd=place.folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.sockets
def test_an_output_that_cannot_be_written_is_told_in_a_line(place: Place) -> None:
    told = "error: The output cannot be written: No space left on device.\n"
    done = with_streams(place, ">/dev/full", "run", "1", *PLAN, "--json")
    assert (done.returncode, done.stderr) == (1, told)
    done = with_streams(place, ">/dev/full", "--help")
    assert (done.returncode, done.stderr) == (1, told)
    # A job that nobody knows of would be paid for again.
    done = with_streams(place, ">/dev/full", "submit", "7", *PLAN, "--json")
    assert done.returncode == 1
    assert done.stderr == f"job {max(place.emulator.jobs)} queued, source 7\n{told}"


@pytest.mark.sockets
def test_it_may_be_started_without_streams(place: Place) -> None:
    assert with_streams(place, ">&- 2>&- <&-", "run", "1", *PLAN).returncode == 0
    done = with_streams(place, ">&-", "runs")
    assert (done.returncode, done.stderr) == (0, "")
    done = with_streams(place, "<&-", "run", "-", *PLAN)
    assert done.returncode == 2
    assert "There are no source ids in what was given." in done.stderr


def test_ctrl_c_before_a_command_has_begun_ends_it_in_silence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(_app, "run_app", interrupt)
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.sockets
def test_what_a_ledger_holds_is_shown(place: Place) -> None:
    place.call("run", *"123", *PLAN, "--batch-size", "2")
    place.call("run", *"12", *PLAN, "--run", "second", "--on-error", "split")
    for arguments in (["runs"], ["runs", "run.db"], ["runs", "--ledger", "sqlite:///r%75n.db"]):
        done = place.call(*arguments)
        assert done.returncode == 0, done.stderr
        head, first, second = done.stdout.splitlines()
        assert head.split() == ["RUN", "BEGUN", "LAST", "CHANGE", "BATCHES", "SOURCES", "STATES"]
        assert re.fullmatch(r"default( +[-\d]+ [:\d]+Z){2} +2 +3  2 finished", first)
        assert second.startswith("second ")
    lines = [json.loads(line) for line in place.call("runs", "--json").stdout.splitlines()]
    assert [line["run"] for line in lines] == ["default", "second"]
    assert lines[0]["batches"] == {"finished": 2}
    assert lines[0]["plan"]["outputLayerIdentifier"] == "Gold Set"


@pytest.mark.sockets
def test_a_ledger_without_runs_and_one_of_something_else_are_told(place: Place) -> None:
    place.call("run", "1", *PLAN)
    change(place, "DELETE FROM annolab_batches", "DELETE FROM annolab_runs")
    assert place.call("runs").stderr == "It has no runs.\n"
    done = place.call("resume")
    assert "has no run 'default'.\nhint: It has none at all." in done.stderr
    (place.folder / "text.db").write_text("no database at all, but text of some length" * 20)
    with closing(sqlite3.connect(place.folder / "theirs.db")) as database:
        database.execute("CREATE TABLE theirs (x)")
    before = (place.folder / "theirs.db").read_bytes()
    for command in (["runs"], ["report"], ["resolve", "--ledger"], ["resume", "--ledger"]):
        done = place.call(*command, "theirs.db")
        assert done.returncode == 2
        assert "error: The ledger theirs.db cannot be used: it holds no ledger.\n" in done.stderr
    assert (place.folder / "theirs.db").read_bytes() == before
    done = place.call("runs", "text.db")
    assert done.returncode == 2
    assert "error: The ledger text.db cannot be used" in done.stderr


def change(place: Place, *statements: str) -> None:
    with place.database() as database:
        for statement in statements:
            database.execute(statement)


@pytest.mark.sockets
def test_a_plan_that_was_not_written_to_its_end_is_not_resumed(place: Place) -> None:
    place.call("run", "1", *PLAN)
    change(place, "UPDATE annolab_runs SET planned_batches = NULL")
    done = place.call("resume")
    assert done.returncode == 2
    assert "was not written down to its end" in done.stderr
    assert "annolab-async run" in done.stderr
    done = place.call("runs")
    assert re.search(r" 1\+ +1\+  1 finished\n\+: not all of its sources", done.stdout)


@pytest.mark.sockets
@pytest.mark.parametrize("details", ["", "{}", "[]", '{"groupName": "x"}'])
def test_a_plan_of_somebody_else_is_not_resumed(place: Place, details: str) -> None:
    place.call("run", "1", *PLAN)
    change(place, f"UPDATE annolab_runs SET details = '{details}'")  # noqa: S608
    done = place.call("resume")
    assert done.returncode == 2
    assert "cannot be read from its ledger" in done.stderr
    runs: list[dict[str, Any]] = [
        json.loads(line) for line in place.call("runs", "--json").stdout.splitlines()
    ]
    assert runs[0]["run"] == "default"


def test_a_password_in_a_ledgers_url_is_not_shown() -> None:
    shown = command_line("resume", ledger="postgresql://me:s3cret@host/db", run="x")
    assert shown == "annolab-async resume --ledger 'postgresql://me:***@host/db' --run x"
    url = "postgresql://host/db?user=me&sslmode=require&password=s3cret&sslpassword=s3cret"
    assert "s3cret" not in command_line("resume", ledger=url, run="default")
    assert "sslmode=require" in command_line("resume", ledger=url, run="default")


def test_nor_is_it_in_the_command_that_starts_a_run_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    async def go_on(*_: object, again: str, **__: object) -> int:
        told.append(again)
        return 0

    monkeypatch.setattr(_run, "go_on", go_on)
    url = "postgresql://me:s3cret@host/db?sslmode=require"
    assert place.call("run", "1", "--ledger", url, f"--run={url}", *PLAN).returncode == 0
    assert "s3cret" not in told[0]
    assert shlex.split(told[0])[:5] == [
        "annolab-async",
        "run",
        "1",
        "--ledger",
        "postgresql://me:***@host/db?sslmode=require",
    ]
