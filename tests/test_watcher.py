"""What a watcher yields, with an emulator in the same process and in virtual time."""

from __future__ import annotations

import gc
import math
import weakref
from collections import defaultdict
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from annolab_async import (
    AnnoLabError,
    AuthenticationError,
    Backoff,
    FixedInterval,
    InferenceJob,
    InferenceWatcher,
    InvalidResponse,
    JobLost,
    NotFound,
    NotOpen,
    Outcome,
    PermissionDenied,
    RateLimit,
    RetryPlanned,
    Transition,
    WaitTimeout,
    _delivery,
)
from annolab_async.emulator import BadReply
from tests.builders import make_job, make_transition
from tests.observing import Recorder
from tests.service import KEY, a_request, an_emulator, in_process, submit_many, task_count

if TYPE_CHECKING:
    from random import Random

    from annolab_async import AsyncInferenceClient, JobState, PollPlanner
    from annolab_async.emulator import Emulator

pytestmark = pytest.mark.anyio

EVERY_SECOND = FixedInterval(1.0)


async def everything(watcher: InferenceWatcher) -> list[Transition]:
    return [transition async for transition in watcher]


async def test_500_jobs_yield_their_exact_statuses_with_at_most_16_polls_at_once() -> None:
    emulator = an_emulator(workers=40, latency=0.2, error_share=0.1)
    async with in_process(emulator) as client:
        jobs = await submit_many(client, 500)
        async with client.watch(jobs, max_concurrent_polls=16, schedule=EVERY_SECOND) as watcher:
            transitions = await everything(watcher)
    assert emulator.stats.max_polls_in_flight == 16
    seen = defaultdict[int, list[Transition]](list)
    for transition in transitions:
        seen[transition.inference_job_id].append(transition)
    assert len(seen) == 500
    for job_id, job in emulator.jobs.items():
        shown = [transition.job.status for transition in seen[job_id] if transition.job]
        assert tuple(shown) == job.statuses_shown, "each status once, in order"
        outcomes = [transition.outcome for transition in seen[job_id]]
        assert outcomes[:-1] == [None] * (len(outcomes) - 1)
        assert outcomes[-1] == Outcome(job.final_status.lower())
        assert job.terminal_answers == 1, "nothing is polled after its outcome"
        assert seen[job_id][0].previous is None
        for before, after in pairwise(seen[job_id]):
            assert after.previous == before.job
            assert after.polls > before.polls
            assert after.elapsed > before.elapsed
    assert watcher.stats.polls == emulator.stats.polls
    assert sum(watcher.stats.outcomes.values()) == 500


async def test_10_000_jobs_do_not_mean_10_000_tasks() -> None:
    emulator = an_emulator(workers=10_000)
    async with in_process(emulator) as client:
        jobs = [InferenceJob(number, "Queued", (1,)) for number in range(1, 10_001)]
        before = task_count()
        async with client.watch(jobs, max_concurrent_polls=16) as watcher:
            await checkpoint()
            assert watcher.stats.active == 10_000
            assert task_count() - before <= 16 + 2


async def test_transitions_tell_when_and_how_surely_a_change_was_seen() -> None:
    emulator = an_emulator(workers=1)
    async with in_process(emulator) as client:
        job = await client.submit(a_request())
        async with client.watch([job], schedule=FixedInterval(4.0)) as watcher:
            transitions = await everything(watcher)
    first, last = transitions
    assert first.polls == 1
    assert first.elapsed == pytest.approx(0)
    assert last.polls == 1 + last.elapsed / 4
    assert last.uncertainty == pytest.approx(4.0)
    ended_at = emulator.job(1).ended_at
    assert last.elapsed - last.uncertainty <= ended_at <= last.elapsed


async def test_jobs_can_be_added_while_iterating() -> None:
    async with in_process(an_emulator()) as client:
        one, two, three = await submit_many(client, 3)
        ended = list[int]()
        async with client.watch([one]) as watcher:
            async for transition in watcher:
                if transition.outcome:
                    ended.append(transition.inference_job_id)
                    if len(ended) == 1:
                        watcher.add(two, three.inference_job_id)
    assert sorted(ended) == [1, 2, 3]


