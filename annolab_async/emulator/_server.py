"""Serves an emulator on a real socket, beside the caller's event loop rather than in it."""

from __future__ import annotations

import asyncio
import functools
import socket
import struct
import threading
import warnings
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Self

import anyio
import anyio.to_thread
import uvicorn
from anyio import AsyncContextManagerMixin
from starlette.responses import JSONResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

from annolab_async.emulator._app import CONNECTION
from annolab_async.emulator._settings import is_int, is_name

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from starlette.types import ASGIApp, Receive, Scope, Send

    from annolab_async.emulator._emulator import Emulator

START_SECONDS = 10.0
STOP_SECONDS = 10.0
# Above the usual gap between polls, so that a poller's kept connection is not closed under it.
_KEEP_ALIVE_SECONDS = 75
_BACKLOG = 2048
_NO_LINGERING: Final = struct.pack("ii", 1, 0)
_LAST_PORT = 65535


class EmulatorServer(AsyncContextManagerMixin):
    """Serves an emulator on a real socket for as long as its block lasts.

    ``async with EmulatorServer(emulator) as server:`` then talk to ``server.base_url``; blocking code says ``with``.
    It runs in a thread of its own, whatever runs the caller. Requests in flight when the block ends are answered with
    503. The downloads are served on a port of their own, hence another origin, at ``server.downloads_url``.

    Args:
        emulator: The emulator to serve.
        host: Address to listen on.
        port: Port to listen on; 0 lets the system choose a free one.
        downloads_port: Port to serve the downloads on; 0 likewise.

    Raises:
        ValueError: The host or a port is invalid.
    """

    def __init__(
        self,
        emulator: Emulator,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        downloads_port: int = 0,
    ) -> None:
        if not is_name(host):
            raise ValueError(f"host must be a non-empty string, not {host!r}")
        for name, number in (("port", port), ("downloads_port", downloads_port)):
            if not is_int(number) or not 0 <= number <= _LAST_PORT:
                raise ValueError(f"{name} must be an int from 0 to {_LAST_PORT}, not {number!r}")
        self._emulator = emulator
        self._host = host
        self._ports = (port, downloads_port)
        self._base_url: str | None = None
        self._downloads_url: str | None = None
        self._downloads_url_before = ""
        self._serving: _ServingThread | None = None

    def __repr__(self) -> str:
        return f"<EmulatorServer {self._base_url or 'not serving'}>"

    @property
    def base_url(self) -> str:
        """Where the emulator is served, without a slash at the end.

        Raises:
            RuntimeError: It is not being served.
        """
        return _served(self._base_url)

    @property
    def downloads_url(self) -> str:
        """Where its downloads are served, without a slash at the end.

        Raises:
            RuntimeError: It is not being served.
        """
        return _served(self._downloads_url)

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        """Listen and serve.

        Raises:
            OSError: The address cannot be listened on.
            RuntimeError: The server did not start.
        """
        try:
            await _in_thread(self._start)
            yield self
        finally:
            with anyio.CancelScope(shield=True):
                await _in_thread(self._stop)

    def __enter__(self) -> Self:
        """Listen and serve, as the ``async with`` block does, for blocking code.

        Raises:
            OSError: The address cannot be listened on.
            RuntimeError: The server did not start.
        """
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _start(self) -> None:
        listeners = _listen_on_all(self._host, self._ports)
        url, downloads_url = (_url(self._host, each.getsockname()[1]) for each in listeners)
        self._serving = _ServingThread(_by_port(self._emulator, listeners[1]), listeners)
        self._downloads_url_before = self._emulator.downloads_url
        self._serving.start()
        self._emulator.downloads_url = downloads_url
        self._base_url, self._downloads_url = url, downloads_url

    def _stop(self) -> None:
        self._base_url = self._downloads_url = None
        serving, self._serving = self._serving, None
        if serving is not None:
            self._emulator.downloads_url = self._downloads_url_before
            serving.stop()


