"""The client: submits batches and asks for their jobs."""

from __future__ import annotations

import logging
import os
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Self, Unpack

from anyio import AsyncContextManagerMixin, get_cancelled_exc_class

from annolab_async._calls import Calls
from annolab_async._export_calls import ExportCalls
from annolab_async._exporting import Exporting
from annolab_async._fan_out import FanOut
from annolab_async._hook_records import TurnWaited
from annolab_async._hooks import Hooks, told_of_submission
from annolab_async._http import HttpSession, check_base_url, check_bounds, check_path, has_network
from annolab_async._limits import Throttle, Turnstile
from annolab_async._records import (
    InferenceJob,
    JobState,
    StatusReply,
    check_request,
    is_positive,
    job_id_of,
)
from annolab_async._replies import goes_back, read_job
from annolab_async._retry import (
    RetryBudget,
    Verdict,
    policy_of,
    verdict,
    worth_asking_again,
    worth_submitting_again,
)
from annolab_async._secret import ApiKey, key_fault
from annolab_async._watcher import InferenceWatcher
from annolab_async.errors import (
    AnnoLabError,
    ConfigurationError,
    InvalidResponse,
    JobIdLost,
    SubmissionUnknown,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Iterable

    import httpx

    from annolab_async._batch_plan import BatchPlan
    from annolab_async._fan_out_options import FanOutOptions
    from annolab_async._hooks import Hook
    from annolab_async._http import HttpClient, Progress, TransportName
    from annolab_async._limits import Kind, RateLimit, Reason
    from annolab_async._records import InferenceRequest
    from annolab_async._replies import Reply
    from annolab_async._retry import RetryPolicy
    from annolab_async._schedule import PollSchedule
    from annolab_async._watcher import WatchOptions

__all__ = ["AsyncInferenceClient"]

_log: Final = logging.getLogger(__name__)
_DEFAULT_BASE_URL: Final = "https://api.annolab.ai"
_WORDS_REMEMBERED: Final = 100
_OK: Final = 200


class AsyncInferenceClient(Exporting, AsyncContextManagerMixin):
    """Submits inference batches to AnnoLab and asks for their jobs; to be used in an ``async with`` block.

    ```python
    async with AsyncInferenceClient() as client:
        job = await client.submit(request)
        job = await client.wait(job)
    ```

    Args:
        api_key: the API key; None takes it from the environment variable ``ANNOLAB_API_KEY``.
        base_url: where the service is; None takes it from ``ANNOLAB_BASE_URL``, else ``https://api.annolab.ai``.
        inference_path: the path of the batch endpoint; some installations have ``/v1/model/infer/batch``.
        http_client: an ``httpx.AsyncClient`` or ``httpx2.AsyncClient`` of yours to send everything with; it stays
            open. None makes one. The key is sent with each request, not stored in your client.
        transport: what polls go over when there is no ``http_client``: ``"httpx"``, ``"aiohttp"`` (an extra, on asyncio
            only, a fraction of the cost) or ``"auto"``, aiohttp where it can be. Submissions always go over httpx, and
            so do polls through a proxy that the environment names.
        timeout: seconds that one request may take in all.
        retry: how a request that failed is repeated; a submission only if it provably made no job.
        rate_limit: a bound on all requests together, submissions and polls alike; None for none of its own. A server
            that answers 429 slows the whole client down all the same.
        max_connections: requests under way at once; further ones wait for their turn. With an ``http_client``, no
            more than its pool has connections.
        plain_http_hosts: hosts to which the key may be sent unencrypted, over ``http://``; this machine always may.
        download_client: makes the client that files of exports are downloaded with, for a proxy or certificates of
            your own; None makes one as the environment says. The key is never sent with it.
        hooks: objects with methods such as ``on_transition``, which are told of what happens, such as those of
            :mod:`annolab_async.otel`. They are called between two requests, and must be quick.

    Raises:
        ConfigurationError: there is no key, or an argument makes no sense.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        inference_path: str = "/v1/infer/batch",
        http_client: HttpClient | None = None,
        transport: TransportName = "auto",
        timeout: float = 30.0,
        retry: RetryPolicy | None = None,
        rate_limit: RateLimit | None = None,
        max_connections: int = 100,
        plain_http_hosts: Collection[str] = (),
        download_client: Callable[[], httpx.AsyncClient] | None = None,
        hooks: Collection[Hook] = (),
    ) -> None:
        self._base_url = "?"  # repr() shows it, also of a client that was never finished
        if api_key is None:
            api_key = os.environ.get("ANNOLAB_API_KEY", "")
        fault = key_fault(api_key)
        key = None if fault else ApiKey(api_key)
        del api_key  # tools that show the local variables of a traceback would show it
        if key is None:
            raise ConfigurationError(fault)
        check_bounds(timeout=timeout, max_connections=max_connections)
        if base_url is None:
            base_url = os.environ.get("ANNOLAB_BASE_URL") or _DEFAULT_BASE_URL
        self._base_url = check_base_url(
            base_url,
            plain_http_hosts=plain_http_hosts,
            has_network=http_client is None or has_network(http_client, base_url),
        )
        self._key = key
        self._path = check_path(inference_path)
        self.retry: RetryPolicy = policy_of(retry)
        self._session = HttpSession(
            base_url=self._base_url,
            key=key,
            http_client=http_client,
            transport=transport,
            timeout=timeout,
            max_connections=max_connections,
        )
        self.budget: RetryBudget = RetryBudget()
        self.hooks: Hooks = Hooks(hooks)
        self.turns: Turnstile = Turnstile(
            self._session.max_at_once,
            Throttle(rate_limit),
            on_wait=None if self.hooks.wait is None else self._tell_wait,
        )
        self._calls = Calls(
            self._session,
            retry=self.retry,
            budget=self.budget,
            turns=self.turns,
            hooks=self.hooks,
            base_url=self._base_url,
        )
        self._exports = ExportCalls(
            self._calls,
            self._session,
            key=key,
            base_url=self._base_url,
            hooks=self.hooks,
            retry=self.retry,
            budget=self.budget,
            turns=self.turns,
            plain_http_hosts=tuple(plain_http_hosts),
            download_client=download_client,
        )
        self._unknown_words: set[str] = set()

    def __repr__(self) -> str:
        return f"AsyncInferenceClient(base_url={self._base_url!r})"

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        async with self._session:
            try:
                yield self
            finally:
                self._exports.let_go()

    async def submit(self, request: InferenceRequest) -> InferenceJob:
        """Start a job. A batch is never sent twice: a job costs money, and a lost answer is no refusal.

        It is sent again, as ``retry`` allows, only if it provably never reached the server, or if the server says that
        it has not taken it (429, and 503 with ``Retry-After``). A call that is cancelled may have sent it; then that
        is logged.

        Args:
            request: what to run over which sources.

        Returns:
            The job as the server made it, usually queued.

        Raises:
            RequestNotSent: it provably never reached the server; submit it again when you like.
            SubmissionUnknown: it was sent and its answer lost; the job may exist.
            StatusError: the server refused it; see its subclasses. No job was made.
            TypeError: that is no request.
            InvalidResponse: the server reported success with a body that is no job. It carries the job's id; if that
                could not be told, it is a :class:`JobIdLost`, which is a SubmissionUnknown, too.
            NotOpen: the client is used outside its block.
        """
        check_request(request)

        async def send(resends: int) -> InferenceJob:
            return await self._submit(request, self.progress(), resends)

        with told_of_submission(self.hooks, request) as told:
            told.job = await self._calls.repeat(
                "submit", self._path, send, worth_submitting_again, of="submit"
            )
            return told.job

    def progress(self) -> Progress:
        """Return what is to be told how far a submission has come."""
        return self._session.progress()

    async def submit_once(self, request: InferenceRequest, progress: Progress) -> InferenceJob:
        """Start a job without waiting for a turn or repeating what fails: for a fan-out, who does.

        Args:
            request: what to run over which sources.
            progress: is told how far it has come, also if this is cancelled.

        Raises:
            RequestNotSent, SubmissionUnknown, StatusError, InvalidResponse, NotOpen
        """
        return await self._submit(request, progress, 0)

    async def _submit(
        self, request: InferenceRequest, progress: Progress, resends: int
    ) -> InferenceJob:
        body = request.to_wire()
        try:
            return await self._calls.post(
                self._path, body, progress, self._read, kind="submit", resends=resends
            )
        except get_cancelled_exc_class():
            if progress.may_have_arrived:
                _log.warning(
                    "A submission of %d sources was cancelled after it was sent: its job may exist.",
                    len(request.source_ids),
                    extra={"source_ids": request.source_ids},
                )
            raise
        except AnnoLabError as error:
            match verdict(error):
                case Verdict.UNKNOWN:
                    raise SubmissionUnknown(request=request, cause=error) from error
                case Verdict.ID_LOST if isinstance(error, InvalidResponse):
                    raise JobIdLost.because(request=request, cause=error) from error
                case _:
                    raise

    async def get_job(self, job: InferenceJob | int) -> InferenceJob:
        """Ask for a job's state.

        Args:
            job: the job, or its id.

        Raises:
            ValueError: that is no job id.
            RequestNotSent, NoResponse, StatusError, InvalidResponse: it failed, as often as ``retry`` allows.
            NotOpen: the client is used outside its block.
        """
        job_id = job_id_of(job)
        path = f"{self._path}/{job_id}"

        async def send(resends: int) -> InferenceJob:
            return await self._calls.get(
                path,
                lambda reply: self._read(reply, asked_for=job_id),
                kind="read",
                job_id=job_id,
                resends=resends,
            )

        return await self._calls.repeat(
            "read", path, send, worth_asking_again, of="read", job_id=job_id
        )

    async def poll_status(
        self, job_id: int, previous: StatusReply | None = None, *, may_go_back: bool = False
    ) -> StatusReply:
        """Ask for a job's state once, without waiting for a turn or repeating what fails: for a watcher, who does.

        Args:
            job_id: the job's id.
            previous: the last answer about this job. It is returned itself when the new one is the same.
            may_go_back: whether to believe that a job which ran is queued again.

        Raises:
            RequestNotSent, NoResponse, StatusError, InvalidResponse, NotOpen
        """

        def read(reply: Reply) -> StatusReply:
            if previous and previous.body == reply.body and reply.status_code == _OK:
                return previous
            job = self._read(reply, asked_for=job_id)
            if previous and not may_go_back and goes_back(previous.job, job):
                raise InvalidResponse(
                    method="GET",
                    path=reply.path,
                    fault=f"status went back from {previous.job.status!r} to {job.status!r}",
                    excerpt="",
                    inference_job_id=job_id,
                    went_back=True,
                )
            return StatusReply(job, reply.body)

        return await self._calls.get(f"{self._path}/{job_id}", read, kind="poll", job_id=job_id)

    async def wait(
        self,
        job: InferenceJob | int,
        *,
        timeout: float | None = 1800.0,
        schedule: PollSchedule | None = None,
    ) -> InferenceJob:
        """Wait until a job has ended, well or not. To wait for many, watch them together: :meth:`watch`.

        Args:
            job: the job, or its id.
            timeout: seconds after which to give up, None for never. The service's own sample gives it half an hour.
            schedule: when to ask.

        Returns:
            The ended job; look at its ``state``.

        Raises:
            WaitTimeout: it has not ended in time; carries its last state. It goes on at the server.
            JobLost: asking for it failed for too long, or the server does not know it.
            AuthenticationError, PermissionDenied: the key may not ask for it.
            NotOpen: the client is used outside its block.
        """
        if timeout is not None and not is_positive(timeout):
            raise ValueError(f"timeout is {timeout}, not a positive number of seconds")
        async with self.watch(
            [job], max_concurrent_polls=1, job_timeout=timeout, schedule=schedule
        ) as watcher:
            return await watcher.wait(job)

    def watch(
        self,
        jobs: InferenceJob | int | Iterable[InferenceJob | int] = (),
        **options: Unpack[WatchOptions],
    ) -> InferenceWatcher:
        """Return a watcher over jobs, to be used in an ``async with`` block.

        Args:
            jobs: jobs, or their ids, or a single one.
            options: those of :class:`InferenceWatcher`.
        """
        return InferenceWatcher(self, jobs, **options)

    def fan_out(self, plan: BatchPlan, **options: Unpack[FanOutOptions]) -> FanOut:
        """Return a run of a plan, to be used in an ``async with`` block: it submits all batches and watches their jobs.

        Args:
            plan: what to run over which sources.
            options: those of :class:`FanOut`.
        """
        return FanOut(self, plan, **options)

    def _tell_wait(self, kind: Kind, seconds: float, reason: Reason) -> None:
        if self.hooks.wait is not None:
            self.hooks.wait(TurnWaited(kind=kind, seconds=seconds, reason=reason))

    def _read(self, reply: Reply, *, asked_for: int | None = None) -> InferenceJob:
        job = read_job(reply, key=self._key, utc_now=_utc_now, asked_for=asked_for)
        words = self._unknown_words
        if job.state is JobState.UNKNOWN and len(words) < _WORDS_REMEMBERED:
            word = self._key.shown(job.status)  # not itself, which may be a MiB long
            if word not in words:
                words.add(word)
                _log.warning(
                    "Status %r is not known; it is not taken for an end.",
                    word,
                    extra={"inference_job_id": job.inference_job_id},
                )
        return job


def _utc_now() -> datetime:
    return datetime.now(UTC)
