"""Reads the bodies of requests: each field is checked, and every fault is named at once. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias, TypeGuard

from annolab_async.emulator._settings import is_id, is_int, is_name

Identifier: TypeAlias = str | int
Check: TypeAlias = Callable[[Any], str | None]
"""Tells what is wrong with a value; None if nothing is."""


class Answer(NamedTuple):
    """What the service sends back."""

    status_code: int
    body: Any


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


def read_object(
    raw: bytes,
    required: Mapping[str, Check],
    optional: Mapping[str, Check] = MappingProxyType({}),
) -> dict[str, Any]:
    """Read a request body that is a JSON object.

    Args:
        raw: The body as sent.
        required: The fields that it must have.
        optional: Those that it may have; null is as good as nothing.

    Raises:
        Refused: 400; the message names every faulty field.
    """
    try:
        body: Any = json.loads(raw)
    except (ValueError, RecursionError):
        raise Refused(400, "the body is not JSON") from None
    if not is_object(body):
        raise Refused(400, "the body must be a JSON object")
    if faults := object_faults(body, required, optional):
        raise Refused(400, "; ".join(faults))
    return body


def object_faults(
    body: Mapping[str, Any], required: Mapping[str, Check], optional: Mapping[str, Check]
) -> list[str]:
    """Name what is wrong with an object's fields; as for :func:`read_object`."""
    faults = [
        f"{name}: {fault}"
        for name, check in required.items()
        if (fault := check(body[name]) if name in body else "is required")
    ]
    faults += [
        f"{name}: {fault}"
        for name, check in optional.items()
        if body.get(name) is not None and (fault := check(body[name]))
    ]
    return faults


def parse_id(text: str) -> int | None:
    """Read an id written in decimal digits; None if it is anything else."""
    if not (text.isascii() and text.isdigit()):
        return None
    try:
        return int(text)
    except ValueError:  # more digits than Python will turn into an int
        return None


def is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    """Tell whether decoded JSON is an object."""
    return isinstance(value, dict)


def is_array(value: Any) -> TypeGuard[list[Any]]:
    """Tell whether decoded JSON is an array."""
    return isinstance(value, list)


def name_fault(value: Any) -> str | None:
    """Check a name."""
    return None if is_name(value) else "must be a non-empty string"


def identifier_fault(value: Any) -> str | None:
    """Check what names a thing or gives its id."""
    return None if is_name(value) or is_id(value) else "must be a name or a positive integer"


def text_fault(value: Any) -> str | None:
    """Check a text, which may be empty."""
    return None if isinstance(value, str) else "must be a string"


def flag_fault(value: Any) -> str | None:
    """Check a yes or no."""
    return None if isinstance(value, bool) else "must be true or false"


def page_fault(value: Any) -> str | None:
    """Check the number of a page."""
    return None if is_id(value) else "must be a positive integer"


def offsets_fault(value: Any) -> str | None:
    """Check where in a text something stands."""
    is_pair = is_array(value) and len(value) == 2 and all(map(is_int, value))  # noqa: PLR2004
    is_span = is_pair and 0 <= value[0] <= value[1]
    return None if is_span else "must be an array of two integers, the first and the end"


def object_fault(value: Any) -> str | None:
    """Check that it is an object, of whatever fields."""
    return None if is_object(value) else "must be an object"


def source_ids_fault(value: Any) -> str | None:
    """Check ids of sources: one at least."""
    if not is_array(value) or not value:
        return "must be a non-empty array of positive integers"
    for index, source_id in enumerate(value):
        if not is_id(source_id):
            return f"must hold positive integers only; see index {index}"
    return None


def names_fault(value: Any) -> str | None:
    """Check names: one at least."""
    if is_array(value) and value and all(map(is_name, value)):
        return None
    return "must be a non-empty array of names"
