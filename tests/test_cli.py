"""The command line, as a process and, where it matters, on a terminal."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys

import anyio
import pytest
from anyio.lowlevel import checkpoint
from typer.testing import CliRunner

from annolab_async import Outcome
from annolab_async.cli import _demo, _demo_fan_out, main
from annolab_async.cli._app import app
from tests.cli.terminal import HEEDS_INTERRUPTS

SMALL = ["demo", "--batches", "30", "--batch-size", "2", "--workers", "30", "--error-share", "0.2"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            "from annolab_async.cli import main; main()",
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def no_fan_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: object) -> bool:
        await checkpoint()
        return True

    monkeypatch.setattr(_demo_fan_out, "run_fan_out_demo", nothing)


@pytest.mark.full
def test_the_demo_tells_what_came_of_every_job() -> None:
    done = run(*SMALL)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert "Submitting 30 batches of 2 sources" in done.stdout
    errored = [line for line in done.stdout.splitlines() if "errored; its sources:" in line]
    assert errored
    assert f"{30 - len(errored)} finished, {len(errored)} errored" in done.stdout
    assert "30 submits" in done.stdout
    assert "95% within" in done.stdout
    assert "Every job got exactly one outcome" in done.stdout
    assert "every source is in exactly one job" in done.stdout
    assert "\x1b" not in done.stdout, "plain text when it is no terminal"


@pytest.mark.full
@pytest.mark.usefixtures("no_fan_out")
def test_the_same_seed_gives_the_same_failures() -> None:
    runs = [CliRunner().invoke(app, [*SMALL, "--seed", seed]).stdout for seed in ("1", "1", "2")]
    # Which jobs fail, that is; which batch gets which job depends on which submitter comes first.
    failures = [re.findall(r"^(Job \d+) errored", text, re.MULTILINE) for text in runs]
    assert failures[0] == failures[1] != failures[2]


@pytest.mark.full
def test_on_a_terminal_there_is_a_live_bar() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", "from annolab_async.cli import main; main()", *SMALL],
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"},
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 65536):
                shown += chunk
        except OSError:
            pass  # Linux's way to say that the other side is closed
    os.close(ours)
    assert process.returncode == 0
    assert b"\x1b[" in shown
    assert b"/30" in shown
    assert b"Every job got exactly one outcome" in shown
    assert b"batches have a job" in shown
    assert b"every source is in exactly one job" in shown


@pytest.mark.usefixtures("no_fan_out")
def test_an_outcome_that_is_not_the_truth_is_told_and_is_the_exit_status(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(_demo._OUTCOME_OF, "Finished", Outcome.LOST)
    done = CliRunner().invoke(app, SMALL)
    assert done.exit_code == 1
    assert "WRONG" in done.stdout


@pytest.mark.full
def test_an_interrupt_ends_it_in_one_line() -> None:
    with subprocess.Popen(  # noqa: S603
        [
            sys.executable,
            "-c",
            f"{HEEDS_INTERRUPTS}; from annolab_async.cli import main; main()",
            "demo",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert "Submitting" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Interrupted" in out
    assert not err


def test_an_interrupt_has_its_own_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(anyio, "run", interrupted)
    done = CliRunner().invoke(app, SMALL)
    assert done.exit_code == 130
    assert "Interrupted" in done.stdout


def test_senseless_options_are_refused() -> None:
    done = run("demo", "--batches", "0")
    assert done.returncode == 2
    assert "--batches" in done.stderr
    assert run("dmeo").returncode == 2


@pytest.mark.full
@pytest.mark.parametrize("missing", ["typer", "rich", "sqlalchemy", "starlette", "uvicorn"])
def test_without_its_libraries_it_says_how_to_get_them(missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None; from annolab_async.cli import main; main()"
    )
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code, "demo"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "pip install 'annolab-async[cli,emulator,ledger]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_of_its_own_is_not_taken_for_a_missing_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "annolab_async.cli._app", None)
    with pytest.raises(ImportError):
        main()


def test_main_runs_the_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["annolab-async", "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "demo" in capsys.readouterr().out
