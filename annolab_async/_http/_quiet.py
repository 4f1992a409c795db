"""Keeps secrets out of what the HTTP libraries log about our requests."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from annolab_async._secret import Hiding

__all__ = ["CURRENT_KEY", "quieten"]

# The key, or whatever else is secret, of the request that is under way in this context, if it is one of ours.
CURRENT_KEY: Final[ContextVar[Hiding | None]] = ContextVar("annolab_async_key", default=None)

# A filter concerns what is logged under its logger's very name.
_LOGGERS: Final = [name + suffix for suffix in ("", "2") for name in ("httpx",)] + [
    f"httpcore{suffix}.{part}"
    for suffix in ("", "2")
    for part in ("connection", "http11", "http2", "proxy", "socks")
]
# Of HTTP/2: at DEBUG they log packed headers, in which no key can be found, and yet anybody can unpack it.
_PACKERS: Final = ["hpack.hpack", "hpack.table"]


class _WithoutSecrets(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        # At DEBUG they log the headers of each answer: a redirect may be signed, and a server may repeat the key.
        if key := CURRENT_KEY.get():
            if record.name in _PACKERS:
                return False
            record.msg, record.args = key.hide(record.getMessage()), ()
        return True


_FILTER: Final = _WithoutSecrets()


def quieten() -> None:
    """See to it that no log line about a request of ours shows a key or the query of a link; any number of times."""
    for name in _LOGGERS + _PACKERS:
        logging.getLogger(name).addFilter(_FILTER)
