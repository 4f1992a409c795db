"""Where requests may go. Pure: what decides to whom an API key is shown."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin

import httpx

from annolab_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["check_base_url", "check_path", "host_of", "is_here", "path_within"]

_LAST_PORT: Final = 65535
_LONGEST_LOCATION: Final = 8192
_NOT_IN_A_BASE_URL: Final = {"user name": "@", "query": "?", "fragment": "#", "backslash": "\\"}
_ONLY_PRINTABLE: Final = re.compile(r"[!-~]+")
# Segments that mean themselves: no query, no fragment, nothing that leads upwards, and no such thing in disguise.
_PATH: Final = re.compile(
    r"(/(?!\.{1,2}(/|$))([A-Z0-9._~-]|%(?!2[EF]|5C|[01])[0-9A-F]{2})+)+", re.IGNORECASE
)
_HOST: Final = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_ABSOLUTE: Final = re.compile(
    r"(?P<scheme>https?:)?//(?P<host>[a-z0-9.-]+|\[[0-9a-f:.]+\])(?P<port>:[0-9]{1,5})?(?P<rest>[/?#].*)?",
    re.IGNORECASE,
)
_USUAL_PORTS: Final = {"http": 80, "https": 443}


def check_base_url(
    base_url: str, *, plain_http_hosts: Collection[str] = (), has_network: bool = True
) -> str:
    """Return a base URL without its trailing slash.

    Args:
        base_url: ``http(s)://host[:port][/path]``.
        plain_http_hosts: hosts to which the key may be sent unencrypted, besides this machine itself.
        has_network: whether requests go over a network at all.

    Raises:
        ConfigurationError: it is something else, or would send the key unencrypted.
    """
    if not isinstance(base_url, str):
        raise ConfigurationError(f"base_url is a {type(base_url).__name__}, not a string")
    if isinstance(plain_http_hosts, str):
        raise ConfigurationError("plain_http_hosts is a string, not a collection of host names")
    fault = "" if _ONLY_PRINTABLE.fullmatch(base_url) else "space or other odd character"
    if not base_url.isascii():
        fault += " (hosts with other letters have a name that begins with xn--, too)"
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        url = httpx.URL()
    wrong = [part for part, mark in _NOT_IN_A_BASE_URL.items() if mark in base_url]
    fault = fault or " or ".join(wrong)
    # To Python, "+80" and "8_0" are numbers, too.
    port = re.search(r":([^/:\]]*)(/|$)", base_url.partition("://")[2])
    is_port = port is None or (port[1].isdecimal() and 0 < int(port[1]) <= _LAST_PORT)
    host = host_of(url)
    if url.scheme not in _USUAL_PORTS or not _is_host(host) or not is_port or fault:
        # The URL itself is not shown: a userinfo or query may hold a password.
        raise ConfigurationError(
            "base_url must look like https://api.annolab.ai: http or https, a host, perhaps a port and a path"
            + (f", and no {fault}" if fault else "")
        )
    is_exposed = url.scheme == "http" and has_network and not is_here(host)
    if is_exposed and host.lower() not in {name.lower() for name in plain_http_hosts}:
        raise ConfigurationError(
            f"base_url would send the API key unencrypted to {host}: use https://, or allow this host by name "
            f"with plain_http_hosts=[{host!r}]"
        )
    return str(url).rstrip("/")


def _is_host(host: str) -> bool:
    is_ipv6 = ":" in host and "%" not in host  # httpx has checked it, but lets zones pass
    return is_ipv6 or _HOST.fullmatch(host) is not None


def host_of(url: httpx.URL) -> str:
    """Return a URL's host as it goes out. httpx decodes what begins with xn--, and raises if that is nothing."""
    return url.raw_host.decode("ascii")


def is_here(host: str) -> bool:
    """Return whether a host is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def check_path(path: object) -> str:
    """Return the path of an endpoint, with a slash before it and none behind.

    Raises:
        ConfigurationError: it is not ``/some/path``.
    """
    if isinstance(path, str):
        whole = "/" + path.removeprefix("/").removesuffix("/")
        if _PATH.fullmatch(whole):
            return whole
    raise ConfigurationError("inference_path must look like /v1/infer/batch")


def path_within(origin: str, base_path: str, location: str) -> str | None:
    """Return the path and query to which a URL of the server's leads, None if that is not surely at its own origin.

    What browsers and libraries would mend, each in its own way (backslashes, missing slashes, user names, escaped or
    Unicode hosts), is not mended here: it leads nowhere.

    Args:
        origin: scheme, host and perhaps port, in lower case and without a port that goes without saying.
        base_path: the path of what answered, from which a relative one leads on.
        location: the URL, absolute or not.
    """
    if len(location) > _LONGEST_LOCATION or not _ONLY_PRINTABLE.fullmatch(location):
        return None
    if "\\" in location:
        return None
    if absolute := _ABSOLUTE.fullmatch(location):
        if _origin(absolute, origin.partition("://")[0]) != origin:
            return None
        path = absolute["rest"] or "/"
        path = path if path.startswith("/") else "/" + path
    elif location.startswith("//") or _SCHEME.match(location):
        return None
    else:
        path = urljoin(base_path, location)
    path = path.partition("#")[0]
    return path if path.startswith("/") and not path.startswith("//") else None


def _origin(absolute: re.Match[str], scheme: str) -> str:
    scheme = (absolute["scheme"] or scheme).rstrip(":").lower()
    port = int(absolute["port"][1:]) if absolute["port"] else _USUAL_PORTS[scheme]
    origin = f"{scheme}://{absolute['host'].lower()}"
    return origin if port == _USUAL_PORTS[scheme] else f"{origin}:{port}"
