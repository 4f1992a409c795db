"""What importing the library costs and brings."""

from __future__ import annotations

import subprocess
import sys

CORE = {"annolab_async", "anyio", "attr", "attrs", "cattrs", "httpx"}
# What the core dependencies import themselves.
THEIRS = {"certifi", "exceptiongroup", "h11", "httpcore", "idna", "sniffio", "typing_extensions"}
# What they import if it happens to be there: httpx its command line, for one.
OPTIONAL = {"click", "rich", "pygments", "markdown_it", "mdurl", "_brotli", "brotli", "zstandard"}


def test_importing_brings_nothing_beyond_the_core_dependencies() -> None:
    code = "import annolab_async, sys; print(*sys.modules)"
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    top = {name.partition(".")[0] for name in done.stdout.split()}
    foreign = {
        name for name in top if name not in sys.stdlib_module_names and not name.startswith("_")
    }
    assert foreign - CORE - THEIRS - OPTIONAL <= {"site", "sitecustomize"}
    assert foreign >= CORE - {"attr"}


def test_ledgers_that_need_no_extra_come_with_the_package() -> None:
    code = "import sys; sys.modules['sqlalchemy'] = None; import annolab_async as it; it.Ledger; it.MemoryLedger()"
    subprocess.run([sys.executable, "-I", "-c", code], check=True)  # noqa: S603
