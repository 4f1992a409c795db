"""What goes wrong on purpose with coming requests, one after the other, as a test has planned it. Pure."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Final, NamedTuple

from attrs import field, frozen

from annolab_async.emulator._bodies import Answer
from annolab_async.emulator._faults import Draw, Fault

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_STATUS_CODES: Final = range(200, 600)
_UNAVAILABLE: Final = 503


@frozen(kw_only=True)
class BadReply:
    """What goes wrong with one submission or poll.

    Attributes:
        status_code: It is not processed, but answered with this status.
        retry_after: Whole seconds that such an answer asks for in its ``Retry-After``; None for no such header.
        body: The body of the answer instead of the right one. Without a ``status_code`` a submission is processed
            all the same.
        is_dropped: Whether it is not processed, and its connection reset.
        is_lost: Whether it is processed and its connection then closed without an answer.
        cut_after: It is processed, and its answer breaks off after so many bytes, the head of the answer with them.
        delay: Seconds by which the answer comes later.

    Raises:
        ValueError: These do not go together, or one of them cannot be; the message names every fault.
    """

    status_code: int | None = None
    retry_after: int | None = None
    body: bytes | None = field(default=None, repr=False)
    is_dropped: bool = False
    is_lost: bool = False
    cut_after: int | None = None
    delay: float = 0.0

    def __attrs_post_init__(self) -> None:
        if wrong := "; ".join(self._wrong()):
            raise ValueError(f"a reply cannot go wrong like this: {wrong}")

    def _wrong(self) -> Iterator[str]:
        if self.status_code is not None and self.status_code not in _STATUS_CODES:
            yield f"status_code must be from 200 to 599, not {self.status_code!r}"
        for name in ("retry_after", "cut_after"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 0):
                yield f"{name} must be a whole number, 0 or more, not {value!r}"
        if not isinstance(self.body, bytes | None):
            yield f"body must be bytes, not {self.body!r}"
        if type(self.delay) not in {int, float} or not 0 <= self.delay < math.inf:
            yield f"delay must be a number of seconds, 0 or more, not {self.delay!r}"
        if self.retry_after is not None and self.status_code is None:
            yield "retry_after needs a status_code"
        answered = self.status_code is not None or self.body is not None
        ways = [answered, self.is_dropped, self.is_lost, self.cut_after is not None]
        if sum(ways) > 1:
            yield "only one of status_code or body, is_dropped, is_lost and cut_after can happen"
        if not any(ways) and not self.delay:
            yield "nothing is wrong with it (None stands for that)"

    @property
    def is_processed(self) -> bool:
        """Whether a submission that meets this is processed."""
        return self.status_code is None and not self.is_dropped

    @property
    def is_answered(self) -> bool:
        """Whether the right answer is sent, and whole."""
        return (
            self.is_processed and not self.is_lost and self.cut_after is None and self.body is None
        )

    def reply(self, answer: Answer) -> Reply:
        """Return what is sent back, and how.

        Args:
            answer: The right answer.
        """
        status_code = self.status_code or answer.status_code
        message = {"message": f"{status_code}, as planned"}
        body = answer.body if self.status_code is None else message
        body = body if self.body is None else self.body
        return Reply(Answer(status_code, body), self.draw, self.retry_after, self.delay)

    @property
    def draw(self) -> Draw | None:
        """The fault that could have come by chance, too; None if that is another."""
        if self.status_code == _UNAVAILABLE:
            return Draw(Fault.UNAVAILABLE, self.retry_after, 0.0)
        if self.is_dropped:
            return Draw(Fault.RESET, None, 0.0)
        if self.is_lost:
            return Draw(Fault.CLOSED_AFTER_PROCESSING, None, 0.0)
        if self.cut_after is not None:
            return Draw(Fault.TRUNCATED, None, 0.0, self.cut_after)
        return None


class Reply(NamedTuple):
    """What to send back, and how.

    Attributes:
        answer: The right answer, or the one instead.
        draw: The fault that came by chance, or could have.
        delay: Seconds by which it comes later.
    """

    answer: Answer
    draw: Draw | None = None
    retry_after: int | None = None
    delay: float = 0.0


class Plans:
    """What is to befall coming submissions and polls.

    Attributes:
        submits: What befalls the coming submissions, one after the other; None for nothing.
    """

    def __init__(self) -> None:
        self.submits: deque[BadReply | None] = deque()
        self._polls: defaultdict[int | None, deque[BadReply | None]] = defaultdict(deque)

    def __len__(self) -> int:
        queues = (self.submits, *self._polls.values())
        return sum(reply is not None for queue in queues for reply in queue)

    def add_submits(self, replies: Iterable[BadReply | None]) -> None:
        """Plan what befalls the coming submissions; None for nothing."""
        self.submits.extend(_checked(replies))

    def add_polls(self, replies: Iterable[BadReply | None], job_id: int | None) -> None:
        """Plan what befalls the coming polls, of one job or of any."""
        self._polls[job_id].extend(_checked(replies))

    def for_poll(self, job_id: int | None) -> BadReply | None:
        """Take what befalls the poll that has come: what is planned for its job goes before what is for any."""
        for queue in (self._polls.get(job_id), self._polls.get(None)):
            if queue:
                return queue.popleft()
        return None

    def clear(self) -> None:
        """Forget all that has not happened yet."""
        self.submits.clear()
        self._polls.clear()


def _checked(replies: Iterable[BadReply | None]) -> list[BadReply | None]:
    replies = list(replies)
    for reply in replies:
        if not isinstance(reply, BadReply | None):
            raise TypeError(f"a plan is made of BadReply(...) and None, not {reply!r}")
    return replies
