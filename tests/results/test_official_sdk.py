"""The vendor's own SDK, as it is on PyPI, drives the emulator: a project is made, filled and exported."""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

import pytest
import requests
from anyio.from_thread import start_blocking_portal
from attrs import frozen

from annolab_async import AsyncInferenceClient, BatchPlan
from annolab_async.emulator import Emulator, EmulatorServer, Exports
from tests.service import KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.sockets

GROUP = "Company Name"
TEXT = "The Grantor conveys to Müller & heirs all that tract in Harris County.\n"
SUFFIXES = ("sources", "text-bounds", "annotations", "layers", "relations", "atntypes")


class SdkProject(Protocol):
    """``annolab.project.Project``, as far as it is used here; the SDK has no types of its own."""

    name: str
    id: int
    owner_name: str
    owner_id: int
    default_dir: str

    def create_annotation_layer(self, name: str, **about: Any) -> dict[str, Any]: ...
    def create_annotation_type(self, name: str, **about: Any) -> dict[str, Any]: ...
    def create_text_source(
        self, name: str, text: str, directory: str | None = None
    ) -> dict[str, Any]: ...
    def create_bulk_annotations(self, annotations: list[Any]) -> list[dict[str, Any]]: ...
    def create_bulk_relations(self, relations: list[Any]) -> list[dict[str, Any]]: ...
    def find_source(self, name: str, directory: str | None = None) -> dict[str, Any]: ...
    def export(self, filepath: str, **options: Any) -> None: ...


class Sdk(Protocol):
    """``annolab.AnnoLab``."""

    def create_project(self, name: str, owner_name: str | None = None) -> SdkProject: ...
    def find_project(self, name: str, owner_name: str | None = None) -> SdkProject: ...
    def create_project_from_export(
        self, filepath: str, name: str | None = None, owner_name: str | None = None
    ) -> SdkProject: ...


def official_sdk(base_url: str, api_key: str = KEY) -> Sdk:
    with warnings.catch_warnings():
        # It holds escape sequences that Python does not know; compiling them warns.
        warnings.simplefilter("ignore")
        make = cast("Callable[..., Sdk]", import_module("annolab").AnnoLab)
    return make(api_key=api_key, api_url=base_url)


@frozen(kw_only=True)
class Served:
    """An emulator on a real socket, and the SDK that talks to it."""

    emulator: Emulator
    base_url: str
    sdk: Sdk


@frozen(kw_only=True)
class SdkExport:
    """A project that the SDK made, filled and exported.

    Attributes:
        served: Where it is.
        group_name: Its group.
        project_name: Its name.
        project: It, as the SDK knows it.
        path: The SDK's zip of it, with all that can be asked for.
        annotations: The service's answers to their creation.
        relations: Likewise.
    """

    served: Served
    group_name: str
    project_name: str
    project: SdkProject
    path: Path
    annotations: list[dict[str, Any]]
    relations: list[dict[str, Any]]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    # An export ends at once: the SDK waits 5 s from one look at it to the next.
    emulator = Emulator(
        api_key=KEY,
        base_seconds=0,
        seconds_per_source=0,
        exports=Exports(wait_seconds=0, seconds=0),
    )
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(EmulatorServer(emulator)) as server,
    ):
        sdk = official_sdk(server.base_url)
        yield Served(emulator=emulator, base_url=server.base_url, sdk=sdk)


@pytest.fixture(scope="module")
def sdk_export(served: Served, tmp_path_factory: pytest.TempPathFactory) -> SdkExport:
    """A project with 3 sources in 2 directories, 2 layers, 3 types, 63 annotations and 20 relations."""
    project = served.sdk.create_project("Title Work", GROUP)
    project.create_annotation_layer("Gold Set", is_gold=True)
    project.create_annotation_layer("Second Look", description="what the first one missed")
    project.create_annotation_type("Party", color="#ff8800", category="people")
    project.create_annotation_type("Conveys", is_relation=True)
    project.create_annotation_type("Deed", is_document_classification=True)
    project.create_text_source("deed-1.txt", TEXT)
    project.create_text_source("deed-2.txt", TEXT * 2)
    project.create_text_source("deed-1.txt", TEXT * 3, "Older")
    annotations = project.create_bulk_annotations(annotations_of(project))
    ends = [annotation["id"] for annotation in annotations]
    relations = project.create_bulk_relations([
        {"annotations": pair, "type": "Conveys", "value": "gift", "project": project.id}
        for pair in zip(ends[:20], ends[20:40], strict=True)
    ])
    path = tmp_path_factory.mktemp("sdk") / "export.zip"
    project.export(
        str(path), include_annotation_types=True, include_sources=True, include_text_bounds=True
    )
    return SdkExport(
        served=served,
        group_name=GROUP,
        project_name=project.name,
        project=project,
        path=path,
        annotations=annotations,
        relations=relations,
    )


