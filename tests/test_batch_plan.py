from __future__ import annotations

import json
import tracemalloc
from itertools import chain, count
from typing import TYPE_CHECKING, Any, cast

import anyio
import pytest
from hypothesis import example, given, strategies as st

from annolab_async import BatchPlan
from annolab_async._batch_plan import Cutter
from tests.builders import unhurried

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator

FIELDS: dict[str, Any] = {
    "group_name": "Company Name",
    "project_identifier": "My Project",
    "model_identifier": "Staple + Classify Documents",
    "output_layer_identifier": "Gold Set",
    "source_ids": [1],
}
# What no source id is: a slip rather than a number, too small, or too large for any database.


class Row:
    """A row of a table of another library's, which is only almost an integer."""

    def __index__(self) -> int:
        raise TypeError("only integer scalar arrays can be converted to a scalar index")

    def __repr__(self) -> str:
        return "Row()"


NO_IDS: list[Any] = [0, -1, True, False, 1.0, "7", None, 2**63, b"7", [7], Row()]


def a_plan(source_ids: Any = (1, 2, 3), **changes: Any) -> BatchPlan:
    return BatchPlan(**(FIELDS | {"source_ids": source_ids} | changes))


def cut(plan: BatchPlan) -> list[tuple[int, ...]]:
    return list(cast("Iterator[tuple[int, ...]]", Cutter(plan).batches()))


async def streamed(
    values: Iterable[Any], closed: list[str] | None = None
) -> AsyncGenerator[Any, None]:
    try:
        for value in values:
            await anyio.lowlevel.checkpoint()
            yield value
    finally:
        if closed is not None:
            closed.append("closed")


async def cut_stream(plan: BatchPlan) -> list[tuple[int, ...]]:
    return [batch async for batch in cast("AsyncIterable[tuple[int, ...]]", Cutter(plan).batches())]


class Indexed:
    """An integer of another library's."""

    def __init__(self, value: int) -> None:
        self._value = value

    def __index__(self) -> int:
        return self._value


@pytest.mark.parametrize(
    "source_ids",
    [
        pytest.param(lambda: [1, 2, 3, 4, 5], id="list"),
        pytest.param(lambda: (1, 2, 3, 4, 5), id="tuple"),
        pytest.param(lambda: range(1, 6), id="range"),
        pytest.param(lambda: {5, 4, 3, 2, 1}, id="set"),
        pytest.param(lambda: frozenset({5, 4, 3, 2, 1}), id="frozenset"),
        pytest.param(lambda: dict.fromkeys([1, 2, 3, 4, 5]), id="dict"),
        pytest.param(lambda: dict.fromkeys([5, 4, 3, 2, 1]).keys(), id="keys, which are a set"),
        pytest.param(lambda: (number for number in range(1, 6)), id="generator"),
        pytest.param(lambda: map(Indexed, range(1, 6)), id="integers of another library"),
    ],
)
def test_whatever_can_be_iterated_over_is_cut_in_its_order(source_ids: Any) -> None:
    assert cut(a_plan(source_ids(), batch_size=2)) == [(1, 2), (3, 4), (5,)]


def test_integers_of_other_libraries_become_pythons_own() -> None:
    (batch,) = cut(a_plan(map(Indexed, [7])))
    assert type(batch[0]) is int


@pytest.mark.anyio
async def test_an_asynchronous_stream_is_cut_in_its_order() -> None:
    plan = a_plan(streamed(range(1, 6)), batch_size=2)
    assert plan.is_streamed
    assert await cut_stream(plan) == [(1, 2), (3, 4), (5,)]
    assert await cut_stream(a_plan(streamed(range(1, 5)), batch_size=2)) == [(1, 2), (3, 4)]


def test_what_is_no_asynchronous_stream_is_not_taken_for_one() -> None:
    assert not a_plan([1]).is_streamed
    assert not a_plan(iter([1])).is_streamed


@pytest.mark.parametrize("size", [1, 2, 3, 4, 100])
def test_each_batch_but_the_last_has_the_size_asked_for(size: int) -> None:
    sizes = [len(batch) for batch in cut(a_plan(range(1, 101), batch_size=size))]
    assert sizes[:-1] == [size] * (len(sizes) - 1)
    assert 1 <= sizes[-1] <= size
    assert sum(sizes) == 100


def test_a_batch_holds_25_sources_unless_told_otherwise() -> None:
    assert [len(batch) for batch in cut(a_plan(range(1, 61)))] == [25, 25, 10]


