"""Records as tables: every one, with a schema that does not depend on what is in them."""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import os
import re
import sys
import threading
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from annolab_async import (
    Annotation,
    AnnotationLayer,
    AnnotationRelation,
    AnnotationType,
    ExportedSource,
    ExportError,
    TextBounds,
)
from annolab_async._reading import read_records
from annolab_async._tables import to_arrow, to_pandas, write_parquet
from tests.results.zips import NAME, lines, some_annotations, written

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

# Worker threads take real time.
pytestmark = [pytest.mark.anyio, pytest.mark.sockets]

RECORDS = [
    Annotation(source_id=1, id=2**62 + 1, type_name="Person", offsets=(3, 9), extra={"new": [1]}),
    Annotation(source_id=2, text_bounds={"type": "Polygon", "coordinates": [[1.5]]}),
]
ROWS: list[dict[str, Any]] = [
    {"source_id": 1, "id": 2**62 + 1, "type_name": "Person", "start": 3, "end": 9},
    {"source_id": 2, "text_bounds": '{"type": "Polygon", "coordinates": [[1.5]]}'},
]
ROWS[0]["extra"] = '{"new": [1]}'


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def told(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


async def test_records_are_rows() -> None:
    table = await to_arrow(RECORDS, Annotation)
    assert [told(row) for row in table.to_pylist()] == ROWS


@pytest.mark.parametrize(
    "kind",
    [Annotation, ExportedSource, TextBounds, AnnotationLayer, AnnotationRelation, AnnotationType],
)
async def test_the_schema_is_the_same_without_any_record(kind: type[Any]) -> None:
    table = await to_arrow([], kind)
    assert table.num_rows == 0
    assert pa.null() not in table.schema.types
    assert table.schema.names[-1] == "extra"


async def test_files_iterators_and_async_iterators_give_the_same(tmp_path: Path) -> None:
    path = written(tmp_path / "x.zip", {NAME: lines(*some_annotations(4321))})
    table = await to_arrow(path, Annotation)
    assert table.column("id").to_pylist() == [*range(4321)]
    assert table == await to_arrow(read_records(path, Annotation), Annotation)
    records = [record async for record in read_records(path, Annotation)]
    assert table == await to_arrow(iter(records), Annotation)


async def test_ids_stay_integers_in_pandas() -> None:
    frame = await to_pandas(RECORDS, Annotation)
    assert frame["id"].tolist()[0] == 2**62 + 1
    assert str(frame["id"].dtype) == "Int64"
    assert frame["start"].isna().tolist() == [False, True]


async def test_all_columns_have_types_that_know_what_is_missing() -> None:
    layers = [AnnotationLayer(name="gold", is_gold_set=True), AnnotationLayer(name="other", id=3)]
    frame = await to_pandas(layers, AnnotationLayer)
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == {
        "name": "string",
        "id": "Int64",
        "is_gold_set": "boolean",
        "description": "string",
        "extra": "string",
    }
    assert frame["is_gold_set"].isna().tolist() == [False, True]


@pytest.mark.parametrize("is_async", [True, False])
async def test_500_records_are_taken_at_once(*, is_async: bool) -> None:
    async def one_by_one() -> AsyncIterator[Annotation]:
        for _ in range(1001):
            yield RECORDS[0]

    source = one_by_one() if is_async else (RECORDS[0] for _ in range(1001))
    table = await to_arrow(source, Annotation)
    assert [len(chunk) for chunk in table.column("id").chunks] == [500, 500, 1]


async def test_what_fills_a_row_group_is_written_and_on_the_disk_before_it_is_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, sync, synced = tmp_path / "out.parquet", os.fsync, list[list[str]]()

    def note(file: int) -> None:
        synced.append([path.name for path in files_in(tmp_path)])
        sync(file)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr("annolab_async._tables._ROW_GROUP", 1000)
    assert await write_parquet((RECORDS[0] for _ in range(2001)), Annotation, out) == 2001
    file = pq.ParquetFile(out)
    groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    file.close()
    assert groups == [1000, 1000, 1]
    ((part,),) = synced
    assert re.fullmatch(r"out\.parquet\.[0-9a-f]{8}\.part", part)


async def test_half_a_character_is_replaced(tmp_path: Path) -> None:
    data = b'{"sourceId": 1, "value": "a\\ud800b", "new": "\\udfff"}\n'
    path = written(tmp_path / "x.zip", {NAME: data})
    (row,) = (await to_arrow(path, Annotation)).to_pylist()
    assert row["value"] == "a?b"
    assert "sourceId" not in row["extra"]


async def test_parquet_is_written_in_row_groups_and_read_back(tmp_path: Path) -> None:
    path = written(tmp_path / "x.zip", {NAME: lines(*some_annotations(120_000))})
    out = tmp_path / "out.parquet"
    out.write_text("old")
    assert await write_parquet(path, Annotation, out) == 120_000
    file = pq.ParquetFile(out)
    assert file.num_row_groups == 3
    table: pa.Table = await to_arrow(path, Annotation)
    assert file.read() == table  # pyright: ignore[reportUnknownMemberType]
    assert table.column("id").to_pylist() == [*range(120_000)]
    file.close()
    assert files_in(tmp_path) == [out, path]


async def test_a_bad_line_leaves_neither_a_file_nor_a_part_of_one(tmp_path: Path) -> None:
    path = written(tmp_path / "x.zip", {NAME: lines(*some_annotations(60_000)) + b"bad"})
    out = tmp_path / "out.parquet"
    out.write_text("old")
    with pytest.raises(ExportError, match=r"line 60001"):
        await write_parquet(path, Annotation, out)
    assert out.read_text() == "old"
    assert files_in(tmp_path) == [out, path]


async def test_of_two_who_write_to_one_path_the_last_one_to_end_is_left_whole(
    tmp_path: Path,
) -> None:
    out, has_begun, may_end = tmp_path / "out.parquet", anyio.Event(), anyio.Event()

    async def slowly() -> AsyncIterator[Annotation]:
        for number in range(60_000):
            yield Annotation(source_id=1, id=number)
        has_begun.set()
        await may_end.wait()

    async def first() -> None:
        await write_parquet(slowly(), Annotation, out)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first)
        await has_begun.wait()
        assert await write_parquet(RECORDS, Annotation, out) == 2
        assert await anyio.to_thread.run_sync(rows_of, out) == 2
        may_end.set()
    assert rows_of(out) == 60_000
    assert files_in(tmp_path) == [out]


