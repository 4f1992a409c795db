"""Results that cannot be had."""

from __future__ import annotations

from annolab_async.errors._base import AnnoLabError

__all__ = ["ExportError"]


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
        super().__init__(f"{about}{place}: {what}. {hint}")
