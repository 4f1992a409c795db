"""What a service knows of its jobs: one watcher asks for all of them, and any number of requests look on."""

from __future__ import annotations

import logging
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

from annolab_async import AnnoLabError, InferenceJob

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from annolab_async import AsyncInferenceClient, InferenceWatcher, Transition

KEPT = 10_000  # ended jobs
log = logging.getLogger(__name__)


class Story:
    """What became of a job so far: a list that grows. Each reads it at a pace of its own; nothing piles up for any."""

    def __init__(self) -> None:
        self.told: list[Transition] = []
        self.news = anyio.Event()

    def go_on(self, *more: Transition) -> None:
        self.told += more
        self.news.set()
        self.news = anyio.Event()


class Board:
    """The stories of all jobs, as the one watcher tells them."""

    def __init__(self, client: AsyncInferenceClient, watcher: InferenceWatcher) -> None:
        self.client = client
        self.watcher = watcher
        self.stories: dict[int, Story] = {}
        self.ended: deque[int] = deque()
        self.waits: set[anyio.CancelScope] = set()
        self.is_closing = False

    def follow(self, job: InferenceJob | int) -> Story:
        """Watch a job unless it is watched already; it may be one from an earlier life of this service."""
        self.watcher.add(job)
        job_id = job.inference_job_id if isinstance(job, InferenceJob) else job
        return self.stories.setdefault(job_id, Story())

    async def fill(self) -> None:
        """Tell the stories, until cancelled."""
        try:
            async for news in self.watcher:
                self.stories[news.inference_job_id].go_on(news)
                if news.outcome is not None:
                    self.ended.append(news.inference_job_id)
                    if len(self.ended) > KEPT:
                        oldest = self.ended.popleft()
                        self.watcher.discard(oldest)
                        del self.stories[oldest]
        except AnnoLabError:  # no poll can work, with a bad key, say: who asks from now on is told
            log.exception("no job can be watched any more")
            self.close()

    async def read(self, story: Story) -> AsyncGenerator[Transition]:
        """Yield a story's transitions as they come, from the first to the outcome."""
        read = 0
        while not self.is_closing:
            for transition in story.told[read:]:
                read += 1
                yield transition
                if transition.outcome is not None:
                    return
            if read == len(story.told):
                await story.news.wait()

    @asynccontextmanager
    async def patience(
        self, seconds: float, receive: Callable[[], Awaitable[Mapping[str, Any]]]
    ) -> AsyncGenerator[None]:
        """Leave the block after so many seconds, when the client has gone, or when the service is to stop."""

        async def leave_with_the_client() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()

        failure: AnnoLabError | None = None
        async with anyio.create_task_group() as tasks:
            self.waits.add(tasks.cancel_scope)
            try:
                tasks.start_soon(leave_with_the_client)
                with anyio.move_on_after(0 if self.is_closing else seconds):
                    yield
            except AnnoLabError as error:
                failure = error  # raised below: the group would wrap it in another
            finally:
                self.waits.discard(tasks.cancel_scope)
                tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Let go of all who wait: a server that is to stop waits for them, and only then ends the lifespan."""
        self.is_closing = True
        for scope in self.waits:
            scope.cancel()
        for story in self.stories.values():
            story.go_on()
