"""What is to be run over which sources, cut into batches. Pure."""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import AsyncGenerator, AsyncIterable, Collection, Iterable, Set as AbstractSet
from contextlib import aclosing, nullcontext
from itertools import chain, islice
from typing import TYPE_CHECKING, Final, SupportsIndex, cast

from attrs import field, frozen

from annolab_async._records import InferenceRequest, name_faults

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractAsyncContextManager

__all__ = ["BatchPlan", "Cutter"]

_SHOWN: Final = 10
_LARGEST_ID: Final = 2**63 - 1
# Ids are remembered by the block that they are in: a few as they are, many as bits.
_BLOCK: Final = 2**16
_LAST_PLACE: Final = _BLOCK - 1
_FEW: Final = 1024
# How many ids are looked at together.
_AT_ONCE: Final = 1000


def _in_order(
    source_ids: Iterable[int] | AsyncIterable[int],
) -> Iterable[int] | AsyncIterable[int]:
    # A set has no order, and a plan that is started again must be cut as it was.
    return sorted(source_ids, key=_order) if isinstance(source_ids, AbstractSet) else source_ids


def _order(value: object) -> tuple[int, str]:
    return (value, "") if isinstance(value, int) else (0, str(value))


@frozen(kw_only=True, eq=False)
class BatchPlan:
    """A model over many sources, to be run batch by batch.

    Args:
        group_name: name of the group that owns the project.
        project_identifier: name or id of the project that holds the sources.
        model_identifier: name or id of the model to run.
        output_layer_identifier: name or id of the layer that receives the predictions.
        source_ids: ids of the sources: anything to iterate over, also asynchronously. A collection is checked here;
            a stream is checked as it is read, and sent while it is read if it is an asynchronous one. One that occurs
            again is left out, and reported. For a run that is started again they must come in the same order.
        batch_size: sources in a batch.

    Raises:
        ValueError: something is wrong; the text names every fault.
    """

    group_name: str
    project_identifier: str | int
    model_identifier: str | int
    output_layer_identifier: str | int
    source_ids: Iterable[int] | AsyncIterable[int] = field(converter=_in_order, repr=False)
    batch_size: int = 25

    def __attrs_post_init__(self) -> None:
        faults = [
            *name_faults("group_name", self.group_name, ids_too=False),
            *name_faults("project_identifier", self.project_identifier),
            *name_faults("model_identifier", self.model_identifier),
            *name_faults("output_layer_identifier", self.output_layer_identifier),
        ]
        if type(self.batch_size) is not int or self.batch_size < 1:
            faults.append(f"batch_size is {self.batch_size!r}, not an integer from 1 up")
        given: object = self.source_ids
        if isinstance(given, str | bytes) or not isinstance(given, Iterable | AsyncIterable):
            faults.append(f"source_ids is a {type(given).__name__}, not an iterable of ids")
        elif isinstance(given, Collection):
            faults += _faults_of(given)
        if faults:
            raise ValueError("This is no valid BatchPlan: " + "; ".join(faults))

    @property
    def is_streamed(self) -> bool:
        """Whether the sources come one after the other, and batches are sent before all have come."""
        return isinstance(self.source_ids, AsyncIterable)

    @property
    def fingerprint(self) -> str:
        """What tells this plan from others, apart from its sources: their batches are compared one by one."""
        fields = [
            self.group_name,
            self.project_identifier,
            self.model_identifier,
            self.output_layer_identifier,
            self.batch_size,
        ]
        return hashlib.sha256(json.dumps(fields).encode()).hexdigest()

    @property
    def details(self) -> str:
        """The plan's fields as JSON, for who looks into a ledger."""
        return json.dumps({
            "groupName": self.group_name,
            "projectIdentifier": self.project_identifier,
            "modelIdentifier": self.model_identifier,
            "outputLayerIdentifier": self.output_layer_identifier,
            "batchSize": self.batch_size,
        })

    def request(self, source_ids: tuple[int, ...]) -> InferenceRequest:
        """Return the request for one batch."""
        return InferenceRequest(
            group_name=self.group_name,
            project_identifier=self.project_identifier,
            model_identifier=self.model_identifier,
            source_ids=source_ids,
            output_layer_identifier=self.output_layer_identifier,
        )


