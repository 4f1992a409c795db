"""Transitions on their way to a consumer that may be slow. Pure data structure."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from attrs import define, evolve

if TYPE_CHECKING:
    from annolab_async._records import Transition

__all__ = ["Mailbox"]

_ROOM: Final = 1024


@define(eq=False)
class _Letter:
    transition: Transition


class Mailbox:
    """A queue of transitions whose length is bounded although no outcome is ever dropped.

    Up to ``room`` transitions wait as they are. Beyond that, a job's new transition is merged into the one that
    still waits for it: the consumer then sees the job go from the state that it saw last to the newest one, at the
    place in the queue of the older. So at most ``room`` plus one for each job wait at any time.

    Args:
        room: how many transitions wait before any are merged.
    """

    def __init__(self, room: int = _ROOM) -> None:
        self._room = room
        self._letters: deque[_Letter] = deque()
        self._newest: dict[int, _Letter] = {}

    def __len__(self) -> int:
        return len(self._letters)

    def put(self, transition: Transition) -> None:
        """Add a transition."""
        job_id = transition.inference_job_id
        waiting = self._newest.get(job_id)
        if waiting and len(self._letters) >= self._room:
            waiting.transition = evolve(transition, previous=waiting.transition.previous)
            return
        letter = _Letter(transition)
        self._letters.append(letter)
        self._newest[job_id] = letter

    def take(self) -> Transition | None:
        """Remove and return the oldest transition, None if there is none."""
        if not self._letters:
            return None
        letter = self._letters.popleft()
        job_id = letter.transition.inference_job_id
        if self._newest[job_id] is letter:
            del self._newest[job_id]
        return letter.transition

    def discard(self, job_id: int) -> None:
        """Drop what waits for a job."""
        if self._newest.pop(job_id, None):
            self._letters = deque(
                letter for letter in self._letters if letter.transition.inference_job_id != job_id
            )
