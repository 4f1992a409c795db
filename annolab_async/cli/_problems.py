"""What goes wrong, as people are told it: one line, how to mend it, and the exit status."""

from __future__ import annotations

import errno
from enum import IntEnum
from typing import Final, cast

from annolab_async.errors import (
    AnnoLabError,
    AuthenticationError,
    ConfigurationError,
    LedgerError,
    RateLimited,
    RequestNotSent,
    StatusError,
)

__all__ = ["ExitStatus", "Problem", "innermost", "problem_of"]


class ExitStatus(IntEnum):
    """What a command tells the shell."""

    FINISHED = 0
    """All is done, and went well."""
    FAILED = 1
    """Something errored, was lost or is unknown, or the service could not do what was asked."""
    USAGE = 2
    """Bad usage, input or settings: found here, before anything was asked of the service."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C, SIGTERM or SIGHUP."""
    NO_READER = 141
    """Whatever read the output is gone."""


class Problem(Exception):
    """What a command cannot go on with.

    Args:
        text: what is wrong, in a line; several lines for several faults.
        hint: how to mend it.
        status: the exit status.
    """

    def __init__(self, *text: str, hint: str = "", status: ExitStatus = ExitStatus.USAGE) -> None:
        super().__init__("\n".join(text))
        self.lines = text
        self.hint = hint
        self.status = status


# Where the library's own words are for who writes Python.
_MENDS: Final[dict[type[AnnoLabError], str]] = {
    AuthenticationError: "Check the key in the environment variable ANNOLAB_API_KEY.",
    RateLimited: "Ask less often: --max-per-second bounds all that is sent.",
    RequestNotSent: "Check --base-url and the network.",
}

# What writing to a stream or a file raises that was there when it was opened.
_NOT_WRITTEN: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

_RUN_OPTION: Final = ('run="another name"', '--run "another name"')


def innermost(error: BaseException) -> BaseException:
    """Return what is in groups of one."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return innermost(group.exceptions[0]) if len(group.exceptions) == 1 else group
    return error


def problem_of(error: BaseException) -> Problem | None:
    """Return an error as people are told it; None if it is a fault of this program.

    Args:
        error: whatever a command has raised.
    """
    error = innermost(error)
    if isinstance(error, Problem):
        return error
    if isinstance(error, AnnoLabError):
        is_usage = isinstance(error, ConfigurationError | LedgerError)
        text, hint = _text_and_hint(error)
        status = ExitStatus.USAGE if is_usage else ExitStatus.FAILED
        return Problem(text, hint=hint, status=status)
    if isinstance(error, OSError) and error.filename is not None:
        return Problem(f"{error.filename}: {error.strerror}")
    if isinstance(error, OSError) and error.errno in _NOT_WRITTEN:
        return Problem(f"The output cannot be written: {error.strerror}.", status=ExitStatus.FAILED)
    return None


def _text_and_hint(error: AnnoLabError) -> tuple[str, str]:
    text = str(error)
    hint: str = getattr(error, "hint", "")
    for kind, mend in _MENDS.items():
        if isinstance(error, kind):
            hint = mend
    if isinstance(error, StatusError):
        # Its text ends with its hint, in brackets.
        text, _, own = text.rpartition(" (") if text.endswith(")") else (text, "", "")
        hint = hint or own.removesuffix(")")
    return text.removesuffix(hint).rstrip(), hint.replace(*_RUN_OPTION)
