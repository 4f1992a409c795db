"""An export from its making to the records in its file."""

from __future__ import annotations

import tempfile
import weakref
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Final, TypeVar

from anyio import Lock, from_thread, to_thread

from annolab_async._annotations import (
    Annotation,
    AnnotationLayer,
    AnnotationRelation,
    AnnotationType,
    ExportedSource,
    TextBounds,
)
from annolab_async._archive import Archive, ArchiveLimits, check_archive
from annolab_async._download import download
from annolab_async._export_records import ExportJob, ExportState
from annolab_async._export_watch import SCHEDULE, AsJob
from annolab_async._json_lines import RecordReader
from annolab_async._reading import Records
from annolab_async._records import is_positive
from annolab_async._tables import to_arrow, to_pandas, write_parquet
from annolab_async._watcher import InferenceWatcher
from annolab_async.errors import ExportError, ExportTimeout, JobLost, WaitTimeout

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from typing import Unpack

    import pandas as pd
    import pyarrow as pa

    from annolab_async._download import DownloadProgress
    from annolab_async._export_calls import ExportCalls
    from annolab_async._reading import OnBadLine, ReadingOptions
    from annolab_async._schedule import PollSchedule

__all__ = ["Export"]

T = TypeVar("T")

# 1 TiB: larger than any export, smaller than what a broken server can send.
_MOST_BYTES: Final = 2**40


