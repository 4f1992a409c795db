"""What is shown of a run while it goes on, how it is stopped, and what is said at its end."""

from __future__ import annotations

import io
import os
import signal
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import anyio
import pytest
from rich.console import Console

from annolab_async import BatchRecord, BatchState, FanOutSummary, RetryPlanned
from annolab_async.cli import _app, _go_on, _terminal
from annolab_async.cli._display import Display, Traffic
from annolab_async.cli._go_on import OnError, Way
from annolab_async.cli._problems import ExitStatus
from annolab_async.cli._stopping import ONE_PRESS_SECONDS, Stopping, stop_signals
from annolab_async.cli._summary import End, print_end
from annolab_async.cli._words import (
    batch_line,
    clock,
    counts,
    duration,
    ids,
    plural,
    progress_line,
)
from annolab_async.errors import AnnoLabError, NotOpen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from annolab_async import FanOut

WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
WAY = Way(
    ledger="run.db",
    run="default",
    on_error=OnError.KEEP,
    max_in_flight=100,
    job_timeout=None,
    max_per_second=None,
    base_url=None,
    is_json=False,
)


def a_summary(
    sources: Mapping[BatchState, int], *, is_planned: bool = True, eta: float | None = None
) -> FanOutSummary:
    return FanOutSummary(
        batches=sources,
        sources=sources,
        is_planned=is_planned,
        repeated_source_ids=0,
        elapsed=62.0,
        sources_per_second=1.5,
        eta=eta,
    )


def a_record(number: int, state: BatchState = BatchState.ERRORED, **more: Any) -> BatchRecord:
    return BatchRecord(
        number=number, source_ids=(number,), state=state, created_at=WHEN, updated_at=WHEN, **more
    )


class Run:
    """What is needed of a run to show it and to stop it."""

    def __init__(self, summary: FanOutSummary) -> None:
        self.summary = summary
        self.drained: list[float | None] = []
        self._news = anyio.Event()

    async def drain(self, timeout: float | None = None) -> None:
        await anyio.lowlevel.checkpoint()
        self.drained.append(timeout)
        self._news.set()
        if len(self.drained) > 1:
            raise NotOpen("it is over")

    async def wait_until_drained(self, times: int) -> None:
        while len(self.drained) < times:
            self._news = anyio.Event()
            await self._news.wait()


def as_run(run: Run) -> FanOut:
    return cast("FanOut", run)


def test_words() -> None:
    assert [duration(seconds) for seconds in (0, 59.6, 3600)] == ["0:00", "1:00", "1:00:00"]
    assert [plural(1, "batch"), plural(1000, "batch")] == ["1 batch", "1,000 batches"]
    assert plural(2, "source") == "2 sources"
    assert (clock(WHEN), clock(None)) == ("2026-01-02 03:04:05Z", "")
    assert (ids([1, 2], 2), ids([1, 2, 3], 2)) == ("1, 2", "1, 2 and 1 more")
    assert counts({BatchState.PLANNED: 1, BatchState.TIMED_OUT: 2, BatchState.LOST: 0}) == [
        ("timed out", 2),
        ("planned", 1),
    ]


def test_a_batch_in_a_line() -> None:
    assert batch_line(a_record(7)) == "batch 7 errored, sources 7"
    errored = a_record(7, inference_job_id=3, status="Errored")
    assert batch_line(errored) == "batch 7 (job 3) errored, sources 7"
    odd = a_record(7, BatchState.TIMED_OUT, status="Odd\x1b")
    assert batch_line(odd) == r"batch 7 timed out, sources 7: the server says 'Odd\x1b'"
    unknown = a_record(7, BatchState.UNKNOWN, error="x" * 200)
    assert batch_line(unknown) == f"batch 7 unknown, sources 7: {'x' * 100}…"
    assert batch_line(unknown, with_error=False) == "batch 7 unknown, sources 7"


def test_progress_in_a_line() -> None:
    summary = a_summary({BatchState.FINISHED: 2000, BatchState.SUBMITTED: 1}, eta=5.0)
    assert progress_line(summary, requests=1) == (
        "2,000 of 2,001 sources ended; batches: 2,000 finished, 1 submitted; 1.5 sources/s, "
        "0:05 left, 1 request"
    )
    summary = a_summary({}, is_planned=False)
    assert progress_line(summary, requests=0) == (
        "0 sources ended; batches: none yet; 1.5 sources/s, 0 requests"
    )


