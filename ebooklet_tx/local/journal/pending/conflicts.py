"""Conflicts as the journal tells them: pending operations that meet a change of another writer.

The invariant: an entry is in conflict exactly while its remote digest differs both from the base of its
operation and from the operation's own outcome. It agrees where the remote digest differs from the base and is
the outcome: another writer gave the key the same value.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from ebooklet_tx.local.journal.index_rows import object_ref
from ebooklet_tx.local.journal.integrity.row_checks import location_of, misplaced
from ebooklet_tx.local.journal.journal import Journal, driver
from ebooklet_tx.local.journal.pending.columns import NO_BASE
from ebooklet_tx.local.journal.remote_values import RemoteValue
from ebooklet_tx.local.journal.schema import SOUND_ROW

CONFLICTING = (
    "pending != 0 AND remote_digest IS NOT base_digest "
    "AND remote_digest IS NOT CASE pending WHEN 1 THEN pending_digest END"
)
"""SQL that is true of an entry in conflict."""

AGREEING = "pending != 0 AND pending = 1 AND remote_digest IS NOT base_digest AND remote_digest IS pending_digest"
"""SQL that is true of an entry to which another writer gave the same value."""

_CONFLICTS = f"""
SELECT e.key, e.base_digest, e.base_timestamp_us, CASE e.pending WHEN 1 THEN e.pending_digest END,
  e.pending_timestamp_us, e.remote_digest, e.remote_timestamp_us, c.writer, {SOUND_ROW}
FROM entry AS e LEFT JOIN commit_log AS c ON c.seq = e.remote_seq
"""


class ConflictRow(NamedTuple):
    """A key in conflict with its three sides; a digest is None where the key is not there."""

    key: str
    base_digest: bytes | None
    base_timestamp_us: int | None
    ours_digest: bytes | None
    ours_timestamp_us: int | None
    theirs_digest: bytes | None
    theirs_timestamp_us: int | None
    theirs_writer: str | None


def conflict_rows(raw: sqlite3.Connection, *, agreeing: bool = False) -> list[ConflictRow]:
    """Returns the conflicts that a journal's database holds, in order of key.

    Args:
        raw: The journal's connection, or that of an inspection.
        agreeing: Whether keys to which another writer gave the same value are wanted as well.

    Raises:
        JournalDamagedError: A row of them is not as it was written.
    """
    where = f"pending != 0 AND (({CONFLICTING}) OR ({AGREEING}))" if agreeing else CONFLICTING
    rows = raw.execute(f"{_CONFLICTS} WHERE {where} ORDER BY e.key").fetchall()
    for *row, sound in rows:
        if not sound:
            raise misplaced(location_of(raw), f"the row of {row[0]!r} is not as it was written")
    return [ConflictRow(*row) for *row, _ in rows]


def drop_agreeing(journal: Journal) -> None:
    """Drops the operations that another writer has carried out just so."""
    with journal.transaction() as transaction:
        driver(transaction).execute(f"UPDATE entry SET pending = 0, {NO_BASE} WHERE {AGREEING}")


def find_side(journal: Journal, key: str, side: str) -> tuple[bytes | None, RemoteValue | None]:
    """Returns one side of an entry: its digest, and where in the remote its value lies.

    Args:
        journal: The journal.
        key: The key of an entry that is there.
        side: `base` or `remote`.

    Returns:
        The digest, None where the key is not there; the place, None where it is in no pack.
    """
    ((digest, number, stamp, offset, length),) = journal.rows(
        f"SELECT {side}_digest, {side}_object, {side}_timestamp_us, {side}_offset_bytes, {side}_length_bytes "
        "FROM entry WHERE key = ?",
        (key,),
    )
    if digest is None or number is None:
        return digest, None
    return digest, RemoteValue(key, digest, stamp, object_ref(journal, number), offset, length)
