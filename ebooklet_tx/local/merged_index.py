"""The segments of one remote, merged: what is live, and where.

Owns a private database that SQLite keeps in a temporary file of its own, gone with the connection: tables of
Python would take 200 bytes a row and more, in memory. The invariant: a row is live when no other row of its
key has a higher seq; memory holds one segment at a time, however many keys there are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

from ebooklet_tx.records import METADATA_KEY, ObjectRef

_TABLES = """
CREATE TABLE object(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, etag TEXT NOT NULL, size_bytes INTEGER);
CREATE TABLE live(key TEXT PRIMARY KEY, seq INTEGER NOT NULL, digest BLOB, object INTEGER,
  offset_bytes INTEGER, length_bytes INTEGER) WITHOUT ROWID;
CREATE INDEX live_place ON live(object, offset_bytes) WHERE object IS NOT NULL;
"""
_ADD_OBJECTS = """
INSERT INTO main.object(name, etag, size_bytes) SELECT name, etag, size_bytes FROM segment.object WHERE true
ON CONFLICT(name) DO NOTHING
"""
_ADD_ROWS = """
INSERT INTO main.live(key, seq, digest, object, offset_bytes, length_bytes)
SELECT e.key, e.seq, e.digest, known.id, e.offset_bytes, e.length_bytes
  FROM segment.entry AS e LEFT JOIN segment.object AS o ON o.id = e.object
  LEFT JOIN main.object AS known ON known.name = o.name
 WHERE true
ON CONFLICT(key) DO UPDATE SET seq = excluded.seq, digest = excluded.digest, object = excluded.object,
  offset_bytes = excluded.offset_bytes, length_bytes = excluded.length_bytes
WHERE excluded.seq > seq
"""
# Keys of equal values share a record: it counts once, under one of their names.
_OBJECTS = """
SELECT o.name, o.etag, o.size_bytes, count(*), sum(p.record_bytes)
  FROM (SELECT object, min(length(CAST(key AS BLOB))) + max(length_bytes) AS record_bytes
          FROM live WHERE object IS NOT NULL GROUP BY object, offset_bytes) AS p
  JOIN object AS o ON o.id = p.object
 GROUP BY p.object ORDER BY o.name
"""
_PLACES = """
SELECT offset_bytes, length_bytes, digest, min(key) FROM live
 WHERE object = (SELECT id FROM object WHERE name = ?)
 GROUP BY offset_bytes, length_bytes, digest ORDER BY offset_bytes
"""
_KEYS = """
SELECT key FROM live WHERE object = (SELECT id FROM object WHERE name = :name)
   AND (:offset_bytes IS NULL OR (offset_bytes = :offset_bytes AND digest = :digest)) ORDER BY key LIMIT :limit
"""
_STRAYED = "SELECT count(*) FROM segment.entry WHERE seq NOT BETWEEN ? AND ?"


class ObjectRows(NamedTuple):
    """A pack that live rows lie in, and what these rows come to.

    Attributes:
        ref: The pack, as the index has it.
        record_count: How many of its records are live.
        record_bytes: Their keys and values, without the heads.
    """

    ref: ObjectRef
    record_count: int
    record_bytes: int


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
    """The live rows of the segments that were added."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect("", isolation_level=None)
        self._connection.execute("PRAGMA trusted_schema = OFF")
        self._connection.executescript(_TABLES)

    def close(self) -> None:
        """Drops it; twice is no error."""
        self._connection.close()

    def add(self, image: bytes, first_seq: int, last_seq: int) -> int:
        """Adds a segment that was checked, as a SQLite image.

        Returns:
            How many of its rows are of commits that it must not have.
        """
        raw = self._connection
        raw.execute("ATTACH ':memory:' AS segment")
        try:
            raw.deserialize(image, name="segment")
            (strayed,) = raw.execute(_STRAYED, (first_seq, last_seq)).fetchone()
            raw.execute("BEGIN")
            raw.execute(_ADD_OBJECTS)
            raw.execute(_ADD_ROWS)
            raw.execute("COMMIT")
        finally:
            raw.execute("DETACH segment")
        return int(strayed)

    def objects(self) -> Iterator[ObjectRows]:
        """Yields the packs that live rows lie in, in order of name."""
        with closing(self._connection.execute(_OBJECTS)) as rows:
            for name, etag, size_bytes, *counts in rows:
                yield ObjectRows(ObjectRef(name, etag, size_bytes), *counts)

    def places(self, name: str) -> Iterator[LivePlace]:
        """Yields the places of the live values in a pack, from front to back, each once."""
        with closing(self._connection.execute(_PLACES, (name,))) as rows:
            yield from map(LivePlace._make, rows)

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
