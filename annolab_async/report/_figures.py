"""The pictures of a report's page, drawn by Bokeh.

It is typed, draws on a canvas, which 10,000 batches do not slow down, brings its script along in its package (1.3 MB),
and, as long as none of its callbacks is used, evaluates no text as code, so that the page can forbid that.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from bokeh.embed import json_item
from bokeh.layouts import column
from bokeh.models import (
    BoxZoomTool,
    ColumnDataSource,
    FactorRange,
    HoverTool,
    Range1d,
    WheelZoomTool,
)
from bokeh.plotting import figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from annolab_async.report._data import DurationGroup, RunReport

__all__ = ["delays", "durations", "timeline"]

_MOST_GROUPS: Final = 20
_MOST_BARS: Final = 30
_LONGEST_NAME: Final = 16
# Each is told from a white and from a black ground by a contrast of at least 3 : 1.
_QUEUED: Final = "#7f8894"
_FINISHED: Final = "#2b8a57"
_FAILED: Final = "#d8493b"
_RUNNING: Final = "#3b82c4"


def timeline(run: RunReport) -> Any:
    """Return, as JSON for the page's script, what a run did when; the script fills in the batches."""
    began, ended = (run.began or 0) * 1000, (run.ended or 0) * 1000
    room = max((ended - began) * 0.01, 50)
    x = Range1d(start=began - room, end=ended + room, name="time")
    y = Range1d(start=1, end=0, name="rows")
    batches = _figure(380, x_range=x, y_range=y, title="Batches, in the order sent")
    spans = ColumnDataSource({name: [] for name in _SPAN_COLUMNS}, name="spans")
    bars = batches.hbar(
        y="row", left="from", right="to", height=0.8, color="color", source=spans, name="bars"
    )
    ends = ColumnDataSource({name: [] for name in _END_COLUMNS}, name="ends")
    marks = batches.scatter(
        x="to",
        y="row",
        marker="marker",
        size=9,
        line_width=2.5,
        color="color",
        source=ends,
        name="marks",
    )
    batches.add_tools(
        HoverTool(
            renderers=[bars, marks],
            tooltips=_lines([
                ("Batch", "@label"),
                ("Sources", "@size"),
                ("Job", "@job"),
                ("State", "@state"),
                ("Here", "@here"),
                ("Error", "@error"),
            ]),
        )
    )
    batches.yaxis.visible = False
    batches.ygrid.visible = False
    pace = _figure(150, x_range=x, title="Sources a minute; failed hatched")
    flight = _figure(150, x_range=x, title="Unfinished jobs")
    _bars_of(pace, flight, run)
    return json_item(column(batches, pace, flight, sizing_mode="stretch_width"))


_SPAN_COLUMNS: Final = (
    "row",
    "from",
    "to",
    "color",
    "label",
    "size",
    "job",
    "state",
    "here",
    "error",
)
_END_COLUMNS: Final = (*_SPAN_COLUMNS, "marker")


def _bars_of(pace: Any, flight: Any, run: RunReport) -> None:
    source = ColumnDataSource({
        "from": [a.began * 1000 for a in run.activity],
        "to": [(a.began + a.seconds) * 1000 for a in run.activity],
        "good": [a.finished_sources * 60 / a.seconds for a in run.activity],
        "all": [a.sources_per_minute for a in run.activity],
        "flight": [a.in_flight for a in run.activity],
    })
    good = pace.quad(
        left="from", right="to", bottom=0, top="good", color=_FINISHED, line_width=0, source=source
    )
    bad = pace.quad(
        left="from",
        right="to",
        bottom="good",
        top="all",
        color=_FAILED,
        line_width=0,
        # Not everybody tells red from green.
        hatch_pattern="/",
        hatch_color="#000000",
        hatch_scale=8,
        source=source,
    )
    pace.add_tools(
        HoverTool(
            renderers=[good, bad],
            tooltips=_lines([
                ("From", "@from{%T}"),
                ("A minute", "@all{0.0}"),
                ("Well", "@good{0.0}"),
            ]),
            formatters={"@from": "datetime"},
        )
    )
    jobs = flight.quad(
        left="from", right="to", bottom=0, top="flight", color=_RUNNING, line_width=0, source=source
    )
    flight.add_tools(
        HoverTool(
            renderers=[jobs],
            tooltips=_lines([("From", "@from{%T}"), ("Jobs", "@flight")]),
            formatters={"@from": "datetime"},
        )
    )
    for plot in (pace, flight):
        plot.y_range.start = 0


