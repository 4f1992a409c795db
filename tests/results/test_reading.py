"""Records out of archives: all of them, as they were written, and nothing left behind."""

from __future__ import annotations

import gc
import json
import os
import pickle
import shutil
import threading
import zlib
from contextlib import aclosing
from pathlib import Path
from sys import getsizeof
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest
from anyio.lowlevel import checkpoint
from attrs import asdict, field, fields, frozen, resolve_types
from hypothesis import HealthCheck, given, settings, strategies as st

from annolab_async import (
    Annotation,
    AnnotationLayer,
    AnnotationRelation,
    AnnotationType,
    ExportedSource,
    ExportError,
    TextBounds,
)
from annolab_async._archive import Archive, ArchiveLimits, check_archive
from annolab_async._converter import decode_object, structure, unstructure
from annolab_async._json_lines import RecordReader
from annolab_async._reading import Records, read_records
from tests.depth import examples
from tests.results.zips import LINE, NAME, archive, file, lines, some_annotations, written

if TYPE_CHECKING:
    from collections.abc import Callable

# Worker threads take real time.
pytestmark = [pytest.mark.anyio, pytest.mark.sockets]

ENTRIES: Final[dict[type[Any], str]] = {
    Annotation: "p.annotations.jsonl",
    ExportedSource: "p.sources.jsonl",
    TextBounds: "p.text-bounds.jsonl",
    AnnotationLayer: "p.layers.jsonl",
    AnnotationRelation: "p.relations.jsonl",
    AnnotationType: "p.atntypes.jsonl",
}
WIRE: Final[dict[str, Any]] = {
    "id": 5,
    "typeId": 2,
    "typeName": "Person",
    "layerId": 3,
    "layerName": "Gold",
    "sourceId": 1,
    "value": "Ann: a name",
    "rawValue": "Ann",
    "offsets": [0, 3],
    "pageNumber": 1,
    "endPageNumber": 2,
    "textBounds": {"type": "Polygon", "coordinates": [[[0, 1.5]]]},
    "imageBounds": None,
}
ANNOTATION: Final = Annotation(
    id=5,
    type_id=2,
    type_name="Person",
    layer_id=3,
    layer_name="Gold",
    source_id=1,
    value="Ann: a name",
    raw_value="Ann",
    offsets=(0, 3),
    page_number=1,
    end_page_number=2,
    text_bounds={"type": "Polygon", "coordinates": [[[0, 1.5]]]},
)


async def all_of(path: Path, kind: type[Any] = Annotation, **options: Any) -> list[Any]:
    return [record async for record in read_records(path, kind, **options)]


async def test_all_fields_are_read(tmp_path: Path) -> None:
    assert await all_of(written(tmp_path / "x", {NAME: lines(WIRE)})) == [ANNOTATION]


def test_a_record_is_what_its_class_makes() -> None:
    record = structure(Annotation, WIRE)
    assert type(record) is Annotation
    assert record == ANNOTATION
    assert hash(record.id) == 5
    assert pickle.loads(pickle.dumps(record)) == record  # noqa: S301
    assert asdict(record) == asdict(ANNOTATION)
    with pytest.raises(AttributeError):
        record.id = 7  # type: ignore[misc]


def test_null_is_nothing_and_an_id_may_be_any_integer_of_64_bits() -> None:
    record = structure(Annotation, {"sourceId": -1, "typeId": -(2**63), "layerId": None})
    assert record == Annotation(source_id=-1, type_id=-(2**63))
    assert unstructure(record) == {"sourceId": -1, "typeId": -(2**63)}
    assert unstructure(ANNOTATION) == {name: WIRE[name] for name in WIRE if WIRE[name] is not None}


def test_an_annotation_goes_by_either_id() -> None:
    assert structure(Annotation, {"sourceId": 1, "annotationId": 7}) == Annotation(
        source_id=1, id=7
    )
    both = structure(Annotation, {"sourceId": 1, "annotationId": 7, "id": 5})
    assert (both.id, both.extra) == (5, {"annotationId": 7})
    wrong = structure(Annotation, {"sourceId": 1, "annotationId": 7, "id": "x"})
    assert (wrong.id, wrong.extra) == (7, {"id": "x"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", "5"),
        ("typeId", 2.0),
        ("layerId", True),
        ("layerId", 2**63),
        ("typeName", 7),
        ("value", ["a"]),
        ("offsets", [1]),
        ("offsets", [1, "2"]),
        ("offsets", [1, 2**63]),
        ("offsets", [1, 2, 3]),
        ("offsets", {"start": 1}),
        ("isReviewed", False),
        ("isReviewed", None),
        ("source_id", 9),
    ],
)
def test_what_is_unknown_or_of_a_wrong_type_is_kept_in_extra(name: str, value: object) -> None:
    record = structure(Annotation, {"sourceId": 1, name: value})
    assert record == Annotation(source_id=1, extra={name: value})
    assert unstructure(record) == {"sourceId": 1, name: value}


