"""Objects that were sent, or are being sent, and belong to no commit yet.

Owns the journal's tables `upload`, `place` and `packed`. The invariant: a row of `place` or `packed` whose upload
has an ETag says that those bytes lie in that object. The ETag is written only after the object has arrived; what
is about to be sent is noted without one.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ebooklet_tx.local.journal.connections import insert_many
from ebooklet_tx.local.journal.integrity.row_checks import decoding
from ebooklet_tx.local.journal.journal import Journal, driver
from ebooklet_tx.local.journal.merged import packs_of_forks
from ebooklet_tx.records import ObjectRef

_PLACE = ("INSERT OR REPLACE INTO place(number, object, offset_bytes)", "({0}, {s0}, {1})", "")

_COLUMNS = "name, size_bytes, etag, upload_id, begun_at_us, digest"


class Place(NamedTuple):
    """Where a value lies in the remote."""

    ref: ObjectRef
    offset_bytes: int
    length_bytes: int


class PackedValues(NamedTuple):
    """Values as they were put into a pack, a sequence for each field.

    Attributes:
        owners: What their places are noted under: the numbers of their operations, or their digests; all are of
            one kind.
    """

    owners: Sequence[int | bytes]
    offsets_bytes: Sequence[int]
    lengths_bytes: Sequence[int]


NO_VALUES = PackedValues((), (), ())


@dataclass(frozen=True, slots=True)
class Upload:
    """An object that was sent or is being sent.

    Attributes:
        name: The object's name.
        size_bytes: How long it is.
        etag: Its ETag in the store; None until it has arrived.
        upload_id: The multipart upload that sends it, None where it is sent in one piece.
        begun_at_us: When its sending began.
        digest: That of an index object, which is used again only by that.
    """

    name: str
    size_bytes: int
    etag: str | None
    upload_id: str | None
    begun_at_us: int
    digest: bytes | None = None


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
    """Returns every upload of this machine's own, arrived or not."""
    with journal.reading() as raw:
        forks = packs_of_forks(raw)
        rows = raw.execute(f"SELECT {_COLUMNS} FROM upload").fetchall()
    return [Upload(*row) for row in rows if row[0] not in forks]


def arrived_packs(journal: Journal) -> dict[str, ObjectRef]:
    """Returns the packs of this machine's own that have arrived, by name."""
    return {
        upload.name: ObjectRef(upload.name, upload.etag, upload.size_bytes)
        for upload in read_uploads(journal)
        if upload.etag is not None and upload.digest is None
    }


def place_of(journal: Journal, number: int, length_bytes: int) -> Place | None:
    """Returns where the value of an operation lies in a pack that has arrived; None where there is none."""
    rows = journal.rows(
        "SELECT u.name, u.etag, u.size_bytes, p.offset_bytes FROM place AS p "
        "JOIN upload AS u ON u.object = p.object WHERE p.number = ? AND u.etag IS NOT NULL",
        (number,),
    )
    return Place(ObjectRef(*rows[0][:3]), rows[0][3], length_bytes) if rows else None


def arrived_places(journal: Journal) -> dict[bytes, Place]:
    """Returns where values that are moved lie in packs that have arrived, by digest."""
    rows = journal.rows(
        "SELECT p.digest, u.name, u.etag, u.size_bytes, p.offset_bytes, p.length_bytes FROM packed AS p "
        "JOIN upload AS u ON u.object = p.object WHERE u.etag IS NOT NULL"
    )
    return {
        digest: Place(ObjectRef(name, etag, size), offset, length)
        for digest, name, etag, size, offset, length in rows
    }


def arrived_numbers(journal: Journal) -> set[int]:
    """Returns the numbers of the operations whose values lie in packs that have arrived."""
    rows = journal.rows(
        "SELECT p.number FROM place AS p JOIN upload AS u ON u.object = p.object WHERE u.etag IS NOT NULL"
    )
    return {row[0] for row in rows}


def find_index_object(journal: Journal, digest: bytes, *, from_us: int, to_us: int) -> ObjectRef | None:
    """Finds an index object of that digest that has arrived, and whose sending began between two times."""
    rows = journal.rows(
        "SELECT name, etag, size_bytes FROM upload WHERE digest = ? AND etag IS NOT NULL "
        "AND begun_at_us BETWEEN ? AND ? LIMIT 1",
        (digest, from_us, to_us),
    )
    return ObjectRef(*rows[0]) if rows else None


def find_partial_upload(journal: Journal, number: int) -> PartialUpload | None:
    """Finds the unfinished upload of the value that an operation set."""
    rows = journal.rows(
        "SELECT u.name, u.upload_id, u.parts FROM place AS p JOIN upload AS u ON u.object = p.object "
        "WHERE p.number = ? AND u.etag IS NULL",
        (number,),
    )
    if not rows:
        return None
    name, upload_id, text = rows[0]
    with decoding(journal.path, "the parts of an upload"):
        parts = tuple((each, etag) for each, etag in json.loads(text)) if text else ()
    return PartialUpload(name, upload_id, parts)


