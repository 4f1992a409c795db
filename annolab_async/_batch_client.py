"""What a fan-out needs of a client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from annolab_async._status_source import StatusSource

if TYPE_CHECKING:
    from collections.abc import Iterable

    from annolab_async._exports import Export
    from annolab_async._http import Progress
    from annolab_async._records import InferenceJob, InferenceRequest

__all__ = ["BatchClient"]


class BatchClient(StatusSource, Protocol):
    """What a fan-out needs of a client."""

    def progress(self) -> Progress:
        """Return what is to be told how far a submission has come."""
        ...

    async def submit_once(self, request: InferenceRequest, progress: Progress) -> InferenceJob:
        """Send a batch whose turn it is, once."""
        ...

    async def get_job(self, job: InferenceJob | int) -> InferenceJob:
        """Ask for a job's state."""
        ...

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
        """Have annotations exported."""
        ...
