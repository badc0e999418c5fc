"""Values that were written and discarded: what is left of them in the file is never taken for what was pushed."""

from __future__ import annotations

from pathlib import Path

import booklet
import pytest

from tests.pairs import LARGE, Bench, make, pending, push


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A remote pushed by copy "a", and a copy "b" that has written, and discarded, without looking."""
    bench = Bench(tmp_path)
    make(bench, {"k": b"pushed", "l": b"pushed"})
    with bench.open("b") as db:
        db["new"] = b"discarded"
        db["k"] = b"discarded"
        db.sync()
        db.prune()
        assert db.changes().discard() == 2
    return bench


def test_a_vanished_remote_is_written_anew_without_them(bench: Bench) -> None:
    with bench.open("b") as db:
        assert db.load_items() == {}
        bench.root.unlink()
        assert db.changes().push(force_push=True)
        assert dict(db.items()) == {"k": b"pushed", "l": b"pushed"}
    assert bench.fresh_contents() == {"k": b"pushed", "l": b"pushed"}


def test_they_do_not_come_back_when_the_remote_is_deleted(bench: Bench) -> None:
    with bench.open("b") as db:
        assert db["l"] == b"pushed"
        db.delete_remote()
        assert pending(db) == {"l": "set"}
        assert dict(db.items()) == {"l": b"pushed"}


def test_nor_does_an_old_copy(bench: Bench) -> None:
    with bench.open("c") as db:
        assert db.load_items() == {}
    push(bench, "a", {"k": b"newer", "l": None})
    with bench.open("c") as db:
        db.changes().pull()
        db.delete_remote()
        assert pending(db) == {}


def test_booklet_shows_none_of_which_it_is_known_that_the_remote_has_no_such_key(bench: Bench) -> None:
    with bench.open("c") as db:
        with db.fork().open() as part:
            part.update({"new": LARGE, "k": LARGE})
        db.merge(part.receipt)
        # They are fetched, and kept in the file.
        assert dict(db.get_items(["new", "k"])) == {"new": LARGE, "k": LARGE}
        db.sync()
        assert db.changes().discard() == 2
        # Of this one a fork's part knows the digest that it had, and not where its value lies.
        assert db["k"] == b"pushed"
    with booklet.open(bench.path("c")) as plain:
        assert "new" not in plain
    with bench.open("c") as db:
        assert pending(db) == {}
        assert dict(db.items()) == {"k": b"pushed", "l": b"pushed"}
