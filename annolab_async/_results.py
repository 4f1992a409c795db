"""What a run has brought: for each source its annotations, and the job that made them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from attrs import frozen

from annolab_async._reading import Records
from annolab_async.errors import ExportError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path
    from typing import Unpack

    from annolab_async._annotations import Annotation
    from annolab_async._batch_client import BatchClient
    from annolab_async._batch_plan import BatchPlan
    from annolab_async._batch_records import BatchRecord
    from annolab_async._download import DownloadProgress
    from annolab_async._exports import Export
    from annolab_async._reading import ReadingOptions

__all__ = ["Results", "RunExport", "SourceResult", "export_of", "results_of", "sources_of"]


class RunExport:
    """The export of a run's finished sources: several exports if there are many sources.

    Attributes:
        parts: the exports.
    """

    def __init__(self, parts: Sequence[Export]) -> None:
        self.parts: tuple[Export, ...] = tuple(parts)

    def __repr__(self) -> str:
        return f"<RunExport {[part.export_id for part in self.parts]}>"

    async def wait(self, timeout: float | None = 3600.0) -> None:
        """Wait until all have finished.

        Args:
            timeout: seconds that each has from when the one before has finished, None for no bound.

        Raises:
            ExportError: as :meth:`Export.wait`.
        """
        for part in self.parts:
            await part.wait(timeout)

    async def download(
        self,
        folder: str | os.PathLike[str],
        *,
        progress: Callable[[DownloadProgress], None] | None = None,
    ) -> list[Path]:
        """Download all their files; see :meth:`Export.download`.

        Args:
            folder: where they are to be, each named after its export; it must exist.
            progress: is told how far each has come.

        Returns:
            The paths of the files.
        """
        name = "{}/export-{}.zip".format
        return [
            await part.download(name(folder, part.export_id), progress=progress)
            for part in self.parts
        ]

    def annotations(self, **options: Unpack[ReadingOptions]) -> Records[Annotation]:
        """Iterate over the annotations of all, one file after the other; see :meth:`Export.annotations`."""
        return Records.of([part.annotations(**options) for part in self.parts])


@frozen
class SourceResult:
    """What a run has brought for one source.

    Attributes:
        source_id: the source.
        annotations: its annotations in the output layer; none if the model found nothing.
        batch: the number of the batch that it was in.
        inference_job_id: the job that made them.
    """

    source_id: int
    annotations: tuple[Annotation, ...]
    batch: int
    inference_job_id: int


class Results(Mapping[int, SourceResult]):
    """What a run has brought, by source id: every source of a finished batch, also those without annotations.

    All of it is in memory; where that is too much, go through ``(await run.export()).annotations()``.
    """

    def __init__(self, of_source: dict[int, SourceResult]) -> None:
        self._of_source = of_source

    def __repr__(self) -> str:
        return f"<Results of {len(self)} sources>"

    def __getitem__(self, source_id: int) -> SourceResult:
        return self._of_source[source_id]

    def __iter__(self) -> Iterator[int]:
        return iter(self._of_source)

    def __len__(self) -> int:
        return len(self._of_source)

    @property
    def without_annotations(self) -> list[int]:
        """The ids of the sources in which the model found nothing."""
        return [result.source_id for result in self.values() if not result.annotations]


async def export_of(
    client: BatchClient,
    plan: BatchPlan,
    parts: Iterable[Sequence[int]],
    *,
    layers: Iterable[str] | None = None,
    **include: bool,
) -> RunExport:
    """Have annotations exported that a run has made.

    Args:
        client: whose exports they are.
        plan: the run's.
        parts: the source ids of each export.
        layers: the names of the layers; None for the output layer, as far as it has a name in the plan.
        include: what else is to be in the files, as :meth:`AsyncInferenceClient.export` takes it.
    """
    output = plan.output_layer_identifier
    if layers is None and isinstance(output, str):
        layers = [output]
    return RunExport([
        await client.export(
            group_name=plan.group_name,
            project=plan.project_identifier,
            source_ids=source_ids,
            layers=layers,
            **include,
        )
        for source_ids in parts
    ])


async def results_of(
    records: Iterable[BatchRecord], exports: RunExport, *, layer: str | int
) -> Results:
    """Return what the jobs of batches have left in a layer.

    Args:
        records: the finished batches.
        exports: the exports of their sources.
        layer: the layer's name or id.

    Raises:
        ExportError: the exports failed, or cannot be read.
    """
    found: dict[int, list[Annotation]] = {
        source_id: [] for record in records for source_id in record.source_ids
    }
    async for annotation in exports.annotations():
        # The server may have exported more than was asked for.
        if annotation.source_id in found and _is_in(annotation, layer):
            found[annotation.source_id].append(annotation)
    return Results({
        source_id: SourceResult(
            source_id, tuple(found[source_id]), record.number, record.inference_job_id or 0
        )
        for record in records
        for source_id in record.source_ids
    })


def _is_in(annotation: Annotation, layer: str | int) -> bool:
    told = annotation.layer_name if isinstance(layer, str) else annotation.layer_id
    return told is None or told == layer


def sources_of(records: Iterable[BatchRecord], *, at_once: int = 10_000) -> Iterator[list[int]]:
    """Yield the source ids of batches, so many at a time.

    Raises:
        ExportError: there are none.
        ValueError: ``at_once`` makes no sense.
    """
    if type(at_once) is not int or at_once < 1:
        raise ValueError(f"sources_at_once is {at_once!r}, not an integer from 1 up")
    source_ids = [source_id for record in records for source_id in record.source_ids]
    if not source_ids:
        raise ExportError(
            what="no source of the run has finished",
            hint="Iterate over the run until batches have FINISHED.",
        )
    for first in range(0, len(source_ids), at_once):
        yield source_ids[first : first + at_once]
