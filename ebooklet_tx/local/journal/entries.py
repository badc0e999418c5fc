"""Queries over `entry`: one row for each key that this machine holds something of.

The invariant: what a query returns is what was asked for. A row counts only when it carries the key by which it
was looked up and is as some commit left it; a key counts as absent only when its neighbours agree. Anything
else is damage, and raises `JournalDamagedError`.

Each function holds the journal's mutex while it uses the connection.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ebooklet_tx.local.journal.integrity.row_checks import (
    NO_ENTRY,
    PENDING_ENDS_FIT,
    check_order,
    gap_at,
    is_absent,
    is_sound,
    is_sound_place,
    location_of,
    misplaced,
)
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.local.journal.schema import BASE_AS_NOW, SOUND_ROW, STALE
from ebooklet_tx.local.journal.sqlite_errors import SQLITE_FAULTS, sqlite_errors, translated

PENDING_NONE, PENDING_SET, PENDING_DELETE = 0, 1, 2

_ENTRY_COLUMNS = (
    f"key, CASE WHEN {SOUND_ROW} THEN pending END, pending_timestamp_us, pending_digest, pending_length_bytes, "
    "remote_seq, remote_timestamp_us, remote_digest, remote_object, remote_offset_bytes, "
    "remote_length_bytes, local_timestamp_us, local_digest, local_offset_bytes, local_length_bytes, "
    "known, pending_number"
)
"""Of a row that is not as it was written `pending` is NULL, which `is_sound` finds."""

_VISIBLE_DIGEST = "CASE pending WHEN 0 THEN remote_digest WHEN 1 THEN pending_digest END"
_ONE_PLACE = f"""
SELECT CASE WHEN {SOUND_ROW} THEN key END,
  CASE pending WHEN 0 THEN remote_timestamp_us ELSE pending_timestamp_us END,
  local_digest, local_offset_bytes, local_length_bytes
FROM entry WHERE key = ?
  AND local_digest = {_VISIBLE_DIGEST}
"""
_ALL_PLACES = f"SELECT key FROM entry WHERE local_digest = {_VISIBLE_DIGEST} AND {SOUND_ROW} ORDER BY key"
_COUNTS = """
SELECT (SELECT value FROM meta WHERE name = 'base_key_count'), count(*), count(DISTINCT key),
  coalesce(sum(+pending IN (1, 2) AND {sound}), 0),
  coalesce(sum(CASE WHEN key != '' THEN
    (pending = 1) - (CASE WHEN known THEN remote_digest WHEN {said} THEN base_digest END IS NOT NULL) END), 0),
  {indexed}, {fit}
FROM entry WHERE pending != 0
"""
_INDEXED = "(SELECT sum(ncell) FROM dbstat WHERE name = 'entry_pending')"
"""How many keys the index of what is pending has; a key whose row is not found is left out by all other SQL."""

_IN_ORDER = """
SELECT count(*), coalesce(sum(follows), 0), {indexed}, {fit} FROM (
  SELECT coalesce(key > lag(key) OVER (ORDER BY key), 1) AS follows FROM entry WHERE pending != 0)
"""

_KEYS_AT_ONCE = 500

_ONE_ENTRY = f"SELECT {_ENTRY_COLUMNS} FROM entry WHERE key = ?"


class Entry(NamedTuple):
    """One row, without the base columns."""

    key: str
    pending: int
    pending_timestamp_us: int | None
    pending_digest: bytes | None
    pending_length_bytes: int | None
    remote_seq: int | None
    remote_timestamp_us: int | None
    remote_digest: bytes | None
    remote_object: int | None
    remote_offset_bytes: int | None
    remote_length_bytes: int | None
    local_timestamp_us: int | None
    local_digest: bytes | None
    local_offset_bytes: int | None
    local_length_bytes: int | None
    known: int
    pending_number: int

    @property
    def is_decided(self) -> bool:
        """Whether the row alone says what a reader sees; otherwise the remote's index has to be asked."""
        return bool(self.known or self.pending)

    @property
    def digest(self) -> bytes | None:
        """The digest of the value that a reader sees; None when it sees none, or where that is not decided."""
        if self.pending == PENDING_NONE:
            return self.remote_digest
        return self.pending_digest if self.pending == PENDING_SET else None

    @property
    def timestamp_us(self) -> int:
        """When the value that a reader sees was set."""
        stamp = self.remote_timestamp_us if self.pending == PENDING_NONE else self.pending_timestamp_us
        return stamp or 0

    @property
    def length_bytes(self) -> int:
        """The encoded length of the value that a reader sees."""
        length = self.remote_length_bytes if self.pending == PENDING_NONE else self.pending_length_bytes
        return length or 0


