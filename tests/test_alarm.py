"""A sleep that others can cut short."""

from __future__ import annotations

import math

import anyio
import pytest

from annolab_async._alarm import Alarm

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("until", "to", "wakes_after"),
    [
        (10.0, None, 10),
        (10.0, 10.0, 10),
        (10.0, 11.0, 10),
        (10.0, 9.0, 3),
        (None, 9.0, 3),
        (None, math.inf, math.inf),
    ],
)
async def test_a_sleep_ends_at_its_time_or_when_that_is_brought_forward(
    until: float | None, to: float | None, wakes_after: float
) -> None:
    alarm, began = Alarm(), anyio.current_time()
    with anyio.move_on_after(100):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(alarm.sleep, None if until is None else began + until)
            await anyio.sleep(3)
            alarm.bring_forward(None if to is None else began + to)
    assert anyio.current_time() - began == pytest.approx(min(wakes_after, 100))


async def test_it_is_awaited_only_while_somebody_sleeps() -> None:
    alarm = Alarm()
    assert not alarm.is_awaited
    for to in (None, 0.0):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(alarm.sleep, anyio.current_time() + 5)
            await anyio.wait_all_tasks_blocked()
            assert alarm.is_awaited
            alarm.bring_forward(to)
        assert not alarm.is_awaited