BAD: Final[dict[str, tuple[bytes, str]]] = {
    "no JSON": (b"{sourceId: 1}", "no JSON"),
    "two values": (b'{"sourceId": 1} {"sourceId": 2}', "no JSON"),
    "half a value": (b'{"sourceId": 1', "no JSON"),
    "an array": (b"[1]", "an array, not an object"),
    "a number": (b"17", "an integer, not an object"),
    "null": (b"null", "null, not an object"),
    "NaN": (b'{"sourceId": 1, "x": NaN}', "holds NaN"),
    "infinity": (b'{"sourceId": 1, "x": -Infinity}', "holds -Infinity"),
    "too deep": (b'{"sourceId": 1, "x": ' + b"[" * 20_000 + b"]" * 20_000 + b"}", "recursion"),
    "too long": (b'{"sourceId": 1, "value": "' + b"x" * 999_999 + b'"}', "longer than 500,000"),
    "too much": (b'{"sourceId": 1, "x": [' + b"[]," * 40_000 + b"1]}", "fits into 2,000,000"),
    "an open string": (b'{"sourceId": 1, "x": "' + b"{" * 9000 + b'\\"' * 99_999, "Unterminated"),
    "a huge integer": (b'{"sourceId": ' + b"9" * 5000 + b"}", "4300"),
    "65 bits": (b'{"sourceId": 18446744073709551616}', "sourceId is an integer of more than 64"),
    "missing": (b'{"id": 3}', "sourceId is missing"),
    "a string": (b'{"sourceId": "1"}', "sourceId is a string, not an integer"),
    "true": (b'{"sourceId": true}', "sourceId is true or false, not an integer"),
    "twice": (b'{"sourceId": 1, "sourceId": 2}', "a field twice"),
    "twice, with spaces": (b'{"sourceId" : 1, "sourceId"\t: 2, "x":"a:b"}', "a field twice"),
    "twice, inside": (b'{"sourceId": 1, "x": {"y": 1, "y": 2}}', "a field twice"),
    "twice, deep inside": (b'{"sourceId": 1, "x": [{"y": 1, "y": 2}]}', "a field twice"),
    "thrice": (b'{"sourceId":1,"sourceId":1,"sourceId" :1}', "a field twice"),
    "no UTF-8": (b'{"sourceId": 1, "value": "\xff"}', "no UTF-8"),
    "UTF-16": ('{"sourceId": 1}'.encode("utf-16"), "no UTF-8"),
}
LIMITS: Final = ArchiveLimits(max_line_bytes=500_000, max_line_memory=2_000_000, max_ratio=9999)


async def test_a_line_may_be_just_as_long_as_the_limit_and_no_longer(tmp_path: Path) -> None:
    path = written(tmp_path / "x.zip", {NAME: LINE * 3 + LINE.rstrip(b"\n")})
    length = len(LINE) - 1
    limits = ArchiveLimits(max_line_bytes=length)
    records = [record async for record in read_records(path, Annotation, limits=limits)]
    assert records == [Annotation(source_id=1, id=2)] * 4
    skipped = list[ExportError]()
    records = [
        record
        async for record in read_records(
            path,
            Annotation,
            limits=ArchiveLimits(max_line_bytes=length - 1),
            on_bad_line="skip",
            on_skipped=skipped.append,
        )
    ]
    assert records == []
    assert [error.line for error in skipped] == [1, 2, 3, 4]


# What decoding a list, an object, a name, one more value, or a string takes up, by JSON that has one more of them.
MEMORY: Final = {"[[]]": 80, "[{}]": 240, "[1,1]": 40, '["x"]': 2 * 40, '[{"x":1}]': 240 + 70 + 80}


