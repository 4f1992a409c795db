"""What is asked of the server for an export, what it may say of one, and what hooks are told of that."""

from __future__ import annotations

import itertools
import json
from typing import Any, Final

import anyio
import httpx
import pytest

from annolab_async import (
    AsyncInferenceClient,
    ExportJob,
    ExportState,
    ExportTimeout,
    InvalidResponse,
    RateLimit,
    RateLimited,
    RetryPolicy,
    StatusError,
)
from annolab_async._export_bodies import export_body, export_job_of, instruments_body
from annolab_async._export_records import (
    Created,
    Told,
    _Job as CreatedJob,
    export_id_of,
    status_path_of,
)
from annolab_async._export_report import ExportReport
from annolab_async._hook_records import (
    DownloadBegan,
    DownloadEnded,
    ExportBegan,
    ExportEnded,
    RequestBegan,
    RetryPlanned,
    TurnWaited,
)
from annolab_async._hooks import Hooks
from tests.observing import Recorder
from tests.service import BASE_URL, KEY

any_backend = pytest.mark.any_backend
LAST_ID: Final = 2**63 - 1
WHOLE: Final[dict[str, Any]] = {
    "group_name": "Company Name",
    "project": "My Project",
    "source_ids": None,
    "layers": None,
    "include_annotation_types": False,
    "include_sources": False,
    "include_text_bounds": False,
}
INSTRUMENTS: Final[dict[str, Any]] = {
    "project_owner": "Company Name",
    "project_name": "My Project",
    "tag_filter": None,
    "source_filter": None,
    "include_files": False,
}


def body_of(options: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """Return the body that is asked for with options, some of which are others."""
    make = export_body if options is WHOLE else instruments_body
    return make(**{**options, **others})


def test_all_that_can_be_asked_for_is_asked_for_by_the_wires_names() -> None:
    assert export_body(**WHOLE) == {
        "groupName": "Company Name",
        "projectIdentifier": "My Project",
        "includeAnnotationTypes": False,
        "includeSources": False,
        "includeTextBounds": False,
    }
    for name, wire in [
        ("include_annotation_types", "includeAnnotationTypes"),
        ("include_sources", "includeSources"),
        ("include_text_bounds", "includeTextBounds"),
    ]:
        body = body_of(WHOLE, {name: True})
        assert [each for each, value in body.items() if value is True] == [wire]
    listed = body_of(WHOLE, {"source_ids": [3, 1, 3, LAST_ID], "layers": ("b", "a", "b")})
    assert (listed["sourceIds"], listed["annotationLayerNames"]) == ([3, 1, LAST_ID], ["b", "a"])
    assert instruments_body(**INSTRUMENTS) == {
        "projectOwner": "Company Name",
        "projectName": "My Project",
        "includeFiles": False,
    }
    some = {"tag_filter": ["b", "a", "b"], "source_filter": iter([3, 1, 3]), "include_files": True}
    body = body_of(INSTRUMENTS, some)
    assert (body["tagFilter"], body["sourceFilter"]) == (["b", "a"], [3, 1])
    assert body["includeFiles"] is True


@pytest.mark.parametrize(
    ("of", "wrong", "fault"),
    [
        *[
            (of, {name: value}, fault.format(name))
            for of, name in [
                ("export", "include_annotation_types"),
                ("export", "include_sources"),
                ("export", "include_text_bounds"),
                ("instruments", "include_files"),
            ]
            for value, fault in [(1, "{} is 1, neither True nor False"), ("no", "{} is 'no', nei")]
        ],
        *[
            (of, {name: value}, fault.format(name))
            for of, name in [
                ("export", "group_name"),
                ("instruments", "project_owner"),
                ("instruments", "project_name"),
            ]
            for value, fault in [(" ", "{} is empty"), (7, "{} is 7, not a string")]
        ],
        ("export", {"project": ""}, "project is empty"),
        ("export", {"project": True}, "project is True, neither a name nor an integer id"),
        *[
            (of, {name: value}, fault.format(name))
            for of, name in [("export", "source_ids"), ("instruments", "source_filter")]
            for value, fault in [
                ([], "{} is empty; None asks for all"),
                (7, "{} is 7, not a collection"),
                ("12", "{} is '12', not a collection"),
                (b"12", "{} is b'12', not a collection"),
                ([0], "{} holds 0: ids are integers from 1 up"),
                ([LAST_ID + 1], f"{{}} holds {LAST_ID + 1}: ids"),
                ([1, True, "2", 3.0], "{} holds True, '2', 3.0: ids"),
                ([0] * 10, f"{{}} holds {', '.join('0' * 10)}: ids"),
                ([0] * 11, f"{{}} holds {', '.join('0' * 10)} and 1 more: ids"),
                ([0] * 15, f"{{}} holds {', '.join('0' * 10)} and 5 more: ids"),
            ]
        ],
        *[
            (of, {name: value}, fault.format(name))
            for of, name in [("export", "layers"), ("instruments", "tag_filter")]
            for value, fault in [
                ([], "{} is empty; None asks for all"),
                ("Gold", "{} is 'Gold', not a collection"),
                (["a", " ", 7], "{} holds ' ', 7: each is a name"),
            ]
        ],
    ],
)
def test_what_makes_no_sense_is_named(of: str, wrong: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match="This is no valid export: ") as caught:
        body_of(WHOLE if of == "export" else INSTRUMENTS, wrong)
    assert str(caught.value).removeprefix("This is no valid export: ").startswith(fault)


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"group_name is 1, .*; project is 0.*; layers is empty"):
        body_of(WHOLE, {"group_name": 1, "project": 0, "layers": []})


