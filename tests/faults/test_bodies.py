"""Damaged and hostile answers: an id that stands in them whole is never lost, and none is made up."""

from __future__ import annotations

import json
import zlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
import httpx
import pytest

from annolab_async import (
    AnnoLabError,
    AsyncInferenceClient,
    FixedInterval,
    InferenceJob,
    InvalidResponse,
    JobIdLost,
    NoResponse,
    RetryPolicy,
    SubmissionUnknown,
)
from annolab_async._http._bodies import LARGEST_BODY, Body, NoBody
from tests.faults.chaos import answer, by_request, chaos, cut, reply
from tests.faults.ways import OF_READS, OF_SUBMISSIONS, Way, client_of
from tests.service import BASE_URL, KEY, a_request

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from tests.faults.chaos import Request, Script

pytestmark = [pytest.mark.anyio]

ONCE: Final = RetryPolicy(attempts=1)
ID: Final = 1234567
TRUTH: Final[dict[str, Any]] = {
    "inferenceJobId": ID,
    "status": "Queued",
    "projectName": "My Project",
    "projectId": 12,
    "outputLayerName": "Gold Set",
    "outputLayerId": 345,
    "sourceIds": [1, 2, 3],
}
LAST: Final = {name: TRUTH[name] for name in sorted(TRUTH, key="inferenceJobId".__eq__)}
MIDDLE: Final = {name: TRUTH[name] for name in sorted(TRUTH)}
DECOYS: Final = {
    "status": "Queued",
    "projectName": '{"inferenceJobId": 99, "status": "',
    "outputLayerName": '\\", "inferenceJobId": 98, \\u0022',
    "nested": {"inferenceJobId": 97, "deeper": [{"inferenceJobId": 96}, "]"]},
    "aninferenceJobId": 95,
    "sourceIds": [1, 2, 3],
    "inferenceJobId": ID,
    "afterwards": {"inferenceJobId": 94},
}
SHAPES: Final = {
    "id first": json.dumps(TRUTH),
    "id last": json.dumps(LAST),
    "id in the middle, compact": json.dumps(MIDDLE, separators=(",", ":")),
    "pretty": json.dumps(LAST, indent=4),
    "pretty on other systems": json.dumps(TRUTH, indent="\t").replace("\n", "\r\n"),
    "space before the comma": json.dumps(TRUTH, separators=(" , ", " : ")),
    "decoys": json.dumps(DECOYS),
    "not ASCII": json.dumps(LAST | {"projectName": "Prüfung 検査"}, ensure_ascii=False),
}


def gzip(data: bytes, encoding: int = 31) -> bytes:
    packer = zlib.compressobj(wbits=encoding)
    return packer.compress(data) + packer.flush()


def id_in(text: bytes, whole: bytes) -> int | None:
    """Return the id, if its digits and what ends them are among the first bytes of an answer of ours."""
    end = whole.rindex(b"%d" % ID) + len(str(ID))
    return ID if len(text) > end else None


class CutOff(httpx.AsyncByteStream):
    """A body that breaks off."""

    def __init__(self, data: bytes, size: int) -> None:
        self._parts = [data[at : at + size] for at in range(0, len(data), size)]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            yield part
        raise httpx.RemoteProtocolError("peer closed connection without sending complete message")


@asynccontextmanager
async def answering(response: httpx.Response) -> AsyncGenerator[AsyncInferenceClient]:
    """Yield a client of a server without sockets, that always gives one answer."""
    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(lambda _: response)) as http_client,
        AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=http_client, retry=ONCE) as client,
    ):
        yield client


async def outcome_of(client: AsyncInferenceClient, first: int = 1) -> InferenceJob | AnnoLabError:
    try:
        return await client.submit(a_request(first))
    except AnnoLabError as error:
        return error


def check_damaged(outcome: InferenceJob | AnnoLabError, job_id: int | None, why: object) -> None:
    assert type(outcome) is (InvalidResponse if job_id else JobIdLost), (why, outcome)
    assert isinstance(outcome, InvalidResponse)
    assert outcome.inference_job_id == job_id, (why, outcome)


@pytest.mark.parametrize("encoding", ["identity", "gzip", "deflate"])
@pytest.mark.parametrize("shape", SHAPES)
async def test_an_id_is_recovered_exactly_when_it_stands_whole_in_what_came(
    shape: str, encoding: str
) -> None:
    whole = SHAPES[shape].encode()
    bits = {"gzip": 31, "deflate": 15}.get(encoding)
    packed = gzip(whole, bits) if bits else whole
    responses = iter([
        httpx.Response(200, headers={"Content-Encoding": encoding}, stream=CutOff(packed[:at], 7))
        for at in range(len(packed) + 1)
    ])
    transport = httpx.MockTransport(lambda _: next(responses))
    async with (
        httpx.AsyncClient(transport=transport) as http_client,
        AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=http_client) as client,
    ):
        for at in range(len(packed) + 1):
            came = zlib.decompressobj(bits).decompress(packed[:at]) if bits else packed[:at]
            check_damaged(await outcome_of(client), id_in(came, whole), came)


