"""Writes of keys that were never read: what another writer changed meanwhile is told as with a whole index.

The remote has a few hundred keys in tiny blocks, so that a copy knows little of its index.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from pathlib import Path

import booklet
import pytest

from ebooklet_tx.database import Database
from ebooklet_tx.errors import OfflineError
from ebooklet_tx.formats.index_records import Sizes
from ebooklet_tx.index.building import IndexLimits
from ebooklet_tx.index.merging import MergeRules
from ebooklet_tx.index.writing import RunWriter
from ebooklet_tx.sync.commit import builder, publish
from ebooklet_tx.sync.pull.conflicts import MISSING, ConflictError
from tests.pairs import Bench, pending

KEYS = [f"k{number:03}" for number in range(300)]
FIRST = {key: key.encode() for key in KEYS}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A remote of several runs, pushed by copy "a"; copy "b" has never read anything."""
    tiny = functools.partial(RunWriter, sizes=Sizes(block_rows=4, object_blocks=4, page_entries=4))
    monkeypatch.setattr(publish, "RunWriter", tiny)
    monkeypatch.setattr(
        builder, "IndexLimits", functools.partial(IndexLimits, tail_bytes=600, tail_rows=6, run_list_bytes=500)
    )
    monkeypatch.setattr(builder, "MergeRules", functools.partial(MergeRules, ratio=2))
    monkeypatch.setattr(builder, "MERGE_BYTES", 4000)
    bench = Bench(tmp_path)
    with bench.open("a") as db:
        for start in range(0, len(KEYS), 50):
            db.update({key: FIRST[key] for key in KEYS[start : start + 50]})
            db.changes().push()
    return bench


def by_another(bench: Bench, change: Callable[[Database], object]) -> None:
    with bench.open("a") as db:
        change(db)
        assert db.changes().push()


def check(db: Database, expected: dict[str, bytes]) -> None:
    assert list(db) == sorted(expected)
    assert len(db) == len(expected)
    assert dict(db.items()) == dict(sorted(expected.items()))
    for key in [*KEYS[::37], "new", "gone", "k017x"]:
        assert (key in db) == (key in expected)
        assert db.get(key) == expected.get(key)


def test_what_a_blind_writer_sees(bench: Bench) -> None:
    with bench.open("b") as db:
        db["k001"] = b"ours"
        db["k0015"] = b"between"
        db["new"] = b"ours"
        del db["k002"]
        db["gone"] = b"set and deleted"
        del db["gone"]
        expected = {**FIRST, "k001": b"ours", "k0015": b"between", "new": b"ours"}
        del expected["k002"]
        assert len(db) == len(expected)
        check(db, expected)
        db.sync()
        check(db, expected)
        result = db.changes().push()
        assert (result.set_count, result.deleted_count) == (3, 1)
        check(db, expected)
    assert bench.fresh_contents() == bench.contents("a") == expected


@pytest.mark.parametrize("pulls", [False, True])
def test_conflicts_are_those_of_keys_that_both_changed(bench: Bench, pulls: bool) -> None:
    def change(db: Database) -> None:
        db["k010"] = b"theirs"
        db["k011"] = b"theirs"
        del db["k012"]
        del db["k013"]
        db["new"] = b"theirs"
        db["k014"] = b"same"
        db["k100"] = b"theirs alone"

    with bench.open("b") as db:
        db["k010"] = b"ours"
        del db["k011"]
        db["k012"] = b"ours"
        del db["k013"]
        db["new"] = b"ours"
        db["k014"] = b"same"
        db["k020"] = b"ours alone"
        del db["k021"]
        db.sync()
        by_another(bench, change)
        if pulls:
            db.changes().pull()
            assert [conflict.key for conflict in db.changes().conflicts()] == ["k010", "k011", "k012", "new"]
        with pytest.raises(ConflictError) as caught:
            db.changes().push()
        conflicts = {conflict.key: conflict for conflict in caught.value.conflicts}
        assert list(conflicts) == ["k010", "k011", "k012", "new"]
        sides = {key: (each.base, each.ours, each.theirs) for key, each in conflicts.items()}
        assert sides == {
            "k010": (b"k010", b"ours", b"theirs"),
            "k011": (b"k011", MISSING, b"theirs"),
            "k012": (b"k012", b"ours", MISSING),
            "new": (MISSING, b"ours", b"theirs"),
        }
        assert set(pending(db)) == {"k010", "k011", "k012", "new", "k020", "k021"}
        expected = {**FIRST, "k010": b"ours", "k012": b"ours", "new": b"ours", "k014": b"same"}
        expected |= {"k020": b"ours alone", "k100": b"theirs alone"}
        for key in ("k011", "k013", "k021"):
            del expected[key]
        check(db, expected)
        assert db.changes().resolve({"k010": "theirs", "k011": "ours", "k012": "newest", "new": b"both"}) == 4
        expected |= {"k010": b"theirs", "new": b"both"}
        del expected["k012"]
        check(db, expected)
        assert db.changes().push()
        check(db, expected)
    assert bench.fresh_contents() == bench.contents("a") == expected


