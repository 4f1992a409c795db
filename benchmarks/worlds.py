"""Worlds in which schedules are compared: jobs that start and end when they do, whoever asks.

Unless a world says otherwise there are 500 jobs, submitted one after the other within ten seconds, their ids ascending;
a job takes 2 s times the number of workers in the mean, so that an end comes every two seconds; and the status says
QUEUED until the end (a *mute* service). Each world is a function of a seed: the same seed, the same world. All times
are in seconds from the beginning.
"""

from __future__ import annotations

import heapq
import math
from random import Random
from typing import TYPE_CHECKING, Final

from attrs import define, frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["ADVERSARIAL", "IN_ORDER", "MODELS", "NOTHING_TO_LEARN", "Job", "Recipe", "World"]

JOBS: Final = 500
SECONDS_PER_END: Final = 2.0


@define
class Job:
    """One job as its world knows it.

    Attributes:
        id: its id.
        added: when it is submitted, and watched from.
        duration: seconds of work at full speed.
        start: when a worker takes it up.
        end: when it has ended.
        model: the model it is for, None if that is not told.
    """

    id: int
    added: float
    duration: float
    start: float = math.inf
    end: float = math.inf
    model: str | None = None


@frozen
class World:
    """The jobs that are watched, and how the service speaks of them.

    Attributes:
        jobs: those watched; others may have been worked through between them.
        says_running: whether a status tells that a job has started.
        by_id: whether they are watched by their ids alone, nothing being known of their states.
    """

    jobs: Sequence[Job]
    says_running: bool = False
    by_id: bool = False


@frozen
class Recipe:
    """A named world, still without its seed.

    Attributes:
        name: short, for tables.
        about: what happens in it.
        build: makes the world of a seed.
    """

    name: str
    about: str
    build: Callable[[int], World]


# What the service does


def _work(
    jobs: Sequence[Job],
    workers: int,
    *,
    first: Callable[[Job], float] | None = None,
    slow_after: float = math.inf,
) -> None:
    """Fill in when each job starts and ends.

    Args:
        jobs: all jobs that the service gets.
        workers: how many jobs run at a time.
        first: a free worker takes the waiting job for which this is least; by default the lowest id.
        slow_after: when the service begins to work at half its speed.
    """
    coming = sorted(jobs, key=lambda job: job.added)
    waiting: list[tuple[float, int, Job]] = []
    free = [0.0] * workers
    arrived = 0
    while arrived < len(coming) or waiting:
        now = heapq.heappop(free)
        if not waiting:
            now = max(now, coming[arrived].added)
        while arrived < len(coming) and coming[arrived].added <= now:
            job = coming[arrived]
            heapq.heappush(waiting, (first(job) if first else job.id, job.id, job))
            arrived += 1
        job = heapq.heappop(waiting)[2]
        at_full_speed = min(job.duration, max(0.0, slow_after - now))
        job.start = now
        job.end = now + at_full_speed + 2 * (job.duration - at_full_speed)
        heapq.heappush(free, job.end)


def _durations(kind: str, count: int, mean: float, random: Random) -> list[float]:
    draws: dict[str, Callable[[], float]] = {
        # Standard deviation about as large as the mean.
        "lognormal": lambda: random.lognormvariate(math.log(mean) - 0.32, 0.8),
        # Four in five are short, the others eight times as long.
        "bimodal": lambda: (
            mean * random.choice((0.4, 0.4, 0.4, 0.4, 3.4)) * random.uniform(0.9, 1.1)
        ),
        # 1 to 25 sources, and work in proportion.
        "size": lambda: mean * random.randint(1, 25) / 13 * random.uniform(0.9, 1.1),
        "exponential": lambda: random.expovariate(1 / mean),
        # Infinite variance.
        "heavy": lambda: mean / 3 * random.paretovariate(1.5),
    }
    draw = draws[kind]
    return [draw() for _ in range(count)]


def _submit(
    kind: str, seed: int, *, mean: float, count: int = JOBS, apart: float = 0.02
) -> list[Job]:
    durations = _durations(kind, count, mean, Random(seed))
    return [Job(1000 + i, i * apart, duration) for i, duration in enumerate(durations)]


# The worlds


def _in_order(
    kind: str, workers: int, seed: int, *, halves: bool = False, words: bool = False
) -> World:
    jobs = _submit(kind, seed, mean=SECONDS_PER_END * workers)
    _work(jobs, workers, slow_after=JOBS * SECONDS_PER_END / 2 if halves else math.inf)
    return World(jobs, says_running=words)


