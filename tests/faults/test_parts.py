"""Bodies as they come, part by part: how much is taken, in which turns, and what is kept of one that breaks off."""

from __future__ import annotations

import gzip
import zlib
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from annolab_async._http._bodies import LARGEST_BODY, Body, Incoming, NoBody, plain_length
from annolab_async._http._parts import OnePart, take_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def parts_of(count: int, *, seconds: float = 0.0) -> AsyncIterator[bytes]:
    for number in range(count):
        if seconds:
            await anyio.sleep(seconds)
        yield b"%d" % number


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # trio draws whose turn is next
async def test_others_have_their_turn_after_32_parts_that_come_together() -> None:
    turns, seen = 0, list[int]()

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    def take(_: bytes) -> bool:
        seen.append(turns)
        return True

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(others)
        await anyio.lowlevel.checkpoint()
        await take_in(parts_of(100), take)
        tasks.cancel_scope.cancel()
    changes = [number for number in range(1, 100) if seen[number] != seen[number - 1]]
    assert changes == [31, 63, 95], "before the 32nd is taken"


@pytest.mark.anyio
@pytest.mark.any_backend
@pytest.mark.parametrize("seconds", [0.0, 1.0])
async def test_who_wants_no_more_is_given_no_more_and_waits_for_none(seconds: float) -> None:
    taken, began = list[bytes](), anyio.current_time()

    def take(part: bytes) -> bool:
        taken.append(part)
        return len(taken) < 3

    await take_in(parts_of(100, seconds=seconds), take)
    assert taken == [b"0", b"1", b"2"]
    assert anyio.current_time() - began == 3 * seconds


@pytest.mark.anyio
@pytest.mark.any_backend
async def test_a_body_in_one_part_is_sent_as_often_as_it_is_asked_for() -> None:
    body = OnePart(b"it")
    for _ in range(2):
        assert [part async for part in body] == [b"it"]


@pytest.mark.parametrize(
    ("headers", "length"),
    [
        ({"content-length": "0"}, 0),
        ({"content-length": "17"}, 17),
        ({"content-length": "999999"}, 999_999),
        ({"content-length": "1000000"}, None),  # may be too long: it is measured
        ({"content-length": "17, 17"}, None),
        ({"content-length": "-1"}, None),
        ({"content-length": ""}, None),
        ({"content-length": "17", "content-encoding": "gzip"}, None),
        ({}, None),
    ],
)
def test_a_length_is_believed_that_is_one(headers: dict[str, str], length: int | None) -> None:
    assert plain_length(headers) == length


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        ("gzip", gzip.compress(b"it", mtime=0)),
        ("x-gzip", gzip.compress(b"it", mtime=0)),
        (" GZip ", gzip.compress(b"it", mtime=0)),
        ("deflate", zlib.compress(b"it")),
        ("identity", b"it"),
        ("", b"it"),
    ],
)
def test_what_the_standard_library_unpacks_is_unpacked(coding: str, packed: bytes) -> None:
    body = Body({"content-encoding": coding})
    for at in range(len(packed)):
        body.feed(packed[at : at + 1])
    assert body.so_far() == body.whole() == b"it"


@pytest.mark.parametrize("coding", ["br", "gzip, gzip", "x" * 50])
def test_another_coding_is_named_shortly(coding: str) -> None:
    with pytest.raises(NoBody) as caught:
        Body({"content-encoding": coding})
    assert str(caught.value) == f"it is encoded as {coding[:40]!r}, which was not asked for"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_of_packed_bodies_all_has_to_come_and_nothing_more(coding: str) -> None:
    packed = gzip.compress(b"it") if coding == "gzip" else zlib.compress(b"it")

    def fed(*parts: bytes) -> Body:
        body = Body({"content-encoding": coding})
        for part in parts:
            body.feed(part)
        return body

    assert fed().whole() == b"", "an empty one is not even packed"
    with pytest.raises(NoBody, match="cut off"):
        fed(packed[:-1]).whole()
    assert fed(packed[:-1]).so_far() == b"it"
    with pytest.raises(NoBody, match="more follows"):
        fed(packed + b"x").whole()
    with pytest.raises(NoBody, match="more follows"):
        fed(packed, b"x")
    with pytest.raises(NoBody, match="cannot be unpacked"):
        fed(b"no such thing")


@pytest.mark.parametrize("before", [0, 1, LARGEST_BODY // 2, LARGEST_BODY])
def test_a_bomb_never_gets_to_unfold(before: int) -> None:
    packer = zlib.compressobj()
    body = Body({"content-encoding": "deflate"})
    body.feed(packer.compress(bytes(before)) + packer.flush(zlib.Z_SYNC_FLUSH))
    assert len(body.so_far()) == before
    with pytest.raises(NoBody, match="longer than"):
        body.feed(packer.compress(bytes(4 * LARGEST_BODY)) + packer.flush())
    assert len(body.so_far()) == LARGEST_BODY + 1


def test_one_packing_is_not_taken_for_another() -> None:
    for coding, packed in (("gzip", zlib.compress(b"it")), ("deflate", gzip.compress(b"it"))):
        with pytest.raises(NoBody, match="cannot be unpacked"):
            Body({"content-encoding": coding}).feed(packed)


def test_what_has_come_of_an_answer_counts_however_it_ends() -> None:
    incoming = Incoming()
    assert not incoming.has_begun
    incoming.begin(201, {"x": "y"}, is_unpacked=False)
    assert incoming.has_begun
    assert incoming.feed(b"so ") is incoming.feed(b"far") is True
    incoming.fail("it broke off")
    incoming.fail("and something else")
    assert incoming.wants_more is False
    reply = incoming.reply("POST", "/x")
    assert (reply.method, reply.path, reply.status_code) == ("POST", "/x", 201)
    assert (reply.headers, reply.body, reply.fault) == ({"x": "y"}, b"so far", "it broke off")


def test_an_answer_that_is_too_long_is_not_listened_to() -> None:
    incoming = Incoming()
    incoming.begin(200, {}, is_unpacked=False)
    assert incoming.feed(bytes(LARGEST_BODY)) is True
    assert incoming.feed(b"0") is False
    assert incoming.wants_more is False
    assert "longer than" in (incoming.reply("POST", "/x").fault or "")


def test_an_answer_that_is_packed_strangely_is_not_listened_to() -> None:
    incoming = Incoming()
    incoming.begin(200, {"content-encoding": "br"}, is_unpacked=False)
    assert incoming.wants_more is False
    assert "encoded as 'br'" in (incoming.reply("POST", "/x").fault or "")
    unpacked = Incoming()
    unpacked.begin(200, {"content-encoding": "br"}, is_unpacked=True)
    unpacked.feed(b"it")
    assert unpacked.reply("POST", "/x").fault is None


def test_an_answer_whose_packed_end_is_missing_is_cut_off() -> None:
    incoming = Incoming()
    incoming.begin(200, {"content-encoding": "gzip"}, is_unpacked=False)
    incoming.feed(gzip.compress(b"it")[:-1])
    reply = incoming.reply("POST", "/x")
    assert (reply.body, reply.fault) == (b"it", "its packed content is cut off")
