"""OpenTelemetry: spans and metrics of what a client does. It needs the extra ``otel``, which brings the API alone.

```python
async with AsyncInferenceClient(hooks=[OpenTelemetryHooks()]) as client: ...
```

Where spans and metrics go is up to the SDK that the application sets up; without one, nothing is recorded.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from attrs import define, frozen
from opentelemetry import context, propagate, trace
from opentelemetry.trace import Link, NonRecordingSpan, SpanKind, Status, StatusCode

from annolab_async._otel_meters import SCOPE, VERSION, meters_of
from annolab_async._records import Outcome
from annolab_async.errors import AnnoLabError, JobLost, StatusError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextvars import Token

    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.propagators.textmap import TextMapPropagator
    from opentelemetry.trace import Span, SpanContext, TracerProvider

    from annolab_async._hook_records import (
        BatchChanged,
        DownloadBegan,
        DownloadEnded,
        ExportBegan,
        ExportEnded,
        RequestBegan,
        RequestEnded,
        RetryPlanned,
        SubmissionBegan,
        SubmissionEnded,
        TurnWaited,
        WatchBegan,
        WatchEnded,
    )
    from annolab_async._records import Transition

__all__ = ["OpenTelemetryHooks"]

# Of how many submissions it is remembered what the job's span is to be linked to, until that is watched; and of how
# many exports that have ended, what the spans of their downloads are to be below.
_REMEMBERED: Final = 10_000


class OpenTelemetryHooks:
    """Hooks that make spans and metrics; one for each client.

    Args:
        tracer_provider: where spans go; None is the global one.
        meter_provider: where metrics go; None is the global one.
        propagator: writes the context into the headers of requests; None is the global one, W3C's if nobody says
            otherwise. Headers go to the base URL's origin and nowhere else.
        propagates_to_polls: whether polls carry the context of their job's span, too. That makes a poll over aiohttp
            dearer by a fifth, and a job's trace as long as the list of its polls where the server traces them.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        propagator: TextMapPropagator | None = None,
        propagates_to_polls: bool = False,
    ) -> None:
        self._tracer = trace.get_tracer(SCOPE, VERSION, tracer_provider)
        self._meters = meters_of(meter_provider)
        self._propagates_to_polls = propagates_to_polls
        self._propagator: Any = propagator or propagate.get_global_textmap()
        self._submissions: dict[SubmissionBegan, _Current] = {}
        self._submitted: OrderedDict[int, tuple[SpanContext, int]] = OrderedDict()
        self._jobs: dict[int, _Job] = {}
        self._exports: dict[ExportBegan, Span] = {}
        self._exported: OrderedDict[int, SpanContext] = OrderedDict()
        self._downloads: dict[DownloadBegan, Span] = {}
        self._servers: dict[str, dict[str, str | int]] = {}

    def on_request(self, request: RequestBegan, /) -> Mapping[str, str] | None:
        """Count a request that begins, and return the headers that carry the context of what it is for."""
        self._meters.requests.begin(request.kind)
        if request.kind == "poll":
            if not self._propagates_to_polls:
                return None
            job = self._jobs.get(request.inference_job_id or 0)
            return job.headers if job is not None else None
        span = trace.get_current_span() if request.kind == "submit" else None
        if request.export is not None:
            span = self._exports.get(request.export)
        if span is None:
            return self._headers(None)
        span.set_attributes(self._server(request.origin))
        if request.resends:
            span.set_attribute("http.request.resend_count", request.resends)
        return self._headers(trace.set_span_in_context(span))

    def on_request_end(self, ended: RequestEnded, /) -> None:
        """Measure a request that has ended."""
        request = ended.request
        kind, meters = request.kind, self._meters
        result = "" if ended.error is None else _type_of(ended.error)
        if kind == "poll":
            meters.requests.end_poll(ended.status_code, result, ended.duration)
            return
        meters.requests.end(kind)
        attributes: dict[str, str | int] = {
            "annolab.request.kind": kind,
            "http.request.method": request.method,
        }
        if ended.status_code is not None:
            attributes["http.response.status_code"] = ended.status_code
            if kind == "submit":
                trace.get_current_span().set_attribute(
                    "http.response.status_code", ended.status_code
                )
        if result:
            attributes["error.type"] = result
        meters.request_duration.record(ended.duration, attributes)

    def on_submission(self, submission: SubmissionBegan, /) -> None:
        """Begin the span of a submission, and make it the current one."""
        request = submission.request
        attributes: dict[str, str | int] = {
            "annolab.project": request.project_identifier,
            "annolab.model": request.model_identifier,
            "annolab.source.count": len(request.source_ids),
        }
        if submission.run is not None and submission.batch is not None:
            attributes |= {
                "annolab.run": submission.run,
                "annolab.batch.number": submission.batch,
                "annolab.batch.attempt": submission.attempt,
            }
        span = self._tracer.start_span(
            "annolab.submit", kind=SpanKind.CLIENT, attributes=attributes
        )
        token = context.attach(trace.set_span_in_context(span))
        self._submissions[submission] = _Current(span, token)

    def on_submission_end(self, ended: SubmissionEnded, /) -> None:
        """End the span of a submission; that of its job will be linked to it."""
        current = self._submissions.pop(ended.submission)
        context.detach(current.token)
        span, now = current.span, time.time_ns()
        if ended.inference_job_id is not None:
            span.set_attribute("annolab.job.id", ended.inference_job_id)
            self._submitted[ended.inference_job_id] = span.get_span_context(), now
            if len(self._submitted) > _REMEMBERED:
                self._submitted.popitem(last=False)
        _set_error(span, ended.error)
        span.end(now)

    def on_watch(self, watch: WatchBegan, /) -> None:
        """Begin the span of a job: at its submission if that is known, else now."""
        job_id = watch.inference_job_id
        self._meters.active_jobs.add(1)
        if (job := self._jobs.get(job_id)) is not None:
            job.watches += 1
            return
        submitted = self._submitted.pop(job_id, None)
        attributes: dict[str, str | int] = {"annolab.job.id": job_id}
        if watch.job is not None:
            attributes["annolab.source.count"] = len(watch.job.source_ids)
        if watch.model_identifier is not None:
            attributes["annolab.model"] = watch.model_identifier
        span = self._tracer.start_span(
            "annolab.job",
            links=[Link(submitted[0])] if submitted else None,
            start_time=submitted[1] if submitted else None,
            attributes=attributes,
        )
        headers = None
        if self._propagates_to_polls:
            headers = self._headers(trace.set_span_in_context(span))
        self._jobs[job_id] = _Job(span, headers)

    def on_transition(self, transition: Transition, /) -> None:
        """Count a transition, and note it in the job's span."""
        state = str(transition.job.state) if transition.job else "unseen"
        outcome = transition.outcome
        attributes = {"annolab.job.state": state}
        if outcome is not None:
            attributes["annolab.job.outcome"] = str(outcome)
        meters = self._meters
        meters.transitions.add(1, attributes)
        if transition.polls and transition.error is None:
            meters.delay.record(transition.uncertainty, attributes)
        if outcome is not None:
            meters.job_duration.record(transition.elapsed, {"annolab.job.outcome": str(outcome)})
        if (job := self._jobs.get(transition.inference_job_id)) is not None:
            job.span.add_event(
                "annolab.job.transition",
                attributes | {"annolab.job.uncertainty": transition.uncertainty},
            )

    def on_watch_end(self, ended: WatchEnded, /) -> None:
        """End the span of a job."""
        self._meters.active_jobs.add(-1)
        job = self._jobs.get(ended.watch.inference_job_id)
        if job is None:  # another watcher has seen its end before
            return
        job.watches -= 1
        if ended.outcome is None and job.watches:
            return
        del self._jobs[ended.watch.inference_job_id]
        span = job.span
        span.set_attribute("annolab.job.polls", ended.polls)
        if ended.job is not None:
            span.set_attribute("annolab.job.state", str(ended.job.state))
        if ended.outcome is not None:
            span.set_attribute("annolab.job.outcome", str(ended.outcome))
        _set_error(span, ended.error)
        if ended.outcome is Outcome.ERRORED:
            span.set_status(Status(StatusCode.ERROR, "the job ended with an error at the server"))
            span.set_attribute("error.type", str(ended.outcome))
        span.end()

    def on_retry(self, retry: RetryPlanned, /) -> None:
        """Count a request that is repeated, and note it in the span of a job that is polled."""
        kind = {"annolab.request.kind": retry.kind, "error.type": _type_of(retry.error)}
        self._meters.retries.add(1, kind)
        if (job := self._jobs.get(retry.inference_job_id or 0)) is not None:
            job.span.add_event("annolab.retry", kind | {"annolab.retry.delay": retry.delay})

    def on_wait(self, waited: TurnWaited, /) -> None:
        """Measure how long a request had to wait for its turn."""
        attributes = {"annolab.request.kind": waited.kind, "annolab.wait.reason": waited.reason}
        self._meters.wait.record(waited.seconds, attributes)

    def on_export(self, export: ExportBegan, /) -> None:
        """Begin the span of an export."""
        attributes = {} if export.export_id is None else {"annolab.export.id": export.export_id}
        self._exports[export] = self._tracer.start_span(
            "annolab.export", kind=SpanKind.CLIENT, attributes=attributes
        )

    def on_export_end(self, ended: ExportEnded, /) -> None:
        """End the span of an export."""
        span = self._exports.pop(ended.export)
        if ended.export_id is not None:
            span.set_attribute("annolab.export.id", ended.export_id)
            self._exported[ended.export_id] = span.get_span_context()
            if len(self._exported) > _REMEMBERED:
                self._exported.popitem(last=False)
        if ended.state is not None:
            span.set_attribute("annolab.export.state", str(ended.state))
            if ended.state == "errored":
                span.set_status(Status(StatusCode.ERROR, "the export failed at the server"))
                span.set_attribute("error.type", str(ended.state))
        _set_error(span, ended.error)
        span.end()

    def on_download(self, download: DownloadBegan, /) -> None:
        """Begin the span of a download, below that of its export if this process has had one."""
        export = self._exported.get(download.export_id)
        self._downloads[download] = self._tracer.start_span(
            "annolab.download",
            context=trace.set_span_in_context(NonRecordingSpan(export)) if export else None,
            kind=SpanKind.CLIENT,
            attributes={"annolab.export.id": download.export_id},
        )

    def on_download_end(self, ended: DownloadEnded, /) -> None:
        """End the span of a download."""
        span = self._downloads.pop(ended.download)
        if ended.size is not None:
            span.set_attribute("annolab.download.size", ended.size)
        _set_error(span, ended.error)
        span.end()

    def on_batch(self, change: BatchChanged, /) -> None:
        """Count a change of a fan-out's batch."""
        self._meters.batches.add(1, {"annolab.batch.state": str(change.record.state)})

    def _headers(self, of: Context | None) -> dict[str, str]:
        headers: dict[str, str] = {}
        self._propagator.inject(headers, context=of)
        return headers

    def _server(self, origin: str) -> dict[str, str | int]:
        if (server := self._servers.get(origin)) is None:
            url = urlsplit(origin)
            port = url.port or (443 if url.scheme == "https" else 80)
            server = {"server.address": url.hostname or "", "server.port": port}
            self._servers[origin] = server
        return server


@frozen
class _Current:
    """A span that is the current one until its token is given back."""

    span: Span
    token: Token[Context]


@define
class _Job:
    """A job's span, the headers that carry its context, and how many watchers watch it."""

    span: Span
    headers: dict[str, str] | None
    watches: int = 1


def _type_of(error: BaseException) -> str:
    # A job that is lost since the server does not know it is no answer to one request.
    if isinstance(error, StatusError) and not isinstance(error, JobLost):
        return str(error.status_code)
    return type(error).__name__


def _set_error(span: Span, error: BaseException | None) -> None:
    if error is not None:
        # Errors of others are not known to hold no secret.
        text = str(error) if isinstance(error, AnnoLabError) else None
        span.set_status(Status(StatusCode.ERROR, text))
        span.set_attribute("error.type", _type_of(error))
