"""What a commit says: the rows, the log record and the count of keys that some entries make.

The invariant: a row is read from the local store while its mutex is held, and only while its key still has the
value that its entry had.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ebooklet_tx.local.journal.entries import PENDING_DELETE, PENDING_NONE, PENDING_SET, Entry
from ebooklet_tx.local.journal.index_rows import object_ref
from ebooklet_tx.local.journal.uploads import Place, arrived_packs
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.records import METADATA_KEY, CommitRecord, IndexRow, ObjectRef
from ebooklet_tx.sync.commit.packing import read_pending
from ebooklet_tx.timestamps import now_us


@dataclass(frozen=True, slots=True)
class Changes:
    """What one commit changes.

    Attributes:
        rows: What it says of each key.
        objects: The packs that the rows lie in, by name.
        record: What the log says of the commit.
        key_change: How many keys more, or fewer, the database has after it.
        has_packs: Whether values of it were sent in packs.
    """

    rows: Sequence[IndexRow]
    objects: Mapping[str, ObjectRef]
    record: CommitRecord
    key_change: int
    has_packs: bool


def is_remote(entry: Entry) -> bool:
    """True when the remote already holds the value, and only its timestamp is new."""
    return entry.remote_digest is not None and entry.remote_digest == entry.digest


def read_changes(local: LocalStore, entries: Sequence[Entry], places: Mapping[bytes, Place], seq: int) -> Changes:
    """Reads from the local store what a commit of some entries says.

    Raises:
        ReplacedError: A key was written again since its entry was read.
    """
    objects = arrived_packs(local.journal)
    rows = []
    with local.mutex:
        for entry in entries:
            row, ref = _row(local, entry, places, seq)
            rows.append(row)
            if ref is not None:
                objects[ref.name] = ref
    return Changes(rows, objects, _record(entries, seq), _key_change(entries), bool(places))


def _row(
    local: LocalStore, entry: Entry, places: Mapping[bytes, Place], seq: int
) -> tuple[IndexRow, ObjectRef | None]:
    """Returns what a commit says of a key, with the object it lies in unless a pack is new."""
    key, stamp, digest = entry.key, entry.timestamp_us, entry.digest
    if digest is None:
        return IndexRow(key, seq, stamp, None), None
    if is_remote(entry) and entry.remote_object is not None:
        ref = object_ref(local.journal, entry.remote_object)
        place = Place(ref.name, entry.remote_offset_bytes or 0, entry.remote_length_bytes or 0)
        return IndexRow(key, seq, stamp, digest, *place), ref
    if digest in places:
        return IndexRow(key, seq, stamp, digest, *places[digest]), None
    value = read_pending(local, entry)
    return IndexRow(key, seq, stamp, digest, None, None, len(value), value), None


def _record(entries: Sequence[Entry], seq: int) -> CommitRecord:
    # An entry without an operation only gets another place.
    sets = [entry for entry in entries if entry.pending == PENDING_SET]
    deleted_count = sum(entry.pending == PENDING_DELETE for entry in entries)
    value_bytes = sum(entry.length_bytes for entry in sets)
    return new_record(seq, set_count=len(sets), deleted_count=deleted_count, value_bytes=value_bytes)


def new_record(seq: int, *, set_count: int = 0, deleted_count: int = 0, value_bytes: int = 0) -> CommitRecord:
    """Returns what the log says of a commit that is made now, under a new id."""
    return CommitRecord(
        seq=seq,
        commit_id=secrets.token_hex(16),
        committed_at_us=now_us(),
        writer=writer_name(),
        set_count=set_count,
        deleted_count=deleted_count,
        value_bytes=value_bytes,
    )


def writer_name() -> str:
    """Returns how this process signs its commits, for people to read."""
    host = "".join(letter if letter.isprintable() else "?" for letter in socket.gethostname())
    return f"{host}:{os.getpid()}"


def _key_change(entries: Sequence[Entry]) -> int:
    return sum(
        (entry.pending == PENDING_SET) - (entry.remote_digest is not None)
        for entry in entries
        if entry.pending != PENDING_NONE and entry.key != METADATA_KEY
    )
