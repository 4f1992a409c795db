"""A process that has imported all that tests need, but not the package, and forks for each run of some of them.

``python -m tests.mutants.warm`` reads a job a line and writes an outcome a line, both JSON. Started at the root of the
copy that it is to test.
"""

from __future__ import annotations

import ast
import gc
import importlib
import json
import os
import resource
import signal
import sys
import time
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import pytest
from attrs import asdict, define, field, frozen
from coverage import Coverage
from coverage.numbits import nums_to_numbits

from tests.mutants.mapping import ON_IMPORT, PACKAGE

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from types import FrameType

# A test that a mutant has made greedy may not take the machine along.
_MOST_BYTES: Final = 4 << 30
# For fixtures to clean up, before what is left is killed.
_PATIENCE: Final = 10.0
_BETWEEN_LOOKS: Final = 0.02


@frozen
class Job:
    """Some tests to run in a fork.

    Attributes:
        files: of the tests, or to be mapped.
        tests: their ids, in order; None for all.
        folder: for what they write; emptied.
        cpu_seconds: what they may take, and their processes each.
        seconds: by the clock.
        is_map: whether to tell which lines of the package each test ran, instead of stopping at the first failure.
    """

    files: list[str]
    tests: list[str] | None
    folder: str
    cpu_seconds: int
    seconds: float
    is_map: bool = False


@define
class Outcome:
    """What became of them.

    Attributes:
        passed: how many.
        failed: which, or what else went wrong.
        cpu_seconds: what it took.
        hung: whether it took more than it might.
        found: what was told of each test.
    """

    passed: int = 0
    failed: list[str] = field(factory=list)
    cpu_seconds: float = 0.0
    hung: bool = False
    found: dict[str, Any] | None = None


