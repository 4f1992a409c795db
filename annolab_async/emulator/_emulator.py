"""The emulator as its users see it."""

from __future__ import annotations

import time
from types import MappingProxyType
from typing import TYPE_CHECKING

from annolab_async.emulator._app import make_app
from annolab_async.emulator._downloads_app import make_downloads_app
from annolab_async.emulator._export_records import Exports
from annolab_async.emulator._recording import Recorder
from annolab_async.emulator._settings import (
    DEFAULT_API_KEY,
    DEFAULT_DOWNLOADS_URL,
    DEFAULT_GROUPS,
    DEFAULT_LAYERS,
    DEFAULT_MODELS,
    DEFAULT_PROJECTS,
    Settings,
    is_base_url,
)
from annolab_async.emulator._state import ServiceState

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from starlette.applications import Starlette
    from starlette.types import ASGIApp

    from annolab_async.emulator._annotations import EmulatedAnnotation
    from annolab_async.emulator._bad_replies import BadReply
    from annolab_async.emulator._download_faults import BadDownload, DownloadFaults
    from annolab_async.emulator._downloads import DownloadRequest
    from annolab_async.emulator._export_records import EmulatedExport
    from annolab_async.emulator._faults import Faults, Mishap
    from annolab_async.emulator._jobs import EmulatedJob, EmulatorStats
    from annolab_async.emulator._recording import RecordedRequest


