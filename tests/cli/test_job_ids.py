"""Job ids from arguments, files and standard input."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from annolab_async import InferenceJob
from annolab_async.cli._job_ids import read_job_ids
from annolab_async.cli._problems import Problem
from tests.cli import terminal

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("1\n2\n\n3", [1, 2, 3]),
        ("1, 2\t3 # 4\n# 5\r\n6", [1, 2, 3, 6]),
        (InferenceJob(7, "Queued", (1,)).to_json() + "\n8\n", [7, 8]),
        ('{"event": "job", "inference_job_id": 5, "source_ids": [1]}\n{"job_id": "6"}', [5, 6]),
        ('{"event": "batch", "inference_job_id": null}\n{"event": "summary"}\n1', [1]),
        ("\ufeff12", [12]),
        ("2 1 2 1", [2, 1]),
        ('{"inferenceJobId": 1, "status": "a\u2028b\\u0085"}', [1]),
    ],
)
def test_ids_are_found_once_each_in_whatever_holds_them(
    content: str, found: list[int], tmp_path: Path
) -> None:
    (tmp_path / "jobs").write_text(content, encoding="utf-8")
    assert read_job_ids(None, str(tmp_path / "jobs")) == found


def test_arguments_come_before_the_file(tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("1\n9\n")
    assert read_job_ids(["3", "9"], str(tmp_path / "jobs")) == [3, 9, 1]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("1\nx", "line 2: 'x' is no job id."),
        ("0", "line 1: '0' is no job id."),
        ("-1", "line 1: '-1' is no job id."),
        ("9" * 5000, f"line 1: '{'9' * 40}…' is no job id."),
        (str(2**63), "is no job id"),
        ('{"inference_job_id": true}', "line 1: 'True' is no job id."),
        ('{"inference_job_id": 1.5}', "line 1: '1.5' is no job id."),
        ('{"id": 1}', "line 1: '{\"id\": 1}' is no job id."),
        ('{"a": ', "line 1: '{\"a\":' is no job id."),
        ('{"a":' + "[" * 100_000, "is no job id."),
        ("\x1b[31m", r"'\x1b[31m' is no job id."),
    ],
)
def test_what_is_no_id_is_named_by_its_line(content: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text(content, encoding="utf-8")
    with pytest.raises(Problem) as caught:
        read_job_ids(None, str(tmp_path / "jobs"))
    assert told in caught.value.lines[0]
    assert "whole number from 1 up" in caught.value.hint


def test_of_many_faults_the_first_are_told() -> None:
    with pytest.raises(Problem) as caught:
        read_job_ids(["1", *"abcdefg"], None)
    assert caught.value.lines[0] == "'a' is no job id."
    assert caught.value.lines[5:] == ("2 more like these.",)


@pytest.mark.parametrize(
    ("arguments", "given", "told"),
    [
        ([], "", "error: No jobs were given."),
        (["-"], "", "error: There are no job ids in what was given."),
        (["-"], b"1\n\xff", "error: standard input, line 2: this is no UTF-8 text."),
        (["--file", "nope"], "", "error: nope: No such file or directory"),
        (["--file", "."], "", "error: .: Is a directory"),
        (["nope"], "", "error: 'nope' is no job id."),
    ],
)
@pytest.mark.parametrize("command", ["watch", "status"])
def test_without_ids_nothing_is_asked(
    command: str, arguments: list[str], given: str | bytes, told: str, tmp_path: Path
) -> None:
    done = terminal.call(command, *arguments, given=given, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(told)
    assert not done.stdout


def test_it_is_said_that_ids_are_read_from_the_terminal(tmp_path: Path) -> None:
    with terminal.OnTerminal(["status", "-"], env={}, cwd=tmp_path) as screen:
        screen.read_until("Reading job ids from the terminal: Ctrl-D ends them.")
        screen.press(b"x\n\x04")
        assert screen.wait() == 2
    assert "standard input, line 1: 'x' is no job id." in screen.shown


def test_ctrl_c_while_ids_are_read_ends_it(tmp_path: Path) -> None:
    with terminal.OnTerminal(["watch", "-"], env={}, cwd=tmp_path) as screen:
        screen.read_until("Ctrl-D ends them.")
        screen.press(terminal.CTRL_C)
        assert screen.wait() == 130


def test_what_other_commands_write_is_read(tmp_path: Path) -> None:
    job = {"event": "transition", "inference_job_id": 3, "outcome": "finished"}
    (tmp_path / "x.jsonl").write_text(json.dumps(job))
    assert read_job_ids([], str(tmp_path / "x.jsonl")) == [3]
