"""The records that go in and come out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, get_type_hints

import attrs
import pytest
from hypothesis import given

from annolab_async import (
    InferenceJob,
    InferenceRequest,
    JobState,
    Outcome,
    Transition,
    WatchStats,
)
from annolab_async._records import job_id_of
from tests.builders import (
    jobs,
    make_job,
    make_request,
    make_status_reply,
    make_transition,
    pickled,
    unhurried,
)

if TYPE_CHECKING:
    from annolab_async._records import StatusReply

    Record = InferenceRequest | InferenceJob | StatusReply | Transition

RECORDS = [make_request(), make_job(), make_status_reply(), make_transition()]


def faults_of(**changes: Any) -> str:
    with pytest.raises(ValueError, match="InferenceRequest") as caught:
        make_request(**changes)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"group_name": ""}, "group_name is empty"),
        ({"group_name": " \t"}, "group_name is empty"),
        ({"group_name": 12}, "group_name is 12, not a string"),
        ({"group_name": None}, "group_name is None, not a string"),
        ({"project_identifier": ""}, "project_identifier is empty"),
        ({"project_identifier": 0}, "project_identifier is 0, and ids begin at 1"),
        ({"model_identifier": True}, "model_identifier is True, neither"),
        ({"model_identifier": 1.0}, "model_identifier is 1.0, neither"),
        ({"output_layer_identifier": None}, "output_layer_identifier is None, neither"),
        ({"output_layer_identifier": -3}, "output_layer_identifier is -3, and ids begin at 1"),
        ({"source_ids": []}, "source_ids is empty"),
        ({"source_ids": iter([])}, "source_ids is empty"),
        ({"source_ids": "12"}, "source_ids is '12', not a sequence"),
        ({"source_ids": b"12"}, "source_ids is b'12', not a sequence"),
        ({"source_ids": 12}, "source_ids is 12, not a sequence"),
        ({"source_ids": None}, "source_ids is None, not a sequence"),
        ({"source_ids": [1, True]}, "source_ids holds True, not only integers"),
        ({"source_ids": [1, "2", 3.0]}, "source_ids holds '2', 3.0, not only integers"),
        ({"source_ids": [[1]]}, "source_ids holds [1], not only integers"),
        ({"source_ids": [5, 0, -1]}, "source_ids holds 0, -1, and ids begin at 1"),
        ({"source_ids": [7, 8, 7, 8, 9]}, "source_ids repeats 7, 8"),
    ],
)
def test_a_request_names_what_is_wrong_and_nothing_else(
    changes: dict[str, Any], fault: str
) -> None:
    faults = faults_of(**changes)
    assert fault in faults
    assert ";" not in faults


def test_a_request_names_every_fault_at_once() -> None:
    faults = faults_of(
        group_name="",
        project_identifier=0,
        model_identifier=None,
        source_ids=[4, 4, False, -1],
        output_layer_identifier=" ",
    )
    for fault in (
        "group_name is empty",
        "project_identifier is 0",
        "model_identifier is None",
        "source_ids holds False",
        "source_ids holds -1",
        "source_ids repeats 4",
        "output_layer_identifier is empty",
    ):
        assert fault in faults


def test_a_thousand_wrong_ids_are_named_in_a_text_that_stays_short() -> None:
    assert len(faults_of(source_ids=[0] * 1000 + ["x"] * 1000 + list(range(-999, 0)) * 2)) < 500


def test_ten_wrong_ids_are_shown_and_more_are_counted() -> None:
    shown = ", ".join(["None"] * 10)
    assert f"holds {shown}, not only integers" in faults_of(source_ids=[None] * 10)
    assert f"holds {shown} and 1 more, not only integers" in faults_of(source_ids=[None] * 11)
    assert faults_of(source_ids=[*range(1, 11)] * 2).endswith(
        "repeats 1, 2, 3, 4, 5, 6, 7, 8, 9, 10"
    )
    assert faults_of(source_ids=[*range(1, 12)] * 2).endswith("8, 9, 10…")


@pytest.mark.parametrize("identifier", ["Name", "7", 7, 1])
def test_a_project_model_or_layer_is_given_by_name_or_by_id(identifier: str | int) -> None:
    request = make_request(
        project_identifier=identifier,
        model_identifier=identifier,
        output_layer_identifier=identifier,
    )
    assert json.loads(request.to_wire())["modelIdentifier"] == identifier


@pytest.mark.parametrize("source_ids", [[3, 1], (3, 1), iter([3, 1]), {3: "a", 1: "b"}])
def test_source_ids_come_from_any_iterable_and_keep_their_order(source_ids: Any) -> None:
    assert make_request(source_ids=source_ids).source_ids == (3, 1)


def test_source_ids_may_come_from_a_generator() -> None:
    assert make_request(source_ids=(number for number in (1, 2))).source_ids == (1, 2)


def test_a_request_does_not_change_with_the_list_it_was_made_of() -> None:
    source_ids = [1, 2]
    request = make_request(source_ids=source_ids)
    source_ids.append(2)
    assert request.source_ids == (1, 2)


def test_a_request_is_sent_with_the_documented_names() -> None:
    assert json.loads(make_request().to_wire()) == {
        "groupName": "Company Name",
        "projectIdentifier": "Sample Project",
        "modelIdentifier": "Staple + Classify Documents",
        "sourceIds": [3240, 4414],
        "outputLayerIdentifier": "Gold Set",
    }


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_cannot_be_changed(record: Record) -> None:
    for field in attrs.fields(type(record)):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(record, field.name, None)
    with pytest.raises(AttributeError):
        setattr(record, "remark", "mine")  # noqa: B010  # type checkers know that it cannot be


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_has_slots_and_no_dict(record: Record) -> None:
    assert not hasattr(record, "__dict__")


@pytest.mark.parametrize("change", [str.lower, str.upper, str.title, str.swapcase])
@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("Queued", JobState.QUEUED),
        ("Running", JobState.RUNNING),
        ("InProgress", JobState.RUNNING),
        ("Started", JobState.RUNNING),
        ("Finished", JobState.FINISHED),
        ("Complete", JobState.FINISHED),
        ("Completed", JobState.FINISHED),
        ("Errored", JobState.ERRORED),
        ("Error", JobState.ERRORED),
        ("Failed", JobState.ERRORED),
    ],
)
def test_a_status_word_is_known_in_any_case(word: str, state: JobState, change: Any) -> None:
    job = make_job(status=change(word))
    assert job.state is state
    assert job.status == change(word)
    assert job.is_terminal is (state in {JobState.FINISHED, JobState.ERRORED})


@pytest.mark.parametrize("word", ["", " ", "Cancelled", "Finished.", "not finished", "Ünfertig"])
def test_a_word_that_is_not_known_is_kept_and_never_an_end(word: str) -> None:
    job = make_job(status=word)
    assert job.state is JobState.UNKNOWN
    assert job.status == word
    assert not job.is_terminal


def test_a_state_is_an_end_only_when_finished_or_errored() -> None:
    assert [state for state in JobState if state.is_terminal] == [
        JobState.FINISHED,
        JobState.ERRORED,
    ]
    assert set(Outcome) == {"finished", "errored", "timed_out", "lost"}


def test_the_repr_of_a_job_is_the_call_that_makes_it() -> None:
    job = InferenceJob(7, "Queued", (1,))
    assert not job.is_terminal
    assert repr(job) == (  # without the state that was worked out for that
        "InferenceJob(inference_job_id=7, status='Queued', source_ids=(1,), project_id=None, "
        "project_name=None, output_layer_id=None, output_layer_name=None)"
    )


def test_the_state_of_a_changed_copy_follows_its_status() -> None:
    assert attrs.evolve(make_job(status="Queued"), status="Finished").is_terminal


def test_a_job_is_named_by_itself_or_by_its_id() -> None:
    assert job_id_of(make_job(7)) == job_id_of(7) == 7
    assert job_id_of(1) == 1


@pytest.mark.parametrize(
    "value", [0, -1, True, 1.0, "7", "../../admin", None, [7], make_job(0), make_job(-7)]
)
def test_what_is_no_job_is_named(value: Any) -> None:
    with pytest.raises(ValueError, match="neither an InferenceJob nor a job id") as caught:
        job_id_of(value)
    assert repr(value) in str(caught.value)


@unhurried
@given(jobs)
def test_a_job_written_down_is_read_back_the_same(job: InferenceJob) -> None:
    text = job.to_json()
    for copy in (InferenceJob.from_json(text), InferenceJob.from_json(text.encode()), pickled(job)):
        assert copy == job
        assert copy.state is job.state


@unhurried
@given(jobs)
def test_a_job_is_written_down_as_one_line_of_wire_json(job: InferenceJob) -> None:
    text = job.to_json()
    assert text.splitlines() == [text]
    data = json.loads(text)
    assert data["inferenceJobId"] == job.inference_job_id
    assert data.get("outputLayerName") == job.output_layer_name
    assert "state" not in data


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "Expecting value"),
        ("{", "Expecting"),
        (b"\xff", "decode"),
        ("[]", "not an object"),
        ("null", "not an object"),
        ("{}", "inferenceJobId is missing; status is missing; sourceIds is missing"),
        (
            '{"inferenceJobId": "7", "status": "Queued", "sourceIds": []}',
            "inferenceJobId is a string",
        ),
        ('{"inferenceJobId": 7, "status": null, "sourceIds": []}', "status is null"),
        ('{"inferenceJobId": 7, "status": "Queued", "sourceIds": 5}', "sourceIds is an integer"),
    ],
)
def test_a_text_that_is_no_job_is_a_value_error_that_says_why(
    text: str | bytes, fault: str
) -> None:
    with pytest.raises(ValueError, match=fault):
        InferenceJob.from_json(text)


def test_a_text_nested_too_deeply_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="JSON"):
        InferenceJob.from_json("[" * 100_000)


@pytest.mark.parametrize("record", [InferenceRequest, InferenceJob, Transition, WatchStats])
def test_the_types_of_a_record_can_be_resolved(record: type) -> None:
    assert get_type_hints(record)
