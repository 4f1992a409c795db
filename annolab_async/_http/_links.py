"""Links that are their own key: where they may lead. Pure.

A signed link is shown to nobody but the server that it names, and nothing of it but that server's name is ever shown.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import httpx
from attrs import field, frozen

from annolab_async._http._origins import host_of, is_here
from annolab_async._ranges import Remedy, Setback

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["SignedLink", "signed_link"]

# Links with a session's token in them have 2000 characters and more.
_LONGEST: Final = 16384
_ONLY_PRINTABLE: Final = re.compile(r"[!-~]+")


@frozen
class SignedLink:
    """A link that may be asked.

    Attributes:
        url: all of it.
        shown: the server that it names; that can be shown.
        plain_http_hosts: hosts that may be asked unencrypted, besides this machine itself.
    """

    url: httpx.URL = field(repr=False)
    shown: str
    plain_http_hosts: frozenset[str]

    def redirected(self, location: str) -> SignedLink:
        """Return the link to which a redirect leads. From ``https`` it leads to ``https`` only.

        Raises:
            Setback: it leads nowhere, or where it must not.
        """
        link = _link(location, self.plain_http_hosts, base=self.url)
        if self.url.scheme == "https" != link.url.scheme:
            raise Setback(f"{self.shown} redirects to {link.shown}, unencrypted", Remedy.NONE)
        return link


def signed_link(text: str, plain_http_hosts: Collection[str] = ()) -> SignedLink:
    """Return a link that may be asked.

    Args:
        text: as the service gave it: absolute, and ``https``.
        plain_http_hosts: hosts that may be asked unencrypted, over ``http``, besides this machine itself.

    Raises:
        Setback: it is something else.
    """
    return _link(text, frozenset(host.lower() for host in plain_http_hosts))


def _link(text: str, hosts: frozenset[str], base: httpx.URL | None = None) -> SignedLink:
    try:
        is_plain = len(text) <= _LONGEST and _ONLY_PRINTABLE.fullmatch(text) is not None
        url = httpx.URL(text) if is_plain else httpx.URL()
        url = url if base is None or not is_plain else base.join(url)
    except (httpx.InvalidURL, TypeError):
        url = httpx.URL()  # its error would show what stands there
    host = host_of(url)
    if url.scheme not in {"http", "https"} or not host or url.userinfo:
        what = "the link to it" if base is None else "the redirect"
        raise Setback(f"{what} is no https:// URL without a user name", Remedy.NONE)
    shown = f"{url.scheme}://{url.netloc.decode('ascii')}"
    if url.scheme == "http" and not is_here(host) and host.lower() not in hosts:
        raise Setback(
            f"the link leads to {shown}, unencrypted",
            Remedy.NONE,
            hint="Everybody on the way could read and change what comes. If that is as it should be, allow this host "
            f"by name with plain_http_hosts=[{host!r}].",
        )
    return SignedLink(url.copy_with(fragment=None), shown, hosts)
