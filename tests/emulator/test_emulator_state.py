"""The service without clock and network: time is an argument."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings as hypothesis_settings, strategies as st

from annolab_async.emulator._settings import Settings
from annolab_async.emulator._state import ServiceState

if TYPE_CHECKING:
    from annolab_async.emulator._jobs import EmulatedJob

KEY = "good-key"
GOOD = f"Api-Key {KEY}"
BODY: dict[str, Any] = {
    "groupName": "Company Name",
    "projectIdentifier": "Sample Project",
    "modelIdentifier": "Staple + Classify Documents",
    "sourceIds": [3240, 4414],
    "outputLayerIdentifier": "Gold Set",
}


def make_state(**options: Any) -> ServiceState:
    return ServiceState(Settings(api_key=KEY, clock=time.monotonic, **options))


def body(**changes: Any) -> bytes:
    return json.dumps(BODY | changes).encode()


def submit(state: ServiceState, now: float = 0.0, **changes: Any) -> EmulatedJob:
    answer = state.submit(GOOD, body(**changes), now=now)
    assert answer.status_code == 200, answer.body
    return state.jobs[answer.body["inferenceJobId"]]


def status(state: ServiceState, job_id: int, now: float) -> str:
    answer = state.poll(GOOD, str(job_id), now=now)
    assert answer.status_code == 200, answer.body
    return str(answer.body["status"])


def test_a_submit_is_answered_with_the_documented_fields() -> None:
    answer = make_state().submit(GOOD, body(), now=0.0)
    assert answer == (
        200,
        {
            "inferenceJobId": 1,
            "status": "Queued",
            "projectName": "Sample Project",
            "projectId": 1,
            "outputLayerName": "Gold Set",
            "outputLayerId": 12,
            "sourceIds": [3240, 4414],
        },
    )


def test_a_poll_is_answered_with_the_documented_fields() -> None:
    state = make_state()
    submit(state)
    assert state.poll(GOOD, "1", now=0.0) == (
        200,
        {"inferenceJobId": 1, "status": "Running", "projectId": 1, "sourceIds": [3240, 4414]},
    )


def test_job_ids_count_up_from_one_and_refusals_use_none() -> None:
    state = make_state()
    assert submit(state).inference_job_id == 1
    assert state.submit(GOOD, b"", now=0.0).status_code == 400
    assert submit(state).inference_job_id == 2
    assert sorted(state.jobs) == [1, 2]


def test_statuses_change_exactly_at_start_and_end() -> None:
    state = make_state(workers=1)
    submit(state)
    job = submit(state, now=0.5)
    assert 0.5 < job.started_at < job.ended_at
    assert job.status_at(0.5) == "Queued"
    assert job.status_at(job.started_at - 1e-9) == "Queued"
    assert job.status_at(job.started_at) == "Running"
    assert job.status_at(job.ended_at - 1e-9) == "Running"
    assert job.status_at(job.ended_at) == "Finished"


def test_a_job_starts_when_the_first_worker_is_free() -> None:
    state = make_state(workers=2)
    first, second, third = (submit(state) for _ in range(3))
    assert first.started_at == second.started_at == 0.0
    assert third.started_at == min(first.ended_at, second.ended_at)


def test_a_job_on_an_idle_service_starts_at_once_even_before_time_zero() -> None:
    state = make_state(workers=1)
    assert submit(state, now=-50.0).started_at == -50.0
    assert submit(state, now=100.0).started_at == 100.0


@hypothesis_settings(deadline=None)
@given(
    workers=st.integers(1, 4),
    gaps=st.lists(st.floats(0, 5), min_size=1, max_size=30),
    seed=st.integers(),
)
def test_jobs_start_in_order_and_never_more_at_once_than_workers(
    workers: int, gaps: list[float], seed: int
) -> None:
    state = make_state(workers=workers, seed=seed)
    now = 0.0
    for gap in gaps:
        now += gap
        submit(state, now)
    jobs = list(state.jobs.values())
    starts = [job.started_at for job in jobs]
    assert starts == sorted(starts)
    for start in starts:
        running = [job for job in jobs if job.status_at(start) == "Running"]
        assert 1 <= len(running) <= workers
    # No worker idles while a job waits.
    for job in jobs:
        if job.started_at > job.submitted_at:
            busy = [other for other in jobs if other.started_at <= job.submitted_at]
            assert sum(other.ended_at > job.submitted_at for other in busy) == workers


def test_the_same_seed_gives_the_same_jobs_and_another_seed_others() -> None:
    def ends(seed: int) -> list[float]:
        state = make_state(seed=seed)
        return [submit(state).ended_at for _ in range(20)]

    assert ends(7) == ends(7)
    assert ends(7) != ends(8)


def test_more_sources_take_longer() -> None:
    small = submit(make_state(), sourceIds=[1])
    large = submit(make_state(), sourceIds=list(range(1, 101)))
    assert large.ended_at == pytest.approx(small.ended_at * (1.0 + 10.0) / (1.0 + 0.1))


def test_durations_scatter_round_the_configured_mean() -> None:
    state = make_state(workers=2000, base_seconds=60.0, seconds_per_source=5.0)
    durations = [submit(state).ended_at for _ in range(2000)]
    assert sum(durations) / 2000 == pytest.approx(70.0, rel=0.02)
    assert min(durations) > 0
    assert max(durations) > 1.5 * min(durations)


@pytest.mark.parametrize(
    ("share", "low", "high"), [(0.0, 0, 0), (0.3, 250, 350), (1.0, 1000, 1000)]
)
def test_the_configured_share_of_jobs_errs(share: float, low: int, high: int) -> None:
    state = make_state(error_share=share)
    finals = [submit(state).final_status for _ in range(1000)]
    assert low <= finals.count("Errored") <= high
    assert set(finals) <= {"Errored", "Finished"}


def test_errors_do_not_change_durations() -> None:
    assert submit(make_state(error_share=1.0)).ended_at == submit(make_state()).ended_at


def test_a_job_remembers_what_its_pollers_were_told() -> None:
    state = make_state(workers=1, error_share=1.0)
    submit(state)
    job = submit(state)
    for now in (0.0, 0.1, job.started_at, job.ended_at, job.ended_at + 5):
        status(state, job.inference_job_id, now)
    job = state.jobs[job.inference_job_id]
    assert job.polls == 5
    assert job.statuses_shown == ("Queued", "Running", "Errored")
    assert job.terminal_answers == 2
    assert state.jobs[1].polls == 0


def test_a_job_remembers_what_was_asked_for() -> None:
    job = submit(make_state(), now=3.0)
    assert job.submitted_at == 3.0
    assert job.group_name == "Company Name"
    assert (job.project_id, job.project_name) == (1, "Sample Project")
    assert (job.model_id, job.model_name) == (1, "Staple + Classify Documents")
    assert (job.output_layer_id, job.output_layer_name) == (12, "Gold Set")
    assert job.source_ids == (3240, 4414)


@pytest.mark.parametrize(
    "header", [None, "", KEY, "Api-Key", "Api-Key ", "Api-Key wrong", f"Bearer {KEY}", f"{GOOD} "]
)
def test_a_missing_or_wrong_key_is_refused(header: str | None) -> None:
    state = make_state()
    submit(state)
    for answer in (state.submit(header, body(), now=0.0), state.poll(header, "1", now=0.0)):
        assert answer.status_code == 401
        assert "API key" in answer.body["message"]
        assert KEY not in answer.body["message"]
    assert len(state.jobs) == 1
    assert state.jobs[1].polls == 0


def test_a_key_without_the_permission_is_told_its_name() -> None:
    state = make_state(api_keys_without_model_run=["weak"])
    submit(state)
    for answer in (
        state.submit("Api-Key weak", body(), now=0.0),
        state.poll("Api-Key weak", "1", now=0.0),
    ):
        assert answer.status_code == 403
        assert '"Model Run"' in answer.body["message"]
    assert state.submit("Bearer weak", body(), now=0.0).status_code == 401
    assert len(state.jobs) == 1


def test_a_bad_key_is_told_before_a_bad_body_or_job() -> None:
    state = make_state()
    assert state.submit(None, b"not JSON", now=0.0).status_code == 401
    assert state.poll(None, "99", now=0.0).status_code == 401


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 5000])
def test_a_body_that_is_not_json_is_refused(raw: bytes) -> None:
    answer = make_state().submit(GOOD, raw, now=0.0)
    assert answer == (400, {"message": "the body is not JSON"})


@pytest.mark.parametrize("raw", [b"[]", b"null", b"12", b'"text"'])
def test_a_body_that_is_no_object_is_refused(raw: bytes) -> None:
    answer = make_state().submit(GOOD, raw, now=0.0)
    assert answer == (400, {"message": "the body must be a JSON object"})


def test_every_missing_field_is_named() -> None:
    answer = make_state().submit(GOOD, b"{}", now=0.0)
    assert answer.status_code == 400
    for name in BODY:
        assert f"{name}: is required" in answer.body["message"]


FAULTY: list[tuple[str, list[Any]]] = [
    ("groupName", [None, "", 1, True, ["Company Name"], {}]),
    ("projectIdentifier", [None, "", 0, -1, 1.0, True, [1], {}]),
    ("modelIdentifier", [None, "", 0, -1, 1.0, True, [1], {}]),
    ("outputLayerIdentifier", [None, "", 0, -1, 1.0, True, [1], {}]),
    ("sourceIds", [None, [], 1, "1", {}, {"1": 1}, [1, 0], [-1], [True], [1.0], ["1"], [None]]),
]


@pytest.mark.parametrize(("name", "values"), FAULTY)
def test_a_faulty_field_is_named_and_no_other(name: str, values: list[Any]) -> None:
    state = make_state()
    for value in values:
        answer = state.submit(GOOD, body(**{name: value}), now=0.0)
        assert answer.status_code == 400, value
        assert [other for other in BODY if other in answer.body["message"]] == [name]
    assert not state.jobs


def test_all_faulty_fields_are_named_at_once() -> None:
    answer = make_state().submit(GOOD, body(sourceIds=[5, False], groupName=3), now=0.0)
    assert answer.status_code == 400
    assert "groupName: must be a non-empty string" in answer.body["message"]
    assert "sourceIds: must hold positive integers only; see index 1" in answer.body["message"]


@pytest.mark.parametrize("identifier", ["My Project", 2, "2"])
def test_a_project_is_found_by_name_and_by_id(identifier: str | int) -> None:
    job = submit(make_state(), projectIdentifier=identifier)
    assert (job.project_name, job.project_id) == ("My Project", 2)


@pytest.mark.parametrize("identifier", ["Staple + Classify Documents", 1, "1"])
def test_a_model_is_found_by_name_and_by_id(identifier: str | int) -> None:
    job = submit(make_state(), modelIdentifier=identifier)
    assert (job.model_name, job.model_id) == ("Staple + Classify Documents", 1)


@pytest.mark.parametrize("identifier", ["Gold Set", 12, "12"])
def test_a_layer_is_found_by_name_and_by_id(identifier: str | int) -> None:
    job = submit(make_state(), outputLayerIdentifier=identifier)
    assert (job.output_layer_name, job.output_layer_id) == ("Gold Set", 12)


def test_a_name_made_of_digits_goes_before_an_id() -> None:
    job = submit(make_state(projects={"a": 7, "7": 8}), projectIdentifier="7")
    assert job.project_id == 8


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("groupName", "Nobody", "group 'Nobody'"),
        ("groupName", "1", "group '1'"),
        ("projectIdentifier", "None Such", "project 'None Such'"),
        ("projectIdentifier", 99, "project 99"),
        ("projectIdentifier", "9" * 5000, "project '999"),
        ("modelIdentifier", "x", "model 'x'"),
        ("outputLayerIdentifier", 13, "layer 13"),
        ("outputLayerIdentifier", "\ud800", r"layer '\ud800'"),
        ("outputLayerIdentifier", "١٢", "layer '١٢'"),
    ],
)
def test_what_is_unknown_is_named_and_nothing_else(name: str, value: Any, told: str) -> None:
    state = make_state()
    answer = state.submit(GOOD, body(**{name: value}), now=0.0)
    assert answer.status_code == 404
    assert answer.body["message"].startswith(f"not found: {told}")
    assert "," not in answer.body["message"]
    assert not state.jobs


def test_everything_unknown_is_named_at_once() -> None:
    changes = {"groupName": "g", "projectIdentifier": "p", "modelIdentifier": "m"}
    answer = make_state().submit(GOOD, body(**changes, outputLayerIdentifier="l"), now=0.0)
    assert answer == (404, {"message": "not found: group 'g', project 'p', model 'm', layer 'l'"})


@pytest.mark.parametrize(
    "job_id", ["2", "0", "-1", "abc", "1.0", "+1", " 1", "1_0", "", "9" * 5000]
)
def test_an_unknown_job_is_named(job_id: str) -> None:
    state = make_state()
    submit(state)
    answer = state.poll(GOOD, job_id, now=0.0)
    assert answer == (404, {"message": f"not found: inference job {job_id!r}"})
    assert state.jobs[1].polls == 0


def test_traffic_is_counted_by_kind_and_at_its_height() -> None:
    state = make_state()
    state.request_began("submit")
    state.request_began("poll")
    state.request_began("poll")
    state.request_ended("poll")
    state.request_began("other")
    state.request_ended("submit")
    stats = state.stats
    assert (stats.requests, stats.submits, stats.polls) == (4, 1, 2)
    assert (stats.in_flight, stats.max_in_flight) == (2, 3)
    assert (stats.polls_in_flight, stats.max_polls_in_flight) == (1, 2)