def annotations_of(project: SdkProject) -> list[dict[str, Any]]:
    """Return what the SDK is told to create: each way to say where an annotation is."""
    box = {"type": "Polygon", "coordinates": [[[1, 2], [30, 2], [30, 9], [1, 9], [1, 2]]]}
    spans = [
        {
            "project": project.id,
            "source": source,
            "directory": directory,
            "type": "Party",
            "layer": layer,
            "client_id": f"{source}-{directory}-{start}",
            "value": TEXT[start : start + 7],
            "offsets": [start, start + 7],
            "page": 1,
        }
        for source, directory, layer in (
            ("deed-1.txt", "Uploads", "Gold Set"),
            ("deed-2.txt", "Uploads", "Second Look"),
            ("deed-1.txt", "Older", "Gold Set"),
        )
        for start in range(0, 60, 3)
    ]
    whole = {"project": project.name, "source": "deed-2.txt"}
    return [
        *spans,
        whole | {"type": "Deed", "page": 1, "endPage": 2, "reviewed": True},
        whole | {"type": "Party", "value": "née Müller 𝄞", "text_bounds": box, "image_bounds": box},
        whole | {"type": "Party", "value": "", "bbox": [1, 2, 30, 9], "layer": "Second Look"},
    ]


def lines(path: Path, kind: str) -> list[dict[str, Any]]:
    """Read one of the files in a zip, found as the SDK's importer finds it."""
    with zipfile.ZipFile(path) as archive:
        (name,) = [name for name in archive.namelist() if re.match(rf".*\.{kind}\.jsonl", name)]
        return [json.loads(line) for line in archive.read(name).decode().splitlines()]


def told(annotation: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in annotation.items() if name != "clientId"}


def by_place(path: Path) -> list[str]:
    """Return the annotations of an export without the ids, which differ from project to project."""
    places = {
        source["sourceId"]: (source["directoryName"], source["sourceName"])
        for source in lines(path, "sources")
    }
    return sorted(
        json.dumps(
            {name: value for name, value in annotation.items() if not name.lower().endswith("id")}
            | {"place": places[annotation["sourceId"]], "isReviewed": None},
            sort_keys=True,
        )
        for annotation in lines(path, "annotations")
    )


def test_the_sdks_export_holds_exactly_the_annotations_that_it_created(
    sdk_export: SdkExport,
) -> None:
    assert len(sdk_export.annotations) == 63
    assert lines(sdk_export.path, "annotations") == list(map(told, sdk_export.annotations))


def test_what_was_created_is_what_was_said(sdk_export: SdkExport) -> None:
    asked = annotations_of(sdk_export.project)
    for said, made in zip(asked, sdk_export.annotations, strict=True):
        assert made["typeName"] == said["type"]
        assert made["layerName"] == said.get("layer", "Gold Set")
        assert made["clientId"] == said.get("client_id")
        assert made["value"] == said.get("value")
        assert made.get("offsets") == said.get("offsets")
        assert made.get("pageNumber") == said.get("page")
        assert made.get("endPageNumber") == said.get("endPage")
        assert made["isReviewed"] is said.get("reviewed", False)
    drawn, boxed = sdk_export.annotations[-2:]
    assert drawn["textBounds"] == drawn["imageBounds"] == boxed["textBounds"]
    assert len({made["id"] for made in sdk_export.annotations}) == 63


def test_the_zip_holds_layers_types_sources_and_relations_too(sdk_export: SdkExport) -> None:
    path = sdk_export.path
    assert [(layer["name"], layer["isGoldSet"]) for layer in lines(path, "layers")] == [
        ("Gold Set", True),
        ("Second Look", False),
    ]
    assert lines(path, "layers")[1]["description"] == "what the first one missed"
    assert {kind["name"]: kind for kind in lines(path, "atntypes")}.keys() == {
        "Party",
        "Conveys",
        "Deed",
    }
    party, conveys, deed = lines(path, "atntypes")
    assert (party["color"], party["category"]) == ("#ff8800", "people")
    assert (conveys["isRelation"], deed["isDocumentClassification"]) == (True, True)
    assert [
        (source["directoryName"], source["sourceName"], source["text"])
        for source in lines(path, "sources")
    ] == [
        ("Uploads", "deed-1.txt", TEXT),
        ("Uploads", "deed-2.txt", TEXT * 2),
        ("Older", "deed-1.txt", TEXT * 3),
    ]
    assert len(lines(path, "text-bounds")) == 3
    assert lines(path, "relations") == sdk_export.relations
    assert len(sdk_export.relations) == 20


