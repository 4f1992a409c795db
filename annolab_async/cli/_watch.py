"""The command ``watch``."""

from __future__ import annotations

from typing import Annotated

import anyio
import typer

from annolab_async.cli._display import Traffic
from annolab_async.cli._follow import Followed, follow
from annolab_async.cli._interrupts import until_interrupted
from annolab_async.cli._job_ids import File, Jobs, read_job_ids
from annolab_async.cli._options import BaseUrl, Json, MaxPerSecond, make_client

__all__ = ["Timeout", "watch"]

Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        min=0.001,
        help="After how long a job without an end is given up; it goes on at the server.",
    ),
]


def watch(
    jobs: Jobs = None,
    file: File = None,
    *,
    timeout: Timeout = None,
    max_per_second: MaxPerSecond = None,
    base_url: BaseUrl = None,
    is_json: Json = False,
) -> int:
    """Watch jobs until each has ended, and tell every change.

    Leaving never touches the jobs. Exits with 0 if all finished, and with 1 if one errored, was given up or lost.
    """
    followed = Followed(read_job_ids(jobs, file), Traffic(), base_url, is_json)

    async def go() -> int:
        client = make_client(base_url, max_per_second=max_per_second, hooks=[followed.traffic])
        async with until_interrupted(), client:
            await follow(client, followed, timeout=timeout)
        return followed.print_end()

    return anyio.run(go)
