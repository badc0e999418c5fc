"""Pending operations: what was set and deleted here and is still to be pushed.

The invariants: an operation has a higher number than any before it, and it keeps the base that its key had when
it came, however often the key is written again. What an unresolved push sent of a key is kept beside it before
the key is written again or its operation is discarded.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from ebooklet_tx.local.journal.connections import in_order_of_first, insert_many
from ebooklet_tx.local.journal.pending.existing_rows import change_existing, kind_of_most
from ebooklet_tx.local.journal.schema import BASE_AS_NOW, EMPTY
from ebooklet_tx.records import digest_of

BASE_SAID, BASE_UNKNOWN, BASE_LOST, BASE_ADOPTED = 0, 1, 2, 3
"""What is known of an operation's base: as its columns say, not looked up yet, not to be found out any more (then
`base_seq` is the commit up to which the remote may have it, none where commits do not lead on), or of a file that
was adopted, where timestamps decide once the key is looked up."""

ADOPTED = "adopted"
"""The fact that there are operations of which timestamps decide, once it is known what the remote has."""

IN_DOUBT = "in_doubt"
"""The fact that it is not known what the remote has of pending keys, and that the next pull is to find it out."""

LAST_NUMBER = "last_operation"
"""The fact that holds the number of the last operation."""

_REMOTE = ("seq", "timestamp_us", "digest", "object", "offset_bytes", "length_bytes")

NO_BASE = ", ".join((*(f"base_{name} = NULL" for name in _REMOTE), "base_kind = 0", "base_at = NULL"))
REMOTE_AS_BASE = ", ".join((*(f"base_{name} = remote_{name}" for name in _REMOTE), "base_kind = 0"))
_BASE_AS_REMOTE = ", ".join(
    (*(f"remote_{name} = base_{name}" for name in _REMOTE), "known = 1 + (SELECT * FROM pragma_user_version)")
)
"""Likewise the other way round, with the mark of the commit that is being made; see `known.stamp_of`."""

_IS_WHOLE = """(base_seq IS NULL) = (base_timestamp_us IS NULL) AND (base_digest IS NULL) = (base_object IS NULL)
  AND (base_digest IS NULL OR base_seq IS NOT NULL AND base_length_bytes IS NOT NULL)"""
"""SQL that is true of a base that says all that an index does; of a fork's, the digest alone may be known."""

NOT_KNOWN = ", ".join((*(f"remote_{name} = NULL" for name in _REMOTE), "known = 0"))

_AS_ADOPTED = f"pending = 1 AND base_kind = {BASE_ADOPTED} AND base_digest IS NULL"
"""SQL that is true of an operation that is as its file was adopted. One that is written again on top of it keeps
that version as its base: timestamps decide about the file, and not about what its user has done since."""

_FIRST_BASE = {name: f"WHEN {_AS_ADOPTED} THEN pending_{name} " for name in ("timestamp_us", "digest")}

_KEEP_BASE = ", ".join(
    (
        *(
            f"base_{name} = CASE {_FIRST_BASE.get(name, '')}WHEN pending != 0 THEN base_{name} "
            f"WHEN known THEN remote_{name} END"
            for name in _REMOTE
        ),
        "base_kind = CASE WHEN pending != 0 THEN base_kind WHEN known THEN 0 ELSE 1 END",
        "base_at = CASE WHEN pending != 0 THEN base_at ELSE excluded.base_at END",
    )
)

# While the outcome of a push is open, what the remote is known to hold may be superseded by that push. So every
# delete stays then: the push may have set a key whose operation was discarded since.
_NO_PUSH_OPEN = "NOT EXISTS (SELECT 1 FROM intent)"

_UPDATE = f"""
ON CONFLICT(key) DO UPDATE SET {_KEEP_BASE},
  pending = CASE WHEN known AND excluded.pending_digest IS remote_digest
                  AND excluded.pending_timestamp_us IS remote_timestamp_us
                  AND {_NO_PUSH_OPEN} THEN 0 ELSE 1 END,
  pending_digest = excluded.pending_digest,
  pending_timestamp_us = excluded.pending_timestamp_us,
  pending_length_bytes = excluded.pending_length_bytes,
  pending_number = excluded.pending_number
"""

_SET = (
    "INSERT INTO entry(known, base_kind, base_at, pending, key, pending_digest, pending_timestamp_us, "
    "pending_length_bytes, pending_number)",
    "({s0}, {s1}, {s2}, 1, {0}, {1}, {2}, {3}, {4})",
    _UPDATE,
)