def test_only_what_was_asked_for_is_in_the_zip(sdk_export: SdkExport, tmp_path: Path) -> None:
    path = tmp_path / "bare.zip"
    sdk_export.project.export(str(path))
    with zipfile.ZipFile(path) as archive:
        kinds = {name.split(".")[-2] for name in archive.namelist()}
    assert kinds == {"annotations", "layers", "relations"}
    assert lines(path, "annotations") == lines(sdk_export.path, "annotations")


def test_the_sdk_finds_what_it_created(sdk_export: SdkExport) -> None:
    found = sdk_export.served.sdk.find_project(sdk_export.project_name)
    assert (found.id, found.name) == (sdk_export.project.id, "Title Work")
    assert (found.owner_name, found.owner_id, found.default_dir) == (GROUP, 1, "Uploads")
    assert found.find_source("deed-1.txt", "Older")["text"] == TEXT * 3


def test_the_sdk_imports_its_own_export(sdk_export: SdkExport, tmp_path: Path) -> None:
    copy = sdk_export.served.sdk.create_project_from_export(
        str(sdk_export.path), "A Copy", sdk_export.group_name
    )
    path = tmp_path / "copy.zip"
    copy.export(str(path), include_sources=True)
    assert by_place(path) == by_place(sdk_export.path)
    assert len(lines(path, "relations")) == 20


async def predict(base_url: str, project: SdkProject, source_ids: list[int]) -> None:
    plan = BatchPlan(
        group_name=GROUP,
        project_identifier=project.id,
        model_identifier="Staple + Classify Documents",
        output_layer_identifier="By a model",
        source_ids=source_ids,
        batch_size=4,
    )
    async with (
        AsyncInferenceClient(KEY, base_url=base_url) as client,
        client.fan_out(plan) as run,
    ):
        async for _ in run:
            pass


def test_the_sdks_export_holds_what_the_models_predicted(served: Served, tmp_path: Path) -> None:
    project = served.sdk.create_project("To be predicted")
    project.create_annotation_layer("By a model")
    sources = [project.create_text_source(f"{number}.txt", TEXT) for number in range(20)]
    with start_blocking_portal() as portal:
        portal.call(predict, served.base_url, project, [source["id"] for source in sources])
    path = tmp_path / "predictions.zip"
    project.export(str(path), include_sources=True)
    jobs = [job for job in served.emulator.jobs.values() if job.project_id == project.id]
    made = [each for job in jobs for each in served.emulator.predictions(job.inference_job_id)]
    assert len(jobs) == 5
    assert len(made) > 20
    told_of = {line["id"]: line for line in lines(path, "annotations")}
    assert told_of == {prediction.id: prediction.to_json() for prediction in made}
    for prediction in made:
        assert prediction.offsets
        assert TEXT[slice(*prediction.offsets)] == prediction.value
        assert prediction.layer_name == "By a model"


def test_creating_what_exists_already_is_a_conflict(sdk_export: SdkExport) -> None:
    project = sdk_export.project
    for create in (
        lambda: sdk_export.served.sdk.create_project(project.name, project.owner_name),
        lambda: project.create_annotation_layer("Gold Set"),
        lambda: project.create_annotation_type("Party"),
        lambda: project.create_text_source("deed-1.txt", "another text"),
    ):
        with pytest.raises(requests.HTTPError) as caught:
            create()
        assert caught.value.response.status_code == 409


def test_more_than_two_thousand_annotations_at_once_are_refused(sdk_export: SdkExport) -> None:
    one = annotations_of(sdk_export.project)[0]
    assert len(sdk_export.project.create_bulk_annotations([one] * 2000)) == 2000
    with pytest.raises(requests.HTTPError, match="400"):
        sdk_export.project.create_bulk_annotations([one] * 2001)


@pytest.mark.parametrize("option", [{"source_ids": [1]}, {"layers": ["Gold Set"]}])
def test_the_sdk_cannot_choose_sources_or_layers(
    sdk_export: SdkExport, option: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(AttributeError):
        sdk_export.project.export(str(tmp_path / "never.zip"), **option)


def test_a_key_that_is_wrong_is_refused(served: Served) -> None:
    with pytest.raises(requests.HTTPError, match="401"):
        official_sdk(served.base_url, "YYYYYYY").find_project("My Project", GROUP)


def test_the_sdk_sends_no_key_to_the_downloads(sdk_export: SdkExport) -> None:
    assert sdk_export.served.emulator.download_requests
    assert sdk_export.served.emulator.keys_at_downloads == 0
