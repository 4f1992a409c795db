"""A report's page as a browser shows it: what it draws, how it is used, and that nothing in it does harm."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from annolab_async.report import Report
from tests.report.looking import (
    contrast,
    contrasts,
    drawn_batches,
    edge,
    glyphs,
    model,
    pixels,
    range_of,
    rows,
    time_range,
    tooltip_of,
)
from tests.report.runs import BEGIN, a_run, many

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Page

    from annolab_async.report import RunReport

pytestmark = pytest.mark.full

HOSTILE = "</script><img src=x onerror=alert(1)><b>bold</b>{{ 1 }} @size &amp; ${1} \x1b[31m\u2028"
SHOWN = "</script><img src=x onerror=alert(1)><b>bold</b>{{ 1 }} @size &amp; ${1} �[31m"


@pytest.fixture(autouse=True)
def _nothing_blocks_the_loop() -> None:
    """Let it be blocked: Playwright's loop runs in this thread, and has nothing to do meanwhile."""


@pytest.fixture
def show(page: Page, tmp_path: Path) -> Callable[..., None]:
    """Open the page on runs, and wait until it is drawn."""

    def show(*runs: RunReport) -> None:
        path = tmp_path / "report.html"
        path.write_text(Report(runs, BEGIN.timestamp()).html(), encoding="utf-8")
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]")

    return show


@pytest.fixture(scope="module")
def run() -> RunReport:
    return a_run(*many(120, bad=0.2, unfinished=10), seconds=90)


def test_its_pictures_appear(page: Page, show: Callable[..., None], run: RunReport) -> None:
    show(run)
    for chart in ("#chart-time-0", "#chart-delay-0", "#chart-durations"):
        assert pixels(page, chart)[0] > 5, chart


def test_it_asks_no_network_for_anything(
    page: Page, show: Callable[..., None], run: RunReport
) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    show(run)
    assert [url.partition(":")[0] for url in asked] == ["file"]
    policy = page.locator("meta[http-equiv]").get_attribute("content") or ""
    assert "default-src 'none'" in policy
    scripts = re.search(r"script-src ([^;]*)", policy)
    assert scripts
    assert all(part.startswith("'sha256-") for part in scripts[1].split()), "nothing else may run"


def test_the_mouse_finds_a_batch(page: Page, show: Callable[..., None], run: RunReport) -> None:
    show(run)
    batch = next(batch for batch in run.batches if batch.state == "finished" and batch.number > 9)
    text = tooltip_of(page, str(batch.number), searched=str(batch.inference_job_id))
    assert re.fullmatch(
        rf"Batch\s+{batch.number}\s+Sources\s+25\s+Job\s+{batch.inference_job_id}\s+"
        r"State\s+Finished\s+Here\s+running for [\d.]+ s\s+Error\s+\S\s*",
        text,
    )


def test_batches_are_filtered_by_state_and_text(
    page: Page, show: Callable[..., None], run: RunReport
) -> None:
    show(run)
    where = page.locator(".where")
    assert where.inner_text() == "1 to 50 of 120 batches"
    errored = {str(batch.number) for batch in run.batches if batch.state == "errored"}
    for box in page.locator("input[name=state]:not([value=errored])").all():
        box.uncheck()
    assert drawn_batches(page) == errored
    assert rows(page).count() == len(errored)
    assert {rows(page).nth(at).locator("th").inner_text() for at in range(len(errored))} == errored
    job = rows(page).first.locator("td").nth(2).inner_text()
    page.get_by_role("searchbox").fill(job)
    assert drawn_batches(page) == {rows(page).first.locator("th").inner_text()}
    page.get_by_role("searchbox").fill("NO TEXT LAYER")
    assert drawn_batches(page) == errored
    page.get_by_role("searchbox").press("Enter")
    page.get_by_role("searchbox").fill("nothing is like this")
    assert drawn_batches(page) == set()
    assert where.inner_text() == "No batch is like that"


