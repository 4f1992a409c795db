"""What a submission that failed proves, 200 times for each way to fail: the verdict, and what the server saw of it."""

from __future__ import annotations

import functools
import shutil
import socket
import ssl
import subprocess
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

import anyio
import httpx
import pytest
from attrs import frozen

from annolab_async import (
    AnnoLabError,
    AsyncInferenceClient,
    InferenceJob,
    InvalidRequest,
    InvalidResponse,
    JobIdLost,
    NoResponse,
    RateLimited,
    RequestNotSent,
    RetryPolicy,
    ServerError,
    StatusError,
    SubmissionUnknown,
)
from tests.depth import IS_THOROUGH, often
from tests.faults.chaos import a_full_backlog, answer, chaos, cut, held, reply, stall
from tests.faults.ways import OF_SUBMISSIONS, Way, client_of
from tests.loop_time import loop_time
from tests.service import KEY, a_request

if TYPE_CHECKING:
    from pathlib import Path

    from annolab_async import InferenceRequest
    from tests.faults.chaos import ChaosServer, Peer, Script

pytestmark = [pytest.mark.anyio, pytest.mark.sockets, pytest.mark.chance]

TIMES: Final = often(200)
# So many at once take a while to be sent, with a server in the same process.
TIMEOUT: Final = 3.0 if IS_THOROUGH else 2.0
JOB: Final = '{"inferenceJobId": 1234567, "status": "Queued", "sourceIds": [1, 2]}'
WHOLE: Final = reply(JOB)
IN_THE_ID: Final = WHOLE.index(b"4567")
BEHIND_THE_ID: Final = WHOLE.index(b', "status"') + 1
ONCE: Final = RetryPolicy(attempts=1)
TWICE: Final = RetryPolicy(attempts=2, first=0.001)


@frozen
class Row:
    """One row of the table: how the server fails, and what that proves."""

    script: Script
    verdict: type[AnnoLabError]
    cause: type[AnnoLabError] | None = None
    times: int = 1  # that it is sent: who says that he has not taken it is believed
    job_id: int | None = None


def status(
    data: bytes,
    verdict: type[AnnoLabError],
    cause: type[AnnoLabError] | None = None,
    times: int = 1,
) -> Row:
    return Row(answer(data), verdict, cause, times)


def no(status: str, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "Content-Length: 17", "", '{"message": "no"}']).encode()


def lost(script: Script) -> Row:
    return Row(script, SubmissionUnknown, NoResponse)


def damaged(script: Script, job_id: int | None = None) -> Row:
    return Row(script, InvalidResponse if job_id else JobIdLost, job_id=job_id)


ROWS: Final = {
    "400": status(no("400 Bad"), InvalidRequest),
    "307": status(no("307 There", Location="/v1/elsewhere"), StatusError),
    "503": status(no("503 Later"), SubmissionUnknown, ServerError),
    "500": status(no("500 Oops"), SubmissionUnknown, ServerError),
    "502": status(no("502 Gateway"), SubmissionUnknown, ServerError),
    "504": status(no("504 Gateway"), SubmissionUnknown, ServerError),
    "408": status(no("408 Slow"), SubmissionUnknown, StatusError),
    "302": status(no("302 There", Location="/v1/elsewhere"), SubmissionUnknown, StatusError),
    "closed with no byte": lost(cut()),
    "reset after the request": lost(cut(by="rst")),
    "reset before the request is read": lost(cut(read=False, by="rst")),
    "closed in the headers": lost(cut(WHOLE, at=20)),
    "reset in the headers": lost(cut(WHOLE, at=20, by="rst")),
    "closed in the id": damaged(cut(WHOLE, at=IN_THE_ID)),
    "closed behind the id": damaged(cut(WHOLE, at=BEHIND_THE_ID), 1234567),
    "reset in the id": damaged(cut(WHOLE, at=IN_THE_ID, by="rst")),
    "reset behind the id": damaged(cut(WHOLE, at=BEHIND_THE_ID, by="rst"), 1234567),
    "no JSON": damaged(answer(reply("<html>Sign in</html>"))),
    "no gzip": damaged(answer(reply(JOB[:15], Content_Encoding="gzip"))),
}
NOT_TAKEN: Final = {
    "429": status(no("429 Slow", **{"Retry-After": "0"}), RateLimited, times=2),
    "503 with Retry-After": status(no("503 Later", **{"Retry-After": "0"}), ServerError, times=2),
}
SILENCES: Final = {
    "no reply": lost(stall()),
    "half the headers and no more": lost(stall(WHOLE[:20])),
    "half the id and no more": damaged(stall(WHOLE[:IN_THE_ID])),
    "the id and no more": damaged(stall(WHOLE[:BEHIND_THE_ID]), 1234567),
}


@frozen
class Submission:
    """A batch, and what became of it."""

    request: InferenceRequest
    outcome: InferenceJob | AnnoLabError


