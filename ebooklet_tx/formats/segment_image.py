"""The SQLite image inside an index segment: its schema, its hostile check, its rows.

Owns no state; everything here is a function over bytes. The invariant: an image that `check_image`
lets pass is a SQLite file of exactly our schema whose every row keeps the rule of
`records.IndexRow`, whose objects exist and are long enough, and whose inline values match their
digests, so `local` may take it in by `INSERT ... SELECT` without looking again.

An image is foreign input: whoever can write to the bucket can write it. No schema object but ours is
ever executed, and SQLite is stopped when the work is out of proportion to the image's size.
"""

from __future__ import annotations

import re
import sqlite3
import struct
from collections import deque
from contextlib import closing
from typing import TYPE_CHECKING, Any

from ebooklet_tx.errors import RemoteIntegrityError, UnsupportedFormatError
from ebooklet_tx.limits import MAX_COUNT, MAX_TIMESTAMP_US, RESERVED_TEXTS
from ebooklet_tx.records import CommitRecord, IndexRow, ObjectRef, digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA_VERSION = 1
APPLICATION_ID = 0x45425458
SMALL_PAGE_BYTES = 1024
PAGE_BYTES = 4096
MAX_TEXT_CHARS = 1024

_STEPS_BETWEEN_LOOKS = 1_000_000

ENTRY_SQL = """\
CREATE TABLE entry(
key TEXT PRIMARY KEY NOT NULL CHECK(length(CAST(key AS BLOB)) <= 65535),
seq INTEGER NOT NULL CHECK(seq >= 1),
timestamp_us INTEGER NOT NULL CHECK(timestamp_us >= 0),
digest BLOB, object INTEGER, offset_bytes INTEGER, length_bytes INTEGER, value BLOB,
CHECK(CASE
WHEN digest IS NULL THEN object IS NULL AND offset_bytes IS NULL AND length_bytes IS NULL AND value IS NULL
WHEN length(digest) <> 16 OR length_bytes IS NULL THEN 0
WHEN value IS NULL THEN object IS NOT NULL AND offset_bytes IS NOT NULL AND offset_bytes >= 0
AND length_bytes BETWEEN 0 AND 4294967295
ELSE object IS NULL AND offset_bytes IS NULL AND length_bytes = length(value) END)
) STRICT, WITHOUT ROWID"""

OBJECT_SQL = """\
CREATE TABLE object(
id INTEGER PRIMARY KEY NOT NULL,
name TEXT NOT NULL UNIQUE,
etag TEXT NOT NULL,
size_bytes INTEGER NOT NULL CHECK(size_bytes >= 0)
) STRICT"""

LOG_SQL = """\
CREATE TABLE commit_log(
seq INTEGER PRIMARY KEY NOT NULL CHECK(seq >= 1),
commit_id TEXT NOT NULL,
committed_at_us INTEGER NOT NULL CHECK(committed_at_us >= 0),
writer TEXT NOT NULL,
set_count INTEGER NOT NULL CHECK(set_count >= 0),
deleted_count INTEGER NOT NULL CHECK(deleted_count >= 0),
value_bytes INTEGER NOT NULL CHECK(value_bytes >= 0)
) STRICT"""

_SCHEMA = {
    ("table", "entry", "entry", ENTRY_SQL),
    ("table", "object", "object", OBJECT_SQL),
    ("table", "commit_log", "commit_log", LOG_SQL),
    ("index", "sqlite_autoindex_object_1", "object", None),
}


_SELECT_ROWS = """\
SELECT key, seq, timestamp_us, digest, name, offset_bytes, length_bytes, value
FROM entry LEFT JOIN object ON object.id = entry.object ORDER BY key"""
_MISPLACED_ROW = """\
SELECT key FROM entry LEFT JOIN object ON object.id = entry.object
WHERE entry.object IS NOT NULL AND (object.id IS NULL OR offset_bytes + length_bytes > size_bytes) LIMIT 1"""

# What the schema allows, and a reader's or a writer's limits do not: the same queries for both.
_RESERVED_ROW = "SELECT key FROM entry WHERE key IN (?, ?, ?) LIMIT 1"
_ROW_BEYOND = "SELECT key FROM entry WHERE timestamp_us > ? OR seq > ? LIMIT 1"
_OBJECT_BEYOND = "SELECT name FROM object WHERE size_bytes > ? LIMIT 1"
_RECORD_BEYOND = """\
SELECT seq FROM commit_log
WHERE committed_at_us > ? OR max(seq, set_count, deleted_count, value_bytes) > ? LIMIT 1"""

