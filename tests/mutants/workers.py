"""Workers: each has a copy of the project, and a warm process there to run tests in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final, TypeVar

from attrs import asdict, define, field

from tests.mutants.warm import Job, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from tests.mutants.making import Mutant

_Task = TypeVar("_Task")
_Answer = TypeVar("_Answer")

# Each text of a file has a time of its own, or Python would take what it compiled of another.
_FIRST_TIME: Final = 1_000_000_000
# By the clock, for a machine that has much else to do.
_WAIT: Final = 60.0


@define
class Worker:
    """A copy and its process.

    Attributes:
        copy: its root.
    """

    copy: Path
    _process: subprocess.Popen[str]
    _texts: int = 0

    def run(
        self,
        tests: Sequence[str] | None,
        files: Sequence[str],
        *,
        cpu_seconds: float,
        is_map: bool = False,
    ) -> Outcome:
        """Run tests on the copy as it is.

        Args:
            tests: their ids, in order; None for all in the files.
            files: which they are in.
            cpu_seconds: from where on it is a hang; by the clock it may take some times as long.
            is_map: whether to tell which lines they run.
        """
        job = Job(
            files=list(files),
            tests=None if tests is None else list(tests),
            folder=str(self.copy.parent / "t"),
            cpu_seconds=int(cpu_seconds) + 1,
            seconds=_WAIT + 5 * cpu_seconds,
            is_map=is_map,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(job)) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process that runs tests ended with {self._process.wait()}")
        return Outcome(**json.loads(answer))

    def stop(self) -> None:
        """End the process, and with it what is under way."""
        self._process.terminate()
        self._process.wait()

    @contextmanager
    def changed(self, mutant: Mutant) -> Generator[None]:
        """Have a mutant instead of the original, until the context is left.

        Args:
            mutant: of a source as it is.
        """
        path = self.copy / mutant.path
        original = path.read_bytes()
        try:
            self._write(path, mutant.applied(original))
            yield
        finally:
            self._write(path, original)

    def _write(self, path: Path, text: bytes) -> None:
        path.write_bytes(text)
        self._texts += 1
        time = _FIRST_TIME + self._texts
        os.utime(path, (time, time))


@define
class Workers:
    """Some workers, which share what there is to do."""

    _all: list[Worker] = field(factory=list)

    def add(self, copy: Path) -> None:
        """Start another.

        Args:
            copy: where it works.
        """
        self._all.append(Worker(copy, _started(copy)))

    def each(
        self, work: Callable[[_Task, Worker], _Answer], tasks: Iterable[_Task]
    ) -> Generator[_Answer]:
        """Have work done, as many at once as there are workers, and yield the answers in order.

        Args:
            work: what is done with each of the tasks.
            tasks: to do.
        """
        free: SimpleQueue[Worker] = SimpleQueue()
        for worker in self._all:
            free.put(worker)

        def do(task: _Task) -> _Answer:
            worker = free.get()
            try:
                return work(task, worker)
            finally:
                free.put(worker)

        with ThreadPoolExecutor(len(self._all)) as pool:
            try:
                yield from pool.map(do, tasks)
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """End their processes, and with them what is under way."""
        for worker in self._all:
            worker.stop()


@contextmanager
def workers_for(root: Path, count: int) -> Generator[Workers]:
    """Start workers, each with a copy of the files that git knows or does not ignore.

    Args:
        root: of the project.
        count: of workers.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    )
    files = [name for name in listed.stdout.split("\0") if name and (root / name).is_file()]
    workers = Workers()
    with TemporaryDirectory(prefix="mutants-") as folder:
        # A database server that is not run as root looks for its files there.
        Path(folder).chmod(0o755)
        try:
            for number in range(count):
                copy = Path(folder) / str(number) / "copy"
                for name in files:
                    (copy / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(root / name, copy / name)
                (copy.parent / "tmp").mkdir()
                workers.add(copy)
            yield workers
        finally:
            workers.stop()


def _started(copy: Path) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(copy),
        "PYTHONHASHSEED": "0",
        "TMPDIR": str(copy.parent / "tmp"),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "tests.mutants.warm"],
        cwd=copy,
        env=environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
