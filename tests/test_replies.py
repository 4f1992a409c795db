"""What an HTTP answer says, whatever it is made of."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import Any

import pytest
from attrs import evolve
from hypothesis import example, given, strategies as st

from annolab_async import AnnoLabError, InferenceJob, InvalidResponse, NotFound, StatusError
from annolab_async._replies import goes_back, read_as, read_job
from annolab_async._secret import ApiKey
from tests.builders import KEY, NOW, json_values, make_job, make_reply, pickled, unhurried

GOOD = make_job(7).to_json()
BOM = b"\xef\xbb\xbf"


def status_error(body: bytes | str, status_code: int = 500, **headers: str) -> StatusError:
    with pytest.raises(StatusError) as caught:
        read_job(make_reply(body, status_code, **headers), key=ApiKey(KEY), utc_now=lambda: NOW)
    return caught.value


def invalid(body: bytes | str, asked_for: int | None = None) -> InvalidResponse:
    with pytest.raises(InvalidResponse) as caught:
        read_job(make_reply(body), key=ApiKey(KEY), utc_now=lambda: NOW, asked_for=asked_for)
    return caught.value


@pytest.mark.parametrize("status_code", [200, 201, 202, 299])
def test_a_success_with_a_job_is_the_job(status_code: int) -> None:
    assert read_job(
        make_reply(GOOD, status_code), key=ApiKey(KEY), utc_now=lambda: NOW
    ) == make_job(7)


def test_a_job_that_was_asked_for_is_the_job() -> None:
    assert read_job(
        make_reply(GOOD), key=ApiKey(KEY), utc_now=lambda: NOW, asked_for=7
    ) == make_job(7)
    assert read_job(
        make_reply(make_job(1).to_json()), key=ApiKey(KEY), utc_now=lambda: NOW, asked_for=1
    ) == make_job(1)


@pytest.mark.parametrize("status_code", [100, 199, 300, 307, 400, 404, 500, 599])
def test_any_other_status_is_a_status_error_whatever_the_body(status_code: int) -> None:
    error = status_error(GOOD, status_code)
    assert (error.status_code, error.method, error.path) == (
        status_code,
        "GET",
        "/v1/infer/batch/7",
    )


def test_a_status_has_the_error_of_its_class() -> None:
    assert isinstance(status_error("", 404), NotFound)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"message": "No such model."}', "No such model."),
        ('{"error": 1, "message": "Nö. 日本"}'.encode(), "Nö. 日本"),
        ("upstream timed out\n", "upstream timed out"),
        ("<html><body>Bad Gateway</body></html>", ""),
        ("  <!DOCTYPE html>", ""),
        ("", ""),
        ("{}", ""),
        ("[]", ""),
        ('["message"]', ""),
        ('{"message": null}', ""),
        ('{"message": 3}', ""),
        ('{"message": ["a"]}', ""),
        ('{"message": {"a": "b"}}', ""),
        ('{"message": "cut o', ""),
        ("[" * 100_000, ""),
        ('{"a":' * 100_000, ""),
        (b"caf\xe9 closed", "caf\N{REPLACEMENT CHARACTER} closed"),
        (b"\xff\xfe\x00", "\N{REPLACEMENT CHARACTER}" * 2 + " "),
        ('{"message": "a\\u0000b\\nc\\u001b[31md\\ud800\\u202e"}', "a b c [31md  "),
    ],
)
def test_the_server_s_message_is_found(body: bytes | str, message: str) -> None:
    assert status_error(body).message == message


@pytest.mark.parametrize(
    ("location", "where"),
    [
        ("https://user:HUSH@other.example:8443/a?HUSH#HUSH", "https://other.example"),
        ("//other.example/HUSH", "http://other.example"),
        ("/sign-in?HUSH", "another path"),
        ("mailto:HUSH", "something that is not a URL"),
        ("https://[HUSH", "something that is not a URL"),
    ],
)
def test_a_redirect_is_told_by_the_host_to_which_it_leads(location: str, where: str) -> None:
    for status_code in (300, 302, 399):
        error = status_error("{}", status_code, location=location)
        assert error.message == f"it redirects to {where}, which is not followed"
    assert status_error("made", 409, location=location).message == "made"


def test_the_repr_of_a_reply_shows_nothing_that_the_server_said() -> None:
    reply = evolve(make_reply("HUSH", location="HUSH"), fault="HUSH")
    assert repr(reply) == "Reply(method='GET', path='/v1/infer/batch/7', status_code=200)"


def test_a_long_message_is_cut() -> None:
    assert status_error("x" * 200).message == "x" * 200
    for body in (json.dumps({"message": "x" * 100_000}), "x" * 100_000):
        error = status_error(body)
        assert error.message == "x" * 200 + "…"
        assert len(str(error)) < 400


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        ("1.5", 1.5),
        (" 7 ", 7.0),
        ("-1", None),
        ("NaN", None),
        ("inf", None),
        ("1e309", None),
        ("", None),
        ("soon", None),
        ("7 s", None),
        ("1_000", None),
        ("\u0663", None),
        ("9" * 400, None),
        ("1000000000", 1e9),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Thu, 02 Jan 2025 03:04:35 GMT", 30.0),
        ("Thursday, 02-Jan-25 03:04:35 GMT", 30.0),
        ("Thu Jan  2 03:04:35 2025", 30.0),
        ("Thu, 02 Jan 2025 03:04:35 -0000", 30.0),
        ("Thu, 99 Jan 2025 03:04:35 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_or_nothing(value: str, seconds: float | None) -> None:
    assert status_error("", 429, retry_after=value).retry_after == seconds


def test_a_date_to_wait_for_is_compared_with_the_servers_own_clock() -> None:
    error = status_error(
        "",
        503,
        retry_after="Wed, 21 Oct 2015 07:28:00 GMT",
        date="Wed, 21 Oct 2015 07:27:50 GMT",
    )
    assert error.retry_after == 10


def test_without_a_header_there_is_no_retry_after() -> None:
    assert status_error("", 429).retry_after is None


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("", "no JSON"),
        ("Queued", "no JSON"),
        ("<html>", "no JSON"),
        (GOOD[:-1], "no JSON"),
        (GOOD + GOOD, "no JSON"),
        (b"\xff\xfe\xff", "no JSON"),
        (b'{"status": "\xe9"}', "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('{"a":' * 100_000, "no JSON"),
        ("9" * 5000, "no JSON"),
        ("null", "null, not an object"),
        ("[]", "an array, not an object"),
        ('"Queued"', "a string, not an object"),
        ("{}", "inferenceJobId is missing; status is missing; sourceIds is missing"),
        ('{"inferenceJobId": 7, "status": "Queued"}', "sourceIds is missing"),
        ('{"inferenceJobId": "7", "status": "", "sourceIds": []}', "inferenceJobId is a string"),
        ('{"inferenceJobId": 0, "status": "", "sourceIds": []}', "inferenceJobId is 0"),
        ('{"inferenceJobId": -7, "status": "", "sourceIds": []}', "inferenceJobId is -7"),
    ],
)
def test_a_success_that_is_no_job_is_an_invalid_response_that_says_why(
    body: bytes | str, fault: str
) -> None:
    error = invalid(body)
    assert fault in error.fault
    assert error.fault in str(error)
    assert (error.method, error.path) == ("GET", "/v1/infer/batch/7")


def test_a_job_other_than_the_one_asked_for_is_invalid() -> None:
    error = invalid(GOOD, asked_for=8)
    assert "inferenceJobId is 7, and 8 was asked for" in error.fault
    assert error.inference_job_id is None


@pytest.mark.parametrize(
    "body",
    [
        '{"inferenceJobId": 7, "sourceIds": [1]}',
        '{"inferenceJobId": 7, "status": "Queued", "sourceIds": "1"}',
        '{"inferenceJobId": 7, "status": "Que',
        '\n{ "projectId":3,"inferenceJobId" :7}',
    ],
)
def test_the_id_of_a_job_is_salvaged_from_a_damaged_answer(body: str) -> None:
    assert invalid(body).inference_job_id == 7


def test_no_other_id_is_salvaged_than_the_one_asked_for() -> None:
    assert invalid(GOOD[:-1], asked_for=7).inference_job_id == 7
    assert invalid(GOOD[:-1], asked_for=8).inference_job_id is None


def test_the_id_of_a_job_is_salvaged_wherever_it_stands_in_an_object() -> None:
    for before in ('"sourceIds": [1]', '"a": {"b": {"c": "d"}}', '"a": ["b", ["c"], {}]'):
        assert invalid(f'{{{before}, "inferenceJobId": 7}}').inference_job_id == 7
    fields = "".join(f'"n{number}": {number}, ' for number in range(1000))
    assert invalid(f'{{{fields} "inferenceJobId": 7}}').inference_job_id == 7
    assert invalid(f'{{{3 * fields} "inferenceJobId": 7}}').inference_job_id is None, "too far"


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{}",
        '{"inferenceJobId": "x"}',
        '{"inferenceJobId": 0}',
        '{"inferenceJobId": -7}',
        '{"inferenceJobId": 7.5}',
        '{"inferenceJobId": 7',  # perhaps 70
        '{"parent": {"inferenceJobId": 7}}',
        '{"note": "\\"inferenceJobId\\": 7, "}',
        '{"inferenceJobId": 7, "inferenceJobId": 8, "status": "Que',
        '{"inferenceJobId": 9999999999999999999, "status": "Que',
        '{"inferenceJobId": 7]',
        '["inferenceJobId": 7, ',
        '{} {"inferenceJobId": 7, "status": "Que',
    ],
)
def test_no_id_is_salvaged_where_there_is_none(body: str) -> None:
    assert invalid(body).inference_job_id is None


def test_a_byte_order_mark_before_an_answer_is_passed_over() -> None:
    assert job_or_error(BOM + GOOD.encode()) == make_job(7)
    assert invalid(BOM + GOOD[:-1].encode()).inference_job_id == 7
    assert status_error(BOM + b'{"message": "No such model."}').message == "No such model."
    assert status_error(BOM + b"timed out").message == "timed out"
    assert not status_error(BOM + b"<html>Bad Gateway</html>").message
    assert invalid(BOM + b"Welcome").excerpt == "Welcome"


@pytest.mark.parametrize("read", [read_job, partial(read_as, InferenceJob, name="a job")])
def test_a_body_that_did_not_come_whole_is_invalid_whatever_it_says(read: Any) -> None:
    reply = evolve(make_reply(GOOD), fault="it is cut off")
    with pytest.raises(InvalidResponse) as caught:
        read(reply, key=ApiKey(KEY), utc_now=lambda: NOW)
    assert caught.value.fault == "it is cut off"


def test_a_status_word_that_is_not_known_does_not_show_the_key() -> None:
    job = job_or_error(make_job(7, f"Waiting for {KEY}").to_json())
    assert job == make_job(7, "Waiting for [API key]")


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ("Running", "Queued", True),
        ("Running", "Running", False),
        ("Running", "Errored", False),
        ("Running", "Odd", False),
        ("Queued", "Queued", False),
        ("Odd", "Queued", False),
    ],
)
def test_a_job_goes_back_only_where_both_words_are_known(
    before: str,
    now: str,
    expected: bool,  # noqa: FBT001
) -> None:
    assert goes_back(make_job(7, before), make_job(7, now)) is expected


def test_an_enormous_id_does_not_make_an_enormous_text() -> None:
    body = GOOD.replace('"inferenceJobId": 7', '"inferenceJobId": -' + "9" * 4000)
    assert len(str(invalid(body))) < 1000


def test_the_excerpt_shows_the_beginning_of_the_body() -> None:
    error = invalid("Welcome to the \x1b[31mcaptive portal\n" + "x" * 100_000)
    assert error.excerpt.startswith("Welcome to the  [31mcaptive portal xxx")
    assert len(error.excerpt) == 201
    assert len(str(error)) < 500


ECHO = f"Authorization: Api-Key {KEY}"
LINK = "https://files.example.org/out.zip?X-Amz-Signature=HUSHHUSH&X-Amz-Date=1"
SECRETS = [
    ("the key", ECHO),
    ("the key, more than once", f"{KEY} {KEY}"),
    ("the key far down", "x" * 190 + KEY),
    ("a signed link", LINK),
    ("a signed link in quotes", f'see "{LINK}" or <{LINK}>'),
    ("a signed link in capitals", LINK.replace("https", "HTTPS")),
    ("two signed links", f"{LINK} {LINK}"),
    ("a signed link with the key", f"{LINK}&key={KEY}"),
    ("a signed link far down", "x" * 150 + " " + LINK),
]
each_secret = pytest.mark.parametrize(
    "text", [text for _, text in SECRETS], ids=[name for name, _ in SECRETS]
)


def assert_hidden(error: AnnoLabError) -> None:
    shown = f"{error} {error!r} {vars(error)}"
    assert KEY[:12] not in shown, shown
    assert "HUSH" not in shown, shown


@each_secret
def test_no_message_shows_a_secret(text: str) -> None:
    assert_hidden(status_error(json.dumps({"message": text})))
    assert_hidden(status_error(text))


@each_secret
def test_no_invalid_response_shows_a_secret(text: str) -> None:
    assert_hidden(invalid(text))
    assert_hidden(invalid(json.dumps({"status": text})))


def test_what_is_left_of_a_redacted_text_says_what_was_there() -> None:
    assert ApiKey(KEY).shown(f"{ECHO} for {LINK} today") == (
        "Authorization: Api-Key [API key] for https://files.example.org/out.zip?[hidden] today"
    )


def test_a_key_is_found_as_it_is_written_and_in_any_case() -> None:
    assert ApiKey(KEY).strike(f"x.{KEY.lower()}.example") == "x.[API key].example"
    assert ApiKey("a.b+(c").strike("a.b+(c axbbc") == "[API key] axbbc"


def test_a_key_is_neither_pickled_nor_shown() -> None:
    key = ApiKey(KEY)
    assert KEY not in f"{key!r} {key} {key.authorization!r}"
    with pytest.raises(TypeError, match="is not pickled"):
        pickled(key)


def test_a_key_in_a_field_of_a_wrong_type_is_hidden() -> None:
    assert_hidden(invalid(json.dumps({"inferenceJobId": 7, "status": ["Api-Key " + KEY]})))


def test_a_key_that_is_cut_in_two_is_hidden() -> None:
    link = "https://files.example.org/?"
    body = link + "a" * (3200 - len(link) - 1 - 20) + " " + KEY
    assert_hidden(invalid(body))


def test_a_signed_link_with_escaped_slashes_is_hidden() -> None:
    assert_hidden(invalid(json.dumps({"downloadUrl": LINK}).replace("/", "\\/")))


def test_a_signed_link_with_an_apostrophe_is_hidden() -> None:
    assert_hidden(invalid(json.dumps({"url": "https://a.example/f?name='x'&sig=HUSHHUSH"})))


def test_a_hostile_message_does_not_hold_the_event_loop_up() -> None:
    body = json.dumps({"message": "http://" * 5000})
    begin = time.process_time()
    status_error(body)
    assert time.process_time() - begin < 0.2


@pytest.mark.parametrize("before", ["Queued", "Running", "Paused"])
@pytest.mark.parametrize("now", ["Queued", "Running", "Paused", "Finished", "Errored"])
def test_only_a_job_that_ran_and_is_queued_goes_back(before: str, now: str) -> None:
    is_back = (before, now) == ("Running", "Queued")
    assert goes_back(make_job(7, before), make_job(7, now)) is is_back


def job_or_error(body: bytes | str) -> InferenceJob | InvalidResponse:
    try:
        return read_job(make_reply(body), key=ApiKey(KEY), utc_now=lambda: NOW)
    except InvalidResponse as error:
        return error


@unhurried
@given(st.binary() | json_values.map(json.dumps) | st.sampled_from([GOOD]))
@example(b"\x00\x00\xfe\xff")
@example(b"\xef\xbb\xbf{}")
def test_any_body_gives_a_job_or_an_invalid_response(body: bytes | str) -> None:
    job = job_or_error(body)
    if isinstance(job, InvalidResponse):
        assert job.fault
        assert len(str(job)) < 1000
    else:
        assert job.inference_job_id >= 1


@unhurried
@given(
    st.binary() | json_values.map(lambda value: json.dumps({"message": value})),
    st.sampled_from([301, 400, 404, 429, 503]),
    st.text(),
)
def test_any_error_body_gives_a_status_error(
    body: bytes | str, status_code: int, retry_after: Any
) -> None:
    error = status_error(body, status_code, retry_after=retry_after)
    assert len(error.message) <= 201
    assert error.message.isprintable()
    assert error.retry_after is None or error.retry_after >= 0