async def test_a_job_is_watched_once_however_often_it_is_added() -> None:
    emulator = an_emulator()
    async with in_process(emulator) as client:
        job = await client.submit(a_request())
        async with client.watch([job, job, 1], schedule=EVERY_SECOND) as watcher:
            transitions = await everything(watcher)
            watcher.add(job)
            assert await everything(watcher) == []
    assert len([transition for transition in transitions if transition.outcome]) == 1
    assert emulator.job(1).terminal_answers == 1


async def test_a_job_that_has_ended_before_yields_its_end_at_once() -> None:
    emulator = an_emulator()
    async with in_process(emulator) as client:
        await submit_many(client, 2)
        await anyio.sleep(60)
        ended = await client.get_job(1)
        began = anyio.current_time()
        async with client.watch([ended, 2]) as watcher:
            known, asked = sorted(await everything(watcher), key=lambda seen: seen.polls)
        assert anyio.current_time() - began < 0.1
    assert (known.inference_job_id, known.outcome, known.job) == (1, Outcome.FINISHED, ended)
    assert emulator.job(1).polls == 1, "an end that is known is not asked for again"
    assert (asked.inference_job_id, asked.outcome, asked.polls) == (2, Outcome.FINISHED, 1)


async def test_an_id_that_the_server_does_not_know_is_lost_and_the_others_go_on() -> None:
    async with in_process(an_emulator()) as client:
        job = await client.submit(a_request())
        async with client.watch([404, job]) as watcher:
            transitions = await everything(watcher)
    by_id = {transition.inference_job_id: transition for transition in transitions}
    assert by_id[1].outcome is Outcome.FINISHED
    lost = by_id[404]
    assert lost.outcome is Outcome.LOST
    assert lost.job is None
    assert isinstance(lost.error, NotFound)
    assert isinstance(lost.error, JobLost)
    assert isinstance(lost.error.cause, NotFound)
    assert lost.error.status_code == 404


async def test_a_job_that_never_ends_times_out_at_its_time_with_its_last_status() -> None:
    async with in_process(an_emulator(workers=1, base_seconds=1e6)) as client:
        jobs = await submit_many(client, 2)
        async with client.watch(jobs[:1], job_timeout=100.0) as watcher:
            watcher.add(jobs[1], job_timeout=50.0)
            ends = [seen for seen in await everything(watcher) if seen.outcome]
    assert [end.inference_job_id for end in ends] == [2, 1]
    for end, timeout, status in zip(ends, [50, 100], ["Queued", "Running"], strict=True):
        assert end.outcome is Outcome.TIMED_OUT
        assert end.elapsed == pytest.approx(timeout)
        assert end.job is not None
        assert end.job.status == status
        assert isinstance(end.error, WaitTimeout)
        assert end.error.timeout == timeout


async def test_a_job_times_out_at_its_time_although_a_poll_for_it_is_in_flight() -> None:
    emulator = an_emulator(latency=1000.0)
    async with in_process(emulator, timeout=1e5) as client:
        async with client.watch([7], max_concurrent_polls=1, job_timeout=10.0) as watcher:
            (end,) = await everything(watcher)
            assert watcher.stats.in_flight == 1
        assert anyio.current_time() == pytest.approx(10.0)
    assert end.outcome is Outcome.TIMED_OUT
    assert emulator.stats.polls_in_flight == 0


async def submit_and_plan(
    emulator: Emulator, client: AsyncInferenceClient, answers: list[str | int]
) -> None:
    """Make job 1, and plan what its polls are answered: with a status of the job or of HTTP, or with a damaged body."""
    await client.submit(a_request())
    emulator.plan_polls(
        *(
            BadReply(status_code=answer)
            if isinstance(answer, int)
            else BadReply(body=make_job(1, answer).to_json().encode() if answer else b"{")
            for answer in answers
        )
    )