@pytest.mark.parametrize("x", MEMORY)
async def test_a_long_line_may_take_up_just_as_much_memory_as_the_limit(
    tmp_path: Path, x: str
) -> None:
    line = f'{{"sourceId":1,"x":{x}}}'.ljust(2**16 + 1)
    rest = 240 + 2 * (70 + 2 * 40) + 40 + 80  # an object, its two names, a comma, a list
    await takes_up(tmp_path, line, 2 * getsizeof(line) + rest + MEMORY[x])


@pytest.mark.parametrize(
    "inside", ['[{:,"'.replace('"', '\\"') * 20_000, '\\"' * 40_000, "\\\\" * 40_000]
)
async def test_marks_in_strings_take_up_no_more_than_other_letters(
    tmp_path: Path, inside: str
) -> None:
    line = f'{{"sourceId":1,"x":"{inside}"}}'
    await takes_up(tmp_path, line, 2 * getsizeof(line) + 240 + 2 * (70 + 2 * 40) + 40 + 2 * 40)


async def takes_up(tmp_path: Path, line: str, most: int) -> None:
    path = written(tmp_path / "x.zip", {NAME: line.encode()})
    limits = ArchiveLimits(max_line_memory=most)
    assert [record.source_id for record in await all_of(path, limits=limits)] == [1]
    limits = ArchiveLimits(max_line_memory=most - 1)
    with pytest.raises(ExportError, match=f"holds more than fits into {most - 1:,} bytes"):
        await all_of(path, limits=limits)


async def test_of_short_lines_no_memory_is_counted(tmp_path: Path) -> None:
    for length, is_counted in ((2**16, False), (2**16 + 1, True)):
        path = written(tmp_path / f"{length}.zip", {NAME: b'{"sourceId":1}'.ljust(length)})
        skipped = list[ExportError]()
        found = await all_of(
            path,
            on_bad_line="skip",
            on_skipped=skipped.append,
            limits=ArchiveLimits(max_line_memory=1),
        )
        assert len(skipped) == is_counted
        assert len(found) == (not is_counted)


