"""``export``, against a local AnnoLab."""

from __future__ import annotations

import csv
import json
import re
import signal
import zipfile
from io import StringIO
from typing import TYPE_CHECKING, Any

import anyio
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from annolab_async import Annotation, DownloadProgress, Export
from annolab_async._reading import read_records
from annolab_async.cli import _export, _export_display
from annolab_async.cli._display import Traffic
from annolab_async.cli._export_display import ExportDisplay, size
from annolab_async.cli._export_files import FileFormat, write_annotations
from annolab_async.emulator import Exports
from tests.cli.conftest import PLAN, MakePlace, Place
from tests.cli.terminal import CTRL_C

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

pytestmark = [pytest.mark.anyio, pytest.mark.sockets]

OF_PROJECT = PLAN[:4]


def run(place: Place, *sources: int, **env: str) -> None:
    arguments = ["run", *map(str, sources), *PLAN, "--batch-size", "2"]
    place.call(*arguments, env=env)


def predicted(place: Place) -> list[tuple[int, int]]:
    return sorted(
        (each.source_id, each.id)
        for job_id in place.emulator.jobs
        for each in place.emulator.predictions(job_id)
    )


def test_a_projects_annotations_come_as_a_zip_and_are_counted(place: Place) -> None:
    run(place, *range(1, 11))
    done = place.run("export", *OF_PROJECT, "-o", "x.zip")
    assert done.returncode == 0, done.stderr
    assert (place.folder / "x.zip").read_bytes() == place.emulator.archive(1)
    head, *rows, last = done.stdout.splitlines()
    assert head.split() == ["ANNOTATIONS", "LAYER", "TYPE"]
    assert all("  Gold Set  " in row for row in rows)
    number = len(predicted(place))
    assert sum(int(row.split()[0]) for row in rows) == number
    assert re.fullmatch(rf"{number} annotations in x\.zip, [\d.]+ kB", last)
    assert done.stderr == "Export 1 is initialized.\n"


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.ndjson", "x.parquet", "x.txt"])
def test_all_annotations_are_in_the_table_that_the_suffix_says(name: str, place: Place) -> None:
    run(place, *range(1, 11))
    more = ["--to", "csv"] if name == "x.txt" else []
    done = place.call("export", *OF_PROJECT, "-o", name, *more)
    assert done.returncode == 0, done.stderr
    path = place.folder / name
    rows: list[dict[str, Any]]
    if name == "x.parquet":
        rows = pq.ParquetFile(path).read().to_pylist()  # pyright: ignore[reportUnknownMemberType]
        found = [(row["source_id"], row["id"]) for row in rows]
    elif name in {"x.csv", "x.txt"}:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [*csv.DictReader(file)]
        found = [(int(row["source_id"]), int(row["id"])) for row in rows]
        assert int(rows[0]["start"]) < int(rows[0]["end"])
    else:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        found = [(row["sourceId"], row["id"]) for row in rows]
    assert sorted(found) == predicted(place)
    assert sorted(each.name for each in place.folder.iterdir() if each.name[0] == "x") == [name]


def test_an_export_may_be_narrowed_down_and_have_more_in_it(place: Place) -> None:
    run(place, *range(1, 7))
    (place.folder / "ids.txt").write_text("5\n")
    more = ["--include", "sources", "--include", "text-bounds", "--include", "annotation-types"]
    done = place.call(
        "export",
        *OF_PROJECT,
        *["--source-ids", "1,2", "--source-ids", "ids.txt", "--source-ids", "2 1"],
        *["--layers", "Gold Set"],
        *more,
        "--json",
    )
    assert done.returncode == 0, done.stderr
    (made,) = place.emulator.exports.values()
    assert made.source_ids == frozenset({1, 2, 5})
    first, last = map(json.loads, done.stdout.splitlines())
    assert (first["event"], first["export_id"], first["state"]) == ("export", 1, "initialized")
    assert last["event"] == "summary"
    assert last["files"] == ["export.zip"]
    assert last["annotations"] == sum(each["annotations"] for each in last["counts"])
    assert last["annotations"] == sum(each[0] in {1, 2, 5} for each in predicted(place))
    with zipfile.ZipFile(place.folder / "export.zip") as archive:
        assert len(archive.namelist()) > 2


