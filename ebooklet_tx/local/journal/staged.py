"""Queries over `staged`: values that are committed and wait in the journal for the Booklet file.

Each function holds the journal's mutex while it uses the connection.
"""

from __future__ import annotations

from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.local.journal.sqlite_errors import sqlite_errors


def has_staged(journal: Journal) -> bool:
    """True when values wait in the journal for the Booklet file."""
    with journal.mutex, sqlite_errors(journal.path):
        return journal.raw.execute("SELECT 1 FROM staged LIMIT 1").fetchone() is not None


def held_value(journal: Journal, key: str, digest: bytes) -> bytes | None:
    """Returns a value of that digest that lies in the journal itself, staged or inline."""
    with journal.mutex, sqlite_errors(journal.path):
        row = journal.raw.execute(
            "SELECT value FROM staged WHERE key = ? AND digest = ? "
            "UNION ALL SELECT value FROM inline_value WHERE digest = ? LIMIT 1",
            (key, digest, digest),
        ).fetchone()
    return None if row is None else bytes(row[0])


def count_staged(journal: Journal) -> tuple[int, int]:
    """Returns how many values wait in the journal for the Booklet file, and how large they are together."""
    (row,) = journal.rows("SELECT count(*), coalesce(sum(length(value)), 0) FROM staged")
    keys, size_bytes = row
    return keys, size_bytes
