"""Makes annotations and relations, many in one request: all of them or none. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, TypeVar

from annolab_async.emulator._annotations import EmulatedAnnotation, EmulatedRelation
from annolab_async.emulator._bodies import (
    Answer,
    Refused,
    flag_fault,
    identifier_fault,
    is_array,
    is_object,
    name_fault,
    object_fault,
    object_faults,
    offsets_fault,
    page_fault,
    parse_id,
    read_object,
    text_fault,
)
from annolab_async.emulator._catalogue import DEFAULT_DIRECTORY, find_by_identifier

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from annolab_async.emulator._bodies import Check
    from annolab_async.emulator._catalogue import (
        Catalogue,
        HasName,
        Layer,
        Project,
        Source,
        TypeOfAnnotations,
    )
    from annolab_async.emulator._projects import Asked

    T = TypeVar("T", bound=HasName)

MOST_AT_ONCE: Final = 2000
DEFAULT_LAYER: Final = "Gold Set"


class BulkDesk:
    """Makes annotations and relations.

    Args:
        catalogue: What exists.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        # What was made already, by all that tells two apart.
        self._annotations: dict[str, EmulatedAnnotation] = {}
        self._relations: dict[str, EmulatedRelation] = {}

    def create_annotations(self, asked: Asked) -> Answer:
        """Make annotations.

        Returns:
            Them, in the order sent, each with the client's id for it.

        Raises:
            Refused: 400 or 404; nothing was made.
        """
        items, is_deduplicated = _items(asked.body, "annotations", _REQUIRED, _OPTIONAL)
        drafts = [
            _located(f"annotations[{index}]", self._draft, item) for index, item in enumerate(items)
        ]
        told: list[dict[str, Any]] = []
        for item, (project, layer_name, draft) in zip(items, drafts, strict=True):
            layer = self._layer(project, layer_name)
            fields: dict[str, Any] = draft | {"layer_id": layer.id, "layer_name": layer.name}
            key = _key(project.id, fields)
            made = self._annotations.get(key) if is_deduplicated else None
            if made is None:
                made = EmulatedAnnotation(id=self._catalogue.annotation_ids.take(), **fields)
                project.annotations[made.id] = self._annotations[key] = made
            told.append(made.to_json() | {"clientId": item.get("clientId")})
        return Answer(201, told)

    def create_relations(self, asked: Asked) -> Answer:
        """Make relations.

        Returns:
            Them, in the order sent.

        Raises:
            Refused: 400 or 404; nothing was made.
        """
        items, is_deduplicated = _items(asked.body, "relations", _ENDS, _ABOUT_RELATIONS)
        drafts = [
            _located(f"relations[{index}]", self._relation, item)
            for index, item in enumerate(items)
        ]
        told: list[dict[str, Any]] = []
        for project, fields in drafts:
            key = _key(project.id, fields)
            made = self._relations.get(key) if is_deduplicated else None
            if made is None:
                made = EmulatedRelation(id=self._catalogue.relation_ids.take(), **fields)
                project.relations[made.id] = self._relations[key] = made
            told.append(made.to_json())
        return Answer(201, told)

    def _draft(self, item: Mapping[str, Any]) -> tuple[Project, str, dict[str, Any]]:
        project = self._catalogue.project(item["projectIdentifier"], item.get("groupName"))
        kind = _kind(project, item["annoTypeIdentifier"])
        source = _source(project, item)
        offsets = item.get("offsets")
        if offsets is not None and offsets[1] > len(source.text):
            raise Refused(400, f"offsets: source {source.id} has {len(source.text)} characters")
        layer_identifier = item.get("layerIdentifier") or DEFAULT_LAYER
        layer = find_by_identifier(project.layers, layer_identifier)
        if layer is None and layer_identifier != DEFAULT_LAYER:
            raise Refused(404, f"not found: layer {layer_identifier!r}")
        return (
            project,
            layer.name if layer else DEFAULT_LAYER,
            {
                "source_id": source.id,
                "type_id": kind.id,
                "type_name": kind.name,
                "value": item.get("value"),
                "offsets": None if offsets is None else tuple(offsets),
                "page_number": item.get("pageNumber"),
                "end_page_number": item.get("endPageNumber"),
                "text_bounds": item.get("textBounds") or _polygon(item.get("bbox")),
                "image_bounds": item.get("imageBounds"),
                "is_reviewed": bool(item.get("isReviewed")),
            },
        )

    def _relation(self, item: Mapping[str, Any]) -> tuple[Project, dict[str, Any]]:
        predecessor_id, successor_id = (
            parse_id(item["predecessorId"]),
            parse_id(item["successorId"]),
        )
        for project in self._projects(item):
            if predecessor_id in project.annotations and successor_id in project.annotations:
                kind = _kind(project, item["annoTypeIdentifier"])
                return project, {
                    "predecessor_id": predecessor_id,
                    "successor_id": successor_id,
                    "type_id": kind.id,
                    "type_name": kind.name,
                    "value": item.get("value"),
                }
        ends = f"{item['predecessorId']!r}, {item['successorId']!r}"
        raise Refused(404, f"not found: two annotations of one project, {ends}")

    def _projects(self, item: Mapping[str, Any]) -> list[Project]:
        if (identifier := item.get("projectIdentifier")) is None:
            return list(self._catalogue.projects.values())
        return [self._catalogue.project(identifier, item.get("groupName"))]

    def _layer(self, project: Project, name: str) -> Layer:
        # An annotation that names no layer goes into this one, which is made where there is none yet.
        return project.layers.get(name) or self._catalogue.create_layer(
            project, name, is_gold_set=True, description=None
        )


