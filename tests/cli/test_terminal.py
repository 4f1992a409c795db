"""What reaches the terminal: nothing raw, nothing secret, and never a traceback."""

from __future__ import annotations

import json
import logging
import shlex
from typing import TYPE_CHECKING, Any

import pytest
import typer
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from annolab_async.cli import _command, _terminal
from annolab_async.cli._command import command
from annolab_async.cli._options import identifier
from annolab_async.cli._problems import ExitStatus, Problem
from annolab_async.cli._terminal import Own, print_json, print_table, safe, tell, tell_command
from annolab_async.errors import ConfigurationError
from tests.cli import terminal
from tests.cli.conftest import PLAN, MakePlace, Place
from tests.service import KEY

if TYPE_CHECKING:
    from starlette.requests import Request

    from annolab_async.emulator import Emulator

HOSTILE = "\x1b]0;owned\x07\x1b[31mred\x9b2J\u202eevil\u2028[bold]x[/bold] :smile: \r\n\x7f\ud800\U000e0041"


def is_inert(text: str) -> bool:
    return all(char.isprintable() or char == "\n" for char in text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ümläut, 日本語, 😀", "plain, ümläut, 日本語, 😀"),
        ("\x1b[31m", r"\x1b[31m"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x9b\x7f\x00", r"\x9b\x7f\x00"),
        ("\u202eabc\u2066\u200b\ufeff", r"\u202eabc\u2066\u200b\ufeff"),
        ("\ud800\U000e0041", r"\ud800\U000e0041"),
        ("a\xa0b\u3000c", "a b c"),
        ("[red]x[/red] :bomb:", "[red]x[/red] :bomb:"),
        (17, "17"),
    ],
)
def test_texts_are_made_inert(text: object, shown: str) -> None:
    assert safe(text) == shown


def test_long_texts_are_cut() -> None:
    assert len(safe("x" * 100_000)) < 3000


