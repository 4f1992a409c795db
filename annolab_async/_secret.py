"""The API key, and how text from elsewhere is made fit to be shown."""

from __future__ import annotations

import re
from typing import Final, Protocol

__all__ = ["LINKS", "ApiKey", "Hiding", "key_fault"]

_EXCERPT_LENGTH: Final = 200
# Signed links carry their secret in the query.
_QUERY: Final = re.compile(r"\?[^\s\"]+")


def key_fault(text: object) -> str | None:
    """Return what is wrong with the text of an API key, without showing it; None if nothing is."""
    if not isinstance(text, str):
        return f"api_key is a {type(text).__name__}, not a string"
    if not text:
        return "There is no API key: pass api_key=... or set ANNOLAB_API_KEY."
    if not (text.isascii() and text.isprintable() and " " not in text):
        return (
            "The API key holds a space, a line break or another character that no key has. Was it read from a "
            "file with its line end? Then strip() it."
        )
    return None


class Hiding(Protocol):
    """What knows a secret."""

    def hide(self, text: str) -> str:
        """Return a text without the secret."""
        ...


class _Links:
    def hide(self, text: str) -> str:
        return _QUERY.sub("?[hidden]", text)


LINKS: Final[Hiding] = _Links()
"""Hides the queries of links, which may be signed."""


class _Hidden(str):
    """A text that tools which print local variables do not show."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'[hidden]'"


class ApiKey:
    """An API key that only the server gets to see.

    Args:
        text: the key, in which :func:`key_fault` has found nothing.
    """

    __slots__ = ("_pattern", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        # Hosts and codings are turned into lower case before they are shown.
        self._pattern = re.compile(re.escape(text), re.IGNORECASE)

    def __repr__(self) -> str:
        # Tools that print the local variables of a traceback print this.
        return "ApiKey([hidden])"

    def __reduce__(self) -> str:
        raise TypeError("an API key is not pickled: give the other process its own")

    @property
    def authorization(self) -> str:
        """The value of the header that carries the key; its repr shows nothing."""
        return _Hidden(f"Api-Key {self._text}")

    def strike(self, text: str) -> str:
        """Return a text without this key, and else as it is."""
        return self._pattern.sub("[API key]", text)

    def hide(self, text: str) -> str:
        """Return a text without this key, and without the queries of links, which may be signed."""
        return LINKS.hide(self.strike(text))

    def shown(self, text: str) -> str:
        """Return the beginning of a text of the server's: no secret, nothing unprintable."""
        # Cut only after the key is out, lest a part of it stays; and before the rest, lest a long text takes long.
        text = self.hide(self.strike(text)[: 16 * _EXCERPT_LENGTH])
        shown = "".join(char if char.isprintable() else " " for char in text[:_EXCERPT_LENGTH])
        return f"{shown}…" if len(text) > _EXCERPT_LENGTH else shown
