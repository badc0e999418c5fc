"""What `diff` tells, and what it costs."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx
from ebooklet_tx.errors import InvalidArgumentError, OfflineError, RemoteMissingError
from ebooklet_tx.formats.index_records import RunList, Sizes
from ebooklet_tx.index import reader
from ebooklet_tx.index.writing import RunWriter
from ebooklet_tx.sync.commit import publish
from tests.campaigns import amounts
from tests.doors import open_database
from tests.pairs import index_of, limit_tails
from tests.store_wrappers import CountingStore
from tests.yard import Yard, value


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path)


def told(changes: Any) -> list[tuple[str, str]]:
    return [tuple(change) for change in changes]


def expected(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> list[tuple[str, str]]:
    found = []
    for key in sorted({*before, *after}):
        if key not in before:
            found.append((key, "added"))
        elif key not in after:
            found.append((key, "removed"))
        elif before[key] != after[key]:
            found.append((key, "changed"))
    return found


# -- what is pending ------------------------------------------------------------------------------


def test_what_is_pending(yard: Yard) -> None:
    yard.push({"a": b"1", "b": b"2", "c": b"3", "same": b"4"})
    with yard.open("fresh") as db:
        assert told(db.diff()) == []
        db["a"] = b"new"
        db["d"] = b"5"
        db["same"] = b"4"
        del db["b"]
        db["gone"] = b"6"
        del db["gone"]
        db.set_metadata({"owner": "me"})
        assert told(db.diff()) == [("a", "changed"), ("b", "removed"), ("d", "added")]
        assert next(iter(db.diff())).kind == "changed"
        db.changes().push()
        assert told(db.diff()) == []


def test_what_is_pending_in_a_database_that_was_never_pushed(yard: Yard) -> None:
    with yard.open() as db:
        db["a"] = b"1"
        assert told(db.diff()) == [("a", "added")]
        with pytest.raises(RemoteMissingError, match="stands on no commit yet"):
            db.diff(1)


def test_offline_a_key_that_cannot_be_looked_up_was_set(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_tails(monkeypatch, 300)
    yard.push({f"k{number}": value(number, 50) for number in range(60)})
    yard.contents("fresh")
    with yard.open("other", "r"):
        pass
    with yard.open("other", offline=True) as db:
        db["k3"] = b"2"
        assert told(db.diff()) == [("k3", "set")]
    with yard.open("fresh", offline=True) as db:
        db["k3"] = b"2"
        assert told(db.diff()) == [("k3", "changed")]


def test_what_replaces_a_remote_is_new(yard: Yard) -> None:
    yard.push({"a": b"1"})
    with yard.open("b", "n") as db:
        db["a"] = b"2"
        assert told(db.diff()) == [("a", "added")]


def test_a_reader_sees_what_is_pending_too(yard: Yard) -> None:
    yard.push({"a": b"1"})
    with yard.open() as db:
        db["b"] = b"2"
    with yard.open(flag="r") as db:
        assert told(db.diff()) == [("b", "added")]


# -- commits and snapshots ---------------------------------------------------------------------------


@pytest.fixture
def days(yard: Yard) -> Yard:
    yard.push({"a": b"1", "b": b"2", "c": b"3"})
    with yard.open() as db:
        db.snapshot("monday")
    yard.push({"a": b"new", "b": None, "d": b"4"})
    yard.push({"e": b"5"})
    return yard


def test_snapshots_and_the_newest_commit(days: Yard) -> None:
    since = [("a", "changed"), ("b", "removed"), ("d", "added"), ("e", "added")]
    with days.open("fresh") as db:
        assert told(db.diff("monday")) == since
        assert told(db.diff("monday", 3)) == since
        assert told(db.diff("monday", db.history()[0].commit_id)) == since
        # The commit has a snapshot, by whatever name it is called.
        assert told(db.diff(1)) == told(db.diff(db.history()[-1].commit_id, 3)) == since
        kinds = {"added": "removed", "removed": "added", "changed": "changed"}
        assert told(db.diff(3, "monday")) == [(key, kinds[kind]) for key, kind in since]
        assert told(db.diff("monday", "monday")) == told(db.diff(3)) == []
        db["pending"] = b"6"
        assert told(db.diff("monday")) == since
        db.restore("monday")
        assert told(db.diff("monday")) == []


def test_of_a_commit_whose_state_is_not_kept_it_is_told_what_was_written_since(days: Yard) -> None:
    days.push({"c": None, "a": b"newest"})
    with days.open() as db:
        assert told(db.diff(2)) == [("a", "set"), ("c", "removed"), ("e", "set")]
        assert told(db.diff(3)) == [("a", "set"), ("c", "removed")]
        with pytest.raises(InvalidArgumentError, match="the state at commit 2 is not kept"):
            db.diff("monday", 2)
        with pytest.raises(InvalidArgumentError, match="the state at commit 3 is not kept"):
            db.diff(3, "monday")
        db.restore("monday")
        with pytest.raises(InvalidArgumentError, match="what was changed since commit 3 can't be told"):
            db.diff(3)


def test_what_there_is_not_is_refused_at_once(days: Yard) -> None:
    wrong: list[Any] = [0, -1, 4, "f" * 32, True, 1.5, "a/b", "sunday"]
    with days.open() as db:
        for which in wrong:
            error = RemoteMissingError if which == "sunday" else InvalidArgumentError
            for one, other in ((which, None), ("monday", which)):
                with pytest.raises(error):
                    db.diff(one, other)
        with pytest.raises(InvalidArgumentError, match="from which"):
            db.diff(None, "monday")


def test_a_session_at_a_snapshot_compares_with_it(days: Yard) -> None:
    with open_database(days.url, None, "r", at="monday", wrap_store=lambda _inner: days.store) as db:
        with days.open() as writer:
            writer.snapshot("now")
        assert told(db.diff("now")) == [("a", "changed"), ("b", "added"), ("d", "removed"), ("e", "removed")]


def test_a_state_that_is_gone_meanwhile_is_an_error(days: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_tails(monkeypatch, 300)
    days.push({f"k{number}": value(number, 100) for number in range(60)})
    with days.open("fresh") as db:
        for key in [key for key in days.store.objects if "/index/" in key]:
            days.store.delete(key)
        with pytest.raises(RemoteMissingError, match="is gone meanwhile"):
            list(db.diff("monday"))


def test_a_remote_that_cannot_be_reached_is_an_error(days: Yard) -> None:
    with days.open(offline=True) as db, pytest.raises(OfflineError):
        db.diff("monday")


# -- what it costs -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "list_bytes", "requests"),
    [
        # The snapshot's root, and the small index object of the key.
        (Sizes(block_rows=50, object_blocks=5), 2**20, 2),
        # The root, a page of the list, the object.
        (Sizes(block_rows=50, object_blocks=5, page_entries=3), 1, 3),
        # The root, the directory of a large object, the block of the key.
        (Sizes(block_rows=50, object_blocks=250), 2**20, 3),
    ],
    ids=["small objects", "a list", "one large object"],
)
def test_equal_blocks_are_not_read(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, sizes: Sizes, list_bytes: int, requests: int
) -> None:
    """Of 2,000 keys one was changed."""
    monkeypatch.setattr(reader, "SMALL_OBJECT_BYTES", 2**14)
    limit_tails(monkeypatch, 2000, run_list_bytes=list_bytes)
    monkeypatch.setattr(publish, "RunWriter", partial(RunWriter, sizes=sizes))
    yard.push({f"k{number:04}": value(number, 20) for number in range(2000)})
    with yard.open() as db:
        db.snapshot("before")
    yard.push({"k1000": b"changed"})
    with yard.open() as db:
        (run,) = index_of(db).manifest.runs
        assert isinstance(run, RunList) is (list_bytes == 1)
    whole_bytes = sum(len(yard.store.objects[key].data) for key in yard.keys("index"))
    counting = CountingStore(yard.store)
    with yard.open("fresh", "r", wrap=lambda _store: counting) as db:
        counting.reset()
        assert told(db.diff("before")) == [("k1000", "changed")]
        assert (counting.total, counting.log[0]) == (requests, ("get", "db.d/snapshot/before"))
        assert counting.bytes_down < whole_bytes / 4


def test_what_was_written_since_is_read_by_its_blocks(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 2,000 keys 100 that lie together were changed: their blocks are read, old and new."""
    monkeypatch.setattr(reader, "SMALL_OBJECT_BYTES", 2**14)
    limit_tails(monkeypatch, 2000)
    monkeypatch.setattr(publish, "RunWriter", partial(RunWriter, sizes=Sizes(block_rows=50, object_blocks=250)))
    yard.push({f"k{number:04}": value(number, 20) for number in range(2000)})
    with yard.open() as db:
        db.snapshot("before")
    yard.push({f"k{number:04}": value(-number, 20) for number in range(1000, 1100)})
    whole_bytes = max(len(yard.store.objects[key].data) for key in yard.keys("index"))
    counting = CountingStore(yard.store)
    with yard.open("fresh", "r", wrap=lambda _store: counting) as db:
        counting.reset()
        assert told(db.diff("before")) == [(f"k{number:04}", "changed") for number in range(1000, 1100)]
        # The snapshot's root, the new object, the old one's directory, and its blocks there in one range.
        assert counting.total == 4
        assert counting.bytes_down < whole_bytes / 3


