"""Which places of an object are read by one request."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import NamedTuple

import pytest

from ebooklet_tx.sync.read import near_ranges as module
from ebooklet_tx.sync.read.near_ranges import gap_to_join, near_ranges, span_of

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


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        ([], GAP),
        ([[(0, 5), (8, 5)], [(100, 5)]], GAP),
        # Six bytes may be read along in all: the gaps of 1 and 2, and one of 4 no more.
        ([[(0, 1), (2, 1), (7, 1)], [(50, 1), (53, 1)]], 3),
        ([[(0, 1), (5, 1), (10, 1)]], 3),
        # As much as is wanted may be read along as well.
        ([[(0, 9), (13, 9), (26, 9)]], GAP),
        # What is too far is no gap to read along, and what overlaps is none.
        ([[(0, 1), (500, 1), (503, 1)], [(0, 50), (10, 5), (51, 1)]], GAP),
    ],
)
def test_gaps_are_read_along_within_a_bound(
    objects: list[list[tuple[int, int]]], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ_ALONG_BYTES", 6)
    assert gap_to_join(objects) == expected


def test_a_thousand_values_among_a_million_are_read_by_few_requests_and_bytes() -> None:
    chance = random.Random(7)
    # Both of one pack of 12 MiB, and of packs with 140 bytes for each value.
    for size_bytes in (12_700_000, 140_000_000):
        places = sorted(Place(chance.randrange(size_bytes), 100) for _ in range(1000))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "JOIN_GAP_BYTES", 64 * 1024)
            groups = list(near_ranges(places, 8 * 2**20, gap_to_join([places])))
        assert sum(span_of(group)[1] for group in groups) < 6.5 * 2**20
        assert len(groups) < 800