def _served(url: str | None) -> str:
    if url is None:
        raise RuntimeError("not serving: use `async with EmulatorServer(emulator) as server:`")
    return url


def _by_port(emulator: Emulator, downloads: socket.socket) -> ASGIApp:
    downloads_port = downloads.getsockname()[1]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        is_download = scope["server"][1] == downloads_port
        await (emulator.downloads if is_download else emulator.app)(scope, receive, send)

    return app


class _BreakableProtocol(H11Protocol):
    """Tells the app of the connection that a request came on, so that faults can be made there."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.app = functools.partial(self._with_connection, self.app)

    async def _with_connection(
        self, app: ASGIApp, scope: Scope, receive: Receive, send: Send
    ) -> None:
        scope["extensions"] = {CONNECTION: _Connection(self.transport)}
        await app(scope, receive, send)


class _Connection:
    """Breaks a connection."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._transport.write(data)

    def end(self, *, is_reset: bool) -> None:
        """Close it, or reset it."""
        if not is_reset:
            self._transport.close()
            return
        if (connection := self._transport.get_extra_info("socket")) is not None:
            # Not to linger is what makes a close a reset.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGERING)
        self._transport.abort()


class _ServingThread:
    """A thread that runs uvicorn on sockets that already listen."""

    def __init__(self, app: ASGIApp, listeners: list[socket.socket]) -> None:
        config = uvicorn.Config(
            functools.partial(_answer_when_cancelled, app),
            interface="asgi3",
            loop="asyncio",
            http=_BreakableProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=1,
        )
        self._started = threading.Event()
        self._server = _Server(config, self._started)
        self._listeners = listeners
        self._failure: Exception | None = None
        # A daemon, so that an interpreter that exits in the middle of the block is not held up.
        self._thread = threading.Thread(target=self._run, name="annolab-emulator", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._started.wait(START_SECONDS)
        if not self._server.started:
            raise RuntimeError("the emulator's server did not start") from self._failure

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(STOP_SECONDS)
        if self._thread.is_alive():
            warnings.warn(
                f"the emulator's server did not stop within {STOP_SECONDS:g} s",
                ResourceWarning,
                stacklevel=2,
            )

    def _run(self) -> None:
        try:
            # Loading imports modules, which would block the loop if uvicorn did it there.
            self._server.config.load()
            self._server.run(sockets=self._listeners)
        except Exception as exc:  # noqa: BLE001 - handed to the caller's thread
            self._failure = exc
        finally:
            for listener in self._listeners:
                listener.close()
            self._started.set()


class _Server(uvicorn.Server):
    """Uvicorn that says when it serves, and does not wait for slow answers when it stops."""

    def __init__(self, config: uvicorn.Config, started: threading.Event) -> None:
        super().__init__(config)
        self._started_event = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started_event.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for task in self.server_state.tasks:
            task.cancel()
        await super().shutdown(sockets)


async def _answer_when_cancelled(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    try:
        await app(scope, receive, send)
    except asyncio.CancelledError:
        # Only the stopping server cancels, and it wants an answer, not an exception to log.
        response = JSONResponse({"message": "the emulator is stopping"}, 503)
        await response(scope, receive, send)


async def _in_thread(function: Callable[[], None]) -> None:
    # Looking up a host name blocks, and so does waiting for a thread. A limiter of its own: the default one may be
    # used up by whoever waits for this server.
    await anyio.to_thread.run_sync(function, limiter=anyio.CapacityLimiter(1))


def _listen_on_all(host: str, ports: Iterable[int]) -> list[socket.socket]:
    listeners: list[socket.socket] = []
    try:
        for port in ports:
            listeners.append(listen(host, port))  # noqa: PERF401  # those before one that fails are closed
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as exc:
        raise OSError(
            exc.errno,
            f"the emulator cannot listen on {_url(host, port)}: {exc.strerror}"
            " (HINT: port=0 takes any free port)",
        ) from exc
    # Connections inherit it. asyncio sets it only where the socket names its protocol, which this
    # one does not, and without it every answer on a kept connection waits 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
