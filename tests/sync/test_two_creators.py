"""Two who make a database at one place before either has pushed: the second becomes a copy of the first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import booklet
import pytest

from ebooklet_tx import ConflictError, UUIDMismatchError
from ebooklet_tx.database import Database
from ebooklet_tx.errors import InvalidArgumentError, LocalStorageError, OfflineError, TransientStoreError
from ebooklet_tx.local import open_pair
from tests.pairs import pending
from tests.remotes import DyingStore, Killed, Shelf, dying
from tests.store_wrappers import Fault, faulty


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def made_by_both(shelf: Shelf, second: dict[str, bytes], **options: Any) -> Database:
    """Returns the second's session, made before the first had pushed."""
    first = shelf.open("db", "first", **options)
    db = shelf.open("db", "second", **options)
    db.update(second)
    db.sync()
    first.update({"both": b"first", "same": b"same", "first": b"1"})
    first.set_metadata({"by": "first"})
    first.changes().push()
    first.close()
    return db


EXPECTED = {"both": b"first", "same": b"same", "first": b"1", "second": b"2", "": {"by": "first"}}


@pytest.mark.parametrize("how", ["push", "pull", "reopen", "read"])
def test_the_second_becomes_a_copy_of_the_first(shelf: Shelf, how: str) -> None:
    db = made_by_both(shelf, {"same": b"same", "second": b"2", "large": b"l" * 300_000})
    with db:
        if how == "pull":
            assert db.changes().pull().changed
            assert pending(db) == {"large": "set", "same": "set", "second": "set"}
            assert (db["first"], db["second"], len(db)) == (b"1", b"2", 5)
        elif how == "reopen":
            db.close()
            db = shelf.open("db", "second", "w")
        elif how == "read":
            db.close()
            with shelf.open("db", "second", "r") as reader:
                assert (reader["first"], reader["second"]) == (b"1", b"2")
            db = shelf.open("db", "second")
        assert db.changes().push().set_count == 2
        assert not db.changes().push()
        with shelf.open("db", "first", "r") as first:
            assert db.uuid == first.uuid
        db.close()
    expected = EXPECTED | {"large": b"l" * 300_000}
    assert shelf.contents("db") == shelf.contents("db", "first") == shelf.contents("db", "second") == expected
    with booklet.open(shelf.folder / "second.blt", "r") as plain, shelf.open("db", "second", "r") as db:
        assert plain.uuid.hex == db.uuid