_OBJECT_NAME = re.compile(r"(pack|index)/[0-9a-f]{32}", re.ASCII)
_HEX_128 = re.compile(r"[0-9a-f]{32}", re.ASCII)
_ETAG = re.compile(r"[\x20-\x7e]{1,1024}", re.ASCII)


def is_object_name(text: object) -> bool:
    """Tells whether this is the relative name of an immutable object: `pack/<id>`, `index/<id>`."""
    return isinstance(text, str) and _OBJECT_NAME.fullmatch(text) is not None


def is_hex_128(text: object) -> bool:
    """Tells whether this is a 128-bit id or digest as 32 lower-case hexadecimal digits."""
    return isinstance(text, str) and _HEX_128.fullmatch(text) is not None


def is_etag(text: object) -> bool:
    """Tells whether this may go into a request's If-Match header: printable ASCII, not empty."""
    return isinstance(text, str) and _ETAG.fullmatch(text) is not None


def is_plain_text(text: object) -> bool:
    """Tells whether this may be shown to a user as it is: short, and printable throughout."""
    return isinstance(text, str) and len(text) <= MAX_TEXT_CHARS and text.isprintable()


def new_image(page_bytes: int) -> sqlite3.Connection:
    """Returns a private in-memory database with our schema, empty; the caller closes it."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for pragma in (f"page_size={page_bytes}", "auto_vacuum=0", "encoding='UTF-8'", "temp_store=MEMORY"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    for sql in (ENTRY_SQL, OBJECT_SQL, LOG_SQL):
        connection.execute(sql)
    return connection


def check_image(image: bytes, name: str) -> None:
    """Checks an image as hostile input, and returns only if it is sound.

    Raises:
        RemoteIntegrityError: It is not a sound image of ours; the message names `name`.
        UnsupportedFormatError: A newer version wrote it.
    """
    _check_image_header(image, name)
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.set_progress_handler(_StepBudget(len(image)), _STEPS_BETWEEN_LOOKS)
        try:
            connection.deserialize(image)
            connection.execute("PRAGMA trusted_schema=OFF")
            connection.execute("PRAGMA cell_size_check=ON")
            _check_schema(connection, name)
            _check_rows(connection, name)
        except (sqlite3.Error, MemoryError, OverflowError, UnicodeError) as error:
            # What SQLite says may quote the image, so it is shown as foreign text.
            raise damaged(name, f"SQLite refuses its image: {short(str(error))}") from error


def beyond_limits(connection: sqlite3.Connection) -> str | None:
    """Says what in an image of our schema is past the limits, or None; for writers as for readers."""
    for (key,) in connection.execute(_RESERVED_ROW, sorted(RESERVED_TEXTS)):
        return f"it has a row of the key {key!r}, which Booklet keeps for itself"
    for (key,) in connection.execute(_ROW_BEYOND, (MAX_TIMESTAMP_US, MAX_COUNT)):
        return f"the row of key {short(key)} has a timestamp past {MAX_TIMESTAMP_US} or a seq past {MAX_COUNT}"
    for (name,) in connection.execute(_OBJECT_BEYOND, (MAX_COUNT,)):
        return f"the object {short(name)} has a size past {MAX_COUNT}"
    for (seq,) in connection.execute(_RECORD_BEYOND, (MAX_TIMESTAMP_US, MAX_COUNT)):
        return f"the log record of seq {seq} has a time past {MAX_TIMESTAMP_US} or a count past {MAX_COUNT}"
    return None


def iter_rows(image: bytes) -> Iterator[IndexRow]:
    """Yields the rows of a checked image in the order of their keys."""
    for row in _select(image, _SELECT_ROWS):
        yield IndexRow(*row)


def iter_objects(image: bytes) -> Iterator[ObjectRef]:
    """Yields the objects that a checked image's rows name, in the order of their names."""
    for row in _select(image, "SELECT name, etag, size_bytes FROM object ORDER BY name"):
        yield ObjectRef(*row)


def iter_log(image: bytes) -> Iterator[CommitRecord]:
    """Yields the commit log of a checked image, oldest first."""
    for row in _select(image, "SELECT * FROM commit_log ORDER BY seq"):
        yield CommitRecord(*row)


def count_rows(image: bytes) -> int:
    """Returns the number of rows of a checked image, tombstones among them."""
    ((count,),) = _select(image, "SELECT count(*) FROM entry")
    return int(count)


class _StepBudget:
    """Stops SQLite when an image makes it work out of all proportion to its size.

    Pages that point to one another as a lattice make a small file seem to hold endless rows.
    """

    def __init__(self, image_bytes: int) -> None:
        self._looks_left = 20 + 100 * image_bytes // _STEPS_BETWEEN_LOOKS

    def __call__(self) -> bool:
        self._looks_left -= 1
        return self._looks_left < 0


