"""Virtual time as users' tests have it."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time

import anyio
import pytest

from annolab_async.testing import _virtual_time, run_in_virtual_time, virtual_backend, virtual_time

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@BACKENDS
def test_a_day_passes_at_once(backend: str) -> None:
    async def sleep() -> None:
        begun = anyio.current_time()
        await anyio.sleep(86_400)
        passed.append(anyio.current_time() - begun)

    passed: list[float] = []
    begun = time.monotonic()
    run_in_virtual_time(sleep, backend=backend)
    assert passed == [86_400]
    assert time.monotonic() - begun < 60


@BACKENDS
def test_tasks_wake_in_the_order_of_their_timers(backend: str) -> None:
    async def main() -> None:
        async def sleep(seconds: float) -> None:
            await anyio.sleep(seconds)
            woken.append(seconds)

        async with anyio.create_task_group() as tasks:
            for seconds in (3600, 60, 1800):
                tasks.start_soon(sleep, seconds)

    woken: list[float] = []
    run_in_virtual_time(main, backend=backend)
    assert woken == [60, 1800, 3600]


@BACKENDS
def test_a_decorated_test_is_plain_and_keeps_its_parameters(backend: str) -> None:
    @virtual_time(backend=backend)
    async def test(annolab_client: int, *, other: str = "x") -> None:
        await anyio.sleep(3600)
        called.append((annolab_client, other))

    called: list[tuple[int, str]] = []
    assert not inspect.iscoroutinefunction(test)
    assert list(inspect.signature(test).parameters) == ["annolab_client", "other"]
    assert test(1, other="y") is None
    assert called == [(1, "y")]


@BACKENDS
def test_what_fails_inside_is_raised(backend: str) -> None:
    @virtual_time(backend=backend)
    async def fail() -> None:
        await anyio.sleep(1)
        raise LookupError

    with pytest.raises(LookupError):
        fail()


def test_a_deadlock_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_virtual_time, "DEADLOCK_SECONDS", 0.01)
    with pytest.raises(RuntimeError, match="deadlock"):
        run_in_virtual_time(lambda: anyio.Event().wait())


def test_without_a_timer_threads_are_waited_for() -> None:
    async def main() -> None:
        done.append(await asyncio.to_thread(lambda: is_let_go.wait(30)))

    done: list[bool] = []
    is_let_go = threading.Event()
    letting_go = threading.Timer(0.05, is_let_go.set)
    letting_go.start()
    run_in_virtual_time(main)
    letting_go.join()
    assert done == [True]


def test_there_is_no_other_backend() -> None:
    with pytest.raises(ValueError, match="not 'curio'"):
        virtual_backend("curio")