class Emulator:
    """A local AnnoLab: takes on batches, runs them in pretence, and remembers who asked what.

    It speaks the vendor's documented contract, create and status, on both known paths. Jobs run
    ``workers`` at a time, first in, first out; a job takes about
    ``base_seconds + seconds_per_source * number of sources``. The same arguments and the same
    submits give the same jobs.

    A request that its client gives up on the way in leaves no trace in ``jobs``; one given up on
    the way back has had its effect, and the client cannot know.

    A job that ends ``Finished`` has made annotations in its output layer: up to ``most_predictions`` in
    each source, the same ones for the same seed, job and source. They come out through exports, whose
    links lead to ``downloads``, an app of its own on another origin.

    Args:
        api_key: The key that may do everything: printable ASCII without spaces.
        workers: How many jobs run at the same time, at least 1.
        seed: Where durations and errors come from.
        base_seconds: Seconds that a job takes whatever its size.
        seconds_per_source: Seconds that each source adds.
        error_share: Share of jobs that end ``Errored``, from 0 to 1.
        bad_source_ids: Ids of sources that no model can read: a job with one of them ends ``Errored``.
        faults: What goes wrong with submissions; None for nothing.
        latency: Seconds that every answer takes, half before the service looks, half after.
        api_keys_without_model_run: Keys that are known but lack the "Model Run" permission.
        groups: Group names and their ids.
        projects: Project names and their ids.
        models: Model names and their ids.
        layers: Layer names and their ids.
        most_predictions: How many annotations a job makes in a source at most.
        exports: How long exports take, which fail, and how long their links are good; None for half a
            second or less, no failures and an hour.
        download_faults: What goes wrong with downloads; None for nothing.
        downloads_url: Where the links of exports lead while no server serves them, without a slash at the end.
        keep_requests: How many of the latest requests ``requests`` has.
        clock: Tells the time in seconds; ``anyio.current_time`` for tests in virtual time.

    Raises:
        ValueError: An argument is invalid; the message names every fault.
    """

    def __init__(
        self,
        *,
        api_key: str = DEFAULT_API_KEY,
        workers: int = 10,
        seed: int = 0,
        base_seconds: float = 1.0,
        seconds_per_source: float = 0.1,
        error_share: float = 0.0,
        bad_source_ids: Collection[int] = (),
        faults: Faults | None = None,
        latency: float = 0.0,
        api_keys_without_model_run: Collection[str] = (),
        groups: Mapping[str, int] = DEFAULT_GROUPS,
        projects: Mapping[str, int] = DEFAULT_PROJECTS,
        models: Mapping[str, int] = DEFAULT_MODELS,
        layers: Mapping[str, int] = DEFAULT_LAYERS,
        most_predictions: int = 5,
        exports: Exports | None = None,
        download_faults: DownloadFaults | None = None,
        downloads_url: str = DEFAULT_DOWNLOADS_URL,
        keep_requests: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = Settings(
            api_key=api_key,
            workers=workers,
            seed=seed,
            base_seconds=base_seconds,
            seconds_per_source=seconds_per_source,
            error_share=error_share,
            bad_source_ids=bad_source_ids,
            faults=faults,
            latency=latency,
            api_keys_without_model_run=api_keys_without_model_run,
            groups=groups,
            projects=projects,
            models=models,
            layers=layers,
            most_predictions=most_predictions,
            exports=Exports() if exports is None else exports,
            download_faults=download_faults,
            downloads_url=downloads_url,
            keep_requests=keep_requests,
            clock=clock,
        )
        self._state = ServiceState(self._settings)
        self._recorder = Recorder(self._settings)
        app = make_app(self._state, self._settings)
        self._app = self._recorder.around(app) if keep_requests else app
        self._downloads = make_downloads_app(self._state.downloads, self._settings)

    def __repr__(self) -> str:
        return f"<Emulator workers={self._settings.workers} jobs={len(self._state.jobs)}>"

    @property
    def app(self) -> ASGIApp:
        """The ASGI app; works under asyncio and trio, in-process or behind a server."""
        return self._app

    @property
    def downloads(self) -> Starlette:
        """The ASGI app that hands out the zips of exports: no part of ``app``, and wants no key."""
        return self._downloads

    @property
    def downloads_url(self) -> str:
        """Where the links of exports lead; an :class:`EmulatorServer` sets it while it serves.

        Raises:
            ValueError: When set to what is no URL, or ends with a slash.
        """
        return self._state.exports.downloads_url

    @downloads_url.setter
    def downloads_url(self, url: str) -> None:
        if not is_base_url(url):
            raise ValueError(f"downloads_url must begin with http:// or https://, not {url!r}")
        self._state.exports.downloads_url = url

    @property
    def jobs(self) -> Mapping[int, EmulatedJob]:
        """All jobs by id, as they are now: a copy, safe to read while the emulator serves."""
        return MappingProxyType(dict(self._state.jobs))

    @property
    def mishaps(self) -> Sequence[Mishap]:
        """The faults that befell submissions, oldest first: a copy."""
        return tuple(self._state.mishaps)

    @property
    def stats(self) -> EmulatorStats:
        """The traffic so far."""
        return self._state.stats

    def job(self, job_id: int) -> EmulatedJob:
        """Return one job as it is now.

        Args:
            job_id: The job's id.

        Raises:
            KeyError: There is no such job.
        """
        return self._state.jobs[job_id]

    def script(self, job_id: int, statuses: Sequence[str] | Mapping[float, str]) -> None:
        """Say what a job goes through, instead of what the queue would make of it. It then takes no worker.

        Args:
            job_id: The job's id. Ids count up from 1, so that the first job, say, can be told before there is one.
            statuses: What each poll from now on is shown, or what is shown from which second after the submission on.
                The last one stays. Any word will do, also one that no client knows.

        Raises:
            ValueError: These are no such statuses, or that is no id.
        """
        self._state.direct(job_id, statuses)

    def plan_submits(self, *bad: BadReply | None) -> None:
        """Decide what befalls the coming submissions, one after the other, ahead of what chance would bring.

        Args:
            bad: What goes wrong with each; None for nothing.
        """
        self._state.plans.add_submits(bad)

    def plan_polls(self, *bad: BadReply | None, job_id: int | None = None) -> None:
        """Decide what befalls the coming polls, one after the other.

        Args:
            bad: What goes wrong with each; None for nothing.
            job_id: The job whose polls these are; None for those of any.
        """
        self._state.plans.add_polls(bad, job_id)

    @property
    def planned(self) -> int:
        """How many of the planned bad replies have not happened yet."""
        return len(self._state.plans)

    def forget_plans(self) -> None:
        """Plan nothing any more for submissions and polls: what has not happened yet will not."""
        self._state.plans.clear()

    @property
    def requests(self) -> Sequence[RecordedRequest]:
        """The latest requests, oldest first, as many as ``keep_requests`` says: a copy, without the key."""
        return self._recorder.requests

    @property
    def api_key(self) -> str:
        """The key that may do everything."""
        return self._settings.api_key

    def predictions(self, job_id: int) -> Sequence[EmulatedAnnotation]:
        """Return the annotations that a job has made: none before its end, or if it ended badly.

        Args:
            job_id: The job's id.

        Raises:
            KeyError: There is no such job.
        """
        return tuple(self._state.predictions.of_job(job_id, now=self._settings.clock()))

    @property
    def exports(self) -> Mapping[int, EmulatedExport]:
        """All exports by id, as they are now: a copy, safe to read while the emulator serves."""
        return MappingProxyType(dict(self._state.exports.exports))

    def archive(self, export_id: int) -> bytes:
        """Return the zip of an export: what a download brings, byte for byte, while no fault has changed it.

        Args:
            export_id: The export's id.

        Raises:
            KeyError: There is no such export.
        """
        # Written anew, since the server's thread may be writing the one that it sends.
        archive = self._state.exports.new_archive(export_id)
        while archive.content is None:
            archive.step()
        return bytes(archive.content)

    @property
    def download_requests(self) -> Sequence[DownloadRequest]:
        """The requests that reached the downloads and how each was answered, oldest first: a copy."""
        return tuple(self._state.downloads.requests)

    @property
    def keys_at_downloads(self) -> int:
        """How many requests brought an ``Authorization`` to the downloads, or the key in any other form."""
        return sum(request.has_key for request in self.download_requests)

    def plan_downloads(self, *bad: BadDownload | None) -> None:
        """Decide what befalls the coming downloads, one after the other, ahead of what chance would bring.

        Args:
            bad: What goes wrong with each; None for nothing.
        """
        self._state.downloads.planned.extend(bad)
