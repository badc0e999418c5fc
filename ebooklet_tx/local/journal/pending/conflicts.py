"""Conflicts as the journal tells them: pending operations that meet a change of another writer.

The invariant: an entry is in conflict exactly while what the remote has of its key, which is known, differs both
from the base of its operation and from the operation's own outcome; where the base is lost, while it differs from
the outcome. It agrees where the remote's differs from the base and is the outcome: another writer gave the key
the same value. Of a key that is not known nothing is said: its base is what the base commit has.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from ebooklet_tx.local.journal.integrity.row_checks import location_of, misplaced
from ebooklet_tx.local.journal.journal import Journal, driver
from ebooklet_tx.local.journal.operations import DROP_EMPTY, NO_BASE, save_pushed
from ebooklet_tx.local.journal.remote_objects import object_ref
from ebooklet_tx.local.journal.remote_values import RemoteValue
from ebooklet_tx.local.journal.schema import MOVED, SOUND_ROW

_OURS = "CASE pending WHEN 1 THEN pending_digest END"

CONFLICTING = f"{MOVED} AND remote_digest IS NOT {_OURS}"
"""SQL that is true of an entry in conflict."""

AGREEING = f"{MOVED} AND pending = 1 AND remote_digest IS pending_digest"
"""SQL that is true of an entry to which another writer gave the same value."""

_CONFLICTS = f"""
SELECT key, base_digest, base_timestamp_us, {_OURS}, pending_timestamp_us, remote_digest, remote_timestamp_us,
  remote_seq, {SOUND_ROW}
FROM entry INDEXED BY entry_moved
"""


_AGREEING_KEYS = f"SELECT key FROM entry INDEXED BY entry_moved WHERE {AGREEING}"


class ConflictRow(NamedTuple):
    """A key in conflict with its three sides; a digest is None where the key is not there."""

    key: str
    base_digest: bytes | None
    base_timestamp_us: int | None
    ours_digest: bytes | None
    ours_timestamp_us: int | None
    theirs_digest: bytes | None
    theirs_timestamp_us: int | None
    theirs_seq: int | None


def conflict_rows(raw: sqlite3.Connection, *, agreeing: bool = False) -> list[ConflictRow]:
    """Returns the conflicts that a journal's database holds, in order of key.

    Args:
        raw: The journal's connection, or that of an inspection.
        agreeing: Whether keys to which another writer gave the same value are wanted as well.

    Raises:
        JournalDamagedError: A row of them is not as it was written.
    """
    differing = f"remote_digest IS NOT {_OURS}"
    where = f"{MOVED} AND (pending = 1 OR {differing})" if agreeing else CONFLICTING
    rows = raw.execute(f"{_CONFLICTS} WHERE {where} ORDER BY key").fetchall()
    for *row, sound in rows:
        if not sound:
            raise misplaced(location_of(raw), f"the row of {row[0]!r} is not as it was written")
    return [ConflictRow(*row) for *row, _ in rows]


def drop_agreeing(journal: Journal) -> None:
    """Drops the operations that another writer has carried out just so; no transaction where there are none."""
    if not journal.rows(f"{_AGREEING_KEYS} LIMIT 1"):
        return
    with journal.transaction() as transaction:
        raw = driver(transaction)
        save_pushed(raw, [key for (key,) in raw.execute(_AGREEING_KEYS)])
        raw.execute(f"UPDATE entry INDEXED BY entry_moved SET pending = 0, {NO_BASE} WHERE {AGREEING}")
        raw.execute(DROP_EMPTY)


def find_side(journal: Journal, key: str, side: str) -> tuple[bytes | None, RemoteValue | None]:
    """Returns one side of an entry: its digest, and where in a pack its value lies.

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
    if digest is None or number is None or offset is None:
        return digest, None
    return digest, RemoteValue(key, digest, stamp, object_ref(journal, number), offset, length)
