"""What tests of downloads share: a file that tells whether it is whole, and a server of it that can be made to fail."""

from __future__ import annotations

import functools
import hashlib
import re
from random import Random
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest

from annolab_async import ExportError, RetryPolicy
from annolab_async._download import download
from tests.faults.chaos import ChaosServer, answer, by_request, chaos, cut, reply

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from annolab_async._download import Link
    from tests.faults.chaos import End, Request, Script

    Choice = Callable[[Request], Script]

TAG: Final = '"one"'
QUICK: Final = RetryPolicy(attempts=3, first=0.001, cap=0.002)
_DIGEST: Final = 32
# What takes longest to make.
_tls: Final = functools.cache(httpx.create_ssl_context)


def a_file(size: int = 100_000, *, seed: int = 0) -> bytes:
    """Return bytes at whose end stands what they must be."""
    data = Random(seed).randbytes(size - _DIGEST)
    return data + hashlib.sha256(data).digest()


FILE: Final = a_file()
OTHER: Final = a_file(seed=1)


def check(path: Path) -> None:
    """Raise if a file is not one of :func:`a_file`, whole."""
    data = path.read_bytes()
    if hashlib.sha256(data[:-_DIGEST]).digest() != data[-_DIGEST:]:
        raise ExportError(what="it is damaged", hint="Export it again.", file=str(path))


def check_surely(path: Path) -> None:
    """End the test if a file is damaged: that should not have come as far as here."""
    try:
        check(path)
    except ExportError as error:
        raise AssertionError from error


def accept(_: Path) -> None:
    """Find nothing wrong."""


def asked_range(request: Request) -> int | None:
    """Return from where on a request asks for the file, None if for all of it."""
    found = re.search(rb"\r\nrange: bytes=(\d+)-\r\n", request.head + b"\r\n", re.IGNORECASE)
    return int(found[1]) if found else None


def header(request: Request, name: str) -> str | None:
    """Return a header of a request."""
    found = re.search(rf"\r\n{name}: ([^\r]*)", request.head.decode("latin-1"), re.IGNORECASE)
    return found[1] if found else None


def reply_to(
    request: Request,
    file: bytes = FILE,
    *,
    validator: tuple[str, str] | None = ("ETag", TAG),
    chunk: int | None = None,
    **headers: Any,
) -> bytes:
    """Return the answer of a server that does everything right.

    Args:
        request: what was asked.
        file: what it serves.
        validator: its header and value.
        chunk: sends it without its length, in chunks of so many bytes.
        headers: further ones.
    """
    first = asked_range(request)
    if validator is not None:
        headers[validator[0].replace("-", "_")] = validator[1]
    if first is None or validator is None or header(request, "if-range") != validator[1]:
        return reply(file, chunk=chunk, **headers)
    if first >= len(file):
        return reply(status="416 Range Not Satisfiable", Content_Range=f"bytes */{len(file)}")
    headers["Content_Range"] = f"bytes {first}-{len(file) - 1}/{len(file)}"
    return reply(file[first:], "206 Partial Content", chunk=chunk, **headers)


def good(file: bytes = FILE, **options: Any) -> Choice:
    """Do everything right; the options are those of :func:`reply_to`."""
    return lambda request: answer(reply_to(request, file, **options))


def cut_after(size: int, file: bytes = FILE, *, by: End = "fin", **options: Any) -> Choice:
    """Send so many bytes of a body, then hang up."""

    def choose(request: Request) -> Script:
        data = reply_to(request, file, **options)
        return cut(data, at=data.index(b"\r\n\r\n") + 4 + size, by=by)

    return choose


def refuse(status: str, **headers: Any) -> Choice:
    """Answer with a status and nothing else."""
    return lambda _: answer(reply(status=status, **headers))


def send(data: bytes) -> Choice:
    """Send bytes, whatever is asked, and hang up."""
    return lambda _: cut(data)


def serve(*choices: Choice) -> AbstractContextManager[ChaosServer]:
    """Run a server that makes a choice for each request, in order; the last one for all further ones."""
    return chaos(*[by_request(choice) for choice in choices])


class Links:
    """Hands out links, and keeps what it was asked."""

    def __init__(self, *servers: ChaosServer | str, query: str = "signature=canary") -> None:
        bases = [server if isinstance(server, str) else server.base_url for server in servers]
        self._links = [f"{base}/export.zip?{query}" for base in bases]
        self.asked: list[bool] = []

    async def __call__(self, *, is_refused: bool) -> str:
        link = self._links[min(len(self.asked), len(self._links) - 1)]
        self.asked.append(is_refused)
        return link


def ranges(server: ChaosServer) -> list[int | None]:
    """Return from where on a server was asked for its file, for each request."""
    return [asked_range(request) for request in server.requests]


async def get(server: ChaosServer | Link, path: Path, **options: Any) -> None:
    """Download the file."""
    link = Links(server) if isinstance(server, ChaosServer) else server
    settings: dict[str, Any] = {
        "check": check_surely,
        "max_bytes": 10**9,
        "retry": QUICK,
        "timeout": 10.0,
    }
    settings["http_client_factory"] = lambda: httpx.AsyncClient(verify=_tls())
    await download(link, path, **(settings | options))


async def refused(server: ChaosServer | Link, path: Path, **options: Any) -> ExportError:
    """Return the error of a download that leaves no file."""
    before = there(path)
    with pytest.raises(ExportError) as caught:
        await get(server, path, **options)
    assert there(path) == before
    return caught.value


def there(path: Path) -> bytes | None:
    """Return what is in a file, None if there is none."""
    return path.read_bytes() if path.exists() else None


def put(path: Path, data: bytes) -> None:
    """Write a file."""
    path.write_bytes(data)


def remove(path: Path) -> None:
    """Remove a file."""
    path.unlink()


def left_in(directory: Path) -> list[str]:
    """Return the names of the files in a directory."""
    return sorted(path.name for path in directory.iterdir())
