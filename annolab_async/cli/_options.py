"""Options that several commands have, and what they mean."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from annolab_async import AsyncInferenceClient, RateLimit
from annolab_async.cli._problems import Problem

__all__ = [
    "BaseUrl",
    "Group",
    "Json",
    "Ledger",
    "MaxPerSecond",
    "Model",
    "OutputLayer",
    "Project",
    "RunName",
    "identifier",
    "make_client",
]

_PLACE = "Where AnnoLab is"
_WHAT = "What to run"
_NAME_OR_ID = "A number is an id; name:123 is the name 123."

BaseUrl = Annotated[
    str | None,
    typer.Option(
        "--base-url",
        metavar="URL",
        envvar="ANNOLAB_BASE_URL",
        help="Where the service is, if not at https://api.annolab.ai. The key comes from ANNOLAB_API_KEY.",
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
    str, typer.Option("--group", metavar="NAME", help="The group that owns the project.")
]
Project = Annotated[
    str,
    typer.Option(
        "--project", metavar="NAME|ID", help=f"The project that holds the sources. {_NAME_OR_ID}"
    ),
]
Model = Annotated[
    str, typer.Option("--model", metavar="NAME|ID", help="The model to run, likewise.")
]
OutputLayer = Annotated[
    str,
    typer.Option(
        "--output-layer",
        metavar="NAME|ID",
        help="The layer that receives the predictions, likewise.",
    ),
]
Ledger = Annotated[
    str,
    typer.Option(
        "--ledger",
        metavar="PATH|URL",
        envvar="ANNOLAB_LEDGER",
        help="Where the run is written down: a SQLite file, or postgresql://…",
    ),
]
RunName = Annotated[
    str, typer.Option("--run", metavar="NAME", help="The run's name in the ledger.")
]


def identifier(text: str) -> str | int:
    """Return a name or an id, as given on the command line.

    Args:
        text: digits for an id; anything else is a name, also behind ``name:``, where it may be of digits.
    """
    if text.isascii() and text.isdecimal():
        return int(text)
    return text.removeprefix("name:")


def make_client(
    base_url: str | None, *, max_per_second: float | None = None
) -> AsyncInferenceClient:
    """Return a client as the options and the environment say.

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
    return AsyncInferenceClient(base_url=base_url, rate_limit=rate_limit)
