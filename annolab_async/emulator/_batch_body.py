"""Reads the body that creates a job, and finds the things that it names."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeGuard

from attrs import frozen

from annolab_async.emulator._settings import Settings, is_id, is_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Identifier: TypeAlias = str | int


class Refused(Exception):
    """The service answers with an error.

    Args:
        status_code: The HTTP status.
        message: What the answer's ``message`` says.
    """

    def __init__(self, status_code: int, message: str) -> None:
        super().__init__(status_code, message)
        self.status_code = status_code
        self.message = message


@frozen(kw_only=True)
class BatchBody:
    """A well-formed body; what it names may still be unknown."""

    group_name: str
    project: Identifier
    model: Identifier
    output_layer: Identifier
    source_ids: tuple[int, ...]


class Named(NamedTuple):
    """A project, model or layer that exists."""

    name: str
    id: int


@frozen(kw_only=True)
class Targets:
    """What a body names, found."""

    project: Named
    model: Named
    output_layer: Named


def parse_body(raw: bytes) -> BatchBody:
    """Read a request body.

    Args:
        raw: The body as sent.

    Raises:
        Refused: 400; the message names every faulty field.
    """
    try:
        body: Any = json.loads(raw)
    except (ValueError, RecursionError):
        raise Refused(400, "the body is not JSON") from None
    if not _is_object(body):
        raise Refused(400, "the body must be a JSON object")
    faults = [
        f"{name}: {fault}"
        for name, check in _CHECKS.items()
        if (fault := check(body[name]) if name in body else "is required")
    ]
    if faults:
        raise Refused(400, "; ".join(faults))
    return BatchBody(
        group_name=body["groupName"],
        project=body["projectIdentifier"],
        model=body["modelIdentifier"],
        output_layer=body["outputLayerIdentifier"],
        source_ids=tuple(body["sourceIds"]),
    )


def find_targets(body: BatchBody, settings: Settings) -> Targets:
    """Find the group, project, model and layer that a body names.

    Args:
        body: The body.
        settings: What exists.

    Raises:
        Refused: 404; the message names everything unknown.
    """
    project = _find(settings.projects, body.project)
    model = _find(settings.models, body.model)
    output_layer = _find(settings.layers, body.output_layer)
    if body.group_name in settings.groups and project and model and output_layer:
        return Targets(project=project, model=model, output_layer=output_layer)
    found = {
        f"group {body.group_name!r}": body.group_name in settings.groups,
        f"project {body.project!r}": project,
        f"model {body.model!r}": model,
        f"layer {body.output_layer!r}": output_layer,
    }
    raise Refused(404, "not found: " + ", ".join(what for what, hit in found.items() if not hit))


def parse_id(text: str) -> int | None:
    """Read an id written in decimal digits; None if it is anything else."""
    if not (text.isascii() and text.isdigit()):
        return None
    try:
        return int(text)
    except ValueError:  # more digits than Python will turn into an int
        return None


def _find(names: Mapping[str, int], identifier: Identifier) -> Named | None:
    if isinstance(identifier, str) and identifier in names:
        return Named(identifier, names[identifier])
    number = parse_id(identifier) if isinstance(identifier, str) else identifier
    return next((Named(*item) for item in names.items() if item[1] == number), None)


def _is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _is_array(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _name_fault(value: Any) -> str | None:
    return None if is_name(value) else "must be a non-empty string"


def _identifier_fault(value: Any) -> str | None:
    return None if is_name(value) or is_id(value) else "must be a name or a positive integer"


def _source_ids_fault(value: Any) -> str | None:
    if not _is_array(value) or not value:
        return "must be a non-empty array of positive integers"
    for index, source_id in enumerate(value):
        if not is_id(source_id):
            return f"must hold positive integers only; see index {index}"
    return None


_CHECKS: Mapping[str, Callable[[Any], str | None]] = {
    "groupName": _name_fault,
    "projectIdentifier": _identifier_fault,
    "modelIdentifier": _identifier_fault,
    "sourceIds": _source_ids_fault,
    "outputLayerIdentifier": _identifier_fault,
}
