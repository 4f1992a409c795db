"""A report on a terminal: tables, and lines whose characters are bars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from annolab_async._batch_records import BatchState
from annolab_async.report import _words as words
from annolab_async.report._build import durations_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from annolab_async.report._data import BatchReport, RunReport, Spread

__all__ = ["show", "sparkline"]

_BARS: Final = "▁▂▃▄▅▆▇█"
_PLAIN_BARS: Final = "_.-=+*#@"
_MOST_BARS: Final = 36
_PLAIN_WIDTH: Final = 120
_MOST_TROUBLED: Final = 20
_MOST_IDS: Final = 10
_STYLES: Final = {
    BatchState.FINISHED: "green",
    BatchState.ERRORED: "red",
    BatchState.TIMED_OUT: "magenta",
    BatchState.LOST: "magenta",
    BatchState.UNKNOWN: "yellow",
}


def show(runs: Sequence[RunReport], console: Console | None) -> None:
    """Print a report.

    Args:
        runs: the runs, the newest first.
        console: where; None for standard output.
    """
    if console is None:
        console = Console(highlight=False)
        if not console.is_terminal:  # which has a width of its own; 80 are few
            console.width = max(console.width, _PLAIN_WIDTH)
    if not runs:
        console.print("There are no runs in this ledger.", markup=False)
        return
    bars = _PLAIN_BARS if console.options.ascii_only else _BARS
    for run in runs:
        console.print(_run(run, bars))
    if groups := durations_of(runs):
        rows = [
            (f"{group.model or 'model unknown'}, {group.size:,} sources", group.seconds)
            for group in groups
        ]
        table = _spreads("How long batches took", "Model and size", rows)
        console.print(table)


def sparkline(values: Sequence[float], *, bars: str = _BARS) -> str:
    """Return numbers as a line of bars, the highest for the greatest; what is more than 0 is never as low as 0.

    Args:
        values: the numbers, none below 0; neighbours share a bar if there are many.
        bars: the characters, the lowest first.
    """
    width = min(len(values), _MOST_BARS)
    together = [
        max(values[place * len(values) // width : (place + 1) * len(values) // width])
        for place in range(width)
    ]
    most = max(together, default=0)
    steps = len(bars) - 1
    return "".join(
        bars[0] if not value else bars[max(1, round(value / most * steps))] for value in together
    )


def _run(run: RunReport, bars: str) -> Group:
    facts = Table.grid(padding=(0, 2))
    for name, value in words.facts(run):
        facts.add_row(Text(name, "dim"), Text(value))
    for name, values, unit in (
        ("Sources ended", [part.sources_per_minute for part in run.activity], "a minute"),
        ("Unfinished jobs", [float(part.in_flight) for part in run.activity], ""),
    ):
        if values:
            most = f"  at most {max(values):,.0f} {unit}".rstrip()
            facts.add_row(Text(name, "dim"), Text(sparkline(values, bars=bars) + most))
    parts: list[RenderableType] = [
        Text(f"Run {run.name}", "bold"),
        Text(words.verdict(run)),
        facts,
        _states(run),
    ]
    if run.uncertainty:
        rows = [("All ends", run.uncertainty)]
        parts.append(_spreads("Ends were seen within", "", rows))
    if run.troubled:
        parts.append(_troubled(run.troubled))
    return Group(*parts)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for column in columns:
        is_text = column in {"", "State", "Error", "Source ids", "Model and size"}
        table.add_column(
            column,
            justify="left" if is_text else "right",
            overflow="fold",
            no_wrap=not is_text,
        )
    return table


def _states(run: RunReport) -> Table:
    table = _table("Batches by state", "State", "Batches", "Sources")
    for state in BatchState:
        if count := run.counts.get(state):
            table.add_row(
                Text(words.word(state), _STYLES.get(state, "")),
                f"{count:,}",
                f"{run.sources.get(state, 0):,}",
            )
    return table


def _spreads(title: str, of: str, rows: Sequence[tuple[str, Spread]]) -> Table:
    table = _table(title, of, "Batches", "Least", "Median", "95 %", "Most")
    for name, spread in rows:
        times = (spread.least, spread.median, spread.p95, spread.most)
        table.add_row(Text(name), f"{spread.count:,}", *map(words.as_time, times))
    return table


def _troubled(batches: Sequence[BatchReport]) -> Table:
    title = "Batches in trouble"
    if len(batches) > _MOST_TROUBLED:
        title += f": the first {_MOST_TROUBLED} of {len(batches):,}; the page has all"
    table = _table(title, "Batch", "State", "Job", "Error", "Source ids")
    for batch in batches[:_MOST_TROUBLED]:
        ids = " ".join(map(str, batch.source_ids[:_MOST_IDS]))
        more = len(batch.source_ids) - _MOST_IDS
        table.add_row(
            words.label(batch),
            Text(words.word(batch.state), _STYLES[batch.state]),
            str(batch.inference_job_id or "-"),
            Text(batch.error or "-"),
            f"{ids} and {more:,} more" if more > 0 else ids,
        )
    return table
