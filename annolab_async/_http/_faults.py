"""What a failure of httpx, httpx2 or aiohttp proves about a request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from annolab_async.errors import NoResponse, RequestNotSent

if TYPE_CHECKING:
    from annolab_async.errors import AnnoLabError

__all__ = ["Progress", "error_of", "may_be_stale"]

# By name, so that not all of the libraries need to be there. These stand for phases before the first byte of the
# request is written: the first seven are httpx's and httpx2's, the last aiohttp's.
_NOT_SENT: Final = frozenset({
    "ConnectError",
    "ConnectTimeout",
    "InvalidURL",
    "LocalProtocolError",
    "PoolTimeout",
    "ProxyError",
    "UnsupportedProtocol",
    "ClientConnectorError",
})
# The bases of everything that these libraries raise about a request.
_OF_THE_WIRE: Final = frozenset({"RequestError", "InvalidURL", "ClientError", "OSError"})
_OF_A_STALE_CONNECTION: Final = frozenset({"ReadError", "WriteError", "RemoteProtocolError"})


class Progress:
    """How far a request has come, as the transport tells it while it goes: what a deadline that passes proves."""

    def __init__(self) -> None:
        self._is_connecting = False
        self._has_begun = False

    async def trace(self, event: str, _: object) -> None:
        """Take note of an event of httpcore's trace extension."""
        self._is_connecting = self._is_connecting or event.startswith("connection.")
        self._has_begun = self._has_begun or event.endswith(".send_request_headers.started")

    @property
    def may_have_begun(self) -> bool:
        """Whether the server may have seen any of it; a transport that tells nothing proves nothing."""
        return self._has_begun or not self._is_connecting


def error_of(
    fault: Exception, *, method: str, path: str, progress: Progress | None = None
) -> AnnoLabError | None:
    """Return what a failed request proves, None if the failure is not one of the wire.

    Args:
        fault: what was raised.
        method: the request's method.
        path: the request's path.
        progress: how far it had come, if that was traced.
    """
    names = _names(fault)
    if names.isdisjoint(_OF_THE_WIRE):
        return None
    may_have_begun = progress is None or progress.may_have_begun
    was_sent = may_have_begun and names.isdisjoint(_NOT_SENT)
    kind = NoResponse if was_sent else RequestNotSent
    return kind(method=method, path=path, cause=fault)


def may_be_stale(fault: Exception) -> bool:
    """Return whether a kept connection may have failed so because the server had closed it before."""
    return not _names(fault).isdisjoint(_OF_A_STALE_CONNECTION)


def _names(fault: Exception) -> set[str]:
    return {cls.__name__ for cls in type(fault).__mro__}