def _items(
    raw: bytes, name: str, required: Mapping[str, Check], optional: Mapping[str, Check]
) -> tuple[list[dict[str, Any]], bool]:
    def fault(value: Any) -> str | None:
        if not is_array(value) or not all(map(is_object, value)):
            return "must be an array of objects"
        if len(value) > MOST_AT_ONCE:
            return f"must not hold more than {MOST_AT_ONCE}, not {len(value)}"
        return None

    body = read_object(raw, {name: fault}, {"preventDuplication": flag_fault})
    items: list[dict[str, Any]] = body[name]
    for index, item in enumerate(items):
        if faults := object_faults(item, required, optional):
            raise Refused(400, f"{name}[{index}]: {'; '.join(faults)}")
    return items, body.get("preventDuplication") is not False


R = TypeVar("R")


def _located(place: str, make: Callable[[Mapping[str, Any]], R], item: Mapping[str, Any]) -> R:
    try:
        return make(item)
    except Refused as refused:
        raise Refused(refused.status_code, f"{place}: {refused.message}") from None


def _key(project_id: int, fields: Mapping[str, Any]) -> str:
    # Whether someone has reviewed it makes it no other annotation.
    return json.dumps([project_id, {**fields, "is_reviewed": None}], sort_keys=True)


def _kind(project: Project, identifier: str | int) -> TypeOfAnnotations:
    if kind := find_by_identifier(project.types, identifier):
        return kind
    raise Refused(404, f"not found: annotation type {identifier!r}")


def _source(project: Project, item: Mapping[str, Any]) -> Source:
    identifier = item["sourceIdentifier"]
    directory_name = item.get("directoryIdentifier") or DEFAULT_DIRECTORY
    source_id: int | None = identifier if isinstance(identifier, int) else None
    if isinstance(identifier, str):
        source_id = project.source_ids.get((directory_name, identifier))
    if source_id in project.sources:
        return project.sources[source_id]
    raise Refused(404, f"not found: source {identifier!r} in {directory_name!r}")


def _polygon(bbox: list[Any] | None) -> dict[str, Any] | None:
    if bbox is None:
        return None
    left, top, right, bottom = bbox
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    return {"type": "Polygon", "coordinates": [ring]}


def _bbox_fault(value: Any) -> str | None:
    is_box = is_array(value) and len(value) == 4  # noqa: PLR2004
    if is_box and all(type(number) in {int, float} for number in value):
        return None
    return "must be an array of four numbers"


_REQUIRED: Final[Mapping[str, Check]] = {
    "projectIdentifier": identifier_fault,
    "sourceIdentifier": identifier_fault,
    "annoTypeIdentifier": identifier_fault,
}
_OPTIONAL: Final[Mapping[str, Check]] = {
    "groupName": name_fault,
    "directoryIdentifier": name_fault,
    "layerIdentifier": identifier_fault,
    "clientId": text_fault,
    "value": text_fault,
    "offsets": offsets_fault,
    "pageNumber": page_fault,
    "endPageNumber": page_fault,
    "textBounds": object_fault,
    "imageBounds": object_fault,
    "bbox": _bbox_fault,
    "isReviewed": flag_fault,
}
_ENDS: Final[Mapping[str, Check]] = {
    "predecessorId": text_fault,
    "successorId": text_fault,
    "annoTypeIdentifier": identifier_fault,
}
_ABOUT_RELATIONS: Final[Mapping[str, Check]] = {
    "groupName": name_fault,
    "projectIdentifier": identifier_fault,
    "value": text_fault,
    "isReviewed": flag_fault,
}
