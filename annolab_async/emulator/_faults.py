"""What goes wrong on purpose with submissions: decided by chance from a seed. Pure."""

from __future__ import annotations

import math
import random
from enum import StrEnum, auto
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator

_SHARES: Final = ("unavailable", "reset", "closed_after_processing", "truncated")


class Fault(StrEnum):
    """What goes wrong with a submission."""

    UNAVAILABLE = auto()
    """It is answered with 503, and not processed."""
    RESET = auto()
    """Its connection is reset before it is processed."""
    CLOSED_AFTER_PROCESSING = auto()
    """It is processed, and its connection closed without an answer."""
    TRUNCATED = auto()
    """It is processed, and its answer breaks off."""


@frozen(kw_only=True)
class Faults:
    """How often which fault befalls a submission; at most one does, and the same seed brings the same ones.

    Args:
        unavailable: Share of submissions that are answered with 503 without being processed.
        reset: Share of those whose connection is reset before they are processed.
        closed_after_processing: Share of those that are processed and get no answer.
        truncated: Share of those that are processed and get an answer that breaks off at a random byte.
        retry_after_share: Share of the 503 answers that have a ``Retry-After``.
        retry_after: Whole seconds that it asks for.
        seed: Where the faults come from.

    Raises:
        ValueError: An argument is invalid; the message names every fault.
    """

    unavailable: float = 0.0
    reset: float = 0.0
    closed_after_processing: float = 0.0
    truncated: float = 0.0
    retry_after_share: float = 0.5
    retry_after: int = 1
    seed: int = 0

    def __attrs_post_init__(self) -> None:
        if wrong := "; ".join(self._wrong()):
            raise ValueError(f"these faults cannot be made: {wrong}")

    def _wrong(self) -> Iterator[str]:
        are_shares = True
        for name in (*_SHARES, "retry_after_share"):
            if not is_share(value := getattr(self, name)):
                are_shares = False
                yield f"{name} must be a number from 0 to 1, not {value!r}"
        if are_shares and (total := math.fsum(getattr(self, name) for name in _SHARES)) > 1:
            yield f"{', '.join(_SHARES)} must not be more than 1 together, not {total:g}"
        if type(self.retry_after) is not int or self.retry_after < 0:
            yield f"retry_after must be a whole number of seconds, 0 or more, not {self.retry_after!r}"
        if type(self.seed) is not int:
            yield f"seed must be an int, not {self.seed!r}"

    def draw(self, number: int) -> Draw | None:
        """Decide what befalls a submission.

        Args:
            number: Which submission it is, from 1 up.

        Returns:
            The fault; None if it is answered as it should be.
        """
        # Seeded by number, so that a submission's fate hangs on no other draw.
        rng = random.Random(f"{self.seed}:fault:{number}")
        at, fraction = rng.random(), rng.random()
        for fault, name in zip(Fault, _SHARES, strict=True):
            share: float = getattr(self, name)
            if at < share:
                is_timed = fault is Fault.UNAVAILABLE and fraction < self.retry_after_share
                return Draw(fault, self.retry_after if is_timed else None, fraction)
            at -= share
        return None


@frozen
class Draw:
    """What befalls one submission.

    Attributes:
        fault: What.
        retry_after: Seconds that its 503 asks for; None if it names none, or there is none.
        fraction: At which part of its answer that breaks off, from 0 to below 1.
        cut_after: After how many bytes instead; None where the fraction says it.
    """

    fault: Fault
    retry_after: int | None
    fraction: float
    cut_after: int | None = None


@frozen(kw_only=True)
class Mishap:
    """A fault that befell a submission.

    Attributes:
        fault: What went wrong.
        at: When, in seconds on the emulator's clock.
        inference_job_id: The job that was made all the same; None if there was none.
        retry_after: Seconds that a 503 asked for; None if it named none, or there was none.
    """

    fault: Fault
    at: float
    inference_job_id: int | None = None
    retry_after: int | None = None

    @property
    def is_reply_lost(self) -> bool:
        """Whether the client cannot tell from the reply if there is a job: none came whole, or a bare 503."""
        return self.fault is not Fault.UNAVAILABLE or self.retry_after is None


def is_share(value: Any) -> bool:
    """Return whether a value is a number from 0 to 1."""
    return type(value) in {int, float} and 0 <= value <= 1
