"""A client that talks to an emulator in the same process: no socket, and in virtual time."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import httpx

from annolab_async import AsyncInferenceClient, InferenceJob, InferenceRequest
from annolab_async.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

KEY = "XXXXXXX-XXXXXXX-XXXXXXX-XXXXXXX"
BASE_URL = "http://localhost"


def a_request(first: int = 1, size: int = 2) -> InferenceRequest:
    return InferenceRequest(
        group_name="Company Name",
        project_identifier="My Project",
        model_identifier="Staple + Classify Documents",
        source_ids=range(first, first + size),
        output_layer_identifier="Gold Set",
    )


def an_emulator(**settings: Any) -> Emulator:
    """Return an emulator on the clock of the running loop, on which every job takes 10 s to 11 s."""
    settings = {"base_seconds": 10.0, "seconds_per_source": 0.1} | settings
    return Emulator(api_key=KEY, clock=anyio.current_time, **settings)


class Service(Protocol):
    """What answers requests."""

    @property
    def app(self) -> Any:
        """An ASGI app."""


@asynccontextmanager
async def in_process(
    emulator: Service, *, api_key: str = KEY, **settings: Any
) -> AsyncGenerator[AsyncInferenceClient]:
    transport = httpx.ASGITransport(app=emulator.app)
    async with (
        httpx.AsyncClient(transport=transport) as http_client,
        AsyncInferenceClient(
            api_key, base_url=BASE_URL, http_client=http_client, **settings
        ) as client,
    ):
        yield client


async def submit_many(client: AsyncInferenceClient, count: int) -> list[InferenceJob]:
    return [await client.submit(a_request(1 + 2 * number)) for number in range(count)]


def task_count() -> int:
    return len(anyio.get_running_tasks())
