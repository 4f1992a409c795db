"""A download that is stopped, at whatever moment and in whatever way, leaves what the next one goes on from."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from annolab_async import ExportError, RetryPolicy
from tests.depth import often
from tests.faults.chaos import reply, stall
from tests.faults.kinds import Stepped, fd_count, settled_fd_count
from tests.results.downloads import (
    Links,
    a_file,
    check,
    get,
    good,
    left_in,
    ranges,
    remove,
    reply_to,
    serve,
    there,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from annolab_async._download import DownloadProgress
    from tests.faults.chaos import Peer, Request, Script

pytestmark = [pytest.mark.anyio, pytest.mark.sockets]

FILE: Final = a_file(3 * 2**20 + 5)
MOST_STEPS: Final = 10_000


async def stop_at(step: int, server: Any, path: Path) -> bool:
    """Cancel a download at one of the points at which it gives way; return whether it had come to an end before."""
    with anyio.CancelScope() as scope:
        await Stepped(get(server, path), scope.cancel, [step])
    return not scope.cancelled_caught


@pytest.mark.chance
async def test_a_download_may_be_cancelled_at_any_point(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def at_once(function: Callable[[], Awaitable[None]]) -> None:
        await function()

    # Of a task of its own, the steps would not be seen from here.
    monkeypatch.setattr("annolab_async._download.apart", at_once)
    random, step, stops = Random(6), 0, 0
    with serve(good(FILE)) as server:
        await get(server, path)
        remove(path)
        before = settled_fd_count()
        while step < MOST_STEPS:
            step += 1 if stops < often(100) else random.randint(1, often(100))
            has_ended = await stop_at(step, server, path)
            # A connection that was given up at once may be accepted only now.
            await server.until(lambda: server.open_sockets == 0 and fd_count() <= before)
            assert there(path) in {None, FILE}, step
            if has_ended:
                break
            stops += 1
            if there(path):
                remove(path)
            if stops % 5 == 0:  # mostly they go on from each other
                await get(server, path)
                assert there(path) == FILE
                remove(path)
        await get(server, path)
    assert there(path) == FILE
    assert left_in(path.parent) == ["export.zip"]
    assert stops > 10
    assert any(first for first in ranges(server)), "some went on"


async def test_what_came_before_a_cancellation_is_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("annolab_async._download._SECONDS_BETWEEN_REPORTS", 0.0)
    came = anyio.Event()

    def note(progress: DownloadProgress) -> None:
        if progress.received == 1_600_000:
            came.set()

    def half(request: Request) -> Script:
        data = reply_to(request, FILE)
        return stall(data[: data.index(b"\r\n\r\n") + 4 + 1_600_000])

    with serve(half, good(FILE)) as server:
        async with anyio.create_task_group() as tasks:
            once = RetryPolicy(attempts=1)  # which is no reason to take it for a failure
            tasks.start_soon(partial(get, server, path, progress=note, retry=once))
            await came.wait()
            tasks.cancel_scope.cancel()
        await get(server, path)
    assert there(path) == FILE
    assert ranges(server) == [None, 1_599_999]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_task_that_asyncio_itself_cancels_leaves_no_thread_at_work(path: Path) -> None:
    writing, may_go_on = threading.Event(), threading.Event()
    ended = list[str]()

    def slow_check(part: Path) -> None:
        writing.set()
        may_go_on.wait(10)
        check(part)
        ended.append("check")

    with serve(good(FILE)) as server:
        task = asyncio.ensure_future(get(server, path, check=slow_check))
        await anyio.to_thread.run_sync(writing.wait)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0.01)
        assert not task.done()
        may_go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == ["check"]
        assert there(path) is None
        await get(server, path)
    assert there(path) == FILE
    assert ranges(server) == [None, len(FILE) - 1]


async def test_a_check_can_tell_that_it_is_to_stop(path: Path) -> None:
    checking = threading.Event()

    def check_for_ever(_: Path) -> None:
        checking.set()
        while True:
            anyio.from_thread.check_cancelled()
            threading.Event().wait(0.001)

    with serve(good(FILE)) as server:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(get, server, path, check=check_for_ever))
            await anyio.to_thread.run_sync(checking.wait)
            tasks.cancel_scope.cancel()
        await get(server, path)
    assert there(path) == FILE


async def test_the_loop_waits_for_no_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, threads = threading.get_ident(), set[int]()

    def noting(name: str) -> Any:
        real = getattr(os, name)

        def note(*args: Any) -> Any:
            threads.add(threading.get_ident())
            return real(*args)

        return note

    for name in ["open", "write", "fsync", "replace", "close", "ftruncate"]:
        monkeypatch.setattr(f"annolab_async._part_file.os.{name}", noting(name))
    with serve(good(FILE)) as server:
        await get(server, path)
    assert threads
    assert loop not in threads


async def test_a_disk_that_is_slower_than_the_network_may_be_is_waited_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write

    def write_slowly(file: int, data: Any) -> int:
        threading.Event().wait(0.4)
        return real(file, data)

    monkeypatch.setattr("annolab_async._part_file.os.write", write_slowly)
    with serve(good(FILE)) as server:
        await get(server, path, timeout=0.3)
    assert there(path) == FILE
    assert server.heads == 1


async def test_a_disk_is_written_to_in_large_pieces(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, sizes = os.write, list[int]()

    def note(file: int, data: Any) -> int:
        sizes.append(len(data))
        return real(file, data)

    monkeypatch.setattr("annolab_async._part_file.os.write", note)
    with serve(good(FILE, chunk=100)) as server:
        await get(server, path)
    assert there(path) == FILE
    *pieces, rest = [size for size in sizes if size > 200]  # and a note
    assert len(pieces) == 2
    assert all(2**20 <= piece < 2**20 + 2**17 for piece in pieces)
    assert sum(pieces) + rest == len(FILE)


async def test_a_client_of_others_full_threads_does_not_hold_it_up(path: Path) -> None:
    limiter = anyio.to_thread.current_default_thread_limiter()
    with serve(good(FILE)) as server:
        for number in range(int(limiter.total_tokens)):
            limiter.acquire_on_behalf_of_nowait(number)
        try:
            with anyio.fail_after(10):
                await get(server, path)
        finally:
            for number in range(int(limiter.total_tokens)):
                limiter.release_on_behalf_of(number)
    assert there(path) == FILE


PROGRAM: Final = """
import sys, anyio
from pathlib import Path
from tests.results.downloads import Links, get
anyio.run(get, Links(sys.argv[1]), Path(sys.argv[2]), backend=sys.argv[3])
"""


async def test_another_process_goes_on_where_one_was_killed(
    path: Path, anyio_backend_name: str
) -> None:
    async def most_of_it(peer: Peer) -> None:
        data = reply_to(await peer.request(), FILE)
        await stall(data[:2_900_000])(peer)

    with serve(lambda _: most_of_it, good(FILE)) as server:
        command = [sys.executable, "-c", PROGRAM, server.base_url, str(path), anyio_backend_name]
        async with await anyio.open_process(command) as process:
            part = path.with_name("export.zip.part")
            await server.until(lambda: part.exists() and part.stat().st_size >= 2**21, within=60)
            process.send_signal(signal.SIGKILL)
            await process.wait()
        assert left_in(path.parent) == ["export.zip.part", "export.zip.part.json"]
        await get(server, path)
    assert there(path) == FILE
    first, second = ranges(server)
    assert first is None
    assert (second or 0) >= 2**21 - 1


async def test_nothing_warns_of_what_a_failed_download_left(path: Path) -> None:
    def no_more(_: DownloadProgress) -> None:
        raise KeyError

    with serve(lambda _: stall(reply(FILE)[:100_000])) as server:
        ways: list[dict[str, Any]] = [{"progress": no_more}, {"max_bytes": 5}, {"timeout": 0.05}]
        for options in ways:
            with pytest.raises((ExportError, KeyError)):
                await get(Links(server), path, **options)
        await server.until(lambda: server.open_sockets == 0)
    gc.collect()  # warnings are errors
