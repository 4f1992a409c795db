"""What a part is gone on with, and what an answer to that says: each rule by itself."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import pytest

from annolab_async._ranges import (
    NOTHING,
    Held,
    Remedy,
    Setback,
    Take,
    is_validator,
    judge,
    range_headers,
    validator_of,
)

NOW: Final = datetime(2024, 1, 1, 12, tzinfo=UTC)
TAG: Final = '"one"'
MODIFIED: Final = "Mon, 01 Jan 2024 11:00:00 GMT"
A_MINUTE_LATER: Final = "Mon, 01 Jan 2024 11:01:00 GMT"
HELD: Final = Held(5, 10, TAG)
REST: Final = {"content-range": "bytes 4-9/10", "content-length": "6", "etag": TAG}


def judged(
    status: int, headers: dict[str, str], held: Held = NOTHING, *, max_bytes: int = 1000
) -> Take:
    return judge(status, headers, held, max_bytes=max_bytes, utc_now=lambda: NOW)


def setback(
    status: int, headers: dict[str, str], held: Held = NOTHING, *, max_bytes: int = 1000
) -> Setback:
    with pytest.raises(Setback) as caught:
        judged(status, headers, held, max_bytes=max_bytes)
    assert str(caught.value) == caught.value.what
    return caught.value


def test_of_nothing_and_of_what_nothing_tells_for_certain_all_is_asked_for() -> None:
    for held in (NOTHING, Held(0, 10, TAG), Held(5, 10, None), Held(5)):
        assert range_headers(held) == {}
        assert not held.can_go_on


@pytest.mark.parametrize("received", [1, 5, 10])
def test_of_a_part_the_rest_is_asked_for_with_its_last_byte(received: int) -> None:
    held = Held(received, 10, TAG)
    assert range_headers(held) == {"Range": f"bytes={received - 1}-", "If-Range": TAG}
    assert held.is_whole is (received == 10)
    assert not Held(received, None, TAG).is_whole


def test_a_whole_body_is_taken_in_the_place_of_what_was_held() -> None:
    for held in (NOTHING, HELD):
        assert judged(200, {}, held) == Take(None, Held(0), is_anew=True)
        headers = {"content-length": "17", "etag": TAG}
        assert judged(200, headers, held) == Take(17, Held(0, 17, TAG), is_anew=True)
    assert judged(200, {"content-length": "0"}).held == Held(0, 0)


def test_a_rest_is_taken_behind_what_was_held_but_for_its_last_byte() -> None:
    assert judged(206, REST, HELD) == Take(10, Held(4, 10, TAG))
    assert judged(206, REST, Held(5, None, TAG)) == Take(10, Held(4, 10, TAG))
    piece = REST | {"content-range": "BYTES  4-4/10 ", "content-length": "1"}
    assert judged(206, piece, HELD) == Take(5, Held(4, 10, TAG))
    first = REST | {"content-range": "bytes 0-9/10", "content-length": "10"}
    assert judged(206, first, Held(1, 10, TAG)) == Take(10, Held(0, 10, TAG))
    dated = {"content-range": "bytes 4-9/10", "last-modified": f" {MODIFIED} "}
    assert judged(206, dated, Held(5, 10, MODIFIED)) == Take(10, Held(4, 10, MODIFIED))
    tagged = {"content-range": "bytes 4-9/10", "etag": f" {TAG} "}
    assert judged(206, tagged, HELD) == Take(10, Held(4, 10, TAG))


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"content-range": ""}, "the Content-Range of its rest is ''"),
        ({"content-range": "bytes 4-9/*"}, "the Content-Range of its rest is 'bytes 4-9/*'"),
        ({"content-range": "bytes 4-9/10, 1-2/10"}, "the Content-Range of its rest is"),
        ({"content-range": "x" * 99}, f"the Content-Range of its rest is {'x' * 60!r}"),
        ({"content-range": "bytes 3-9/10"}, "the Content-Range of its rest is"),
        ({"content-range": "bytes 5-9/10"}, "the Content-Range of its rest is"),
        ({"content-range": "bytes 4-3/10"}, "the Content-Range of its rest is"),
        ({"content-range": "bytes 4-10/10"}, "the Content-Range of its rest is"),
        ({"content-range": "bytes 4-9/11"}, "it was 10 bytes long, and is 11 now"),
        ({"content-length": "5"}, "the Content-Length of its rest does not go with"),
        ({"content-length": "7"}, "the Content-Length of its rest does not go with"),
        ({"etag": '"two"'}, "it has changed meanwhile"),
        ({"etag": "one"}, "it has changed meanwhile"),
        ({"etag": "", "last-modified": TAG}, "it has changed meanwhile"),
    ],
)
def test_a_rest_that_is_not_the_rest_is_answered_from_the_start(
    wrong: dict[str, str], what: str
) -> None:
    found = setback(206, REST | wrong, HELD)
    assert found.what.startswith(what)
    assert found.remedy is Remedy.FROM_THE_START


def test_the_rest_of_a_dated_file_is_told_by_its_date() -> None:
    headers = {"content-range": "bytes 4-9/10", "last-modified": A_MINUTE_LATER, "etag": MODIFIED}
    assert setback(206, headers, Held(5, 10, MODIFIED)).what == "it has changed meanwhile"


def test_a_file_may_be_as_long_as_it_may_and_no_longer() -> None:
    assert judged(200, {"content-length": "10"}, max_bytes=10).end == 10
    assert judged(206, REST, HELD, max_bytes=10).end == 10
    for status, headers in ((200, {"content-length": "10"}), (206, REST)):
        found = setback(status, headers, HELD, max_bytes=9)
        assert found.what == "it is 10 bytes long, and max_bytes is 9"
        assert found.remedy is Remedy.NONE
        assert "Allow more" in found.hint


@pytest.mark.parametrize("length", ["", "-1", "+1", "1.0", "1 ", "x" * 50, "9" * 19])
def test_a_length_that_is_none_is_asked_for_again(length: str) -> None:
    found = setback(200, {"content-length": length})
    assert found.what == f"its Content-Length is {length[:40]!r}"
    assert found.remedy is Remedy.AGAIN
    assert judged(200, {"content-length": "9" * 18}, max_bytes=10**18).end == 10**18 - 1


@pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip", "x" * 50])
@pytest.mark.parametrize("status", [200, 206])
def test_a_packed_body_is_not_taken(status: int, coding: str) -> None:
    found = setback(status, REST | {"content-encoding": coding}, HELD)
    assert found.what == f"it was sent packed as {coding[:40]!r}, which was not asked for"
    assert found.remedy is Remedy.NONE
    assert "proxy" in found.hint
    for plain in ("", " Identity "):
        judged(status, REST | {"content-encoding": plain}, HELD)


REFUSALS: Final = dict.fromkeys((400, 401, 403, 404, 410), Remedy.ANOTHER_LINK)
MAY_PASS: Final = dict.fromkeys((408, 425, 429, 500, 502, 503, 504, 599), Remedy.AGAIN)
HOPELESS: Final = dict.fromkeys((201, 204, 300, 304, 405, 409, 499), Remedy.NONE)


@pytest.mark.parametrize(
    ("status", "remedy"),
    (REFUSALS | MAY_PASS | HOPELESS | {416: Remedy.FROM_THE_START}).items(),
)
def test_each_other_status_has_its_remedy(status: int, remedy: Remedy) -> None:
    found = setback(status, {"retry-after": "7"})
    assert found.remedy is remedy
    assert str(status) in found.what
    assert found.retry_after == (7 if status in MAY_PASS else None)
    dated = setback(status, {"retry-after": "Mon, 01 Jan 2024 12:00:09 GMT"})
    assert dated.retry_after == (9 if status in MAY_PASS else None)


@pytest.mark.parametrize(
    ("headers", "validator"),
    [
        ({"etag": TAG}, TAG),
        ({"etag": f" {TAG} "}, TAG),
        ({"etag": '"' + "x" * 512 + '"'}, '"' + "x" * 512 + '"'),
        ({"etag": '"' + "x" * 513 + '"'}, None),
        ({"etag": '""'}, None),
        ({"etag": '"!#-~"'}, '"!#-~"'),
        ({"etag": '"a b"'}, None),
        ({"etag": '"a"b"'}, None),
        ({"etag": 'W/"one"'}, None),
        ({"etag": "", "last-modified": MODIFIED, "date": A_MINUTE_LATER}, None),
        ({"last-modified": MODIFIED, "date": A_MINUTE_LATER}, MODIFIED),
        ({"last-modified": f" {MODIFIED} ", "date": f" {A_MINUTE_LATER} "}, MODIFIED),
        ({"last-modified": MODIFIED, "date": "Mon, 01 Jan 2024 11:00:59 GMT"}, None),
        (
            {"last-modified": "Mon, 01 Jan 2024 11:00:00", "date": A_MINUTE_LATER},
            "Mon, 01 Jan 2024 11:00:00",
        ),
        ({"last-modified": MODIFIED}, None),
        ({"date": A_MINUTE_LATER}, None),
        ({"last-modified": "yesterday", "date": A_MINUTE_LATER}, None),
        ({"last-modified": MODIFIED, "date": "today"}, None),
        ({}, None),
    ],
)
def test_only_what_surely_tells_two_files_apart_is_a_validator(
    headers: dict[str, str], validator: str | None
) -> None:
    assert validator_of(headers, 10) == validator
    assert validator is None or is_validator(validator)
    if validator == MODIFIED:
        assert validator_of(headers, None) is None


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        (TAG, True),
        (MODIFIED, True),
        ("Mon, 01 Jan 2024 11:00:00 -0000", False),
        ("Monday, 01-Jan-24 11:00:00 GMT", False),
        ("Mon, 01 Jan 2024 11:00:00", True),
        ("Mon, 99 Jan 2024 11:00:00 GMT", False),
        ("Mon, 01 Jan 99999999999 11:00:00 GMT", False),
        (",", False),
        ("", False),
        (f"{MODIFIED}{' ' * 12}", False),
        (f"{MODIFIED}\r\n", False),
        ('W/"one"', False),
    ],
)
def test_a_validator_from_elsewhere_has_to_look_like_one(text: str, *, is_one: bool) -> None:
    assert is_validator(text) is is_one
