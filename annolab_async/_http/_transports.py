"""The choice of what to send with, and what it needs."""

from __future__ import annotations

import urllib.request
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, Literal

import httpx

from annolab_async._http._origins import host_of, is_here
from annolab_async.errors import ConfigurationError

if TYPE_CHECKING:
    import ssl

__all__ = ["TransportName", "check_transport", "is_behind_proxy", "own_client", "suits_aiohttp"]

TransportName = Literal["auto", "httpx", "aiohttp"]

# To a proxy these names mean itself, and on the way to it everybody could read what may only stay on this machine.
_HERE: Final = ("localhost", "*.localhost", "127.0.0.1", "[::1]")
_DIRECT: Final = dict.fromkeys(f"all://{host}" for host in _HERE)


def is_behind_proxy(url: str) -> bool:
    """Return whether the environment names a proxy that requests for a URL may go through."""
    names = urllib.request.getproxies().keys()
    return not names.isdisjoint({"http", "https", "all"}) and not is_here(host_of(httpx.URL(url)))


def own_client(
    context: ssl.SSLContext, limits: httpx.Limits, url: str | None = None
) -> httpx.AsyncClient:
    """Return a client of our own, which takes the proxies that the environment names; never to this machine.

    Args:
        context: what it does TLS with.
        limits: of its pool.
        url: what it is for; None if that is not known yet.

    Raises:
        ConfigurationError: the environment names a proxy that cannot be used.
    """
    try:
        takes_proxy = url is None or is_behind_proxy(url)
        # It keeps no cookies: nobody needs them, and one that does not fit into a header would spoil all that follows.
        no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
        return httpx.AsyncClient(
            verify=context,
            limits=limits,
            mounts=_DIRECT,
            trust_env=takes_proxy,
            cookies=no_cookies,
        )
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


def suits_aiohttp(url: str) -> bool:
    """Return whether aiohttp is installed and can ask for a URL: it knows few kinds of proxies."""
    return has_aiohttp() and not is_behind_proxy(url)


def has_aiohttp() -> bool:
    """Return whether aiohttp is installed."""
    return find_spec("aiohttp") is not None