def test_batches_are_looked_through_and_sorted_with_the_keyboard(
    page: Page, show: Callable[..., None], run: RunReport
) -> None:
    show(run)
    before, after = (
        page.get_by_role("button", name="Before"),
        page.get_by_role("button", name="Next"),
    )
    assert before.is_disabled()
    after.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert page.locator(".where").inner_text() == "101 to 120 of 120 batches"
    assert after.is_disabled()
    number = page.locator("table.batches").get_by_role("columnheader", name="Batch")
    assert number.get_attribute("aria-sort") == "ascending", "as they come"
    header = page.get_by_role("columnheader", name="Took")
    header.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    assert number.get_attribute("aria-sort") is None
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    longest = max(batch.duration for batch in run.batches if batch.duration is not None)
    assert rows(page).first.locator("td").nth(5).inner_text() == f"{longest:.1f} s"
    page.get_by_role("button", name="Sent").press("Enter")
    assert header.get_attribute("aria-sort") is None
    page.get_by_role("button", name="State").press("Enter")
    assert rows(page).first.locator("td").first.inner_text() == "Errored"


def test_a_part_of_the_time_is_looked_at_with_buttons_and_mouse(
    page: Page, show: Callable[..., None], run: RunReport
) -> None:
    show(run)
    start, end = time_range(page)
    whole = end - start
    for name, wanted in [
        ("Zoom in", (start + whole / 4, end - whole / 4)),
        ("Later", (start + whole / 2, end)),
        ("Earlier", (start + whole / 4, end - whole / 4)),
        ("Zoom out", (start, end)),
        ("Zoom in", (start + whole / 4, end - whole / 4)),
        ("All of it", (start, end)),
    ]:
        page.get_by_role("button", name=name).click()
        assert time_range(page) == pytest.approx(wanted)
    chart = page.locator("#chart-time-0")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    assert box
    page.mouse.move(box["x"] + 300, box["y"] + 80)
    page.mouse.down()
    page.mouse.move(box["x"] + 600, box["y"] + 200, steps=4)
    page.mouse.up()
    page.wait_for_function(
        f"() => {whole} > 2 * (({{start, end}}) => end - start)({model('time')})"
    )


def test_the_batches_in_view_are_those_at_work_in_the_time_in_view(
    page: Page, show: Callable[..., None], run: RunReport
) -> None:
    show(run)
    low, high = range_of(page, "rows")
    assert (low, high) == pytest.approx((len(drawn_batches(page)) - 0.4, -0.6))
    page.get_by_role("button", name="Zoom in").click()
    page.get_by_role("button", name="Later").click()
    low, high = range_of(page, "rows")
    assert high > 20
    page.get_by_role("button", name="Later").click()
    page.get_by_role("button", name="Later").click()
    assert range_of(page, "rows") == pytest.approx([0.6, -0.6]), "nothing was at work then"


def test_source_ids_are_copied(page: Page, show: Callable[..., None], run: RunReport) -> None:
    show(run)
    wanted = [i for b in run.batches if b.state == "errored" for i in b.source_ids]
    area = page.get_by_label("Source ids of batches that are errored")
    assert area.input_value().split() == [str(source_id) for source_id in wanted]
    button = page.get_by_role("button", name="Copy").first
    expect(button).to_have_accessible_description("Source ids of batches that are errored")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    button.click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()").split() == [str(i) for i in wanted]


def test_source_ids_are_copied_where_the_clipboard_is_refused(
    page: Page, show: Callable[..., None], run: RunReport
) -> None:
    show(run)
    page.evaluate(
        """() => {
            navigator.clipboard.writeText = () => Promise.reject(new Error("refused"));
            addEventListener("copy", () => { document.title = String(getSelection()); });
        }"""
    )
    page.get_by_role("button", name="Copy").first.click()
    page.get_by_role("button", name="Copied").wait_for()
    first = next(batch for batch in run.batches if batch.state == "errored")
    assert page.title().startswith(f"{first.source_ids[0]} {first.source_ids[1]} ")


