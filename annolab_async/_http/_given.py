"""What the caller brings along, and what can be told of it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import httpx

from annolab_async._records import is_positive
from annolab_async.errors import ConfigurationError

if TYPE_CHECKING:
    import httpx2

    HttpClient = httpx.AsyncClient | httpx2.AsyncClient

__all__ = [
    "HttpClient",
    "build",
    "check_bounds",
    "check_client",
    "has_network",
    "is_stock",
    "pool_size",
]

_IN_PROCESS: Final = frozenset({"ASGITransport", "MockTransport"})


def check_client(client: object) -> None:
    """See to it that a client is one of httpx's or httpx2's.

    Raises:
        ConfigurationError: it is not.
    """
    for name in ("httpx", "httpx2"):
        library = sys.modules.get(name)
        if library and isinstance(client, library.AsyncClient):
            return
    raise ConfigurationError(
        f"http_client is a {type(client).__qualname__}, not an httpx.AsyncClient or httpx2.AsyncClient"
    )


def check_bounds(*, timeout: float, max_connections: int) -> None:
    """See to it that a client's bounds make sense.

    Raises:
        ConfigurationError: one does not.
    """
    if not is_positive(timeout):
        raise ConfigurationError(f"timeout is {timeout}, not a positive number of seconds")
    if type(max_connections) is not int or max_connections < 1:
        raise ConfigurationError(f"max_connections is {max_connections}, not an integer from 1 up")


def has_network(client: HttpClient, url: str) -> bool:
    """Return whether a client sends requests for a URL over a network, and not to something in this process."""
    return type(_transport(client, url)).__name__ not in _IN_PROCESS


def is_stock(client: HttpClient, url: str) -> bool:
    """Return whether a client's transport is httpx's own, which tells how far each request has come."""
    return type(_transport(client, url)).__name__ == "AsyncHTTPTransport"


def pool_size(client: HttpClient, url: str) -> int | None:
    """Return how many connections a client makes at once for a URL, None if that cannot be told.

    Requests that wait in httpx's pool time out there, and take a connection with them for good when they are cancelled
    (encode/httpcore issue 1093). Who never sends more than fit is safe from both.
    """
    pool = getattr(_transport(client, url), "_pool", None)
    size = getattr(pool, "_max_connections", None)
    return size if type(size) is int and size > 0 else None


def build(client: Any, method: str, url: str, **options: Any) -> Any:
    """Return a client's request, with what the client adds to each.

    Raises:
        LocalProtocolError: that does not fit into a header, such as a cookie that a server has set.
    """
    try:
        return client.build_request(method, url, **options)
    except UnicodeEncodeError:
        fault = "a cookie or header of the http_client holds other characters than ASCII"
    raise httpx.LocalProtocolError(fault)


def _transport(client: Any, url: str) -> object:
    # Neither library tells this in public; where they stop telling it at all, the caller's max_connections counts.
    try:
        return client._transport_for_url(client.build_request("GET", url).url)  # noqa: SLF001
    except Exception:  # noqa: BLE001  # whatever a client may do that is not as we know it
        return None
