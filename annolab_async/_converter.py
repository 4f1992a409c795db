"""The one cattrs converter: the wire's camelCase JSON to attrs records and back.

It knows no record in particular: each attrs class is read and written by its own field names. Types are
strict, since ``"12"`` or ``true`` in the place of a job id is a broken answer and not a 12 or a 1. Fields that
a class does not know are passed over, since the service may add some, and so are optional ones of a wrong type;
where a class has a field ``extra``, it keeps both.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import attrs
from cattrs import ClassValidationError, Converter
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from annolab_async._open_records import is_open, open_reader, open_writer
from annolab_async._wire import LIMIT, camel_case, fault_of, is_fit, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Attrs = type[attrs.AttrsInstance]

__all__ = ["decode_json", "decode_object", "reader_of", "structure", "unstructure"]

T = TypeVar("T")


def _exactly(kind: type[T]) -> Callable[[object, object], T]:
    def check(value: object, _: object) -> T:
        if not is_fit(value, kind):
            raise ValueError(fault_of(value, kind))
        return cast("T", value)

    return check


def _if_exactly(kind: type[T]) -> Callable[[object, object], T | None]:
    def check(value: object, _: object) -> T | None:
        # Optional fields only inform: one of a wrong type must not cost the caller a job that was paid for.
        return value if type(value) is kind else None

    return check


def _ints(value: object, _: object) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise TypeError(f"is {kind_of(value)}, not an array")
    items = cast("list[object]", value)
    for item in items:
        if type(item) is not int:
            raise TypeError(f"holds {kind_of(item)}, not only integers")
    ints = tuple(cast("list[int]", items))
    if ints and not -LIMIT <= min(ints) <= max(ints) < LIMIT:
        raise ValueError("holds an integer of more than 64 bits")
    return ints


def _make_converter() -> Converter:
    converter = Converter()

    def names(cls: Attrs) -> dict[str, Any]:
        return {field.name: override(rename=camel_case(field.name)) for field in attrs.fields(cls)}

    def reader(cls: Attrs) -> Callable[[Mapping[str, Any], Any], Any]:
        if is_open(cls):
            return open_reader(cls)
        return make_dict_structure_fn(cls, converter, **names(cls))

    def writer(cls: Attrs) -> Callable[[Any], dict[str, Any]]:
        if is_open(cls):
            return open_writer(cls)
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


_PLAIN_DECODER: Final = json.JSONDecoder(parse_constant=_no_number)
_WHITESPACE: Final = " \t\r\n"


def decode_object(text: str) -> dict[str, Any]:
    """Return what the JSON text of an object says, as strictly as :func:`decode_json`, but in half the time.

    Raises:
        ValueError: it is no JSON, no object, nested too deeply, says a field twice, or holds NaN or an infinity.
    """
    try:
        data: dict[str, Any]  # or anything else, as yet
        data, end = _PLAIN_DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        pass  # the slow way finds it too, and tells it
    else:
        # A colon follows each name. If the text has no more of them than the result has names, no name was lost to
        # a second one of its kind. If it has, some may only stand in strings: the slow way tells.
        if isinstance(data, dict):
            is_whole = end == len(text) or not text[end:].strip(_WHITESPACE)
            if is_whole and (text.count(":") == len(data) or _most_names(text) == _names(data)):
                return data
    found = decode_json(text)
    if type(found) is not dict:
        raise ValueError(f"it is {kind_of(found)}, not an object")
    return cast("dict[str, Any]", found)


def _most_names(text: str) -> int:
    """Return how many names a JSON text says at most: before the colon of each stand its quote or white space."""
    return text.count('":') + sum(text.count(f"{space}:") for space in _WHITESPACE)


def _names(data: dict[str, Any]) -> int:
    """Return how many names an object has at least, with those of the objects right inside it."""
    return len(data) + sum(
        len(cast("dict[str, Any]", value)) for value in data.values() if type(value) is dict
    )


def structure(cls: type[T], data: object) -> T:
    """Make a record of decoded JSON.

    Args:
        cls: the attrs class to make.
        data: what :func:`decode_json` returned.

    Raises:
        ValueError: the data do not fit; the text names every field at fault, as on the wire.
    """
    if type(data) is not dict:
        raise ValueError(f"it is {kind_of(data)}, not an object")
    try:
        return _CONVERTER.structure(data, cls)
    except ClassValidationError as error:
        faults = [
            _fault(camel_case(note.name), fault) for fault, note in error.group_exceptions()[0]
        ]
    # Raised here, since the frames of the exception above hold the whole body.
    raise ValueError("; ".join(faults))


def reader_of(cls: type[T]) -> Callable[[dict[str, Any]], T]:
    """Return what :func:`structure` does to a JSON object, for an open class, of which many are made."""
    return cast("Callable[[dict[str, Any]], T]", _CONVERTER.get_structure_hook(cls))


def _fault(name: str, error: Exception) -> str:
    return f"{name} is missing" if isinstance(error, KeyError) else f"{name} {error}"


def unstructure(record: attrs.AttrsInstance) -> dict[str, Any]:
    """Return a record as JSON-ready data, without the fields that have their default value."""
    data: dict[str, Any] = _CONVERTER.unstructure(record)
    return data
