"""Which places of an object are read by one request."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import NamedTuple

import pytest

from ebooklet_tx.sync.read import near_ranges as module
from ebooklet_tx.sync.read.near_ranges import near_ranges, span_of

GAP, MOST = 10, 100


class Place(NamedTuple):
    offset_bytes: int
    length_bytes: int


@pytest.fixture(autouse=True)
def _small_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JOIN_GAP_BYTES", GAP)


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([], []),
        ([(0, 5)], [[(0, 5)]]),
        ([(0, 5), (5, 5), (20, 5)], [[(0, 5), (5, 5), (20, 5)]]),
        ([(0, 5), (16, 5)], [[(0, 5)], [(16, 5)]]),
        # Far from the object's beginning is no gap.
        ([(5000, 5), (5005, 5)], [[(5000, 5), (5005, 5)]]),
        # One that reaches over others counts to its own end.
        ([(0, 50), (10, 5), (58, 5)], [[(0, 50), (10, 5), (58, 5)]]),
        ([(0, 60), (60, 40), (100, 1)], [[(0, 60), (60, 40)], [(100, 1)]]),
        # One that is longer than any group is a group alone.
        ([(0, 5), (5, 500), (505, 5)], [[(0, 5)], [(5, 500)], [(505, 5)]]),
        ([(7, 0), (7, 0), (7, 3)], [[(7, 0), (7, 0), (7, 3)]]),
    ],
)
def test_groups(places: list[tuple[int, int]], expected: list[list[tuple[int, int]]]) -> None:
    assert list(near_ranges([Place(*place) for place in places], MOST)) == expected


def test_a_span_reaches_to_the_furthest_end() -> None:
    assert span_of([Place(3, 50), Place(10, 5)]) == (3, 50)


def test_nothing_is_lost_and_no_group_is_too_long_or_could_be_joined() -> None:
    chance = random.Random(7)
    for _ in range(300):
        places = sorted(Place(chance.randrange(600), chance.randrange(150)) for _ in range(chance.randrange(20)))
        groups = list(near_ranges(places, MOST))
        assert [place for group in groups for place in group] == places
        assert all(len(group) == 1 or span_of(group)[1] <= MOST for group in groups)
        for before, after in pairwise(groups):
            start, length = span_of(before)
            gap = after[0].offset_bytes - start - length
            assert gap > GAP or span_of([*before, after[0]])[1] > MOST
