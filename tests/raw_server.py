"""A server of bytes: it answers each request with what it was given, on a real socket, and keeps what it was sent."""

from __future__ import annotations

import socketserver
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio.to_thread

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Generator

    Answer = bytes | Callable[[socket.socket], object]


def http(status: str, body: str = "", **headers: str) -> bytes:
    """Return a whole HTTP answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body.encode())}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


class RawServer:
    """What it was asked, and where it is."""

    def __init__(self, answers: list[Answer]) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.base_url = ""
        self._answers = answers
        self._lock = threading.Lock()
        self._was_asked = threading.Event()

    def next_answer(self, request: bytes) -> Answer:
        with self._lock:
            answer = self._answers[min(len(self.requests), len(self._answers) - 1)]
            self.requests.append(request)
            self._was_asked.set()
            return answer

    async def wait_for_request(self) -> None:
        """Wait until the first request has come."""
        assert await anyio.to_thread.run_sync(self._was_asked.wait, 10)


@contextmanager
def raw_server(*answers: Answer) -> Generator[RawServer]:
    """Serve answers, one for each request and the last one again and again.

    An answer is bytes, or a function that does what it likes with the socket, which is then closed.
    """
    state = RawServer([*answers])

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            state.connections += 1
            while request := _read_request(self.request):
                answer = state.next_answer(request)
                if not isinstance(answer, bytes):
                    answer(self.request)
                    return
                self.request.sendall(answer)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True
        block_on_close = False

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # the other side going away is what these tests do

    with Server(("127.0.0.1", 0), Handler) as server:
        state.base_url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()


def _read_request(connection: socket.socket) -> bytes:
    request = b""
    while b"\r\n\r\n" not in request:
        chunk = connection.recv(65536)
        if not chunk:
            return b""
        request += chunk
    head, _, body = request.partition(b"\r\n\r\n")
    length = next(
        (
            int(line[15:])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        ),
        0,
    )
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body
