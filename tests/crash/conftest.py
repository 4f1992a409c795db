from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.ledger.postgres import PostgresServer


@pytest.fixture(scope="session")
def postgres_server() -> Generator[PostgresServer]:
    """A real server; it is restarted at will, and so it is nobody else's."""
    pytest.importorskip(
        "psycopg", reason="the extra postgres is not installed", exc_type=ImportError
    )
    from tests.ledger.postgres import find_programs, running_server  # noqa: PLC0415  # it needs psycopg

    programs = find_programs()
    if programs is None:
        pytest.skip("no PostgreSQL here: pgserver has no wheel for this Python")
    with running_server(programs) as server:
        yield server
