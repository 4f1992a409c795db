"""A thread that does a ledger's blocking work, so that the event loop never waits for a disk or a network.

What is asked for while it is at work is gathered and done together, in one transaction: under load, one sync of the
disk serves many changes.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from itertools import count
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar, cast
from uuid import uuid4

from anyio import CancelScope, Event, move_on_after
from anyio.lowlevel import checkpoint_if_cancelled, current_token
from attrs import Factory, define, field

from annolab_async.errors import NotOpen

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from annolab_async.ledger._session import Session

__all__ = ["Engine", "Work", "Writer"]

T = TypeVar("T")

_AT_ONCE: Final = 256


@define(eq=False, kw_only=True)
class Awaited:
    """Something that a task waits for and the thread does.

    Attributes:
        error: why it could not be done.
        done: set when it is over.
        loop: in which it is waited for.
    """

    error: BaseException | None = None
    done: Event = Factory(Event)
    loop: object = field(factory=lambda: current_token().native_token)


@define(eq=False)
class Work(Awaited, Generic[T]):
    """Something to do in a transaction, and what came of it.

    Attributes:
        function: what to do.
        is_write: whether it changes anything.
        change_id: by which a change of this call is known in the histories.
        result: what came of it, if there is no error.
    """

    function: Callable[[Session], T]
    is_write: bool
    change_id: str
    result: T | None = None


class Engine(Protocol):
    """What the thread drives. All but ``hurry`` is called in the thread."""

    def open(self) -> None:
        """Get ready, or raise."""

    def execute(self, group: Sequence[Work[Any]]) -> None:
        """Do all of a group and commit it; set each one's result or error."""

    def close(self) -> None:
        """Let go of everything."""

    def hurry(self) -> None:
        """Stop waiting for better times."""


class Writer:
    """The thread, from its opening to its end.

    Args:
        engine: what it drives.
        where: the ledger's name, for the thread's.
    """

    def __init__(self, engine: Engine, where: str) -> None:
        self._engine = engine
        self._queue: SimpleQueue[Work[Any] | None] = SimpleQueue()
        # Not random each: to ask the system for randomness lets the other thread run, and then waits for it.
        self._change_ids = map(f"{uuid4().hex}-{{}}".format, count())
        self._is_open = False
        self._opened, self._closed = Awaited(), Awaited()
        # A daemon: a process that is told to end does not wait for a network that is gone.
        self._thread = Thread(target=self._run, name=f"annolab ledger {where}", daemon=True)

    async def open(self) -> None:
        """Start the thread and wait until it is ready.

        Raises:
            LedgerError: it could not open its ledger; the thread has ended.
        """
        self._thread.start()
        try:
            with CancelScope(shield=True):
                await self._opened.done.wait()
        except BaseException:
            # Asyncio's own cancellation knows no shields.
            self._queue.put(None)
            raise
        if self._opened.error:
            raise self._opened.error
        self._is_open = True

    async def do(self, function: Callable[[Session], T], *, is_write: bool = True) -> T:
        """Have something done in the thread, and wait until it is committed.

        Cancellation comes before it or after it, never in between; where asyncio itself cancels the task, it is done
        all the same, but nobody is told what came of it.
        """
        await checkpoint_if_cancelled()
        if not self._is_open:
            raise NotOpen("The ledger is not open: use it inside its async with block.")
        work = Work(function, is_write, next(self._change_ids))
        self._queue.put(work)
        with CancelScope(shield=True):
            await work.done.wait()
        if work.error is not None:
            raise work.error
        return cast("T", work.result)

    async def close(self, *, timeout: float) -> bool:
        """Have done what was asked for until now, and end the thread.

        Args:
            timeout: seconds to wait for it at most.

        Returns:
            Whether it has ended. If not, it is left to itself: the database hangs.
        """
        self._is_open = False
        self._engine.hurry()
        self._queue.put(None)
        with move_on_after(timeout, shield=True):
            await self._closed.done.wait()
        return self._closed.done.is_set()

    def _run(self) -> None:
        try:
            self._engine.open()
        except BaseException as error:  # noqa: BLE001  # it is raised where it is awaited
            self._opened.error = error
            self._engine.close()
            _deliver([self._opened])
            return
        _deliver([self._opened])
        try:
            while (group := self._next_group()) is not None:
                self._engine.execute(group)
                _deliver(group)
        finally:
            self._engine.close()
            _deliver([self._closed])

    def _next_group(self) -> list[Work[Any]] | None:
        if (first := self._queue.get()) is None:
            return None
        group = [first]
        with suppress(Empty):
            while len(group) < _AT_ONCE:
                if (work := self._queue.get_nowait()) is None:
                    self._queue.put(None)  # for the next time; nothing comes after it
                    break
                group.append(work)
        return group


def _deliver(group: Sequence[Awaited]) -> None:
    of_loop: defaultdict[Any, list[Event]] = defaultdict(list)
    for work in group:
        of_loop[work.loop].append(work.done)
    for loop, events in of_loop.items():
        call_soon = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon
        # A loop that has ended in the meantime waits for nothing any more.
        with suppress(RuntimeError):
            call_soon(_set, events)


def _set(events: Sequence[Event]) -> None:
    for event in events:
        event.set()
