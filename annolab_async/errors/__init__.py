"""Everything that this library raises of its own accord.

```
AnnoLabError
├── ConfigurationError          no key, a bad base URL or option: raised at construction
├── NotOpen                     a client or watcher used outside its ``async with`` (also a RuntimeError)
├── RequestNotSent              provably never reached the server: safe to send again
├── NoResponse                  a read that was sent, and whose answer never came whole
├── SubmissionUnknown           a submission whose answer is lost: the batch may or may not exist
│   └── JobIdLost               because it is damaged, and the job's id with it (also an InvalidResponse)
├── StatusError                 the server answered with a status that is not a success
│   ├── AuthenticationError     401
│   ├── PermissionDenied        403
│   ├── NotFound                404
│   ├── InvalidRequest          400, 422
│   ├── RateLimited             429
│   └── ServerError             5xx
├── InvalidResponse             a success whose body is not what was asked for
├── WaitTimeout                 the job did not end in the time given
├── JobLost                     the job can no longer be watched
│   └── JobNotFound             because the server does not know it (also a NotFound)
├── LedgerError                 the ledger cannot be read, written or trusted
└── ExportError                 an export failed, or its file cannot be had whole or read
    └── ExportTimeout           it did not end in the time given (also a WaitTimeout)
```

Every error can be pickled, so that it crosses process boundaries; none holds an API key.
"""

from __future__ import annotations

from annolab_async.errors._answers import (
    AuthenticationError,
    InvalidRequest,
    InvalidResponse,
    NotFound,
    PermissionDenied,
    RateLimited,
    ServerError,
    StatusError,
)
from annolab_async.errors._base import AnnoLabError, ConfigurationError, NotOpen
from annolab_async.errors._exports import ExportError, ExportTimeout
from annolab_async.errors._jobs import JobLost, JobNotFound, WaitTimeout
from annolab_async.errors._ledgers import LedgerError
from annolab_async.errors._losses import JobIdLost, NoResponse, RequestNotSent, SubmissionUnknown

__all__ = [
    "AnnoLabError",
    "AuthenticationError",
    "ConfigurationError",
    "ExportError",
    "ExportTimeout",
    "InvalidRequest",
    "InvalidResponse",
    "JobIdLost",
    "JobLost",
    "JobNotFound",
    "LedgerError",
    "NoResponse",
    "NotFound",
    "NotOpen",
    "PermissionDenied",
    "RateLimited",
    "RequestNotSent",
    "ServerError",
    "StatusError",
    "SubmissionUnknown",
    "WaitTimeout",
]

# So that tracebacks and pickles name them as users import them, wherever they are defined.
for _name in __all__:
    globals()[_name].__module__ = __name__
