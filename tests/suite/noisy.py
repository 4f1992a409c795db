"""A test that fails after it has said a lot. ``test_reports`` runs it; pytest does not find it."""

from __future__ import annotations

import logging


def descend(depth: int) -> None:
    logging.getLogger("annolab_async").debug("at a depth of %d", depth)
    print("at a depth of", depth)  # noqa: T201  # that is the point
    if depth == 0:
        raise ValueError("at the bottom")
    descend(depth - 1)


def test_says_a_lot() -> None:
    try:
        descend(300)
    except ValueError:
        descend(400)
