"""What the tests build again and again, with all that does not matter in them filled in."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

from attrs import evolve
from hypothesis import settings, strategies as st

from annolab_async import InferenceJob, InferenceRequest, StatusError, Transition
from annolab_async._records import StatusReply
from annolab_async._replies import Reply

if TYPE_CHECKING:
    from annolab_async import Outcome

T = TypeVar("T")

KEY: Final = "KEYOFNOBODY-QWERTYUIOP-ASDFGHJK"
NOW: Final = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)

# A busy machine is no reason for a property to fail.
unhurried: Final = settings(deadline=None)

json_values: Final[st.SearchStrategy[Any]] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)

jobs: Final = st.builds(
    InferenceJob,
    inference_job_id=st.integers(1, 2**63 - 1),
    status=st.sampled_from(["Queued", "Finished", "ERRORED"]) | st.text(),
    source_ids=st.lists(st.integers(1, 2**63 - 1), max_size=5).map(tuple),
    project_id=st.none() | st.integers(),
    project_name=st.none() | st.text(),
    output_layer_id=st.none() | st.integers(),
    output_layer_name=st.none() | st.text(),
)


def make_request(**changes: Any) -> InferenceRequest:
    fields: dict[str, Any] = {
        "group_name": "Company Name",
        "project_identifier": "Sample Project",
        "model_identifier": "Staple + Classify Documents",
        "source_ids": [3240, 4414],
        "output_layer_identifier": "Gold Set",
    }
    return InferenceRequest(**(fields | changes))


def make_job(job_id: int = 1, status: str = "Queued", **changes: Any) -> InferenceJob:
    return evolve(InferenceJob(job_id, status, source_ids=(3240, 4414)), **changes)


def make_status_reply(job_id: int = 1, status: str = "Queued") -> StatusReply:
    job = make_job(job_id, status)
    return StatusReply(job, job.to_json().encode())


def make_reply(body: bytes | str, status_code: int = 200, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    data = body.encode() if isinstance(body, str) else body
    return Reply("GET", "/v1/infer/batch/7", status_code, named, data)


def make_transition(
    job_id: int = 1,
    job: InferenceJob | None = None,
    previous: InferenceJob | None = None,
    outcome: Outcome | None = None,
) -> Transition:
    return Transition(
        inference_job_id=job_id,
        job=job,
        previous=previous,
        outcome=outcome,
        observed_at=NOW,
        elapsed=0.0,
        polls=1,
        uncertainty=0.0,
    )


def make_status_error(status_code: int, retry_after: float | None = None) -> StatusError:
    return StatusError.of(
        status_code=status_code,
        message="",
        method="GET",
        path="/v1/infer/batch/7",
        retry_after=retry_after,
    )


def pickled(value: T, protocol: int = pickle.DEFAULT_PROTOCOL) -> T:
    copy: T = pickle.loads(pickle.dumps(value, protocol))  # noqa: S301  # our own bytes
    return copy
