"""The journal: transactions, pages of keys, and SQLite's complaints in words of ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ebooklet_tx.errors import JournalDamagedError, LocalStorageError
from ebooklet_tx.local.journal.entries import find_entry, pending_entries, pending_page, prefix_end, visible_count
from ebooklet_tx.local.journal.integrity.commit_mark import MarkWriter
from ebooklet_tx.local.journal.journal import Journal, driver, put_meta, sqlite_errors


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal.open(tmp_path / "x.journal", create=True)
    yield journal
    journal.close()
    journal.close()


def add(journal: Journal, *keys: str) -> None:
    with journal.transaction() as connection:
        driver(connection).executemany(
            "INSERT INTO entry(key, pending, pending_digest, pending_timestamp_us, pending_length_bytes) "
            "VALUES (?, 1, x'00', 5, 7)",
            [(key,) for key in keys],
        )


def test_facts_are_set_and_removed(journal: Journal) -> None:
    with journal.transaction() as connection:
        put_meta(connection, {"a": 1, "b": b"2", "c": None})
    assert journal.all_meta() == {"a": 1, "b": b"2"}
    with journal.transaction() as connection:
        put_meta(connection, {"a": None, "b": "3"})
    assert (journal.get_meta("a"), journal.get_meta("b")) == (None, "3")


def fail_inside(journal: Journal) -> None:
    with journal.transaction() as connection:
        put_meta(connection, {"a": 1})
        raise ZeroDivisionError


def test_a_transaction_that_raises_leaves_nothing(journal: Journal) -> None:
    with pytest.raises(ZeroDivisionError):
        fail_inside(journal)
    assert journal.all_meta() == {}
    add(journal, "k")
    assert visible_count(journal) == 1


def test_marks_are_written_one_at_a_time_in_the_order_of_commits(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads that both found the mark's file closed would open it twice."""
    counts: list[int] = []
    alone = []

    def note(_mark: MarkWriter, count: int) -> None:
        # Another thread finds the mutex taken.
        with ThreadPoolExecutor(max_workers=1) as pool:
            alone.append(not pool.submit(journal.mutex.acquire, blocking=False).result())
        counts.append(count)

    monkeypatch.setattr(MarkWriter, "write", note)
    for key in "abc":
        add(journal, key)
    assert alone == [True] * 3
    assert counts == [counts[0], counts[0] + 1, counts[0] + 2]


def test_entries_as_a_reader_sees_them(journal: Journal) -> None:
    add(journal, "k")
    entry = find_entry(journal, "k")
    assert entry is not None
    assert (entry.digest, entry.timestamp_us, entry.length_bytes) == (b"\0", 5, 7)
    with journal.transaction() as connection:
        driver(connection).execute("UPDATE entry SET pending = 2")
    entry = find_entry(journal, "k")
    assert entry is not None
    assert entry.digest is None
    assert find_entry(journal, "no such") is None
    assert [e.key for e in pending_entries(journal)] == ["k"]


KEYS = ["a", "a1", "a\U0010ffff", "a\U0010ffffz", "b", "\ud7ff", "\ud7ffx", "\ue000", "\U0010ffff", "\U0010ffff1"]


@pytest.mark.parametrize("prefix", ["a", "b", "a\U0010ffff", "\ud7ff", "z", "\U0010ffff"])
def test_the_end_of_a_prefix(prefix: str) -> None:
    end = prefix_end(prefix)
    assert [key for key in KEYS if key.startswith(prefix)] == [
        key for key in KEYS if prefix <= key and (end is None or key < end)
    ]


@pytest.mark.parametrize("least", ["", "a1", "\ue000", "z"])
@pytest.mark.parametrize("upto", [None, "b", "\U0010ffff"])
def test_pages_of_pending_keys(journal: Journal, least: str, upto: str | None) -> None:
    add(journal, "", *KEYS)
    with journal.transaction() as connection:
        driver(connection).execute("UPDATE entry SET pending = 2 WHERE key = 'b'")
    expected = [(key, 2 if key == "b" else 1) for key in KEYS if key >= least and (upto is None or key <= upto)]
    assert pending_page(journal, least, upto, 100) == expected
    assert pending_page(journal, least, upto, 2) == expected[:2]


def test_another_connections_commit_shows(journal: Journal) -> None:
    before = journal.data_version()
    other = Journal.open(journal.path, create=False)
    add(other, "theirs")
    other.close()
    assert journal.data_version() != before
    assert find_entry(journal, "theirs") is not None


def test_a_missing_journal_is_not_made_unasked(tmp_path: Path) -> None:
    with pytest.raises(LocalStorageError, match="owner and mode"):
        Journal.open(tmp_path / "x.journal", create=False)
    assert list(tmp_path.iterdir()) == []


class Complaint(sqlite3.DatabaseError):
    sqlite_errorname = ""


class Wrapped(Exception):
    def __init__(self, orig: Exception) -> None:
        super().__init__("wrapped")
        self.orig = orig


def complain(name: str, wrapped: bool, path: Path) -> None:
    error = Complaint("x")
    error.sqlite_errorname = name
    with sqlite_errors(path):
        raise Wrapped(error) if wrapped else error


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("SQLITE_CORRUPT_INDEX", JournalDamagedError, "run recover"),
        ("SQLITE_NOTADB", JournalDamagedError, "run recover"),
        ("SQLITE_FULL", LocalStorageError, "the disk is full"),
        ("SQLITE_READONLY", LocalStorageError, "owner and mode"),
        ("SQLITE_BUSY", LocalStorageError, "another process"),
        ("SQLITE_PROTOCOL", LocalStorageError, "close the database and open it again"),
        ("SQLITE_IOERR_WRITE", LocalStorageError, "the disk fails"),
        ("SQLITE_NOMEM", LocalStorageError, "no memory"),
        ("SQLITE_ERROR", LocalStorageError, "left as it is"),
    ],
)
def test_sqlites_complaints(tmp_path: Path, name: str, kind: type[Exception], words: str, wrapped: bool) -> None:
    path = tmp_path / "the.journal"
    path.write_bytes(b"damaged " * 1000)
    with pytest.raises(kind, match=words) as caught:
        complain(name, wrapped, path)
    assert "the.journal" in str(caught.value)


@pytest.mark.parametrize("name", ["SQLITE_CORRUPT", "SQLITE_NOTADB"])
def test_a_sound_journal_is_not_called_damaged(tmp_path: Path, name: str) -> None:
    path = tmp_path / "the.journal"
    Journal.open(path, create=True).close()
    with pytest.raises(LocalStorageError, match="finds nothing wrong"):
        complain(name, False, path)
    with pytest.raises(LocalStorageError, match="file and its folder"):
        complain(name, False, tmp_path / "missing")


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), sqlite_errors(Path("x")):
        raise ZeroDivisionError
