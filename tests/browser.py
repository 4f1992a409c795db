"""A real browser for tests: Debian's Chromium, driven by Playwright, which downloads none of its own.

Playwright's synchronous interface keeps a loop running in the thread for as long as it is open. A module that uses
these fixtures has no asynchronous tests, and what it looks at is served by another thread or process, or is a file.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Final

import pytest
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, ConsoleMessage, Page

__all__ = ["browser", "find_chromium", "page"]

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
# Milliseconds: nothing here is far away.
_TIMEOUT: Final = 15_000


def find_chromium() -> str:
    """Return the path of the system's Chromium; skip the test without one, but fail it in CI."""
    for name in _NAMES:
        if path := shutil.which(name):
            return path
    reason = "needs a browser, and there is no Chromium here: apt-get install chromium"
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start a Chromium that nobody sees, for the tests of a module."""
    path = find_chromium()
    # Its sandbox refuses to be started by root, and /dev/shm is small in containers.
    flags = ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Open an empty page; the test fails if anything in it throws or complains on the console."""
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            complaints.append(message.text)

    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(_TIMEOUT)
    page = context.new_page()
    page.on("console", note)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    context.close()
    assert not complaints, complaints
