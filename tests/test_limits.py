"""How fast a client sends: what its user allows, and what its server bears."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from hypothesis import given, strategies as st

from annolab_async import RateLimit
from annolab_async._limits import Throttle, TooLongAPause, Turnstile
from tests.builders import unhurried

if TYPE_CHECKING:
    from annolab_async._limits import Kind

in_virtual_time = pytest.mark.anyio


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"max_per_second": 0}, "max_per_second is 0"),
        ({"max_per_second": -1}, "max_per_second is -1"),
        ({"max_per_second": math.nan}, "max_per_second is nan"),
        ({"max_per_second": math.inf}, "max_per_second is inf"),
        ({"max_per_second": "9"}, "max_per_second is '9'"),
        ({"max_per_second": True}, "max_per_second is True"),
        ({"max_per_second": 1, "burst": 0}, "burst is 0"),
        ({"max_per_second": 1, "burst": 1.5}, "burst is 1.5"),
        ({"max_per_second": 1, "burst": True}, "burst is True"),
    ],
)
def test_a_rate_limit_that_makes_no_sense_says_why(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        RateLimit(**options)


def send_all(throttle: Throttle, count: int, now: float = 0.0) -> list[float]:
    """Send requests as soon as they may go; return when."""
    times = list[float]()
    for _ in range(count):
        now = max(now, throttle.free_at())
        throttle.take(now)
        times.append(now)
    return times


@unhurried
@given(
    st.sampled_from([0.1, 1.0, 10.0, 37.0, 1000.0]),
    st.none() | st.integers(1, 50),
    st.lists(st.sampled_from([0.0, 0.0, 0.001, 0.3, 5.0]) | st.floats(0, 2), max_size=120),
)
def test_no_stretch_of_time_sees_more_requests_than_are_allowed(
    rate: float, burst: int | None, idle: list[float]
) -> None:
    throttle, now, sent = Throttle(RateLimit(rate, burst)), 1000.0, list[float]()
    at_once = burst or max(1, math.ceil(rate / 20))
    for pause in idle:
        now = max(now + pause, throttle.free_at())
        throttle.take(now)
        sent.append(now)
    for first, begin in enumerate(sent):
        for last in range(first, len(sent)):
            assert last - first + 1 <= rate * (sent[last] - begin) + at_once + 1e-6


def test_the_rate_is_reached_after_the_burst() -> None:
    times = send_all(Throttle(RateLimit(10, burst=5)), 105)
    assert times[4] == 0
    assert times[-1] == pytest.approx(10)


@pytest.mark.parametrize(
    ("rate", "at_once"), [(0.1, 1), (1, 1), (20, 1), (21, 2), (100, 5), (1000, 50)]
)
def test_a_limit_that_names_no_burst_lets_as_many_go_at_once_as_a_late_timer_misses(
    rate: float, at_once: int
) -> None:
    times = send_all(Throttle(RateLimit(rate)), 100)
    assert sum(time < 1e-6 for time in times) == at_once


def test_without_a_limit_any_number_may_go_at_once() -> None:
    assert send_all(Throttle(), 1000)[-1] == 0


def slowed(rate: float = 100.0, pause: float | None = None) -> tuple[Throttle, float]:
    """Return a throttle whose server has had enough of a rate, and when that was."""
    throttle, now = Throttle(), 0.0
    while now < 30:
        throttle.take(now)
        now += 1 / rate
    assert throttle.slow_down(now, asked_at=now - 0.1, pause=pause) is (pause is not None)
    return throttle, now


def test_after_a_429_a_client_goes_on_at_half_its_rate_and_regains_it() -> None:
    throttle, now = slowed(100)
    times = send_all(throttle, 2000, now)
    in_each_second = [sum(now + s <= time < now + s + 1 for time in times) for s in range(12)]
    assert in_each_second[0] == pytest.approx(50, abs=4)
    assert in_each_second[10] == pytest.approx(100, abs=6)


@pytest.mark.parametrize("pause", [None, 0.0])
def test_the_first_request_after_a_429_that_names_no_time_does_not_go_at_once(
    pause: float | None,
) -> None:
    throttle, now = Throttle(), 0.0
    throttle.take(now)
    assert not throttle.slow_down(now, asked_at=now, pause=pause)
    assert throttle.free_at() == now + 1.0, "also where too little was sent to tell a rate"
    throttle, now = slowed(100)
    assert throttle.free_at() >= now + 1 / 100, "later than was too soon"


def test_an_idle_time_after_a_429_is_not_made_up_for_by_a_burst() -> None:
    throttle, now = slowed(100)
    times = send_all(throttle, 50, now + 8)
    assert times[0] == now + 8
    assert times[-1] - times[0] == pytest.approx(49 / 90, abs=0.05), "nine tenths of the rate"


def test_the_rate_so_far_is_that_of_some_five_seconds() -> None:
    throttle = Throttle()
    send_all(throttle, 500)
    throttle.slow_down(0.0, asked_at=0.0, pause=None)
    assert throttle.free_at() == pytest.approx(1 / 50), "half of 100 a second"


@pytest.mark.parametrize(("after", "is_free"), [(69.9, False), (70.0, True)])
def test_seventy_seconds_after_a_429_a_client_is_free_again(after: float, is_free: bool) -> None:  # noqa: FBT001
    throttle = Throttle()
    throttle.slow_down(0.0, asked_at=0.0, pause=None)
    send_all(throttle, 1, after)
    assert (throttle.free_at() <= after) is is_free


def test_in_the_end_a_client_is_free_again() -> None:
    throttle, now = slowed(100)
    times = send_all(throttle, 16_000, now)
    assert times[-1] == pytest.approx(now + 70, abs=1)
    assert send_all(throttle, 10_000, times[-1])[-1] == times[-1]


def test_a_pause_is_kept_to_and_what_follows_it_is_no_spike() -> None:
    throttle, now = slowed(100, pause=20)
    times = send_all(throttle, 100, now)
    assert times[0] == now + 20
    assert times[-1] == pytest.approx(now + 22, abs=0.2)


def test_refusals_of_requests_that_were_under_way_together_count_once() -> None:
    once, now = slowed(100)
    often, _ = slowed(100)
    for age in (0.05, 0.0) * 25:
        assert not often.slow_down(now, asked_at=now - age, pause=None)
    assert send_all(often, 100, now) == send_all(once, 100, now)


def test_a_server_that_has_enough_again_is_asked_even_less() -> None:
    throttle, now = slowed(100)
    times = send_all(throttle, 25, now)
    throttle.slow_down(times[-1], asked_at=times[-1], pause=None)
    rest = send_all(throttle, 25, times[-1])
    assert rest[-1] - rest[0] == pytest.approx(1, abs=0.2), "25 a second"


def test_a_server_that_can_serve_nobody_is_not_asked_less_for_it() -> None:
    throttle, now = slowed(100)
    times = send_all(throttle, 25, now)
    throttle.slow_down(times[-1], asked_at=times[-1], pause=20, is_too_fast=False)
    rest = send_all(throttle, 51, times[-1])
    assert rest[0] == times[-1] + 20
    assert rest[-1] - rest[0] == pytest.approx(1, abs=0.1), "50 a second"


def test_a_pause_begins_once_and_has_an_end() -> None:
    throttle = Throttle()
    assert throttle.slow_down(0.0, asked_at=0.0, pause=1e9)
    assert not throttle.slow_down(1.0, asked_at=0.0, pause=30)
    assert throttle.pause_left(0.0) == 3600
    assert throttle.free_at() == 3600
    assert throttle.slow_down(3600.0, asked_at=3600.0, pause=30), "the next one"


def test_of_pauses_that_are_asked_for_together_the_longest_is_kept_to() -> None:
    throttle = Throttle()
    for pause in (5, 30, 10):
        throttle.slow_down(0.1, asked_at=0.0, pause=pause)
    assert throttle.free_at() == 30.1


@in_virtual_time
async def test_kinds_of_requests_have_their_turn_by_turns() -> None:
    turnstile, order = Turnstile(100, Throttle(RateLimit(1, burst=1))), list[str]()
    began = anyio.current_time()

    async def send(kind: Kind) -> None:
        await turnstile.enter(kind)
        order.append(kind)
        turnstile.leave()

    async with anyio.create_task_group() as tasks:
        crowd: dict[Kind, int] = {"submit": 50, "read": 3, "poll": 3}
        for kind, count in crowd.items():
            for _ in range(count):
                tasks.start_soon(send, kind)
    # The first found nobody there, whichever it was.
    for rounds in (order[1:4], order[4:7]):
        assert sorted(rounds) == ["poll", "read", "submit"]
    assert set(order[-40:]) == {"submit"}
    assert len(order) == 56
    assert anyio.current_time() == pytest.approx(began + 55), "one each second"


@in_virtual_time
async def test_no_more_are_let_through_than_may_be_under_way() -> None:
    turnstile, under_way, most = Turnstile(3, Throttle()), 0, 0

    async def send() -> None:
        nonlocal under_way, most
        await turnstile.enter("submit")
        under_way += 1
        most = max(most, under_way)
        await anyio.sleep(1)
        under_way -= 1
        turnstile.leave()

    async with anyio.create_task_group() as tasks:
        for _ in range(30):
            tasks.start_soon(send)
    assert most == 3
    assert anyio.current_time() % 1000 == pytest.approx(10)


@in_virtual_time
async def test_who_is_cancelled_while_waiting_for_a_permit_takes_nobodys_place() -> None:
    turnstile = Turnstile(1, Throttle())
    await turnstile.enter("submit")
    with anyio.move_on_after(1) as waiting:
        await turnstile.enter("submit")
    assert waiting.cancelled_caught
    turnstile.leave()
    assert turnstile.enter_nowait(anyio.current_time())


@in_virtual_time
async def test_who_is_cancelled_while_waiting_for_the_time_takes_nobodys_place() -> None:
    turnstile, began = Turnstile(1, Throttle(RateLimit(1, burst=1))), anyio.current_time()
    await turnstile.enter("submit")
    turnstile.leave()
    with anyio.move_on_after(0.5) as waiting:
        await turnstile.enter("submit")
    assert waiting.cancelled_caught
    with anyio.fail_after(1):
        await turnstile.enter("submit")
    assert anyio.current_time() == pytest.approx(began + 1), "when it would have gone"


@in_virtual_time
async def test_who_comes_when_the_next_may_go_does_not_go_before_who_waits() -> None:
    throttle = Throttle(RateLimit(1, burst=1))
    turnstile, order = Turnstile(100, throttle), list[str]()

    async def send(kind: Kind) -> None:
        await turnstile.enter(kind)
        order.append(kind)

    await send("submit")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send, "read")
        await anyio.wait_all_tasks_blocked()
        # The waiting task's timer is due at this very time, or a moment later.
        assert not turnstile.enter_nowait(throttle.free_at())
        await send("poll")
    assert order == ["submit", "read", "poll"]


@in_virtual_time
async def test_a_pause_that_begins_while_one_waits_is_kept_to() -> None:
    turnstile, began = Turnstile(1, Throttle(RateLimit(1, burst=1))), anyio.current_time()
    await turnstile.enter("submit")
    turnstile.leave()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(turnstile.enter, "submit")
        await anyio.wait_all_tasks_blocked()
        assert turnstile.slow_down(asked_at=began, pause=10, is_too_fast=True)
    assert anyio.current_time() >= began + 10


@in_virtual_time
@pytest.mark.parametrize(
    ("pause", "is_full", "reason"),
    [
        (0.5, False, "retry_after"),
        (0.5, True, "retry_after"),
        (None, False, "rate_limit"),
        (None, True, "connections"),
    ],
)
async def test_who_waits_is_told_what_for_when_it_began_to(
    pause: float | None,
    is_full: bool,  # noqa: FBT001
    reason: str,
) -> None:
    waits = list[tuple[Any, ...]]()

    def on_wait(*wait: Any) -> None:
        waits.append(wait)

    turnstile = Turnstile(2, Throttle(RateLimit(0.1, burst=1)), on_wait)
    await turnstile.enter("submit")
    if is_full:
        await turnstile.enter("submit")
        waits.clear()
    if pause:
        turnstile.slow_down(asked_at=anyio.current_time(), pause=pause, is_too_fast=True)
    began = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(turnstile.enter, "read")
        await anyio.sleep(4)
        turnstile.leave()
    assert waits == [("read", pytest.approx(anyio.current_time() - began), reason)]


@in_virtual_time
async def test_a_timer_that_rings_a_hair_early_is_not_set_again() -> None:
    throttle = Throttle(RateLimit(1, burst=1))
    turnstile, now = Turnstile(2, throttle), anyio.current_time()
    assert turnstile.enter_nowait(now)
    assert not turnstile.enter_nowait(now + 1 - 1.5e-6)
    assert turnstile.enter_nowait(now + 1 - 1e-9)


def test_a_millionth_of_a_second_early_is_not_too_early() -> None:
    throttle = Throttle(RateLimit(1, burst=1))
    throttle.take(0.0)
    early = 1.0 - 1e-6
    assert early + 1e-6 == 1.0
    assert Turnstile(2, throttle).is_free(early)


@in_virtual_time
async def test_a_pause_of_just_the_patience_is_waited_out() -> None:
    for _ in range(20):  # at times at which adding and taking away again do not make 60
        await anyio.sleep(1 / 7)
        turnstile, began = Turnstile(2, Throttle(RateLimit(1, burst=1))), anyio.current_time()
        await turnstile.enter("submit")
        enter = partial(turnstile.enter, "submit", patience=60)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(enter)
            await anyio.wait_all_tasks_blocked()
            turnstile.slow_down(asked_at=began, pause=60, is_too_fast=True)
            tasks.start_soon(enter)
            await anyio.wait_all_tasks_blocked()
            turnstile.leave()
        assert anyio.current_time() >= began + 60


@in_virtual_time
async def test_who_has_no_patience_does_not_wait_out_a_long_pause() -> None:
    turnstile = Turnstile(10, Throttle(RateLimit(1, burst=1)))
    refused, passed, began = list[float](), list[float](), anyio.current_time() + 0.5

    async def send(patience: float) -> None:
        try:
            await turnstile.enter("submit", patience=patience)
        except TooLongAPause as pause:
            refused.append(pause.seconds)
        else:
            passed.append(anyio.current_time())
            turnstile.leave()

    await send(0)
    async with anyio.create_task_group() as tasks:
        for patience in (30, 30, 200):
            tasks.start_soon(send, patience)
        await anyio.sleep(0.5)
        assert turnstile.slow_down(asked_at=began, pause=100, is_too_fast=True)
        await anyio.wait_all_tasks_blocked()
        assert refused == [100, 100], "those that wait are told at once"
        await send(99)
        assert len(refused) == 3, "and so is who comes later"
    assert passed[-1] == pytest.approx(began + 100, abs=1)
    assert not turnstile._impatient, "nobody who waited is kept"
