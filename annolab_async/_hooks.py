"""Hooks: objects with some of the methods of the Protocols below, each of which takes one record; and calling them."""

from __future__ import annotations

import inspect
import logging
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

from anyio import current_time
from attrs import define

from annolab_async._hook_records import SubmissionBegan, SubmissionEnded
from annolab_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Mapping

    from annolab_async._hook_records import (
        BatchChanged,
        DownloadBegan,
        DownloadEnded,
        ExportBegan,
        ExportEnded,
        RequestBegan,
        RequestEnded,
        RetryPlanned,
        TurnWaited,
        WatchBegan,
        WatchEnded,
    )
    from annolab_async._records import InferenceJob, InferenceRequest, Transition

__all__ = ["NO_HOOKS", "Hook", "Hooks", "told_of_submission"]

_log: Final = logging.getLogger(__name__)

_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# What the library says itself, or what says where a request ends.
_OWN_HEADERS: Final = frozenset({
    "accept-encoding",
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
})


class RequestHook(Protocol):
    """Hears of each request. Headers that it returns are sent with it, to the base URL's origin and nowhere else."""

    def on_request(self, request: RequestBegan, /) -> Mapping[str, str] | None: ...


class RequestEndHook(Protocol):
    """Hears of the end of each request."""

    def on_request_end(self, ended: RequestEnded, /) -> object: ...


class SubmissionHook(Protocol):
    """Hears of each submission."""

    def on_submission(self, submission: SubmissionBegan, /) -> object: ...


class SubmissionEndHook(Protocol):
    """Hears of the end of each submission, in the task in which it began."""

    def on_submission_end(self, ended: SubmissionEnded, /) -> object: ...


class WatchHook(Protocol):
    """Hears of each job that is taken up."""

    def on_watch(self, watch: WatchBegan, /) -> object: ...


class WatchEndHook(Protocol):
    """Hears of each job that is watched no more."""

    def on_watch_end(self, ended: WatchEnded, /) -> object: ...


class TransitionHook(Protocol):
    """Hears of each transition, also of those that are merged for a slow consumer."""

    def on_transition(self, transition: Transition, /) -> object: ...


class RetryHook(Protocol):
    """Hears of each request that is going to be sent again."""

    def on_retry(self, retry: RetryPlanned, /) -> object: ...


class WaitHook(Protocol):
    """Hears of each request that has had to wait for its turn."""

    def on_wait(self, waited: TurnWaited, /) -> object: ...


class ExportHook(Protocol):
    """Hears of each export."""

    def on_export(self, export: ExportBegan, /) -> object: ...


class ExportEndHook(Protocol):
    """Hears of the end of each export."""

    def on_export_end(self, ended: ExportEnded, /) -> object: ...


class DownloadHook(Protocol):
    """Hears of each download of an export's file."""

    def on_download(self, download: DownloadBegan, /) -> object: ...


class DownloadEndHook(Protocol):
    """Hears of the end of each download."""

    def on_download_end(self, ended: DownloadEnded, /) -> object: ...


class BatchHook(Protocol):
    """Hears of each change of a fan-out's batches."""

    def on_batch(self, change: BatchChanged, /) -> object: ...


Hook = (
    RequestHook
    | RequestEndHook
    | SubmissionHook
    | SubmissionEndHook
    | WatchHook
    | WatchEndHook
    | TransitionHook
    | RetryHook
    | WaitHook
    | ExportHook
    | ExportEndHook
    | DownloadHook
    | DownloadEndHook
    | BatchHook
)
"""An object with at least one of the methods above."""

_METHODS: Final = (
    "on_request",
    "on_request_end",
    "on_submission",
    "on_submission_end",
    "on_watch",
    "on_watch_end",
    "on_transition",
    "on_retry",
    "on_wait",
    "on_export",
    "on_export_end",
    "on_download",
    "on_download_end",
    "on_batch",
)


