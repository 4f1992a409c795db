"""``annolab-async report``, as a process."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import anyio
import pytest

from annolab_async.cli._app import run_app
from annolab_async.ledger import BatchState, open_ledger

if TYPE_CHECKING:
    from pathlib import Path


def run(*arguments: str, cwd: Path, encoding: str = "utf-8") -> subprocess.CompletedProcess[str]:
    code = "from annolab_async.cli import main; main()"
    return subprocess.run(  # noqa: S603
        [sys.executable, "-W", "error", "-c", code, "report", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
        env={"PYTHONIOENCODING": encoding, "PATH": ""},
    )


async def write(path: Path, *names: str) -> None:
    async with open_ledger(path) as ledger:
        for name in names:
            batches = await ledger.begin_run(name, "plan")
            await batches.plan([[1, 2], [3]])
            (first,) = await batches.claim("me", limit=1, lease_seconds=60)
            await batches.change(first, BatchState.ERRORED, owner="me", error="no\x1b[31m such é")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    anyio.run(partial(write, tmp_path / "run.db", "first", "second"))
    return tmp_path


def test_it_prints_all_runs(folder: Path) -> None:
    done = run("run.db", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.index("Run second") < done.stdout.index("Run first")
    assert "no�[31m such é" in done.stdout
    assert "\x1b" not in done.stdout


def test_it_writes_a_page_of_the_run_that_is_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert run_app(["report", "run.db", "--run", "first", "-o", "report.html"]) == 0
    assert tuple(capsys.readouterr()) == ("", "The report is in report.html.\n")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Run first" in page
    assert "Run second" not in page


def test_it_prints_what_it_can_where_there_is_only_ascii(folder: Path) -> None:
    done = run("run.db", cwd=folder, encoding="ascii")
    assert done.returncode == 0
    assert done.stdout.isascii()
    assert "such" in done.stdout


def test_it_writes_its_numbers_for_machines(folder: Path) -> None:
    done = run("run.db", "--json", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    second, first = map(json.loads, done.stdout.splitlines())
    assert [(each["event"], each["run"]) for each in (second, first)] == [
        ("run", "second"),
        ("run", "first"),
    ]
    assert first["batches"] == {"errored": 1, "planned": 1}
    assert first["sources"] == {"errored": 2, "planned": 1}
    assert not first["is_over"]
    (trouble,) = first["troubled"]
    assert trouble["source_ids"] == [1, 2]
    assert trouble["state"] == "errored"
    assert done.stdout.isascii()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["other.db"], "there is no such file"),
        (["run.db", "--run", "third"], "it has no run 'third'"),
        (["run.db", "-o", "nowhere/report.html"], "No such file or directory"),
        (["run.db", "-o", "."], "is a directory"),
        ([], "LEDGER"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(
    arguments: list[str],
    told: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    assert run_app(["report", *arguments]) == 2
    shown = capsys.readouterr()
    assert told in shown.err
    assert shown.out == ""
    assert not (folder / "other.db").exists()


def test_without_its_libraries_it_says_how_to_get_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setitem(sys.modules, "bokeh", None)
    monkeypatch.delitem(sys.modules, "annolab_async.report._page", raising=False)
    for name in [name for name in sys.modules if name.startswith("bokeh.")]:
        monkeypatch.delitem(sys.modules, name)
    assert run_app(["report", "run.db", "-o", "report.html"]) == 2
    assert "pip install 'annolab-async[ledger,report]'" in capsys.readouterr().err
    assert run_app(["report", "run.db"]) == 0, "it is printed without them"
