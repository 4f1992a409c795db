"""Reads the body that creates a job, and finds the things that it names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from annolab_async.emulator._bodies import (
    Identifier,
    Refused,
    identifier_fault,
    name_fault,
    read_object,
    source_ids_fault,
)
from annolab_async.emulator._catalogue import Named, find_by_identifier

if TYPE_CHECKING:
    from collections.abc import Mapping

    from annolab_async.emulator._bodies import Check
    from annolab_async.emulator._catalogue import Catalogue, Layer, Project


@frozen(kw_only=True)
class BatchBody:
    """A well-formed body; what it names may still be unknown."""

    group_name: str
    project: Identifier
    model: Identifier
    output_layer: Identifier
    source_ids: tuple[int, ...]


@frozen(kw_only=True)
class Targets:
    """What a body names, found."""

    project: Project
    model: Named
    output_layer: Layer


def parse_body(raw: bytes) -> BatchBody:
    """Read a request body.

    Args:
        raw: The body as sent.

    Raises:
        Refused: 400; the message names every faulty field.
    """
    body = read_object(raw, _CHECKS)
    return BatchBody(
        group_name=body["groupName"],
        project=body["projectIdentifier"],
        model=body["modelIdentifier"],
        output_layer=body["outputLayerIdentifier"],
        source_ids=tuple(body["sourceIds"]),
    )


def find_targets(body: BatchBody, catalogue: Catalogue, models: Mapping[str, Named]) -> Targets:
    """Find the group, project, model and layer that a body names.

    Args:
        body: The body.
        catalogue: The groups, projects and layers that exist.
        models: The models that exist, by name.

    Raises:
        Refused: 404; the message names everything unknown.
    """
    has_group = body.group_name in catalogue.groups
    # Without its group a project is still looked for, to name all that is wrong at once.
    project = catalogue.find_project(body.project, body.group_name if has_group else None)
    model = find_by_identifier(models, body.model)
    layers = project.layers if project else catalogue.common_layers
    output_layer = find_by_identifier(layers, body.output_layer)
    if has_group and project and model and output_layer:
        return Targets(project=project, model=model, output_layer=output_layer)
    found = {
        f"group {body.group_name!r}": has_group,
        f"project {body.project!r}": project,
        f"model {body.model!r}": model,
        f"layer {body.output_layer!r}": output_layer,
    }
    raise Refused(404, "not found: " + ", ".join(what for what, hit in found.items() if not hit))


_CHECKS: Mapping[str, Check] = {
    "groupName": name_fault,
    "projectIdentifier": identifier_fault,
    "modelIdentifier": identifier_fault,
    "sourceIds": source_ids_fault,
    "outputLayerIdentifier": identifier_fault,
}
