"""Large values: brought from the remote to the Booklet file without being held in memory.

Owns an unnamed file beside the Booklet file while it fetches. The invariant: nothing is appended before the
whole value has its digest, so a failing store or a death leaves the Booklet file as it was.
"""

from __future__ import annotations

import tempfile
from hashlib import blake2b
from typing import IO

from ebooklet_tx.errors import (
    LocalStorageError,
    NotFoundInRangeError,
    ObjectMissingError,
)
from ebooklet_tx.local.files.file_calls import storage_errors
from ebooklet_tx.local.files.file_region import FileRegion
from ebooklet_tx.local.journal.entries import Entry
from ebooklet_tx.records import DIGEST_BYTES, ObjectRef
from ebooklet_tx.sync.read.ranges import read_parts
from ebooklet_tx.sync.read.reader import Reader, fetched_value
from ebooklet_tx.sync.read.value_errors import check_remote_has, damaged_there, vanished_there
from ebooklet_tx.sync.remote import Remote


def bring_large(reader: Reader, key: str) -> None:
    """Makes sure that the value of a key is in the Booklet file, whatever its size.

    Needs room on the disk for the value twice while it works.

    Raises:
        LocalIntegrityError: The local copy is damaged, and the remote has none.
        LocalStorageError: The disk is full, or another session writes; nothing was changed.
        RemoteIntegrityError: The remote's copy is damaged or gone.
        OfflineError: The remote can't be reached.
    """
    entry = _missing_entry(reader, key)
    if entry is None:
        return
    try:
        _bring(reader, entry)
    except (ObjectMissingError, NotFoundInRangeError) as error:
        # Another machine may have written the pack anew.
        reader.pull()
        again = _missing_entry(reader, key)
        if again is None:
            return
        if reader.ref_of(again) == reader.ref_of(entry):
            raise vanished_there(key, error) from error
        _bring(reader, again)


def _missing_entry(reader: Reader, key: str) -> Entry | None:
    """Returns the entry of a key whose value is not here; None where it is, or where there is none."""
    entry = reader.entries([key]).get(key)
    if entry is None or entry.digest is None or reader.local.is_intact(entry):
        return None
    check_remote_has(entry, reader.local.path)
    return entry


def _bring(reader: Reader, entry: Entry) -> None:
    local = reader.local
    path = local.path
    if not local.has_room_for(entry.length_bytes):
        raise LocalStorageError(
            0,
            f"the value of key {entry.key!r} has {entry.length_bytes} bytes, more than half of max_local_bytes, "
            "so it is not kept on this machine; it can be read all the same",
        )
    with storage_errors(path, "make room beside"), tempfile.TemporaryFile(dir=path.parent) as spool:
        _fetch_to(reader.remote, entry, reader.ref_of(entry), spool)
        spool.flush()
        region = FileRegion(spool.fileno(), 0, entry.length_bytes, path)
        kept = local.keep_large(fetched_value(entry, b"")._replace(value=region))
    if not kept:
        raise LocalStorageError(
            0, f"the value of key {entry.key!r} was fetched and not kept: another session writes to {path}"
        )


def _fetch_to(remote: Remote, entry: Entry, ref: ObjectRef, spool: IO[bytes]) -> None:
    digest = blake2b(digest_size=DIGEST_BYTES)
    for data in read_parts(remote, ref, entry.remote_offset_bytes or 0, entry.length_bytes):
        digest.update(data)
        spool.write(data)
    if digest.digest() != entry.digest:
        raise damaged_there(remote, entry.key, ref)
