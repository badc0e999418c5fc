"""The codec of index segments: small SQLite databases, compressed, that say where values are.

Owns no state; everything here is a function over bytes. The invariant: what `build_segment` and
`merge_segments` write, `read_segment` accepts, and what it accepts keeps every rule that
`segment_image` holds an image to. Nothing is decompressed before the blob's digest is checked, and
nothing past the size that the header announces. docs/reference/FORMAT.md gives the layout.
"""

from __future__ import annotations

import hashlib
import sqlite3
import struct
import zlib
from contextlib import closing
from itertools import chain, islice
from typing import TYPE_CHECKING

from ebooklet_tx.errors import InvalidArgumentError
from ebooklet_tx.formats.segment_image import (
    MAX_TEXT_CHARS,
    PAGE_BYTES,
    SMALL_PAGE_BYTES,
    beyond_limits,
    check_image,
    count_rows,
    damaged,
    is_etag,
    is_hex_128,
    is_object_name,
    is_plain_text,
    iter_log,
    iter_objects,
    iter_rows,
    new_image,
    newer,
    short,
)
from ebooklet_tx.limits import MAX_IMAGE_BYTES, image_limit_bytes
from ebooklet_tx.records import DIGEST_BYTES, CommitRecord, IndexRow, ObjectRef

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = [
    "SEGMENT_MAGIC",
    "build_segment",
    "read_segment",
    "merge_segments",
    "iter_rows",
    "iter_objects",
    "iter_log",
    "count_rows",
]

SEGMENT_MAGIC = b"EBTXseg\n"
SEGMENT_FORMAT_VERSION = 1
SEGMENT_HEADER_BYTES = 36

KEEP_LOG_ROWS = 10_000

_HEADER = struct.Struct("<8sHHQ16s")
_COMPRESSION_LEVEL = 1
_ROWS_PER_BATCH = 10_000
_ROWS_PER_STATEMENT = 32
_SMALL_ROWS_BYTES = 64 * 1024
_ROW_OVERHEAD_BYTES = 48
_MERGE_FAN_IN = 8

_ENTRY_COLUMNS = "key, seq, timestamp_us, digest, object, offset_bytes, length_bytes, value"
_OBJECT_COLUMNS = "id, name, etag, size_bytes"
_LOG_COLUMNS = "seq, commit_id, committed_at_us, writer, set_count, deleted_count, value_bytes"


def build_segment(
    rows: Iterable[IndexRow], objects: Mapping[str, ObjectRef], log: Iterable[CommitRecord]
) -> bytes:
    """Returns the blob of a segment that holds these rows and log records.

    Rows may come in any order and as a stream; in the order of their keys they are taken in faster and
    packed more densely. Of `objects` only those are written that rows name.

    Raises:
        InvalidArgumentError: A row or record breaks the rules of `records`, a key comes twice, or a
            row names an object that `objects` does not hold.
    """
    source = iter(rows)
    records = list(log)
    first = list(islice(source, _ROWS_PER_BATCH))
    weight_bytes = sum(len(row.key) + len(row.value or b"") + _ROW_OVERHEAD_BYTES for row in first)
    weight_bytes += len(records) * 2 * _ROW_OVERHEAD_BYTES
    with closing(new_image(_page_bytes(weight_bytes))) as image:
        used = _insert_rows(image, chain(first, source), objects)
        _insert_objects(image, used)
        _insert_log(image, records)
        return _finish(image)


def read_segment(blob: bytes, *, name: str, max_image_bytes: int = MAX_IMAGE_BYTES) -> bytes:
    """Returns the SQLite image in a segment blob after checking it as hostile input.

    Args:
        blob: The bytes of the object, or of a root's tail.
        name: How messages call it.
        max_image_bytes: The largest image to accept; nothing larger is ever allocated.

    Raises:
        RemoteIntegrityError: The blob is truncated or altered, or its image is not one of ours.
        UnsupportedFormatError: A newer version wrote it.
    """
    image = _unwrap(blob, name, max_image_bytes)
    check_image(image, name)
    return image


def merge_segments(images: Sequence[bytes], *, drop_tombstones: bool, keep_log: int = KEEP_LOG_ROWS) -> bytes:
    """Returns the blob of one segment that says the same as these checked images together.

    Args:
        images: Checked images, oldest first. Of each key the row with the highest seq stays.
        drop_tombstones: Whether deleted keys are forgotten; right only when nothing older than
            the first image remains in the index.
        keep_log: How many of the newest log records stay.
    """
    records = {record.seq: record for image in images for record in iter_log(image)}
    newest = [records[seq] for seq in sorted(records)[-keep_log:]] if keep_log > 0 else []
    pending = list(images)
    while len(pending) > _MERGE_FAN_IN:
        with closing(_merged(pending[:_MERGE_FAN_IN], drop_tombstones=False)) as image:
            pending[:_MERGE_FAN_IN] = [image.serialize()]
    with closing(_merged(pending, drop_tombstones=drop_tombstones)) as image:
        _insert_log(image, newest)
        return _finish(image)