def test_an_unchanged_state_costs_its_root_alone(days: Yard) -> None:
    with days.open() as db:
        db.snapshot("now")
    counting = CountingStore(days.store)
    with days.open("fresh", "r", wrap=lambda _store: counting) as db:
        counting.reset()
        assert told(db.diff("now")) == []
        assert counting.log == [("get", "db.d/snapshot/now")]


@pytest.mark.parametrize("seeds", amounts(quick=range(1), ci=range(1, 30)))
def test_random_histories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeds: Sequence[int]) -> None:
    """Over tiny blocks, lists and tails, and many merges, snapshots differ as their contents do."""
    for seed in seeds:
        limit_tails(monkeypatch, 400, run_list_bytes=1 if seed % 2 else 2**12)
        sizes = Sizes(block_rows=4, object_blocks=3, page_entries=2)
        monkeypatch.setattr(publish, "RunWriter", partial(RunWriter, sizes=sizes))
        folder = tmp_path / str(seed)
        folder.mkdir()
        _compare_a_history(Yard(folder), seed)


def _compare_a_history(yard: Yard, seed: int) -> None:
    source = random.Random(seed)
    states: dict[str, dict[str, bytes]] = {}
    content: dict[str, bytes] = {}
    with yard.open() as db:
        for day in range(6):
            for _ in range(source.choice([1, 5, 40])):
                key = f"k{source.randrange(80):02}"
                if source.random() < 0.3:
                    content.pop(key, None)
                    db.pop(key, None)
                else:
                    content[key] = db[key] = source.randbytes(source.choice([1, 100]))
            db.changes().push(force_push=True)
            if source.random() < 0.2:
                db.compact(live_share=1.0)
            states[f"day-{day}"] = dict(content)
            db.snapshot(f"day-{day}")
            if source.random() < 0.3:
                back = source.choice(sorted(states))
                db.restore(back)
                content = dict(states[back])
        for one, before in states.items():
            for other, after in states.items():
                assert told(db.diff(one, other)) == expected(before, after), (one, other)
        assert dict(db.items()) == content
        assert told(db.diff("day-3")) == expected(states["day-3"], content)
    assert yard.verify(read_values=True).sound


def test_a_change_is_a_plain_pair(days: Yard) -> None:
    with days.open() as db:
        (change, *_) = db.diff("monday")
        assert change == ebooklet_tx.KeyChange("a", "changed") == ("a", "changed")
