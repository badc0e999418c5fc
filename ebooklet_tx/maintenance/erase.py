"""Deleting a database from its remote, and what becomes of the local half.

Owns the object `D.d/snapshot/deleted-<commit>` while a deletion is under way. The invariants: the deletion
of the root is the commit point, before which nothing is missing and after which there is no database; only
what was listed while that root was there is deleted, and of it only what is this database's by its whole
name; what is local is kept and is what the next push sends.

That object is the compressed list of the names that were found. A deletion that was
cut short resumes from them. Where there is no root and an object is not among such names, it may be a pack of
a first push that is under way without a lock, so it is deleted only once it is a day old, by the store's own
clock. What a writer without a lock had sent before the listing goes with the rest: that writer finds the
root gone, and has to push again once the deletion has ended.
"""

from __future__ import annotations

import contextlib
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from ebooklet_tx.errors import (
    Error,
    LockLostError,
    ObjectMissingError,
    ObjectTooLargeError,
    OfflineError,
    ReadOnlyError,
    RemoteIntegrityError,
    UUIDMismatchError,
)
from ebooklet_tx.html_tables import ShownAsTable
from ebooklet_tx.limits import MAX_NOTE_BYTES, MAX_ROOT_BYTES
from ebooklet_tx.local.detach import Forgotten, forget_remote
from ebooklet_tx.local.journal.pending.detachment import note_deletion
from ebooklet_tx.locks.lease import Lease
from ebooklet_tx.maintenance.inventory import DELETION, GARBAGE_NOTE, RELEASED, list_objects
from ebooklet_tx.records import METADATA_KEY
from ebooklet_tx.stores.object_store import StoredObject
from ebooklet_tx.stores.retry import RetryingStore
from ebooklet_tx.stores.workers import Workers
from ebooklet_tx.sync.commit.writer_locks import WriterLock
from ebooklet_tx.sync.locking import learn_mode, new_lock
from ebooklet_tx.sync.only_there import know_copies
from ebooklet_tx.sync.read.fetch import read_value
from ebooklet_tx.sync.read.reader import Reader, reader_of
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.root_object import FetchedRoot, read_root_or_none
from ebooklet_tx.sync.session import Session

GRACE_SECONDS = 24 * 3600.0
"""How old an object has to be before it is deleted although nothing says whose it is."""

MAX_LOOKS = 20
_NOTE_PIECE_BYTES = 2**16
_MOST_NOTE_PIECES = 4 * MAX_NOTE_BYTES // _NOTE_PIECE_BYTES
_PHASES = ("snapshot", "fork", "pack", "index", "history", RELEASED, GARBAGE_NOTE, DELETION)
"""Snapshots and forks go first, so that none is ever left without what it names."""

_log = logging.getLogger("ebooklet_tx")


@dataclass(frozen=True, slots=True, repr=False)
class EraseReport(ShownAsTable):
    """What a deletion did; true when something was deleted.

    Attributes:
        existed: Whether there was a database; an earlier deletion that was cut short may have left objects
            of one.
        deleted_objects: How many objects were deleted, the root among them; locks are not counted.
        deleted_bytes: Their sizes.
        left_objects: How many objects were left because there was no root, they are less than a day old, and
            nothing says that they were this database's.
        pending_keys: How many keys the next push of the local file sends.
        lost_keys: How many keys the local file no longer has, as their values were in the remote alone.
    """

    existed: bool
    deleted_objects: int = 0
    deleted_bytes: int = 0
    left_objects: int = 0
    pending_keys: int = 0
    lost_keys: int = 0

    def __bool__(self) -> bool:
        return self.deleted_objects > 0


def erase(remote: Remote, *, uuid: str | None = None, lock_timeout_seconds: float = 300.0) -> EraseReport:
    """Deletes a database from its remote: the root, then everything that lies below it, then the lock.

    It can be called again after a failure and finishes what was begun; where nothing is left it does
    nothing and says so.

    Args:
        remote: The place.
        uuid: The identity, 32 hex digits, that the database must have; None for any.
        lock_timeout_seconds: How long to wait for another writer's lock.

    Raises:
        UnsupportedFormatError: Something else lies at the place; nothing was deleted.
        UUIDMismatchError: It holds another database; nothing was deleted.
        RemoteIntegrityError: The root is damaged; nothing was deleted.
        LockTimeoutError: Another writer kept the lock; nothing was deleted.
        OfflineError: The store keeps failing; call it again.
    """
    if not remote.store.writable:
        raise ReadOnlyError(f"{remote.root_place} can only be read; delete it through its bucket or folder")
    learn_mode(remote)
    with _locked(remote, lock_timeout_seconds) as lock:
        return _erase(remote, lock, uuid, before=_nothing, after=_nothing)


