"""What reaches the terminal: results to stdout, all else to stderr, and nothing of others' raw."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Mapping
from io import StringIO
from typing import TYPE_CHECKING, Any, Final, cast

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.table import Table

from annolab_async._secret import LINKS, ApiKey, key_fault

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "ERR",
    "OUT",
    "Own",
    "hide",
    "is_live",
    "live",
    "print_json",
    "print_line",
    "print_table",
    "safe",
    "tell",
    "tell_command",
]


class _PlainConsole(Console):
    """A console to which neither markup nor emoji codes mean anything, wherever a text comes from."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def on_broken_pipe(self) -> None:
        # Rich would end the process here and now, and with it a run.
        raise BrokenPipeError


OUT: Final = _PlainConsole()
ERR: Final = _PlainConsole(stderr=True)
# Where there is no terminal, nothing is cut to the width of one.
_WIDE: Final = 10_000
_LONGEST: Final = 2_000
_GAP: Final = 2
# A column that is folded into less is not to be read.
_LEAST: Final = 8


class Own(str):
    """A text of the user's own, such as a command to copy: never cut, and its links are not signed ones."""

    __slots__ = ()


def hide(text: str) -> str:
    """Return a text without the API key in use, and without the queries of links, which may be signed."""
    key = os.environ.get("ANNOLAB_API_KEY", "")
    if isinstance(text, Own) and not (key and key.lower() in text.lower()):
        return text
    return LINKS.hide(text) if key_fault(key) else ApiKey(key).hide(text)


def safe(text: object) -> str:
    r"""Return a text of whatever origin fit for a terminal: in one line, inert, and without secrets.

    Control characters, escape sequences, changes of the direction of writing and whatever else is not to be seen are
    shown as Python would write them, such as ``\x1b``.
    """
    shown = hide(text if isinstance(text, str) else str(text))
    if len(shown) > _LONGEST and not isinstance(text, Own):
        shown = shown[:_LONGEST] + "…"
    return shown if shown.isprintable() else "".join(map(_visible, shown))


def _visible(char: str) -> str:
    if char.isprintable():
        return char
    return " " if unicodedata.category(char) == "Zs" else ascii(char)[1:-1]


def tell(*lines: object, style: str | None = None) -> None:
    """Print lines to stderr: messages and progress. Each is made safe."""
    for line in lines:
        ERR.print(safe(line), style=style, soft_wrap=True)


def tell_command(command: str) -> None:
    """Print a command line to stderr, to be copied. It is made safe."""
    tell(Own(f"  {command}"))


def print_line(line: object = "") -> None:
    """Print a line of a result to stdout. It is made safe."""
    OUT.print(safe(line), soft_wrap=True)


def print_json(fields: Mapping[str, object]) -> None:
    """Print an object as a line of JSON to stdout, in ASCII and without secrets."""
    # Through no console, which might fold or colour it. DEL is the one control character that JSON leaves alone.
    text = json.dumps(_without_secrets(fields), default=str).replace("\x7f", "\\u007f")
    print(text, flush=True)  # noqa: T201  # whoever reads it wants to know now


def _without_secrets(value: object) -> object:
    # Before it is JSON, whose escapes would be taken for parts of a link.
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, object]", value)
        return {hide(name): _without_secrets(each) for name, each in fields.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(each) for each in cast("Sequence[object]", value)]
    return value


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Sequence[str] = (),
    whole: Sequence[str] = (),
) -> None:
    """Print a table to stdout. Every cell is made safe.

    Args:
        columns: the heads of its columns; all empty for none.
        rows: the cells.
        right: the columns that are flush right, as numbers are.
        whole: the columns whose cells are never folded.
    """
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), show_header=any(columns))
    for name in columns:
        table.add_column(
            name.upper(),
            justify="right" if name in right else "left",
            no_wrap=name in right or name in whole,
            overflow="fold",
        )
    cells = [[*map(safe, row)] for row in rows]
    for row in cells:
        table.add_row(*row)
    widths = (max(map(cell_len, column)) for column in zip(columns, *cells, strict=True))
    least = sum(
        _GAP + (width if name in right or name in whole else min(width, _LEAST))
        for name, width in zip(columns, widths, strict=True)
    )
    # On a terminal that is narrower, some columns would be cut, and others be gone.
    if OUT.is_terminal and OUT.width >= least:
        OUT.print(table)
        return
    # A console's own width bounds what it prints.
    wide = _PlainConsole(file=StringIO(), width=_WIDE)
    with wide.capture() as captured:
        wide.print(table)
    for line in captured.get().splitlines():
        OUT.print(line.rstrip(), soft_wrap=True)


def is_live() -> bool:
    """Return whether stderr is a terminal on which a display can be redrawn."""
    return sys.stderr.isatty() and ERR.is_terminal and not ERR.is_dumb_terminal


def live() -> Live:
    """Return a display at the end of stderr, to be redrawn by its owner; it vanishes when it stops."""
    # Rich would send what is printed meanwhile to stderr, also where stdout goes into a file.
    return Live(
        console=ERR, auto_refresh=False, transient=True, redirect_stdout=sys.stdout.isatty()
    )
