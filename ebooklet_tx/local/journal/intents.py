"""Intents: pushes that were begun and of which it is not known whether they took place.

The invariant: an intent stands before anything is swapped. With the numbers, places and versions that the journal
has beside it, it says what the commit holds of each key. So a later session that learns that the commit took
place makes it the base by a few statements.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any

from ebooklet_tx.local.journal.entries import pending_term
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.local.journal.known import object_numbers, stamp_of
from ebooklet_tx.local.journal.operations import BASE_LOST, BASE_SAID, BASE_UNKNOWN, DROP_EMPTY, NO_BASE
from ebooklet_tx.local.journal.schema import IS_REMOTE
from ebooklet_tx.records import ObjectRef

_COLUMNS = "commit_id, seq, base_etag, base_commit_id, last_number, replaces"

_APPLY = f"""
UPDATE entry SET known = :stamp, remote_seq = :seq, remote_timestamp_us = pending_timestamp_us,
  (remote_object, remote_offset_bytes) = (
    SELECT CASE WHEN pending = 2 THEN NULL WHEN {IS_REMOTE} THEN remote_object
        ELSE coalesce(p.object, :carrier) END,
      CASE WHEN pending = 2 THEN NULL WHEN {IS_REMOTE} THEN remote_offset_bytes ELSE p.offset_bytes END
    FROM (SELECT 1) LEFT JOIN place AS p ON p.number = pending_number),
  remote_length_bytes = CASE pending WHEN 1 THEN pending_length_bytes END,
  remote_digest = CASE pending WHEN 1 THEN pending_digest END,
  pending = 0, pending_timestamp_us = NULL, pending_digest = NULL, pending_length_bytes = NULL,
  pending_number = 0, {NO_BASE}
WHERE {{pending}} AND pending_number <= :number AND {{keys}}
"""

_KEYS_AT_ONCE = 20_000
"""Until a statement ends SQLite keeps in memory what it changes, 150 bytes for each key of a first push."""

_APPLY_VERSION = f"""
UPDATE entry SET known = :stamp, remote_seq = :seq, remote_timestamp_us = v.timestamp_us, remote_digest =
v.digest,
  remote_object = v.object, remote_offset_bytes = v.offset_bytes, remote_length_bytes = v.length_bytes,
  base_seq = :seq, base_timestamp_us = v.timestamp_us, base_digest = v.digest, base_object = v.object,
  base_offset_bytes = v.offset_bytes, base_length_bytes = v.length_bytes,
  base_kind = {BASE_SAID}, base_at = :commit_id
FROM (
  SELECT p.key, p.timestamp_us, p.digest, p.length_bytes,
    CASE WHEN p.digest IS NULL THEN NULL WHEN p.remote_object IS NOT NULL THEN p.remote_object
         ELSE coalesce((SELECT object FROM place WHERE number = p.number), :carrier) END AS object,
    CASE WHEN p.digest IS NULL THEN NULL WHEN p.remote_object IS NOT NULL THEN p.remote_offset_bytes
         ELSE (SELECT offset_bytes FROM place WHERE number = p.number) END AS offset_bytes
  FROM pushed_version AS p WHERE p.commit_id = :commit_id) AS v
