"""The journal of a machine that pushes and pulls many times does not grow with the number of commits."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from ebooklet_tx.local.journal import remote_objects
from tests.pairs import Bench, make, many_large, push

COMMITS = 14


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(remote_objects, "NEW_OBJECTS", 10)
    monkeypatch.setattr(remote_objects, "OBJECTS_KEPT", 3)
    bench = Bench(tmp_path)
    make(bench, many_large(3))
    return bench


def known_objects(bench: Bench, copy: str) -> int:
    with closing(sqlite3.connect(bench.journal(copy))) as raw:
        ((count,),) = raw.execute("SELECT count(*) FROM remote_object").fetchall()
    return int(count)


def test_objects_that_nothing_lies_in_are_let_go(bench: Bench) -> None:
    bench.contents("b")
    for round_ in range(2):
        with bench.open("a", "w") as db, bench.open("b", "w", lock=None) as other:
            for number in range(COMMITS):
                db["small"] = b"%d %d" % (round_, number)
                db.changes().push()
                assert other.changes().pull().changed
        assert known_objects(bench, "a") < 10
        assert known_objects(bench, "b") < 10
    for copy in ("a", "b"):
        with bench.open(copy, "w") as db:
            # From where the journal says that the values lie.
            db.prune(2**55)
        assert bench.contents(copy) == many_large(3) | {"small": b"1 13"}


def test_the_base_of_a_change_stays_known(bench: Bench) -> None:
    bench.contents("b")
    with bench.open("b", "w", lock=None) as db:
        db["k00"] = b"ours"
        for number in range(COMMITS):
            push(bench, "a", {"small": b"%d" % number})
            db.changes().pull()
        push(bench, "a", {"k00": b"theirs"})
        db.changes().pull()
        db.prune(2**55)
    assert known_objects(bench, "b") < 10
    with bench.open("b", "w", lock=None) as db:
        (conflict,) = db.changes().conflicts()
        assert (conflict.base, conflict.ours, conflict.theirs) == (many_large(1)["k00"], b"ours", b"theirs")
