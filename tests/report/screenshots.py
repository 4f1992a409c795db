"""Takes the pictures in docs/report.md: ``python -m tests.report.screenshots``. Look at them before they are kept."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from PIL import Image
from playwright.sync_api import sync_playwright

from annolab_async.report import Report
from tests.browser import find_chromium
from tests.report.runs import a_run, many

if TYPE_CHECKING:
    from playwright.sync_api import Browser

DOCS: Final = Path(__file__).parents[2] / "docs"


def main() -> None:
    """Take them."""
    run = a_run(*many(400, seed=4), seconds=1000)
    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "report.html"
        path.write_text(Report((run,), run.made_at).html(), encoding="utf-8")
        flags = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=flags)
        take(browser, path, "light", width=1000, height=1050)
        take(browser, path, "dark", width=1000, height=1000, at="#time-0")
        take(browser, path, "phone", width=390, height=844, at="#time-0")
        browser.close()


def take(
    browser: Browser, path: Path, name: str, *, width: int, height: int, at: str = "h1"
) -> None:
    """Take a picture of what is seen of a page.

    Args:
        browser: where to look at it.
        path: the page.
        name: what the picture is called.
        width, height: how large the window is, in pixels.
        at: what is at the top of it.
    """
    page = browser.new_page(
        viewport={"width": width, "height": height},
        color_scheme="dark" if name == "dark" else "light",
    )
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]")
    page.locator(at).evaluate("node => node.scrollIntoView()")
    if name == "dark":
        page.get_by_role("button", name="Zoom in").click()
        box = page.locator("#chart-time-0").bounding_box()
        assert box
        page.mouse.move(box["x"] + 500, box["y"] + 200)
        page.locator(".bk-Tooltip div[style*=grid]").wait_for()
    page.evaluate("() => new Promise(done => setTimeout(done, 300))")  # until all is painted
    # Smaller than as the browser has it, without a difference.
    Image.open(BytesIO(page.screenshot())).convert("RGB").save(
        DOCS / f"report-{name}.png", optimize=True
    )
    page.close()


if __name__ == "__main__":
    main()
