"""How a run may be told to go about its work, and what of that makes no sense."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal, TypedDict

from annolab_async._batch_plan import BatchPlan
from annolab_async._records import is_positive

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from annolab_async._schedule import PollSchedule
    from annolab_async.ledger import Ledger

__all__ = ["FanOutOptions", "check_options"]

# Halves of characters, as arguments in another encoding become. No ledger takes them.
_SURROGATES: Final = re.compile("[\ud800-\udfff]")


class FanOutOptions(TypedDict, total=False):
    """The options of :class:`FanOut`."""

    ledger: Ledger | str | os.PathLike[str] | None
    run: str
    max_in_flight: int
    max_concurrent_submits: int
    on_error: Literal["keep", "split"]
    schedule: PollSchedule | None
    job_timeout: float | None
    failure_budget: float
    stop_timeout: float
    lease_seconds: float


def check_options(
    plan: object,
    *,
    run: object,
    on_error: object,
    numbers: Mapping[str, object],
    seconds: Mapping[str, object],
) -> None:
    """Refuse options that make no sense.

    Args:
        plan: what to run.
        run: the run's name.
        on_error: what to do about batches that fail.
        numbers: options that count something, by their names.
        seconds: options that are times, by their names.

    Raises:
        ValueError: one of them makes no sense; it is named.
    """
    if not isinstance(plan, BatchPlan):
        raise ValueError(  # noqa: TRY004  # as every other option that makes no sense
            f"plan is a {type(plan).__name__}, not a BatchPlan"
        )
    if not isinstance(run, str) or not run or _SURROGATES.search(run):
        raise ValueError(f"run is {run!r}, not a name")
    if on_error not in ("keep", "split"):  # no set: it may be anything, also a list
        raise ValueError(f"on_error is {on_error!r}, neither 'keep' nor 'split'")
    for name, number in numbers.items():
        if type(number) is not int or number < 1:
            raise ValueError(f"{name} is {number!r}, not an integer from 1 up")
    for name, value in seconds.items():
        if not (is_positive(value) or (name == "job_timeout" and value is None)):
            raise ValueError(f"{name} is {value!r}, not a positive number of seconds")
