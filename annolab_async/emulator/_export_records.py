"""How emulated exports go, and what the emulator remembers of each, as frozen records."""

from __future__ import annotations

import math
import random
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeGuard

from attrs import evolve, frozen

if TYPE_CHECKING:
    from collections.abc import Iterator

ExportStatus: TypeAlias = Literal["initialized", "started", "finished", "errored"]
FinalExportStatus: TypeAlias = Literal["finished", "errored"]
ExportKind: TypeAlias = Literal["project", "instruments"]


@frozen(kw_only=True)
class Exports:
    """How long exports take, which of them fail, and how long their links are good.

    Args:
        wait_seconds: Seconds that an export is ``initialized``.
        seconds: Seconds after that for which it is ``started``.
        error_share: Share of exports that end ``errored``, from 0 to 1.
        bad_export_ids: Ids of exports that end ``errored``; ids count up from 1.
        error: What those say of it.
        link_seconds: Seconds for which a signed link is good; each answer that says ``finished`` has a new one.
        seed: Which exports end ``errored``.

    Raises:
        ValueError: An argument is invalid; the message names every fault.
    """

    wait_seconds: float = 0.1
    seconds: float = 0.2
    error_share: float = 0.0
    bad_export_ids: Collection[int] = ()
    error: str = "the export could not be written"
    link_seconds: float = 3600.0
    seed: int = 0

    def __attrs_post_init__(self) -> None:
        if wrong := "; ".join(self._wrong()):
            raise ValueError(f"exports cannot go like this: {wrong}")

    def _wrong(self) -> Iterator[str]:
        for name in ("wait_seconds", "seconds", "link_seconds"):
            if not is_seconds(value := getattr(self, name)):
                yield f"{name} must be a finite number of seconds, 0 or more, not {value!r}"
        share: Any = self.error_share
        if type(share) not in {int, float} or not 0 <= share <= 1:
            yield f"error_share must be a number from 0 to 1, not {share!r}"
        ids: Any = self.bad_export_ids
        if not _are_ids(ids):
            yield f"bad_export_ids must be a collection of ints, not {ids!r}"
        if type(self.error) is not str:
            yield f"error must be a string, not {self.error!r}"
        if type(self.seed) is not int:
            yield f"seed must be an int, not {self.seed!r}"

    def final_status(self, export_id: int) -> FinalExportStatus:
        """Tell how an export ends."""
        # Seeded by export, so that its fate hangs on no other draw.
        chance = random.Random(f"{self.seed}:export:{export_id}").random()
        is_bad = chance < self.error_share or export_id in self.bad_export_ids
        return "errored" if is_bad else "finished"


@frozen(kw_only=True)
class EmulatedExport:
    """An export as it truly is, and what pollers have been told of it.

    Times are seconds on the emulator's clock. They are settled when the export is asked for, so
    ``started_at`` and ``ended_at`` may lie in the future. It holds what there was when it was asked for.

    Attributes:
        export_id: Its id; ids count up from 1.
        kind: Whether it is one of annotations or of instruments.
        project_id: The project's id.
        project_name: The project's name.
        source_ids: It holds only what is in these sources; None for all.
        layer_names: It holds only what is in these layers; None for all.
        include_annotation_types: Whether it holds the project's types.
        include_sources: Whether it holds the sources.
        include_text_bounds: Whether it holds where the sources' text stands.
        include_files: Whether it holds the files of instruments.
        requested_at: When it was asked for.
        started_at: When it is begun.
        ended_at: When it really ends.
        final_status: How it really ends.
        polls: How many status requests were answered with a status.
        statuses_shown: The distinct statuses in those answers, in order.
        links: The signed links in those answers, in order.
    """

    export_id: int
    kind: ExportKind
    project_id: int
    project_name: str
    source_ids: frozenset[int] | None = None
    layer_names: frozenset[str] | None = None
    include_annotation_types: bool = False
    include_sources: bool = False
    include_text_bounds: bool = False
    include_files: bool = False
    requested_at: float
    started_at: float
    ended_at: float
    final_status: FinalExportStatus
    polls: int = 0
    statuses_shown: tuple[ExportStatus, ...] = ()
    links: tuple[str, ...] = ()

    def status_at(self, now: float) -> ExportStatus:
        """Tell the export's status at a time.

        Args:
            now: Seconds on the emulator's clock.
        """
        if now < self.started_at:
            return "initialized"
        if now < self.ended_at:
            return "started"
        return self.final_status

    def shown(self, status: ExportStatus, link: str | None) -> EmulatedExport:
        """Return the export with one more poll, answered with ``status`` and ``link``, on record."""
        news = () if status in self.statuses_shown else (status,)
        return evolve(
            self,
            polls=self.polls + 1,
            statuses_shown=self.statuses_shown + news,
            links=self.links if link is None else (*self.links, link),
        )


def _are_ids(value: Any) -> TypeGuard[Collection[int]]:
    return _is_collection(value) and all(type(number) is int for number in value)


def _is_collection(value: Any) -> TypeGuard[Collection[Any]]:
    return isinstance(value, Collection)


def is_seconds(value: Any) -> bool:
    """Tell whether a value is a finite number of seconds, 0 or more."""
    return type(value) in {int, float} and 0 <= value < math.inf
