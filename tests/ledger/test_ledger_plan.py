"""Plans in chunks: large enough to be quick, small enough that others get their turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.lowlevel import checkpoint

from annolab_async.ledger._plan import chunks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

pytestmark = [pytest.mark.anyio, pytest.mark.any_backend]


def of_sizes(*sizes: int) -> list[range]:
    return [range(1, size + 1) for size in sizes]


async def cut(batches: Sequence[Sequence[int]], first: int = 1) -> list[tuple[int, int]]:
    """Return the number of the first batch of each chunk, and how many are in it."""
    return [(number, len(chunk)) async for number, chunk in chunks(batches, first=first)]


async def test_a_chunk_has_250_batches_at_most() -> None:
    assert await cut(of_sizes(*[1] * 250)) == [(1, 250)]
    assert await cut(of_sizes(*[1] * 501), first=7) == [(7, 250), (257, 250), (507, 1)]
    assert await cut([]) == []


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([12_500] * 5, [(1, 2), (3, 2), (5, 1)]),
        ([24_999, 1, 24_999, 1], [(1, 2), (3, 2)]),
        ([24_998, 1, 1, 24_998, 1], [(1, 3), (4, 2)]),
        ([10_000] * 4, [(1, 3), (4, 1)]),
        ([100_000, 1], [(1, 1), (2, 1)]),
    ],
)
async def test_a_chunk_ends_where_it_has_25000_sources(
    sizes: list[int], expected: list[tuple[int, int]]
) -> None:
    assert await cut(of_sizes(*sizes)) == expected


async def test_what_comes_over_time_is_not_kept_waiting_for_what_comes_later() -> None:
    async def stream() -> AsyncIterator[Sequence[int]]:
        for number in range(1, 4):
            yield [number]

    found = [chunk async for chunk in chunks(stream(), first=3)]
    assert found == [(3, [(1,)]), (4, [(2,)]), (5, [(3,)])]


@pytest.mark.parametrize(("count", "turns"), [(1, 1), (250, 1), (251, 2), (1001, 5)])
async def test_others_have_their_turn_while_a_long_plan_is_read(count: int, turns: int) -> None:
    had = seen = 0
    end = anyio.Event()

    async def beat() -> None:
        nonlocal had
        while not end.is_set():
            await checkpoint()
            had += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(beat)
        await checkpoint()
        before = had
        await cut(of_sizes(*[1] * count))
        seen = had - before
        end.set()
    assert turns - 1 <= seen <= turns


async def test_a_plan_of_one_batch_can_be_cancelled() -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await cut(of_sizes(1))
    assert scope.cancelled_caught