async def submit_all(*clients: AsyncInferenceClient, size: int = 2) -> list[Submission]:
    submissions: list[Submission] = []

    async def submit(client: AsyncInferenceClient, request: InferenceRequest) -> None:
        try:
            submissions.append(Submission(request, await client.submit(request)))
        except AnnoLabError as error:
            submissions.append(Submission(request, error))

    async with anyio.create_task_group() as tasks:
        for number in range(TIMES):
            client = clients[number % len(clients)]
            tasks.start_soon(submit, client, a_request(1 + size * number, size))
    return submissions


def check(row: Row, submissions: list[Submission], server: ChaosServer) -> None:
    assert len(submissions) == TIMES
    for submission in submissions:
        error = submission.outcome
        assert type(error) is row.verdict, error
        if isinstance(error, SubmissionUnknown):
            assert error.request is submission.request
            # A lost id has the damaged answer for its cause.
            assert isinstance(error.cause, row.cause or AnnoLabError), error.cause
        if isinstance(error, InvalidResponse):
            assert error.inference_job_id == row.job_id
        assert server.posts[submission.request.to_wire()] == (row.times if server.heads else 0)


def check_unsent(submissions: list[Submission], server: ChaosServer | None = None) -> None:
    assert len(submissions) == TIMES
    assert {type(submission.outcome) for submission in submissions} == {RequestNotSent}
    assert server is None or not server.heads


@pytest.mark.parametrize("way", OF_SUBMISSIONS)
@pytest.mark.parametrize("name", ROWS)
async def test_what_an_answer_or_its_loss_proves(name: str, way: Way) -> None:
    row = ROWS[name]
    with chaos(row.script) as server:
        # Few at once: the pools of httpx are quickest so.
        async with client_of(way, server.base_url, connections=8, retry=TWICE) as client:
            submissions = await submit_all(client)
    check(row, submissions, server)


@pytest.mark.parametrize("way", OF_SUBMISSIONS)
@pytest.mark.parametrize("name", NOT_TAKEN)
async def test_what_the_server_has_not_taken_is_sent_again(
    name: str, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = NOT_TAKEN[name]
    # It is what takes longest to make, and not used here.
    monkeypatch.setattr(httpx, "create_ssl_context", functools.cache(httpx.create_ssl_context))
    with chaos(row.script) as server:
        async with AsyncExitStack() as stack:
            # One for each, since the first refusal slows down all of a client.
            clients = [
                await stack.enter_async_context(client_of(way, server.base_url, retry=TWICE))
                for _ in range(TIMES)
            ]
            submissions = await submit_all(*clients)
    check(row, submissions, server)


async def submit_to_silence(
    way: Way,
    base_url: str,
    *,
    size: int = 2,
    timeout: float = TIMEOUT,
    retry: RetryPolicy = ONCE,
) -> list[Submission]:
    """Submit to a server that lets everything time out, all at once: on four pools, since large ones are slow."""
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(client_of(way, base_url, timeout=timeout, retry=retry))
            for _ in range(4)
        ]
        async with loop_time() as taken:
            submissions = await submit_all(*clients, size=size)
        assert taken.seconds < retry.attempts * timeout + 4
    return submissions


@pytest.mark.parametrize("way", OF_SUBMISSIONS)
@pytest.mark.parametrize("name", SILENCES)
async def test_what_silence_proves(name: str, way: Way) -> None:
    row = SILENCES[name]
    with chaos(row.script) as server:
        # What a busy machine does not connect in time was not sent, and is sent again.
        submissions = await submit_to_silence(way, server.base_url, retry=TWICE)
    check(row, submissions, server)


@pytest.mark.parametrize("way", OF_SUBMISSIONS)
async def test_a_server_that_stops_reading_leaves_a_batch_unknown(way: Way) -> None:
    with chaos(stall(read=100), receive_buffer=4096) as server:
        submissions = await submit_to_silence(
            way, server.base_url, size=10_000, timeout=2 * TIMEOUT, retry=TWICE
        )
    check(lost(stall()), submissions, server)


@pytest.mark.parametrize("way", OF_SUBMISSIONS)
async def test_a_kept_connection_that_ends_when_it_is_used_again_proves_nothing(way: Way) -> None:
    async def once_for_each_connection(peer: Peer) -> None:
        await (answer(WHOLE) if not peer.heads else cut(by="rst"))(peer)

    with chaos(once_for_each_connection) as server:
        async with client_of(way, server.base_url, connections=8, retry=TWICE) as client:
            submissions = await submit_all(client)
    for submission in submissions:
        assert server.posts[submission.request.to_wire()] == 1
    unknown = [it for it in submissions if not isinstance(it.outcome, InferenceJob)]
    assert {type(it.outcome) for it in unknown} <= {SubmissionUnknown}
    # Each connection answered its first request, and reset at the second.
    assert len(unknown) == sum(peer.heads - 1 for peer in server.peers)
    assert (way == "own httpx") == (not unknown), "the own way is a fresh connection for each batch"


