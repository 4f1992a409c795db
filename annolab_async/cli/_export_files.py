"""Annotations written into files: as Parquet, CSV or JSON lines. A file appears when it is complete."""

from __future__ import annotations

import csv
import json
import os
from enum import StrEnum, auto
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import attrs
from anyio import CancelScope, to_thread

from annolab_async import Annotation
from annolab_async._converter import unstructure
from annolab_async._tables import write_parquet

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Iterable

__all__ = ["FileFormat", "write_annotations"]

_AT_ONCE: Final = 500


class FileFormat(StrEnum):
    """What an export is to be: its file as the service made it, or the annotations in it."""

    ZIP = auto()
    PARQUET = auto()
    CSV = auto()
    JSONL = auto()


async def write_annotations(
    annotations: AsyncIterable[Annotation], path: Path, form: FileFormat
) -> None:
    """Write annotations into a file, in little memory; one of that name is replaced.

    Args:
        annotations: what is to be written.
        path: the file.
        form: anything but ZIP.

    Raises:
        ImportError: what writes Parquet is not installed; the text says what to install.
        OSError: the file cannot be written.
        ExportError: the annotations cannot be read.
    """
    if form is FileFormat.PARQUET:
        await write_parquet(annotations, Annotation, path)
        return
    part = Path(f"{os.fspath(path)}.part")
    file: IO[str] | None = None
    is_whole = False
    try:
        file = await to_thread.run_sync(_begun, part)
        is_csv = form is FileFormat.CSV
        writes = await to_thread.run_sync(_csv if is_csv else _json_lines, file)
        waiting: list[Annotation] = []
        async for annotation in annotations:
            waiting.append(annotation)
            if len(waiting) == _AT_ONCE:
                await to_thread.run_sync(writes, waiting)
                waiting = []
        await to_thread.run_sync(writes, waiting)
        is_whole = True
    finally:
        with CancelScope(shield=True):
            await to_thread.run_sync(_finish, file, part, path if is_whole else None)


def _begun(part: Path) -> IO[str]:
    # Half a character (a lone surrogate), as JSON can say it, is no UTF-8.
    return part.open("w", encoding="utf-8", errors="replace", newline="")


def _finish(file: IO[str] | None, part: Path, path: Path | None) -> None:
    """Close a file that was written, and give it its name, or remove it if it is to have none."""
    try:
        if file is not None:
            file.close()
        if path is not None:
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _json_lines(file: IO[str]) -> Callable[[Iterable[Annotation]], None]:
    def write(annotations: Iterable[Annotation]) -> None:
        file.writelines(json.dumps(unstructure(each)) + "\n" for each in annotations)

    return write


def _csv(file: IO[str]) -> Callable[[Iterable[Annotation]], None]:
    rows = csv.writer(file, lineterminator="\n")  # for the tools of a shell
    names = [field.name for field in attrs.fields(Annotation)]
    place = names.index("offsets")
    rows.writerow([*names[:place], "start", "end", *names[place + 1 :]])

    def cells(annotation: Annotation) -> Iterable[object]:
        for name in names:
            value: Any = getattr(annotation, name)
            if name == "offsets":
                yield from value or (None, None)
            elif value is None or isinstance(value, int | str):
                yield value
            else:
                yield json.dumps(value) if value else None

    def write(annotations: Iterable[Annotation]) -> None:
        rows.writerows([*cells(each)] for each in annotations)

    return write
