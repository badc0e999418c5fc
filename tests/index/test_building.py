"""Commits, tails, runs and merges: whatever is merged, each commit's index says what was committed."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from ebooklet_tx.formats.index_records import RunList
from ebooklet_tx.index.lookup import lookup_in, scan_of
from ebooklet_tx.index.merging import MergeRules
from tests.index.commits import ROOT, IndexOfCommits

KEYS = [*"abcdefghijklmnop", "", "ab", "a\0", "é", "\U0001f600", "\uffff"]


def check(index: IndexOfCommits) -> None:
    """Holds the newest commit's index to the truth, and to the invariants of runs."""
    truth, reader = index.states[-1], index.reader()
    found = lookup_in(index.tail, ROOT, index.runs, reader, [*KEYS, "nothing", "zz"])
    assert {key: item.row.value for key, item in found.items() if item.row.digest is not None} == truth
    rows = list(scan_of(index.tail, ROOT, index.runs, reader))
    assert [item.row.key for item in rows] == sorted({item.row.key for item in rows})
    assert {item.row.key: item.row.value for item in rows if item.row.digest is not None} == truth
    above = {} if index.tail is None else {row.key: row.seq for row in index.tail.rows()}
    for entries in index.entries():
        here = {}
        for one, other in pairwise(entries):
            assert one.hi is not None
            assert one.hi <= other.lo
        for entry in entries:
            inside = list(reader.scan([entry]))
            count = 0
            for begin, end, _, block in inside:
                for row in block.rows(begin, end):
                    count += 1
                    here[row.key] = row.seq
                    assert row.seq <= entry.greatest_seq
            assert 0 < count <= entry.row_count
        for key, seq in here.items():
            assert above.get(key, seq + 1) > seq
            above[key] = seq


def check_difference(index: IndexOfCommits) -> None:
    """From each base at or above the floor, the rows of later commits are the whole difference."""
    rows = [item.row for item in scan_of(index.tail, ROOT, index.runs, index.reader())]
    for seq in range(index.floor_seq, index.seq + 1):
        state = dict(index.states[seq])
        for row in rows:
            if row.seq > seq:
                state.pop(row.key, None)
                if row.digest is not None:
                    state[row.key] = row.value or b""
        assert state == index.states[-1], f"from commit {seq}, floor {index.floor_seq}"


@pytest.mark.parametrize("seed", range(60))
def test_random_commits(seed: int) -> None:
    dice = random.Random(seed)
    index = IndexOfCommits()
    keys = dice.sample(KEYS, dice.randint(2, len(KEYS)))
    horizon = dice.choice([0, 2, 10, 1000])
    max_runs = dice.choice([1, 3, 8])
    for _ in range(dice.randint(5, 40)):
        changes = {
            key: None if dice.random() < 0.3 else bytes([dice.randrange(256)]) * dice.randint(0, 3)
            for key in dice.sample(keys, dice.randint(0, min(6, len(keys))))
        }
        rules = MergeRules(
            budget_bytes=dice.choice([0, 400, 1500, 10**6]),
            horizon_seq=index.seq - horizon,
            ratio=dice.choice([1, 2, 4]),
            max_runs=max_runs,
        )
        index.commit(changes, rules)
        assert len(index.runs) <= max_runs
        check(index)
        check_difference(index)


def test_a_long_list_of_entries_is_written_apart() -> None:
    index = IndexOfCommits()
    index.commit({f"{n:04}": b"x" for n in range(400)}, MergeRules(10**9, 0))
    assert isinstance(index.runs[0], RunList)
    found = lookup_in(index.tail, ROOT, index.runs, index.reader(), [f"{n:04}" for n in range(0, 500, 7)])
    assert sorted(found) == [f"{n:04}" for n in range(0, 400, 7)]
    index.commit({f"{n:04}": b"y" for n in range(5)}, MergeRules(10**9, 0))
    assert len(list(scan_of(index.tail, ROOT, index.runs, index.reader()))) == 400


def test_a_merge_rewrites_no_more_than_its_budget() -> None:
    index = IndexOfCommits()
    index.commit({f"{n:04}": b"x" * 20 for n in range(400)}, MergeRules(10**9, 0))
    budget = 3000
    worst = 0
    for n in range(60):
        before = index.written_bytes
        index.commit(
            {f"{(n * 37) % 400:04}": b"y", f"{(n * 59) % 400:04}": b"z", f"{n:04}a": b"n"}, MergeRules(budget, 0)
        )
        worst = max(worst, index.written_bytes - before)
    assert worst < 3 * budget
