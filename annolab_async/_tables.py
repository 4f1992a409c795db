"""Records as tables: Arrow, pandas, Parquet. Worker threads do the work, some 500 lines at a time.

A table has a column for each field of the record, in its order, ``offsets`` two: ``start`` and ``end``. What may be
anything on the wire (``text_bounds``, ``image_bounds``, ``extra``) is there as JSON text, null where it is empty.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterable
from contextlib import aclosing, suppress
from importlib import import_module
from itertools import islice
from pathlib import Path
from secrets import token_hex
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar, cast

import attrs
from anyio import CancelScope, to_thread

from annolab_async._archive import Archive
from annolab_async._json_lines import RecordReader
from annolab_async._reading import in_thread
from annolab_async._wire import open_kind
from annolab_async.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Sequence

    import pandas as pd
    import pyarrow as pa

    from annolab_async._archive import ArchiveLimits

    Source = Archive | str | os.PathLike[str]
    # A column: its name, its Arrow type, and its value for a record.
    Column = tuple[str, pa.DataType, Callable[[Any], Any]]

__all__ = ["to_arrow", "to_pandas", "write_parquet"]

T = TypeVar("T")

_AT_ONCE: Final = 500
_ROW_GROUP: Final = 50_000


async def to_arrow(
    source: Source | Iterable[T] | AsyncIterable[T],
    kind: type[T],
    *,
    limits: ArchiveLimits | None = None,
) -> pa.Table:
    """Return the records of one kind as an Arrow table, all of it in memory.

    Args:
        source: the export's file, an :class:`Archive` of it, or records.
        kind: the class of the records.
        limits: what is read of a file at most, the default ones if None.

    Raises:
        ImportError: pyarrow is not installed; the text says what to install.
        ExportError: the file cannot be trusted, is damaged, has a bad line, or nothing of the kind.
        OSError: the file cannot be read.
    """
    arrow, _ = _arrow_and_parquet()
    table = _Table(kind)
    batches = [batch async for batch in table.batches(source, limits)]
    return cast("pa.Table", arrow.Table.from_batches(batches, schema=table.schema))


async def to_pandas(
    source: Source | Iterable[T] | AsyncIterable[T],
    kind: type[T],
    *,
    limits: ArchiveLimits | None = None,
) -> pd.DataFrame:
    """Return the records of one kind as a pandas frame; ids stay integers, also where some are missing.

    Args:
        source: the export's file, an :class:`Archive` of it, or records.
        kind: the class of the records.
        limits: what is read of a file at most, the default ones if None.

    Raises:
        ImportError: pandas or pyarrow is not installed; the text says what to install.
        ExportError: the file cannot be trusted, is damaged, has a bad line, or nothing of the kind.
        OSError: the file cannot be read.
    """
    pandas = _needed("pandas", "pandas")
    arrow = _needed("pyarrow", "pandas")
    types = {
        arrow.int64(): pandas.Int64Dtype(),
        arrow.bool_(): pandas.BooleanDtype(),
        arrow.string(): pandas.StringDtype("pyarrow"),
    }
    table: Any = await to_arrow(source, kind, limits=limits)
    return await to_thread.run_sync(lambda: table.to_pandas(types_mapper=types.get))


async def write_parquet(
    source: Source | Iterable[T] | AsyncIterable[T],
    kind: type[T],
    path: str | os.PathLike[str],
    *,
    limits: ArchiveLimits | None = None,
) -> int:
    """Write the records of one kind into a Parquet file, in little memory, however many they are.

    The file appears when it is complete: until then it is called ``path.….part``, and it is removed if anything fails.

    Args:
        source: the export's file, an :class:`Archive` of it, or records.
        kind: the class of the records.
        path: the file to write; one of that name is replaced.
        limits: what is read of a file at most, the default ones if None.

    Returns:
        How many records it holds.

    Raises:
        ImportError: pyarrow is not installed; the text says what to install.
        ExportError: the source cannot be trusted, is damaged, has a bad line, or nothing of the kind.
        OSError: a file cannot be read or written.
    """
    table = _Table(kind)
    file = _ParquetFile(table.schema, Path(path))
    count = waiting = 0
    is_whole = False
    try:
        await in_thread(file.open, file.settle)
        # Not left to the garbage collector, of which trio warns.
        async with aclosing(table.batches(source, limits)) as batches:
            async for batch in batches:
                file.waiting.append(batch)
                count += batch.num_rows
                waiting += batch.num_rows
                if waiting >= _ROW_GROUP:
                    await in_thread(file.write, file.settle)
                    waiting = 0
        await in_thread(file.write, file.settle)
        is_whole = True
    finally:
        with CancelScope(shield=True):
            await to_thread.run_sync(file.close, is_whole)
    return count


class _ParquetFile:
    """A Parquet file that appears when it is complete. All of this blocks, and is called in worker threads.

    Asyncio's own cancellation leaves a call to itself, and pyarrow crashes where two threads use one writer: each waits
    for the one before, and once it is closed, nothing is done any more.

    Args:
        schema: its columns.
        path: the file.

    Attributes:
        waiting: batches of rows that are to be written.
    """

    def __init__(self, schema: pa.Schema, path: Path) -> None:
        self.waiting: list[pa.RecordBatch] = []
        self._schema = schema
        self._path = path
        # Not the same for two who write to one path: the file would be a mixture of both.
        self._part = Path(f"{path}.{token_hex(4)}.part")
        self._writer: Any = None
        self._is_closed = False
        self._lock = Lock()

    def open(self) -> None:
        """Begin the file."""
        _, parquet = _arrow_and_parquet()
        with self._lock:
            if not self._is_closed:
                self._writer = parquet.ParquetWriter(str(self._part), self._schema)

    def write(self) -> None:
        """Write what waits as one row group."""
        arrow, _ = _arrow_and_parquet()
        with self._lock:
            if self.waiting and not self._is_closed:
                self._writer.write_table(
                    arrow.Table.from_batches(self.waiting, schema=self._schema)
                )
                self.waiting.clear()

    def settle(self) -> None:
        """Wait until nothing is being written."""
        with self._lock:
            pass

    def close(self, is_whole: bool) -> None:  # noqa: FBT001
        """Close the file, and give it its name, or remove it if it is not whole."""
        with self._lock:
            self._is_closed = True
            try:
                if self._writer is not None:
                    self._writer.close()
                if is_whole:
                    with self._part.open("rb+") as file:
                        os.fsync(file.fileno())
                    self._part.replace(self._path)
            finally:
                self._part.unlink(missing_ok=True)


def _needed(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        pass
    raise ImportError(f"this needs {module}: pip install 'annolab-async[{extra}]'", name=module)


def _arrow_and_parquet() -> tuple[Any, Any]:
    return _needed("pyarrow", "arrow"), _needed("pyarrow.parquet", "arrow")


class _Table:
    """How the records of a class stand in a table.

    Args:
        kind: the class.
    """

    def __init__(self, kind: type) -> None:
        self._arrow, _ = _arrow_and_parquet()
        self._kind = kind
        self._columns = [*self._all_columns()]
        self.schema: pa.Schema = self._arrow.schema([
            (name, of_type) for name, of_type, _ in self._columns
        ])

    def _all_columns(self) -> Iterable[Column]:
        arrow = self._arrow
        types = {int: arrow.int64(), str: arrow.string(), bool: arrow.bool_()}
        for field in attrs.fields(attrs.resolve_types(cast("Any", self._kind))):
            name, kind = field.name, open_kind(field.type)
            if kind in types:
                yield name, types[kind], _getter(name)
            elif kind == tuple[int, int]:
                yield "start", arrow.int64(), _getter(name, 0)
                yield "end", arrow.int64(), _getter(name, 1)
            else:
                yield name, arrow.string(), _json_getter(name)

    def batch(self, records: Sequence[Any]) -> pa.RecordBatch:
        """Return records as a batch of rows."""
        arrays = [
            self._array([value(record) for record in records], of_type)
            for _, of_type, value in self._columns
        ]
        return cast("pa.RecordBatch", self._arrow.record_batch(arrays, schema=self.schema))

    def _array(self, values: list[Any], of_type: pa.DataType) -> Any:
        try:
            return self._arrow.array(values, of_type)
        except UnicodeEncodeError:
            # JSON can say half a character (a lone surrogate); Arrow cannot.
            whole = [value and value.encode("utf-8", "replace").decode() for value in values]
            return self._arrow.array(whole, of_type)

    async def batches(
        self, source: Source | Iterable[Any] | AsyncIterable[Any], limits: ArchiveLimits | None
    ) -> AsyncGenerator[pa.RecordBatch]:
        """Yield all that comes of a source. Between two batches nothing is held that has to be let go."""
        if isinstance(source, Archive | str | os.PathLike):
            reader: RecordReader[Any] = RecordReader(source, self._kind, limits=limits)

            def read() -> tuple[pa.RecordBatch | None, bool]:
                lines = reader.read()
                records = [*reader.records(lines, _refused)]
                return self.batch(records) if records else None, lines.is_last

            is_last = False
            while not is_last:
                batch, is_last = await in_thread(read, reader.settle)
                if batch is not None:
                    yield batch
        elif isinstance(source, AsyncIterable):
            async with aclosing(_in_lists(source)) as lists:
                async for records in lists:
                    yield await to_thread.run_sync(self.batch, records)
        else:
            iterator = iter(source)
            while records := [*islice(iterator, _AT_ONCE)]:
                yield await to_thread.run_sync(self.batch, records)


def _refused(fault: ExportError) -> NoReturn:
    raise fault


async def _in_lists(source: AsyncIterable[T]) -> AsyncGenerator[list[T]]:
    records = list[T]()
    async for record in source:
        records.append(record)
        if len(records) == _AT_ONCE:
            yield records
            records = []
    if records:
        yield records


def _getter(name: str, part: int | None = None) -> Callable[[Any], Any]:
    if part is None:
        return lambda record: getattr(record, name)
    return lambda record: None if (pair := getattr(record, name)) is None else pair[part]


def _json_getter(name: str) -> Callable[[Any], Any]:
    def value(record: Any) -> str | None:
        found = getattr(record, name)
        with suppress(RecursionError):
            return None if found is None or found == {} else json.dumps(found, ensure_ascii=False)
        raise ExportError(
            what=f"{name} of a record is nested too deeply for a table",
            hint="Read the records themselves, and leave it out.",
        )

    return value
