"""A file that booklet has set keys in and rewritten, so that nothing tells what of it is new."""

from __future__ import annotations

import time
from pathlib import Path

import booklet
import pytest

from ebooklet_tx import ConflictError
from tests.pairs import Bench, pending, push


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    push(bench, "a", {"x": b"1", "k": b"first"})
    with bench.open("b", "w") as db:
        assert db["x"] == b"1"
    return bench


def edit(bench: Bench, value: bytes, timestamp_us: int | None = None) -> None:
    """Sets a key of which the journal has no entry."""
    with booklet.open(bench.path("b"), "w") as blt:
        blt.set("k", value, timestamp_us)
        blt["x"] = b"2"
        blt.prune()


def test_what_another_writer_has_pushed_since_the_base_is_a_conflict(bench: Bench) -> None:
    push(bench, "a", {"k": b"theirs"})
    time.sleep(0.001)
    edit(bench, b"ours")
    with bench.open("b", "w") as db:
        with pytest.raises(ConflictError) as caught:
            db.changes().push()
        (conflict,) = caught.value.conflicts
        assert (conflict.key, conflict.ours, conflict.theirs) == ("k", b"ours", b"theirs")
        db.changes().resolve(["k"], "ours")
        assert db.changes().push()
    assert bench.fresh_contents()["k"] == b"ours"


def test_on_an_unchanged_remote_the_later_value_is_pushed(bench: Bench) -> None:
    time.sleep(0.001)
    edit(bench, b"ours")
    with bench.open("b", "w") as db:
        assert db.changes().push()
    assert bench.fresh_contents()["k"] == b"ours"


def test_an_earlier_value_is_no_edit(bench: Bench) -> None:
    push(bench, "a", {"k": b"theirs"})
    edit(bench, b"old", 1_600_000_000_000_000)
    with bench.open("b", "w") as db:
        db.changes().pull()
        assert (db["k"], "k" in pending(db)) == (b"theirs", False)
