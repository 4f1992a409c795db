"""A local AnnoLab for tests, demos and benchmarks: ``pip install 'annolab-async[emulator]'``."""

from __future__ import annotations

try:
    from annolab_async.emulator._emulator import Emulator
    from annolab_async.emulator._server import EmulatorServer
except ModuleNotFoundError as _exc:
    if (_exc.name or "").partition(".")[0] not in {"starlette", "uvicorn"}:
        raise
    raise ImportError(
        "the emulator needs starlette and uvicorn: pip install 'annolab-async[emulator]'"
    ) from _exc

from annolab_async.emulator._annotations import EmulatedAnnotation
from annolab_async.emulator._bad_replies import BadReply
from annolab_async.emulator._download_faults import BadDownload, DownloadFaults
from annolab_async.emulator._downloads import DownloadRequest
from annolab_async.emulator._export_records import (
    EmulatedExport,
    Exports,
    ExportStatus,
    FinalExportStatus,
)
from annolab_async.emulator._faults import Fault, Faults, Mishap
from annolab_async.emulator._jobs import EmulatedJob, EmulatorStats, FinalStatus, Status
from annolab_async.emulator._recording import RecordedRequest

__all__ = [
    "BadDownload",
    "BadReply",
    "DownloadFaults",
    "DownloadRequest",
    "EmulatedAnnotation",
    "EmulatedExport",
    "EmulatedJob",
    "Emulator",
    "EmulatorServer",
    "EmulatorStats",
    "ExportStatus",
    "Exports",
    "Fault",
    "Faults",
    "FinalExportStatus",
    "FinalStatus",
    "Mishap",
    "RecordedRequest",
    "Status",
]