def _third_unseen(workers: int, seed: int) -> World:
    jobs = _submit("lognormal", seed, mean=SECONDS_PER_END * workers, count=JOBS * 3 // 2)
    _work(jobs, workers)
    seen = Random(seed + 1).sample(jobs, JOBS)
    return World(sorted(seen, key=lambda job: job.id))


def _by_id(seed: int) -> World:
    jobs = _submit("lognormal", seed, mean=SECONDS_PER_END * 10, apart=0.0)
    _work(jobs, 10)
    return World(jobs, by_id=True)


def _all_parallel(kind: str, seed: int) -> World:
    jobs = _submit(kind, seed, mean=250.0)
    _work(jobs, JOBS)
    return World(jobs)


def _no_order(workers: int, seed: int) -> World:
    jobs = _submit("lognormal", seed, mean=SECONDS_PER_END * workers)
    random = Random(seed + 1)
    lots = {job.id: random.random() for job in jobs}
    _work(jobs, workers, first=lambda job: lots[job.id])
    return World(jobs)


def _reverse(workers: int, seed: int) -> World:
    jobs = _submit("lognormal", seed, mean=SECONDS_PER_END * workers, apart=0.0)
    _work(jobs, workers, first=lambda job: -job.id)
    return World(jobs)


def _stuck(seed: int) -> World:
    jobs = _submit("lognormal", seed, mean=SECONDS_PER_END * 10)
    jobs[5].duration = 1.5 * JOBS * SECONDS_PER_END
    _work(jobs, 10)
    return World(jobs)


def _bursts(workers: int, seed: int) -> World:
    jobs = _submit("lognormal", seed, mean=SECONDS_PER_END * workers)
    random = Random(seed + 1)
    begins = sorted(random.uniform(0, 0.9 * JOBS * SECONDS_PER_END) for _ in range(10))
    for i, job in enumerate(jobs):
        job.added = begins[i // 50] + (i % 50) * 1e-3
    _work(jobs, workers)
    return World(jobs)


def _turns_round(seed: int) -> World:
    jobs = _submit("lognormal", seed, mean=SECONDS_PER_END * 10, apart=0.0)
    order = [*range(JOBS // 2), *range(JOBS - 1, JOBS // 2 - 1, -1)]
    ranks = {jobs[i].id: float(rank) for rank, i in enumerate(order)}
    _work(jobs, 10, first=lambda job: ranks[job.id])
    return World(jobs)


def _two_models(seed: int, *, told: bool) -> World:
    jobs = _submit("lognormal", seed, mean=SECONDS_PER_END * 10)
    for model, share, pace in (("quick", jobs[::2], 0.5), ("slow", jobs[1::2], 1.5)):
        for job in share:
            job.duration *= pace
            job.model = model if told else None
        _work(share, 5)
    return World(jobs)


def _in_order_worlds() -> list[Recipe]:
    recipes = list[Recipe]()
    for workers in (10, 1):
        at_a_time = f"in order, {workers} at a time; "

        def build(
            kind: str, *, halves: bool = False, words: bool = False, workers: int = workers
        ) -> Callable[[int], World]:
            return lambda seed: _in_order(kind, workers, seed, halves=halves, words=words)

        recipes += [
            Recipe(
                f"order{workers}-lognormal", at_a_time + "lognormal durations", build("lognormal")
            ),
            Recipe(
                f"order{workers}-bimodal",
                at_a_time + "one in five eight times as long",
                build("bimodal"),
            ),
            Recipe(
                f"order{workers}-size", at_a_time + "durations as 1 to 25 sources", build("size")
            ),
            Recipe(
                f"order{workers}-halves",
                at_a_time + "half the speed from 500 s on",
                build("lognormal", halves=True),
            ),
            Recipe(
                f"order{workers}-unseen",
                at_a_time + "three processes submit 750 jobs, a random third of them is not ours",
                lambda seed, workers=workers: _third_unseen(workers, seed),  # type: ignore[misc]
            ),
            Recipe(
                f"order{workers}-words",
                at_a_time + "lognormal, and the status says RUNNING",
                build("lognormal", words=True),
            ),
        ]
    recipes.append(
        Recipe("order10-by-id", "in order, 10 at a time; lognormal, and only ids are known", _by_id)
    )
    return recipes


IN_ORDER: Final = _in_order_worlds()
"""Where there is much to learn."""

NOTHING_TO_LEARN: Final = [
    Recipe(
        "parallel-exponential",
        "all run at once, exponential with mean 250 s",
        lambda seed: _all_parallel("exponential", seed),
    ),
    Recipe(
        "parallel-heavy",
        "all run at once, Pareto 1.5 with mean 250 s",
        lambda seed: _all_parallel("heavy", seed),
    ),
    Recipe("no-order10", "10 at a time in random order", lambda seed: _no_order(10, seed)),
    Recipe("no-order1", "one at a time in random order", lambda seed: _no_order(1, seed)),
]
"""Where no poll tells anything of another job."""

ADVERSARIAL: Final = [
    Recipe("reverse10", "the newest first, 10 at a time", lambda seed: _reverse(10, seed)),
    Recipe("reverse1", "the newest first, one at a time", lambda seed: _reverse(1, seed)),
    Recipe("stuck10", "in order, but the sixth job takes 1500 s", _stuck),
    Recipe(
        "bursts10", "ten bursts of 50 jobs over 900 s, 10 at a time", lambda seed: _bursts(10, seed)
    ),
    Recipe(
        "bursts1", "ten bursts of 50 jobs over 900 s, one at a time", lambda seed: _bursts(1, seed)
    ),
    Recipe("turns-round", "in order, and from the middle on the newest first", _turns_round),
]
"""Where what seems likely is wrong."""

MODELS: Final = [
    Recipe(
        "two-models",
        "two models, 5 workers each, one three times as slow; jobs are added with their model",
        lambda seed: _two_models(seed, told=True),
    ),
    Recipe(
        "two-models-untold",
        "the same, without the model",
        lambda seed: _two_models(seed, told=False),
    ),
]
"""Two queues at once; without a target."""
