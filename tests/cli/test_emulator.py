"""The local AnnoLab, served from the command line."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
import httpx
import pytest

from annolab_async.cli import _emulator
from tests.cli import terminal
from tests.cli.conftest import PLAN

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

pytestmark = pytest.mark.sockets


@contextmanager
def served(*arguments: str) -> Generator[subprocess.Popen[str]]:
    with subprocess.Popen(  # noqa: S603
        [*terminal.PROGRAM, "emulator", *arguments],
        env=terminal.settings(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def environment(process: subprocess.Popen[str]) -> dict[str, str]:
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(2)]
    words = [re.fullmatch(r"export (ANNOLAB_[A-Z_]+)=(\S+)\n", line) for line in lines]
    return {word[1]: word[2] for word in words if word}


def job(number: int) -> dict[str, object]:
    return {
        "groupName": "Company Name",
        "projectIdentifier": "My Project",
        "modelIdentifier": "Staple + Classify Documents",
        "sourceIds": [number],
        "outputLayerIdentifier": "Gold Set",
    }


def test_the_printed_settings_are_all_that_another_command_needs(tmp_path: Path) -> None:
    with served("--base-seconds", "0.01", "--bad-source", "2", "--bad-source", "3") as process:
        env = environment(process)
        assert [*env] == ["ANNOLAB_BASE_URL", "ANNOLAB_API_KEY"]
        done = terminal.call(
            "run", *"1234", *PLAN, "--batch-size", "1", "--json", env=env, cwd=tmp_path
        )
        assert json.loads(done.stdout.splitlines()[-1])["failed_source_ids"] == [2, 3]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert not out
    assert re.search(r"Ended after 0:\d\d: \d+ requests, jobs: 2 finished, 2 errored\.\n$", err)


def test_machines_get_its_settings_as_json_and_it_ends_on_sigterm() -> None:
    with served("--json") as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert told["event"] == "serving"
        headers = {"Authorization": f"Api-Key {told['api_key']}"}
        reply = httpx.get(f"{told['base_url']}/v1/infer/batch/1", headers=headers)
        assert reply.status_code == 404
        assert httpx.get(told["downloads_url"]).status_code == 403
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert err.endswith(": 1 request, jobs: none.\n")


def test_it_has_the_faults_and_knows_the_names_that_were_asked_for() -> None:
    names = ["--group", "Mine", "--project", "P", "--model", "M", "--output-layer", "Gold Set"]
    with served("--unavailable", "1", *names) as process:
        env = environment(process)
        reply = httpx.post(
            f"{env['ANNOLAB_BASE_URL']}/v1/infer/batch",
            headers={"Authorization": f"Api-Key {env['ANNOLAB_API_KEY']}"},
            json=job(1) | {"groupName": "Mine", "projectIdentifier": "P", "modelIdentifier": "M"},
        )
        assert reply.status_code == 503
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert ": 1 request, 1 fault, jobs: none.\n" in err
    with served(*names) as process:
        env = environment(process)
        reply = httpx.post(
            f"{env['ANNOLAB_BASE_URL']}/v1/infer/batch",
            headers={"Authorization": f"Api-Key {env['ANNOLAB_API_KEY']}"},
            json=job(1) | {"groupName": "Mine", "projectIdentifier": "P", "modelIdentifier": "M"},
        )
        assert reply.status_code == 200, reply.text


def test_on_a_terminal_the_traffic_is_shown_until_ctrl_c(tmp_path: Path) -> None:
    with terminal.OnTerminal(["emulator"], env={}, cwd=tmp_path) as screen:
        screen.read_until("0 requests, jobs: none")
        found = re.search(r"ANNOLAB_BASE_URL=(\S+)", screen.shown)
        assert found
        httpx.get(found[1])
        screen.read_until("1 request, jobs: none")
        screen.press(terminal.CTRL_C)
        assert screen.wait() == 0
    assert "Ended after 0:0" in screen.shown


@pytest.mark.parametrize("is_live", [False, True])
def test_a_signal_ends_it_whatever_is_shown(
    *, is_live: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupt(_: float) -> None:
        signal.raise_signal(signal.SIGINT)
        await anyio.sleep_forever()

    def is_live_or_interrupted() -> bool:
        if not is_live:
            signal.raise_signal(signal.SIGINT)
        return is_live

    monkeypatch.setattr(_emulator, "is_live", is_live_or_interrupted)
    monkeypatch.setattr(_emulator, "sleep", interrupt)
    for arguments in ([], ["--json"]):
        done = terminal.call("emulator", *arguments)
        assert done.returncode == 0
        assert "127.0.0.1" in done.stdout
        assert done.stderr.endswith("Ended after 0:00: 0 requests, jobs: none.\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--reset", "0.9", "--no-answer", "0.2"], "--cut-answer are more than 1 together."),
        (["--group", ""], "groups must have non-empty strings as names"),
        (["--base-seconds", "inf"], "base_seconds must be a finite number"),
        (["--host", ""], "host must be a non-empty string"),
        (["--port", "70000"], "Invalid value for '--port'"),
    ],
)
def test_settings_that_make_no_sense_are_told(arguments: list[str], told: str) -> None:
    done = terminal.call("emulator", *arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert not done.stdout


def test_a_port_that_is_taken_is_told_with_the_mend() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = terminal.call("emulator", "--port", str(port))
    assert done.returncode == 2
    assert done.stderr == (
        f"error: the emulator cannot listen on http://127.0.0.1:{port}: Address already in use.\n"
        "hint: Without --port, one is taken that is free.\n"
    )
