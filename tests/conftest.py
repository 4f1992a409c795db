from __future__ import annotations

import logging
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import settings

from annolab_async.testing import virtual_backend
from tests.depth import DEPTH, IS_THOROUGH, examples
from tests.reports import Shortening
from tests.surroundings import Combination, thinned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.ledger.postgres import PostgresServer


# What `make thorough` runs: in all surroundings, so that `make check` need not run it in any other.
_THOROUGH = {"chance", "hypothesis", "thorough"}

settings.register_profile("annolab", max_examples=examples(100))
settings.load_profile("annolab")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is for another depth, and combinations of parameters that are too many for every day."""
    combinations = {item: _combination_of(item) for item in items}
    possible = [item for item in items if combinations[item].is_possible]
    if any("::" in argument for argument in config.args):
        chosen = set(possible)  # what is asked for by name
    elif IS_THOROUGH:
        chosen = {item for item in possible if _marks(item) & _THOROUGH}
    else:
        chosen = set(_for_every_day(possible, combinations))
        if DEPTH == "rest":
            left_out = set(possible) - chosen
            chosen = {item for item in left_out if not _marks(item) & _THOROUGH}
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = [item for item in items if item in chosen]


def _for_every_day(
    items: list[pytest.Item], combinations: dict[pytest.Item, Combination]
) -> Iterator[pytest.Item]:
    by_test: defaultdict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if not _marks(item) & {"full", "thorough"}:
            by_test[item.nodeid.partition("[")[0]].append(item)
    for test, found in by_test.items():
        any_backend = "any_backend" in _marks(found[0])
        places = thinned(test, [combinations[item] for item in found], any_backend=any_backend)
        yield from (found[place] for place in places)


def _combination_of(item: pytest.Item) -> Combination:
    callspec = getattr(item, "callspec", None)
    return Combination.of(callspec.params if callspec else {})


def _marks(item: pytest.Item) -> set[str]:
    return {mark.name for mark in item.iter_markers()}


def pytest_configure(config: pytest.Config) -> None:
    """Shorten reports where they are shown: xdist's workers send theirs whole."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Shortening())


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    if request.node.get_closest_marker("sockets"):
        return request.param
    return virtual_backend(request.param)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real PostgreSQL, which tests may restart: no other process has it."""
    from tests.ledger.postgres import running_server  # noqa: PLC0415  # it needs psycopg

    with running_server() as server:
        yield server


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
        # Else the signal that ends a hang raises BlockingError, which `except Exception` takes for one more failure.
        for function in blockbuster.functions.values():
            function.can_block_in("pytest_timeout.py", {"timeout_sigalrm"})
        yield