def test_an_id_that_occurs_again_is_left_out_and_counted() -> None:
    plan = a_plan([3, 1, 3, 2, 1, 3], batch_size=2)
    cutter = Cutter(plan)
    assert list(cast("Iterator[Any]", cutter.batches())) == [(3, 1), (2,)]
    assert cutter.repeated == 3
    assert cutter.some_repeated == [3, 1, 3]


def test_of_many_repeated_ids_only_the_first_ten_are_kept() -> None:
    cutter = Cutter(a_plan(chain(range(1, 5001), range(1, 5001))))
    assert sum(map(len, cast("Iterator[Any]", cutter.batches()))) == 5000
    assert cutter.repeated == 5000
    assert cutter.some_repeated == list(range(1, 11))


@unhurried
@example([65535, 65536, 65535, 2**63 - 1, 2**63 - 1], 2)
@given(st.lists(st.integers(1, 70_000) | st.integers(1, 2**63 - 1), min_size=1), st.integers(1, 9))
def test_every_id_is_in_just_one_batch_in_the_order_of_its_first_occurrence(
    source_ids: list[int], size: int
) -> None:
    batches = cut(a_plan(source_ids, batch_size=size))
    assert [one for batch in batches for one in batch] == list(dict.fromkeys(source_ids))


def test_densely_packed_ids_are_told_apart_as_well() -> None:
    # More than 1024 to a block of 65536: from there on they are remembered as bits.
    source_ids = [*range(1, 140_000, 7), *range(1, 140_000, 3)]
    batches = cut(a_plan(iter(source_ids), batch_size=1000))
    assert [one for batch in batches for one in batch] == list(dict.fromkeys(source_ids))


@unhurried
@given(st.lists(st.tuples(st.integers(64_000, 68_000), st.integers(1, 1500)), max_size=12))
@example([(64_000, 1100), (65_000, 50), (65_530, 12)])
@example([(64_000, 1100), (66_000, 7), (66_007, 2), (66_000, 9)])
def test_rows_of_ids_are_told_apart_wherever_they_overlap(rows: list[tuple[int, int]]) -> None:
    # Across the border of blocks at 65,536, and on both sides of where they become bits.
    source_ids = [first + i for first, count in rows for i in range(count)] or [1]
    batches = cut(a_plan(source_ids, batch_size=7))
    assert [one for batch in batches for one in batch] == list(dict.fromkeys(source_ids))


def test_a_row_across_two_blocks_is_remembered_in_both() -> None:
    # The first block is one of bits by then, and the row stands in a batch of its own.
    rows = [
        range(64_000, 65_106),
        range(65_533, 65_540),
        range(65_536, 65_540),
        range(65_533, 65_536),
    ]
    assert len(rows[0]) % 7 == 0
    batches = cut(a_plan(chain(*rows), batch_size=7))
    assert [one for batch in batches for one in batch] == [*rows[0], *rows[1]]


def test_what_begins_and_ends_like_a_row_is_none() -> None:
    row = range(64_000, 65_104)
    batches = cut(a_plan([*row, 1, 3, 3, 4, 2, 8, 7, 5], batch_size=4))
    assert [one for batch in batches for one in batch] == [*row, 1, 3, 4, 2, 8, 7, 5]


@pytest.mark.parametrize(("count", "step"), [(1000, 7), (3000, 3), (70_000, 1)])
@pytest.mark.anyio
async def test_of_a_stream_just_those_are_left_out_that_have_come_before(
    count: int, step: int
) -> None:
    cutter = Cutter(a_plan(streamed(range(1, 300)), batch_size=1))
    cutter.leave_out(range(2, count, step))
    batches = [batch async for batch in cast("AsyncIterable[tuple[int, ...]]", cutter.batches())]
    expected = [one for one in range(1, 300) if one not in range(2, count, step)]
    assert [one for batch in batches for one in batch] == expected
    assert cutter.repeated == 0


@pytest.mark.parametrize("value", [1, 2, 2**63 - 2, 2**63 - 1])
@pytest.mark.parametrize("make", [int, Indexed])
def test_the_smallest_and_the_largest_ids_are_ids(make: Any, value: int) -> None:
    assert cut(a_plan([make(value)])) == [(value,)]


@pytest.mark.parametrize("value", [-1, 0, 2**63, 2**64])
def test_what_is_too_small_or_too_large_is_no_id_whatever_it_is_made_of(value: int) -> None:
    with pytest.raises(ValueError, match="ids are integers from 1 up"):
        a_plan([Indexed(value)])


