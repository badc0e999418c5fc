"""Reading what lies in a root's place: a root of ours, a damaged one, or another program's object.

The invariant: whatever lies there, no more of it is read into memory than a root can have, and a root counts
as read only after it was decoded whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from ebooklet_tx.errors import (
    ObjectMissingError,
    ObjectTooLargeError,
    RemoteIntegrityError,
    UnsupportedFormatError,
)
from ebooklet_tx.formats.root import (
    FirstFormatError,
    Manifest,
    Root,
    begins_like_root,
    decode_root,
    too_large_root,
)
from ebooklet_tx.limits import MAX_ROOT_BYTES
from ebooklet_tx.local.journal.base import Base
from ebooklet_tx.stores.object_store import Blob, ObjectStore
from ebooklet_tx.sync.remote import Remote

LOOKS_AT_AN_OLDER_ROOT = 4
"""How often a root that is older than a known one is read again; the waits between add up to 1.5 seconds."""

_FIRST_WAIT_SECONDS = 0.1
"""However patient the session is with a store that fails: this one answers, and may be right."""


@dataclass(frozen=True, slots=True)
class DamagedRoot:
    """A root that can't be decoded, or is of format 1, with the ETag under which it was read."""

    etag: str
    error: RemoteIntegrityError | FirstFormatError


@dataclass(frozen=True, slots=True)
class FetchedRoot:
    """A root with its bytes and the ETag under which it was read."""

    root: Root
    etag: str
    data: bytes

    @property
    def manifest(self) -> Manifest:
        """What the root says of the database."""
        return self.root.manifest


def fetch_root(store: ObjectStore, key: str, *, name: str) -> FetchedRoot:
    """Reads a root, or a copy of one, in one request.

    Args:
        store: Where it lies.
        key: Its key there.
        name: What messages call it.

    Raises:
        ObjectMissingError: There is none.
        UnsupportedFormatError: Something else lies there.
        RemoteIntegrityError: It is damaged.
    """
    return _decoded(_get(store, key, name=name), name=name)


def fetch_snapshot(remote: Remote, key: str) -> FetchedRoot:
    """Reads the copy of a root that a snapshot is, in one request.

    Raises:
        ObjectMissingError: There is none.
        UnsupportedFormatError: A newer version wrote it.
        RemoteIntegrityError: It is damaged, or no copy of a root at all.
    """
    name = f"the snapshot {key.rpartition('/')[2]!r} of {remote.root_place}"
    start = b""
    try:
        blob = cast(Blob, remote.store.get(key, max_bytes=MAX_ROOT_BYTES))
        start = blob.data
        return _decoded(blob, name=name)
    except (RemoteIntegrityError, UnsupportedFormatError) as error:
        if isinstance(error, ObjectTooLargeError):
            start = error.start
        is_foreign = isinstance(error, FirstFormatError) or not begins_like_root(start)
        if isinstance(error, UnsupportedFormatError) and not is_foreign:
            raise
        problem = "is no copy of a root" if is_foreign else "is damaged"
        raise RemoteIntegrityError(
            f"{name} can't be read: what lies at {key!r} {problem}. Restore it from the bucket's older versions "
            "or a backup, under the same key, or delete the snapshot with delete_snapshot(); the database itself "
            "is not affected",
            object_name=key,
        ) from error


def read_root(remote: Remote, *, if_none_match: str | None = None) -> FetchedRoot | None:
    """Reads a database's root, one request; None when it still has the ETag given.

    Raises:
        ObjectMissingError: There is none.
        UnsupportedFormatError: Something else lies there.
        RemoteIntegrityError: It is damaged.
    """
    name = remote.root_place
    blob = _get_if_changed(remote.store, remote.names.root, if_none_match, name=name)
    return None if blob is None else _decoded(blob, name=name)


def read_later_root(remote: Remote, etag: str | None, uuid: str, seq: int) -> FetchedRoot | None:
    """Reads a database's root as `read_root` does, and again where it shows an older commit than a known one.

    A cache or a replica may lag behind for a moment. A root that stays older was put back.

    Args:
        remote: The database.
        etag: The known root's ETag.
        uuid: The identity of the known root's database.
        seq: Its commit.
    """
    fetched = read_root(remote, if_none_match=etag)
    for number in range(LOOKS_AT_AN_OLDER_ROOT):
        if fetched is None or fetched.manifest.uuid != uuid or fetched.manifest.seq >= seq:
            break
        remote.policy.sleep(min(remote.policy.base_seconds, _FIRST_WAIT_SECONDS) * 2**number)
        fetched = read_root(remote, if_none_match=etag)
    return fetched


def read_root_or_none(remote: Remote) -> FetchedRoot | None:
    """Reads a database's root; None when there is none."""
    try:
        return read_root(remote)
    except ObjectMissingError:
        return None


def told_root(remote: Remote, etag: str, data: bytes) -> FetchedRoot | None:
    """Returns a root of which another writer has told, its tail decoded; None where it can't be read."""
    try:
        fetched = _decoded(Blob(data, etag), name=remote.root_place)
        fetched.root.tail_block()
        return fetched
    except (RemoteIntegrityError, UnsupportedFormatError, FirstFormatError):
        return None


def inspect_root(remote: Remote) -> FetchedRoot | DamagedRoot | None:
    """Reads a database's root, to be replaced whether it is damaged or not; None when there is none."""
    try:
        blob = _get(remote.store, remote.names.root, name=remote.root_place)
    except ObjectMissingError:
        return None
    try:
        return _decoded(blob, name=remote.root_place)
    except (RemoteIntegrityError, FirstFormatError) as error:
        return DamagedRoot(blob.etag, error)


def base_of(manifest: Manifest, etag: str | None, root: bytes) -> Base:
    """Returns a root as the base of the journal that has applied it."""
    return Base(
        seq=manifest.seq,
        etag=etag,
        commit_id=manifest.commit_id,
        key_count=manifest.key_count,
        fence=manifest.fence,
        tombstone_floor=manifest.tombstone_floor,
        root=root,
        commits=manifest.commits,
    )


def _decoded(blob: Blob, *, name: str) -> FetchedRoot:
    return FetchedRoot(decode_root(blob.data, name=name), blob.etag, blob.data)


def _get(store: ObjectStore, key: str, *, name: str) -> Blob:
    # Without a condition a store answers with the object or raises.
    return cast(Blob, _get_if_changed(store, key, None, name=name))


def _get_if_changed(store: ObjectStore, key: str, known_etag: str | None, *, name: str) -> Blob | None:
    try:
        return store.get(key, if_none_match=known_etag, max_bytes=MAX_ROOT_BYTES)
    except ObjectTooLargeError as error:
        raise too_large_root(error.start, name=name) from error


__all__ = [
    "DamagedRoot",
    "FetchedRoot",
    "base_of",
    "fetch_root",
    "fetch_snapshot",
    "inspect_root",
    "read_root",
    "read_root_or_none",
    "read_later_root",
    "told_root",
]