def test_of_a_run_what_has_finished_is_exported(make_place: MakePlace) -> None:
    with make_place(bad_source_ids=[3]) as place:
        run(place, *range(1, 7))
        done = place.call("export", "--ledger", "run.db", "-o", "x.csv")
        assert done.returncode == 0, done.stderr
        assert "Of 6 sources 4 have finished.\n" in done.stderr
        (made,) = place.emulator.exports.values()
        assert made.source_ids == frozenset({1, 2, 5, 6})
        place.call("resume", "--on-error", "split")
        # Those of the batch that was split are counted in its halves.
        again = place.call("export", "--ledger", "run.db", "-o", "y.csv")
        assert "Of 6 sources 5 have finished.\n" in again.stderr
        (listed,) = map(json.loads, place.call("runs", "--json").stdout.splitlines())
        assert listed["sources"] == {"finished": 5, "errored": 1}


def test_of_a_large_run_there_are_several_exports_and_as_many_files(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_export, "_SOURCES_AT_ONCE", 4)
    run(place, *range(1, 11))
    done = place.call("export", "--ledger", "run.db", "-o", "x.zip")
    assert done.returncode == 0, done.stderr
    number = len(predicted(place))
    assert f"{number} annotations in x-1.zip, " in done.stdout
    assert "Further ones in x-2.zip, " in done.stdout
    for export_id in (1, 2, 3):
        found = (place.folder / f"x-{export_id}.zip").read_bytes()
        assert found == place.emulator.archive(export_id)
    done = place.call("export", "--ledger", "run.db", "-o", "x.jsonl", "--layers", "Gold Set")
    assert done.returncode == 0
    assert len((place.folder / "x.jsonl").read_text().splitlines()) == number


def test_an_export_that_is_there_can_be_fetched_again(place: Place) -> None:
    run(place, 1, 2)
    place.call("export", *OF_PROJECT)
    done = place.call("export", "--export", "1", "--export", "1", "-o", "again.zip")
    assert done.returncode == 0
    assert (place.folder / "again.zip").read_bytes() == place.emulator.archive(1)
    assert len(place.emulator.exports) == 1


def test_a_run_without_finished_sources_is_told_so(make_place: MakePlace) -> None:
    with make_place(error_share=1) as place:
        run(place, 1)
        done = place.call("export", "--ledger", "run.db")
        assert done.returncode == 1
        assert done.stderr == (
            "error: No source of run 'default' has finished yet.\n"
            "hint: annolab-async resume goes on with it.\n"
        )


def test_an_export_that_fails_at_the_server_is_told_with_its_words_inert(
    make_place: MakePlace,
) -> None:
    exports = Exports(bad_export_ids=[1], error="no \x1b[2Jspace")
    with make_place(exports=exports) as place:
        done = place.call("export", *OF_PROJECT)
    assert done.returncode == 1
    assert "error: Export 1: it failed at the server: no  [2Jspace.\n" in done.stderr
    assert "To go on" not in done.stderr
    assert not done.stdout
    assert not (place.folder / "export.zip").exists()


def test_one_that_takes_too_long_can_be_gone_on_with(make_place: MakePlace) -> None:
    with make_place(exports=Exports(seconds=3600)) as place:
        done = place.call(
            "export", *OF_PROJECT, "--timeout", "0.1", "--base-url", place.base_url + "/"
        )
    assert done.returncode == 1
    assert "To go on where it stopped:\n  annolab-async export --export 1 -o" in done.stderr
    assert f"--to zip --base-url {place.base_url}/\n" in done.stderr
    assert "error: Export 1: it has not ended within 0.1 s" in done.stderr


def test_a_download_that_is_interrupted_goes_on_where_it_stopped(
    make_place: MakePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: ExportDisplay, progress: DownloadProgress) -> None:
        del self
        if progress.received:
            signal.raise_signal(signal.SIGTERM)

    with make_place(most_predictions=500, seconds_per_source=0) as place:
        run(place, *range(1, 101))
        with monkeypatch.context() as patch:
            patch.setattr(ExportDisplay, "downloaded", interrupted)
            done = place.call("export", *OF_PROJECT, "-o", "x.jsonl")
        assert done.returncode == 130
        assert done.stderr.endswith(
            "Interrupted.\nTo go on where it stopped:\n"
            "  annolab-async export --export 1 -o x.jsonl --to jsonl\n"
        )
        assert not (place.folder / "x.jsonl").exists()
        there = (place.folder / "x.jsonl.1.zip.part").stat().st_size
        assert there
        done = place.call("export", "--export", "1", "-o", "x.jsonl", "--to", "jsonl")
        assert done.returncode == 0, done.stderr
        assert len((place.folder / "x.jsonl").read_text().splitlines()) == len(predicted(place))
        last = place.emulator.download_requests[-1]
        # With a byte of what is there, to see that it is the same file.
        assert (last.status_code, last.start) == (206, there - 1)
        assert not place.emulator.keys_at_downloads


