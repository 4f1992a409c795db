"""Exports as users have them: made, waited for, downloaded, read; in virtual time but for the downloads."""

from __future__ import annotations

import gc
import json
import re
import tempfile
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest

from annolab_async import (
    Annotation,
    AnnotationLayer,
    ArchiveLimits,
    AsyncInferenceClient,
    AuthenticationError,
    BatchPlan,
    BatchState,
    Export,
    ExportError,
    ExportJob,
    ExportState,
    ExportTimeout,
    FixedInterval,
    InvalidResponse,
    NotFound,
    Results,
    RetryPolicy,
    WaitTimeout,
)
from annolab_async.emulator import BadDownload, Emulator, EmulatorServer, Exports
from tests.results.test_official_sdk import SdkExport, lines, sdk_export, served
from tests.service import BASE_URL, KEY, a_request, an_emulator, in_process

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

pytestmark = pytest.mark.anyio

__all__ = ["sdk_export", "served"]

WHOSE: dict[str, Any] = {"group_name": "Company Name", "project": "My Project"}


@asynccontextmanager
async def serving(**settings: Any) -> AsyncGenerator[tuple[Emulator, AsyncInferenceClient]]:
    """Serve an emulator that has run a batch of 20 sources."""
    quick: dict[str, Any] = {
        "base_seconds": 0.0,
        "seconds_per_source": 0.0,
        "exports": Exports(wait_seconds=0.0, seconds=0.0),
    }
    emulator = Emulator(api_key=KEY, **quick | settings)
    async with (
        EmulatorServer(emulator) as server,
        AsyncInferenceClient(
            KEY, base_url=server.base_url, retry=RetryPolicy(first=0.001)
        ) as client,
    ):
        await client.wait(await client.submit(a_request(1, 20)))
        yield emulator, client


def a_plan(source_ids: range, *, output_layer_identifier: str | int = "Gold Set") -> BatchPlan:
    return BatchPlan(
        group_name="Company Name",
        project_identifier="My Project",
        model_identifier="Staple + Classify Documents",
        output_layer_identifier=output_layer_identifier,
        source_ids=source_ids,
        batch_size=5,
    )


def predicted(emulator: Emulator) -> list[dict[str, Any]]:
    return [each.to_json() for job_id in emulator.jobs for each in emulator.predictions(job_id)]


async def test_an_export_goes_from_its_making_to_its_end() -> None:
    emulator = an_emulator(exports=Exports(wait_seconds=10, seconds=20))
    async with in_process(emulator) as client:
        export = await client.export(**WHOSE)
        assert export.state is ExportState.INITIALIZED
        await anyio.sleep(15)
        assert (await export.refresh()).state is ExportState.STARTED
        began = anyio.current_time()
        job = await export.wait()
        assert job.state is ExportState.FINISHED
        assert 15 <= anyio.current_time() - began <= 30
        (record,) = emulator.exports.values()
        assert record.polls <= 12, "less and less often"
        assert await export.wait() == job
        (again,) = emulator.exports.values()
        assert again.polls == record.polls, "it has finished, and has its link"


async def test_a_file_comes_unencrypted_only_from_a_host_that_is_named(tmp_path: Path) -> None:
    emulator = an_emulator(exports=Exports(wait_seconds=1, seconds=1))

    def download_client() -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(app=emulator.downloads))

    async with in_process(emulator, download_client=download_client) as client:
        await client.wait(await client.submit(a_request()))
        export = await client.export(**WHOSE)
        with pytest.raises(ExportError) as caught:
            await export.download(tmp_path / "export.zip")
    assert "plain_http_hosts=['downloads.emulator']" in caught.value.hint
    assert not emulator.download_requests
    async with in_process(
        emulator, download_client=download_client, plain_http_hosts=["downloads.emulator"]
    ) as client:
        export = await client.export(**WHOSE)
        await export.download(tmp_path / "export.zip")


