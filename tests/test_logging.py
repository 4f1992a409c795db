"""What the library logs: quiet at INFO, all of it at DEBUG, and with fields that machines can read."""

from __future__ import annotations

import ast
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from attrs import evolve

import annolab_async
from annolab_async import (
    BatchPlan,
    FixedInterval,
    InvalidResponse,
    NoResponse,
    Outcome,
    RetryPolicy,
    ServerError,
    SubmissionUnknown,
    WaitTimeout,
    WatchStats,
    _fan_out_work,
)
from annolab_async._hooks import NO_HOOKS
from annolab_async._watch_report import WatchReport
from annolab_async._watch_state import Watched
from tests.builders import make_job, make_transition
from tests.observing import Front
from tests.service import a_request, an_emulator, in_process, submit_many

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.anyio, pytest.mark.any_backend]

PACKAGE = Path(annolab_async.__file__).parent
PAGE = PACKAGE.parent / "docs" / "observability.md"
EVERY_SECOND = FixedInterval(1.0)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return what stands in a record besides what stands in every one."""
    usual = logging.makeLogRecord({}).__dict__.keys() | {"message", "asctime", "taskName"}
    return {name: value for name, value in record.__dict__.items() if name not in usual}


def at_least(caplog: pytest.LogCaptureFixture, level: int) -> list[logging.LogRecord]:
    return [
        record
        for record in caplog.records
        if record.levelno >= level and record.name.startswith("annolab_async")
    ]


def a_plan(count: int, batch_size: int = 2) -> BatchPlan:
    return BatchPlan(
        group_name="Company Name",
        project_identifier="My Project",
        model_identifier="Staple + Classify Documents",
        output_layer_identifier="Gold Set",
        source_ids=range(1, count + 1),
        batch_size=batch_size,
    )


def extras() -> Iterator[tuple[str, str]]:
    """Yield the file and the name of each field that is given to a log call, or put together for one."""
    for file in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(file.read_text())
        helpers = {"_fields"}
        for node in ast.walk(tree):
            is_helper = isinstance(node, ast.FunctionDef) and node.name in helpers
            values = [node] if is_helper else []
            if isinstance(node, ast.keyword) and node.arg == "extra":
                values = [node.value]
            for value in values:
                for inner in ast.walk(value):
                    if isinstance(inner, ast.Dict):
                        for name in inner.keys:
                            if isinstance(name, ast.Constant):
                                yield file.name, str(name.value)


def test_every_line_has_fields() -> None:
    calls = [
        (file.name, node.lineno, {keyword.arg for keyword in node.keywords})
        for file in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("_log.")
        if not ast.unparse(node.func).endswith("isEnabledFor")
    ]
    assert len(calls) > 15
    assert [(file, line) for file, line, given in calls if "extra" not in given] == []


def test_no_field_takes_the_name_of_what_a_log_record_has() -> None:
    taken = logging.makeLogRecord({}).__dict__.keys() | {"message", "asctime", "taskName"}
    found = {*extras()}
    assert len(found) > 20
    assert [(file, name) for file, name in found if name in taken] == []


def test_every_field_stands_in_the_documentation() -> None:
    table = PAGE.read_text().partition("| field |")[2].partition("\n\n")[0]
    told = {*re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)}
    assert {name for _, name in extras()} == told


def test_the_package_is_silent_until_somebody_configures_logging() -> None:
    logger = logging.getLogger("annolab_async")
    assert any(isinstance(handler, logging.NullHandler) for handler in logger.handlers)
    assert logger.level in {logging.NOTSET, logging.DEBUG}, "the tests' own"


async def test_a_request_is_a_line_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    front = Front(latency=0.5)
    async with in_process(front) as client:
        await client.submit(a_request())
        front.answers["GET"] = [(500, {})]
        await client.get_job(1)
    lines = [line for line in at_least(caplog, logging.DEBUG) if line.name.endswith("._calls")]
    assert [line.getMessage() for line in lines if "after" in line.getMessage()] == [
        "POST /v1/infer/batch: 200 after 0.500 s",
        "GET /v1/infer/batch/1: ServerError after 0.000 s",
        "GET /v1/infer/batch/1: 200 after 0.500 s",
    ]
    assert {line.levelno for line in lines} == {logging.DEBUG}
    post, first, again, second = map(fields, lines)
    assert post["duration"] == pytest.approx(0.5)
    assert post | {"duration": 0} == {
        "kind": "submit", "method": "POST", "path": "/v1/infer/batch", "inference_job_id": None,
        "attempt": 1, "duration": 0, "status_code": 200, "error": None,
    }  # fmt: skip
    assert (first["status_code"], first["error"], first["attempt"]) == (500, "ServerError", 1)
    assert (again["kind"], again["attempt"], again["error"]) == ("read", 1, "ServerError")
    assert (second["attempt"], second["inference_job_id"]) == (2, 1)


async def test_requests_cost_no_line_when_debug_is_off(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="annolab_async")
    async with in_process(an_emulator()) as client:
        await client.wait(await client.submit(a_request()), schedule=EVERY_SECOND)
    assert not at_least(caplog, logging.DEBUG)


async def test_a_429_slows_the_client_down_when_debug_is_off(
    caplog: pytest.LogCaptureFixture,
) -> None:
    front = Front()
    async with in_process(front) as client:
        await client.submit(a_request())
        caplog.clear()
        caplog.set_level(logging.INFO, logger="annolab_async")
        front.answers["GET"] = [(429, {"Retry-After": "20"})]
        began = anyio.current_time()
        await client.get_job(1)
        assert anyio.current_time() - began >= 20
    (line,) = at_least(caplog, logging.DEBUG)
    assert fields(line) == {"status_code": 429, "retry_after": 20.0}


async def test_a_server_that_goes_on_asking_to_be_left_alone_is_a_line_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    front = Front()
    async with in_process(
        front, retry=RetryPolicy(attempts=1, longest_retry_after=100.0)
    ) as client:
        await client.submit(a_request())
        caplog.set_level(logging.INFO, logger="annolab_async")
        for seconds in (*[1] * 122, 90, 1, 60):
            front.answers["GET"] = [(503, {"Retry-After": str(seconds)})]
            with pytest.raises(ServerError):
                await client.get_job(1)
    lines = at_least(caplog, logging.INFO)
    assert [fields(line)["retry_after"] for line in lines] == [1.0, 1.0, 1.0, 90.0, 1.0, 60.0]
    assert {line.levelno for line in lines} == {logging.WARNING}


async def test_a_watcher_has_a_line_a_minute_however_many_polls(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="annolab_async")
    emulator = an_emulator(workers=6, base_seconds=60.0, error_share=0.2)
    async with in_process(emulator) as client:
        jobs = await submit_many(client, 30)
        began = anyio.current_time()
        async with client.watch(jobs, schedule=EVERY_SECOND) as watcher:
            async for _ in watcher:
                pass
        minutes = (anyio.current_time() - began) / 60
    lines = at_least(caplog, logging.INFO)
    assert int(minutes) - 1 <= len(lines) <= minutes
    assert {line.name for line in lines} == {"annolab_async._watcher"}
    assert re.fullmatch(
        r"\d+ jobs are watched(, \d+ (finished|errored))+; \d+ polls since the last line\.",
        lines[-1].getMessage(),
    )
    told = [fields(line) for line in lines]
    assert sum(one["polls"] for one in told) <= watcher.stats.polls
    assert all(one["polls"] > 200 for one in told)
    assert told[0].keys() == {"jobs", "polls", "in_flight", "outcomes"}
    assert told[-1]["outcomes"].keys() == {Outcome.FINISHED.value, Outcome.ERRORED.value}


async def test_waiting_for_one_job_is_no_line(caplog: pytest.LogCaptureFixture) -> None:
    async with in_process(an_emulator(base_seconds=300.0)) as client:
        jobs = await submit_many(client, 2)
        caplog.set_level(logging.INFO, logger="annolab_async")
        async with anyio.create_task_group() as tasks:
            for job in jobs:
                tasks.start_soon(client.wait, job)
    assert not at_least(caplog, logging.INFO)


async def test_a_run_has_a_line_at_its_ends_and_one_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="annolab_async")
    emulator = an_emulator(workers=4, base_seconds=50.0)
    async with in_process(emulator) as client:
        began = anyio.current_time()
        async with client.fan_out(a_plan(40), run="nightly", schedule=EVERY_SECOND) as run:
            async for _ in run:
                pass
        minutes = (anyio.current_time() - began) / 60
    lines = at_least(caplog, logging.INFO)
    assert {line.name for line in lines} == {"annolab_async._fan_out"}
    assert int(minutes) <= len(lines) <= minutes + 2
    assert lines[0].getMessage() == "Run 'nightly' begins: no batches; 0.0 sources/s."
    assert re.fullmatch(
        r"Run 'nightly' goes on: \d+ submitted.*; \d\.\d sources/s.*\.", lines[1].getMessage()
    )
    assert "ends: 20 finished batches; " in lines[-1].getMessage()
    assert fields(lines[-1]).keys() == {"run", "batches", "sources_per_second", "eta"}
    assert fields(lines[-1])["batches"] == {"finished": 20}


async def test_a_run_whose_batches_take_long_has_its_lines_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="annolab_async")
    async with (
        in_process(an_emulator(base_seconds=600.0)) as client,
        client.fan_out(a_plan(2), schedule=FixedInterval(500.0)) as run,
    ):
        with anyio.move_on_after(400.0):
            async for _ in run:
                pass
    lines = at_least(caplog, logging.INFO)
    assert 5 <= len(lines) - 2 <= 6


async def test_what_is_lost_is_a_warning_with_the_job(caplog: pytest.LogCaptureFixture) -> None:
    async with in_process(an_emulator()) as client:
        (job,) = await submit_many(client, 1)
        with pytest.raises(WaitTimeout):
            await client.wait(job, timeout=3.0)
    (line,) = at_least(caplog, logging.WARNING)
    assert fields(line) == {
        "inference_job_id": 1, "state": "running", "outcome": "timed_out",
        "elapsed": pytest.approx(3.0), "polls": fields(line)["polls"],
    }  # fmt: skip


async def test_what_may_cost_money_is_a_warning_with_the_batch(
    caplog: pytest.LogCaptureFixture,
) -> None:
    front = Front()
    front.answers["POST"] = [(500, {})]
    async with in_process(front) as client:
        async with client.fan_out(a_plan(2), run="nightly") as run:
            async for _ in run:
                pass
        assert [record.number for record in run.unknown()] == [1]
    (line,) = at_least(caplog, logging.WARNING)
    assert line.name == "annolab_async._sender"
    assert line.getMessage().startswith("Batch 1: ")
    assert fields(line) == {
        "run": "nightly", "batch": 1, "attempt": 1, "source_ids": (1, 2),
        "error": SubmissionUnknown.__name__,
    }  # fmt: skip


async def test_a_batch_that_is_sent_again_is_a_line_at_debug(
    caplog: pytest.LogCaptureFixture,
) -> None:
    front = Front()
    front.answers["POST"] = [(429, {"Retry-After": "2"})]
    async with in_process(front) as client, client.fan_out(a_plan(2), run="nightly") as run:
        async for _ in run:
            pass
    lines = [line for line in at_least(caplog, 0) if line.name == "annolab_async._sender"]
    assert [(line.levelno, fields(line)["delay"]) for line in lines] == [(logging.DEBUG, 2.0)]
    (pause,) = at_least(caplog, logging.WARNING)
    assert fields(pause) == {"status_code": 429, "retry_after": 2.0}


async def test_answers_that_are_no_jobs_are_one_warning_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    front = Front()
    async with in_process(front) as client:
        jobs = await submit_many(client, 2)
        front.answers["GET"] = [(200, {})] * 10
        async with client.watch(jobs, schedule=EVERY_SECOND) as watcher:
            async for _ in watcher:
                pass
    (line,) = at_least(caplog, logging.WARNING)
    assert fields(line)["error"] == InvalidResponse.__name__
    assert fields(line)["attempt"] == 1
    assert _fan_out_work.__name__ in logging.root.manager.loggerDict, "one logger for each module"


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
async def test_only_of_jobs_are_transitions_lines_and_at_info_only_those_with_an_error(
    caplog: pytest.LogCaptureFixture, level: int
) -> None:
    caplog.set_level(level, logger="annolab_async")
    plain = make_transition(7, make_job(7))
    lost = evolve(plain, error=WaitTimeout(inference_job_id=7, job=plain.job, timeout=5.0))
    report = WatchReport(NO_HOOKS)
    for transition in (plain, lost):
        report.changed(transition)
    levels = [line.levelno for line in at_least(caplog, 0)]
    assert levels == ([logging.DEBUG] if level == logging.DEBUG else []) + [logging.WARNING]
    caplog.clear()
    report.noun = "export"
    for transition in (plain, lost):
        report.changed(transition)
    assert not at_least(caplog, 0)


async def test_a_watchers_line_is_due_a_minute_after_its_beginning_and_after_each_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with in_process(an_emulator(base_seconds=150.0)) as client:
        jobs = await submit_many(client, 2)
        caplog.set_level(logging.INFO, logger="annolab_async")
        began = anyio.current_time()
        async with client.watch(jobs, schedule=FixedInterval(60.0)) as watcher:
            assert watcher.report.line_due == began + 60
            async for _ in watcher:
                pass
    first, second, *_ = at_least(caplog, logging.INFO)
    assert "2 jobs are watched;" in first.getMessage()
    assert (fields(first)["polls"], fields(second)["polls"]) == (4, 2)


@pytest.mark.parametrize(
    ("jobs", "level"), [(0, logging.DEBUG), (1, logging.DEBUG), (2, logging.INFO)]
)
async def test_the_line_of_a_minute_tells_the_polls_since_the_one_before(
    caplog: pytest.LogCaptureFixture, jobs: int, level: int
) -> None:
    report, stats = WatchReport(NO_HOOKS), WatchStats(polls=5, active=1, in_flight=3, outcomes={})
    report.open(100.0)
    assert report.line_due == 160.0
    for job_id in range(jobs):
        report.added(job_id, None, None)
    report.line(200.0, stats)
    assert report.line_due == 260.0
    report.line(300.0, evolve(stats, polls=12, outcomes={Outcome.TIMED_OUT: 4}))
    first, second = at_least(caplog, 0)
    assert first.levelno == second.levelno == level
    assert first.getMessage() == "1 jobs are watched; 5 polls since the last line."
    assert second.getMessage() == "1 jobs are watched, 4 timed out; 7 polls since the last line."
    assert fields(second) == {"jobs": 1, "polls": 7, "in_flight": 3, "outcomes": {"timed_out": 4}}


@pytest.mark.parametrize("noun", ["job", "export"])
async def test_a_poll_that_failed_is_told_with_the_id_of_what_was_asked_for(
    caplog: pytest.LogCaptureFixture, noun: str
) -> None:
    report, damaged = (
        WatchReport(NO_HOOKS),
        InvalidResponse(method="GET", path="/", fault="bad", excerpt=""),
    )
    watched = Watched(job_id=7, added_at=0.0, timeout=None, known=None, seen_at=0.0, failures=2)
    report.noun = noun
    for now in (0.0, 59.9, 60.0):
        report.failed(watched, damaged, now)
    report.failed(watched, NoResponse(method="GET", path="/", cause=OSError()), 1e6)
    lines = at_least(caplog, 0)
    assert [line.levelno for line in lines] == [
        logging.WARNING, logging.DEBUG, logging.WARNING, logging.DEBUG,
    ]  # fmt: skip
    assert lines[0].getMessage().startswith(f"Poll of {noun} 7 failed: ")
    name = "inference_job_id" if noun == "job" else "export_id"
    assert fields(lines[0]) == {name: 7, "attempt": 3, "error": "InvalidResponse"}


async def test_no_line_shows_a_status_that_the_server_made_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with in_process(an_emulator()) as client:
        (job,) = await submit_many(client, 1)
        await client.wait(job, schedule=EVERY_SECOND)
    states = [fields(line)["state"] for line in caplog.records if "state" in fields(line)]
    assert states == ["running", "finished"]
