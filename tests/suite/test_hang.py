"""A hang is a failure, although the code that hangs swallows exceptions, and is watched for calls that block."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.full
@pytest.mark.parametrize("distribution", [[], ["--numprocesses=1"]], ids=["alone", "xdist"])
def test_a_test_that_hangs_fails(distribution: list[str]) -> None:
    hanging = "tests/suite/hanging.py::test_a_hook_never_returns"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *distribution, hanging]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert "2 failed" in done.stdout
    assert done.stdout.count("Timeout (>0.5s) from pytest-timeout.") >= 2
    assert "BlockingError" not in done.stdout