def _check_image_header(image: bytes, name: str) -> None:
    """Refuses what SQLite would open in another mode (WAL, UTF-16, auto-vacuum) or not at all."""
    if len(image) < 512 or image[:16] != b"SQLite format 3\x00":
        raise damaged(name, "it does not hold a SQLite database")
    page_bytes, write_version, read_version, page_tail_bytes = struct.unpack_from(">HBBB", image, 16)
    (page_count,) = struct.unpack_from(">I", image, 28)
    largest_root, encoding = struct.unpack_from(">II", image, 52)
    if page_bytes not in (SMALL_PAGE_BYTES, PAGE_BYTES) or page_bytes * page_count != len(image):
        raise damaged(name, "its SQLite header does not fit its size")
    if (write_version, read_version, page_tail_bytes, largest_root, encoding) != (1, 1, 0, 0, 1):
        raise damaged(name, "its SQLite header asks for a mode that segments never use")


def _check_schema(connection: sqlite3.Connection, name: str) -> None:
    """Holds the image to our schema, text for text, before any of its tables is read."""
    ((application_id,),) = connection.execute("PRAGMA application_id")
    ((schema_version,),) = connection.execute("PRAGMA user_version")
    if application_id != APPLICATION_ID:
        raise damaged(name, "its SQLite application_id is not that of ebooklet_tx")
    if schema_version > SCHEMA_VERSION:
        raise newer(name, f"schema {schema_version}", f"schema {SCHEMA_VERSION}")
    if schema_version != SCHEMA_VERSION:
        raise damaged(name, f"its schema version is {schema_version}")
    found = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema LIMIT 10").fetchall()
    if len(found) != len(_SCHEMA) or set(found) != _SCHEMA:
        raise damaged(name, "its schema is not that of an index segment")


def _check_rows(connection: sqlite3.Connection, name: str) -> None:
    """Checks what the schema can't say: structure, names, places, text, digests."""
    # integrity_check and not quick_check: it also looks at the order of keys and at UNIQUE.
    verdict = connection.execute("PRAGMA integrity_check(1)").fetchall()
    if verdict != [("ok",)]:
        raise damaged(name, f"SQLite finds: {short(verdict[0][0] if verdict else None)}")
    beyond = beyond_limits(connection)
    if beyond is not None:
        raise damaged(name, beyond)
    for object_name, etag in connection.execute("SELECT name, etag FROM object"):
        if not is_object_name(object_name) or not is_etag(etag):
            raise damaged(name, f"it names an object that can't be one of ours: {short(object_name)}")
    for seq, commit_id, writer in connection.execute("SELECT seq, commit_id, writer FROM commit_log"):
        if not is_hex_128(commit_id) or not is_plain_text(writer):
            raise damaged(name, f"the log record of seq {seq} is not well formed")
    for (key,) in connection.execute(_MISPLACED_ROW):
        raise damaged(name, f"the row of key {short(key)} points outside any object")
    # Reading as str is what decodes: SQLite itself takes any bytes for text.
    deque(connection.execute("SELECT key FROM entry"), maxlen=0)
    inline = connection.execute("SELECT key, digest, value FROM entry WHERE value IS NOT NULL")
    for key, digest, value in inline:
        if digest_of(value) != digest:
            raise damaged(name, f"the value of key {short(key)} does not match its digest")


def _select(image: bytes, sql: str) -> Iterator[tuple[Any, ...]]:
    with closing(sqlite3.connect(":memory:", check_same_thread=False)) as connection:
        try:
            connection.deserialize(image)
            connection.execute("PRAGMA trusted_schema=OFF")
            yield from connection.execute(sql)
        except sqlite3.Error as error:
            raise damaged("an index segment's image", f"SQLite refuses it: {short(str(error))}") from error


def short(text: object) -> str:
    """Returns what a message may show of foreign text: quoted, escaped, and not endless."""
    shown = repr(text)
    return shown if len(shown) <= 200 else shown[:200] + "..."


def damaged(name: str, problem: str) -> RemoteIntegrityError:
    """Returns the error for a segment that is not sound."""
    return RemoteIntegrityError(
        f"{name} is not a sound index segment: {problem}. The download may have been cut short: try again. "
        "If it stays, run `python -m ebooklet_tx verify` for what is affected, and restore the object from "
        "the bucket's versions or a copy"
    )


def newer(name: str, version: object, known: object) -> UnsupportedFormatError:
    """Returns the error for a segment that a newer version wrote."""
    return UnsupportedFormatError(
        f"{name} is an index segment of format {version}; this version of ebooklet_tx reads up to {known}. "
        "Upgrade ebooklet_tx"
    )
