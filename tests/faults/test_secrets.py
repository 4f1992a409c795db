"""No key and no signature of a link is in what a failure leaves: texts, attributes, tracebacks, pickles, logs."""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import re
import socket
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import httpx
import pytest

from annolab_async import (
    AnnoLabError,
    AsyncInferenceClient,
    AuthenticationError,
    FixedInterval,
    InvalidRequest,
    InvalidResponse,
    JobIdLost,
    JobLost,
    JobNotFound,
    NoResponse,
    NotFound,
    NotOpen,
    PermissionDenied,
    RateLimited,
    RequestNotSent,
    ServerError,
    StatusError,
    SubmissionUnknown,
    WaitTimeout,
)
from tests.faults.chaos import Request, answer, by_request, chaos, cut, reply, stall
from tests.faults.keyed import JOB, KEY, WAYS, Way, keyed_client
from tests.faults.leaks import SECRET, attributes, leaks, leaks_of_logs
from tests.service import a_request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.faults.chaos import Script

pytestmark = [pytest.mark.anyio, pytest.mark.sockets]

LINK: Final = "https://files.example/x.zip?X-Sig=CANARYSIG"
ECHO: Final = f"the key {KEY} may not have {LINK}&b=1"
GOOD: Final = JOB % 7


def _raw(text: str) -> Script:
    return cut(text.encode())


def _moved(location: str, status: str = "302 Found") -> Script:
    return answer(reply(status=status, Location=location))


def _message(status: str) -> Script:
    return answer(reply(json.dumps({"message": ECHO}), status))


