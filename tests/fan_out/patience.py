"""Virtual time that stands still while a ledger's thread is at work, so that runs on disk take no time either."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio
from trio.testing import MockClock

from annolab_async import _fan_out
from annolab_async.ledger._writer import Writer
from annolab_async.testing._virtual_time import JumpingSelector, VirtualTimeLoop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Mapping
    from selectors import SelectorKey

    import pytest

_GLANCE = 0.0005
_at_work: list[object] = []


@contextmanager
def _work() -> Generator[None]:
    ticket = object()
    _at_work.append(ticket)
    try:
        yield
    finally:
        _at_work.remove(ticket)


def watch_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count what is asked of other threads as work at which time stands still."""

    def counted(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **options: Any) -> Any:
            with _work():
                return await function(*args, **options)

        return call

    for name in ("open", "do", "close"):
        monkeypatch.setattr(Writer, name, counted(getattr(Writer, name)))

    class ToThread:
        run_sync = staticmethod(counted(anyio.to_thread.run_sync))

    monkeypatch.setattr(_fan_out, "to_thread", ToThread)


class _PatientSelector(JumpingSelector):
    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        while _at_work and timeout != 0:
            if events := self.wait(_GLANCE):
                return events
        return super().select(timeout)


class _PatientLoop(VirtualTimeLoop):
    selector = _PatientSelector


def patient_backend(name: str) -> tuple[str, Mapping[str, object]]:
    """Return anyio's backend of that name, in virtual time that waits for threads."""
    if name == "asyncio":
        return name, {"loop_factory": _PatientLoop}
    clock = MockClock(autojump_threshold=0)
    jump = clock._autojump

    def jump_unless_at_work() -> None:
        if _at_work:
            time.sleep(_GLANCE)
        else:
            jump()

    vars(clock)["_autojump"] = jump_unless_at_work
    return name, {"clock": clock}
