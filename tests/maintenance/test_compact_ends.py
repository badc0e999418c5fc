"""Compaction ends, whatever the database is like, and finds nothing to do right after it has ended."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ebooklet_tx.local.journal.entries import entries_where
from ebooklet_tx.maintenance import compact as compacting
from ebooklet_tx.maintenance.compact import compact
from tests.store_wrappers import PassingStore
from tests.yard import Yard, value

LONG = "long key " * 32


class Bounded(PassingStore):
    """Fails the test when more roots are put than a compaction can need."""

    commits = 0

    def _pass(self, kind: str, key: str, send: Callable[[], Any]) -> Any:
        if (kind, key) == ("put", "db"):
            self.commits += 1
            assert self.commits <= 20, "it commits without end"
        return send()


def compact_twice(yard: Yard, copy: str = "a", **options: Any) -> int:
    """Compacts, sees that nothing but places changed and nothing is left to do; returns the commits."""
    expected = yard.fresh_contents()
    first = yard.compact(copy, wrap=Bounded, **options)
    assert yard.fresh_contents() == expected
    assert yard.contents(copy) == expected
    again = yard.compact(copy, wrap=Bounded, **options)
    assert (again.commits, again.packs) == (0, 0)
    return first.commits


def test_keys_of_different_length_with_equal_values_at_any_share(tmp_path: Path) -> None:
    yard = Yard(tmp_path)
    yard.push({"a much longer key": value(1), "k": value(1), "other": value(2)})
    assert compact_twice(yard, live_share=1.0) <= 1


def test_long_keys_of_small_equal_values_by_default(tmp_path: Path) -> None:
    yard = Yard(tmp_path)
    numbers = {f"~{n}": str(n).encode() for n in range(150)}
    yard.push({"large": value(1)} | {f"{LONG}{key}": number for key, number in numbers.items()} | numbers)
    assert len(yard.keys("pack")) == 1
    assert compact_twice(yard) == 1


def test_equal_values_of_several_packs_are_packed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compacting, "PACK_BYTES", 13_000)
    yard = Yard(tmp_path)
    yard.push({f"{n}": value(n % 5) for n in range(5)})
    with yard.open("b") as other:
        other.update({f"x{n}": value(n % 5) for n in range(5)})
        other.changes().push()
    packs = [key.removeprefix("db.d/") for key in yard.keys("pack")]
    for size_bytes in (40_000, 13_000):
        monkeypatch.setattr(compacting, "PACK_BYTES", size_bytes)
        yard.compact(packs=packs)
    compact_twice(yard, live_share=1.0)


def test_small_packs_of_many_keys_are_joined_only_where_that_makes_fewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compacting, "MANY_SMALL_PACKS", 3)
    monkeypatch.setattr(compacting, "KEYS_PER_COMMIT", 5)
    yard = Yard(tmp_path)
    for number in range(4):
        yard.push({f"{number} {n}": value((number, n)) for n in range(3)})
    assert compact_twice(yard) == 0
    monkeypatch.setattr(compacting, "KEYS_PER_COMMIT", 6)
    assert compact_twice(yard) > 0
    assert len({row.remote_object for row in _rows(yard)}) < 4


def _rows(yard: Yard) -> list[Any]:
    with yard.open("looker", "r") as db:
        return list(entries_where(db._session.journal, "remote_object IS NOT NULL"))


def test_a_pack_that_another_writer_always_makes_hollow_is_written_twice_at_most(tmp_path: Path) -> None:
    yard = Yard(tmp_path)
    yard.push({f"k{n}": value(n) for n in range(9)})
    yard.push({f"k{n}": value(("new", n)) for n in range(6)})
    puts = 0

    class Beaten(PassingStore):
        def _pass(self, kind: str, key: str, send: Callable[[], Any]) -> Any:
            nonlocal puts
            if kind == "put" and key.startswith("db.d/pack/"):
                puts += 1
                assert puts <= 8, "it commits without end"
                yard.push({f"k{n}": f"his {puts} {n}".encode() for n in range(8)}, "b")
            return send()

    with yard.open("a", "w", wrap=Beaten) as db:
        compact(db._session, live_share=1.0)
    assert yard.verify(read_values=True).sound


def _random_push(source: random.Random, yard: Yard, known: set[str]) -> None:
    values: dict[str, bytes | None] = {}
    for _ in range(source.randrange(1, 12)):
        key = source.choice(["k", "key ", LONG, "ключ " * 40]) + str(source.randrange(12))
        size_bytes = source.choice([0, 1, 30, 3000, 9000])
        values[key] = value(source.randrange(4), size_bytes)
    for key in source.sample(sorted(known), min(len(known), source.randrange(3))):
        values[key] = None
    yard.push(values, source.choice("ab"))
    known.difference_update(key for key, one in values.items() if one is None)
    known.update(key for key, one in values.items() if one is not None)


@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(n, marks=pytest.mark.slow) for n in range(6, 60))])
def test_compacting_any_database_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    source = random.Random(seed)
    yard = Yard(tmp_path)
    monkeypatch.setattr(compacting, "MANY_SMALL_PACKS", source.choice([2, 3, 16]))
    monkeypatch.setattr(compacting, "KEYS_PER_COMMIT", source.choice([3, 8, 100_000]))
    monkeypatch.setattr(compacting, "PACKS_PER_COMMIT", source.choice([1, 2, 500]))
    pack_bytes = source.choice([12_000, 40_000, 2**24])
    monkeypatch.setattr(compacting, "PACK_BYTES", pack_bytes)
    monkeypatch.setattr(compacting, "SMALL_PACK_BYTES", pack_bytes // 4)
    known: set[str] = set()
    for _ in range(source.randrange(2, 6)):
        _random_push(source, yard, known)
    compact_twice(yard, source.choice("ab"), live_share=source.choice([0.0, 0.3, 0.5, 0.9, 1.0]))