def test_an_export_is_given_as_itself_or_as_its_id() -> None:
    job = ExportJob(7, "started", "/v1/elsewhere/7")
    assert export_job_of(job) is job
    for export_id in (1, LAST_ID):
        path = f"/v1/export/status/{export_id}"
        assert export_job_of(export_id) == ExportJob(export_id, "initialized", path)
    for wrong in (0, -1, LAST_ID + 1, True, "7", None, 7.0):
        with pytest.raises(ValueError, match="neither an ExportJob nor an export's id"):
            export_job_of(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("word", "state", "is_terminal"),
    [
        ("initialized", ExportState.INITIALIZED, False),
        ("Initalized", ExportState.INITIALIZED, False),
        ("STARTED", ExportState.STARTED, False),
        ("Finished", ExportState.FINISHED, True),
        ("errored", ExportState.ERRORED, True),
        ("unknown", ExportState.UNKNOWN, False),
        ("done", ExportState.UNKNOWN, False),
    ],
)
def test_a_status_word_means_what_is_documented_and_else_nothing(
    word: str, state: ExportState, *, is_terminal: bool
) -> None:
    job = ExportJob(7, word, "/x/7")
    assert job.state is state
    assert state.is_terminal is is_terminal
    assert repr(state) not in repr(job)
    with pytest.raises(TypeError):
        ExportJob(7, word, "/x/7", state=state)  # type: ignore[call-arg]  # it goes by the word


def test_an_export_that_is_written_down_comes_back() -> None:
    for job in (
        ExportJob(7, "started", "/v1/export/status/7"),
        ExportJob(1, "errored", "/a_B-9", project_id=3, error="the disk is full"),
    ):
        assert ExportJob.from_json(job.to_json()) == job
    assert json.loads(ExportJob(7, "started", "/x/7").to_json()) == {
        "exportId": 7,
        "status": "started",
        "statusPath": "/x/7",
    }


