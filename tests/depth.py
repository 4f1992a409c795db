"""How deep the suite goes, which the variable ``TEST_DEPTH`` says.

``quick``, for ``make test``: each case in one of its surroundings, and what is left to chance a few times.
``rest``, for ``make check``: what that leaves out: the other surroundings, and what is too slow for every day.
``thorough``, for ``make thorough``: what is left to chance, as often as docs/reliability.md says, and what takes
much memory.
"""

from __future__ import annotations

import os
from typing import Final

_DEPTHS: Final = ("quick", "rest", "thorough")
DEPTH: Final = os.environ.get("TEST_DEPTH", "quick")
IS_THOROUGH: Final = DEPTH == "thorough"

if DEPTH not in _DEPTHS:
    raise ValueError(f"TEST_DEPTH is {DEPTH!r}, not one of {', '.join(_DEPTHS)}")


def often(times: int) -> int:
    """Return the number of repetitions for a full count of ``times``: a tenth, but in ``make thorough``."""
    return times if IS_THOROUGH else times // 10


def examples(times: int) -> int:
    """Return how many examples hypothesis thinks up: a quarter of ``times`` every day; ``EXAMPLES=1000`` for more."""
    return int(os.environ.get("EXAMPLES", times if IS_THOROUGH else times // 4))
