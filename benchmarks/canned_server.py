"""A server whose answers are canned: it reads of a request its path, and of a submission its source ids.

``python -m benchmarks.canned_server`` prints its port and serves until its standard input is closed.

- ``/v1/infer/batch/{id}``: a job that stays what it is, the same bytes each time.
- ``/changing/v1/infer/batch/{id}``: a job whose status word is another one at every tenth answer.
- ``/openai/batches/{id}``: a batch in progress, as OpenAI's API describes it.
- ``/azure/{id}``: a long-running operation, as Azure's APIs describe it.
- ``/taking/{name}/v1/infer/batch``: takes each batch as a new job, which stays in the queue.
- ``/taken/{name}``: how many batches were taken there, and when the first and the last, by ``time.monotonic()``.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections import Counter, defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["CHANGES_EVERY", "canned_server"]

CHANGES_EVERY: Final = 10
_WORDS: Final = (b"Running", b"Queued")
_BACKLOG: Final = 2048
# The headers that a service behind a proxy sends.
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\n"
    b"Date: Mon, 23 Nov 2026 00:00:00 GMT\r\n"
    b"Server: nginx\r\n"
    b"Content-Type: application/json; charset=utf-8\r\n"
    b"Connection: keep-alive\r\n"
    b"X-Request-Id: 3f1c8c1e-5d0b-4a55-9c1c-0a3b8f1d2e4f\r\n"
    b"Content-Length: %d\r\n%b\r\n%b"
)
_JOB: Final = b'{"inferenceJobId":%b,"status":"%b","projectId":7,"sourceIds":[4024,5853]}'
_OPENAI: Final = (
    b'{"id":"%b","object":"batch","endpoint":"/v1/chat/completions","input_file_id":"file-abc123",'
    b'"completion_window":"24h","status":"in_progress","created_at":1795392000}'
)
_AZURE: Final = b'{"id":"%b","status":"Running"}'
_NEW_JOB: Final = (
    b'{"inferenceJobId":%d,"status":"Queued","projectName":"My Project","projectId":7,'
    b'"outputLayerName":"Gold Set","outputLayerId":12,"sourceIds":[%b]}'
)
_QUEUED: Final = b'{"inferenceJobId":%b,"status":"Queued","projectId":7,"sourceIds":[4024,5853]}'
_TAKEN: Final = b'{"count":%d,"first":%.6f,"last":%.6f}'


class _Taken:
    """What was submitted under one name."""

    def __init__(self) -> None:
        self.count = 0
        self.first = self.last = 0.0

    def add(self) -> int:
        """Count another; return how many there are."""
        self.count += 1
        self.last = time.monotonic()
        self.first = self.first or self.last
        return self.count


class _Answers:
    """What is answered to which path."""

    def __init__(self) -> None:
        self.origin = b""
        self._asked: Counter[bytes] = Counter()
        self._taken: defaultdict[bytes, _Taken] = defaultdict(_Taken)

    def to_submission(self, path: bytes, body: bytes) -> bytes:
        """Return the whole answer to a POST request."""
        job_id = self._taken[path.split(b"/")[2]].add()
        begin = body.index(b"[", body.index(b'"sourceIds"')) + 1
        answer = _NEW_JOB % (job_id, body[begin : body.index(b"]", begin)])
        return _HEAD % (len(answer), b"", answer)

    def to(self, path: bytes) -> bytes:
        """Return the whole answer to a GET request."""
        job_id = path[path.rfind(b"/") + 1 :]
        more = b""
        if path.startswith(b"/openai"):
            body = _OPENAI % job_id
        elif path.startswith(b"/azure"):
            body = _AZURE % job_id
            more = b"Operation-Location: %b%b\r\n" % (self.origin, path)
        elif path.startswith(b"/taking"):
            body = _QUEUED % job_id
        elif path.startswith(b"/taken"):
            taken = self._taken[job_id]
            body = _TAKEN % (taken.count, taken.first, taken.last)
        elif path.startswith(b"/changing"):
            self._asked[job_id] += 1
            # Jobs begin at different points, lest all of them change together.
            turn = (self._asked[job_id] + int(job_id)) // CHANGES_EVERY
            body = _JOB % (job_id, _WORDS[turn % len(_WORDS)])
        else:
            body = _JOB % (job_id, _WORDS[int(job_id) % len(_WORDS)])
        return _HEAD % (len(body), more, body)


class _Connection(asyncio.Protocol):
    def __init__(self, answers: _Answers) -> None:
        self._answers = answers
        self._begun = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        begun = self._begun + data
        while (end := begun.find(b"\r\n\r\n")) >= 0:
            method, path, _ = begun[: begun.index(b"\r\n")].split(b" ")
            end += 4
            if method == b"POST":
                body = begun[end : end + _content_length(begun[:end])]
                if len(body) < _content_length(begun[:end]):
                    break
                end += len(body)
                self._transport.write(self._answers.to_submission(path, body))
            else:
                self._transport.write(self._answers.to(path))
            begun = begun[end:]
        self._begun = begun


def _content_length(head: bytes) -> int:
    begin = head.lower().index(b"content-length:") + len(b"content-length:")
    return int(head[begin : head.index(b"\r\n", begin)])


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    answers = _Answers()
    server = await loop.create_server(
        lambda: _Connection(answers), "127.0.0.1", 0, backlog=_BACKLOG
    )
    port = server.sockets[0].getsockname()[1]
    answers.origin = b"http://127.0.0.1:%d" % port
    print(port, flush=True)
    async with server:
        # The parent's end closes it, however the parent ended.
        await loop.run_in_executor(None, sys.stdin.read)


@contextmanager
def canned_server() -> Generator[str]:
    """Serve in another process; yields the address, ``http://host:port``."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.canned_server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None  # noqa: S101  # it is a pipe
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.communicate()


if __name__ == "__main__":
    asyncio.run(_serve())
