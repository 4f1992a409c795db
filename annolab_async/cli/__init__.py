"""The command ``annolab-async``: ``pip install 'annolab-async[cli,emulator,ledger]'``."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; without its libraries, say how to get them and exit with status 2."""
    try:
        sys.exit(_start())
    except KeyboardInterrupt:  # before a command has begun, or when it has ended
        sys.exit(130)


def _start() -> int:
    try:
        from annolab_async.cli._app import run_app  # noqa: PLC0415  # its libraries are an extra
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in {"rich", "typer"}:
            raise
        print(  # noqa: T201
            f"annolab-async needs {error.name}: pip install 'annolab-async[cli,emulator,ledger]'",
            file=sys.stderr,
        )
        return 2
    return run_app()
