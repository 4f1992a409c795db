"""Every example in the documentation runs as pasted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.documentation.examples import PAGES, examples_in, run_examples

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.full
@pytest.mark.sockets
def test_every_example_runs_and_shows_something(tmp_path: Path) -> None:
    examples = [example for page in PAGES for example in examples_in(page)]
    failed = [
        f"{example.where}: status {ran.status}, {ran.output or 'nothing shown'}"
        for example, ran in zip(examples, run_examples(examples, tmp_path), strict=True)
        if ran.status or not ran.output
    ]
    assert len(examples) > 15
    assert not failed, "\n\n".join(failed)
