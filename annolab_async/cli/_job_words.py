"""How jobs and what becomes of them are put into words. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from annolab_async import JobState, Outcome
from annolab_async.cli._problems import problem_of
from annolab_async.cli._words import duration, ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from annolab_async import InferenceJob, Transition

__all__ = [
    "STYLES",
    "job_json",
    "sources",
    "state_of",
    "state_word",
    "transition_json",
    "transition_line",
    "why",
]

STYLES: Final = {
    "finished": "green",
    "errored": "red",
    "timed out": "red",
    "lost": "red",
    "running": "cyan",
}
_LONGEST: Final = 40


def sources(source_ids: Sequence[int], most: int = 6) -> str:
    """Return sources, of many only the first and how many more there are."""
    word = "source" if len(source_ids) == 1 else "sources"
    return f"{word} {ids(source_ids, most)}"


def state_word(job: InferenceJob) -> str:
    """Return a job's state; of one that is not known, the server's word for it."""
    if job.state is JobState.UNKNOWN:
        word = job.status if len(job.status) <= _LONGEST else f"{job.status[:_LONGEST]}…"
        return f"in state {word!r}"
    return str(job.state)


def state_of(transition: Transition) -> str:
    """Return what has become of a job: how watching it ended, or else its state."""
    outcome, job = transition.outcome, transition.job
    if outcome is Outcome.TIMED_OUT or outcome is Outcome.LOST or job is None:
        return "not seen" if outcome is None else outcome.replace("_", " ")
    return state_word(job)


def transition_line(transition: Transition, *, most_ids: int = 6) -> str:
    """Return what has become of a job, in a line.

    Args:
        transition: the change.
        most_ids: how many sources are named of a job that ended badly.
    """
    job, outcome = transition.job, transition.outcome
    line = f"job {transition.inference_job_id} {state_of(transition)}"
    # An end that was there before is no news of now.
    if transition.previous is not None or (outcome is not None and transition.polls > 1):
        line += f" after {duration(transition.elapsed)}"
    if outcome is None or outcome is Outcome.FINISHED:
        return line
    if job is not None and job.source_ids:
        line += f", {sources(job.source_ids, most_ids)}"
    if outcome is Outcome.TIMED_OUT:
        return f"{line}, last seen {state_word(job)}" if job is not None else line
    return f"{line}: {why(transition.error)}" if transition.error is not None else line


def why(error: BaseException) -> str:
    """Return why something failed, without what could be done about it; of a loss, the reason for it."""
    cause = getattr(error, "cause", None) or error
    problem = problem_of(cause)
    return " ".join(problem.lines) if problem is not None else str(cause)


def job_json(job: InferenceJob) -> dict[str, Any]:
    """Return a job for machines."""
    return {
        "inference_job_id": job.inference_job_id,
        "state": job.state,
        "status": job.status,
        "source_ids": job.source_ids,
        "project_id": job.project_id,
        "project_name": job.project_name,
        "output_layer_id": job.output_layer_id,
        "output_layer_name": job.output_layer_name,
    }


def transition_json(transition: Transition) -> dict[str, Any]:
    """Return a transition for machines."""
    job, previous = transition.job, transition.previous
    return {
        "inference_job_id": transition.inference_job_id,
        "state": None if job is None else job.state,
        "status": None if job is None else job.status,
        "previous_state": None if previous is None else previous.state,
        "outcome": transition.outcome,
        "source_ids": () if job is None else job.source_ids,
        "observed_at": transition.observed_at.isoformat(),
        "elapsed": round(transition.elapsed, 3),
        "uncertainty": round(transition.uncertainty, 3),
        "polls": transition.polls,
        "error": None if transition.error is None else str(transition.error),
    }
