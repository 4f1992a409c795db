"""The exception tree: what each error carries, says, and brings across process boundaries."""

from __future__ import annotations

import pickle
import re
from typing import Any

import httpx
import pytest

import annolab_async
from annolab_async import errors
from annolab_async.errors import (
    AnnoLabError,
    AuthenticationError,
    ConfigurationError,
    ExportError,
    ExportTimeout,
    InvalidRequest,
    InvalidResponse,
    JobIdLost,
    JobLost,
    JobNotFound,
    LedgerError,
    NoResponse,
    NotFound,
    NotOpen,
    PermissionDenied,
    RateLimited,
    RequestNotSent,
    ServerError,
    StatusError,
    SubmissionUnknown,
    WaitTimeout,
)
from tests.builders import KEY, make_job, make_request, make_status_error, pickled

PATH = "/v1/infer/batch/7"


def status_error(status_code: int) -> StatusError:
    return StatusError.of(
        status_code=status_code, message="No.", method="GET", path=PATH, retry_after=1.5
    )


def foreign() -> httpx.ReadTimeout:
    request = httpx.Request(
        "GET", "https://api.annolab.ai", headers={"Authorization": f"Api-Key {KEY}"}
    )
    return httpx.ReadTimeout("too slow", request=request)


NO_RESPONSE = NoResponse(method="POST", path="/v1/infer/batch", cause=foreign())
JOB_NOT_FOUND = JobNotFound.because(
    inference_job_id=7, job=make_job(7), cause=NotFound(**vars(status_error(404)))
)
SAMPLES: list[AnnoLabError] = [
    AnnoLabError("Something is wrong."),
    ConfigurationError("There is no key."),
    NotOpen("Not open."),
    RequestNotSent(method="POST", path="/v1/infer/batch", cause=foreign()),
    NO_RESPONSE,
    SubmissionUnknown(request=make_request(), cause=NO_RESPONSE),
    JobIdLost.because(
        request=make_request(),
        cause=InvalidResponse(method="POST", path=PATH, fault="it is cut off", excerpt="{"),
    ),
    *map(status_error, (302, 401, 403, 404, 400, 422, 429, 500)),
    InvalidResponse(
        method="GET", path=PATH, fault="status is missing", excerpt="{}", inference_job_id=7
    ),
    WaitTimeout(inference_job_id=7, job=make_job(7), timeout=30.0),
    JobLost(inference_job_id=7, job=None, cause=status_error(500), why="It failed for too long."),
    JOB_NOT_FOUND,
    LedgerError(where="run.db", what="the disk is full", hint="Make room.", is_outcome_known=False),
    ExportError(
        what="it is no JSON",
        hint="Skip it: on_bad_line='skip'.",
        export_id=341,
        file="x.annotations.jsonl",
        line=12,
    ),
    ExportTimeout.of(export_id=341, status="started", timeout=60.0),
]

each_sample = pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)


def anatomy(value: object) -> Any:
    """All that an exception is made of, in a form that can be compared."""
    if isinstance(value, BaseException):
        # A foreign exception comes back as a plain error that says what it was.
        kind = type(value) if isinstance(value, AnnoLabError) else AnnoLabError
        text = str(value) if isinstance(value, AnnoLabError) else f"{type(value).__name__}: {value}"
        inside = vars(value) if isinstance(value, AnnoLabError) else {}
        return kind, text, {name: anatomy(part) for name, part in inside.items()}
    return value


def test_there_is_a_sample_of_every_public_class() -> None:
    assert {type(error).__name__ for error in SAMPLES} == set(errors.__all__)


def test_every_class_of_the_module_is_public() -> None:
    classes = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, BaseException)
    }
    assert classes == set(errors.__all__)


@pytest.mark.parametrize(("method", "may_be_asked_again"), [("GET", True), ("POST", False)])
def test_only_a_lost_reply_to_a_read_says_to_ask_again(
    method: str, *, may_be_asked_again: bool
) -> None:
    error = NoResponse(method=method, path=PATH, cause=foreign())
    assert ("Ask again" in str(error)) is may_be_asked_again


