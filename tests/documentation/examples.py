"""The Python examples of the pages: each runs as pasted, in a process and a namespace of its own.

Importing the libraries costs more than most of the examples do. So ``python -m tests.documentation.examples`` imports
them once, and forks for each example that it is given on stdin.
"""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK: Final = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
_SECONDS: Final = 60
# What takes time to import.
_WARM: Final = [
    "aiohttp",
    "annolab_async.emulator",
    "annolab_async.ledger",
    "annolab_async.otel",
    "annolab_async.report",
    "anyio._backends._asyncio",
    "httpcore",
    "opentelemetry.sdk.metrics.export",
    "opentelemetry.sdk.trace.export",
    "sqlalchemy.dialects.sqlite",
    "uvicorn.protocols.http.auto",
]


class Example(NamedTuple):
    """A Python block without a name.

    Attributes:
        where: its page, and which of its examples it is.
        code: as it stands there.
    """

    where: str
    code: str


class Ran(NamedTuple):
    """How it went: the exit status, negative for a signal, and what was printed."""

    status: int
    output: str


def examples_in(page: Path) -> list[Example]:
    """Return a page's examples."""
    blocks = _BLOCK.findall(page.read_text(encoding="utf-8"))
    return [
        Example(f"{page.name}, example {number}", code) for number, code in enumerate(blocks, 1)
    ]


def run_examples(examples: list[Example], folder: Path) -> list[Ran]:
    """Run examples side by side, each with an AnnoLab and a folder of its own.

    Args:
        examples: the examples.
        folder: where their folders are put.
    """
    # The process that forks does without these.
    from anyio.from_thread import start_blocking_portal  # noqa: PLC0415

    from annolab_async.emulator import Emulator, EmulatorServer  # noqa: PLC0415
    from tests.service import KEY  # noqa: PLC0415

    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal())
        tasks: list[dict[str, Any]] = []
        for number, example in enumerate(examples):
            emulator = Emulator(api_key=KEY, base_seconds=0.1, seconds_per_source=0.0)
            server = EmulatorServer(emulator)
            stack.enter_context(portal.wrap_async_context_manager(server))
            place = folder / str(number)
            place.mkdir()
            settings = {"ANNOLAB_API_KEY": KEY, "ANNOLAB_BASE_URL": server.base_url}
            tasks.append({"code": example.code, "folder": str(place), "settings": settings})
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "tests.documentation.examples"],
            input=json.dumps(tasks),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    outputs = [Path(f"{task['folder']}.txt").read_text(encoding="utf-8") for task in tasks]
    return [Ran(*each) for each in zip(json.loads(done.stdout), outputs, strict=True)]


def _fork_for_each(tasks: list[dict[str, Any]]) -> str | None:
    """Return an example's code in the process that is to run it; print how all of them ended in the one that forks."""
    for name in _WARM:
        __import__(name)
    gc.freeze()
    processes: list[int] = []
    for task in tasks:
        if process := os.fork():
            processes.append(process)
            continue
        signal.alarm(_SECONDS)
        os.chdir(task["folder"])
        os.environ.update(task["settings"])
        output = os.open(f"{task['folder']}.txt", os.O_WRONLY | os.O_CREAT)
        for stream, number in (os.open(os.devnull, os.O_RDONLY), 0), (output, 1), (output, 2):
            os.dup2(stream, number)
        return str(task["code"])
    ends = [os.waitpid(process, 0)[1] for process in processes]
    print(json.dumps([os.waitstatus_to_exitcode(end) for end in ends]))  # noqa: T201
    return None


if __name__ == "__main__":
    _code = _fork_for_each(json.load(sys.stdin))
    if _code is not None:
        exec(compile(_code, "<example>", "exec"), {"__name__": "__main__"})  # noqa: S102
