"""The page on the command line: its ``console`` blocks are run, and their outputs put into it.

``python -m tests.cli.page`` writes it anew; a test compares.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from annolab_async.emulator import Faults
from tests.cli.conftest import serving
from tests.cli.terminal import settings

PAGE: Final = Path(__file__).parents[2] / "docs" / "command-line.md"
_BLOCK: Final = re.compile(r"```console\n(.*?)```", re.DOTALL)
_COMMAND: Final = re.compile(r"^\$ (?:.*\\\n)*.*\n", re.MULTILINE)
_INSTALLATION: Final = "$ pip "


def written_anew(text: str, folder: Path) -> str:
    """Return a page with the outputs of its commands as they are now.

    Args:
        text: the page.
        folder: where they run, one after the other.
    """
    # Of the first submissions two are lost, and none of those that follow.
    faults = Faults(reset=0.04, seed=37)
    with serving(folder, base_seconds=0.2, bad_source_ids=[333], faults=faults) as place:
        env = settings(**place.env, PYTHONUNBUFFERED="1")
        env["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        status = 0

        def rerun(block: re.Match[str]) -> str:
            nonlocal status
            if block[1].startswith(_INSTALLATION):
                return block[0]
            shown = ""
            for command in _COMMAND.findall(block[1]):
                script = f"(exit {status})\n{command.removeprefix('$ ')}"
                done = subprocess.run(  # noqa: S603
                    ["/bin/bash", "-c", script],
                    env=env,
                    cwd=folder,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    timeout=60,
                    check=False,
                )
                status = done.returncode
                shown += command + done.stdout.decode()
            return f"```console\n{shown}```"

        return _BLOCK.sub(rerun, text)


def masked(text: str) -> str:
    """Return a page without what differs from time to time: numbers, widths of columns, and what was seen under way."""
    text = re.sub(
        r"^(.* sources ended; batches: .*|job \d+ running.*)\n", "", text, flags=re.MULTILINE
    )
    text = re.sub(r" after \d+:\d\d\b", "", text)  # not told where it is less than a second
    return re.sub(r" +", " ", re.sub(r"\d[\d,.:]*", "#", text))


def main() -> None:
    """Write the page anew."""
    with TemporaryDirectory() as folder:
        PAGE.write_text(written_anew(PAGE.read_text(), Path(folder)))


if __name__ == "__main__":
    main()
