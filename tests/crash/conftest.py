from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import pytest

from annolab_async import _fan_out, _fan_out_work

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from tests.ledger.postgres import PostgresServer

T = TypeVar("T")


class NoThread:
    """In the place of anyio's module of that kind."""

    @staticmethod
    async def run_sync(function: Callable[..., T], *args: object) -> T:
        return function(*args)


@pytest.fixture(autouse=True)
def _no_thread_where_time_is_virtual(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not request.node.get_closest_marker("sockets"):
        # Who owns what is read in a thread, for which virtual time does not wait.
        for module in (_fan_out, _fan_out_work):
            monkeypatch.setattr(module, "to_thread", NoThread)


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