class Cutter:
    """Cuts source ids into batches, each id once.

    Args:
        plan: what is cut.

    Attributes:
        repeated: how many ids were left out because they had occurred before.
        some_repeated: the first of them.
    """

    def __init__(self, plan: BatchPlan) -> None:
        self._plan = plan
        self._seen = _SeenIds()
        self._earlier = _SeenIds()
        self.repeated = 0
        self.some_repeated: list[int] = []

    def batches(self) -> Iterator[tuple[int, ...]] | AsyncGenerator[tuple[int, ...]]:
        """Return the batches.

        Raises:
            ValueError: while they are iterated over: an id is none, or there are no ids, as in a generator that was
                read before. All that are none in a sequence are named; of an asynchronous stream, which may be
                empty, the first.
        """
        source_ids = self._plan.source_ids
        if isinstance(source_ids, AsyncIterable):
            return self._cut_stream(source_ids)
        return self._cut(source_ids)

    def _cut(self, source_ids: Iterable[int]) -> Iterator[tuple[int, ...]]:
        batch: list[int] = []
        place = 0
        rest = iter(source_ids)
        # Not one by one: a run of millions, begun again, would read its plan for longer than all else takes.
        while values := list(islice(rest, self._plan.batch_size - len(batch))):
            if not _are_plain_ids(values):
                values = self._ids_among(values, rest, place)
            batch += self._new_of(values)
            if len(batch) == self._plan.batch_size:
                yield tuple(batch)
                batch = []
            place += len(values)
        if not place:
            raise ValueError("source_ids is empty; a generator is, once it was read")
        if batch:
            yield tuple(batch)

    @staticmethod
    def _ids_among(values: list[int], rest: Iterator[int], first: int) -> list[int]:
        ids = [source_id for value in values if (source_id := _source_id(value)) is not None]
        if len(ids) < len(values):
            # No further batch, but the names of all that are wrong.
            raise ValueError("; ".join(_faults_of(chain(values, rest), first=first)))
        return ids

    async def _cut_stream(self, source_ids: AsyncIterable[int]) -> AsyncGenerator[tuple[int, ...]]:
        batch: list[int] = []
        async with _closing(source_ids):
            place = 0
            async for value in source_ids:
                if (source_id := _source_id(value)) is None:
                    raise ValueError("; ".join(_faults_of([value], first=place)))
                if source_id not in self._earlier:
                    batch += self._new_of([source_id])
                if len(batch) == self._plan.batch_size:
                    yield tuple(batch)
                    batch = []
                place += 1
        if batch:
            yield tuple(batch)

    def leave_out(self, source_ids: Sequence[int]) -> None:
        """Cut no batches of a stream with these ids: they have theirs already, from an earlier time."""
        self._earlier.add(source_ids)

    def _new_of(self, source_ids: Sequence[int]) -> list[int]:
        new = self._seen.add(source_ids)
        if len(new) < len(source_ids):
            self.repeated += len(source_ids) - len(new)
            if room := _SHOWN - len(self.some_repeated):
                self.some_repeated += _left_out(source_ids, new)[:room]
        return new


def _left_out(source_ids: Sequence[int], new: Sequence[int]) -> list[int]:
    once = set(new)
    left_out: list[int] = []
    for source_id in source_ids:
        # The first of each that is new is not left out.
        if source_id in once:
            once.remove(source_id)
        else:
            left_out.append(source_id)
    return left_out


class _SeenIds:
    """A set of ids that takes little room: a bit for each where they lie densely."""

    def __init__(self) -> None:
        self._blocks: dict[int, set[int] | bytearray] = {}

    def __contains__(self, source_id: int) -> bool:
        place = source_id & _LAST_PLACE
        block = self._blocks.get(source_id - place, ())
        if isinstance(block, bytearray):
            return bool(block[place >> 3] & 1 << (place & 7))
        return place in block

    def add(self, source_ids: Sequence[int]) -> list[int]:
        """Take in ids; return those that were new."""
        if self._add_row(source_ids):
            return [*source_ids]
        new: list[int] = []
        current: int | None = None
        block: set[int] | bytearray = set()
        for source_id in source_ids:
            place = source_id & _LAST_PLACE
            if source_id - place != current:
                current = source_id - place
                block = self._blocks.setdefault(current, set[int]())
            if isinstance(block, bytearray):
                bit = 1 << (place & 7)
                if not block[place >> 3] & bit:
                    block[place >> 3] |= bit
                    new.append(source_id)
            elif place not in block:
                block.add(place)
                new.append(source_id)
                if len(block) > _FEW:
                    block = self._blocks[source_id - place] = _as_bits(block)
        return new

    def _add_row(self, source_ids: Sequence[int]) -> bool:
        """Take in ids that are a row without gaps, as ids most often are, and new; return whether they were."""
        first, count = source_ids[0], len(source_ids)
        place = first & _LAST_PLACE
        block = self._blocks.get(first - place)
        if not isinstance(block, bytearray) or place + count > _BLOCK:
            return False
        if [*range(first, first + count)] != [*source_ids]:
            return False
        begin, end = place >> 3, (place + count + 7) >> 3
        bits = int.from_bytes(block[begin:end], "little")
        row = ((1 << count) - 1) << (place & 7)
        if bits & row:
            return False
        block[begin:end] = (bits | row).to_bytes(end - begin, "little")
        return True


def _as_bits(places: Iterable[int]) -> bytearray:
    bits = bytearray(_BLOCK // 8)
    for place in places:
        bits[place >> 3] |= 1 << (place & 7)
    return bits


def _are_plain_ids(values: Sequence[object]) -> bool:
    if {*map(type, values)} != {int}:
        return False
    numbers = cast("Sequence[int]", values)
    return min(numbers) >= 1 and max(numbers) <= _LARGEST_ID


def _source_id(value: object) -> int | None:
    # Anything that is an integer to Python, such as numpy's; but no bool, which surely is a slip.
    if type(value) is not int:
        if isinstance(value, bool) or not isinstance(value, SupportsIndex):
            return None
        try:
            value = operator.index(value)
        except TypeError:  # as of an array, a row of a table
            return None
    return value if 1 <= value <= _LARGEST_ID else None


def _closing(source_ids: AsyncIterable[int]) -> AbstractAsyncContextManager[object]:
    # A generator that is not read to its end would be left open: nobody else reads on in it.
    if isinstance(source_ids, AsyncGenerator):
        return aclosing(cast("AsyncGenerator[int]", source_ids))
    return nullcontext()


def _faults_of(source_ids: Iterable[object], *, first: int = 0) -> Iterator[str]:
    wrong, shown, is_empty = 0, list[str](), True
    rest = iter(source_ids)
    while values := list(islice(rest, _AT_ONCE)):
        is_empty = False
        if not _are_plain_ids(values):
            for place, value in enumerate(values, first):
                if _source_id(value) is None:
                    wrong += 1
                    if wrong <= _SHOWN:
                        shown.append(f"source_ids[{place}] is {repr(value)[:40]}")
        first += len(values)
    if is_empty:
        yield "source_ids is empty"
    if wrong:
        more = f" and {wrong - _SHOWN} more are none" if wrong > _SHOWN else ""
        yield f"{', '.join(shown)}{more}: ids are integers from 1 up"
