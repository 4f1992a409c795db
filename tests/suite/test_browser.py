"""The browser that other tests look at pages with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.browser import browser, find_chromium, page

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["browser", "page"]


def test_it_runs_scripts(page: Page) -> None:
    page.set_content("<title>before</title><script>document.title = 'after'</script>")
    assert page.title() == "after"


@pytest.mark.parametrize(
    ("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)]
)
def test_without_chromium_tests_are_skipped_but_fail_in_ci(
    ci: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="apt-get install chromium"):
        find_chromium()