@pytest.mark.parametrize(
    ("answers", "seen"),
    [
        (["Running", "Queued", "Queued", "Finished"], "Running Queued Finished"),
        (["Running", "Queued", "Running", "Finished"], "Running Finished"),
        (["Running", "Queued", "Finished"], "Running Finished"),
        (["Running", "Queued", "Running", "Queued", "Running", "Errored"], "Running Errored"),
        (["Running", "Queued", 500, "Queued", "Finished"], "Running Queued Finished"),
        (["Running", "Queued", "", "Queued", "Finished"], "Running Queued Finished"),
        (["Running", "", "Queued", "Running", "Finished"], "Running Finished"),
        (["Running", 500, "Queued", "Running", "Finished"], "Running Finished"),
        (
            ["Running", "Queued", "Queued", "Running", "Queued", "Running", "Finished"],
            "Running Queued Running Finished",
        ),
        (["Queued", "Running", "Finished"], "Queued Running Finished"),
        (["Running", "Paused", "Queued", "Finished"], "Running Paused Queued Finished"),
    ],
)
@pytest.mark.parametrize("how", ["watch", "wait"])
async def test_that_a_job_went_back_is_believed_when_it_is_said_twice(
    answers: list[str | int], seen: str, how: str
) -> None:
    emulator, recorder = an_emulator(), Recorder()
    async with in_process(emulator, hooks=[recorder]) as client:
        await submit_and_plan(emulator, client, answers)
        if how == "watch":
            async with client.watch(1, schedule=EVERY_SECOND) as watcher:
                transitions = await everything(watcher)
        else:
            assert (await client.wait(1, schedule=EVERY_SECOND)).status == answers[-1]
            transitions = recorder.of(Transition)
    assert " ".join(each.job.status for each in transitions if each.job) == seen
    assert emulator.planned == 0


async def test_a_job_that_went_back_is_asked_for_again_before_its_regular_time() -> None:
    emulator, recorder = an_emulator(), Recorder()
    async with in_process(emulator, hooks=[recorder]) as client:
        await submit_and_plan(emulator, client, ["Running", "Queued", "Queued"])
        async with client.watch(1, schedule=FixedInterval(100.0)) as watcher:
            _, queued, _ = await everything(watcher)
    assert 100 < queued.elapsed < 101
    [again] = recorder.of(RetryPlanned)
    assert isinstance(again.error, InvalidResponse)
    assert "status went back from 'Running' to 'Queued'" in str(again.error)
    assert again.error.went_back
    assert again.error.inference_job_id == 1
    assert (again.error.method, again.error.path) == ("GET", "/v1/infer/batch/1")
    assert again.error.excerpt == ""


async def test_what_is_not_believed_is_not_the_last_state_of_a_job_that_times_out() -> None:
    emulator = an_emulator()
    async with in_process(emulator) as client:
        await submit_and_plan(emulator, client, ["Running", "Queued"])
        with pytest.raises(WaitTimeout) as timed_out:
            await client.wait(1, timeout=7.0, schedule=FixedInterval(6.9))
    assert emulator.planned == 0
    assert timed_out.value.job is not None
    assert timed_out.value.job.status == "Running"


async def test_no_repetition_is_told_of_for_a_job_that_is_lost() -> None:
    emulator, recorder = an_emulator(), Recorder()
    async with in_process(emulator, hooks=[recorder]) as client:
        await submit_and_plan(emulator, client, ["Running", 404, 404, 404])
        async with client.watch(1, schedule=FixedInterval(10.0)) as watcher:
            assert (await everything(watcher))[-1].outcome is Outcome.LOST
    assert [planned.attempt for planned in recorder.of(RetryPlanned)] == [1, 2]


async def test_a_discarded_job_yields_nothing_more_even_if_a_poll_for_it_is_in_flight() -> None:
    emulator = an_emulator(latency=1.0, base_seconds=0.5)
    async with in_process(emulator) as client:
        jobs = await submit_many(client, 2)
        async with client.watch(jobs, schedule=EVERY_SECOND) as watcher:
            await anyio.sleep(0.6)
            assert watcher.stats.in_flight == 2
            watcher.discard(jobs[0])
            transitions = await everything(watcher)
    assert {transition.inference_job_id for transition in transitions} == {2}
    assert emulator.job(1).polls == 1


async def test_transitions_of_a_discarded_job_that_wait_are_dropped() -> None:
    async with in_process(an_emulator()) as client:
        jobs = await submit_many(client, 2)
        async with client.watch(jobs) as watcher:
            await anyio.sleep(60)
            watcher.discard(1)
            assert {seen.inference_job_id for seen in await everything(watcher)} == {2}
            watcher.discard(99)  # not watched: nothing happens


