"""How the wire names and types things: what every reader of it has in common. Pure."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, Final, cast, get_args

__all__ = ["camel_case", "fault_of", "is_fit", "kind_of", "only", "open_kind"]

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
LIMIT: Final = 2**63


def camel_case(name: str) -> str:
    """Return the wire's name of a field."""
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


def only(kind: type) -> str:
    """Return what a value of a type is called, with its article."""
    return _KINDS.get(kind, kind.__name__)


def kind_of(value: object) -> str:
    """Return of which kind a value is: what stands in an answer may be secret; its kind never is."""
    return only(type(value))


def is_fit(value: object, kind: type) -> bool:
    """Return whether a value is of exactly a type, and if it is an integer, one of 64 bits."""
    # type() and not isinstance(): a bool is an int to Python, but not to the API.
    return type(value) is kind and (kind is not int or -LIMIT <= cast("int", value) < LIMIT)


def fault_of(value: object, kind: type) -> str:
    """Return what is wrong with a value that is not fit."""
    if type(value) is kind:
        return "is an integer of more than 64 bits"
    return f"is {kind_of(value)}, not {only(kind)}"


def open_kind(kind: Any) -> Any:
    """Return what a field holds if it holds anything: its type, without None."""
    if isinstance(kind, UnionType):
        kinds = [member for member in get_args(kind) if member is not NoneType]
        return kinds[0] if len(kinds) == 1 else kind
    return kind
