"""Every day each case runs once, and each surrounding with some case."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest

from tests.surroundings import Combination, thinned


def combinations(cases: int, **surroundings: list[str]) -> list[Combination]:
    return [
        Combination(case, frozenset(zip(surroundings, values, strict=True)))
        for case, values in product(range(cases), product(*surroundings.values()))
    ]


BOTH = ["asyncio", "trio"]
LEDGERS = ["memory", "sqlite", "postgres"]


@pytest.mark.parametrize("cases", [1, 2, 7])
@pytest.mark.parametrize("name", ["one", "two", "three"])
def test_each_case_and_each_surrounding_runs(cases: int, name: str) -> None:
    every = combinations(cases, anyio_backend=BOTH, ledger=LEDGERS)
    chosen = [every[place] for place in thinned(name, every)]
    assert {found.case for found in chosen} == set(range(cases))
    assert frozenset().union(*(found.surroundings for found in chosen)) == {
        *(("anyio_backend", backend) for backend in BOTH),
        *(("ledger", ledger) for ledger in LEDGERS),
    }
    assert len(chosen) == max(cases, len(LEDGERS))


def test_cases_take_turns_with_all_combinations_of_surroundings() -> None:
    every = combinations(12, anyio_backend=BOTH, ledger=LEDGERS)
    met = Counter(every[place].surroundings for place in thinned("name", every))
    assert len(met) == 6
    assert set(met.values()) == {2}


def test_one_backend_is_enough_where_it_does_not_matter_and_tests_take_turns() -> None:
    every = combinations(1, anyio_backend=BOTH)
    found = {every[place] for name in "abcdef" for place in thinned(name, every, any_backend=True)}
    assert all(len(thinned(name, every, any_backend=True)) == 1 for name in "abcdef")
    assert found == set(every)


def test_a_test_without_surroundings_runs_with_all_its_parameters() -> None:
    every = combinations(5)
    assert thinned("name", every) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("backend", "transport", "is_possible"),
    [
        (("asyncio", {"loop_factory": 1}), "own aiohttp", True),
        (("trio", {"clock": 1}), "aiohttp", False),
        ("trio", "httpx", True),
    ],
)
def test_aiohttp_is_not_tried_on_trio(backend: object, transport: str, is_possible: bool) -> None:  # noqa: FBT001
    found = Combination.of({"anyio_backend": backend, "transport": transport, "number": 5})
    assert found.is_possible is is_possible


def test_the_same_values_on_other_surroundings_are_the_same_case() -> None:
    value: dict[str, int] = {}
    here, there = (Combination.of({"way": way, "value": value}) for way in ("httpx", "aiohttp"))
    other = Combination.of({"way": "httpx", "value": {}})
    assert here.case == there.case != other.case
    assert here.surroundings == other.surroundings != there.surroundings
