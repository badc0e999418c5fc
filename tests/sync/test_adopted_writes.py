"""What is written offline to a file whose journal is gone: timestamps decide about the file, not about that."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebooklet_tx import ConflictError
from ebooklet_tx.timestamps import now_us
from tests.pairs import Bench, make, pending

HOUR_US = 3600 * 10**6


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A copy b of a database, its journal gone; of the key `kept` nothing is written there."""
    bench = Bench(tmp_path)
    make(bench, {"set": b"0", "deleted": b"0", "kept": b"0"})
    with bench.open("b") as db:
        db.load_items()
    bench.journal("b").unlink()
    return bench


def write_offline(bench: Bench) -> None:
    with bench.open("b", offline=True) as db:
        db["set"] = b"ours"
        del db["deleted"]
        db.sync()
        assert pending(db) == {"set": "set", "deleted": "delete", "kept": "set"}


def change(bench: Bench, timestamp_us: int) -> None:
    """Another writer changes all keys."""
    with bench.open() as db:
        for key in ("set", "deleted", "kept"):
            db.set(key, b"theirs", timestamp=timestamp_us)
        assert db.changes().push()


def test_it_is_pushed_where_the_remote_has_not_changed(bench: Bench) -> None:
    write_offline(bench)
    with bench.open("b") as db:
        assert pending(db) == {"set": "set", "deleted": "delete"}
        assert db.changes().push()
    assert bench.contents("b") == bench.fresh_contents() == {"set": b"ours", "kept": b"0"}


def test_it_is_in_conflict_where_the_file_was_outdated_whatever_the_clocks_say(bench: Bench) -> None:
    change(bench, now_us() + HOUR_US)
    write_offline(bench)
    with bench.open("b") as db:
        assert db["kept"] == b"theirs"
        assert [conflict.key for conflict in db.changes().conflicts()] == ["deleted", "set"]
        with pytest.raises(ConflictError):
            db.changes().push()
        assert db.changes().push(on_conflict="ours")
    assert bench.contents("b") == bench.fresh_contents() == {"set": b"ours", "kept": b"theirs"}


def test_it_is_pushed_where_the_file_is_newer_than_the_remote(bench: Bench) -> None:
    change(bench, now_us() - HOUR_US)
    write_offline(bench)
    with bench.open("b") as db:
        assert db.changes().conflicts() == []
        assert db.changes().push()
    assert bench.contents("b") == bench.fresh_contents() == {"set": b"ours", "kept": b"0"}


def test_a_file_that_was_never_pushed_keeps_its_deletes_until_the_first_push(tmp_path: Path) -> None:
    """Whether there is a remote with these keys is not known before that."""
    bench = Bench(tmp_path)
    with bench.open() as db:
        db.update({"k": b"1", "gone": b"2"})
    bench.journal().unlink()
    with bench.open() as db:
        del db["gone"]
        assert db.changes().push()
        assert pending(db) == {}
    assert bench.contents("a") == bench.fresh_contents() == {"k": b"1"}
