"""What is wrong with a client's arguments is told without showing its key."""

from __future__ import annotations

import functools
import pickle
from typing import Any, Final

import httpx
import pytest

from annolab_async import AnnoLabError, AsyncInferenceClient, ConfigurationError, RetryPolicy
from tests.faults.keyed import KEY
from tests.faults.leaks import SECRET, leaks

LINK: Final = "https://files.example/x.zip?X-Sig=CANARYSIG"
BAD_KEYS: Final[dict[str, Any]] = {
    "a line end": KEY + "\n",
    "a line end of Windows": KEY + "\r\n",
    "a line end inside": KEY + "\r\nX-Other: " + KEY,
    "a space": KEY.replace("-", " "),
    "a space before": " " + KEY,
    "a tab": KEY + "\t",
    "a zero": KEY + "\0",
    "a delete": KEY + "\x7f",
    "an accent": KEY + "é",
    "a typographic dash": KEY.replace("-", "\u2013"),
    "a byte order mark": "\ufeff" + KEY,
    "half of a pair": KEY + "\ud800",
    "bytes": KEY.encode(),
    "a list": [KEY],
    "a mapping": {"api_key": KEY},
}
BAD_SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "a base URL": {"base_url": "api.annolab.ai"},
    "a base URL that is none": {"base_url": "https://["},
    "a base URL that is plain": {"base_url": "http://api.annolab.ai"},
    "a base URL that is a number": {"base_url": 5},
    "a path": {"inference_path": "/v1?x=1"},
    "a path that is a number": {"inference_path": 5},
    "a timeout": {"timeout": -1},
    "a timeout that is a text": {"timeout": "5"},
    "connections": {"max_connections": 0},
    "connections that are a text": {"max_connections": "5"},
    "a transport": {"transport": "curl"},
    "a transport that is a number": {"transport": 5},
    "a client": {"http_client": object()},
    "a client that is a class": {"http_client": httpx.AsyncClient},
    "a client that is not asynchronous": {"http_client": httpx.Client},
    "hosts": {"plain_http_hosts": "10.0.0.1", "base_url": "http://10.0.0.1"},
}
URLS_WITH_SECRETS: Final = [
    f"https://{KEY}@api.annolab.ai",
    f"https://x:{KEY}@api.annolab.ai/?X-Sig=CANARYSIG",
    "https://api.annolab.ai/?X-Sig=CANARYSIG",
    f"https://[{KEY}",
    f"https://api.annolab.ai:{KEY}",
    f"https://api.annolab.ai\n{KEY}",
    KEY,
]
WRONG_TYPES: Final = {"bytes", "a list", "a mapping"}


@pytest.mark.parametrize("source", ["argument", "environment"])
@pytest.mark.parametrize("what", BAD_KEYS)
def test_a_key_that_is_none_is_refused_and_not_shown(
    what: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if source == "environment":
        if what in WRONG_TYPES | {"a zero", "half of a pair"}:
            pytest.skip("no environment holds that")
        monkeypatch.setenv("ANNOLAB_API_KEY", BAD_KEYS[what])
    with pytest.raises(ConfigurationError) as raised:
        AsyncInferenceClient(BAD_KEYS[what] if source == "argument" else None)
    assert not leaks(raised.value)
    assert "key" in str(raised.value).lower()
    if what not in WRONG_TYPES:
        assert "strip()" in str(raised.value), "how to mend it"


@pytest.mark.parametrize("source", ["argument", "environment"])
@pytest.mark.parametrize("what", BAD_SETTINGS)
def test_a_wrong_argument_is_refused_without_showing_the_key(
    what: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANNOLAB_API_KEY", KEY)
    with pytest.raises(ConfigurationError) as raised:
        AsyncInferenceClient(KEY if source == "argument" else None, **BAD_SETTINGS[what])
    assert not leaks(raised.value)


@pytest.mark.parametrize("url", URLS_WITH_SECRETS)
def test_a_base_url_that_holds_a_secret_is_not_shown(url: str) -> None:
    # The last of them makes a good path.
    for settings in [{"base_url": url}, {"inference_path": f"{url}?"}]:
        with pytest.raises(ConfigurationError) as raised:
            AsyncInferenceClient("KEY", **settings)  # type: ignore[arg-type]
        error = raised.value
        assert error.__cause__ is None
        assert not SECRET.search(f"{error} {error!r} {error.__dict__} {pickle.dumps(error)!r}")


@pytest.mark.anyio
async def test_no_key_at_all_and_a_client_that_is_used_too_early() -> None:
    with pytest.raises(ConfigurationError, match="ANNOLAB_API_KEY"):
        AsyncInferenceClient("")
    client = AsyncInferenceClient(KEY)
    with pytest.raises(AnnoLabError) as raised:
        await client.get_job(7)
    assert not leaks(raised.value)


def test_a_client_is_not_pickled_with_its_key() -> None:
    try:
        data = pickle.dumps(AsyncInferenceClient(KEY))
    except (TypeError, AttributeError, pickle.PicklingError):
        return
    assert not SECRET.search(data.decode("latin-1"))


def test_the_search_for_secrets_finds_them() -> None:
    request = httpx.Request("GET", "https://api.annolab.ai", headers={"Authorization": KEY})
    noted, chained, inner = ValueError(), ValueError(), LookupError(KEY)
    noted.add_note(LINK)
    chained.__context__ = inner
    chained.__suppress_context__ = True
    hidden: list[BaseException] = [
        httpx.ConnectError("", request=request),
        noted,
        chained,
        ValueError({"a": [{KEY.encode()}]}),
        ValueError(functools.partial(print, KEY)),
        ValueError(lambda: request),
        ValueError(RetryPolicy, KEY.lower()),
        ExceptionGroup("", [inner]),
    ]
    for error in hidden:
        assert leaks(error), repr(error)
    assert not leaks(ValueError("nothing", httpx.Request("GET", "https://api.annolab.ai")))