async def test_discarding_the_last_unfinished_job_ends_the_iteration() -> None:
    async with in_process(an_emulator()) as client:
        job = await client.submit(a_request())
        async with client.watch([job]) as watcher:
            async for transition in watcher:
                watcher.discard(transition.inference_job_id)
    assert watcher.stats.active == 0


@pytest.mark.parametrize("how", ["discard", "close"])
async def test_who_iterates_and_waits_is_woken_when_nothing_more_will_come(how: str) -> None:
    async with (
        in_process(an_emulator()) as client,
        client.watch(keep_open=how == "close") as watcher,
        anyio.create_task_group() as tasks,
    ):
        if how == "discard":
            # Far from its next poll, whose answer would be news.
            watcher.add(make_job(404), job_timeout=1e6)
        has_ended = anyio.Event()

        async def consume() -> None:
            assert await everything(watcher) == []
            has_ended.set()

        tasks.start_soon(consume)
        await anyio.wait_all_tasks_blocked()
        assert not has_ended.is_set()
        if how == "discard":
            watcher.discard(404)
        else:
            watcher.close()
        with anyio.fail_after(0.1):
            await has_ended.wait()


async def test_any_number_of_tasks_wait_for_one_job() -> None:
    ended = list[InferenceJob]()
    async with (
        in_process(an_emulator()) as client,
        client.watch(keep_open=True) as watcher,
        anyio.create_task_group() as tasks,
    ):
        job = await client.submit(a_request())
        watcher.add(job)

        async def handler() -> None:
            ended.append(await watcher.wait(job))

        tasks.start_soon(handler)
        tasks.start_soon(handler)
        await watcher.wait(job.inference_job_id)
        ended.append(await watcher.wait(job))  # late, but in time
    assert [seen.status for seen in ended] == ["Finished"] * 3


async def test_waiting_raises_what_became_of_the_job() -> None:
    async with (
        in_process(an_emulator(workers=1)) as client,
        client.watch(keep_open=True) as watcher,
    ):
        first, second, third = await submit_many(client, 3)
        watcher.add(404)
        with pytest.raises(JobLost) as lost:
            await watcher.wait(404)
        assert isinstance(lost.value, NotFound)
        watcher.add(first, job_timeout=5.0)
        with pytest.raises(WaitTimeout) as timed_out:
            await watcher.wait(first)
        assert timed_out.value.job is not None
        watcher.add(second, third)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep, 1)

            async def discard() -> None:
                await anyio.sleep(1)
                watcher.discard(second)

            async def wait(given: InferenceJob | int, known: InferenceJob | None) -> None:
                with pytest.raises(JobLost, match="discarded") as discarded:
                    await watcher.wait(given)
                assert discarded.value.job is known

            tasks.start_soon(discard)
            tasks.start_soon(wait, second, second)
            tasks.start_soon(wait, second.inference_job_id, None)
        with pytest.raises(ValueError, match="not watched: add"):
            await watcher.wait(second)
        assert (await watcher.wait(third)).is_terminal


async def errors_of(count: int, watcher: InferenceWatcher, job_id: int) -> list[Exception]:
    """Let so many tasks wait for a job, and return what they are told."""
    errors = list[Exception]()

    async def handler() -> None:
        try:
            await watcher.wait(job_id)
        except AnnoLabError as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(handler)
    return errors


async def test_each_task_that_waits_has_an_exception_of_its_own() -> None:
    async with in_process(an_emulator()) as client, client.watch(404) as watcher:
        errors = await errors_of(3, watcher, 404)
        [lost] = await everything(watcher)
    assert len({id(error) for error in [*errors, lost.error]}) == 4
    for error in errors:
        assert isinstance(error, JobLost)
        assert str(error) == str(lost.error)
        assert vars(error) == vars(lost.error)
        assert error.__cause__ is lost.error


async def test_each_task_has_an_exception_of_its_own_for_what_ended_all_watching() -> None:
    async with in_process(an_emulator(), api_key="WRONG") as client, client.watch(1) as watcher:
        errors = await errors_of(3, watcher, 1)
    assert [type(error) for error in errors] == [AuthenticationError] * 3
    assert len({id(error) for error in errors}) == 3
    [cause] = {error.__cause__ for error in errors}
    assert isinstance(cause, AuthenticationError)
    assert cause not in errors


