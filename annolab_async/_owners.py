"""Names for those who work on a run, by which it can be told that one of this machine is gone."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

__all__ = ["is_gone", "owner_name"]


def owner_name() -> str:
    """Return a name that nobody else has: host, process, when that began, and chance."""
    process = os.getpid()
    return f"{socket.gethostname()}:{process}:{_began(process)}:{secrets.token_hex(4)}"


def is_gone(owner: str) -> bool:
    """Return whether an owner certainly works no more: its process, on this machine, has ended."""
    host, _, rest = owner.partition(":")
    process, _, rest = rest.partition(":")
    began, _, chance = rest.partition(":")
    if host != socket.gethostname() or not (process.isdecimal() and began and chance):
        return False
    now = _began(int(process))
    # Where it cannot be told when a process began, another may have got its number.
    return now != began if _UNKNOWN not in {now, began} else False


_UNKNOWN = "?"


def _began(process: int) -> str:
    if not Path("/proc/self/stat").exists():
        return _UNKNOWN
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return "never"
    # After the name, which may hold anything: state, parent, ... and as the 20th the time since the machine began.
    fields = stat.rpartition(")")[2].split()
    # Killed, but not buried: whoever started it has yet to ask for its exit code.
    return "never" if fields[0] in {"Z", "X"} else fields[19]