WHERE entry.key = v.key
"""


@dataclass(frozen=True, slots=True)
class Intent:
    """A push whose answer never came: it may have taken effect or not.

    Attributes:
        commit_id: Its commit.
        seq: That commit's number.
        base_etag: The ETag of the root that it was to replace; None where there was none.
        base_commit_id: The commit that it was made on.
        last_number: The number of the last operation in it.
        replaces: Whether it replaces the whole database.
    """

    commit_id: str
    seq: int
    base_etag: str | None
    base_commit_id: str | None
    last_number: int
    replaces: bool


def read_intents(journal: Journal) -> list[Intent]:
    """Returns the pushes whose outcome is not known, in the order of their operations."""
    rows = journal.rows(f"SELECT {_COLUMNS} FROM intent ORDER BY last_number, begun_at_us")
    return [
        Intent(commit_id, seq, base_etag, base_commit_id, last_number, bool(replaces))
        for commit_id, seq, base_etag, base_commit_id, last_number, replaces in rows
    ]


def add_intent(raw: sqlite3.Connection, intent: Intent, *, begun_at_us: int) -> None:
    """Notes what is about to be swapped in."""
    raw.execute(
        f"INSERT INTO intent({_COLUMNS}, begun_at_us) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            intent.commit_id,
            intent.seq,
            intent.base_etag,
            intent.base_commit_id,
            intent.last_number,
            int(intent.replaces),
            begun_at_us,
        ),
    )


def drop_intents(raw: sqlite3.Connection, commit_ids: list[str] | None = None) -> None:
    """Forgets pushes, all of them where none are named, and the versions kept for them."""
    if commit_ids is None:
        raw.execute("DELETE FROM intent")
    else:
        raw.executemany("DELETE FROM intent WHERE commit_id = ?", [(each,) for each in commit_ids])
    raw.execute("DELETE FROM pushed_version WHERE commit_id NOT IN (SELECT commit_id FROM intent)")


def apply_intent(raw: sqlite3.Connection, intent: Intent, *, root: ObjectRef | None) -> None:
    """Makes what a push sent the remote side of its keys; what was written since stays pending on top of it.

    Args:
        raw: The connection of a transaction.
        intent: The push, which took place.
        root: The root that it put, from which inline values come; None where its ETag is not known.
    """
    carrier = None
    if root is not None:
        carrier = object_numbers(raw, [root])[root.name, root.etag]
    facts = {
        "seq": intent.seq,
        "number": intent.last_number,
        "commit_id": intent.commit_id,
        "carrier": carrier,
        "stamp": stamp_of(raw),
    }
    if intent.replaces:
        # Of what lies below it nothing is left: every other key is known not to be there.
        raw.execute(
            f"UPDATE entry SET base_kind = {BASE_SAID}, base_digest = NULL, base_seq = NULL, base_at = ? "
            "WHERE pending != 0",
            (intent.base_commit_id,),
        )
    _apply_pending(raw, facts)
    raw.execute(_APPLY_VERSION, facts)
    raw.execute(
        "UPDATE entry SET base_at = ? WHERE pending != 0 AND base_at IS ?",
        (intent.commit_id, intent.base_commit_id),
    )
    raw.execute(DROP_EMPTY)


def _apply_pending(raw: sqlite3.Connection, facts: dict[str, Any]) -> None:
    """Applies what is still pending of a push, so many keys at a time."""
    term, keys = pending_term(raw), "key >= :after"
    after: str | None = ""
    while after is not None:
        page = f"SELECT key FROM entry WHERE {term} AND {keys} ORDER BY key LIMIT 1 OFFSET {_KEYS_AT_ONCE}"
        last = raw.execute(page, {"after": after}).fetchone()
        upto = keys if last is None else f"{keys} AND key <= :upto"
        bounds = {"after": after} if last is None else {"after": after, "upto": last[0]}
        raw.execute(_APPLY.format(pending=term, keys=upto), facts | bounds)
        after, keys = (None, keys) if last is None else (last[0], "key > :after")


def lose_intent(raw: sqlite3.Connection, intent: Intent) -> None:
    """Notes of a push that it can't be told any more whether it took place: its keys' bases are lost."""
    raw.execute(
        f"UPDATE entry SET base_kind = {BASE_LOST}, base_seq = NULL, base_digest = NULL "
        f"WHERE pending != 0 AND base_kind IN ({BASE_SAID}, {BASE_UNKNOWN}) AND (pending_number <= ? "
        "OR key IN (SELECT key FROM pushed_version WHERE commit_id = ?))",
        (intent.last_number, intent.commit_id),
    )


__all__ = ["Intent", "add_intent", "apply_intent", "drop_intents", "lose_intent", "read_intents"]