async def test_a_mark_of_the_coding_may_come_alone(tmp_path: Path) -> None:
    """As it does where a packer has put so much that unfolds to nothing behind it that a read ends there."""
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(b"\xef\xbb\xbf") + packer.flush(zlib.Z_SYNC_FLUSH)
    packed += b"\0\0\0\xff\xff" * 40_000 + packer.compress(LINE) + packer.flush()
    path = tmp_path / "x.zip"
    path.write_bytes(archive(file(b"\xef\xbb\xbf" + LINE, packed=packed)))
    assert await all_of(path) == [Annotation(source_id=1, id=2)]


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_line_is_raised_with_its_file_and_number(name: str, tmp_path: Path) -> None:
    line, fault = BAD[name]
    path = written(tmp_path / "x.zip", {NAME: LINE * 2 + line + b"\n" + LINE})
    records = read_records(path, Annotation, limits=LIMITS)
    assert [await anext(records), await anext(records)] == [Annotation(source_id=1, id=2)] * 2
    with pytest.raises(ExportError, match=fault) as caught:
        await anext(records)
    assert (caught.value.file, caught.value.line) == (NAME, 3)
    with pytest.raises(StopAsyncIteration):
        await anext(records)


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_line_is_skipped_and_told(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    line, fault = BAD[name]
    data = lines({"sourceId": 7}) + line + b"\n" + LINE + line
    path = written(tmp_path / "x.zip", {NAME: data})
    told = list[ExportError]()
    records = read_records(
        path, Annotation, on_bad_line="skip", on_skipped=told.append, limits=LIMITS
    )
    assert [record.source_id async for record in records] == [7, 1]
    assert [(error.file, error.line) for error in told] == [(NAME, 2), (NAME, 4)]
    assert all(fault in str(error) for error in told)
    assert records.skipped == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "line 2" in caplog.text


def test_nothing_is_read_once_all_has_been_or_nobody_wants_it(tmp_path: Path) -> None:
    path = written(tmp_path / "x.zip", {NAME: LINE})
    whole = RecordReader(path, Annotation)
    while not whole.read().is_last:
        pass
    settled = RecordReader(path, Annotation)
    settled.settle()
    broken = RecordReader(tmp_path / "none.zip", Annotation)
    with pytest.raises(FileNotFoundError):
        broken.read()
    for reader in (whole, settled, broken):
        lines = reader.read()
        assert (lines.is_last, [*lines.items]) == (True, [])


async def test_nothing_comes_after_an_error_of_the_one_who_is_told(tmp_path: Path) -> None:
    path = written(tmp_path / "x.zip", {NAME: LINE + b"bad\n" + LINE * 5000})

    def refuse(error: ExportError) -> None:
        raise KeyError(error.line)

    records = read_records(path, Annotation, on_bad_line="skip", on_skipped=refuse)
    await anext(records)
    with pytest.raises(KeyError, match="2"):
        await anext(records)
    assert [record async for record in records] == []


async def test_several_files_blank_lines_other_line_ends_and_a_mark_are_read(
    tmp_path: Path,
) -> None:
    path = written(
        tmp_path / "x.zip",
        {
            "b.annotations.jsonl": b'{"sourceId": 3}',
            "a/a.annotations.jsonl": b'\xef\xbb\xbf {"sourceId":\t1}\r\n\r\n  \n\t{"sourceId": 2}\n\n',
            "c.annotations.jsonl": b"",
        },
    )
    assert [record.source_id for record in await all_of(path)] == [1, 2, 3]


async def test_line_numbers_are_right_however_lines_and_chunks_fall(tmp_path: Path) -> None:
    data = b"".join(
        b'{"sourceId": %d, "value": "%s"}\n' % (number, b"x" * (number * 7919 % 90_000))
        if number % 5
        else b"bad\n"
        for number in range(1, 400)
    )
    told = list[ExportError]()
    records = read_records(
        written(tmp_path / "x.zip", {NAME: data}),
        Annotation,
        on_bad_line="skip",
        on_skipped=told.append,
        limits=ArchiveLimits(max_ratio=9999),
    )
    assert [record.source_id async for record in records] == [
        number for number in range(1, 400) if number % 5
    ]
    assert [error.line for error in told] == [*range(5, 400, 5)]


async def test_a_file_that_is_not_there_is_an_error_and_not_nothing(tmp_path: Path) -> None:
    path = written(tmp_path / "x.zip", {"p.layers.jsonl": b"{}"})
    with pytest.raises(ExportError, match=r"holds no \*.annotations.jsonl"):
        await all_of(path)
    with pytest.raises(ExportError, match="include_sources=True"):
        await all_of(path, ExportedSource)
    with pytest.raises(ValueError, match="no kind of record"):
        await all_of(path, dict)
    with pytest.raises(ValueError, match="on_bad_line"):
        read_records(path, Annotation, on_bad_line="ignore")  # type: ignore[arg-type]


async def test_damage_is_raised_also_where_bad_lines_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(archive(file(LINE * 3, crc=1)))
    records = read_records(path, Annotation, on_bad_line="skip")
    assert [await anext(records) for _ in range(3)] == [Annotation(source_id=1, id=2)] * 3
    with pytest.raises(ExportError, match="checksum"):
        await anext(records)


def cut(path: Path) -> None:
    os.truncate(path, 99)


def written_over(path: Path) -> None:
    """As long as before."""
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(0, 0))


def replaced(path: Path) -> None:
    """By one that is as long and as old."""
    Path(shutil.copy2(path, path.with_name("copy"))).replace(path)


