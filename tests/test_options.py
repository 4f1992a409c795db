"""The page of options names all there are, with their defaults."""

from __future__ import annotations

import ast
import inspect
import re
from operator import attrgetter
from typing import Any

import pytest

import annolab_async
from annolab_async import FanOut, InferenceWatcher
from tests.documentation.examples import ROOT
from tests.documentation.test_tables import quoted, rows

# What these pass options on to, and the arguments that are what it is about, not how.
TAKES_OPTIONS_OF = {
    "AsyncInferenceClient.watch": InferenceWatcher,
    "AsyncInferenceClient.fan_out": FanOut,
}
SUBJECTS = {"self", "client", "job", "jobs", "plan"}
OPTIONS = re.findall(r"^## (\S+)$", (ROOT / "docs/options.md").read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize("name", OPTIONS)
def test_options_and_their_defaults(name: str) -> None:
    takes: Any = TAKES_OPTIONS_OF.get(name) or attrgetter(name)(annolab_async)
    parameters = inspect.signature(takes).parameters
    told = {
        quoted(option)[0]: inspect.Parameter.empty
        if default == "required"
        else ast.literal_eval(default.strip("`"))
        for option, default, _ in rows("docs/options.md", f"## {name}\n\n| option |")
    }
    assert told == {
        parameter: value.default
        for parameter, value in parameters.items()
        if parameter not in SUBJECTS
    }
    assert [type(value) for value in told.values()] == [
        type(parameters[option].default) for option in told
    ]
