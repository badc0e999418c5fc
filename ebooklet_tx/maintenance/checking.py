"""Looking after a remote: is everything there and sound, and what may be deleted.

The invariant: `verify` without a repair, `fsck` without `delete_orphans`, and a dry run of `collect` write
nothing; what is deleted was garbage for the whole grace period (see `collect`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Literal

from ebooklet_tx.connection import RemoteConn, parse_connection
from ebooklet_tx.errors import Error, InvalidArgumentError, ReadOnlyError
from ebooklet_tx.local.files.own_files import is_file, local_path
from ebooklet_tx.local.journal.entries import find_entry
from ebooklet_tx.local.journal.journal import Journal, journal_path
from ebooklet_tx.local.journal.staged import held_value
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.maintenance import collect as collecting
from ebooklet_tx.maintenance import verify as verifying
from ebooklet_tx.maintenance.check_reports import CollectReport, FsckReport, VerifyReport
from ebooklet_tx.maintenance.mend.remote import mend_remote
from ebooklet_tx.progress import ProgressOption, telling
from ebooklet_tx.records import digest_of
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.sync.connecting import only_readable, remote_at
from ebooklet_tx.sync.locking import learn_mode, reconcile_mode
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.tracebacks import at_edge


@at_edge
def collect(
    remote_conn: RemoteConn,
    *,
    grace_seconds: float = collecting.GRACE_SECONDS,
    dry_run: bool = False,
    lock: Literal["exclusive"] | None = "exclusive",
    lock_timeout: float = 60.0,
    conditional_writes: bool | Literal["auto"] = "auto",
    retry: RetryPolicy | None = None,
    progress: ProgressOption = None,
) -> CollectReport:
    """Deletes objects of a remote that no root, snapshot or live fork names any more.

    An object goes once it is older than the grace period and is known to have been garbage for that long:
    because the root has stood for so long, or because an earlier collect has seen it. So on a remote that is
    written to all the time, the first collect only notes what it finds, and one a day later deletes it. Can
    be killed anywhere and run again, beside readers and writers.

    Args:
        remote_conn: The remote, as `open` takes it.
        grace_seconds: For how long garbage is kept, by the store's own clock, for readers of an older commit
            and for interrupted pushes. Under 12 hours only while nobody pushes.
        dry_run: Only tell what would go. Nothing is written, so ages are told by this machine's clock.
        lock: "exclusive" holds the remote's lock meanwhile; None goes without.
        lock_timeout: Seconds to wait for another writer's lock.
        conditional_writes: As in `open`.
        retry: As in `open`.
        progress: As in `open`.

    Raises:
        RemoteMissingError: There is no database.
        RemoteIntegrityError: Root, index, a snapshot or a fork is damaged; nothing was deleted.
        ReadOnlyError: The remote can only be read.
        LockTimeoutError: Another writer kept the lock.
        LockLostError: Another writer took the lock over; what was deleted was garbage.
        OfflineError: The store can't be reached; run it again.

    Examples:
        >>> ebooklet_tx.collect(remote, dry_run=True).deleted.objects
        0
    """
    if lock not in ("exclusive", None):
        raise InvalidArgumentError(f"unknown lock {lock!r}; give 'exclusive' or None")
    with telling(progress), _bucket(remote_conn, not dry_run, conditional_writes, retry) as remote:
        return collecting.collect(
            remote,
            grace_seconds=grace_seconds,
            dry_run=dry_run,
            locked=lock is not None,
            lock_timeout_seconds=lock_timeout,
        )


@at_edge
def fsck(
    remote_conn: RemoteConn,
    delete_orphans: bool = False,
    min_age: timedelta = timedelta(hours=24),
    check_objects: bool = False,
    lock_timeout: float = 60,
    *,
    conditional_writes: bool | Literal["auto"] = "auto",
    retry: RetryPolicy | None = None,
) -> FsckReport:
    """Holds the objects of a remote against what its root names.

    Args:
        remote_conn: The remote, as `open` takes it.
        delete_orphans: Delete what no root names, as `collect` does, and what a deletion of the database that
            was cut short has left.
        min_age: For how long it must have been so.
        check_objects: Compare the objects' sizes with the index as well, and the digests of its index objects.
        lock_timeout: Seconds to wait for another writer's lock; only a deletion takes it.
        conditional_writes: As in `open`.
        retry: As in `open`.

    Raises:
        RemoteIntegrityError: The root is damaged; or something was to be deleted, and the index is.
        UnsupportedFormatError: Something else lies in the root's place.
        ReadOnlyError: The remote can only be read, and so not be listed.
        LockTimeoutError: Another writer kept the lock.
        OfflineError: The remote can't be reached.

    Examples:
        >>> ebooklet_tx.fsck(remote).claimed_but_missing
        []
    """
    if min_age < timedelta(0):
        raise InvalidArgumentError(f"min_age must not be negative, but is {min_age}")
    with _bucket(remote_conn, delete_orphans, conditional_writes, retry) as remote:
        return verifying.fsck(
            remote,
            delete_orphans=delete_orphans,
            min_age=min_age,
            check_objects=check_objects,
            lock_timeout_seconds=lock_timeout,
        )


@at_edge
def verify(
    remote_conn: RemoteConn,
    *,
    read_values: bool = False,
    file_path: str | os.PathLike[str] | None = None,
    retry: RetryPolicy | None = None,
    repair: bool = False,
    lock_timeout: float = 10.0,
    progress: ProgressOption = None,
) -> VerifyReport:
    """Reads a remote's root, its whole index and its listing, and tells what is not as it should be.

    A repair writes lost and damaged objects anew under their own names, each on the condition that it still is
    what was seen: packs from the values on this machine, objects of the index and history from the pieces that it
    keeps, a damaged root as this machine knew it last. It makes no commit and touches nothing that is sound.
    What was pending stays so. It can be killed anywhere and run again, here and on other machines: each adds the
    values that it has.

    Args:
        remote_conn: The remote, as `open` takes it; one that can only be read will do.
        read_values: Read every value, too, and hold it to its digest: as many bytes as the database has.
        file_path: A local file of the database: for each damaged value it is told whether a sound copy is
            there.
        retry: As in `open`.
        repair: Write what was lost or damaged from `file_path`, which is locked meanwhile. Altered values are
            found by `read_values` alone.
        lock_timeout: Seconds to wait for a session that has the file open for writing.
        progress: As in `open`.

    Returns:
        What is damaged; with `repair` what is left, and what was mended.

    Raises:
        RemoteMissingError: There is no database.
        UnsupportedFormatError: Something else lies there.
        OfflineError: The remote can't be reached.
        InvalidArgumentError: A repair without a file.
        ReadOnlyError: A repair of a remote that can only be read.
        LockTimeoutError: Another session has the file open for writing.

    Examples:
        >>> ebooklet_tx.verify(remote, read_values=True).damage
        ()
    """
    if repair:
        with telling(progress):
            return _mend(remote_conn, file_path, read_values=read_values, retry=retry, lock_timeout=lock_timeout)
    remote = remote_at(parse_connection(remote_conn), retry=retry)
    with contextlib.closing(remote.store), telling(progress), _copies(file_path) as find_copy:
        return verifying.verify(remote, read_values=read_values, find_copy=find_copy)


def _mend(
    remote_conn: RemoteConn,
    file_path: str | os.PathLike[str] | None,
    *,
    read_values: bool,
    retry: RetryPolicy | None,
    lock_timeout: float,
) -> VerifyReport:
    if file_path is None:
        raise InvalidArgumentError("a repair needs file_path: the local file that it takes values from")
    connection = parse_connection(remote_conn)
    if only_readable(connection):
        raise ReadOnlyError(f"{connection.url} can only be read; name its bucket or folder to repair it")
    local = LocalStore.open_writer(local_path(file_path), create=False, timeout_seconds=lock_timeout)
    try:
        remote = remote_at(connection, retry=retry, for_writing=True)
        with contextlib.closing(remote.store):
            reconcile_mode(local.journal, remote)
            report = mend_remote(local, remote, read_values=read_values)
    except BaseException:
        local.abandon()
        raise
    local.close()
    return report


@contextlib.contextmanager
def _bucket(
    remote_conn: RemoteConn,
    for_writing: bool,
    conditional_writes: bool | str,
    retry: RetryPolicy | None,
) -> Iterator[Remote]:
    """Opens a remote that can be listed; where it is to be written to, how its conditions work is found out."""
    connection = parse_connection(remote_conn)
    if only_readable(connection):
        raise ReadOnlyError(
            f"{connection.url} can only be read, and so not be listed; name its bucket or folder, or verify() it"
        )
    remote = remote_at(connection, retry=retry, for_writing=True, conditional_writes=conditional_writes)
    with contextlib.closing(remote.store):
        if for_writing:
            learn_mode(remote)
        yield remote


@contextlib.contextmanager
def _copies(file_path: str | os.PathLike[str] | None) -> Iterator[Callable[[str, bytes], str | None]]:
    """Gives a function that tells where on this machine a sound copy of a value lies."""
    if file_path is None:
        yield lambda _key, _digest: None
        return
    path = local_path(file_path)
    with contextlib.ExitStack() as stack:
        try:
            journal = Journal.open(journal_path(path), create=False)
        except Error:
            # What this machine can't say of itself is for `recover`; the remote is verified all the same.
            yield lambda _key, _digest: None
            return
        stack.callback(journal.close)
        yield lambda key, digest: _copy_in(path, journal, key, digest)


def _copy_in(path: Path, journal: Journal, key: str, digest: bytes) -> str | None:
    held = held_value(journal, key, digest)
    if held is not None and digest_of(held) == digest:
        return str(journal.path)
    entry = find_entry(journal, key)
    if entry is None or entry.local_digest != digest or not is_file(path):
        return None
    try:
        with path.open("rb") as file:
            file.seek(entry.local_offset_bytes or 0)
            value = file.read(entry.local_length_bytes or 0)
    except OSError:
        return None
    return str(path) if digest_of(value) == digest else None


__all__ = ["collect", "fsck", "verify"]