@pytest.mark.parametrize(
    "wrong",
    [{"exportId": 0}, {"exportId": -1}, {"statusPath": "/a/../b"}, {"statusPath": "/a?b"}]
    + [{"statusPath": path} for path in ("", "a/7", "/a/", "//a", "/a\n", "/a.b")],
)
def test_what_was_written_down_is_not_believed_if_it_leads_elsewhere(wrong: dict[str, Any]) -> None:
    line = {"exportId": 7, "status": "started", "statusPath": "/x/7"}
    with pytest.raises(ValueError, match="exportId or statusPath is none"):
        ExportJob.from_json(json.dumps(line | wrong))


@pytest.mark.parametrize(
    ("job", "path", "export_id"),
    [
        (CreatedJob(7), "/v1/export/status/8", 7),
        (CreatedJob(1), "/v1/export/status/8", 1),
        (CreatedJob(0), "/v1/export/status/8", 8),
        (CreatedJob(-1), "/v1/export/status/8/", 8),
        (CreatedJob(None), "/v1/export/status/123456789012345678", 123456789012345678),
        (None, "/v1/export/status/8", 8),
        (None, "/v1/export/status/1234567890123456789", None),
        (None, "/v1/export/status/08", None),
        (None, "/v1/export/status/x8", None),
        (None, None, None),
    ],
)
def test_the_id_of_an_export_is_its_records_or_stands_at_the_end_of_its_path(
    job: CreatedJob | None, path: str | None, export_id: int | None
) -> None:
    assert export_id_of(Created(None, job), path) == export_id


@pytest.mark.parametrize(
    ("path", "is_taken"),
    [
        ("/v1/export/instruments/status/7", True),
        ("/7", True),
        ("/v1/export/status/8", False),
        ("/v1/export/status/7?x=1", False),
        ("/v1/../7", False),
        ("/v1/export/status", False),
        ("", False),
        (None, False),
    ],
)
def test_an_export_is_asked_for_where_the_server_says_if_that_is_plain(
    path: str | None, *, is_taken: bool
) -> None:
    assert status_path_of(7, path) == (path if is_taken else "/v1/export/status/7")


def test_a_link_is_not_shown() -> None:
    assert "canary" not in repr(Told("finished", download_url="https://x/?canary"))


# What the client makes of answers.


class Server:
    """Answers the request for an export, and then the questions for it, the last answer for ever."""

    def __init__(self, made: dict[str, Any], *answers: httpx.Response) -> None:
        self.asked: list[str] = []
        self._made = made
        self._answers = answers

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(f"{request.method} {request.url.path}")
        if request.method == "POST":
            return httpx.Response(201, json=self._made)
        return self._answers[min(len(self.asked) - 1, len(self._answers)) - 1]


def told(**data: Any) -> httpx.Response:
    return httpx.Response(200, json={"status": "started"} | data)


async def exported(
    server: Server, ask: int = 1, *, base_url: str = BASE_URL, **settings: Any
) -> list[ExportJob]:
    """Return an export as it was made, and as it was each time it was asked for."""
    settings = {"retry": RetryPolicy(attempts=1)} | settings
    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(server)) as http_client,
        AsyncInferenceClient(KEY, base_url=base_url, http_client=http_client, **settings) as client,
    ):
        export = await client.export(group_name="Company Name", project="My Project")
        assert export.export_id == export.job.export_id
        return [export.job, *[await export.refresh() for _ in range(ask)]]


@pytest.mark.anyio
@any_backend
async def test_what_the_server_says_of_an_export_is_kept() -> None:
    made = {"exportJob": {"id": 7, "status": "Started", "projectId": 3}}
    answers = [told(id=7), told(projectId=4), told(error="no"), told(error=None, status="finished")]
    jobs = await exported(Server(made, *answers), 4)
    path = "/v1/export/status/7"
    assert jobs == [
        ExportJob(7, "Started", path, 3),
        ExportJob(7, "started", path, 3),
        ExportJob(7, "started", path, 4),
        ExportJob(7, "started", path, 4, "no"),
        ExportJob(7, "finished", path, 4),
    ]


