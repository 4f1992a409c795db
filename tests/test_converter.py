"""Decoded JSON to records: strict where it matters, lenient where it informs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, strategies as st

from annolab_async import InferenceJob
from annolab_async._converter import decode_json, decode_object, structure, unstructure
from tests.builders import json_values, make_job, make_request, unhurried

if TYPE_CHECKING:
    from collections.abc import Callable

WIRE: dict[str, Any] = {
    "inferenceJobId": 7,
    "status": "Queued",
    "projectName": "Sample Project",
    "projectId": 1,
    "outputLayerName": "Gold Set",
    "outputLayerId": 12,
    "sourceIds": [3240, 4414],
}
REQUIRED = ["inferenceJobId", "status", "sourceIds"]
OPTIONAL = ["projectName", "projectId", "outputLayerName", "outputLayerId"]
JOB = InferenceJob(
    inference_job_id=7,
    status="Queued",
    source_ids=(3240, 4414),
    project_id=1,
    project_name="Sample Project",
    output_layer_id=12,
    output_layer_name="Gold Set",
)

# Objects that look like a job, with anything at all in some of their fields.
almost_jobs = st.fixed_dictionaries(
    {"inferenceJobId": st.integers() | json_values},
    optional={
        "status": st.text() | json_values,
        "sourceIds": st.lists(st.integers()) | json_values,
        "projectId": json_values,
        "outputLayerName": json_values,
        "state": json_values,
        "somethingNew": json_values,
    },
)


def faults_of(data: object) -> str:
    with pytest.raises(ValueError, match=r"is |holds ") as caught:
        structure(InferenceJob, data)
    return str(caught.value)


def test_all_documented_fields_are_read() -> None:
    assert structure(InferenceJob, WIRE) == JOB


def test_fields_that_are_not_known_are_passed_over() -> None:
    assert structure(InferenceJob, WIRE | {"state": "x", "inference_job_id": 9, "": None}) == JOB


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_required_field_is_named_as_on_the_wire(name: str) -> None:
    assert faults_of({key: WIRE[key] for key in WIRE if key != name}) == f"{name} is missing"


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("inferenceJobId", "7", "is a string, not an integer"),
        ("inferenceJobId", True, "is true or false, not an integer"),
        ("inferenceJobId", 7.0, "is a fraction, not an integer"),
        ("inferenceJobId", None, "is null, not an integer"),
        ("status", 3, "is an integer, not a string"),
        ("status", ["Queued"], "is an array, not a string"),
        ("sourceIds", "12", "is a string, not an array"),
        ("sourceIds", {"1": 2}, "is an object, not an array"),
        ("sourceIds", None, "is null, not an array"),
        ("sourceIds", [1, "2"], "holds a string, not only integers"),
        ("sourceIds", [True], "holds true or false, not only integers"),
        ("sourceIds", [1.0], "holds a fraction, not only integers"),
        ("inferenceJobId", 2**63, "is an integer of more than 64 bits"),
        ("inferenceJobId", -(2**63) - 1, "is an integer of more than 64 bits"),
        ("sourceIds", [1, 2**63], "holds an integer of more than 64 bits"),
        ("sourceIds", [-(2**63) - 1, 1], "holds an integer of more than 64 bits"),
    ],
)
def test_a_required_field_of_a_wrong_type_is_named_with_its_kind(
    name: str, value: object, fault: str
) -> None:
    assert faults_of(WIRE | {name: value}) == f"{name} {fault}"


def test_integers_of_just_64_bits_are_read() -> None:
    least, most = -(2**63), 2**63 - 1
    for job_id in (least, most):
        job = structure(InferenceJob, WIRE | {"inferenceJobId": job_id, "sourceIds": [least, most]})
        assert (job.inference_job_id, job.source_ids) == (job_id, (least, most))


def test_all_faults_are_named_at_once() -> None:
    faults = faults_of({"inferenceJobId": True, "sourceIds": [None]})
    assert faults == (
        "inferenceJobId is true or false, not an integer; status is missing; "
        "sourceIds holds null, not only integers"
    )


@pytest.mark.parametrize("value", [None, True, 1.5, [], {}])
@pytest.mark.parametrize("name", OPTIONAL)
def test_an_optional_field_of_a_wrong_type_is_dropped(name: str, value: object) -> None:
    without = structure(InferenceJob, {key: WIRE[key] for key in WIRE if key != name})
    assert structure(InferenceJob, WIRE | {name: value}) == without != JOB


def test_a_name_in_the_place_of_an_id_is_dropped_and_the_other_way_round() -> None:
    job = structure(InferenceJob, WIRE | {"projectId": "1", "projectName": 1})
    assert job.project_id is None
    assert job.project_name is None


@pytest.mark.parametrize("data", [None, True, 7, "Queued", [], [WIRE]])
def test_what_is_no_object_is_refused(data: object) -> None:
    assert "not an object" in faults_of(data)


def test_a_fault_does_not_show_what_stands_in_the_answer() -> None:
    secret = ["HUSH"] * 1000
    for data in (secret, {"sourceIds": secret}, {name: {"HUSH": secret} for name in REQUIRED}):
        assert "HUSH" not in faults_of(data)
        assert len(faults_of(data)) < 200


def test_the_error_does_not_hold_the_data() -> None:
    with pytest.raises(ValueError, match="status") as caught:
        structure(InferenceJob, WIRE | {"status": None})
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_what_is_not_known_is_not_written() -> None:
    assert unstructure(make_job(7)) == {
        "inferenceJobId": 7,
        "status": "Queued",
        "sourceIds": [3240, 4414],
    }
    assert unstructure(make_request())["outputLayerIdentifier"] == "Gold Set"


@pytest.mark.parametrize("decode", [decode_json, decode_object])
@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"a": 1, "a": 1}', "it says a field twice"),
        ('{"a" :1, "a":2}', "it says a field twice"),
        ('{"a":1, "a"\n:2}', "it says a field twice"),
        ('{"b": {"a": 1, "a": 2}}', "it says a field twice"),
        ('{"b": [{"a" : 1, "a" : 2}]}', "it says a field twice"),
        ('{"a": NaN}', "it holds NaN, which is no number"),
        ('{"a": Infinity}', "it holds Infinity, which is no number"),
        ('{"a": [-Infinity]}', "it holds -Infinity, which is no number"),
        ('{"a": 1} x', "it is no JSON"),
        ('{"a": 1}{"b": 2}', "it is no JSON"),
        ('{"a": 1}\u00a0', "it is no JSON"),
    ],
)
def test_what_parsers_disagree_about_is_no_json(
    decode: Callable[[str], object], text: str, fault: str
) -> None:
    with pytest.raises(ValueError, match=fault):
        decode(text)


@pytest.mark.parametrize("decode", [decode_json, decode_object])
@pytest.mark.parametrize(
    ("text", "data"),
    [
        ('{"a": 1} \r\n\t', {"a": 1}),
        ('{"a": {"a": [{"a": 1}, {"a": 2}]}}', {"a": {"a": [{"a": 1}, {"a": 2}]}}),
        ('{"a:b": "c\\": d :"}', {"a:b": 'c": d :'}),
    ],
)
def test_one_object_is_read_whatever_its_names_and_strings_hold(
    decode: Callable[[str], object], text: str, data: object
) -> None:
    assert decode(text) == data


def record_or_error(data: object) -> InferenceJob | ValueError:
    try:
        return structure(InferenceJob, data)
    except ValueError as error:
        return error


@unhurried
@given(json_values | almost_jobs)
def test_any_json_gives_a_record_or_a_value_error(data: object) -> None:
    job = record_or_error(data)
    if isinstance(job, ValueError):
        assert type(job) is ValueError
        assert str(job)
    else:
        assert type(job.inference_job_id) is int
        assert type(job.status) is str
        assert all(type(source_id) is int for source_id in job.source_ids)
        assert job.project_id is None or type(job.project_id) is int
        assert job.output_layer_name is None or type(job.output_layer_name) is str
