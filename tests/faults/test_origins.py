"""A key goes to its own origin and nowhere else, wherever a server points."""

from __future__ import annotations

import json
import re
import socket
from typing import TYPE_CHECKING, Any, Final

import pytest

from annolab_async import AnnoLabError, StatusError, SubmissionUnknown
from tests.faults.chaos import Request, answer, by_request, chaos, reply
from tests.faults.keyed import JOB, KEY, WAYS, Way, keyed_client
from tests.faults.locations import FOREIGN, UNSURE, WITHIN
from tests.service import a_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.faults.chaos import ChaosServer, Script

pytestmark = [pytest.mark.anyio, pytest.mark.sockets]

REDIRECTS: Final = ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"]
BASE_PATH: Final = "/v1/infer/batch/7"


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    chosen: Way = request.param
    return chosen


@pytest.fixture(params=[way for way in WAYS if way != "own aiohttp"])
def way_of_batches(request: pytest.FixtureRequest) -> Way:
    chosen: Way = request.param
    return chosen


@pytest.fixture
def contacts(monkeypatch: pytest.MonkeyPatch) -> set[object]:
    """Every address that anything in this process connects to or looks up."""
    seen = set[object]()
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def noting_connect(self: socket.socket, address: Any) -> None:
        seen.add(address)
        connect(self, address)

    def noting_look_up(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        seen.add((_text(host), int(port or 0)))
        return look_up(host, port, *args, **options)

    monkeypatch.setattr(socket.socket, "connect", noting_connect)
    monkeypatch.setattr(socket, "getaddrinfo", noting_look_up)
    return seen


def _text(value: object) -> object:
    return value.decode() if isinstance(value, bytes) else value


class Lure:
    """Where the servers of a test are, and how the good one answers: each request with the location of its number."""

    def __init__(self, locations: Sequence[str], statuses: Sequence[str] = REDIRECTS) -> None:
        self._locations = locations
        self._statuses = statuses
        self.ports = {"g": 0, "e": 0}

    def location(self, number: int) -> str:
        template = self._locations[number - 1]
        return re.sub(r"\{(\w)\}", lambda hit: str({**self.ports, "n": number}[hit[1]]), template)

    def status(self, number: int) -> str:
        return self._statuses[number % len(self._statuses)]

    def answer_to(self, request: Request) -> Script:
        if request.line.startswith("POST"):
            number = json.loads(request.body)["sourceIds"][0]
        elif hit := re.match(r"GET /v1/infer/batch/(to/)?(\d+)(\?\S*)? HTTP", request.line):
            number = int(hit[2])
            if hit[1] or hit[3]:
                return answer(reply(JOB % number))
        else:
            return answer(reply(status="404 Not Found"))
        return answer(reply(status=self.status(number), Location=self.location(number)))


async def _assert_stays(
    lure: Lure, good: ChaosServer, evil: ChaosServer, contacts: set[object]
) -> None:
    assert contacts == {("127.0.0.1", good.port)}
    assert evil.accepted == 0
    assert all(KEY.encode() in request.head for request in good.requests), "the test sees keys"
    assert lure.ports["g"] != lure.ports["e"]


@pytest.mark.parametrize("locations", [FOREIGN, UNSURE], ids=["foreign", "unsure"])
async def test_no_read_follows_a_redirect_to_another_origin(
    way: Way, locations: list[str], contacts: set[object]
) -> None:
    lure, faults = Lure(locations), list[str]()
    with chaos(answer(reply(JOB % 7))) as evil, chaos(by_request(lure.answer_to)) as good:
        lure.ports = {"g": good.port, "e": evil.port}
        async with keyed_client(way, good.base_url) as client:
            for number in range(1, 1 + len(locations)):
                before = good.heads
                what = f"{lure.status(number)} to {lure.location(number)[:80]!r}"
                try:
                    faults.append(f"{what} gave {await client.get_job(number)}")
                except StatusError as error:
                    is_own = error.status_code == int(lure.status(number)[:3])
                    if locations is FOREIGN and (not is_own or good.heads != before + 1):
                        faults.append(f"{what} was followed: {error}")
                except AnnoLabError as error:
                    # The one that is too long may be refused by a library's own limit on headers.
                    if locations is FOREIGN and len(lure.location(number)) < 9000:
                        faults.append(f"{what}: {error!r}")
                assert not contacts - {("127.0.0.1", good.port)}, what
        await _assert_stays(lure, good, evil, contacts)
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("locations", [FOREIGN + UNSURE, [*WITHIN]], ids=["elsewhere", "within"])
async def test_no_batch_is_sent_on_wherever_a_redirect_points(
    way_of_batches: Way, locations: list[str], contacts: set[object]
) -> None:
    lure, faults = Lure(locations), list[str]()
    with chaos(answer(reply(JOB % 7))) as evil, chaos(by_request(lure.answer_to)) as good:
        lure.ports = {"g": good.port, "e": evil.port}
        async with keyed_client(way_of_batches, good.base_url) as client:
            for number in range(1, 1 + len(locations)):
                what = f"{lure.status(number)} to {lure.location(number)[:80]!r}"
                with pytest.raises(AnnoLabError) as raised:
                    await client.submit(a_request(number))
                assert good.heads == number, f"{what} was followed"
                is_unknown = lure.status(number)[:3] in {"302", "303"}
                expected = SubmissionUnknown if is_unknown else StatusError
                # What no header can hold, or is too long for it, may be no answer at all.
                is_header = (
                    lure.location(number).isprintable() and len(lure.location(number)) < 9000
                )
                if is_header and not isinstance(raised.value, expected):
                    faults.append(f"{what}: {raised.value!r}")
        await _assert_stays(lure, good, evil, contacts)
    assert not faults, "\n".join(faults)
    assert max(good.posts.values()) == 1
    assert sum(good.posts.values()) == len(locations)


@pytest.mark.parametrize("status", REDIRECTS)
async def test_a_read_follows_redirects_within_its_origin(
    way: Way, status: str, contacts: set[object]
) -> None:
    lure = Lure([*WITHIN], [status])
    with chaos(answer(reply(JOB % 7))) as evil, chaos(by_request(lure.answer_to)) as good:
        lure.ports = {"g": good.port, "e": evil.port}
        async with keyed_client(way, good.base_url) as client:
            for number, target in enumerate(WITHIN.values(), 1):
                job = await client.get_job(number)
                assert job.inference_job_id == number
                path = target.format(n=number, **lure.ports)
                assert good.requests[-1].line == f"GET {path} HTTP/1.1"
        await _assert_stays(lure, good, evil, contacts)
        assert good.heads == 2 * len(WITHIN)


@pytest.mark.parametrize("status", ["300 Many", "304 Same", "305 Proxy", "306 Unused", "399 What"])
async def test_other_statuses_with_a_location_are_no_redirects(way: Way, status: str) -> None:
    with chaos(answer(reply(status=status, Location="/v1/infer/batch/to/7"))) as server:
        async with keyed_client(way, server.base_url) as client:
            with pytest.raises(StatusError) as raised:
                await client.get_job(7)
        assert raised.value.status_code == int(status[:3])
        assert server.heads == 1


async def test_a_chain_of_redirects_that_leaves_the_origin_ends_there(
    way: Way, contacts: set[object]
) -> None:
    with chaos(answer(reply(JOB % 7))) as evil:
        chain = ["/v1/infer/batch/a", "b", f"{evil.base_url}/v1/infer/batch/7"]
        hops = [answer(reply(status="302 Found", Location=location)) for location in chain]
        with chaos(*hops) as good:
            async with keyed_client(way, good.base_url) as client:
                with pytest.raises(StatusError, match="302"):
                    await client.get_job(7)
            assert contacts == {("127.0.0.1", good.port)}
        paths = [request.line.split()[1] for request in good.requests]
        assert paths == ["/v1/infer/batch/7", "/v1/infer/batch/a", "/v1/infer/batch/b"]
        assert evil.accepted == 0


@pytest.mark.parametrize("hops", [5, 6, 10_000])
async def test_five_redirects_are_followed_and_not_one_more(way: Way, hops: int) -> None:
    def choose(_: Request) -> Script:
        if server.heads > hops:
            return answer(reply(JOB % 7))
        return answer(reply(status="307 Again", Location=BASE_PATH))

    with chaos(by_request(choose)) as server:
        async with keyed_client(way, server.base_url) as client:
            if hops <= 5:
                assert (await client.get_job(7)).inference_job_id == 7
            else:
                with pytest.raises(StatusError, match="307"):
                    await client.get_job(7)
        assert server.heads == 6
