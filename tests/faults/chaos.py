"""A server that misbehaves on purpose: on a real socket of this machine, in a thread with an event loop of its own.

```python
with chaos(cut(reply(JOB), at=40, by="rst"), answer(reply(JOB))) as server:  # one script a request, the last for ever
    ...
    await server.until(lambda: server.heads == 2)
    assert max(server.posts.values()) == 1
```

A script is an async function that is called, in the server's thread, when the first byte of a request has come, with
the :class:`Peer` who sent it and of whom nothing has been read yet. When it returns, the connection waits for the next
request. Scripts of your own call what :class:`Peer` offers; that raises :class:`Gone` once the connection has
ended, which is for the server to catch.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import select
import socket
import struct
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Final, Literal

import anyio
from attrs import define, field, frozen

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    Script = Callable[["Peer"], Awaitable[None]]
    End = Literal["fin", "rst"]

_HANG_UPS: Final = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR
_LOOK_EVERY: Final = 0.005


def reply(
    body: str | bytes = b"",
    status: str = "200 OK",
    *,
    length: int | None = None,
    chunk: int | None = None,
    **headers: str,
) -> bytes:
    """Return an answer's bytes.

    Args:
        body: the body.
        status: code and reason.
        length: what ``Content-Length`` claims; None tells the truth.
        chunk: send the body chunked, so many bytes at a time, instead.
        headers: further ones, with ``_`` for ``-``.
    """
    body = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if chunk is None:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    else:
        lines.append("Transfer-Encoding: chunked")
        parts = [body[at : at + chunk] for at in range(0, len(body), chunk)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in [*parts, b""])
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


@frozen
class Request:
    """What was asked."""

    head: bytes
    body: bytes

    @property
    def line(self) -> str:
        """Its first line: ``GET /v1/infer/batch/12 HTTP/1.1``."""
        return self.head.split(b"\r\n", 1)[0].decode()


class Gone(Exception):
    """The connection has ended, by whomever."""


@define(eq=False)
class Peer:
    """One connection: what a script can do to it, and what came on it.

    Attributes:
        number: 0 for the first connection that was accepted.
        heads: requests whose head has arrived whole.
        posts: how often which POST body has arrived whole.
    """

    server: ChaosServer = field(repr=False)
    number: int
    _socket: socket.socket = field(repr=False)
    heads: int = 0
    posts: Counter[bytes] = field(factory=Counter[bytes])
    _request: Request | None = field(default=None, repr=False)

    async def request(self) -> Request:
        """Read the whole request and return it; once read, return it again."""
        if self._request is None:
            data = bytearray()
            while (end := data.find(b"\r\n\r\n")) < 0:
                data += await self.read()
            self.heads += 1
            self.server.heads += 1
            head = bytes(data[:end])
            lengths = [
                int(line[15:])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length:")
            ]
            del data[: end + 4]
            while len(data) < sum(lengths):
                data += await self.read()
            self._request = Request(head, bytes(data))
            if head.startswith(b"POST "):
                self.posts[self._request.body] += 1
                self.server.posts[self._request.body] += 1
            self.server.requests.append(self._request)
        return self._request

    async def read(self, most: int = 65536) -> bytes:
        """Read some bytes."""
        if data := await asyncio.get_running_loop().sock_recv(self._socket, most):
            return data
        raise Gone

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def pause(
        self, seconds: float = math.inf, *, gate: threading.Event | None = None
    ) -> None:
        """Do nothing: for a time, until a gate opens, or until the other side has hung up."""
        poll = select.poll()
        poll.register(self._socket, _HANG_UPS)
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not (gate and gate.is_set()):
            if poll.poll(0):
                raise Gone
            await asyncio.sleep(min(left, _LOOK_EVERY))

    async def end(self, by: End = "fin") -> None:
        """End the connection, in an orderly way or with a reset."""
        if by == "rst":
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Gone

    async def serve(self, next_script: Callable[[], Script]) -> None:
        """Play a script for each request that begins. For the server."""
        with self._socket, contextlib.suppress(Gone, OSError):
            while await self._begins():
                self._request = None
                await next_script()(self)

    def close(self) -> None:
        """Close the connection, if it is not closed. For the server."""
        self._socket.close()

    async def _begins(self) -> bool:
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._socket, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._socket)
        return bool(self._socket.recv(1, socket.MSG_PEEK))


class ChaosServer:
    """What came, and where it is. Everything here may be read, and the gate opened, from any thread.

    Attributes:
        base_url, port: where it listens.
        peers: a :class:`Peer` for each connection that was accepted, in order.
        heads: requests whose head has arrived whole.
        requests: those that have arrived with their whole body.
        posts: how often which POST body has arrived whole.
        gate: what scripts of :func:`held` wait for; ``server.gate.set()`` opens it.
    """

    def __init__(self, scripts: list[Script]) -> None:
        self._scripts = scripts
        self._begun = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.listener.setblocking(False)
        self.port: int = self.listener.getsockname()[1]
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.peers: list[Peer] = []
        self.heads = 0
        self.requests: list[Request] = []
        self.posts: Counter[bytes] = Counter()
        self.gate = threading.Event()

    @property
    def accepted(self) -> int:
        """Connections that were ever made."""
        return len(self.peers)

    @property
    def open_sockets(self) -> int:
        """Connections that are open now. One that stalls notices that the client hung up within 5 ms."""
        return len(self._tasks)

    async def until(self, condition: Callable[[], bool], *, within: float = 10.0) -> None:
        """Wait, on a test's own event loop, until something holds: ``server.until(lambda: server.heads == 3)``."""
        with anyio.fail_after(within):
            while not condition():  # noqa: ASYNC110  # it comes true in another thread
                await anyio.sleep(0.002)

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve until told to stop. For :func:`chaos`."""
        loop = asyncio.get_running_loop()
        # Not in a task: cancelled at the moment of a connection, it would leave that open.
        loop.add_reader(self.listener, self._accept)
        await stopping.wait()
        loop.remove_reader(self.listener)
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for peer in self.peers:
            peer.close()  # also one whose task had not begun

    def _accept(self) -> None:
        try:
            connection, _ = self.listener.accept()
        except OSError:  # it has hung up already
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = Peer(self, self.accepted, connection)
        self.peers.append(peer)
        task = asyncio.create_task(peer.serve(self._next_script))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _next_script(self) -> Script:
        self._begun += 1
        return self._scripts[min(self._begun, len(self._scripts)) - 1]


@contextlib.contextmanager
def chaos(*scripts: Script, receive_buffer: int | None = None) -> Generator[ChaosServer]:
    """Run a server.

    Args:
        scripts: one for each request that begins, in order; the last one serves all further ones.
        receive_buffer: bytes that the kernel takes of what nobody reads; None leaves that to the kernel.
    """
    server = ChaosServer([*scripts])
    if receive_buffer:
        server.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    loop, stopping = asyncio.new_event_loop(), asyncio.Event()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(server.run(stopping))

    with server.listener:
        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield server
        finally:
            loop.call_soon_threadsafe(stopping.set)
            thread.join()


@contextlib.contextmanager
def a_full_backlog() -> Generator[int]:
    """Yield a port at which connecting stalls, since nobody accepts."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        try:
            yield listener.getsockname()[1]
        finally:
            for filler in fillers:
                filler.close()


