"""Requests about exports: to make one, and to ask for one."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from annolab_async._export_records import (
    Created,
    ExportJob,
    Told,
    export_id_of,
    status_path_of,
)
from annolab_async._export_report import ExportReport
from annolab_async._http import path_within
from annolab_async._replies import read_as
from annolab_async._retry import worth_asking_again
from annolab_async.errors import InvalidResponse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    import httpx

    from annolab_async._calls import Calls
    from annolab_async._hooks import Hooks
    from annolab_async._http import HttpSession
    from annolab_async._limits import Turnstile
    from annolab_async._replies import Reply
    from annolab_async._retry import RetryBudget, RetryPolicy
    from annolab_async._secret import ApiKey

__all__ = ["ExportCalls"]


class ExportCalls:
    """Sends a client's requests about exports, with the same turns, rate and budget as all its others.

    Args:
        calls: what sends.
        session: what tells how far a request has come.
        key: what errors must not show.
        base_url: where all of them go.
        hooks: who wants to hear of exports.

    Attributes:
        retry, budget, turns: those of the client.
        plain_http_hosts: hosts from which files may come unencrypted.
        download_client: makes the client that files are downloaded with; None for one as the environment says.
    """

    def __init__(
        self,
        calls: Calls,
        session: HttpSession,
        *,
        key: ApiKey,
        base_url: str,
        hooks: Hooks,
        retry: RetryPolicy,
        budget: RetryBudget,
        turns: Turnstile,
        plain_http_hosts: Collection[str],
        download_client: Callable[[], httpx.AsyncClient] | None,
    ) -> None:
        self._calls = calls
        self._session = session
        self._key = key
        url = urlsplit(base_url)
        self._origin = f"{url.scheme}://{url.netloc}".lower()
        self._prefix = url.path
        self._report = ExportReport(hooks)
        self.retry = retry
        self.budget = budget
        self.turns = turns
        self.plain_http_hosts = plain_http_hosts
        self.download_client = download_client

    async def create(self, path: str, body: dict[str, Any]) -> ExportJob:
        """Have an export made. It costs nothing, so that it is asked for again where it may not have been.

        Raises:
            RequestNotSent, NoResponse, StatusError, InvalidResponse: it failed, as often as ``retry`` allows.
        """
        data = json.dumps(body).encode()

        def read(reply: Reply) -> ExportJob:
            created = read_as(Created, reply, key=self._key, utc_now=_utc_now, name="a new export")
            status_path = self._path_of(created.export_status_url)
            export_id = export_id_of(created, status_path)
            if export_id is None:
                raise InvalidResponse(
                    method=reply.method,
                    path=reply.path,
                    fault="neither exportJob.id nor exportStatusUrl tells its id",
                    excerpt="",
                    wanted="a new export",
                )
            job = created.export_job
            return ExportJob(
                export_id=export_id,
                status=self._key.shown((job and job.status) or "initialized"),
                status_path=status_path_of(export_id, status_path),
                project_id=job.project_id if job else None,
            )

        export = self._report.begin(None)

        async def send(resends: int) -> ExportJob:
            return await self._calls.post(
                path,
                data,
                self._session.progress(),
                read,
                kind="export",
                resends=resends,
                export=export,
            )

        with self._report.unless_made(export):
            job = await self._calls.repeat("submit", path, send, worth_asking_again, of="export")
        self._report.made(export, job)
        return job

    def follow(self, job: ExportJob) -> ExportJob:
        """Take note of an export that was made before; return it."""
        self._report.made(self._report.begin(job.export_id), job)
        return job

    def let_go(self) -> None:
        """Take note that nothing more will be asked."""
        self._report.let_go()

    async def told_of_download(self, job: ExportJob, downloading: Awaitable[int]) -> None:
        """Wait for the download of an export's file, and tell of it."""
        await self._report.download(job.export_id, downloading)

    async def ask(self, job: ExportJob) -> tuple[ExportJob, str | None]:
        """Return an export as it is now, and the signed link to its file if there is one.

        Raises:
            RequestNotSent, NoResponse, StatusError, InvalidResponse: it failed, as often as ``retry`` allows.
        """

        async def send(resends: int) -> tuple[ExportJob, str | None]:
            return await self.ask_once(job, resends=resends)

        return await self._calls.repeat(
            "read", job.status_path, send, worth_asking_again, of="export"
        )

    async def ask_once(self, job: ExportJob, *, resends: int = 0) -> tuple[ExportJob, str | None]:
        """Do the same without waiting for a turn or repeating what fails: for a watcher, who does."""

        def read(reply: Reply) -> tuple[ExportJob, str | None]:
            told = read_as(Told, reply, key=self._key, utc_now=_utc_now, name="an export")
            if told.id not in {None, job.export_id}:
                raise InvalidResponse(
                    method=reply.method,
                    path=reply.path,
                    fault=f"id is {told.id}, and {job.export_id} was asked for",
                    excerpt="",
                    wanted="the export",
                )
            said = told.error if isinstance(told.error, str) else json.dumps(told.error)
            error = self._key.shown(said) if told.error else None
            project_id = job.project_id if told.project_id is None else told.project_id
            status = self._key.shown(told.status)
            now = ExportJob(job.export_id, status, job.status_path, project_id, error)
            return now, told.download_url

        now, link = await self._calls.get(
            job.status_path,
            read,
            kind="export",
            resends=resends,
            export=self._report.begun(job.export_id),
        )
        self._report.seen(now)
        return now, link

    def _path_of(self, url: str | None) -> str | None:
        """Return where below the base URL a URL of the server's leads, None if that is elsewhere."""
        if not url:
            return None
        path = path_within(self._origin, "/", url)
        if path is None or not path.startswith(self._prefix):
            return None
        return path.removeprefix(self._prefix)


def _utc_now() -> datetime:
    return datetime.now(UTC)
