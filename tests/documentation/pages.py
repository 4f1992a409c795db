"""The pages of the documentation, and what their blocks show of the program: it is run, and they are compared.

- A ``console`` block holds commands, each after ``$``, with what they print. What only installs or checks is not run.
- A ``text`` or ``json`` block has a comment before it that says where it comes from: a command,
  ``<!-- output of $ annolab-async demo -->``, or a function of ``tests/documentation/outputs.py``,
  ``<!-- output of tests.documentation.outputs.errors -->``. One that shows no output is ``<!-- drawn -->``.
- A ``python`` block with a file's name is written into that file; those without are examples (``examples.py``).

``python -m tests.documentation.pages`` writes anew what is no longer so, in all pages or in those that are named.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from attrs import Factory, define, field, frozen

from annolab_async.emulator import Faults
from tests.cli import terminal
from tests.cli.conftest import serving
from tests.documentation import outputs
from tests.documentation.examples import PAGES as PATHS, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.cli.conftest import Place

_BLOCK: Final = re.compile(
    r"""
    (?P<head>
        (?:^<!--\ (?P<origin>.*)\ -->\n)?
        ^```(?P<kind>\w+)(?:\ (?P<name>\S+))?(?P<more>.*)\n
    )
    (?P<shown>(?s:.*?))
    ^```$
    """,
    re.MULTILINE | re.VERBOSE,
)
_COMMAND: Final = re.compile(r"^\$ ((?:.*\\\n)*.*)\n", re.MULTILINE)
_INPUT: Final = {"bash", "python"}
_NOT_RUN: Final = ("pip ", "make ")
# In this process, which is quicker, runs what a shell would pass on as it stands, and at most pipe.
_PROGRAM: Final = re.compile(r"annolab-async ([^|;&<>$`*]*)(?:\|(.*))?")
_SECONDS: Final = 60


def _patterns(*patterns: str) -> list[re.Pattern[str]]:
    return [re.compile(pattern, re.MULTILINE) for pattern in patterns]


@frozen(kw_only=True)
class Page:
    """A page.

    Attributes:
        path: where it is.
        settings: of the local AnnoLab that its commands talk to.
        prepare: what is to be done before the first.
        servers: commands that do not end, and what they print when they have begun to serve.
        varies: what differs from one time to the next, and is not compared.
    """

    path: Path
    settings: Mapping[str, Any] = Factory(dict[str, Any])
    prepare: Callable[[Place], None] = lambda _: None
    servers: Mapping[str, str] = Factory(dict[str, str])
    varies: Sequence[re.Pattern[str]] = ()

    def masked(self, text: str) -> str:
        """Return a text without what differs from one time to the next, and without the widths of columns."""
        for pattern in self.varies:
            text = pattern.sub("", text)
        return re.sub(r" +", " ", text)

    def written_anew(self, folder: Path) -> str:
        """Return its text as it should be; blocks that show what they would show now stay as they are.

        Args:
            folder: where commands run.

        Raises:
            ValueError: a block does not say where it comes from.
        """
        with serving(folder, **self.settings) as place, _Shell(place, self.servers) as shell:
            self.prepare(place)

            def renewed(block: re.Match[str]) -> str:
                shown = f"{shell.shown(block).rstrip()}\n"
                if self.masked(shown) == self.masked(block["shown"]):
                    return block[0]
                return f"{block['head']}{shown}```"

            return _BLOCK.sub(renewed, self.path.read_text(encoding="utf-8"))


@define(eq=False)
class _Shell(ExitStack):
    """What runs the commands of a page, one after the other, in one folder."""

    place: Place
    servers: Mapping[str, str]
    status: int = 0
    env: dict[str, str] = field(init=False)

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    def __attrs_post_init__(self) -> None:
        bin_folder = Path(sys.executable).parent
        self.env = terminal.settings(
            **self.place.env,
            CURL_HOME=str(self.place.folder),
            PATH=f"{bin_folder}:{os.environ['PATH']}",
            PORT="0",
            PYTEST_ADDOPTS="-p no:asyncio -p no:cacheprovider",  # not what else this machine has
            PYTHONPATH=f"{ROOT}:{ROOT / 'docs' / 'examples'}",
            PYTHONUNBUFFERED="1",
        )

    def shown(self, block: re.Match[str]) -> str:
        """Return what a block should show."""
        kind, origin, shown = block["kind"], block["origin"] or "", block["shown"]
        if kind in _INPUT:
            if block["name"] and not block["more"]:
                (self.place.folder / block["name"]).write_text(shown, encoding="utf-8")
            return shown
        if kind == "console":
            return "".join(
                f"{command[0]}{self.printed(command[1])}" for command in _COMMAND.finditer(shown)
            )
        if origin.startswith("output of $ "):
            return self.printed(origin.removeprefix("output of $ "))
        if origin.startswith("output of "):
            module, _, name = origin.removeprefix("output of ").rpartition(".")
            function: Callable[[], str] = getattr(importlib.import_module(module), name)
            return _tidy(function())
        if origin == "drawn":
            return shown
        raise ValueError(f"where does this come from?\n{block[0]}")

    def printed(self, command: str) -> str:
        """Run a command; return what it prints to stdout and stderr."""
        if command.startswith(_NOT_RUN):
            return ""
        if command in self.servers:
            return self._started(command, self.servers[command])
        printed = told = ""
        script = f"(exit {self.status})\n{command}"
        if found := _PROGRAM.fullmatch(command.replace("\\\n", " ")):
            script = found[2]
            done = terminal.call(
                *shlex.split(found[1]),
                env=self.env,
                cwd=self.place.folder,
                is_merged=not script,
            )
            printed, told, self.status = done.stdout, done.stderr, done.returncode
        if script:
            done = subprocess.run(  # noqa: S603
                ["/bin/bash", "-c", script],
                env=self.env,
                cwd=self.place.folder,
                input=printed,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_SECONDS,
                text=True,
                check=False,
            )
            printed, self.status = done.stdout, done.returncode
        return _tidy(told + printed)

    def _started(self, command: str, last: str) -> str:
        """Start a server, which is stopped at the end; return what it prints first.

        It gets a port that is free. The page calls it 8000, and there ``curl`` finds it from now on.
        """
        process = subprocess.Popen(  # noqa: S603
            shlex.split(command),
            env=self.env,
            cwd=self.place.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.enter_context(process)
        self.callback(process.send_signal, signal.SIGTERM)
        assert process.stdout is not None
        printed = ""
        for line in process.stdout:
            printed += line
            if last in line:
                break
        port = re.findall(r"127\.0\.0\.1:(\d+)", printed)[-1]
        settings = f"silent\nconnect-to = localhost:8000:127.0.0.1:{port}\n"
        (self.place.folder / ".curlrc").write_text(settings, encoding="ascii")
        return _tidy(printed.replace(f":{port}", ":8000"))


def _tidy(printed: str) -> str:
    """Return a text without spaces at ends of lines, and with a last line that ends."""
    text = re.sub(r"[ \r]+$", "", printed, flags=re.MULTILINE)
    return text if not text or text.endswith("\n") else f"{text}\n"


_WITH_OUTPUT: Final = [
    Page(
        path=ROOT / "README.md",
        varies=_patterns(
            r"(?<=^Process )\d+",
            r"(?<=edger: )[\w ,]+(?=\.$)",
            r"^\d+(?= unknown: )",
            r"^  batch (\d+): it has (no job|job \d+): run\.resolve\(\1, (resend=True|job_id=\d+)\)\n",
            r"^  and \d+ more, likewise\n",
            r"(?<=^Failures) +\d+ of \d+(?= submissions)",
            r"\d+(?= sent again by)",
            r"(?<=^Wall time) +[\d.]+(?= s$)",
            r"\d+(?= annotations in )|(?<= annotations in )\d+(?= sources)",
            r"(?<=\w) +\d+$",
            r"(?<=annolab-demo-)\w+",
        ),
    ),
    Page(
        path=ROOT / "docs" / "command-line.md",
        # Of the first submissions two are lost, and none of those that follow.
        settings={
            "base_seconds": 0.2,
            "bad_source_ids": [333],
            "faults": Faults(reset=0.04, seed=37),
        },
        varies=_patterns(
            # How far a run was when somebody looked, jobs that had not ended, and how long that took.
            r"^.* sources ended; batches: .*\n",
            r"^job \d+ (queued|running)( after [\d:]+)?\n",
            r"(?<=ed) after [\d:]+(?=,|$)",
            r"\d[\d,.:]*",
        ),
    ),
    Page(
        path=ROOT / "docs" / "report.md",
        prepare=lambda place: outputs.write_ledger(place.folder),
        # Which changes a ledger's thread commits together is left to chance, and moves times by seconds.
        varies=_patterns(r"\d[\d,.:]*( s\b)?", r"[▁-█]+", r"─+"),
    ),
    Page(
        path=ROOT / "docs" / "observability.md",
        varies=_patterns(
            r'(?<=_id": "0x)[0-9a-f]+',
            r'(?<=": ")[\dT:.-]+Z',
            r'(?<=uncertainty": )[\d.]+',
        ),
    ),
    Page(
        path=ROOT / "docs" / "services.md",
        prepare=lambda place: place.emulator.script(1, ["Queued", "Running", "Finished"]),
        servers={"python -m fastapi_service.app": "(Press CTRL+C to quit)"},
        varies=_patterns(
            r"(?<=process \[)\d+",
            r"(?<=^date: ).*",
            r"(?<=^id: )\S+",
        ),
    ),
    Page(path=ROOT / "docs" / "testing.md", varies=_patterns(r"(?<=passed in )[\d.]+(?=s$)")),
]
_BY_PATH: Final = {page.path: page for page in _WITH_OUTPUT}
PAGES: Final = [_BY_PATH.get(path) or Page(path=path) for path in PATHS]


def main(names: Sequence[str]) -> None:
    """Write pages anew: those of these names, such as ``report``, or all."""
    for page in PAGES:
        if not names or page.path.stem in names:
            with TemporaryDirectory() as folder:
                page.path.write_text(page.written_anew(Path(folder)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