def find_entry(journal: Journal, key: str) -> Entry | None:
    """Looks one key up."""
    try:
        with journal.mutex:
            while (row := journal.raw.execute(_ONE_ENTRY, (key,)).fetchone()) is None:
                if is_absent(journal.raw, journal.path, key):
                    return None
    except SQLITE_FAULTS as error:
        raise translated(error, journal.path) from error
    if row[0] != key or not is_sound(row):
        raise misplaced(journal.path, f"a lookup of {key!r} finds a row of {row[0]!r}")
    return Entry(*row)


def find_place(journal: Journal, key: str) -> tuple[int | None, bytes, int, int] | None:
    """Returns (timestamp, digest, offset, length) of a key whose visible value the Booklet file holds."""
    try:
        with journal.mutex:
            found = journal.raw.execute(_ONE_PLACE, (key,)).fetchone()
    except SQLITE_FAULTS as error:
        raise translated(error, journal.path) from error
    if found is None:
        return None
    if found[0] != key:
        raise misplaced(journal.path, f"a lookup of {key!r} finds a row of {found[0]!r}")
    place: tuple[int | None, bytes, int, int] = found[1:]
    if not is_sound_place(*place):
        raise misplaced(journal.path, f"the place of {key!r} is none")
    return place


def keys_with_place(journal: Journal) -> frozenset[str]:
    """Returns the keys whose visible value the Booklet file holds; one with a damaged row is left out."""
    keys = [key for (key,) in journal.rows(_ALL_PLACES)]
    check_order(journal.path, keys)
    return frozenset(keys)


def entries_where(journal: Journal, where: str, parameters: tuple[Any, ...] = ()) -> Iterator[Entry]:
    """Yields the entries for which some SQL holds, in order of key, from one snapshot.

    Where another thread may write, the caller holds the mutex until it has taken all of them.
    """
    with sqlite_errors(journal.path):
        rows = journal.raw.execute(f"SELECT {_ENTRY_COLUMNS} FROM entry WHERE {where} ORDER BY key", parameters)
        yield from _in_order(journal, rows)


def _in_order(journal: Journal, rows: Iterable[tuple[Any, ...]]) -> Iterator[Entry]:
    """Yields rows as entries, after a look at each: whether it is one, and behind the one before it."""
    before: str | None = None
    for row in rows:
        key = row[0]
        if not isinstance(key, str) or (before is not None and key <= before) or not is_sound(row):
            raise misplaced(journal.path, f"{key!r} comes behind {before!r}")
        before = key
        yield Entry._make(row)


def find_entries(journal: Journal, keys: Sequence[str]) -> dict[str, Entry]:
    """Looks many keys up; those that it has never heard of are left out."""
    rows = _rows_of(journal, keys, f"SELECT {_ENTRY_COLUMNS} FROM entry")
    return _all_there(journal, keys, {row[0]: Entry._make(row) for row in rows})


def find_entries_in_order(journal: Journal, keys: Sequence[str]) -> dict[str, Entry]:
    """Likewise, for keys in order that are about all that there are from the first to the last."""
    query = f"SELECT {_ENTRY_COLUMNS} FROM entry WHERE key >= ? AND key <= ? ORDER BY key"
    with journal.mutex, sqlite_errors(journal.path):
        rows = journal.raw.execute(query, (keys[0], keys[-1])).fetchall()
    return _all_there(journal, keys, {entry.key: entry for entry in _in_order(journal, rows)})


