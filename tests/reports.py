"""What a failed test prints: how it failed, in less than 200 lines, whatever was logged meanwhile."""

from __future__ import annotations

import io
from typing import Final

import pytest
from _pytest._code.code import TerminalRepr
from _pytest._io import TerminalWriter

_TRACEBACK_LINES: Final = 110
_CAPTURED_LINES: Final = 60


class _Shortened(TerminalRepr):
    def __init__(self, whole: TerminalRepr) -> None:
        # The line that names the test at the end of the run has its message from this.
        self.reprcrash = getattr(whole, "reprcrash", None)
        self._whole = whole

    def toterminal(self, tw: TerminalWriter) -> None:
        text = io.StringIO()
        writer = TerminalWriter(text)
        writer.hasmarkup = tw.hasmarkup
        self._whole.toterminal(writer)
        tw.write(_ends_of(text.getvalue(), _TRACEBACK_LINES) + "\n")


def _ends_of(text: str, most: int) -> str:
    lines = text.rstrip("\n").split("\n")
    if len(lines) <= most:
        return text.rstrip("\n")
    begin = most // 4
    left_out = f"[{len(lines) - most + 1} lines left out]"
    return "\n".join([*lines[:begin], left_out, *lines[begin + 1 - most :]])


class Shortening:
    """Leaves out the middle of what is long in the report of a failed test: a traceback, and what was captured."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Shorten a report before anybody shows it."""
        if not report.failed:
            return
        if isinstance(report.longrepr, TerminalRepr):
            report.longrepr = _Shortened(report.longrepr)
        elif isinstance(report.longrepr, str):
            report.longrepr = _ends_of(report.longrepr, _TRACEBACK_LINES)
        most = _CAPTURED_LINES // max(1, len(report.sections))
        report.sections[:] = [(name, _ends_of(text, most)) for name, text in report.sections]