@pytest.mark.anyio
@any_backend
@pytest.mark.parametrize("job", [None, {"id": 7}])
async def test_an_export_of_which_little_is_said_is_new(job: dict[str, Any] | None) -> None:
    server = Server({"exportStatusUrl": f"{BASE_URL}/v1/some/7", "exportJob": job}, told())
    jobs = await exported(server)
    assert jobs[0] == ExportJob(7, "initialized", "/v1/some/7")
    assert server.asked == ["POST /v1/export/project", "GET /v1/some/7"]


@pytest.mark.anyio
@any_backend
@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("http://LOCALHOST/under/v1/some/7", "/v1/some/7"),
        ("/under/v1/some/7", "/v1/some/7"),
        ("v1/some/7", "/v1/export/status/7"),
        ("http://localhost/elsewhere/v1/some/7", "/v1/export/status/7"),
        ("http://other.example/under/v1/some/7", "/v1/export/status/7"),
        ("", "/v1/export/status/7"),
        (None, "/v1/export/status/7"),
    ],
)
async def test_a_status_url_leads_below_the_base_url_or_nowhere(url: str | None, path: str) -> None:
    server = Server({"exportStatusUrl": url, "exportJob": {"id": 7}}, told())
    jobs = await exported(server, base_url="http://localhost/under")
    assert jobs[1].status_path == path
    assert server.asked[1] == f"GET /under{path}"


@pytest.mark.anyio
@any_backend
async def test_a_status_url_may_be_relative_to_a_base_url_without_a_path() -> None:
    server = Server({"exportStatusUrl": "v1/some/7", "exportJob": {"id": 7}}, told())
    assert (await exported(server))[1].status_path == "/v1/some/7"


@pytest.mark.anyio
@any_backend
async def test_an_export_is_waited_for_with_questions_that_become_rarer() -> None:
    hook, asked = Recorder(), list[float]()

    class Slow(Server):
        def __call__(self, request: httpx.Request) -> httpx.Response:
            asked.append(anyio.current_time())
            return super().__call__(request)

    server = Slow({"exportJob": {"id": 7}}, httpx.Response(503), told())
    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(server)) as http_client,
        AsyncInferenceClient(
            KEY, base_url=BASE_URL, http_client=http_client, hooks=[hook]
        ) as client,
    ):
        export = await client.export(group_name="Company Name", project="My Project")
        with pytest.raises(ExportTimeout):
            await export.wait(timeout=300)
    gaps = [after - before for before, after in itertools.pairwise(asked)]
    assert gaps[0] <= 1
    assert 14 < max(gaps) <= 15
    assert {one.resends for one in hook.of(RequestBegan)} == {0}
    assert {one.kind for one in hook.of(RequestBegan)} == {"export"}


@pytest.mark.anyio
@any_backend
async def test_exports_are_made_in_the_turn_of_batches_and_asked_for_in_that_of_reads() -> None:
    hook = Recorder()
    server = Server({"exportJob": {"id": 7}}, told())
    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(server)) as http_client,
        AsyncInferenceClient(
            KEY,
            base_url=BASE_URL,
            http_client=http_client,
            hooks=[hook],
            rate_limit=RateLimit(max_per_second=1, burst=1),
        ) as client,
    ):
        await client.export(group_name="Company Name", project="My Project")
        export = await client.export(group_name="Company Name", project="My Project")
        await export.refresh()
    assert [waited.kind for waited in hook.of(TurnWaited)] == ["submit", "read"]


@pytest.mark.anyio
@any_backend
async def test_questions_that_are_repeated_are_told_to_be_about_exports() -> None:
    hook = Recorder()
    server = Server({"exportJob": {"id": 7}}, httpx.Response(503), told())
    await exported(server, hooks=[hook], retry=RetryPolicy(attempts=2, first=0.001))
    assert [retry.kind for retry in hook.of(RetryPlanned)] == ["export"]

    class Busy(Server):
        def __call__(self, request: httpx.Request) -> httpx.Response:
            found = super().__call__(request)
            return httpx.Response(503) if len(self.asked) == 1 else found

    hook = Recorder()
    await exported(
        Busy({"exportJob": {"id": 7}}, told()), 0, hooks=[hook], retry=RetryPolicy(first=0.001)
    )
    assert [retry.kind for retry in hook.of(RetryPlanned)] == ["export"]


