"""How often tests repeat what they do: ten times as often with ``FAULTS=thorough``, as in ``make thorough``."""

from __future__ import annotations

import os
from typing import Final

IS_THOROUGH: Final = os.environ.get("FAULTS") == "thorough"


def often(times: int) -> int:
    """Return the number of repetitions for a full count of ``times``."""
    return times if IS_THOROUGH else times // 10
