from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from annolab_async.ledger import MemoryLedger
from annolab_async.ledger._sql import SqlLedger
from tests.ledger.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from annolab_async.ledger import Ledger
    from tests.ledger.postgres import PostgresServer


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    return postgres_server.new_schema()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.db"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "postgres"])
def make_sql(request: pytest.FixtureRequest, path: Path, clock: Clock) -> Callable[[], SqlLedger]:
    """Makes ledgers in one database."""
    if request.param == "sqlite":
        return lambda: SqlLedger(f"sqlite:///{path}", clock=clock)
    url: str = request.getfixturevalue("postgres_url")
    return lambda: SqlLedger(url, clock=clock)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def ledger(request: pytest.FixtureRequest, path: Path, clock: Clock) -> Ledger:
    if request.param == "memory":
        return MemoryLedger(clock=clock)
    if request.param == "sqlite":
        return SqlLedger(f"sqlite:///{path}", clock=clock)
    url: str = request.getfixturevalue("postgres_url")
    return SqlLedger(url, clock=clock)
