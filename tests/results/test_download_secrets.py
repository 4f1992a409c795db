"""A download asks whom its link names, in nobody's name, and shows the link to nobody else."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest

from annolab_async import ExportError
from annolab_async._http import signed_link
from annolab_async._ranges import Setback
from tests.faults.chaos import answer, cut, reply, stall
from tests.faults.leaks import SECRET, leaks, leaks_of_logs
from tests.results.downloads import (
    FILE,
    Links,
    accept,
    asked_range,
    check,
    cut_after,
    get,
    good,
    header,
    put,
    refuse,
    refused,
    reply_to,
    serve,
    there,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.results.downloads import Choice

pytestmark = [pytest.mark.anyio, pytest.mark.sockets]

KEY: Final = "XXXXXXX-XXXXXXX-XXXXXXX-XXXXXXX"


def redirect(location: str, status: str = "302 Found") -> Choice:
    return lambda _: answer(reply(status=status, Location=location))


def a_callers_client() -> httpx.AsyncClient:
    return httpx.AsyncClient(
        headers={"Authorization": f"Api-Key {KEY}", "X-Own": KEY},
        cookies={"session": KEY},
        params={"key": KEY},
        auth=("user", KEY),
        follow_redirects=True,
    )


@pytest.mark.parametrize("factory", [None, a_callers_client])
async def test_no_request_carries_a_key_a_cookie_or_a_header_of_the_callers(
    path: Path, monkeypatch: pytest.MonkeyPatch, factory: Any
) -> None:
    monkeypatch.setenv("ANNOLAB_API_KEY", KEY)
    netrc = path.with_name("netrc")
    put(netrc, f"machine 127.0.0.1 login user password {KEY}\n".encode())
    monkeypatch.setenv("NETRC", str(netrc))
    cookie: dict[str, Any] = {"Set_Cookie": f"seen={KEY}"}
    with serve(good()) as elsewhere:
        there_now = redirect(f"{elsewhere.base_url}/moved?signature=1")
        with serve(
            cut_after(5000, **cookie), refuse("403 No", **cookie), refuse("503 Busy"), there_now
        ) as server:
            await get(Links(server, query="signature=1"), path, http_client_factory=factory)
    assert there(path) == FILE
    requests = [*server.requests, *elsewhere.requests]
    assert len(requests) == 5
    for request in requests:
        assert not SECRET.search(request.head.decode()), request.head
        names = {line.split(b":")[0].lower() for line in request.head.split(b"\r\n")[1:]}
        assert names <= {
            *(b"host", b"accept", b"accept-encoding", b"user-agent", b"range", b"if-range"),
            b"connection",
        }


async def test_a_link_to_this_machine_is_shown_to_no_proxy(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(refuse("502 Bad")) as proxy, serve(good()) as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.base_url)
        await get(Links(server), path, http_client_factory=None)
    assert there(path) == FILE
    assert not proxy.requests


async def test_a_redirect_to_another_host_is_followed_with_what_was_asked(path: Path) -> None:
    with serve(good()) as other:
        # By another name, which is another origin.
        away = redirect(f"http://localhost:{other.port}/elsewhere?signature=2#top")
        with serve(cut_after(5000), away) as server:
            await get(server, path)
    assert there(path) == FILE
    (request,) = other.requests
    assert request.line == "GET /elsewhere?signature=2 HTTP/1.1"
    assert asked_range(request) == 4999
    assert header(request, "host") == f"localhost:{other.port}"


async def test_a_relative_redirect_is_followed(path: Path) -> None:
    with serve(redirect("/b/c?d=1"), redirect("e"), good()) as server:
        await get(server, path)
    lines = [request.line.split()[1] for request in server.requests]
    assert lines == ["/export.zip?signature=canary", "/b/c?d=1", "/b/e"]


async def test_five_redirects_are_followed_and_no_more(path: Path) -> None:
    with serve(*[redirect("/on")] * 5, good()) as server:
        await get(server, path)
    assert there(path) == FILE
    with serve(redirect("/on")) as server:
        error = await refused(server, path)
    assert "for ever" in str(error)
    assert server.heads == 6 * 3


async def test_a_redirect_to_what_is_no_url_is_not_asked_for_again_or_shown(path: Path) -> None:
    with serve(redirect("https://canary:port/")) as server:
        error = await refused(server, path)
    assert "redirects to what is no URL" in str(error)
    assert "canary" not in str(error)
    assert server.heads == 1


async def test_a_link_is_sent_as_it_was_given(path: Path) -> None:
    query = "X-Credential=a%2Fb%2fc&s=d%2Be+f/g~h'i(j)*!&empty=&n=%7E"
    with serve(good()) as server:
        await get(Links(server, query=query), path)
    assert server.requests[0].line == f"GET /export.zip?{query} HTTP/1.1"


@pytest.mark.parametrize(
    "link",
    [
        "http://storage.example/canary",
        "http://xn--0.example/canary",
        "ftp://storage.example/canary",
        "file:///canary",
        "//storage.example/canary",
        "/canary",
        "canary",
        "",
        "https://",
        "https:///canary",
        "https://user:canary@storage.example/",
        "https://storage.example:port/canary",
        "https://storage.example/canary\r\nX: y",
        "https://storage.example/\u212aanary-canary",
        "https://storage.example/" + "canary" * 10_000,
        "http://localhost.storage.example/canary",
        "http://127.0.0.1@storage.example/canary",
        None,
    ],
)
async def test_a_link_to_where_nothing_is_asked_is_refused_unseen(
    path: Path, monkeypatch: pytest.MonkeyPatch, link: Any
) -> None:
    def looked_up(*_: object, **__: object) -> None:
        pytest.fail("it was asked")

    monkeypatch.setattr(socket.socket, "connect", looked_up)
    monkeypatch.setattr(socket, "getaddrinfo", looked_up)

    async def links(*, is_refused: bool) -> Any:  # noqa: ARG001  # it is always this one
        return link

    error = await refused(links, path)
    assert not leaks(error)
    assert not path.parent.joinpath("export.zip.part").exists()


def test_a_link_may_be_as_long_as_one_with_a_token_in_it() -> None:
    longest = "https://files.example/".ljust(16384, "x")
    assert str(signed_link(longest).url) == longest
    with pytest.raises(Setback, match="no https"):
        signed_link(f"{longest}x")


def test_a_host_may_be_asked_unencrypted_if_it_is_named() -> None:
    assert signed_link("http://Storage.example/a?b", ["storage.EXAMPLE"]).shown.endswith(".example")
    with pytest.raises(Setback, match="unencrypted") as caught:
        signed_link("http://storage.example/a?b", ["example"])
    assert "plain_http_hosts=['storage.example']" in caught.value.hint


def test_a_redirect_leads_unencrypted_to_hosts_that_are_named_and_no_others() -> None:
    link = signed_link("http://one.example/a", ["ONE.example", "two.example"])
    there = link.redirected("http://TWO.example/b").redirected("c").redirected("//one.example/d")
    assert there.url == "http://one.example/d"
    encrypted = there.redirected("http://localhost/e").redirected("https://other.example/f")
    assert encrypted.url == "https://other.example/f"
    for unnamed in (link, there):
        with pytest.raises(Setback, match="unencrypted") as caught:
            unnamed.redirected("http://example/g")
        assert "plain_http_hosts=['example']" in caught.value.hint


@pytest.mark.parametrize(
    "location", ["http://localhost/a", "http://storage.example/a", "ftp://a/b"]
)
def test_what_is_encrypted_stays_so_when_it_is_redirected(location: str) -> None:
    link = signed_link("https://storage.example/a", ["storage.example"])
    with pytest.raises(Setback):
        link.redirected(location)
    assert link.redirected("//other.example/b").url == "https://other.example/b"
    assert "/a" not in repr(link)


def choices() -> dict[str, Choice]:
    return {
        "403": refuse("403 No"),
        "404": refuse("404 No"),
        "405": refuse("405 No"),
        "503": refuse("503 No"),
        "cut": cut_after(100, validator=None),
        "dead": lambda _: cut(),
        "silent": lambda _: stall(),
        "hung": lambda request: stall(reply_to(request, validator=None)[:9000]),
        "noise": lambda _: cut(b"HTTP/1.1 what OK\r\n\r\n"),
        "redirect": redirect("http://h.example/?signature=canary"),
        "redirected": redirect("/on?signature=canary"),
        "to nowhere": redirect("https://user:password@h/?canary"),
        "to no port": redirect("https://h:port/?canary"),
        "coded": good(Content_Encoding="gzip", Location="/?canary"),
        "truncated": lambda _: cut(b"HTTP/1.1 200 OK\r\n\r\n" + FILE[:-1]),
    }


@pytest.mark.parametrize("name", choices())
async def test_nothing_of_a_signature_shows_when_a_download_fails(
    path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    caplog.set_level(logging.DEBUG)
    with serve(choices()[name]) as server:
        error = await refused(server, path, timeout=0.3, check=check)
    assert not leaks(error)
    assert not leaks_of_logs(caplog.records)
    assert "export.zip?" not in str(error)


async def test_nothing_of_a_signature_is_logged_or_written_down_when_all_goes_well(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with serve(redirect("/on?signature=canary"), cut_after(9000), good()) as server:
        with pytest.raises(ExportError):
            await get(server, path, max_bytes=len(FILE) - 1)
        await get(server, path, check=accept)
    assert caplog.records
    assert not leaks_of_logs(caplog.records)
