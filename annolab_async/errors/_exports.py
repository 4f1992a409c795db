"""Results that cannot be had."""

from __future__ import annotations

from typing import Self

from annolab_async.errors._base import AnnoLabError
from annolab_async.errors._jobs import WaitTimeout, shown_word

__all__ = ["ExportError", "ExportTimeout"]


class ExportError(AnnoLabError):
    """An export failed at the server, its file cannot be had whole, or what is in the file cannot be read.

    Attributes:
        what: what happened.
        hint: how to mend it.
        export_id: the export, None where it is a file alone.
        file: the file, or the one inside the archive, that is at fault; None if none is.
        line: the line of that file, from 1 up, None if no line is.
    """

    def __init__(
        self,
        *,
        what: str,
        hint: str,
        export_id: int | None = None,
        file: str | None = None,
        line: int | None = None,
    ) -> None:
        self.what = what
        self.hint = hint
        self.export_id = export_id
        self.file = file
        self.line = line
        about = f"Export {export_id}" if export_id is not None else "The export"
        place = f" ({file}{f', line {line}' if line is not None else ''})" if file else ""
        # Not super(): in ExportTimeout the next class in line is WaitTimeout.
        AnnoLabError.__init__(self, f"{about}{place}: {what}. {hint}")


class ExportTimeout(ExportError, WaitTimeout):
    """An export did not end within the time given to it. It goes on at the server.

    Both an :class:`ExportError` and a :class:`WaitTimeout`, whose ``inference_job_id`` is then the export's id.
    """

    @classmethod
    def of(cls, *, export_id: int, status: str, timeout: float) -> Self:
        """Return what is raised of an export that was last seen with a status."""
        error = cls(
            what=f"it has not ended within {timeout:g} s (last seen {shown_word(status)})",
            hint="It goes on at the server: wait for it again, or longer.",
            export_id=export_id,
        )
        error.inference_job_id = export_id
        error.job = None
        error.timeout = timeout
        return error
