"""The model of how a service works through its queue, beside the same sums done the slow way."""

from __future__ import annotations

import math
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING

import pytest
from attrs import define, field, frozen

from annolab_async._frontier import BUCKETS, EDGES, Frontier

if TYPE_CHECKING:
    from collections.abc import Sequence

LEAK = 0.1  # of the ends, for one that falls inside: how many are expected outside a frontier


@frozen
class Answer:
    """What a poll has told of a job."""

    cell: int
    polled: float
    asked: float
    path: list[tuple[float, int]]
    ended: bool

    @property
    def stretches(self) -> list[tuple[int, float]]:
        """The cells in which the job was, and for how many seconds of what the answer tells of."""
        left = [(min(max(at, self.polled), self.asked), bucket) for at, bucket in self.path]
        begins = [self.polled, *(at for at, _ in left)]
        stays = [2 * bucket + self.cell % 2 for _, bucket in left]
        seconds = [end - begin for begin, end in pairwise([*begins, self.asked])]
        if self.ended:
            seconds[-1] /= 2  # it was there for half of the time, on average
        return [*zip([*stays, self.cell], seconds, strict=True)]

    def span(self, hypothesis: int) -> float:
        """For how many seconds the job may have ended, if only the first buckets have ends."""
        within = [at for at, left in self.path if self.cell // 2 <= hypothesis < left]
        return max(0.02, self.asked - max([self.polled, *within]))


@define
class Model:
    """All answers, each with the weight that it still has."""

    answers: list[tuple[Answer, float, float]] = field(factory=list[tuple[Answer, float, float]])

    def observe(self, answer: Answer) -> None:
        if answer.ended:
            self.answers = [(each, ends * 0.98, waits * 0.98) for each, ends, waits in self.answers]
        self.answers.append((answer, float(answer.ended), 1.0))

    def ends(self, cells: Sequence[int]) -> float:
        return sum(ends for answer, ends, _ in self.answers if answer.cell in cells)

    def waits(self, cells: Sequence[int]) -> float:
        return sum(
            seconds * weight
            for answer, _, weight in self.answers
            for cell, seconds in answer.stretches
            if cell in cells
        )

    def evidence(self, hypothesis: int) -> float:
        """The product of the spans, as a logarithm."""
        return sum(ends * math.log(each.span(hypothesis)) for each, ends, _ in self.answers if ends)

    def hazards(self, sizes: Sequence[int]) -> list[float]:
        everywhere = range(2 * BUCKETS)
        live = sum(sizes)
        ends, waits = self.ends(everywhere), self.waits(everywhere) + live
        # Each hypothesis: its belief as a logarithm, and how many ends a second it expects in each bucket.
        no_order = math.log(0.5 / waits**ends) + self.evidence(BUCKETS - 1)
        beliefs = [(no_order, [(ends + 0.5) / waits] * BUCKETS)]
        orders = [bucket for bucket, edge in enumerate(EDGES) if edge < live]
        for last in orders:
            cells = range(2 * last + 2)
            inside, waits_inside = self.ends(cells), self.waits(cells) + sum(sizes[: len(cells)])
            outside, waits_outside = ends - inside, waits - waits_inside
            beta = math.gamma(inside + 1) * math.gamma(outside + LEAK) / math.gamma(ends + 1 + LEAK)
            belief = (
                math.log(0.5 / len(orders) * beta / (math.gamma(LEAK) / math.gamma(1 + LEAK)))
                - inside * math.log(waits_inside)
                - outside * math.log(waits_outside)
                + self.evidence(last)
            )
            share = (inside + 1) / (ends + 1 + LEAK)
            levels = [(ends + 0.5) * share / waits_inside] * (last + 1)
            levels += [(ends + 0.5) * (1 - share) / waits_outside] * (BUCKETS - last - 1)
            beliefs.append((belief, levels))
        most = max(belief for belief, _ in beliefs)
        weights = [math.exp(belief - most) for belief, _ in beliefs]
        by_rank = [
            sum(
                weight * levels[bucket]
                for weight, (_, levels) in zip(weights, beliefs, strict=True)
            )
            / sum(weights)
            for bucket in range(BUCKETS)
        ]
        hazards = [0.0] * (2 * BUCKETS)
        for word, assumed in ((0, 1.0), (1, 0.25)):
            cells = range(word, 2 * BUCKETS, 2)
            foretold = sum(
                level * self.waits([cell]) for level, cell in zip(by_rank, cells, strict=True)
            )
            factor = (self.ends(cells) + assumed) / (foretold + 1.0)
            for cell, level in zip(cells, by_rank, strict=True):
                hazards[cell] = level * factor
        return hazards


def full(jobs: int, random: Random) -> list[int]:
    """Sizes of the cells when there are so many jobs, of which some are queued."""
    sizes = [0] * (2 * BUCKETS)
    for bucket, (low, high) in enumerate(pairwise((0, *EDGES, jobs + EDGES[-1]))):
        count = min(max(jobs - low, 0), high - low)
        queued = random.randint(0, count)
        sizes[2 * bucket], sizes[2 * bucket + 1] = count - queued, queued
    return sizes


def an_answer(random: Random, *, is_near: bool) -> Answer:
    polled = random.uniform(0, 1000)
    seconds = random.choice([0.001, 1.0, 100.0])
    bucket = random.randrange(4) if is_near else random.randrange(BUCKETS)
    # It may have moved up, or down, or there and back.
    moves = random.choice([0, 0, 1, 3])
    times = sorted(polled + seconds * random.uniform(-0.1, 1.1) for _ in range(moves))
    return Answer(
        cell=2 * bucket + random.randrange(2),
        polled=polled,
        asked=polled + seconds,
        path=[(at, random.randrange(BUCKETS)) for at in times],
        ended=random.random() < 0.5,
    )


@pytest.mark.parametrize("jobs", [1, 2, 3, 50, EDGES[-1], EDGES[-1] + 1, 3000])
@pytest.mark.parametrize("order", [True, False], ids=["in order", "in no order"])
def test_hazards_are_those_of_the_model_done_the_slow_way(jobs: int, order: bool) -> None:  # noqa: FBT001
    random, frontier, model = Random(jobs), Frontier(), Model()
    for _ in range(4):
        sizes = full(jobs, random)
        assert frontier.hazards(sizes) == pytest.approx(model.hazards(sizes), rel=1e-6)
        for _ in range(7):
            answer = an_answer(random, is_near=order)
            model.observe(answer)
            frontier.observe(
                answer.cell, answer.polled, answer.asked, answer.path, ended=answer.ended
            )


def test_order_that_is_beyond_all_doubt_is_believed() -> None:
    random, frontier = Random(0), Frontier()
    frontier.observe(2 * BUCKETS - 2, 0.0, 1e12, [], ended=False)
    for _ in range(200):
        frontier.observe(0, 0.0, 1.0, [], ended=True)
    hazards = frontier.hazards(full(2000, random))
    assert len(hazards) == 2 * len(EDGES) + 2
    assert hazards[0] > 1.0
    assert max(hazards[-2:]) < 1e-9


def test_each_edge_is_a_quarter_further_back_than_the_one_before() -> None:
    assert EDGES[0] == 1
    assert EDGES[-2] < 1024 <= EDGES[-1]
    for low, high in pairwise(EDGES):
        assert high == low + 1 or abs(high - 1.25 * low) <= 0.5
        assert low < high
    assert len(EDGES) + 1 == BUCKETS < 40
