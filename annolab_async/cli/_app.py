"""The commands, in the order in which they are shown."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from annolab_async import __version__
from annolab_async.cli._command import command, paragraphs_of, print_problem, quiet_pipes
from annolab_async.cli._demo_command import demo
from annolab_async.cli._emulator import emulator
from annolab_async.cli._export import export
from annolab_async.cli._problems import ExitStatus
from annolab_async.cli._report import report
from annolab_async.cli._resolve import resolve
from annolab_async.cli._resume import resume
from annolab_async.cli._run import run
from annolab_async.cli._runs import runs
from annolab_async.cli._status import status
from annolab_async.cli._submit import submit
from annolab_async.cli._watch import watch

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["app", "run_app"]

_MANY: Final = "Many sources"
_ONE: Final = "Single jobs"
_LOCAL: Final = "To try it out"

app: Final = typer.Typer(
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(is_asked: bool) -> None:  # noqa: FBT001  # typer calls it so
    if is_asked:
        print(f"annolab-async {__version__}")  # noqa: T201
        raise typer.Exit


def annolab_async(
    context: typer.Context,
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Run models over sources on AnnoLab, batch by batch: watch them to their ends, and pay for none twice.

    The key comes from the environment variable ANNOLAB_API_KEY. Exit status: 0 all finished, 1 some errored, lost or
    unknown, 2 bad usage or input, 130 interrupted.
    """
    del version
    if context.invoked_subcommand is None:
        print(context.get_help())  # noqa: T201
        raise typer.Exit(ExitStatus.USAGE)


app.callback(invoke_without_command=True, help=paragraphs_of(annolab_async))(annolab_async)

_COMMANDS: Final[dict[str, list[Callable[..., Any]]]] = {
    _MANY: [run, resume, runs, resolve, report],
    _ONE: [submit, status, watch, export],
    _LOCAL: [emulator, demo],
}
for _panel, _functions in _COMMANDS.items():
    for _function in _functions:
        app.command(rich_help_panel=_panel)(command(_function))


def _open_what_is_closed() -> None:
    """Lead streams that this process was started without to nowhere, before a file or a socket takes their place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(nowhere, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def run_app(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status.

    Args:
        arguments: what follows the program's name; None takes it from the process.
    """
    _open_what_is_closed()
    for stream in (sys.stdout, sys.stderr):
        # What a terminal's encoding lacks is shown as an escape, rather than nothing at all.
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(errors="backslashreplace")
    try:
        status: Any = app(arguments, prog_name="annolab-async", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        quiet_pipes()
        return ExitStatus.NO_READER
    except OSError as error:
        # Help that cannot be written; of a closed terminal, that neither.
        quiet_pipes()
        with suppress(OSError):
            print_problem([f"The output cannot be written: {error.strerror}."], hint="")
        return ExitStatus.FAILED
    except Exception as error:
        # An error of usage; which class that is of hangs on the version of typer.
        message: Callable[[], str] | None = getattr(error, "format_message", None)
        if message is None:
            raise
        context: Any = getattr(error, "ctx", None)
        path = getattr(context, "command_path", "annolab-async")
        print_problem([message()], hint=f"{path} --help")
        return ExitStatus.USAGE
    return status or ExitStatus.FINISHED
