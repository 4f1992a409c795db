"""Which tests run which lines of the package: written down test file by test file in ``.mutants/``.

A test file is mapped anew when it has changed. When the package has changed, its lines are found again in the older
text that was mapped; tests of what is new there are those of the lines around it.
"""

from __future__ import annotations

import ast
import json
from difflib import SequenceMatcher
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from attrs import field, frozen

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from tests.mutants.making import Mutant

# What is run when test files are imported, not by any test of theirs.
ON_IMPORT: Final = ""
PACKAGE: Final = "annolab_async"


@frozen(order=True)
class Cost:
    """What a test costs.

    Attributes:
        seconds: of CPU, under coverage.
        test: its node id.
    """

    seconds: float
    test: str


@frozen
class Maps:
    """The maps in a folder.

    Attributes:
        root: of the project.
        folder: where maps are kept.
    """

    root: Path
    folder: Path

    def path_of(self, test_file: str) -> Path:
        """Return where the map of a test file is.

        Args:
            test_file: from the project's root.
        """
        return self.folder / "maps" / f"{test_file.replace('/', '+')}.json"

    def is_current(self, test_file: str) -> bool:
        """Return whether a test file is mapped as it is.

        Args:
            test_file: from the project's root.
        """
        path = self.path_of(test_file)
        if not path.exists():
            return False
        return bool(_read(path)["digest"] == _digest((self.root / test_file).read_bytes()))

    def keep(self, test_file: str, found: Mapping[str, Any], copy: Path) -> None:
        """Write down a map, and the sources that it is of.

        Args:
            test_file: from the project's root.
            found: what the run told.
            copy: of the project, where it ran: the original may have changed meanwhile.
        """
        sources = self.folder / "sources"
        sources.mkdir(parents=True, exist_ok=True)
        digests: dict[str, str] = {}
        for source in found["sources"]:
            text = (copy / source).read_bytes()
            digests[source] = _digest(text)
            (sources / digests[source]).write_bytes(text)
        digest = _digest((copy / test_file).read_bytes())
        path = self.path_of(test_file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"digest": digest, "of": digests, **found}), encoding="utf-8")

    def read(self, test_files: Iterable[str]) -> Atlas:
        """Return the maps of test files.

        Args:
            test_files: mapped before, from the project's root.
        """
        sources = {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in sorted((self.root / PACKAGE).rglob("*.py"))
        }
        maps = [_read(self.path_of(test_file)) for test_file in test_files]
        older = {
            digest: (self.folder / "sources" / digest).read_bytes()
            for found in maps
            for source, digest in found["of"].items()
            if source in sources and digest != _digest(sources[source])
        }
        return Atlas(maps, sources, older)


@frozen
class Atlas:
    """Maps of many test files.

    Attributes:
        maps: as the runs told them.
        sources: of the package, as they are now, by path.
        older: sources that maps are of and which have changed since, by digest.
    """

    maps: list[dict[str, Any]]
    sources: Mapping[str, bytes]
    older: Mapping[str, bytes]
    _found_again: dict[tuple[str, str, tuple[int, int]], tuple[int, int]] = field(factory=dict)
    _users: dict[str, list[tuple[str, int]]] = field(factory=dict)

    def tests_of(self, mutant: Mutant) -> list[Cost]:
        """Return the tests that run a mutant's lines, the cheapest first; then those whose file runs them on import.

        What happens when the package is imported no test runs: then it is those that run a use of what was defined,
        or else all of the module's; and the tests that run nothing of the package, since they look at definitions.

        Args:
            mutant: of a source as it is now.
        """
        if not mutant.is_on_import:
            places = [(mutant.path, mutant.lines)]
            running = self._running(places)
            on_import = self._running(places, on_import=True)
            return [*running, *sorted(set(on_import) - set(running))]
        uses = [(path, (line, line)) for name in mutant.names for path, line in self._uses(name)]
        whole = (1, self.sources[mutant.path].count(b"\n") + 1)
        running = self._running(uses) or self._running([(mutant.path, whole)])
        return [*self._of_definitions(), *running]

    def _of_definitions(self) -> list[Cost]:
        return sorted(
            Cost(seconds, test)
            for found in self.maps
            for test, seconds in found["tests"].items()
            if not found["ran"][test]
        )

    def _running(
        self, places: list[tuple[str, tuple[int, int]]], *, on_import: bool = False
    ) -> list[Cost]:
        costs: set[Cost] = set()
        for found in self.maps:
            masks = self._masks(found, places)
            for test, seconds in found["tests"].items():
                ran = found["ran"].get(ON_IMPORT if on_import else test, {})
                if any(int(ran.get(path, "0"), 16) & mask for path, mask in masks.items()):
                    costs.add(Cost(seconds, test))
        return sorted(costs)

    def _masks(
        self, found: dict[str, Any], places: list[tuple[str, tuple[int, int]]]
    ) -> dict[str, int]:
        masks: dict[str, int] = {}
        for path, lines in places:
            if path in found["of"]:
                first, last = self._then(path, found["of"][path], lines)
                masks[path] = masks.get(path, 0) | (1 << (last + 1)) - (1 << first)
        return masks

    def _then(self, path: str, digest: str, lines: tuple[int, int]) -> tuple[int, int]:
        """Return where lines were in the text that was mapped; for new ones, the lines around."""
        if digest not in self.older:
            return lines
        key = (path, digest, lines)
        if key not in self._found_again:
            now, then = self.sources[path].splitlines(), self.older[digest].splitlines()
            spans = [
                (then_first + lines[0] - 1 - first, then_first + lines[1] - 1 - first)
                if tag == "equal"
                else (then_first - 1, then_last)
                for tag, first, last, then_first, then_last in SequenceMatcher(
                    None, now, then, autojunk=False
                ).get_opcodes()
                if first < lines[1] and lines[0] - 1 < last
            ]
            first = max(0, min(span[0] for span in spans))
            self._found_again[key] = (first + 1, max(span[1] for span in spans) + 1)
        return self._found_again[key]

    def _uses(self, name: str) -> list[tuple[str, int]]:
        if not self._users:
            for path, source in self.sources.items():
                for used, line in _used_in_functions(source):
                    self._users.setdefault(used, []).append((path, line))
        return self._users.get(name, [])


def _used_in_functions(source: bytes) -> Iterator[tuple[str, int]]:
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for statement in function.body:
                for node in ast.walk(statement):
                    if isinstance(node, ast.Name):
                        yield node.id, node.lineno
                    elif isinstance(node, ast.Attribute):
                        yield node.attr, node.lineno


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _digest(text: bytes) -> str:
    return sha256(text).hexdigest()
