"""Jobs that go through what a test tells them to."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from annolab_async import JobState, Outcome
from annolab_async.testing import client_of, new_emulator
from tests.service import a_request

pytestmark = [pytest.mark.anyio, pytest.mark.any_backend]


async def seen(emulator: Any, **options: Any) -> list[tuple[str, float]]:
    """Submit a job and return which statuses a watcher sees, and after how many seconds."""
    async with client_of(emulator) as client:
        job = await client.submit(a_request())
        async with client.watch([job], **options) as watcher:
            return [
                (transition.job.status, round(transition.elapsed))
                async for transition in watcher
                if transition.job
            ]


async def test_each_poll_shows_the_next_status_and_the_last_one_stays() -> None:
    emulator = new_emulator()
    emulator.script(1, ["Queued", "Queued", "Running", "Errored"])
    async with client_of(emulator) as client:
        await client.submit(a_request())
        shown = [(await client.get_job(1)).status for _ in range(6)]
    assert shown == ["Queued", "Queued", "Running", "Errored", "Errored", "Errored"]
    job = emulator.job(1)
    assert (job.polls, job.statuses_shown) == (6, ("Queued", "Running", "Errored"))
    assert (job.final_status, job.terminal_answers) == ("Errored", 3)


async def test_statuses_are_shown_from_their_seconds_on() -> None:
    emulator = new_emulator()
    emulator.script(1, {0: "Queued", 3600: "Running", 7200: "Finished"})
    async with client_of(emulator) as client:
        await client.submit(a_request())
        for second, status in ((3599, "Queued"), (3600, "Running"), (7199, "Running")):
            await anyio.sleep_until(second)
            assert (await client.get_job(1)).status == status
            assert not emulator.predictions(1)
        await anyio.sleep_until(7200)
        assert (await client.get_job(1)).state is JobState.FINISHED
    job = emulator.job(1)
    assert (job.started_at, job.ended_at) == (3600, 7200)
    assert emulator.predictions(1)


async def test_a_finished_job_of_polls_has_its_predictions_from_the_end_that_was_shown() -> None:
    emulator = new_emulator()
    emulator.script(1, ["Running", "Finished"])
    async with client_of(emulator) as client:
        await client.submit(a_request())
        await client.get_job(1)
        assert not emulator.predictions(1)
        assert emulator.job(1).ended_at == float("inf")
        await anyio.sleep(5)
        await client.get_job(1)
    assert (emulator.job(1).started_at, emulator.job(1).ended_at) == (0, 5)
    assert emulator.predictions(1)


async def test_words_that_nobody_knows_are_shown_as_they_are() -> None:
    emulator = new_emulator()
    emulator.script(1, ["Paused", "COMPLETE"])
    async with client_of(emulator) as client:
        job = await client.submit(a_request())
        async with client.watch([job]) as watcher:
            statuses = [transition.job.status async for transition in watcher if transition.job]
    assert statuses == ["Paused", "COMPLETE"]
    assert emulator.job(1).terminal_answers == 1


async def test_a_job_under_way_can_be_told_something_else() -> None:
    emulator = new_emulator(base_seconds=5.0)
    async with client_of(emulator) as client:
        await client.submit(a_request())
        await client.get_job(1)
        emulator.script(1, ["Queued", "Errored"])
        assert [(await client.get_job(1)).status for _ in range(2)] == ["Queued", "Errored"]


async def test_a_job_that_never_ends_times_out() -> None:
    emulator = new_emulator()
    emulator.script(1, {0: "Queued", 10: "Running"})
    async with client_of(emulator) as client:
        job = await client.submit(a_request())
        async with client.watch([job], job_timeout=86_400) as watcher:
            *_, last = [transition async for transition in watcher]
    assert last.outcome is Outcome.TIMED_OUT
    assert anyio.current_time() >= 86_400
    assert emulator.job(1).ended_at == float("inf")


async def test_scripted_jobs_take_no_worker() -> None:
    emulator = new_emulator(workers=1, base_seconds=10.0, seconds_per_source=0.0)
    emulator.script(1, {0: "Running", 10_000: "Finished"})
    async with client_of(emulator) as client:
        for _ in range(2):
            await client.submit(a_request())
    assert emulator.job(2).started_at == 0


@pytest.mark.parametrize(
    ("statuses", "fault"),
    [
        ([], "statuses must be"),
        ({}, "statuses must be"),
        ("Queued", "statuses must be"),
        (None, "statuses must be"),
        (["Queued", ""], "must be a word"),
        ([None], "must be a word"),
        ({5: "Queued"}, "begin with 0"),
        ({0: "Queued", 9: "Running", 5: "Finished"}, "go up"),
        ({0: "Queued", float("inf"): "Finished"}, "some second"),
        ({0: "Queued", -1: "Finished"}, "some second"),
        ({"0": "Queued"}, "some second"),
        ({True: "Queued"}, "some second"),
    ],
)
async def test_what_is_no_script_is_refused(statuses: Any, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        new_emulator().script(1, statuses)


@pytest.mark.parametrize("job_id", [0, -1, True, "1", None])
async def test_what_is_no_job_id_is_refused(job_id: Any) -> None:
    with pytest.raises(ValueError, match="id is an int"):
        new_emulator().script(job_id, ["Finished"])