@pytest.mark.parametrize("step", [1, 2])
def test_many_ids_are_remembered_in_a_bit_each(step: int) -> None:
    # 8 KiB for a block of 65,536; beside it stands the last batch.
    cutter = Cutter(a_plan(iter(range(1, 10_000 * step, step)), batch_size=1000))
    tracemalloc.start()
    try:
        for _ in cast("Iterator[Any]", cutter.batches()):
            pass
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 100_000


def test_a_generator_is_read_no_further_than_is_asked_for() -> None:
    numbers = count(1)
    batches = iter(cast("Iterator[Any]", Cutter(a_plan(numbers, batch_size=3)).batches()))
    assert [next(batches), next(batches)] == [(1, 2, 3), (4, 5, 6)]
    assert next(numbers) == 7


@pytest.mark.anyio
async def test_a_stream_is_read_no_further_than_is_asked_for() -> None:
    numbers = count(1)
    closed = list[str]()
    plan = a_plan(streamed(numbers, closed), batch_size=3)
    batches = cast("AsyncGenerator[Any]", Cutter(plan).batches())
    assert [await anext(batches), await anext(batches)] == [(1, 2, 3), (4, 5, 6)]
    assert next(numbers) == 7
    await batches.aclose()
    assert closed == ["closed"]


@pytest.mark.parametrize("value", NO_IDS, ids=repr)
def test_what_is_no_id_is_refused_when_the_plan_is_made(value: Any) -> None:
    with pytest.raises(ValueError, match="ids are integers from 1 up") as caught:
        a_plan([1, value, 3])
    assert f"source_ids[1] is {value!r}" in str(caught.value)


@pytest.mark.parametrize("value", NO_IDS, ids=repr)
def test_what_is_no_id_is_refused_when_a_generator_brings_it(value: Any) -> None:
    plan = a_plan(iter([1, value, 3]))
    with pytest.raises(ValueError, match="ids are integers from 1 up") as caught:
        cut(plan)
    assert f"source_ids[1] is {value!r}" in str(caught.value)


@pytest.mark.parametrize("value", NO_IDS, ids=repr)
@pytest.mark.anyio
async def test_what_is_no_id_is_refused_when_a_stream_brings_it(
    value: Any,
) -> None:
    closed = list[str]()
    plan = a_plan(streamed([1, value, 3], closed))
    with pytest.raises(ValueError, match="ids are integers from 1 up") as caught:
        await cut_stream(plan)
    assert f"source_ids[1] is {value!r}" in str(caught.value)
    assert closed == ["closed"]


@pytest.mark.parametrize("make", [list, iter], ids=["list", "generator"])
def test_every_id_that_is_none_is_named_with_its_place(make: Any) -> None:
    with pytest.raises(ValueError, match=r"source_ids\[1\] is 0, source_ids\[4\] is 'a': ids"):
        cut(a_plan(make([1, 0, 2, 3, "a", 4])))


@pytest.mark.parametrize("make", [list, iter], ids=["list", "generator"])
def test_of_many_that_are_no_ids_ten_are_named_and_the_others_counted(make: Any) -> None:
    with pytest.raises(ValueError, match=r"source_ids\[9\] is -9 and 990 more are none") as caught:
        cut(a_plan(make([*range(0, -1000, -1)])))
    assert "-10" not in str(caught.value)


def test_of_ten_that_are_no_ids_all_are_named_and_no_others_counted() -> None:
    with pytest.raises(ValueError, match=r"source_ids\[9\] is -9: ids are integers from 1 up"):
        a_plan([*range(0, -10, -1)])


def test_a_monster_among_the_ids_does_not_become_a_monster_of_a_message() -> None:
    with pytest.raises(ValueError, match=r"source_ids\[0\]") as caught:
        a_plan(["x" * 1_000_000])
    assert len(str(caught.value)) < 200


def test_batches_before_one_that_is_no_id_have_been_given_out_already() -> None:
    batches = cast("Iterator[Any]", Cutter(a_plan(iter([1, 2, 3, 0]), batch_size=2)).batches())
    assert next(batches) == (1, 2)
    with pytest.raises(ValueError, match=r"source_ids\[3\] is 0"):
        next(batches)


@pytest.mark.parametrize("make", [list, set, tuple])
def test_a_collection_of_no_ids_is_refused_when_the_plan_is_made(make: Any) -> None:
    with pytest.raises(ValueError, match="source_ids is empty"):
        a_plan(make())


def test_a_generator_that_was_read_before_is_no_plan_of_nothing() -> None:
    plan = a_plan(iter([1, 2]))
    assert cut(plan) == [(1, 2)]
    with pytest.raises(ValueError, match="source_ids is empty; a generator is, once it was read"):
        cut(plan)


