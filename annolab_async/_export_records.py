"""Exports as the server describes them. Pure."""

from __future__ import annotations

import json
import re
from enum import StrEnum, auto
from typing import Any, Final

from attrs import Factory, field, frozen

from annolab_async._converter import decode_json, structure, unstructure

__all__ = ["Created", "ExportJob", "ExportState", "Told", "export_id_of", "status_path_of"]

_TAIL: Final = re.compile(r"/([1-9][0-9]{0,17})/?$")
_PLAIN_PATH: Final = re.compile(r"(/[A-Za-z0-9_-]+)+")


class ExportState(StrEnum):
    """What an export's status word means; a word that is not known means nothing, least of all an end."""

    INITIALIZED = auto()
    STARTED = auto()
    FINISHED = auto()
    ERRORED = auto()
    UNKNOWN = auto()

    @classmethod
    def of(cls, status: str) -> ExportState:
        """Return the meaning of a status word, in any case; UNKNOWN for one that is not documented."""
        word = status.lower()
        # The vendor's SDK spells it like that.
        return cls.INITIALIZED if word == "initalized" else _STATES.get(word, cls.UNKNOWN)

    @property
    def is_terminal(self) -> bool:
        """Whether an export in this state has ended for good."""
        return self is ExportState.FINISHED or self is ExportState.ERRORED


_STATES: Final = {state.value: state for state in ExportState if state is not ExportState.UNKNOWN}


@frozen
class ExportJob:
    """An export as the server last described it, without the link to its file.

    Attributes:
        export_id: the server's id of the export.
        status: the status word as the server sent it.
        status_path: where to ask for it, below the base URL.
        project_id: the project that is exported, None where the server did not say.
        error: why it failed, None if it did not or the server did not say.
        state: what the status word means.
    """

    export_id: int
    status: str
    status_path: str
    project_id: int | None = None
    error: str | None = None
    state: ExportState = field(
        init=False,
        repr=False,
        eq=False,
        default=Factory(lambda job: ExportState.of(job.status), takes_self=True),
    )

    def to_json(self) -> str:
        """Return the export as a line of JSON, with which another process can go on with it."""
        return json.dumps(unstructure(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> ExportJob:
        """Return the export that :meth:`to_json` wrote down.

        Raises:
            ValueError: the text is something else; what is wrong is named.
        """
        job = structure(cls, decode_json(text))
        if job.export_id < 1 or not _PLAIN_PATH.fullmatch(job.status_path):
            raise ValueError("exportId or statusPath is none")
        return job


@frozen
class _Job:
    id: int | None = None
    status: str | None = None
    project_id: int | None = None


@frozen
class Created:
    """The answer to the request for an export, as far as it is read."""

    export_status_url: str | None = None
    export_job: _Job | None = None


@frozen
class Told:
    """The answer to a question for an export's status, as far as it is read.

    Attributes:
        error: why it failed, in whatever form.
        download_url: the signed link to its file; it is shown nowhere.
    """

    status: str
    id: int | None = None
    project_id: int | None = None
    error: Any = None
    download_url: str | None = field(default=None, repr=False)


def export_id_of(created: Created, path: str | None) -> int | None:
    """Return the id of an export that was created, from its record or from the end of its status path."""
    job = created.export_job
    if job is not None and job.id is not None and job.id > 0:
        return job.id
    found = None if path is None else _TAIL.search(path)
    return int(found[1]) if found else None


def status_path_of(export_id: int, path: str | None) -> str:
    """Return where to ask for an export: where the server says, if that is a plain path below the base URL."""
    if (
        path
        and _PLAIN_PATH.fullmatch(path)
        and (found := _TAIL.search(path))
        and int(found[1]) == export_id
    ):
        return path
    return f"/v1/export/status/{export_id}"