def _all_there(journal: Journal, keys: Sequence[str], found: dict[str, Entry]) -> dict[str, Entry]:
    """Adds to what was found what came meanwhile; each key that is not in it is absent indeed."""
    for key in keys:
        entry = found.get(key)
        if entry is not None and not is_sound(entry):
            raise misplaced(journal.path, f"a lookup of {key!r} finds no row of the index")
    # Of a new copy nearly all are absent, and many lie in one gap.
    gap_end: str | None = ""
    for key in sorted(key for key in keys if key not in found):
        if gap_end is None or key < gap_end:
            continue
        with journal.mutex, sqlite_errors(journal.path):
            gap = gap_at(journal.raw, journal.path, key)
        if gap is not None:
            gap_end = gap[1]
        elif (entry := find_entry(journal, key)) is not None:
            found[key] = entry
    return found


def digests_of(journal: Journal, keys: Sequence[str]) -> dict[str, tuple[bytes | None, bytes | None]]:
    """Returns the digests of what a reader sees and of what the Booklet file holds, for many keys."""
    rows = _rows_of(journal, keys, f"SELECT key, {_VISIBLE_DIGEST}, local_digest FROM entry")
    return {key: (visible, local) for key, visible, local in rows}


def _rows_of(journal: Journal, keys: Sequence[str], select: str) -> Iterator[tuple[Any, ...]]:
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        some = keys[start : start + _KEYS_AT_ONCE]
        marks = ",".join("?" * len(some))
        with journal.mutex, sqlite_errors(journal.path):
            rows = journal.raw.execute(f"{select} WHERE key IN ({marks})", some).fetchall()
        yield from rows


def pending_entries(journal: Journal) -> list[Entry]:
    """Returns the entries that have an operation still to be pushed."""
    while True:
        version = journal.version()
        found = list(entries_where(journal, "pending != 0"))
        count = _INDEXED if journal.can_count_cells() else str(len(found))
        indexed, fits = journal.rows(f"SELECT {count}, {PENDING_ENDS_FIT}")[0]
        if indexed == len(found) and fits and all(entry.pending for entry in found):
            return found
        if journal.version() == version:
            raise misplaced(journal.path, f"{indexed} keys are pending, and {len(found)} are found")


def pending_index_count(journal: Journal) -> int:
    """Returns how many keys the index of what is pending has; the caller holds the mutex."""
    query = f"SELECT {_INDEXED}" if journal.can_count_cells() else "SELECT count(*) FROM entry WHERE pending != 0"
    return int(journal.raw.execute(query).fetchone()[0] or 0)


def pending_term(raw: sqlite3.Connection) -> str:
    """Returns the SQL by which a statement on all that is pending finds it: through its index, or past it.

    A row costs two searches through the index, and one step in the table itself. So where several keys are
    pending for each page of the journal, the whole table is gone through; the sign hides the index from SQLite.
    """
    (pages,) = raw.execute("PRAGMA page_count").fetchone()
    some = raw.execute("SELECT 1 FROM entry WHERE pending != 0 LIMIT 1 OFFSET ?", (4 * pages,)).fetchone()
    return "pending != 0" if some is None else "+pending != 0"


def stale_keys(journal: Journal) -> list[str]:
    """Returns the keys whose bytes in the Booklet file are not what a reader sees."""
    with journal.mutex, sqlite_errors(journal.path):
        return [row[0] for row in journal.raw.execute(f"SELECT key FROM entry WHERE {STALE}")]