def main() -> None:
    """Serve."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    _import_what_tests_need()
    # Nothing of that is garbage ever, and need not be looked through in each fork.
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        print(json.dumps(asdict(_run_in_fork(Job(**json.loads(line))))), flush=True)  # noqa: T201  # its answer


def stop(_number: int, _frame: FrameType | None) -> NoReturn:
    """Stop, as a handler of signals, and clean up."""
    sys.exit(1)


def _import_what_tests_need() -> None:
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):  # noqa: PTH123
        pytest.main(["--noconftest", "--markers", "-p", "no:cacheprovider"], plugins=[_Importing()])
    own = [name for name in sys.modules if name.partition(".")[0] == PACKAGE]
    assert not own, own


class _Importing:
    """Imports within pytest, which wants to see to the asserts of its plugins."""

    def pytest_configure(self) -> None:
        names = {name for folder in (PACKAGE, "tests") for name in _imported_below(Path(folder))}
        for name in sorted(names):
            with suppress(Exception):
                importlib.import_module(name)


def _imported_below(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names if not _is_own(alias.name))
            elif isinstance(node, ast.ImportFrom) and node.module and not _is_own(node.module):
                yield node.module


def _is_own(module: str) -> bool:
    top = Path(module.partition(".")[0])
    return top.is_dir() or top.with_suffix(".py").is_file()


def _run_in_fork(job: Job) -> Outcome:
    told = Path(f"{job.folder}.json")
    told.unlink(missing_ok=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    child = os.fork()
    if child == 0:
        _run(job, told)
    try:
        hung = not _has_ended_by(child, time.monotonic() + job.seconds)
        if hung:
            os.kill(child, signal.SIGXCPU)
            _has_ended_by(child, time.monotonic() + _PATIENCE)
    finally:
        # With the processes that tests have left behind.
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if told.exists():
        outcome = Outcome(**json.loads(told.read_bytes()))
    elif hung:
        outcome = Outcome()
    else:
        said = Path(f"{job.folder}.log").read_text("utf-8", errors="replace").splitlines()[-1:]
        outcome = Outcome(failed=[f"ended with {status}: {' '.join(said)}"])
    outcome.cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    outcome.hung |= hung or status == -signal.SIGXCPU
    return outcome


def _has_ended_by(child: int, deadline: float) -> bool:
    """Wait for a child to end, and leave it to be waited for."""
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() >= deadline:
            return False
        time.sleep(_BETWEEN_LOOKS)
    return True


class _TookTooLongError(BaseException):
    has_happened = False


def _give_up(_number: int, _frame: FrameType | None) -> NoReturn:
    # Makes the test fail, unless the mutant swallows it.
    _TookTooLongError.has_happened = True
    raise _TookTooLongError


def _run(job: Job, told: Path) -> NoReturn:
    """Run a job's tests in this process, write their outcome to a file, and end."""
    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    log = os.open(f"{job.folder}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGXCPU, _give_up)
    resource.setrlimit(resource.RLIMIT_CPU, (job.cpu_seconds, job.cpu_seconds + int(_PATIENCE)))
    resource.setrlimit(resource.RLIMIT_DATA, (_MOST_BYTES, _MOST_BYTES))
    outcome = Outcome()
    mapping = _Mapping() if job.is_map else None
    arguments = ["-q", "-p", "no:cacheprovider", f"--basetemp={job.folder}", *job.files]
    if mapping is None:
        arguments.append("-x")
    else:
        mapping.begin()
    try:
        plugins = [_Chosen(job.tests), _Watching(outcome), *([mapping] if mapping else [])]
        status = pytest.main(arguments, plugins=plugins)
        if status not in {0, 1} and not outcome.failed:
            outcome.failed.append(f"pytest's exit status {int(status)}")
    except _TookTooLongError:
        pass
    outcome.hung = _TookTooLongError.has_happened
    if mapping is not None:
        outcome.found = mapping.found()
    unfinished = told.with_suffix(".part")
    unfinished.write_text(json.dumps(asdict(outcome)), encoding="utf-8")
    unfinished.rename(told)
    os._exit(0)


class _Chosen:
    """Runs some of the tests, in an order of its own, and examples of hypothesis that are the same each time."""

    def __init__(self, tests: list[str] | None) -> None:
        self._places = None if tests is None else {test: n for n, test in enumerate(tests)}

    def pytest_configure(self) -> None:
        # pytest wants to be the first that imports it.
        from hypothesis import Phase, settings  # noqa: PLC0415

        phases = [Phase.explicit, Phase.generate]  # a failure is enough, it need not be small
        settings.register_profile("mutants", derandomize=True, database=None, phases=phases)
        settings.load_profile("mutants")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self._places is not None:
            places = self._places
            items[:] = sorted(
                (item for item in items if item.nodeid in places),
                key=lambda item: places[item.nodeid],
            )


class _Watching:
    """Notes what passed and what failed."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._outcome.failed.append(report.nodeid)
        elif report.when == "call":
            self._outcome.passed += 1

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._outcome.failed.append(report.nodeid)


class _Mapping:
    """Notes which lines of the package each test runs, and what it costs."""

    def __init__(self) -> None:
        self._coverage = Coverage(
            data_file=None,
            config_file=False,
            source=[PACKAGE],
            concurrency=["thread"],
            messages=False,
        )
        self._tests: dict[str, float] = {}
        self._failed: set[str] = set()

    def begin(self) -> None:
        self._coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._coverage.switch_context(item.nodeid)
        began = time.process_time()
        try:
            return (yield)
        finally:
            self._tests[item.nodeid] = round(time.process_time() - began, 4)
            self._coverage.switch_context(ON_IMPORT)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # Neither one that fails nor one that is skipped can tell a mutant from the original.
        if report.outcome != "passed":
            self._failed.add(report.nodeid)

    def found(self) -> dict[str, Any]:
        self._coverage.stop()
        data = self._coverage.get_data()
        root = Path.cwd()
        ran: dict[str, dict[str, str]] = {}
        sources = sorted(data.measured_files())
        for source in sources:
            path = str(Path(source).relative_to(root))
            lines_of: dict[str, list[int]] = {}
            for line, tests in data.contexts_by_lineno(source).items():
                for test in tests:
                    lines_of.setdefault(test, []).append(line)
            for test, lines in lines_of.items():
                ran.setdefault(test, {})[path] = _as_hex(lines)
        kept = {test: seconds for test, seconds in self._tests.items() if test not in self._failed}
        return {
            "tests": kept,
            "ran": {test: ran.get(test, {}) for test in (*kept, ON_IMPORT)},
            "sources": [str(Path(source).relative_to(root)) for source in sources],
        }


def _as_hex(lines: Iterable[int]) -> str:
    """Return a number, in hexadecimal, with a bit for each line."""
    return nums_to_numbits(lines)[::-1].hex()


if __name__ == "__main__":
    main()