def delete_remote(session: Session) -> EraseReport:
    """Deletes a session's database from its remote; what is local becomes what the next push sends.

    What was written and not committed is committed first. Keys whose values are not on this machine are gone
    with the remote: load them before. It takes place under the session's own lock, which the session keeps, or
    under one that is taken for the time and goes with the database.

    Raises:
        ReadOnlyError: The session is open for reading.
        LockLostError: Another writer took the session's lock over; nothing was deleted.
        OfflineError: The store keeps failing. Whether the root is deleted is settled by the next call, push
            or open.

    And what `erase` raises.
    """
    if not session.local.writable:
        raise ReadOnlyError(f"{session.local.path} is open for reading; open it with flag 'w'")
    forgotten = Forgotten(0, 0)

    def before() -> None:
        know_copies(session.local, session.index)
        note_deletion(session.journal)

    def after() -> None:
        nonlocal forgotten
        forgotten = forget_remote(session.local)

    with session.push_mutex:
        session.local.commit(fold=True)
        uuid = session.local.file.header.uuid.hex()
        with contextlib.ExitStack() as stack:
            lock = session.locks.held
            if lock is None:
                lock = stack.enter_context(_locked(session.remote, session.locks.timeout_seconds))
            _look_once_more(reader_of(session))
            report = _erase(session.remote, lock, uuid, before=before, after=after)
    return replace(report, pending_keys=forgotten.pending_keys, lost_keys=forgotten.lost_keys)


def _look_once_more(reader: Reader) -> None:
    """Finds out what the remote has of changed keys, to count the lost ones, and brings the metadata here.

    Where that can't be told any more, as the root is gone, the keys are counted as lost.
    """
    with contextlib.suppress(Error):
        reader.know_pending()
        read_value(reader, METADATA_KEY)
    reader.local.commit(fold=True)


def _nothing() -> None:
    return None


# -- the lock ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _locked(remote: Remote, timeout_seconds: float) -> Iterator[WriterLock]:
    """Holds a lock for the time of a deletion; where that succeeds the lock's own object goes with the rest.

    A holder that had not let go needs no fence: its swap is made for a root that is not there any more.
    """
    with new_lock(remote).holding(timeout_seconds) as lock:
        yield lock
        _remove_lock(remote, lock)


def _remove_lock(remote: Remote, lock: WriterLock) -> None:
    """Deletes a lease while it is surely ours; a ticket's release does the same by itself."""
    if not isinstance(lock, Lease):
        return
    try:
        # No waiter takes over a lease that was renewed just now.
        lock.renew()
        lock.mark_lost("the database was deleted, and the lock with it")
        lock.release()
        remote.store.delete(remote.names.lock)
    except LockLostError:
        _log.warning("the lock of %s was taken over and is left to its holder", remote.root_place)
    except Error as error:
        _log.warning("the lock of %s could not be deleted and will run out: %s", remote.root_place, error)


# -- the remote --------------------------------------------------------------------------------


def _erase(
    remote: Remote,
    lock: WriterLock,
    uuid: str | None,
    *,
    before: Callable[[], None],
    after: Callable[[], None],
) -> EraseReport:
    """Deletes root and objects; `before` and `after` frame the root's deletion."""
    lock.check()
    root, listed = _delete_root(remote, lock, uuid, before)
    after()
    named = _names_noted(remote, listed)
    now = _store_time(remote, listed)
    doomed = {name: entry for name, entry in listed.items() if name in named or _is_old(entry, now)}
    for kind in _PHASES:
        # The note of the names is a snapshot: it goes when nothing else is left.
        _delete_all(remote, [name for name in doomed if _phase_of(name) == kind])
    return EraseReport(
        existed=root is not None,
        deleted_objects=len(doomed) + (root is not None),
        deleted_bytes=sum(entry.size_bytes for entry in doomed.values()) + (root or 0),
        left_objects=len(listed) - len(doomed),
    )


def _phase_of(name: str) -> str:
    return DELETION if name.startswith(DELETION) else name.partition("/")[0]