async def test_who_waits_is_told_the_end_although_another_discards_the_job() -> None:
    async with (
        in_process(an_emulator()) as client,
        client.watch(keep_open=True) as watcher,
        anyio.create_task_group() as tasks,
    ):
        job = await client.submit(a_request())
        watcher.add(job)

        async def handler() -> None:
            assert (await watcher.wait(job)).is_terminal
            watcher.discard(job)

        for _ in range(3):
            tasks.start_soon(handler)


async def test_a_service_that_waits_and_never_iterates_piles_up_no_more_than_is_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_delivery, "_ENDS_REMEMBERED", 2)
    async with in_process(an_emulator()) as client, client.watch(keep_open=True) as watcher:
        for _ in range(5):
            job = await client.submit(a_request())
            watcher.add(job)
            await watcher.wait(job)
        watcher.add(await client.submit(a_request()))
        await anyio.sleep(100)
        watcher.close()
        ends = [seen.inference_job_id for seen in await everything(watcher) if seen.outcome]
        assert ends == [5, 6], "and what was waited for is yielded, too"
        assert not watcher._delivery._heard - {5}


async def test_who_iterates_is_given_what_others_have_waited_for_however_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_delivery, "_ENDS_REMEMBERED", 1)
    jobs = [make_job(job_id, "Finished") for job_id in range(1, 6)]
    async with in_process(an_emulator()) as client, client.watch(keep_open=True) as watcher:
        watcher.add(jobs[0])
        seen = [await anext(watcher)]
        for job in jobs[1:]:
            watcher.add(job)
            await watcher.wait(job)
        watcher.close()
        seen += await everything(watcher)
    assert [each.job for each in seen] == jobs


async def test_ten_thousand_ends_are_remembered() -> None:
    delivery, ended = _delivery.Delivery(keep_open=True), make_job(1, "Finished")
    for job_id in range(10_001):
        delivery.publish(make_transition(job_id, ended, None, Outcome.FINISHED))
    assert delivery.end_of(0) is None
    assert delivery.end_of(1) is not None


async def test_an_end_that_is_heard_of_when_it_is_forgotten_is_let_go_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_delivery, "_ENDS_REMEMBERED", 1)
    delivery = _delivery.Delivery(keep_open=True)
    for job_id in (1, 2):
        ended = make_job(job_id, "Finished")
        delivery.publish(make_transition(job_id, ended, None, Outcome.FINISHED))
    delivery.was_heard(1)
    left = delivery.take()
    assert left is not None
    assert left.inference_job_id == 2
    assert delivery.take() is None


async def test_a_job_that_was_heard_of_discarded_and_added_again_is_not_taken_for_heard_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_delivery, "_ENDS_REMEMBERED", 1)
    first, second = make_job(1, "Finished"), make_job(2, "Finished")
    async with in_process(an_emulator()) as client, client.watch(keep_open=True) as watcher:
        watcher.add(first)
        await watcher.wait(first)
        watcher.discard(first)
        watcher.add(first, second)  # of which only the second's end is remembered now
        watcher.close()
        assert [seen.inference_job_id for seen in await everything(watcher)] == [1, 2]


async def test_jobs_are_taken_one_by_one_and_by_the_list() -> None:
    async with in_process(an_emulator()) as client:
        jobs = await submit_many(client, 4)
        async with client.watch() as watcher:
            watcher.add(jobs[0], jobs[1:3], (job.inference_job_id for job in jobs[3:]))
            assert watcher.stats.active == 4
            watcher.add(jobs, 99)
            assert watcher.stats.active == 5, (
                "what is watched already keeps out nothing that follows it"
            )


async def test_a_single_job_needs_no_list() -> None:
    async with in_process(an_emulator()) as client:
        job = await client.submit(a_request())
        for one in (job, job.inference_job_id):
            async with client.watch(one) as watcher:
                assert [seen.outcome for seen in await everything(watcher)][-1] is Outcome.FINISHED


async def test_a_failure_raised_again_and_again_does_not_grow() -> None:
    async with in_process(an_emulator(), api_key="WRONG") as client, client.watch([1]) as watcher:
        with pytest.raises(AuthenticationError) as first:
            await anext(watcher)
        for _ in range(100):
            with pytest.raises(AuthenticationError) as again:
                watcher.add(2)
            assert len(again.traceback) <= len(first.traceback)