def test_interrupted_before_there_is_an_export_there_is_nothing_to_go_on_with(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupted(*_: object) -> AsyncGenerator[Export]:
        signal.raise_signal(signal.SIGINT)
        await anyio.sleep_forever()
        yield  # type: ignore[misc]

    monkeypatch.setattr(_export, "_of_project", interrupted)
    done = place.call("export", *OF_PROJECT)
    assert done.returncode == 130
    assert done.stderr == "Interrupted.\n"


def test_on_a_terminal_a_bar_is_shown_and_ctrl_c_ends_it(make_place: MakePlace) -> None:
    with make_place(exports=Exports(seconds=3600)) as place:
        with place.on_terminal("export", *OF_PROJECT) as screen:
            screen.read_until("Waiting for export 1, 0:0")
            screen.press(CTRL_C)
            assert screen.wait() == 130
        assert "━━━━" in screen.shown
        assert "annolab-async export --export 1 -o export.zip --to zip" in screen.shown


def test_lines_that_cannot_be_read_are_told_counted_and_1(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(place, 1, 2)
    with zipfile.ZipFile(place.folder / "bad.zip", "w") as archive:
        lines = ['{"sourceId": 1, "layerId": 7}', "\x1b[31m", "{}", '{"sourceId": 2}']
        archive.writestr("a.annotations.jsonl", "\n".join(lines))

    def damaged(_: Export, **options: Any) -> Any:
        return read_records(place.folder / "bad.zip", Annotation, **options)

    monkeypatch.setattr(Export, "annotations", damaged)
    done = place.call("export", *OF_PROJECT, "-o", "x.csv")
    assert done.returncode == 1
    assert "Left out, as it cannot be read: 2 lines.\n" in done.stderr
    assert "a.annotations.jsonl, line 2" in done.stderr
    assert "\x1b" not in done.stderr
    assert [line.split() for line in done.stdout.splitlines()[1:3]] == [["1"], ["1", "7"]]
    assert len((place.folder / "x.csv").read_text().splitlines()) == 3


def test_a_bad_name_is_refused_by_the_server_and_told(place: Place) -> None:
    done = place.call("export", "--group", "Company Name", "--project", "No Such")
    assert done.returncode == 1
    assert re.fullmatch(r"error: .* answered 404: .*No Such.*\nhint: .*\n", done.stderr)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "It is not clear what to export.\nhint: Give --group and --project, or --ledger"),
        ([*OF_PROJECT, "--export", "1"], "It is not clear what to export."),
        (["--group", "Company Name"], "--group and --project go together."),
        (["--project", "1"], "--group and --project go together."),
        (["--export", "1", "--source-ids", "1"], "--source-ids go with --group and --project."),
        (["--export", "1", "--layers", "x"], "come too late for an export that is there."),
        (["--export", "0"], "--export"),
        ([*OF_PROJECT, "--source-ids", "x"], "x: neither a source id nor a file."),
        ([*OF_PROJECT, "--source-ids", "0,1"], "0: neither a source id nor a file."),
        (["--group", " ", "--project", "1"], "group_name is empty"),
        (["--ledger", "nope.db"], "There is no ledger nope.db."),
        ([*OF_PROJECT, "-o", "nowhere/x.zip"], "There is no folder nowhere."),
        ([*OF_PROJECT, "-o", "."], "--output"),
        ([*OF_PROJECT, "--to", "xlsx"], "--to"),
    ],
)
def test_wrong_usage_is_2_and_nothing_is_asked(
    arguments: list[str], told: str, place: Place
) -> None:
    done = place.call("export", *arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert not done.stdout
    assert not place.emulator.stats.requests


def test_without_what_writes_parquet_nothing_is_asked(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_nothing(_: str) -> None:
        return None

    monkeypatch.setattr(_export, "find_spec", find_nothing)
    done = place.call("export", *OF_PROJECT, "-o", "x.parquet")
    assert done.returncode == 2
    assert done.stderr.endswith("hint: pip install 'annolab-async[arrow]'\n")
    assert not place.emulator.stats.requests


ODD = Annotation(
    source_id=1,
    value='a "b", \ud800\n=1',
    offsets=(3, 4),
    text_bounds=[{"x": 1.5}],
    extra={"isNew": True},
)


@pytest.mark.parametrize("form", [FileFormat.CSV, FileFormat.JSONL])
async def test_odd_values_are_kept(form: FileFormat, tmp_path: Path) -> None:
    async def annotations() -> AsyncGenerator[Annotation]:
        for _ in range(1200):
            yield ODD

    await write_annotations(annotations(), tmp_path / "x", form)
    if form is FileFormat.JSONL:
        lines = (tmp_path / "x").read_text().splitlines()
        assert len(lines) == 1200
        assert json.loads(lines[0])["value"] == ODD.value
        return
    with (tmp_path / "x").open(encoding="utf-8", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert len(rows) == 1200
    assert rows[0]["value"] == 'a "b", ?\n=1'
    assert (rows[0]["start"], rows[0]["end"], rows[0]["id"]) == ("3", "4", "")
    assert json.loads(rows[0]["text_bounds"]) == ODD.text_bounds
    assert json.loads(rows[0]["extra"]) == ODD.extra


@pytest.mark.parametrize("form", [FileFormat.CSV, FileFormat.JSONL])
async def test_a_file_is_whole_or_what_was_there_stays(form: FileFormat, tmp_path: Path) -> None:
    async def annotations() -> AsyncGenerator[Annotation]:
        for _ in range(600):
            yield ODD
        raise ValueError("broken")

    (tmp_path / "x").write_text("before")
    with pytest.raises(ValueError, match="broken"):
        await write_annotations(annotations(), tmp_path / "x", form)
    assert not (tmp_path / "x.part").exists()
    assert (tmp_path / "x").read_text() == "before"
    with pytest.raises(FileNotFoundError):
        await write_annotations(annotations(), tmp_path / "nowhere" / "x", form)


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (12_345_678, "12.3 MB"),
        (10**10, "10.0 GB"),
        (10**13, "10.0 TB"),
        (10**16, "10000.0 TB"),
    ],
)
def test_sizes_are_told_in_fit_units(count: int, shown: str) -> None:
    assert size(count) == shown


async def test_where_there_is_no_terminal_a_line_now_and_then_tells_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(_export_display, "tell", lines.append)
    monkeypatch.setattr(_export_display, "_LINE_EVERY", 0.0)

    async def told(display: ExportDisplay) -> str:
        lines.clear()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(display.keep)
            await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
        return lines[0]

    traffic = Traffic()
    with ExportDisplay(traffic, is_live=False) as display:
        display.begin("Downloading export 1")
        assert await told(display) == "Downloading export 1, 0:00"
        display.downloaded(DownloadProgress(1500, None))
        assert await told(display) == "Downloading export 1, 0:00, 1.5 kB"
        display.downloaded(DownloadProgress(1500, 3000))
        assert await told(display) == "Downloading export 1, 0:00, 1.5 kB of 3.0 kB"
        display.begin("Reading", reads=True)
        display.read(1500)
        monkeypatch.setattr(traffic, "trouble", lambda: "trying again: x")
        assert await told(display) == "Reading, 0:00, 1,500 annotations, trying again: x"


async def test_on_a_terminal_the_bar_follows_the_download(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_export_display, "_REDRAWN_EVERY", 0.0)
    screen = Console(file=StringIO(), width=60)

    def drawn() -> str:
        with screen.capture() as captured:
            screen.print(display._drawn())
        return captured.get()

    with ExportDisplay(Traffic(), is_live=True) as display:
        display.begin("Downloading export 1")
        assert "Downloading export 1, 0:00" in drawn()
        display.downloaded(DownloadProgress(1500, 3000))
        assert "1.5 kB of 3.0 kB" in drawn()
        assert drawn().splitlines()[0].count("━") == 30
        with anyio.move_on_after(0.01):
            await display.keep()
