"""The downloads: signed links, parts, and what goes wrong with them."""

from __future__ import annotations

import functools
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import httpx
import pytest
import requests

from annolab_async.emulator import (
    BadDownload,
    DownloadFaults,
    Emulator,
    EmulatorServer,
    Exports,
)
from tests.emulator.asking import AT_ONCE, EXPORT, Service, unzipped
from tests.service import KEY

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = [pytest.mark.anyio, pytest.mark.any_backend]

LINK_SECONDS = 60.0


@asynccontextmanager
async def exported(**settings: Any) -> AsyncGenerator[tuple[Service, str, bytes]]:
    """Yield a service, the link to an export of 50 sources, and that export's zip."""
    rules = Exports(wait_seconds=0, seconds=0, link_seconds=LINK_SECONDS)
    async with Service(exports=rules, **settings) as service:
        await service.predict(*range(1, 51))
        await service.export(includeSources=True)
        yield service, await service.link(), service.emulator.archive(1)


async def test_a_download_is_the_zip_with_its_length_and_a_validator() -> None:
    async with exported() as (service, link, zipped):
        answer = await service.foreign.get(link)
    assert answer.status_code == 200
    assert answer.content == zipped
    assert answer.headers["content-length"] == str(len(zipped))
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["etag"].startswith('"')
    assert link.startswith("http://downloads.emulator/exports/1.zip?expires=")


async def test_a_head_tells_the_same_and_brings_nothing() -> None:
    async with exported() as (service, link, zipped):
        head = await service.foreign.head(link, headers={"Range": "bytes=5-"})
        answer = await service.foreign.get(link)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers == answer.headers
    assert int(head.headers["content-length"]) == len(zipped)


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [
        ("bytes=0-", 0, None),
        ("bytes=100-", 100, None),
        ("bytes=100-199", 100, 200),
        ("bytes=0-0", 0, 1),
        ("bytes=100-999999999", 100, None),
        ("bytes=-100", -100, None),
        ("bytes=-999999999", 0, None),
    ],
)
async def test_a_part_is_sent_when_asked_for(wanted: str, start: int, end: int | None) -> None:
    async with exported() as (service, link, zipped):
        answer = await service.foreign.get(link, headers={"Range": wanted})
    positions = range(len(zipped))[start:end]
    assert answer.status_code == 206
    assert answer.content == zipped[start:end]
    assert answer.headers["content-length"] == str(len(positions))
    assert answer.headers["content-range"] == (
        f"bytes {positions.start}-{positions.stop - 1}/{len(zipped)}"
    )


@pytest.mark.parametrize(
    "wanted",
    ["bytes=9-5", "bytes=-", "bytes=", "bytes=a-", "items=0-5", "bytes=0-1,5-6", "bytes=5"],
)
async def test_a_range_that_is_none_is_passed_over(wanted: str) -> None:
    async with exported() as (service, link, zipped):
        answer = await service.foreign.get(link, headers={"Range": wanted})
    assert (answer.status_code, answer.content) == (200, zipped)


@pytest.mark.parametrize("wanted", ["bytes={}-", "bytes=999999999-1000000000", "bytes=-0"])
async def test_a_part_beyond_the_end_cannot_be_had(wanted: str) -> None:
    async with exported() as (service, link, zipped):
        answer = await service.foreign.get(link, headers={"Range": wanted.format(len(zipped))})
    assert (answer.status_code, answer.content) == (416, b"")
    assert answer.headers["content-range"] == f"bytes */{len(zipped)}"


async def test_the_whole_is_sent_unless_the_part_is_of_the_same_file() -> None:
    async with exported() as (service, link, zipped):
        etag = (await service.foreign.head(link)).headers["etag"]
        for validator, status_code, start in (
            (etag, 206, 9),
            ('"another"', 200, 0),
            (f"W/{etag}", 200, 0),
            ("Mon, 23 Nov 2026 22:40:06 GMT", 200, 0),
        ):
            headers = {"Range": "bytes=9-", "If-Range": validator}
            answer = await service.foreign.get(link, headers=headers)
            assert (answer.status_code, answer.content) == (status_code, zipped[start:]), validator