def note_upload(
    journal: Journal,
    name: str,
    size_bytes: int,
    values: PackedValues = NO_VALUES,
    *,
    begun_at_us: int,
    digest: bytes | None = None,
) -> None:
    """Notes an object that is about to be sent, and which values are in it."""
    with journal.transaction() as transaction:
        raw = driver(transaction)
        number = _new_object(raw, name, size_bytes)
        raw.execute(
            "INSERT INTO upload(object, name, size_bytes, digest, begun_at_us) VALUES (?, ?, ?, ?, ?)",
            (number, name, size_bytes, digest, begun_at_us),
        )
        if values.owners and type(values.owners[0]) is int:
            insert_many(raw, _PLACE, (number,), values[:2])
            return
        raw.executemany(
            "INSERT OR REPLACE INTO packed(digest, object, offset_bytes, length_bytes) VALUES (?, ?, ?, ?)",
            sorted((owner, number, offset, length) for owner, offset, length in zip(*values, strict=True)),
        )


def _new_object(raw: sqlite3.Connection, name: str, size_bytes: int) -> int:
    # Its ETag is filled in when it has arrived.
    raw.execute("INSERT INTO remote_object(name, etag, size_bytes) VALUES (?, '', ?)", (name, size_bytes))
    (number,) = raw.execute("SELECT id FROM remote_object WHERE name = ? AND etag = ''", (name,)).fetchone()
    return int(number)


def note_parts(journal: Journal, name: str, upload_id: str, parts: Sequence[tuple[int, str]]) -> None:
    """Notes which parts of a pack have arrived."""
    with journal.transaction() as transaction:
        driver(transaction).execute(
            "UPDATE upload SET upload_id = ?, parts = ? WHERE name = ?", (upload_id, json.dumps(parts), name)
        )


def note_arrival(journal: Journal, name: str, etag: str) -> None:
    """Notes that an object has arrived."""
    with journal.transaction() as transaction:
        raw = driver(transaction)
        raw.execute("UPDATE upload SET etag = ? WHERE name = ?", (etag, name))
        raw.execute(
            "UPDATE remote_object SET etag = ? WHERE id = (SELECT object FROM upload WHERE name = ?)",
            (etag, name),
        )


def replace_upload(journal: Journal, old: str, new: str, etag: str, *, begun_at_us: int) -> None:
    """Names a copy of a pack in the place of the pack."""
    with journal.transaction() as transaction:
        raw = driver(transaction)
        before, size_bytes = raw.execute(
            "SELECT object, size_bytes FROM upload WHERE name = ?", (old,)
        ).fetchone()
        number = _new_object(raw, new, size_bytes)
        raw.execute("UPDATE remote_object SET etag = ? WHERE id = ?", (etag, number))
        raw.execute(
            "INSERT INTO upload(object, name, size_bytes, etag, begun_at_us) VALUES (?, ?, ?, ?, ?)",
            (number, new, size_bytes, etag, begun_at_us),
        )
        for table in ("packed", "place"):
            raw.execute(f"UPDATE {table} SET object = ? WHERE object = ?", (number, before))
        _delete_upload(raw, old)


def forget_upload(journal: Journal, name: str) -> None:
    """Forgets one object, and what was in it."""
    with journal.transaction() as transaction:
        _delete_upload(driver(transaction), name)


def forget_uploads(journal: Journal) -> None:
    """Forgets all objects once their commit is the base; what no commit names is garbage in the store."""
    with journal.transaction() as transaction:
        drop_uploads(driver(transaction))


def drop_uploads(raw: sqlite3.Connection) -> None:
    """Likewise, within a transaction; packs that forks brought stay while an operation needs them."""
    forks = packs_of_forks(raw)
    if forks:
        raw.execute("DELETE FROM place WHERE number NOT IN (SELECT pending_number FROM entry WHERE pending != 0)")
        for (name,) in raw.execute("SELECT name FROM upload").fetchall():
            if name not in forks:
                _delete_upload(raw, name)
        raw.execute("DELETE FROM upload WHERE object NOT IN (SELECT object FROM place)")
        return
    for table in ("packed", "place", "upload"):
        raw.execute(f"DELETE FROM {table}")


def drop_index_uploads(raw: sqlite3.Connection) -> None:
    """Forgets the objects of index and history: a commit names them now, or nobody does."""
    raw.execute("DELETE FROM upload WHERE digest IS NOT NULL")


def _delete_upload(raw: sqlite3.Connection, name: str) -> None:
    for table in ("packed", "place"):
        raw.execute(f"DELETE FROM {table} WHERE object = (SELECT object FROM upload WHERE name = ?)", (name,))
    raw.execute("DELETE FROM upload WHERE name = ?", (name,))
