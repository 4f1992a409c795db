"""What a failure of httpx, httpx2 or aiohttp proves about a request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from annolab_async.errors import NoResponse, RequestNotSent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from annolab_async._secret import Hiding
    from annolab_async.errors import AnnoLabError

__all__ = ["Progress", "error_of", "is_of_the_wire", "may_be_stale", "scrubbed"]

# By name, so that not all of the libraries need to be there. These are raised before the first byte of a request is
# written: all but the last by httpx and httpx2, the last by aiohttp.
_BEFORE_SENDING: Final = frozenset({
    "ConnectError",
    "ConnectTimeout",
    "LocalProtocolError",
    "PoolTimeout",
    "ProxyError",
    "UnsupportedProtocol",
    "ClientConnectorError",
})
# Raised when a header cannot be put into HTTP, before it is written; over HTTP/2 also for what comes back.
_IN_WRITING: Final = "LocalProtocolError"
# The bases of everything that these libraries raise about a request.
_OF_THE_WIRE: Final = frozenset({"RequestError", "InvalidURL", "ClientError", "OSError"})
_OF_A_STALE_CONNECTION: Final = frozenset({
    "ReadError",
    "WriteError",
    "RemoteProtocolError",
    "ServerDisconnectedError",
    "ClientOSError",
})
_REDIRECTS: Final = range(300, 400)
# What no repetition mends.
_FINAL: Final = frozenset({
    "SSLCertVerificationError",
    "ClientConnectorCertificateError",
    "InvalidURL",
    "UnsupportedProtocol",
    "LocalProtocolError",
    "ImportError",
})


class Progress:
    """How far a request has come, as the transport tells it while it goes.

    This outranks the name of what was raised: a transport that sends twice raises what its second try met, and a
    bad answer can raise what usually stands for a bad request.

    Attributes:
        answer: the status and headers of the answer, once they have come.

    Args:
        is_traced: whether the transport surely tells. One of the caller's is believed to when it has told anything.
    """

    def __init__(self, *, is_traced: bool = False) -> None:
        self._has_told = is_traced
        self._is_under_way = False
        self._has_begun = False
        self._is_written = False
        self._is_tunnelling = False
        self.answer: tuple[int, list[tuple[bytes, bytes]]] | None = None

    def begin(self) -> None:
        """Take note that the request is handed to the transport."""
        self._is_under_way = True

    @property
    def may_have_arrived(self) -> bool:
        """Whether the server may have seen the request, whatever may have become of it since."""
        return self._has_begun or (self._is_under_way and not self._has_told)

    def redirect(self, fault: BaseException) -> tuple[int, list[tuple[bytes, bytes]]] | None:
        """Return the status and headers of a redirect that a client could make no request of, else None.

        httpx makes one even if it is not to follow it, and fails if the redirect leads to no URL, or sets a cookie that
        does not fit into a header.

        Args:
            fault: what the client raised instead.
        """
        is_redirect = self.answer is not None and self.answer[0] in _REDIRECTS
        is_its = not _names(fault).isdisjoint({"InvalidURL", "RemoteProtocolError", "ValueError"})
        return self.answer if is_redirect and is_its else None

    async def trace(self, event: str, info: dict[str, Any]) -> None:
        """Take note of an event of httpcore's trace extension."""
        self._has_told = True
        step = event.partition(".")[2]
        if step == "send_request_headers.started":
            # A proxy is asked for a tunnel with the same extensions: that is not the request yet.
            self._is_tunnelling = getattr(info.get("request"), "method", None) == b"CONNECT"
            self._has_begun = self._has_begun or not self._is_tunnelling
        elif step == "receive_response_headers.complete" and not self._is_tunnelling:
            # Over HTTP/1.1 version, status, reason and headers; over HTTP/2 status and headers.
            head: tuple[Any, ...] = info.get("return_value", ())
            is_http2 = len(head) == 2  # noqa: PLR2004
            self.answer = (head[0], head[1]) if is_http2 else (head[1], head[3])
        elif self._has_begun and not self._is_tunnelling:
            self._is_written = self._is_written or step != "send_request_headers.failed"

    def proves_unsent(self, fault: BaseException) -> bool:
        """Return whether the server cannot have seen the whole request, given what was raised."""
        names = _names(fault)
        if self._has_begun:
            return _IN_WRITING in names and not self._is_written
        # A transport that tells nothing is believed only what it raises.
        return self._has_told or not names.isdisjoint(_BEFORE_SENDING)


def error_of(
    fault: Exception, *, method: str, path: str, progress: Progress | None = None
) -> AnnoLabError:
    """Return what a failed request proves.

    Args:
        fault: what was raised.
        method: the request's method.
        path: the request's path.
        progress: how far it had come, if that was traced.
    """
    if (progress or Progress()).proves_unsent(fault):
        is_final = any(not _names(link).isdisjoint(_FINAL) for link in _chain(fault))
        return RequestNotSent(method=method, path=path, cause=fault, is_final=is_final)
    return NoResponse(method=method, path=path, cause=fault)


def scrubbed(fault: Exception, key: Hiding) -> Exception:
    """Return a failure that can be shown: without the request that it holds, and the frames that held it.

    Tools that print the local variables of a traceback would show the key in those of the HTTP libraries.

    Args:
        fault: what was raised. It is changed in place, if it can be, with all that led to it.
        key: hides what was sent with the request.
    """
    for link in _chain(fault):
        link.__traceback__ = None
        for name in ("_request", "response"):  # of httpx and httpx2
            if name in link.__dict__:
                setattr(link, name, None)
        link.args = tuple(_plain(arg, key) for arg in link.args)
        if not isinstance(
            getattr(link, "message", None), str | None
        ):  # of aiohttp: half an answer, say
            setattr(link, "message", "")  # noqa: B010  # not all exceptions have one
    if hasattr(
        fault, "request_info"
    ):  # of aiohttp, too: it holds the headers, and cannot be without
        return ConnectionError(f"{type(fault).__name__}: {key.hide(str(fault))}")
    return fault


def _plain(value: object, key: Hiding) -> object:
    if isinstance(value, str):
        return key.hide(value)
    return value if isinstance(value, int | OSError | None) else type(value).__name__


def _chain(fault: BaseException | None) -> Iterator[BaseException]:
    """Yield a failure and all that led to it."""
    seen: set[int] = set()
    links = [fault]
    while links:
        link = links.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            yield link
            links += [link.__cause__, link.__context__]
            links += getattr(link, "exceptions", ())


def is_of_the_wire(fault: Exception) -> bool:
    """Return whether a failure is about a request, and not somebody's mistake in a program."""
    return not _names(fault).isdisjoint(_OF_THE_WIRE)


def may_be_stale(fault: Exception) -> bool:
    """Return whether a kept connection may have failed so because the server had closed it before."""
    return not _names(fault).isdisjoint(_OF_A_STALE_CONNECTION)


def _names(fault: BaseException) -> set[str]:
    return {cls.__name__ for cls in type(fault).__mro__}
