"""The page of the FastAPI example in a real browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.examples.running import running, until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from annolab_async.emulator import Emulator, EmulatorServer

pytestmark = [pytest.mark.sockets, pytest.mark.full]


@pytest.fixture(autouse=True)
def _nothing_blocks_the_loop() -> None:
    """Let the emulator's server be waited for: Playwright has a loop running in this thread, which nobody else uses."""


def test_a_page_follows_jobs_and_leaves_nothing_behind_when_it_is_closed(
    annolab_emulator: Emulator, annolab_server: EmulatorServer, page: Page
) -> None:
    assert annolab_server.base_url
    annolab_emulator.script(1, ["Queued", "Running", "Finished"])
    annolab_emulator.script(2, ["<b id=hostile>x</b>"])
    with running() as service:
        page.goto(service.url)
        quiet = service.tasks()
        for ids in ("4024, 5853", "17"):
            page.get_by_label("Source ids").fill(ids)
            page.get_by_role("button", name="Submit").click()
        first, second = page.get_by_role("listitem").nth(0), page.get_by_role("listitem").nth(1)
        expect(first).to_have_text("Job 1: Queued, Running, Finished: finished")
        expect(second).to_have_text("Job 2: <b id=hostile>x</b>")
        assert page.locator("#hostile").count() == 0
        assert annolab_emulator.job(1).source_ids == (4024, 5853)
        assert service.tasks() > quiet
        page.close()
        until(lambda: service.tasks() <= quiet)


def test_a_page_shows_what_is_wrong(
    annolab_emulator: Emulator, annolab_server: EmulatorServer, browser: Browser
) -> None:
    assert annolab_server.base_url
    # A page of its own: a browser complains on the console about every answer that is an error.
    with running() as service, browser.new_page() as page:
        page.goto(service.url)
        page.get_by_label("Source ids").fill("5, 5")
        page.get_by_role("button", name="Submit").click()
        expect(page.get_by_role("alert")).to_contain_text("source_ids repeats 5")
    assert not annolab_emulator.jobs
