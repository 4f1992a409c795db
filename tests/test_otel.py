"""Spans and metrics, as the OpenTelemetry SDK has them in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from attrs import frozen
from opentelemetry import metrics, propagate, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from annolab_async import (
    AsyncInferenceClient,
    BatchPlan,
    DownloadBegan,
    DownloadEnded,
    ExportError,
    FixedInterval,
    InferenceJob,
    InvalidRequest,
    NotFound,
    RateLimit,
    WaitTimeout,
)
from annolab_async.emulator import Emulator, EmulatorServer, Exports
from annolab_async.emulator._downloads import DownloadAsked, DownloadDesk
from annolab_async.otel import OpenTelemetryHooks
from tests.observing import Front
from tests.service import KEY, a_request, in_process, submit_many

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from opentelemetry.sdk.trace import ReadableSpan

pytestmark = [pytest.mark.anyio, pytest.mark.any_backend]

EVERY_SECOND = FixedInterval(1.0)
OF: dict[str, Any] = {"group_name": "Company Name", "project": "My Project"}


@frozen
class Telemetry:
    """What the SDK was given."""

    tracers: TracerProvider
    meters: MeterProvider
    spans_kept: InMemorySpanExporter
    reader: InMemoryMetricReader

    def hooks(self, **options: Any) -> OpenTelemetryHooks:
        return OpenTelemetryHooks(
            tracer_provider=self.tracers, meter_provider=self.meters, **options
        )

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans_kept.get_finished_spans() if span.name == name]

    def points(self, name: str) -> dict[frozenset[tuple[str, Any]], float]:
        """Return an instrument's sums by their attributes, a histogram's counts."""
        data = self.reader.get_metrics_data()
        resources: Any = data.resource_metrics if data else ()
        found: list[Any] = [
            metric
            for resource in resources
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
        ]
        assert len(found) <= 1, "no name is told twice"
        return {
            key(**point.attributes): point.count
            if isinstance(point, HistogramDataPoint)
            else getattr(point, "value", 0)
            for metric in found
            for point in metric.data.data_points
        }


def key(**attributes: object) -> frozenset[tuple[str, object]]:
    return frozenset((name.replace("__", "."), value) for name, value in attributes.items())


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    kept, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(kept))
    meters = MeterProvider([reader], shutdown_on_exit=False)
    yield Telemetry(tracers, meters, kept, reader)
    tracers.shutdown()
    meters.shutdown()


def ids_of(traceparent: str | None) -> tuple[int, int]:
    assert traceparent is not None
    _, trace_id, span_id, _ = traceparent.split("-")
    return int(trace_id, 16), int(span_id, 16)


def ids(span: ReadableSpan) -> tuple[int, int]:
    assert span.context is not None
    return span.context.trace_id, span.context.span_id


def has(span: ReadableSpan, **attributes: object) -> bool:
    return key(**attributes) <= frozenset((span.attributes or {}).items())


async def test_a_submission_is_a_span_whose_context_is_sent(telemetry: Telemetry) -> None:
    front = Front()
    front.answers["POST"] = [(429, {"Retry-After": "1"})]
    tracer = telemetry.tracers.get_tracer("user")
    async with in_process(front, hooks=[telemetry.hooks()]) as client:
        with tracer.start_as_current_span("request") as outer:
            await client.submit(a_request(size=3))
            assert trace.get_current_span() is outer
    (span,) = telemetry.spans("annolab.submit")
    assert span.kind is SpanKind.CLIENT
    assert span.parent == outer.get_span_context()
    assert span.status.status_code is StatusCode.UNSET, "what was mended is no error"
    assert has(span, server__address="localhost", server__port=80)
    assert has(span, annolab__job__id=1, annolab__source__count=3)
    assert has(span, annolab__model="Staple + Classify Documents", annolab__project="My Project")
    assert has(span, http__request__resend_count=1, http__response__status_code=200)
    assert [ids_of(sent) for sent in front.headers("POST", "traceparent")] == [ids(span)] * 2


async def test_a_submission_that_fails_is_a_span_with_its_error(telemetry: Telemetry) -> None:
    front = Front(latency=3.0)
    front.answers["POST"] = [(400, {})]
    async with in_process(front, hooks=[telemetry.hooks()]) as client:
        with pytest.raises(InvalidRequest):
            await client.submit(a_request())
        with anyio.move_on_after(1.0):
            await client.submit(a_request())
    refused, cancelled = telemetry.spans("annolab.submit")
    assert refused.status.status_code is cancelled.status.status_code is StatusCode.ERROR
    assert has(refused, error__type="400")
    assert "400" in (refused.status.description or "")
    assert has(cancelled, error__type=anyio.get_cancelled_exc_class().__name__)
    assert cancelled.status.description is None
    assert trace.get_current_span() is trace.INVALID_SPAN, "nothing is left behind"


async def test_a_job_is_a_span_from_its_submission_on_linked_to_that(telemetry: Telemetry) -> None:
    front = Front(error_share=0.0)
    async with in_process(front, hooks=[telemetry.hooks()]) as client:
        job = await client.submit(a_request())
        await client.wait(job, schedule=FixedInterval(4.0))
    (span,), (submit,) = telemetry.spans("annolab.job"), telemetry.spans("annolab.submit")
    assert [link.context for link in span.links] == [submit.context]
    assert span.start_time == submit.end_time
    assert span.status.status_code is StatusCode.UNSET
    assert has(span, annolab__job__id=1, annolab__job__outcome="finished", annolab__job__polls=4)
    assert has(span, annolab__job__state="finished", annolab__source__count=2)
    states = [(event.attributes or {})["annolab.job.state"] for event in span.events]
    assert states == ["running", "finished"]
    assert all("annolab.job.uncertainty" in (event.attributes or {}) for event in span.events)
    assert front.headers("GET", "traceparent") == [None] * 4


async def test_polls_carry_the_context_of_their_job_if_that_is_asked_for(
    telemetry: Telemetry,
) -> None:
    front = Front()
    async with in_process(front, hooks=[telemetry.hooks(propagates_to_polls=True)]) as client:
        await client.wait(await client.submit(a_request()), schedule=FixedInterval(20.0))
    (span,) = telemetry.spans("annolab.job")
    assert [ids_of(sent) for sent in front.headers("GET", "traceparent")] == [ids(span)] * 2


async def test_a_job_that_others_submitted_is_a_span_from_its_first_sight_on(
    telemetry: Telemetry,
) -> None:
    async with in_process(Front()) as client:
        await submit_many(client, 1)
        tracer = telemetry.tracers.get_tracer("user")
        async with in_process(Front(), hooks=[telemetry.hooks()]) as other:
            with tracer.start_as_current_span("nightly") as outer:
                async with other.watch([404]) as watcher:
                    async for _ in watcher:
                        pass
    (span,) = telemetry.spans("annolab.job")
    assert not span.links
    assert span.parent == outer.get_span_context()
    assert span.status.status_code is StatusCode.ERROR
    assert has(span, annolab__job__outcome="lost", error__type="JobNotFound")


async def test_jobs_that_end_badly_are_spans_with_errors(telemetry: Telemetry) -> None:
    front = Front(error_share=1.0)
    async with in_process(front, hooks=[telemetry.hooks()]) as client:
        errored, late, left = await submit_many(client, 3)
        await client.wait(errored)
        fresh = InferenceJob(late.inference_job_id, "Queued", ())
        front.emulator.plan_downloads()
        async with client.watch([left]) as watcher:
            watcher.discard(left)
        with pytest.raises(WaitTimeout):
            await client.wait(await client.submit(a_request()), timeout=1.0)
        assert fresh.inference_job_id == 2
    spans = telemetry.spans("annolab.job")
    assert [span.status.status_code for span in spans] == [
        StatusCode.ERROR, StatusCode.UNSET, StatusCode.ERROR,
    ]  # fmt: skip
    assert has(spans[0], error__type="errored", annolab__job__outcome="errored")
    assert "annolab.job.outcome" not in (spans[1].attributes or {})
    assert has(spans[2], error__type="WaitTimeout", annolab__job__outcome="timed_out")


async def test_a_job_that_two_watch_is_one_span(telemetry: Telemetry) -> None:
    async with in_process(Front(), hooks=[telemetry.hooks()]) as client:
        (job,) = await submit_many(client, 1)
        async with client.watch([job]) as first, client.watch([job]) as second:
            first.discard(job)
            await anyio.sleep(1)
            first.add(job, model_identifier="Staple")
            await first.wait(job)
            await second.wait(job)
    (span,) = telemetry.spans("annolab.job")
    assert has(span, annolab__job__outcome="finished")
    assert "annolab.model" not in (span.attributes or {}), "it is the first watch's"
    assert telemetry.points("annolab.client.active_jobs") == {key(): 0}


async def test_the_model_that_a_job_is_said_to_be_for_is_told(telemetry: Telemetry) -> None:
    async with in_process(Front(), hooks=[telemetry.hooks()]) as client:
        (job,) = await submit_many(client, 1)
        async with client.watch() as watcher:
            watcher.add(job, model_identifier="Staple")
            await watcher.wait(job)
    (span,) = telemetry.spans("annolab.job")
    assert has(span, annolab__model="Staple")


async def test_an_export_is_a_span_whose_context_is_sent(telemetry: Telemetry) -> None:
    front = Front(exports=Exports(wait_seconds=2.0, seconds=2.0))
    async with in_process(front, hooks=[telemetry.hooks()]) as client:
        await client.wait(await client.submit(a_request()))
        front.asked.clear()
        front.answers["POST"] = [(500, {})]
        export = await client.export(**OF)
        await export.wait()
        asked = len(front.asked)
        await export.refresh()
        with pytest.raises(NotFound):
            await client.export(group_name="Company Name", project="Nowhere")
        left = await client.export(**OF)
    made, failed, unfinished = telemetry.spans("annolab.export")
    assert has(made, annolab__export__id=export.export_id, annolab__export__state="finished")
    assert has(made, server__address="localhost", http__request__resend_count=1)
    assert {ids_of(headers.get("traceparent")) for _, _, headers in front.asked[:asked]} == {
        ids(made)
    }
    assert "traceparent" not in front.asked[asked][2], "nothing is under way there"
    assert failed.status.status_code is StatusCode.ERROR
    assert has(failed, error__type="404")
    assert has(unfinished, annolab__export__id=left.export_id)


async def test_an_export_that_fails_at_the_server_is_a_span_with_an_error(
    telemetry: Telemetry,
) -> None:
    exports = Exports(wait_seconds=0.0, seconds=0.0, error_share=1.0)
    async with in_process(Front(exports=exports), hooks=[telemetry.hooks()]) as client:
        export = await client.get_export((await client.export(**OF)).job)
        await export.refresh()
    (span,) = telemetry.spans("annolab.export")
    assert span.status.status_code is StatusCode.ERROR
    assert has(span, error__type="errored")


@pytest.mark.sockets
async def test_a_download_is_a_span_below_that_of_its_export(
    telemetry: Telemetry, tmp_path: Path
) -> None:
    exports = Exports(wait_seconds=0.0, seconds=0.0)
    emulator = Emulator(api_key=KEY, base_seconds=0.0, seconds_per_source=0.0, exports=exports)
    hooks = [telemetry.hooks()]
    tracer = telemetry.tracers.get_tracer("user")
    async with EmulatorServer(emulator) as server:
        async with AsyncInferenceClient(KEY, base_url=server.base_url, hooks=hooks) as client:
            await client.wait(await client.submit(a_request()))
            export = await client.export(**OF)
            with tracer.start_as_current_span("later"):
                file = await export.download(tmp_path / "export.zip")
            with pytest.raises(ExportError, match="max_bytes"):
                await export.download(tmp_path / "other.zip", max_bytes=1)
        other = [telemetry.hooks()]
        async with AsyncInferenceClient(KEY, base_url=server.base_url, hooks=other) as client:
            again = await client.get_export(export.job)
            await again.download(tmp_path / "again.zip")
    made, followed = telemetry.spans("annolab.export")
    whole, failed, anew = telemetry.spans("annolab.download")
    assert [span.parent and span.parent.span_id for span in (whole, failed, anew)] == [
        ids(made)[1],
        ids(made)[1],
        ids(followed)[1],
    ]
    assert ids(whole)[0] == ids(made)[0]
    assert whole.attributes == {
        "annolab.export.id": export.export_id,
        "annolab.download.size": (await anyio.Path(file).stat()).st_size,
    }
    assert failed.status.status_code is StatusCode.ERROR
    assert has(failed, error__type="ExportError")
    assert "max_bytes is 1" in (failed.status.description or "")


async def test_reads_carry_the_context_of_who_makes_them(telemetry: Telemetry) -> None:
    front = Front()
    tracer = telemetry.tracers.get_tracer("user")
    async with in_process(front, hooks=[telemetry.hooks()]) as client:
        await client.submit(a_request())
        with tracer.start_as_current_span("request") as span:
            await client.get_job(1)
        await client.get_job(1)
    first, second = front.headers("GET", "traceparent")
    assert ids_of(first) == (span.get_span_context().trace_id, span.get_span_context().span_id)
    assert second is None
    assert span.attributes == {}, "the user's own spans stay as they are"  # type: ignore[attr-defined]


@pytest.mark.sockets
async def test_no_context_goes_to_where_files_lie(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = list[Mapping[str, str]]()
    admit = DownloadDesk.admit

    def noted(desk: DownloadDesk, asked: DownloadAsked) -> int:
        sent.append(asked.headers)
        return admit(desk, asked)

    monkeypatch.setattr(DownloadDesk, "admit", noted)
    exports = Exports(wait_seconds=0.0, seconds=0.0)
    emulator = Emulator(api_key=KEY, base_seconds=0.0, seconds_per_source=0.0, exports=exports)
    hooks = [telemetry.hooks()]
    async with (
        EmulatorServer(emulator) as server,
        AsyncInferenceClient(KEY, base_url=server.base_url, hooks=hooks) as client,
    ):
        await client.wait(await client.submit(a_request()))
        export = await client.export(**OF)
        assert [annotation async for annotation in export.annotations()]
    assert sent
    assert not any("traceparent" in headers for headers in sent)


async def test_metrics_add_up(telemetry: Telemetry) -> None:
    front = Front()
    settings: dict[str, Any] = {"hooks": [telemetry.hooks()], "rate_limit": RateLimit(10, burst=1)}
    async with in_process(front, **settings) as client:
        jobs = await submit_many(client, 3)
        front.answers["GET"] = [(500, {})]
        async with client.watch(jobs, schedule=EVERY_SECOND) as watcher:
            await anyio.sleep(1.5)
            assert telemetry.points("annolab.client.active_jobs") == {key(): 3}
            async for _ in watcher:
                pass
        polls = watcher.stats.polls
    answered = key(http__response__status_code=200)
    failed = key(http__response__status_code=500, error__type="500")
    assert telemetry.points("annolab.client.polls") == {answered: polls - 1, failed: 1}
    assert telemetry.points("annolab.client.poll.time").keys() == {answered, failed}
    assert telemetry.points("annolab.client.active_jobs") == {key(): 0}
    assert set(telemetry.points("annolab.client.active_requests").values()) == {0}
    finished = key(annolab__job__state="finished", annolab__job__outcome="finished")
    transitions = telemetry.points("annolab.client.transitions")
    assert transitions[finished] == 3
    assert telemetry.points("annolab.client.transition.delay") == transitions
    assert telemetry.points("annolab.client.job.duration") == {
        key(annolab__job__outcome="finished"): 3
    }
    assert telemetry.points("annolab.client.retries") == {
        key(annolab__request__kind="poll", error__type="500"): 1
    }
    submits = key(
        annolab__request__kind="submit", http__request__method="POST",
        http__response__status_code=200,
    )  # fmt: skip
    assert telemetry.points("annolab.client.request.duration") == {submits: 3}
    waits = telemetry.points("annolab.client.wait.duration")
    assert waits[key(annolab__request__kind="submit", annolab__wait__reason="rate_limit")] == 2


async def test_a_fan_out_is_told_batch_by_batch(telemetry: Telemetry) -> None:
    plan = BatchPlan(
        group_name="Company Name",
        project_identifier="My Project",
        model_identifier=1,
        output_layer_identifier="Gold Set",
        source_ids=range(1, 7),
        batch_size=2,
    )
    front = Front()
    front.answers["POST"] = [(500, {})]
    async with (
        in_process(front, hooks=[telemetry.hooks()]) as client,
        client.fan_out(plan, run="nightly", schedule=EVERY_SECOND) as run,
    ):
        async for _ in run:
            pass
    changes = telemetry.points("annolab.client.batch.changes")
    assert changes[key(annolab__batch__state="finished")] == 2
    assert changes[key(annolab__batch__state="unknown")] == 1
    spans = telemetry.spans("annolab.submit")
    numbers = [(span.attributes or {})["annolab.batch.number"] for span in spans]
    assert sorted(map(str, numbers)) == ["1", "2", "3"]
    assert all(has(span, annolab__run="nightly", annolab__model=1) for span in spans)
    assert [has(span, error__type="SubmissionUnknown") for span in spans].count(True) == 1
    assert len(telemetry.spans("annolab.job")) == 2


async def test_clients_that_share_a_provider_share_its_instruments(telemetry: Telemetry) -> None:
    async with (
        in_process(Front(), hooks=[telemetry.hooks()]) as one,
        in_process(Front(), hooks=[telemetry.hooks()]) as other,
    ):
        for client in (one, other):
            await client.wait(await client.submit(a_request()), schedule=FixedInterval(30.0))
    assert sum(telemetry.points("annolab.client.polls").values()) == 4


async def test_only_so_many_submissions_are_remembered(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("annolab_async.otel._REMEMBERED", 2)
    async with in_process(Front(), hooks=[telemetry.hooks()]) as client:
        jobs = await submit_many(client, 3)
        async with client.watch(jobs, schedule=EVERY_SECOND) as watcher:
            async for _ in watcher:
                pass
    links = {
        (span.attributes or {})["annolab.job.id"]: len(span.links)
        for span in telemetry.spans("annolab.job")
    }
    assert links == {1: 0, 2: 1, 3: 1}


async def test_only_so_many_exports_are_remembered(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("annolab_async.otel._REMEMBERED", 2)
    hooks = telemetry.hooks()
    front = Front(exports=Exports(wait_seconds=0.0, seconds=0.0))
    async with in_process(front, hooks=[hooks]) as client:
        exports = [await client.export(**OF) for _ in range(3)]
        for export in exports:
            await export.wait()
    for export in exports:
        download = DownloadBegan(export_id=export.export_id)
        hooks.on_download(download)
        hooks.on_download_end(DownloadEnded(download=download, size=1, duration=1.0, error=None))
    parents = [span.parent is not None for span in telemetry.spans("annolab.download")]
    assert parents == [False, True, True]


async def test_without_an_sdk_nothing_is_recorded_and_all_works() -> None:
    front = Front()
    async with in_process(front, hooks=[OpenTelemetryHooks(), OpenTelemetryHooks()]) as client:
        job = await client.wait(await client.submit(a_request()), schedule=EVERY_SECOND)
    assert job.is_terminal
    assert not any(front.headers("POST", "traceparent"))
    assert isinstance(metrics.get_meter_provider(), metrics.MeterProvider)
    assert propagate.get_global_textmap() is not None


async def test_another_propagator_may_be_given(telemetry: Telemetry) -> None:
    from opentelemetry.baggage import set_baggage  # noqa: PLC0415
    from opentelemetry.baggage.propagation import W3CBaggagePropagator  # noqa: PLC0415
    from opentelemetry.context import attach, detach  # noqa: PLC0415

    front = Front()
    hooks = telemetry.hooks(propagator=W3CBaggagePropagator())
    async with in_process(front, hooks=[hooks]) as client:
        token = attach(set_baggage("tenant", "7"))
        await client.submit(a_request())
        detach(token)
    assert front.headers("POST", "baggage") == ["tenant=7"]
    assert front.headers("POST", "traceparent") == [None]