_SET_AND_PLACE = (
    "INSERT INTO entry(known, base_kind, base_at, pending, key, pending_digest, pending_timestamp_us, "
    "pending_length_bytes, pending_number, local_digest, local_timestamp_us, local_length_bytes, "
    "local_offset_bytes)",
    "({s0}, {s1}, {s2}, 1, {0}, {1}, {2}, {3}, {4}, {1}, {2}, {3}, {5})",
    f"""{_UPDATE},
  local_digest = excluded.local_digest,
  local_timestamp_us = excluded.local_timestamp_us,
  local_length_bytes = excluded.local_length_bytes,
  local_offset_bytes = excluded.local_offset_bytes
""",
)

_DELETE = (
    "INSERT INTO entry(known, base_kind, base_at, pending, key, pending_timestamp_us, pending_number)",
    "({s0}, {s1}, {s2}, {s3}, {0}, {1}, {2})",
    f"""
ON CONFLICT(key) DO UPDATE SET {_KEEP_BASE},
  pending = CASE WHEN pending != 0 AND base_kind = {BASE_ADOPTED} THEN 2
    WHEN known AND remote_digest IS NULL AND {_NO_PUSH_OPEN} THEN 0
    WHEN NOT known AND pending != 0 AND {BASE_AS_NOW} AND base_digest IS NULL AND {_NO_PUSH_OPEN} THEN 0
    ELSE 2 END,
  pending_digest = NULL, pending_timestamp_us = excluded.pending_timestamp_us, pending_length_bytes = NULL,
  pending_number = excluded.pending_number
""",
)

_NO_COPY = "local_timestamp_us = NULL, local_digest = NULL, local_offset_bytes = NULL, local_length_bytes = NULL"

_DELETE_AND_GONE = (*_DELETE[:2], f"{_DELETE[2]}, {_NO_COPY}")

# What the upserts make of the two kinds of rows that most changes of many keys meet.
_KINDS = {
    "known": "known AND pending = 0 AND remote_digest IS NOT NULL",
    "pending": f"pending = 1 AND base_kind != {BASE_ADOPTED}",
}
_NEW_BASE = {"known": f"{REMOTE_AS_BASE}, base_at = {{s2}}, ", "pending": ""}

_SET_EXISTING = f"""
  pending = CASE WHEN known AND new.digest IS remote_digest AND new.timestamp_us IS remote_timestamp_us
                  AND {_NO_PUSH_OPEN} THEN 0 ELSE 1 END,
  pending_digest = new.digest, pending_timestamp_us = new.timestamp_us,
  pending_length_bytes = new.length_bytes, pending_number = new.number,
  local_digest = new.digest, local_timestamp_us = new.timestamp_us,
  local_length_bytes = new.length_bytes, local_offset_bytes = new.offset_bytes
"""
_DELETE_EXISTING = f"""
  pending = CASE WHEN {_NO_PUSH_OPEN} AND CASE WHEN known THEN remote_digest IS NULL
    ELSE {BASE_AS_NOW} AND base_digest IS NULL END THEN 0 ELSE 2 END,
  pending_digest = NULL, pending_timestamp_us = new.timestamp_us, pending_length_bytes = NULL,
  pending_number = new.number
"""
_PLACED = ("key", "digest", "timestamp_us", "length_bytes", "number", "offset_bytes")
_DELETED = ("key", "timestamp_us", "number")

DROP_EMPTY = f"DELETE FROM entry WHERE {EMPTY}"
"""Entries of which this machine holds nothing."""

_SAVE_PUSHED = """
INSERT INTO pushed_version(commit_id, key, number, digest, timestamp_us, length_bytes, remote_object,
  remote_offset_bytes)
SELECT commit_id, key, pending_number, CASE pending WHEN 1 THEN pending_digest END, pending_timestamp_us,
  pending_length_bytes, CASE WHEN known AND pending_digest IS remote_digest THEN remote_object END,
  CASE WHEN known AND pending_digest IS remote_digest THEN remote_offset_bytes END
FROM entry JOIN intent ON pending_number <= last_number WHERE key = ? AND pending != 0
ON CONFLICT(commit_id, key) DO NOTHING
"""
"""Of each push on its way that holds the operation: which of several took place is not known yet."""


