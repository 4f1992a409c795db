"""Every example in the documentation runs as pasted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from annolab_async.emulator import Emulator, EmulatorServer
from tests.service import KEY

pytestmark = [pytest.mark.anyio, pytest.mark.sockets, pytest.mark.full]

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(
        re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL), 1
    )
]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("example", EXAMPLES)
async def test_example(example: str, tmp_path: Path) -> None:
    emulator = Emulator(api_key=KEY, base_seconds=0.1, seconds_per_source=0.0)
    async with EmulatorServer(emulator) as server:
        settings = {"ANNOLAB_API_KEY": KEY, "ANNOLAB_BASE_URL": server.base_url}
        with anyio.fail_after(30):
            done = await anyio.run_process(
                [sys.executable, "-W", "error", "-c", example],
                env=os.environ | settings,
                cwd=tmp_path,  # some leave files behind
                check=False,
                stderr=subprocess.STDOUT,
            )
    assert done.returncode == 0, done.stdout.decode()
    assert done.stdout, "an example shows something"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
