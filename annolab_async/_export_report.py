"""What hooks are told of exports and their downloads: each begins once, and ends once."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from anyio import current_time
from attrs import frozen

from annolab_async._hook_records import (
    DownloadBegan,
    DownloadEnded,
    ExportBegan,
    ExportEnded,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Generator

    from annolab_async._export_records import ExportJob, ExportState
    from annolab_async._hooks import Hooks

__all__ = ["ExportReport"]


@frozen
class _Open:
    export: ExportBegan
    began: float
    state: ExportState


class ExportReport:
    """Tells of one client's exports.

    Args:
        hooks: who wants to hear of them.
    """

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks
        self._is_heard = hooks.export is not None or hooks.export_end is not None
        self._began: dict[ExportBegan, float] = {}
        self._open: dict[int, _Open] = {}

    def begin(self, export_id: int | None) -> ExportBegan | None:
        """Tell of an export that begins, or of which is heard for the first time; None if nobody wants to know.

        Args:
            export_id: its id; None while it is about to be made.
        """
        if not self._is_heard:
            return None
        if export_id is not None and (open_ := self._open.get(export_id)):
            return open_.export
        export = ExportBegan(export_id=export_id)
        self._began[export] = current_time()
        if self._hooks.export is not None:
            self._hooks.export(export)
        return export

    @contextmanager
    def unless_made(self, export: ExportBegan | None) -> Generator[None]:
        """Tell of the end of an export that could not be made."""
        try:
            yield
        except BaseException as error:
            if export is not None:
                self._tell_end(export, self._began.pop(export), None, None, error)
            raise

    def made(self, export: ExportBegan | None, job: ExportJob) -> None:
        """Take note of an export that is there."""
        if export is not None and job.export_id not in self._open:
            self._open[job.export_id] = _Open(export, self._began.pop(export), job.state)

    def begun(self, export_id: int) -> ExportBegan | None:
        """Return what was told of the beginning of an export, None if nothing was or it has ended."""
        open_ = self._open.get(export_id)
        return open_.export if open_ else None

    def seen(self, job: ExportJob) -> None:
        """Take note of an export's state."""
        if open_ := self._open.get(job.export_id):
            if job.state.is_terminal:
                del self._open[job.export_id]
                self._tell_end(open_.export, open_.began, job.export_id, job.state)
            else:
                self._open[job.export_id] = _Open(open_.export, open_.began, job.state)

    def let_go(self) -> None:
        """Tell of the end of all that have not ended: nobody will ask for them any more."""
        while self._open:
            export_id, open_ = self._open.popitem()
            self._tell_end(open_.export, open_.began, export_id, open_.state)

    async def download(self, export_id: int, downloading: Awaitable[int]) -> None:
        """Tell of the beginning and the end of a download.

        Args:
            export_id: whose file it is.
            downloading: the download, which returns how many bytes the file has.
        """
        hooks, began = self._hooks, current_time()
        download = DownloadBegan(export_id=export_id)
        size: int | None = None
        fault: BaseException | None = None
        if hooks.download is not None:
            hooks.download(download)
        try:
            size = await downloading
        except BaseException as error:
            fault = error
            raise
        finally:
            if hooks.download_end is not None:
                hooks.download_end(
                    DownloadEnded(
                        download=download,
                        size=size,
                        duration=current_time() - began,
                        error=fault,
                    )
                )
            fault = None  # it holds this frame

    def _tell_end(
        self,
        export: ExportBegan,
        began: float,
        export_id: int | None,
        state: ExportState | None,
        error: BaseException | None = None,
    ) -> None:
        if self._hooks.export_end is not None:
            self._hooks.export_end(
                ExportEnded(
                    export=export,
                    export_id=export_id,
                    state=state,
                    duration=current_time() - began,
                    error=error,
                )
            )
