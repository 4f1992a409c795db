"""The choice of what to send with, and what it needs."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import httpx

from annolab_async.errors import ConfigurationError

if TYPE_CHECKING:
    import ssl

__all__ = ["TransportName", "check_transport", "has_aiohttp", "own_client"]

TransportName = Literal["auto", "httpx", "aiohttp"]


def own_client(context: ssl.SSLContext, limits: httpx.Limits) -> httpx.AsyncClient:
    """Return a client of our own.

    Raises:
        ConfigurationError: the environment names a proxy that cannot be used.
    """
    try:
        return httpx.AsyncClient(verify=context, limits=limits)
    except (ImportError, ValueError, httpx.InvalidURL) as fault:
        # It reads the environment: a SOCKS proxy needs a package more, another one may be spelled wrongly.
        raise ConfigurationError(
            f"The proxy that the environment names cannot be used: {fault} (Mend or unset HTTP_PROXY, HTTPS_PROXY and "
            "ALL_PROXY, or bring an http_client of your own.)"
        ) from None


def check_transport(transport: TransportName, *, has_client: bool) -> None:
    """See to it that polls can go over a transport.

    Raises:
        ConfigurationError: there is no such transport, it is not installed, or the caller brought a client.
    """
    if transport not in {"auto", "httpx", "aiohttp"}:
        raise ConfigurationError(f"transport is {transport!r}, not 'auto', 'httpx' or 'aiohttp'")
    if transport == "aiohttp":
        if has_client:
            raise ConfigurationError("transport='aiohttp' does not go with an http_client of yours")
        if not has_aiohttp():
            raise ConfigurationError(
                "transport='aiohttp' needs aiohttp: pip install 'annolab-async[aiohttp]'"
            )


def has_aiohttp() -> bool:
    """Return whether aiohttp is installed."""
    return find_spec("aiohttp") is not None
