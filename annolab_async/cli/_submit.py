"""The command ``submit``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, cast

import anyio
import typer

from annolab_async import InferenceJob, InferenceRequest
from annolab_async.cli._display import Traffic
from annolab_async.cli._follow import Followed, follow
from annolab_async.cli._interrupts import until_interrupted
from annolab_async.cli._job_words import job_json, sources as sources_of, state_word, why
from annolab_async.cli._options import (
    BaseUrl,
    Group,
    Json,
    Model,
    OutputLayer,
    Project,
    identifier,
    make_client,
)
from annolab_async.cli._problems import ExitStatus, Problem
from annolab_async.cli._sources import Column, Format, Sources, read_sources
from annolab_async.cli._terminal import print_json, print_line, tell, tell_command
from annolab_async.cli._watch import Timeout
from annolab_async.errors import InvalidResponse, SubmissionUnknown

if TYPE_CHECKING:
    from annolab_async import AsyncInferenceClient
    from annolab_async.cli._interrupts import Interrupts

__all__ = ["submit"]


def submit(
    sources: Sources = None,
    *,
    group: Group,
    project: Project,
    model: Model,
    output_layer: OutputLayer,
    column: Column = None,
    kind: Format = None,
    wait: Annotated[bool, typer.Option("--wait", help="Watch the job until it has ended.")] = False,
    timeout: Timeout = None,
    base_url: BaseUrl = None,
    is_json: Json = False,
) -> int:
    """Submit one job over all sources given. For many sources, and to be able to go on, there is [bold]run[/bold].

    It is never sent twice: a job costs money, and a lost answer is no refusal. Exits with 1 if it is not known
    whether there is a job, and with --wait also if it did not finish.
    """
    try:
        request = InferenceRequest(
            group_name=group,
            project_identifier=identifier(project),
            model_identifier=identifier(model),
            output_layer_identifier=identifier(output_layer),
            source_ids=read_sources(sources, column=column, kind=kind),
        )
    except ValueError as error:
        raise Problem(str(error).removeprefix("This is no valid InferenceRequest: ")) from None
    return anyio.run(
        partial(_submit, request, wait=wait, timeout=timeout, base_url=base_url, is_json=is_json)
    )


async def _submit(
    request: InferenceRequest,
    *,
    wait: bool,
    timeout: float | None,
    base_url: str | None,
    is_json: bool,
) -> int:
    traffic = Traffic()
    followed = await _go(
        request, traffic, wait=wait, timeout=timeout, base_url=base_url, is_json=is_json
    )
    if followed is None:
        tell("Interrupted.")
        if traffic.requests:
            tell(f"The job may or may not exist. {_what_to_do(request)}")
        return ExitStatus.INTERRUPTED
    if wait:
        return followed.print_end()
    if not is_json:
        tell("To watch it:")
        tell_command(followed.command())
    return ExitStatus.FINISHED


async def _go(
    request: InferenceRequest,
    traffic: Traffic,
    *,
    wait: bool,
    timeout: float | None,
    base_url: str | None,
    is_json: bool,
) -> Followed | None:
    client = make_client(base_url, hooks=[traffic])
    followed: Followed | None = None
    async with until_interrupted() as interrupts, client:
        job_id = await _send(client, request, interrupts, is_json=is_json)
        followed = Followed([job_id], traffic, base_url, is_json)
        if wait and not interrupts.have_come:
            await follow(client, followed, timeout=timeout)
    return followed


async def _send(
    client: AsyncInferenceClient,
    request: InferenceRequest,
    interrupts: Interrupts,
    *,
    is_json: bool,
) -> int:
    # Cut short, it would leave nobody knowing whether there is a job.
    interrupts.wait_for = "the answer to the submission"
    try:
        job = await client.submit(request)
    except SubmissionUnknown as error:
        if is_json:
            print_json({"event": "unknown", "source_ids": request.source_ids, "error": str(error)})
        raise Problem(
            f"{why(error)} The job may or may not exist.",
            hint=_what_to_do(request),
            status=ExitStatus.FAILED,
        ) from error
    except InvalidResponse as error:
        # Without an id it would have been unknown.
        job_id = cast("int", error.inference_job_id)
        tell(error)
        job = InferenceJob(job_id, status="", source_ids=request.source_ids)
    finally:
        interrupts.wait_for = None
    state = f" {state_word(job)}" if job.status else ""
    line = f"job {job.inference_job_id}{state}, {sources_of(job.source_ids)}"
    try:
        if is_json:
            print_json({"event": "job", **job_json(job)})
        else:
            print_line(line)
    except OSError:
        tell(line)  # or nobody would ever know of it
        raise
    return job.inference_job_id


def _what_to_do(request: InferenceRequest) -> str:
    return (
        f"Look at AnnoLab for a job over {sources_of(request.source_ids)}, or for new predictions in the layer "
        f"{request.output_layer_identifier!r}, before you submit it again: that would be paid for again. "
        "If there is a job: annolab-async watch JOB."
    )
