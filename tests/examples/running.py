"""The example service, run by uvicorn in a thread, with a look at the tasks of its loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from typing import TYPE_CHECKING, Any, cast

import uvicorn

from docs.examples.fastapi_service import app as service

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    import httpx

    from docs.examples.fastapi_service.board import Board

PATIENCE = 20.0


def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so; fail if that takes too long."""
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up, "it takes too long"
        time.sleep(0.01)


class Running:
    """The service while it runs."""

    def __init__(self) -> None:
        config = uvicorn.Config(service.app, port=0, log_config=None, timeout_graceful_shutdown=10)
        self.server = service.Server(config)
        self.thread = threading.Thread(target=asyncio.run, args=[self._run()], daemon=True)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self.server.serve()

    @property
    def url(self) -> str:
        """Where it is."""
        port = self.server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    @property
    def board(self) -> Board:
        """What it knows."""
        return cast("Board", service.app.state.board)

    def tasks(self) -> int:
        """Count its tasks."""

        async def count() -> int:
            return len(asyncio.all_tasks()) - 1

        return asyncio.run_coroutine_threadsafe(count(), self._loop).result(PATIENCE)

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function in its loop."""
        self._loop.call_soon_threadsafe(function, *arguments)

    def stop(self) -> float:
        """Stop it; return how many seconds that took."""
        begun = time.monotonic()
        self.server.should_exit = True
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        return time.monotonic() - begun


@contextlib.contextmanager
def running() -> Generator[Running]:
    """Run the service; afterwards it has stopped."""
    it = Running()
    it.thread.start()
    until(lambda: it.server.started or not it.thread.is_alive())
    assert it.server.started
    try:
        yield it
    finally:
        it.stop()


def messages(stream: httpx.Response) -> Iterator[dict[str, Any]]:
    """Yield the events of a stream: their data, with their ids."""
    message: dict[str, str] = {}
    for line in stream.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            message[name] = value
        else:
            if "data" in message:
                yield json.loads(message["data"]) | {"id": message["id"]}
            message = {}
