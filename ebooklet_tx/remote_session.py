"""A session on a remote alone: what its root says, and what can be done to it without a local file.

Owns a store's connections and the root as it was last read. The invariant: opening sends nothing; one GET of the
root answers every question until `delete_remote` changes the remote; a value is checked against its digest
before it is returned.
"""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from ebooklet_tx.connection import Connection, RemoteConn, parse_connection
from ebooklet_tx.errors import (
    InvalidArgumentError,
    NotFoundInRangeError,
    ObjectMissingError,
    ReadOnlyError,
    RemoteIntegrityError,
    SessionClosedError,
)
from ebooklet_tx.html_tables import counted
from ebooklet_tx.index.commit_index import RemoteIndex
from ebooklet_tx.index.pieces import NoCache
from ebooklet_tx.maintenance.break_locks import break_locks
from ebooklet_tx.maintenance.copy import CopyReport, copy_remote
from ebooklet_tx.maintenance.erase import EraseReport, erase
from ebooklet_tx.progress import ProgressOption, telling
from ebooklet_tx.records import METADATA_KEY, IndexRow, digest_of
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.sync.connecting import only_readable, remote_at
from ebooklet_tx.sync.locking import learn_mode
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.root_object import FetchedRoot, read_root_or_none
from ebooklet_tx.timestamps import Timestamp, as_datetime, timestamp_us
from ebooklet_tx.tracebacks import at_edge
from ebooklet_tx.unshared import Unshared
from ebooklet_tx.values.serializers import decode_metadata

_TYPE_NAMES = {"booklet": "EVariableLengthValue", "group": "RemoteConnGroup"}
"""What programs that were written for ebooklet compare a database's type with."""


