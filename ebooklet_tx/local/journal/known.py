"""What the journal knows of the remote for single keys, exact for the base commit.

The invariants: a row is marked known only while the base is the commit that it was looked up at. Whatever moves
the base corrects each known row, or marks it unknown, in the same transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ebooklet_tx.local.journal.connections import in_order_of_first, insert_many
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.local.journal.operations import (
    BASE_ADOPTED,
    BASE_LOST,
    BASE_SAID,
    BASE_UNKNOWN,
    DROP_EMPTY,
    NO_BASE,
    NOT_KNOWN,
    REMOTE_AS_BASE,
)
from ebooklet_tx.local.journal.schema import BASE_AS_NOW
from ebooklet_tx.records import ObjectRef, RemoteSide

_NOT_KNOWN_KEYS = f"""
SELECT key FROM entry
WHERE pending != 0 AND NOT known AND NOT (base_kind = {BASE_SAID} AND base_at IS ?) AND key > ?
ORDER BY key LIMIT ?
"""

_LEARN = """
UPDATE entry SET known = ?, remote_seq = ?, remote_timestamp_us = ?, remote_digest = ?, remote_object = ?,
  remote_offset_bytes = ?, remote_length_bytes = ?
WHERE key = ?
"""
_BASE_FOUND = f"""
UPDATE entry SET {REMOTE_AS_BASE}
WHERE key = ? AND pending != 0 AND base_kind = {BASE_UNKNOWN} AND base_at IS ?
"""
_BASE_INFERRED = f"""
UPDATE entry SET {REMOTE_AS_BASE}
WHERE key = ? AND pending != 0 AND base_kind = {BASE_LOST} AND coalesce(remote_seq, 0) <= base_seq
  AND base_seq >= ?
"""
_ADOPTED_WINS_NOT = f"""
UPDATE entry SET pending = 0, {NO_BASE}
WHERE key = ? AND pending != 0 AND base_kind = {BASE_ADOPTED} AND remote_seq IS NOT NULL
  AND base_digest IS NULL AND (pending_digest IS remote_digest OR remote_timestamp_us >= pending_timestamp_us)
"""
_ADOPTED_OUTDATED = f"""
UPDATE entry SET base_kind = {BASE_LOST}, base_seq = NULL, base_digest = NULL, base_timestamp_us = NULL
WHERE key = ? AND pending != 0 AND base_kind = {BASE_ADOPTED} AND remote_seq IS NOT NULL
  AND base_digest IS NOT NULL AND base_digest IS NOT remote_digest AND remote_timestamp_us >= base_timestamp_us
"""
"""What was written here on top of a file that was not the newest is a conflict."""

_ADOPTED_MEETS = f"""
UPDATE entry SET base_kind = {BASE_LOST}, base_digest = NULL, base_timestamp_us = NULL
WHERE key = ? AND pending != 0 AND base_kind = {BASE_ADOPTED} AND remote_seq > base_seq
"""
"""Of a file that was edited on a base: what another writer has committed since is a conflict."""

_ADOPTED_WINS = f"""
UPDATE entry SET {REMOTE_AS_BASE}, base_at = ? WHERE key = ? AND pending != 0 AND base_kind = {BASE_ADOPTED}
"""
_DONE = f"""
UPDATE entry SET pending = 0, {NO_BASE} WHERE pending != 0 AND known AND (
  (pending = 1 AND pending_digest IS remote_digest AND pending_timestamp_us IS remote_timestamp_us)
  OR (pending = 2 AND remote_digest IS NULL)) AND NOT EXISTS (SELECT 1 FROM intent)