class Hooks:
    """Who wants to hear of what: for each event a function that tells all of them, None if there is nobody.

    What a hook raises is logged, the first time, and stops nothing.

    Args:
        hooks: the hooks, in the order in which they are called.

    Raises:
        ConfigurationError: one of them is none.
    """

    def __init__(self, hooks: Collection[Hook] = ()) -> None:
        try:
            self._hooks = tuple(hooks)
        except TypeError:
            raise ConfigurationError(f"hooks is {hooks!r}, not a list of them") from None
        for hook in self._hooks:
            _check(hook)
        self._is_told: set[Callable[..., Any]] = set()
        self.request: Callable[[RequestBegan], dict[str, str] | None] | None = self._asks()
        self.request_end: Callable[[RequestEnded], None] | None = self._tells("on_request_end")
        self.submission: Callable[[SubmissionBegan], None] | None = self._tells("on_submission")
        self.submission_end: Callable[[SubmissionEnded], None] | None = self._tells(
            "on_submission_end"
        )
        self.watch: Callable[[WatchBegan], None] | None = self._tells("on_watch")
        self.watch_end: Callable[[WatchEnded], None] | None = self._tells("on_watch_end")
        self.transition: Callable[[Transition], None] | None = self._tells("on_transition")
        self.retry: Callable[[RetryPlanned], None] | None = self._tells("on_retry")
        self.wait: Callable[[TurnWaited], None] | None = self._tells("on_wait")
        self.export: Callable[[ExportBegan], None] | None = self._tells("on_export")
        self.export_end: Callable[[ExportEnded], None] | None = self._tells("on_export_end")
        self.download: Callable[[DownloadBegan], None] | None = self._tells("on_download")
        self.download_end: Callable[[DownloadEnded], None] | None = self._tells("on_download_end")
        self.batch: Callable[[BatchChanged], None] | None = self._tells("on_batch")

    def _listeners(self, name: str) -> list[Callable[..., Any]]:
        found = (getattr(hook, name, None) for hook in self._hooks)
        return [listener for listener in found if listener is not None]

    def _tells(self, name: str) -> Callable[[Any], None] | None:
        listeners = self._listeners(name)

        def tell(record: object) -> None:
            for listener in listeners:
                try:
                    listener(record)
                except Exception:  # noqa: BLE001  # whoever looks on is not to break what is looked at
                    self._note_fault(listener)

        return tell if listeners else None

    def _asks(self) -> Callable[[RequestBegan], dict[str, str] | None] | None:
        listeners = self._listeners("on_request")

        def ask(request: RequestBegan) -> dict[str, str] | None:
            headers: dict[str, str] | None = None
            for listener in listeners:
                try:
                    if given := listener(request):
                        _check_headers(given)
                        headers = (headers or {}) | dict(given)
                except Exception:  # noqa: BLE001  # likewise
                    self._note_fault(listener)
            return headers

        return ask if listeners else None

    def _note_fault(self, listener: Callable[..., Any]) -> None:
        if listener not in self._is_told:
            self._is_told.add(listener)
            name = getattr(listener, "__qualname__", repr(listener))
            _log.exception(
                "The hook %s has raised: it is called again, but this is logged only once.",
                name,
                extra={"hook": name},
            )


def _check(hook: object) -> None:
    methods = [method for name in _METHODS if (method := getattr(hook, name, None)) is not None]
    if isinstance(hook, type) or not methods or not all(map(callable, methods)):
        raise ConfigurationError(
            f"{hook!r} is no hook: it is to be an object with some of the methods {', '.join(_METHODS)}"
        )
    for method in methods:
        if inspect.iscoroutinefunction(method):
            raise ConfigurationError(
                f"{method.__qualname__} is asynchronous: hooks are called, not awaited"
            )


def _check_headers(headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or name.lower() in _OWN_HEADERS:
            raise ValueError(f"a hook may not send a header {name!r}")
        if not (value.isascii() and value.isprintable()):
            raise ValueError(f"the value of {name!r} does not fit into a header")


NO_HOOKS: Final = Hooks()


@define(eq=False)
class Submitted:
    """What came of a submission: to be filled in by who submits."""

    job: InferenceJob | None = None


@contextmanager
def told_of_submission(
    hooks: Hooks,
    request: InferenceRequest,
    *,
    run: str | None = None,
    batch: int | None = None,
    attempt: int = 1,
) -> Generator[Submitted]:
    """Tell of the beginning and the end of a submission that is made meanwhile.

    Args:
        hooks: who wants to hear of it.
        request: the batch.
        run: the fan-out's name, None outside of one.
        batch: the batch's number in it, None outside of one.
        attempt: how often the fan-out has claimed the batch.
    """
    submitted = Submitted()
    if hooks.submission is None and hooks.submission_end is None:
        yield submitted
        return
    began = current_time()
    submission = SubmissionBegan(request=request, run=run, batch=batch, attempt=attempt)
    if hooks.submission is not None:
        hooks.submission(submission)
    fault: BaseException | None = None
    try:
        yield submitted
    except BaseException as error:
        fault = error
        raise
    finally:
        if hooks.submission_end is not None:
            job = submitted.job
            hooks.submission_end(
                SubmissionEnded(
                    submission=submission,
                    # The id of a job whose answer is damaged may have been salvaged.
                    inference_job_id=getattr(job or fault, "inference_job_id", None),
                    job=job,
                    duration=current_time() - began,
                    error=fault,
                )
            )
        fault = None  # it holds this frame