# -- building ----------------------------------------------------------------------------------


def _page_bytes(rows_bytes: int) -> int:
    """A small segment rides in the root on every push, where a page of mostly nothing is dear."""
    return SMALL_PAGE_BYTES if rows_bytes < _SMALL_ROWS_BYTES else PAGE_BYTES


def _insert_rows(
    image: sqlite3.Connection, rows: Iterator[IndexRow], objects: Mapping[str, ObjectRef]
) -> dict[str, tuple[int, ObjectRef]]:
    """Inserts the rows and returns the objects they name, with the id given to each."""
    used: dict[str, tuple[int, ObjectRef]] = {}

    def object_id(row: IndexRow) -> int | None:
        if row.object_name is None:
            return None
        known = used.get(row.object_name)
        if known is None:
            if row.object_name not in objects:
                raise InvalidArgumentError(
                    f"the index row of key {short(row.key)} names the object {row.object_name!r}, which "
                    "is not among the objects given; pass its ObjectRef"
                )
            known = used[row.object_name] = (len(used) + 1, objects[row.object_name])
        return known[0]

    image.execute("BEGIN")
    # A batch is drawn before the insert begins, so that a failing source is never taken for a bad row.
    while batch := list(islice(rows, _ROWS_PER_BATCH)):
        values = [
            (r.key, r.seq, r.timestamp_us, r.digest, object_id(r), r.offset_bytes, r.length_bytes, r.value)
            for r in batch
        ]
        _insert(image, f"entry({_ENTRY_COLUMNS})", values, "the index row of key")
    image.execute("COMMIT")
    return used


def _insert_objects(image: sqlite3.Connection, used: Mapping[str, tuple[int, ObjectRef]]) -> None:
    for name, (_, ref) in used.items():
        if name != ref.name or not is_object_name(name) or not is_etag(ref.etag):
            raise InvalidArgumentError(
                f"the object {short(name)} can't be written to an index: its name must be pack/ or index/ "
                "and 32 hex digits, and its ETag printable ASCII"
            )
    values = [(number, ref.name, ref.etag, ref.size_bytes) for number, ref in used.values()]
    _insert(image, f"object({_OBJECT_COLUMNS})", values, "the object of id")


def _insert_log(image: sqlite3.Connection, records: Sequence[CommitRecord]) -> None:
    for r in records:
        if not is_hex_128(r.commit_id) or not is_plain_text(r.writer):
            raise InvalidArgumentError(
                f"the log record of seq {r.seq} can't be written: its commit_id must be 32 hex digits, and "
                f"its writer at most {MAX_TEXT_CHARS} printable characters"
            )
    values = [
        (r.seq, r.commit_id, r.committed_at_us, r.writer, r.set_count, r.deleted_count, r.value_bytes)
        for r in records
    ]
    image.execute("BEGIN")
    _insert(image, f"commit_log({_LOG_COLUMNS})", values, "the log record of seq")
    image.execute("COMMIT")


def _insert(image: sqlite3.Connection, table: str, values: Sequence[tuple[object, ...]], what: str) -> None:
    """Inserts all, many rows to a statement, or raises naming the row that SQLite refused."""
    for start in range(0, len(values), _ROWS_PER_STATEMENT):
        group = values[start : start + _ROWS_PER_STATEMENT]
        try:
            image.execute(_insert_sql(table, len(group[0]), len(group)), list(chain.from_iterable(group)))
        except (sqlite3.Error, OverflowError, UnicodeError):
            # The statement has undone itself as a whole; one row at a time shows which it was.
            _insert_singly(image, table, group, what)


def _insert_singly(
    image: sqlite3.Connection, table: str, values: Sequence[tuple[object, ...]], what: str
) -> None:
    for row in values:
        try:
            image.execute(_insert_sql(table, len(row), 1), row)
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            raise InvalidArgumentError(
                f"{what} {short(row[0])} can't be written to an index segment: {error}"
            ) from error


def _insert_sql(table: str, columns: int, rows: int) -> str:
    one = f"({', '.join('?' * columns)})"
    return f"INSERT INTO {table} VALUES {', '.join([one] * rows)}"


