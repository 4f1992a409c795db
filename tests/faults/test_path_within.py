"""Where a URL of the server's may lead: to a path of the server's own, or nowhere."""

# ruff: noqa: RUF001  # letters that look like others are the point

from __future__ import annotations

import re
from typing import Final

import httpx
import pytest
from hypothesis import given, settings, strategies as st

from annolab_async._http._origins import path_within
from tests.depth import examples
from tests.faults.locations import FOREIGN, UNSURE, WITHIN

BASE_PATH: Final = "/v1/infer/batch/7"
GOOD: Final = "http://127.0.0.1:8001"
EVIL: Final = "http://127.0.0.1:8002"


def filled(location: str) -> str:
    return location.replace("{g}", "8001").replace("{e}", "8002").replace("{n}", "7")


def assert_sound(origin: str, path: str) -> None:
    assert re.fullmatch(r"/[!-~]*", path), "printable ASCII without spaces"
    assert "#" not in path
    assert not path.startswith("//"), "in some hands a host of its own"
    assert "\\" not in path
    url, own = httpx.URL(origin + path), httpx.URL(origin)
    assert (url.scheme, url.host, url.port) == (own.scheme, own.host, own.port)
    assert not url.userinfo


def test_a_url_that_is_too_long_leads_nowhere() -> None:
    longest = "/" + 8191 * "a"
    assert path_within(GOOD, BASE_PATH, longest) == longest
    assert path_within(GOOD, BASE_PATH, f"{longest}a") is None


@pytest.mark.parametrize("location", FOREIGN)
def test_a_url_of_another_origin_leads_nowhere(location: str) -> None:
    assert path_within(GOOD, BASE_PATH, filled(location)) is None


@pytest.mark.parametrize("location", UNSURE)
def test_a_url_of_which_nobody_can_be_sure_leads_nowhere_else(location: str) -> None:
    path = path_within(GOOD, BASE_PATH, filled(location))
    if path is not None:
        assert_sound(GOOD, path)


@pytest.mark.parametrize("location", WITHIN)
def test_a_url_within_the_origin_leads_to_its_path(location: str) -> None:
    path = path_within(GOOD, BASE_PATH, filled(location))
    assert path == filled(WITHIN[location])


@pytest.mark.parametrize("location", [where for where in WITHIN if "127.0.0.1:{g}" in where])
def test_what_is_within_one_origin_is_foreign_to_another(location: str) -> None:
    for origin in [EVIL, GOOD.replace("http", "https"), GOOD.replace("127.0.0.1", "localhost")]:
        path = path_within(origin, BASE_PATH, filled(location))
        assert path is None or (location.startswith("//") and origin.startswith("https"))


@pytest.mark.parametrize(
    ("origin", "location"),
    [
        ("https://api.annolab.ai", "https://api.annolab.ai:443/x"),
        ("https://api.annolab.ai", "HTTPS://API.AnnoLab.ai/x"),
        ("http://localhost", "http://localhost:80/x"),
        ("http://[::1]:8001", "http://[::1]:8001/x"),
        ("http://[::1]:8001", "//[::1]:8001/x"),
    ],
)
def test_a_usual_port_and_capitals_make_no_other_origin(origin: str, location: str) -> None:
    assert path_within(origin, BASE_PATH, location) == "/x"


@pytest.mark.parametrize(
    ("rest", "path"), [("", "/"), ("?x=1", "/?x=1"), ("#x", "/"), ("/#x", "/")]
)
def test_an_origin_alone_leads_to_its_root(rest: str, path: str) -> None:
    assert path_within(GOOD, BASE_PATH, f"{GOOD}{rest}") == path


@pytest.mark.parametrize(
    "location",
    [
        "http://api.annolab.ai/x",
        "http://api.annolab.ai:443/x",
        "https://api.annolab.ai:80/x",
        "https://api.annolab.ai:8443/x",
        "https://api.annolab.ai.:443/x",
        "https://annolab.ai/x",
        "https://files.api.annolab.ai/x",
        "https://api.annolab.ai.evil.com/x",
        "https://api-annolab.ai/x",
        "https://api.annolab.ai@evil.com/x",
        "https://storage.googleapis.com/bucket/x?X-Goog-Signature=ab",
    ],
)
def test_hosts_that_resemble_the_service_are_others(location: str) -> None:
    assert path_within("https://api.annolab.ai", BASE_PATH, location) is None


odd_characters: Final = st.sampled_from([*"/\\@:?#%[]. \t\r\n\0", "%2f", "%00", "。", "é", "／"])
pieces: Final = st.one_of(
    st.sampled_from(["http:", "https:", "HTTP:", "//", "127.0.0.1", ":8001", ":8002", "localhost"]),
    st.sampled_from(["[::1]", "evil.example", "api.annolab.ai", "..", "v1", GOOD, EVIL]),
    odd_characters,
    st.text(max_size=4),
)
known: Final = [filled(location) for location in [*FOREIGN, *UNSURE, *WITHIN]]


@st.composite
def spoilt(draw: st.DrawFn) -> str:
    """Draw a known URL with something odd put into it."""
    url: str = draw(st.sampled_from(known))
    at = draw(st.integers(0, min(len(url), 60)))
    odd: str = draw(odd_characters)
    return url[:at] + odd + url[at:]


urls: Final = spoilt() | st.lists(pieces, max_size=9).map("".join)


@settings(deadline=None, max_examples=examples(1000), derandomize=True)
@given(
    origin=st.sampled_from([GOOD, EVIL, "https://api.annolab.ai", "http://[::1]:8001"]), url=urls
)
def test_whatever_is_accepted_is_a_path_within_the_origin(origin: str, url: str) -> None:
    path = path_within(origin, BASE_PATH, url)
    if path is not None:
        assert_sound(origin, path)
        assert path_within(origin, BASE_PATH, path) == path, "it leads to itself"
        assert path_within(origin, BASE_PATH, origin + path) == path, "so does the whole URL"
