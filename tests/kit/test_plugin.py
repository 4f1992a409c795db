"""The plugin in the suites of users: each is a run of pytest of its own."""

from __future__ import annotations

import inspect
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import httpx
import pytest

import _annolab_async_pytest as plugin
from annolab_async.testing import BadReply, virtual_time
from tests.service import a_request

if TYPE_CHECKING:
    from annolab_async import AsyncInferenceClient
    from annolab_async.emulator import Emulator, EmulatorServer


class NoMarkers:
    def iter_markers(self, _: str) -> list[pytest.Mark]:
        return []


ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "testing.md").read_text()
FILES = re.findall(r"```python (\w+\.py)(?: (\w+))?\n(.*?)```", PAGE, re.DOTALL)
SHOWN = {name: code for name, kind, code in FILES if not kind}
CONFTEST = {kind: code for _, kind, code in FILES if kind}
WATCH = """
async def test_hours_pass_at_once(annolab_emulator, annolab_client):
    annolab_emulator.script(1, {0: "Queued", 36_000: "Finished"})
    async with annolab_client as client:
        assert await classify(client, [4024]) == "Finished"
"""
SERVICE = SHOWN["service.py"].replace("3 * 3600", "12 * 3600")


def run(folder: Path, files: dict[str, str], *options: str) -> str:
    """Run pytest on files as a user would; return what it printed, and after it the exit status."""
    for name, code in files.items():
        (folder / name).write_text(code)
    done = subprocess.run(  # noqa: S603
        # No plugin but those named: others of this machine are no user's.
        [sys.executable, "-m", "pytest", "-v", "-W", "error", "-p", "no:cacheprovider", *options],
        cwd=folder,
        env={
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTEST_", "COV_"))
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return f"{done.stdout}{done.stderr}\nstatus {done.returncode}"


NO_ASYNC = ("-p", "no:anyio", "-p", "no:asyncio")
ASYNCIO = ("-p", "no:anyio", "-o", "asyncio_default_fixture_loop_scope=function")


@pytest.mark.full
def test_the_tests_in_the_documentation_pass_as_shown(tmp_path: Path) -> None:
    output = run(tmp_path, SHOWN, *NO_ASYNC)
    assert output.endswith("status 0"), output
    assert "3 passed" in output
    assert 0 < len(SHOWN["test_service.py"].partition("@virtual_time\n")[2].splitlines()) <= 10


@pytest.mark.full
def test_what_is_shown_can_fail(tmp_path: Path) -> None:
    wrong = SHOWN | {"test_service.py": SHOWN["test_service.py"].replace('== "Errored"', '== "x"')}
    assert "1 failed, 2 passed" in run(tmp_path, wrong, *NO_ASYNC)


@pytest.mark.full
def test_with_anyios_plugin_tests_run_on_both_backends_in_virtual_time(tmp_path: Path) -> None:
    test = f"import pytest\nfrom service import classify\npytestmark = pytest.mark.anyio\n{WATCH}"
    files = {"service.py": SERVICE, "conftest.py": CONFTEST["anyio"], "test_it.py": test}
    output = run(tmp_path, files, "-p", "no:asyncio")
    assert "2 passed" in output, output
    assert "[asyncio]" in output
    assert "[trio]" in output


@pytest.mark.full
@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_with_pytest_asyncio_tests_run_in_virtual_time(tmp_path: Path, mode: str) -> None:
    mark = "pytestmark = pytest.mark.asyncio" if mode == "strict" else ""
    test = f"import pytest\nfrom service import classify\n{mark}\n{WATCH}"
    files = {"service.py": SERVICE, "conftest.py": CONFTEST["asyncio"], "test_it.py": test}
    output = run(tmp_path, files, *ASYNCIO, "-o", f"asyncio_mode={mode}")
    assert "1 passed" in output, output


@pytest.mark.full
@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_beside_pytest_asyncio_a_single_test_runs_in_virtual_time(
    tmp_path: Path, mode: str
) -> None:
    imports = "from annolab_async.testing import virtual_time\nfrom service import classify\n"
    test = f"{imports}@virtual_time\n{WATCH.lstrip()}"
    files = {"service.py": SERVICE, "test_it.py": test}
    output = run(tmp_path, files, *ASYNCIO, "-o", f"asyncio_mode={mode}")
    assert "1 passed" in output, output


def test_a_suite_that_uses_no_fixture_of_it_imports_nothing(tmp_path: Path) -> None:
    test = """
import sys

def test_it():
    assert "_annolab_async_pytest" in sys.modules
    assert not {"annolab_async", "httpx", "starlette", "uvicorn"} & sys.modules.keys()
"""
    output = run(tmp_path, {"test_it.py": test}, *NO_ASYNC)
    assert "1 passed" in output, output


@pytest.mark.full
def test_it_can_be_left_out(tmp_path: Path) -> None:
    test = "def test_it(annolab_emulator): pass"
    output = run(tmp_path, {"test_it.py": test}, *NO_ASYNC, "-p", "no:annolab_async")
    assert "fixture 'annolab_emulator' not found" in output


def test_a_plan_that_never_happened_fails_the_test(tmp_path: Path) -> None:
    test = """
from annolab_async.testing import BadReply

def test_it(annolab_emulator):
    annolab_emulator.plan_polls(None, BadReply(status_code=500), BadReply(delay=1))

def test_that(annolab_emulator):
    annolab_emulator.plan_polls(BadReply(status_code=500))
    annolab_emulator.forget_plans()
"""
    output = run(tmp_path, {"test_it.py": test}, *NO_ASYNC)
    assert "2 passed, 1 error" in output
    assert "2 of the bad replies that this test planned never happened" in output


def test_what_was_planned_and_never_happened_is_counted() -> None:
    fixture = inspect.unwrap(
        plugin.annolab_emulator
    )  # what pytest has made of it is not to be called
    made = fixture(SimpleNamespace(node=NoMarkers()))
    next(made).plan_submits(None, BadReply(status_code=500))
    with pytest.raises(pytest.fail.Exception, match=r"^1 of the bad replies"):
        next(made)


def test_markers_give_settings_and_the_closest_has_the_last_word(tmp_path: Path) -> None:
    test = """
import pytest

pytestmark = pytest.mark.annolab_emulator(workers=3, api_key="module")

@pytest.mark.annolab_emulator(workers=5)
def test_it(annolab_emulator):
    assert "workers=5" in repr(annolab_emulator)
    assert annolab_emulator.api_key == "module"

@pytest.mark.annolab_emulator(worker=5)
def test_that(annolab_emulator):
    pass
"""
    output = run(tmp_path, {"test_it.py": test}, *NO_ASYNC, "--strict-markers")
    assert "1 passed, 1 error" in output, output
    assert "unexpected keyword argument 'worker'" in output


@pytest.mark.sockets
def test_the_served_emulator_is_the_one_in_the_process(
    annolab_emulator: Emulator, annolab_server: EmulatorServer
) -> None:
    assert os.environ["ANNOLAB_BASE_URL"] == annolab_server.base_url
    headers = {"Authorization": f"Api-Key {os.environ['ANNOLAB_API_KEY']}"}
    answer = httpx.post(
        f"{annolab_server.base_url}/v1/infer/batch",
        content=a_request().to_wire(),
        headers=headers,
    )
    assert answer.status_code == 200
    assert list(annolab_emulator.jobs) == [1]
    assert annolab_emulator.requests[0].is_authorized


@virtual_time
async def test_the_client_is_one_of_the_emulator(
    annolab_emulator: Emulator, annolab_client: AsyncInferenceClient
) -> None:
    annolab_emulator.plan_submits(BadReply(status_code=429, retry_after=20))
    async with annolab_client as client:
        await client.submit(a_request())
    assert annolab_emulator.job(1).submitted_at >= 20


def test_the_plugin_itself_holds_nothing_of_the_library() -> None:
    names = runpy.run_path(str(ROOT / "_annolab_async_pytest.py"))
    modules = {getattr(value, "__module__", "") or "" for value in names.values()}
    assert not [module for module in modules if module.startswith("annolab_async")]
    assert {"annolab_emulator", "annolab_client", "annolab_server"} <= names.keys()