def durations(groups: Sequence[DurationGroup]) -> Any:
    """Return, as JSON for the page's script, how long batches took by model and size."""
    shown = groups[:_MOST_GROUPS]
    # Each is there once; the number tells apart whose names are cut.
    names = [
        f"{place}. {_cut(group.model or 'unknown')} · {group.size}"
        for place, group in enumerate(shown, 1)
    ]
    source = ColumnDataSource({
        "name": names,
        **{
            field: [getattr(group.seconds, field) for group in shown]
            for field in ("count", "least", "quarter", "median", "three_quarters", "p95", "most")
        },
    })
    plot = _figure(
        90 + 34 * len(shown),
        is_time=False,
        y_range=FactorRange(factors=names[::-1]),
        title="Seconds a batch took",
    )
    plot.segment(
        x0="least", x1="p95", y0="name", y1="name", line_width=2, color=_QUEUED, source=source
    )
    boxes = plot.hbar(
        y="name", left="quarter", right="three_quarters", height=0.5, color=_RUNNING, source=source
    )
    # White within black: it is seen on the box as on either ground, where the box has no width.
    for color, width in (("#000000", 6), ("#ffffff", 2)):
        plot.scatter(
            x="median",
            y="name",
            marker="dash",
            angle=1.5708,
            size=18,
            line_width=width,
            color=color,
            source=source,
        )
    plot.add_tools(
        HoverTool(
            renderers=[boxes],
            tooltips=_lines([
                ("", "@name"),
                ("Batches", "@count"),
                ("Least", "@least{0.0} s"),
                ("Median", "@median{0.0} s"),
                ("95 %", "@p95{0.0} s"),
                ("Most", "@most{0.0} s"),
            ]),
        )
    )
    plot.x_range.start = 0
    return json_item(plot)


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"


def delays(run: RunReport) -> Any:
    """Return, as JSON for the page's script, how old ends may have been when they were seen."""
    known = [batch.uncertainty for batch in run.batches if batch.uncertainty is not None]
    width = (max(known) or 1) / _MOST_BARS
    counts = Counter(min(int(seconds // width), _MOST_BARS - 1) for seconds in known)
    source = ColumnDataSource({
        "from": [place * width for place in range(_MOST_BARS)],
        "to": [(place + 1) * width for place in range(_MOST_BARS)],
        "count": [counts[place] for place in range(_MOST_BARS)],
    })
    plot = _figure(170, is_time=False, title="Ends, by seconds of age at most")
    bars = plot.quad(
        left="from", right="to", bottom=0, top="count", color=_RUNNING, line_width=0, source=source
    )
    plot.add_tools(
        HoverTool(renderers=[bars], tooltips=_lines([("Up to", "@to{0.00} s"), ("Ends", "@count")]))
    )
    plot.y_range.start = 0
    return json_item(plot)


def _lines(lines: Sequence[tuple[str, str]]) -> str:
    """Return what is shown where the mouse is: Bokeh's own form of it has labels too pale to be read.

    Bokeh escapes what it puts in the place of names with an @.
    """
    rows = "".join(
        f'<span style="color: var(--soft)">{name}</span><span>{value}</span>'
        for name, value in lines
    )
    grid = "display: grid; grid-template-columns: auto auto; column-gap: 0.8em; max-width: 24rem"
    return f'<div style="{grid}; overflow-wrap: anywhere">{rows}</div>'


def _figure(
    height: int,
    *,
    is_time: bool = True,
    **options: Any,
) -> Any:
    wheel = WheelZoomTool(modifiers="ctrl", dimensions="width")
    return figure(
        height=height,
        sizing_mode="stretch_width",
        x_axis_type="datetime" if is_time else "auto",
        toolbar_location=None,
        # The wheel alone and a finger scroll the page; the script gives the box to mice. Without either, there are the
        # page's own buttons.
        tools=[wheel, BoxZoomTool(dimensions="width")],
        active_scroll=wheel,
        active_drag=None,
        output_backend="canvas",
        # Those above each other have the same times above each other, too.
        min_border_left=55,
        min_border_right=15,
        **options,
    )