@pytest.mark.parametrize("change", [cut, written_over, replaced])
async def test_a_file_that_changes_meanwhile_is_an_error(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    path = written(tmp_path / "x.zip", {NAME: lines(*some_annotations(9000))})
    records = read_records(path, Annotation)
    await anext(records)
    change(path)
    with pytest.raises(ExportError, match="was changed while it was read"):
        [record async for record in records]


def is_open(path: Path) -> bool:
    return any(str(path) in str(file.resolve()) for file in Path("/proc/self/fd").iterdir())


async def test_leaving_the_loop_leaves_no_thread_at_work_and_no_file_open(tmp_path: Path) -> None:
    path = written(tmp_path / "x.zip", {NAME: lines(*some_annotations(20_000))})
    async for record in read_records(path, Annotation):
        if record.id == 3:
            break
    assert not is_open(path)
    async with read_records(path, Annotation) as records, aclosing(records):
        await anext(records)
    assert [record async for record in records] == []
    assert not is_open(path)


async def test_tasks_that_share_records_are_told_before_any_is_lost(tmp_path: Path) -> None:
    path = written(tmp_path / "x.zip", {NAME: lines(*some_annotations(20_000))})
    records = read_records(path, Annotation)
    failures, found = list[RuntimeError](), list[Annotation]()

    async def share() -> None:
        try:
            async for record in records:
                found.append(record)
        except RuntimeError as failure:
            failures.append(failure)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(share)
        tasks.start_soon(share)
    assert [str(failure) for failure in failures] == [
        "two tasks iterate over the same records: let one, and hand them on"
    ]
    assert [record.id for record in found] == [*range(20_000)]


async def test_several_files_are_read_as_one(tmp_path: Path) -> None:
    paths = [
        written(tmp_path / f"{name}.zip", {NAME: lines(*some_annotations(700)) + end})
        for name, end in [("a", b"bad"), ("b", b""), ("c", b"bad\nbad")]
    ]

    def several(**options: Any) -> Records[Annotation]:
        return Records.of([read_records(path, Annotation, **options) for path in paths])

    told = list[ExportError]()
    records = several(on_bad_line="skip", on_skipped=told.append)
    assert [record.id async for record in records] == [*range(700)] * 3
    assert records.skipped == len(told) == 3
    records = several()
    with pytest.raises(ExportError, match="line 701"):
        [record async for record in records]
    assert [record async for record in records] == [], "what follows is not all there is"
    async for _ in several():
        break
    gc.collect()  # warnings are errors
    async with several() as records:
        await anext(records)
    assert [record async for record in records] == []


async def test_after_a_read_that_broke_off_no_other_file_is_begun(tmp_path: Path) -> None:
    paths = [
        written(tmp_path / f"{name}.zip", {NAME: lines(*some_annotations(9000))}) for name in "ab"
    ]
    records = Records.of([read_records(path, Annotation) for path in paths])
    await anext(records)
    os.truncate(paths[0], 99)
    with pytest.raises(ExportError, match="was changed while it was read"):
        [record async for record in records]
    assert [record async for record in records] == []


async def test_cancellation_waits_for_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "x.zip", {NAME: lines(*some_annotations(20_000))})
    reads = threading.Event(), threading.Event(), threading.Event()
    begun, go_on, ended = reads
    read = RecordReader[Annotation].read

    def slowly(self: RecordReader[Annotation]) -> Any:
        with self._lock:
            begun.set()
            assert go_on.wait(10)
        batch = read(self)
        ended.set()
        return batch

    monkeypatch.setattr(RecordReader, "read", slowly)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(all_of, path)
        await anyio.to_thread.run_sync(begun.wait, 10)
        tasks.cancel_scope.cancel()
        go_on.set()
    assert ended.is_set()
    assert not is_open(path)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asyncios_own_cancellation_waits_for_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio  # noqa: PLC0415

    path = written(tmp_path / "x.zip", {NAME: lines(*some_annotations(20_000))})
    begun, go_on = threading.Event(), threading.Event()
    read = RecordReader[Annotation]._read
    ended = list[bool]()

    def slowly(self: RecordReader[Annotation], of: Archive) -> Any:
        begun.set()
        assert go_on.wait(10)
        batch = read(self, of)
        ended.append(True)
        return batch

    monkeypatch.setattr(RecordReader, "_read", slowly)
    task = asyncio.create_task(all_of(path))
    await anyio.to_thread.run_sync(begun.wait, 10)
    task.cancel()
    for _ in range(5):
        await checkpoint()
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [True]
    assert not is_open(path)


# By kind of field; what is read goes through a file, a thread and a loop elsewhere.
ints = st.integers(-(2**63), 2**63 - 1)
json_data: Final[st.SearchStrategy[Any]] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
).filter(lambda data: not _has_infinity(data))


values: Final[dict[Any, st.SearchStrategy[Any]]] = {
    int: ints,
    int | None: st.none() | ints,
    str: st.text(),
    str | None: st.none() | st.text(),
    bool | None: st.none() | st.booleans(),
    tuple[int, int] | None: st.none() | st.tuples(ints, ints),
    Any: json_data,
}


def _has_infinity(data: Any) -> bool:
    return "Infinity" in json.dumps(data)


@st.composite
def records(draw: st.DrawFn, kind: type[Any]) -> Any:
    made = {
        field.name: draw(values[field.type])
        for field in fields(resolve_types(kind))
        if field.name != "extra"
    }
    names = st.text().filter(lambda name: name not in unstructure(kind(**made)))
    names = names.filter(lambda name: name not in {"id", "annotationId"} | _wires(kind))
    return kind(**made, extra=draw(st.dictionaries(names, json_data, max_size=3)))


def _wires(kind: type[Any]) -> set[str]:
    names = [field.name.split("_") for field in fields(kind)]
    return {name[0] + "".join(map(str.capitalize, name[1:])) for name in names}


