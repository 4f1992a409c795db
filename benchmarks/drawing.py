"""The picture of what a poll costs, as SVG, drawn with the standard library."""

from __future__ import annotations

from html import escape
from math import log10
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["drawn"]

_WIDTH, _HEIGHT = 760, 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 150, 64, 56
_LABEL_HEIGHT: Final = 17
# Colours that can be told apart, by people with colour-blindness too, on white and on black.
_COLOURS: Final = (
    "#d55e00",
    "#e69f00",
    "#cc79a7",
    "#8c7ae6",
    "#0072b2",
    "#56b4e9",
    "#009e73",
    "#808080",
)
_STYLE: Final = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-size: 16px; font-weight: 600 }
.paper { fill: #ffffff }
.grid { stroke: #d0d7de }
polyline { fill: none; stroke-width: 2.5 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .paper { fill: #0d1117 }
  .grid { stroke: #30363d }
}
"""


def drawn(curves: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """Return cost against requests under way at once as an SVG document; both axes are logarithmic.

    Args:
        curves: by name, points of requests under way at once and CPU microseconds of one poll.
    """
    all_x = sorted({x for curve in curves.values() for x, _ in curve})
    all_y = [y for curve in curves.values() for _, y in curve]
    low_x, high_x = all_x[0] / 1.2, all_x[-1] * 1.2
    low_y, high_y = min(all_y) / 1.25, max(all_y) * 1.25

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + (_WIDTH - _LEFT - _RIGHT) * log10(x / low_x) / log10(high_x / low_x),
            _HEIGHT
            - _BOTTOM
            - (_HEIGHT - _TOP - _BOTTOM) * log10(y / low_y) / log10(high_y / low_y),
        )

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">',
        "<title>CPU time of one poll against requests under way at once</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" width="{_WIDTH}" height="{_HEIGHT}" rx="8"/>',
        f'<text class="title" x="{_LEFT}" y="28">What one poll costs</text>',
        f'<text x="{_LEFT}" y="48">CPU microseconds of the client process; peers only fetch and decode</text>',
    ]
    for value in all_x:
        x, y = at(value, low_y)
        parts += [
            f'<line class="grid" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{y:.1f}"/>',
            f'<text x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle">{value}</text>',
        ]
    for value in (d * 10**p for p in range(6) for d in (1, 2, 5)):
        if low_y <= value <= high_y:
            x, y = at(low_x, value)
            parts += [
                f'<line class="grid" x1="{x:.1f}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}"/>',
                f'<text x="{x - 8:.1f}" y="{y + 4:.1f}" text-anchor="end">{value:,}</text>',
            ]
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text x="{middle}" y="{_HEIGHT - 14}" text-anchor="middle">requests under way at once</text>'
    )
    ends: list[tuple[float, float, str]] = []
    for (name, curve), colour in zip(curves.items(), _COLOURS, strict=False):
        spots = [at(*point) for point in curve]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        parts.append(f'<polyline stroke="{colour}" points="{line}"/>')
        parts += [f'<circle fill="{colour}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in spots]
        ends.append((spots[-1][1], spots[-1][0], f'fill:{colour}">{escape(name)}'))
    return "\n".join([*parts, *_labels(ends), "</svg>", ""])


def _labels(ends: Sequence[tuple[float, float, str]]) -> list[str]:
    """Return a label beside the last point of each curve, each moved down until it is clear of the one above."""
    labels: list[str] = []
    clear: dict[float, float] = {}
    for y, x, text in sorted(ends):
        place = max(y + 4, clear.get(x, 0.0))
        clear[x] = place + _LABEL_HEIGHT
        labels.append(f'<text x="{x + 9:.1f}" y="{place:.1f}" style="{text}</text>')
    return labels
