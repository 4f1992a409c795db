"""How soon each schedule sees the ends of jobs, and what that costs: ``python -m benchmarks.schedule_delay``.

Prints a table with the targets, met or missed; ``--json`` writes all figures, ``--svg`` draws delay against requests.
``--quick`` runs a few worlds only. Exits with 1 if a ratio is twice its target or more. Everything is in virtual time
and seeded: the figures are the same on every machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from datetime import UTC, datetime
from html import escape
from math import ceil, floor, log10
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Final

from attrs import asdict, frozen

from annolab_async import Backoff, FixedInterval, Predictive
from benchmarks.simulator import LATENCY, PERMITS, Oracle, Outcome, run
from benchmarks.worlds import ADVERSARIAL, IN_ORDER, JOBS, MODELS, NOTHING_TO_LEARN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from annolab_async import PollSchedule
    from benchmarks.worlds import Recipe, World

FIRST_SEED: Final = 1000
"""Predictive's constants were chosen on seeds below 100."""
RATE: Final = 10.0
"""Polls a second, all jobs together."""
TARGET_DELAY: Final = 2.0
"""What the lean mode is asked for, in seconds."""
IN_TURN: Final = FixedInterval(1.0)
IN_TURN_AT_TARGET: Final = FixedInterval(2 * TARGET_DELAY - 2 * LATENCY)
"""Every job in turn with that delay in the mean: half its cycle, and the way back of the answer."""
CAPS: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
LEAN_DELAYS: Final = (0.75, 1.0, 2.0, 4.0, 8.0, 16.0)
QUICK: Final = frozenset({
    "order10-lognormal",
    "order10-unseen",
    "order1-bimodal",
    "parallel-exponential",
    "reverse10",
    "stuck10",
})


@frozen
class Target:
    """What a ratio is to be at most."""

    ratio: str
    at_most: float


_GAP: Final = Target("gap/stated", 1.0)
GROUPS: Final[Mapping[str, tuple[Sequence[Recipe], int, Sequence[Target]]]] = {
    "in order": (
        IN_ORDER,
        5,
        (Target("/in-turn", 1 / 10), Target("/oracle", 2.0), Target("p95/in-turn", 1 / 6), _GAP),
    ),
    "nothing to learn": (NOTHING_TO_LEARN, 16, (Target("/in-turn", 1.03), _GAP)),
    "adversarial": (ADVERSARIAL, 5, (Target("/in-turn", 1.25), _GAP)),
    "two models": (MODELS, 5, (_GAP,)),
}
"""Worlds, number of seeds, targets."""
LEAN_TARGETS: Final = (Target("delay/target", 1.0), Target("requests/in-turn", 1 / 5), _GAP)
LEAN_SEEDS: Final = 3


@frozen
class Row:
    """What was measured in one world: means over the seeds.

    Attributes:
        group: which targets apply.
        world: its name.
        about: what happens in it.
        seeds: the seeds run.
        policies: per policy, mean and 95th percentile of the delay and the longest gap, in seconds, and requests.
        ratios: Predictive over others.
        error: standard error of the ratio to in-turn, over the seeds.
        stated_gap: the gap that Predictive promises, in seconds.
        missed: the targets not met.
        failed: those missed by a factor of two or more.
    """

    group: str
    world: str
    about: str
    seeds: Sequence[int]
    policies: Mapping[str, Mapping[str, float]]
    ratios: Mapping[str, float]
    error: float
    stated_gap: float
    missed: Sequence[str]
    failed: Sequence[str]


def _measure(group: str, recipe: Recipe, seeds: Sequence[int], targets: Sequence[Target]) -> Row:
    def schedules(world: World) -> dict[str, tuple[PollSchedule, float | None]]:
        if group == "lean":
            return {
                "in-turn": (IN_TURN_AT_TARGET, None),
                "at 10 per s": (IN_TURN, RATE),
                "predictive": (Predictive(target_delay=TARGET_DELAY), None),
            }
        return {
            "in-turn": (IN_TURN, RATE),
            "backoff": (Backoff(), RATE),
            "oracle": (Oracle(world), RATE),
            "predictive": (Predictive(), RATE),
        }

    runs: dict[str, list[Outcome]] = {}
    for seed in seeds:
        world = recipe.build(seed)
        for name, (schedule, rate) in schedules(world).items():
            runs.setdefault(name, []).append(run(world, schedule, max_per_second=rate))
    policies = {name: _summary(outcomes) for name, outcomes in runs.items()}
    mine, turn = policies["predictive"], policies["in-turn"]
    polls_per_second = PERMITS / LATENCY if group == "lean" else RATE
    stated = [60.0 + 4 * o.most_jobs / polls_per_second for o in runs["predictive"]]
    gaps = [o.longest_gap / s for o, s in zip(runs["predictive"], stated, strict=True)]
    ratios = {
        "/in-turn": mine["mean"] / turn["mean"],
        "p95/in-turn": mine["p95"] / turn["p95"],
        "requests/in-turn": mine["requests"] / turn["requests"],
        "gap/stated": max(gaps),
    }
    if group == "lean":
        ratios["delay/target"] = mine["mean"] / TARGET_DELAY
        ratios["requests/10 per s"] = mine["requests"] / policies["at 10 per s"]["requests"]
    else:
        ratios["/backoff"] = mine["mean"] / policies["backoff"]["mean"]
        ratios["/oracle"] = mine["mean"] / policies["oracle"]["mean"]
    rest = [
        a.mean - ratios["/in-turn"] * b.mean
        for a, b in zip(runs["predictive"], runs["in-turn"], strict=True)
    ]
    return Row(
        group,
        recipe.name,
        recipe.about,
        seeds,
        policies,
        ratios,
        stdev(rest) / len(rest) ** 0.5 / turn["mean"] if len(rest) > 1 else 0.0,
        max(stated),
        [t.ratio for t in targets if ratios[t.ratio] > t.at_most],
        [t.ratio for t in targets if ratios[t.ratio] >= 2 * t.at_most],
    )