@each_sample
def test_an_error_has_all_attributes_that_are_documented(error: AnnoLabError) -> None:
    documented = {
        name
        for kind in type(error).__mro__
        if kind.__module__.startswith("annolab_async")
        for names in re.findall(r"^ {8}([\w, ]+): ", kind.__doc__ or "", re.MULTILINE)
        for name in names.split(", ")
    }
    assert documented - vars(error).keys() == set()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@each_sample
def test_an_error_pickles_with_all_its_attributes(error: AnnoLabError, protocol: int) -> None:
    copy = pickled(error, protocol)
    assert type(copy) is type(error)
    assert copy.args == error.args
    assert anatomy(copy) == anatomy(error)
    assert anatomy(pickled(copy)) == anatomy(error)


@each_sample
def test_a_pickled_error_does_not_hold_the_key_of_its_cause(error: AnnoLabError) -> None:
    error.__cause__ = foreign()
    assert KEY.encode() not in pickle.dumps(error)


def test_the_cause_of_a_pickled_error_still_says_what_happened() -> None:
    copy = pickled(SubmissionUnknown(request=make_request(), cause=NO_RESPONSE))
    assert isinstance(copy.cause, NoResponse)
    assert str(copy.cause.cause) == "ReadTimeout: too slow"


def test_a_note_on_an_error_survives_pickling() -> None:
    error = NotOpen("Not open.")
    error.add_note("in worker 3")
    assert pickled(error).__notes__ == ["in worker 3"]


@each_sample
def test_every_error_is_caught_as_the_library_s_and_says_something(error: AnnoLabError) -> None:
    assert isinstance(error, AnnoLabError)
    assert len(str(error)) > 5
    assert KEY not in f"{error}{error!r}"


@pytest.mark.parametrize(
    ("status_code", "kind"),
    [
        (400, InvalidRequest),
        (401, AuthenticationError),
        (403, PermissionDenied),
        (404, NotFound),
        (422, InvalidRequest),
        (429, RateLimited),
        (500, ServerError),
        (502, ServerError),
        (503, ServerError),
        (504, ServerError),
        (599, ServerError),
        (302, StatusError),
        (408, StatusError),
        (409, StatusError),
        (418, StatusError),
        (499, StatusError),
    ],
)
def test_a_status_picks_its_class(status_code: int, kind: type[StatusError]) -> None:
    error = status_error(status_code)
    assert type(error) is kind
    assert vars(error) == {
        "status_code": status_code,
        "message": "No.",
        "method": "GET",
        "path": PATH,
        "retry_after": 1.5,
    }


def test_what_was_not_sent_for_the_servers_sake_says_so() -> None:
    error = RateLimited.instead_of_sending(method="GET", path=PATH, seconds=6.6)
    assert (error.status_code, error.method, error.path) == (429, "GET", PATH)
    assert error.retry_after == 6.6
    assert error.message == "the server asked to be left alone for 7 s more"
    assert str(error).startswith(f"GET {PATH} was not sent: {error.message}. (Ask less often")


def test_a_status_error_says_what_was_asked_and_what_the_server_said() -> None:
    assert str(status_error(404)).startswith(
        f"GET {PATH} answered 404: No. (Check the names and ids"
    )
    assert str(make_status_error(409)).startswith(f"GET {PATH} answered 409. (")


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (status_error(401), "ANNOLAB_API_KEY"),
        (status_error(403), '"Model Run" permission'),
        (status_error(404), "Check the names and ids"),
        (status_error(400), "Mend what it names"),
        (status_error(429), "rate_limit"),
        (status_error(502), "ask again later"),
        (status_error(409), "Is the base URL that of AnnoLab"),
        (status_error(302), "Is the base URL that of AnnoLab"),
        (NoResponse(method="GET", path="/", cause=OSError()), "a longer timeout"),
        (
            RequestNotSent(method="POST", path="/", cause=OSError()),
            "check the base URL and the network",
        ),
        (SubmissionUnknown(request=make_request(), cause=OSError()), "output layer 'Gold Set'"),
        (SubmissionUnknown(request=make_request(), cause=OSError()), "pay for it twice"),
        (WaitTimeout(inference_job_id=7, job=None, timeout=30), "watch it again"),
        (JOB_NOT_FOUND, "Is it an id of this server?"),
    ],
)
def test_a_text_says_how_to_mend_it(error: AnnoLabError, hint: str) -> None:
    assert hint in str(error)


