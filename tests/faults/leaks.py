"""Where a secret can be found again: in texts, attributes, pickles and tracebacks."""

from __future__ import annotations

import functools
import pickle
import re
import traceback
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import (
    BuiltinFunctionType,
    CodeType,
    FrameType,
    FunctionType,
    MethodType,
    ModuleType,
    TracebackType,
)
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    import logging

# The key and the signature that the tests send, and any part of them, however a library may have spelt it.
SECRET: Final = re.compile("x{4}|canary", re.IGNORECASE)
_DEPTH: Final = 8
_NO_DATA: Final = (type, ModuleType, CodeType, FrameType, TracebackType, BuiltinFunctionType)


def leaks(error: BaseException) -> list[str]:
    """Return the places in an exception at which a secret stands."""
    found = [*attributes(error, "error")]
    for link in _chain(error):
        name = type(link).__name__
        if SECRET.search(f"{link} {link!r} {''.join(traceback.format_exception_only(link))}"):
            found.append(f"text of {name}: {link!r}")
        steps = traceback.walk_tb(link.__traceback__)
        frames = traceback.StackSummary.extract(steps, capture_locals=True, lookup_lines=False)
        for frame in frames:
            if "/tests/" not in frame.filename:  # those hold what they send
                found += [
                    f"local {local} of {frame.name} in {frame.filename}: {text[:300]}"
                    for local, text in (frame.locals or {}).items()
                    if SECRET.search(text)
                ]
    try:
        data = pickle.dumps(error)
    except Exception as refusal:  # noqa: BLE001  # only ours are promised to be picklable
        if type(error).__module__.startswith("annolab_async"):
            found.append(f"cannot be pickled: {refusal!r}")
    else:
        found += [f"pickle: {data!r}"] if SECRET.search(data.decode("latin-1")) else []
    return found


def leaks_of_logs(records: Iterable[logging.LogRecord]) -> list[str]:
    """Return the log records, of whatever library, in which a secret stands."""
    found = list[str]()
    for record in records:
        text = f"{record.getMessage()} {record.args!r} {record.exc_text}"
        if SECRET.search(text):
            found.append(f"log of {record.name}: {text[:300]}")
        if record.exc_info and record.exc_info[1]:
            found += [f"log of {record.name}: {where}" for where in leaks(record.exc_info[1])]
    return found


def _chain(error: BaseException) -> list[BaseException]:
    """Return an exception with its causes and contexts, those that are suppressed included."""
    chain, following = list[BaseException](), [error]
    while following:
        link = following.pop()
        if link not in chain:
            chain.append(link)
            members: tuple[BaseException, ...] = getattr(link, "exceptions", ())
            others = (link.__cause__, link.__context__, *members)
            following += [other for other in others if other is not None]
    return chain


def attributes(value: object, name: str) -> Iterator[str]:
    """Yield the paths by which a secret can be reached from an object, its reprs included."""
    seen: dict[int, object] = {}  # with the objects, lest one takes the id of another
    waiting = deque([(value, name, 0)])
    while waiting:
        thing, path, depth = waiting.popleft()
        if id(thing) in seen or isinstance(thing, _NO_DATA):
            continue
        seen[id(thing)] = thing
        if SECRET.search(_text(thing)):
            yield f"{path} ({type(thing).__name__}): {_text(thing)[:300]}"
        elif depth < _DEPTH:
            waiting += [(child, path + step, depth + 1) for step, child in _children(thing)]


def _text(thing: Any) -> str:
    if isinstance(thing, bytes | bytearray):
        return bytes(thing).decode("latin-1")
    try:
        return thing if isinstance(thing, str) else repr(thing)
    except Exception:  # noqa: BLE001  # of libraries, half made
        return ""


_NAMES: Final[list[tuple[type, list[str]]]] = [
    (MethodType, ["__self__"]),
    (functools.partial, ["func", "args", "keywords"]),
    (BaseException, ["__cause__", "__context__", "args"]),
]


def _children(thing: Any) -> Iterator[tuple[str, object]]:
    kind = cast("type[object]", type(thing))
    if issubclass(kind, Mapping):
        for key, value in [*thing.items()]:
            yield f" key {key!r}", key
            yield f"[{key!r}]", value
    elif issubclass(kind, list | tuple | set | frozenset | deque):
        for number, value in enumerate([*thing]):
            yield f"[{number}]", value
    elif issubclass(kind, FunctionType):
        for cell in thing.__closure__ or ():
            yield " closure", _inside(cell)
    for base, names in _NAMES:
        if issubclass(kind, base):
            yield from ((f".{name}", getattr(thing, name)) for name in names)
    for name, value in [*getattr(thing, "__dict__", {}).items()]:
        yield f".{name}", value
    for base in kind.__mro__:
        slots = base.__dict__.get("__slots__", ())
        for slot in [slots] if isinstance(slots, str) else slots:
            if slot not in {"__dict__", "__weakref__"}:
                private = slot.startswith("__") and not slot.endswith("__")
                slot_name = f"_{base.__name__.lstrip('_')}{slot}" if private else slot
                yield f".{slot_name}", getattr(thing, slot_name, None)


def _inside(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return None
