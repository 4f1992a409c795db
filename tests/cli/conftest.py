from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from anyio.from_thread import start_blocking_portal
from attrs import define

from annolab_async.emulator import Emulator, EmulatorServer
from tests.cli import terminal
from tests.service import KEY

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Generator, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

PLAN = [
    "--group",
    "Company Name",
    "--project",
    "My Project",
    "--model",
    "Staple + Classify Documents",
    "--output-layer",
    "Gold Set",
]


@define
class Place:
    """A folder, and a local AnnoLab that the processes started in it talk to."""

    emulator: Emulator
    base_url: str
    folder: Path

    @property
    def env(self) -> dict[str, str]:
        return {"ANNOLAB_API_KEY": KEY, "ANNOLAB_BASE_URL": self.base_url}

    def call(
        self, *arguments: str, env: Mapping[str, str] | None = None, given: str | bytes = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end in this process, which is quicker."""
        return terminal.call(
            *arguments, env=self.env | dict(env or {}), cwd=self.folder, given=given
        )

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command to its end as a process."""
        env = self.env | options.pop("env", {})
        return terminal.run(*arguments, env=env, cwd=self.folder, **options)

    def on_terminal(self, *arguments: str, **options: Any) -> terminal.OnTerminal:
        return terminal.OnTerminal(arguments, env=self.env, cwd=self.folder, **options)


class MakePlace(Protocol):
    """Makes a place of the emulator's settings."""

    def __call__(self, **settings: Any) -> AbstractContextManager[Place]: ...


@contextmanager
def serving(folder: Path, **settings: Any) -> Generator[Place]:
    quick: dict[str, Any] = {"base_seconds": 0.05, "seconds_per_source": 0.001}
    emulator = Emulator(api_key=KEY, **quick | settings)
    server = EmulatorServer(emulator)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(server):
        yield Place(emulator, server.base_url, folder)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Return a place where all goes well and fast."""
    with serving(tmp_path) as served:
        yield served


@pytest.fixture
def make_place(tmp_path: Path) -> MakePlace:
    """Return a function that makes a context manager of a place, of the emulator's settings."""

    def make(**settings: Any) -> AbstractContextManager[Place]:
        return serving(tmp_path, **settings)

    return make
