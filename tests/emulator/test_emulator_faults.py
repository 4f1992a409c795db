from __future__ import annotations

import socket
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
from attrs import evolve

from annolab_async import SubmissionUnknown
from annolab_async.emulator import Emulator, EmulatorServer, Fault, Faults
from annolab_async.emulator._settings import Settings
from annolab_async.emulator._state import ServiceState
from tests.service import KEY, a_request, an_emulator, in_process

ALWAYS = {
    Fault.UNAVAILABLE: Faults(unavailable=1),
    Fault.RESET: Faults(reset=1),
    Fault.CLOSED_AFTER_PROCESSING: Faults(closed_after_processing=1),
    Fault.TRUNCATED: Faults(truncated=1),
}
HEAD = {"Authorization": f"Api-Key {KEY}", "Content-Length": str(len(a_request().to_wire()))}


def submitted(server: EmulatorServer) -> tuple[bytes, bool]:
    """Submit a batch by hand; return the bytes of the answer, and whether a reset ended it."""
    where = urlsplit(server.base_url)
    head = "".join(f"{name}: {value}\r\n" for name, value in HEAD.items())
    with socket.create_connection((where.hostname, where.port), timeout=10) as connection:
        request = f"POST /v1/infer/batch HTTP/1.1\r\nHost: localhost\r\n{head}\r\n".encode()
        connection.sendall(request + a_request().to_wire())
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
                if b"\r\n\r\n" in answer and answer.endswith(b"}"):
                    break
        except ConnectionResetError:
            return answer, True
        return answer, False


async def answers(faults: Faults, count: int) -> tuple[Emulator, list[tuple[bytes, bool]]]:
    emulator = Emulator(api_key=KEY, faults=faults)
    async with EmulatorServer(emulator) as server:
        got = [await anyio.to_thread.run_sync(submitted, server) for _ in range(count)]
    return emulator, got


def test_faults_come_as_often_as_was_asked_for_and_the_same_from_the_same_seed() -> None:
    faults = Faults(unavailable=0.05, reset=0.03, closed_after_processing=0.04, truncated=0.02)
    draws = [faults.draw(number) for number in range(1, 20_001)]
    shares = Counter(draw.fault if draw else None for draw in draws)
    assert {fault: round(count / 20_000, 2) for fault, count in shares.items()} == {
        Fault.UNAVAILABLE: 0.05,
        Fault.RESET: 0.03,
        Fault.CLOSED_AFTER_PROCESSING: 0.04,
        Fault.TRUNCATED: 0.02,
        None: 0.86,
    }
    assert draws == [faults.draw(number) for number in range(1, 20_001)]
    assert draws != [evolve(faults, seed=1).draw(number) for number in range(1, 20_001)]