def _finish(image: sqlite3.Connection) -> bytes:
    """Returns the blob of an image that is done, or raises where no reader would accept it."""
    beyond = beyond_limits(image)
    if beyond is not None:
        raise InvalidArgumentError(
            f"an index segment can't be written: {beyond}; set that key anew, or delete it"
        )
    data = image.serialize()
    if len(data) > MAX_IMAGE_BYTES:
        raise InvalidArgumentError(
            f"an index segment of {len(data)} bytes can't be written: no reader takes more than {MAX_IMAGE_BYTES}"
        )
    head = _HEADER.pack(SEGMENT_MAGIC, SEGMENT_FORMAT_VERSION, 0, len(data), bytes(DIGEST_BYTES))
    payload = zlib.compress(data, _COMPRESSION_LEVEL)
    if len(data) > image_limit_bytes(len(payload)):
        # So regular that it would pass for a bomb: rather stored than refused.
        payload = zlib.compress(data, 0)
    return head[:-DIGEST_BYTES] + _blob_digest(head, payload) + payload


def _blob_digest(header: bytes, payload: bytes | memoryview) -> bytes:
    digest = hashlib.blake2b(header[: SEGMENT_HEADER_BYTES - DIGEST_BYTES], digest_size=DIGEST_BYTES)
    digest.update(payload)
    return digest.digest()


# -- merging -----------------------------------------------------------------------------------


def _merged(images: Sequence[bytes], *, drop_tombstones: bool) -> sqlite3.Connection:
    """Merges rows and objects, without the log, in the order of keys so that pages fill up."""
    merged = new_image(_page_bytes(sum(map(len, images)) // 2))
    try:
        parts = []
        for number, image in enumerate(images):
            merged.execute(f"ATTACH ':memory:' AS s{number}")
            merged.deserialize(image, name=f"s{number}")
            merged.execute(
                "INSERT INTO main.object(name, etag, size_bytes) SELECT name, etag, size_bytes "
                f"FROM s{number}.object WHERE true ORDER BY id "
                "ON CONFLICT(name) DO UPDATE SET etag = excluded.etag, size_bytes = excluded.size_bytes"
            )
            parts.append(
                "SELECT e.key, e.seq, e.timestamp_us, e.digest, m.id AS object, e.offset_bytes, "
                f"e.length_bytes, e.value FROM s{number}.entry e "
                f"LEFT JOIN s{number}.object o ON o.id = e.object LEFT JOIN main.object m ON m.name = o.name"
            )
        if parts:
            # With max() SQLite takes the other columns from the row that has the maximum.
            newest = f"SELECT {_ENTRY_COLUMNS.replace('seq', 'max(seq) AS seq')} FROM ("
            newest += " UNION ALL ".join(parts) + ") GROUP BY key ORDER BY key"
            merged.execute(f"INSERT INTO main.entry({_ENTRY_COLUMNS}) {newest}")
        if drop_tombstones:
            merged.execute("DELETE FROM main.entry WHERE digest IS NULL")
        merged.execute(
            "DELETE FROM main.object WHERE id NOT IN (SELECT object FROM main.entry WHERE object IS NOT NULL)"
        )
        for number in range(len(images)):
            merged.execute(f"DETACH s{number}")
    except sqlite3.Error as error:
        merged.close()
        raise damaged("a segment to be merged", f"SQLite refuses its image: {short(str(error))}") from error
    return merged


# -- reading -----------------------------------------------------------------------------------


def _unwrap(blob: bytes, name: str, max_image_bytes: int) -> bytes:
    """Checks header and digest, and decompresses no further than the header announces."""
    if blob[:8] != SEGMENT_MAGIC:
        raise damaged(name, "it does not begin as one")
    if len(blob) < SEGMENT_HEADER_BYTES:
        raise damaged(name, f"it is cut off after {len(blob)} bytes")
    _, version, reserved, image_bytes, digest = _HEADER.unpack_from(blob)
    if version > SEGMENT_FORMAT_VERSION:
        raise newer(name, version, SEGMENT_FORMAT_VERSION)
    payload = memoryview(blob)[SEGMENT_HEADER_BYTES:]
    if version < 1 or _blob_digest(blob, payload) != digest:
        raise damaged(name, "its digest does not match its bytes")
    if reserved:
        raise newer(name, f"{version} with flags {reserved:#x}", SEGMENT_FORMAT_VERSION)
    limit_bytes = min(max_image_bytes, image_limit_bytes(len(payload)))
    if image_bytes > limit_bytes:
        raise damaged(
            name,
            f"it announces {image_bytes} bytes when decompressed, out of {len(payload)}; "
            f"the limit is {limit_bytes}",
        )
    inflate = zlib.decompressobj()
    try:
        image = inflate.decompress(payload, image_bytes + 1)
    except zlib.error as error:
        raise damaged(name, f"it can't be decompressed ({error})") from error
    if not inflate.eof or inflate.unused_data or len(image) != image_bytes:
        raise damaged(name, f"it does not decompress to the {image_bytes} bytes announced")
    return image
