"""Real uses that the type checkers must accept as they are; ``tests/test_typing.py`` has what they must refuse."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, assert_type

from annolab_async import (
    AnnoLabError,
    AsyncInferenceClient,
    Backoff,
    FixedInterval,
    InferenceJob,
    InferenceRequest,
    InferenceWatcher,
    InvalidResponse,
    JobLost,
    JobNotFound,
    JobState,
    NotFound,
    Outcome,
    RateLimited,
    RetryPolicy,
    SubmissionUnknown,
    Transition,
    WaitTimeout,
    WatchStats,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random

    import httpx
    import httpx2

    from annolab_async import PollPlanner, PollSchedule
    from annolab_async._watcher import WatchOptions

REQUEST = InferenceRequest(
    group_name="Company Name",
    project_identifier="Sample Project",
    model_identifier=12,
    source_ids=[3240, 4414],
    output_layer_identifier="Gold Set",
)
assert_type(REQUEST.source_ids, tuple[int, ...])


def requests(source_ids: Iterable[int]) -> InferenceRequest:
    return InferenceRequest(
        group_name="Company Name",
        project_identifier=1,
        model_identifier=12,
        source_ids=(source_id for source_id in source_ids),
        output_layer_identifier=3,
    )


async def submit_and_wait(key: str | None) -> InferenceJob:
    async with AsyncInferenceClient(key, timeout=10, retry=RetryPolicy(attempts=2)) as client:
        assert_type(client, AsyncInferenceClient)
        job = await client.submit(REQUEST)
        assert_type(job, InferenceJob)
        assert_type(await client.get_job(job), InferenceJob)
        assert_type(await client.get_job(7), InferenceJob)
        assert_type(await client.wait(7, timeout=None), InferenceJob)
        return await client.wait(job, timeout=1800, schedule=FixedInterval(15))


async def with_clients_of_the_callers(
    first: httpx.AsyncClient, second: httpx2.AsyncClient
) -> list[InferenceJob]:
    return [
        await client.get_job(7)
        for client in (
            AsyncInferenceClient(http_client=first),
            AsyncInferenceClient(http_client=second, base_url="http://localhost:8000"),
        )
    ]


async def watch(client: AsyncInferenceClient, jobs: list[InferenceJob], ids: set[int]) -> None:
    options: WatchOptions = {"max_polls_per_second": 10, "job_timeout": 1800.0}
    async with client.watch(jobs, **options) as watcher:
        assert_type(watcher, InferenceWatcher)
        async for transition in watcher:
            assert_type(transition, Transition)
            assert_type(transition.job, InferenceJob | None)
            assert_type(transition.previous, InferenceJob | None)
            assert_type(transition.outcome, Outcome | None)
            assert_type(transition.error, AnnoLabError | None)
            assert_type(transition.observed_at, datetime)
            if transition.outcome is not None:
                print(verdict(transition.outcome))  # noqa: T201
    async with client.watch([*jobs, *ids], schedule=Backoff(cap=60), keep_open=True) as watcher:
        watcher.add(1, jobs[0], job_timeout=60)
        assert_type(await watcher.wait(1), InferenceJob)
        watcher.discard(jobs[0])
        watcher.close()
        assert_type(watcher.stats, WatchStats)
        assert_type(watcher.stats.outcomes, Mapping[Outcome, int])
    async with InferenceWatcher(client, ids, max_concurrent_polls=4, failure_budget=60) as watcher:
        assert_type([transition async for transition in watcher], list[Transition])


def verdict(outcome: Outcome) -> str:
    match outcome:  # without a default: these are all
        case Outcome.FINISHED:
            return "done"
        case Outcome.ERRORED:
            return "failed"
        case Outcome.TIMED_OUT:
            return "slow"
        case Outcome.LOST:
            return "gone"


def colour(state: JobState) -> str:
    match state:
        case JobState.QUEUED | JobState.RUNNING:
            return "blue"
        case JobState.FINISHED:
            return "green"
        case JobState.ERRORED | JobState.UNKNOWN:
            return "red"


def write_down(job: InferenceJob) -> InferenceJob:
    text = job.to_json()
    assert_type(text, str)
    assert_type(job.state, JobState)
    assert_type(job.is_terminal, bool)
    assert_type(job.project_name, str | None)
    return InferenceJob.from_json(text.encode())


def look_into(error: AnnoLabError) -> object:
    match error:
        case SubmissionUnknown():
            assert_type(error.request, InferenceRequest)
            return error.cause
        case InvalidResponse():
            return assert_type(error.inference_job_id, int | None)
        case RateLimited() | NotFound():
            assert_type(error.status_code, int)
            return assert_type(error.retry_after, float | None)
        case WaitTimeout() | JobLost():
            return assert_type(error.job, InferenceJob | None)
        case _:
            return None


def both(error: JobNotFound) -> tuple[int, int]:
    return error.inference_job_id, error.status_code


class EveryMinute:
    """A schedule of one's own."""

    def planner(self, random: Random) -> PollPlanner:
        return FixedInterval(60).planner(random)


SCHEDULES: list[PollSchedule] = [FixedInterval(15), Backoff(jitter=0), EveryMinute()]