class Numbering:
    """Gives the operations of one transaction their numbers and their base.

    Attributes:
        base_at: The id of the commit that the journal stands on, None where there is none.
    """

    def __init__(self, raw: sqlite3.Connection) -> None:
        facts = dict(
            raw.execute("SELECT name, value FROM meta WHERE name IN (?, 'base_commit_id')", (LAST_NUMBER,))
        )
        self._raw = raw
        self._last = int(facts.get(LAST_NUMBER, 0))
        self.base_at: str | None = facts.get("base_commit_id")
        # Of a remote that has no commit yet everything is known.
        self.known = int(self.base_at is None)
        self.base_kind = BASE_SAID if self.known else BASE_UNKNOWN

    @property
    def shared(self) -> tuple[int, int, str | None]:
        """What the statements above share between their rows."""
        return self.known, self.base_kind, self.base_at

    def next(self) -> int:
        """Returns the number of the next operation."""
        return self.take(1)[0]

    def take(self, count: int) -> range:
        """Returns the numbers of the next operations."""
        first = self._last + 1
        self._last += count
        return range(first, self._last + 1)

    def note(self) -> None:
        """Records the last number that was given."""
        self._raw.execute(
            "INSERT INTO meta(name, value) VALUES (?, ?) ON CONFLICT(name) DO UPDATE SET value = excluded.value",
            (LAST_NUMBER, self._last),
        )


def has_open_push(raw: sqlite3.Connection) -> bool:
    """Whether there is a push whose outcome is not known."""
    return raw.execute("SELECT 1 FROM intent LIMIT 1").fetchone() is not None


def save_pushed(raw: sqlite3.Connection, keys: Iterable[str]) -> None:
    """Keeps beside some keys what an unresolved push sent of them, before they are written again."""
    if has_open_push(raw):
        raw.executemany(_SAVE_PUSHED, ((key,) for key in keys))


def record_sets(raw: sqlite3.Connection, rows: Iterable[tuple[str, bytes, int, int]]) -> None:
    """Makes pending sets of (key, digest, timestamp, length); equal content and time is no change."""
    numbering = Numbering(raw)
    rows = list(rows)
    if rows:
        columns = list(zip(*rows, strict=True))
        save_pushed(raw, columns[0])
        insert_many(raw, _SET, numbering.shared, [*columns, numbering.take(len(rows))])
    numbering.note()


def record_placed_sets(
    raw: sqlite3.Connection,
    keys: Sequence[str],
    digests: Sequence[bytes],
    stamps: Sequence[int],
    lengths_bytes: Sequence[int],
    offsets_bytes: Sequence[int],
) -> None:
    """Likewise, with where the values lie in the Booklet file."""
    numbering = Numbering(raw)
    save_pushed(raw, keys)
    # Numbers go by the order of the file. In the order of key the table's pages are met once each.
    numbers = numbering.take(len(keys))
    columns = in_order_of_first((keys, digests, stamps, lengths_bytes, numbers, offsets_bytes))
    _upsert(raw, _SET_AND_PLACE, numbering.shared, _SET_EXISTING, _PLACED, columns)
    numbering.note()


def _upsert(
    raw: sqlite3.Connection,
    statement: tuple[str, str, str],
    shared: Sequence[Any],
    changes: str,
    names: Sequence[str],
    columns: Sequence[Sequence[Any]],
) -> None:
    """Inserts or changes the rows of some keys, by the way that is quick where most have a row of one kind."""
    kind = kind_of_most(raw, columns[0], _KINDS)
    if kind is None:
        insert_many(raw, statement, shared, columns)
    else:
        update = f"SET {_NEW_BASE[kind]}{changes} WHERE {_KINDS[kind]}"
        change_existing(raw, update, statement, shared, names, columns)


def record_deletes(raw: sqlite3.Connection, rows: Iterable[tuple[str, int]], *, gone: bool = False) -> None:
    """Makes pending deletes of (key, timestamp); a key that is known never to have been pushed just goes.

    Args:
        raw: The connection of a transaction.
        rows: The keys, each with the time of its deletion.
        gone: Whether the Booklet file no longer holds the keys.
    """
    rows = list(rows)
    if not rows:
        return
    is_open = has_open_push(raw)
    save_pushed(raw, (key for key, _ in rows))
    numbering = Numbering(raw)
    # Of a key without an entry, in a database without a remote, nothing is left to delete.
    kind = 0 if numbering.known and not is_open else 2
    keys, stamps = [key for key, _ in rows], [stamp for _, stamp in rows]
    columns = (keys, stamps, numbering.take(len(rows)))
    statement, changes = _DELETE, _DELETE_EXISTING
    if gone:
        statement, changes = _DELETE_AND_GONE, f"{_DELETE_EXISTING}, {_NO_COPY}"
    _upsert(raw, statement, (*numbering.shared, kind), changes, _DELETED, columns)
    if raw.execute("SELECT 1 FROM staged LIMIT 1").fetchone() is not None:
        raw.executemany("DELETE FROM staged WHERE key = ?", ((key,) for key, _ in rows))
    raw.execute(DROP_EMPTY)
    numbering.note()