class Export:
    """An export: wait for it, download its file, read what is in it. Made by ``client.export(...)``.

    ```python
    export = await client.export(group_name="Company Name", project="My Project", layers=["Gold Set"])
    await export.download("predictions.zip")
    async for annotation in export.annotations():
        print(annotation.source_id, annotation.type_name, annotation.value)
    ```

    Each step waits for those before it. What is read without having been downloaded goes to a temporary file, which is
    removed with this object.

    Args:
        calls: what to ask with.
        job: the export as it was last seen.

    Attributes:
        job: the export as it was last seen.
        archive_limits: what its file may hold at most, since a small one may unfold into a huge one. Set others before
            it is downloaded or read.
    """

    def __init__(self, calls: ExportCalls, job: ExportJob) -> None:
        self.job: ExportJob = job
        self.archive_limits: ArchiveLimits = ArchiveLimits()
        self._calls = calls
        self._link: str | None = None
        self._file: Path | None = None
        self._folder: Path | None = None
        self._fetching = Lock()

    def __repr__(self) -> str:
        return f"<Export {self.export_id}: {self.job.status}>"

    @property
    def export_id(self) -> int:
        """The server's id of the export."""
        return self.job.export_id

    @property
    def state(self) -> ExportState:
        """What its last status means."""
        return self.job.state

    def to_json(self) -> str:
        """Return it as a line of JSON; ``client.get_export(ExportJob.from_json(line))`` goes on with it elsewhere."""
        return self.job.to_json()

    async def refresh(self) -> ExportJob:
        """Ask for it once, and return it as it is now.

        Raises:
            RequestNotSent, NoResponse, StatusError, InvalidResponse: it failed, as often as the client's ``retry``
                allows.
            NotOpen: the client is closed.
        """
        return self._note(*await self._calls.ask(self.job))

    async def wait(
        self, timeout: float | None = 3600.0, *, schedule: PollSchedule | None = None
    ) -> ExportJob:
        """Wait until it has finished.

        Args:
            timeout: seconds after which to give up, None for never. The vendor's SDK gives it an hour.
            schedule: when to ask; None asks after 1 s, and then less and less often, down to every 15 s.

        Raises:
            ExportError: it failed at the server, or asking for it failed for too long.
            ExportTimeout: it has not ended in time; it goes on at the server.
            AuthenticationError, PermissionDenied: the key may not ask for it.
            NotOpen: the client is closed.
        """
        if timeout is not None and not is_positive(timeout):
            raise ValueError(f"timeout is {timeout}, not a positive number of seconds")
        if not (self.state is ExportState.FINISHED and self._link):
            watcher = InferenceWatcher(
                AsJob(self._calls, lambda: self.job, self._note),
                [self.export_id],
                max_concurrent_polls=1,
                schedule=schedule or SCHEDULE,
                job_timeout=timeout,
            )
            watcher.report.noun = "export"  # a job may have the same id
            async with watcher:
                await self._wait_with(watcher, timeout)
        if self.state is ExportState.ERRORED:
            raise ExportError(
                what=f"it failed at the server: {self.job.error or 'it does not say why'}",
                hint="Mend what it names, then make a new export.",
                export_id=self.export_id,
            )
        return self.job

    async def _wait_with(self, watcher: InferenceWatcher, timeout: float | None) -> None:
        try:
            await watcher.wait(self.export_id)
        except WaitTimeout:
            raise ExportTimeout.of(
                export_id=self.export_id, status=self.job.status, timeout=timeout or 0.0
            ) from None
        except JobLost as lost:
            raise ExportError(
                what=f"it can no longer be asked for: {lost.cause}",
                hint="Ask again later, or make a new export.",
                export_id=self.export_id,
            ) from lost.cause

    async def download(
        self,
        path: str | os.PathLike[str],
        *,
        progress: Callable[[DownloadProgress], None] | None = None,
        timeout: float = 60.0,
        max_bytes: int = _MOST_BYTES,
    ) -> Path:
        """Download its file: whole, checked, and put in place at once, or not at all.

        What has come lies in ``path.part``; downloading to the same path again goes on from there, also in another
        process. The key is not sent to where the file lies, and a link that has expired is asked for anew.

        Args:
            path: where the file is to be.
            progress: is told how far it has come, at most ten times a second and at the end.
            timeout: seconds without a byte after which a connection is given up.
            max_bytes: how long the file may be.

        Returns:
            The path of the file.

        Raises:
            ExportError: the export failed, or its file could not be had, checked or written.
            ExportTimeout: it has not ended within an hour; to wait longer, :meth:`wait` for it before.
        """
        await self.wait()
        file = Path(path)
        downloading = download(
            self._next_link,
            file,
            check=self._check,
            max_bytes=max_bytes,
            progress=progress,
            timeout=timeout,
            retry=self._calls.retry,
            plain_http_hosts=self._calls.plain_http_hosts,
            export_id=self.export_id,
            http_client_factory=self._calls.download_client,
        )
        await self._calls.told_of_download(self.job, downloading)
        self._file = file
        return file

    async def archive(self) -> Archive:
        """Return its file, looked through: the names of the files in it, and which of them hold no records."""
        return await to_thread.run_sync(self._opened, await self._fetched())

    def annotations(self, **options: Unpack[ReadingOptions]) -> Records[Annotation]:
        """Iterate over its annotations, in a few MB of memory however many there are.

        Args:
            options: ``on_bad_line`` is what to do about a line that is none: ``"raise"`` an ExportError with its file
                and number (the default), or ``"skip"`` it; the first one that is skipped is logged. ``on_skipped`` is
                called with the ExportError of each line that is skipped.

        Raises:
            ExportError: while iterating: see :meth:`download`; or a line is bad.
        """
        return self._read(Annotation, **options)

    def sources(self, **options: Unpack[ReadingOptions]) -> Records[ExportedSource]:
        """Iterate over its sources, if it was made with ``include_sources``; see :meth:`annotations`."""
        return self._read(ExportedSource, **options)

    def text_bounds(self, **options: Unpack[ReadingOptions]) -> Records[TextBounds]:
        """Iterate over the text bounds, if it was made with ``include_text_bounds``; see :meth:`annotations`."""
        return self._read(TextBounds, **options)

    def layers(self, **options: Unpack[ReadingOptions]) -> Records[AnnotationLayer]:
        """Iterate over its layers; see :meth:`annotations`."""
        return self._read(AnnotationLayer, **options)

    def relations(self, **options: Unpack[ReadingOptions]) -> Records[AnnotationRelation]:
        """Iterate over its relations; see :meth:`annotations`."""
        return self._read(AnnotationRelation, **options)

    def annotation_types(self, **options: Unpack[ReadingOptions]) -> Records[AnnotationType]:
        """Iterate over its types, if it was made with ``include_annotation_types``; see :meth:`annotations`."""
        return self._read(AnnotationType, **options)

    async def to_arrow(self, kind: type = Annotation) -> pa.Table:
        """Return its records of one kind as an Arrow table, all of it in memory; it needs the extra ``arrow``.

        Args:
            kind: the class of the records.

        Raises:
            ImportError: pyarrow is not installed; the text says what to install.
            ExportError: see :meth:`annotations`.
        """
        return await to_arrow(await self._fetched(), kind, limits=self.archive_limits)

    async def to_pandas(self, kind: type = Annotation) -> pd.DataFrame:
        """Return its records of one kind as a pandas frame; it needs the extra ``pandas``.

        Args:
            kind: the class of the records.

        Raises:
            ImportError: pandas or pyarrow is not installed; the text says what to install.
            ExportError: see :meth:`annotations`.
        """
        return await to_pandas(await self._fetched(), kind, limits=self.archive_limits)

    async def write_parquet(self, path: str | os.PathLike[str], kind: type = Annotation) -> int:
        """Write its records of one kind into a Parquet file, in little memory; it needs the extra ``arrow``.

        Args:
            path: the file to write. It appears when it is complete; one of that name is replaced.
            kind: the class of the records.

        Returns:
            How many records it holds.

        Raises:
            ImportError: pyarrow is not installed; the text says what to install.
            ExportError: see :meth:`annotations`.
            OSError: the file cannot be written.
        """
        return await write_parquet(await self._fetched(), kind, path, limits=self.archive_limits)

    def _read(
        self,
        kind: type[T],
        *,
        on_bad_line: OnBadLine = "raise",
        on_skipped: Callable[[ExportError], None] | None = None,
    ) -> Records[T]:
        if on_bad_line not in {"raise", "skip"}:
            raise ValueError(f"on_bad_line is {on_bad_line!r}, neither 'raise' nor 'skip'")
        is_strict = on_bad_line == "raise"

        async def begin() -> RecordReader[T]:
            return RecordReader(await self._fetched(), kind, limits=self.archive_limits)

        return Records([begin], on_skipped=on_skipped, is_strict=is_strict)

    async def _fetched(self) -> Path:
        async with self._fetching:
            if self._file is None or not await to_thread.run_sync(self._file.exists):
                # The same as before, so that a download that broke off is gone on with.
                folder = await to_thread.run_sync(self._temporary_folder)
                await self.download(folder / f"{self.export_id}.zip")
            assert self._file is not None  # noqa: S101  # it was just downloaded
            return self._file

    def _temporary_folder(self) -> Path:
        if self._folder is None or not self._folder.exists():
            folder = tempfile.mkdtemp(prefix="annolab-export-")
            weakref.finalize(self, _remove, folder)
            self._folder = Path(folder)
        return self._folder

    def _opened(self, path: Path) -> Archive:
        return Archive.open(path, limits=self.archive_limits)

    def _check(self, path: Path) -> None:
        check_archive(path, limits=self.archive_limits, on_chunk=from_thread.check_cancelled)

    def _note(self, job: ExportJob, link: str | None) -> ExportJob:
        self.job, self._link = job, link
        return job

    async def _next_link(self, *, is_refused: bool) -> str:
        if is_refused or self._link is None:
            await self.refresh()
        link, self._link = self._link, None
        if link is None:
            raise ExportError(
                what="the server says that it has finished, but not where its file is",
                hint="Make a new export.",
                export_id=self.export_id,
            )
        return link


def _remove(folder: str) -> None:
    def remove() -> None:
        with suppress(OSError):
            for file in Path(folder).iterdir():
                file.unlink()
            Path(folder).rmdir()

    # Whoever happens to collect the garbage, often an event loop, is not to wait for a disk.
    try:
        Thread(target=remove, name="annolab-export-removal").start()
    except RuntimeError:  # the interpreter ends
        remove()
