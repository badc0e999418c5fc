"""Every statement of a push, a pull, a read and a decision costs the change: none goes through all of `entry`."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebooklet_tx.database import Database
from ebooklet_tx.local.journal.entries import pending_term
from tests.pairs import Bench, push

VALUES = {f"k{number:03}": b"value %d" % number for number in range(60)}
SERVED_BY = ("entry_pending", "entry_stale", "entry_empty", "entry_moved", "PRIMARY KEY")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    push(bench, "a", VALUES)
    push(bench, "b", {"k050": b"of b"})
    return bench


@contextlib.contextmanager
def statements_of(db: Database) -> Iterator[list[str]]:
    """Notes what is executed on a session's journal."""
    raw = db._session.journal.raw
    noted: list[str] = []
    raw.set_trace_callback(noted.append)
    try:
        yield noted
    finally:
        raw.set_trace_callback(None)


def scans(raw: sqlite3.Connection, statements: list[str]) -> list[str]:
    """Returns the statements that go through all of `entry`, each with the line of its plan."""
    found = []
    for statement in dict.fromkeys(statements):
        if not statement.lstrip().startswith(("SELECT", "UPDATE", "DELETE", "INSERT", "WITH")):
            continue
        if "entry" not in statement:
            continue
        for *_, line in raw.execute(f"EXPLAIN QUERY PLAN {statement}"):
            served = any(index in line for index in SERVED_BY) or "LIMIT" in statement
            if line.startswith(("SCAN entry", "SCAN e")) and not served:
                found.append(f"{line}: {' '.join(statement.split())[:200]}")
    return found


def write(db: Database) -> None:
    db["k001"] = b"changed"
    db["new"] = b"new"
    del db["k002"]


def test_a_push(bench: Bench) -> None:
    with bench.open("a", "w") as db, statements_of(db) as noted:
        write(db)
        db.changes().push()
        db["k003"] = b"again"
        db.sync()
        db.changes().push()
        assert scans(db._session.journal.raw, noted) == []
        assert len(noted) > 30


def test_a_pull_and_reads(bench: Bench) -> None:
    with bench.open("a", "w") as db, statements_of(db) as noted:
        write(db)
        db.sync()
        push(bench, "b", {"k051": b"of b again", "k052": None})
        db.changes().pull()
        assert (db["k051"], db.get("k052"), db.get("no such"), len(db)) == (b"of b again", None, None, 59)
        assert (len(list(db.keys("k00"))), "k005" in db) == (9, True)
        assert len(dict(db.get_items(["k003", "k004"]))) == 2
        assert scans(db._session.journal.raw, noted) == []


def test_what_decides(bench: Bench) -> None:
    with bench.open("a", "w") as db, statements_of(db) as noted:
        write(db)
        db["k010"] = b"ours"
        db["k011"] = b"the same"
        db.sync()
        push(bench, "b", {"k010": b"theirs", "k011": b"the same"})
        db.changes().pull()
        assert [conflict.key for conflict in db.changes().conflicts()] == ["k010"]
        assert list(db.changes().iter_changes())
        db.changes().resolve(["k010"], "ours")
        db.changes().discard(["new"])
        db.changes().discard()
        assert list(db.changes().iter_changes()) == []
        assert scans(db._session.journal.raw, noted) == []
        assert (db["k010"], "new" in db) == (b"theirs", False)


def test_a_push_of_most_keys_goes_past_the_index(bench: Bench) -> None:
    with bench.open("a", "w") as db, statements_of(db) as noted:
        raw = db._session.journal.raw
        assert pending_term(raw) == "pending != 0"
        (pages,) = raw.execute("PRAGMA page_count").fetchone()
        values = {f"m{number:04}": b"many %d" % number for number in range(pages * 12)}
        db.update(values)
        db.sync()
        assert pending_term(raw) == "+pending != 0"
        db.changes().push()
        assert pending_term(raw) == "pending != 0"
        # The totals, the rows, how many are left, where their change is divided, and that change: small values
        # are not packed.
        assert sum("+pending != 0" in statement for statement in noted) == 5
    with bench.open("c", "r") as db:
        assert dict(db.items()) == VALUES | {"k050": b"of b"} | values
