"""Links that are good for a while and for whoever has them: no key is needed. Pure."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, urlencode

if TYPE_CHECKING:
    from collections.abc import Mapping


class Denied(Exception):
    """The link is of no use.

    Args:
        reason: Why.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Links:
    """Signs links and checks them.

    Args:
        seed: What the secret is made of.
    """

    def __init__(self, seed: int) -> None:
        self._secret = hashlib.sha256(f"{seed}:links".encode()).digest()

    def sign(self, path: str, expires_at: float) -> str:
        """Return a path with the query that makes it a good link.

        Args:
            path: The path, not yet quoted.
            expires_at: Until when it is good, in seconds on the emulator's clock.
        """
        expires = f"{expires_at:.3f}"
        query = {"expires": expires, "signature": self._signature(path, expires)}
        return f"{quote(path)}?{urlencode(query)}"

    def check(self, path: str, query: str, *, now: float) -> None:
        """Check that a link is good.

        Args:
            path: Its path, unquoted.
            query: Its query.
            now: Seconds on the emulator's clock.

        Raises:
            Denied: It is not signed, was changed, or has expired.
        """
        given: Mapping[str, list[str]] = parse_qs(query)
        expires = given.get("expires", [""])[0]
        signature = given.get("signature", [""])[0]
        good = self._signature(path, expires)
        if not hmac.compare_digest(signature.encode(), good.encode()):
            raise Denied("SignatureDoesNotMatch")
        if now > float(expires):  # signed, hence one of ours
            raise Denied("AccessDenied: Request has expired")

    def _signature(self, path: str, expires: str) -> str:
        # A link was written by the emulator or changed by someone: any text may come here.
        said = f"{path}\n{expires}".encode("utf-8", "surrogatepass")
        return hmac.new(self._secret, said, hashlib.sha256).hexdigest()
