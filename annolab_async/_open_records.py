"""Records that lose nothing: what the service says beyond their fields is kept in ``extra``, by the wire's names.

So is an optional field of a wrong type: the field itself is None, and ``extra`` has what was sent. Written back, both
stand where they stood. A field's metadata may say ``also``: another name by which the wire calls it, and that is
looked at where its own has nothing of use.

Read by code of its own and not by cattrs', which is five times as slow, since an export holds millions of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import attrs
from attrs import NOTHING

from annolab_async._wire import LIMIT, camel_case, fault_of, is_fit, open_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Attrs = type[attrs.AttrsInstance]

__all__ = ["is_open", "open_reader", "open_writer"]

_EXTRA: Final = "extra"
_ALSO: Final = "also"
_PLAIN: Final = (int, str, bool)
_PAIR: Final = tuple[int, int]


def is_open(cls: Attrs) -> bool:
    """Return whether records of a class keep what they do not know."""
    return _EXTRA in attrs.fields_dict(cls)


def open_reader(cls: Attrs) -> Callable[[Mapping[str, Any], Any], Any]:
    """Return what makes such a record of a decoded JSON object; it raises ValueError, naming every field at fault."""
    fields = [field for field in attrs.fields(attrs.resolve_types(cls)) if field.name != _EXTRA]
    required = [(camel_case(each.name), each.type) for each in fields if each.default is NOTHING]

    def refuse(data: Mapping[str, Any]) -> NoReturn:
        raise ValueError(
            "; ".join(
                f"{wire} {fault_of(data[wire], kind) if wire in data else 'is missing'}"
                for wire, kind in required
                if not is_fit(data.get(wire), cast("type", kind))
            )
        )

    names: dict[str, Any] = {
        "cls": cls,
        "new": object.__new__,
        "twin": _twin(cls),
        "known": frozenset(camel_case(field.name) for field in fields),
        "refuse": refuse,
    }
    # All that goes into the code is the names of the fields; attrs and cattrs make theirs in the same way.
    exec(_code(fields), names)  # noqa: S102
    return cast("Callable[[Mapping[str, Any], Any], Any]", names["read"])


def _twin(cls: Attrs) -> type:
    """Return a class like a frozen one, but for being frozen: its records are filled in three times as fast.

    What is made of it becomes a record of the frozen class, which is possible as the two lie the same in memory.

    Raises:
        TypeError: they do not; classes with ``weakref_slot=False`` do.
    """
    twin = type(cls.__name__, (), {"__slots__": [field.name for field in attrs.fields(cls)]})
    setattr(twin(), "__class__", cls)  # noqa: B010  # type checkers know only the plain way, and not that it works
    return twin


def _code(fields: Sequence[attrs.Attribute[Any]]) -> str:
    """Return the code of a function that does one thing after the other, field by field."""
    lines = [
        "def read(data, _=None):",
        " get = data.get",
        " extra = {}",
        " for name in data:",
        "  if name not in known: extra[name] = data[name]",
    ]
    for field in fields:
        name, wire, kind = _local(field), camel_case(field.name), open_kind(field.type)
        lines.append(f" {name} = get({wire!r})")
        if kind is Any:
            continue
        if kind == _PAIR:
            both = " and ".join(_fit(f"{name}[{number}]", int) for number in range(2))
            fit = f"type({name}) is list and len({name}) == 2 and {both}"
            made = f"({name}[0], {name}[1])"
        elif kind in _PLAIN:
            fit, made = _fit(name, kind), name
        else:
            raise TypeError(f"{field.name} is of a type that no open record has: {kind}")
        if field.default is NOTHING:
            lines.append(f" if not ({fit}): refuse(data)")
        else:
            lines += [
                f" if {fit}: {name} = {made}",
                f" elif {name} is not None: extra[{wire!r}] = {name}; {name} = None",
            ]
    for field in fields:
        if also := field.metadata.get(_ALSO):
            fit = _fit(f"extra.get({also!r})", int)
            name = _local(field)
            lines.append(f" if {name} is None and {fit}: {name} = extra.pop({also!r})")
    lines.append(" record = new(twin)")
    lines += [f" record.{field.name} = {_local(field)}" for field in fields]
    lines += [" record.extra = extra", " record.__class__ = cls", " return record"]
    return "\n".join(lines)


def _local(field: attrs.Attribute[Any]) -> str:
    # A field may have the name of what the code uses, such as ``type``.
    return f"its_{field.name}"


def open_writer(cls: Attrs) -> Callable[[Any], dict[str, Any]]:
    """Return what makes JSON-ready data of such a record, without the fields that are None."""
    names = [
        (field.name, camel_case(field.name)) for field in attrs.fields(cls) if field.name != _EXTRA
    ]

    def write(record: Any) -> dict[str, Any]:
        data: dict[str, Any] = {**record.extra}
        for name, wire in names:
            value = getattr(record, name)
            if value is not None:
                data[wire] = [*value] if isinstance(value, tuple) else value
        return data

    return write


def _fit(expression: str, kind: type) -> str:
    """Return the code of :func:`is_fit`, without the call."""
    if kind is not int:
        return f"type({expression}) is {kind.__name__}"
    # Python is quick with numbers of one digit, of which each has 30 bits; others are rare.
    in_range = f"0 <= {expression} < {2**30} or {-LIMIT} <= {expression} < {LIMIT}"
    return f"type({expression}) is int and ({in_range})"
