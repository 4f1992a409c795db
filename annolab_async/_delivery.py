"""What a watcher has seen, on its way to who iterates and to who waits for one job."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from anyio import Event
from attrs import define, evolve, field

from annolab_async._mailbox import Mailbox
from annolab_async._records import Transition

if TYPE_CHECKING:
    from annolab_async._records import Outcome

__all__ = ["Delivery", "TransitionMailbox"]

# How many ended jobs a watcher that is kept open can still tell who waits late about.
_ENDS_REMEMBERED: Final = 10_000


class TransitionMailbox(Mailbox[Transition]):
    """Transitions of jobs: merged, a job goes from the state that was seen last to the newest."""

    def _subject(self, news: Transition) -> int:
        return news.inference_job_id

    def _merged(self, older: Transition, newer: Transition) -> Transition:
        return evolve(newer, previous=older.previous)


@define(eq=False)
class _Wait:
    """Those who wait for one job, and what they wait for."""

    is_over: Event = field(factory=Event)
    end: Transition | None = None


class Delivery:
    """Hands out transitions: each once to who iterates, and each job's end to everyone who waits for it.

    Args:
        keep_open: whether this goes on for long, as in a service: then memory is kept by forgetting old ends, and
            what nobody iterates over.
    """

    def __init__(self, *, keep_open: bool) -> None:
        self.outcomes: Counter[Outcome] = Counter()
        self._keep_open = keep_open
        self._mailbox = TransitionMailbox()
        self._news = Event()
        self._ends: dict[int, Transition] = {}
        self._waits: dict[int, _Wait] = {}
        self._heard: set[int] = set()  # jobs of whose ends somebody has heard by waiting
        self._is_iterated = False

    def publish(self, transition: Transition) -> None:
        """Take in a transition."""
        self._mailbox.put(transition)
        if transition.outcome is not None:
            self.outcomes[transition.outcome] += 1
            self._ends[transition.inference_job_id] = transition
            if self._keep_open and len(self._ends) > _ENDS_REMEMBERED:
                self._forget_end(next(iter(self._ends)))
            self._let_go(transition.inference_job_id, transition)
        self.tell_news()

    def take(self) -> Transition | None:
        """Return the next transition for who iterates, None if there is none."""
        self._is_iterated = True
        return self._mailbox.take()

    def forget(self, job_id: int) -> None:
        """Drop what is kept of a job, and let go of who waits for it."""
        self._mailbox.discard(job_id)
        self._ends.pop(job_id, None)
        self._heard.discard(job_id)
        self._let_go(job_id, None)

    def end_of(self, job_id: int) -> Transition | None:
        """Return how a job ended, None if that is not known, or no longer."""
        return self._ends.get(job_id)

    async def wait_for_end(self, job_id: int) -> Transition | None:
        """Wait until a job has ended; None if it was forgotten or all were let go of instead."""
        wait = self._waits.setdefault(job_id, _Wait())
        await wait.is_over.wait()
        return wait.end

    def was_heard(self, job_id: int) -> None:
        """Take note that somebody has heard of a job's end by waiting for it."""
        if self._keep_open:
            self._heard.add(job_id)
            if job_id not in self._ends:
                self._forget_end(job_id)

    def _forget_end(self, job_id: int) -> None:
        self._ends.pop(job_id, None)
        if job_id in self._heard:
            self._heard.discard(job_id)
            if not self._is_iterated:
                # A service that waits for each job and iterates over none would pile up what nobody reads.
                self._mailbox.discard(job_id)

    async def wait_for_news(self) -> None:
        """Wait until there may be something to take, or everything has ended."""
        await self._news.wait()

    def tell_news(self) -> None:
        """Let who iterates look again."""
        self._news.set()
        self._news = Event()

    def let_all_go(self) -> None:
        """Let everyone look again: nothing more will come."""
        for job_id in [*self._waits]:
            self._let_go(job_id, None)
        self.tell_news()

    def _let_go(self, job_id: int, end: Transition | None) -> None:
        if wait := self._waits.pop(job_id, None):
            wait.end = end
            wait.is_over.set()
