"""The command ``emulator``."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from anyio import create_task_group, open_signal_receiver, sleep
from rich.text import Text

from annolab_async.cli._options import Json
from annolab_async.cli._problems import ExitStatus, Problem
from annolab_async.cli._terminal import is_live, live, tell
from annolab_async.cli._words import duration, plural

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    # Its libraries are an extra, which other commands need not have.
    from annolab_async.emulator import Emulator, EmulatorServer

__all__ = ["emulator"]

_REDRAWN_EVERY: Final = 0.5


def _seconds(text: str) -> Any:
    return typer.Option(metavar="SECONDS", min=0, rich_help_panel="Its jobs", help=text)


def _share(text: str) -> Any:
    return typer.Option(
        metavar="SHARE", min=0, max=1, rich_help_panel="What goes wrong, from 0 to 1", help=text
    )


def _name(text: str) -> Any:
    return typer.Option(
        metavar="NAME",
        rich_help_panel="What it knows, besides the names in the documentation; each may be repeated",
        help=text,
        show_default=False,
    )


async def emulator(
    port: Annotated[
        int,
        typer.Option(metavar="N", min=0, max=65535, help="The port; 0 is any that is free."),
    ] = 0,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="The address to listen on.")
    ] = "127.0.0.1",
    *,
    workers: Annotated[
        int,
        typer.Option(metavar="N", min=1, rich_help_panel="Its jobs", help="How many run at once."),
    ] = 10,
    base_seconds: Annotated[float, _seconds("How long each takes, whatever its size.")] = 1.0,
    seconds_per_source: Annotated[float, _seconds("How much longer with each source.")] = 0.1,
    latency: Annotated[float, _seconds("How long every answer takes.")] = 0.0,
    seed: Annotated[
        int,
        typer.Option(
            metavar="N",
            rich_help_panel="Its jobs",
            help="Where durations, errors and faults come from.",
        ),
    ] = 0,
    bad_source: Annotated[
        list[int] | None,
        typer.Option(
            metavar="ID",
            min=1,
            rich_help_panel="Its jobs",
            help="A source with which every job errors; may be repeated.",
            show_default=False,
        ),
    ] = None,
    error_share: Annotated[float, _share("Jobs that error.")] = 0.0,
    unavailable: Annotated[float, _share("Submissions that are answered with 503.")] = 0.0,
    reset: Annotated[float, _share("Submissions whose connection is reset; they make no job.")] = 0,
    no_answer: Annotated[float, _share("Submissions that make a job, and get no answer.")] = 0,
    cut_answer: Annotated[float, _share("Likewise, with an answer that breaks off.")] = 0.0,
    cut_download: Annotated[float, _share("Downloads that break off.")] = 0.0,
    group: Annotated[list[str] | None, _name("A group.")] = None,
    project: Annotated[list[str] | None, _name("A project.")] = None,
    model: Annotated[list[str] | None, _name("A model.")] = None,
    output_layer: Annotated[list[str] | None, _name("A layer.")] = None,
    is_json: Json = False,
) -> int:
    """Serve a local AnnoLab, which runs jobs in pretence, until Ctrl-C.

    What it prints is to be copied to where other commands and programs are started: they talk to it then, and not to
    the service. The same options, and the same submissions, give the same jobs.
    """
    from annolab_async.emulator import (  # noqa: PLC0415
        DownloadFaults,
        Emulator,
        EmulatorServer,
        Faults,
    )
    from annolab_async.emulator._settings import (  # noqa: PLC0415
        DEFAULT_GROUPS,
        DEFAULT_LAYERS,
        DEFAULT_MODELS,
        DEFAULT_PROJECTS,
    )

    if unavailable + reset + no_answer + cut_answer > 1:
        raise Problem(
            "--unavailable, --reset, --no-answer and --cut-answer are more than 1 together.",
            hint="Only one of them befalls a submission.",
        )
    try:
        served = Emulator(
            workers=workers,
            seed=seed,
            base_seconds=base_seconds,
            seconds_per_source=seconds_per_source,
            latency=latency,
            error_share=error_share,
            bad_source_ids=bad_source or (),
            faults=Faults(
                unavailable=unavailable,
                reset=reset,
                closed_after_processing=no_answer,
                truncated=cut_answer,
                seed=seed,
            ),
            download_faults=DownloadFaults(cut=cut_download, seed=seed),
            groups=_with(DEFAULT_GROUPS, group),
            projects=_with(DEFAULT_PROJECTS, project),
            models=_with(DEFAULT_MODELS, model),
            layers=_with(DEFAULT_LAYERS, output_layer),
        )
        server = EmulatorServer(served, host=host, port=port)
    except ValueError as error:
        raise Problem(str(error)) from None
    began = time.monotonic()
    # Before it serves, so that a signal never finds it unprepared.
    with open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(server)
            except OSError as error:
                text, _, _ = (error.strerror or str(error)).partition(" (")
                hint = "Without --port, one is taken that is free." if port else ""
                raise Problem(f"{text}.", hint=hint) from None
            _print_settings(served, server, is_json=is_json)
            async with create_task_group() as tasks:
                if is_live():
                    tasks.start_soon(_show, served)
                await anext(signals)
                tasks.cancel_scope.cancel()
    tell(f"Ended after {duration(time.monotonic() - began)}: {_line(served)}.")
    return ExitStatus.FINISHED


def _with(known: Mapping[str, int], names: Sequence[str] | None) -> Mapping[str, int]:
    new = [name for name in dict.fromkeys(names or ()) if name not in known]
    return {**known, **{name: number for number, name in enumerate(new, max(known.values()) + 1)}}


def _print_settings(served: Emulator, server: EmulatorServer, *, is_json: bool) -> None:
    tell("A local AnnoLab is served until Ctrl-C. For whatever is to talk to it:")
    # Not made safe: its key is no secret, and would be hidden where the environment has the same.
    if is_json:
        settings = {
            "event": "serving",
            "base_url": server.base_url,
            "api_key": served.api_key,
            "downloads_url": server.downloads_url,
        }
        print(json.dumps(settings), flush=True)  # noqa: T201
        return
    print(f"export ANNOLAB_BASE_URL={server.base_url}")  # noqa: T201
    print(f"export ANNOLAB_API_KEY={served.api_key}", flush=True)  # noqa: T201


async def _show(served: Emulator) -> None:
    # Redrawn by a task, not by a thread: what it shows is made between two steps of the loop.
    with live() as shown:
        while True:
            shown.update(Text(_line(served), no_wrap=True, overflow="ellipsis"), refresh=True)
            await sleep(_REDRAWN_EVERY)


def _line(served: Emulator) -> str:
    stats, now = served.stats, time.monotonic()
    states = Counter(job.status_at(now) for job in served.jobs.values())
    jobs = ", ".join(
        f"{states[state]:,} {state.lower()}"
        for state in ("Queued", "Running", "Finished", "Errored")
        if states[state]
    )
    return ", ".join([
        plural(stats.requests, "request"),
        *([plural(faults, "fault")] if (faults := len(served.mishaps)) else []),
        f"jobs: {jobs or 'none'}",
    ])
