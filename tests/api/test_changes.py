"""Changes: the names that programs written for ebooklet call, and what they mean."""

from __future__ import annotations

from pathlib import Path

import pytest

import ebooklet_tx
from tests.pairs import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    with bench.open("a", "c", value_serializer="orjson") as db:
        db.update({"kept": 1, "changed": 1, "gone": 1})
        db.set_metadata("old")
        db.changes().push()
    return bench


def test_update_and_build_changelog_take_in_what_was_written(bench: Bench) -> None:
    with bench.open("a", "w") as db:
        changes = db.changes()
        db["changed"] = 2
        changes.update()
        db["new"] = 3
        changes.build_changelog()
        assert [change["key"] for change in changes.iter_changes()] == ["changed", "new"]


def test_pending_deletes(bench: Bench) -> None:
    with bench.open("a", "w") as db:
        changes = db.changes()
        assert changes.pending_deletes == frozenset()
        del db["gone"]
        db["changed"] = 2
        assert changes.pending_deletes == {"gone"}
        db.sync()
    with bench.open("a", "r") as db:
        assert db.changes().pending_deletes == {"gone"}
    with bench.open("a", "w") as db:
        db.changes().push()
        assert db.changes().pending_deletes == frozenset()


def test_discard_restores_what_was_replaced_and_deleted(bench: Bench) -> None:
    with bench.open("a", "w") as db:
        db.update({"changed": 2, "new": 2})
        del db["gone"]
        db.set_metadata("new")
        changes = db.changes()
        assert changes.discard(["gone", "new", "nothing"]) == 2
        assert changes.pending_deletes == frozenset()
        assert dict(db.items()) == {"kept": 1, "changed": 2, "gone": 1}
        assert changes.discard() == 2
        assert dict(db.items()) == {"kept": 1, "changed": 1, "gone": 1}
        assert db.get_metadata() == "old"
        assert not changes.push()


def test_discard_after_a_key_was_deleted_and_set_again(bench: Bench) -> None:
    with bench.open("a", "w") as db:
        del db["gone"]
        db.sync()
        db["gone"] = 7
        assert db.changes().discard(["gone"]) == 1
        assert db["gone"] == 1


def test_a_reader_discards_nothing(bench: Bench) -> None:
    with bench.open("a", "r") as db, pytest.raises(ebooklet_tx.ReadOnlyError):
        db.changes().discard()
