"""The only package that knows httpx, httpx2 and aiohttp: it sends requests and tells what a failure proves.

Submissions and reads take different ways. A submission is correctness first: httpx's own transport, a fresh
connection, traced, sent once (``_session``). A read is speed first, since nearly all requests are polls: a
connection that is picked from a stack, and on it a request that was built once (``_lines``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from annolab_async._http._apart import apart
from annolab_async._http._faults import Progress
from annolab_async._http._fetch import Fetcher
from annolab_async._http._given import check_bounds, has_network
from annolab_async._http._links import SignedLink, signed_link
from annolab_async._http._origins import check_base_url, check_path, path_within
from annolab_async._http._session import HttpSession
from annolab_async._http._transports import TransportName

if TYPE_CHECKING:
    from annolab_async._http._given import HttpClient as HttpClient

__all__ = [
    "Fetcher",
    "HttpSession",
    "Progress",
    "SignedLink",
    "TransportName",
    "apart",
    "check_base_url",
    "check_bounds",
    "check_path",
    "has_network",
    "path_within",
    "signed_link",
]
