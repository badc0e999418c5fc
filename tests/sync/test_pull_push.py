"""Pull and push between copies of one database: replacements, remotes that went back, conflicts, fetching."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ebooklet_tx import ConflictError
from ebooklet_tx.errors import RemoteIntegrityError, RemoteMissingError, TransientStoreError
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.sync.pull.conflicts import find_conflicts
from ebooklet_tx.sync.read.reader import reader_of
from tests.pairs import LARGE, OLD_STAMP, Bench, history, make, many_large, pending, push, root_of
from tests.store_wrappers import CountingStore, Fault, HookedStore, faulty

LOST = TransientStoreError("the answer was lost")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


# -- flag n --------------------------------------------------------------------------------------


def test_an_empty_database_replaces_the_remote_in_one_step(bench: Bench) -> None:
    make(bench, {"old": LARGE})
    old_uuid = root_of(bench).manifest.uuid
    with bench.open("a", "n") as db:
        assert dict(db.items()) == {}
        db["new"] = b"1"
        assert bench.fresh_contents() == {"old": LARGE}
    # Not pushed yet: the intent survives the close.
    assert bench.fresh_contents() == {"old": LARGE}
    assert bench.contents("a") == {"new": b"1"}
    with bench.open("a", "w") as db:
        assert dict(db.items()) == {"new": b"1"}
        assert db.changes().push()
        assert not db.changes().push()
        db["more"] = b"2"
        assert db.changes().push()
    assert bench.contents("a") == bench.fresh_contents() == {"new": b"1", "more": b"2"}
    assert root_of(bench).manifest.uuid == old_uuid
    assert root_of(bench).manifest.seq == 3


def test_an_empty_database_may_replace_a_full_one(bench: Bench) -> None:
    make(bench, {"old": b"0"})
    with bench.open("a", "n") as db:
        assert db.changes().push()
    assert bench.fresh_contents() == {}


def test_an_empty_database_where_there_is_none(bench: Bench) -> None:
    with bench.open("a", "n") as db:
        db["k"] = b"1"
        assert db.changes().push()
    assert bench.fresh_contents() == {"k": b"1"}


@pytest.mark.parametrize("buried", [True, False])
def test_a_replacement_whose_answer_is_lost(bench: Bench, buried: bool) -> None:
    make(bench, {"old": b"0"}, "x")

    def lose() -> None:
        if buried:
            push(bench, "b", {"theirs": b"2"})
        raise LOST

    with bench.open("a", "n", wrap_store=lambda inner: HookedStore(inner, "db", after=lose)) as db:
        db["new"] = b"1"
        assert db.changes().push()
        assert not db.changes().push()
    assert bench.fresh_contents() == {"new": b"1"} | ({"theirs": b"2"} if buried else {})


@pytest.mark.parametrize("buried", [True, False])
def test_a_replacement_killed_after_its_swap(bench: Bench, buried: bool) -> None:
    make(bench, {"old": b"0"}, "x")
    killed = Fault(1, KeyboardInterrupt(), after=True, kind="put")
    with bench.open("a", "n", wrap_store=faulty(killed)) as db:
        db["new"] = b"1"
        with pytest.raises(KeyboardInterrupt):
            db.changes().push()
    if buried:
        push(bench, "b", {"theirs": b"2"})
    with bench.open("a", "w") as db:
        assert pending(db) == {}
        db.changes().push()
    assert bench.fresh_contents() == {"new": b"1"} | ({"theirs": b"2"} if buried else {})


def test_the_replaced_remote_moves_on_meanwhile(bench: Bench) -> None:
    make(bench, {"old": b"0"}, "x")

    def theirs() -> None:
        push(bench, "x", {"more": b"2"})

    with bench.open("a", "n", wrap_store=lambda inner: HookedStore(inner, "db", before=theirs)) as db:
        db["new"] = b"1"
        assert db.changes().push()
    assert bench.fresh_contents() == {"new": b"1"}


def test_a_commit_of_many_keys_does_not_join_the_tail(bench: Bench) -> None:
    values = {f"k{number:04}": number.to_bytes(4, "big") * 25 for number in range(1000)}
    make(bench, values)
    assert (len(root_of(bench).manifest.runs), root_of(bench).tail) == (1, b"")
    push(bench, "a", {"k0001": b"1"})
    assert root_of(bench).tail
    assert bench.root.stat().st_size < 4000
    assert bench.fresh_contents() == values | {"k0001": b"1"}


# -- a remote that is gone, or went back ---------------------------------------------------------


def test_a_deleted_remote_is_reported_and_written_anew_by_force(bench: Bench) -> None:
    values = {"small": b"0", "large": LARGE}
    make(bench, values | {"gone": b"1"})
    db = bench.open("a", "w")
    bench.root.unlink()
    with pytest.raises(RemoteMissingError, match="force_push"):
        db.changes().pull()
    db["new"] = b"1"
    del db["gone"]
    with pytest.raises(RemoteMissingError, match="force_push"):
        db.changes().push()
    assert dict(db.items()) == values | {"new": b"1"}
    for pack in bench.objects("pack"):
        pack.unlink()
    assert db.changes().push(force_push=True)
    db.close()
    assert bench.contents("a") == bench.fresh_contents() == values | {"new": b"1"}


def test_a_deleted_remote_is_reported_at_open(bench: Bench) -> None:
    make(bench, {"k": b"1"})
    bench.root.unlink()
    with pytest.raises(RemoteMissingError, match="is gone; everything that is local is kept"):
        bench.open("a", "r")
    with pytest.raises(RemoteMissingError, match=r"open it with flag 'c', and push\(force_push=True\)"):
        bench.open("a", "w")
    with bench.open("a", "c") as db:
        assert dict(db.items()) == {"k": b"1"}
        db["new"] = b"2"
        with pytest.raises(RemoteMissingError, match="force_push"):
            db.changes().push()
        assert db.changes().push(force_push=True)
    assert bench.fresh_contents() == {"k": b"1", "new": b"2"}
    bench.root.unlink()
    with pytest.raises(RemoteMissingError, match="flag 'c'"):
        bench.open("never there", "w")


def test_values_that_are_nowhere_any_more_stop_a_forced_push(bench: Bench) -> None:
    make(bench, {"here": b"0", "not here": LARGE})
    with bench.open("b", "w") as db:
        assert db["here"] == b"0"
        root = bench.root.read_bytes()
        bench.root.unlink()
        with pytest.raises(RemoteMissingError, match=r"of 1 of its keys .* 'not here'; nothing was changed"):
            db.changes().push(force_push=True)
        assert not bench.root.exists()
        assert pending(db) == {}
        # Restored from a backup: nothing was lost.
        bench.root.write_bytes(root)
        db.changes().pull()
        assert dict(db.items()) == {"here": b"0", "not here": LARGE}
        assert pending(db) == {}


def test_a_partial_copy_names_what_it_cannot_write_anew_and_can_go_on_without(bench: Bench) -> None:
    make(bench, {"here": b"0", **many_large(9)})
    with bench.open("b", "w") as db:
        db.set_metadata({"m": 1})
        assert (db["here"], len(db["k03"])) == (b"0", 40_000)
        del db["k04"]
        db["k05"] = b"set anew"
        shutil.rmtree(bench.folder / "remote")
        (bench.folder / "remote").mkdir()
        with pytest.raises(RemoteMissingError) as caught:
            db.changes().push(force_push=True)
        assert "of 6 of its keys" in str(caught.value)
        assert "'k00', 'k01', 'k02', 'k06', 'k07' and 1 more; nothing was changed" in str(caught.value)
        assert pending(db) == {"k04": "delete", "k05": "set"}
        assert not bench.root.exists()
        # The way out that it names.
        assert db.delete_remote().lost_keys == 6
        assert db.changes().push().set_count == 4
    expected = {"": {"m": 1}, "here": b"0", "k03": many_large(9)["k03"], "k05": b"set anew"}
    assert bench.fresh_contents() == bench.contents("b") == expected
    assert history(bench) == [(4, 0)]


def test_a_remote_that_went_back_is_read_anew(bench: Bench) -> None:
    make(bench, {"a": b"1", "b": b"1", "large": LARGE})
    old = bench.root.read_bytes()
    with bench.open("r1", "w") as reader:
        push(bench, "a", {"a": b"2", "b": None, "c": b"2", "large": b"small"})
        reader.changes().pull()
        reader["mine"] = b"pending"
        bench.root.write_bytes(old)
        reader.changes().pull()
        assert dict(reader.items()) == {"a": b"1", "b": b"1", "large": LARGE, "mine": b"pending"}
        assert len(reader) == 4
        assert reader.changes().push()
    assert (
        bench.contents("r1")
        == bench.fresh_contents()
        == {
            "a": b"1",
            "b": b"1",
            "large": LARGE,
            "mine": b"pending",
        }
    )
    assert bench.contents("a") == bench.contents("r1")


def test_a_remote_that_went_another_way(bench: Bench) -> None:
    make(bench, {"a": b"1"})
    with bench.open("b", "w"), bench.open("c", "w"):
        pass
    old = bench.root.read_bytes()
    push(bench, "b", {"from b": b"1"})
    bench.root.write_bytes(old)
    push(bench, "c", {"from c": b"1"})
    # Both roots have the same seq.
    assert bench.contents("b") == {"a": b"1", "from c": b"1"}


# -- conflicts -----------------------------------------------------------------------------------


def test_equal_content_is_no_conflict(bench: Bench) -> None:
    make(bench, {"k": b"0", "d": b"0"})
    with bench.open("a", "w") as a, bench.open("b", "w") as b:
        for db in (a, b):
            db.set("k", b"same", timestamp=OLD_STAMP)
            db["n"] = b"new and same"
            del db["d"]
        assert a.changes().push()
        assert not b.changes().push() or pending(b) == {}
        assert pending(b) == {}
        assert dict(b.items()) == {"k": b"same", "n": b"new and same"}
        assert len(b) == 2
    assert bench.fresh_contents() == {"k": b"same", "n": b"new and same"}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(b"ours", b"theirs"), (None, b"theirs"), (b"ours", None)],
    ids=["set-set", "delete-set", "set-delete"],
)
@pytest.mark.parametrize("way", ["force", "discard", "discard one"])
def test_conflicts_are_told_and_settled(bench: Bench, ours: bytes | None, theirs: bytes | None, way: str) -> None:
    make(bench, {"k": b"base", "calm": b"0"})
    with bench.open("a", "w") as db:
        if ours is None:
            del db["k"]
        else:
            db["k"] = ours
        db["calm"] = b"ours"
        push(bench, "b", {"k": theirs})
        with pytest.raises(ConflictError, match="'k'") as caught:
            db.changes().push()
        (conflict,) = caught.value.conflicts
        assert (conflict.ours_version.digest is None, conflict.theirs_version.digest is None) == (
            ours is None,
            theirs is None,
        )
        assert conflict.base_version.digest is not None
        assert conflict.theirs_version.writer
        assert [c.key for c in db.changes().conflicts()] == ["k"]
        # Told again, not lost.
        with pytest.raises(ConflictError):
            db.changes().push()
        assert db.get("k") == ours
        expected = {"calm": b"ours"}
        if way == "force":
            assert db.changes().push(force_push=True)
            winner = ours
        elif way == "discard one":
            assert db.changes().discard(["k", "never there"]) == 1
            assert db.changes().push()
            winner = theirs
        else:
            assert db.changes().discard() == 2
            assert not db.changes().push()
            winner = theirs
            expected["calm"] = b"0"
        if winner is not None:
            expected["k"] = winner
        assert db.changes().conflicts() == []
        assert dict(db.items()) == expected
    assert bench.contents("a") == bench.fresh_contents() == expected


def test_conflicts_of_new_keys_and_of_metadata(bench: Bench) -> None:
    make(bench, {"k": b"0"})
    with bench.open("a", "w") as a, bench.open("b", "w") as b:
        a["new"] = b"a"
        b["new"] = b"b"
        a.set_metadata("a")
        b.set_metadata("b")
        a.changes().push()
        with pytest.raises(ConflictError) as caught:
            b.changes().push()
        assert [conflict.key for conflict in caught.value.conflicts] == ["", "new"]
        b.changes().discard([""])
        b.changes().push(force_push=True)
    assert bench.fresh_contents() == {"k": b"0", "new": b"b", "": "a"}


def test_many_conflicts_are_summed_up(bench: Bench) -> None:
    keys = [f"k{number}" for number in range(8)]
    make(bench, dict.fromkeys(keys, b"0"))
    with bench.open("a", "w") as a:
        a.update(dict.fromkeys(keys, b"a"))
        push(bench, "b", dict.fromkeys(keys, b"b"))
        with pytest.raises(ConflictError, match="and 3 more"):
            a.changes().push()
        assert len(find_conflicts(reader_of(a._session), a._session.decode)) == 8


def test_a_conflict_in_the_timestamp_alone_is_none(bench: Bench) -> None:
    make(bench, {"k": b"0"})
    with bench.open("a", "w") as a:
        a["k"] = b"ours"
        with bench.open("b", "w") as b:
            b.set_timestamp("k", OLD_STAMP)
            b.changes().push()
        assert a.changes().push()
    assert bench.fresh_contents() == {"k": b"ours"}


# -- fetching ------------------------------------------------------------------------------------


def test_a_pack_gone_under_an_old_base_is_looked_for_again(bench: Bench) -> None:
    make(bench, {"moved": LARGE, "deleted": LARGE[1:], "small now": LARGE[2:]})
    with bench.open("b", "r") as db:
        push(bench, "a", {"moved": LARGE[3:], "deleted": None, "small now": b"1"})
        bench.objects("pack")[0].unlink()
        assert "deleted" in db
        assert db["moved"] == LARGE[3:]
        assert "deleted" not in db
        assert db["small now"] == b"1"
    with bench.open("c", "r") as db:
        assert db.load_items() == {}


def test_a_pack_gone_under_the_newest_base_is_damage(bench: Bench) -> None:
    make(bench, {"lost": LARGE})
    push(bench, "a", {"there": b"1"})
    bench.objects("pack")[0].unlink()
    with bench.open("b", "r") as db:
        with pytest.raises(RemoteIntegrityError, match="'lost'"):
            db["lost"]
        assert db["there"] == b"1"
        assert list(db.load_items()) == ["lost"]
        with pytest.raises(RemoteIntegrityError):
            dict(db.items())
    assert bench.contents("a") == {"lost": LARGE, "there": b"1"}


def test_near_ranges_are_fetched_as_one(bench: Bench) -> None:
    values = many_large(12)
    make(bench, values)
    counts = []

    def counting(inner: ObjectStore) -> CountingStore:
        counts.append(CountingStore(inner))
        return counts[-1]

    with bench.open("b", "r", wrap_store=counting) as db:
        counts[0].reset()
        assert dict(db.get_items([*values, "missing"], default=b"none")) == values | {"missing": b"none"}
        assert counts[0].requests == {"get_range": 1}
    with bench.open("b", "r", wrap_store=counting) as db:
        counts[1].reset()
        assert dict(db.items()) == values
        assert counts[1].total == 0


@pytest.mark.parametrize("value", [b"inline", LARGE])
def test_what_was_read_on_a_commit_that_was_left_is_loaded(bench: Bench, value: bytes) -> None:
    make(bench, {"k": value})
    with bench.open("c") as db:
        assert dict(db.items()) == {"k": value}
        push(bench, "b", {"theirs": b"1"})
        db.changes().pull()
        assert db.load_items() == {}
    (bench.folder / "remote" / "db").unlink()
    with bench.open("c") as db:
        assert db.changes().push(force_push=True)
    assert bench.fresh_contents() == {"k": value, "theirs": b"1"}
