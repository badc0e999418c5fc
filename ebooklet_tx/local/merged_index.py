"""The rows of one remote's index, merged: what is live, and where.

Owns a private database that SQLite keeps in a temporary file of its own, gone with the connection: tables of
Python would take 200 bytes a row and more, in memory. The invariant: a row is live when no other row of its
key has a higher seq; memory holds some thousand rows at a time, however many keys there are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import islice
from typing import NamedTuple

from ebooklet_tx.local.journal.remote_values import RemoteValue
from ebooklet_tx.records import METADATA_KEY, IndexRow, ObjectRef

_TABLES = """
CREATE TABLE object(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, etag TEXT NOT NULL, size_bytes INTEGER);
CREATE TABLE live(key TEXT PRIMARY KEY, seq INTEGER NOT NULL, timestamp_us INTEGER, digest BLOB, object INTEGER,
  offset_bytes INTEGER, length_bytes INTEGER) WITHOUT ROWID;
CREATE INDEX live_place ON live(object, offset_bytes) WHERE object IS NOT NULL;
"""
_ADD_ROW = """
INSERT INTO live(key, seq, timestamp_us, digest, object, offset_bytes, length_bytes) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT(key) DO UPDATE SET seq = excluded.seq, timestamp_us = excluded.timestamp_us, digest = excluded.digest,
  object = excluded.object, offset_bytes = excluded.offset_bytes, length_bytes = excluded.length_bytes
WHERE excluded.seq > seq
"""
# Keys of equal values share a record: it counts once, under one of their names.
_OBJECTS = """
SELECT o.name, o.etag, o.size_bytes, count(*), sum(p.record_bytes), sum(p.keys)
  FROM (SELECT object, count(*) AS keys, min(length(CAST(key AS BLOB))) + max(length_bytes) AS record_bytes
          FROM live WHERE object IS NOT NULL GROUP BY object, offset_bytes) AS p
  JOIN object AS o ON o.id = p.object
 GROUP BY p.object ORDER BY o.name
"""
_PLACES = """
SELECT offset_bytes, length_bytes, digest, min(key) FROM live
 WHERE object = (SELECT id FROM object WHERE name = ?)
 GROUP BY offset_bytes, length_bytes, digest ORDER BY offset_bytes
"""
_AMOUNT = """
SELECT count(*), coalesce(sum(length_bytes), 0) FROM (
  SELECT DISTINCT offset_bytes, length_bytes, digest FROM live
   WHERE object = (SELECT id FROM object WHERE name = ?))
"""
_KEYS = """
SELECT key FROM live WHERE object = (SELECT id FROM object WHERE name = :name)
   AND (:offset_bytes IS NULL OR (offset_bytes = :offset_bytes AND digest = :digest)) ORDER BY key LIMIT :limit
"""
_ROWS = """
SELECT key, digest, timestamp_us, offset_bytes, length_bytes FROM live
 WHERE object = (SELECT id FROM object WHERE name = ?) ORDER BY offset_bytes, key
"""
_ROWS_AT_ONCE = 5000


class ObjectRows(NamedTuple):
    """A pack that live rows lie in, and what these rows come to.

    Attributes:
        ref: The pack, as the index has it.
        record_count: How many of its records are live.
        record_bytes: Their keys and values, without the heads.
        key_count: How many keys share them.
    """

    ref: ObjectRef
    record_count: int
    record_bytes: int
    key_count: int


class LivePlace(NamedTuple):
    """Where a live value lies in its pack, under the name of one of its keys."""

    offset_bytes: int
    length_bytes: int
    digest: bytes
    key: str

    @property
    def end_bytes(self) -> int:
        """Where it ends in its pack."""
        return self.offset_bytes + self.length_bytes


class MergedIndex:
    """The live ones of the rows that were added."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect("", isolation_level=None)
        self._connection.execute("PRAGMA trusted_schema = OFF")
        self._connection.executescript(_TABLES)
        self._numbers: dict[str, int] = {}

    def close(self) -> None:
        """Drops it; twice is no error."""
        self._connection.close()

    def add(self, rows: Iterable[tuple[IndexRow, ObjectRef]]) -> None:
        """Adds rows, each with the object that holds what it says."""
        raw = self._connection
        source = iter(rows)
        while some := list(islice(source, _ROWS_AT_ONCE)):
            raw.execute("BEGIN")
            try:
                raw.executemany(_ADD_ROW, [self._columns(row, ref) for row, ref in some])
                raw.execute("COMMIT")
            except BaseException:
                raw.execute("ROLLBACK")
                raise

    def _columns(self, row: IndexRow, ref: ObjectRef) -> tuple[object, ...]:
        number = None if row.object_name is None else self._number(ref)
        place = row.offset_bytes, row.length_bytes
        return row.key, row.seq, row.timestamp_us, row.digest, number, *place

    def _number(self, ref: ObjectRef) -> int:
        number = self._numbers.get(ref.name)
        if number is None:
            number = self._numbers[ref.name] = len(self._numbers) + 1
            self._connection.execute(
                "INSERT INTO object(id, name, etag, size_bytes) VALUES (?, ?, ?, ?)",
                (number, ref.name, ref.etag, ref.size_bytes),
            )
        return number

    def values_in(self, ref: ObjectRef) -> list[RemoteValue]:
        """Returns the live values in a pack, from front to back, one for each key."""
        return [
            RemoteValue(key, digest, stamp, ref, offset, length)
            for key, digest, stamp, offset, length in self._connection.execute(_ROWS, (ref.name,))
        ]

    def objects(self) -> Iterator[ObjectRows]:
        """Yields the packs that live rows lie in, in order of name."""
        with closing(self._connection.execute(_OBJECTS)) as rows:
            for name, etag, size_bytes, *counts in rows:
                yield ObjectRows(ObjectRef(name, etag, size_bytes), *counts)

    def places(self, name: str) -> Iterator[LivePlace]:
        """Yields the places of the live values in a pack, from front to back, each once."""
        with closing(self._connection.execute(_PLACES, (name,))) as rows:
            yield from map(LivePlace._make, rows)

    def amount_in(self, name: str) -> tuple[int, int]:
        """Returns how many live values a pack has, and how many bytes of them."""
        count, byte_count = self._connection.execute(_AMOUNT, (name,)).fetchone()
        return int(count), int(byte_count)

    def keys_in(self, name: str, limit: int, place: LivePlace | None = None) -> list[str]:
        """Returns the first of the keys whose values lie in a pack, or at one place of it."""
        offset, digest = (None, None) if place is None else (place.offset_bytes, place.digest)
        asked = {"name": name, "offset_bytes": offset, "digest": digest, "limit": limit}
        return [key for (key,) in self._connection.execute(_KEYS, asked)]

    def key_count(self) -> int:
        """Returns how many keys have a value, the metadata not among them."""
        ((count,),) = self._connection.execute(
            "SELECT count(*) FROM live WHERE digest IS NOT NULL AND key != ?", (METADATA_KEY,)
        )
        return int(count)
