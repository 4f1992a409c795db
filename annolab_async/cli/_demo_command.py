"""The command ``demo``."""

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated

import anyio
import typer
from rich.console import Console

from annolab_async.cli._problems import ExitStatus

__all__ = ["demo"]


def demo(
    batches: Annotated[int, typer.Option(min=1, help="How many batches to submit.")] = 300,
    batch_size: Annotated[int, typer.Option(min=1, help="How many sources each has.")] = 8,
    workers: Annotated[int, typer.Option(min=1, help="How many jobs AnnoLab runs at once.")] = 10,
    error_share: Annotated[
        float, typer.Option(min=0, max=1, help="The share of jobs that end with an error.")
    ] = 0.03,
    seed: Annotated[int, typer.Option(help="Where durations and errors come from.")] = 0,
) -> int:
    """Submit and watch batches against a local AnnoLab, over real HTTP; then kill a fan-out, and let it go on.

    Exits with 0 if every job got exactly one outcome, and the right one, and every source exactly one job.
    """
    # Their libraries are an extra that other commands need not.
    from annolab_async.cli._demo import DemoPlan, run_demo  # noqa: PLC0415
    from annolab_async.cli._demo_fan_out import run_fan_out_demo  # noqa: PLC0415

    plan = DemoPlan(
        batches=batches,
        batch_size=batch_size,
        workers=workers,
        error_share=error_share,
        seed=seed,
    )
    console = Console(highlight=False, soft_wrap=True)
    try:
        is_right = anyio.run(run_demo, plan, console)
        # It stays: what came out is there to be looked at.
        folder = Path(mkdtemp(prefix="annolab-demo-"))
        is_right &= anyio.run(run_fan_out_demo, plan, folder, console)
    except KeyboardInterrupt:
        console.print("Interrupted; the local AnnoLab and its jobs are gone.")
        return ExitStatus.INTERRUPTED
    return ExitStatus.FINISHED if is_right else ExitStatus.FAILED
