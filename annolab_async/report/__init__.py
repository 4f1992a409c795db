"""A report on runs: ``pip install 'annolab-async[ledger,report]'``.

:func:`read_report` reads it out of a ledger; :class:`Report` saves it as a page or prints it on a terminal. What it
says is there as data, too, without any of the extra's libraries.
"""

from __future__ import annotations

from annolab_async.report._data import (
    Activity,
    BatchReport,
    DurationGroup,
    PlanFacts,
    RunReport,
    Span,
    SpanKind,
    Spread,
)
from annolab_async.report._report import Report, read_report, report_on

__all__ = [
    "Activity",
    "BatchReport",
    "DurationGroup",
    "PlanFacts",
    "Report",
    "RunReport",
    "Span",
    "SpanKind",
    "Spread",
    "read_report",
    "report_on",
]
