"""The emulated service as a pure state machine: time comes in as an argument, nothing goes out.

Jobs wait in a queue, first in, first out, for one of a fixed number of workers. Nothing that
happens later can change a job's turn, so its start, end and outcome are settled on submission and
its status at any time is a comparison.
"""

from __future__ import annotations

import heapq
import random
from typing import TYPE_CHECKING, Literal, TypeAlias

from annolab_async.emulator._bad_replies import Plans, Reply
from annolab_async.emulator._batch_body import find_targets, parse_body
from annolab_async.emulator._bodies import Answer, Refused, parse_id
from annolab_async.emulator._bulk import BulkDesk
from annolab_async.emulator._catalogue import Catalogue, Named
from annolab_async.emulator._downloads import DownloadDesk
from annolab_async.emulator._exports import ExportDesk
from annolab_async.emulator._faults import Fault, Mishap
from annolab_async.emulator._jobs import EmulatedJob, EmulatorStats, FinalStatus
from annolab_async.emulator._predictions import Predictions
from annolab_async.emulator._projects import Asked, ProjectDesk
from annolab_async.emulator._scripts import Script
from annolab_async.emulator._settings import is_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from annolab_async.emulator._settings import Settings

RequestKind: TypeAlias = Literal["submit", "poll", "other"]

_UNPROCESSED = frozenset({Fault.UNAVAILABLE, Fault.RESET})
_SIGMA = 0.25
"""Spread of the noise on durations: two jobs in three are within a quarter of the mean."""


