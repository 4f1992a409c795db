"""A download is resumed where that is safe, and leaves the whole file or none, whatever the server does."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING, Final

import pytest

from annolab_async import RetryPolicy
from tests.depth import often
from tests.faults.chaos import reply, stall
from tests.results.downloads import (
    FILE,
    OTHER,
    QUICK,
    TAG,
    Links,
    a_file,
    accept,
    check,
    cut_after,
    get,
    good,
    header,
    left_in,
    put,
    ranges,
    refuse,
    refused,
    remove,
    reply_to,
    send,
    serve,
    there,
)

if TYPE_CHECKING:
    from pathlib import Path

    from annolab_async._download import DownloadProgress
    from tests.faults.chaos import End, Peer, Request, Script
    from tests.results.downloads import Choice

pytestmark = [pytest.mark.anyio, pytest.mark.sockets]

BIG: Final = 3 * 2**20
LONG_AGO: Final = datetime(2024, 1, 1, tzinfo=UTC)


async def test_a_file_comes_whole_and_nothing_else_is_left(path: Path) -> None:
    put(path, b"an older one")
    with serve(good()) as server:
        await get(server, path)
    assert there(path) == FILE
    assert left_in(path.parent) == ["export.zip"]
    assert ranges(server) == [None]
    assert header(server.requests[0], "accept-encoding") == "identity"


async def test_an_empty_file_comes_whole(path: Path) -> None:
    with serve(good(b"")) as server:
        await get(server, path, check=accept)
    assert there(path) == b""


@pytest.mark.chance
async def test_a_file_cut_at_any_offset_is_gone_on_with_and_is_byte_identical(path: Path) -> None:
    random = Random(6)
    for number in range(often(200)):
        file = a_file(random.randint(1_000, 200_000), seed=number)
        offset = random.randrange(len(file))
        by: End = random.choice(["fin", "rst"])
        with serve(cut_after(offset, file, by=by), good(file)) as server:
            await get(server, path)
        assert there(path) == file, (number, offset, by)
        if by == "fin":  # a reset may overtake what came before it
            assert ranges(server) == [None, offset - 1 if offset else None], (number, offset)
        remove(path)
        assert not left_in(path.parent)


async def test_a_file_cut_more_often_than_requests_may_fail_in_a_row_comes_whole(
    path: Path,
) -> None:
    with serve(cut_after(7_001)) as server:
        await get(server, path)
    assert there(path) == FILE
    # The last byte that is there is asked for again each time.
    assert ranges(server) == [None, *range(7_000, len(FILE) - 7_001, 7_000), 98_000]


async def test_a_later_call_goes_on_where_an_earlier_one_failed(path: Path) -> None:
    file = a_file(BIG)
    once = RetryPolicy(attempts=1)
    with serve(cut_after(2_000_000, file), good(file)) as server:
        error = await refused(server, path, retry=once)
        assert "goes on where it stopped" in str(error)
        assert left_in(path.parent) == ["export.zip.part", "export.zip.part.json"]
        await get(server, path, retry=once)
    assert there(path) == file
    assert ranges(server) == [None, 1_999_999]


async def test_a_part_that_lacks_nothing_is_asked_about_and_put_in_place(path: Path) -> None:
    def stopped(_: object) -> None:
        raise KeyError

    with serve(good()) as server:
        with pytest.raises(KeyError):
            await get(server, path, check=stopped)
        assert there(path) is None
        await get(server, path)
    assert there(path) == FILE
    assert ranges(server) == [None, len(FILE) - 1]


@pytest.mark.parametrize("note", [None, b"", b"[]", b'{"version": 1', b'{"version": 1}', b"\xff"])
async def test_a_part_without_a_sound_note_is_sent_anew(path: Path, note: bytes | None) -> None:
    put(path.with_name("export.zip.part"), FILE[:1000])
    if note is not None:
        put(path.with_name("export.zip.part.json"), note)
    with serve(good()) as server:
        await get(server, path)
    assert ranges(server) == [None]
    assert there(path) == FILE
    assert left_in(path.parent) == ["export.zip"]


@pytest.mark.parametrize("chunk", [1000, 65536])
async def test_a_file_without_a_length_comes_whole_and_is_gone_on_with(
    path: Path, chunk: int
) -> None:
    with serve(cut_after(50_000, chunk=chunk), good(chunk=chunk)) as server:
        await get(server, path)
    assert there(path) == FILE
    first, second = ranges(server)
    assert first is None
    assert second is None or 0 < second < 50_000  # a chunk cut in two is dropped


async def test_a_file_that_ends_with_the_connection_comes_whole(path: Path) -> None:
    with serve(send(b"HTTP/1.1 200 OK\r\n\r\n" + FILE)) as server:
        await get(server, path)
    assert there(path) == FILE


async def test_a_cut_that_nothing_but_the_check_can_tell_is_seen_and_sent_anew(path: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    with serve(send(head + FILE[:-1]), send(head + FILE)) as server:
        await get(server, path, check=check)
    assert there(path) == FILE
    assert ranges(server) == [None, None]


async def test_a_file_that_stays_truncated_is_refused(path: Path) -> None:
    put(path, b"an older one")
    with serve(send(b"HTTP/1.1 200 OK\r\n\r\n" + FILE[:-1])) as server:
        error = await refused(server, path, check=check)
    assert "it is damaged" in str(error)
    assert server.heads == 2
    assert left_in(path.parent) == ["export.zip"]


async def test_a_damaged_file_that_came_in_one_piece_is_not_asked_for_again(path: Path) -> None:
    with serve(good(FILE[:-1])) as server:
        await refused(server, path, check=check)
    assert server.heads == 1
    assert not left_in(path.parent)


async def test_parts_that_a_server_mixed_up_in_spite_of_its_tag_are_not_put_in_place(
    path: Path,
) -> None:
    with serve(cut_after(5000, OTHER), good()) as server:
        await get(server, path, check=check)
    assert there(path) == FILE
    assert ranges(server) == [None, 4999, None]


async def test_what_is_sent_anew_may_be_cut_as_often_as_it_takes(path: Path) -> None:
    with serve(cut_after(5000, OTHER), good(), cut_after(20_001)) as server:
        await get(server, path, check=check)
    assert there(path) == FILE
    assert ranges(server) == [None, 4999, None, 20_000, 40_000, 60_000, 80_000]


async def test_time_counts_from_when_something_new_came_last(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def slowly(request: Request) -> Script:
        nonlocal now
        now += 10.0
        return cut_after(20_001)(request)

    monkeypatch.setattr("annolab_async._download.current_time", lambda: now)
    retry = RetryPolicy(attempts=3, first=0.001, cap=0.002, total_time=15.0)
    with serve(slowly) as server:
        await get(server, path, retry=retry)
    assert there(path) == FILE
    assert now == 50.0


@pytest.mark.parametrize(
    "data",
    [
        reply(FILE, length=len(FILE) + 1, ETag=TAG),
        reply(FILE, length=len(FILE) - 1),
        reply(FILE, length=-1),
        reply(FILE, Content_Length=str(len(FILE) - 5)),
        reply(FILE, chunk=1000, Content_Length=str(len(FILE) - 1)),
        reply(FILE, chunk=1000, Content_Length=str(len(FILE) + 1)),
        reply(FILE, chunk=1000)[:-6],
        reply(FILE)[:-1],
        b"HTTP/1.1 200 OK\r\n",
        b"\x16\x03\x01",
    ],
    ids=["long", "short", "negative", "two", "beside", "beyond", "open", "cut", "head", "noise"],
)
async def test_a_length_that_is_wrong_leaves_no_file(path: Path, data: bytes) -> None:
    with serve(send(data)) as server:
        await refused(server, path, check=check)
    assert server.heads <= QUICK.attempts


@pytest.mark.parametrize("chunk", [None, 1000])
async def test_a_file_longer_than_allowed_is_refused_before_or_while_it_comes(
    path: Path, chunk: int | None
) -> None:
    with serve(good(chunk=chunk)) as server:
        error = await refused(server, path, max_bytes=len(FILE) - 1)
        assert server.heads == 1
        assert "max_bytes is 99999" in str(error)
        assert ("100000 bytes long" in str(error)) == (chunk is None)
        assert not left_in(path.parent)
        await get(server, path, max_bytes=len(FILE))
    assert there(path) == FILE


async def test_a_server_that_fails_for_a_while_is_asked_again(path: Path) -> None:
    with serve(refuse("503 Busy", Retry_After="0"), refuse("429 Slowly"), good()) as server:
        await get(server, path)
    assert there(path) == FILE


async def test_each_request_goes_by_the_proxy_of_the_environment_on_a_connection_of_its_own(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(refuse("503 Busy", Retry_After="0"), good()) as server:
        monkeypatch.setenv("HTTP_PROXY", server.base_url)
        link = Links("http://files.example")
        hosts = ["files.example"]
        await get(link, path, http_client_factory=None, plain_http_hosts=hosts)
    assert there(path) == FILE
    assert server.accepted == 2
    line = "GET http://files.example/export.zip?signature=canary HTTP/1.1"
    assert [request.line for request in server.requests] == [line] * 2


async def test_a_server_that_asks_for_too_long_a_pause_is_given_up(path: Path) -> None:
    with serve(refuse("503 Busy", Retry_After="3600")) as server:
        await refused(server, path)
    assert server.heads == 1


@pytest.mark.parametrize("status", ["405 No", "204 Nothing", "304 Same", "300 Choose", "201 Made"])
async def test_what_no_repetition_mends_is_not_repeated(path: Path, status: str) -> None:
    with serve(refuse(status)) as server:
        await refused(server, path)
    assert server.heads == 1


@pytest.mark.parametrize("at", [0, 60, 5000])
async def test_a_server_that_falls_silent_is_left_and_asked_again(path: Path, at: int) -> None:
    stalls: Choice = lambda request: stall(reply_to(request)[:at])  # noqa: E731
    with serve(stalls, good()) as server:
        await get(server, path, timeout=0.3)
        await server.until(lambda: server.open_sockets == 0)
    assert there(path) == FILE


async def test_a_server_that_is_slow_but_not_silent_is_listened_to(path: Path) -> None:
    async def slowly(peer: Peer) -> None:
        data = reply_to(await peer.request())
        for at in range(0, len(data), 10_000):
            await peer.send(data[at : at + 10_000])
            await peer.pause(0.15)

    with serve(lambda _: slowly) as server:
        await get(server, path, timeout=1.0)
    assert there(path) == FILE
    assert server.heads == 1


async def test_progress_is_told_now_and_then_and_at_the_end(path: Path) -> None:
    told: list[DownloadProgress] = []
    file = a_file(BIG)
    with serve(cut_after(BIG // 2, file), good(file)) as server:
        await get(server, path, progress=told.append)
    assert told[-1].received == told[-1].total == BIG
    assert [step.received for step in told] == sorted(step.received for step in told)
    assert all(step.total == BIG for step in told)
    assert len(told) < 100  # of about 50 parts each


async def test_progress_is_told_ten_times_a_second_at_most(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, told = 0.0, list[tuple[float, int, int | None]]()

    def tick() -> float:
        nonlocal now
        now += 0.03
        return now

    def note(progress: DownloadProgress) -> None:
        told.append((now, progress.received, progress.total))

    monkeypatch.setattr("annolab_async._download.current_time", tick)
    with serve(good(a_file(BIG), chunk=10_000)) as server:
        await get(server, path, progress=note)
    gaps = [after[0] - before[0] for before, after in pairwise(told[:-1])]
    assert min(gaps) >= 0.1
    assert max(gaps) < 0.2
    assert [total for *_, total in told] == [None] * (len(told) - 1) + [BIG]
    assert told[-1][1] == BIG


async def test_what_progress_raises_is_raised_and_leaves_a_part(path: Path) -> None:
    def stop(_: DownloadProgress) -> None:
        raise LookupError("enough")

    with serve(good()) as server:
        with pytest.raises(LookupError, match="enough"):
            await get(server, path, progress=stop)
        assert there(path) is None
        await get(server, path)
    assert there(path) == FILE


@pytest.mark.parametrize("options", [{"timeout": 0}, {"max_bytes": 0}, {"max_bytes": True}])
async def test_arguments_that_make_no_sense_are_refused(
    path: Path, options: dict[str, float]
) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        await get(Links("http://127.0.0.1:1"), path, **options)