# What a server may do that knows both secrets and hides neither.
ANSWERS: Final[dict[str, Script]] = {
    **{
        f"a message with {status}": _message(status)
        for status in ("400 Bad", "401 No", "402 Pay", "403 No", "404 Not Found", "408 Late")
    },
    **{
        f"a message with {status}": _message(status)
        for status in ("409 Conflict", "422 Bad", "500 Fault", "502 Bad", "504 Late")
    },
    "a message that is long": answer(reply(json.dumps({"message": 900 * ECHO}), "400 Bad")),
    "plain text": answer(reply(ECHO, "500 Fault")),
    "HTML": answer(reply(f"<html><a href='{LINK}'>{KEY}</a></html>", "500 Fault")),
    "HTML as a success": answer(reply(f"<html><a href='{LINK}'>{KEY}</a></html>")),
    "other JSON": answer(reply(json.dumps([ECHO, {KEY: LINK}]), "500 Fault")),
    "a reason": answer(reply("", f"500 {ECHO}")),
    "the reason of a success": answer(reply("{}", f"200 {ECHO}")),
    "a reason for going elsewhere": _moved("/elsewhere", f"302 {ECHO}"),
    "no JSON": answer(reply(ECHO)),
    "half a JSON": answer(reply(f'{{"message": "{ECHO}"')),
    "JSON with slashes escaped": answer(reply(json.dumps(ECHO).replace("/", "\\/"))),
    "JSON that is no job": answer(reply(json.dumps({"error": ECHO}))),
    "an id that is a key": answer(reply(GOOD.replace("7", f'"{KEY}"'))),
    "an id that is a link": answer(reply(GOOD.replace("7", f'"{LINK}"'))),
    "a status that is a list": answer(reply(GOOD.replace('"Queued"', f'["{KEY}", "{LINK}"]'))),
    "sources that are keys": answer(reply(GOOD.replace("[1, 2]", f'["{KEY}", "{LINK}"]'))),
    "sources that are a mapping": answer(reply(GOOD.replace("[1, 2]", f'{{"{KEY}": "{LINK}"}}'))),
    "the same name twice": answer(reply(GOOD.replace("}", f', "{KEY}": 1, "{KEY}": 2}}'))),
    "a link as a name twice": answer(reply(GOOD.replace("}", f', "{LINK}": 1, "{LINK}": 2}}'))),
    "another job": answer(reply(JOB % 99 + f' "{ECHO}"')),
    "a job in the middle of an echo": cut(reply(f'{{"message": "{ECHO}", ' + GOOD[1:]), at=-5),
    "a number that is none": answer(reply(GOOD.replace("7", f'NaN, "{KEY}": 1'))),
    "an encoding": answer(reply(GOOD, Content_Encoding=ECHO)),
    "a charset": answer(reply("{}", Content_Type=f"application/json; charset={KEY}")),
    "a gzip that is none": answer(reply(ECHO, Content_Encoding="gzip")),
    "a cookie": answer(reply("", "500 Fault", Set_Cookie=f"session={KEY}; Path=/")),
    "a header with a strange name": _raw(f"HTTP/1.1 500 Fault\r\n{KEY}: {LINK}\r\n\r\n"),
    "a header without a colon": _raw(f"HTTP/1.1 200 OK\r\n{KEY} {LINK}\r\n\r\n"),
    "a header with a zero": _raw(f"HTTP/1.1 200 OK\r\nX: {KEY}\0{LINK}\r\n\r\n"),
    "no HTTP": _raw(f"{KEY} {LINK}\r\n\r\n"),
    "HTTP of a strange version": _raw(f"HTTP/{KEY} 200 {LINK}\r\n\r\n"),
    "a status that is no number": _raw(f"HTTP/1.1 {KEY} {LINK}\r\n\r\n"),
    "a length that is no number": _raw(f"HTTP/1.1 200 OK\r\nContent-Length: {KEY}\r\n\r\n"),
    "two lengths": _raw(f"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: {KEY}\r\n\r\n"),
    "a coding of the transfer": _raw(f"HTTP/1.1 200 OK\r\nTransfer-Encoding: {KEY}\r\n\r\n"),
    "a chunk that is none": _raw(
        f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{KEY}\r\n{LINK}\r\n"
    ),
    "a link elsewhere": _moved(LINK),
    "a link elsewhere for good": _moved(LINK, "308 Moved"),
    "a link without a scheme": _moved("//files.example/x.zip?X-Sig=CANARYSIG"),
    "a link with a bad port": _moved("https://files.example:port/x.zip?X-Sig=CANARYSIG"),
    "a link with a password": _moved(f"https://user:{KEY}@files.example/x?X-Sig=CANARYSIG"),
    "a link with a key for a host": _moved(f"https://{KEY}/x?X-Sig=CANARYSIG"),
    "a link of another scheme": _moved(f"{KEY}:x?X-Sig=CANARYSIG"),
    "a link that is none": _moved(f"https://[{KEY}?X-Sig=CANARYSIG"),
    "a link within, to nothing": _moved(f"/v1/infer/batch/to/404?X-Sig=CANARYSIG&key={KEY}"),
    "a link within, to a broken line": _moved(f"/v1/infer/batch/to/500?X-Sig=CANARYSIG&key={KEY}"),
    "a link within, round and round": _moved("?X-Sig=CANARYSIG", "307 Again"),
    "an answer cut short": cut(reply(ECHO), at=-5),
    "an answer cut short and reset": cut(reply(ECHO, length=10_000), by="rst"),
    "headers cut short": cut(reply("", X=ECHO), at=-8),
    "nothing": cut(),
    "a reset": cut(by="rst"),
    "silence": stall(),
    "silence after a part": stall(reply(ECHO, length=10_000)),
    "a message with 429": _message("429 Slow"),
    "a time to wait": answer(reply("", "429 Slow", Retry_After=KEY)),
    "a message with 503": answer(reply(json.dumps({"message": ECHO}), "503 Down", Retry_After="0")),
}
NUMBERED: Final = [*ANSWERS.values()]
SLOWING: Final = {"a message with 429", "a time to wait", "a message with 503"}


def by_number(request: Request) -> Script:
    """Answer a read of job n, or a batch whose first source is n, with the answer of that number."""
    if request.line.startswith("POST"):
        number: int = json.loads(request.body)["sourceIds"][0]
        return NUMBERED[number - 1]
    hit = re.match(r"GET /v1/infer/batch/(to/)?(\d+)", request.line)
    if hit is None:
        return answer(reply(ECHO, "404 Not Found"))
    if hit[1]:
        return cut() if hit[2] == "500" else answer(reply(ECHO, "404 Not Found"))
    return NUMBERED[int(hit[2]) - 1]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    chosen: Way = request.param
    return chosen