@pytest.mark.anyio
async def test_a_stream_may_bring_nothing() -> None:
    assert await cut_stream(a_plan(streamed([]))) == []


@pytest.mark.parametrize("value", ["123", b"123", 7, None, object])
def test_what_cannot_be_iterated_over_or_is_text_holds_no_ids(value: Any) -> None:
    with pytest.raises(ValueError, match=f"source_ids is a {type(value).__name__}"):
        a_plan(value)


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("group_name", "", "group_name is empty"),
        ("group_name", 7, "group_name is 7, not a string"),
        ("project_identifier", " ", "project_identifier is empty"),
        ("project_identifier", True, "project_identifier is True"),
        ("model_identifier", 0, "model_identifier is 0, and ids begin at 1"),
        ("model_identifier", 1.5, "model_identifier is 1.5"),
        ("output_layer_identifier", None, "output_layer_identifier is None"),
        ("batch_size", 0, "batch_size is 0, not an integer from 1 up"),
        ("batch_size", -1, "batch_size is -1"),
        ("batch_size", True, "batch_size is True"),
        ("batch_size", 2.0, "batch_size is 2.0"),
        ("batch_size", "25", "batch_size is '25'"),
    ],
)
def test_a_field_that_makes_no_sense_is_named(name: str, value: Any, fault: str) -> None:
    with pytest.raises(ValueError, match="This is no valid BatchPlan") as caught:
        a_plan(**{name: value})
    assert fault in str(caught.value)


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(ValueError, match="no valid BatchPlan") as caught:
        a_plan([0], group_name="", project_identifier=0, batch_size=0)
    for word in ("group_name", "project_identifier", "batch_size", "source_ids[0]"):
        assert word in str(caught.value)


def test_a_set_with_things_in_it_that_cannot_be_ordered_is_refused_like_others() -> None:
    with pytest.raises(ValueError, match="'a'"):
        a_plan({1, "a", None})


def test_the_fingerprint_is_the_same_from_one_process_to_the_next() -> None:
    # Written down here: a ledger of last year must still know its plan.
    assert a_plan().fingerprint == (
        "cde5c52b2f4ca828f7ca266fabab6a7c738da814daa8083745ba1675890fb983"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"group_name": "Another"},
        {"project_identifier": "Another"},
        {"model_identifier": "Another"},
        {"output_layer_identifier": "Another"},
        {"batch_size": 24},
        {"project_identifier": 7},
    ],
    ids=str,
)
def test_another_plan_has_another_fingerprint(change: dict[str, Any]) -> None:
    assert a_plan(**change).fingerprint != a_plan().fingerprint


def test_an_id_is_not_the_name_that_looks_like_it() -> None:
    assert a_plan(project_identifier=7).fingerprint != a_plan(project_identifier="7").fingerprint


def test_a_name_that_moved_to_the_next_field_makes_another_plan() -> None:
    one = a_plan(project_identifier="A", model_identifier="B")
    other = a_plan(project_identifier="B", model_identifier="A")
    assert one.fingerprint != other.fingerprint


def test_the_fingerprint_reads_no_sources() -> None:
    numbers = count(1)
    assert a_plan(numbers).fingerprint == a_plan().fingerprint
    assert next(numbers) == 1


def test_details_tell_a_reader_what_the_plan_is() -> None:
    assert json.loads(a_plan(batch_size=7).details) == {
        "groupName": "Company Name",
        "projectIdentifier": "My Project",
        "modelIdentifier": "Staple + Classify Documents",
        "outputLayerIdentifier": "Gold Set",
        "batchSize": 7,
    }


def test_the_request_for_a_batch_has_the_plans_fields_and_its_sources() -> None:
    request = a_plan().request((2, 3))
    assert json.loads(request.to_wire()) == {
        "groupName": "Company Name",
        "projectIdentifier": "My Project",
        "modelIdentifier": "Staple + Classify Documents",
        "sourceIds": [2, 3],
        "outputLayerIdentifier": "Gold Set",
    }


def test_a_plan_of_many_sources_has_a_short_repr() -> None:
    assert len(repr(a_plan(range(1, 100_001)))) < 300


def test_a_set_is_cut_the_same_way_however_it_was_filled() -> None:
    one, other = {8, 16}, {16, 8}
    assert list(one) != list(other)
    assert cut(a_plan(one, batch_size=1)) == cut(a_plan(other, batch_size=1))
