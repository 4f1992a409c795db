"""What mypy says about uses of the public interface: nothing about right ones, the right thing about wrong ones."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[1]
USES = ROOT / "tests" / "typing" / "test_public_types.py"

# Each line that ends in "# E: code" must be reported with that code, and no other line at all.
MISUSES = """
from annolab_async import (
    AsyncInferenceClient, Backoff, FixedInterval, InferenceJob, InferenceRequest, InferenceWatcher,
    JobState, Outcome, StatusError, Transition,
)

InferenceRequest(  # E: call-arg
    group_name="g", project_identifier=1, source_ids=[1], output_layer_identifier=2
)
InferenceRequest("g", 1, 2, [1], 3)  # E: call-arg
InferenceRequest(
    group_name=5,  # E: arg-type
    project_identifier=1,
    model_identifier=None,  # E: arg-type
    source_ids="12",  # E: arg-type
    output_layer_identifier=2.5,  # E: arg-type
)
FixedInterval()  # E: call-arg
Backoff(1.0, 1.5, 30.0, 0.1, 5)  # E: call-arg
AsyncInferenceClient("key", "https://api.annolab.ai")  # E: call-arg
AsyncInferenceClient(http_client=object())  # E: arg-type
StatusError(404, "Not found.")  # E: call-arg


async def misuse_a_client(client: AsyncInferenceClient, jobs: list[InferenceJob]) -> None:
    client.watch(jobs, max_polls=3)  # E: call-arg
    client.watch(jobs, keep_open="yes")  # E: arg-type
    client.watch("12")  # E: arg-type
    client.watch(schedule=15)  # E: arg-type
    client.submit(jobs[0])  # E: arg-type, unused-coroutine
    await client.get_job("7")  # E: arg-type
    await client.wait(7, 30)  # E: call-arg
    (await client.get_job(7)).state = JobState.FINISHED  # E: misc
    for transition in client.watch(jobs):  # E: attr-defined
        pass


async def misuse_a_watcher(watcher: InferenceWatcher) -> None:
    await watcher.add(7)  # E: func-returns-value, misc
    watcher.add(["7"])  # E: list-item
    watcher.wait(7)  # E: unused-coroutine
    watcher.stats.polls = 0  # E: misc
    async for transition in watcher:
        transition.job.status  # E: union-attr
        transition.outcome = None  # E: misc
        verdict(transition.outcome)  # E: arg-type


def verdict(outcome: Outcome) -> str:  # E: return
    match outcome:
        case Outcome.FINISHED:
            return "done"
        case Outcome.ERRORED | Outcome.LOST:
            return "failed"
"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, set[str]]]:
    """What mypy reports: by file, then by line, the codes."""
    folder = tmp_path_factory.mktemp("misuses")
    misuses = folder / "misuses.py"
    misuses.write_text(MISUSES)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--hide-error-context"]
    command += [f"--cache-dir={folder / 'cache'}", "--no-error-summary", "--no-pretty"]
    done = subprocess.run(  # noqa: S603  # mypy, on our own files
        [*command, str(misuses), str(USES)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert not done.stderr, done.stderr
    found: dict[str, dict[int, set[str]]] = {}
    for line in done.stdout.splitlines():
        if ": error: " in line:
            report = re.fullmatch(r".*?(\w+)\.py:(\d+): error: .*\[([\w-]+)\]", line)
            assert report, line
            file, number, code = report.groups()
            found.setdefault(file, {}).setdefault(int(number), set()).add(code)
    return found


def test_right_uses_are_accepted(reports: dict[str, dict[int, set[str]]]) -> None:
    assert set(reports) == {"misuses"}


@pytest.mark.parametrize(
    ("number", "line"),
    [(number, line) for number, line in enumerate(MISUSES.splitlines(), 1) if "# E: " in line],
)
def test_a_misuse_is_reported(
    number: int, line: str, reports: dict[str, dict[int, set[str]]]
) -> None:
    assert reports["misuses"].get(number) == set(line.split("# E: ")[1].split(", "))


def test_nothing_else_is_reported(reports: dict[str, dict[int, set[str]]]) -> None:
    lines = MISUSES.splitlines()
    assert [number for number in reports["misuses"] if "# E: " not in lines[number - 1]] == []
