"""Which combinations of a test's parameters run: its cases, in its surroundings.

Surroundings are what a case runs on (a backend, a transport, a ledger) and ought not to matter to it. There are
thousands of combinations, and a fault that one case has in one of its surroundings only is rare: every day, each case
runs once, and each of a test's surroundings with at least one case. ``make check`` runs all combinations.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

_BACKENDS: Final = frozenset({"anyio_backend", "backend"})
_NAMES: Final = _BACKENDS | {
    "ledger",
    "library",
    "make_sql",
    "transport",
    "way",
    "way_of_batches",
}


@frozen
class Combination:
    """One set of a test's parameters.

    Attributes:
        case: tells what is tried.
        surroundings: what it runs on, pairs of a parameter and its value.
    """

    case: Hashable
    surroundings: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Combination:
        """Return the combination that is these values of a test's parameters."""
        # Values need not be hashable or unequal, but each is one object in all combinations.
        case = {name: id(value) for name, value in params.items() if name not in _NAMES}
        surroundings = ((name, _word(params[name])) for name in _NAMES & params.keys())
        return cls(frozenset(case.items()), frozenset(surroundings))

    @property
    def is_possible(self) -> bool:
        """Whether the surroundings go together: aiohttp works on asyncio only."""
        values = [value for _, value in self.surroundings]
        return not ("trio" in values and any("aiohttp" in value for value in values))


def _word(value: object) -> str:
    # A backend of anyio's may be a pair of its name and its options.
    return str(value[0] if isinstance(value, tuple) else value)  # pyright: ignore[reportUnknownArgumentType]


def thinned(
    test: str, combinations: Sequence[Combination], *, any_backend: bool = False
) -> list[int]:
    """Return the places of the combinations that are enough for every day.

    Args:
        test: its name, from which follows what its first case runs on, so that tests begin with different surroundings.
        combinations: all that it has.
        any_backend: the backend does not matter to it, and one is enough.
    """
    by_case: defaultdict[Hashable, list[int]] = defaultdict(list)
    for place, combination in enumerate(combinations):
        by_case[combination.case].append(place)
    used: Counter[object] = Counter()
    chosen: set[int] = set()

    def choose(places: Iterable[int]) -> None:
        def weight(place: int) -> tuple[int, int]:
            found = combinations[place].surroundings
            return used[found], sum(used[value] for value in found)

        place = min(places, key=weight)
        chosen.add(place)
        used.update([combinations[place].surroundings, *combinations[place].surroundings])

    for places in by_case.values():
        turn = crc32(test.encode()) % len(places)
        choose([*places[turn:], *places[:turn]])
    needed = {
        value
        for combination in combinations
        for value in combination.surroundings
        if not (any_backend and value[0] in _BACKENDS)
    }
    while missing := needed - used.keys():
        choose(
            place
            for place, combination in enumerate(combinations)
            if combination.surroundings & missing
        )
    return sorted(chosen)
