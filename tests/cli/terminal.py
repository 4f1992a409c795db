"""The command line as a process: through pipes, and on a real terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from unittest import mock

from coverage import Coverage

from annolab_async.cli._app import run_app

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT: Final = Path(__file__).parents[2]
PROGRAM: Final = [sys.executable, "-W", "error", "-m", "annolab_async.cli"]
_SECONDS: Final = 60.0
_ESCAPES: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
CTRL_C: Final = b"\x03"
# What is started in the background, as CI may be, ignores interrupts, and so does what that starts.
HEEDS_INTERRUPTS: Final = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"


def settings(**more: str) -> dict[str, str]:
    """Return the environment of a process: none of the settings that change what is printed."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TERM"}
        and not name.startswith("ANNOLAB")
    }
    if Coverage.current() is not None:  # these processes are measured as the tests are
        kept |= {
            "COVERAGE_PROCESS_START": str(ROOT / "tests" / "cli" / "coverage.ini"),
            "COVERAGE_FILE": str(ROOT / ".coverage"),
        }
    return kept | {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"} | more


def run(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    given: str | bytes = "",
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, its output going into pipes."""
    done = subprocess.run(  # noqa: S603
        [*PROGRAM, *arguments],
        env=settings(**(env or {})),
        cwd=cwd,
        input=given.encode() if isinstance(given, str) else given,
        capture_output=True,
        timeout=_SECONDS,
        check=False,
        **options,
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def call(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    given: str | bytes = "",
    is_merged: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in this process, as :func:`run` does in another; merged, stderr goes into stdout."""
    content = given.encode() if isinstance(given, str) else given
    out, err = StringIO(), StringIO()
    with (
        mock.patch.dict(os.environ, settings(**(env or {})), clear=True),
        mock.patch.object(sys, "stdin", TextIOWrapper(BytesIO(content))),
        mock.patch.object(sys, "argv", ["annolab-async", *arguments]),
        chdir(cwd or "."),
        redirect_stdout(out),
        redirect_stderr(out if is_merged else err),
    ):
        status = run_app(list(arguments))
    return subprocess.CompletedProcess([*arguments], status, out.getvalue(), err.getvalue())


class OnTerminal:
    """A command on a pseudo-terminal of its own, which is its session's controlling one.

    Args:
        arguments: the command line.
        env: settings.
        cwd: where it runs.
        columns: how wide the terminal is.
        stdout: where its standard output goes, if not to the terminal.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        columns: int = 100,
        stdout: int | None = None,
    ) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        name = os.ttyname(theirs)
        # In a session of its own, the terminal that it opens first becomes the one whose Ctrl-C it gets.
        opener = "import os, sys; os.close(os.open(sys.argv[1], os.O_RDWR)); os.execv(sys.argv[2], sys.argv[2:])"
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", opener, name, *PROGRAM, *arguments],
            stdin=theirs,
            stdout=theirs if stdout is None else stdout,
            stderr=theirs,
            env=settings(**env),
            cwd=cwd,
            start_new_session=True,
        )
        os.close(theirs)
        self.raw = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._ours)

    @property
    def shown(self) -> str:
        """All that was shown, without escape sequences."""
        return _ESCAPES.sub("", self.raw.decode(errors="replace"))

    @property
    def process_id(self) -> int:
        """The process."""
        return self._process.pid

    def catches_sigterm(self) -> bool:
        """Return whether the process has taken over signals that Python leaves alone."""
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
        caught = int(next(line for line in status.splitlines() if "SigCgt" in line).split()[1], 16)
        return bool(caught >> (signal.SIGTERM - 1) & 1)

    def read_until(self, text: str) -> None:
        """Read until something was shown.

        Raises:
            AssertionError: it was not, in time or at all.
        """
        while text not in self.shown:
            assert self._read(), f"{text!r} is not in: {self.shown}"

    def press(self, keys: bytes) -> None:
        """Press keys; Ctrl-C is a signal to the foreground processes."""
        os.write(self._ours, keys)

    def wait(self) -> int:
        """Read to the end; return the exit status."""
        while self._read():
            pass
        return self._process.wait(_SECONDS)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._ours], [], [], _SECONDS)
        assert ready, f"nothing more comes after: {self.shown}"
        try:
            chunk = os.read(self._ours, 65536)
        except OSError:  # Linux's way to say that the other side is closed
            return False
        self.raw += chunk
        return bool(chunk)


def until(condition: Any, seconds: float = _SECONDS) -> None:
    """Wait until a condition holds that nobody signals."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
