"""A service that holds, refuses or answers to nobody the submissions of one's choice."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anyio
from starlette.responses import JSONResponse

from annolab_async import BatchPlan, BatchState
from tests.service import an_emulator

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable

    from starlette.types import Message, Receive, Scope, Send

    from annolab_async import BatchRecord, FanOut
    from annolab_async.emulator import Emulator
    from annolab_async.ledger import Ledger

    Trick = Callable[[tuple[int, ...]], Awaitable[JSONResponse | None]]


class Service:
    """An emulator, and what befalls a submission on its way there and back.

    Attributes:
        before: is told the source ids of a submission when it comes in; what it returns is the answer.
        after: the same when the job is made.
        polls: is told each poll's path.
        sent: the source ids of each submission that came in.
    """

    def __init__(self, **settings: Any) -> None:
        self.emulator: Emulator = an_emulator(**settings)
        self.before: Trick | None = None
        self.after: Trick | None = None
        self.polls: Callable[[str], Awaitable[JSONResponse | None]] | None = None
        self.sent: list[tuple[int, ...]] = []

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            answer = await self.polls(scope["path"]) if self.polls else None
            await (answer or self.emulator.app)(scope, receive, send)
            return
        body = b""
        is_whole = False
        while not is_whole:
            message = await receive()
            body += message.get("body", b"")
            is_whole = not message.get("more_body", False)
        source_ids = tuple(json.loads(body)["sourceIds"])
        self.sent.append(source_ids)
        if self.before and (answer := await self.before(source_ids)):
            await answer(scope, receive, send)
            return
        kept: list[Message] = []

        async def again() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def keep(message: Message) -> None:
            kept.append(message)

        await self.emulator.app(scope, again, keep)
        if self.after and (answer := await self.after(source_ids)):
            await answer(scope, receive, send)
            return
        for message in kept:
            await send(message)

    @property
    def batches(self) -> list[tuple[int, ...]]:
        """The sources of each job, in the order of their ids."""
        return [job.source_ids for job in self.emulator.jobs.values()]

    def refuses(self, bad: Collection[int], status_code: int = 400) -> None:
        """Have submissions refused that hold a source that is not known."""

        async def refuse(source_ids: tuple[int, ...]) -> JSONResponse | None:
            if set(bad).isdisjoint(source_ids):
                return None
            return JSONResponse({"message": "unknown source"}, status_code)

        self.before = refuse

    def loses(self, lost: Collection[int] | None = None, *, times: int | None = None) -> None:
        """Have answers to submissions lost whose first source is one of these, and so many of all."""
        left = [times]

        async def lose(source_ids: tuple[int, ...]) -> None:
            if lost is not None and source_ids[0] not in lost:
                return
            if left[0] is not None:
                if left[0] == 0:
                    return
                left[0] -= 1
            raise ConnectionResetError("lost on purpose")

        self.after = lose

    def holds(self, event: anyio.Event, *, count: int = 1) -> anyio.Event:
        """Have submissions that arrive wait until something has happened; return what tells that so many wait."""
        all_wait = anyio.Event()
        begun = len(self.sent)

        async def hold(_: tuple[int, ...]) -> None:
            if len(self.sent) - begun >= count:
                all_wait.set()
            await event.wait()

        self.before = hold
        return all_wait


def a_plan(sources: Any = 10, *, batch_size: int = 2, **changes: Any) -> BatchPlan:
    fields: dict[str, Any] = {
        "group_name": "Company Name",
        "project_identifier": "My Project",
        "model_identifier": "Staple + Classify Documents",
        "output_layer_identifier": "Gold Set",
        "source_ids": range(1, sources + 1) if isinstance(sources, int) else sources,
        "batch_size": batch_size,
    }
    return BatchPlan(**(fields | changes))


async def to_end(run: FanOut) -> list[BatchRecord]:
    return [record async for record in run]


async def in_ledger(ledger: Ledger, plan: BatchPlan, run: str = "default") -> list[BatchRecord]:
    async with ledger:
        begun = await ledger.begin_run(run, plan.fingerprint)
        return [record async for record in begun.batches()]


def states_of(records: Iterable[BatchRecord]) -> dict[BatchState, int]:
    found = [record.state for record in records]
    return {state: found.count(state) for state in BatchState if state in found}
