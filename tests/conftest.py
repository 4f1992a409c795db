from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
from blockbuster import blockbuster_ctx

from annolab_async.testing import virtual_backend

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    if request.node.get_closest_marker("sockets"):
        return request.param
    return virtual_backend(request.param)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "ANNOLAB_API_KEY",
        "ANNOLAB_BASE_URL",
        "ANNOLAB_LEDGER",
        "NO_COLOR",
        "FORCE_COLOR",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture(autouse=True)
def _every_log_line_is_formatted(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    # A log call with wrong arguments shows only when its level is on.
    with caplog.at_level(logging.DEBUG, logger="annolab_async"):
        yield


@pytest.fixture(autouse=True)
def _nothing_blocks_the_loop() -> Iterator[None]:
    with blockbuster_ctx("annolab_async") as blockbuster:
        # Coverage takes a lock of its own now and then, wherever the code happens to be.
        blockbuster.functions["threading.Lock.acquire"].can_block_in(
            "coverage/collector.py", {"lock_data"}
        )
        # What it reads under /proc is no disk.
        for name in ("os.stat", "io.BufferedReader.read", "io.TextIOWrapper.read"):
            if name in blockbuster.functions:
                blockbuster.functions[name].can_block_in(
                    "annolab_async/_owners.py", {"_began", "_processes"}
                )
        yield
