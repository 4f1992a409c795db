"""What the pages show and no command prints: each function has the program print it, and returns that."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import textwrap
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
import pytest
from rich.console import Console
from rich.text import Text

from annolab_async import (
    AnnoLabError,
    AsyncInferenceClient,
    BatchPlan,
    BatchRecord,
    BatchState,
    FanOutSummary,
    RateLimit,
    _watcher,
)
from annolab_async.cli._display import Display, Traffic
from annolab_async.emulator import BadReply, Emulator, EmulatorServer
from annolab_async.ledger._sql import SqlLedger
from annolab_async.testing import run_in_virtual_time
from tests.documentation.examples import examples_in, run_examples
from tests.fan_out.patience import patient_backend, watch_threads
from tests.service import KEY, a_request, an_emulator, in_process

if TYPE_CHECKING:
    from annolab_async import FanOut
    from annolab_async.ledger import Ledger

_ROOT: Final = Path(__file__).parents[2]
_BEGIN: Final = datetime(2026, 11, 24, 10, 0, tzinfo=UTC)
_COLUMNS: Final = 110


def errors() -> str:
    """Return the ends of two tracebacks, wrapped."""
    key = "A-KEY-WITHOUT-PERMISSION"
    failed = [
        _failed_submission(key, api_keys_without_model_run=[key]),
        _failed_submission(KEY, BadReply(is_lost=True)),
    ]
    lines = ("".join(traceback.format_exception_only(error)) for error in failed)
    return "\n".join(f"{textwrap.fill(line, _COLUMNS)}\n" for line in lines)


def _failed_submission(
    key: str, *replies: BadReply, size: int = 8, **settings: Any
) -> AnnoLabError:
    async def submit() -> None:
        emulator = Emulator(api_key=KEY, **settings)
        emulator.plan_submits(*replies)
        async with (
            EmulatorServer(emulator) as server,
            AsyncInferenceClient(key, base_url=server.base_url) as client,
        ):
            await client.submit(a_request(size=size))

    with pytest.raises(AnnoLabError) as raised:
        anyio.run(submit)
    return raised.value


def progress() -> str:
    """Return what is redrawn on a terminal while a run goes on."""
    size = 25
    batches = {
        BatchState.FINISHED: 335,
        BatchState.ERRORED: 1,
        BatchState.UNKNOWN: 1,
        BatchState.SUBMITTED: 100,
        BatchState.PLANNED: 363,
    }

    class Run:
        summary = FanOutSummary(
            batches=batches,
            sources={state: size * count for state, count in batches.items()},
            is_planned=True,
            repeated_source_ids=0,
            elapsed=271.0,
            sources_per_second=31.1,
            eta=372.0,
        )

    def record(number: int, state: BatchState, **more: Any) -> BatchRecord:
        return BatchRecord(
            number=number,
            source_ids=tuple(range(size * (number - 1) + 1, size * number + 1)),
            state=state,
            created_at=_BEGIN,
            updated_at=_BEGIN,
            **more,
        )

    traffic = Traffic()
    traffic.requests = 2913
    display = Display(cast("FanOut", Run()), traffic, is_live=True)
    error = str(_failed_submission(KEY, BadReply(is_lost=True), size=size))
    display.note(record(171, BatchState.ERRORED, inference_job_id=169, status="Errored"))
    display.note(record(302, BatchState.UNKNOWN, error=error))
    console = Console(file=io.StringIO(), width=_COLUMNS, force_terminal=True, _environ={})
    with console.capture() as capture:
        console.print(display._drawn())
    return Text.from_ansi(capture.get()).plain


def log() -> str:
    """Return the log of a run of 200 batches, at INFO."""
    shown = io.StringIO()
    handler = logging.StreamHandler(shown)
    handler.setLevel(logging.INFO)
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s", "%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)

    def dated(record: logging.LogRecord) -> bool:
        record.created = _BEGIN.timestamp() + asyncio.get_running_loop().time()
        return True

    handler.addFilter(dated)
    logger = logging.getLogger("annolab_async")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        run_in_virtual_time(lambda: _run("nightly", rate_limit=RateLimit(max_per_second=5)))
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    return shown.getvalue()


def write_ledger(folder: Path) -> None:
    """Write down a run of 200 batches, four of which end badly, into the ledger ``run.db``."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        watch_threads(monkeypatch)
        name, options = patient_backend("asyncio")
        anyio.run(
            lambda: _run("default", folder / "run.db", bad_source_ids=(430, 2440, 3712, 4460)),
            backend=name,
            backend_options=dict(options),
        )


async def _run(
    name: str, path: Path | None = None, rate_limit: RateLimit | None = None, **settings: Any
) -> None:
    """Run 200 batches in five minutes of virtual time.

    Args:
        name: the run's.
        path: where the ledger is put; None for one in memory.
        rate_limit: the client's; fewer polls are quicker to run.
        settings: of the emulator.
    """
    plan = BatchPlan(
        group_name="Company Name",
        project_identifier="My Project",
        model_identifier="Staple + Classify Documents",
        output_layer_identifier="Gold Set",
        source_ids=range(1, 5001),
        batch_size=25,
    )
    loop = asyncio.get_running_loop()
    ledger: Ledger | None = None
    if path:
        ledger = SqlLedger(f"sqlite:///{path}", clock=lambda: _BEGIN.timestamp() + loop.time())
    emulator = an_emulator(workers=10, base_seconds=4.0, seconds_per_source=0.4, **settings)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(_watcher, "Random", lambda: Random(0))
        async with (
            in_process(emulator, rate_limit=rate_limit) as client,
            client.fan_out(plan, ledger=ledger, run=name) as run,
        ):
            async for _ in run:
                pass


def span() -> str:
    """Return a job's span from what the example prints that comes before it, without its resource."""
    page = _ROOT / "docs" / "observability.md"
    example = next(each for each in examples_in(page) if "OpenTelemetryHooks" in each.code)
    with TemporaryDirectory() as folder:
        (ran,) = run_examples([example], Path(folder))
    decoder = json.JSONDecoder()
    text = ran.output.lstrip()
    while text:
        value, end = decoder.raw_decode(text)
        if value.get("name") == "annolab.job":
            del value["resource"]
            return f"{json.dumps(value, indent=4)}\n"
        text = text[end:].lstrip()
    raise AssertionError(f"no job has a span: {ran.output}")