def test_half_of_the_503_answers_name_a_time() -> None:
    faults = Faults(unavailable=1, retry_after=7)
    times = Counter(draw.retry_after for n in range(1000) if (draw := faults.draw(n)))
    assert times.keys() == {None, 7}
    assert 450 < times[7] < 550


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("unavailable", -0.1),
        ("reset", 1.1),
        ("closed_after_processing", "1"),
        ("truncated", float("nan")),
        ("retry_after_share", True),
        ("retry_after", 0.5),
        ("retry_after", -1),
        ("seed", None),
    ],
)
def test_an_invalid_fault_is_named(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{option} must be"):
        Faults(**{option: value})


def test_all_invalid_faults_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"reset .*; truncated .*; seed"):
        Faults(reset=2, truncated=-1, seed=0.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_the_shares_of_faults_are_no_more_than_all() -> None:
    Faults(unavailable=0.5, reset=0.5)
    with pytest.raises(ValueError, match=r"not be more than 1 together, not 1\.1"):
        Faults(unavailable=0.5, reset=0.6)


def test_a_job_ends_badly_if_and_only_if_one_of_its_sources_is_bad() -> None:
    state = ServiceState(Settings(api_key=KEY, bad_source_ids=frozenset({4}), clock=lambda: 0.0))
    for first in (1, 3, 5):
        answer = state.submit(f"Api-Key {KEY}", a_request(first).to_wire(), now=0.0)
        assert answer.status_code == 200
    ends = {job.source_ids: job.final_status for job in state.jobs.values()}
    assert ends == {(1, 2): "Finished", (3, 4): "Errored", (5, 6): "Finished"}


def test_bad_sources_leave_the_fate_of_other_jobs_as_it_was() -> None:
    def jobs(bad: frozenset[int]) -> list[tuple[float, str]]:
        settings = Settings(
            api_key=KEY, bad_source_ids=bad, error_share=0.3, workers=50, clock=lambda: 0.0
        )
        state = ServiceState(settings)
        for first in range(1, 101, 2):
            state.submit(f"Api-Key {KEY}", a_request(first).to_wire(), now=0.0)
        return [(job.ended_at, job.final_status) for job in state.jobs.values()]

    good, bad = jobs(frozenset()), jobs(frozenset({1}))
    assert good[1:] == bad[1:]
    assert bad[0] == (good[0][0], "Errored")


@pytest.mark.anyio
@pytest.mark.sockets
async def test_an_unavailable_service_has_not_processed_the_batch() -> None:
    emulator, got = await answers(Faults(unavailable=1), 8)
    assert {answer[:12] for answer, _ in got} == {b"HTTP/1.1 503"}
    with_time = [b"retry-after: 1\r\n" in answer for answer, _ in got]
    assert not emulator.jobs
    assert [mishap.retry_after == 1 for mishap in emulator.mishaps] == with_time
    assert [mishap.is_reply_lost for mishap in emulator.mishaps] == [not told for told in with_time]
    assert {*with_time} == {True, False}


@pytest.mark.anyio
@pytest.mark.sockets
async def test_a_reset_comes_before_the_batch_is_processed() -> None:
    emulator, got = await answers(Faults(reset=1), 5)
    assert got == [(b"", True)] * 5
    assert not emulator.jobs
    assert all(mishap.is_reply_lost for mishap in emulator.mishaps)


@pytest.mark.anyio
@pytest.mark.sockets
async def test_a_connection_closed_without_an_answer_has_made_a_job() -> None:
    emulator, got = await answers(Faults(closed_after_processing=1), 5)
    assert got == [(b"", False)] * 5
    assert [mishap.inference_job_id for mishap in emulator.mishaps] == [*emulator.jobs]
    assert len(emulator.jobs) == 5


@pytest.mark.anyio
@pytest.mark.sockets
async def test_a_truncated_answer_breaks_off_anywhere_and_has_made_a_job() -> None:
    emulator, got = await answers(Faults(truncated=1), 30)
    _, ((whole, _),) = await answers(Faults(), 1)
    lengths = {len(answer) for answer, _ in got}
    assert max(lengths) < len(whole)
    assert 1 <= min(lengths) < whole.index(b"\r\n\r\n") < max(lengths)
    assert all(answer[:15] == b"HTTP/1.1 200 OK"[: len(answer)] for answer, _ in got)
    assert len(emulator.jobs) == 30


@pytest.mark.anyio
@pytest.mark.sockets
async def test_polls_are_answered_whatever_befalls_submissions() -> None:
    emulator = Emulator(api_key=KEY, faults=Faults(closed_after_processing=1))
    async with EmulatorServer(emulator) as server, httpx.AsyncClient() as client:
        await anyio.to_thread.run_sync(submitted, server)
        headers = {"Authorization": HEAD["Authorization"]}
        answer = await client.get(f"{server.base_url}/v1/infer/batch/1", headers=headers)
        assert answer.json()["inferenceJobId"] == 1


@pytest.mark.anyio
@pytest.mark.parametrize("fault", [*Fault][1:])
async def test_in_the_same_process_a_broken_answer_is_an_unknown_submission(fault: Fault) -> None:
    emulator = an_emulator(faults=ALWAYS[fault])
    async with in_process(emulator) as client:
        with pytest.raises(SubmissionUnknown):
            await client.submit(a_request())
    assert len(emulator.jobs) == (fault is not Fault.RESET)
    assert [mishap.fault for mishap in emulator.mishaps] == [fault]
