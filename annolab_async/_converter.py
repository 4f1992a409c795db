"""The one cattrs converter: the wire's camelCase JSON to attrs records and back.

It knows no record in particular: each attrs class is read and written by its own field names. Types are
strict, since ``"12"`` or ``true`` in the place of a job id is a broken answer and not a 12 or a 1. Fields that
a class does not know are passed over, since the service may add some, and so are optional ones of a wrong type.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import attrs
from cattrs import ClassValidationError, Converter
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Attrs = type[attrs.AttrsInstance]

__all__ = ["decode_json", "structure", "unstructure"]

T = TypeVar("T")


_KINDS: Final[dict[type, str]] = {
    type(None): "null",
    bool: "true or false",
    int: "an integer",
    float: "a fraction",
    str: "a string",
    list: "an array",
    dict: "an object",
}
# Ids fit into 64 bits; what does not is no id, and may be long enough to choke on.
_LIMIT: Final = 2**63


def _camel_case(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


def _exactly(kind: type[T]) -> Callable[[object, object], T]:
    def check(value: object, _: object) -> T:
        # type() and not isinstance(): a bool is an int to Python, but not to the API.
        if type(value) is not kind:
            raise TypeError(f"is {_kind(value)}, not {_KINDS[kind]}")
        if kind is int and not -_LIMIT <= value < _LIMIT:  # type: ignore[operator]
            raise ValueError("is an integer of more than 64 bits")
        return value

    return check


def _if_exactly(kind: type[T]) -> Callable[[object, object], T | None]:
    def check(value: object, _: object) -> T | None:
        # Optional fields only inform: one of a wrong type must not cost the caller a job that was paid for.
        return value if type(value) is kind else None

    return check


def _ints(value: object, _: object) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise TypeError(f"is {_kind(value)}, not an array")
    items = cast("list[object]", value)
    for item in items:
        if type(item) is not int:
            raise TypeError(f"holds {_kind(item)}, not only integers")
    ints = tuple(cast("list[int]", items))
    if ints and not -_LIMIT <= min(ints) <= max(ints) < _LIMIT:
        raise ValueError("holds an integer of more than 64 bits")
    return ints


def _kind(value: object) -> str:
    # What stands in an answer may be secret; of which kind it is, never.
    return _KINDS.get(type(value), type(value).__name__)


def _make_converter() -> Converter:
    converter = Converter()

    def names(cls: Attrs) -> dict[str, Any]:
        return {field.name: override(rename=_camel_case(field.name)) for field in attrs.fields(cls)}

    def reader(cls: Attrs) -> Callable[[Mapping[str, Any], Any], Any]:
        return make_dict_structure_fn(cls, converter, **names(cls))

    def writer(cls: Attrs) -> Callable[[Any], dict[str, Any]]:
        return make_dict_unstructure_fn(cls, converter, _cattrs_omit_if_default=True, **names(cls))

    converter.register_structure_hook_factory(attrs.has, reader)
    converter.register_unstructure_hook_factory(attrs.has, writer)
    for kind in (int, str):
        converter.register_structure_hook(kind, _exactly(kind))
        converter.register_structure_hook(kind | None, _if_exactly(kind))
    converter.register_structure_hook_func(lambda kind: kind == tuple[int, ...], _ints)
    return converter


_CONVERTER: Final = _make_converter()


def _no_number(name: str) -> object:
    raise ValueError(f"it holds {name}, which is no number")


def _each_name_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    data = dict(pairs)
    if len(data) < len(pairs):
        # Which of the two is meant? Parsers disagree, and a guess could be another's job.
        raise ValueError("it says a field twice")
    return data


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_each_name_once, parse_constant=_no_number)


def decode_json(text: str | bytes) -> object:
    """Return what a JSON text says.

    Raises:
        ValueError: it is no JSON, nested too deeply, says a field twice, or holds NaN or an infinity.
    """
    try:
        return _DECODER.decode(text if isinstance(text, str) else text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        fault = str(error)
    # Raised here, since the exception above holds the whole text.
    raise ValueError(f"it is no JSON ({fault})")


def structure(cls: type[T], data: object) -> T:
    """Make a record of decoded JSON.

    Args:
        cls: the attrs class to make.
        data: what :func:`decode_json` returned.

    Raises:
        ValueError: the data do not fit; the text names every field at fault, as on the wire.
    """
    if type(data) is not dict:
        raise ValueError(f"it is {_kind(data)}, not an object")
    try:
        return _CONVERTER.structure(data, cls)
    except ClassValidationError as error:
        faults = [
            _fault(_camel_case(note.name), fault) for fault, note in error.group_exceptions()[0]
        ]
    # Raised here, since the frames of the exception above hold the whole body.
    raise ValueError("; ".join(faults))


def _fault(name: str, error: Exception) -> str:
    return f"{name} is missing" if isinstance(error, KeyError) else f"{name} {error}"


def unstructure(record: attrs.AttrsInstance) -> dict[str, Any]:
    """Return a record as JSON-ready data, without the fields that have their default value."""
    data: dict[str, Any] = _CONVERTER.unstructure(record)
    return data
