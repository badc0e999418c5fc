"""What becomes of pending operations when the base moves.

The invariant: an operation goes exactly where the new base commit has carried it out; any other keeps its local
value, and its base, by which conflicts are told.
"""

from __future__ import annotations

import sqlite3

from ebooklet_tx.local.journal.pending.columns import NO_BASE, REMOTE_AS_BASE

DONE = f"""
UPDATE entry SET pending = 0, {NO_BASE} WHERE pending != 0 AND (
  (pending = 1 AND pending_digest IS remote_digest AND pending_timestamp_us IS remote_timestamp_us)
  OR (pending = 2 AND remote_digest IS NULL))
"""
"""Operations that a commit has carried out. An equal value that was set at another time stays pending:
whether it is the same change or one more of its kind (a counter's) is for the push to decide."""

_EQUAL_IS_CLEAN = f"""
UPDATE entry SET pending = 0, {NO_BASE}
WHERE pending != 0 AND pending = 1 AND pending_digest IS remote_digest
"""
_NEWER_WINS = f"""
UPDATE entry SET pending = 0, {NO_BASE}
WHERE pending != 0 AND remote_seq IS NOT NULL AND remote_timestamp_us >= pending_timestamp_us
"""
_REBASED = f"UPDATE entry SET {REMOTE_AS_BASE} WHERE pending != 0"


def reconcile_operations(raw: sqlite3.Connection, *, own_seq: int | None) -> None:
    """Settles pending operations with the remote columns of a new base, within its transaction.

    Args:
        raw: The driver connection of the transaction.
        own_seq: Rows of this commit were written here: what was set again since is based on them.
    """
    if raw.execute("SELECT 1 FROM meta WHERE name = 'adopted'").fetchone():
        _reconcile_adopted(raw)
    if own_seq is not None:
        # First, so that a mere change of timestamp since then is told from what was pushed.
        raw.execute(f"{_REBASED} AND remote_seq = ?", (own_seq,))
    raw.execute(DONE)


def _reconcile_adopted(raw: sqlite3.Connection) -> None:
    """Merges a file without a journal with the remote: equal values are clean, else the newer one wins."""
    raw.execute(_EQUAL_IS_CLEAN)
    raw.execute(_NEWER_WINS)
    raw.execute(_REBASED)
    raw.execute("DELETE FROM meta WHERE name = 'adopted'")
