"""Hooks that keep what they are told, and a service that keeps what it is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from starlette.responses import JSONResponse

from tests.service import an_emulator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Receive, Scope, Send

    from annolab_async import (
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
        Transition,
        TurnWaited,
        WatchBegan,
        WatchEnded,
    )

T = TypeVar("T")


class Recorder:
    """A hook with every method there is."""

    def __init__(self) -> None:
        self.records: list[Any] = []
        self.headers: dict[str, str] | None = None

    def of(self, kind: type[T]) -> list[T]:
        return [record for record in self.records if isinstance(record, kind)]

    def on_request(self, request: RequestBegan, /) -> Mapping[str, str] | None:
        self.records.append(request)
        return self.headers

    def on_request_end(self, ended: RequestEnded, /) -> None:
        self.records.append(ended)

    def on_submission(self, submission: SubmissionBegan, /) -> None:
        self.records.append(submission)

    def on_submission_end(self, ended: SubmissionEnded, /) -> None:
        self.records.append(ended)

    def on_watch(self, watch: WatchBegan, /) -> None:
        self.records.append(watch)

    def on_watch_end(self, ended: WatchEnded, /) -> None:
        self.records.append(ended)

    def on_transition(self, transition: Transition, /) -> None:
        self.records.append(transition)

    def on_retry(self, retry: RetryPlanned, /) -> None:
        self.records.append(retry)

    def on_wait(self, waited: TurnWaited, /) -> None:
        self.records.append(waited)

    def on_export(self, export: ExportBegan, /) -> None:
        self.records.append(export)

    def on_export_end(self, ended: ExportEnded, /) -> None:
        self.records.append(ended)

    def on_download(self, download: DownloadBegan, /) -> None:
        self.records.append(download)

    def on_download_end(self, ended: DownloadEnded, /) -> None:
        self.records.append(ended)

    def on_batch(self, change: BatchChanged, /) -> None:
        self.records.append(change)


class Front:
    """An emulator that keeps the headers of each request, and answers as told first.

    Attributes:
        asked: method, path and headers of each request.
        answers: what to answer next to requests of a method, instead of what the emulator would.
    """

    def __init__(self, **settings: Any) -> None:
        self.emulator = an_emulator(**settings)
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.answers: dict[str, list[tuple[int, dict[str, str]]]] = {"GET": [], "POST": []}

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.asked.append((scope["method"], scope["path"], headers))
        if answers := self.answers[scope["method"]]:
            status_code, extra = answers.pop(0)
            answer = JSONResponse({"message": "no"}, status_code, extra)
            await answer(scope, receive, send)
        else:
            await self.emulator.app(scope, receive, send)

    def headers(self, method: str, name: str) -> list[str | None]:
        """Return a header of all requests of a method, None where it was not sent."""
        return [headers.get(name) for made, _, headers in self.asked if made == method]
