"""What a poll costs: ``python -m benchmarks.poll_cost``.

Prints the CPU time of one poll, of this library and of its peers, and the targets, met or missed; ``--json`` writes
all figures, ``--svg`` draws cost against requests under way at once. ``--quick`` runs what the targets need, once.
Exits with 1 if a ratio is twice its target or more.

Every contender runs in a process of its own, the server in another; contenders take turns, round after round, and
their figures are scaled by a yardstick that is run between the segments of a run (``meter.py``). What hooks add is
less than what one process differs from the next: with and without them take turns in one process.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
import tracemalloc
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import anyio
from attrs import frozen

from annolab_async import InferenceWatcher
from benchmarks.canned_server import canned_server
from benchmarks.drawing import drawn
from benchmarks.judging import Target, facts, judge, machine_line, target_table
from benchmarks.meter import Meter
from benchmarks.peers import CONTENDERS, PREDICTIVE_AT_ONCE, InMemory

if TYPE_CHECKING:
    from collections.abc import Iterable

    Row = tuple[str, str]
    Costs = dict[Row, dict[int, float]]

_PEERS: Final = ("httpx", "httpx2", "aiohttp", "requests", "openai", "azure-core", "anyio", "trio")
_MANY: Final = 100_000
_FEW: Final = 1_000
_AT: Final = 128
_MB: Final = 1e6
_RUN_SECONDS: Final = 120.0
_HOOKED: Final = [
    (name, f"{name}, {what}")
    for name in ("default install", "aiohttp")
    for what in ("hooks", "OpenTelemetry")
]
_DRAWN: Final = {
    ("plain httpx", "asyncio"): "plain httpx",
    ("plain httpx2", "asyncio"): "plain httpx2",
    ("openai", "asyncio"): "openai",
    ("azure-core", "asyncio"): "azure-core",
    ("default install", "asyncio"): "default install",
    ("default install", "trio"): "default, trio",
    ("aiohttp", "asyncio"): "with aiohttp",
    ("raw aiohttp", "asyncio"): "raw aiohttp",
}


@frozen
class Effort:
    """How much is measured.

    Attributes:
        rounds: how often each contender has its turn.
        segments: of one run, measured.
        seconds: CPU seconds of a segment, at least.
        turns: how often with and without hooks have theirs.
        only: who takes part and with how many permits, None for all.
    """

    rounds: int
    segments: int
    seconds: float
    turns: int = 0
    only: dict[str, tuple[int, ...]] | None = None

    def rows(self) -> list[tuple[Row, tuple[int, ...]]]:
        """Return who takes part, on which loop, with how many permits."""
        names = CONTENDERS if self.only is None else self.only
        return [
            ((name, loop), CONTENDERS[name].permits if self.only is None else self.only[name])
            for name in names
            for loop in CONTENDERS[name].loops
        ]


_WHOLE: Final = Effort(rounds=3, segments=3, seconds=0.2, turns=15)
_QUICK: Final = Effort(
    rounds=1,
    segments=3,
    seconds=0.1,
    turns=5,
    only={
        "plain httpx": (128,),
        "default install": (16, 128, 512),
        "aiohttp": (128,),
        "raw aiohttp": (128,),
        **{
            f"{jobs:,} jobs, {name}": (128,)
            for jobs in (_FEW, _MANY)
            for name in ("FixedInterval", "Predictive")
        },
    },
)


async def _measured(name: str, base: str, permits: int, effort: Effort) -> float:
    gc.collect()
    meter = Meter(segments=effort.segments, seconds=effort.seconds, first_polls=2 * permits)
    await CONTENDERS[name].run(meter, base, permits)
    return meter.microseconds


def _in_child(*arguments: str) -> Any:
    """Run one of the hidden commands in a fresh process; return what it printed, decoded."""
    done = subprocess.run(  # noqa: S603  # itself
        [sys.executable, "-m", "benchmarks.poll_cost", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        timeout=_RUN_SECONDS,
        check=True,
    )
    return json.loads(done.stdout)


def _costs(effort: Effort) -> dict[Row, dict[int, list[float]]]:
    """Return the cost of each contender's polls by permits, one figure a round."""
    rows = effort.rows()
    costs: dict[Row, dict[int, list[float]]] = {row: {} for row, _ in rows}
    with canned_server() as base:
        for number in range(effort.rounds):
            for (name, loop), permits in rows:
                print(
                    f"\rround {number + 1}/{effort.rounds}: {name}, {loop:20}",
                    end="",
                    file=sys.stderr,
                )
                order: dict[str, Any] = {
                    "name": name,
                    "loop": loop,
                    "base": base,
                    "permits": permits,
                }
                order |= {"segments": effort.segments, "seconds": effort.seconds}
                for at_once, cost in _in_child("--run", json.dumps(order)):
                    costs[name, loop].setdefault(at_once, []).append(cost)
    print(f"\r{'':60}\r", end="", file=sys.stderr)
    return costs


def _shares(effort: Effort) -> dict[str, float]:
    """Return what a poll with hooks costs, as a share of one without."""
    shares: dict[str, float] = {}
    with canned_server() as base:
        for name, hooked in _HOOKED:
            print(f"\r{hooked:60}", end="", file=sys.stderr)
            order = {"names": [name, hooked], "base": base, "turns": effort.turns}
            shares[hooked] = _in_child("--compare", json.dumps(order))
    print(f"\r{'':60}\r", end="", file=sys.stderr)
    return shares


