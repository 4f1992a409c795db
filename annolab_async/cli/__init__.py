"""The command ``annolab-async``: ``pip install 'annolab-async[cli,emulator,ledger]'``."""

from __future__ import annotations

import sys
from typing import Final

__all__ = ["main"]

_LIBRARIES: Final = frozenset({"rich", "sqlalchemy", "starlette", "typer", "uvicorn"})


def main() -> None:
    """Run the command line; without its libraries, say how to get them and exit with status 2."""
    try:
        from annolab_async.cli._app import app  # noqa: PLC0415  # its libraries are an extra
    except ImportError as error:
        # The emulator turns the error into one of its own.
        missing = error.name or getattr(error.__cause__, "name", None) or ""
        if missing.partition(".")[0] not in _LIBRARIES:
            raise
        print(  # noqa: T201
            f"annolab-async needs {missing}: pip install 'annolab-async[cli,emulator,ledger]'",
            file=sys.stderr,
        )
        sys.exit(2)
    app()
