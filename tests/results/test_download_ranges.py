"""What is gone on with, what is not, and where the rest is asked for: links, ranges and validators."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, Final

import pytest

from annolab_async import NoResponse, RetryPolicy
from tests.faults.chaos import answer, cut, reply
from tests.results.downloads import (
    FILE,
    OTHER,
    QUICK,
    TAG,
    Links,
    asked_range,
    cut_after,
    get,
    good,
    header,
    left_in,
    put,
    ranges,
    refuse,
    refused,
    reply_to,
    send,
    serve,
    there,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.chaos import Request, Script

pytestmark = [pytest.mark.anyio, pytest.mark.sockets]

BIG: Final = 3 * 2**20
LONG_AGO: Final = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
async def test_a_link_that_is_refused_is_asked_for_anew_and_the_part_gone_on_with(
    path: Path, status: int
) -> None:
    with serve(cut_after(5000), refuse(f"{status} No"), good()) as server:
        links = Links(server)
        await get(links, path)
    assert there(path) == FILE
    assert links.asked == [False, True]
    assert ranges(server) == [None, 4999, 4999]


async def test_an_expired_link_costs_none_of_the_attempts(path: Path) -> None:
    with serve(refuse("403 Expired"), good()) as server:
        await get(server, path, retry=RetryPolicy(attempts=1))
    assert there(path) == FILE


async def test_links_that_are_refused_again_and_again_come_to_an_end(path: Path) -> None:
    with serve(refuse("403 Expired")) as server:
        links = Links(server)
        error = await refused(links, path, retry=RetryPolicy(attempts=100, first=0.001, cap=0.001))
    assert links.asked == [False, True, True, True]
    assert "403" in str(error)
    assert "new export" in error.hint
    assert not left_in(path.parent)


async def test_links_that_expire_while_the_file_grows_are_asked_for_as_often_as_it_takes(
    path: Path,
) -> None:
    choices = [cut_after(10_001), refuse("403 Expired")] * 8
    with serve(*choices, good()) as server:
        links = Links(server)
        await get(links, path)
    assert there(path) == FILE
    assert links.asked == [False] + [True] * 8


async def test_what_asking_for_a_link_raises_is_raised(path: Path) -> None:
    async def link(*, is_refused: bool) -> str:
        raise NoResponse(method="GET", path=f"/{is_refused}", cause=TimeoutError())

    with pytest.raises(NoResponse):
        await get(link, path)
    assert not left_in(path.parent)


async def test_a_range_that_cannot_be_had_is_answered_from_the_start(path: Path) -> None:
    with serve(cut_after(5000), refuse("416 No Such Range"), good()) as server:
        await get(server, path)
    assert there(path) == FILE
    assert ranges(server) == [None, 4999, None]


async def test_a_server_that_has_no_range_at_all_is_given_up(path: Path) -> None:
    with serve(refuse("416 No Such Range")) as server:
        error = await refused(server, path)
    assert server.heads == QUICK.attempts
    assert "416" in str(error)


async def test_a_file_that_changed_between_two_attempts_is_sent_anew(path: Path) -> None:
    new = good(OTHER, validator=("ETag", '"two"'))
    with serve(cut_after(5000), new) as server:
        await get(server, path)
    assert there(path) == OTHER
    assert ranges(server) == [None, 4999]
    assert header(server.requests[1], "if-range") == TAG


def rest(request: Request, file: bytes = OTHER, **headers: Any) -> Script:
    """Send the rest of a file as if nothing had been said about which."""
    first = asked_range(request)
    if first is None:
        return answer(reply(file))
    headers = {"Content_Range": f"bytes {first}-{len(file) - 1}/{len(file)}", **headers}
    return answer(reply(file[first:], "206 Partial Content", **headers))


@pytest.mark.parametrize("tag", ['"two"', 'W/"one"', None])
async def test_the_rest_of_something_else_is_not_taken(path: Path, tag: str | None) -> None:
    """Not even from a server that does not look at If-Range."""
    headers: dict[str, Any] = {} if tag is None else {"ETag": tag}
    with serve(cut_after(5000), lambda request: rest(request, **headers)) as server:
        await get(server, path)
    assert there(path) == OTHER
    assert ranges(server) == [None, 4999, None]


@pytest.mark.parametrize(
    "content_range",
    [
        "bytes 5000-99999/100000",
        "bytes 4998-99999/100000",
        "bytes 4999-99998/100001",
        "bytes 4999-99999/99999",
        "bytes 4999-99999/100001",
        "bytes 4998-99998/100000",
        "bytes 5000-100000/100001",
        "bytes 4999-99999/*",
        "bytes */100000",
        "bytes 4999-4000/100000",
        "items 4999-99999/100000",
        "",
        "nonsense",
    ],
)
async def test_a_rest_with_the_wrong_range_is_not_taken(path: Path, content_range: str) -> None:
    with serve(
        cut_after(5000),
        lambda request: rest(request, FILE, ETag=TAG, Content_Range=content_range),
        good(),
    ) as server:
        await get(server, path)
    assert there(path) == FILE
    assert ranges(server) == [None, 4999, None]


@pytest.mark.parametrize(
    ("file", "content_range"),
    [
        (FILE[:-1], "bytes 4999-99999/100000"),
        (FILE + b"!", "bytes 4999-100000/100000"),
    ],
    ids=["shorter than its range", "longer than the file"],
)
async def test_a_rest_of_another_length_is_not_taken(
    path: Path, file: bytes, content_range: str
) -> None:
    def wrong(request: Request) -> Script:
        return rest(request, file, ETag=TAG, Content_Range=content_range)

    with serve(cut_after(5000), wrong, good()) as server:
        await get(server, path)
    assert there(path) == FILE
    assert ranges(server) == [None, 4999, None]


async def test_a_length_that_came_with_a_rest_holds_for_the_next_one(path: Path) -> None:
    def longer(request: Request) -> Script:
        return rest(request, FILE + b"more", ETag=TAG)

    once = RetryPolicy(attempts=1)
    with serve(cut_after(50_000, chunk=1000), cut_after(10_000), longer, good()) as server:
        for _ in range(2):
            await refused(server, path, retry=once)
        await get(server, path)
    assert there(path) == FILE
    assert [first is None for first in ranges(server)] == [True, False, False, True]


async def test_of_a_part_without_a_byte_no_rest_is_asked_for(path: Path) -> None:
    """As it is left by who dies when the note has been written, and before anything came."""
    note = {"version": 1, "length": len(FILE), "validator": TAG}
    put(path.with_name("export.zip.part"), b"")
    put(path.with_name("export.zip.part.json"), json.dumps(note).encode())
    with serve(good()) as server:
        await get(server, path)
    assert header(server.requests[0], "range") is None
    assert header(server.requests[0], "if-range") is None
    assert there(path) == FILE


async def test_a_part_that_nobody_asked_for_is_not_taken(path: Path) -> None:
    part = reply(FILE[5:], "206 Partial Content", Content_Range="bytes 5-99999/100000", ETag=TAG)
    with serve(send(part), good()) as server:
        await get(server, path)
    assert there(path) == FILE


async def test_a_range_that_comes_in_pieces_is_put_together(path: Path) -> None:
    def piece(request: Request) -> Script:
        if (first := asked_range(request)) is None:
            return cut_after(20_000)(request)
        data, last = FILE[first : first + 20_000], min(first + 20_000, len(FILE)) - 1
        content_range = f"bytes {first}-{last}/{len(FILE)}"
        return answer(reply(data, "206 Partial Content", Content_Range=content_range, ETag=TAG))

    with serve(piece) as server:
        await get(server, path)
    assert there(path) == FILE
    assert server.heads == 6


@pytest.mark.parametrize(
    ("validator", "age", "is_gone_on_with"),
    [
        ("ETag", None, True),
        ("Last-Modified", timedelta(seconds=60), True),
        ("Last-Modified", timedelta(seconds=59), False),
        ("weak", timedelta(seconds=60), False),
        (None, None, False),
    ],
)
async def test_only_what_surely_tells_two_files_apart_is_gone_on_from(
    path: Path, validator: str | None, age: timedelta | None, *, is_gone_on_with: bool
) -> None:
    modified = format_datetime(LONG_AGO, usegmt=True)
    headers = {"Date": format_datetime(LONG_AGO + age, usegmt=True)} if age else {}
    pair = {"ETag": ("ETag", TAG), "Last-Modified": ("Last-Modified", modified)}
    # With a weak tag, no date may be sent in its place.
    pair["weak"] = ("ETag", 'W/"one"')
    if validator == "weak":
        headers["Last_Modified"] = modified
    options: dict[str, Any] = {"validator": pair.get(validator or ""), **headers}
    with serve(cut_after(5000, **options), good(**options)) as server:
        await get(server, path)
    assert there(path) == FILE
    assert ranges(server) == [None, 4999 if is_gone_on_with else None]


async def test_a_date_without_a_length_tells_nothing(path: Path) -> None:
    options: dict[str, Any] = {
        "validator": ("Last-Modified", format_datetime(LONG_AGO, usegmt=True)),
        "Date": format_datetime(LONG_AGO + timedelta(days=1), usegmt=True),
        "chunk": 1000,
    }
    with serve(cut_after(50_000, **options), good(**options)) as server:
        await get(server, path)
    assert there(path) == FILE
    assert ranges(server) == [None, None]


async def test_a_server_that_sends_all_of_it_again_is_taken_at_its_word(path: Path) -> None:
    with serve(cut_after(5000), lambda _: answer(reply(OTHER))) as server:
        await get(server, path)
    assert there(path) == OTHER


async def test_a_server_that_always_cuts_at_the_same_place_comes_to_an_end(path: Path) -> None:
    with serve(cut_after(5000, validator=None)) as server:
        await refused(server, path)
    assert server.heads == QUICK.attempts


@pytest.mark.parametrize("coding", ["gzip", "identity, gzip", "br", "x"])
async def test_a_packed_file_is_refused(path: Path, coding: str) -> None:
    with serve(good(Content_Encoding=coding)) as server:
        error = await refused(server, path)
    assert server.heads == 1
    assert "packed" in str(error)


async def test_more_of_a_rest_than_was_announced_is_not_taken(path: Path) -> None:
    def more(request: Request) -> Script:
        return cut(
            reply_to(request, chunk=1000).replace(b"\r\n0\r\n\r\n", b"\r\n1\r\n!\r\n0\r\n\r\n")
        )

    with serve(cut_after(5000), more, good()) as server:
        await get(server, path)
    assert there(path) == FILE
    assert ranges(server) == [None, 4999, None]


async def test_a_server_that_sends_next_to_nothing_each_time_comes_to_an_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("annolab_async._download._MOST_REQUESTS", 20)
    with serve(cut_after(2)) as server:
        error = await refused(server, path)
    assert server.heads == 20
    assert "20 requests" in str(error)


async def test_a_rest_that_never_grows_comes_to_an_end(path: Path) -> None:
    def one_byte(request: Request) -> Script:
        if (first := asked_range(request)) is None:
            return cut_after(5000)(request)
        content_range = f"bytes {first}-{first}/{len(FILE)}"
        headers: dict[str, Any] = {"Content_Range": content_range, "ETag": TAG}
        return answer(reply(FILE[first : first + 1], "206 Partial Content", **headers))

    with serve(one_byte) as server:
        error = await refused(server, path)
        assert "nothing of what is missing" in str(error)
        assert server.heads == QUICK.attempts
        await refused(server, path)
    assert server.heads == 2 * QUICK.attempts, "what is there already is nothing new"
