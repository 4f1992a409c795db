"""How an emulated AnnoLab is set up, checked once so that the rest can rely on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeGuard

from attrs import field, frozen

from annolab_async.emulator._download_faults import DownloadFaults
from annolab_async.emulator._export_records import Exports
from annolab_async.emulator._faults import Faults

DEFAULT_API_KEY = "XXXXXXX-XXXXXXX-XXXXXXX-XXXXXXX"
DEFAULT_GROUPS: Mapping[str, int] = MappingProxyType({"Company Name": 1})
DEFAULT_PROJECTS: Mapping[str, int] = MappingProxyType({"Sample Project": 1, "My Project": 2})
DEFAULT_MODELS: Mapping[str, int] = MappingProxyType({"Staple + Classify Documents": 1})
DEFAULT_LAYERS: Mapping[str, int] = MappingProxyType({"Gold Set": 12})
# What no server serves: for use in the same process, until there is one.
DEFAULT_DOWNLOADS_URL = "http://downloads.emulator"


# Copies, since what was checked must not change afterwards; what is no collection is left for the
# checks to name.
def _own_keys(keys: Any) -> Any:
    return tuple(keys) if _is_collection(keys) else keys


def _own_ids(ids: Any) -> Any:
    # Membership is asked for each source of each job.
    try:
        return frozenset(ids) if _is_collection(ids) else ids
    except TypeError:  # something in it cannot be an id, nor be in a set
        return tuple(ids)


def _own_names(names: Any) -> Any:
    return MappingProxyType(dict(names)) if is_mapping(names) else names


@frozen(kw_only=True)
class Settings:
    """What an emulated AnnoLab knows and how fast it works.

    Args:
        api_key: The key that may do everything.
        workers: How many jobs run at the same time.
        seed: Where durations and errors come from; the same seed gives the same jobs.
        base_seconds: Seconds that a job takes whatever its size.
        seconds_per_source: Seconds that each source adds.
        error_share: Share of jobs that end ``Errored``, from 0 to 1.
        bad_source_ids: Ids of sources that no model can read: a job with one of them ends ``Errored``.
        faults: What goes wrong with submissions; None for nothing.
        latency: Seconds that every answer takes.
        api_keys_without_model_run: Keys that are known but lack the "Model Run" permission.
        groups: Group names and their ids.
        projects: Project names and their ids.
        models: Model names and their ids.
        layers: Layer names and their ids.
        most_predictions: How many annotations a job makes in a source at most.
        exports: How long exports take, which fail, and how long their links are good.
        download_faults: What goes wrong with downloads; None for nothing.
        downloads_url: Where the links of exports lead, without a slash at the end.
        keep_requests: How many of the latest requests are remembered.
        clock: Tells the time in seconds.

    Raises:
        ValueError: An argument is invalid; the message names every fault, and no key.
    """

    api_key: str = field(default=DEFAULT_API_KEY, repr=False)
    workers: int = 10
    seed: int = 0
    base_seconds: float = 1.0
    seconds_per_source: float = 0.1
    error_share: float = 0.0
    bad_source_ids: frozenset[int] = field(default=frozenset(), converter=_own_ids)
    faults: Faults | None = None
    latency: float = 0.0
    api_keys_without_model_run: Collection[str] = field(default=(), repr=False, converter=_own_keys)
    groups: Mapping[str, int] = field(default=DEFAULT_GROUPS, converter=_own_names)
    projects: Mapping[str, int] = field(default=DEFAULT_PROJECTS, converter=_own_names)
    models: Mapping[str, int] = field(default=DEFAULT_MODELS, converter=_own_names)
    layers: Mapping[str, int] = field(default=DEFAULT_LAYERS, converter=_own_names)
    most_predictions: int = 5
    exports: Exports = field(factory=Exports)
    download_faults: DownloadFaults | None = None
    downloads_url: str = DEFAULT_DOWNLOADS_URL
    keep_requests: int = 0
    clock: Callable[[], float]

    def __attrs_post_init__(self) -> None:
        if faults := "; ".join(self._faults()):
            raise ValueError(f"the emulator cannot be set up: {faults}")

    def _faults(self) -> Iterator[str]:
        yield from _key_faults(self.api_key, self.api_keys_without_model_run)
        if not is_int(self.workers) or self.workers < 1:
            yield f"workers must be an int of at least 1, not {self.workers!r}"
        if not is_int(self.seed):
            yield f"seed must be an int, not {self.seed!r}"
        for name in ("base_seconds", "seconds_per_source", "latency"):
            if not _is_number(value := getattr(self, name)) or value < 0:
                yield f"{name} must be a finite number of seconds, 0 or more, not {value!r}"
        if not _is_number(self.error_share) or not 0 <= self.error_share <= 1:
            yield f"error_share must be a number from 0 to 1, not {self.error_share!r}"
        yield from _bad_source_faults(self.bad_source_ids)
        if not isinstance(self.faults, Faults | None):
            yield f"faults must be Faults(...) or None, not {self.faults!r}"
        for name in ("groups", "projects", "models", "layers"):
            yield from _names_faults(name, getattr(self, name))
        for name in ("most_predictions", "keep_requests"):
            if not is_int(value := getattr(self, name)) or value < 0:
                yield f"{name} must be an int of at least 0, not {value!r}"
        if not isinstance(self.exports, Exports):
            yield f"exports must be Exports(...), not {self.exports!r}"
        if not isinstance(self.download_faults, DownloadFaults | None):
            yield f"download_faults must be DownloadFaults(...) or None, not {self.download_faults!r}"
        if not is_base_url(self.downloads_url):
            yield f"downloads_url must begin with http:// or https://, not {self.downloads_url!r}"
        if not callable(self.clock):
            yield f"clock must be callable, not {self.clock!r}"


def is_int(value: Any) -> bool:
    """Tell an int from all else, bools included."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_id(value: Any) -> bool:
    """Tell whether a value can be an id: an int of at least 1."""
    return is_int(value) and value >= 1


