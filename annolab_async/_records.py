"""The records that go in and come out: requests, jobs, and what becomes of them. All are immutable."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping  # noqa: TC003  # for who resolves the types of the records at run time
from datetime import datetime  # noqa: TC003  # likewise
from enum import StrEnum, auto
from typing import TYPE_CHECKING, Final, cast

from attrs import Factory, field, frozen

from annolab_async._converter import decode_json, structure, unstructure
from annolab_async.errors import AnnoLabError  # noqa: TC001  # likewise

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "InferenceJob",
    "InferenceRequest",
    "JobState",
    "Outcome",
    "Transition",
    "WatchStats",
    "check_request",
    "is_positive",
    "job_id_of",
    "name_faults",
]


class JobState(StrEnum):
    """What a status word means; a word that is not known means nothing, least of all an end."""

    QUEUED = auto()
    RUNNING = auto()
    FINISHED = auto()
    ERRORED = auto()
    UNKNOWN = auto()

    @classmethod
    def of(cls, status: str) -> JobState:
        """Return the meaning of a status word, in any case; UNKNOWN for a word that is not in the table."""
        return _STATES.get(status) or _STATES.get(status.lower(), cls.UNKNOWN)

    @property
    def is_terminal(self) -> bool:
        """Whether a job in this state has ended for good."""
        return self is JobState.FINISHED or self is JobState.ERRORED


# "Queued", "Finished" and "Errored" are documented, "Complete" was met in scripts that ran against the
# service; the rest are the words that its other endpoints and its kin use for the same things.
_STATES: Final = {
    "queued": JobState.QUEUED,
    "running": JobState.RUNNING,
    "inprogress": JobState.RUNNING,
    "started": JobState.RUNNING,
    "finished": JobState.FINISHED,
    "complete": JobState.FINISHED,
    "completed": JobState.FINISHED,
    "errored": JobState.ERRORED,
    "error": JobState.ERRORED,
    "failed": JobState.ERRORED,
}


class Outcome(StrEnum):
    """How watching a job ended; each watched job has exactly one."""

    FINISHED = auto()
    """The job ended well."""
    ERRORED = auto()
    """The job ended with an error at the server."""
    TIMED_OUT = auto()
    """The job had not ended when its time was over; it goes on at the server."""
    LOST = auto()
    """The job could no longer be watched; what became of it is not known."""


def _source_ids(value: Iterable[int]) -> tuple[int, ...]:
    # What cannot be ids is left as it is, for the validation to name it with all other faults.
    if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
        return value  # type: ignore[return-value]
    return tuple(value)


@frozen(kw_only=True)
class InferenceRequest:
    """One batch to be run: a model over some sources, its predictions going to a layer.

    Args:
        group_name: name of the group that owns the project.
        project_identifier: name or id of the project that holds the sources.
        model_identifier: name or id of the model to run.
        source_ids: ids of the sources, at least one, each once.
        output_layer_identifier: name or id of the layer that receives the predictions.

    Raises:
        ValueError: something is wrong; the text names every fault.
    """

    group_name: str
    project_identifier: str | int
    model_identifier: str | int
    source_ids: tuple[int, ...] = field(converter=_source_ids)
    output_layer_identifier: str | int

    def __attrs_post_init__(self) -> None:
        faults = [
            *name_faults("group_name", self.group_name, ids_too=False),
            *name_faults("project_identifier", self.project_identifier),
            *name_faults("model_identifier", self.model_identifier),
            *_source_id_faults(self.source_ids),
            *name_faults("output_layer_identifier", self.output_layer_identifier),
        ]
        if faults:
            raise ValueError("This is no valid InferenceRequest: " + "; ".join(faults))

    def to_wire(self) -> bytes:
        """Return the body of ``POST /v1/infer/batch``."""
        return json.dumps(unstructure(self)).encode()


def name_faults(name: str, value: object, *, ids_too: bool = True) -> Iterable[str]:
    if type(value) is str:
        if not value.strip():
            yield f"{name} is empty"
    elif not ids_too:
        yield f"{name} is {value!r}, not a string"
    elif type(value) is not int:
        yield f"{name} is {value!r}, neither a name nor an integer id"
    elif value < 1:
        yield f"{name} is {value}, and ids begin at 1"


def _source_id_faults(source_ids: object) -> Iterable[str]:
    if not isinstance(source_ids, tuple):
        yield f"source_ids is {source_ids!r}, not a sequence of ids"
        return
    items = cast("tuple[object, ...]", source_ids)
    if not items:
        yield "source_ids is empty"
    if wrong := [item for item in items if type(item) is not int]:
        yield f"source_ids holds {_some(wrong)}, not only integers"
    if low := [item for item in items if type(item) is int and item < 1]:
        yield f"source_ids holds {_some(low)}, and ids begin at 1"
    if repeated := [item for item, count in Counter(map(repr, items)).items() if count > 1]:
        yield f"source_ids repeats {', '.join(repeated[:10])}{'…' if repeated[10:] else ''}"


def _some(items: Sequence[object]) -> str:
    shown = ", ".join(repr(item) for item in items[:10])
    return f"{shown} and {len(items) - 10} more" if items[10:] else shown


@frozen
class InferenceJob:
    """An inference job as the server last described it.

    Attributes:
        inference_job_id: the server's id of the job.
        status: the status word as the server sent it.
        source_ids: ids of the sources that the job runs over.
        project_id, project_name, output_layer_id, output_layer_name: where it runs and where its predictions
            go, None where the server did not say (a status answer says less than a submission's).
        state: what the status word means.
    """

    inference_job_id: int
    status: str
    source_ids: tuple[int, ...]
    project_id: int | None = None
    project_name: str | None = None
    output_layer_id: int | None = None
    output_layer_name: str | None = None
    # Worked out once and kept: a watcher asks for it at every poll.
    state: JobState = field(
        init=False,
        repr=False,
        default=Factory(lambda job: JobState.of(job.status), takes_self=True),
    )

    @property
    def is_terminal(self) -> bool:
        """Whether the job has ended for good."""
        return self.state.is_terminal

    def to_json(self) -> str:
        """Return the job as a line of JSON, with which another process can go on watching it."""
        return json.dumps(unstructure(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> InferenceJob:
        """Return the job that :meth:`to_json` wrote down.

        Raises:
            ValueError: the text is no JSON, or a field is missing or of a wrong type; it is named.
        """
        return structure(cls, decode_json(text))


def is_positive(value: object) -> bool:
    """Return whether a value is a positive, finite number."""
    return isinstance(value, int | float) and type(value) is not bool and 0 < value < math.inf


def check_request(request: object) -> None:
    """See to it that something is a request.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(request, InferenceRequest):
        raise TypeError(f"request is a {type(request).__name__}, not an InferenceRequest")


def job_id_of(job: InferenceJob | int) -> int:
    """Return the id of a job, given as itself or as its id.

    Raises:
        ValueError: it is neither.
    """
    job_id = job.inference_job_id if isinstance(job, InferenceJob) else job
    # The id becomes part of a URL: "../../admin" must not.
    if type(job_id) is not int or job_id < 1:
        raise ValueError(f"{job!r} is neither an InferenceJob nor a job id (an integer from 1 up)")
    return job_id


@frozen(eq=False)
class StatusReply:
    """A job, and the bytes that said so: an answer with the same bytes need not be read again."""

    job: InferenceJob
    body: bytes


@frozen(kw_only=True)
class Transition:
    """One change of a watched job's status, or the end of watching it.

    Attributes:
        inference_job_id: the job.
        job: its state now; None if it was never seen, neither by a poll nor by who added it.
        previous: its state before; None at its first sight.
        outcome: how watching it ended; None while it goes on. A job's last transition, and only that, has one.
        observed_at: when this was seen, in UTC.
        elapsed: seconds since the job was added to the watcher.
        polls: how often the job was asked for until now.
        uncertainty: seconds since the poll before, or since the job was added; the change may be that old.
        error: why the job timed out (:class:`WaitTimeout`) or was lost (:class:`JobLost`).
    """

    inference_job_id: int
    job: InferenceJob | None
    previous: InferenceJob | None
    outcome: Outcome | None
    observed_at: datetime
    elapsed: float
    polls: int
    uncertainty: float
    error: AnnoLabError | None = None


@frozen(kw_only=True)
class WatchStats:
    """What a watcher has done so far.

    Attributes:
        polls: requests sent.
        active: jobs without an outcome.
        in_flight: requests under way.
        outcomes: how many jobs ended how.
    """

    polls: int
    active: int
    in_flight: int
    outcomes: Mapping[Outcome, int]