async def test_a_link_is_good_until_it_expires_and_the_next_status_has_a_new_one() -> None:
    async with exported() as (service, link, zipped):
        service.now += LINK_SECONDS
        assert (await service.foreign.get(link)).status_code == 200
        service.now += 0.1
        answer = await service.foreign.get(link)
        assert (answer.status_code, b"Request has expired" in answer.content) == (403, True)
        anew = await service.link()
        assert anew != link
        assert (await service.foreign.get(anew)).content == zipped
        assert service.emulator.exports[1].links == (link, anew)


async def test_no_link_can_be_made_up() -> None:
    async with exported() as (service, link, _):
        later = link.replace("expires=60.000", "expires=99999.000")
        assert later != link
        for forged in (
            later,
            link.replace("/1.zip", "/2.zip"),
            link[:-1] + ("0" if link[-1] != "0" else "1"),
            link.partition("&")[0],
            link.partition("?")[0],
            "http://downloads.emulator/",
            link.partition("?")[0] + "?expires=x&signature=%C3%BC",
        ):
            assert (await service.foreign.get(forged)).status_code == 403, forged
        assert (await service.foreign.post(link)).status_code == 405
    seen = service.emulator.download_requests
    assert [request.export_id for request in seen] == [None] * 7


async def test_the_links_of_an_export_that_is_not_there_are_of_no_use() -> None:
    async with exported() as (service, _, _), Service() as other:
        # The same seed signs alike, but only one of them has this export.
        await service.export()
        path = (await service.link(2)).removeprefix(service.emulator.downloads_url)
        answer = await other.foreign.get(other.emulator.downloads_url + path)
    assert (answer.status_code, b"NoSuchKey" in answer.content) == (403, True)


async def test_the_key_counts_at_the_downloads_in_whatever_form_it_comes() -> None:
    async with exported() as (service, link, _):
        await service.foreign.get(link)
        assert service.emulator.keys_at_downloads == 0
        await service.foreign.get(link, headers={"Authorization": "Bearer something"})
        await service.foreign.get(link, headers={"X-Key": f"Api-Key {KEY}"})
        await service.foreign.get(f"{link}&key={KEY}")
        await service.foreign.get("http://downloads.emulator/elsewhere", auth=("a", "b"))
        assert service.emulator.keys_at_downloads == 4


async def test_every_request_to_the_downloads_is_remembered() -> None:
    async with exported() as (service, link, zipped):
        service.now = 5.0
        headers = {"Range": "bytes=10-19", "If-Range": '"x"'}
        etag = (await service.foreign.get(link, headers=headers)).headers["etag"]
        await service.foreign.head(link)
        whole, head = service.emulator.download_requests
    assert (whole.at, whole.method, whole.export_id, whole.status_code) == (5.0, "GET", 1, 200)
    assert (whole.range, whole.if_range, whole.etag) == ("bytes=10-19", '"x"', etag)
    assert (whole.start, whole.size, whole.bad) == (0, len(zipped), None)
    assert (head.method, head.size) == ("HEAD", 0)


async def test_a_changed_file_has_another_validator_and_other_bytes_but_the_same_size() -> None:
    async with exported() as (service, link, zipped):
        before = await service.foreign.get(link)
        service.emulator.plan_downloads(BadDownload(is_changed=True))
        headers = {"Range": "bytes=100-", "If-Range": before.headers["etag"]}
        after = await service.foreign.get(link, headers=headers)
        again = await service.foreign.get(link)
    assert after.status_code == 200
    assert after.headers["etag"] == again.headers["etag"] != before.headers["etag"]
    assert after.content == again.content != zipped
    assert len(after.content) == len(zipped)
    assert unzipped(after.content) == unzipped(zipped)


async def test_plans_befall_the_coming_downloads_and_no_others() -> None:
    async with exported() as (service, link, zipped):
        service.emulator.plan_downloads(
            BadDownload(is_expired=True), None, BadDownload(cut_after=3)
        )
        assert (await service.foreign.head(link)).status_code == 200
        assert (await service.foreign.get(link)).status_code == 403
        assert (await service.foreign.get(link)).content == zipped
        with pytest.raises(ConnectionResetError, match="on purpose"):
            await service.foreign.get(link)
        assert (await service.foreign.get(link)).content == zipped
    statuses = [(each.method, each.status_code) for each in service.emulator.download_requests]
    assert statuses == [("HEAD", 200), ("GET", 403), ("GET", 200), ("GET", 200), ("GET", 200)]


