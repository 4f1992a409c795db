"""A report as a page: one file that holds its pictures' script and data, and may load nothing and run nothing else."""

from __future__ import annotations

import json
from base64 import b64encode
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from bokeh.resources import Resources
from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from annolab_async._batch_records import BatchState
from annolab_async.report import _figures as figures, _words as words
from annolab_async.report._build import durations_of
from annolab_async.report._data import SpanKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from annolab_async.report._data import RunReport, Span

__all__ = ["page_of"]

_STATES: Final = tuple(BatchState)
_KINDS: Final = tuple(SpanKind)
_MOST_TROUBLED: Final = 200
_COLUMNS: Final = (
    ("Batch", "number"),
    ("State", "state"),
    ("Sources", "size"),
    ("Job", "job"),
    ("Attempts", "attempts"),
    ("Sent", "sent"),
    ("Took", "duration"),
    ("Seen within", "delay"),
)
# In JSON within a page, these would be read as the page's, or by old scripts as the ends of lines.
_ESCAPES: Final = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


def page_of(runs: Sequence[RunReport], *, made_at: float) -> str:
    """Return the page on runs.

    Args:
        runs: the runs, the newest first.
        made_at: the time, in seconds since 1970.
    """
    groups = durations_of(runs)
    errors = _Texts()
    data = {
        "states": _STATES,
        "kinds": _KINDS,
        "runs": [_run_data(run, errors) for run in runs],
        "durations": figures.durations(groups) if groups else None,
        "errors": errors.texts,
    }
    library, script = _library(), _file("page.js")
    page: str = _template().render(
        title=f"Run {runs[0].name}" if len(runs) == 1 else "Report on AnnoLab batches",
        policy=_policy(library, script),
        style=Markup(_file("page.css")),  # noqa: S704  # the package's own
        library=Markup(library),  # noqa: S704  # Bokeh's own
        script=Markup(script),  # noqa: S704  # the package's own
        data=Markup(json.dumps(data, separators=(",", ":")).translate(_ESCAPES)),  # noqa: S704  # escaped
        runs=runs,
        groups=[
            (f"{group.model or 'model unknown'}, {group.size:,} sources", group.seconds)
            for group in groups
        ],
        made_at=made_at,
        states=_STATES,
        columns=_COLUMNS,
        most_troubled=_MOST_TROUBLED,
    )
    return page


class _Texts:
    """Texts that each stand in the page once, however many batches have them."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._places: dict[str, int] = {}

    def place(self, text: str | None) -> int | None:
        """Return where a text stands; None for none."""
        if text is None:
            return None
        if text not in self._places:
            self._places[text] = len(self.texts)
            self.texts.append(text)
        return self._places[text]


def _run_data(run: RunReport, errors: _Texts) -> dict[str, Any]:
    batches = run.batches
    # Times are counted from the run's beginning: so written they are short.
    base = run.began or 0.0
    spans: list[tuple[int, Span]] = [
        (index, span) for index, batch in enumerate(batches) for span in batch.spans
    ]
    return {
        "base": base,
        "batches": {
            "number": [batch.number for batch in batches],
            "label": [words.label(batch) for batch in batches],
            "state": [_STATES.index(batch.state) for batch in batches],
            "size": [batch.size for batch in batches],
            "job": [batch.inference_job_id for batch in batches],
            "attempts": [batch.attempts for batch in batches],
            "duration": [_rounded(batch.duration) for batch in batches],
            "delay": [_rounded(batch.uncertainty) for batch in batches],
            "error": [errors.place(batch.error) for batch in batches],
        },
        "spans": {
            "batch": [index for index, _ in spans],
            "kind": [_KINDS.index(span.kind) for _, span in spans],
            "from": [_rounded(span.began - base) for _, span in spans],
            "to": [_rounded(span.ended - base) for _, span in spans],
        },
        "charts": {
            "time": figures.timeline(run) if spans else None,
            "delay": figures.delays(run) if run.uncertainty else None,
        },
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


@cache
def _library() -> str:
    (library, *_) = Resources(mode="inline", components=["bokeh"]).js_raw
    # Inside a script, these would end it or hide its end from the page.
    return library.replace("</script", "<\\/script").replace("<!--", "<\\!--").replace("\r\n", "\n")


def _file(name: str) -> str:
    return (files("annolab_async.report") / name).read_text(encoding="utf-8")


def _policy(*scripts: str) -> str:
    sums = [b64encode(sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{value}'" for value in sums)
    return "; ".join((
        "default-src 'none'",
        f"script-src {allowed}",
        # Bokeh sets styles from its script.
        "style-src 'unsafe-inline'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ))


def _template() -> Any:
    environment = Environment(
        loader=DictLoader({"page.html": _file("page.html")}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = environment.filters
    filters |= {
        "facts": words.facts,
        "iso": _iso,
        "label": words.label,
        "number": "{:,}".format,
        "picture": _picture,
        "time": words.as_time,
        "trouble": _trouble,
        "utc": words.as_utc,
        "verdict": words.verdict,
        "word": words.word,
    }
    return environment.get_template("page.html")


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()


def _picture(run: RunReport) -> str:
    """What somebody is told who does not see the picture of a run."""
    return (
        f"What the batches did from {words.as_utc(run.began or 0)} to {words.as_utc(run.ended or 0)}, how many "
        f"sources came to an end each minute, and how many jobs were unfinished. {words.verdict(run)} "
        "The tables below have the numbers."
    )


def _trouble(run: RunReport) -> list[tuple[BatchState, str]]:
    """The source ids of batches in trouble, by their states."""
    ids = {
        state: " ".join(
            str(source_id)
            for batch in run.troubled
            if batch.state is state
            for source_id in batch.source_ids
        )
        for state in words.TROUBLE
    }
    return [(state, text) for state, text in ids.items() if text]
