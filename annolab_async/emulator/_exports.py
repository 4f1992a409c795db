"""Takes on exports, tells how they are, and gathers what they hold. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from attrs import evolve

from annolab_async.emulator._archive import Archive
from annolab_async.emulator._bodies import (
    Answer,
    Refused,
    flag_fault,
    identifier_fault,
    name_fault,
    names_fault,
    parse_id,
    read_object,
    source_ids_fault,
)
from annolab_async.emulator._contents import Contents, Extent, entries
from annolab_async.emulator._export_records import EmulatedExport
from annolab_async.emulator._links import Links

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from annolab_async.emulator._archive import Entry
    from annolab_async.emulator._bodies import Check
    from annolab_async.emulator._catalogue import Catalogue, Project
    from annolab_async.emulator._jobs import EmulatedJob
    from annolab_async.emulator._predictions import Predictions
    from annolab_async.emulator._projects import Asked
    from annolab_async.emulator._settings import Settings

STATUS_PATH: Final = "/v1/export/status"
DOWNLOADS_PATH: Final = "/exports"
_CACHED_ARCHIVES: Final = 8


class ExportDesk:
    """All exports.

    Args:
        settings: How exports go.
        catalogue: What exists.
        jobs: All jobs by id.
        predictions: What they have predicted.
    """

    def __init__(
        self,
        settings: Settings,
        catalogue: Catalogue,
        jobs: Mapping[int, EmulatedJob],
        predictions: Predictions,
    ) -> None:
        self.exports: dict[int, EmulatedExport] = {}
        self.downloads_url = settings.downloads_url
        self.links = Links(settings.seed)
        self._rules = settings.exports
        self._catalogue = catalogue
        self._jobs = jobs
        self._predictions = predictions
        self._extents: dict[int, Extent] = {}
        self._archives: dict[tuple[int, int], Archive] = {}

    def export_project(self, asked: Asked) -> Answer:
        """Take on an export of annotations.

        Raises:
            Refused: 400 or 404.
        """
        body = read_object(asked.body, _PROJECT, _PROJECT_OPTIONS)
        project = self._catalogue.project(body["projectIdentifier"], body["groupName"])
        names = body.get("annotationLayerNames")
        if unknown := [name for name in names or () if name not in project.layers]:
            raise Refused(404, f"not found: layers {unknown}")
        export = self._take_on(project, asked.now)
        ids = body.get("sourceIds")
        return self._taken(
            asked,
            evolve(
                export,
                source_ids=None if ids is None else frozenset(ids),
                layer_names=None if names is None else frozenset(names),
                include_annotation_types=bool(body.get("includeAnnotationTypes")),
                include_sources=bool(body.get("includeSources")),
                include_text_bounds=bool(body.get("includeTextBounds")),
            ),
        )

    def export_instruments(self, asked: Asked) -> Answer:
        """Take on an export of instruments.

        Raises:
            Refused: 400 or 404.
        """
        body = read_object(asked.body, _INSTRUMENTS, {"includeFiles": flag_fault})
        project = self._catalogue.project(body["projectName"], body["projectOwner"])
        export = self._take_on(project, asked.now)
        return self._taken(
            asked,
            evolve(export, kind="instruments", include_files=bool(body.get("includeFiles"))),
        )

    def status(self, asked: Asked) -> Answer:
        """Tell an export's status, and keep a record of having told it.

        Raises:
            Refused: 404.
        """
        export = self.exports.get(parse_id(asked.path["export_id"]) or 0)
        if export is None:
            raise Refused(404, f"not found: export {asked.path['export_id']!r}")
        status = export.status_at(asked.now)
        body: dict[str, Any] = {
            "id": export.export_id,
            "status": status,
            "projectId": export.project_id,
        }
        if status == "finished":
            path = self.links.sign(
                download_path(export.export_id), asked.now + self._rules.link_seconds
            )
            body["downloadUrl"] = self.downloads_url + path
        elif status == "errored":
            body["error"] = self._rules.error
        self.exports[export.export_id] = export.shown(status, body.get("downloadUrl"))
        return Answer(200, body)

    def archive(self, export_id: int, version: int = 0) -> Archive:
        """Return the zip of an export, perhaps not yet written.

        Args:
            export_id: The export.
            version: In which order its files are: another version has other bytes and the same size.
        """
        key = (export_id, version)
        # The one asked for last goes to the end; one that is dropped can be written again.
        archive = self._archives.pop(key, None) or self.new_archive(export_id, version)
        self._archives[key] = archive
        while len(self._archives) > _CACHED_ARCHIVES:
            del self._archives[next(iter(self._archives))]
        return archive

    def new_archive(self, export_id: int, version: int = 0) -> Archive:
        """Return the zip of an export, to be written by the caller; as for :meth:`archive`.

        Raises:
            KeyError: There is no such export.
        """
        export, extent = self.exports[export_id], self._extents[export_id]
        files = list(self._entries(export, extent))
        turn = version % len(files)
        return Archive(files[turn:] + files[:turn])

    def _take_on(self, project: Project, now: float) -> EmulatedExport:
        export_id = len(self.exports) + 1
        started_at = now + self._rules.wait_seconds
        self._extents[export_id] = Extent(
            len(self._jobs),
            len(project.annotations),
            len(project.relations),
            len(project.sources),
            len(project.layers),
            len(project.types),
        )
        return EmulatedExport(
            export_id=export_id,
            kind="project",
            project_id=project.id,
            project_name=project.name,
            requested_at=now,
            started_at=started_at,
            ended_at=started_at + self._rules.seconds,
            final_status=self._rules.final_status(export_id),
        )

    def _taken(self, asked: Asked, export: EmulatedExport) -> Answer:
        self.exports[export.export_id] = export
        return Answer(
            201,
            {
                "message": "Export initialized",
                "exportStatusUrl": f"{asked.base_url}{STATUS_PATH}/{export.export_id}",
                "exportJob": {
                    "id": export.export_id,
                    "status": "initialized",
                    "projectId": export.project_id,
                },
            },
        )

    def _entries(self, export: EmulatedExport, extent: Extent) -> Iterator[Entry]:
        project = self._catalogue.projects[export.project_id]
        return entries(export, Contents(export, extent, project, self._jobs, self._predictions))


def download_path(export_id: int) -> str:
    """Return the path of an export's zip at the downloads."""
    return f"{DOWNLOADS_PATH}/{export_id}.zip"


_PROJECT: Final[Mapping[str, Check]] = {
    "groupName": name_fault,
    "projectIdentifier": identifier_fault,
}
_PROJECT_OPTIONS: Final[Mapping[str, Check]] = {
    "includeAnnotationTypes": flag_fault,
    "includeSources": flag_fault,
    "includeTextBounds": flag_fault,
    "sourceIds": source_ids_fault,
    "annotationLayerNames": names_fault,
}
_INSTRUMENTS: Final[Mapping[str, Check]] = {"projectOwner": name_fault, "projectName": name_fault}
