"""Answers what the official SDK asks about projects, layers, types and sources. Pure."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from annolab_async.emulator._bodies import (
    Answer,
    Refused,
    flag_fault,
    identifier_fault,
    name_fault,
    parse_id,
    read_object,
    text_fault,
)
from annolab_async.emulator._catalogue import DEFAULT_DIRECTORY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from annolab_async.emulator._catalogue import Catalogue, Project, Source


class Asked(NamedTuple):
    """A request, as far as its answer hangs on it.

    Attributes:
        body: Its body.
        path: What the variable parts of its path say.
        base_url: The URL that it came to, up to its path.
        now: Seconds on the emulator's clock.
    """

    body: bytes = b""
    path: Mapping[str, str] = MappingProxyType({})
    base_url: str = ""
    now: float = 0.0


class ProjectDesk:
    """Tells what exists, and makes more of it.

    Args:
        catalogue: What exists.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def api_key_info(self, _asked: Asked) -> Answer:
        """Tell the groups of the key; the first is the one that belongs to its user alone."""
        groups = [
            {"groupName": name, "groupId": number, "isSingleUser": not index}
            for index, (name, number) in enumerate(self._catalogue.groups.items())
        ]
        return Answer(200, {"groups": groups})

    def find_project(self, asked: Asked) -> Answer:
        """Tell a project.

        Raises:
            Refused: 404.
        """
        group_name = asked.path["group"]
        project = self._catalogue.project(asked.path["name"], group_name)
        return Answer(200, self._told(project, group_name))

    def create_project(self, asked: Asked) -> Answer:
        """Make a project.

        Raises:
            Refused: 400, 404 or 409.
        """
        required = {"name": name_fault, "groupName": name_fault}
        body = read_object(asked.body, required, {"isPublic": flag_fault})
        project = self._catalogue.create_project(body["name"], body["groupName"])
        return Answer(201, self._told(project, body["groupName"]))

    def create_layer(self, asked: Asked) -> Answer:
        """Make a layer.

        Raises:
            Refused: 400, 404 or 409.
        """
        body = read_object(
            asked.body,
            {"projectIdentifier": identifier_fault, "layerName": name_fault},
            {"groupName": name_fault, "isGold": flag_fault, "description": text_fault},
        )
        project = self._project(body)
        layer = self._catalogue.create_layer(
            project,
            body["layerName"],
            is_gold_set=bool(body.get("isGold")),
            description=body.get("description"),
        )
        return Answer(201, layer.to_json() | {"projectId": project.id})

    def create_type(self, asked: Asked) -> Answer:
        """Make a type of annotations or relations.

        Raises:
            Refused: 400, 404 or 409.
        """
        body = read_object(
            asked.body,
            {"projectIdentifier": identifier_fault, "typeName": name_fault},
            {
                "groupName": name_fault,
                "color": text_fault,
                "category": text_fault,
                "isRelation": flag_fault,
                "isDocumentClassification": flag_fault,
            },
        )
        project = self._project(body)
        made = self._catalogue.create_type(
            project,
            body["typeName"],
            color=body.get("color"),
            category=body.get("category"),
            is_relation=bool(body.get("isRelation")),
            is_document_classification=bool(body.get("isDocumentClassification")),
        )
        return Answer(201, made.to_json() | {"projectId": project.id})

    def create_text_source(self, asked: Asked) -> Answer:
        """Make a source of a text.

        Raises:
            Refused: 400, 404 or 409.
        """
        body = read_object(
            asked.body,
            {"projectIdentifier": identifier_fault, "sourceName": name_fault, "text": text_fault},
            {"groupName": name_fault, "directoryIdentifier": name_fault},
        )
        project = self._project(body)
        directory_name = body.get("directoryIdentifier") or DEFAULT_DIRECTORY
        source = self._catalogue.create_source(
            project, directory_name, body["sourceName"], body["text"]
        )
        return Answer(201, _told_source(source, project))

    def source_by_id(self, asked: Asked) -> Answer:
        """Tell a source.

        Raises:
            Refused: 404.
        """
        if (source_id := parse_id(asked.path["source_id"])) is None:
            raise Refused(404, f"not found: source {asked.path['source_id']!r}")
        project, source = self._catalogue.source(source_id)
        return Answer(200, _told_source(source, project))

    def source_by_path(self, asked: Asked) -> Answer:
        """Tell the source of a name in a directory.

        Raises:
            Refused: 404.
        """
        project = self._catalogue.project(asked.path["name"], asked.path["group"])
        place = asked.path["directory"], asked.path["source"]
        if (source_id := project.source_ids.get(place)) is None:
            raise Refused(404, f"not found: source {place[1]!r} in {place[0]!r}")
        return Answer(200, _told_source(project.sources[source_id], project))

    def _project(self, body: Mapping[str, Any]) -> Project:
        return self._catalogue.project(body["projectIdentifier"], body.get("groupName"))

    def _told(self, project: Project, group_name: str) -> dict[str, Any]:
        return {
            "id": project.id,
            "name": project.name,
            "groupName": group_name,
            "groupId": self._catalogue.groups[group_name],
            "defaultDirectory": DEFAULT_DIRECTORY,
        }


def _told_source(source: Source, project: Project) -> dict[str, Any]:
    return source.to_json() | {"projectId": project.id}
