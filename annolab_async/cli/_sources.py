"""Source ids from the command line, standard input and files; what is none is named by file and line."""

from __future__ import annotations

import csv
import io
import json
import sys
from enum import StrEnum, auto
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

from annolab_async.cli._problems import Problem
from annolab_async.cli._terminal import tell

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["Column", "Format", "SourceFormat", "Sources", "read_sources"]

_LARGEST_ID: Final = 2**63 - 1
_LARGEST_FIELD: Final = 2**31 - 1
_SHOWN: Final = 5
_HINT: Final = "Nothing was sent. A source id is a whole number from 1 up."
_WHAT: Final = "What to run"
_STDIN: Final = "standard input"
# Column and field names that are taken for the source's, as they are without case, spaces, hyphens and underscores.
_USUAL_NAMES: Final = ("sourceid", "id")


class SourceFormat(StrEnum):
    """How a file holds source ids."""

    CSV = auto()
    JSONL = auto()
    TEXT = auto()


_FORMATS: Final = {
    ".csv": SourceFormat.CSV,
    ".tsv": SourceFormat.CSV,
    ".jsonl": SourceFormat.JSONL,
    ".ndjson": SourceFormat.JSONL,
    ".json": SourceFormat.JSONL,
}

Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SOURCES",
        help="Source ids, files that hold them (CSV, JSON lines or text), or - for standard input.",
        show_default=False,
    ),
]
Column = Annotated[
    str | None,
    typer.Option(
        "--column",
        rich_help_panel=_WHAT,
        metavar="NAME",
        help="The column of CSV files, or the field of JSON lines; without it, source_id or id.",
    ),
]
Format = Annotated[
    SourceFormat | None,
    typer.Option(
        "--format",
        rich_help_panel=_WHAT,
        help="What files and standard input hold, whatever their suffix.",
    ),
]


def read_sources(
    given: Sequence[str] | None, *, column: str | None = None, kind: SourceFormat | None = None
) -> list[int]:
    """Return the source ids that the arguments name, in their order.

    Args:
        given: ids, names of files, ``-`` for standard input.
        column: the column or field that holds the ids; None for the usual names.
        kind: what files hold; None to go by their suffixes.

    Raises:
        Problem: there are none, or something is no source id; each is named by file and line.
        OSError: a file cannot be read.
    """
    if not given:
        raise Problem(
            "No sources were given.", hint="Give source ids, files, or - for standard input."
        )
    found: list[int] = []
    faults: list[str] = []
    hint = _HINT
    for each in given:
        if (source_id := _source_id(each)) is not None:
            found.append(source_id)
            continue
        before = len(faults)
        found += _ids_in(each, column, kind, faults)
        if len(faults) > before and kind is None and Path(each).suffix.lower() not in _FORMATS:
            hint = f"{_HINT} If {_STDIN if each == '-' else each} holds a table or JSON lines: --format says so."
    if faults:
        more = len(faults) - _SHOWN
        raise Problem(
            *faults[:_SHOWN],
            *([f"{more} more like these."] if more > 0 else []),
            hint=hint,
        )
    if not found:
        raise Problem("There are no source ids in what was given.")
    return found


def _ids_in(
    name: str, column: str | None, kind: SourceFormat | None, faults: list[str]
) -> list[int]:
    if name == "-":
        where, content = _STDIN, _read_stdin()
    else:
        path = Path(name)
        if not path.exists():
            raise Problem(f"{name}: neither a source id nor a file.")
        where, content = name, path.read_bytes()
        kind = kind or _FORMATS.get(path.suffix.lower())
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise Problem(f"{where}, line {line}: this is no UTF-8 text.") from None
    values = _PARSERS[kind or SourceFormat.TEXT](text, column)
    found: list[int] = []
    try:
        for line, value in values:
            if (source_id := _source_id(value)) is not None:
                found.append(source_id)
            else:
                faults.append(f"{where}, line {line}: {_shown(value)} is no source id.")
    except _Fault as fault:
        faults.append(f"{where}, line {fault.line}: {fault}")
    return found


def _read_stdin() -> bytes:
    if sys.stdin.isatty():
        tell("Reading source ids from the terminal: Ctrl-D ends them.")
    return sys.stdin.buffer.read()


class _Fault(Exception):
    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}…"  # noqa: PLR2004  # enough to find it by


def _source_id(value: object) -> int | None:
    if isinstance(value, str):
        text = value.strip()
        # More digits than that are no id, and Python refuses to read very many.
        value = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None  # noqa: PLR2004
    if type(value) is not int:
        return None
    return value if 1 <= value <= _LARGEST_ID else None


def _from_text(text: str, column: str | None) -> Iterator[tuple[int, object]]:
    del column
    for number, line in enumerate(text.splitlines(), 1):
        for word in line.partition("#")[0].replace(",", " ").split():
            yield number, word


def _from_csv(text: str, column: str | None) -> Iterator[tuple[int, object]]:
    head = text.partition("\n")[0]
    delimiter = max(",;\t|", key=head.count)
    # Beside the ids there may be whole documents.
    csv.field_size_limit(_LARGEST_FIELD)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    place: int | None = None
    try:
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            if place is None:
                place = 0
                if column is None and len(row) == 1 and row[0].strip().isdecimal():
                    yield rows.line_num, row[0]  # a column without a head
                else:
                    place = _place(row, column, line=rows.line_num, what="columns")
            else:
                yield rows.line_num, row[place] if place < len(row) else ""
    except csv.Error as error:
        raise _Fault(rows.line_num, f"this is no CSV: {error}.") from None


def _from_json_lines(text: str, column: str | None) -> Iterator[tuple[int, object]]:
    # Not splitlines(): a JSON text may hold some of the characters that it splits at.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value: Any = json.loads(line)
        except (ValueError, RecursionError):
            raise _Fault(number, "this is no JSON.") from None
        items = cast("list[object]", value) if isinstance(value, list) else [value]
        for item in items:
            if isinstance(item, dict):
                fields = cast("dict[str, object]", item)
                names = [*fields]
                yield number, fields[names[_place(names, column, line=number, what="fields")]]
            else:
                yield number, item


_PARSERS: Final = {
    SourceFormat.CSV: _from_csv,
    SourceFormat.JSONL: _from_json_lines,
    SourceFormat.TEXT: _from_text,
}


def _place(names: Sequence[str], column: str | None, *, line: int, what: str) -> int:
    if column is not None:
        if column in names:
            return names.index(column)
    else:
        plain = [_plain(name) for name in names]
        for usual in _USUAL_NAMES:
            if usual in plain:
                return plain.index(usual)
        if len(names) == 1:
            return 0
    wanted = repr(column) if column is not None else "source_id or id"
    there = _listed(map(repr, names))
    raise _Fault(line, f"there is no {wanted} among the {what} {there}: --column says which it is.")


def _plain(name: str) -> str:
    return name.strip().lower().translate({ord(char): None for char in "_- "})


def _listed(words: Iterable[str], most: int = 12) -> str:
    shown = [*islice(words, most + 1)]
    return ", ".join(shown[:most]) + (", …" if len(shown) > most else "")
