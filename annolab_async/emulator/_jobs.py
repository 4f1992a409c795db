"""What the emulator remembers: every job and the traffic, as frozen records."""

from __future__ import annotations

from typing import Literal, TypeAlias

from attrs import evolve, frozen

from annolab_async._records import JobState

Status: TypeAlias = Literal["Queued", "Running", "Finished", "Errored"]
FinalStatus: TypeAlias = Literal["Finished", "Errored"]


@frozen(kw_only=True)
class EmulatedJob:
    """A job as it truly is, and what pollers have been told of it.

    Times are seconds on the emulator's clock. They are settled when the job is submitted, so
    ``started_at`` and ``ended_at`` may lie in the future; where a script says what each poll shows,
    they are infinite until it has shown it.

    Attributes:
        inference_job_id: The job's id; ids count up from 1.
        group_name: The group that the request named.
        project_id: The project's id.
        project_name: The project's name.
        model_id: The model's id.
        model_name: The model's name.
        output_layer_id: The output layer's id.
        output_layer_name: The output layer's name.
        source_ids: The source ids as sent.
        submitted_at: When the job was taken on.
        started_at: When a worker takes it up.
        ended_at: When it really ends.
        final_status: How it really ends.
        polls: How many status requests were answered with a status.
        statuses_shown: The distinct statuses in those answers, in order.
        terminal_answers: How many of those answers showed the end; 1 means that nobody polled
            again after that.
    """

    inference_job_id: int
    group_name: str
    project_id: int
    project_name: str
    model_id: int
    model_name: str
    output_layer_id: int
    output_layer_name: str
    source_ids: tuple[int, ...]
    submitted_at: float
    started_at: float
    ended_at: float
    final_status: FinalStatus
    polls: int = 0
    statuses_shown: tuple[str, ...] = ()
    terminal_answers: int = 0

    def status_at(self, now: float) -> Status:
        """Tell the job's status at a time.

        Args:
            now: Seconds on the emulator's clock.
        """
        if now < self.started_at:
            return "Queued"
        if now < self.ended_at:
            return "Running"
        return self.final_status

    def shown(self, status: str) -> EmulatedJob:
        """Return the job with one more poll, answered with ``status``, on record."""
        news = () if status in self.statuses_shown else (status,)
        return evolve(
            self,
            polls=self.polls + 1,
            statuses_shown=self.statuses_shown + news,
            terminal_answers=self.terminal_answers + JobState.of(status).is_terminal,
        )


@frozen(kw_only=True)
class EmulatorStats:
    """The traffic so far; every request counts, whatever its answer.

    Attributes:
        requests: All requests.
        submits: Requests that create a job.
        polls: Requests for a job's status.
        in_flight: Requests that have come in and are not answered yet.
        max_in_flight: The most that ``in_flight`` has been.
        polls_in_flight: Those of them that ask for a status.
        max_polls_in_flight: The most that ``polls_in_flight`` has been.
    """

    requests: int = 0
    submits: int = 0
    polls: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    polls_in_flight: int = 0
    max_polls_in_flight: int = 0
