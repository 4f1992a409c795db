"""An export from its making to the files, and what is in them."""

from __future__ import annotations

from collections import Counter
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from anyio import create_task_group, to_thread
from attrs import Factory, define

from annolab_async.cli._display import Traffic
from annolab_async.cli._export_display import ExportDisplay, size
from annolab_async.cli._export_files import FileFormat, write_annotations
from annolab_async.cli._terminal import is_live, print_json, print_line, print_table, tell
from annolab_async.cli._words import plural

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from annolab_async import Annotation, AsyncInferenceClient, Export

    # Makes exports, or asks for those that are there, one after the other.
    Begin = Callable[[AsyncInferenceClient], AsyncGenerator[Export]]

__all__ = ["Exported", "bring"]

_TOLD_EVERY: Final = 500


@define
class Exported:
    """What is to be brought, and how far that has come.

    Args:
        output: the file to write.
        form: what it is to be.
        timeout: seconds that each export has to be made, None for no bound.
        is_json: whether what happens is written for machines.

    Attributes:
        traffic: what has been sent.
        exports: the exports.
        files: the files that are there.
        counts: how many annotations there are, by layer and type.
        skipped: how many lines of the files are bad.
    """

    output: Path
    form: FileFormat
    timeout: float | None
    is_json: bool
    traffic: Traffic = Factory(Traffic)
    exports: list[Export] = Factory(list["Export"])
    files: list[Path] = Factory(list[Path])
    counts: Counter[tuple[str, str]] = Factory(Counter[tuple[str, str]])
    skipped: int = 0

    def archive_of(self, export: Export) -> Path:
        """Return where the archive of an export is to be, for as long as it is needed."""
        if self.form is FileFormat.ZIP and len(self.exports) == 1:
            return self.output
        if self.form is FileFormat.ZIP:
            return self.output.with_stem(f"{self.output.stem}-{export.export_id}")
        # Beside what is written from it, so that a download that is cut short can go on.
        return self.output.with_name(f"{self.output.name}.{export.export_id}.zip")

    def print_end(self, *, status: int) -> None:
        """Print what is there now."""
        counts = sorted(self.counts.items())
        if self.is_json:
            print_json({
                "event": "summary",
                "export_ids": [export.export_id for export in self.exports],
                "files": [str(file) for file in self.files],
                "annotations": self.counts.total(),
                "counts": [
                    {"layer": layer, "type": kind, "annotations": count}
                    for (layer, kind), count in counts
                ],
                "skipped_lines": self.skipped,
                "exit_status": status,
            })
            return
        print_table(
            ("annotations", "layer", "type"),
            [(f"{count:,}", layer, kind) for (layer, kind), count in counts],
            right=("annotations",),
        )
        total = plural(self.counts.total(), "annotation")
        for file in self.files:
            print_line(f"{total} in {file}, {size(file.stat().st_size)}")
            total = "Further ones"
        if self.skipped:
            tell(f"Left out, as it cannot be read: {plural(self.skipped, 'line')}.")


async def bring(client: AsyncInferenceClient, begin: Begin, exported: Exported) -> None:
    """Have exports made, wait for them, download them, and read them.

    Args:
        client: what to ask with, which is open.
        begin: makes them.
        exported: what is to be brought.

    Raises:
        AnnoLabError: they cannot be had.
        OSError: a file cannot be written.
        ImportError: what writes Parquet is not installed.
    """
    failure: Exception | None = None
    with ExportDisplay(exported.traffic, is_live=is_live()) as display:
        async with create_task_group() as tasks:
            tasks.start_soon(display.keep)
            try:
                await _bring(client, begin, exported, display)
            except Exception as error:  # noqa: BLE001  # raised below: the group would wrap it in another
                failure = error
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _bring(
    client: AsyncInferenceClient, begin: Begin, exported: Exported, display: ExportDisplay
) -> None:
    display.begin("Asking for an export")
    async for export in begin(client):
        exported.exports.append(export)
        tell(f"Export {export.export_id} is {export.state}.")
        if exported.is_json:
            print_json({"event": "export", "export_id": export.export_id, "state": export.state})
    archives: list[Path] = []
    for export in exported.exports:
        display.begin(f"Waiting for export {export.export_id}")
        await export.wait(exported.timeout)
        display.begin(f"Downloading export {export.export_id}")
        archives.append(
            await export.download(exported.archive_of(export), progress=display.downloaded)
        )
    display.begin("Reading", reads=True)
    async with aclosing(_read(exported, display)) as annotations:
        if exported.form is FileFormat.ZIP:
            exported.files += archives
            async for _ in annotations:
                pass
            return
        await write_annotations(annotations, exported.output, exported.form)
    exported.files.append(exported.output)
    for archive in archives:
        await to_thread.run_sync(archive.unlink)


async def _read(exported: Exported, display: ExportDisplay) -> AsyncGenerator[Annotation]:
    number = 0
    for export in exported.exports:
        async with export.annotations(on_bad_line="skip") as records:
            async for annotation in records:
                number += 1
                if number % _TOLD_EVERY == 0:
                    display.read(number)
                layer = annotation.layer_name or _numbered(annotation.layer_id)
                kind = annotation.type_name or _numbered(annotation.type_id)
                exported.counts[layer, kind] += 1
                yield annotation
        exported.skipped += records.skipped


def _numbered(number: int | None) -> str:
    return "" if number is None else str(number)
