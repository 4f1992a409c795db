"""A failed test says how it failed, briefly, and the run ends with its name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.full
@pytest.mark.parametrize("distribution", [[], ["--numprocesses=1"]], ids=["alone", "xdist"])
def test_a_failure_takes_less_than_200_lines_and_is_named_at_the_end(
    distribution: list[str],
) -> None:
    noisy = "tests/suite/noisy.py::test_says_a_lot"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *distribution, noisy]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    lines = done.stdout.splitlines()
    assert len(lines) < 200
    assert 'raise ValueError("at the bottom")' in done.stdout
    assert "at a depth of 0" in lines
    assert lines[-2] == "FAILED tests/suite/noisy.py::test_says_a_lot - ValueError: at the bottom"
