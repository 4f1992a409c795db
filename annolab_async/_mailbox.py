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
    transition: Transition | None


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
        # The same letters by job, so that one job's can be found without looking at all.
        self._of_job: dict[int, deque[_Letter]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, transition: Transition) -> None:
        """Add a transition."""
        letters = self._of_job.setdefault(transition.inference_job_id, deque())
        if letters and self._count >= self._room and (waiting := letters[-1].transition):
            letters[-1].transition = evolve(transition, previous=waiting.previous)
            return
        letter = _Letter(transition)
        letters.append(letter)
        self._letters.append(letter)
        self._count += 1

    def take(self) -> Transition | None:
        """Remove and return the oldest transition, None if there is none."""
        while self._letters:
            if transition := self._letters.popleft().transition:
                letters = self._of_job[transition.inference_job_id]
                letters.popleft()
                if not letters:
                    del self._of_job[transition.inference_job_id]
                self._count -= 1
                return transition
        return None

    def discard(self, job_id: int) -> None:
        """Drop what waits for a job."""
        for letter in self._of_job.pop(job_id, ()):
            letter.transition = None
            self._count -= 1
        # Void letters at the front are let go of here, those behind when their turn comes.
        while self._letters and self._letters[0].transition is None:
            self._letters.popleft()
