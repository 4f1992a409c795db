"""The client: submits batches and asks for their jobs."""

from __future__ import annotations

import logging
import os
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING, Final, Self, Unpack

from anyio import AsyncContextManagerMixin, sleep

from annolab_async._http import HttpSession, check_base_url, check_path
from annolab_async._records import InferenceJob, JobState, StatusReply, is_seconds, job_id_of
from annolab_async._replies import Redactor, read_job
from annolab_async._retry import RetryPolicy, may_exist, worth_asking_again
from annolab_async._watcher import InferenceWatcher
from annolab_async.errors import AnnoLabError, ConfigurationError, SubmissionUnknown

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from annolab_async._http import HttpClient, TransportName
    from annolab_async._records import InferenceRequest
    from annolab_async._replies import Reply
    from annolab_async._schedule import PollSchedule
    from annolab_async._watcher import WatchOptions

__all__ = ["AsyncInferenceClient"]

_log: Final = logging.getLogger(__name__)
_DEFAULT_BASE_URL: Final = "https://api.annolab.ai"
_WORDS_REMEMBERED: Final = 100
_OK: Final = 200


class AsyncInferenceClient(AsyncContextManagerMixin):
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
            only, a fraction of the cost) or ``"auto"``, aiohttp where it can be. Submissions always go over httpx.
        timeout: seconds that one request may take in all.
        retry: how a status request that failed is repeated. A submission is never repeated.
        max_connections: requests under way at once; further ones wait for their turn.

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
        max_connections: int = 100,
    ) -> None:
        # First of all, since repr() shows it.
        self._base_url = check_base_url(
            base_url or os.environ.get("ANNOLAB_BASE_URL") or _DEFAULT_BASE_URL
        )
        api_key = _checked_key(
            os.environ.get("ANNOLAB_API_KEY", "") if api_key is None else api_key
        )
        if not is_seconds(timeout):
            raise ConfigurationError(f"timeout is {timeout}, not a positive number of seconds")
        if type(max_connections) is not int or max_connections < 1:
            raise ConfigurationError(
                f"max_connections is {max_connections}, not an integer from 1 up"
            )
        self._redactor = Redactor(api_key)
        self._path = check_path(inference_path)
        self.retry = RetryPolicy() if retry is None else retry
        self._session = HttpSession(
            base_url=self._base_url,
            api_key=api_key,
            http_client=http_client,
            transport=transport,
            timeout=timeout,
            max_connections=max_connections,
        )
        self._random = Random()
        self._unknown_words: set[str] = set()

    def __repr__(self) -> str:
        return f"AsyncInferenceClient(base_url={self._base_url!r})"

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        async with self._session:
            yield self

    async def submit(self, request: InferenceRequest) -> InferenceJob:
        """Start a job. The batch is sent once and never again: a job costs money, and a lost answer is no refusal.

        A call that is cancelled may have sent it, too.

        Args:
            request: what to run over which sources.

        Returns:
            The job as the server made it, usually queued.

        Raises:
            RequestNotSent: it provably never reached the server; submit it again when you like.
            SubmissionUnknown: it was sent and its answer lost; the job may exist.
            StatusError: the server refused it; see its subclasses. No job was made.
            InvalidResponse: the server reported success with a body that is no job; it carries the job's id if
                that could be told.
            NotOpen: the client is used outside its block.
        """
        try:
            reply = await self._session.post(self._path, request.to_wire())
            return self._read(reply)
        except AnnoLabError as error:
            if may_exist(error):
                raise SubmissionUnknown(request=request, cause=error) from error
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
        failures = 0
        while True:
            try:
                return (await self.poll_status(job_id)).job
            except AnnoLabError as error:
                failures += 1
                if failures >= self.retry.attempts or not worth_asking_again(error):
                    raise
                await sleep(self.retry.delay(failures, self._random, error))

    async def poll_status(self, job_id: int, previous: StatusReply | None = None) -> StatusReply:
        """Ask for a job's state once, without repeating what fails: what a watcher is made of.

        Args:
            job_id: the job's id.
            previous: the last answer about this job. It is returned itself when the new one is the same.

        Raises:
            RequestNotSent, NoResponse, StatusError, InvalidResponse, NotOpen
        """
        reply = await self._session.get(f"{self._path}/{job_id}")
        if previous and previous.body == reply.body and reply.status_code == _OK:
            return previous
        return StatusReply(self._read(reply, asked_for=job_id), reply.body)

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
        if timeout is not None and not is_seconds(timeout):
            raise ValueError(f"timeout is {timeout}, not a positive number of seconds")
        async with self.watch(
            [job], max_concurrent_polls=1, job_timeout=timeout, schedule=schedule
        ) as watcher:
            return await watcher.wait(job)

    def watch(
        self, jobs: Iterable[InferenceJob | int] = (), **options: Unpack[WatchOptions]
    ) -> InferenceWatcher:
        """Return a watcher over jobs, to be used in an ``async with`` block.

        Args:
            jobs: jobs, or their ids.
            options: those of :class:`InferenceWatcher`.
        """
        return InferenceWatcher(self, jobs, **options)

    def _read(self, reply: Reply, *, asked_for: int | None = None) -> InferenceJob:
        job = read_job(reply, redactor=self._redactor, asked_for=asked_for)
        words = self._unknown_words
        if (
            job.state is JobState.UNKNOWN
            and job.status not in words
            and len(words) < _WORDS_REMEMBERED
        ):
            words.add(job.status)
            _log.warning("Status %.40r is not known; it is not taken for an end.", job.status)
        return job


def _checked_key(key: str) -> str:
    """Return an API key that can be sent as a header.

    Raises:
        ConfigurationError: it cannot; the key is not shown.
    """
    if not isinstance(key, str):
        raise ConfigurationError(f"api_key is a {type(key).__name__}, not a string")
    if not key:
        raise ConfigurationError("There is no API key: pass api_key=... or set ANNOLAB_API_KEY.")
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigurationError(
            "The API key holds a space, a line break or another character that no key has. Was it read from a "
            "file with its line end? Then strip() it."
        )
    return key