@pytest.mark.anyio
@any_backend
async def test_a_status_word_and_an_error_show_no_key() -> None:
    made = {"exportJob": {"id": 7, "status": f"a {KEY}"}}
    jobs = await exported(Server(made, told(status=f"b {KEY}", error=[KEY])))
    assert (jobs[0].status, jobs[1].status) == ("a [API key]", "b [API key]")
    assert jobs[1].error == '["[API key]"]'


@pytest.mark.anyio
@any_backend
async def test_an_export_without_an_id_is_none() -> None:
    with pytest.raises(InvalidResponse, match="something else than a new export") as caught:
        await exported(Server({"exportJob": {"status": "x"}}))
    error = caught.value
    assert (error.method, error.path, error.excerpt) == ("POST", "/v1/export/project", "")
    assert error.fault == "neither exportJob.id nor exportStatusUrl tells its id"


@pytest.mark.anyio
@any_backend
async def test_another_export_than_was_asked_for_is_none() -> None:
    with pytest.raises(InvalidResponse, match="something else than the export") as caught:
        await exported(Server({"exportJob": {"id": 7}}, told(id=8)))
    error = caught.value
    assert (error.method, error.path) == ("GET", "/v1/export/status/7")
    assert (error.fault, error.excerpt) == ("id is 8, and 7 was asked for", "")


@pytest.mark.anyio
@any_backend
async def test_a_date_to_wait_for_is_told_in_seconds() -> None:
    later = httpx.Response(429, headers={"Retry-After": "Fri, 01 Jan 2100 00:00:00 GMT"})
    with pytest.raises(RateLimited) as caught:
        await exported(Server({"exportJob": {"id": 7}}, later))
    assert (caught.value.retry_after or 0) > 10**6


# What hooks are told.


def a_job(status: str = "started", export_id: int = 7) -> ExportJob:
    return ExportJob(export_id, status, f"/v1/export/status/{export_id}")


class Heard:
    """A hook that records the events of exports."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def on_export(self, export: ExportBegan, /) -> None:
        self.told.append(export)

    def on_export_end(self, ended: ExportEnded, /) -> None:
        self.told.append(ended)

    def on_download(self, download: DownloadBegan, /) -> None:
        self.told.append(download)

    def on_download_end(self, ended: DownloadEnded, /) -> None:
        self.told.append(ended)


class EndsHeard:
    """A hook that records only the ends of exports."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def on_export_end(self, ended: ExportEnded, /) -> None:
        self.told.append(ended)


@pytest.mark.anyio
@any_backend
async def test_an_export_that_is_made_is_told_from_its_beginning_to_its_end() -> None:
    hook = Heard()
    report = ExportReport(Hooks([hook]))
    export = report.begin(None)
    assert hook.told == [export]
    assert export is not None
    assert export.export_id is None
    await anyio.sleep(2)
    with report.unless_made(export):
        report.made(export, a_job())
    assert report.begun(7) is export
    assert report.begin(7) is export, "it has begun before"
    report.made(export, a_job())
    await anyio.sleep(3)
    report.seen(a_job())
    report.seen(a_job("finished", 8))
    assert hook.told == [export]
    report.seen(a_job("finished"))
    report.seen(a_job("finished"))
    report.let_go()
    (_, ended) = hook.told
    assert (ended.export, ended.export_id, ended.state) == (export, 7, ExportState.FINISHED)
    assert (ended.duration, ended.error) == (5, None)
    assert report.begun(7) is None