@pytest.mark.parametrize("way", OF_SUBMISSIONS)
async def test_a_refused_connection_proves_that_nothing_was_sent(way: Way) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    async with client_of(way, f"http://127.0.0.1:{port}", retry=TWICE) as client:
        check_unsent(await submit_all(client))


@pytest.mark.parametrize("way", OF_SUBMISSIONS)
async def test_a_name_without_address_proves_that_nothing_was_sent(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "nonexistent.invalid"

    def look_up(host: str | bytes | None, *_: object, **__: object) -> None:
        assert host in {name, name.encode()}
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    async with client_of(way, f"http://{name}", plain_http_hosts=[name], retry=TWICE) as client:
        check_unsent(await submit_all(client))


@pytest.mark.parametrize("way", OF_SUBMISSIONS)
async def test_tls_to_a_plain_port_proves_that_nothing_was_sent(way: Way) -> None:
    async def answer_in_the_clear(peer: Peer) -> None:
        await peer.read()
        await peer.send(reply("", "400 Bad Request"))
        await peer.end()

    with chaos(answer_in_the_clear) as server:
        base_url = f"https://127.0.0.1:{server.port}"
        async with client_of(way, base_url, connections=8, retry=ONCE) as client:
            check_unsent(await submit_all(client), server)
    assert server.accepted == TIMES


@pytest.mark.parametrize("way", OF_SUBMISSIONS)
async def test_a_stalled_handshake_proves_that_nothing_was_sent(way: Way) -> None:
    with chaos(stall(read=100)) as server:
        submissions = await submit_to_silence(way, f"https://127.0.0.1:{server.port}")
    check_unsent(submissions, server)
    assert server.accepted == TIMES


@pytest.mark.parametrize("way", OF_SUBMISSIONS)
async def test_a_stall_while_connecting_proves_that_nothing_was_sent(way: Way) -> None:
    with a_full_backlog() as port:
        check_unsent(await submit_to_silence(way, f"http://127.0.0.1:{port}"))


def a_certificate_of_nobody(path: Path) -> ssl.SSLContext:
    if not (openssl := shutil.which("openssl")):
        pytest.skip("openssl makes the certificate")
    options = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    )
    files = ["-keyout", str(path / "key.pem"), "-out", str(path / "cert.pem")]
    subprocess.run([openssl, *options.split(), *files], check=True, capture_output=True)  # noqa: S603
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path / "cert.pem", path / "key.pem")
    return context


@pytest.mark.parametrize("way", OF_SUBMISSIONS)
async def test_a_certificate_that_nobody_signed_proves_that_nothing_was_sent_and_is_final(
    way: Way, tmp_path: Path
) -> None:
    context = a_certificate_of_nobody(tmp_path)

    async def shake_hands(peer: Peer) -> None:
        received, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(received, to_send, server_side=True)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                await peer.send(to_send.read())
                received.write(await peer.read())

    with chaos(shake_hands) as server:
        base_url = f"https://localhost:{server.port}"
        async with client_of(way, base_url, connections=8, retry=TWICE) as client:
            submissions = await submit_all(client)
    check_unsent(submissions, server)
    assert all(getattr(it.outcome, "is_final", False) for it in submissions)
    assert server.accepted == TIMES, "what is final is not tried again"


@pytest.mark.parametrize("way", OF_SUBMISSIONS)
async def test_a_proxy_that_refuses_the_tunnel_proves_that_nothing_was_sent(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    with chaos(answer(reply("", "403 Forbidden"))) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.base_url)
        base_url = "https://annolab.example"
        async with client_of(way, base_url, connections=8, retry=ONCE) as client:
            check_unsent(await submit_all(client))
    assert {request.line for request in proxy.requests} == {"CONNECT annolab.example:443 HTTP/1.1"}
    assert len(proxy.requests) == TIMES
    assert not any(KEY.encode() in request.head for request in proxy.requests)


async def test_a_pool_that_others_have_emptied_proves_that_nothing_was_sent() -> None:
    size = 50
    limits = httpx.Limits(max_connections=size)
    submissions: list[Submission] = []
    with chaos(held(answer(WHOLE))) as server:
        async with (
            httpx.AsyncClient(limits=limits, timeout=60) as http_client,
            AsyncInferenceClient(
                KEY, base_url=server.base_url, http_client=http_client, timeout=0.3, retry=ONCE
            ) as client,
            anyio.create_task_group() as others,
        ):
            for _ in range(size):
                others.start_soon(http_client.get, server.base_url)
            await server.until(lambda: server.heads == size)
            submissions += await submit_all(client)
            assert server.heads == size
            server.gate.set()
    check_unsent(submissions)
    assert not server.posts
