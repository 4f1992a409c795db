"""The commands and their options."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Final

import anyio
import typer
from rich.console import Console

from annolab_async.cli._demo import DemoPlan, run_demo
from annolab_async.cli._demo_fan_out import run_fan_out_demo

__all__ = ["app"]

_INTERRUPTED: Final = 130

app: Final = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def annolab_async() -> None:
    """Run batches of inference on AnnoLab, and watch them to their ends."""


@app.command()
def demo(
    batches: Annotated[int, typer.Option(min=1, help="How many batches to submit.")] = 300,
    batch_size: Annotated[int, typer.Option(min=1, help="How many sources each has.")] = 8,
    workers: Annotated[int, typer.Option(min=1, help="How many jobs AnnoLab runs at once.")] = 10,
    error_share: Annotated[
        float, typer.Option(min=0, max=1, help="The share of jobs that end with an error.")
    ] = 0.03,
    seed: Annotated[int, typer.Option(help="Where durations and errors come from.")] = 0,
) -> None:
    """Submit and watch batches against a local AnnoLab, over real HTTP; then kill a fan-out, and let it go on.

    Exits with 0 if every job got exactly one outcome, and the right one, and every source exactly one job.
    """
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
        with TemporaryDirectory() as folder:
            is_right &= anyio.run(run_fan_out_demo, plan, Path(folder), console)
    except KeyboardInterrupt:
        console.print("Interrupted; the local AnnoLab and its jobs are gone.")
        raise typer.Exit(_INTERRUPTED) from None
    raise typer.Exit(0 if is_right else 1)
