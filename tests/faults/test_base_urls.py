"""What a base URL and a path may be: checked at construction, before the key goes anywhere."""

# ruff: noqa: RUF001  # letters that look like others are the point

from __future__ import annotations

from typing import Any

import httpx
import httpx2
import pytest

from annolab_async import AsyncInferenceClient, ConfigurationError
from annolab_async._http import check_path
from tests.faults.keyed import KEY

SECRET = "s3cr3t"


def refused(**settings: Any) -> str:
    """Return the text of a refusal, which shows no secret."""
    with pytest.raises(ConfigurationError) as raised:
        AsyncInferenceClient(KEY, **settings)
    error: BaseException | None = raised.value
    while error is not None:
        assert SECRET not in f"{error} {error!r}"
        assert "XXXX" not in f"{error} {error!r}"
        error = error.__cause__ or error.__context__
    return str(raised.value)


@pytest.mark.parametrize(
    "base_url",
    [
        f"https://user:{SECRET}@api.annolab.ai",
        f"https://{SECRET}@api.annolab.ai",
        "https://@api.annolab.ai",
        f"https://api.annolab.ai?token={SECRET}",
        f"https://api.annolab.ai/x?{SECRET}",
        "https://api.annolab.ai?",
        f"https://api.annolab.ai#{SECRET}",
        "https://api.annolab.ai/#",
        "https://api.annolab.ai:0",
        "https://api.annolab.ai:65536",
        "https://api.annolab.ai:-1",
        "https://api.annolab.ai:+80",
        "https://api.annolab.ai: 80",
        "https://api.annolab.ai:80 ",
        "https://api.annolab.ai:8_0",
        "https://api.annolab.ai:８０",
        "https://api.annolab.ai:0x50",
        "https://api.annolab.ai:80:80",
        "https://api.annolab.ai:port",
        " https://api.annolab.ai",
        "https://api.annolab.ai\n",
        "https://api.annolab.ai\r\nX: y",
        "https://api.anno lab.ai",
        "https://api.annolab.ai/a b",
        "https://api.annolab.ai/\x00",
        "https://api.annolab.ai/\x7f",
        "https://api.annolab.ai/\u00a0",
        "https:\t//api.annolab.ai",
        "https:\\\\api.annolab.ai",
        "https://api.annolab.ai\\x",
        "https://api.annolab.ai\\@evil.com",
        "https://api.annolab.ai/\\..",
        "https://",
        "https:///v1",
        "https://:443",
        "https:api.annolab.ai",
        "https:/api.annolab.ai",
        "//api.annolab.ai",
        "api.annolab.ai",
        "/v1",
        "https://%61pi.annolab.ai",
        "https://api%2eannolab.ai",
        "https://api.annolab.ai%2f",
        "https://api.annolab.ai%00.evil.com",
        "https://[::1%25lo]",
        "https://[::1",
        "https://::1",
        "https://[::g]",
        "https://äpi.annolab.ai",
        "https://api。annolab.ai",
        "https://аpi.annolab.ai",
        "https://ａpi.annolab.ai",
        "https://api..annolab.ai",
        "https://.annolab.ai",
        "https://" + 300 * "a" + ".ai",
        "ftp://api.annolab.ai",
        "ws://api.annolab.ai",
        "file:///etc/passwd",
        "javascript:alert(1)",
        b"https://api.annolab.ai",
        443,
    ],
)
def test_a_base_url_that_is_more_or_less_than_an_origin_and_a_path_is_refused(
    base_url: object,
) -> None:
    text = refused(base_url=base_url)
    assert "base_url" in text
    assert "https://api.annolab.ai" in text or "not a string" in text, "how to mend it"


def test_a_refusal_says_what_should_not_be_there() -> None:
    assert refused(base_url="https://[").endswith("perhaps a port and a path")
    assert refused(base_url="https://a b").endswith(", and no space or other odd character")
    assert refused(base_url="https://a\x00b").endswith(", and no space or other odd character")
    assert refused(base_url="https://u@a?b").endswith(", and no user name or query")
    assert "xn--" in refused(base_url="https://äpi.annolab.ai"), "how to mend it"


@pytest.mark.parametrize(
    ("base_url", "host"),
    [
        ("http://api.annolab.ai", "api.annolab.ai"),
        ("HTTP://API.ANNOLAB.AI", "api.annolab.ai"),
        ("http://api.annolab.ai:8080/v1", "api.annolab.ai"),
        ("http://10.0.0.1", "10.0.0.1"),
        ("http://192.168.1.1:8000", "192.168.1.1"),
        ("http://0.0.0.0:8000", "0.0.0.0"),  # noqa: S104  # nothing is bound to it
        ("http://128.0.0.1", "128.0.0.1"),
        ("http://localhost.evil.com", "localhost.evil.com"),
        ("http://127.0.0.1.evil.com", "127.0.0.1.evil.com"),
        ("http://notlocalhost", "notlocalhost"),
        ("http://xlocalhost:80", "xlocalhost"),
        ("http://[::]", "::"),
        ("http://[::2]", "::2"),
        ("http://[fe80::1]", "fe80::1"),
        ("http://[::ffff:1.2.3.4]", "::ffff:1.2.3.4"),
        ("http://2130706433", "2130706433"),
        ("http://0x7f000001", "0x7f000001"),
        ("http://127.1", "127.1"),
        ("http://0177.0.0.1", "0177.0.0.1"),
        ("http://127.0.0.256", "127.0.0.256"),
    ],
)
def test_plain_http_to_another_machine_is_refused_unless_it_is_allowed_by_name(
    base_url: str, host: str
) -> None:
    text = refused(base_url=base_url)
    assert "https" in text, "how to mend it"
    if "plain_http_hosts" not in text:
        return  # no good URL at all
    refused(base_url=base_url, plain_http_hosts=["other.example"])
    AsyncInferenceClient(KEY, base_url=base_url, plain_http_hosts=[host])