class ServiceState:
    """All that the emulated service knows.

    Args:
        settings: How it is set up.
    """

    def __init__(self, settings: Settings) -> None:
        self.jobs: dict[int, EmulatedJob] = {}
        self.mishaps: list[Mishap] = []
        self.scripts: dict[int, Script] = {}
        self.plans = Plans()
        self.catalogue = Catalogue(settings)
        self.predictions = Predictions(settings, self.catalogue, self.jobs)
        self.projects = ProjectDesk(self.catalogue)
        self.bulk = BulkDesk(self.catalogue)
        self.exports = ExportDesk(settings, self.catalogue, self.jobs, self.predictions)
        self.downloads = DownloadDesk(settings, self.exports)
        self._models = {name: Named(name, number) for name, number in settings.models.items()}
        self._submissions = 0
        self._settings = settings
        # When each worker will be free: -inf, so that clocks may start anywhere.
        self._free_at = [float("-inf")] * settings.workers
        self._requests: dict[RequestKind, int] = {"submit": 0, "poll": 0, "other": 0}
        self._in_flight = 0
        self._max_in_flight = 0
        self._polls_in_flight = 0
        self._max_polls_in_flight = 0

    @property
    def stats(self) -> EmulatorStats:
        """The traffic so far."""
        return EmulatorStats(
            requests=sum(self._requests.values()),
            submits=self._requests["submit"],
            polls=self._requests["poll"],
            in_flight=self._in_flight,
            max_in_flight=self._max_in_flight,
            polls_in_flight=self._polls_in_flight,
            max_polls_in_flight=self._max_polls_in_flight,
        )

    def request_began(self, kind: RequestKind) -> None:
        """Count a request that has come in."""
        self._requests[kind] += 1
        self._in_flight += 1
        self._max_in_flight = max(self._max_in_flight, self._in_flight)
        if kind == "poll":
            self._polls_in_flight += 1
            self._max_polls_in_flight = max(self._max_polls_in_flight, self._polls_in_flight)

    def request_ended(self, kind: RequestKind) -> None:
        """Count a request as answered or given up."""
        self._in_flight -= 1
        if kind == "poll":
            self._polls_in_flight -= 1

    def receive(self, authorization: str | None, body: bytes, *, now: float) -> Reply:
        """Take on a job, unless something goes wrong with its submission.

        Args:
            authorization: The ``Authorization`` header; None if there was none.
            body: The request's body.
            now: Seconds on the emulator's clock.
        """
        self._submissions += 1
        faults = self._settings.faults
        draw = faults.draw(self._submissions) if faults else None
        bad = None
        if submits := self.plans.submits:
            bad = submits.popleft()
            draw = bad.draw if bad else None
        if (draw is not None and draw.fault in _UNPROCESSED) or not (
            bad is None or bad.is_processed
        ):
            answer = Answer(503, {"message": "the service is not available: try again later"})
        else:
            answer = self.submit(authorization, body, now=now)
        if draw is not None:
            job_id = answer.body.get("inferenceJobId")
            self.mishaps.append(
                Mishap(
                    fault=draw.fault, at=now, inference_job_id=job_id, retry_after=draw.retry_after
                )
            )
        return bad.reply(answer) if bad else Reply(answer, draw, draw.retry_after if draw else None)

    def asked(self, authorization: str | None, job_id: str, *, now: float) -> Reply:
        """Tell a job's status, unless something goes wrong with the poll; then the job knows nothing of it.

        Args:
            authorization: The ``Authorization`` header; None if there was none.
            job_id: The job's id as the path gives it.
            now: Seconds on the emulator's clock.
        """
        bad = self.plans.for_poll(parse_id(job_id))
        answer = self.poll(authorization, job_id, now=now, is_seen=bad is None or bad.is_answered)
        return bad.reply(answer) if bad else Reply(answer)

    def submit(self, authorization: str | None, body: bytes, *, now: float) -> Answer:
        """Take on a job.

        Args:
            authorization: The ``Authorization`` header; None if there was none.
            body: The request's body.
            now: Seconds on the emulator's clock.
        """
        try:
            self._check_key(authorization)
            job = self._enqueue(body, now)
        except Refused as refused:
            return Answer(refused.status_code, {"message": refused.message})
        return Answer(
            200,
            {
                "inferenceJobId": job.inference_job_id,
                # A free worker may take the job up at this very instant; the answer is older.
                "status": "Queued",
                "projectName": job.project_name,
                "projectId": job.project_id,
                "outputLayerName": job.output_layer_name,
                "outputLayerId": job.output_layer_id,
                "sourceIds": list(job.source_ids),
            },
        )

    def poll(
        self, authorization: str | None, job_id: str, *, now: float, is_seen: bool = True
    ) -> Answer:
        """Tell a job's status, and keep a record of having told it.

        Args:
            authorization: The ``Authorization`` header; None if there was none.
            job_id: The job's id as the path gives it.
            now: Seconds on the emulator's clock.
            is_seen: Whether the answer will be seen. If not, there is no record of it.
        """
        try:
            self._check_key(authorization)
            job = self._find_job(job_id)
        except Refused as refused:
            return Answer(refused.status_code, {"message": refused.message})
        if script := self.scripts.get(job.inference_job_id):
            status, job = script.shown(job, now)
        else:
            status = job.status_at(now)
            job = job.shown(status)
        if is_seen:
            self.jobs[job.inference_job_id] = job
        return Answer(
            200,
            {
                "inferenceJobId": job.inference_job_id,
                "status": status,
                "projectId": job.project_id,
                "sourceIds": list(job.source_ids),
            },
        )

    def direct(self, job_id: int, statuses: object) -> None:
        """Say what a job goes through: one that there is, or that will have this id.

        Args:
            job_id: The job's id.
            statuses: What it shows, as for :class:`Script`.

        Raises:
            ValueError: These are no such statuses, or that is no id.
        """
        if not is_id(job_id):
            raise ValueError(f"a job's id is an int from 1 up, not {job_id!r}")
        job = self.jobs.get(job_id)
        script = Script(statuses, job.polls if job else 0)
        self.scripts[job_id] = script
        if job:
            self.jobs[job_id] = script.beginning(job)

    def ask(
        self, authorization: str | None, desk: Callable[[Asked], Answer], asked: Asked
    ) -> Answer:
        """Have a request about anything else than jobs answered; running models takes no permission here.

        Args:
            authorization: The ``Authorization`` header; None if there was none.
            desk: What answers it.
            asked: The request.
        """
        try:
            self._check_key(authorization, may_lack_model_run=True)
            return desk(asked)
        except Refused as refused:
            return Answer(refused.status_code, {"message": refused.message})

    def _check_key(self, authorization: str | None, *, may_lack_model_run: bool = False) -> None:
        if authorization is None:
            raise Refused(401, "no API key: send the header 'Authorization: Api-Key KEY'")
        scheme, _, key = authorization.partition(" ")
        if scheme == "Api-Key" and key == self._settings.api_key:
            return
        if scheme == "Api-Key" and key in self._settings.api_keys_without_model_run:
            if may_lack_model_run:
                return
            raise Refused(403, 'the API key lacks the "Model Run" permission on the project')
        raise Refused(401, "invalid API key")

    def _find_job(self, job_id: str) -> EmulatedJob:
        number = parse_id(job_id)
        if number is None or number not in self.jobs:
            raise Refused(404, f"not found: inference job {job_id!r}")
        return self.jobs[number]

    def _enqueue(self, raw: bytes, now: float) -> EmulatedJob:
        body = parse_body(raw)
        targets = find_targets(body, self.catalogue, self._models)
        job_id = len(self.jobs) + 1
        seconds, final_status = self._fate(job_id, body.source_ids)
        started_at = max(now, self._free_at[0])
        if job_id not in self.scripts:  # those take no worker
            heapq.heapreplace(self._free_at, started_at + seconds)
        job = EmulatedJob(
            inference_job_id=job_id,
            group_name=body.group_name,
            project_id=targets.project.id,
            project_name=targets.project.name,
            model_id=targets.model.id,
            model_name=targets.model.name,
            output_layer_id=targets.output_layer.id,
            output_layer_name=targets.output_layer.name,
            source_ids=body.source_ids,
            submitted_at=now,
            started_at=started_at,
            ended_at=started_at + seconds,
            final_status=final_status,
        )
        script = self.scripts.get(job_id)
        self.jobs[job_id] = script.beginning(job) if script else job
        self.predictions.expect(job)
        return job

    def _fate(self, job_id: int, source_ids: tuple[int, ...]) -> tuple[float, FinalStatus]:
        settings = self._settings
        mean = settings.base_seconds + settings.seconds_per_source * len(source_ids)
        # Seeded by job, so that a job's fate hangs on neither the order nor the number of draws.
        rng = random.Random(f"{settings.seed}:{job_id}")
        seconds = mean * rng.lognormvariate(-(_SIGMA**2) / 2, _SIGMA)
        is_bad = rng.random() < settings.error_share or not settings.bad_source_ids.isdisjoint(
            source_ids
        )
        return seconds, "Errored" if is_bad else "Finished"
