from __future__ import annotations

from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from tests.mutants.__main__ import ROOT, drawn, equivalents
from tests.mutants.making import mutants_of
from tests.mutants.mapping import Atlas, Maps

if TYPE_CHECKING:
    from pathlib import Path

    from tests.mutants.making import Mutant

PATH = "annolab_async/_shop.py"


def made(source: str) -> list[Mutant]:
    return mutants_of(dedent(source).encode(), PATH)


@pytest.mark.parametrize(
    ("line", "others"),
    [
        ("return a < b", {"return None", "return a <= b", "return a >= b"}),
        ("return a is not b", {"return None", "return a is b"}),
        ("if a and b: pass", {"if not (a and b): pass", "if a or b: pass"}),
        ("while not a: b = 7", {"while a: b = 7", "while not a: b = 8", "while not a: b = 0"}),
        ("b = min(a, 500)", {"b = max(a, 500)", "b = min(a, 1000)", "b = min(a, 0)"}),
        ("b = -a * 0.5", {"b = a * 0.5", "b = -a / 0.5", "b = -a * 1.0", "b = -a * 0.0"}),
        ("a.b = True", {"pass", "a.b = False"}),
        ("await a.close()", {"pass"}),
        ("async with a: b()", {"if True: b()", "async with a: pass"}),
        ("raise KeyError(a)", {"pass"}),
        ("b += a", {"pass", "b -= a"}),
        ("b = a['id']", {'b = a[""]'}),
        ("for a in b: continue", {"for a in b: break"}),
        ("b = [a for a in b if a.ok]", {"b = [a for a in b if not (a.ok)]"}),
        ("b = a in b if a else 0", {
            "b = a not in b if a else 0", "b = a in b if not (a) else 0", "b = a in b if a else 1"
        }),
    ],
)  # fmt: skip
def test_a_line_has_its_mutants(line: str, others: set[str]) -> None:
    source = f"async def f(a, b):\n    {line}\n"
    mutants = mutants_of(source.encode(), PATH)
    applied = [mutant.applied(source.encode()).decode() for mutant in mutants]
    assert {text.split("\n")[1].strip() for text in applied} == others
    assert all(mutant.is_change(source.encode()) for mutant in mutants)


def test_what_no_behaviour_hangs_on_has_no_mutants() -> None:
    assert not made("""
        __all__ = ["Shop"]
        Price = int | None
        _log = logging.getLogger("shop")
        if TYPE_CHECKING:
            WIDTH = 3

        class Sells(Protocol):
            limit: int = 3

        @frozen(kw_only=True)
        class Shop:
            '''One.'''
            kind: Literal["new", "used"]

            def __repr__(self):
                return "Shop"

            def sell(self, price: "int", *, note=f"{1}"):
                '''Sell.'''
                _log.info("%s", price, extra={"price": 3})
                message = "too dear"
                kind = cast("int", message)
        """)


def test_a_default_is_run_by_who_runs_the_body() -> None:
    (mutant,) = made("""
        def sell(
            price=3_000,
        ):
            pay(price)
        """)[:1]
    assert (mutant.line, mutant.old, mutant.lines) == (3, "3_000", (5, 5))


def test_a_change_of_a_header_is_run_by_it_alone() -> None:
    mutants = made("""
        def sell(price):
            if (
                price
                < 3
            ):
                pay()
        """)
    assert {mutant.lines for mutant in mutants if mutant.old == "<"} == {(3, 6)}


def test_a_sample_stays_the_same_when_other_lines_change() -> None:
    lines = ["    a = a + 1", "    a = a + 1", "    b = a < 2", "    return f(a, 3)"]
    before = made("\n".join(["def f(a):", *lines]))
    after = made("\n".join(["import sys", "def f(a):", "    a.b = None", *lines]))
    ranks = {mutant.rank(7) for mutant in before}
    assert len(ranks) == len(before)
    assert ranks < {mutant.rank(7) for mutant in after}
    assert ranks.isdisjoint(mutant.rank(8) for mutant in before)


def test_paths_and_seed_say_which_mutants_are_drawn() -> None:
    path = "annolab_async/_mailbox.py"
    sample = drawn([path], 5, 7)
    assert len(sample) == 5
    assert sample == drawn([path], 5, 7) != drawn([path], 5, 8)
    line = sample[0].line
    assert {mutant.line for mutant in drawn([f"{path}:{line}"], 99, 7)} == {line}