def _summary(outcomes: Sequence[Outcome]) -> dict[str, float]:
    return {
        "mean": fmean(o.mean for o in outcomes),
        "p95": fmean(o.p95 for o in outcomes),
        "requests": fmean(o.requests for o in outcomes),
        "longest_gap": max(o.longest_gap for o in outcomes),
    }


def _measure_all(*, quick: bool, show: Callable[[Row], None]) -> list[Row]:
    plan = [
        (group, recipe, count, targets)
        for group, (recipes, count, targets) in GROUPS.items()
        for recipe in recipes
        if recipe.name in QUICK or not quick
    ] + [
        ("lean", recipe, LEAN_SEEDS, LEAN_TARGETS)
        for recipe in IN_ORDER
        if recipe.name == "order10-lognormal" or not quick
    ]
    rows = list[Row]()
    for group, recipe, count, targets in plan:
        seeds = [*range(FIRST_SEED, FIRST_SEED + (count // 2 if quick else count))]
        rows.append(_measure(group, recipe, seeds, targets))
        show(rows[-1])
    return rows


class _Table:
    """Prints rows as they come, with a head for each group."""

    def __init__(self) -> None:
        self._group = ""

    def show(self, row: Row) -> None:
        if row.group != self._group:
            self._group = row.group
            print(f"\n{self._title(row)}\n{self._head(row)}")
        cells = [f"{p['mean']:{len(name) + 2}.2f}" for name, p in row.policies.items()]
        cells += [f"{row.policies[name]['requests']:14.0f}" for name in ("in-turn", "predictive")]
        cells += [f"{ratio:>{len(name) + 2}.3f}" for name, ratio in row.ratios.items()]
        mine = row.policies["predictive"]["longest_gap"]
        verdict = "MISSED " + ", ".join(row.missed) if row.missed else "met"
        print(
            f"{row.world:22}{''.join(cells)}  {row.error:5.3f} {mine:5.0f}/{row.stated_gap:3.0f}  {verdict}",
            flush=True,
        )

    @staticmethod
    def _title(row: Row) -> str:
        if row.group != "lean":
            return f"{row.group}: mean delay in s at {RATE:g} polls/s, ratios of Predictive"
        return (
            f"lean: Predictive(target_delay={TARGET_DELAY:g}), no limit, "
            f"beside FixedInterval({IN_TURN_AT_TARGET.seconds:g}), no limit"
        )

    @staticmethod
    def _head(row: Row) -> str:
        cells = [f"{name:>{len(name) + 2}}" for name in row.policies]
        cells += [f"{'turn requests':>14}", f"{'requests':>14}"]
        cells += [f"{name:>{len(name) + 2}}" for name in row.ratios]
        return f"{'world':22}{''.join(cells)}  {'+-':>5} {'gap':>5}/max  targets"


def _targets(rows: Sequence[Row]) -> list[dict[str, Any]]:
    groups = {name: targets for name, (_, _, targets) in GROUPS.items()} | {"lean": LEAN_TARGETS}
    results = list[dict[str, Any]]()
    for group, targets in groups.items():
        for target in targets:
            found = [(row.ratios[target.ratio], row.world) for row in rows if row.group == group]
            if found:
                worst, world = max(found)
                results.append({
                    "group": group,
                    "ratio": target.ratio,
                    "at_most": target.at_most,
                    "best": min(found)[0],
                    "worst": worst,
                    "in": world,
                    "met": worst <= target.at_most,
                })
    return results


Curves = dict[str, list[tuple[float, float]]]


def _curves() -> Curves:
    """Return, per policy, (requests a job, mean delay in seconds) under one cap after the other."""
    recipe = next(recipe for recipe in IN_ORDER if recipe.name == "order10-lognormal")
    worlds = [recipe.build(FIRST_SEED + i) for i in range(2)]

    def point(make: Callable[[World], PollSchedule], cap: float | None) -> tuple[float, float]:
        summary = _summary([run(world, make(world), max_per_second=cap) for world in worlds])
        return summary["requests"] / JOBS, summary["mean"]

    policies: dict[str, Callable[[World], PollSchedule]] = {
        "every job in turn": lambda _: IN_TURN,
        "Backoff": lambda _: Backoff(),
        "Predictive": lambda _: Predictive(),
        "oracle": Oracle,
    }
    curves = {name: [point(make, cap) for cap in CAPS] for name, make in policies.items()}
    curves["Predictive, lean"] = [
        point(lambda _, d=delay: Predictive(target_delay=d), None)  # type: ignore[misc]
        for delay in LEAN_DELAYS
    ]
    return curves


_STYLE: Final = """
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .paper { fill: #ffffff } .grid { stroke: #d8dee4 } .title { font-weight: 600; font-size: 15px }
  polyline { fill: none; stroke: currentColor; stroke-width: 2.2; stroke-linejoin: round }
  circle { fill: currentColor } .dash { stroke-dasharray: 5 4 }
  .s0 { color: #8c6d1f } .s1 { color: #b3405c } .s2 { color: #0969da } .s3 { color: #57606a } .s4 { color: #1a7f37 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .paper { fill: #161b22 } .grid { stroke: #30363d }
    .s0 { color: #e3b341 } .s1 { color: #ff7b93 } .s2 { color: #58a6ff } .s3 { color: #9da7b3 } .s4 { color: #56d364 }
  }
"""


def _drawn(curves: Curves) -> str:
    """Return the curves as an SVG document; both axes are logarithmic."""
    width, height, left, right, top, bottom = 760, 460, 64, 160, 80, 56
    points = [point for curve in curves.values() for point in curve]
    low_x, high_x = min(x for x, _ in points) / 1.15, max(x for x, _ in points) * 1.15
    low_y, high_y = min(y for _, y in points) / 1.3, max(y for _, y in points) * 1.3

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            left + (width - left - right) * log10(x / low_x) / log10(high_x / low_x),
            height - bottom - (height - top - bottom) * log10(y / low_y) / log10(high_y / low_y),
        )

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        "<title>Delay against requests, one curve per schedule</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" width="{width}" height="{height}" rx="8"/>',
        f'<text class="title" x="{left}" y="26">How soon an end is seen, for how many requests</text>',
        f'<text x="{left}" y="46">{JOBS} jobs in order, 10 at a time; along a curve the cap on polls grows,</text>',
        f'<text x="{left}" y="62">in lean mode the delay asked for shrinks</text>',
    ]
    for value in _ticks(low_x, high_x):
        x, y = at(value, low_y)
        parts += [
            f'<line class="grid" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{y:.1f}"/>',
            f'<text x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle">{value:g}</text>',
        ]
    for value in _ticks(low_y, high_y):
        x, y = at(low_x, value)
        parts += [
            f'<line class="grid" x1="{x:.1f}" y1="{y:.1f}" x2="{width - right}" y2="{y:.1f}"/>',
            f'<text x="{x - 8:.1f}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>',
        ]
    middle_x, middle_y = (left + width - right) / 2, (top + height - bottom) / 2
    parts += [
        f'<text x="{middle_x}" y="{height - 14}" text-anchor="middle">requests per job</text>',
        f'<text transform="translate(18 {middle_y}) rotate(-90)" text-anchor="middle">mean delay, seconds</text>',
    ]
    for i, (name, curve) in enumerate(curves.items()):
        spots = [at(*point) for point in curve]
        dash = " dash" if name == "oracle" else ""
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        parts.append(f'<polyline class="s{i}{dash}" points="{line}"/>')
        parts += [f'<circle class="s{i}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in spots]
    for i, name in enumerate(curves):
        x, y = width - right + 14, top + 16 + 24 * i
        parts += [
            f'<polyline class="s{i}{" dash" if name == "oracle" else ""}" points="{x},{y - 4} {x + 18},{y - 4}"/>',
            f'<text x="{x + 24}" y="{y}">{escape(name)}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def _ticks(low: float, high: float) -> list[float]:
    powers = range(floor(log10(low)), ceil(log10(high)) + 1)
    return [d * 10.0**p for p in powers for d in (1, 2, 5) if low <= d * 10.0**p <= high]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few worlds, half the seeds")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--svg", type=Path, help="where to draw delay against requests")
    options = parser.parse_args(arguments)
    begin = time.perf_counter()
    rows = _measure_all(quick=options.quick, show=_Table().show)
    targets = _targets(rows)
    print("\ntargets: largest ratio of each group")
    for t in targets:
        verdict = "met" if t["met"] else "MISSED"
        print(
            f"{t['group']:18}{t['ratio']:18} at most {t['at_most']:5.3f}"
            f"   {t['best']:5.3f} to {t['worst']:5.3f} ({t['in']})  {verdict}"
        )
    curves = _curves() if options.svg else {}
    if options.svg:
        options.svg.write_text(_drawn(curves))
    if options.json:
        result = {
            "date": datetime.now(UTC).date().isoformat(),
            "python": platform.python_version(),
            "rows": [asdict(row) for row in rows],
            "targets": targets,
            "curves": curves,
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    failures = [f"{row.world} ({row.group}): {', '.join(row.failed)}" for row in rows if row.failed]
    for failure in failures:
        print("twice its target or more:", failure)
    print(f"{time.perf_counter() - begin:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