def test_the_most_common_of_them_can_be_allowed() -> None:
    for host in ["10.0.0.1", "api.annolab.ai", "gateway.internal"]:
        assert f"plain_http_hosts=['{host}']" in refused(base_url=f"http://{host}")
    refused(base_url="http://10.0.0.11", plain_http_hosts=["10.0.0.1"])
    refused(base_url="http://x.gateway.internal", plain_http_hosts=["gateway.internal"])


@pytest.mark.parametrize("base_url", ["http://10.0.0.1", "http://localhost", "https://10.0.0.1"])
def test_a_single_string_is_no_collection_of_hosts(base_url: str) -> None:
    # As a collection it names each of its characters.
    text = refused(base_url=base_url, plain_http_hosts="10.0.0.1")
    assert text == "plain_http_hosts is a string, not a collection of host names"


@pytest.mark.parametrize(
    "base_url",
    [
        "http://localhost",
        "http://LOCALHOST:8000",
        "http://annolab.localhost:8000/api",
        "http://127.0.0.1:1",
        "http://127.8.9.10:65535",
        "http://[::1]:8000",
        "http://[0:0:0:0:0:0:0:1]:8000",
    ],
)
def test_plain_http_to_this_machine_is_taken(base_url: str) -> None:
    AsyncInferenceClient(KEY, base_url=base_url)


@pytest.mark.anyio
async def test_plain_http_is_taken_with_a_client_that_has_no_network() -> None:
    def nothing(_: object) -> Any:
        raise AssertionError("nobody asks")

    for library in (httpx, httpx2):
        for transport in (library.MockTransport(nothing), library.ASGITransport(nothing)):
            async with library.AsyncClient(transport=transport) as client:
                AsyncInferenceClient(KEY, base_url="http://annolab.example", http_client=client)
        async with library.AsyncClient() as client:
            assert "https" in refused(base_url="http://annolab.example", http_client=client)
        # What is mounted may have a network although the rest has none.
        mounts = {"all://annolab.example": library.AsyncHTTPTransport()}
        silent = library.MockTransport(nothing)
        async with library.AsyncClient(transport=silent, mounts=mounts) as client:
            assert "https" in refused(base_url="http://annolab.example", http_client=client)


@pytest.mark.parametrize(
    "inference_path",
    [
        "",
        "/",
        "//evil.com/v1",
        "//evil.com",
        "https://evil.com/v1",
        "http://127.0.0.1/v1",
        "/v1//batch",
        "/v1/../admin",
        "/v1/./batch",
        "..",
        "/v1/batch?key=1",
        "/v1/batch?",
        "/v1/batch#x",
        "/v1/batch;x",
        "/v1/ba tch",
        " /v1/batch",
        "/v1/batch\n",
        "/v1/batch\r\nX: y",
        "/v1/batch\x00",
        "/v1/bätch",
        "\\v1\\batch",
        "/v1\\..\\batch",
        "/@evil.com",
        "@evil.com/v1",
        ":8000/v1",
        "/v1/%2e%2e/admin",
        "/v1/%2E%2e",
        "/v1/batch%00",
        "/v1/%",
        "/v1/%zz",
        f"/v1/{SECRET}?{KEY}",
        b"/v1/infer/batch",
        None,
        7,
    ],
)
def test_a_path_that_does_not_mean_itself_is_refused(inference_path: object) -> None:
    assert "/v1/infer/batch" in refused(inference_path=inference_path), "how to mend it"


@pytest.mark.parametrize(
    "inference_path", ["/v1/infer/batch", "v1/infer/batch/", "/v1/model/infer/batch", "/a%20b/c.d"]
)
def test_a_plain_path_is_taken(inference_path: str) -> None:
    AsyncInferenceClient(KEY, inference_path=inference_path)
    assert check_path(inference_path) == "/" + inference_path.strip("/")


def test_a_host_of_other_letters_is_taken_as_it_goes_out() -> None:
    client = AsyncInferenceClient(KEY, base_url="https://xn--bcher-kva.example/v1")
    assert repr(client) == "AsyncInferenceClient(base_url='https://xn--bcher-kva.example/v1')"
    text = refused(base_url="http://xn--bcher-kva.example")
    assert "plain_http_hosts=['xn--bcher-kva.example']" in text
    AsyncInferenceClient(
        KEY,
        base_url="http://xn--bcher-kva.example",
        plain_http_hosts=["xn--bcher-kva.example"],
    )
    AsyncInferenceClient(KEY, base_url="https://xn--0.example")  # of no letters at all