async def test_what_is_asked_for_is_what_is_sent() -> None:
    sent: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append({"path": request.url.path} | json.loads(request.content))
        return httpx.Response(201, json={"exportJob": {"id": 7, "status": "initialized"}})

    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http_client,
        AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=http_client) as client,
    ):
        await client.export(
            **WHOSE, source_ids=range(1, 4), layers=["A", "A", "B"], include_sources=True
        )
        await client.export_instruments(
            project_owner="Company Name", project_name="My Project", tag_filter=["deed"]
        )
    assert sent == [
        {
            "path": "/v1/export/project",
            "projectIdentifier": "My Project",
            "groupName": "Company Name",
            "includeAnnotationTypes": False,
            "includeSources": True,
            "includeTextBounds": False,
            "sourceIds": [1, 2, 3],
            "annotationLayerNames": ["A", "B"],
        },
        {
            "path": "/v1/export/instruments",
            "projectOwner": "Company Name",
            "projectName": "My Project",
            "includeFiles": False,
            "tagFilter": ["deed"],
        },
    ]


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ({"group_name": ""}, "group_name is empty"),
        ({"project": 0}, "project is 0, and ids begin at 1"),
        ({"source_ids": []}, "source_ids is empty; None asks for all"),
        ({"source_ids": [1, True, "2"]}, "source_ids holds True, '2': ids are integers from 1 up"),
        ({"layers": "Gold Set"}, "layers is 'Gold Set', not a collection"),
        ({"layers": [" "]}, "layers holds ' ': each is a name"),
        ({"include_sources": "yes"}, "include_sources is 'yes', neither True nor False"),
    ],
)
async def test_what_makes_no_sense_is_named_before_anything_is_sent(
    wrong: dict[str, Any], fault: str
) -> None:
    emulator = an_emulator()
    async with in_process(emulator) as client:
        with pytest.raises(ValueError, match=fault.replace("'", ".")):
            await client.export(**WHOSE | wrong)
    assert not emulator.exports


async def test_an_export_that_fails_says_why_the_server_says_so() -> None:
    emulator = an_emulator(exports=Exports(bad_export_ids=[1], error="the disk is full"))
    async with in_process(emulator) as client:
        export = await client.export(**WHOSE)
        with pytest.raises(
            ExportError, match="Export 1: it failed at the server: the disk is full"
        ):
            await export.wait()
        assert export.state is ExportState.ERRORED


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ({"message": "boom"}, '{"message": "boom"}'),
        (["boom", 7], '["boom", 7]'),
        ("", "it does not say why"),
        (None, "it does not say why"),
        (f"{KEY}\x1b[2J", "[API key] [2J"),
    ],
)
async def test_why_an_export_failed_is_told_however_the_server_says_it(
    error: object, told: str
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(201, json={"exportJob": {"id": 7}})
        return httpx.Response(200, json={"status": "errored", "error": error})

    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http_client,
        AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=http_client) as client,
    ):
        export = await client.export(**WHOSE)
        with pytest.raises(ExportError, match=re.escape(f"it failed at the server: {told}")):
            await export.wait()


@pytest.mark.parametrize(
    ("status_code", "body"), [(404, b"{}"), (200, b"<html>"), (200, b'{"status": "started"}')]
)
async def test_an_export_is_not_taken_for_the_job_of_the_same_id(
    status_code: int, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(201, json={"exportJob": {"id": 7}})
        return httpx.Response(status_code, content=body)

    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http_client,
        AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=http_client) as client,
    ):
        export = await client.export(**WHOSE)
        with pytest.raises(ExportError if status_code == 404 else ExportTimeout):
            await export.wait(timeout=200)
    assert "job" not in caplog.text.lower().replace("_watcher", "")
    assert {getattr(record, "inference_job_id", None) for record in caplog.records} == {None}
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert all("Poll of export 7 failed" in warning for warning in warnings)
    assert bool(warnings) == (body == b"<html>")


async def test_an_export_that_takes_too_long_goes_on_and_can_be_waited_for_again() -> None:
    emulator = an_emulator(exports=Exports(wait_seconds=10, seconds=100))
    async with in_process(emulator) as client:
        export = await client.export(**WHOSE)
        with pytest.raises(
            ExportTimeout, match=r"not ended within 50 s .last seen started"
        ) as caught:
            await export.wait(timeout=50)
        assert isinstance(caught.value, WaitTimeout)
        assert caught.value.timeout == 50
        await export.wait(timeout=100)


