"""Values of the remote's index that bases of pending operations had, as the journal keeps them in `inline_value`.

The invariant: a value stays as long as the base of an operation that is still to be pushed has its digest. Once
the base commit has moved on, nothing else holds it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from ebooklet_tx.local.journal.journal import Journal, driver

_PRUNE = """
DELETE FROM inline_value WHERE digest NOT IN (
  SELECT base_digest FROM entry WHERE pending != 0 AND base_digest IS NOT NULL)
"""
_INLINE_BASES = """
SELECT key FROM entry WHERE pending != 0 AND base_kind = 0 AND base_digest IS NOT NULL AND base_offset_bytes IS
NULL
"""


def keys_with_inline_base(raw: sqlite3.Connection) -> list[str]:
    """Returns the keys of operations whose base is a value that rides in the index."""
    return [key for (key,) in raw.execute(_INLINE_BASES)]


def keep_inline_values(raw: sqlite3.Connection, values: Iterable[tuple[bytes, bytes]]) -> None:
    """Keeps values by their digests."""
    raw.executemany("INSERT OR REPLACE INTO inline_value(digest, value) VALUES (?, ?)", values)


def prune_inline_values(journal: Journal) -> int:
    """Drops the values that no operation is based on any more; returns how many."""
    with journal.transaction() as connection:
        return driver(connection).execute(_PRUNE).rowcount
