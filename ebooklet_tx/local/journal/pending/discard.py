"""Discarding pending operations.

The invariant: a discarded operation leaves the key as the base commit has it, in one transaction for all keys;
a value that only this machine had is gone afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence

from ebooklet_tx.local.journal.journal import Journal, driver
from ebooklet_tx.local.journal.pending.columns import NO_BASE

_NOT_PENDING = f"UPDATE entry SET pending = 0, {NO_BASE} WHERE pending != 0"
_ONLY_PENDING = "DELETE FROM entry WHERE pending != 0 AND remote_seq IS NULL AND local_digest IS NULL"
_EMPTY = "DELETE FROM entry WHERE remote_seq IS NULL AND local_digest IS NULL AND pending = 0"


def discard(journal: Journal, keys: Sequence[str] | None) -> int:
    """Drops the pending operations of some keys, or of all; returns how many there were."""
    with journal.transaction() as transaction:
        raw = driver(transaction)
        if keys is None:
            # First, while the index of what is pending tells them from the rest of the table.
            dropped = raw.execute(_ONLY_PENDING).rowcount
            dropped += raw.execute(_NOT_PENDING).rowcount
            raw.execute("DELETE FROM staged")
            return dropped
        dropped = 0
        for key in keys:
            dropped += raw.execute(_NOT_PENDING + " AND key = ?", (key,)).rowcount
            raw.execute("DELETE FROM staged WHERE key = ?", (key,))
            raw.execute(_EMPTY + " AND key = ?", (key,))
        return dropped
