"""Queries over `staged`: values that are committed and wait in the journal for the Booklet file.

Each function holds the journal's mutex while it uses the connection.
"""

from __future__ import annotations

from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.local.journal.sqlite_errors import sqlite_errors


def staged_bytes(journal: Journal) -> int:
    """Returns how many value bytes wait in the journal for the Booklet file."""
    with journal.mutex, sqlite_errors(journal.path):
        return int(journal.raw.execute("SELECT coalesce(sum(length(value)), 0) FROM staged").fetchone()[0])


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
