"""What all commands share: how they are run, and how what goes wrong is told."""

from __future__ import annotations

import inspect
import logging
import os
import sys
import traceback
from contextlib import contextmanager
from functools import partial, wraps
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import anyio
import typer

from annolab_async.cli._problems import ExitStatus, Problem, innermost, problem_of
from annolab_async.cli._terminal import ERR, hide, safe, tell

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

__all__ = [
    "LIBRARIES",
    "command",
    "missing_library",
    "paragraphs_of",
    "print_problem",
    "quiet_pipes",
]

LIBRARIES: Final = frozenset({"rich", "sqlalchemy", "starlette", "typer", "uvicorn"})
_FAULT: Final = "This is a fault of annolab-async itself: {}"

Debug = Annotated[
    bool,
    typer.Option("--debug", help="Show what is logged, and tracebacks. Neither holds the key."),
]


def command(function: Callable[..., Any]) -> Callable[..., None]:
    """Make a function a command, to be given to ``app.command``; an ``async`` one runs in an event loop.

    It returns its exit status, None for 0, and raises :class:`Problem` or whatever the library raises: that is told
    in a line and how to mend it. It has an option ``--debug`` more than the function.
    """

    @wraps(function)
    def wrapped(*, debug: bool = False, **arguments: Any) -> None:
        with _told(debug=debug), _logged(debug=debug):
            if inspect.iscoroutinefunction(function):
                status = anyio.run(partial(function, **arguments))
            else:
                status = function(**arguments)
            sys.stdout.flush()
        raise typer.Exit(status or 0)

    # Evaluated here: what has a signature set is not asked where its annotations come from.
    signature = inspect.signature(function, eval_str=True)
    parameters = [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in signature.parameters.values()
    ]
    parameters.append(
        inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug)
    )
    wrapped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapped.__doc__ = paragraphs_of(function)
    wrapped.__annotations__ = {each.name: each.annotation for each in parameters}
    return wrapped


def paragraphs_of(function: Callable[..., Any]) -> str:
    """Return a function's docstring, each paragraph in a line: a terminal's width is not the source's."""
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    return "\n\n".join(text.replace("\n", " ") for text in paragraphs)


@contextmanager
def _told(*, debug: bool) -> Generator[None]:
    try:
        yield
    except typer.Exit:
        raise
    except SystemExit:
        # A console of rich's own ends the process like this when nobody reads what it prints.
        raise typer.Exit(ExitStatus.NO_READER) from None
    except KeyboardInterrupt:
        tell("Interrupted.")
        raise typer.Exit(ExitStatus.INTERRUPTED) from None
    except Exception as error:  # noqa: BLE001  # the last resort: told in a line, not as a traceback
        if is_broken_pipe(error):
            quiet_pipes()
            raise typer.Exit(ExitStatus.NO_READER) from None
        if debug:
            _print_traceback(error)
        cause = innermost(error)
        if isinstance(cause, OSError) and cause.filename is None:
            quiet_pipes()  # what stdout did not take would be tried again at the end
        problem = problem_of(cause)
        if problem is None and (library := missing_library(cause)):
            problem = Problem(
                f"This needs {library}.",
                hint="pip install 'annolab-async[cli,emulator,ledger]'",
            )
        if problem is None:
            problem = Problem(
                _FAULT.format(f"{type(cause).__name__}: {cause}"),
                hint="" if debug else "--debug shows where it comes from.",
                status=ExitStatus.FAILED,
            )
        print_problem(problem.lines, problem.hint)
        raise typer.Exit(problem.status) from None


def print_problem(lines: Sequence[str], hint: str) -> None:
    """Print to stderr what is wrong, and how to mend it."""
    for line in lines:
        ERR.print("error: ", style="bold red", end="")
        ERR.print(safe(line), soft_wrap=True)
    if hint:
        ERR.print("hint: ", style="bold", end="")
        ERR.print(safe(hint), soft_wrap=True)


def _print_traceback(error: Exception) -> None:
    # Line by line: what is within a line is made safe.
    for line in hide("".join(traceback.format_exception(error))).splitlines():
        tell(line)


def missing_library(error: BaseException) -> str | None:
    """Return the library of an extra that an error says is missing, None if it is about something else."""
    if not isinstance(error, ImportError):
        return None
    # The emulator turns the error into one of its own.
    name = error.name or getattr(error.__cause__, "name", None) or ""
    library = name.partition(".")[0]
    return library if library in LIBRARIES else None


def is_broken_pipe(error: BaseException) -> bool:
    """Return whether an error is that whatever read the output is gone."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return all(map(is_broken_pipe, group.exceptions))
    return isinstance(error, BrokenPipeError) and error.filename is None


def quiet_pipes() -> None:
    """Send what is still to be written to nowhere: the interpreter would complain about it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


class _ToTerminal(logging.Handler):
    """Prints what is logged, like all else."""

    def emit(self, record: logging.LogRecord) -> None:
        tell(f"{record.levelname.lower()}: {record.getMessage()}")


@contextmanager
def _logged(*, debug: bool) -> Generator[None]:
    handler = _ToTerminal()
    logger = logging.getLogger("annolab_async")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if debug else logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
