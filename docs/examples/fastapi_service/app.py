"""Batch inference as a FastAPI service: submit a batch, wait for its job, or look on as it changes."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import anyio
import uvicorn
from fastapi import (
    Depends,
    FastAPI,
    Header,
    HTTPException,
    Path as InPath,
    Query,
    Request,
    Response,
)
from fastapi.responses import FileResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import AwareDatetime

from annolab_async import AsyncInferenceClient, InferenceRequest, errors

from .answers import explain
from .board import Board, Story

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncGenerator, AsyncIterator

    from annolab_async import Transition


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with (
        AsyncInferenceClient() as client,
        client.watch(keep_open=True, job_timeout=6 * 3600) as watcher,
        anyio.create_task_group() as tasks,
    ):
        app.state.board = Board(client, watcher)
        tasks.start_soon(app.state.board.fill)
        yield
        tasks.cancel_scope.cancel()


def the_board(request: Request) -> Board:
    return cast("Board", request.app.state.board)


TheBoard = Annotated[Board, Depends(the_board)]
JobId = Annotated[int, InPath(ge=1)]
Seconds = Annotated[float, Query(ge=0, le=60)]
Since = Annotated[AwareDatetime | None, Header()]
app = FastAPI(lifespan=lifespan)
app.add_exception_handler(errors.AnnoLabError, explain)


@app.get("/")
def page() -> FileResponse:
    return FileResponse(Path(__file__).with_name("page.html"))


@app.post("/jobs", status_code=202)
async def submit(source_ids: list[int], board: TheBoard, response: Response) -> dict[str, Any]:
    try:
        request = InferenceRequest(
            group_name="Company Name",
            project_identifier="My Project",
            model_identifier="Staple + Classify Documents",
            source_ids=source_ids,
            output_layer_identifier="Gold Set",
        )
    except ValueError as error:
        raise HTTPException(422, str(error)) from None
    job = await board.client.submit(request)
    board.follow(job)
    response.headers["Location"] = f"/jobs/{job.inference_job_id}"
    return {"job_id": job.inference_job_id, "status": job.status}


@app.get("/jobs/{job_id}")
async def wait(
    job_id: JobId, request: Request, response: Response, board: TheBoard, seconds: Seconds = 30
) -> dict[str, Any]:
    """Wait for a job's end and answer 200, or 202 with its last known status when that takes longer."""
    story = board.follow(job_id)
    async with board.patience(seconds, request.receive):
        job = await board.watcher.wait(job_id)
        return {"job_id": job_id, "status": job.status}
    response.status_code = 202
    return {"job_id": job_id, "status": status_of(story.told[-1]) if story.told else None}


async def story_of(
    job_id: JobId,
    request: Request,
    board: TheBoard,
    last_event_id: Since = None,
) -> Story:
    """Find a job's story before the answer begins, which could tell of no error any more."""
    story = board.follow(job_id)
    async with board.patience(10, request.receive):
        while not story.told:
            await story.news.wait()
    for last in story.told[-1:]:
        if isinstance(last.error, errors.JobNotFound):
            raise last.error
        if last.outcome and last_event_id and last.observed_at <= last_event_id:
            raise HTTPException(204)  # all was told: the browser is not to come again
    return story


@app.get("/jobs/{job_id}/events", response_class=EventSourceResponse)
async def events(
    board: TheBoard,
    story: Annotated[Story, Depends(story_of)],
    last_event_id: Since = None,
) -> AsyncIterator[ServerSentEvent]:
    """Stream a job's statuses as they change; a browser that lost the stream goes on where it was."""
    async for news in board.read(story):
        if last_event_id is None or news.observed_at > last_event_id:
            data = {
                "status": status_of(news),
                "outcome": news.outcome,
                "error": news.error and str(news.error),
            }
            yield ServerSentEvent(id=news.observed_at.isoformat(), data=data)


def status_of(news: Transition) -> str | None:
    return news.job.status if news.job else None


class Server(uvicorn.Server):
    """Uvicorn waits for answers before it ends the lifespan: let go of those that would take long."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        app.state.board.close()
        await super().shutdown(sockets)


if __name__ == "__main__":
    Server(uvicorn.Config(app, port=int(os.environ.get("PORT", "8000")))).run()
