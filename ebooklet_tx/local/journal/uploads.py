"""Packs that were sent, or are being sent, and belong to no commit yet.

Owns the journal's tables `upload` and `packed`. The invariant: a row of `packed` whose upload has an ETag says
that those bytes lie in that object. The ETag is written only after the object has arrived; what is about to be
sent is noted without one.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ebooklet_tx.local.journal.integrity.row_checks import decoding
from ebooklet_tx.local.journal.journal import Journal, driver
from ebooklet_tx.records import ObjectRef

_COLUMNS = "name, size_bytes, etag, upload_id, begun_at_us"


class Place(NamedTuple):
    """Where a value lies in the remote."""

    object_name: str
    offset_bytes: int
    length_bytes: int


class PackedValue(NamedTuple):
    """A value as it was put into a pack."""

    digest: bytes
    offset_bytes: int
    length_bytes: int


@dataclass(frozen=True, slots=True)
class Upload:
    """A pack that was sent or is being sent.

    Attributes:
        name: The pack's name.
        size_bytes: How long it is.
        etag: Its ETag in the store; None until it has arrived.
        upload_id: The multipart upload that sends it, None where it is sent in one piece.
        begun_at_us: When its sending began.
    """

    name: str
    size_bytes: int
    etag: str | None
    upload_id: str | None
    begun_at_us: int


@dataclass(frozen=True, slots=True)
class PartialUpload:
    """The upload of one large value that was begun and has not arrived.

    Attributes:
        name: The pack's name.
        upload_id: The multipart upload, None where it was not begun in the store.
        parts: Number and ETag of each part that has arrived.
    """

    name: str
    upload_id: str | None
    parts: tuple[tuple[int, str], ...]


def read_uploads(journal: Journal) -> list[Upload]:
    """Returns every upload, arrived or not."""
    return [Upload(*row) for row in journal.rows(f"SELECT {_COLUMNS} FROM upload")]


def arrived_packs(journal: Journal) -> dict[str, ObjectRef]:
    """Returns the packs that have arrived, by name."""
    rows = journal.rows("SELECT name, etag, size_bytes FROM upload WHERE etag IS NOT NULL")
    return {row[0]: ObjectRef(*row) for row in rows}


def arrived_places(journal: Journal) -> dict[bytes, Place]:
    """Returns where values lie in packs that have arrived, by digest."""
    rows = journal.rows(
        "SELECT p.digest, p.name, p.offset_bytes, p.length_bytes FROM packed AS p "
        "JOIN upload AS u ON u.name = p.name WHERE u.etag IS NOT NULL"
    )
    return {digest: Place(name, offset, length) for digest, name, offset, length in rows}


def find_partial_upload(journal: Journal, digest: bytes, offset_bytes: int) -> PartialUpload | None:
    """Finds the unfinished upload of a value at that place of its pack."""
    rows = journal.rows(
        "SELECT u.name, u.upload_id, u.parts FROM packed AS p JOIN upload AS u ON u.name = p.name "
        "WHERE p.digest = ? AND p.offset_bytes = ? AND u.etag IS NULL",
        (digest, offset_bytes),
    )
    if not rows:
        return None
    name, upload_id, text = rows[0]
    with decoding(journal.path, "the parts of an upload"):
        parts = tuple((number, etag) for number, etag in json.loads(text)) if text else ()
    return PartialUpload(name, upload_id, parts)


def note_upload(
    journal: Journal, name: str, size_bytes: int, values: Sequence[PackedValue], *, begun_at_us: int
) -> None:
    """Notes a pack that is about to be sent, and what is in it."""
    with journal.transaction() as transaction:
        raw = driver(transaction)
        raw.execute(
            "INSERT INTO upload(name, size_bytes, begun_at_us) VALUES (?, ?, ?)", (name, size_bytes, begun_at_us)
        )
        raw.executemany(
            "INSERT OR REPLACE INTO packed(digest, name, offset_bytes, length_bytes) VALUES (?, ?, ?, ?)",
            sorted((value.digest, name, value.offset_bytes, value.length_bytes) for value in values),
        )


def note_parts(journal: Journal, name: str, upload_id: str, parts: Sequence[tuple[int, str]]) -> None:
    """Notes which parts of a pack have arrived."""
    with journal.transaction() as transaction:
        driver(transaction).execute(
            "UPDATE upload SET upload_id = ?, parts = ? WHERE name = ?", (upload_id, json.dumps(parts), name)
        )


def note_arrival(journal: Journal, name: str, etag: str) -> None:
    """Notes that a pack has arrived."""
    with journal.transaction() as transaction:
        driver(transaction).execute("UPDATE upload SET etag = ? WHERE name = ?", (etag, name))


def replace_upload(journal: Journal, old: str, new: str, etag: str, *, begun_at_us: int) -> None:
    """Names a copy of a pack in the place of the pack."""
    with journal.transaction() as transaction:
        raw = driver(transaction)
        raw.execute(
            "INSERT INTO upload(name, size_bytes, etag, begun_at_us) "
            "SELECT ?, size_bytes, ?, ? FROM upload WHERE name = ?",
            (new, etag, begun_at_us, old),
        )
        raw.execute("UPDATE packed SET name = ? WHERE name = ?", (new, old))
        _delete_upload(raw, old)


def forget_upload(journal: Journal, name: str) -> None:
    """Forgets one pack, and what was in it."""
    with journal.transaction() as transaction:
        _delete_upload(driver(transaction), name)


def forget_uploads(journal: Journal) -> None:
    """Forgets all packs once their commit is the base; what no commit names is garbage in the store."""
    with journal.transaction() as transaction:
        raw = driver(transaction)
        raw.execute("DELETE FROM packed")
        raw.execute("DELETE FROM upload")


def _delete_upload(raw: sqlite3.Connection, name: str) -> None:
    raw.execute("DELETE FROM packed WHERE name = ?", (name,))
    raw.execute("DELETE FROM upload WHERE name = ?", (name,))
