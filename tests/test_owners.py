from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from annolab_async._owners import _began, is_gone, own_name

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="when processes began is told by /proc"
)
ASK = """
from annolab_async._owners import own_name
with own_name() as name:
    print(name, flush=True)
    input()
"""


def a_process() -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(  # noqa: S603  # our own
        [sys.executable, "-c", ASK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    return process, process.stdout.readline().strip()


def test_nobody_else_has_the_name() -> None:
    with ExitStack() as stack:
        assert len({stack.enter_context(own_name()) for _ in range(100)}) == 100


def test_who_is_at_work_is_not_gone() -> None:
    with own_name() as owner:
        assert not is_gone(owner)
    assert is_gone(owner)


def test_who_has_ended_is_gone() -> None:
    process, owner = a_process()
    with process:
        assert not is_gone(owner)
        process.kill()
    assert is_gone(owner)


def test_who_was_killed_is_gone_before_anybody_asks_for_its_exit_code() -> None:
    process, owner = a_process()
    with process:
        process.send_signal(signal.SIGKILL)
        until = time.monotonic() + 10
        while not is_gone(owner):
            assert time.monotonic() < until
            time.sleep(0.001)


def test_who_got_the_number_of_one_that_has_ended_is_another() -> None:
    with own_name() as owner:
        *where, began, chance = owner.split(":")
    assert is_gone(":".join([*where, str(int(began) - 1), chance]))


def test_who_has_its_number_from_another_container_or_boot_may_be_alive() -> None:
    with own_name() as owner:
        host, processes, *number, began, chance = owner.split(":")
    assert not is_gone(":".join([host, f"{processes}1", *number, str(int(began) - 1), chance]))


@pytest.mark.parametrize(
    "owner", ["", "another", "::::", "elsewhere.invalid:0-0:1:1:abcd", "a:b:c:d:e:f"]
)
def test_of_others_nothing_is_known(owner: str) -> None:
    assert not is_gone(owner)


def another(owner: str, *, process: object, began: object = 1) -> str:
    """The name of an owner at the same place that has another process."""
    host, processes, _, _, chance = owner.split(":")
    return ":".join([host, processes, str(process), str(began), chance])


@pytest.mark.parametrize("process", ["", "x", "-1", "1.0", "²"])
def test_of_what_is_no_number_of_a_process_nothing_is_known(process: str) -> None:
    with own_name() as owner:
        assert not is_gone(another(owner, process=process))


def test_a_number_that_no_process_has_is_of_one_that_is_gone() -> None:
    with own_name() as owner:
        assert is_gone(another(owner, process=2**31 - 1))


def test_a_process_may_have_any_name(tmp_path: Path) -> None:
    program = tmp_path / "Schläfer) 7 (x"
    program.symlink_to(Path("/bin/sleep").resolve())
    with own_name() as owner, subprocess.Popen([program, "60"]) as process:  # noqa: S603
        try:
            assert is_gone(another(owner, process=process.pid))
            assert not is_gone(another(owner, process=process.pid, began=_began(process.pid)))
        finally:
            process.kill()


def test_the_name_tells_when_the_process_began() -> None:
    per_second = os.sysconf("SC_CLK_TCK")
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    process, owner = a_process()
    with process:
        after = time.clock_gettime(time.CLOCK_BOOTTIME)
        process.kill()
    began = int(owner.split(":")[3]) / per_second
    assert before - 1 <= began <= after + 1


@pytest.mark.parametrize(
    ("refusal", "has_gone"),
    [
        (None, False),
        (PermissionError, False),
        (ProcessLookupError, True),
        (OverflowError, True),
    ],
)
def test_where_others_may_not_be_looked_at_those_are_gone_of_which_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
    refusal: type[Exception] | None,
    has_gone: bool,  # noqa: FBT001
) -> None:
    read, asked = Path.read_text, list[tuple[int, int]]()

    def read_but_others(path: Path, **options: Any) -> str:
        if path == Path("/proc/4711/stat"):
            raise FileNotFoundError(path)
        return read(path, **options)

    def kill(process: int, number: int) -> None:
        asked.append((process, number))
        if refusal is not None:
            raise refusal

    monkeypatch.setattr(Path, "read_text", read_but_others)
    monkeypatch.setattr(os, "kill", kill)
    with own_name() as owner:
        assert is_gone(another(owner, process=4711)) is has_gone
    assert asked == [(4711, 0)], "nothing but whether it is there"


def test_without_proc_nobody_is_thought_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", refuse)
    with own_name() as owner:
        assert owner.split(":")[1:4] == ["?", str(os.getpid()), "?"]
        assert not is_gone(owner)
        assert not is_gone(owner.replace("?", "12345"))