class RemoteSession(Unshared):
    """A database in its remote, without any local file; what a connection's `open` returns.

    True when there is a database. Where there is none the getters return None.

    Examples:
        >>> with ebooklet_tx.connect(remote).open() as session:
        ...     print(bool(session), session.get_type())
        True EVariableLengthValue
    """

    def __init__(
        self,
        connection: Connection,
        flag: str = "r",
        *,
        lock_timeout: float = 300.0,
        conditional_writes: bool | Literal["auto"] = "auto",
        retry: RetryPolicy | None = None,
    ) -> None:
        """Prepares the session; nothing is sent.

        Args:
            connection: The address.
            flag: `r` reads; `w`, `c` and `n` may delete the database and break its locks.
            lock_timeout: Seconds to wait for another writer's lock when deleting or copying.
            conditional_writes: As in `open`.
            retry: How failing requests are tried again; None for the connection's own.

        Raises:
            InvalidArgumentError: The flag is unknown.
            ReadOnlyError: The address can only be read, and the flag is not `r`.
        """
        if flag not in ("r", "w", "c", "n"):
            raise InvalidArgumentError(f"unknown flag {flag!r}; give 'r', 'w', 'c' or 'n'")
        if flag != "r" and only_readable(connection):
            raise ReadOnlyError(f"{connection.url} can only be read: the flag must be r")
        self._connection = connection
        self._flag = flag
        self._lock_timeout_seconds = lock_timeout
        self._conditional_writes = conditional_writes
        self._retry = retry
        self._root: FetchedRoot | None = None
        self._is_read = False
        self._closed = False
        self._remote = remote_at(
            connection,
            retry=retry,
            for_writing=flag != "r",
            conditional_writes=conditional_writes,
        )

    # -- what the root says ----------------------------------------------------------------

    @property
    def initialized(self) -> bool:
        """Whether there is a database."""
        return self._read_root() is not None

    def __bool__(self) -> bool:
        return self.initialized

    @property
    def writable(self) -> bool:
        """Whether this session may delete the database; the store may still refuse."""
        return self._usable().store.writable and self._flag != "r"

    @at_edge
    def get_uuid(self) -> UUID | None:
        """Returns the database's identity.

        Examples:
            >>> with ebooklet_tx.connect(remote).open() as session:
            ...     session.get_uuid().hex == db.uuid
            True
        """
        root = self._read_root()
        return None if root is None else UUID(hex=root.manifest.uuid)

    @at_edge
    def get_type(self) -> str | None:
        """Returns `EVariableLengthValue`, or `RemoteConnGroup` for a database of databases.

        Examples:
            >>> with ebooklet_tx.connect(remote).open() as session:
            ...     session.get_type()
            'EVariableLengthValue'
        """
        root = self._read_root()
        return None if root is None else _TYPE_NAMES[root.manifest.type]

    @at_edge
    def get_timestamp(self) -> int | None:
        """Returns when the last commit was made, in microseconds since 1970 UTC by its writer's clock.

        Examples:
            >>> with ebooklet_tx.connect(remote).open() as session:
            ...     session.get_timestamp() > 1_700_000_000_000_000
            True
        """
        root = self._read_root()
        return None if root is None else root.manifest.committed_at_us

    @at_edge
    def get_user_metadata(self) -> Any:
        """Returns the database's metadata; None also where none was set.

        Raises:
            RemoteIntegrityError: It is damaged, or its object is missing.

        Examples:
            >>> with ebooklet_tx.connect(remote).open() as session:
            ...     print(session.get_user_metadata())
            None
        """
        root = self._read_root()
        if root is None:
            return None
        try:
            value = _metadata_value(self._usable(), root)
        except RemoteIntegrityError:
            # An object may have been collected since the root was read: a newer one does not name it.
            self._is_read = False
            newer = self._read_root()
            if newer is not None and newer.etag == root.etag:
                raise
            value = None if newer is None else _metadata_value(self._usable(), newer)
        return None if value is None else decode_metadata(value)

    @property
    def uuid(self) -> UUID | None:
        """The database's identity, as `get_uuid` tells it."""
        return self.get_uuid()

    @property
    def type(self) -> str | None:
        """The database's type, as `get_type` tells it."""
        return self.get_type()

    @property
    def timestamp(self) -> int | None:
        """When the last commit was made, as `get_timestamp` tells it."""
        return self.get_timestamp()

    def _read_root(self) -> FetchedRoot | None:
        remote = self._usable()
        if not self._is_read:
            self._root = read_root_or_none(remote)
            self._is_read = True
        return self._root

    # -- what can be done to it ------------------------------------------------------------

    @at_edge
    def delete_remote(self) -> EraseReport:
        """Deletes the database with everything that is its own, under its lock; see `EraseReport`.

        Only local files and copies can restore it. Does nothing where there is no database; after a failure,
        another call finishes.

        Raises:
            ReadOnlyError: The session is open for reading.
            UnsupportedFormatError: Something else lies at the address; nothing was deleted.
            LockTimeoutError: Another writer kept the lock; nothing was deleted.
            OfflineError: The store keeps failing; call it again.

        Examples:
            >>> with ebooklet_tx.connect(remote).open("w") as session:
            ...     session.delete_remote().deleted_objects > 0
            True
        """
        remote = self._writing()
        self._is_read = False
        return erase(remote, lock_timeout_seconds=self._lock_timeout_seconds)

    @at_edge
    def copy_remote(self, remote_conn: RemoteConn, *, progress: ProgressOption = None) -> CopyReport:
        """Copies the database to another address, which must hold none; see `CopyReport`.

        Args:
            remote_conn: The target, as `open` takes it.
            progress: As in `Change.push`.

        Raises:
            RemoteMissingError: There is no database here.
            InvalidArgumentError: There is one at the target; it is intact.
            ReadOnlyError: The target can only be read.
            OfflineError: A store keeps failing; call it again to continue with what has arrived.

        Examples:
            >>> with ebooklet_tx.connect(remote).open() as session:
            ...     session.copy_remote(remote + "-copy").key_count
            2
        """
        source = self._usable()
        connection = parse_connection(remote_conn)
        if only_readable(connection):
            raise ReadOnlyError(
                f"{connection.url} can only be read; copy to a bucket or a folder", operation="copy_remote"
            )
        target = remote_at(
            connection, retry=self._retry, for_writing=True, conditional_writes=self._conditional_writes
        )
        try:
            with telling(progress):
                return copy_remote(source, target, lock_timeout_seconds=self._lock_timeout_seconds)
        finally:
            target.store.close()

    @at_edge
    def break_other_locks(self, timestamp: Timestamp = None) -> list[dict[str, Any]]:
        """Breaks the locks of other writers, even of running ones, and raises the root's fence.

        The next push of a running holder raises `LockLostError`, with every change still pending.

        Args:
            timestamp: Break only locks that were taken before that time, by the store's clock: int
                microseconds, an ISO 8601 str or a datetime with a zone. None for all.

        Returns:
            A dict for each broken lock: `owner`, `host`, `pid`, and `timestamp`, when it was taken, as a
            datetime in UTC.

        Raises:
            InvalidArgumentError: The timestamp is invalid; nothing was broken.
            LockTimeoutError: The lock kept changing hands.
            OfflineError: The store keeps failing.

        Examples:
            >>> with ebooklet_tx.connect(remote).open("w") as session:
            ...     session.break_other_locks()
            []
        """
        remote = self._writing()
        before = None if timestamp is None else as_datetime(timestamp_us(timestamp))
        learn_mode(remote)
        return [
            {
                "owner": lock.owner,
                "host": lock.host,
                "pid": lock.pid,
                "timestamp": as_datetime(lock.taken_at_us),
            }
            for lock in break_locks(remote, before=before)
        ]

    # -- the end ---------------------------------------------------------------------------

    def close(self) -> None:
        """Closes the store's connections; twice is no error.

        Examples:
            >>> session = ebooklet_tx.connect(remote).open()
            >>> session.close()
        """
        if not self._closed:
            self._closed = True
            self._remote.store.close()

    def __enter__(self) -> RemoteSession:
        self._usable()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "writable" if self._flag != "r" else "read-only"
        return f"<ebooklet_tx remote session {self._connection.url!r}, {state}{self._root_in_words()}>"

    def _root_in_words(self) -> str:
        """Returns what the root says, where it was read; nothing is asked for it."""
        if self._root is not None:
            manifest = self._root.manifest
            return f": {counted(manifest.key_count, 'key')}, commit {manifest.seq}"
        return ": no database" if self._is_read else ""

    def _usable(self) -> Remote:
        if self._closed:
            raise SessionClosedError(f"the session on {self._connection.url} was closed; open it again")
        return self._remote

    def _writing(self) -> Remote:
        remote = self._usable()
        if self._flag == "r":
            raise ReadOnlyError(f"{self._connection.url} is open for reading; open it with flag 'w'")
        return remote


