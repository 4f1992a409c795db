"""News on its way to a consumer that may be slow. Pure data structure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import Final, Generic, TypeVar

from attrs import define

__all__ = ["Mailbox"]

ROOM: Final = 1024
T = TypeVar("T")


@define(eq=False)
class _Letter(Generic[T]):
    news: T | None


class Mailbox(ABC, Generic[T]):
    """A queue of news about many subjects, whose length is bounded although nobody's last news is ever dropped.

    Up to ``room`` wait as they are. Beyond that, what is new of a subject is merged into what still waits of it, at
    the place in the queue of the older. So at most ``room`` plus one for each subject wait at any time.

    Args:
        room: how many wait before any are merged.
    """

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self._letters: deque[_Letter[T]] = deque()
        # The same letters by subject, so that one's can be found without looking at all.
        self._of_subject: dict[int, deque[_Letter[T]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @abstractmethod
    def _subject(self, news: T) -> int:
        """Return whom news is about."""

    @abstractmethod
    def _merged(self, older: T, newer: T) -> T:
        """Return what is left to tell of two that were to be told one after the other."""

    def put(self, news: T) -> None:
        """Add news."""
        letters = self._of_subject.setdefault(self._subject(news), deque())
        if letters and self._count >= self._room and (waiting := letters[-1].news):
            letters[-1].news = self._merged(waiting, news)
            return
        letter = _Letter[T](news)
        letters.append(letter)
        self._letters.append(letter)
        self._count += 1

    def take(self) -> T | None:
        """Remove and return the oldest news, None if there is none."""
        while self._letters:
            if news := self._letters.popleft().news:
                subject = self._subject(news)
                letters = self._of_subject[subject]
                letters.popleft()
                if not letters:
                    del self._of_subject[subject]
                self._count -= 1
                return news
        return None

    def discard(self, subject: int) -> None:
        """Drop what waits about a subject."""
        for letter in self._of_subject.pop(subject, ()):
            letter.news = None
            self._count -= 1
        # When most are void: behind one that nobody reads, they would pile up.
        if len(self._letters) > 2 * self._count:
            self._letters = deque(letter for letter in self._letters if letter.news is not None)