async def test_of_two_ids_that_differ_none_is_taken_for_the_job() -> None:
    first, second = b'{"inferenceJobId": 98, "status": "Queued"', b', "inferenceJobId": 99'
    rest = b', "sourceIds": [1, 2]}'
    for body, job_id in [
        (first + b",", 98),
        (first + second + b",", None),
        (first + second + rest, None),
        (first + second.replace(b"99", b"98") + rest, 98),
        (first + second.replace(b"99", b'"98"') + rest, None),
    ]:
        async with answering(httpx.Response(200, content=body)) as client:
            check_damaged(await outcome_of(client), job_id, body)


@pytest.mark.sockets
@pytest.mark.parametrize("way", OF_SUBMISSIONS)
@pytest.mark.parametrize("chunk", [None, 16])
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_an_id_is_recovered_from_an_answer_cut_at_any_byte_on_the_wire(
    encoding: str, chunk: int | None, way: Way
) -> None:
    whole = SHAPES["id in the middle, compact"].encode()
    body = gzip(whole) if encoding == "gzip" else whole
    wire = reply(body, chunk=chunk, Content_Encoding=encoding)
    head, _, _ = wire.partition(b"\r\n\r\n")

    def cut_there(request: Request) -> Script:
        at = json.loads(request.body)["sourceIds"][0] - 1
        return cut(wire, at=at, by="rst" if at % 2 else "fin")

    def came_of_the_body(at: int) -> bytes:
        if chunk is None:
            return wire[len(head) + 4 : at]
        came, position = b"", len(head) + 4
        while position < at:
            line_end = wire.index(b"\r\n", position)
            size = int(wire[position:line_end], 16)
            came += wire[line_end + 2 : min(at, line_end + 2 + size)]
            position = line_end + 2 + size + 2
        return came

    outcomes: dict[int, InferenceJob | AnnoLabError] = {}

    async def submit(client: AsyncInferenceClient, at: int) -> None:
        outcomes[at] = await outcome_of(client, first=at + 1)

    with chaos(by_request(cut_there)) as server:
        async with (
            client_of(way, server.base_url, connections=8) as client,
            anyio.create_task_group() as tasks,
        ):
            for at in range(len(wire)):
                tasks.start_soon(submit, client, at)
    assert set(server.posts.values()) == {1}
    for at, outcome in outcomes.items():
        if at < len(head) + 4:
            assert type(outcome) is SubmissionUnknown, (wire[:at], outcome)
            assert isinstance(outcome.cause, NoResponse)
        else:
            came = came_of_the_body(at)
            text = zlib.decompressobj(31).decompress(came) if encoding == "gzip" else came
            check_damaged(outcome, id_in(text, whole), wire[:at])


DEEP: Final = 100_000
LONG: Final = "7" * 5000
# What an answer says, and the id that is beyond doubt in it all the same.
HOSTILE: Final[list[tuple[str, int | None]]] = [
    ("[" * DEEP, None),
    ("[" * DEEP + "]" * DEEP, None),
    ('{"inferenceJobId":' * DEEP, None),
    ('{"a":' * DEEP + "1" + "}" * DEEP, None),
    (
        '{"inferenceJobId": 12, "status": "Queued", "sourceIds": ' + "[" * DEEP + "]" * DEEP + "}",
        12,
    ),
    ('{"inferenceJobId": 12, "status": "Queued", "sourceIds": ' + "[" * DEEP, 12),
    (f'{{"inferenceJobId": {LONG}, "status": "Queued", "sourceIds": []}}', None),
    (f'{{"inferenceJobId": {2**64}, "status": "Queued", "sourceIds": []}}', None),
    (f'{{"inferenceJobId": {2**63}, "status": "Queued", "sourceIds": []}}', None),
    (f'{{"inferenceJobId": 12, "status": "Queued", "sourceIds": [{LONG}]}}', 12),
    (f'{{"inferenceJobId": 12, "status": "Queued", "sourceIds": [{2**64}]}}', 12),
    ('{"inferenceJobId": 12, "status": NaN, "sourceIds": [1]}', 12),
    ('{"inferenceJobId": 12, "status": "Queued", "sourceIds": [NaN]}', 12),
    ('{"inferenceJobId": 12, "status": "Queued", "sourceIds": [1], "more": Infinity}', 12),
    ('{"inferenceJobId": NaN, "status": "Queued", "sourceIds": [1]}', None),
    ('{"inferenceJobId": 12, "status": "Queued", "status": "Errored", "sourceIds": [1]}', 12),
    ('{"inferenceJobId": 12, "status": 3, "sourceIds": [1]}', 12),
    ('{"inferenceJobId": 12, "status": null, "sourceIds": [1]}', 12),
    ('{"inferenceJobId": 12, "status": ["Queued"], "sourceIds": [1]}', 12),
    ('{"inferenceJobId": 12, "status": "Queued", "sourceIds": ["1"]}', 12),
    ('{"inferenceJobId": 12, "status": "Queued", "sourceIds": 1}', 12),
    ('{"inferenceJobId": 12}', 12),
    ('{"inferenceJobId": "12", "status": "Queued", "sourceIds": [1]}', None),
    ('{"inferenceJobId": 12.0, "status": "Queued", "sourceIds": [1]}', None),
    ('{"inferenceJobId": 12e1, "status": "Queued", "sourceIds": [1]}', None),
    ('{"inferenceJobId": 0x12, "status": "Queued", "sourceIds": [1]}', None),
    ('{"inferenceJobId": 012, "status": "Queued", "sourceIds": [1]}', None),
    ('{"inferenceJobId": true, "status": "Queued", "sourceIds": [1]}', None),
    ('{"inferenceJobId": [12], "status": "Queued", "sourceIds": [1]}', None),
    ('{"inferenceJobId": 0, "status": "Queued", "sourceIds": [1]}', None),
    ('{"inferenceJobId": -12, "status": "Queued", "sourceIds": [1]}', None),
    ('[{"inferenceJobId": 12, "status": "Queued", "sourceIds": [1]}]', None),
    ('{"job": {"inferenceJobId": 12, "status": "Queued", "sourceIds": [1]}}', None),
    ('{"message": "\\"inferenceJobId\\": 12, "}', None),
    ("12", None),
    ('"inferenceJobId": 12, ', None),
    ("null", None),
    ("", None),
    ("{}", None),
    ("\x00" * 1000, None),
]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
async def test_what_no_job_says_is_a_typed_error_with_the_id_if_it_is_beyond_doubt(
    encoding: str,
) -> None:
    for body, job_id in HOSTILE:
        # Nothing is salvaged from what JSON may not be sent in.
        sure_id = job_id if encoding == "utf-8" else None
        async with answering(httpx.Response(200, content=body.encode(encoding))) as client:
            check_damaged(await outcome_of(client), sure_id, body[:200])
            with pytest.raises(InvalidResponse) as wrong:
                await client.get_job(12)
            assert wrong.value.inference_job_id == sure_id, body[:200]
            assert len(str(wrong.value)) < 2000


