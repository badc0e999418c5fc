"""Copying a database from one remote to another, as its root stands at one moment.

The invariants: the target's root is put last, and only where there is none, so that readers of
the target see no database or all of it; what the root does not need is not copied; what has arrived is not
sent again. Snapshots stay behind: a copy has one commit and the history that leads to it. The root is the
source's, so the copy has its uuid, its history and its commit ids; only how commits
are made it says for its own place.

The index of a copy names the source's ETags, which another store may give otherwise. A reader is told so
by the store, and holds the value to its digest alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ebooklet_tx.errors import (
    Error,
    InvalidArgumentError,
    NotFoundInRangeError,
    ObjectMissingError,
    ObjectTooLargeError,
    OfflineError,
    PreconditionFailedError,
    ReadOnlyError,
    RemoteAccessError,
    RemoteIntegrityError,
    RemoteMissingError,
    TransientStoreError,
)
from ebooklet_tx.formats.root import encode_root
from ebooklet_tx.html_tables import ShownAsTable
from ebooklet_tx.maintenance.inventory import list_objects, objects_named
from ebooklet_tx.stores.deadline import metered
from ebooklet_tx.stores.retry import RetryingStore
from ebooklet_tx.stores.workers import Workers
from ebooklet_tx.sync.commit.writer_locks import WriterLock
from ebooklet_tx.sync.in_flight import IN_FLIGHT_BYTES, ByteBudget
from ebooklet_tx.sync.locking import learn_mode, new_lock
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.root_object import FetchedRoot, read_root_or_none

WHOLE_BYTES = 16 * 2**20
"""An object up to this size is held in memory as a whole on its way; a larger one goes in parts."""

PART_BYTES = 8 * 2**20
MAX_SERVER_COPY_BYTES = 2**30
"""An object up to this size is left to the store to copy; a larger one takes longer than an answer may."""

MAX_LOOKS = 20
_OTHER_SIZE = "it has another size than the index says"


@dataclass(frozen=True, slots=True, repr=False)
class CopyReport(ShownAsTable):
    """What a copy did; true when the target changed.

    Attributes:
        commit_id: The commit that was copied.
        seq: Its number.
        key_count: How many keys the database holds.
        copied_objects: How many objects were sent, the root among them.
        copied_bytes: Their sizes.
        present_objects: How many were there already, as an earlier copy that was cut short left them.
    """

    commit_id: str
    seq: int
    key_count: int
    copied_objects: int
    copied_bytes: int
    present_objects: int

    def __bool__(self) -> bool:
        return self.copied_objects > 0


def copy_remote(source: Remote, target: Remote, *, lock_timeout_seconds: float = 300.0) -> CopyReport:
    """Copies a database to a place that holds none, under the target's lock.

    Called again after a failure it sends only what is missing; called again after it was done it finds the
    same commit there and does nothing. Where both are buckets of one endpoint and one account the store
    copies by itself.

    Args:
        source: The database; it is only read.
        target: Where to; objects that lie there already with the right names and sizes are kept.
        lock_timeout_seconds: How long to wait for a writer at the target.

    Raises:
        RemoteMissingError: There is no database at the source.
        InvalidArgumentError: The target holds a database already, or is the source; it was left as it was.
        UnsupportedFormatError: Something else lies at one of the places.
        ReadOnlyError: The target can only be read.
        RemoteIntegrityError: The source is damaged; the target shows no database.
        OfflineError: A store keeps failing; call it again.
    """
    if not target.store.writable:
        raise ReadOnlyError(f"{target.root_place} can only be read; copy to a bucket or a folder")
    if (source.store.location, source.names) == (target.store.location, target.names):
        raise InvalidArgumentError(f"{source.root_place} can't be copied onto itself; name another target")
    root = _read_source(source)
    learn_mode(target)
    with new_lock(target).holding(lock_timeout_seconds) as lock:
        return _copy(source, target, lock, root)


def _read_source(source: Remote) -> FetchedRoot:
    root = read_root_or_none(source)
    if root is None:
        raise RemoteMissingError(f"there is no database {source.root_place} to copy; check the place")
    return root


def _copy(source: Remote, target: Remote, lock: WriterLock, root: FetchedRoot) -> CopyReport:
    """Copies the objects, looking again where the source moved on, then the root."""
    copied: dict[str, int] = {}
    for _ in range(MAX_LOOKS):
        if _is_copied(target, root):
            return _report(root, copied, present=0, root_bytes=0)
        try:
            sizes = objects_named(source, root.root)
            there = {name: found.size_bytes for name, found in list_objects(target).own.items()}
            missing = {name: size for name, size in sizes.items() if there.get(name) != size}
            _send_all(source, target, missing, copied)
        except RemoteIntegrityError:
            # Collected meanwhile: a root that is newer does not name it any more.
            newer = _read_source(source)
            if newer.etag == root.etag:
                raise
            root = newer
            continue
        lock.check()
        data = _as_the_target_says(target, root)
        _put_root(target, lock, root, data)
        present = sum(name not in copied for name in sizes)
        return _report(root, copied, present=present, root_bytes=len(data))
    raise OfflineError(
        f"writers kept compacting {source.root_place} while it was copied; {target.root_place} shows no database "
        "yet; copy again: what has arrived is not sent again"
    )


def _report(root: FetchedRoot, copied: Mapping[str, int], *, present: int, root_bytes: int) -> CopyReport:
    manifest = root.manifest
    return CopyReport(
        commit_id=manifest.commit_id,
        seq=manifest.seq,
        key_count=manifest.key_count,
        copied_objects=len(copied) + (root_bytes > 0),
        copied_bytes=sum(copied.values()) + root_bytes,
        present_objects=present,
    )


def _is_copied(target: Remote, root: FetchedRoot) -> bool:
    """True when the target holds this very commit already.

    Raises:
        InvalidArgumentError: It holds another.
    """
    there = read_root_or_none(target)
    if there is None:
        return False
    found, wanted = there.manifest, root.manifest
    if (found.uuid, found.commit_id) == (wanted.uuid, wanted.commit_id):
        return True
    what = "an earlier or later state of this database" if found.uuid == wanted.uuid else "another database"
    raise InvalidArgumentError(
        f"the target already holds {what}: {found.uuid} at commit {found.seq}, {target.root_place}; delete it "
        "with delete_remote(), or copy to another place"
    )


# -- objects -----------------------------------------------------------------------------------


def _send_all(source: Remote, target: Remote, sizes: Mapping[str, int], copied: dict[str, int]) -> None:
    """Sends objects in parallel, noting those that have arrived."""
    if not sizes:
        return

    in_memory = ByteBudget(IN_FLIGHT_BYTES)
    unseen: list[str] = []

    def send(item: tuple[str, int]) -> None:
        name, size_bytes = item
        source_key, target_key = source.names.object(name), target.names.object(name)
        if size_bytes > MAX_SERVER_COPY_BYTES or not _copied_by_store(source, target, source_key, target_key):
            # An object in parts has one of them in memory, and one on its way.
            held_bytes = size_bytes if size_bytes <= WHOLE_BYTES else 2 * PART_BYTES
            # What comes is half of the work, what goes the other.
            with (
                in_memory.taking(held_bytes),
                phase.moving(2 * size_bytes, counts=0.5) as moved,
                metered(moved),
            ):
                _stream(source, target, source_key, target_key, size_bytes)
                phase.advance(0, size_bytes)
        else:
            unseen.append(name)
            phase.advance(0, size_bytes)
        copied[name] = size_bytes

    kept = "copying again sends the rest"
    with (
        source.reporter.phase("copy", bytes_total=sum(sizes.values()), kept=kept) as phase,
        Workers(min(source.threads, target.threads, len(sizes)), phase) as workers,
    ):
        for _ in workers.map(send, sizes.items()):
            pass
    _check_sizes(source, target, {name: sizes[name] for name in unseen})


def _check_sizes(source: Remote, target: Remote, sizes: Mapping[str, int]) -> None:
    """Makes sure that objects which the store copied by itself are as long as the index says."""
    there = list_objects(target).own if sizes else {}
    for name, size_bytes in sizes.items():
        if name in there and there[name].size_bytes != size_bytes:
            raise _moved(source, source.names.object(name), _OTHER_SIZE)


def _stream(source: Remote, target: Remote, source_key: str, target_key: str, size_bytes: int) -> None:
    try:
        if size_bytes <= WHOLE_BYTES:
            blob = source.store.get(source_key, max_bytes=size_bytes)
            if blob is None or len(blob.data) != size_bytes:
                raise _moved(source, source_key, _OTHER_SIZE)
            target.store.put(target_key, blob.data)
        else:
            object_bytes = _RemoteBytes(source, source_key, size_bytes)
            target.store.put_parts(target_key, object_bytes, part_bytes=PART_BYTES)
    except (ObjectMissingError, NotFoundInRangeError, ObjectTooLargeError) as error:
        raise _moved(source, source_key, str(error)) from error


def _copied_by_store(source: Remote, target: Remote, source_key: str, target_key: str) -> bool:
    """True when the store has copied the object by itself; a store that will not is no failure."""
    copy_from = getattr(_below_retries(target), "copy_from", None)
    if copy_from is None:
        return False
    plain_source = _below_retries(source)
    try:
        etag = target.policy.call(
            "copy",
            lambda: copy_from(plain_source, source_key, target_key),
            location=source.store.location,
            key=source_key,
        )
    except ObjectMissingError as error:
        raise _moved(source, source_key, str(error)) from error
    except (RemoteAccessError, InvalidArgumentError):
        # Not offered, or not for this object. Reading and writing may be, and say why if they are not.
        return False
    return etag is not None


def _below_retries(remote: Remote) -> object:
    return remote.store.inner if isinstance(remote.store, RetryingStore) else remote.store


def _moved(source: Remote, key: str, why: str) -> RemoteIntegrityError:
    return RemoteIntegrityError(
        f"{key!r} at {source.store.location} can't be copied although the root names it: {why}; restore the "
        "object from a backup, or push its values again from a machine that has them"
    )


class _RemoteBytes:
    """An object of a store, read in pieces."""

    def __init__(self, remote: Remote, key: str, size_bytes: int) -> None:
        self._remote = remote
        self._key = key
        self._size_bytes = size_bytes

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        return self._remote.store.get_range(self._key, offset_bytes, length_bytes)


# -- the root ----------------------------------------------------------------------------------


def _as_the_target_says(target: Remote, root: FetchedRoot) -> bytes:
    """Returns the root's bytes with the target's own word on how commits are made."""
    way = target.mode.to_advertise()
    if root.manifest.commits == way:
        return root.data
    return encode_root(replace(root.manifest, commits=way), root.root.tail)


def _put_root(target: Remote, lock: WriterLock, root: FetchedRoot, data: bytes) -> None:
    """Puts the root where there is none; whatever is not a plain success is read back."""
    metadata = {"commit-id": root.manifest.commit_id}
    for attempt in target.policy.attempts_for("copy", location=target.store.location, key=target.names.root):
        with attempt:
            if not target.mode.swaps:
                # Weaker: the lock alone keeps others out between the look and the write.
                lock.check()
                if _is_copied(target, root):
                    return
            failure: Error | None = None
            try:
                target.store.put(target.names.root, data, if_absent=target.mode.swaps, metadata=metadata)
            except (PreconditionFailedError, TransientStoreError, OfflineError) as error:
                failure = error
            if failure is None and target.mode.swaps:
                return
            if _is_copied(target, root):
                return
            if isinstance(failure, OfflineError):
                raise failure
            raise TransientStoreError(f"the root did not arrive at {target.root_place}: {failure}")


__all__ = ["CopyReport", "copy_remote"]