async def test_another_process_goes_on_with_an_export_that_was_written_down() -> None:
    emulator = an_emulator()
    async with in_process(emulator) as client:
        line = (await client.export(**WHOSE)).to_json()
        again = await client.get_export(ExportJob.from_json(line))
        assert (await again.wait()).export_id == 1
        assert (await client.get_export(1)).state is ExportState.FINISHED
        with pytest.raises(NotFound):
            await client.get_export(99)
        for wrong in (0, True, "../../admin"):
            with pytest.raises(ValueError, match="neither an ExportJob nor an export's id"):
                await client.get_export(wrong)  # type: ignore[arg-type]  # that is the point
    for line in ("{}", '{"exportId": 1, "status": "x", "statusPath": "/../admin?x"}'):
        with pytest.raises(ValueError, match="export"):
            ExportJob.from_json(line)


async def test_a_key_that_may_not_is_raised_plain() -> None:
    emulator = an_emulator()
    async with in_process(emulator, api_key="X" + KEY[1:-1] + "Y") as client:
        with pytest.raises(AuthenticationError):
            await client.export(**WHOSE)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("http://localhost/v1/export/status/341", "/v1/export/status/341"),
        ("http://localhost/v1/export/instruments/status/341", "/v1/export/instruments/status/341"),
        ("https://api.annolab.ai/v1/export/status/341", "/v1/export/status/341"),
        ("http://evil.example/steal/341", "/v1/export/status/341"),
        ("http://localhost/v1/export/../admin/341", "/v1/export/status/341"),
        ("http://localhost/v1/export/status/341?to=/admin", "/v1/export/status/341"),
        (None, "/v1/export/status/341"),
    ],
)
async def test_its_status_is_asked_for_at_the_base_urls_origin_and_nowhere_else(
    url: str | None, path: str
) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        if request.method == "POST":
            body = {"exportStatusUrl": url, "exportJob": {"id": 341, "status": "initialized"}}
            return httpx.Response(201, json=body)
        return httpx.Response(200, json={"status": "started"})

    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http_client,
        AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=http_client) as client,
    ):
        export = await client.export(**WHOSE)
        await export.refresh()
    assert asked[1] == f"{BASE_URL}{path}"


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b'{"status": 3}',
        b'{"id": 8, "status": "finished"}',
        b'{"status": "finished", "status": "started"}',
    ],
)
async def test_an_answer_that_is_none_is_no_end_and_shows_no_link(body: bytes) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(201, json={"exportJob": {"id": 7}})
        return httpx.Response(200, content=body)

    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http_client,
        AsyncInferenceClient(
            KEY, base_url=BASE_URL, http_client=http_client, retry=RetryPolicy(attempts=1)
        ) as client,
    ):
        export = await client.export(**WHOSE)
        with pytest.raises(InvalidResponse, match=r"something else than (an|the) export") as caught:
            await export.refresh()
        assert caught.value.excerpt == ""
        with pytest.raises(ExportError, match="can no longer be asked for"):
            await export.wait()


@pytest.mark.sockets
async def test_every_prediction_comes_out_once_under_its_source(tmp_path: Path) -> None:
    async with serving() as (emulator, client):
        export = await client.export(**WHOSE, layers=["Gold Set"])
        path = await export.download(tmp_path / "predictions.zip")
        found = [annotation async for annotation in export.annotations()]
        layers = [layer async for layer in export.layers()]
        assert (await export.archive()).unknown_entries == ()
    told = predicted(emulator)
    assert len(told) > 10
    assert [(each.id, each.source_id, each.value, each.offsets) for each in found] == [
        (each["id"], each["sourceId"], each["value"], tuple(each["offsets"])) for each in told
    ]
    assert [layer.name for layer in layers] == ["Gold Set"]
    assert lines(path, "annotations") == told
    assert emulator.keys_at_downloads == 0


@pytest.mark.sockets
async def test_what_is_read_without_being_downloaded_leaves_no_file() -> None:
    async with serving() as (emulator, client):
        export = await client.export(**WHOSE)
        async with anyio.create_task_group() as tasks:  # all at once, and yet it is fetched once
            tasks.start_soon(to_end, export.annotations)
            tasks.start_soon(to_end, export.layers)
        assert sum(asked.method == "GET" for asked in emulator.download_requests) == 1
        folder = (await export._fetched()).parent
        assert folder.exists()
        del export
        gc.collect()
        with anyio.fail_after(10):
            while await anyio.to_thread.run_sync(folder.exists):  # noqa: ASYNC110  # nobody tells
                await anyio.sleep(0.001)


