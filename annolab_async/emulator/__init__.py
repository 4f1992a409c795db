"""A local AnnoLab for tests, demos and benchmarks: ``pip install 'annolab-async[emulator]'``."""

from __future__ import annotations

try:
    from annolab_async.emulator._emulator import Emulator
    from annolab_async.emulator._server import EmulatorServer
except ModuleNotFoundError as exc:
    if (exc.name or "").partition(".")[0] not in {"starlette", "uvicorn"}:
        raise
    raise ImportError(
        "the emulator needs starlette and uvicorn: pip install 'annolab-async[emulator]'"
    ) from exc

from annolab_async.emulator._faults import Fault, Faults, Mishap
from annolab_async.emulator._jobs import EmulatedJob, EmulatorStats, FinalStatus, Status

__all__ = [
    "EmulatedJob",
    "Emulator",
    "EmulatorServer",
    "EmulatorStats",
    "Fault",
    "Faults",
    "FinalStatus",
    "Mishap",
    "Status",
]
