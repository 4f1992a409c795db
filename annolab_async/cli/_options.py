"""Options that several commands have, and what they mean."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Annotated, Final

import typer

from annolab_async import AsyncInferenceClient, RateLimit
from annolab_async.cli._ledgers import shown_spec
from annolab_async.cli._problems import Problem
from annolab_async.cli._terminal import Own

if TYPE_CHECKING:
    from collections.abc import Collection

    from annolab_async import Hook

__all__ = [
    "BaseUrl",
    "Group",
    "Json",
    "Ledger",
    "LedgerPath",
    "MaxPerSecond",
    "Model",
    "OutputLayer",
    "Project",
    "RunName",
    "command_line",
    "identifier",
    "make_client",
]

_WHAT: Final = "What to run"
_KEPT: Final = "Where it is written down"
_NAME_OR_ID: Final = "A number is an id; name:123 is the name 123."

BaseUrl = Annotated[
    str | None,
    typer.Option(
        "--base-url",
        metavar="URL",
        envvar="ANNOLAB_BASE_URL",
        help="Where the service is, if not at https://api.annolab.ai.",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Write one JSON object a line to stdout, for machines.")
]
MaxPerSecond = Annotated[
    float | None,
    typer.Option(
        "--max-per-second", metavar="N", help="Requests a second at most, of all kinds together."
    ),
]
Group = Annotated[
    str,
    typer.Option(
        "--group", rich_help_panel=_WHAT, metavar="NAME", help="The group that owns the project."
    ),
]
Project = Annotated[
    str,
    typer.Option(
        "--project",
        rich_help_panel=_WHAT,
        metavar="NAME|ID",
        help=f"The project that holds the sources. {_NAME_OR_ID}",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model", rich_help_panel=_WHAT, metavar="NAME|ID", help="The model to run, likewise."
    ),
]
OutputLayer = Annotated[
    str,
    typer.Option(
        "--output-layer",
        rich_help_panel=_WHAT,
        metavar="NAME|ID",
        help="The layer that receives the predictions, likewise.",
    ),
]
Ledger = Annotated[
    str,
    typer.Option(
        "--ledger",
        rich_help_panel=_KEPT,
        metavar="PATH|URL",
        envvar="ANNOLAB_LEDGER",
        help="Where the run is written down: a SQLite file, or postgresql://…",
    ),
]
LedgerPath = Annotated[
    str | None,
    typer.Argument(metavar="LEDGER", help="The ledger, as --ledger.", show_default=False),
]
RunName = Annotated[
    str,
    typer.Option(
        "--run", rich_help_panel=_KEPT, metavar="NAME", help="The run's name in the ledger."
    ),
]


def identifier(text: str) -> str | int:
    """Return a name or an id, as given on the command line.

    Args:
        text: digits for an id; anything else is a name, also behind ``name:``, where it may be of digits.
    """
    if text.isascii() and text.isdecimal():
        return int(text)
    return text.removeprefix("name:")


def command_line(name: str, *more: str, ledger: str, run: str, base_url: str | None = None) -> Own:
    """Return the command line of a command on a run, to be copied: what is the default is left out.

    Args:
        name: the command.
        more: its further arguments.
        ledger: the run's ledger; of a password in it three stars are left.
        run: the run's name.
        base_url: where the service is.
    """
    words = ["annolab-async", name, *more]
    if ledger != os.environ.get("ANNOLAB_LEDGER", "run.db"):
        words += ["--ledger", shown_spec(ledger)]
    if run != "default":
        words += ["--run", run]
    if base_url and base_url != os.environ.get("ANNOLAB_BASE_URL"):
        words += ["--base-url", base_url]
    return Own(shlex.join(words))


def make_client(
    base_url: str | None,
    *,
    max_per_second: float | None = None,
    hooks: Collection[Hook] = (),
) -> AsyncInferenceClient:
    """Return a client as the options and the environment say.

    Args:
        base_url: where the service is, None for where it usually is.
        max_per_second: a bound on all requests, None for none.
        hooks: who is told of what happens.

    Raises:
        Problem: there is no key, or a rate that is none.
        ConfigurationError: the key or the URL is none.
    """
    if not os.environ.get("ANNOLAB_API_KEY"):
        raise Problem(
            "There is no API key.",
            hint="Set the environment variable ANNOLAB_API_KEY to it. It is no option, for others see those.",
        )
    try:
        rate_limit = None if max_per_second is None else RateLimit(max_per_second)
    except ValueError:
        raise Problem(f"--max-per-second is {max_per_second}, not a positive number.") from None
    return AsyncInferenceClient(base_url=base_url, rate_limit=rate_limit, hooks=hooks)
