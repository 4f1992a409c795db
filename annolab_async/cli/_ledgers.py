"""Ledgers that are there already, and the runs in them."""

from __future__ import annotations

import json
import re
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import unquote

import anyio
from anyio import to_thread

from annolab_async import BatchPlan
from annolab_async.cli._problems import Problem
from annolab_async.cli._terminal import Own
from annolab_async.ledger import open_ledger

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from annolab_async.ledger import Ledger, LedgerRun, RunInfo

__all__ = ["existing_ledger", "find_run", "shown_spec", "stored_plan", "the_run"]

_SQLITE: Final = "sqlite:///"
_PASSWORD: Final = re.compile(r"(://[^:/@]*):[^@]*@")
_PASSWORD_OPTION: Final = re.compile(r"([?&](?:ssl)?password=)[^&]*", re.IGNORECASE)


def shown_spec(spec: str) -> Own:
    """Return a ledger's path or URL without a password."""
    return Own(_PASSWORD_OPTION.sub(r"\1***", _PASSWORD.sub(r"\1:***@", spec)))


@asynccontextmanager
async def existing_ledger(spec: str, *, read_only: bool = True) -> AsyncGenerator[Ledger]:
    """Open a ledger, but make none.

    Args:
        spec: its path or URL.
        read_only: whether it is only read.

    Raises:
        Problem: there is none.
        LedgerError: it is none, or cannot be used.
    """
    path = spec
    if spec.startswith(_SQLITE):
        path = unquote(spec.removeprefix(_SQLITE).partition("?")[0])
    if "://" not in path and not await anyio.Path(path).exists():
        raise Problem(
            f"There is no ledger {spec}.",
            hint="annolab-async run begins one; --ledger says which it is.",
        )
    # Its driver is imported, which takes a while.
    open_it = partial(open_ledger, spec, read_only=read_only)
    async with await to_thread.run_sync(open_it) as ledger:
        yield ledger


async def find_run(ledger: Ledger, name: str, *, spec: str) -> RunInfo:
    """Return what a ledger has of a run.

    Raises:
        Problem: there is no run of that name; those that are there are named.
    """
    runs = await ledger.runs()
    for info in runs:
        if info.name == name:
            return info
    names = ", ".join(info.name for info in runs)
    raise Problem(
        f"The ledger {shown_spec(spec)} has no run {name!r}.",
        hint=f"--run says which it is; there are: {names}" if names else "It has none at all.",
    )


async def the_run(ledger: Ledger, info: RunInfo) -> LedgerRun:
    """Return a run that is there."""
    return await ledger.begin_run(info.name, info.fingerprint)


def stored_plan(info: RunInfo) -> BatchPlan:
    """Return the plan of a run as it was written down: its batches are there, and no further sources come.

    Raises:
        Problem: it was not written down to its end, or not by this library.
    """
    if not info.is_planned:
        raise Problem(
            f"The plan of run {info.name!r} was not written down to its end, so that it does not hold all sources.",
            hint="Give annolab-async run all of them again: it goes on where it stopped.",
        )
    try:
        details: dict[str, Any] = json.loads(info.details)
        plan = BatchPlan(
            group_name=details["groupName"],
            project_identifier=details["projectIdentifier"],
            model_identifier=details["modelIdentifier"],
            output_layer_identifier=details["outputLayerIdentifier"],
            source_ids=_NoMore(),
            batch_size=details["batchSize"],
        )
    except (KeyError, TypeError, ValueError):
        plan = None
    if plan is None or plan.fingerprint != info.fingerprint:
        raise Problem(
            f"The plan of run {info.name!r} cannot be read from its ledger.",
            hint="Give annolab-async run the same plan again: it goes on where it stopped.",
        )
    return plan


class _NoMore:
    """Sources that come over time, of which there are no more."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> int:
        raise StopAsyncIteration
