"""Small answers that unfold into huge ones, and answers without end: refused before they take up any memory."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio.to_thread
import pytest

from tests.faults.chaos import answer, by_request, chaos, flood, reply
from tests.faults.ways import OF_READS, Way

if TYPE_CHECKING:
    from tests.faults.chaos import Request, Script

pytestmark = [pytest.mark.anyio, pytest.mark.sockets]

MIB: Final = 2**20
UNFOLDED: Final = 512 * MIB
MOST_GROWTH: Final = 64 * MIB


def deflated(size: int = UNFOLDED) -> bytes:
    """Return blocks of the deflate format that unfold to spaces; made in no time, since they repeat themselves."""
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(b" " * MIB) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * (size // MIB) + b"\x03\x00"


def gzipped(blocks: bytes) -> bytes:
    return b"\x1f\x8b\x08" + bytes(6) + b"\xff" + blocks + bytes(8)


def zstandard(size: int = UNFOLDED) -> bytes:
    """Return a frame of RLE blocks, each of which is one byte 128 KiB times."""
    block = struct.pack("<I", (128 * 1024 << 3) | (1 << 1))[:3] + b" "
    return b"\x28\xb5\x2f\xfd" + b"\x00\x58" + block * (size // (128 * 1024)) + b"\x01\x00\x00"


def packed(body: bytes, encoding: str) -> Script:
    return answer(reply(body, Content_Encoding=encoding))


def bombs() -> list[Script]:
    blocks = deflated()
    bomb = gzipped(blocks)
    twice = zlib.compressobj(9, wbits=31)
    nested = twice.compress(gzipped(deflated(8 * UNFOLDED))) + twice.flush()
    head = b"HTTP/1.1 200 OK\r\n%b\r\n\r\n"
    spaces = b" " * 65536
    return [
        packed(bomb, "gzip"),
        packed(bomb, "x-gzip"),
        packed(bomb, "GZIP"),
        packed(b"\x78\x9c" + blocks + bytes(4), "deflate"),
        packed(blocks, "deflate"),
        packed(nested, "gzip, gzip"),
        packed(nested, "gzip"),
        packed(bomb, "identity, gzip"),
        packed(zstandard(), "zstd"),
        packed(b"\x1b" + b"\xff\xff\xff\x07" * 50_000, "br"),
        packed(bomb, "no such thing"),
        # Without end, and with a lie about it.
        flood(spaces, head=head % b"Connection: close"),
        flood(spaces, head=head % b"Content-Length: 1099511627776"),
        flood(spaces, head=head % b"Content-Length: 536870912\r\nContent-Encoding: gzip"),
        flood(b"10000\r\n%b\r\n" % spaces, head=head % b"Transfer-Encoding: chunked"),
        flood(b"1;x\r\n \r\n" * 8192, head=head % b"Transfer-Encoding: chunked"),
        flood(b"1" * 65536, head=head % b"Transfer-Encoding: chunked"),
        flood(b"x: " + spaces, head=b"HTTP/1.1 200 OK\r\n"),
    ]


# Run in a process of its own, whose memory is nobody else's: it prints how far that grew, and what was raised.
CLIENT: Final = """
import sys, warnings
import anyio
from annolab_async import AnnoLabError, RetryPolicy
from tests.faults.ways import client_of
from tests.service import a_request

way, backend, base_url, count = sys.argv[1:]
warnings.simplefilter("error")

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))

async def main():
    async with client_of(way, base_url, retry=RetryPolicy(attempts=1), timeout=1.5) as client:
        await client.get_job(12)
        await client.submit(a_request())
        base = peak()
        names = []
        for number in range(100, 100 + int(count)):
            for ask in (client.submit(a_request(number)), client.get_job(number)):
                try:
                    await ask
                    names.append("nothing")
                except AnnoLabError as error:
                    names.append(type(error).__name__)
        print(1024 * (peak() - base), *names)

anyio.run(main, backend=backend)
"""


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the peak")
@pytest.mark.parametrize("way", OF_READS)
async def test_no_answer_takes_up_more_than_64_mib(way: Way, anyio_backend_name: str) -> None:
    if anyio_backend_name == "trio" and way != "own httpx":
        pytest.skip("what takes bodies in is the same on both")
    scripts = bombs()
    good = answer(reply('{"inferenceJobId": 12, "status": "Queued", "sourceIds": [1, 2]}'))

    def choose(request: Request) -> Script:
        if request.line.startswith("GET"):
            number = int(request.line.split()[1].rsplit("/", 1)[1])
        else:
            number = int(request.body.partition(b'"sourceIds":')[2].strip(b" [").split(b",")[0])
        return scripts[number - 100] if number >= 100 else good

    with chaos(by_request(choose)) as server:
        arguments = [way, anyio_backend_name, server.base_url, str(len(scripts))]
        done = await anyio.to_thread.run_sync(
            lambda: subprocess.run(  # noqa: S603
                [sys.executable, "-c", CLIENT, *arguments],
                cwd=Path(__file__).parents[2],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        )
    assert done.returncode == 0, done.stderr[-3000:]
    growth, *names = done.stdout.split()
    assert int(growth) < MOST_GROWTH
    assert len(names) == 2 * len(scripts)
    for number, (submitted, read) in enumerate(zip(names[::2], names[1::2], strict=True)):
        # The last one never comes to the end of its head: nobody knows whether it would have been a success.
        is_head = number == len(scripts) - 1
        assert submitted == ("SubmissionUnknown" if is_head else "JobIdLost"), number
        assert read in ({"NoResponse"} if is_head else {"InvalidResponse", "NoResponse"}), number
