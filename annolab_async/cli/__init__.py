"""The command ``annolab-async``: ``pip install 'annolab-async[cli,emulator]'``."""

from __future__ import annotations

import sys

__all__ = ["main"]

_EXTRAS = {"rich": "cli", "typer": "cli", "starlette": "emulator", "uvicorn": "emulator"}


def main() -> None:
    """Run the command line; without its libraries, say how to get them and exit with status 2."""
    try:
        from annolab_async.cli._app import app  # noqa: PLC0415  # its libraries are an extra
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        print(  # noqa: T201
            f"annolab-async needs {error.name}: pip install 'annolab-async[cli,emulator]'",
            file=sys.stderr,
        )
        sys.exit(2)
    app()