@pytest.mark.anyio
@any_backend
async def test_an_export_that_could_not_be_made_ends_with_why() -> None:
    for hook in (Heard(), EndsHeard()):
        report = ExportReport(Hooks([hook]))
        export = report.begin(None)
        await anyio.sleep(2)
        with pytest.raises(KeyError) as caught, report.unless_made(export):
            raise KeyError
        report.let_go()
        ended = hook.told[-1]
        assert (ended.export, ended.export_id, ended.state) == (export, None, None)
        assert (ended.duration, ended.error) == (2, caught.value)


@pytest.mark.anyio
@any_backend
async def test_exports_that_nobody_asks_for_any_more_end_as_they_were_seen_last() -> None:
    hook = Heard()
    report = ExportReport(Hooks([hook]))
    for export_id in (7, 8):
        report.made(report.begin(export_id), a_job("initialized", export_id))
    report.seen(a_job("started", 8))
    await anyio.sleep(4)
    report.let_go()
    ends = {ended.export_id: ended for ended in hook.told if isinstance(ended, ExportEnded)}
    assert ends[7].state is ExportState.INITIALIZED
    assert ends[8].state is ExportState.STARTED
    assert [end.duration for end in ends.values()] == [4, 4]
    assert {end.export.export_id for end in ends.values()} == {7, 8}


@pytest.mark.anyio
@any_backend
async def test_where_nobody_listens_nothing_is_kept() -> None:
    report = ExportReport(Hooks([]))
    assert report.begin(None) is report.begin(7) is None
    with pytest.raises(KeyError), report.unless_made(None):
        raise KeyError
    report.made(None, a_job())
    assert report.begun(7) is None
    report.seen(a_job("finished"))
    report.let_go()
    assert await downloaded(report, 5) == 5


async def downloaded(report: ExportReport, size: int | None) -> int | None:
    """Return what came of a download that takes 6 s and brings so many bytes, or fails."""

    async def download() -> int:
        await anyio.sleep(6)
        if size is None:
            raise KeyError
        return size

    await report.download(7, download())
    return size


@pytest.mark.anyio
@any_backend
async def test_a_download_is_told_with_its_size_or_with_why_there_is_none() -> None:
    hook = Heard()
    report = ExportReport(Hooks([hook]))
    await downloaded(report, 5)
    with pytest.raises(KeyError) as caught:
        await downloaded(report, None)
    first, ended, second, failed = hook.told
    assert first.export_id == second.export_id == 7
    assert (ended.download, ended.size, ended.duration, ended.error) == (first, 5, 6, None)
    assert (failed.download, failed.size, failed.duration) == (second, None, 6)
    assert failed.error is caught.value


@pytest.mark.anyio
@any_backend
async def test_requests_are_told_to_be_about_their_export() -> None:
    hook = Recorder()
    server = Server({"exportJob": {"id": 7}}, httpx.Response(503), told())
    await exported(server, hooks=[hook], retry=RetryPolicy(attempts=2, first=0.001))
    began = hook.of(ExportBegan)
    requests = hook.of(RequestBegan)
    assert [(one.kind, one.method, one.resends) for one in requests] == [
        ("export", "POST", 0),
        ("export", "GET", 0),
        ("export", "GET", 1),
    ]
    assert [one.export for one in requests] == began * 3


@pytest.mark.anyio
@any_backend
async def test_a_request_for_an_export_is_sent_again_as_it_makes_nothing_that_costs() -> None:
    hook = Recorder()

    class Failing(Server):
        def __call__(self, request: httpx.Request) -> httpx.Response:
            found = super().__call__(request)
            return httpx.Response(500) if len(self.asked) < 3 else found

    server = Failing({"exportJob": {"id": 7}})
    retry = RetryPolicy(attempts=3, first=0.001)
    (job,) = await exported(server, 0, hooks=[hook], retry=retry)
    assert job.export_id == 7
    assert server.asked == ["POST /v1/export/project"] * 3
    assert [one.resends for one in hook.of(RequestBegan)] == [0, 1, 2]
    with pytest.raises(StatusError):
        await exported(Failing({"exportJob": {"id": 7}}), 0, retry=RetryPolicy(attempts=2))
