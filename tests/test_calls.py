"""Requests as callers make them: in their turn, and again where that is worth it and allowed."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest

from annolab_async import (
    AsyncInferenceClient,
    NotFound,
    RateLimit,
    RateLimited,
    RequestBegan,
    RetryPolicy,
    ServerError,
)
from tests.builders import make_job
from tests.observing import Recorder
from tests.service import BASE_URL, KEY, a_request

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = pytest.mark.anyio

AT_ONCE = RetryPolicy(attempts=2, first=0.001, cap=0.001)


class Server:
    """Answers as it is told to next, and else with the job.

    Attributes:
        next: the answers to come.
        asked_at: when it was asked.
    """

    def __init__(self) -> None:
        self.next: list[httpx.Response] = []
        self.asked_at: list[float] = []

    def answer(self, _: httpx.Request) -> httpx.Response:
        self.asked_at.append(anyio.current_time())
        return self.next.pop(0) if self.next else httpx.Response(200, text=make_job(7).to_json())


@asynccontextmanager
async def asking(**settings: Any) -> AsyncGenerator[tuple[Server, AsyncInferenceClient]]:
    """Open a client of a server."""
    server = Server()
    transport = httpx.MockTransport(server.answer)
    async with (
        httpx.AsyncClient(transport=transport) as http_client,
        AsyncInferenceClient(KEY, base_url=BASE_URL, http_client=http_client, **settings) as client,
    ):
        yield server, client


def a_wish(seconds: float, status_code: int = 429) -> httpx.Response:
    return httpx.Response(status_code, headers={"Retry-After": f"{seconds}"})


async def use_up_the_repeats(server: Server, client: AsyncInferenceClient) -> None:
    for _ in range(100):
        server.next = [httpx.Response(500)]
        try:
            await client.get_job(7)
        except ServerError:
            return
    pytest.fail("all of them were repeated")


async def test_requests_that_repeat_none_earn_what_may_be_repeated() -> None:
    async with asking(retry=AT_ONCE) as (server, client):
        await use_up_the_repeats(server, client)
        for _ in range(20):
            await client.get_job(7)
        server.next = [httpx.Response(500)]
        await client.get_job(7)


async def test_a_failure_that_is_final_uses_up_no_repeat() -> None:
    async with asking(retry=AT_ONCE) as (server, client):
        for _ in range(50):
            server.next = [httpx.Response(404)]
            with pytest.raises(NotFound):
                await client.get_job(7)
        server.next = [httpx.Response(500)]
        await client.get_job(7)


async def test_a_failure_after_the_last_attempt_uses_up_no_repeat() -> None:
    async with asking(retry=RetryPolicy(attempts=1)) as (server, client):
        for _ in range(50):
            server.next = [httpx.Response(500)]
            with pytest.raises(ServerError):
                await client.get_job(7)
        assert client.budget.spend()


async def test_a_call_that_waits_to_be_repeated_holds_nobody_up() -> None:
    async with asking(max_connections=1) as (server, client):
        server.next = [a_wish(10, 500)]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.get_job, 7)
            await anyio.wait_all_tasks_blocked()
            with anyio.fail_after(1):
                await client.get_job(7)
    assert server.asked_at[-1] - server.asked_at[0] == pytest.approx(10)


async def test_no_attempt_of_a_call_begins_after_its_total_time() -> None:
    retry = RetryPolicy(attempts=100, first=0.001, cap=0.001, total_time=35)
    async with asking(retry=retry) as (server, client):
        server.next = [a_wish(10, 500)] * 100
        with pytest.raises(ServerError):
            await client.get_job(7)
    assert [at - server.asked_at[0] for at in server.asked_at] == pytest.approx([0, 10, 20, 30])


@pytest.mark.parametrize("level", [logging.DEBUG, logging.WARNING], ids=["logged", "unlogged"])
async def test_while_the_server_asks_for_too_long_a_pause_nothing_is_sent(
    caplog: pytest.LogCaptureFixture, level: int
) -> None:
    # A request that nobody looks at takes a shorter way.
    caplog.set_level(level, logger="annolab_async")
    async with asking() as (server, client):
        server.next = [a_wish(3600)]
        with pytest.raises(RateLimited) as refused:
            await client.get_job(7)
        assert refused.value.retry_after == 3600
        began = anyio.current_time()
        with pytest.raises(RateLimited) as read:
            await client.get_job(8)
        with pytest.raises(RateLimited) as submitted:
            await client.submit(a_request())
        assert anyio.current_time() == began
    assert len(server.asked_at) == 1
    assert (read.value.method, read.value.path) == ("GET", "/v1/infer/batch/8")
    assert (submitted.value.method, submitted.value.path) == ("POST", "/v1/infer/batch")


@pytest.mark.parametrize("level", [logging.DEBUG, logging.WARNING], ids=["logged", "unlogged"])
async def test_a_pause_that_one_call_is_asked_for_is_kept_to_by_all(
    caplog: pytest.LogCaptureFixture, level: int
) -> None:
    caplog.set_level(level, logger="annolab_async")
    async with asking(rate_limit=RateLimit(1000)) as (server, client):
        server.next = [a_wish(20)]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.get_job, 7)
            await anyio.wait_all_tasks_blocked()
            await client.submit(a_request())
    first, *others = server.asked_at
    assert len(others) == 2
    assert min(others) >= first + 20


async def test_a_batch_of_a_run_is_told_as_sent_for_the_first_time() -> None:
    hook = Recorder()
    async with asking(hooks=[hook]) as (_, client):
        await client.submit_once(a_request(), client.progress())
    (request,) = hook.of(RequestBegan)
    assert request.resends == 0