@pytest.mark.parametrize("conditional", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_keys_that_both_set_are_conflicts(tmp_path: Path, conditional: bool) -> None:
    shelf = Shelf(tmp_path, conditional=conditional)
    with made_by_both(shelf, {"both": b"second", "same": b"same", "second": b"2"}) as db:
        db.set_metadata({"by": "second"})
        with pytest.raises(ConflictError) as caught:
            db.changes().push()
        assert [conflict.key for conflict in caught.value.conflicts] == ["", "both"]
        assert shelf.contents("db") == {key: value for key, value in EXPECTED.items() if key != "second"}
        assert db.changes().push(on_conflict="theirs")
    assert shelf.contents("db") == EXPECTED


def test_two_who_push_at_the_same_moment(shelf: Shelf) -> None:
    """The second's root is on its way when the first's arrives."""
    first = shelf.open("db", "first")
    first["first"] = b"1"

    class Late(DyingStore):
        def _pass(self, kind: str, key: str, send: Callable[[], Any]) -> Any:
            if (kind, key) == ("put", "db") and not first.closed:
                first.changes().push()
                first.close()
            return super()._pass(kind, key, send)

    with shelf.open("db", "second", wrap=Late) as second:
        second["second"] = b"2" * 50_000
        assert second.changes().push().seq == 2
    assert shelf.contents("db") == {"first": b"1", "second": b"2" * 50_000}


def test_another_serializer_or_type_is_refused_by_name(shelf: Shelf) -> None:
    first = shelf.open("db", "first", value_serializer="str")
    other = shelf.open("db", "other", value_serializer="orjson")
    group = shelf.open("db", "group", remote_conn_group=True)
    first["k"] = "1"
    other["k"] = 2
    first.changes().push()
    for call in (other.changes().push, other.changes().pull):
        with pytest.raises(UUIDMismatchError, match=r"a booklet with values of .*'orjson'.*with values of 'str'"):
            call()
    with pytest.raises(UUIDMismatchError, match=r"a group with values of .* a booklet with values of 'str'"):
        group.changes().push()
    assert (other["k"], pending(other)) == (2, {"k": "set"})
    for db in (first, other, group):
        db.close()
    with pytest.raises(UUIDMismatchError, match="'orjson'"):
        shelf.open("db", "other", "w")


def test_a_database_of_another_remote_never_joins(shelf: Shelf) -> None:
    shelf.push("one", "copy", {"k": b"1"})
    shelf.push("two", "other", {"k": b"2"})
    with pytest.raises(UUIDMismatchError):
        shelf.open("two", "copy", "w")
    with shelf.open("one", "copy", "w") as db:
        db.delete_remote()
    # Its remote is gone, but others may have copies of it: it keeps its identity.
    with pytest.raises(UUIDMismatchError):
        shelf.open("two", "copy", "w")
    with booklet.open(shelf.folder / "plain.blt", "n", key_serializer="str", value_serializer=None) as plain:
        plain["k"] = b"plain"
    with pytest.raises((UUIDMismatchError, InvalidArgumentError)):
        shelf.open("two", "plain", "w")
    assert shelf.contents("two") == {"k": b"2"}


def test_dying_at_any_request_leaves_nothing_behind(tmp_path: Path) -> None:
    at, died = 0, True
    while died:
        at += 1
        shelf = Shelf(tmp_path / str(at))
        shelf.folder.mkdir()
        first = shelf.open("db", "first")
        store = DyingStore(shelf.store)
        db = shelf.open("db", "second", wrap=lambda _, store=store: store)
        db.update({"second": b"2", "large": b"l" * 50_000})
        db.sync()
        first["first"] = b"1"
        first.changes().push()
        first.close()
        store._at = len(store.log) + at
        before = len(store.log)
        try:
            with dying(db):
                db.changes().push()
        except AssertionError:
            died = False
            db.close()
        assert len(store.log) > before
        with shelf.open("db", "second", "w") as db:
            db.changes().push()
        assert shelf.contents("db") == shelf.contents("db", "second")
        assert shelf.contents("db") == {"first": b"1", "second": b"2", "large": b"l" * 50_000}
    assert at > 4


def test_a_full_disk_while_joining(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    with made_by_both(shelf, {"second": b"2", "same": b"same"}) as db:
        with monkeypatch.context() as patch:
            patch.setattr(open_pair, "rebuild", _fail)
            with pytest.raises(LocalStorageError):
                db.changes().push()
        with monkeypatch.context() as patch:
            patch.setattr(open_pair, "put_in_place", _fail)
            with pytest.raises(LocalStorageError):
                db.changes().push()
        assert (db["second"], pending(db)) == (b"2", {"same": "set", "second": "set"})
        assert db.changes().push()
        db["more"] = b"m" * 300_000
    assert shelf.contents("db") == EXPECTED
    assert shelf.contents("db", "second") == EXPECTED | {"more": b"m" * 300_000}


@pytest.mark.parametrize("flag", ["w", "c", "r"])
@pytest.mark.parametrize(
    "step",
    [
        "local.open_pair.put_in_place",
        "local.rebuild.record_places",
        "local.rebuild.fsync_folder",
        "sync.pull.pull.apply_move",
    ],
)
def test_dying_between_the_steps_of_joining(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, step: str, flag: str
) -> None:
    def die(*_: Any, **__: Any) -> Any:
        raise Killed

    db = made_by_both(shelf, {"second": b"2", "same": b"same", "large": b"l" * 300_000})
    with monkeypatch.context() as patch, dying(db):
        patch.setattr(f"ebooklet_tx.{step}", die)
        db.changes().push()
    with shelf.open("db", "second", flag) as db:
        assert (db["second"], db["first"], len(db)) == (b"2", b"1", 5)
    with shelf.open("db", "second", "w") as db:
        assert db.changes().push()
    expected = EXPECTED | {"large": b"l" * 300_000}
    assert shelf.contents("db") == shelf.contents("db", "second") == expected
    assert not list(shelf.folder.glob("second.blt.*aside*")) + list(shelf.folder.glob("*.rebuild"))


def _fail(*_: Any, **__: Any) -> Any:
    raise LocalStorageError(28, "no space left on device")


def test_a_first_push_that_may_have_arrived_and_a_first_one_of_another(shelf: Shelf) -> None:
    lost = Fault(1, TransientStoreError("lost"), kind="put")
    blind = [Fault(at, TransientStoreError("down"), kind="get") for at in range(3, 30)]
    with shelf.open("db", "second", wrap=lambda store: faulty(lost, *blind)(store)) as db:
        db["second"] = b"2"
        with pytest.raises(OfflineError):
            db.changes().push()
    shelf.push("db", "first", {"first": b"1"})
    with shelf.open("db", "second", "w") as db:
        assert pending(db) == {"second": "set"}
        assert db.changes().push()
    assert shelf.contents("db") == {"first": b"1", "second": b"2"}