@pytest.fixture
def logs(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    for name in [None, "annolab_async", "httpx", "httpx2", "httpcore", "httpcore2", "aiohttp"]:
        caplog.set_level(logging.DEBUG, logger=name)
    caplog.set_level(logging.DEBUG, logger="asyncio")
    return caplog


async def error_of(call: Callable[[], Awaitable[object]]) -> AnnoLabError:
    with pytest.raises(AnnoLabError) as raised:
        await call()
    return raised.value


def shown(found: list[str]) -> str:
    """Return the beginning of a list of leaks."""
    return "\n".join([f"{len(found)} leaks", *(where[:240] for where in found[:60])])


async def every_failure(
    client: AsyncInferenceClient, way: Way, *, each: int = 1
) -> list[tuple[str, AnnoLabError]]:
    """Return what each (or each so manieth) answer makes of a read, a watch and a batch."""
    failures = list[tuple[str, AnnoLabError]]()

    async def call(what: str, function: Callable[[], Awaitable[object]]) -> None:
        try:
            result = await function()
        except AnnoLabError as error:
            failures.append((what, error))
        else:
            raise AssertionError(f"{what} is no failure: {result}")

    chosen = [*enumerate(ANSWERS, 1)][::each]
    quick = [(number, what) for number, what in chosen if what not in SLOWING]
    # In this order, since these slow down all that come after them.
    for numbered in (quick, [entry for entry in chosen if entry not in quick]):
        async with anyio.create_task_group() as tasks:
            for number, what in numbered:
                tasks.start_soon(call, f"a read, {what}", partial(client.get_job, number))
                if way != "own aiohttp":  # batches never take it
                    submit = partial(client.submit, a_request(number))
                    tasks.start_soon(call, f"a batch, {what}", submit)
        async with anyio.create_task_group() as tasks:
            for number, what in numbered:
                wait = partial(client.wait, number, timeout=0.5)
                tasks.start_soon(call, f"a watch, {what}", wait)
    return failures


async def test_no_failure_shows_a_secret(way: Way, logs: pytest.LogCaptureFixture) -> None:
    with chaos(by_request(by_number)) as server:
        async with keyed_client(way, server.base_url, timeout=1.0) as client:
            numbers = [number for number, what in enumerate(ANSWERS, 1) if what not in SLOWING]
            async with client.watch(numbers, failure_budget=0) as watcher:
                transitions = [transition async for transition in watcher]
            found = [*attributes([transitions, watcher.stats, repr(watcher)], "watched")]
            failures = await every_failure(client, way)
            failures += [("a loss", seen.error) for seen in transitions if seen.error]
        sent = [request.head for request in server.requests]
    assert sent
    assert all(KEY.encode() in head for head in sent), "the key was there to be shown"
    found += [f"{what}: {where}" for what, error in failures for where in leaks(error)]
    found += leaks_of_logs(logs.records)
    assert not found, shown(found)
    kinds: set[type] = {type(error) for _, error in failures}
    kinds |= {type(error.cause) for _, error in failures if isinstance(error, JobLost)}
    assert kinds >= {
        AuthenticationError,
        PermissionDenied,
        NotFound,
        JobLost,
        JobNotFound,
        InvalidRequest,
        RateLimited,
        ServerError,
        StatusError,
        NoResponse,
        InvalidResponse,
        WaitTimeout,
    }
    if way != "own aiohttp":
        assert kinds >= {SubmissionUnknown, JobIdLost}


async def test_a_secret_that_stands_where_an_excerpt_ends_is_not_shown_in_part(way: Way) -> None:
    padded = [
        answer(reply(length * "." + " " + text, status))
        for text in (KEY, LINK, f"{KEY}{LINK}", LINK.replace("/", "\\/"))
        for status in ("200 OK", "400 Bad")
        for length in range(145, 205)
    ]
    with chaos(*padded) as server:
        async with keyed_client(way, server.base_url) as client:
            for _ in padded:
                error = await error_of(lambda: client.get_job(7))
                assert not SECRET.search(f"{error} {error!r} {vars(error)}")


async def test_calls_that_cannot_be_made_show_no_secret(
    way: Way, logs: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    errors = list[AnnoLabError]()
    async with keyed_client(way, url) as client:
        errors.append(await error_of(lambda: client.get_job(7)))
        errors.append(await error_of(lambda: client.submit(a_request())))
        errors.append(await error_of(lambda: client.wait(7, timeout=0.1)))
    assert [type(error) for error in errors[:2]] == [RequestNotSent, RequestNotSent]
    errors.append(await error_of(lambda: client.get_job(7)))
    errors.append(await error_of(lambda: client.submit(a_request())))
    errors.append(await error_of(lambda: client.wait(7)))
    assert [type(error) for error in errors[3:]] == [NotOpen, NotOpen, NotOpen]
    found = [where for error in errors for where in leaks(error)] + leaks_of_logs(logs.records)
    assert not found, shown(found)


@pytest.mark.parametrize("sent", [b"", reply(GOOD, length=10_000)], ids=["head", "body"])
async def test_a_call_that_is_cancelled_shows_no_secret(
    way: Way, logs: pytest.LogCaptureFixture, sent: bytes
) -> None:
    caught = list[BaseException]()

    async def call(function: Callable[[], Awaitable[object]]) -> None:
        try:
            await function()
        except BaseException as error:
            caught.append(error)
            raise

    with chaos(stall(sent)) as server:
        async with keyed_client(way, server.base_url) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(call, lambda: client.get_job(7))
            tasks.start_soon(call, lambda: client.submit(a_request()))
            tasks.start_soon(call, lambda: client.wait(8))
            await server.until(lambda: server.heads == 3)
            tasks.cancel_scope.cancel()
    assert len(caught) == 3
    found = [where for error in caught for where in leaks(error)] + leaks_of_logs(logs.records)
    assert not found, shown(found)


async def test_what_a_client_and_a_watcher_are_and_give_shows_no_secret(
    way: Way, logs: pytest.LogCaptureFixture
) -> None:
    jobs = [answer(reply(JOB % 7)), answer(reply((JOB % 7).replace("Queued", "Finished")))]
    with chaos(*jobs) as server:
        async with keyed_client(way, server.base_url) as client:
            async with client.watch([7], schedule=FixedInterval(0.01)) as watcher:
                transitions = [transition async for transition in watcher]
            things: list[Any] = [client, watcher, client._session, client.retry]
            texts = [show(thing) for thing in things for show in (repr, str, _vars)]
            given: list[Any] = [*transitions, watcher.stats, transitions[-1].job]
            with suppress(Exception):  # it need not be possible
                texts.append(pickle.dumps(client).decode("latin-1"))
    found = [*attributes(texts, "texts"), *attributes(given, "given"), *leaks_of_logs(logs.records)]
    assert not found, shown(found)


async def test_what_packs_headers_for_http2_logs_nothing_of_ours(
    logs: pytest.LogCaptureFixture,
) -> None:
    packers = [logging.getLogger(name) for name in ("hpack.hpack", "hpack.table")]

    def pack(_: httpx.Request) -> httpx.Response:
        for packer in packers:
            packer.debug("Encoded header block to %s", b"the key, packed")
        return httpx.Response(200, content=JOB % 7)

    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(pack)) as http_client,
        AsyncInferenceClient(KEY, base_url="http://localhost", http_client=http_client) as client,
    ):
        await client.get_job(7)
        await client.submit(a_request())
        assert not [record for record in logs.records if record.name.startswith("hpack")]
        await http_client.get("http://localhost")
    assert [record.name for record in logs.records if record.name.startswith("hpack")] == [
        "hpack.hpack",
        "hpack.table",
    ]


