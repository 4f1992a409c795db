"""The tables of the documentation name all that there is, and nothing else."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING
from unittest.mock import Mock

from annolab_async import BatchState, Outcome, _hooks, errors
from annolab_async._otel_meters import Meters
from annolab_async.cli._problems import ExitStatus
from docs.examples.fastapi_service.answers import CODES
from tests.documentation.examples import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator


def rows(page: str, head: str) -> Iterator[list[str]]:
    """Yield the cells of each row of a table.

    Args:
        page: where it is, below the root.
        head: what its first line begins with.
    """
    text = (ROOT / page).read_text(encoding="utf-8")
    _, found, table = text.partition(f"\n{head}")
    assert found, f"{page} has no table that begins with {head}"
    for line in table.partition("\n\n")[0].splitlines()[2:]:
        yield [cell.strip() for cell in line.strip("|").split(" | ")]


def quoted(text: str) -> list[str]:
    """Return what stands in backticks."""
    return re.findall(r"`(\w[\w.]*)`", text)


def test_outcomes() -> None:
    assert [quoted(first) for first, *_ in rows("README.md", "| outcome |")] == [
        [outcome.name] for outcome in Outcome
    ]


def test_states_of_batches() -> None:
    assert {first for first, *_ in rows("docs/fan-out.md", "| state |")} == {
        state.name for state in BatchState
    }


def test_errors() -> None:
    told = [name for first, *_ in rows("docs/errors.md", "| error |") for name in quoted(first)]
    assert sorted(told) == sorted({*errors.__all__} - {"AnnoLabError"})


def test_hooks_and_what_they_are_told() -> None:
    hooks = {
        name: next(iter(method.__annotations__.values()))
        for _, protocol in inspect.getmembers(_hooks, inspect.isclass)
        for name, method in inspect.getmembers(protocol, inspect.isfunction)
        if name.startswith("on_")
    }
    told: dict[str, str] = {}
    for methods, records, *_ in rows("docs/observability.md", "| method |"):
        told |= dict(zip(quoted(methods), quoted(records), strict=True))
    assert told == hooks


def test_metrics_with_their_instruments_and_units() -> None:
    meter = Mock()
    Meters(meter)
    made = {
        call.args[0]: (
            name.removeprefix("create_").removeprefix("observable_"),
            call.kwargs["unit"],
        )
        for call in meter.mock_calls
        for name in call[:1]
    }
    told = {
        quoted(name)[0]: (re.sub("[- ]", "_", instrument), unit.strip("`"))
        for name, instrument, unit, *_ in rows("docs/observability.md", "| metric |")
    }
    assert told == made


def test_exit_statuses() -> None:
    told = [int(first) for first, *_ in rows("docs/command-line.md", "| exit status |")]
    assert told == [*ExitStatus]


def test_answers_of_the_example_service() -> None:
    told: dict[str, int] = {}
    for first, answer, *_ in rows("docs/services.md", "| error |"):
        names = ["AnnoLabError"] if first.startswith("others") else quoted(first)
        told |= dict.fromkeys(names, int(answer[:3]))
    assert told.pop("JobNotFound") == CODES[errors.NotFound], "it is one"
    assert told == {kind.__name__: code for kind, code in CODES.items()}
