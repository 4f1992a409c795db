"""A test that hangs where everything is swallowed that can be. ``test_hang`` runs it; pytest does not find it."""

from __future__ import annotations

import contextlib
import time

import pytest

from tests.service import a_request, an_emulator, in_process

SECONDS = 10


class Spinning:
    """A hook that holds up the loop. What hooks raise is logged and passed over."""

    def on_submission(self, _: object) -> None:
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            with contextlib.suppress(Exception):
                sum(range(1000))


@pytest.mark.anyio
@pytest.mark.timeout(0.5)
async def test_a_hook_never_returns() -> None:
    async with in_process(an_emulator(), hooks=[Spinning()]) as client:
        await client.submit(a_request())