def test_the_key_and_signed_links_are_hidden(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ANNOLAB_API_KEY", "XXXXXXX-XXXXXXX-XXXXXXX-CANARYX")
    text = "xxxxxxx-xxxxxxx-XXXXXXX-CANARYX https://x/y?signature=s3cret"
    tell(text)
    print_json({"text": text})
    print_table(["a"], [[text]])
    out, err = capsys.readouterr()
    assert "CANARYX" not in out + err
    assert "s3cret" not in out + err
    assert "[API key] https://x/y?[hidden]" in err


def test_json_is_json_whatever_is_hidden_in_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ANNOLAB_API_KEY", 'a"b\\c')
    print_json({
        "error": 'no model "Which?" at "https://x/y?signature=s3cret", a"b\\c',
        "plans": [{'"?"': ("?a",)}],
    })
    assert json.loads(capsys.readouterr().out) == {
        "error": 'no model "Which?" at "https://x/y?[hidden]", [API key]',
        "plans": [{'"?"': ["?[hidden]"]}],
    }


def test_commands_can_be_copied_without_a_key_in_use_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ANNOLAB_API_KEY", raising=False)
    command = "annolab-async resume --ledger 'sqlite:///q.db?timeout=5'"
    tell_command(command)
    assert capsys.readouterr().err == f"  {command}\n"


def test_commands_are_told_as_they_can_be_copied(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ANNOLAB_API_KEY", KEY)
    words = [*map(str, range(1000)), "--ledger", "postgresql://host/db?sslmode=require"]
    tell_command(shlex.join(words))
    print_json({"next": [Own(shlex.join(words))]})
    tell_command(f"x?y {KEY.lower()}")
    out, err = capsys.readouterr()
    told, hidden = err.splitlines()
    assert shlex.split(told) == words
    assert shlex.split(json.loads(out)["next"][0]) == words
    assert hidden == "  x?[hidden] [API key]"


def test_tables_and_json_are_inert_too(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["name"], [[HOSTILE]])
    print_json({"name": HOSTILE})
    tell(HOSTILE)
    out, err = capsys.readouterr()
    assert is_inert(out)
    assert is_inert(err)
    assert json.loads(out.splitlines()[-1]) == {"name": HOSTILE}
    assert "[bold]x[/bold] :smile:" in out


def test_a_table_is_folded_on_a_terminal_and_nowhere_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    print_table(["name"], [["x" * 500]])
    assert max(map(len, capsys.readouterr().out.splitlines())) == 500
    monkeypatch.setattr(_terminal.OUT, "_force_terminal", True)
    monkeypatch.setattr(_terminal.OUT, "_width", 60)
    print_table(["name"], [["x" * 500]])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60


def test_on_a_terminal_that_is_too_narrow_no_column_of_a_table_is_lost(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_terminal.OUT, "_force_terminal", True)
    monkeypatch.setattr(_terminal.OUT, "_width", 40)
    row = ("default", "2026-11-24 06:22:36Z", "2,000", "17 finished, 1 errored")
    print_table(("run", "begun", "sources", "states"), [row], right=("sources",), whole=("begun",))
    assert capsys.readouterr().out.splitlines()[1].split("  ")[:2] == [*row[:2]]


@pytest.mark.parametrize(
    ("text", "meant"), [("12", 12), ("Gold", "Gold"), ("name:12", "12"), ("name:name:a", "name:a")]
)
def test_digits_are_an_id_and_a_prefix_makes_them_a_name(text: str, meant: str | int) -> None:
    assert identifier(text) == meant


def outcome(function: Any, **arguments: Any) -> int:
    with pytest.raises(typer.Exit) as left:
        command(function)(**arguments)
    return left.value.exit_code


def raising(error: BaseException) -> Any:
    def function() -> None:
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (Problem("bad", hint="mend"), 2, "error: bad\nhint: mend\n"),
        (Problem("a", "b", status=ExitStatus.FAILED), 1, "error: a\nerror: b\n"),
        (ConfigurationError("no key"), 2, "error: no key\n"),
        (ExceptionGroup("", [Problem("inside")]), 2, "error: inside\n"),
        (FileNotFoundError(2, "No such file", "x.csv"), 2, "error: x.csv: No such file\n"),
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
        (ImportError("no", name="uvicorn"), 2, "pip install 'annolab-async[cli,emulator,ledger]'"),
        (ImportError("no", name="elsewhere"), 1, "a fault of annolab-async itself: ImportError"),
        (ZeroDivisionError("\x1b[2J"), 1, r"ZeroDivisionError: \x1b[2J"),
        (ExceptionGroup("", [ZeroDivisionError("in")]), 1, "itself: ZeroDivisionError: in\n"),
        (ExceptionGroup("two", [ValueError(), ValueError()]), 1, "itself: ExceptionGroup: two"),
    ],
)
def test_errors_are_a_line_and_the_mend(
    error: BaseException, status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome(raising(error)) == status
    out, err = capsys.readouterr()
    assert told in err
    assert "Traceback" not in err
    assert not out


def test_debug_shows_the_traceback_inert_and_what_is_logged(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def function() -> None:
        logging.getLogger("annolab_async.x").debug("details \x1b[2J")
        raise RuntimeError("\x1b[31m")

    assert outcome(function, debug=True) == 1
    err = capsys.readouterr().err
    assert "debug: details \\x1b[2J" in err
    assert "Traceback" in err
    assert is_inert(err)
    assert "--debug" not in err


def test_a_command_may_be_asynchronous_and_returns_its_status(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def function(*, number: int) -> int:  # as those that wait
        return number

    assert outcome(function, number=3) == 3
    assert capsys.readouterr() == ("", "")


def test_warnings_of_the_library_are_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    def function() -> None:
        logging.getLogger("annolab_async.x").warning("mind %s", "\x1b")
        logging.getLogger("annolab_async.x").info("nothing new")

    assert outcome(function) == 0
    assert capsys.readouterr().err == "warning: mind \\x1b\n"


def test_only_pipes_that_are_ours_are_broken_in_silence() -> None:
    assert _command.is_broken_pipe(BrokenPipeError())
    assert _command.is_broken_pipe(ExceptionGroup("", [BrokenPipeError()]))
    assert not _command.is_broken_pipe(ExceptionGroup("", [BrokenPipeError(), ValueError()]))
    assert not _command.is_broken_pipe(ValueError())


def hostile_app(emulator: Emulator) -> Starlette:
    """Return a service that takes everything, and whose words are hostile."""
    del emulator

    async def submit(request: Request) -> JSONResponse:
        body = await request.json()
        if 13 in body["sourceIds"]:
            return JSONResponse({"message": f"{HOSTILE[:-2]} {KEY}"}, status_code=400)
        return JSONResponse({
            "inferenceJobId": body["sourceIds"][0],
            "status": "\x1b[2JQueued",
            "sourceIds": body["sourceIds"],
            "projectName": HOSTILE[:-2],
            "projectId": 1,
        })

    async def status(request: Request) -> JSONResponse:
        job_id = int(request.path_params["job_id"])
        return JSONResponse({
            "inferenceJobId": job_id,
            "status": "Errored",
            "sourceIds": [job_id],
            "errorMessage": HOSTILE[:-2],
        })

    return Starlette(
        routes=[
            Route("/v1/infer/batch", submit, methods=["POST"]),
            Route("/v1/infer/batch/{job_id}", status),
        ]
    )


@pytest.mark.sockets
def test_a_hostile_service_writes_nothing_raw_to_a_terminal(make_place: MakePlace) -> None:
    with make_place() as place:
        place.emulator._app = hostile_app(place.emulator)
        with place.on_terminal("run", "12", "13", *PLAN, "--batch-size", "1") as shown:
            assert shown.wait() == 1
    assert "]0;owned" in shown.shown
    assert "\x1b]0;owned" not in shown.raw.decode()
    assert "\x07" not in shown.raw.decode()
    assert "\u202e" not in shown.raw.decode()
    assert "[bold]x[/bold]" in shown.shown
    assert KEY not in shown.raw.decode()


@pytest.mark.sockets
def test_a_hostile_ledger_writes_nothing_raw_to_a_terminal(place: Place) -> None:
    place.call("run", "1", *PLAN)
    with place.database() as database:
        database.execute("UPDATE annolab_runs SET name = ?", ("\x1b[31m\u202erun",))
        database.execute("UPDATE annolab_batches SET state = 'unknown', error = ?", ("\x9b2J",))
    done = place.call("runs")
    assert is_inert(done.stdout)
    assert r"\x1b[31m\u202erun" in done.stdout
    done = place.call("resolve", "--run", "\x1b[31m\u202erun")
    assert done.returncode == 0
    assert is_inert(done.stdout + done.stderr)
    assert r"\x9b2J" in done.stdout
    done = place.call("resume", "--run", "\x1b[2J")
    assert done.returncode == 2
    assert is_inert(done.stderr)


def test_no_key_is_told_before_anything_else(tmp_path: Any) -> None:
    done = terminal.call("run", "1", *PLAN, cwd=tmp_path)
    assert done.returncode == 2
    assert "error: There is no API key.\nhint: Set the environment variable" in done.stderr
    assert not [*tmp_path.iterdir()], "no ledger was made"