def base_on_copies(raw: sqlite3.Connection, keys: Iterable[str]) -> None:
    """Takes the local copies of keys as the bases of operations whose bases are not known: the user saw those."""
    raw.executemany(
        f"UPDATE entry SET base_kind = {BASE_SAID}, base_at = NULL, base_digest = local_digest, "
        "base_timestamp_us = local_timestamp_us "
        f"WHERE key = ? AND pending != 0 AND base_kind = {BASE_UNKNOWN} AND local_digest IS NOT NULL",
        [(key,) for key in keys],
    )


def stage_value(raw: sqlite3.Connection, key: str, value: bytes | None, timestamp_us: int) -> None:
    """Sets or deletes (None) one key within a transaction of the caller's."""
    if value is None:
        record_deletes(raw, [(key, timestamp_us)])
        return
    digest = digest_of(value)
    record_sets(raw, [(key, digest, timestamp_us, len(value))])
    raw.execute(
        "INSERT OR REPLACE INTO staged(key, digest, timestamp_us, value) VALUES (?, ?, ?, ?)",
        (key, digest, timestamp_us, value),
    )


# -- discarding --------------------------------------------------------------------------------


def discard(raw: sqlite3.Connection, keys: Sequence[str] | None) -> int:
    """Drops the pending operations of some keys, or of all; returns how many there were."""
    where = "" if keys is None else " AND key = ?"
    parameters: list[tuple[str, ...]] = [()] if keys is None else [(key,) for key in keys]
    pending = (
        [row[0] for row in raw.execute("SELECT key FROM entry WHERE pending != 0")] if keys is None else keys
    )
    save_pushed(raw, pending)
    dropped = 0
    for each in parameters:
        # First, while the index of what is pending tells them from the rest of the table.
        dropped += raw.execute(
            f"DELETE FROM entry WHERE pending != 0 AND local_digest IS NULL{where}", each
        ).rowcount
        # What the remote is known to have tells whether the copy in the file is current.
        whole = f"pending != 0 AND NOT known AND {BASE_AS_NOW} AND {_IS_WHOLE}"
        raw.execute(f"UPDATE entry SET {_BASE_AS_REMOTE} WHERE {whole}{where}", each)
        dropped += raw.execute(
            f"UPDATE entry SET pending = 0, {NO_BASE} WHERE pending != 0{where}", each
        ).rowcount
        raw.execute("DELETE FROM staged" + ("" if keys is None else " WHERE key = ?"), each)
    return dropped


def _pending_keys(raw: sqlite3.Connection) -> list[str]:
    return [key for (key,) in raw.execute("SELECT key FROM entry WHERE pending != 0")]


def adopt_all(raw: sqlite3.Connection) -> None:
    """Marks what is pending as of an adopted file: timestamps decide, once it is known what the remote has."""
    raw.execute(f"UPDATE entry SET base_kind = {BASE_ADOPTED} WHERE pending != 0")


def adopt(raw: sqlite3.Connection, keys: Iterable[str], *, base_seq: int) -> None:
    """Likewise of some keys, where their bases are not known; what is newer than a commit is a conflict.

    Args:
        raw: The connection of a transaction.
        keys: The keys.
        base_seq: The number of the commit that the journal stands on, 0 for none.
    """
    raw.executemany(
        f"UPDATE entry SET base_kind = {BASE_ADOPTED}, base_at = NULL, base_seq = nullif(?, 0) "
        f"WHERE key = ? AND pending != 0 AND base_kind = {BASE_UNKNOWN}",
        [(base_seq, key) for key in keys],
    )


__all__ = [
    "ADOPTED",
    "BASE_ADOPTED",
    "BASE_LOST",
    "BASE_SAID",
    "BASE_UNKNOWN",
    "DROP_EMPTY",
    "IN_DOUBT",
    "LAST_NUMBER",
    "NOT_KNOWN",
    "NO_BASE",
    "REMOTE_AS_BASE",
    "Numbering",
    "adopt",
    "adopt_all",
    "base_on_copies",
    "discard",
    "has_open_push",
    "record_deletes",
    "record_placed_sets",
    "record_sets",
    "save_pushed",
    "stage_value",
]