def test_a_text_names_the_job_and_the_state_seen_last() -> None:
    assert "Job 7" in str(WaitTimeout(inference_job_id=7, job=None, timeout=30))
    assert "never seen" in str(WaitTimeout(inference_job_id=7, job=None, timeout=30))
    assert "30 s" in str(WaitTimeout(inference_job_id=7, job=make_job(7), timeout=30))
    assert "last seen Queued" in str(WaitTimeout(inference_job_id=7, job=make_job(7), timeout=30))


def test_a_state_that_is_no_word_is_shown_short_and_on_one_line() -> None:
    job = make_job(7, "Queued\n\x1b[31mJob 8 is lost" + 10_000 * "!")
    for error in (
        WaitTimeout(inference_job_id=7, job=job, timeout=30),
        ExportTimeout.of(export_id=7, status=job.status, timeout=30.0),
    ):
        assert str(error).isprintable()
        assert len(str(error)) < 200


def test_an_error_carries_what_it_is_about() -> None:
    cause, request = OSError("down"), make_request()
    for kind in (RequestNotSent, NoResponse):
        error = kind(method="POST", path="/v1/infer/batch", cause=cause)
        expected = {"method": "POST", "path": "/v1/infer/batch", "cause": cause}
        assert vars(error).items() >= expected.items()
        assert "POST /v1/infer/batch" in str(error)
        assert "OSError: down" in str(error)
    assert vars(SubmissionUnknown(request=request, cause=cause)) == {
        "request": request,
        "cause": cause,
    }
    invalid = InvalidResponse(
        method="GET", path=PATH, fault="bad", excerpt="{}", inference_job_id=7
    )
    assert vars(invalid) == {
        "method": "GET",
        "path": PATH,
        "fault": "bad",
        "excerpt": "{}",
        "inference_job_id": 7,
        "went_back": False,
    }
    lost = JobLost(inference_job_id=7, job=make_job(7), cause=invalid, why="so")
    assert vars(lost) == {"inference_job_id": 7, "job": make_job(7), "cause": invalid}


def test_a_salvaged_job_id_is_told_in_the_text() -> None:
    def text(job_id: int | None) -> str:
        return str(
            InvalidResponse(
                method="GET", path="/", fault="bad", excerpt="", inference_job_id=job_id
            )
        )

    assert "its id is 7" in text(7)
    assert "its id" not in text(None)


def test_a_job_not_found_is_both_a_lost_job_and_a_not_found() -> None:
    assert isinstance(JOB_NOT_FOUND, JobLost)
    assert isinstance(JOB_NOT_FOUND, NotFound)
    assert JOB_NOT_FOUND.inference_job_id == 7
    assert JOB_NOT_FOUND.job == make_job(7)
    assert isinstance(JOB_NOT_FOUND.cause, NotFound)
    assert JOB_NOT_FOUND.status_code == 404
    assert JOB_NOT_FOUND.message == "No."
    assert JOB_NOT_FOUND.path == PATH
    assert JOB_NOT_FOUND.retry_after == 1.5


def test_what_is_not_open_is_also_a_runtime_error() -> None:
    assert issubclass(NotOpen, RuntimeError)


def test_all_names_of_the_package_exist_sorted_and_with_every_error() -> None:
    names = annolab_async.__all__
    assert [name for name in names if not hasattr(annolab_async, name)] == []
    assert set(errors.__all__) <= set(names)
    assert list(names) == sorted(set(names))
    assert all(getattr(annolab_async, name) is getattr(errors, name) for name in errors.__all__)


def test_every_public_name_of_the_package_is_in_all() -> None:
    public = {
        name
        for name, value in vars(annolab_async).items()
        if not name.startswith("_") and isinstance(value, type)
    }
    assert public <= set(annolab_async.__all__)


def test_an_answer_that_lost_the_id_is_about_no_job_and_went_nowhere() -> None:
    cause = InvalidResponse(
        method="POST",
        path=PATH,
        fault="it is cut off",
        excerpt="{",
        inference_job_id=7,
        went_back=True,
    )
    error = JobIdLost.because(request=make_request(), cause=cause)
    told: dict[str, object] = {"request": make_request(), "cause": cause}
    told |= {"method": "POST", "path": PATH, "fault": "it is cut off", "excerpt": "{"}
    assert vars(error) == told | {"inference_job_id": None, "went_back": False}
