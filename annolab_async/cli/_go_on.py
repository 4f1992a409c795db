"""A run from its opening to its end: shown while it goes on, stopped in good order, and summed up."""

from __future__ import annotations

import logging
from contextlib import aclosing, contextmanager, suppress
from enum import StrEnum, auto
from typing import TYPE_CHECKING, Annotated, Final

import typer
from anyio import create_task_group, to_thread
from attrs import frozen

from annolab_async import BatchState
from annolab_async.cli._display import Display, Traffic
from annolab_async.cli._options import command_line, make_client
from annolab_async.cli._problems import ExitStatus, Problem
from annolab_async.cli._stopping import Stopping
from annolab_async.cli._summary import MOST_TOLD, End, print_end
from annolab_async.cli._terminal import Own, is_live, print_json, tell
from annolab_async.cli._words import FAILED, OPEN, batch_json, plural
from annolab_async.errors import AnnoLabError, LedgerError

if TYPE_CHECKING:
    from collections.abc import Generator

    from annolab_async import AsyncInferenceClient, BatchPlan, BatchRecord, FanOut

__all__ = ["JobTimeout", "MaxInFlight", "OnError", "OnErrorOption", "Way", "go_on"]

_STOP_SECONDS: Final = 10.0
# What these warn of is shown and summed up here.
_SHOWN_HERE: Final = ("annolab_async._sender", "annolab_async._client")


class OnError(StrEnum):
    """What becomes of a batch that fails."""

    KEEP = auto()
    SPLIT = auto()


OnErrorOption = Annotated[
    OnError,
    typer.Option(
        "--on-error",
        help="What to do about a batch that errors: keep it so, or split it until the bad source stands alone.",
    ),
]
MaxInFlight = Annotated[
    int, typer.Option("--max-in-flight", metavar="N", min=1, help="Unfinished jobs at once.")
]
JobTimeout = Annotated[
    float | None,
    typer.Option(
        "--job-timeout",
        metavar="SECONDS",
        min=0.001,
        help="After how long a job without an end is given up; it goes on at the server.",
    ),
]


@frozen(kw_only=True)
class Way:
    """How a run is gone about: the options that `run` and `resume` have in common.

    Args:
        ledger: its ledger's path or URL.
        run: its name there.
        on_error, max_in_flight, job_timeout: as :class:`FanOut` has them.
        max_per_second: a bound on all requests.
        base_url: where the service is.
        is_json: whether each change is written for machines.
    """

    ledger: str
    run: str
    on_error: OnError
    max_in_flight: int
    job_timeout: float | None
    max_per_second: float | None
    base_url: str | None
    is_json: bool

    def command(self, name: str, *more: str) -> Own:
        """Return the command line of another command on this run.

        Args:
            name: the command.
            more: further arguments.
        """
        if name == "resume":
            more = (*more, *self._own_options())
        return command_line(name, *more, ledger=self.ledger, run=self.run, base_url=self.base_url)

    def _own_options(self) -> list[str]:
        given = {
            "--on-error": (self.on_error, OnError.KEEP),
            "--max-in-flight": (self.max_in_flight, 100),
            "--job-timeout": (self.job_timeout, None),
            "--max-per-second": (self.max_per_second, None),
        }
        return [
            word
            for option, (value, usual) in given.items()
            if value != usual
            for word in (option, f"{value:g}" if isinstance(value, float) else str(value))
        ]


async def go_on(plan: BatchPlan, way: Way, *, again: str, tries_failed_again: bool = False) -> int:
    """Run a plan to its end, or go on with it; tell what comes of it.

    Args:
        plan: what is to be run.
        way: how.
        again: the command that does the same once more, for a run whose ledger does not hold its plan yet.
        tries_failed_again: whether batches that ended badly are tried once more.

    Returns:
        The exit status.

    Raises:
        AnnoLabError: it makes no sense to go on.
    """
    traffic = Traffic()
    client = make_client(way.base_url, max_per_second=way.max_per_second, hooks=[traffic])
    stopping = Stopping(_STOP_SECONDS, tell)
    end: End | None = None
    async with client, create_task_group() as tasks:
        tasks.start_soon(stopping.listen, tasks.cancel_scope)
        with _without_what_is_shown():
            end = await _follow(
                client, plan, way, traffic, stopping, tries_failed_again=tries_failed_again
            )
        tasks.cancel_scope.cancel()
    if end is None:
        tell("Interrupted before anything was sent.")
        return ExitStatus.INTERRUPTED
    status = _status(end)
    print_end(end, way, requests=traffic.requests, status=status, again=again)
    if end.failure is not None:
        raise end.failure
    return status


@contextmanager
def _without_what_is_shown() -> Generator[None]:
    loggers = [logging.getLogger(name) for name in _SHOWN_HERE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        if not logger.isEnabledFor(logging.DEBUG):
            logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


async def _follow(
    client: AsyncInferenceClient,
    plan: BatchPlan,
    way: Way,
    traffic: Traffic,
    stopping: Stopping,
    *,
    tries_failed_again: bool,
) -> End:
    failure: AnnoLabError | None = None
    failed: list[BatchRecord] = []
    try:
        fan_out = client.fan_out(
            plan,
            ledger=way.ledger,
            run=way.run,
            on_error="split" if way.on_error is OnError.SPLIT else "keep",
            max_in_flight=way.max_in_flight,
            job_timeout=way.job_timeout,
            stop_timeout=_STOP_SECONDS,
        )
    except ValueError as error:
        raise Problem(f"{error}.") from None
    async with fan_out as run:
        stopping.run = run
        try:
            if tries_failed_again:
                tell(f"Trying {plural(await run.retry(), 'batch')} once more.")
            await _show(run, way, traffic)
        except AnnoLabError as error:
            failure = error
        with suppress(LedgerError):
            failed = await _first_failed(run)
    return End(
        summary=run.summary,
        unknown=run.unknown(),
        failed=failed,
        failed_source_ids=run.failed_source_ids(),
        failure=failure,
        is_stopped=stopping.signals > 0,
    )


async def _show(run: FanOut, way: Way, traffic: Traffic) -> None:
    failure: Exception | None = None
    with Display(run, traffic, is_live=is_live()) as display:
        async with create_task_group() as tasks:
            tasks.start_soon(display.keep)
            try:
                async for record in run:
                    display.note(record)
                    if way.is_json:
                        # In a thread: whatever reads it may be slow, and jobs are to be watched meanwhile.
                        news = {"event": "batch", **batch_json(record)}
                        await to_thread.run_sync(print_json, news)
            except Exception as error:  # noqa: BLE001  # raised below: the group would wrap it in another
                failure = error
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _first_failed(run: FanOut) -> list[BatchRecord]:
    found: list[BatchRecord] = []
    async with aclosing(run.batches(FAILED)) as batches:
        async for record in batches:
            found.append(record)
            if len(found) == MOST_TOLD:
                break
    return found


def _status(end: End) -> ExitStatus:
    batches = end.summary.batches
    if any(batches.get(state) for state in OPEN) or not end.summary.is_planned:
        return ExitStatus.INTERRUPTED if end.is_stopped else ExitStatus.FAILED
    if any(batches.get(state) for state in (*FAILED, BatchState.UNKNOWN)):
        return ExitStatus.FAILED
    return ExitStatus.FINISHED
