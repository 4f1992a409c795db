"""Projects and what is in them, in-process: what is made, what is refused, and how jobs meet it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.emulator.asking import GROUP, PROJECT, Service

pytestmark = [pytest.mark.anyio, pytest.mark.any_backend]

BULK = "/v1/annotation/bulk-create"
RELATIONS = "/v1/relation/bulk-create"
TEXT = "one two three"


async def prepared(service: Service) -> tuple[int, int]:
    """Make a project with a layer, a type and a source; return its id and the source's."""
    project = await service.post("/v1/project/create", {"name": "New", "groupName": GROUP})
    about = {"projectIdentifier": project["id"]}
    await service.post("/v1/layer/create", about | {"layerName": "By hand"})
    await service.post("/v1/annotation-type/create", about | {"typeName": "Deed"})
    source = await service.post(
        "/v1/source/create-text", about | {"groupName": GROUP, "sourceName": "a", "text": TEXT}
    )
    return project["id"], source["id"]


def annotation(**changes: Any) -> dict[str, Any]:
    return {
        "projectIdentifier": "New",
        "sourceIdentifier": "a",
        "annoTypeIdentifier": "Deed",
    } | changes


def bulk(*items: Any, **options: Any) -> dict[str, Any]:
    return {"annotations": items} | options


async def test_the_first_group_is_the_one_of_the_keys_user() -> None:
    async with Service(groups={"Me": 7, "Us": 8}) as service:
        assert await service.get("/v1/api-key/info") == {
            "groups": [
                {"groupName": "Me", "groupId": 7, "isSingleUser": True},
                {"groupName": "Us", "groupId": 8, "isSingleUser": False},
            ]
        }


async def test_a_project_is_found_in_its_own_group_alone() -> None:
    async with Service(groups={"Me": 7, "Us": 8}) as service:
        mine, ours = [
            await service.post("/v1/project/create", {"name": "Same name", "groupName": group})
            for group in ("Me", "Us")
        ]
        assert mine["id"] != ours["id"]
        assert await service.get("/v1/project/Me/Same%20name") == mine
        assert await service.get("/v1/project/Us/Same%20name") == ours
        await service.get("/v1/project/Us/Other", 404)
        await service.get("/v1/project/Them/Same%20name", 404)
        for group, project in (("Me", mine), ("Us", ours)):
            body = {"groupName": group, "projectIdentifier": project["id"]}
            exported = await service.post("/v1/export/project", body)
            assert exported["exportJob"]["projectId"] == project["id"]
        foreign = {"groupName": "Me", "projectIdentifier": ours["id"]}
        await service.post("/v1/export/project", foreign, 404)


async def test_the_projects_from_the_start_are_in_every_group() -> None:
    async with Service(groups={"Me": 7, "Us": 8}, projects={"P": 3}) as service:
        for group in ("Me", "Us"):
            assert (await service.get(f"/v1/project/{group}/P"))["groupName"] == group
            body = {"name": "P", "groupName": group}
            assert "exists" in (await service.post("/v1/project/create", body, 409))["message"]
        await service.post("/v1/project/create", {"name": "Q", "groupName": "Them"}, 404)


async def test_a_source_is_found_by_its_id_and_by_its_path() -> None:
    async with Service() as service:
        project_id, source_id = await prepared(service)
        by_id = await service.get(f"/v1/source/{source_id}")
        assert await service.get(f"/v1/source/{GROUP}/New/Uploads/a") == by_id
        assert by_id == {
            "id": source_id,
            "sourceId": source_id,
            "projectId": project_id,
            "sourceName": "a",
            "directoryName": "Uploads",
            "type": "text",
            "text": TEXT,
        }
        for path in ("1", "x", f"{GROUP}/New/Uploads/b", f"{GROUP}/New/Else/a"):
            assert "not found: source" in (await service.get(f"/v1/source/{path}", 404))["message"]