def test_a_base_is_that_of_the_time_of_the_write_whatever_is_pulled_in_between(bench: Bench) -> None:
    with bench.open("b") as db:
        db["k050"] = b"ours"
        db.sync()
        by_another(bench, lambda other: other.update({"k200": b"elsewhere"}))
        db.changes().pull()
        by_another(bench, lambda other: other.update({"k050": b"theirs"}))
        db["k050"] = b"ours again"
        del db["k060"]
        db.changes().pull()
        by_another(bench, lambda other: other.update({"k050": FIRST["k050"], "k060": b"theirs"}))
        db.changes().pull()
        # Another writer has put back what was there when this one wrote.
        assert [conflict.key for conflict in db.changes().conflicts()] == ["k060"]
        assert db.changes().conflicts()[0].base == b"k060"
        assert db.changes().discard(["k060"]) == 1
        check(db, {**FIRST, "k050": b"ours again", "k060": b"theirs", "k200": b"elsewhere"})
        assert db.changes().push().set_count == 1
    assert bench.fresh_contents() == {**FIRST, "k050": b"ours again", "k060": b"theirs", "k200": b"elsewhere"}


@pytest.mark.parametrize("key", ["new", "k100"])
def test_a_blind_write_that_booklet_deletes_keeps_the_base_that_it_had(bench: Bench, key: str) -> None:
    with bench.open("b") as db:
        db[key] = b"mine"
    with booklet.open(bench.path("b"), "w") as plain:
        del plain[key]
    by_another(bench, lambda db: db.set(key, b"theirs"))
    with bench.open("b") as db:
        if key in FIRST:
            with pytest.raises(ConflictError) as caught:
                db.changes().push()
            (conflict,) = caught.value.conflicts
            assert (conflict.base, conflict.ours, conflict.theirs) == (FIRST[key], MISSING, b"theirs")
        else:
            # It was set and deleted again, and never was in the remote.
            db.changes().pull()
            assert not list(db.changes().iter_changes())
            assert db[key] == b"theirs"


def test_discarded_blind_writes_leave_what_the_remote_has(bench: Bench) -> None:
    with bench.open("b") as db:
        db.update({"k001": b"ours", "new": b"ours"})
        del db["k002"]
        db.sync()
        by_another(bench, lambda other: other.update({"k001": b"theirs"}))
        db.changes().pull()
        assert db.changes().discard() == 3
        check(db, {**FIRST, "k001": b"theirs"})
        assert not db.changes().push()


def test_a_blind_write_of_a_key_that_a_replaced_remote_has_otherwise_is_a_conflict(bench: Bench) -> None:
    with bench.open("b") as db:
        db.update({"k001": b"ours", "k002": b"ours", "new": b"ours"})
        db.sync()
        with bench.open("c", "n") as other:
            other.update({"k001": b"k001", "k002": b"theirs"})
            assert other.changes().push()
        db.changes().pull()
        assert [conflict.key for conflict in db.changes().conflicts()] == ["k002"]
        check(db, {"k001": b"ours", "k002": b"ours", "new": b"ours"})
        assert db.changes().push(on_conflict="theirs").set_count == 2
        check(db, {"k001": b"ours", "k002": b"theirs", "new": b"ours"})
    assert bench.fresh_contents() == {"k001": b"ours", "k002": b"theirs", "new": b"ours"}


def test_offline_a_blind_write_is_kept_and_what_is_not_known_is_said(bench: Bench) -> None:
    with bench.open("b") as db:
        assert db["k000"] == b"k000"
    with bench.open("b", offline=True) as db:
        db["k150"] = b"ours"
        assert db["k150"] == b"ours"
        db.sync()
        with pytest.raises(OfflineError):
            len(db)
        with pytest.raises(OfflineError):
            db.get("k151")
    by_another(bench, lambda other: other.update({"k150": b"theirs"}))
    with bench.open("b") as db:
        assert [conflict.key for conflict in db.changes().conflicts()] == ["k150"]
        assert len(db) == len(KEYS)


@pytest.mark.parametrize("seed", range(4))
def test_random_blind_writes_agree_with_dicts(bench: Bench, seed: int) -> None:
    rng = random.Random(seed)
    remote, names = dict(FIRST), [*KEYS[:40], *(f"n{number}" for number in range(20))]
    base: dict[str, bytes | None] = {}
    ours: dict[str, bytes | None] = {}
    with bench.open("b") as db, bench.open("a") as other:
        for step in range(12):
            visible = {key: value for key, value in {**remote, **ours}.items() if value is not None}
            for key in rng.sample(names, 4):
                base.setdefault(key, remote.get(key))
                if key in visible and rng.random() < 0.4:
                    del db[key]
                    ours[key] = None
                else:
                    ours[key] = db[key] = b"ours %d" % step
            db.sync()
            for key in rng.sample(names, 3):
                if key in remote and rng.random() < 0.4:
                    del other[key], remote[key]
                else:
                    remote[key] = other[key] = b"theirs %d" % step
            assert other.changes().push()
            db.changes().pull()
            mine = {key for key in ours if remote.get(key) not in (base[key], ours[key])}
            expected = {key: value for key, value in {**remote, **ours}.items() if value is not None}
            assert {conflict.key for conflict in db.changes().conflicts()} == {
                key for key in mine if not (base[key] is None and ours[key] is None)
            }
            assert len(db) == len(expected)
            assert list(db) == sorted(expected)
            if step % 4 == 3:
                db.changes().push(on_conflict="ours")
                other.changes().pull()
                remote = expected
                base, ours = {}, {}
                assert dict(other.items()) == dict(db.items()) == expected
