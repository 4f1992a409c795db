"""An emulator for a test, and clients of it in the same process."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

import anyio
import httpx

from annolab_async._client import AsyncInferenceClient
from annolab_async.emulator import Emulator

__all__ = ["client_of", "new_emulator"]

# The latest of a test that polls a lot; enough for every test that asserts on them.
_REQUESTS_KEPT: Final = 10_000
_BASE_URL: Final = "http://annolab.emulator"


class _LoopClock:
    """The clock of the running event loop. Outside of it time stands still, so that a test can look at what was."""

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        with suppress(RuntimeError):  # no loop is running
            self._now = anyio.current_time()
        return self._now


def new_emulator(**settings: Any) -> Emulator:
    """Return an emulator on the clock of the event loop that asks it, virtual or not, which remembers its requests.

    Args:
        settings: Those of :class:`annolab_async.emulator.Emulator`.

    Raises:
        ValueError: A setting is invalid.
    """
    defaults: dict[str, Any] = {"clock": _LoopClock(), "keep_requests": _REQUESTS_KEPT}
    return Emulator(**(defaults | settings))


def client_of(emulator: Emulator, **options: Any) -> AsyncInferenceClient:
    """Return a client of an emulator in the same process: no socket, no thread; to be used in an ``async with`` block.

    Args:
        emulator: The emulator.
        options: Those of :class:`annolab_async.AsyncInferenceClient`, to have some otherwise.

    Raises:
        ConfigurationError: An option makes no sense.
    """
    # Neither holds anything that would have to be closed.
    given: Any = {
        "http_client": httpx.AsyncClient(transport=httpx.ASGITransport(app=emulator.app)),
        "download_client": lambda: httpx.AsyncClient(
            transport=httpx.ASGITransport(app=emulator.downloads)
        ),
        "api_key": emulator.api_key,
        "base_url": _BASE_URL,
        "plain_http_hosts": [httpx.URL(emulator.downloads_url).host],
    }
    return AsyncInferenceClient(**(given | options))
