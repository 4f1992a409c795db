"""The lowest versions that CI tries are those that the package says it works with."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_floor_is_what_is_tried() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    floors = {
        (name.lower(), tuple(version.split(".")))
        for requirements in (project["dependencies"], *extras)
        for requirement in requirements
        for name, version in re.findall(r"^([\w-]+)(?:\[\w+\])?>=([\d.]+)$", requirement)
    }
    assert len(floors) > 15
    tried = dict(
        re.findall(r"^([\w-]+)==([\d.]+)$", (ROOT / ".ci/lowest.txt").read_text(), re.MULTILINE)
    )
    missed = {
        name: (floor, tried.get(name))
        for name, floor in floors
        if tuple(tried.get(name, "").split("."))[: len(floor)] != floor
    }
    assert not missed
