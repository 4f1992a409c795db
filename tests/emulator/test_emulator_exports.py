"""Exports in-process: from being asked for to what is in the zip."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from typing import Any

import anyio
import httpx
import pytest

from annolab_async.emulator import Emulator, Exports
from tests.emulator.asking import EXPORT, GROUP, PROJECT, Service, unzipped
from tests.service import KEY

pytestmark = [pytest.mark.anyio, pytest.mark.any_backend]

STATUS = "/v1/export/status"


async def test_an_export_goes_from_initialized_over_started_to_finished() -> None:
    async with Service(exports=Exports(wait_seconds=5, seconds=10)) as service:
        service.now = 100.0
        await service.export()
        shown: list[str] = []
        for service.now in (100.0, 104.9, 105.0, 114.9, 115.0):
            answer = await service.get(f"{STATUS}/1")
            assert (answer["id"], answer["projectId"]) == (1, 2)
            assert ("downloadUrl" in answer) == (answer["status"] == "finished")
            shown.append(answer["status"])
    assert shown == ["initialized", "initialized", "started", "started", "finished"]
    export = service.emulator.exports[1]
    assert export.statuses_shown == ("initialized", "started", "finished")
    assert (export.requested_at, export.started_at, export.ended_at) == (100, 105, 115)
    assert (export.polls, len(export.links)) == (5, 1)


@pytest.mark.parametrize("base_url", ["http://localhost", "https://annolab.test:8443"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/export/project", EXPORT),
        ("/v1/export/instruments", {"projectOwner": GROUP, "projectName": PROJECT}),
    ],
)
async def test_the_status_url_lies_where_the_request_came_to(
    base_url: str, path: str, body: dict[str, Any]
) -> None:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=Emulator(api_key=KEY).app),
        headers={"Authorization": f"Api-Key {KEY}"},
    ) as client:
        answer = await client.post(base_url + path, json=body)
        assert answer.status_code == 201
        assert answer.json() == {
            "message": "Export initialized",
            "exportStatusUrl": f"{base_url}/v1/export/status/1",
            "exportJob": {"id": 1, "status": "initialized", "projectId": 2},
        }
        assert (await client.get(answer.json()["exportStatusUrl"])).status_code == 200


async def test_chosen_exports_end_errored_and_say_why() -> None:
    rules = Exports(wait_seconds=0, seconds=1, bad_export_ids=[2], error="the disk is full")
    async with Service(exports=rules) as service:
        for _ in range(3):
            await service.export()
        service.now = 1.0
        answers = [await service.get(f"{STATUS}/{number}") for number in (1, 2, 3)]
    assert [answer["status"] for answer in answers] == ["finished", "errored", "finished"]
    assert answers[1]["error"] == "the disk is full"
    assert "downloadUrl" not in answers[1]
    assert "error" not in answers[0]


def test_a_share_of_the_exports_ends_errored_the_same_ones_for_the_same_seed() -> None:
    def bad(seed: int) -> list[int]:
        rules = Exports(error_share=0.3, seed=seed)
        return [number for number in range(1, 501) if rules.final_status(number) == "errored"]

    assert bad(1) == bad(1) != bad(2)
    assert 100 < len(bad(1)) < 200


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("wait_seconds", [-1, None, float("inf"), True]),
        ("seconds", [-1, "1", float("nan")]),
        ("link_seconds", [-1, None]),
        ("error_share", [-0.1, 1.1, None, True]),
        ("bad_export_ids", [None, 5, "12", [True], [None]]),
        ("error", [None, 5]),
        ("seed", [None, 0.5]),
    ],
)
def test_invalid_rules_are_named(option: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=f"{option} must"):
            Exports(**{option: value})


REFUSED: list[tuple[Any, int, str]] = [
    ({"groupName": GROUP}, 400, "projectIdentifier: is required"),
    (EXPORT | {"includeSources": "yes"}, 400, "includeSources: must be true or false"),
    (EXPORT | {"sourceIds": []}, 400, "sourceIds: must be a non-empty array"),
    (EXPORT | {"sourceIds": [1, "2"]}, 400, "see index 1"),
    (EXPORT | {"annotationLayerNames": [1]}, 400, "must be a non-empty array of names"),
    (EXPORT | {"annotationLayerNames": ["Nope"]}, 404, "layers ['Nope']"),
    (EXPORT | {"projectIdentifier": "Nope"}, 404, "project 'Nope'"),
    (EXPORT | {"groupName": "Nope"}, 404, "group 'Nope'"),
    ([], 400, "must be a JSON object"),
]


@pytest.mark.parametrize(("body", "status_code", "told"), REFUSED)
async def test_what_cannot_be_exported_is_refused(body: Any, status_code: int, told: str) -> None:
    async with Service() as service:
        answer = await service.post("/v1/export/project", body, status_code)
        assert told in answer["message"]
        assert not service.emulator.exports


async def test_the_key_is_checked_and_needs_no_permission_to_run_models() -> None:
    async with Service(api_keys_without_model_run=["weak"]) as service:
        for key, status_code in (("nonsense", 401), ("weak", 201)):
            service.api.headers["Authorization"] = f"Api-Key {key}"
            await service.post("/v1/export/project", EXPORT, status_code)
        await service.post("/v1/infer/batch", {}, 403)


@pytest.mark.parametrize("export_id", ["2", "0", "-1", "x", "1.0", "9" * 5000])
async def test_an_export_that_there_is_not_is_not_found(export_id: str) -> None:
    async with Service() as service:
        await service.export()
        assert "not found" in (await service.get(f"{STATUS}/{export_id}", 404))["message"]


async def test_the_zip_has_the_predictions_of_finished_jobs() -> None:
    async with Service(seed=3) as service:
        jobs = [await service.predict(*range(first, first + 10)) for first in (1, 11, 21)]
        files = await service.exported()
        made = [each for job in jobs for each in service.emulator.predictions(job)]
    assert files["annotations"] == [prediction.to_json() for prediction in made]
    assert files["layers"] == [
        {"id": 12, "name": "Gold Set", "isGoldSet": True, "description": None}
    ]
    assert files.keys() == {"annotations", "layers", "relations"}
    assert len({line["id"] for line in files["annotations"]}) == len(made) > 30


async def test_an_export_holds_what_there_was_when_it_was_asked_for() -> None:
    rules = Exports(wait_seconds=0, seconds=100)
    async with Service(exports=rules, base_seconds=1.0) as service:
        first = await service.predict(1, 2, 3)
        service.now = service.emulator.job(first).ended_at
        second = await service.predict(4, 5, 6)
        await service.export()
        service.now += 1000
        await service.predict(7, 8, 9)
        service.now += 1000
        files = unzipped((await service.foreign.get(await service.link())).content)
        assert service.emulator.predictions(second)
    held = {line["id"] for line in files["annotations"]}
    assert held == {prediction.id for prediction in service.emulator.predictions(first)} != set()


async def test_a_job_that_errors_or_runs_has_predicted_nothing() -> None:
    async with Service(base_seconds=10.0, bad_source_ids=[7]) as service:
        good, bad = await service.predict(1, 2, 3), await service.predict(7, 8, 9)
        assert service.emulator.predictions(good) == ()
        service.now = 1000.0
        assert service.emulator.predictions(good)
        assert service.emulator.predictions(bad) == ()
        files = await service.exported()
    assert {line["sourceId"] for line in files["annotations"]} <= {1, 2, 3}


async def test_an_export_holds_only_the_sources_and_layers_asked_for() -> None:
    async with Service(layers={"Gold Set": 12, "Second": 13}) as service:
        gold = await service.predict(*range(1, 21))
        second = await service.predict(*range(1, 21), outputLayerIdentifier="Second")
        everything = [*service.emulator.predictions(gold), *service.emulator.predictions(second)]
        files = await service.exported(
            sourceIds=[3, 5, 7, 9], annotationLayerNames=["Second"], includeSources=True
        )
    wanted = [
        each.to_json()
        for each in everything
        if each.layer_name == "Second" and each.source_id in {3, 5, 7, 9}
    ]
    assert files["annotations"] == wanted != []
    assert [layer["name"] for layer in files["layers"]] == ["Second"]
    assert [source["sourceId"] for source in files["sources"]] == [3, 5, 7, 9]


async def test_predictions_lie_in_the_text_of_their_source() -> None:
    async with Service() as service:
        await service.predict(*range(1, 31))
        files = await service.exported(includeSources=True, includeAnnotationTypes=True)
    texts = {source["sourceId"]: source["text"] for source in files["sources"]}
    types = {kind["id"]: kind["name"] for kind in files["atntypes"]}
    assert len(set(texts.values())) == 30
    assert any(not text.isascii() for text in texts.values())
    for line in files["annotations"]:
        start, end = line["offsets"]
        assert line["value"] == line["rawValue"] == texts[line["sourceId"]][start:end] != ""
        assert types[line["typeId"]] == line["typeName"]


async def test_the_same_seed_predicts_the_same_and_another_does_not() -> None:
    async def predicted(seed: int) -> Any:
        async with Service(seed=seed) as service:
            await service.predict(*range(1, 51))
            return service.emulator.predictions(1)

    assert await predicted(1) == await predicted(1) != await predicted(2)
    counts = [
        sum(each.source_id == source for each in await predicted(1)) for source in range(1, 51)
    ]
    assert set(counts) == {0, 1, 2, 3, 4, 5}


async def test_the_sources_of_a_project_are_its_own_and_those_that_batches_named() -> None:
    async with Service() as service:
        body = {"projectIdentifier": 2, "groupName": GROUP, "sourceName": "a", "text": ""}
        own = (await service.post("/v1/source/create-text", body))["id"]
        await service.predict(own, 7)
        await service.predict(7, 8, projectIdentifier="Sample Project")
        await service.predict(7, own)
        files = await service.exported(includeSources=True, includeTextBounds=True)
        part = await service.exported(includeSources=True, sourceIds=[7, 8])
        made = service.emulator.predictions(1)
    assert [source["sourceId"] for source in files["sources"]] == [own, 7]
    assert [bounds["sourceId"] for bounds in files["text-bounds"]] == [own, 7]
    assert [source["sourceId"] for source in part["sources"]] == [7]
    assert {line["sourceId"] for line in files["annotations"]} <= {own, 7}
    # A text without words still can be classified as a whole.
    assert {(each.offsets, each.value) for each in made if each.source_id == own} <= {((0, 0), "")}


async def test_an_export_of_instruments_has_files_of_its_own() -> None:
    async with Service() as service:
        await service.predict(1, 2)
        body = {"projectOwner": GROUP, "projectName": PROJECT, "tagFilter": "x"}
        for options in ({}, {"includeFiles": True}):
            await service.post("/v1/export/instruments", body | options)
        bare, full = [
            unzipped((await service.foreign.get(await service.link(number))).content)
            for number in (1, 2)
        ]
    assert bare.keys() == {"instruments", "project"}
    assert [line["sourceId"] for line in bare["instruments"]] == [1, 2]
    assert ["text" in line for line in (bare["instruments"][0], full["instruments"][0])] == [
        False,
        True,
    ]
    assert service.emulator.exports[2].kind == "instruments"


@pytest.mark.parametrize(
    "name", ["../../etc", "a/b\\c", "...", "Größe 5 (neu)", "\u202e", "\ud800"]
)
async def test_no_name_of_a_project_makes_a_file_that_lies_elsewhere(name: str) -> None:
    async with Service(projects={name: 1}) as service:
        content = f'{{"groupName": "{GROUP}", "projectIdentifier": 1}}'
        answer = await service.api.post("/v1/export/project", content=content)
        assert answer.status_code == 201
        await service.predict(1, 2, 3, projectIdentifier=1)
        zipped = (await service.foreign.get(await service.link())).content
    assert unzipped(zipped).keys() == {"annotations", "layers", "relations"}
    for info in zipfile.ZipFile(io.BytesIO(zipped)).infolist():
        assert not set("/\\\0") & set(info.orig_filename)
        assert not info.orig_filename.startswith(".")


@pytest.mark.thorough
async def test_a_large_zip_takes_the_memory_of_its_compressed_bytes() -> None:
    async with Service(most_predictions=200) as service:
        await service.predict(*range(1, 501))
        await service.export()
        tracemalloc.start()
        try:
            archive = service.emulator.archive(1)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    lines = unzipped(archive)["annotations"]
    assert len(lines) > 30_000
    # The zip itself, the copy that is returned, and what a few hundred lines need.
    assert peak < 3 * len(archive) + 2**20


async def test_who_waits_for_a_large_zip_holds_up_no_other_request() -> None:
    order: list[str] = []
    async with Service(most_predictions=200) as service, anyio.create_task_group() as group:
        await service.predict(*range(1, 101))
        await service.export()
        link = await service.link()

        async def download() -> None:
            assert (await service.foreign.get(link)).status_code == 200
            order.append("downloaded")

        async def look() -> None:
            await service.get(f"{STATUS}/1")
            order.append("looked")

        group.start_soon(download)
        group.start_soon(look)
    assert order == ["looked", "downloaded"]