async def test_a_length_can_be_missing_or_wrong() -> None:
    async with exported() as (service, link, zipped):
        service.emulator.plan_downloads(
            BadDownload(has_length=False),
            BadDownload(length_error=-5),
            BadDownload(length_error=-(10**9)),
        )
        lengths = [
            (await service.foreign.get(link)).headers.get("content-length") for _ in range(3)
        ]
    assert lengths == [None, str(len(zipped) - 5), "0"]


def test_faults_meet_as_often_as_asked_for_and_the_same_ones_for_the_same_seed() -> None:
    def drawn(**settings: Any) -> list[BadDownload | None]:
        faults = DownloadFaults(**settings)
        return [faults.draw(number, 1000) for number in range(1, 1001)]

    shares: dict[str, Any] = {"cut": 0.5, "without_length": 0.2, "expired": 0.1, "changed": 0.3}
    assert drawn(**shares) == drawn(**shares) != drawn(**shares, seed=1)
    bad = [each or BadDownload() for each in drawn(**shares)]
    cuts = [each.cut_after for each in bad if each.cut_after is not None]
    assert 450 < len(cuts) < 550
    assert min(cuts) < 20
    assert 980 < max(cuts) < 1000
    assert 150 < sum(not each.has_length for each in bad) < 250
    assert 60 < sum(each.is_expired for each in bad) < 140
    assert 250 < sum(each.is_changed for each in bad) < 350
    assert any(each.cut_after is not None and not each.has_length for each in bad)
    assert not any(each.length_error for each in bad)
    alone = drawn(wrong_length=1)
    assert all(each is not None and 0 < abs(each.length_error) <= 1000 for each in alone)
    assert drawn() == [None] * 1000


async def test_faults_by_chance_befall_downloads() -> None:
    async with exported(download_faults=DownloadFaults(expired=0.5)) as (service, link, _):
        got = {(await service.foreign.get(link)).status_code for _ in range(20)}
    assert got == {200, 403}


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("cut", [-0.1, 1.1, None, True]),
        ("without_length", ["1"]),
        ("wrong_length", [2]),
        ("changed", [float("nan")]),
        ("expired", ["all"]),
        ("seed", [0.5, None]),
    ],
)
def test_invalid_shares_are_named(option: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=f"{option} must"):
            DownloadFaults(**{option: value})


@pytest.mark.parametrize("options", [{"cut_after": -1}, {"cut_after": 1.5}, {"length_error": "1"}])
def test_a_download_that_cannot_go_wrong_like_this_is_named(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} must"):
        BadDownload(**options)


async def test_in_process_the_links_lead_where_they_are_told_to() -> None:
    async with Service(downloads_url="https://files.example") as service:
        await service.export()
        assert (await service.link()).startswith("https://files.example/exports/1.zip?")
        service.emulator.downloads_url = "http://elsewhere:8080"
        assert (await service.link()).startswith("http://elsewhere:8080/exports/1.zip?")
        with pytest.raises(ValueError, match="downloads_url must begin"):
            service.emulator.downloads_url = "nowhere"


@asynccontextmanager
async def on_the_wire() -> AsyncGenerator[tuple[Emulator, str, bytes]]:
    """Yield an emulator on real sockets, the link to an export, and that export's zip."""
    emulator = Emulator(
        api_key=KEY, base_seconds=0, seconds_per_source=0, exports=AT_ONCE, most_predictions=50
    )
    headers = {"Authorization": f"Api-Key {KEY}"}
    async with (
        EmulatorServer(emulator) as server,
        httpx.AsyncClient(base_url=server.base_url, headers=headers) as api,
    ):
        body = {
            "modelIdentifier": 1,
            "outputLayerIdentifier": "Gold Set",
            "sourceIds": list(range(1, 201)),
        }
        await api.post("/v1/infer/batch", json=EXPORT | body)
        url = (await api.post("/v1/export/project", json=EXPORT)).json()["exportStatusUrl"]
        assert url == f"{server.base_url}/v1/export/status/1"
        link = (await api.get(url)).json()["downloadUrl"]
        assert link.startswith(f"{server.downloads_url}/exports/1.zip?")
        yield emulator, link, emulator.archive(1)