def test_every_equivalent_mutant_is_one() -> None:
    entries = equivalents()
    every = {
        (mutant.path, mutant.text, mutant.old, mutant.new)
        for path in sorted({entry["path"] for entry in entries})
        for mutant in mutants_of((ROOT / path).read_bytes(), path)
    }
    strays = [
        entry
        for entry in entries
        if (entry["path"], entry["line"], entry["old"], entry["new"]) not in every
    ]
    assert not strays
    assert all(entry["why"] for entry in entries)


SOURCE = (
    b"LIMIT = 3\n\n\ndef sell(price):\n    return price < LIMIT\n\n\ndef buy():\n    return 1\n"
)


@pytest.fixture
def maps(tmp_path: Path) -> Maps:
    (tmp_path / "annolab_async").mkdir()
    (tmp_path / PATH).write_bytes(SOURCE)
    (tmp_path / "test_shop.py").write_bytes(b"")
    maps = Maps(tmp_path, tmp_path / "maps")
    # A bit for each line.
    ran = {"": {PATH: "112"}}
    ran |= {"test_sell": {PATH: "20"}, "test_buy": {PATH: "200"}}
    tests = {"test_sell": 0.2, "test_buy": 0.1}
    maps.keep("test_shop.py", {"tests": tests, "ran": ran, "sources": [PATH]}, tmp_path)
    return maps


def map_of_a_file_that_buys_on_import(maps: Maps) -> None:
    (maps.root / "test_bought.py").write_bytes(b"")
    ran: dict[str, dict[str, str]] = {"": {PATH: "312"}, "test_bought": {}}
    found = {"tests": {"test_bought": 0.01}, "ran": ran, "sources": [PATH]}
    maps.keep("test_bought.py", found, maps.root)


def tried_by(atlas: Atlas, old: str) -> list[str]:
    mutants = mutants_of(atlas.sources[PATH], PATH)
    mutant = next(mutant for mutant in mutants if mutant.old == old)
    return [cost.test for cost in atlas.tests_of(mutant)]


def test_a_mutant_is_tried_by_the_tests_that_run_its_line(maps: Maps) -> None:
    atlas = maps.read(["test_shop.py"])
    assert tried_by(atlas, "<") == ["test_sell"]
    assert tried_by(atlas, "1") == ["test_buy"]


def test_a_constant_is_tried_by_the_tests_that_use_it(maps: Maps) -> None:
    assert tried_by(maps.read(["test_shop.py"]), "3") == ["test_sell"]


def test_what_a_test_file_runs_on_import_is_tried_by_its_tests_last(maps: Maps) -> None:
    map_of_a_file_that_buys_on_import(maps)
    atlas = maps.read(["test_shop.py", "test_bought.py"])
    assert tried_by(atlas, "1") == ["test_buy", "test_bought"]
    assert tried_by(atlas, "<") == ["test_sell"]


def test_a_constant_is_tried_by_tests_that_run_nothing_too(maps: Maps) -> None:
    (maps.root / "test_definitions.py").write_bytes(b"")
    ran: dict[str, dict[str, str]] = {"": {PATH: "112"}, "test_limit": {}}
    found = {"tests": {"test_limit": 0.01}, "ran": ran, "sources": [PATH]}
    maps.keep("test_definitions.py", found, maps.root)
    atlas = maps.read(["test_shop.py", "test_definitions.py"])
    assert tried_by(atlas, "3") == ["test_limit", "test_sell"]
    assert tried_by(atlas, "<") == ["test_sell"]


def test_lines_that_moved_are_found_in_the_map_of_an_older_source(maps: Maps) -> None:
    (maps.root / PATH).write_bytes(b"import sys\n\n" + SOURCE)
    atlas = maps.read(["test_shop.py"])
    assert tried_by(atlas, "<") == ["test_sell"]
    assert tried_by(atlas, "1") == ["test_buy"]


@pytest.mark.parametrize(("before", "after"), [("", "    price *= 2\n"), ("    price *= 2\n", "")])
def test_a_new_line_is_tried_first_by_the_tests_of_the_lines_around(
    before: str, after: str, maps: Maps
) -> None:
    line = "    return price < LIMIT\n"
    new = SOURCE.replace(line.encode(), f"{before}{line}{after}".encode())
    (maps.root / PATH).write_bytes(new)
    assert tried_by(maps.read(["test_shop.py"]), "2")[0] == "test_sell"


def test_a_test_file_is_mapped_anew_when_it_has_changed(maps: Maps) -> None:
    assert maps.is_current("test_shop.py")
    (maps.root / "test_shop.py").write_bytes(b"# more")
    assert not maps.is_current("test_shop.py")
    assert not maps.is_current("test_other.py")
