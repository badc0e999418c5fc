"""Dask: partitions go into forks, and one push commits all of them. Runs where Dask is installed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx
from ebooklet_tx import ConflictError
from ebooklet_tx import dask as ours
from ebooklet_tx.errors import InvalidArgumentError, InvalidTypeError, MissingPackageError
from tests.fleets import pushed_database

dask: Any = pytest.importorskip("dask")
bag: Any = pytest.importorskip("dask.bag")


@pytest.fixture
def db(tmp_path: Path) -> Iterator[ebooklet_tx.Database]:
    with pushed_database(tmp_path) as made:
        yield made


def numbers(count: int, partitions: int) -> Any:
    return bag.from_sequence(range(count), npartitions=partitions).map(lambda n: (f"k{n:03}", n))


def test_a_bag_becomes_one_commit(db: ebooklet_tx.Database, tmp_path: Path) -> None:
    pairs = numbers(100, 20)
    result = ours.store(pairs, db, scheduler="threads", split_every=3)
    assert (result.set_count, result.merged_count) == (100, pairs.npartitions)
    assert db.changes().push().seq == 2
    with ebooklet_tx.open(f"file://{tmp_path / 'remote' / 'db'}", None) as reader:
        assert dict(reader) == {"there": 0} | {f"k{n:03}": n for n in range(100)}


def test_delayed_partitions_and_empty_ones(db: ebooklet_tx.Database) -> None:
    def part(number: int) -> Iterator[tuple[str, int]]:
        yield from ((f"p{number}", each) for each in range(number))

    partitions = [dask.delayed(part)(number) for number in range(3)]
    assert ours.store(partitions, db, scheduler="sync").set_count == 2
    assert not ours.store([], db)
    assert ours.store(dask.delayed(part)(1), db, scheduler="sync", on_conflict="theirs").set_count == 1


def test_one_key_in_two_partitions(db: ebooklet_tx.Database) -> None:
    same = bag.from_sequence(range(2), npartitions=2).map(lambda n: ("k", n))
    with pytest.raises(ConflictError):
        ours.store(same, db, scheduler="sync")
    assert "k" not in db
    assert ours.store(same, db, scheduler="sync", on_conflict=lambda each: each.ours + each.theirs)
    assert db["k"] == 1


def test_a_task_that_fails_changes_nothing(db: ebooklet_tx.Database) -> None:
    failing = bag.from_sequence(range(4), npartitions=4).map(lambda n: (f"k{n}", 1 // (n - 2)))
    with pytest.raises(ZeroDivisionError):
        ours.store(failing, db, scheduler="threads")
    assert dict(db) == {"there": 0}


@pytest.mark.parametrize("item", ["ab", 5, ("a", 1, 2)])
def test_what_is_no_pair_is_refused(db: ebooklet_tx.Database, item: Any) -> None:
    with pytest.raises(InvalidTypeError, match="pairs of key and value, not a"):
        ours.store(bag.from_sequence([item], npartitions=1), db, scheduler="sync")
    assert "a" not in db


def test_what_is_refused(db: ebooklet_tx.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ([("k", 1)], {"k": 1}, "k", None):
        with pytest.raises(InvalidTypeError, match=r"takes a dask\.bag"):
            ours.store(wrong, db)
    for wrong in (1, True, 2.0):
        with pytest.raises(InvalidArgumentError):
            ours.store(numbers(1, 1), db, split_every=wrong)
    monkeypatch.setattr("importlib.import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(MissingPackageError, match=r"ebooklet-tx\[dask\]"):
        ours.store(numbers(1, 1), db)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_with_a_worker_that_dies(db: ebooklet_tx.Database, tmp_path: Path) -> None:
    distributed: Any = pytest.importorskip("distributed")
    died = tmp_path / "died"

    def fragile(number: int) -> tuple[str, int]:
        if number == 77 and not died.exists():
            died.touch()
            os._exit(1)
        return f"k{number:03}", number

    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        pairs = bag.from_sequence(range(100), npartitions=10).map(fragile)
        assert ours.store(pairs, db).set_count == 100
        db.changes().push()
        assert died.exists()
        tripled = db.map(lambda key, value: (key, 3 * value), executor=client.get_executor(), into=db.fork())
        assert db.merge(*tripled).set_count == 101
        db.changes().push()
    assert dict(db) == {"there": 0} | {f"k{n:03}": 3 * n for n in range(100)}
