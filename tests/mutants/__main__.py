"""How many small changes of the package the tests notice: ``python -m tests.mutants --sample 200 --seed 7``.

Each mutant is tried on a copy of the project by the tests that run its lines: first a few that are quick, then all that
fit into a bound, until one fails. A test that kills a mutant has to do so again, alone, and to pass without it. One
that hangs is killed, too.

Survivors are shown as diffs. The ones in ``equivalent.toml``, which no test can tell from the original, do not count.
Exits with 1 if less than ``--at-least`` percent of the others die.
"""

# ruff: noqa: T201  # it prints what it finds

from __future__ import annotations

import argparse
import difflib
import signal
import sys
import tomllib
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final

from attrs import define, field, frozen

from tests.mutants.making import Mutant, mutants_of
from tests.mutants.mapping import PACKAGE, Atlas, Cost, Maps
from tests.mutants.warm import stop
from tests.mutants.workers import Worker, workers_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.mutants.warm import Outcome
    from tests.mutants.workers import Workers

ROOT: Final = Path(__file__).parents[2]
EQUIVALENT: Final = Path(__file__).parent / "equivalent.toml"
# Not by default: what is around the core, and the protocols, which nothing runs.
_AROUND: Final = (
    "annolab_async/cli",
    "annolab_async/emulator",
    "annolab_async/testing",
    "annolab_async/otel.py",
    "annolab_async/_otel_meters.py",
    "annolab_async/_batch_client.py",
    "annolab_async/_status_source.py",
    "annolab_async/report/_figures.py",
    "annolab_async/report/_page.py",
    "annolab_async/report/_terminal.py",
)
# Tests that are slow, are about something else, or run the package in another process, where no line is seen.
_ASIDE: Final = (
    "tests/cli",
    "tests/crash",
    "tests/documentation",
    "tests/emulator",
    "tests/examples",
    "tests/fan_out/test_memory_of_runs.py",
    "tests/faults/test_bombs.py",
    "tests/faults/test_leaks.py",
    "tests/kit/test_plugin.py",
    "tests/mutants",
    "tests/report/test_page.py",
    "tests/report/test_report_command.py",
    "tests/results/test_official_sdk.py",
    "tests/suite",
    "tests/test_cli.py",
    "tests/test_demo_fan_out.py",
    "tests/test_import.py",
    "tests/test_typing.py",
    "tests/typing",
)
_QUICK: Final = 15
# Of CPU, beside what the tests cost: for importing and collecting them.
_ALLOWANCE: Final = 6.0
_MAP_SECONDS: Final = 1200.0


@frozen
class Verdict:
    """What became of a mutant.

    Attributes:
        mutant: it.
        word: killed, hung, survived, or untested where no test runs its lines.
        by: the test that killed it.
        tests: how many ran.
        cpu_seconds: what they took.
    """

    mutant: Mutant
    word: str
    by: str = ""
    tests: int = 0
    cpu_seconds: float = 0.0

    @property
    def is_dead(self) -> bool:
        """Whether the tests noticed."""
        return self.word in {"killed", "hung"}

    def __str__(self) -> str:
        by = f"  by {self.by}" if self.by else f"  {self.tests} tests"
        return f"{self.word:8}  {self.mutant}{by}"


