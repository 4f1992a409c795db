"""The command ``report``."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # typer asks for the types at run time
from typing import Annotated

import typer

from annolab_async.cli._problems import ExitStatus, Problem
from annolab_async.cli._terminal import tell
from annolab_async.report import read_report

__all__ = ["report"]


async def report(
    ledger: Annotated[
        str,
        typer.Argument(
            metavar="LEDGER",
            help="Where the runs are written down: a SQLite file, or postgresql://…",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            dir_okay=False,
            help="Write a page to look at in a browser: one file, which loads nothing.",
        ),
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", metavar="NAME", help="Only the run of this name.")
    ] = None,
) -> int:
    """Show what became of the runs in a ledger: when which batch did what, how long it took, what went wrong.

    Without -o it is printed here. The runs may be going on meanwhile.
    """
    found = await read_report(ledger, run=run)
    try:
        if output is None:
            found.show()
        else:
            path = await found.save(output)
            tell(f"The report is in {path}.")
    except ImportError as error:
        raise Problem(
            f"A report needs {error.name}.", hint="pip install 'annolab-async[ledger,report]'"
        ) from error
    return ExitStatus.FINISHED