@pytest.mark.parametrize("kind", ENTRIES)
@settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=examples(50),
)
@given(data=st.data())
def test_any_records_come_back_equal(kind: type[Any], data: st.DataObject, tmp_path: Path) -> None:
    made = data.draw(st.lists(records(kind), max_size=4))
    text = "\n".join(
        json.dumps(unstructure(record), ensure_ascii=data.draw(st.booleans())) for record in made
    )
    path = written(tmp_path / "x.zip", {ENTRIES[kind]: text.encode("utf-8", "surrogatepass")})
    reader = RecordReader(path, kind)
    found, is_last = list[Any](), False
    while not is_last:
        some = reader.read()
        found += reader.records(some, lambda fault: pytest.fail(str(fault)))
        is_last = some.is_last
    assert found == made


@settings(deadline=None)
@given(
    st.text('{}[]":, \t\\ab1', max_size=40) | st.dictionaries(st.text(), json_data).map(json.dumps)
)
def test_the_fast_way_of_decoding_says_what_the_strict_one_says(text: str) -> None:
    def decoded(decode: Callable[[str], Any]) -> object:
        try:
            data: object = decode(text)
        except ValueError as error:
            return str(error)
        return data if isinstance(data, dict) else "no object"  # pyright: ignore[reportUnknownVariableType]

    from annolab_async._converter import decode_json  # noqa: PLC0415

    slow, fast = decoded(decode_json), decoded(decode_object)
    assert fast == slow or (slow == "no object" and "not an object" in str(fast))


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1}',
        '{"a":1} \t\r\n',
        '{"a":"x:y"}',
        '{"a":{"b":1,"c":2},"d":"x:y"}',
        '{"a" :1,"b"\t:"x:y"}',
        '{"a": {}, "b": [], "c": null}',
    ],
)
def test_usual_lines_need_no_strict_look(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def strictly(_: str) -> object:
        raise AssertionError

    monkeypatch.setattr("annolab_async._converter.decode_json", strictly)
    assert decode_object(text) == json.loads(text)


def test_a_record_that_cannot_be_filled_in_fast_is_none() -> None:
    @frozen
    class WithWeakrefs:
        """Of which no twin is alike in memory."""

        name: str
        extra: dict[str, Any] = field(factory=dict[str, Any])

    @frozen(weakref_slot=False)
    class WithFloats:
        """Which the wire has none of."""

        size: float
        extra: dict[str, Any] = field(factory=dict[str, Any])

    with pytest.raises(TypeError):
        structure(WithWeakrefs, {"name": "x"})
    with pytest.raises(TypeError, match="size is of a type that no open record has"):
        structure(WithFloats, {"size": 1.0})


async def test_the_loop_is_not_held_up(tmp_path: Path) -> None:
    path = written(tmp_path / "x.zip", {NAME: lines(*some_annotations(30_000))})
    reads, sizes = list[int](), list[int]()
    read = RecordReader[Annotation].read

    def in_thread(self: RecordReader[Annotation]) -> Any:
        reads.append(threading.get_ident())
        lines = read(self)
        sizes.append(len(lines.items))
        return lines

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RecordReader, "read", in_thread)
        assert len(await all_of(path)) == 30_000
    assert max(sizes) == 500
    assert threading.get_ident() not in reads


async def test_long_lines_are_decoded_where_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = dict[int, int]()

    def decode(text: str) -> Any:
        threads[len(text)] = threading.get_ident()
        return decode_object(text)

    monkeypatch.setattr("annolab_async._json_lines.decode_object", decode)
    short, long = [
        lines({"sourceId": 1, "value": "x" * size}).rstrip() for size in (65_508, 65_509)
    ]
    assert len(short) == 2**16
    path = written(tmp_path / "x.zip", {NAME: short + b"\n" + long + b"\n" + short})
    records = [record async for record in read_records(path, Annotation, limits=LIMITS)]
    assert [len(record.value or "") for record in records] == [65_508, 65_509, 65_508]
    assert threads[len(short)] == threading.get_ident()
    assert threads[len(long)] != threading.get_ident()


async def test_an_archive_can_be_read_many_times(tmp_path: Path) -> None:
    path = written(tmp_path / "x.zip", {NAME: lines(*some_annotations(10))})
    found = await anyio.to_thread.run_sync(check_archive, path)
    for _ in range(2):
        assert len([record async for record in read_records(found, Annotation)]) == 10