def _metadata_value(remote: Remote, root: FetchedRoot) -> bytes | None:
    """Returns the newest encoded metadata that a root's index has; None where there is none."""
    row = _metadata_row(remote, root)
    if row is None or row.digest is None:
        return None
    if row.value is not None:
        # Checked with its segment.
        return row.value
    key = remote.names.object(row.object_name or "")
    try:
        value = remote.store.get_range(key, row.offset_bytes or 0, row.length_bytes or 0)
    except (ObjectMissingError, NotFoundInRangeError) as error:
        raise RemoteIntegrityError(
            f"the metadata of {remote.root_place} can't be read although the root names its object: {error}",
            key=METADATA_KEY,
            object_name=key,
        ) from error
    if digest_of(value) != row.digest:
        raise RemoteIntegrityError(
            f"the metadata of {remote.root_place} in {key!r} is damaged: its digest differs from the index's; "
            "set the metadata again and push, or restore the object from a backup",
            key=METADATA_KEY,
            object_name=key,
        )
    return value


def _metadata_row(remote: Remote, root: FetchedRoot) -> IndexRow | None:
    """Looks the metadata up in the root's index."""
    index = RemoteIndex(remote.store, remote.names, NoCache(), threads=remote.threads)
    view = index.of(root.root, etag=root.etag, size_bytes=len(root.data))
    try:
        found = view.lookup([METADATA_KEY])
    except ObjectMissingError as error:
        raise RemoteIntegrityError(
            f"the metadata of {remote.root_place} can't be read, as a part of the index is missing although the "
            f"root names it: {error}; run `python -m ebooklet_tx verify` for what is affected",
            key=METADATA_KEY,
            object_name=error.object_name,
        ) from error
    return found[METADATA_KEY].row if METADATA_KEY in found else None


__all__ = ["RemoteSession"]
