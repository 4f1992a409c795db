"""A kit to test what is built on this library: ``pip install 'annolab-async[testing]'``.

With that, pytest has the fixtures ``annolab_emulator``, ``annolab_client`` and ``annolab_server``; here is what they
are made of, and virtual time.
"""

from __future__ import annotations

from annolab_async.emulator import BadReply, EmulatedJob, Emulator, EmulatorServer, RecordedRequest
from annolab_async.testing._kit import client_of, new_emulator
from annolab_async.testing._virtual_time import (
    VirtualTimeLoop,
    run_in_virtual_time,
    virtual_backend,
    virtual_time,
)

__all__ = [
    "BadReply",
    "EmulatedJob",
    "Emulator",
    "EmulatorServer",
    "RecordedRequest",
    "VirtualTimeLoop",
    "client_of",
    "new_emulator",
    "run_in_virtual_time",
    "virtual_backend",
    "virtual_time",
]
