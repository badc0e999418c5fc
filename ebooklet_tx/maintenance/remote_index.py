"""A root's whole index, merged: what is live, and where.

Owns a private database that SQLite keeps in a temporary file of its own, gone with the connection. The
invariant: a row is live when no other row of its key has a higher seq, as for any reader; memory holds
one segment at a time, however many keys there are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from ebooklet_tx.errors import Error, ObjectMissingError, RemoteIntegrityError
from ebooklet_tx.formats.pack import PACK_HEADER_BYTES, RECORD_HEAD_BYTES
from ebooklet_tx.formats.root import Root
from ebooklet_tx.formats.segment import read_segment
from ebooklet_tx.records import METADATA_KEY
from ebooklet_tx.sync.pull.pull import fetch_segment
from ebooklet_tx.sync.session import Remote

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
_LIVE_OBJECTS = f"""
SELECT o.name, o.etag, o.size_bytes, sum(p.record_bytes) + {PACK_HEADER_BYTES}, sum(p.keys)
  FROM (SELECT object, count(*) AS keys,
               min({RECORD_HEAD_BYTES} + length(CAST(key AS BLOB))) + max(length_bytes) AS record_bytes
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
SELECT key FROM live WHERE object = (SELECT id FROM object WHERE name = ?1)
   AND (?2 IS NULL OR (offset_bytes = ?2 AND digest = ?3)) ORDER BY key LIMIT ?4
"""


@dataclass(frozen=True, slots=True)
class LiveObject:
    """A pack that live rows lie in.

    Attributes:
        name: Relative: `pack/<id>`.
        etag: As the index has it.
        size_bytes: As the index has it.
        live_bytes: Those of its bytes that live rows use, with the records' heads.
        key_count: How many keys' values it holds.
    """

    name: str
    etag: str
    size_bytes: int
    live_bytes: int
    key_count: int

    @property
    def live_share(self) -> float:
        """The part of its bytes that live rows use; 1 where all are."""
        return min(1.0, self.live_bytes / self.size_bytes) if self.size_bytes else 1.0


@dataclass(frozen=True, slots=True)
class LivePlace:
    """Where a live value lies in its pack, under the name of one of its keys."""

    offset_bytes: int
    length_bytes: int
    digest: bytes
    key: str


@dataclass(frozen=True, slots=True)
class SegmentProblem:
    """A segment, or the tail, that can't be taken in or says what it must not.

    Attributes:
        name: The segment's relative name; "" for the tail.
        error: What is wrong with it.
        missing: Whether it is not there at all.
    """

    name: str
    error: Error
    missing: bool = False


class RemoteIndex:
    """The live rows of one root.

    Attributes:
        problems: What is wrong with its segments; a segment that can't be read is not taken in.
    """

    def __init__(self) -> None:
        self.problems: list[SegmentProblem] = []
        self._connection = sqlite3.connect("", isolation_level=None)
        self._connection.execute("PRAGMA trusted_schema = OFF")
        self._connection.executescript(_TABLES)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    @property
    def complete(self) -> bool:
        """Whether every segment was taken in, so that what is not in here is surely dead."""
        return not self.problems

    def add_root(self, remote: Remote, root: Root) -> None:
        """Takes in what a root names, a segment at a time; notes what is wrong in `problems`.

        Raises:
            UnsupportedFormatError: A newer version wrote a part of it.
            OfflineError: The remote can't be reached.
        """
        manifest = root.manifest
        for segment in manifest.segments:
            try:
                image = fetch_segment(remote, segment)
            except RemoteIntegrityError as error:
                missing = isinstance(error.__cause__, ObjectMissingError)
                self.problems.append(SegmentProblem(segment.name, error, missing))
                continue
            self._add(image, remote, segment.name, segment.first_seq, segment.last_seq)
        if not root.tail:
            return
        first_seq = manifest.segments[-1].last_seq + 1 if manifest.segments else 1
        try:
            image = read_segment(root.tail, name=f"the tail of {remote.root_place}")
        except RemoteIntegrityError as error:
            self.problems.append(SegmentProblem("", error))
        else:
            self._add(image, remote, "", first_seq, manifest.seq)

    def _add(self, image: bytes, remote: Remote, name: str, first_seq: int, last_seq: int) -> None:
        raw = self._connection
        raw.execute("ATTACH ':memory:' AS segment")
        try:
            raw.deserialize(image, name="segment")
            (strayed,) = raw.execute(
                "SELECT count(*) FROM segment.entry WHERE seq NOT BETWEEN ? AND ?", (first_seq, last_seq)
            ).fetchone()
            raw.execute("BEGIN")
            raw.execute(_ADD_OBJECTS)
            raw.execute(_ADD_ROWS)
            raw.execute("COMMIT")
        finally:
            raw.execute("DETACH segment")
        if strayed:
            shown = repr(remote.names.object(name)) if name else f"the tail of {remote.root_place}"
            error = RemoteIntegrityError(
                f"{shown} has {strayed} rows of commits outside {first_seq} to {last_seq}, which is what the "
                "root says it holds; restore it from a backup"
            )
            self.problems.append(SegmentProblem(name, error))

    def objects(self) -> Iterator[LiveObject]:
        """Yields the packs that live rows lie in, in order of name."""
        with closing(self._connection.execute(_LIVE_OBJECTS)) as rows:
            for row in rows:
                yield LiveObject(*row)

    def places(self, name: str) -> Iterator[LivePlace]:
        """Yields the places of the live values in a pack, from front to back, each once."""
        with closing(self._connection.execute(_PLACES, (name,))) as rows:
            for row in rows:
                yield LivePlace(*row)

    def keys_in(self, name: str, limit: int, place: LivePlace | None = None) -> list[str]:
        """Returns the first of the keys whose values lie in a pack, or at one place of it."""
        offset, digest = (None, None) if place is None else (place.offset_bytes, place.digest)
        return [key for (key,) in self._connection.execute(_KEYS, (name, offset, digest, limit))]

    def key_count(self) -> int:
        """Returns how many keys have a value, the metadata not among them."""
        ((count,),) = self._connection.execute(
            "SELECT count(*) FROM live WHERE digest IS NOT NULL AND key != ?", (METADATA_KEY,)
        )
        return int(count)