async def test_jobs_run_in_projects_and_layers_that_were_made() -> None:
    async with Service() as service:
        project_id, source_id = await prepared(service)
        job_id = await service.predict(
            source_id, projectIdentifier="New", outputLayerIdentifier="By hand"
        )
        job = service.emulator.job(job_id)
        assert (job.project_id, job.output_layer_name) == (project_id, "By hand")
        for prediction in service.emulator.predictions(job_id):
            assert prediction.value
            assert prediction.value in TEXT
        # The layers from the start belong to the projects from the start.
        body = {
            "groupName": GROUP,
            "projectIdentifier": PROJECT,
            "modelIdentifier": 1,
            "outputLayerIdentifier": "By hand",
            "sourceIds": [1],
        }
        assert "layer 'By hand'" in (await service.post("/v1/infer/batch", body, 404))["message"]


FAULTY: list[tuple[str, dict[str, Any], str]] = [
    ("project/create", {"name": ""}, "name: must be a non-empty string; groupName: is req"),
    ("project/create", {"name": "a", "groupName": "b", "isPublic": 1}, "isPublic: must be"),
    ("layer/create", {"projectIdentifier": 0, "layerName": "a"}, "projectIdentifier: must be"),
    ("annotation-type/create", {"projectIdentifier": 1}, "typeName: is required"),
    ("source/create-text", {"projectIdentifier": 1, "sourceName": "a"}, "text: is required"),
    ("annotation/bulk-create", {}, "annotations: is required"),
    ("annotation/bulk-create", {"annotations": [1]}, "must be an array of objects"),
    ("annotation/bulk-create", {"annotations": [{}] * 2001}, "not hold more than 2000"),
    ("relation/bulk-create", {"relations": [{}]}, "relations[0]: predecessorId: is required"),
]


@pytest.mark.parametrize(("path", "body", "told"), FAULTY)
async def test_faulty_bodies_are_refused(path: str, body: dict[str, Any], told: str) -> None:
    async with Service() as service:
        assert told in (await service.post(f"/v1/{path}", body, 400))["message"]


REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"annoTypeIdentifier": "Nope"}, 404, "annotations[1]: not found: annotation type 'Nope'"),
    ({"layerIdentifier": "Nope"}, 404, "annotations[1]: not found: layer 'Nope'"),
    ({"sourceIdentifier": "Nope"}, 404, "annotations[1]: not found: source 'Nope' in 'Uploads'"),
    ({"sourceIdentifier": 5}, 404, "annotations[1]: not found: source 5"),
    ({"directoryIdentifier": "Nope"}, 404, "annotations[1]: not found: source 'a' in 'Nope'"),
    ({"projectIdentifier": "Nope"}, 404, "annotations[1]: not found: project 'Nope'"),
    ({"offsets": [0, 14]}, 400, "13 characters"),
    ({"offsets": [5, 4]}, 400, "offsets: must be an array of two integers"),
    ({"offsets": [0, True]}, 400, "offsets: must be an array of two integers"),
    ({"pageNumber": 0}, 400, "pageNumber: must be a positive integer"),
    ({"bbox": [1, 2, 3]}, 400, "bbox: must be an array of four numbers"),
    ({"textBounds": []}, 400, "textBounds: must be an object"),
    ({"value": 5}, 400, "value: must be a string"),
]


@pytest.mark.parametrize(("changes", "status_code", "told"), REFUSED)
async def test_of_annotations_with_a_bad_one_none_is_made(
    changes: dict[str, Any], status_code: int, told: str
) -> None:
    async with Service() as service:
        await prepared(service)
        body = bulk(annotation(), annotation(**changes))
        assert told in (await service.post(BULK, body, status_code))["message"]
        assert (await service.exported(projectIdentifier="New"))["annotations"] == []


async def test_nulls_are_as_good_as_nothing() -> None:
    async with Service() as service:
        await prepared(service)
        options = ("value", "offsets", "textBounds", "pageNumber", "layerIdentifier", "clientId")
        (made,) = await service.post(BULK, bulk(annotation(**dict.fromkeys(options))))
    assert (made["value"], made["layerName"], made["clientId"]) == (None, "Gold Set", None)
    assert "offsets" not in made