async def test_a_watcher_is_used_once() -> None:
    async with in_process(an_emulator()) as client:
        watcher = client.watch([1])
        async with watcher:
            pass
        with pytest.raises(NotOpen, match="make another one"):
            async with watcher:
                pass


async def test_a_watcher_kept_open_goes_on_until_it_is_closed() -> None:
    seen = list[Transition]()
    async with (
        in_process(an_emulator()) as client,
        client.watch(keep_open=True) as watcher,
        anyio.create_task_group() as tasks,
    ):

        async def consume() -> None:
            seen.extend(await everything(watcher))
            consumed.set()

        consumed = anyio.Event()
        tasks.start_soon(consume)
        await anyio.sleep(100)
        assert not consumed.is_set()
        watcher.add(await client.submit(a_request()))
        await watcher.wait(1)
        await anyio.sleep(100)
        assert not consumed.is_set()
        watcher.add(await client.submit(a_request()))
        watcher.close()
        watcher.close()
        with pytest.raises(NotOpen, match="closed"):
            watcher.add(3)
        await consumed.wait()
    assert [end.inference_job_id for end in seen if end.outcome] == [1, 2]


async def test_a_watcher_kept_open_that_was_left_yields_what_it_has_and_ends() -> None:
    async with in_process(an_emulator()) as client:
        async with client.watch(make_job(1, "Finished"), keep_open=True) as watcher:
            pass
        assert [seen.outcome for seen in await everything(watcher)] == [Outcome.FINISHED]


async def test_iterating_before_the_block_is_an_error_and_no_end() -> None:
    async with in_process(an_emulator()) as client:
        for watcher in (client.watch(), client.watch(1)):
            with pytest.raises(NotOpen, match="use it inside"):
                await anext(watcher)


async def test_a_failure_is_raised_although_no_job_is_left() -> None:
    async with in_process(an_emulator(), api_key="WRONG") as client, client.watch([1]) as watcher:
        with pytest.raises(AuthenticationError):
            await watcher.wait(1)
        watcher.discard(1)
        with pytest.raises(AuthenticationError):
            await anext(watcher)


async def test_a_watcher_that_is_not_kept_open_remembers_every_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_delivery, "_ENDS_REMEMBERED", 2)
    jobs = [make_job(job_id, "Finished") for job_id in range(1, 6)]
    async with in_process(an_emulator()) as client, client.watch(jobs) as watcher:
        assert [await watcher.wait(job) for job in jobs] == jobs


async def test_only_so_many_ends_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_delivery, "_ENDS_REMEMBERED", 2)
    async with in_process(an_emulator()) as client:
        jobs = await submit_many(client, 3)
        async with client.watch(jobs, keep_open=True) as watcher:
            watcher.close()
            ends = [seen.inference_job_id for seen in await everything(watcher) if seen.outcome]
            for job_id in ends[1:]:
                await watcher.wait(job_id)
            with pytest.raises(ValueError, match="not watched"):
                await watcher.wait(ends[0])


async def test_a_slow_consumer_misses_no_outcome_and_polling_goes_on() -> None:
    emulator = an_emulator(workers=600)
    async with in_process(emulator) as client:
        jobs = await submit_many(client, 600)
        async with client.watch(jobs, schedule=FixedInterval(6.0)) as watcher:
            await anyio.sleep(1000)
            assert watcher.stats.active == 0
            transitions = await everything(watcher)
    assert len([end for end in transitions if end.outcome]) == 600
    merged = [seen for seen in transitions if seen.outcome and seen.previous is None]
    assert len(merged) == 2 * 600 - 1024, "beyond the room, a job's states are merged"


@pytest.mark.parametrize("latency", [0.1, 0.0])
async def test_polls_keep_to_what_their_client_may_send(latency: float) -> None:
    emulator = an_emulator(workers=50, latency=latency)
    limits: dict[str, Any] = {"rate_limit": RateLimit(10.0, burst=4), "max_connections": 2}
    async with in_process(emulator, **limits) as client:
        jobs = [make_job(job_id) for job_id in range(1, 51)]
        async with client.watch(jobs, schedule=EVERY_SECOND) as watcher:
            await anyio.sleep(10)
            assert 98 <= watcher.stats.polls <= 104
        # As many as before, so that none has left twice.
        async with client.watch(jobs, schedule=EVERY_SECOND) as watcher:
            await anyio.sleep(10)
            assert watcher.stats.polls <= 104
    assert emulator.stats.max_in_flight <= 2