@pytest.mark.sockets
async def test_the_downloads_are_served_on_another_origin() -> None:
    async with on_the_wire() as (emulator, link, zipped), httpx.AsyncClient() as client:
        assert len(zipped) > 2**16
        assert (await client.get(link)).content == zipped
        origin = link.partition("/exports")[0]
        assert (await client.get(f"{origin}/v1/api-key/info")).status_code == 403
        assert emulator.downloads_url == origin
    assert emulator.downloads_url == "http://downloads.emulator"


@pytest.mark.sockets
async def test_each_port_is_known_only_inside_the_block_and_closed_after_it() -> None:
    server = EmulatorServer(Emulator())
    with pytest.raises(RuntimeError, match="async with"):
        _ = server.downloads_url
    async with server:
        port = int(server.downloads_url.rpartition(":")[2])
        assert str(port) not in server.base_url
    with pytest.raises(OSError, match=r"refused|failed"):
        await anyio.connect_tcp("127.0.0.1", port)
    async with EmulatorServer(Emulator(), downloads_port=port) as server:
        assert server.downloads_url == f"http://127.0.0.1:{port}"
        with pytest.raises(OSError, match="cannot listen"):
            async with EmulatorServer(Emulator(), downloads_port=port):
                pytest.fail("it must not serve")
    with pytest.raises(ValueError, match="downloads_port must"):
        EmulatorServer(Emulator(), downloads_port=-1)


async def bytes_before_the_end(link: str) -> tuple[bytes, Exception | None]:
    got = bytearray()
    try:
        async with httpx.AsyncClient() as client, client.stream("GET", link) as answer:
            async for part in answer.aiter_raw():
                got += part
    except httpx.TransportError as exc:
        return bytes(got), exc
    return bytes(got), None


@pytest.mark.sockets
@pytest.mark.parametrize("cut_after", [0, 1, 1000, 70_000])
async def test_a_cut_ends_the_answer_after_so_many_bytes(cut_after: int) -> None:
    async with on_the_wire() as (emulator, link, zipped):
        emulator.plan_downloads(BadDownload(cut_after=cut_after))
        got, trouble = await bytes_before_the_end(link)
        assert got == zipped[:cut_after]
        assert isinstance(trouble, httpx.RemoteProtocolError)
        assert (await bytes_before_the_end(link)) == (zipped, None)


@pytest.mark.sockets
async def test_a_cut_of_an_answer_without_length_looks_like_its_end() -> None:
    async with on_the_wire() as (emulator, link, zipped):
        emulator.plan_downloads(
            BadDownload(cut_after=500, has_length=False), BadDownload(has_length=False)
        )
        assert await bytes_before_the_end(link) == (zipped[:500], None)
        assert await bytes_before_the_end(link) == (zipped, None)


@pytest.mark.sockets
async def test_a_reset_and_a_length_too_long_are_seen_as_such() -> None:
    async with on_the_wire() as (emulator, link, zipped):
        emulator.plan_downloads(
            BadDownload(cut_after=500, is_reset=True), BadDownload(length_error=7)
        )
        got, trouble = await bytes_before_the_end(link)
        assert zipped.startswith(got)
        assert len(got) <= 500
        # A connection that is closed is a RemoteProtocolError, as below.
        assert isinstance(trouble, httpx.ReadError)
        got, trouble = await bytes_before_the_end(link)
        assert got == zipped
        assert isinstance(trouble, httpx.RemoteProtocolError)


@pytest.mark.sockets
async def test_a_length_too_short_leaves_bytes_over() -> None:
    async with on_the_wire() as (emulator, link, zipped):
        emulator.plan_downloads(BadDownload(length_error=-7))
        get = functools.partial(requests.get, link, timeout=10)
        answer = await anyio.to_thread.run_sync(get)
    assert answer.content == zipped[:-7]


async def test_a_zip_that_was_dropped_is_written_again_to_the_byte() -> None:
    async with exported() as (service, link, zipped):
        assert (await service.foreign.get(link)).content == zipped
        # More than are kept, and not one less: the first is the one to go.
        links = [await service.link(await service.export()) for _ in range(8)]
        for other in links:
            await service.foreign.get(other)
        answer = await service.foreign.get(link, headers={"Range": "bytes=7-"})
    assert (answer.status_code, answer.content) == (206, zipped[7:])
    assert len(service.emulator._state.exports._archives) == 8
