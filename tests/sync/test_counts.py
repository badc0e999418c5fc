"""What work costs in requests and bytes: in proportion to what changed, not to what is there."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ebooklet_tx.database import reading
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.sync.read import visible_keys
from tests.pairs import Bench, root_of
from tests.store_wrappers import CountingStore

KEYS = 100_000
WRITES = ("put", "put_parts", "part", "delete", "copy")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A database of 100,000 keys of 100 bytes, pushed by copy "a"."""
    bench = Bench(tmp_path_factory.mktemp("large"))
    with bench.open("a") as db:
        for start in range(0, KEYS, 10_000):
            db.update({f"key {number:06}": b"%0100d" % number for number in range(start, start + 10_000)})
        db.changes().push()
    return bench


@pytest.fixture
def counts() -> list[CountingStore]:
    return []


@pytest.fixture
def counting(counts: list[CountingStore]) -> Callable[[ObjectStore], CountingStore]:
    def wrap(inner: ObjectStore) -> CountingStore:
        counts.append(CountingStore(inner))
        return counts[-1]

    return wrap


def tell(what: str, store: CountingStore) -> None:
    print(f"{what}: {dict(store.requests)}, {store.bytes_up} bytes up, {store.bytes_down} bytes down")


Wrap = Callable[[ObjectStore], CountingStore]


@pytest.mark.parametrize(("changed", "pushes"), [(1, 10), (10, 50)])
def test_a_push_costs_what_changed(
    large: Bench, counting: Wrap, counts: list[CountingStore], changed: int, pushes: int
) -> None:
    rng = random.Random(changed)
    most_up = most_writes = 0
    with large.open("a", "w", wrap_store=counting) as db:
        for _ in range(pushes):
            counts[0].reset()
            for number in rng.sample(range(KEYS), k=changed):
                db[f"key {number:06}"] = rng.randbytes(100)
            assert db.changes().push()
            most_up = max(most_up, counts[0].bytes_up)
            most_writes = max(most_writes, sum(counts[0].requests[kind] for kind in WRITES))
            assert counts[0].total == counts[0].requests["put"], "a push in a session asks nothing"
        tell(f"the last push of {changed} keys of {KEYS}", counts[0])
    print(f"at most: {most_writes} writes, {most_up} bytes up")
    # Fifty pushes of ten see the tail overflow into a run, and that together with the run below.
    assert most_writes == (2 if pushes == 50 else 1)
    assert most_up < 128 * 1024


def test_opening_unchanged_for_reading_is_one_request(
    large: Bench, counting: Wrap, counts: list[CountingStore]
) -> None:
    with large.open("a", "r", wrap_store=counting) as db:
        tell("open for reading, unchanged", counts[0])
        assert counts[0].log == [("get", "db")]
        assert counts[0].bytes_down == 0
        assert len(db["key 077777"]) == 100
        assert len(db) == KEYS
    assert counts[0].total == 1


def test_open_push_one_and_close(large: Bench, counting: Wrap, counts: list[CountingStore]) -> None:
    with large.open("a", "w", wrap_store=counting) as db:
        tell("open for writing, unchanged", counts[0])
        assert counts[0].total == 1
        db["key 000001"] = b"changed"
        assert db.changes().push()
    tell("open, push 1, close", counts[0])
    assert counts[0].total <= 3
    assert counts[0].bytes_up < 128 * 1024


def test_a_fresh_machine_reads_one_key(large: Bench, counting: Wrap, counts: list[CountingStore]) -> None:
    with large.open("cold", "r", wrap_store=counting) as db:
        assert len(db["key 077777"]) == 100
    tell("a fresh machine reads one key", counts[0])
    runs = len(root_of(large).manifest.runs)
    # The root, of each run a directory and a block or both at once, and the value's own range.
    assert counts[0].total <= 2 + 2 * runs
    assert counts[0].requests["get"] == 1
    assert sum("/pack/" in key for _, key in counts[0].log) == 1
    assert counts[0].bytes_down < 128 * 1024


def test_pulling_ten_keys_costs_ten_keys(
    large: Bench, counting: Wrap, counts: list[CountingStore], tmp_path: Path
) -> None:
    for path in (large.path("a"), large.journal("a")):
        shutil.copy(path, tmp_path / path.name)
    with large.open("a", "w") as db:
        db.update({f"key {number:06}": b"again" for number in range(10)})
        db.changes().push()
    behind = Bench(large.folder)
    behind.path = lambda copy="a": tmp_path / f"{copy}.blt"  # type: ignore[method-assign]
    with behind.open("a", "r", wrap_store=counting) as db:
        tell("pull of another's 10 keys", counts[0])
        assert db["key 000003"] == b"again"
    assert counts[0].total <= 2
    assert counts[0].bytes_down < 128 * 1024


def test_values_with_timestamps_take_no_more_requests_than_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counting: Wrap, counts: list[CountingStore]
) -> None:
    monkeypatch.setattr(visible_keys, "PAGE_KEYS", 10)
    monkeypatch.setattr(reading, "PAGE_KEYS", 10)
    bench = Bench(tmp_path)
    with bench.open("a") as db:
        db.update({f"{number:04}": b"%0500d" % number for number in range(400)})
        db.changes().push()
    for name, with_timestamps in (("b", False), ("c", True)):
        with bench.open(name, wrap_store=counting) as db:
            assert len(list(db.timestamps(include_value=True) if with_timestamps else db.items())) == 400
    items, timestamps = counts
    assert timestamps.requests == items.requests
