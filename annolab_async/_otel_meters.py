"""The instruments of :mod:`annolab_async.otel`, named as OpenTelemetry's semantic conventions name such things."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from opentelemetry import metrics
from opentelemetry.metrics import Observation

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider

    _Answer = tuple[int | None, str]

__all__ = ["SCOPE", "VERSION", "Meters", "meters_of"]

SCOPE: Final = "annolab_async"
# Read now: whoever makes hooks in an event loop is not to wait for a disk.
VERSION: Final = version("annolab-async")

# In seconds: what the conventions advise for HTTP, and up to a day for jobs.
_SHORT: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_LONG: Final = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)


class Requests:
    """Adds up what happens at every request, for instruments that ask for it when they are read.

    An instrument of the SDK that is told each time takes some microseconds, a tenth of what a poll costs.
    """

    def __init__(self) -> None:
        self._active: Counter[str] = Counter()
        self._polls: Counter[_Answer] = Counter()
        self._poll_seconds: defaultdict[_Answer, float] = defaultdict(float)
        self._lock = threading.Lock()  # who reads is in another thread, and clients may be, too

    def begin(self, kind: str) -> None:
        """Take note of a request that begins."""
        with self._lock:
            self._active[kind] += 1

    def end(self, kind: str) -> None:
        """Take note of a request that has ended."""
        with self._lock:
            self._active[kind] -= 1

    def end_poll(self, status_code: int | None, error: str, duration: float) -> None:
        """Take note of a poll that has ended: with which status, or what error, after how many seconds."""
        answer = status_code, error
        with self._lock:
            self._active["poll"] -= 1
            self._polls[answer] += 1
            self._poll_seconds[answer] += duration

    def active(self, _: CallbackOptions) -> Iterable[Observation]:
        """Return how many requests are under way."""
        with self._lock:
            sums = [*self._active.items()]
        return [Observation(count, {"annolab.request.kind": kind}) for kind, count in sums]

    def polls(self, _: CallbackOptions) -> Iterable[Observation]:
        """Return how many polls have ended."""
        return self._by_answer(self._polls)

    def poll_time(self, _: CallbackOptions) -> Iterable[Observation]:
        """Return how long they have taken in all."""
        return self._by_answer(self._poll_seconds)

    def _by_answer(self, sums: Mapping[_Answer, float]) -> Iterable[Observation]:
        with self._lock:
            items = [*sums.items()]
        for (status_code, error), amount in items:
            attributes: dict[str, str | int] = {}
            if status_code is not None:
                attributes["http.response.status_code"] = status_code
            if error:
                attributes["error.type"] = error
            yield Observation(amount, attributes)


class Meters:
    """All instruments of one meter."""

    def __init__(self, meter: Meter) -> None:
        self.requests = Requests()
        meter.create_observable_counter(
            "annolab.client.polls",
            [self.requests.polls],
            unit="{poll}",
            description="Status requests of watchers that have ended.",
        )
        meter.create_observable_counter(
            "annolab.client.poll.time",
            [self.requests.poll_time],
            unit="s",
            description="Time that status requests of watchers have taken in all.",
        )
        meter.create_observable_up_down_counter(
            "annolab.client.active_requests",
            [self.requests.active],
            unit="{request}",
            description="Requests under way.",
        )
        self.active_jobs = meter.create_up_down_counter(
            "annolab.client.active_jobs",
            unit="{job}",
            description="Jobs that are watched and have no outcome yet.",
        )
        self.request_duration = meter.create_histogram(
            "annolab.client.request.duration",
            unit="s",
            description="Duration of requests other than polls.",
            explicit_bucket_boundaries_advisory=_SHORT,
        )
        self.transitions = meter.create_counter(
            "annolab.client.transitions",
            unit="{transition}",
            description="Changes of watched jobs that were seen.",
        )
        self.delay = meter.create_histogram(
            "annolab.client.transition.delay",
            unit="s",
            description="How old a change may have been when it was seen.",
            explicit_bucket_boundaries_advisory=_LONG,
        )
        self.job_duration = meter.create_histogram(
            "annolab.client.job.duration",
            unit="s",
            description="For how long jobs were watched until their outcome.",
            explicit_bucket_boundaries_advisory=_LONG,
        )
        self.retries = meter.create_counter(
            "annolab.client.retries",
            unit="{retry}",
            description="Requests that have failed and are sent again.",
        )
        self.wait = meter.create_histogram(
            "annolab.client.wait.duration",
            unit="s",
            description="How long requests had to wait for their turn, if they had to.",
            explicit_bucket_boundaries_advisory=_SHORT,
        )
        self.batches = meter.create_counter(
            "annolab.client.batch.changes",
            unit="{change}",
            description="Changes of a fan-out's batches, by the state that they came to.",
        )


_of_provider: WeakKeyDictionary[MeterProvider, Meters] = WeakKeyDictionary()


def meters_of(provider: MeterProvider | None) -> Meters:
    """Return the instruments of a provider, None for the global one.

    All clients share them: sums that are asked for cannot come from two instruments of one name.
    """
    if provider is None:
        return _global_meters()
    if (found := _of_provider.get(provider)) is None:
        found = _of_provider[provider] = Meters(provider.get_meter(SCOPE, VERSION))
    return found


@cache
def _global_meters() -> Meters:
    return Meters(metrics.get_meter(SCOPE, VERSION))
