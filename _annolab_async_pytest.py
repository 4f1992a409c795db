"""The pytest plugin of annolab_async. Loading it imports nothing: every suite on this machine pays for that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from annolab_async import AsyncInferenceClient
    from annolab_async.testing import Emulator, EmulatorServer

_MARKER = "annolab_emulator"


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        f"{_MARKER}(**settings): settings of the emulator that the fixture {_MARKER} makes.",
    )


@pytest.fixture
def annolab_emulator(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    """A local AnnoLab for this test: script its jobs, plan its faults, look at the requests that came."""
    from annolab_async.testing import new_emulator  # noqa: PLC0415  # only who uses it pays for it

    settings: dict[str, Any] = {}
    # From the farthest to the closest, which has the last word.
    for marker in reversed([*request.node.iter_markers(_MARKER)]):
        settings |= marker.kwargs
    emulator = new_emulator(**settings)
    yield emulator
    if emulator.planned:
        pytest.fail(
            f"{emulator.planned} of the bad replies that this test planned never happened: plan less, or"
            " call annolab_emulator.forget_plans() in the end.",
            pytrace=False,
        )


@pytest.fixture
def annolab_client(annolab_emulator: Emulator) -> AsyncInferenceClient:
    """A client of ``annolab_emulator`` in the same process, to be used in an ``async with`` block."""
    from annolab_async.testing import client_of  # noqa: PLC0415  # likewise

    return client_of(annolab_emulator)


@pytest.fixture
def annolab_server(
    annolab_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> Iterator[EmulatorServer]:
    """``annolab_emulator`` on a real socket, in a thread of its own, for services that make their client themselves.

    ``ANNOLAB_API_KEY`` and ``ANNOLAB_BASE_URL`` lead there, also in processes that the test starts.
    """
    from annolab_async.testing import EmulatorServer  # noqa: PLC0415  # likewise

    with EmulatorServer(annolab_emulator) as server:
        monkeypatch.setenv("ANNOLAB_API_KEY", annolab_emulator.api_key)
        monkeypatch.setenv("ANNOLAB_BASE_URL", server.base_url)
        yield server