async def test_a_job_that_is_discarded_while_its_poll_waits_for_its_turn_takes_nobodys_turn() -> (
    None
):
    async with in_process(an_emulator(latency=5.0), max_connections=1) as client:
        job = await client.submit(a_request())
        async with client.watch(keep_open=True) as watcher, anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(client.get_job, job)
                await anyio.sleep(1)
                watcher.add(job.inference_job_id)  # due at once, as nothing is known of it
                await anyio.wait_all_tasks_blocked()
                watcher.discard(job)
                await anyio.sleep(10)
            with anyio.fail_after(6):
                await client.get_job(job)
            assert watcher.stats.polls == 0


async def test_a_watcher_keeps_no_job_that_it_was_given_once_it_has_ended() -> None:
    async with in_process(an_emulator()) as client:
        jobs = await submit_many(client, 3)
        given = [weakref.ref(job) for job in jobs]
        async with client.watch(jobs, max_concurrent_polls=1) as watcher:
            del jobs
            assert len(await everything(watcher)) > 3
            gc.collect()
            assert sum(job() is not None for job in given) <= 1, "the last that was asked for"


async def test_what_ended_all_watching_first_is_what_is_raised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def poll_status(job_id: int, *_: object, may_go_back: bool) -> None:  # noqa: ARG001
        with anyio.CancelScope(shield=True):
            await anyio.sleep(job_id)
        raise NotOpen(f"This is failure {job_id}.")

    async with in_process(an_emulator()) as client:
        monkeypatch.setattr(client, "poll_status", poll_status)
        async with client.watch([1, 2]) as watcher:
            await anyio.sleep(3)
            with pytest.raises(NotOpen, match="failure 1"):
                await anext(watcher)


async def test_what_is_no_error_of_the_library_is_raised_as_it_is_to_everyone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = LookupError("not today")

    async def poll_status(*_: object, may_go_back: bool) -> None:  # noqa: ARG001
        raise error

    async with in_process(an_emulator()) as client:
        monkeypatch.setattr(client, "poll_status", poll_status)
        async with client.watch([1, 2]) as watcher:
            for call in (partial(anext, watcher), partial(watcher.wait, 2)):
                with pytest.raises(LookupError) as caught, anyio.fail_after(10):
                    await call()
                assert caught.value is error
            with pytest.raises(LookupError):
                watcher.add(3)


