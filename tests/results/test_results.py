"""What a run has brought, put together from its exports: each part by itself, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from annolab_async import Annotation, BatchPlan, ExportError
from annolab_async._results import (
    Results,
    RunExport,
    SourceResult,
    export_of,
    results_of,
    sources_of,
)
from tests.report.runs import History

if TYPE_CHECKING:
    from annolab_async._batch_records import BatchRecord

pytestmark = [pytest.mark.anyio, pytest.mark.any_backend]


class Part:
    """An export as a run's knows it."""

    def __init__(self, export_id: int, *annotations: Annotation) -> None:
        self.export_id = export_id
        self.asked: list[Any] = []
        self._annotations = annotations

    async def wait(self, timeout: float | None) -> None:
        self.asked.append(timeout)

    async def download(self, path: str, *, progress: Any) -> Path:
        self.asked.append((path, progress))
        return Path(path)


def run_export(*parts: Part) -> RunExport:
    return RunExport(cast("Any", parts))


async def test_all_parts_are_waited_for_and_downloaded(tmp_path: Path) -> None:
    parts = Part(7), Part(9)
    exports = run_export(*parts)
    assert [*map(id, exports.parts)] == [*map(id, parts)]
    assert repr(exports) == "<RunExport [7, 9]>"
    await exports.wait()
    await exports.wait(5.0)
    await exports.wait(None)
    paths = await exports.download(tmp_path, progress=print)
    assert paths == [tmp_path / "export-7.zip", tmp_path / "export-9.zip"]
    for part, path in zip(parts, paths, strict=True):
        assert part.asked == [3600.0, 5.0, None, (str(path), print)]


class Client:
    """Keeps what exports are asked for."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    async def export(self, **options: Any) -> Part:
        self.asked.append(options)
        return Part(len(self.asked))


@pytest.mark.parametrize(
    ("output", "layers", "asked"),
    [("Gold", None, ["Gold"]), (12, None, None), ("Gold", ["a", "b"], ["a", "b"]), (12, [], [])],
)
async def test_a_run_is_exported_part_by_part(
    output: str | int, layers: list[str] | None, asked: list[str] | None
) -> None:
    plan = BatchPlan(
        group_name="Company Name",
        project_identifier=3,
        model_identifier="Staple",
        output_layer_identifier=output,
        source_ids=[1, 2, 3],
        batch_size=2,
    )
    client = Client()
    parts = [[1, 2], [3]]
    found = await export_of(cast("Any", client), plan, parts, layers=layers, include_sources=True)
    assert [part.export_id for part in found.parts] == [1, 2]
    assert client.asked == [
        {
            "group_name": "Company Name",
            "project": 3,
            "source_ids": source_ids,
            "layers": asked,
            "include_sources": True,
        }
        for source_ids in parts
    ]


class Exported:
    """Exports that hold some annotations."""

    def __init__(self, *annotations: Annotation) -> None:
        self._annotations = annotations

    async def annotations(self) -> Any:
        for annotation in self._annotations:
            yield annotation


def records() -> list[BatchRecord]:
    return [
        History(1, [1, 2]).sent(1, job_id=5).record,
        History(2, [3]).sent(1, job_id=6).record,
        History(3, [4]).record,  # of which no job is known
    ]


@pytest.mark.parametrize(("layer", "ids"), [("Gold", [10, 11, 13]), (12, [10, 12, 13])])
async def test_a_result_is_what_is_in_the_layer_or_does_not_say_in_which(
    layer: str | int, ids: list[int]
) -> None:
    exports = Exported(
        Annotation(source_id=1, id=10, layer_name="Gold", layer_id=12),
        Annotation(source_id=1, id=11, layer_name="Gold", layer_id=13),
        Annotation(source_id=1, id=12, layer_name="Other", layer_id=12),
        Annotation(source_id=1, id=13),
        Annotation(source_id=9, id=14),  # which nobody had asked for
    )
    results = await results_of(records(), cast("Any", exports), layer=layer)
    assert [annotation.id for annotation in results[1].annotations] == ids
    assert [*results] == [1, 2, 3, 4]
    assert len(results) == 4
    assert repr(results) == "<Results of 4 sources>"
    assert results.without_annotations == [2, 3, 4]
    assert [(each.batch, each.inference_job_id) for each in results.values()] == [
        (1, 5),
        (1, 5),
        (2, 6),
        (3, 0),
    ]
    assert results[3] == SourceResult(3, (), 2, 6)
    assert isinstance(results, Results)
    with pytest.raises(KeyError):
        results.__getitem__(9)


def test_sources_are_given_out_so_many_at_a_time() -> None:
    assert [*sources_of(records(), at_once=1)] == [[1], [2], [3], [4]]
    assert [*sources_of(records(), at_once=3)] == [[1, 2, 3], [4]]
    assert [*sources_of(records(), at_once=4)] == [*sources_of(records())] == [[1, 2, 3, 4]]
    many = [History(1, range(1, 10_002)).record]
    assert [len(part) for part in sources_of(many)] == [10_000, 1]
    for wrong in (0, -1, True, 2.0):
        with pytest.raises(ValueError, match=f"sources_at_once is {wrong!r}, not an integer"):
            [*sources_of(records(), at_once=wrong)]  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="no source of the run has finished"):
        next(sources_of([]))