@pytest.mark.anyio
async def test_plain_lines_come_now_and_then_and_only_with_news(
    capsys: pytest.CaptureFixture[str],
) -> None:
    traffic, run = Traffic(), Run(a_summary({BatchState.PLANNED: 3}))
    with Display(as_run(run), traffic, is_live=False) as display:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(display.keep)
            await anyio.sleep(21)
            error = AnnoLabError("not sent \x1b")
            traffic.on_retry(RetryPlanned(kind="submit", attempt=1, delay=1.0, error=error))
            await anyio.sleep(5)
            tasks.cancel_scope.cancel()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[1] == rf"{lines[0]}; trying again: not sent \x1b"


@pytest.mark.anyio
async def test_where_nothing_is_drawn_each_trouble_is_told_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    traffic = Traffic()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(traffic.tell_trouble)
        await anyio.sleep(21)
        for text in ("not sent \x1b", "not sent \x1b", "no answer"):
            error = AnnoLabError(text)
            traffic.on_retry(RetryPlanned(kind="poll", attempt=1, delay=1.0, error=error))
            await anyio.sleep(21)
        tasks.cancel_scope.cancel()
    assert capsys.readouterr().err.splitlines() == [
        r"trying again: not sent \x1b",
        "trying again: no answer",
    ]


def test_of_very_many_batches_in_trouble_only_the_first_have_a_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    display = Display(as_run(Run(a_summary({}))), Traffic(), is_live=False)
    for number in range(100):
        display.note(a_record(number))
        display.note(a_record(number, BatchState.FINISHED))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 21
    assert lines[-1] == "Further batches in trouble are told at the end."


@pytest.mark.anyio
@pytest.mark.parametrize("is_planned", [False, True])
async def test_the_display_is_redrawn_with_the_latest_trouble(
    monkeypatch: pytest.MonkeyPatch, *, is_planned: bool
) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, markup=False, emoji=False)
    monkeypatch.setattr(_terminal, "ERR", console)
    traffic = Traffic()
    run = Run(a_summary({BatchState.FINISHED: 3, BatchState.PLANNED: 1}, is_planned=is_planned))
    with Display(as_run(run), traffic, is_live=True) as display:
        for number in range(5):
            display.note(a_record(number, error="[bold]\x1b[2J[/bold]" * 9))
        error = AnnoLabError("not sent")
        traffic.on_retry(RetryPlanned(kind="submit", attempt=1, delay=1.0, error=error))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(display.keep)
            await anyio.sleep(0.5)
            tasks.cancel_scope.cancel()
    shown = screen.getvalue()
    assert "3 of 4 sources" in shown
    assert "3 finished" in shown
    assert "1.5 sources/s, 0 requests, 1:02 so far" in shown
    assert "batch 1 errored" not in shown
    assert "batch 4 errored" in shown
    assert "[bold]\\x1b[2J" in shown
    assert "\x1b[2J" not in shown
    assert "trying again: not sent" in shown


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_a_terminal_that_is_closed_stops_what_is_not_to_outlive_it(
    handler: signal.Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def handler_of(_: int) -> signal.Handlers:
        return handler

    monkeypatch.setattr(signal, "getsignal", handler_of)
    assert (signal.SIGHUP in stop_signals()) is (handler is signal.SIG_DFL)


@pytest.mark.anyio
@pytest.mark.sockets
async def test_signals_drain_a_run_and_then_stop_it() -> None:
    said: list[str] = []
    run = Run(a_summary({}))
    stopping = Stopping(10.0, said.append)
    stopping.run = as_run(run)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stopping.listen, tasks.cancel_scope)
            await anyio.wait_all_tasks_blocked()
            for number in (1, 2, 3):
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGINT)  # passed on by whoever got it, too
                await run.wait_until_drained(min(number, 2))
                await anyio.sleep(ONE_PRESS_SECONDS)  # what comes sooner is the same press
            tasks.cancel_scope.cancel()
    assert run.drained == [10.0, 0]
    assert stopping.signals == 3
    assert [line.partition(":")[0] for line in said] == ["Stopping", "Stopping at once"]


@pytest.mark.anyio
@pytest.mark.sockets
async def test_a_signal_before_there_is_a_run_cancels() -> None:
    stopping = Stopping(10.0, lambda _: None)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stopping.listen, tasks.cancel_scope)
            await anyio.wait_all_tasks_blocked()
            os.kill(os.getpid(), signal.SIGINT)
            await anyio.sleep_forever()
    assert stopping.signals == 1


