"""What reading an export costs: ``python -m benchmarks.export_reading``.

Prints the time and the memory of reading two million annotations, by this library and by a plain loop of ``zipfile``
and ``json.loads``, and the targets, met or missed; ``--json`` writes all figures. ``--quick`` reads fewer lines.
Exits with 1 if a ratio is twice its target or more.

Each turn is a process of its own; the plain loop has its turn before and after each of ours, and the ratio of a round
is to the mean of both, since machines are noisy.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import anyio
from attrs import asdict, frozen

from annolab_async import Annotation
from annolab_async._reading import read_records
from benchmarks.judging import Target, facts, judge, machine_line, target_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_WHOLE: Final = 2_000_000
_QUICK: Final = 100_000
_ROUNDS: Final = 2
_TURN_SECONDS: Final = 200.0
_MB: Final = 1e6
_ENTRY: Final = "export.annotations.jsonl"
_OURS: Final = ("asyncio", "trio")


@frozen
class Turn:
    """What one reading of the whole file took.

    Attributes:
        lines: how many records came out.
        seconds: by the clock, without the start of the process.
        cpu: of the processor.
        growth: MB of memory at the highest, more than before.
    """

    lines: int
    seconds: float
    cpu: float
    growth: float


def write_export(path: Path, count: int) -> None:
    """Write an export with so many annotations, alike in form and different in what they say."""
    chance = random.Random(6)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(_ENTRY, "w") as file,
    ):
        for number in range(count):
            at = chance.randrange(100_000)
            text = f"words {chance.getrandbits(40):x} of a deed"
            annotation: dict[str, Any] = {
                "id": number,
                "projectId": 7,
                "sourceId": 1 + number // 400,
                "typeId": number % 12,
                "typeName": f"Type {number % 12}",
                "layerId": 12,
                "layerName": "Predictions",
                "value": text,
                "rawValue": text,
                "offsets": [at, at + len(text)],
                "pageNumber": 1 + number % 30,
                "endPageNumber": 1 + number % 30,
                "isReviewed": False,
            }
            file.write(json.dumps(annotation).encode() + b"\n")


def plain(path: Path) -> int:
    """Read it as one would without this library; return how many lines there were."""
    count = 0
    with zipfile.ZipFile(path) as archive, archive.open(_ENTRY) as file:
        for line in file:
            json.loads(line)
            count += 1
    return count


async def ours(path: Path) -> int:
    """Read it with this library; return how many records there were."""
    count = 0
    async for _ in read_records(path, Annotation):
        count += 1
    return count


def _peak() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 / _MB * int(status.partition("VmHWM:")[2].split()[0])


def _turn(name: str, path: Path, few: Path) -> Turn:
    """Take one turn in this process, after a short one that imports all there is."""

    def read(what: Path) -> int:
        return plain(what) if name == "plain" else anyio.run(ours, what, backend=name)

    read(few)
    before, cpu, begun = _peak(), time.process_time(), time.perf_counter()
    count = read(path)
    seconds = time.perf_counter() - begun
    return Turn(count, seconds, time.process_time() - cpu, _peak() - before)


def _in_child(name: str, path: Path, few: Path) -> Turn:
    done = subprocess.run(  # noqa: S603  # itself
        [sys.executable, "-m", "benchmarks.export_reading", "--turn", name, str(path), str(few)],
        stdout=subprocess.PIPE,
        text=True,
        timeout=_TURN_SECONDS,
        check=True,
    )
    return Turn(**json.loads(done.stdout))


def _measure(count: int, rounds: int) -> list[dict[str, Turn]]:
    found: list[dict[str, Turn]] = []
    with tempfile.TemporaryDirectory() as folder:
        path, few = Path(folder, "export.zip"), Path(folder, "few.zip")
        write_export(path, count)
        write_export(few, 10_000)
        before = _in_child("plain", path, few)
        for number in range(rounds):
            for name in _OURS:
                print(f"\rround {number + 1}/{rounds}: {name:10}", end="", file=sys.stderr)
                turn = _in_child(name, path, few)
                after = _in_child("plain", path, few)
                if not turn.lines == before.lines == count:
                    raise RuntimeError(f"{name} read {turn.lines} of {count} records")
                found.append({"before": before, name: turn, "after": after})
                before = after
    print(f"\r{'':40}\r", end="", file=sys.stderr)
    return found


def _ratios(rounds: Sequence[dict[str, Turn]], name: str, figure: str) -> list[float]:
    return [
        2
        * getattr(turns[name], figure)
        / (getattr(turns["before"], figure) + getattr(turns["after"], figure))
        for turns in rounds
        if name in turns
    ]


def _targets(rounds: Sequence[dict[str, Turn]]) -> list[Target]:
    targets: list[Target] = []
    for name in _OURS:
        growth = max(turns[name].growth for turns in rounds if name in turns)
        targets += [
            Target(f"{name}: time / plain loop", median(_ratios(rounds, name, "seconds")), 1.5),
            Target(f"{name}: CPU / plain loop", median(_ratios(rounds, name, "cpu")), 1.5),
            Target(f"{name}: MB of memory at the highest", growth, 32.0),
        ]
    return targets


def _table(rounds: Sequence[dict[str, Turn]]) -> Iterable[str]:
    yield "| reader | s | CPU s | us a record | MB more |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for name in ("before", *_OURS):
        turns = [turns[name] for turns in rounds if name in turns]
        seconds, cpu = median(each.seconds for each in turns), median(each.cpu for each in turns)
        growth = max(each.growth for each in turns)
        label = "zipfile and json.loads" if name == "before" else f"read_records, {name}"
        cost = 1e6 * cpu / turns[0].lines
        yield f"| {label} | {seconds:.2f} | {cpu:.2f} | {cost:.2f} | {growth:.1f} |"


def main() -> None:
    """Measure, print, write, and judge."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.export_reading", description="What reading an export costs."
    )
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK:,} lines, once")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    parser.add_argument("--turn", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.turn:
        name, path, few = options.turn
        print(json.dumps(asdict(_turn(name, Path(path), Path(few)))))
    else:
        sys.exit(_bench(quick=options.quick, json_file=options.json))


def _bench(*, quick: bool, json_file: Path | None) -> int:
    begun = time.monotonic()
    count = _QUICK if quick else _WHOLE
    rounds = _measure(count, 1 if quick else _ROUNDS)
    targets = _targets(rounds)
    print(f"{count:,} annotations\n")
    print("\n".join([*_table(rounds), "", *target_table(targets), ""]))
    print(machine_line(begun))
    if json_file:
        result = facts(targets) | {
            "records": count,
            "rounds": [{name: asdict(turn) for name, turn in turns.items()} for turns in rounds],
        }
        json_file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return judge(targets)


if __name__ == "__main__":
    main()
