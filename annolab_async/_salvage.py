"""Finds a job's id in a damaged answer: that job exists, and was paid for. Pure."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from typing import Final

__all__ = ["salvaged_id"]

# A string, a whole array of numbers in one piece (there may be very many), a mark, or a bare word such as a number.
_TOKEN: Final = re.compile(
    rb'[ \t\r\n]*(?:(?P<string>"(?:[^"\\]|\\.)*")|(?P<numbers>\[[\d\s,]*\])|(?P<mark>[{}\[\],:])|(?P<word>[\w.+-]+))',
    re.DOTALL,
)
_NAME: Final = b'"inferenceJobId"'
_ID: Final = re.compile(rb"[1-9][0-9]{0,17}")
_AFTER_A_NUMBER: Final = b" \t\r\n,}"
_MOST_TOKENS: Final = 10_000


def salvaged_id(body: bytes) -> int | None:
    """Return the ``inferenceJobId`` that stands whole among the outermost fields of a JSON object.

    Args:
        body: the answer, cut off or damaged anywhere.

    Returns:
        The id; None if there is none, if it may go on where the answer ends, or if there are two.
    """
    body = body.removeprefix(BOM_UTF8)  # which whole answers may begin with, too
    depth = 0
    text = name = None
    ids: set[int | None] = set()
    position = 0
    for _ in range(_MOST_TOKENS):
        token = _TOKEN.match(body, position)
        if token is None:
            break
        position = token.end()
        mark = token["mark"]
        if mark in {b"{", b"["}:
            depth += 1
            if depth == 1 and mark == b"[":
                return None
        elif mark in {b"}", b"]"}:
            depth -= 1
        elif depth == 1:
            if mark == b":":
                name = text
            elif mark == b",":
                name = None
            elif name == _NAME:
                word = token["word"]
                if position == len(body):
                    break  # it may go on
                is_whole = word and _ID.fullmatch(word) and body[position] in _AFTER_A_NUMBER
                ids.add(int(word) if is_whole else None)
            text = token["string"]
        if depth == 0:
            break
    return ids.pop() if len(ids) == 1 else None
