"""Reports out of ledgers, and of runs that go on."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import anyio
import pytest

from annolab_async import BatchState, FixedInterval, LedgerError, NotOpen
from annolab_async.ledger import MemoryLedger, open_ledger
from annolab_async.report import Report, read_report
from tests.fan_out.service import Service, a_plan, to_end
from tests.report.runs import a_run, after, many
from tests.service import in_process

if TYPE_CHECKING:
    from pathlib import Path

    from annolab_async.ledger import Ledger

pytestmark = [pytest.mark.anyio, pytest.mark.any_backend]


async def test_a_run_tells_of_itself_while_it_goes_on() -> None:
    service = Service(workers=1)
    async with in_process(service) as client:
        async with client.fan_out(a_plan(6), max_in_flight=2) as run:
            with_ends = [record async for record in run if record.state is BatchState.FINISHED]
            (report,) = (await run.report()).runs
        assert len(with_ends) == 3
        assert report.counts == {BatchState.FINISHED: 3}
        assert report.is_over
        assert report.plan.model == "Staple + Classify Documents"
        with pytest.raises(NotOpen):
            await run.report()


async def test_a_run_that_was_left_early_is_told_as_it_stands() -> None:
    service, ledger = Service(workers=1), MemoryLedger()
    async with (
        in_process(service) as client,
        client.fan_out(a_plan(6), ledger=ledger, max_in_flight=2) as run,
    ):
        async for record in run:
            if record.state is BatchState.FINISHED:
                break
    (report,) = (await read_report(ledger)).runs
    assert not report.is_over
    assert report.counts[BatchState.FINISHED] == 1
    assert sum(report.counts.values()) == 3


async def test_how_old_ends_may_have_been_is_told() -> None:
    async with (
        in_process(Service()) as client,
        client.fan_out(a_plan(6), schedule=FixedInterval(4)) as run,
    ):
        await to_end(run)
        (report,) = (await run.report()).runs
    assert report.uncertainty
    assert report.uncertainty.count == 3
    assert report.uncertainty.median == pytest.approx(4, abs=0.5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.db"


async def with_runs(ledger: Ledger, *names: str) -> None:
    async with ledger:
        for name in names:
            run = await ledger.begin_run(name, "plan", details="{}")
            await run.plan([[1, 2], [3]])
            (first,) = await run.claim("me", limit=1, lease_seconds=60)
            await run.change(first, BatchState.ERRORED, owner="me", error=f"of {name}")


@pytest.mark.sockets
@pytest.mark.parametrize("kind", ["memory", "path", "url"])
async def test_all_runs_of_a_ledger_are_told_the_newest_first(kind: str, path: Path) -> None:
    memory = MemoryLedger()
    specs: dict[str, Ledger | str | Path] = {
        "memory": memory,
        "path": path,
        "url": f"sqlite:///{path}".replace(".", "%2E"),
    }
    ledger = specs[kind]
    await with_runs(open_ledger(ledger), "one", "two")
    report = await read_report(ledger)
    assert [run.name for run in report.runs] == ["two", "one"]
    assert [run.batches[0].error for run in report.runs] == ["of two", "of one"]
    assert [len(run.batches) for run in report.runs] == [2, 2]
    assert report.durations == ()


@pytest.mark.sockets
async def test_one_run_is_chosen_by_its_name(path: Path) -> None:
    await with_runs(open_ledger(path), "one", "two")
    assert [run.name for run in (await read_report(path, run="one")).runs] == ["one"]
    with pytest.raises(LedgerError, match=r"it has no run 'three'.* Its runs are 'one', 'two'"):
        await read_report(path, run="three")


@pytest.mark.sockets
async def test_a_ledger_without_runs_has_an_empty_report(path: Path) -> None:
    async with open_ledger(path):
        pass
    report = await read_report(path, at=after(0))
    assert report == Report((), after(0).timestamp())
    with pytest.raises(LedgerError, match=r"no run 'x'.* It has no runs at all"):
        await read_report(path, run="x")
    with pytest.raises(LedgerError, match="in memory"):
        await read_report(MemoryLedger(), run="x")


@pytest.mark.sockets
@pytest.mark.parametrize("spec", ["{}", "sqlite:///{}", "sqlite:///{}?timeout=3"])
async def test_no_ledger_is_made_where_there_is_none(spec: str, path: Path) -> None:
    with pytest.raises(LedgerError, match="there is no such file"):
        await read_report(spec.format(path))
    assert not await anyio.Path(path).exists()


@pytest.mark.sockets
async def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    report = Report((a_run(*many(3)),), 0.0)
    path = anyio.Path(tmp_path) / "report.html"
    await path.write_text("what was here before")
    assert await report.save(str(path)) == tmp_path / "report.html"
    assert (await path.read_text(encoding="utf-8")).endswith("</html>")
    with pytest.raises(FileNotFoundError):
        await report.save(tmp_path / "nowhere" / "report.html")
    await path.unlink()
    await path.mkdir()
    with pytest.raises(OSError, match=r"report\.html"):
        await report.save(tmp_path / "report.html")
    assert [entry.name async for entry in anyio.Path(tmp_path).iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("library", "module", "method", "extra"),
    [("bokeh", "_page", "html", "report"), ("rich", "_terminal", "show", "cli")],
)
def test_without_its_libraries_it_says_what_to_install(
    library: str, module: str, method: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [*sys.modules]:
        if name.partition(".")[0] == library:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, f"annolab_async.report.{module}", raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"needs {library}.*annolab-async\[{extra}\]"):
        getattr(Report((), 0.0), method)()
