"""What a push sends: requests and bytes go by what is pushed, and merging is bounded."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from ebooklet_tx.database import Database
from ebooklet_tx.sync.commit.builder import MERGE_BYTES
from tests.store_wrappers import CountingStore
from tests.yard import Yard

WRITES = ("put", "put_parts", "part")
ROOT_AND_TAIL_BYTES = 16 * 2**10
SLACK_BYTES = 64 * 2**10


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path)


def name(number: int) -> str:
    return f"station/{number:07}/temp"


def fill(db: Database, count: int) -> None:
    chance = random.Random(count)
    db.update({name(number): chance.randbytes(100) for number in range(count)})
    assert db.changes().push()


@pytest.mark.parametrize(
    "count",
    # Into a run that is less than eight times as long as the new one, the new one is merged at once.
    [20, 2_000, 10_000, pytest.param(200_000, marks=pytest.mark.slow)],
)
def test_a_push_of_few_keys_is_one_write(yard: Yard, count: int) -> None:
    chance = random.Random(1)
    counting = CountingStore(yard.store)
    with yard.open(wrap=lambda _inner: counting) as db:
        fill(db, count)
        for keys, writes, most_bytes in ((1, 1, 8_000), (10, 1, 12_000), (1_000, 3, 400_000)):
            counting.reset()
            numbers = chance.sample(range(count + 1_000), keys)
            db.update({name(number): chance.randbytes(100) for number in numbers})
            assert db.changes().push()
            assert sum(counting.requests[kind] for kind in WRITES) == writes
            # What the push needs of the index is at hand: it wrote it.
            assert (counting.total, counting.bytes_down) == (writes, 0)
            assert counting.bytes_up <= most_bytes


def pushes_of_one_key(yard: Yard, count: int, pushes: int) -> list[int]:
    """Pushes one key at a time; returns the bytes that each push sent."""
    chance = random.Random(2)
    counting = CountingStore(yard.store)
    sent = []
    with yard.open(wrap=lambda _inner: counting) as db:
        fill(db, count)
        for _ in range(pushes):
            counting.reset()
            db[name(chance.randrange(count))] = chance.randbytes(100)
            assert db.changes().push()
            sent.append(counting.bytes_up)
    expected = dict(yard.fresh_contents())
    with yard.open(flag="r") as db:
        assert dict(db.items()) == expected
    return sent


def is_bounded(sent: list[int]) -> None:
    """Holds what pushes sent to what they may send: 16 kB each on average, and the budget of a merge at most."""
    assert sum(sent) / len(sent) <= ROOT_AND_TAIL_BYTES
    assert max(sent) <= MERGE_BYTES + SLACK_BYTES


def test_pushes_of_one_key_stay_small(yard: Yard) -> None:
    sent = pushes_of_one_key(yard, 2_000, 150)
    is_bounded(sent)
    # At least one of them turned its tail into a run.
    assert max(sent) > 2 * min(sent)


@pytest.mark.slow
def test_many_pushes_of_one_key_stay_small(yard: Yard) -> None:
    is_bounded(pushes_of_one_key(yard, 20_000, 2_000))


def test_no_push_of_one_key_merges_more_than_the_budget(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    budget_bytes = 20_000
    monkeypatch.setattr("ebooklet_tx.sync.commit.builder.MERGE_BYTES", budget_bytes)
    monkeypatch.setattr("ebooklet_tx.sync.commit.builder.ROW_BYTES", 0)
    sent = pushes_of_one_key(yard, 2_000, 150)
    assert max(sent) <= budget_bytes + 2 * ROOT_AND_TAIL_BYTES