@define
class Trial:
    """Tries mutants.

    Attributes:
        atlas: which tests run which lines.
        cpu_seconds: that the tests of one mutant may cost, as mapped.
    """

    atlas: Atlas
    cpu_seconds: float
    _sound: dict[str, bool] = field(factory=dict)
    _lock: Lock = field(factory=Lock)

    def of(self, mutant: Mutant, worker: Worker) -> Verdict:
        """Return what becomes of a mutant.

        Args:
            mutant: to try.
            worker: that does it.
        """
        tests = self._affordable(self.atlas.tests_of(mutant))
        passed, spent = 0, 0.0
        waiting = [tests[:_QUICK], tests[_QUICK:]]
        while waiting:
            some = waiting.pop(0)
            if not some:
                continue
            with worker.changed(mutant):
                outcome = _run(worker, some)
            passed += outcome.passed
            spent += outcome.cpu_seconds
            if not outcome.failed and not outcome.hung:
                continue
            killer = outcome.failed[0] if outcome.failed else ""
            if killer and all(cost.test != killer for cost in some):
                # What comes before any test, such as the import of a conftest, which one alone may not need.
                if not _run(worker, some).failed:
                    return Verdict(mutant, "killed", killer, passed, spent)
                print(f"left out: {len(some)} tests cannot begin: {killer}", flush=True)
                continue
            suspect = next((cost for cost in some if cost.test == killer), some[0])
            if self._tells(suspect, mutant, worker, is_sure=outcome.hung):
                word = "hung" if outcome.hung else "killed"
                return Verdict(mutant, word, killer, passed + 1, spent)
            waiting.insert(0, [cost for cost in some if cost != suspect])
        return Verdict(mutant, "survived" if tests else "untested", "", passed, spent)

    def _tells(self, test: Cost, mutant: Mutant, worker: Worker, *, is_sure: bool) -> bool:
        """Return whether a test fails, alone, with a mutant, and passes without it."""
        if not is_sure:
            with worker.changed(mutant):
                outcome = _run(worker, [test])
            if not outcome.failed and not outcome.hung:
                print(f"by chance: {test.test} failed, but not again", flush=True)
                return False
        with self._lock:
            is_sound = self._sound.get(test.test)
        if is_sound is None:
            outcome = _run(worker, [test])
            is_sound = outcome.passed == 1 and not outcome.failed and not outcome.hung
            with self._lock:
                self._sound[test.test] = is_sound
            if not is_sound:
                print(f"left out: {test.test} fails without a mutant, too", flush=True)
        return is_sound

    def _affordable(self, tests: list[Cost]) -> list[Cost]:
        total = 0.0
        for count, cost in enumerate(tests):
            total += cost.seconds
            if total > self.cpu_seconds and count >= _QUICK:
                return tests[:count]
        return tests


def _run(worker: Worker, tests: Sequence[Cost]) -> Outcome:
    ids = [cost.test for cost in tests]
    limit = _ALLOWANCE + 3 * sum(cost.seconds for cost in tests)
    return worker.run(ids, sorted({test.split("::")[0] for test in ids}), cpu_seconds=limit)


def main(arguments: Sequence[str] | None = None) -> int:
    """Try mutants, and return the exit status.

    Args:
        arguments: of the command line.
    """
    options = _options(arguments)
    signal.signal(signal.SIGTERM, stop)
    sample = drawn(options.paths, options.sample, options.seed)
    maps = Maps(ROOT, ROOT / ".mutants")
    files = _test_files(options.tests)
    with workers_for(ROOT, options.workers) as workers:
        stale = [name for name in files if options.renew or not maps.is_current(name)]
        _map(stale, maps, workers)
        trial = Trial(maps.read(files), options.seconds)
        verdicts: list[Verdict] = []
        for verdict in workers.each(trial.of, sample):
            print(verdict, flush=True)
            verdicts.append(verdict)
    return _judge(verdicts, trial.atlas.sources, options.at_least)


def drawn(paths: Sequence[str], count: int, seed: int) -> list[Mutant]:
    """Draw mutants, the same ones for the same lines; none that is equivalent.

    Args:
        paths: modules, folders, or ``module.py:line``.
        count: how many, at most.
        seed: other ones for another.
    """
    found: list[Mutant] = []
    for path in paths:
        name, _, line = path.partition(":")
        given = ROOT / name
        modules = [given] if given.is_file() else sorted(given.rglob("*.py"))
        if not modules:
            raise SystemExit(f"there is no {name}")
        if not _is_below(name, [PACKAGE]):
            raise SystemExit(f"{name} is not in {PACKAGE}")
        for module in modules:
            relative = module.relative_to(ROOT).as_posix()
            if name == relative or not _is_below(relative, _AROUND):
                mutants = mutants_of(module.read_bytes(), relative)
                found += [mutant for mutant in mutants if line in {"", str(mutant.line)}]
    left_out = {
        (entry["path"], entry["line"], entry["old"], entry["new"]) for entry in equivalents()
    }
    sample: list[Mutant] = []
    for mutant in sorted(found, key=lambda mutant: mutant.rank(seed)):
        if len(sample) == count:
            break
        key = (mutant.path, mutant.text, mutant.old, mutant.new)
        if key not in left_out and mutant.is_change((ROOT / mutant.path).read_bytes()):
            sample.append(mutant)
    return sample


