"""What the emulated models predict: the same for the same job, source and seed, and never stored. Pure."""

from __future__ import annotations

import hashlib
import re
from array import array
from typing import TYPE_CHECKING, Final

from annolab_async.emulator._annotations import EmulatedAnnotation
from annolab_async.emulator._catalogue import DEFAULT_DIRECTORY, Source

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from annolab_async.emulator._catalogue import Catalogue, Project
    from annolab_async.emulator._jobs import EmulatedJob
    from annolab_async.emulator._settings import Settings

PREDICTED_TYPES: Final = ("Deed", "Mortgage", "Lease", "Release", "Grantor", "Grantee")
_TEXT: Final = (
    "the Grantor of Harris County conveys to Grantee all that tract survey abstract section block"
    " mineral estate lease release mortgage recorded volume page January 1932 Müller Peña heirs"
)
_WORD: Final = re.compile(r"\S+")
_WORDS: Final = _WORD.findall(_TEXT)
_WORDS_PER_TEXT: Final = 24
_LONGEST_SPAN: Final = 4


class Predictions:
    """The annotations that finished jobs have made.

    Args:
        settings: Gives the seed, and how many a source gets at most.
        catalogue: Hands out ids, and knows the texts of sources.
        jobs: All jobs by id.
    """

    def __init__(
        self, settings: Settings, catalogue: Catalogue, jobs: Mapping[int, EmulatedJob]
    ) -> None:
        self._seed = settings.seed
        self._most = settings.most_predictions
        self._catalogue = catalogue
        self._jobs = jobs
        self._first_ids: dict[int, int] = {}

    def expect(self, job: EmulatedJob) -> None:
        """Set aside what the predictions of a job will need: ids, and types in its project."""
        self._first_ids[job.inference_job_id] = self._catalogue.annotation_ids.take(
            self._most * len(job.source_ids)
        )
        project = self._catalogue.projects[job.project_id]
        for name in PREDICTED_TYPES:
            if name not in project.types:
                self._catalogue.create_type(project, name)

    def of_job(
        self, job_id: int, *, now: float, source_ids: frozenset[int] | None = None
    ) -> Iterator[EmulatedAnnotation]:
        """Yield what a job has predicted, source by source; nothing before its end, or if that was bad.

        Args:
            job_id: The job.
            now: Seconds on the emulator's clock.
            source_ids: Yield only what is in these sources; None for all.

        Raises:
            KeyError: There is no such job.
        """
        job = self._jobs[job_id]
        if job.status_at(now) != "Finished":
            return
        project = self._catalogue.projects[job.project_id]
        first_id = self._first_ids[job_id]
        for index, source_id in enumerate(job.source_ids):
            if source_ids is None or source_id in source_ids:
                yield from self._in_source(job, project, source_id, first_id + index * self._most)

    def source(self, project: Project, source_id: int) -> Source:
        """Return a source of a project; one that a batch named and nobody made has a made-up text."""
        if source := project.sources.get(source_id):
            return source
        chances = _chances(f"{self._seed}:text:{source_id}", _WORDS_PER_TEXT)
        return Source(
            id=source_id,
            name=f"source-{source_id}.txt",
            directory_name=DEFAULT_DIRECTORY,
            text=" ".join([_WORDS[chance % len(_WORDS)] for chance in chances]),
        )

    def _in_source(
        self, job: EmulatedJob, project: Project, source_id: int, first_id: int
    ) -> Iterator[EmulatedAnnotation]:
        chances = _chances(
            f"{self._seed}:predictions:{job.inference_job_id}:{source_id}", 1 + 3 * self._most
        )
        if not (count := chances[0] % (self._most + 1)):
            return
        text = self.source(project, source_id).text
        words = [word.span() for word in _WORD.finditer(text)] or [(0, 0)]
        for number in range(count):
            which, first, further = chances[1 + 3 * number : 4 + 3 * number]
            first %= len(words)
            last = min(first + further % _LONGEST_SPAN, len(words) - 1)
            start, end = words[first][0], words[last][1]
            kind = project.types[PREDICTED_TYPES[which % len(PREDICTED_TYPES)]]
            yield EmulatedAnnotation(
                id=first_id + number,
                source_id=source_id,
                type_id=kind.id,
                type_name=kind.name,
                layer_id=job.output_layer_id,
                layer_name=job.output_layer_name,
                value=text[start:end],
                raw_value=text[start:end],
                offsets=(start, end),
                page_number=1,
                end_page_number=1,
                inference_job_id=job.inference_job_id,
            )


def _chances(seed: str, count: int) -> array[int]:
    """Return so many numbers from 0 to 65535 that look like chance; a ``Random`` costs ten times as much to make."""
    return array("H", hashlib.shake_128(seed.encode()).digest(2 * count))
