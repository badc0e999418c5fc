"""Bits of a row of the index that no digest covers: what is told is what was written, or an error of ours."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx
from ebooklet_tx.database import Database
from ebooklet_tx.errors import JournalDamagedError
from ebooklet_tx.local.journal.entries import find_entry, pending_entries
from ebooklet_tx.local.journal.schema import ROW_CHECK
from tests.pairs import LARGE, Bench, make, push

PAGE_BYTES = 4096


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A pair with a key that is pushed, one that was replaced since, one pending, and one in conflict."""
    bench = Bench(tmp_path)
    make(bench, {"pushed": LARGE, "both": b"base", "far": LARGE[1:]})
    with bench.open("a", "w") as db:
        db["both"] = b"ours"
        db["pending"] = b"p"
        db.sync()
    push(bench, "b", {"both": b"theirs", "far": LARGE[2:]})
    with bench.open("a", "w") as db:
        db.changes().pull()
    return bench


@contextlib.contextmanager
def unsummed(path: Path) -> Any:
    """A connection that changes rows as a disk does: without the check sum being computed anew."""
    with contextlib.closing(sqlite3.connect(path)) as raw:
        (sql,) = raw.execute("SELECT sql FROM sqlite_schema WHERE name = 'entry'").fetchone()
    plain = sql.replace(f"GENERATED ALWAYS AS ({ROW_CHECK}) STORED", "")
    assert plain != sql
    _redefine(path, plain)
    with contextlib.closing(sqlite3.connect(path)) as raw:
        yield raw
        raw.commit()
    _redefine(path, sql)


def _redefine(path: Path, sql: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as raw:
        raw.execute("PRAGMA writable_schema = ON")
        raw.execute("UPDATE sqlite_schema SET sql = ? WHERE name = 'entry'", (sql,))
        raw.commit()


def change(path: Path, key: str, column: str, bit: int) -> None:
    with unsummed(path) as raw:
        (old,) = raw.execute(f"SELECT {column} FROM entry WHERE key = ?", (key,)).fetchone()
        raw.execute(f"UPDATE entry SET {column} = ? WHERE key = ?", (old ^ 1 << bit, key))


READS: dict[str, Callable[[Database], object]] = {
    "timestamps": lambda db: list(db.timestamps()),
    "keys": lambda db: list(db.keys()),
    "items": lambda db: list(db.items()),
}

SUMMED = {
    "pushed": (
        *("remote_seq", "remote_timestamp_us", "remote_object", "remote_offset_bytes", "remote_length_bytes"),
        *("local_timestamp_us", "local_offset_bytes", "local_length_bytes"),
    ),
    "pending": ("known", "pending", "pending_timestamp_us", "pending_length_bytes", "pending_number"),
    "both": ("base_kind", "base_seq", "base_timestamp_us", "pending_timestamp_us"),
}


@pytest.mark.parametrize("bit", [0, 31, 52])
@pytest.mark.parametrize(("key", "column"), [(key, column) for key in SUMMED for column in SUMMED[key]])
def test_every_number_is_summed(bench: Bench, key: str, column: str, bit: int) -> None:
    change(bench.journal(), key, column, bit)
    with bench.open("a", "r", offline=True) as db:
        with pytest.raises(JournalDamagedError):
            find_entry(db._session.journal, key)
        for name, read in READS.items():
            if name == "keys" and key == "pushed":
                # Nothing of a row that has no operation is asked for: the index tells its key.
                assert read(db) == ["both", "far", "pending", "pushed"]
                continue
            with pytest.raises(JournalDamagedError, match="run recover"):
                read(db)


@pytest.mark.parametrize(
    "read",
    [
        lambda db: db["pushed"],
        lambda db: db.get_timestamp("pushed"),
        lambda db: "pushed" in db,
        lambda db: db.get_items(["pushed"]),
    ],
)
def test_a_changed_timestamp_is_never_served(bench: Bench, read: Callable[[Database], Any]) -> None:
    with bench.open("a", "r") as db:
        read(db)
    change(bench.journal(), "pushed", "remote_timestamp_us", 40)
    with bench.open("a", "r") as db, pytest.raises(JournalDamagedError):
        dict(read(db))


def test_loading_pushing_and_conflicts_look_too(bench: Bench) -> None:
    change(bench.journal(), "pushed", "remote_timestamp_us", 3)
    change(bench.journal(), "both", "base_timestamp_us", 3)
    with bench.open("a", "r") as db:
        with pytest.raises(JournalDamagedError):
            db.load_items()
        with pytest.raises(JournalDamagedError):
            db.changes().conflicts()
        with pytest.raises(JournalDamagedError):
            len(db)


def test_what_lies_beside_a_changed_row_is_not_called_absent(bench: Bench) -> None:
    change(bench.journal(), "pushed", "remote_timestamp_us", 3)
    with bench.open("a", "r") as db, pytest.raises(JournalDamagedError, match="a lookup of 'pushee'"):
        db.get("pushee")


def test_recover_finds_a_changed_row_and_sets_the_journal_aside(bench: Bench) -> None:
    change(bench.journal(), "pushed", "remote_timestamp_us", 40)
    ebooklet_tx.recover(bench.path())
    assert list(bench.folder.glob("a.blt.journal.aside-*"))
    with bench.open("a", "r") as db:
        assert db["pushed"] == LARGE


def test_an_index_of_what_is_pending_that_was_lost_is_missed(bench: Bench) -> None:
    with contextlib.closing(sqlite3.connect(bench.journal())) as raw:
        roots = dict(raw.execute("SELECT name, rootpage FROM sqlite_schema"))
    content = bytearray(bench.journal().read_bytes())
    first, second = (
        slice((number - 1) * PAGE_BYTES, number * PAGE_BYTES)
        for number in (roots["entry_pending"], roots["sqlite_autoindex_intent_1"])
    )
    content[first], content[second] = content[second], content[first]
    bench.journal().write_bytes(content)
    with bench.open("a", "r") as db:
        with pytest.raises(JournalDamagedError, match="pending"), db._session.journal.transaction():
            pass
        with pytest.raises(JournalDamagedError, match="pending"):
            len(db)
        with pytest.raises(JournalDamagedError, match="pending"):
            pending_entries(db._session.journal)


def test_no_two_numbers_have_the_same_factor() -> None:
    factors = [int(one) for one in re.findall(r"\* (\d+)", ROW_CHECK)]
    assert len(set(factors)) == len(factors) == 19
    assert all(factor % 2 for factor in factors)