def _delete_root(
    remote: Remote, lock: WriterLock, uuid: str | None, before: Callable[[], None]
) -> tuple[int | None, dict[str, StoredObject]]:
    """Deletes the root if there is one; returns its size, and what was listed while it was there."""
    size_bytes = None
    for _ in range(MAX_LOOKS):
        root = read_root_or_none(remote)
        if root is not None and not (size_bytes is not None and root.manifest.uuid != uuid):
            uuid = _check_uuid(remote, root, uuid)
        listed = list_objects(remote).own_and_notes()
        if root is None or root.manifest.uuid != uuid:
            # Gone; or gone, though the answer was lost, and another writer has begun a new database since.
            return size_bytes, listed
        _note_names(remote, f"{DELETION}{root.manifest.commit_id}", listed)
        before()
        lock.check()
        size_bytes = len(root.data)
        if _delete_this_root(remote, root.etag):
            return size_bytes, listed
    raise OfflineError(
        f"other writers kept committing to {remote.root_place} while it was to be deleted; nothing is missing "
        "from it; delete it again when there is less traffic"
    )


def _delete_this_root(remote: Remote, etag: str) -> bool:
    """Deletes the root; False when it is not, or no longer, the one that was looked at.

    After a lost answer another look comes before another try: the root may have been deleted, and a writer may
    have begun a new database since.
    """
    plain = remote.store.inner if isinstance(remote.store, RetryingStore) else remote.store
    for attempt in remote.policy.attempts_for("delete", location=remote.store.location, key=remote.names.root):
        with attempt:
            if not _is_still_there(remote, etag):
                return False
            plain.delete(remote.names.root)
    return True


def _is_still_there(remote: Remote, etag: str) -> bool:
    """True when the root is the one that was looked at: deletions can't be made conditional everywhere."""
    try:
        return remote.store.get(remote.names.root, if_none_match=etag, max_bytes=MAX_ROOT_BYTES) is None
    except (ObjectMissingError, ObjectTooLargeError):
        return False


def _check_uuid(remote: Remote, fetched: FetchedRoot, uuid: str | None) -> str:
    """Returns the identity of the database that is to be deleted."""
    if uuid is not None and fetched.manifest.uuid != uuid:
        raise UUIDMismatchError(
            f"{remote.root_place} holds the database {fetched.manifest.uuid} and not {uuid}; nothing was "
            "deleted. To delete that one, open its connection with open('w') and call delete_remote() there"
        )
    return fetched.manifest.uuid


def _note_names(remote: Remote, note: str, listed: dict[str, StoredObject]) -> None:
    """Notes in the store what is about to be deleted, and adds the note to it."""
    key = remote.names.object(note)
    remote.store.put(key, zlib.compress("\n".join(sorted(listed)).encode()))
    listed[note] = remote.store.head(key)


def _names_noted(remote: Remote, listed: Mapping[str, StoredObject]) -> set[str]:
    """Returns the names that deletions have noted, and of the notes; a damaged one tells nothing."""
    noted = {name for name in listed if name.startswith(DELETION)}
    names = set(noted)
    for note in noted:
        key = remote.names.object(note)
        with contextlib.suppress(RemoteIntegrityError, zlib.error):
            blob = remote.store.get(key, max_bytes=MAX_NOTE_BYTES)
            if blob is not None:
                names |= _found_in(blob.data, listed)
    return names


def _found_in(data: bytes, listed: Iterable[str]) -> set[str]:
    """Returns those of some names that are lines of a compressed text, of which it holds little at a time."""
    wanted = {name.encode(): name for name in listed}
    names = set(wanted)
    found: set[bytes] = set()
    reader = zlib.decompressobj()
    rest = b""
    for _ in range(_MOST_NOTE_PIECES):
        piece = reader.decompress(data, _NOTE_PIECE_BYTES)
        data = reader.unconsumed_tail
        *lines, rest = (rest + piece).split(b"\n")
        found |= names.intersection(lines)
        if not piece or len(rest) > _NOTE_PIECE_BYTES:
            break
    return {wanted[name] for name in found | names.intersection([rest])}


def _store_time(remote: Remote, listed: Mapping[str, StoredObject]) -> datetime | None:
    """Returns the newest time that the store gives to anything here: the lock at least was written just now."""
    entries = [*listed.values(), *remote.store.list(remote.names.lock)]
    return max((entry.last_modified for entry in entries if entry.last_modified is not None), default=None)


def _is_old(entry: StoredObject, now: datetime | None) -> bool:
    if now is None or entry.last_modified is None:
        return False
    return (now - entry.last_modified).total_seconds() >= GRACE_SECONDS


def _delete_all(remote: Remote, names: Iterable[str]) -> None:
    keys = [remote.names.object(name) for name in names]
    if keys:
        with Workers(min(remote.threads, len(keys))) as workers:
            for _ in workers.map(remote.store.delete, keys):
                pass


__all__ = ["EraseReport", "delete_remote", "erase"]
