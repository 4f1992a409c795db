"""What an export holds, line by line. Pure."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from annolab_async.emulator._archive import Entry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from annolab_async.emulator._annotations import EmulatedAnnotation
    from annolab_async.emulator._catalogue import Project, Source
    from annolab_async.emulator._export_records import EmulatedExport
    from annolab_async.emulator._jobs import EmulatedJob
    from annolab_async.emulator._predictions import Predictions

Line = dict[str, Any]

_UNFIT_FOR_A_NAME: Final = re.compile(r"[^\w .()+-]+")


@frozen
class Extent:
    """How much there was when an export was asked for: jobs in all, the rest in its project."""

    jobs: int
    annotations: int
    relations: int
    sources: int
    layers: int
    types: int


@frozen
class Contents:
    """What an export holds; each method makes the lines of one file.

    Args:
        export: The export.
        extent: How much there was when it was asked for.
        project: Its project.
        jobs: All jobs by id.
        predictions: What they have predicted.
    """

    _export: EmulatedExport
    _extent: Extent
    _project: Project
    _jobs: Mapping[int, EmulatedJob]
    _predictions: Predictions

    @property
    def stem(self) -> str:
        """What the names of its files begin with."""
        return _UNFIT_FOR_A_NAME.sub("-", self._project.name).strip(" .") or "project"

    def annotations(self) -> Iterator[Line]:
        """Yield those made through the API, then the predictions, job by job."""
        for made in islice(self._project.annotations.values(), self._extent.annotations):
            if self._has(made):
                yield made.to_json()
        for job in self._jobs_of_project():
            if not self._has_layer(job.output_layer_name):
                continue
            for annotation in self._predictions.of_job(
                job.inference_job_id,
                now=self._export.requested_at,
                source_ids=self._export.source_ids,
            ):
                yield annotation.to_json()

    def layers(self) -> Iterator[Line]:
        """Yield the layers."""
        for layer in islice(self._project.layers.values(), self._extent.layers):
            if self._has_layer(layer.name):
                yield layer.to_json()

    def relations(self) -> Iterator[Line]:
        """Yield the relations of which both ends are in the export."""
        by_id = self._project.annotations
        for relation in islice(self._project.relations.values(), self._extent.relations):
            ends = by_id[relation.predecessor_id], by_id[relation.successor_id]
            if all(map(self._has, ends)):
                yield relation.to_json()

    def types(self) -> Iterator[Line]:
        """Yield the types."""
        for kind in islice(self._project.types.values(), self._extent.types):
            yield kind.to_json()

    def sources(self) -> Iterator[Line]:
        """Yield the sources."""
        for source in self._sources():
            yield source.to_json()

    def text_bounds(self) -> Iterator[Line]:
        """Yield where the text of each source stands: in one line across its page."""
        for source in self._sources():
            width = 10 * len(source.text)
            ring = [[0, 0], [width, 0], [width, 20], [0, 20], [0, 0]]
            bounds = {"type": "MultiPolygon", "coordinates": [[ring]]}
            yield {"sourceId": source.id, "textBounds": bounds}

    def instruments(self) -> Iterator[Line]:
        """Yield an instrument for each source."""
        for source in self._sources():
            told = source.to_json()
            if not self._export.include_files:
                del told["text"]
            yield told

    def project(self) -> Iterator[Line]:
        """Yield the project."""
        yield {"id": self._project.id, "name": self._project.name}

    def _has(self, annotation: EmulatedAnnotation) -> bool:
        ids = self._export.source_ids
        is_in_source = ids is None or annotation.source_id in ids
        return is_in_source and self._has_layer(annotation.layer_name)

    def _has_layer(self, name: str) -> bool:
        return self._export.layer_names is None or name in self._export.layer_names

    def _jobs_of_project(self) -> Iterator[EmulatedJob]:
        for job_id in range(1, self._extent.jobs + 1):
            job = self._jobs[job_id]
            if job.project_id == self._project.id:
                yield job

    def _sources(self) -> Iterator[Source]:
        ids = self._export.source_ids
        told: set[int] = set()
        for source in islice(self._project.sources.values(), self._extent.sources):
            told.add(source.id)
            if ids is None or source.id in ids:
                yield source
        for job in self._jobs_of_project():
            for source_id in job.source_ids:
                if source_id not in told and (ids is None or source_id in ids):
                    told.add(source_id)
                    yield self._predictions.source(self._project, source_id)


def entries(export: EmulatedExport, contents: Contents) -> Iterator[Entry]:
    """Yield the files of an export, named as the official SDK looks for them.

    Args:
        export: The export.
        contents: What it holds.
    """
    stem = contents.stem
    if export.kind == "instruments":
        yield Entry(f"{stem}.instruments.jsonl", contents.instruments())
        yield Entry(f"{stem}.project.jsonl", contents.project())
        return
    yield Entry(f"{stem}.annotations.jsonl", contents.annotations())
    yield Entry(f"{stem}.layers.jsonl", contents.layers())
    yield Entry(f"{stem}.relations.jsonl", contents.relations())
    if export.include_annotation_types:
        yield Entry(f"{stem}.atntypes.jsonl", contents.types())
    if export.include_sources:
        yield Entry(f"{stem}.sources.jsonl", contents.sources())
    if export.include_text_bounds:
        yield Entry(f"{stem}.text-bounds.jsonl", contents.text_bounds())
