"""The page on the command line shows what the commands print."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.page import PAGE, masked, written_anew

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.full
@pytest.mark.sockets
@pytest.mark.timeout(400)  # seconds: it starts two dozen processes, and a tour is one of them
def test_the_page_shows_what_the_commands_print(tmp_path: Path) -> None:
    text = PAGE.read_text()
    assert masked(written_anew(text, tmp_path)) == masked(text), "python -m tests.cli.page"