def is_name(value: Any) -> bool:
    """Tell whether a value can be a name: a string that is not empty."""
    return isinstance(value, str) and bool(value)


def is_base_url(value: Any) -> bool:
    """Tell whether paths can be put at the end of a value to make URLs."""
    is_http = is_name(value) and value.startswith(("http://", "https://"))
    return is_http and not value.endswith("/")


def is_mapping(value: Any) -> TypeGuard[Mapping[Any, Any]]:
    """Tell whether a value is a mapping."""
    return isinstance(value, Mapping)


def _is_number(value: Any) -> bool:
    try:
        return (is_int(value) or isinstance(value, float)) and math.isfinite(value)
    except OverflowError:  # an int beyond every float
        return False


def _is_collection(value: Any) -> TypeGuard[Collection[Any]]:
    # A lone string is a collection of strings too, and surely a slip.
    return isinstance(value, Collection) and not isinstance(value, str)


def _key_faults(api_key: Any, without_model_run: Any) -> Iterator[str]:
    if not _is_key(api_key):
        yield "api_key must be printable ASCII without spaces"
    if not _is_collection(without_model_run):
        yield "api_keys_without_model_run must be a collection of keys"
    elif not all(map(_is_key, without_model_run)):
        yield "api_keys_without_model_run must hold printable ASCII keys without spaces"
    elif api_key in without_model_run:
        yield "api_keys_without_model_run must not hold the api_key"


def _bad_source_faults(ids: Any) -> Iterator[str]:
    if not _is_collection(ids) or isinstance(ids, bytes):
        yield f"bad_source_ids must be a collection of ids, not {ids!r}"
    elif wrong := [value for value in ids if not is_id(value)]:
        yield f"bad_source_ids must hold positive ints only, not {wrong[0]!r}"


def _is_key(value: Any) -> bool:
    return is_name(value) and value.isascii() and value.isprintable() and " " not in value


def _names_faults(what: str, names: Any) -> Iterator[str]:
    if not is_mapping(names) or not names:
        yield f"{what} must be a non-empty mapping of names to ids"
        return
    for name, number in names.items():
        if not is_name(name):
            yield f"{what} must have non-empty strings as names, not {name!r}"
        if not is_id(number):
            yield f"{what}[{name!r}] must be a positive int, not {number!r}"
    ids = [number for number in names.values() if is_id(number)]
    if len(set(ids)) < len(ids):
        yield f"{what} must give every name its own id"
