"""Snapshots in a remote: made, listed, read and deleted.

Owns the objects `D.d/snapshot/<name>`, each a copy of a root with a note of what it is, and `D.d/released`, which
each deletion of a snapshot writes anew. The invariant: every object that a snapshot names is there for as long as
the snapshot is.

They lie beside the root, so that readers and writers of the database never hear of them, and one PUT makes one. A
snapshot stands once the root was still the same after it was put. Where another commit came in between it is
taken back and made again of the newer root. So whatever a snapshot names was named by the root as well when the
snapshot was there to be listed, and `collect` keeps what either of them names. If the process dies between the
PUT and the second look, the snapshot is of a root that was replaced a moment ago: the grace period of `collect`
keeps what it names until the next collect lists the snapshot.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from typing import Any

from ebooklet_tx.errors import (
    ContentionError,
    Error,
    InvalidArgumentError,
    ObjectMissingError,
    OfflineError,
    PreconditionFailedError,
    RemoteIntegrityError,
    RemoteMissingError,
    TransientStoreError,
    UnsupportedFormatError,
    UUIDMismatchError,
)
from ebooklet_tx.formats.checks import is_snapshot_name, short
from ebooklet_tx.formats.root import encode_root
from ebooklet_tx.html_tables import ShownAsTable
from ebooklet_tx.limits import MAX_ROOT_BYTES
from ebooklet_tx.locks.process_identity import writer_name
from ebooklet_tx.maintenance.inventory import RELEASED, SNAPSHOT, list_snapshots
from ebooklet_tx.records import SnapshotNote
from ebooklet_tx.stores.object_store import Blob, StoredObject
from ebooklet_tx.stores.workers import Workers
from ebooklet_tx.sync.commit.turns import backoff
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.root_object import FetchedRoot, fetch_snapshot, read_root, read_root_or_none
from ebooklet_tx.timestamps import now_us, timestamp_us

MAX_LOOKS = 50
READERS = 8

_log = logging.getLogger("ebooklet_tx")


@dataclass(frozen=True, slots=True, repr=False)
class Snapshot(ShownAsTable):
    """A commit of the remote that is kept under a name.

    Attributes:
        name: The name.
        seq: The commit's number.
        commit_id: The commit's id.
        key_count: How many keys the database had then.
        committed_at_us: When the commit was made, in microseconds since 1970 UTC by its writer's clock.
        created_at_us: When the snapshot was made, likewise.
        writer: Who made the snapshot: host and process.
        message: What was said of it.
    """

    name: str
    seq: int
    commit_id: str
    key_count: int
    committed_at_us: int
    created_at_us: int
    writer: str
    message: str

    def to_dict(self) -> dict[str, Any]:
        """Returns the same as JSON types."""
        return asdict(self)


def check_name(name: object) -> str:
    """Returns the name of a snapshot.

    Raises:
        InvalidArgumentError: It is none.
    """
    if not isinstance(name, str) or not is_snapshot_name(name):
        raise InvalidArgumentError(
            f"{short(name)} can't be the name of a snapshot: give 1 to 64 letters, digits, dots, dashes and "
            "underscores, the first a letter or digit, not digits alone, not 32 hexadecimal digits, and not "
            "'deleted-...'"
        )
    return name


def create(remote: Remote, name: str, *, uuid: str, message: str = "") -> Snapshot:
    """Keeps the remote's newest commit under a name; three requests where no other writer commits meanwhile.

    Args:
        remote: The remote.
        name: The name, which no other snapshot may have.
        uuid: The identity that the database must have.
        message: What is said of it.

    Raises:
        RemoteMissingError: There is no database yet.
        UUIDMismatchError: Another database lies there.
        InvalidArgumentError: There is a snapshot of that name, or the name is none; nothing was changed.
        ContentionError: Commits came in between at every attempt; there is no snapshot.
        OfflineError: The store keeps failing; `listed` tells later whether it was made.
    """
    check_name(name)
    for number in range(MAX_LOOKS):
        fetched = read_root_or_none(remote)
        if fetched is None:
            raise RemoteMissingError(
                f"there is no database {remote.root_place} yet, of which a snapshot could be; push first"
            )
        _check_uuid(fetched, uuid, remote.root_place)
        note = SnapshotNote(name, message, now_us(), writer_name())
        kept = replace(fetched.manifest, snapshot=note)
        data = encode_root(kept, fetched.root.tail)
        _put(remote, name, data)
        if _is_still_the_root(remote, fetched):
            return _told(name, replace(fetched, root=replace(fetched.root, manifest=kept)))
        _take_back(remote, name, data)
        backoff(remote.policy, number)
    raise ContentionError(
        f"{MAX_LOOKS} commits of other writers came in between while the snapshot {name!r} of "
        f"{remote.root_place} was made; there is none, make it when there is less traffic"
    )


def read(remote: Remote, name: str, *, uuid: str | None = None) -> FetchedRoot:
    """Returns the root that a snapshot keeps, by one request.

    Raises:
        RemoteMissingError: There is no snapshot of that name.
        UUIDMismatchError: It is another database's.
        RemoteIntegrityError: It is damaged.
    """
    check_name(name)
    try:
        fetched = fetch_snapshot(remote, remote.names.snapshot(name))
    except ObjectMissingError as error:
        raise missing(remote, name) from error
    if uuid is not None:
        _check_uuid(fetched, uuid, f"the snapshot {name!r} of {remote.root_place}")
    return fetched


def missing(remote: Remote, name: str) -> RemoteMissingError:
    """Returns the error of a snapshot that is not there."""
    return RemoteMissingError(
        f"there is no snapshot {name!r} of {remote.root_place}; snapshots() lists those that there are",
        object_name=remote.names.snapshot(name),
    )


def listed(remote: Remote, *, uuid: str) -> list[Snapshot]:
    """Returns a database's snapshots, oldest first; of one that can't be read the log warns.

    Raises:
        ReadOnlyError: The remote can't be listed.
        OfflineError: It can't be reached.
    """
    found = list(list_snapshots(remote).items())
    with Workers(min(remote.threads, READERS, len(found))) as workers:
        told = workers.map(lambda each: _read_listed(remote, *each, uuid=uuid), found)
        there = [each for each in told if each is not None]
    return sorted(there, key=lambda each: (each.created_at_us, each.name))


def _read_listed(remote: Remote, relative: str, there: StoredObject, *, uuid: str) -> Snapshot | None:
    name = relative.removeprefix(SNAPSHOT)
    try:
        fetched = fetch_snapshot(remote, there.key)
    except ObjectMissingError:
        # Deleted since it was listed.
        return None
    except (RemoteIntegrityError, UnsupportedFormatError) as error:
        _log.warning("a snapshot is left out: %s", error)
        return None
    return _told(name, fetched, there) if fetched.manifest.uuid == uuid else None


def _told(name: str, fetched: FetchedRoot, there: StoredObject | None = None) -> Snapshot:
    """Returns what a snapshot says; a plain copy of a root has no note of itself."""
    manifest = fetched.manifest
    modified = None if there is None else there.last_modified
    created_at_us = 0 if modified is None else timestamp_us(modified)
    note = manifest.snapshot or SnapshotNote(name, "", created_at_us, "")
    return Snapshot(
        name=name,
        seq=manifest.seq,
        commit_id=manifest.commit_id,
        key_count=manifest.key_count,
        committed_at_us=manifest.committed_at_us,
        created_at_us=note.created_at_us,
        writer=note.writer,
        message=note.message,
    )


def delete(remote: Remote, name: str) -> None:
    """Deletes a snapshot; what it alone named is garbage from now on, which `collect` deletes in its time.

    Raises:
        RemoteMissingError: There is no snapshot of that name.
        OfflineError: The store keeps failing; call it again.
    """
    key = remote.names.snapshot(check_name(name))
    try:
        remote.store.head(key)
    except ObjectMissingError as error:
        raise missing(remote, name) from error
    # First: `collect` goes by this time, not by that of the root, which may have stood for long.
    remote.store.put(remote.names.object(RELEASED), b'{"format": 1}')
    remote.store.delete(key)


# -- writing ---------------------------------------------------------------------------------------


def _put(remote: Remote, name: str, data: bytes) -> None:
    """Puts a snapshot where there is none of the name; whatever is not a plain success is read back."""
    key = remote.names.snapshot(name)
    for attempt in remote.policy.attempts_for("snapshot", location=remote.store.location, key=key):
        with attempt:
            if not remote.mode.swaps and _is_there(remote, name, data):
                # Weaker: two that look at the same moment both find nothing, and the later one stays.
                return
            failure: Error | None = None
            try:
                remote.store.put(key, data, if_absent=remote.mode.swaps)
            except (PreconditionFailedError, TransientStoreError, OfflineError) as error:
                failure = error
            if failure is None or _is_there(remote, name, data):
                return
            if isinstance(failure, OfflineError):
                raise failure
            raise TransientStoreError(f"the snapshot {name!r} did not arrive at {remote.root_place}: {failure}")


def _is_there(remote: Remote, name: str, data: bytes) -> bool:
    """Whether a snapshot of ours has arrived.

    Raises:
        InvalidArgumentError: Another of the same name is there.
    """
    there = _read_or_none(remote, name)
    if there is None:
        return False
    if there.data == data:
        return True
    raise InvalidArgumentError(
        f"there is a snapshot {name!r} of {remote.root_place} already, and it was left as it is; take another "
        "name, or delete it first"
    )


def _read_or_none(remote: Remote, name: str) -> Blob | None:
    try:
        return remote.store.get(remote.names.snapshot(name), max_bytes=MAX_ROOT_BYTES)
    except ObjectMissingError:
        return None


def _is_still_the_root(remote: Remote, fetched: FetchedRoot) -> bool:
    try:
        again = read_root(remote, if_none_match=fetched.etag)
    except ObjectMissingError:
        return False
    return again is None or again.manifest.commit_id == fetched.manifest.commit_id


def _take_back(remote: Remote, name: str, data: bytes) -> None:
    there = _read_or_none(remote, name)
    if there is not None and there.data == data:
        remote.store.delete(remote.names.snapshot(name))


def _check_uuid(fetched: FetchedRoot, uuid: str, place: str) -> None:
    if fetched.manifest.uuid != uuid:
        raise UUIDMismatchError(
            f"{place} is of the database {fetched.manifest.uuid}, and this one is {uuid}; nothing was changed"
        )


__all__ = ["Snapshot", "check_name", "create", "delete", "listed", "missing", "read"]
