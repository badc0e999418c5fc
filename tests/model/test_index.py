"""The rules of the index: with all of them no program breaks a promise, and each is needed.

Random programs are held against whole commits after each step. A rule that is switched off must be found out, or
the programs would prove nothing.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from unittest import mock

import pytest

from ebooklet_tx.index import difference
from ebooklet_tx.index.difference import changed_rows
from tests.campaigns import CI, amounts
from tests.index.commits import ROOT, IndexOfCommits, row_of
from tests.model.index_needs import NEEDED, SWEEP, beside, does, gets, pushes, puts
from tests.model.index_programs import random_program, shortened, varied
from tests.model.index_rules import OFF, without
from tests.model.index_world import Program, Step, World, failure

pytestmark = pytest.mark.filterwarnings("ignore")

STEPS = 25


def holds(program: Program, counts: Counter[str]) -> None:
    """Runs a program, and the same shortened where it fails, to tell about."""
    with World() as world:
        try:
            world.run(program)
            world.finish()
        except Exception as error:
            short = shortened(program, lambda steps: failure(steps) is not None)
            told = "\n".join(map(repr, short))
            raise AssertionError(f"{failure(short)} after\n{told}") from error
        counts.update(world.counts)


def run_many(seeds: range, steps: int, capsys: pytest.CaptureFixture[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for seed in seeds:
        program = random_program(random.Random(seed), steps)
        counts["steps"] += len(program)
        holds(program, counts)
    with capsys.disabled():
        print(f"\n{len(seeds)} programs: {', '.join(f'{counts[name]} {name}' for name in sorted(counts))}")
    return counts


@pytest.mark.parametrize("programs", amounts(3, 60))
def test_random_programs_break_no_promise(programs: int, capsys: pytest.CaptureFixture[str]) -> None:
    counts = run_many(range(programs), STEPS, capsys)
    assert min(counts["commits"], counts["get"], counts["keys"], counts["len"]) > 0


@pytest.mark.slow
@pytest.mark.parametrize("variants", [pytest.param(2, marks=pytest.mark.ci), 25])
def test_what_is_near_a_known_program_breaks_no_promise(variants: int) -> None:
    counts: Counter[str] = Counter()
    for rule, program in NEEDED.items():
        for seed in range(variants):
            holds(varied(random.Random(f"{rule} {seed}"), program), counts)


@pytest.mark.slow
@pytest.mark.parametrize("rule", OFF)
def test_a_rule_that_is_off_is_found_out_in_what_is_near(rule: str) -> None:
    programs = [varied(random.Random(f"{rule} {seed}"), NEEDED[rule]) for seed in range(5)]
    with without(rule):
        assert any(failure(program) for program in programs)


@pytest.mark.slow
def test_many_random_programs_break_no_promise(capsys: pytest.CaptureFixture[str]) -> None:
    counts = run_many(range(1000, 1600), 40, capsys)
    seen = ("conflicts", "resolved", "cut off", "landed", "deleted", "rewind", "new", "compact")
    assert all(counts[name] > 30 for name in seen), counts


def test_a_program_is_known_for_each_rule() -> None:
    assert NEEDED.keys() == OFF.keys()


@pytest.mark.parametrize("rule", OFF)
def test_a_rule_that_is_off_is_found_out(rule: str) -> None:
    program = NEEDED[rule]
    assert failure(program, finish=False) is None
    with without(rule):
        problem = failure(program, finish=False)
    print(problem)
    assert problem is not None, "nobody noticed"


BEGIN = [*pushes("a", "a1 b1 c1"), gets("b", "a")]
"""What every program of the alphabet begins with."""

ALPHABET: dict[str, list[Step]] = {
    "a writes": puts("a", "a2"),
    "a deletes": puts("a", "b-"),
    "a pushes much": pushes("a", "a1 b2 c2", merging="all"),
    "a pushes": does("a", "push"),
    "a pushes unanswered": [Step("a", "push", fate="unanswered")],
    "a pushes late": [Step("a", "push", fate="late")],
    "it lands": does("a", "land"),
    "a compacts": does("a", "compact"),
    "a begins anew": does("a", "new"),
    "it is collected": SWEEP,
    "b writes": puts("b", "a3"),
    "b forgets": does("b", "forget"),
    "b pulls": does("b", "pull"),
    "b pushes": does("b", "push"),
    "b insists": [Step("b", "push", choice="ours")],
    "b reads": [*does("b", "len", "keys"), gets("b", "b")],
}


@pytest.mark.slow
@pytest.mark.parametrize("depth", [*(pytest.param(depth, marks=pytest.mark.ci) for depth in (1, 2)), 3])
def test_every_program_of_a_small_alphabet_breaks_no_promise(depth: int) -> None:
    counts: Counter[str] = Counter()
    for words in itertools.product(ALPHABET.values(), repeat=depth):
        holds([*BEGIN, *itertools.chain.from_iterable(words)], counts)


def nothing_vanishes(what: str, at: int, key: str = "") -> bool:
    """Others push, merge, compact and collect while a copy reads; returns whether it read for so long."""
    others = [
        *pushes("a", "a2 c- e3", merging="all"),
        *does("c", "compact"),
        *SWEEP,
        *pushes("c", "b3 d2 f-", merging="some"),
        *SWEEP,
    ]
    begin = [*pushes("a", "a1 b1 c1"), *pushes("a", "d1 e1 f1"), *does("b", "pull", "forget")]
    with World() as world:
        world.run([*begin, beside("b", what, at, others, key=key)])
        return world.counts.get("deleted", 0) > 0


@pytest.mark.parametrize("at", [4, *(pytest.param(at, marks=CI) for at in (1, 2, 3, *range(5, 11)))])
def test_a_reader_that_stands_on_a_base_sees_no_key_vanish(at: int) -> None:
    assert nothing_vanishes("keys", at)


@pytest.mark.parametrize("at", [1, pytest.param(2, marks=CI)])
@pytest.mark.parametrize("key", ["b", pytest.param("e", marks=CI)])
def test_a_reader_that_stands_on_a_base_finds_a_key(key: str, at: int) -> None:
    assert nothing_vanishes("get", at, key)


class _All:
    """Something is held of every key."""

    def any_in(self, lo: str, hi: str | None) -> bool:
        return True

    def of(self, keys: Sequence[str]) -> set[str]:
        return set(keys)


def test_a_pull_takes_in_later_rows_alone() -> None:
    """A merge that took one key's rows down beside an old row of another: the newer one lies in a run above."""
    index = IndexOfCommits()
    writer = index.writer()
    runs = (
        writer.entries([row_of("a", 5, b"new")]),
        writer.entries([row_of("a", 1, b"old"), row_of("b", 9, b"new")]),
    )

    def told() -> dict[str, int]:
        found = changed_rows(None, ROOT, runs, index.reader(), since_seq=6, holdings=_All())
        return {key: item.row.seq for key, item in found.items()}

    assert told() == {"b": 9}
    with mock.patch.object(difference, "later_rows", lambda rows, seq: list(rows)):
        assert told() == {"a": 1, "b": 9}, "the filter is not needed"