async def test_an_annotation_without_a_layer_goes_into_one_that_is_made_for_it() -> None:
    async with Service() as service:
        await prepared(service)
        made = await service.post(BULK, bulk(annotation(), annotation(value="x")))
        layers = (await service.exported(projectIdentifier="New"))["layers"]
    assert [layer["name"] for layer in layers] == ["By hand", "Gold Set"]
    assert {each["layerId"] for each in made} == {layers[1]["id"]}


@pytest.mark.parametrize("prevent", [True, None, False])
async def test_the_same_annotation_is_made_again_only_if_that_is_not_prevented(
    prevent: bool | None,  # noqa: FBT001
) -> None:
    async with Service() as service:
        await prepared(service)
        same = annotation(value="one", offsets=[0, 3])
        first = await service.post(BULK, bulk(same, annotation(value="two", offsets=[4, 7])))
        again = await service.post(BULK, bulk(same | {"clientId": "x"}, preventDuplication=prevent))
        held = (await service.exported(projectIdentifier="New"))["annotations"]
    assert again[0]["clientId"] == "x"
    assert (again[0]["id"] == first[0]["id"]) is (prevent is not False)
    assert len(held) == (3 if prevent is False else 2)


async def test_a_relation_leads_between_annotations_of_one_project() -> None:
    async with Service() as service:
        await prepared(service)
        made = await service.post(BULK, bulk(annotation(value="a"), annotation(value="b")))
        ends = {"predecessorId": str(made[0]["id"]), "successorId": str(made[1]["id"])}
        relation = ends | {"annoTypeIdentifier": "Deed", "value": "then"}
        (told,) = await service.post(RELATIONS, {"relations": [relation]})
        assert await service.post(RELATIONS, {"relations": [relation]}) == [told]
        assert told["predecessorId"] == made[0]["id"]
        assert told["typeName"] == "Deed"
        held = (await service.exported(projectIdentifier="New"))["relations"]
        assert held == [told]
        await service.post(RELATIONS, {"relations": [relation], "preventDuplication": False})
        assert len((await service.exported(projectIdentifier="New"))["relations"]) == 2
        for changes in (
            {"successorId": "99"},
            {"successorId": "x"},
            {"projectIdentifier": PROJECT},
            {"annoTypeIdentifier": "Nope"},
        ):
            refused = await service.post(RELATIONS, {"relations": [relation | changes]}, 404)
            assert "relations[0]: not found" in refused["message"]


async def test_a_relation_is_exported_only_with_both_its_ends() -> None:
    async with Service() as service:
        await prepared(service)
        made = await service.post(
            BULK, bulk(annotation(), annotation(value="b", layerIdentifier="By hand"))
        )
        relation = {
            "predecessorId": str(made[0]["id"]),
            "successorId": str(made[1]["id"]),
            "annoTypeIdentifier": "Deed",
        }
        await service.post(RELATIONS, {"relations": [relation]})
        names = ["By hand"]
        part = await service.exported(projectIdentifier="New", annotationLayerNames=names)
        whole = await service.exported(projectIdentifier="New")
    assert (len(part["annotations"]), len(part["relations"])) == (1, 0)
    assert (len(whole["annotations"]), len(whole["relations"])) == (2, 1)


async def test_text_that_is_not_valid_comes_back_as_it_went() -> None:
    async with Service() as service:
        await prepared(service)
        body = b'{"projectIdentifier": "New", "sourceName": "half", "text": "\\ud800 \\u00fc"}'
        answer = await service.api.post("/v1/source/create-text", content=body)
        assert answer.status_code == 201
        assert answer.json()["text"] == "\ud800 ü"
        files = await service.exported(projectIdentifier="New", includeSources=True)
    assert files["sources"][1]["text"] == "\ud800 ü"


async def test_no_two_annotations_have_the_same_id_whoever_made_them() -> None:
    async with Service() as service:
        await prepared(service)
        ids: list[int] = []
        for number in range(5):
            made = await service.post(BULK, bulk(annotation(value=str(number))))
            ids.append(made[0]["id"])
            job_id = await service.predict(1, 2, 3)
            ids += [prediction.id for prediction in service.emulator.predictions(job_id)]
    assert len(ids) == len(set(ids)) > 15
