"""Where source ids come from, and how what is none is named."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

import pytest

from annolab_async.cli import _sources
from annolab_async.cli._problems import Problem
from annolab_async.cli._sources import SourceFormat, read_sources

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ids.txt", "7\n8, 9\n\n# a remark\n10 # another\n"),
        ("ids", "7 8\t9\r\n10"),
        ("bom.txt", "\ufeff7\n8\n9\n10\n"),
        ("usual.csv", "name,source_id\na,7\nb,8\n\nc,9\n,10\n"),
        ("camel.csv", '"sourceId";"a;b"\n7;x\n"8";"y\nz"\n9;\n10;\n'),
        ("tabs.tsv", "id\tname\n7\ta\n8\tb\n9\tc\n10\td\n"),
        ("single.csv", "Anything\n7\n8\n9\n10\n"),
        ("headless.csv", "7\n8\n9\n10\n"),
        ("objects.jsonl", '{"source_id": 7}\n{"sourceId": "8"}\n\n{"id": 9, "x": 1}\n{"n": 10}\n'),
        ("numbers.ndjson", '7\n"8"\n[9, 10]\n'),
        ("array.json", "[7, 8, 9, 10]"),
        ("CAPITALS.CSV", "name,source_id\n1,7\n2,8\n3,9\n4,10\n"),
        ("Capitals.JsonL", '{"source_id": 7, "n": 1}\n[8, 9, 10]\n'),
        ("breaks.jsonl", '{"id": 7, "n": "a\u2028b\u2029c\u0085d"}\r\n[8, 9, 10]\n'),
        ("breaks.csv", "id,n\n7,a\u2028b\u2029c\u0085d\n8,\u2028\n9,\x0c\n10,\n"),
    ],
)
def test_ids_are_read_in_their_order(tmp_path: Path, name: str, content: str) -> None:
    assert read_sources([write(tmp_path / name, content)]) == [7, 8, 9, 10]


def test_arguments_files_and_standard_input_can_be_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"3\n4\n")))
    assert read_sources(["5", write(tmp_path / "a.txt", "1 2"), "-", "6"]) == [5, 1, 2, 3, 4, 6]


def test_a_person_at_the_terminal_is_told_how_to_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(io.BytesIO(b"3\n")))
    assert read_sources(["-"]) == [3]
    assert "Ctrl-D" in capsys.readouterr().err


def test_format_and_column_can_be_said(tmp_path: Path) -> None:
    path = write(tmp_path / "data.txt", "source_id,other\n1,7\n2,8\n")
    assert read_sources([path], column="other", kind=SourceFormat.CSV) == [7, 8]
    path = write(tmp_path / "data.csv", '{"source_id": 1, "other": 9}')
    assert read_sources([path], column="other", kind=SourceFormat.JSONL) == [9]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", "1\n2\nx3\n", "line 3: 'x3' is no source id."),
        ("a.txt", "1 0", "line 1: '0' is no source id."),
        ("a.txt", "9223372036854775808", "line 1: '9223372036854775808' is no source id."),
        ("a.txt", "9" * 10_000, f"line 1: '{'9' * 39}… is no source id."),
        ("a.txt", "\uff11", "line 1: '\uff11' is no source id."),
        ("a.txt", b"1\n2\n\xff\n", "line 3: this is no UTF-8 text."),
        ("a.csv", "id\n1\n2.0\n", "line 3: '2.0' is no source id."),
        ("a.csv", "id,x\n1,1\n\nx,2\n", "line 4: 'x' is no source id."),
        ("a.csv", "x,id\n1\n", "line 2: '' is no source id."),
        ("a.csv", "a,b\n1,2\n", "there is no source_id or id among the columns 'a', 'b'"),
        ("a.csv", 'id\n"1\n', "this is no CSV"),
        ("a.jsonl", "1\ntrue\n", "line 2: true is no source id."),
        ("a.jsonl", "1\n1.5\n", "line 2: 1.5 is no source id."),
        ("a.jsonl", "1\n{\n", "line 2: this is no JSON."),
        ("a.jsonl", "[" * 100_000, "line 1: this is no JSON."),
        ("a.jsonl", '{"a": 1, "b": 2}', "among the fields 'a', 'b': --column says which it is."),
    ],
)
def test_what_is_no_id_is_named_by_file_and_line(
    tmp_path: Path, name: str, content: str | bytes, told: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(Problem) as caught:
        read_sources([path])
    assert str(caught.value).startswith(f"{path}, line ")
    assert told in str(caught.value)


def test_a_table_without_a_known_suffix_is_told_how_to_be_read(tmp_path: Path) -> None:
    table = write(tmp_path / "table", "id,name\n17,deed\n")
    with pytest.raises(Problem) as caught:
        read_sources([table])
    assert caught.value.hint.endswith(f"If {table} holds a table or JSON lines: --format says so.")
    assert read_sources([table], kind=SourceFormat.CSV) == [17]


def test_a_table_with_a_known_suffix_is_not_told_how_to_be_read(tmp_path: Path) -> None:
    table = write(tmp_path / "TABLE.CSV", "id\nx\n")
    with pytest.raises(Problem) as caught:
        read_sources([table])
    assert "--format" not in caught.value.hint


def test_beside_ids_a_table_may_hold_whole_documents(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", f"id,text\n17,{'x' * 200_000}\n18,y\n")
    assert read_sources([path]) == [17, 18]


def test_of_many_faults_the_first_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "\n".join("abcdefgh"))
    with pytest.raises(Problem) as caught:
        read_sources([path])
    assert len(caught.value.lines) == 6
    assert caught.value.lines[-1] == "3 more like these."


def test_a_missing_column_is_told_with_those_that_are_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ",".join(f"c{n}" for n in range(20)) + "\n")
    with pytest.raises(Problem, match=r"no 'x' among the columns 'c0', .* 'c11', …: --column"):
        read_sources([path], column="x")


def test_nothing_at_all_is_told(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="No sources were given"):
        read_sources(None)
    with pytest.raises(Problem, match="There are no source ids"):
        read_sources([write(tmp_path / "a.csv", "")])
    with pytest.raises(Problem, match="x1: neither a source id nor a file"):
        read_sources(["x1"])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        read_sources([str(tmp_path)])


def test_all_formats_have_a_reader() -> None:
    assert set(_sources._PARSERS) == set(SourceFormat)
