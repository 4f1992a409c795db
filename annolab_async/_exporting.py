"""The part of a client that has results exported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from annolab_async._export_bodies import export_body, export_job_of, instruments_body
from annolab_async._exports import Export

if TYPE_CHECKING:
    from collections.abc import Iterable

    from annolab_async._export_calls import ExportCalls
    from annolab_async._export_records import ExportJob

__all__ = ["Exporting"]


class Exporting:
    """What a client can do about exports."""

    _exports: ExportCalls

    async def export(
        self,
        *,
        group_name: str,
        project: str | int,
        source_ids: Iterable[int] | None = None,
        layers: Iterable[str] | None = None,
        include_annotation_types: bool = False,
        include_sources: bool = False,
        include_text_bounds: bool = False,
    ) -> Export:
        """Have annotations exported: people's, and what models predicted.

        Args:
            group_name: name of the group that owns the project.
            project: its name, or its id.
            source_ids: only the annotations of these sources; None for all.
            layers: only the annotations in the layers of these names; None for all.
            include_annotation_types: whether the types are to be in the file, too.
            include_sources: whether the sources and their texts are.
            include_text_bounds: whether it is to be told where the texts stand on their pages.

        Returns:
            The export, which has just begun.

        Raises:
            ValueError: an argument makes no sense; the text names every fault.
            RequestNotSent, NoResponse, StatusError, InvalidResponse: it failed, as often as ``retry`` allows.
            NotOpen: the client is used outside its block.
        """
        body = export_body(
            group_name=group_name,
            project=project,
            source_ids=source_ids,
            layers=layers,
            include_annotation_types=include_annotation_types,
            include_sources=include_sources,
            include_text_bounds=include_text_bounds,
        )
        return Export(self._exports, await self._exports.create("/v1/export/project", body))

    async def export_instruments(
        self,
        *,
        project_owner: str,
        project_name: str,
        tag_filter: Iterable[str] | None = None,
        source_filter: Iterable[int] | None = None,
        include_files: bool = False,
    ) -> Export:
        """Have a project's land or aircraft instruments exported.

        Args:
            project_owner: name of the group that owns the project.
            project_name: its name.
            tag_filter: only the instruments with these tags; None for all.
            source_filter: only those of these sources; None for all.
            include_files: whether the sources' own files are to be in the file.

        Returns:
            The export; its :meth:`~Export.archive` tells what is in its file.

        Raises:
            ValueError, RequestNotSent, NoResponse, StatusError, InvalidResponse, NotOpen: as :meth:`export`.
        """
        body = instruments_body(
            project_owner=project_owner,
            project_name=project_name,
            tag_filter=tag_filter,
            source_filter=source_filter,
            include_files=include_files,
        )
        return Export(self._exports, await self._exports.create("/v1/export/instruments", body))

    async def get_export(self, export: ExportJob | int) -> Export:
        """Go on with an export that was made earlier, by this process or another.

        Args:
            export: the export as it was written down, or its id.

        Raises:
            ValueError: that is neither.
            RequestNotSent, NoResponse, StatusError, InvalidResponse: it failed, as often as ``retry`` allows.
            NotOpen: the client is used outside its block.
        """
        handle = Export(self._exports, self._exports.follow(export_job_of(export)))
        await handle.refresh()
        return handle