async def test_bytes_that_are_no_text_are_a_typed_error() -> None:
    body = b'{"inferenceJobId": 12, "status": "\xff\xfe", "sourceIds": [1, 2]}'
    async with answering(httpx.Response(200, content=body)) as client:
        check_damaged(await outcome_of(client), 12, body)
        with pytest.raises(InvalidResponse):
            await client.get_job(12)


WRONG: Final = {
    "another job": reply(json.dumps(TRUTH)),
    "no JSON": reply("<html>Sign in</html>"),
    "no status": reply('{"inferenceJobId": 12, "sourceIds": []}'),
    "gzip cut off": reply(gzip(json.dumps(TRUTH).encode())[:-9], Content_Encoding="gzip"),
    "an unknown encoding": reply("what", Content_Encoding="br"),
}


@pytest.mark.sockets
@pytest.mark.parametrize("way", OF_READS)
@pytest.mark.parametrize("name", WRONG)
async def test_a_connection_that_brought_a_wrong_answer_is_not_used_again(
    name: str, way: Way
) -> None:
    good = answer(reply('{"inferenceJobId": 12, "status": "Queued", "sourceIds": [1]}'))
    with chaos(good, answer(WRONG[name]), good) as server:
        async with client_of(way, server.base_url, retry=ONCE) as client:
            await client.get_job(12)
            with pytest.raises(InvalidResponse):
                await client.get_job(12)
            assert server.accepted == 1
            await client.get_job(12)
    assert [peer.heads for peer in server.peers] == [2, 1]


@pytest.mark.sockets
@pytest.mark.parametrize("way", OF_READS)
@pytest.mark.parametrize(
    ("then", "seen"),
    [("Queued", ["Running", "Queued", "Finished"]), ("Running", ["Running", "Finished"])],
)
async def test_a_job_that_ran_and_is_queued_is_asked_for_once_more_on_another_connection(
    then: str, seen: list[str], way: Way
) -> None:
    words = ["Running", "Queued", then, "Finished"]
    answers = [answer(reply(json.dumps(TRUTH | {"status": word}))) for word in words]
    at_once = RetryPolicy(first=0.001)
    with chaos(*answers) as server:
        async with (
            client_of(way, server.base_url, retry=at_once) as client,
            client.watch(ID, schedule=FixedInterval(0.001)) as watcher,
        ):
            shown = [transition.job async for transition in watcher]
    assert [job and job.status for job in shown] == seen
    assert [peer.heads for peer in server.peers] == [2, 2]


@pytest.mark.parametrize("coding", ["identity", "deflate"])
def test_a_body_of_just_the_largest_size_is_taken_and_none_that_is_longer(coding: str) -> None:
    def taken(body: bytes) -> bytes:
        incoming = Body({"content-encoding": coding})
        incoming.feed(zlib.compress(body) if coding == "deflate" else body)
        return incoming.whole()

    largest = bytes(LARGEST_BODY)
    assert taken(largest) == largest
    with pytest.raises(NoBody, match="longer than 1048576 bytes"):
        taken(largest + b"0")
