"""What tests see and point at in a report's page."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

__all__ = [
    "contrast",
    "contrasts",
    "drawn_batches",
    "edge",
    "glyphs",
    "model",
    "pixels",
    "range_of",
    "rows",
    "time_range",
    "tooltip_of",
]

_PIXELS = """canvas => {
    // A copy: a canvas that is read often is drawn another way, and the browser says so.
    const copy = new OffscreenCanvas(canvas.width, canvas.height);
    const context = copy.getContext("2d", {willReadFrequently: true});
    context.drawImage(canvas, 0, 0);
    const {data} = context.getImageData(0, 0, canvas.width, canvas.height);
    const colors = new Uint32Array(data.buffer);
    return [new Set(colors).size, ...data.slice(8 * (canvas.width + 1), 8 * (canvas.width + 1) + 3)];
}"""


def pixels(page: Page, chart: str) -> tuple[int, list[int]]:
    """Return how many colors there are in a picture, and the color near its corner."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")
    count, *corner = page.locator(f"{chart} canvas").first.evaluate(_PIXELS)
    return count, corner


def edge(page: Page, chart: str) -> list[int]:
    """Return the color of a picture's left edge."""
    color: list[int] = page.locator(f"{chart} canvas").first.evaluate(
        """canvas => {
            const context = new OffscreenCanvas(1, 1).getContext("2d");
            context.drawImage(canvas, 0, -5);
            return [...context.getImageData(0, 0, 1, 1).data.slice(0, 3)];
        }"""
    )
    return color


def tooltip_of(page: Page, label: str, *, searched: str) -> str:
    """Return what is shown where the mouse points at the middle of a batch, which is looked for alone."""
    page.get_by_role("searchbox").fill(searched)
    assert drawn_batches(page) == {label}
    begins, ends = page.evaluate(
        f"(({{data}}) => [data.from.at(-1), data.to.at(-1)])({model('spans')})"
    )
    start, end = time_range(page)
    chart = page.locator("#chart-time-0")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    assert box
    # What is left and right of the picture itself are its borders.
    left, width = box["x"] + 55, box["width"] - 70
    page.mouse.move(left + width * ((begins + ends) / 2 - start) / (end - start), box["y"] + 200)
    tooltip = page.locator(".bk-Tooltip div[style*=grid]")
    tooltip.wait_for()
    return tooltip.inner_text()


def model(name: str) -> str:
    return f"Bokeh.documents.map(doc => doc.get_model_by_name({name!r})).find(Boolean)"


def rows(page: Page) -> Locator:
    return page.locator("table.batches tbody tr")


def drawn_batches(page: Page) -> set[str]:
    found: list[str] = page.evaluate(f"{model('spans')}.data.label")
    return set(found)


def range_of(page: Page, name: str) -> tuple[float, float]:
    start, end = page.evaluate(f"(({{start, end}}) => [start, end])({model(name)})")
    return start, end


def time_range(page: Page) -> tuple[float, float]:
    return range_of(page, "time")


def glyphs(page: Page, title: str) -> list[dict[str, str | None]]:
    """Return how the marks in the picture of that title are drawn, from the lowest to the topmost."""
    found: list[dict[str, str | None]] = page.evaluate(
        """title => Bokeh.documents.flatMap(doc => [...doc._all_models.values()])
            .find(model => model.title?.text === title).renderers.map(({glyph}) => ({
                fill: glyph.fill_color?.value ?? null, line: glyph.line_color?.value ?? null,
                hatch: glyph.hatch_pattern?.value ?? null,
            }))""",
        title,
    )
    return found


def contrast(one: str | None, other: str | None) -> float:
    """Return the contrast of two colors, as the WCAG count it."""
    dark, light = sorted(_luminance(color or "") for color in (one, other))
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: str) -> float:
    if color.startswith("#"):
        numbers = [int(part, 16) / 255 for part in re.findall("[0-9a-f]{2}", color)]
    else:
        numbers = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in numbers]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


_TEXTS = """() => {
    const ground = (node) => {
        for (; node; node = node.parentElement) {
            const color = getComputedStyle(node).backgroundColor;
            if (!color.startsWith("rgba(")) return color;
        }
        return "rgb(255, 255, 255)";
    };
    const texts = [];
    for (const node of document.querySelectorAll("body *")) {
        if (!node.checkVisibility() || node.disabled) continue;
        if ([...node.childNodes].some(child => child.nodeType === 3 && child.data.trim()))
            texts.push([node.tagName + "." + node.className, getComputedStyle(node).color, ground(node)]);
    }
    return texts;
}"""


def contrasts(page: Page) -> list[tuple[str, float]]:
    """Return for each text that is seen what it is, and its contrast to its ground as the WCAG count it."""
    found: list[tuple[str, float]] = []
    for name, *colors in page.evaluate(_TEXTS):
        found.append((f"{name}: {colors}", contrast(*colors)))
    return found