@pytest.mark.sockets
async def test_what_is_read_goes_on_where_fetching_it_broke_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    async with serving() as (emulator, client):
        export = await client.export(**WHOSE)
        attempts = RetryPolicy().attempts
        emulator.plan_downloads(BadDownload(cut_after=50), *[BadDownload(cut_after=0)] * attempts)
        with pytest.raises(ExportError, match="goes on where it stopped"):
            await to_end(export.annotations)
        await to_end(export.annotations)
        assert names_below(tmp_path) == [f"{export.export_id}.zip"]
    first, *rest = [asked.range for asked in emulator.download_requests]
    assert first is None
    assert all(rest), "none of them began anew"


def names_below(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*/*")]


async def to_end(read: Callable[[], Any]) -> None:
    async for _ in read():
        pass


@pytest.mark.sockets
async def test_a_link_that_has_expired_is_asked_for_anew(tmp_path: Path) -> None:
    async with serving() as (emulator, client):
        export = await client.export(**WHOSE)
        await export.wait()
        emulator.plan_downloads(BadDownload(is_expired=True), BadDownload(cut_after=50))
        path = await export.download(tmp_path / "predictions.zip")
        assert path.read_bytes() == emulator.archive(export.export_id)
    assert [asked.status_code for asked in emulator.download_requests] == [403, 200, 206]


@pytest.mark.sockets
async def test_who_trusts_a_large_file_may_raise_its_limits() -> None:
    async with serving() as (emulator, client):
        export = await client.export(**WHOSE)
        export.archive_limits = ArchiveLimits(max_bytes=100)
        with pytest.raises(ExportError, match="raise max_bytes of the export's archive_limits"):
            await anext(export.annotations())
        export.archive_limits = ArchiveLimits()
        found = [each.value async for each in export.annotations()]
    assert len(found) == len(predicted(emulator))


@pytest.mark.sockets
async def test_kinds_that_were_not_asked_for_are_named_with_how_to_ask() -> None:
    async with serving() as (_, client):
        export = await client.export(**WHOSE)
        with pytest.raises(ExportError, match="Export with include_sources=True"):
            await to_end(export.sources)
        whole = await client.export(
            **WHOSE, include_sources=True, include_text_bounds=True, include_annotation_types=True
        )
        reads = [whole.sources, whole.text_bounds, whole.annotation_types, whole.relations]
        for read in [*reads, whole.layers, whole.annotations]:
            await to_end(read)
        with pytest.raises(ValueError, match="on_bad_line"):
            whole.annotations(on_bad_line="ignore")  # type: ignore[arg-type]  # that is the point


@pytest.mark.sockets
async def test_it_is_given_out_as_tables(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    pytest.importorskip("pandas")
    async with serving() as (emulator, client):
        export = await client.export(**WHOSE)
        table = await export.to_arrow()
        frame = await export.to_pandas()
        rows = await export.write_parquet(tmp_path / "predictions.parquet")
        assert (await export.to_arrow(AnnotationLayer)).column("name").to_pylist() == ["Gold Set"]
    told = predicted(emulator)
    assert len(table) == len(frame) == rows == len(told)
    assert table.column("value").to_pylist() == [each["value"] for each in told]


@pytest.mark.sockets
@pytest.mark.parametrize("sources_at_once", [10_000, 7])
async def test_a_run_is_exported_and_read_source_by_source(sources_at_once: int) -> None:
    emulator = Emulator(
        api_key=KEY,
        workers=40,
        base_seconds=0.0,
        seconds_per_source=0.0,
        bad_source_ids=[33],
        exports=Exports(wait_seconds=0.0, seconds=0.0),
    )
    plan = a_plan(range(1, 201))
    async with (
        EmulatorServer(emulator) as server,
        AsyncInferenceClient(KEY, base_url=server.base_url) as client,
        client.fan_out(plan) as run,
    ):
        with pytest.raises(ExportError, match="no source of the run has finished"):
            await run.export()
        async for _ in run:
            pass
        results = await run.results()
        exports = await run.export(sources_at_once=sources_at_once)
        await exports.wait()
        again = [annotation.id async for annotation in exports.annotations()]
        async for _ in exports.annotations():
            break
        gc.collect()  # warnings are errors
    assert len(exports.parts) == (1 if sources_at_once > 200 else 28)
    told = predicted(emulator)
    found = [annotation for result in results.values() for annotation in result.annotations]
    assert sorted(each.id or 0 for each in found) == sorted(each["id"] for each in told)
    assert sorted(again, key=str) == sorted((each["id"] for each in told), key=str)
    assert set(results) == {*range(1, 201)} - {31, 32, 33, 34, 35}, "those of the bad batch"
    assert results.without_annotations, "sources in which nothing was found are there, too"
    for source_id, result in results.items():
        job = emulator.jobs[result.inference_job_id]
        assert source_id in job.source_ids
        assert result.batch == (source_id + 4) // 5
        made = emulator.predictions(result.inference_job_id)
        assert [each.id for each in result.annotations] == [
            each.id for each in made if each.source_id == source_id
        ]


@pytest.mark.sockets
@pytest.mark.parametrize("layer", ["Second Look", 13])
async def test_only_what_is_in_the_output_layer_is_a_result(layer: str | int) -> None:
    layers = {"Gold Set": 12, "Second Look": 13}
    async with (
        serving(layers=layers) as (_, client),  # whose batch was for the first of them
        client.fan_out(
            a_plan(range(1, 21), output_layer_identifier=layer), schedule=FixedInterval(0.1)
        ) as run,
    ):
        async for _ in run:
            pass
        results = await run.results()
    found = [each.layer_name for result in results.values() for each in result.annotations]
    assert set(found) == {"Second Look"}


@pytest.mark.sockets
async def test_results_name_the_batch_and_the_job_that_a_source_came_to_in_the_end() -> None:
    plan = a_plan(range(101, 121))
    async with (
        serving(bad_source_ids=[103]) as (emulator, client),
        client.fan_out(plan, on_error="split", schedule=FixedInterval(0.1)) as run,
    ):
        async for _ in run:
            pass
        batches = {batch.number: batch async for batch in run.batches()}
        results = await run.results()
    assert set(results) == {*range(101, 121)} - {103}
    for source_id, result in results.items():
        batch = batches[result.batch]
        assert source_id in batch.source_ids
        assert batch.inference_job_id == result.inference_job_id
        assert [each.id for each in result.annotations] == [
            each.id
            for each in emulator.predictions(result.inference_job_id)
            if each.source_id == source_id
        ]


@pytest.mark.sockets
async def test_what_finishes_while_results_are_fetched_is_not_said_to_have_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = a_plan(range(1, 41))
    async with (
        serving(workers=1, base_seconds=0.2) as (emulator, client),
        client.fan_out(plan, schedule=FixedInterval(0.1)) as run,
    ):
        export, has_ended, results = client.export, anyio.Event(), list[Results]()

        async def export_and_wait(**what: Any) -> Export:
            made = await export(**what)
            await has_ended.wait()
            return made

        async def fetch() -> None:
            results.append(await run.results())

        monkeypatch.setattr(client, "export", export_and_wait)
        async with anyio.create_task_group() as tasks:
            async for record in run:
                if record.state is BatchState.FINISHED and record.number == 1:
                    tasks.start_soon(fetch)
            has_ended.set()
        (result,) = results
    made = {each["sourceId"] for each in predicted(emulator)}
    assert result
    assert not made.intersection(result.without_annotations)


@pytest.mark.sockets
async def test_the_sdks_export_and_ours_hold_the_same(
    sdk_export: SdkExport, tmp_path: Path
) -> None:
    async with AsyncInferenceClient(KEY, base_url=sdk_export.served.base_url) as client:
        export = await client.export(
            group_name=sdk_export.group_name,
            project=sdk_export.project_name,
            include_annotation_types=True,
            include_sources=True,
            include_text_bounds=True,
        )
        path = await export.download(tmp_path / "ours.zip")
        ours = [annotation async for annotation in export.annotations()]
    for kind in ("annotations", "sources", "text-bounds", "layers", "relations", "atntypes"):
        assert lines(path, kind) == lines(sdk_export.path, kind)
    theirs = lines(sdk_export.path, "annotations")
    assert [(each.id, each.source_id, each.type_name, each.value) for each in ours] == [
        (each["id"], each["sourceId"], each["typeName"], each["value"]) for each in theirs
    ]
    assert isinstance(ours[0], Annotation)
    assert repr(export) == f"<Export {export.export_id}: finished>"
    assert isinstance(export, Export)