def rows_of(path: Path) -> int:
    table: pa.Table = pq.read_table(path)  # pyright: ignore[reportUnknownMemberType]
    return table.num_rows


async def test_cancellation_leaves_no_part(tmp_path: Path) -> None:
    begun = anyio.Event()

    async def endless() -> AsyncIterator[Annotation]:
        while True:
            yield RECORDS[0]
            begun.set()
            await anyio.lowlevel.checkpoint()

    async def written_out() -> None:
        await write_parquet(endless(), Annotation, tmp_path / "out.parquet")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(written_out)
        await begun.wait()
        tasks.cancel_scope.cancel()
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asyncios_own_cancellation_waits_for_what_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, done = threading.Event(), threading.Event(), list[str]()

    class Writer(pq.ParquetWriter):
        def write_table(self, table: pa.Table, row_group_size: int | None = None) -> None:
            begun.set()
            assert go_on.wait(10)
            super().write_table(table, row_group_size)
            done.append("written")

        def close(self) -> None:
            super().close()
            done.append("closed")

    monkeypatch.setattr(pq, "ParquetWriter", Writer)
    writing = asyncio.ensure_future(write_parquet(RECORDS, Annotation, tmp_path / "out.parquet"))
    await anyio.to_thread.run_sync(begun.wait, 10)
    writing.cancel()
    for _ in range(5):
        await anyio.lowlevel.checkpoint()
    assert not writing.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert done == ["written", "closed"]
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("is_file", [True, False])
async def test_a_full_disk_leaves_no_part_and_nothing_that_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_file: bool
) -> None:
    path = written(tmp_path / "x.zip", {NAME: lines(*some_annotations(60_000))})

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", fail)
    source = path if is_file else read_records(path, Annotation)
    with pytest.raises(OSError, match="no room"):
        await write_parquet(source, Annotation, tmp_path / "out.parquet")
    assert files_in(tmp_path) == [path]
    gc.collect()  # warnings are errors
    await anyio.lowlevel.checkpoint()


async def test_what_is_nested_too_deeply_for_a_table_is_a_typed_error() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ExportError, match="text_bounds of a record is nested too deeply"):
        await to_arrow([Annotation(source_id=1, text_bounds=deep)], Annotation)


@pytest.mark.parametrize(
    ("missing", "function", "extra"),
    [
        ("pyarrow", to_arrow, "arrow"),
        ("pandas", to_pandas, "pandas"),
        ("pyarrow", to_pandas, "pandas"),
    ],
)
async def test_what_is_not_installed_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, missing: str, function: Any, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"{missing}: pip install 'annolab-async\[{extra}\]'"):
        await function([], Annotation)


async def test_json_columns_are_json() -> None:
    table = await to_arrow(RECORDS, Annotation)
    assert json.loads(table.to_pylist()[0]["extra"]) == {"new": [1]}