async def test_a_consumer_that_never_waits_gives_way_to_others_now_and_then() -> None:
    ended = [make_job(job_id, "Finished") for job_id in range(1, 1001)]
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await checkpoint()
            turns += 1

    async with (
        in_process(an_emulator()) as client,
        client.watch(ended) as watcher,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(other)
        assert len(await everything(watcher)) == 1000
        tasks.cancel_scope.cancel()
    assert 1000 / 150 <= turns <= 1000 / 75, (
        "for each transition would be a round of polls for each"
    )


async def test_a_cancelled_consumer_takes_nothing() -> None:
    ended = [make_job(job_id, "Finished") for job_id in range(1, 4)]
    async with in_process(an_emulator()) as client, client.watch(ended) as watcher:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anext(watcher)
        assert scope.cancelled_caught
        assert len(await everything(watcher)) == 3


class NeverSure:
    """A schedule, and its planner, by which a job is always due and none is to be asked for."""

    def __init__(self) -> None:
        self.picks = 0

    def planner(self, random: Random) -> PollPlanner:  # noqa: ARG002
        return self

    def add(
        self,
        job_id: int,
        now: float,
        state: JobState | None,
        *,
        model_identifier: str | int | None = None,
    ) -> None: ...

    def discard(self, job_id: int) -> None: ...

    def due_at(self) -> float | None:
        return -math.inf

    def pick(self, now: float) -> int | None:  # noqa: ARG002
        self.picks += 1
        assert self.picks < 100, "nobody else has had a turn"
        return None

    def answered(self, job_id: int, now: float, asked_at: float, state: JobState) -> None: ...

    def failed(self, job_id: int, now: float, retry_at: float | None) -> None: ...


async def test_a_schedule_that_is_never_sure_holds_nobody_up() -> None:
    schedule = NeverSure()
    async with in_process(an_emulator()) as client, client.watch(1, schedule=schedule) as watcher:
        for _ in range(5):
            await checkpoint()
        assert watcher.stats.active == 1
        watcher.discard(1)
        assert await everything(watcher) == []
    assert schedule.picks < 100


async def test_polls_of_all_jobs_together_keep_to_their_rate() -> None:
    emulator = an_emulator(workers=1, base_seconds=100)
    async with in_process(emulator) as client:
        jobs = await submit_many(client, 50)
        async with client.watch(jobs, schedule=EVERY_SECOND, max_polls_per_second=5) as watcher:
            await anyio.sleep(30)
            assert 5 * 30 - 1 <= watcher.stats.polls <= 5 * 30 + 2
    polls = [job.polls for job in emulator.jobs.values()]
    assert max(polls) - min(polls) <= 1, "every job in turn"


async def test_a_bad_key_is_raised_plain_and_ends_all_polling() -> None:
    emulator = an_emulator()
    async with in_process(emulator) as client:
        jobs = await submit_many(client, 30)
    wrong = an_emulator(api_keys_without_model_run=[KEY + "-RUNS-NOTHING"])
    for key, error in [
        (KEY + "-WRONG", AuthenticationError),
        (KEY + "-RUNS-NOTHING", PermissionDenied),
    ]:
        async with in_process(wrong, api_key=key) as client, client.watch(jobs) as watcher:
            with pytest.raises(error):
                await everything(watcher)
            with pytest.raises(error):
                await watcher.wait(1)
            with pytest.raises(error):
                watcher.add(99)
            polls = watcher.stats.polls
            await anyio.sleep(1000)
            assert watcher.stats.polls == polls <= 30


async def test_after_a_bad_key_no_job_times_out() -> None:
    async with (
        in_process(an_emulator(), api_key="WRONG") as client,
        client.watch([1, 2, 3], job_timeout=5.0) as watcher,
    ):
        with pytest.raises(AuthenticationError):
            await anext(watcher)
        await anyio.sleep(1000)
        assert not watcher.stats.outcomes


async def test_backoff_spares_requests() -> None:
    polls = list[int]()
    for schedule in (EVERY_SECOND, Backoff()):
        emulator = an_emulator(workers=1)
        async with in_process(emulator) as client:
            jobs = await submit_many(client, 10)
            async with client.watch(jobs, schedule=schedule) as watcher:
                await everything(watcher)
        polls.append(emulator.stats.polls)
    assert polls[1] < polls[0] / 4


@pytest.mark.parametrize(
    "options",
    [
        {"max_concurrent_polls": 0},
        {"max_concurrent_polls": 16.0},
        {"max_polls_per_second": 0},
        {"max_polls_per_second": float("nan")},
        {"job_timeout": 0},
        {"job_timeout": -1},
        {"failure_budget": -1},
        {"failure_budget": float("nan")},
        {"schedule": 5},
        {"schedule": 0},
        {"schedule": FixedInterval},
        {"jobs": ["12"]},
        {"jobs": "12"},
        {"jobs": None},
        {"jobs": 0},
        {"jobs": [[1]]},
        {"jobs": [True]},
        {"jobs": [0]},
    ],
)
async def test_senseless_arguments_are_refused_before_anything_is_polled(
    options: dict[str, object],
) -> None:
    async with in_process(an_emulator()) as client:
        with pytest.raises(ValueError, match=r"is|neither"):
            client.watch(**options)  # type: ignore[arg-type]  # that is the point
        async with client.watch(keep_open=True) as watcher:
            with pytest.raises(ValueError, match="neither an InferenceJob nor a job id"):
                watcher.add(1, "../../admin")  # type: ignore[arg-type]  # that is the point
            with pytest.raises(ValueError, match="None is neither an InferenceJob nor a job id"):
                watcher.add(1, None)  # type: ignore[arg-type]  # that is the point
            assert watcher.stats.active == 0, "none was added"