def equivalents() -> list[dict[str, str]]:
    """Return the mutants that no test can tell from the original, with the reasons."""
    if not EQUIVALENT.exists():
        return []
    entries: list[dict[str, str]] = tomllib.loads(EQUIVALENT.read_text("utf-8"))["equivalent"]
    return entries


def _test_files(given: Sequence[str]) -> list[str]:
    files: list[str] = []
    for path in given:
        place = ROOT / path
        found = [place] if place.is_file() else sorted(place.rglob("test_*.py"))
        names = [name.relative_to(ROOT).as_posix() for name in found]
        files += [name for name in names if path != "tests" or not _is_below(name, _ASIDE)]
    return files


def _is_below(path: str, places: Iterable[str]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in places)


def _map(files: Sequence[str], maps: Maps, workers: Workers) -> None:
    def mapped(name: str, worker: Worker) -> str:
        outcome = worker.run(None, [name], cpu_seconds=_MAP_SECONDS, is_map=True)
        if outcome.found is None:
            return f"not mapped: {name}: {', '.join(outcome.failed)}"
        maps.keep(name, outcome.found, worker.copy)
        left = f", without {len(outcome.failed)} that fail" if outcome.failed else ""
        hung = ", until it hung" if outcome.hung else ""
        return f"mapped: {name}: {outcome.passed} tests, {outcome.cpu_seconds:.0f} s{left}{hung}"

    for line in workers.each(mapped, files):
        print(line, flush=True)


def _judge(verdicts: Sequence[Verdict], sources: Mapping[str, bytes], at_least: float) -> int:
    alive = [verdict for verdict in verdicts if not verdict.is_dead]
    for verdict in alive:
        print(
            f"\n{verdict.word}: {verdict.mutant}\n{diff_of(verdict.mutant, sources[verdict.mutant.path])}",
            end="",
        )
    dead = len(verdicts) - len(alive)
    score = 100 * dead / len(verdicts) if verdicts else 100.0
    spent = sum(verdict.cpu_seconds for verdict in verdicts)
    print(
        f"\n{dead} of {len(verdicts)} mutants died: {score:.1f} %, {at_least:g} % are asked for;",
        end=" ",
    )
    print(f"{spent:.0f} s of CPU")
    return 0 if score >= at_least else 1


def diff_of(mutant: Mutant, source: bytes) -> str:
    """Return what a mutant changes, as a unified diff.

    Args:
        mutant: a change of the source.
        source: of its module.
    """
    before, after = (
        text.decode().splitlines(keepends=True) for text in (source, mutant.applied(source))
    )
    return "".join(difflib.unified_diff(before, after, mutant.path, mutant.path))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    add = parser.add_argument
    add("paths", nargs="*", default=[PACKAGE], help="modules, folders, or module.py:line")
    add("--sample", type=int, default=200, help="how many mutants")
    add("--seed", type=int, default=0, help="which ones")
    add("--workers", type=int, default=2, help="processes that run tests")
    add("--at-least", type=float, default=95.0, help="percent that are to die")
    add("--seconds", type=float, default=60.0, help="of CPU for the tests of one mutant, as mapped")
    add(
        "--tests",
        nargs="+",
        default=["tests"],
        help="test files and folders, instead of the usual ones",
    )
    add("--renew", action="store_true", help="map all test files anew")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