def pending_page(journal: Journal, least: str, upto: str | None, limit: int) -> list[tuple[str, int]]:
    """Returns the next user keys with a pending operation, in order, and whether it is a set or a delete.

    Args:
        journal: The journal.
        least: Only keys from this one on.
        upto: Only keys up to this one; None for no bound.
        limit: How many at most.
    """
    bound, ends = ("", ()) if upto is None else (" AND key <= ?", (upto,))
    query = (
        f"SELECT key, pending, {NO_ENTRY} FROM entry "
        f"WHERE pending != 0 AND key >= ?{bound} AND key != '' ORDER BY key LIMIT ?"
    )
    with journal.mutex, sqlite_errors(journal.path):
        rows = journal.raw.execute(query, (least, *ends, limit)).fetchall()
    check_order(journal.path, (row[0] for row in rows))
    if any(row[2] for row in rows):
        raise misplaced(journal.path, f"a row from {least!r} on is none of the index")
    return [(key, pending) for key, pending, _ in rows]


def check_pending(journal: Journal) -> None:
    """Makes sure that pages of what is pending leave nothing out; costs the pending operations once a change.

    Raises:
        JournalDamagedError: Some of it is not found, or not where it belongs.
    """
    version = journal.version()
    if journal.whole_at == version:
        return
    with journal.mutex, sqlite_errors(journal.path):
        indexed = _INDEXED if journal.can_count_cells() else "count(*)"
        query = _IN_ORDER.format(indexed=indexed, fit=PENDING_ENDS_FIT)
        found, in_order, indexed, fits = journal.raw.execute(query).fetchone()
    if not found == in_order == (indexed or 0) or not fits:
        raise misplaced(journal.path, f"{indexed} keys are pending, and {in_order} are found in order")
    journal.whole_at = version


def known_keys(journal: Journal, least: str, end: str | None) -> list[str]:
    """Returns the keys in `[least, end)` of which it is known that the remote has them."""
    bound, ends = ("", ()) if end is None else (" AND key < ?", (end,))
    query = (
        f"SELECT key FROM entry WHERE known != 0 AND remote_digest IS NOT NULL AND key >= ?{bound} ORDER BY key"
    )
    keys = [key for (key,) in journal.rows(query, (least, *ends))]
    check_order(journal.path, keys)
    return keys


def visible_count(journal: Journal) -> int:
    """Returns how many user keys a reader sees; costs the pending operations, not the size.

    A key of which it is not known what the remote has counts as one that it has not: `known.keys_to_look_up`
    tells those.
    """
    with journal.mutex, sqlite_errors(journal.path):
        # One statement: between two of them a push beside could move keys from one count to the other.
        indexed = _INDEXED if journal.can_count_cells() else "count(*)"
        query = _COUNTS.format(indexed=indexed, sound=SOUND_ROW, fit=PENDING_ENDS_FIT, said=BASE_AS_NOW)
        remote_count, *counts, change, indexed, fits = journal.raw.execute(query).fetchone()
    if {*counts} != {indexed} or not fits:
        raise misplaced(journal.path, f"{indexed} keys are pending, and {counts[-1]} are found")
    if remote_count is None:
        remote_count = journal.get_meta("base_key_count") or 0
    return int(remote_count) + int(change)


def entries_of(raw: sqlite3.Connection, keys: Sequence[str]) -> list[Entry]:
    """Looks up a few hundred keys at most; those that the journal has never heard of are left out."""
    marks = ",".join("?" * len(keys))
    query = f"SELECT {_ENTRY_COLUMNS} FROM entry WHERE key IN ({marks}) ORDER BY key"
    found = [Entry._make(row) for row in raw.execute(query, keys)]
    for entry in found:
        if not is_sound(entry):
            raise misplaced(location_of(raw), f"the row of {entry.key!r} is not as it was written")
    return found


def prefix_end(prefix: str) -> str | None:
    """Returns the least str above every str with a prefix, or None when there is none."""
    while prefix:
        last = ord(prefix[-1])
        if last < 0x10FFFF:
            following = last + 1
            # Surrogates are no characters that UTF-8 can hold.
            return prefix[:-1] + chr(0xE000 if 0xD800 <= following <= 0xDFFF else following)
        prefix = prefix[:-1]
    return None