async def test_a_status_word_that_holds_the_key_shows_it_nowhere(
    way: Way, logs: pytest.LogCaptureFixture
) -> None:
    with chaos(answer(reply((JOB % 7).replace("Queued", f"Held for {KEY}")))) as server:
        async with keyed_client(way, server.base_url) as client:
            given: list[Any] = [await client.get_job(7)]
            async with client.watch([7], job_timeout=0.1) as watcher:
                given += [transition async for transition in watcher]
    assert isinstance(given[-1].error, WaitTimeout)
    assert given[0].status == "Held for [API key]"
    found = [*attributes(given, "given"), *leaks(given[-1].error), *leaks_of_logs(logs.records)]
    assert not found, shown(found)


def _vars(thing: object) -> str:
    return repr(vars(thing)) if hasattr(thing, "__dict__") else ""


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_debug_mode_of_asyncio_shows_no_secret(
    way: Way, logs: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0
    with chaos(by_request(by_number)) as server:
        async with keyed_client(way, server.base_url, timeout=1.0) as client:
            await every_failure(client, way, each=5)
    loop.set_debug(False)
    records = [record for record in logs.records if record.name == "asyncio"]
    assert any("Executing" in record.getMessage() for record in records), "it tells of each step"
    found = leaks_of_logs(records)
    assert not found, shown(found)
