"""Flag n over a database: it stays the same database where it is one of its kind, and copies follow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ebooklet_tx import ConflictError, UUIDMismatchError
from ebooklet_tx.errors import LocalStorageError, RemoteIntegrityError, UnsupportedFormatError
from tests.pairs import pending
from tests.remotes import DyingStore, Killed, Shelf, dying
from tests.store_wrappers import HookedStore

LARGE = b"l" * 40_000


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    one = Shelf(tmp_path)
    one.push("db", "a", {f"k{n}": str(n).encode() for n in range(5)} | {"large": LARGE}, metadata={"old": 1})
    one.push("db", "a", {"k4": None})
    return one


def uuid_of(shelf: Shelf, copy: str = "looker") -> str:
    with shelf.open("db", copy, "r") as db:
        return db.uuid


def replace(shelf: Shelf, values: dict[str, bytes], copy: str = "new", **options: Any) -> None:
    with shelf.open("db", copy, "n", **options) as db:
        db.update(values)
        assert db.changes().push()


def test_copies_with_nothing_pending_follow(shelf: Shelf) -> None:
    with shelf.open("db", "b") as db, shelf.open("db", "c", "r") as reader:
        assert db["large"] == LARGE
        uuid = db.uuid
        replace(shelf, {"k1": b"1", "k2": b"new", "new": LARGE + b"2"})
        expected = {"k1": b"1", "k2": b"new", "new": LARGE + b"2"}
        for session in (db, reader):
            assert session.changes().pull().changed
            assert dict(session.items()) == expected
            assert (len(session), session.get_metadata(), session.uuid) == (3, None, uuid)
        assert not db.changes().push()
        db["more"] = b"3"
        assert db.changes().push().seq == 4
    assert shelf.contents("db") == shelf.contents("db", "b") == expected | {"more": b"3"}
    assert shelf.contents("db", "a") == shelf.contents("db", "new") == expected | {"more": b"3"}


def test_what_is_pending_in_a_copy_meets_the_new_content(shelf: Shelf) -> None:
    with shelf.open("db", "b") as db:
        db.update({"k0": b"ours", "k1": b"ours", "k2": b"ours", "own": b"ours"})
        del db["k3"]
        replace(shelf, {"k1": b"1", "k2": b"new"})
        with pytest.raises(ConflictError) as caught:
            db.changes().push()
        # Not k1, whose content is what it was, and not k3, which both deleted.
        assert [conflict.key for conflict in caught.value.conflicts] == ["k0", "k2"]
        assert db.changes().push(on_conflict="ours")
    expected = {"k0": b"ours", "k1": b"ours", "k2": b"ours", "own": b"ours"}
    assert shelf.contents("db") == shelf.contents("db", "b") == expected


def test_a_replacement_by_nothing_empties_the_copies(shelf: Shelf) -> None:
    with shelf.open("db", "b"):
        pass
    replace(shelf, {})
    assert shelf.contents("db") == shelf.contents("db", "b") == {}


def test_what_is_asked_for_at_open_is_what_the_new_file_has(shelf: Shelf) -> None:
    before = uuid_of(shelf)
    with shelf.open("db", "new", "n", n_buckets=499) as db:
        assert (db.uuid, db._n_buckets, len(db)) == (before, 499, 0)
        assert shelf.contents("db")["k1"] == b"1"
        db["k"] = b"1"
    assert shelf.contents("db", "new") == {"k": b"1"}
    with shelf.open("db", "new", "w") as db:
        assert not db.changes().pull().changed
        assert db.changes().push()
    assert uuid_of(shelf) == before


@pytest.mark.parametrize("options", [{"value_serializer": "str"}, {"remote_conn_group": True}])
def test_another_kind_is_another_database_and_the_copies_are_told_why(
    shelf: Shelf, options: dict[str, Any]
) -> None:
    before = uuid_of(shelf)
    with shelf.open("db", "b") as db:
        with shelf.open("db", "new", "n", **options) as new:
            new.changes().push()
            assert new.uuid != before
        with pytest.raises(UUIDMismatchError, match=r"was replaced \(flag 'n'\)") as caught:
            db.changes().pull()
        name = options.get("value_serializer", "group")
        assert name in str(caught.value)
        assert db["k1"] == b"1"
    # And back again, over that.
    replace(shelf, {"k": b"1"}, "newer")
    assert uuid_of(shelf, "looker2") not in (before, "")


def damage(shelf: Shelf) -> None:
    data = bytearray(shelf.store.objects["db"].data)
    data[-1] ^= 1
    shelf.store.put("db", bytes(data))


@pytest.mark.parametrize("conditional", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("after_open", [False, True])
def test_over_a_damaged_root(shelf: Shelf, conditional: bool, after_open: bool) -> None:
    shelf.conditional = conditional
    with shelf.open("db", "b") as db:
        before = db.uuid
        if not after_open:
            damage(shelf)
        with shelf.open("db", "new", "n") as new:
            new.update({"k": b"1", "large": LARGE * 10})
            if after_open:
                assert new.uuid == before
                damage(shelf)
            assert new.changes().push()
            assert new.uuid != before
            assert new["large"] == LARGE * 10
        with pytest.raises(UUIDMismatchError, match="the root is damaged"):
            db.changes().pull()
    assert shelf.contents("db") == shelf.contents("db", "new") == {"k": b"1", "large": LARGE * 10}


def test_a_root_that_is_damaged_in_the_moment_of_the_push_is_not_overwritten_unseen(shelf: Shelf) -> None:
    hooks: list[HookedStore] = []

    def hooked(store: Any) -> Any:
        hooks.append(HookedStore(store, "db", before=lambda: damage(shelf)))
        return hooks[0]

    with shelf.open("db", "new", "n", wrap=hooked) as db:
        db["k"] = b"1"
        with pytest.raises(RemoteIntegrityError):
            db.changes().push()
        assert pending(db) == {"k": "set"}
        assert db.changes().push()
    assert shelf.contents("db") == {"k": b"1"}


def test_foreign_objects_are_left_alone(shelf: Shelf) -> None:
    shelf.store.put("db", b"something else")
    with pytest.raises(UnsupportedFormatError, match="foreign object"):
        shelf.open("db", "new", "n")
    assert not (shelf.folder / "new.blt").exists()


def test_a_database_that_came_after_the_open_is_replaced_as_itself(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    with shelf.open("db", "new", "n") as db:
        db.update({"k": b"1", "large": LARGE * 10})
        db._session.local.commit(fold=True)
        shelf.push("db", "b", {"other": b"2"})
        assert db.changes().push().seq == 2
        with shelf.open("db", "b", "r") as copy:
            assert (copy.uuid, dict(copy.items())) == (db.uuid, {"k": b"1", "large": LARGE * 10})


@pytest.mark.parametrize(
    "step", ["local.open_pair.put_in_place", "local.rebuild.record_places", "sync.commit.publish.build"]
)
def test_dying_while_it_takes_the_uuid_that_it_is_to_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def die(*_: Any, **__: Any) -> Any:
        raise Killed

    shelf = Shelf(tmp_path)
    db = shelf.open("db", "new", "n")
    db.update({"k": b"1", "large": LARGE * 10})
    shelf.push("db", "b", {"other": b"2"})
    with monkeypatch.context() as patch, dying(db):
        patch.setattr(f"ebooklet_tx.{step}", die)
        db.changes().push()
    with shelf.open("db", "new", "w") as db:
        assert pending(db) == {"k": "set", "large": "set"}
        assert db.changes().push()
    assert shelf.contents("db") == shelf.contents("db", "b") == {"k": b"1", "large": LARGE * 10}


def test_the_replaced_database_moves_on_and_its_writer_hears_of_it(shelf: Shelf) -> None:
    hooks: list[HookedStore] = []

    def hooked(store: Any) -> Any:
        hooks.append(HookedStore(store, "db", before=lambda: shelf.push("db", "b", {"k9": b"9"})))
        return hooks[0]

    with shelf.open("db", "new", "n", wrap=hooked) as db:
        db["k"] = b"1"
        assert db.changes().push().seq == 4
    assert shelf.contents("db") == shelf.contents("db", "b") == {"k": b"1"}


def test_dying_at_any_request_replaces_entirely_or_not_at_all(tmp_path: Path) -> None:
    old = {"k": b"old", "large": LARGE}
    new = {"k": b"new", "other": LARGE + b"2"}
    at, died = 0, True
    while died:
        at += 1
        shelf = Shelf(tmp_path / str(at))
        shelf.folder.mkdir()
        shelf.push("db", "a", dict(old))
        store = DyingStore(shelf.store, after=True)
        db = shelf.open("db", "new", "n", wrap=lambda _, store=store: store)
        db.update(new)
        db.sync()
        store._at = len(store.log) + at
        try:
            with dying(db):
                db.changes().push()
        except AssertionError:
            died = False
            db.close()
        assert shelf.contents("db") in (old, new)
        applied = shelf.contents("db") == new
        # Another writer goes on with what is there.
        shelf.push("db", "a", {"mine": b"3"})
        with shelf.open("db", "new", "w") as db:
            db.changes().push()
        expected = new | ({"mine": b"3"} if applied else {})
        for copy in (None, "a", "new"):
            assert shelf.contents("db", copy) == expected
    assert at > 3


def test_a_lost_answer_below_others_commits(shelf: Shelf) -> None:
    """Our replacement took place, and others went on: its log tells, also where it left the tail."""

    class Lost(HookedStore):
        pass

    def lose() -> None:
        for number in range(3):
            shelf.push("db", "b", {f"x{number}": LARGE})
        raise KeyboardInterrupt

    hook: Callable[[Any], Any] = lambda store: Lost(store, "db", after=lose)  # noqa: E731
    with shelf.open("db", "new", "n", wrap=hook) as db:
        db["k"] = b"1"
        with pytest.raises(KeyboardInterrupt):
            db.changes().push()
    with shelf.open("db", "new", "w") as db:
        assert pending(db) == {}
        assert not db.changes().push()
    assert set(shelf.contents("db")) == {"k", "x0", "x1", "x2"}


@pytest.mark.parametrize("kind", [{}, {"value_serializer": "orjson"}])
def test_a_reader_of_a_pair_that_was_started_anew_leaves_the_new_one_alone(
    shelf: Shelf, kind: dict[str, Any]
) -> None:
    with shelf.open("db", "b") as db:
        db["more"] = b"1"
        db.changes().push()
    reader = shelf.open("db", "b", "r")
    with shelf.open("db", "b", "n", **kind) as db:
        db["new"] = "value" if kind else b"value"
    assert reader["k1"] == b"1"
    assert reader["large"] == LARGE
    reader.close()
    with shelf.open("db", "b", "w", **kind) as db:
        assert list(db) == ["new"]
        assert set(pending(db)) == {"new"}
    assert not list(shelf.folder.rglob("*.aside*"))


def test_a_reader_whose_pair_was_started_anew_says_that_it_cannot_move_on(shelf: Shelf) -> None:
    reader = shelf.open("db", "b", "r")
    replace(shelf, {"new": b"value"}, "b")
    with pytest.raises(LocalStorageError, match=r"b\.blt was replaced while it was open for reading"):
        reader.changes().pull()
    assert reader["large"] == LARGE
    reader.close()
    assert shelf.contents("db", "b") == {"new": b"value"}
