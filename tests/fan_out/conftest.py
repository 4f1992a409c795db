from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from annolab_async.ledger import MemoryLedger
from annolab_async.ledger._sql import SqlLedger
from tests.fan_out.patience import patient_backend, watch_threads

if TYPE_CHECKING:
    from pathlib import Path

    from annolab_async.ledger import Ledger


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    watch_threads(monkeypatch)
    return patient_backend(request.param)


@pytest.fixture(params=["memory", "sqlite"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    """A ledger that can be closed and opened again."""
    return MemoryLedger() if request.param == "memory" else SqlLedger.at(str(tmp_path / "run.db"))
