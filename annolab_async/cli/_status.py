"""The command ``status``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio import CapacityLimiter, create_task_group

from annolab_async import InferenceJob, JobState
from annolab_async.cli._interrupts import until_interrupted
from annolab_async.cli._job_ids import File, Jobs, read_job_ids
from annolab_async.cli._job_words import job_json, state_word, why
from annolab_async.cli._options import BaseUrl, Json, MaxPerSecond, make_client
from annolab_async.cli._problems import ExitStatus
from annolab_async.cli._terminal import print_json, print_table, tell
from annolab_async.cli._words import ids
from annolab_async.errors import (
    AnnoLabError,
    AuthenticationError,
    NotFound,
    PermissionDenied,
    RequestNotSent,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from annolab_async import AsyncInferenceClient

__all__ = ["status"]

_AT_ONCE: Final = 16
# What makes it pointless to ask for another one.
_FOR_ALL: Final = (AuthenticationError, PermissionDenied, RequestNotSent)


def status(
    jobs: Jobs = None,
    file: File = None,
    *,
    max_per_second: MaxPerSecond = None,
    base_url: BaseUrl = None,
    is_json: Json = False,
) -> int:
    """Ask once how jobs are.

    Exits with 1 if one has errored, is not known to the server, or could not be asked for.
    """
    job_ids = read_job_ids(jobs, file)

    async def go() -> int:
        client = make_client(base_url, max_per_second=max_per_second)
        return await _status(client, job_ids, is_json=is_json)

    return anyio.run(go)


async def _status(client: AsyncInferenceClient, job_ids: Sequence[int], *, is_json: bool) -> int:
    found: dict[int, InferenceJob | AnnoLabError] = {}
    async with until_interrupted() as interrupts, client:
        await _ask(client, job_ids, found)
    answers = [(job_id, found[job_id]) for job_id in job_ids if job_id in found]
    if is_json:
        for job_id, answer in answers:
            print_json({"event": "job", **_for_machines(job_id, answer)})
    elif answers:
        _print_for_people(answers)
    if interrupts.have_come:
        tell("Interrupted.")
        return ExitStatus.INTERRUPTED
    is_well = all(
        isinstance(answer, InferenceJob) and answer.state is not JobState.ERRORED
        for _, answer in answers
    )
    return ExitStatus.FINISHED if is_well else ExitStatus.FAILED


async def _ask(
    client: AsyncInferenceClient,
    job_ids: Sequence[int],
    found: dict[int, InferenceJob | AnnoLabError],
) -> None:
    limiter = CapacityLimiter(_AT_ONCE)
    failure: AnnoLabError | None = None

    async def ask(job_id: int) -> None:
        nonlocal failure
        async with limiter:
            try:
                found[job_id] = await client.get_job(job_id)
            except _FOR_ALL as error:
                failure = failure or error
                tasks.cancel_scope.cancel()
            except AnnoLabError as error:
                found[job_id] = error

    async with create_task_group() as tasks:
        for job_id in job_ids:
            tasks.start_soon(ask, job_id)
    if failure is not None:
        raise failure


def _for_machines(job_id: int, answer: InferenceJob | AnnoLabError) -> dict[str, Any]:
    if isinstance(answer, InferenceJob):
        return job_json(answer) | {"error": None}
    state = "lost" if isinstance(answer, NotFound) else None
    return {"inference_job_id": job_id, "state": state, "error": why(answer)}


def _print_for_people(answers: Sequence[tuple[int, InferenceJob | AnnoLabError]]) -> None:
    rows: list[tuple[object, object, object]] = []
    for job_id, answer in answers:
        if isinstance(answer, InferenceJob):
            rows.append((job_id, state_word(answer), ids(answer.source_ids)))
        else:
            state = "lost" if isinstance(answer, NotFound) else "no answer"
            rows.append((job_id, state, why(answer)))
    print_table(("job", "state", "sources"), rows, right=("job",), whole=("state",))
