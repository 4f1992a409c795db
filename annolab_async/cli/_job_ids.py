"""Job ids from the command line, standard input and files, also from what other commands wrote there as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

from annolab_async.cli._problems import Problem
from annolab_async.cli._terminal import tell

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["File", "Jobs", "read_job_ids"]

_LARGEST_ID: Final = 2**63 - 1
_SHOWN: Final = 5
_LONGEST: Final = 40
# Field names that are taken for the job's id, as they are without case and underscores.
_NAMES: Final = ("inferencejobid", "jobid")

Jobs = Annotated[
    list[str] | None,
    typer.Argument(metavar="JOBS", help="Job ids, or - for standard input.", show_default=False),
]
File = Annotated[
    str | None,
    typer.Option(
        "--file",
        metavar="FILE",
        help="A file of job ids, or of JSON lines as submit and run write them; - for standard input.",
        show_default=False,
    ),
]


def read_job_ids(given: Sequence[str] | None, file: str | None) -> list[int]:
    """Return the job ids that the arguments name, in their order, each once.

    Args:
        given: ids, ``-`` for standard input.
        file: the name of a file, or ``-``.

    Raises:
        Problem: there are none, or something is no job id; each is named by file and line.
        OSError: the file cannot be read.
    """
    found: list[int] = []
    faults: list[str] = []
    for each in given or ():
        if each == "-":
            found += _ids_in(each, faults)
        elif (job_id := _job_id(each)) is not None:
            found.append(job_id)
        else:
            faults.append(f"{_shown(each)} is no job id.")
    if file is not None:
        found += _ids_in(file, faults)
    if faults:
        more = len(faults) - _SHOWN
        raise Problem(
            *faults[:_SHOWN],
            *([f"{more} more like these."] if more > 0 else []),
            hint="A job id is a whole number from 1 up. --file is for files that hold them.",
        )
    if not found:
        raise Problem(
            "There are no job ids in what was given." if given or file else "No jobs were given.",
            hint="Give job ids, --file, or - for standard input.",
        )
    return [*dict.fromkeys(found)]


def _ids_in(name: str, faults: list[str]) -> list[int]:
    if name == "-":
        if sys.stdin.isatty():
            tell("Reading job ids from the terminal: Ctrl-D ends them.")
        name, content = "standard input", sys.stdin.buffer.read()
    else:
        content = Path(name).read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise Problem(f"{name}, line {line}: this is no UTF-8 text.") from None
    found: list[int] = []
    # Not splitlines(): a JSON text may hold some of the characters that it splits at.
    for number, line in enumerate(text.split("\n"), 1):
        for value in _values_in(line):
            if (job_id := _job_id(value)) is not None:
                found.append(job_id)
            else:
                faults.append(f"{name}, line {number}: {_shown(value)} is no job id.")
    return found


def _values_in(line: str) -> Iterator[object]:
    if not line.lstrip().startswith("{"):
        yield from line.partition("#")[0].replace(",", " ").split()
        return
    try:
        fields = cast("dict[str, Any]", json.loads(line))
    except (ValueError, RecursionError):
        yield line
        return
    for name, value in fields.items():
        if name.replace("_", "").lower() in _NAMES:
            # What `run` writes of a batch that has no job yet, or of which nobody knows.
            if value is not None:
                yield value
            return
    if "event" not in fields:
        yield line


def _shown(value: object) -> str:
    text = str(value).strip()
    return repr(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…")


def _job_id(value: object) -> int | None:
    if isinstance(value, str):
        # More digits than that are no id, and Python refuses to read very many.
        is_number = value.isascii() and value.isdecimal() and len(value) < 20  # noqa: PLR2004
        value = int(value) if is_number else None
    if type(value) is not int:
        return None
    return value if 1 <= value <= _LARGEST_ID else None