"""
"""Operations that a commit has carried out. An equal value that was set at another time stays pending:
whether it is the same change or one more of its kind (a counter's) is for the push to say."""

_NO_CHANGE = f"""
UPDATE entry SET pending = 0, {NO_BASE} WHERE pending != 0 AND base_kind = {BASE_SAID} AND (
  (pending = 1 AND pending_digest IS base_digest AND pending_timestamp_us IS base_timestamp_us)
  OR (pending = 2 AND base_digest IS NULL)) AND NOT EXISTS (SELECT 1 FROM intent)
"""
"""Operations that change nothing of what their base is found to be: a key that was set and deleted again."""

_INSERT_KNOWN = (
    "INSERT INTO entry(known, key, remote_seq, remote_timestamp_us, remote_digest, remote_object, "
    "remote_offset_bytes, remote_length_bytes, local_timestamp_us, local_digest, local_offset_bytes, "
    "local_length_bytes)",
    "({s0}, {0}, {1}, {2}, {3}, {4}, {5}, {6}, {2}, {3}, {7}, {6})",
    "ON CONFLICT(key) DO UPDATE SET local_timestamp_us = excluded.local_timestamp_us, "
    "local_digest = excluded.local_digest, local_offset_bytes = excluded.local_offset_bytes, "
    "local_length_bytes = excluded.local_length_bytes",
)

_HAS_BASE = "pending != 0 AND base_kind = ?"
_KNOWS_PENDING = "knows_pending"
_KEYS_IN_STATEMENT = 900
KEYS_AT_ONCE = 10_000


def stamp_of(raw: sqlite3.Connection) -> int:
    """Returns with what a transaction at work marks the rows that it makes known: the number of its commit."""
    (count,) = raw.execute("PRAGMA user_version").fetchone()
    return int(count) + 1


def forget_known_since(raw: sqlite3.Connection, stamp: int) -> None:
    """Makes keys unknown that were made known by later transactions than one; costs a pass over all entries."""
    raw.execute(f"UPDATE entry SET {NOT_KNOWN} WHERE known > ?", (stamp,))


def keys_to_look_up(journal: Journal, after: str | None = None) -> list[str]:
    """Returns the next pending keys, in order, of which it is not known what the base commit has.

    Args:
        journal: The journal.
        after: The last key of the page before.
    """
    if after is None and knows_pending(journal):
        return []
    at = journal.get_meta("base_commit_id")
    page = journal.rows(_NOT_KNOWN_KEYS, (at, after or "", KEYS_AT_ONCE))
    keys: list[str] = [key for (key,) in page]
    if after is None and journal.rows(_NOT_KNOWN_KEYS.replace("key > ?", "key = ?"), (at, "", 1)):
        keys.insert(0, "")
    return keys


def copies_to_look_up(journal: Journal, after: str | None = None) -> list[str]:
    """Returns the next keys, in order, with a local copy of which it is not known whether the base commit has it.

    Args:
        journal: The journal.
        after: The last key of the page before.
    """
    compared = ">=" if after is None else ">"
    query = (
        "SELECT key FROM entry WHERE known = 0 AND pending = 0 AND local_digest IS NOT NULL "
        f"AND key {compared} ? ORDER BY key LIMIT ?"
    )
    return [key for (key,) in journal.rows(query, (after or "", KEYS_AT_ONCE))]


def is_any_pending(raw: sqlite3.Connection) -> bool:
    """Whether an operation is still to be pushed."""
    return raw.execute("SELECT 1 FROM entry WHERE pending != 0 LIMIT 1").fetchone() is not None


def knows_pending(journal: Journal) -> bool:
    """Whether it is known of every pending key what the base commit has; costs them once a change."""

    def find() -> bool:
        at = journal.get_meta("base_commit_id")
        return not journal.rows(_NOT_KNOWN_KEYS.replace("key > ?", "key >= ?"), (at, "", 1))

    return journal.found_once(_KNOWS_PENDING, find)


def note_knows_pending(journal: Journal, known: bool) -> None:
    """Notes that, where it was found out on the way."""
    journal.found_once(_KNOWS_PENDING, lambda: known)


def holds_any(raw: sqlite3.Connection, lo: str, hi: str | None) -> bool:
    """Whether a key in `[lo, hi)` is known or pending."""
    bound, parameters = ("", (lo,)) if hi is None else (" AND key < ?", (lo, hi))
    query = f"SELECT 1 FROM entry WHERE key >= ?{bound} AND (known OR pending != 0) LIMIT 1"
    return raw.execute(query, parameters).fetchone() is not None


def held_keys(raw: sqlite3.Connection, keys: Sequence[str]) -> set[str]:
    """Returns those of some keys that have an entry."""
    return set(_keys_where(raw, keys, "TRUE"))


def _keys_where(raw: sqlite3.Connection, keys: Sequence[str], condition: str, *parameters: Any) -> list[str]:
    """Returns those of some keys of whose entry a condition is true."""
    return [
        key
        for some, marks in in_parts(keys)
        for (key,) in raw.execute(
            f"SELECT key FROM entry WHERE key IN ({marks}) AND {condition}", (*some, *parameters)
        )
    ]


def in_parts(keys: Sequence[str]) -> Iterator[tuple[Sequence[str], str]]:
    """Yields some hundred keys at a time, each time with the marks that stand for them in a statement."""
    for start in range(0, len(keys), _KEYS_IN_STATEMENT):
        some = keys[start : start + _KEYS_IN_STATEMENT]
        yield some, ",".join("?" * len(some))


def object_numbers(raw: sqlite3.Connection, refs: Iterable[ObjectRef]) -> dict[tuple[str, str], int]:
    """Returns the numbers under which the journal has some objects, by name and ETag; new ones are noted."""
    wanted = {(ref.name, ref.etag): ref for ref in refs}
    raw.executemany(
        "INSERT INTO remote_object(name, etag, size_bytes) VALUES (?, ?, ?) ON CONFLICT(name, etag) DO NOTHING",
        [(ref.name, ref.etag, ref.size_bytes) for ref in wanted.values()],
    )
    return {
        pair: raw.execute("SELECT id FROM remote_object WHERE name = ? AND etag = ?", pair).fetchone()[0]
        for pair in wanted
    }


def learn(raw: sqlite3.Connection, found: Mapping[str, RemoteSide | None], *, commit_id: str | None) -> bool:
    """Makes keys known that were looked up; False, with nothing changed, where the base has moved since.

    Only keys of which the journal has an entry are noted.

    Args:
        raw: The connection of a transaction.
        found: What the commit says of each key, None where it has never heard of it.
        commit_id: The commit that they were looked up at.
    """
    facts = dict(
        raw.execute("SELECT name, value FROM meta WHERE name IN ('base_commit_id', 'base_tombstone_floor')")
    )
    if facts.get("base_commit_id") != commit_id:
        return False
    held = held_keys(raw, list(found))
    keys = [key for key in found if key in held]
    _set_remote(raw, [(key, found[key]) for key in keys])
    raw.executemany(_BASE_FOUND, [(key, commit_id) for key in _keys_where(raw, keys, _HAS_BASE, BASE_UNKNOWN)])
    floor = facts.get("base_tombstone_floor", 0)
    raw.executemany(_BASE_INFERRED, [(key, floor) for key in _keys_where(raw, keys, _HAS_BASE, BASE_LOST)])
    _decide_adopted(raw, keys, commit_id)
    for some, marks in in_parts(keys):
        raw.execute(f"{_DONE} AND key IN ({marks})", some)
        raw.execute(f"{DROP_EMPTY} AND key IN ({marks})", some)
    return True


def _decide_adopted(raw: sqlite3.Connection, keys: Sequence[str], commit_id: str | None) -> None:
    """Lets timestamps decide about keys of an adopted file that are known now, but where both sides changed."""
    keys = _keys_where(raw, keys, _HAS_BASE, BASE_ADOPTED)
    raw.executemany(_ADOPTED_WINS_NOT, [(key,) for key in keys])
    raw.executemany(_ADOPTED_OUTDATED, [(key,) for key in keys])
    raw.executemany(_ADOPTED_MEETS, [(key,) for key in keys])
    raw.executemany(_ADOPTED_WINS, [(commit_id, key) for key in keys])


def insert_known(
    raw: sqlite3.Connection,
    sides: Sequence[Sequence[Any]],
    offsets_bytes: Sequence[int],
) -> None:
    """Adds entries of keys that had none, known as of the base commit, each with the local copy of its value.

    Args:
        raw: The connection of a transaction.
        sides: What that commit says of the keys: a sequence for each field of `RemoteSide`.
        offsets_bytes: Where their values lie in the Booklet file.
    """
    keys, seqs, stamps, digests, refs, places, lengths = sides
    # Few objects hold many values, and each comes as one record.
    distinct = {id(ref): ref for ref in refs}
    by_name = object_numbers(raw, (ref for ref in distinct.values() if ref is not None))
    numbers = {at: None if ref is None else by_name[ref.name, ref.etag] for at, ref in distinct.items()}
    objects = [numbers[id(ref)] for ref in refs]
    columns = in_order_of_first((keys, seqs, stamps, digests, objects, places, lengths, offsets_bytes))
    insert_many(raw, _INSERT_KNOWN, (stamp_of(raw),), columns)


def _set_remote(raw: sqlite3.Connection, sides: Sequence[tuple[str, RemoteSide | None]]) -> None:
    numbers = object_numbers(raw, (side.ref for _, side in sides if side is not None and side.ref is not None))
    stamp = stamp_of(raw)
    raw.executemany(_LEARN, [(stamp, *_columns(side, numbers), key) for key, side in sides])


def _columns(side: RemoteSide | None, numbers: Mapping[tuple[str, str], int]) -> tuple[object, ...]:
    if side is None:
        return (None,) * 6
    number = None if side.ref is None else numbers[side.ref.name, side.ref.etag]
    return side.seq, side.timestamp_us, side.digest, number, side.offset_bytes, side.length_bytes


# -- moving the base ---------------------------------------------------------------------------


def keys_with_unknown_base(raw: sqlite3.Connection, commit_id: str | None) -> list[str]:
    """Returns the keys whose operations have a base that must be looked up before that commit is left."""
    query = f"SELECT key FROM entry WHERE pending != 0 AND base_kind = {BASE_UNKNOWN} AND base_at IS ?"
    return [key for (key,) in raw.execute(query, (commit_id,))]


def set_bases(raw: sqlite3.Connection, found: Mapping[str, RemoteSide | None]) -> None:
    """Records what operations had as their base, which was looked up at the commit that is left."""
    sides = list(found.items())
    numbers = object_numbers(raw, (side.ref for _, side in sides if side is not None and side.ref is not None))
    raw.executemany(
        f"""
UPDATE entry SET base_kind = {BASE_SAID}, base_seq = ?, base_timestamp_us = ?, base_digest = ?, base_object = ?,
  base_offset_bytes = ?, base_length_bytes = ?
WHERE key = ? AND pending != 0 AND base_kind = {BASE_UNKNOWN}
""",
        [(*_columns(side, numbers), key) for key, side in sides],
    )
    raw.executemany(f"{_NO_CHANGE} AND key = ?", [(key,) for key in found])


def drop_unchanged(raw: sqlite3.Connection, applied: Sequence[str] = ()) -> None:
    """Drops operations that change nothing, of keys that no other writer changed, once no push is open.

    Their bases stand on the base commit, or on one of the commits `applied`, of pushes that took place.
    """
    as_now = f"({BASE_AS_NOW} OR base_at IN ({', '.join('?' * len(applied))}))"
    raw.execute(f"{_NO_CHANGE} AND CASE WHEN known THEN remote_digest IS base_digest ELSE {as_now} END", applied)
    raw.execute(DROP_EMPTY)


def lose_bases(raw: sqlite3.Connection, keys: Iterable[str], *, seq: int | None) -> None:
    """Records that bases can't be found out any more.

    Args:
        raw: The connection of a transaction.
        keys: Whose operations they are.
        seq: The commit of the base, where later ones lead on from it: a remote that has not changed a key since
            still has its base. None where nothing can be inferred.
    """
    raw.executemany(
        f"UPDATE entry SET base_kind = {BASE_LOST}, base_seq = ?, base_digest = NULL "
        f"WHERE key = ? AND pending != 0 AND base_kind = {BASE_UNKNOWN}",
        [(seq, key) for key in keys],
    )


def infer_nothing(raw: sqlite3.Connection) -> None:
    """Takes away the inference of lost bases: the remote's commits do not lead on from the base."""
    raw.execute(f"UPDATE entry SET base_seq = NULL WHERE pending != 0 AND base_kind = {BASE_LOST}")


def forget_known(raw: sqlite3.Connection) -> None:
    """Makes every key unknown; what this machine holds of it stays."""
    raw.execute(f"UPDATE entry SET {NOT_KNOWN} WHERE known")
    raw.execute(DROP_EMPTY)


def apply_rows(
    raw: sqlite3.Connection,
    rows: Mapping[str, RemoteSide],
    *,
    left: str | None,
    reached: str,
    late: Collection[str] = (),
) -> None:
    """Corrects keys that are known or pending by what commits since the base say of them; moves bases on.

    Args:
        raw: The connection of a transaction.
        rows: What the newest of those commits says of each changed key.
        left: The commit that is left.
        reached: The commit that is reached.
        late: Keys that were written after the rows were read: of them there may be newer ones.
    """
    known = held_keys(raw, list(rows))
    sure = [key for key in known if key not in late]
    refs = (rows[key].ref for key in sure)
    numbers = object_numbers(raw, (ref for ref in refs if ref is not None))
    stamp = stamp_of(raw)
    raw.executemany(
        _LEARN + " AND (known OR pending != 0)", [(stamp, *_columns(rows[key], numbers), key) for key in sure]
    )
    raw.execute("UPDATE entry SET base_at = ? WHERE pending != 0 AND base_at IS ?", (reached, left))
    raw.executemany(
        "UPDATE entry SET base_at = ? WHERE key = ? AND pending != 0 AND base_at IS ?",
        [(left, key, reached) for key in known],
    )
    _decide_adopted(raw, sure, reached)


def drop_done(raw: sqlite3.Connection) -> None:
    """Drops operations that the base commit has carried out just so."""
    raw.execute(_DONE)
    raw.execute(DROP_EMPTY)


__all__ = [
    "apply_rows",
    "copies_to_look_up",
    "drop_done",
    "drop_unchanged",
    "forget_known",
    "forget_known_since",
    "held_keys",
    "holds_any",
    "in_parts",
    "infer_nothing",
    "insert_known",
    "is_any_pending",
    "keys_to_look_up",
    "keys_with_unknown_base",
    "knows_pending",
    "learn",
    "lose_bases",
    "note_knows_pending",
    "object_numbers",
    "set_bases",
    "stamp_of",
]
