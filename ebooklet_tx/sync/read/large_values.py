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
from ebooklet_tx.local.commit import Fetched
from ebooklet_tx.local.files.checked_file import FileRegion
from ebooklet_tx.local.files.file_calls import storage_errors
from ebooklet_tx.local.journal.entries import Entry
from ebooklet_tx.local.journal.index_rows import object_ref
from ebooklet_tx.records import DIGEST_BYTES
from ebooklet_tx.sync.pull.pull import pull
from ebooklet_tx.sync.read.ranges import MAX_RANGE_BYTES, read_range
from ebooklet_tx.sync.read.value_errors import check_remote_has, damaged_there, vanished_there
from ebooklet_tx.sync.session import Session


def bring_large(session: Session, key: str) -> None:
    """Makes sure that the value of a key is in the Booklet file, whatever its size.

    Needs room on the disk for the value twice while it works.

    Raises:
        LocalIntegrityError: The local copy is damaged, and the remote has none.
        LocalStorageError: The disk is full, or another session writes; nothing was changed.
        RemoteIntegrityError: The remote's copy is damaged or gone.
        OfflineError: The remote can't be reached.
    """
    entry = _missing_entry(session, key)
    if entry is None:
        return
    try:
        _bring(session, entry)
    except (ObjectMissingError, NotFoundInRangeError) as error:
        # Another machine may have written the pack anew.
        pull(session)
        again = _missing_entry(session, key)
        if again is None:
            return
        if again.remote_object == entry.remote_object:
            raise vanished_there(key, error) from error
        _bring(session, again)


def _missing_entry(session: Session, key: str) -> Entry | None:
    """Returns the entry of a key whose value is not here; None where it is, or where there is none."""
    with session.mutex:
        entry = session.local.entry(key)
        if entry is None or entry.digest is None or session.local.is_intact(entry):
            return None
    check_remote_has(session, entry)
    return entry


def _bring(session: Session, entry: Entry) -> None:
    path = session.local.path
    with storage_errors(path, "make room beside"), tempfile.TemporaryFile(dir=path.parent) as spool:
        _fetch_to(session, entry, spool)
        spool.flush()
        region = FileRegion(spool.fileno(), 0, entry.length_bytes, path)
        fetched = Fetched(entry.key, entry.timestamp_us, entry.digest or b"", region)
        with session.mutex:
            kept = session.local.keep_large(fetched)
    if not kept:
        raise LocalStorageError(
            0, f"the value of key {entry.key!r} was fetched and not kept: another session writes to {path}"
        )


def _fetch_to(session: Session, entry: Entry, spool: IO[bytes]) -> None:
    with session.mutex:
        ref = object_ref(session.journal, entry.remote_object or 0)
    digest = blake2b(digest_size=DIGEST_BYTES)
    start = entry.remote_offset_bytes or 0
    for position in range(0, entry.length_bytes, MAX_RANGE_BYTES):
        length = min(MAX_RANGE_BYTES, entry.length_bytes - position)
        data = read_range(session, ref, start + position, length)
        digest.update(data)
        spool.write(data)
    if digest.digest() != entry.digest:
        raise damaged_there(session, entry.key, ref)