def an_end(sources: Mapping[BatchState, int], **more: Any) -> End:
    is_planned = more.pop("is_planned", True)
    usual: dict[str, Any] = {
        "unknown": [],
        "failed": [],
        "failed_source_ids": [],
        "failure": None,
        "is_stopped": False,
    }
    return End(summary=a_summary(sources, is_planned=is_planned), **usual | more)


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (an_end({BatchState.FINISHED: 1}), ExitStatus.FINISHED),
        (an_end({BatchState.FINISHED: 1, BatchState.SPLIT: 1}), ExitStatus.FINISHED),
        (an_end({BatchState.FINISHED: 1}, is_stopped=True), ExitStatus.FINISHED),
        (an_end({BatchState.ERRORED: 1}), ExitStatus.FAILED),
        (an_end({BatchState.LOST: 1}), ExitStatus.FAILED),
        (an_end({BatchState.TIMED_OUT: 1}), ExitStatus.FAILED),
        (an_end({BatchState.UNKNOWN: 1}, is_stopped=True), ExitStatus.FAILED),
        (an_end({BatchState.PLANNED: 1}), ExitStatus.FAILED),
        (an_end({BatchState.SUBMITTED: 1}, is_stopped=True), ExitStatus.INTERRUPTED),
        (an_end({}, is_planned=False, is_stopped=True), ExitStatus.INTERRUPTED),
    ],
)
def test_the_exit_status_says_how_it_ended(end: End, status: ExitStatus) -> None:
    assert _go_on._status(end) is status


def test_of_many_batches_the_end_names_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    failed = [a_record(number) for number in range(1, 13)]
    end = an_end({BatchState.ERRORED: 12}, failed=failed)
    print_end(end, WAY, requests=3, status=ExitStatus.FAILED, again="")
    out, err = capsys.readouterr()
    assert "batch 10 errored" in out
    assert "batch 11 errored" not in out
    assert "and 2 batches more failed" in out
    assert err == "To try 12 batches again:\n  annolab-async resume --retry\n"


def test_repeated_ids_and_a_plan_that_is_not_whole_are_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    summary = FanOutSummary(
        batches={},
        sources={},
        is_planned=False,
        repeated_source_ids=2,
        elapsed=1.0,
        sources_per_second=0.0,
        eta=None,
    )
    end = End(
        summary=summary, unknown=[], failed=[], failed_source_ids=[], failure=None, is_stopped=True
    )
    print_end(end, WAY, requests=0, status=ExitStatus.INTERRUPTED, again="annolab-async run 1")
    out, err = capsys.readouterr()
    assert "2 source ids occurred again and were left out." in out
    assert err.startswith("Not all sources are in the ledger yet.")
    assert err.endswith("  annolab-async run 1\n")


def test_commands_to_copy_have_what_is_not_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    way = Way(
        ledger="other.db",
        run="my run",
        on_error=OnError.SPLIT,
        max_in_flight=5,
        job_timeout=60.0,
        max_per_second=2.5,
        base_url="http://localhost:1",
        is_json=True,
    )
    assert way.command("resume", "--retry") == (
        "annolab-async resume --retry --on-error split --max-in-flight 5 --job-timeout 60 "
        "--max-per-second 2.5 --ledger other.db --run 'my run' --base-url http://localhost:1"
    )
    monkeypatch.setenv("ANNOLAB_LEDGER", "other.db")
    monkeypatch.setenv("ANNOLAB_BASE_URL", "http://localhost:1")
    assert way.command("resolve") == "annolab-async resolve --run 'my run'"


def test_help_that_nobody_reads_ends_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError

    def finished(*_: object, **__: object) -> int:
        return 0

    quieted: list[bool] = []
    monkeypatch.setattr(_app, "quiet_pipes", lambda: quieted.append(True))
    monkeypatch.setattr(_app, "app", finished)
    monkeypatch.setattr("sys.stdout", Gone())
    assert _app.run_app(["--version"]) == 141
    assert quieted


def test_a_fault_of_the_program_itself_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("really")

    monkeypatch.setattr(_app, "app", fail)
    with pytest.raises(RuntimeError, match="really"):
        _app.run_app([])