def answer(data: bytes, *, late: bytes = b"", after: float = 0.0) -> Script:
    """Send a whole answer, and ``after`` so many seconds stray bytes."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(data)
        if late:
            await peer.pause(after)
            await peer.send(late)

    return script


def cut(data: bytes = b"", *, at: int | None = None, by: End = "fin", read: bool = True) -> Script:
    """Send the first ``at`` bytes of an answer (None: all of it), then end the connection.

    Args:
        data: the answer.
        at: how much of it.
        by: how to end.
        read: False leaves the request unread.
    """

    async def script(peer: Peer) -> None:
        if read:
            await peer.request()
        if data[:at]:
            await peer.send(data[:at])
        await peer.end(by)

    return script


def stall(sent: bytes = b"", *, read: bool | int = True) -> Script:
    """Do nothing more, for as long as the client likes.

    Args:
        sent: what is sent before.
        read: True reads the request before, False nothing of it, a number about so many of its bytes.
    """

    async def script(peer: Peer) -> None:
        if read is True:
            await peer.request()
        elif read:
            await peer.read(read)
        if sent:
            await peer.send(sent)
        await peer.pause()

    return script


def drip(data: bytes, *, every: float, at: int = 0) -> Script:
    """Send ``at`` bytes of an answer, then the others one by one, one every so many seconds."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(data[:at])
        for position in range(at, len(data)):
            await peer.pause(every)
            await peer.send(data[position : position + 1])

    return script


def flood(part: bytes, *, head: bytes = b"", every: float = 0.0) -> Script:
    """Send ``head``, and then ``part`` for ever: 1xx answers, headers, a body without end."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(head)
        while True:
            await peer.send(part)
            await peer.pause(every or 1e-9)

    return script


def held(script: Script, *, gate: threading.Event | None = None) -> Script:
    """Read the request, wait until a gate is open (None: the server's), then play a script."""

    async def wait_first(peer: Peer) -> None:
        await peer.request()
        await peer.pause(gate=gate or peer.server.gate)
        await script(peer)

    return wait_first


def by_request(choose: Callable[[Request], Script]) -> Script:
    """Read the request, and play the script that is chosen for it."""

    async def chosen(peer: Peer) -> None:
        await choose(await peer.request())(peer)

    return chosen
