"""Names for those who work on a run, by which it can be told that one of this machine is gone."""

from __future__ import annotations

import os
import secrets
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["is_gone", "own_name"]

# Those of this process who are still at work.
_at_work: set[str] = set()


@contextmanager
def own_name() -> Generator[str]:
    """Have a name that nobody else has: host, its processes, the one of them, when that began, and chance."""
    process = os.getpid()
    chance = secrets.token_hex(4)
    name = ":".join([
        socket.gethostname(),
        _processes(),
        str(process),
        str(_began(process)),
        chance,
    ])
    _at_work.add(name)
    try:
        yield name
    finally:
        _at_work.discard(name)


def is_gone(owner: str) -> bool:
    """Return whether an owner certainly works no more: it, or its process, one of those seen from here, has ended."""
    parts = owner.split(":")
    if len(parts) != _PARTS:
        return False
    host, processes, process, began, _ = parts
    if (host, processes) != (socket.gethostname(), _processes()) or not process.isdecimal():
        return False
    now = _began(int(process))
    if int(process) == os.getpid() and now == began:
        return owner not in _at_work
    # Where it cannot be told when a process began, another may have got its number.
    return now != began and _UNKNOWN not in {now, began, processes}


_PARTS = 5
_UNKNOWN = "?"


def _processes() -> str:
    """Return what tells the processes that are numbered together from those of other containers and earlier boots."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        return f"{boot[:8]}-{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return _UNKNOWN


def _began(process: int) -> str | None:
    """Return when a process began, as far as that can be told; None if it has ended."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return _UNKNOWN if _exists(process) else None
    # After the name, which may hold anything: state, parent, ... and as the 20th the time since the machine began.
    fields = stat.rpartition(")")[2].split()
    # Killed, but not buried: whoever started it has yet to ask for its exit code.
    return None if fields[0] == "Z" else fields[19]


def _exists(process: int) -> bool:
    """Return whether there is such a process, even one that may not be looked at."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
