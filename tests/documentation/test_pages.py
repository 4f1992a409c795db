"""The pages show what the program prints."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

import pytest

from tests.documentation.pages import PAGES

if TYPE_CHECKING:
    from pathlib import Path

    from tests.documentation.pages import Page


@pytest.mark.full
@pytest.mark.sockets
@pytest.mark.timeout(400)  # seconds: the page on the command line waits for many a job
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path.stem)
def test_a_page_shows_what_the_program_prints(page: Page, tmp_path: Path) -> None:
    shown, printed = (
        page.masked(text).splitlines()
        for text in (page.path.read_text(encoding="utf-8"), page.written_anew(tmp_path))
    )
    lines = difflib.unified_diff(shown, printed, "the page", "the program", n=1, lineterm="")
    difference = "\n".join(lines)
    assert not difference, f"python -m tests.documentation.pages {page.path.stem}\n{difference}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path.stem)
def test_links_lead_somewhere(page: Page) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.path.read_text(encoding="utf-8")):
        assert (page.path.parent / target).exists(), target