def test_hostile_names_and_errors_are_text(page: Page, show: Callable[..., None]) -> None:
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    run = a_run(
        *many(30, bad=1.0, error=HOSTILE),
        name=HOSTILE,
        seconds=60,
        **dict.fromkeys(
            ("modelIdentifier", "projectIdentifier", "groupName", "outputLayerIdentifier"), HOSTILE
        ),
    )
    show(run)
    assert page.title() == f"Run {SHOWN}"
    assert page.locator("h2", has_text=SHOWN).count() == 1
    assert rows(page).filter(has_text=SHOWN).count() > 10
    errored = [batch for batch in run.batches if batch.state == "errored"]
    text = tooltip_of(page, str(errored[0].number), searched=str(errored[0].inference_job_id))
    assert SHOWN in text
    durations = page.locator("#chart-durations")
    durations.scroll_into_view_if_needed()
    assert "</script>" in page.evaluate(
        "Bokeh.documents.flatMap(doc => doc.roots()).map(({y_range}) => y_range?.factors?.[0]).find(Boolean)"
    )
    assert page.locator("img").count() == 0
    assert page.locator("b").count() == 0
    assert not dialogs


def test_ten_thousand_batches_load_in_five_seconds(
    page: Page, show: Callable[..., None], tmp_path: Path
) -> None:
    run = a_run(*many(10_000, bad=0.03), seconds=100_000)
    path = tmp_path / "large.html"
    path.write_text(Report((run,), 0.0).html(), encoding="utf-8")
    assert path.stat().st_size < 5_000_000
    # On a busy machine, a page of a few batches takes longer, too.
    began = time.monotonic()
    show(a_run(*many(10), seconds=100))
    small = time.monotonic() - began
    began = time.monotonic()
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]")
    assert pixels(page, "#chart-time-0")[0] > 5
    assert time.monotonic() - began < max(5, 5 * small)
    began = time.monotonic()
    page.get_by_role("checkbox", name="Finished").uncheck()
    assert page.locator(".where").inner_text().endswith(f"of {len(run.troubled)} batches")
    assert time.monotonic() - began < max(2, 2 * small)
    assert page.locator("tr").count() < 700, (
        "most rows are not in the page until they are asked for"
    )
    assert page.get_by_text(re.compile(r": the first 200 of \d+")).is_visible()


def test_runs_are_drawn_when_they_are_opened(
    page: Page, show: Callable[..., None], run: RunReport
) -> None:
    show(run, a_run(*many(5), name="older"), a_run(name="empty"))
    assert page.locator("#chart-time-1 canvas").count() == 0
    page.get_by_role("link", name="older").click()
    page.wait_for_selector("#run-1[data-drawn=yes]")
    assert pixels(page, "#chart-time-1")[0] > 5
    assert page.locator("#run-1 table.batches tbody tr").count() == 5
    page.get_by_text("Run empty").click()
    page.wait_for_selector("#run-2[data-drawn=yes]")
    assert page.get_by_text("Nothing was sent yet: no batches.").is_visible()
    page.get_by_text("Run older").click()
    page.get_by_text("Run older").click()
    assert page.locator("#chart-time-1 canvas").count() > 0, "it is drawn once"


def test_a_ledger_without_runs_makes_a_page(page: Page, show: Callable[..., None]) -> None:
    show()
    assert page.get_by_text("There are no runs in this ledger.").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_is_told_from_its_ground(
    scheme: str, page: Page, show: Callable[..., None], run: RunReport
) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    show(run, run)
    seen = contrasts(page)
    assert len(seen) > 100
    assert not [text for text in seen if text[1] < 4.5]


def test_pictures_follow_the_system_from_light_to_dark(
    page: Page, show: Callable[..., None], run: RunReport
) -> None:
    show(run)
    assert pixels(page, "#chart-time-0")[1] == [255, 255, 255]
    page.emulate_media(color_scheme="dark")
    assert pixels(page, "#chart-time-0")[1] == [0x14, 0x18, 0x1D]
    assert max(edge(page, "#chart-time-0")) < 0x30, "nothing of the light one shows through"


