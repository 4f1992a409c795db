"""An asyncio and trio client for AnnoLab's batch inference.

Submit batches with :class:`AsyncInferenceClient`, watch their jobs with :class:`InferenceWatcher`.
"""

from __future__ import annotations

import logging

from annolab_async._annotations import (
    Annotation,
    AnnotationLayer,
    AnnotationRelation,
    AnnotationType,
    ExportedSource,
    TextBounds,
)
from annolab_async._archive import ArchiveLimits
from annolab_async._batch_plan import BatchPlan
from annolab_async._batch_records import BatchRecord, BatchState
from annolab_async._client import AsyncInferenceClient
from annolab_async._download import DownloadProgress
from annolab_async._export_records import ExportJob, ExportState
from annolab_async._exports import Export
from annolab_async._fan_out import FanOut
from annolab_async._fan_out_state import FanOutSummary
from annolab_async._hook_records import (
    BatchChanged,
    DownloadBegan,
    DownloadEnded,
    ExportBegan,
    ExportEnded,
    RequestBegan,
    RequestEnded,
    RetryPlanned,
    SubmissionBegan,
    SubmissionEnded,
    TurnWaited,
    WatchBegan,
    WatchEnded,
)
from annolab_async._hooks import Hook
from annolab_async._limits import RateLimit
from annolab_async._predictive import Predictive
from annolab_async._records import (
    InferenceJob,
    InferenceRequest,
    JobState,
    Outcome,
    Transition,
    WatchStats,
)
from annolab_async._results import Results, RunExport, SourceResult
from annolab_async._retry import RetryPolicy
from annolab_async._schedule import Backoff, FixedInterval, PollPlanner, PollSchedule
from annolab_async._watcher import InferenceWatcher
from annolab_async.errors import (
    AnnoLabError,
    AuthenticationError,
    ConfigurationError,
    ExportError,
    ExportTimeout,
    InvalidRequest,
    InvalidResponse,
    JobIdLost,
    JobLost,
    JobNotFound,
    LedgerError,
    NoResponse,
    NotFound,
    NotOpen,
    PermissionDenied,
    RateLimited,
    RequestNotSent,
    ServerError,
    StatusError,
    SubmissionUnknown,
    WaitTimeout,
)
from annolab_async.ledger import Ledger, MemoryLedger

__version__ = "0.1.0"

__all__ = [
    "AnnoLabError",
    "Annotation",
    "AnnotationLayer",
    "AnnotationRelation",
    "AnnotationType",
    "ArchiveLimits",
    "AsyncInferenceClient",
    "AuthenticationError",
    "Backoff",
    "BatchChanged",
    "BatchPlan",
    "BatchRecord",
    "BatchState",
    "ConfigurationError",
    "DownloadBegan",
    "DownloadEnded",
    "DownloadProgress",
    "Export",
    "ExportBegan",
    "ExportEnded",
    "ExportError",
    "ExportJob",
    "ExportState",
    "ExportTimeout",
    "ExportedSource",
    "FanOut",
    "FanOutSummary",
    "FixedInterval",
    "Hook",
    "InferenceJob",
    "InferenceRequest",
    "InferenceWatcher",
    "InvalidRequest",
    "InvalidResponse",
    "JobIdLost",
    "JobLost",
    "JobNotFound",
    "JobState",
    "Ledger",
    "LedgerError",
    "MemoryLedger",
    "NoResponse",
    "NotFound",
    "NotOpen",
    "Outcome",
    "PermissionDenied",
    "PollPlanner",
    "PollSchedule",
    "Predictive",
    "RateLimit",
    "RateLimited",
    "RequestBegan",
    "RequestEnded",
    "RequestNotSent",
    "Results",
    "RetryPlanned",
    "RetryPolicy",
    "RunExport",
    "ServerError",
    "SourceResult",
    "StatusError",
    "SubmissionBegan",
    "SubmissionEnded",
    "SubmissionUnknown",
    "TextBounds",
    "Transition",
    "TurnWaited",
    "WaitTimeout",
    "WatchBegan",
    "WatchEnded",
    "WatchStats",
    "__version__",
]

# A library stays silent unless its user configures logging.
logging.getLogger(__name__).addHandler(logging.NullHandler())