async def _compare(order: dict[str, Any]) -> float:
    effort = Effort(rounds=1, segments=1, seconds=0.2)
    without, hooked = order["names"]
    shares: list[float] = []
    before = await _measured(without, order["base"], _AT, effort)
    for _ in range(order["turns"]):
        cost = await _measured(hooked, order["base"], _AT, effort)
        after = await _measured(without, order["base"], _AT, effort)
        shares.append(cost / (before + after) * 2)
        before = after
    return median(shares)


def _run(order: dict[str, Any]) -> list[tuple[int, float]]:
    effort = Effort(rounds=1, segments=order["segments"], seconds=order["seconds"])

    async def run() -> list[tuple[int, float]]:
        return [
            (permits, await _measured(order["name"], order["base"], permits, effort))
            for permits in order["permits"]
        ]

    return anyio.run(run, backend=order["loop"])


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / _MB


async def _memory(*, is_traced: bool) -> float:
    """Return the MB that watching 100,000 jobs adds, when each has been asked for and iterated over."""
    async with InferenceWatcher(
        InMemory(), [1], max_concurrent_polls=16, schedule=PREDICTIVE_AT_ONCE
    ) as watcher:
        await anext(watcher)  # what is imported or made only once is there
        gc.collect()
        if is_traced:
            tracemalloc.start()
        before = _resident()
        watcher.add(*range(2, _MANY + 2))
        for _ in range(_MANY):
            await anext(watcher)
        gc.collect()
        return tracemalloc.get_traced_memory()[0] / _MB if is_traced else _resident() - before


def _targets(costs: Costs, shares: dict[str, float], memory: dict[str, float]) -> list[Target]:
    plain = costs["plain httpx", "asyncio"][_AT]
    raw = costs["raw aiohttp", "asyncio"][_AT]
    aiohttp = costs["aiohttp", "asyncio"][_AT]
    targets: list[Target] = []
    for loop in ("asyncio", "trio"):
        ours = costs["default install", loop]
        targets += [
            Target(f"default install, {loop} / plain httpx, 128 at once", ours[_AT] / plain, 1 / 4),
            Target(f"default install, {loop}: 512 / 16 at once", ours[512] / ours[16], 1.3),
        ]
    targets += [
        Target("aiohttp / plain httpx, 128 at once", aiohttp / plain, 1 / 12),
        Target("aiohttp / raw aiohttp, 128 at once", aiohttp / raw, 1.5),
    ]
    targets += [
        Target(f"{hooked} / {name}, 128 at once", shares[hooked], 1.1) for name, hooked in _HOOKED
    ]
    for name in ("FixedInterval", "Predictive"):
        many, few = (costs[f"{jobs:,} jobs, {name}", "asyncio"][_AT] for jobs in (_MANY, _FEW))
        targets.append(Target(f"scheduling, {name}: 100,000 / 1,000 jobs", many / few, 1.3))
    targets += [
        Target(f"MB added by 100,000 jobs, {how}", size, 150.0) for how, size in memory.items()
    ]
    return targets


def _table(costs: Costs) -> Iterable[str]:
    columns = sorted({permits for row in costs.values() for permits in row})
    plain = costs["plain httpx", "asyncio"][_AT]
    yield (
        "| CPU us of one poll | loop | "
        + " | ".join(map(str, columns))
        + " | plain httpx / this | 512 / 16 | |"
    )
    yield "| --- | --- |" + " ---: |" * (len(columns) + 2) + " --- |"
    for (name, loop), row in costs.items():
        cells = [f"{row[permits]:.0f}" if permits in row else "" for permits in columns]
        times = f"{plain / row[_AT]:.1f}" if _AT in row else ""
        growth = f"{row[512] / row[16]:.2f}" if {16, 512} <= row.keys() else ""
        yield " | ".join([f"| {name}", loop, *cells, times, growth, CONTENDERS[name].note]) + " |"


def main() -> None:
    """Measure, print, write, draw, and judge."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.poll_cost", description="What a poll costs."
    )
    parser.add_argument("--quick", action="store_true", help="only what the targets need, once")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    parser.add_argument(
        "--svg", type=Path, help="where to draw cost against requests under way at once"
    )
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--compare", help=argparse.SUPPRESS)
    parser.add_argument("--memory", choices=("traced", "resident"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(_run(json.loads(options.run))))
    elif options.compare:
        print(json.dumps(anyio.run(_compare, json.loads(options.compare))))
    elif options.memory:
        size = anyio.run(lambda: _memory(is_traced=options.memory == "traced"))
        print(json.dumps(size))
    else:
        sys.exit(_bench(quick=options.quick, json_file=options.json, svg_file=options.svg))


def _bench(*, quick: bool, json_file: Path | None, svg_file: Path | None) -> int:
    begun = time.monotonic()
    effort = _QUICK if quick else _WHOLE
    all_costs = _costs(effort)
    costs = {
        row: {permits: median(figures) for permits, figures in by_permits.items()}
        for row, by_permits in all_costs.items()
    }
    shares = _shares(effort)
    memory = {"RSS": _in_child("--memory", "resident")}
    if not quick:
        memory["tracemalloc"] = _in_child("--memory", "traced")
    targets = _targets(costs, shares, memory)
    print("\n".join([*_table(costs), "", *target_table(targets), ""]))
    print(machine_line(begun))
    if json_file:
        figures = [
            {"contender": name, "loop": loop, "permits": permits, "microseconds": rounds}
            for (name, loop), by_permits in all_costs.items()
            for permits, rounds in by_permits.items()
        ]
        result = facts(targets) | {
            "versions": {name: version(name) for name in _PEERS},
            "polls": figures,
        }
        json_file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if svg_file:
        curves = {label: [*costs[row].items()] for row, label in _DRAWN.items() if row in costs}
        svg_file.write_text(drawn(curves), encoding="utf-8")
    return judge(targets)


if __name__ == "__main__":
    main()