def test_no_two_things_are_told_apart_by_red_and_green_alone(
    page: Page, show: Callable[..., None], run: RunReport
) -> None:
    show(run)
    (good, bad) = glyphs(page, "Sources a minute; failed hatched")
    assert (good["hatch"], bad["hatch"]) == (None, "/")
    _, box, black, white = glyphs(page, "Seconds a batch took")
    assert contrast(box["fill"], black["line"]) > 3, "the median is seen on its box"
    assert contrast(white["line"], black["line"]) > 3, "and on any ground"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_printed_whole_and_dark_on_white(
    scheme: str, page: Page, show: Callable[..., None], run: RunReport
) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    show(run, a_run(*many(5), name="older"))
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.set_viewport_size({"width": 700, "height": 990})
    page.emulate_media(media="print")
    copies = page.locator(".chart > canvas")
    assert copies.count() == 3, "of a run that is closed there is none"
    for copy in copies.all():
        box = copy.bounding_box()
        assert box
        assert box["width"] < 700
    assert pixels(page, "#chart-time-0 >")[1] == [255, 255, 255]
    assert pixels(page, "#chart-time-0 >")[0] > 5
    assert [text for text in contrasts(page) if text[1] < 4.5] == []
    clipped: list[str] = page.evaluate(
        """[...document.querySelectorAll(".scrolled")]
            .filter(node => node.clientHeight < node.scrollHeight).map(node => node.ariaLabel)"""
    )
    assert clipped == []
    assert page.locator(".where").first.is_visible(), (
        "how many batches there are, and which are here"
    )
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert copies.count() == 0
    ground = [255, 255, 255] if scheme == "light" else [0x14, 0x18, 0x1D]
    assert pixels(page, "#chart-time-0")[1] == ground
    assert edge(page, "#chart-time-0") == pytest.approx(ground, abs=8)


def test_a_phone_scrolls_it_in_one_direction_only(
    page: Page, show: Callable[..., None], run: RunReport
) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    show(run, run)
    width: int = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 360
    box = page.locator("#chart-time-0 canvas").first.bounding_box()
    assert box
    assert box["width"] <= 360


_FOCUSED = """() => {
    const node = document.activeElement;
    if (node === document.body) return null;
    return {outline: getComputedStyle(node).outlineStyle, isInChart: Boolean(node.closest(".chart"))};
}"""


def test_it_can_be_used_without_seeing_it(
    page: Page, show: Callable[..., None], run: RunReport
) -> None:
    show(run, run)
    for table in page.locator("table").all():
        assert table.locator("caption").count() == 1
        assert table.locator("thead th:not([scope=col])").count() == 0
        assert table.locator("tbody th:not([scope=row])").count() == 0
    for chart in page.locator(".chart").all():
        assert chart.get_attribute("role") == "img"
        assert len(chart.get_attribute("aria-label") or "") > 20
    for region in page.locator(".scrolled").all():
        assert region.get_attribute("tabindex") == "0", "it can be scrolled with the keyboard"
        assert region.get_attribute("aria-label")
    ids: list[str] = page.evaluate("[...document.querySelectorAll('[id]')].map(node => node.id)")
    assert len(ids) == len(set(ids))
    unnamed = page.evaluate(
        """[...document.querySelectorAll("input, textarea")].filter(node => !node.labels.length).length"""
    )
    assert unnamed == 0
    page.keyboard.press("Tab")
    while (focused := page.evaluate(_FOCUSED)) is not None:
        assert focused["outline"] == "solid", "where the keyboard is shows"
        assert not focused["isInChart"], "nothing in a picture does anything by keys"
        page.keyboard.press("Tab")


def test_without_scripts_the_numbers_are_there(page: Page, tmp_path: Path, run: RunReport) -> None:
    path = tmp_path / "report.html"
    path.write_text(Report((run,), 0.0).html(), encoding="utf-8")
    assert page.context.browser
    context = page.context.browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto(path.as_uri())
    assert plain.get_by_text("need JavaScript").is_visible()
    assert plain.get_by_text("Staple + Classify Documents, 25 sources").is_visible()
    context.close()
