"""Opening: from a place and a flag to a session.

Owns no state. The invariant: when opening raises, nothing was changed that the flag did not ask
for, and no lock, descriptor or connection is left behind.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from ebooklet_tx.connection import Connection, HTTPConnection, parse_connection
from ebooklet_tx.database import Database
from ebooklet_tx.errors import (
    InvalidArgumentError,
    LocalMissingError,
    ObjectMissingError,
    ReadOnlyError,
    RemoteMissingError,
)
from ebooklet_tx.local.serializers import CUSTOM, resolve
from ebooklet_tx.local.store import LocalStore
from ebooklet_tx.local.value_file import model_header
from ebooklet_tx.remote.names import ObjectNames
from ebooklet_tx.remote.open_store import open_store
from ebooklet_tx.remote.retry import RetryPolicy
from ebooklet_tx.remote.root import Manifest
from ebooklet_tx.remote.store import ObjectStore
from ebooklet_tx.sync.pull import (
    FetchedRoot,
    mark_replacing,
    note_connection,
    pull,
    read_root,
    take_in_root,
)
from ebooklet_tx.sync.session import Remote, Session

READER_WAIT_SECONDS = 0.5

StoreWrapper: TypeAlias = Callable[[ObjectStore], ObjectStore]


def open(
    remote_conn: Any,
    file_path: str | os.PathLike[str],
    flag: str = "r",
    value_serializer: Any = None,
    n_buckets: int = 12007,
    buffer_size: int = 2**22,
    *,
    lock_timeout: float = 300.0,
    retry: RetryPolicy | None = None,
    _wrap_store: StoreWrapper | None = None,
) -> Database:
    """Opens a database: a local Booklet file with its journal, and the remote that it syncs with.

    Args:
        remote_conn: An `S3Connection`; a URL (`s3://bucket/key`, `file:///folder/name`, or
            `http(s)://...` for reading only); or a dict of connection parameters.
        file_path: The local Booklet file; its journal lies beside it as `<file>.journal`.
        flag: `r` reads an existing database; `w` reads and writes it; `c` makes it if it is
            missing; `n` starts an empty one, and the next push replaces the remote by it.
        value_serializer: For a new database: None for bytes, one of booklet's names, or a class with
            `dumps` and `loads`. An existing database has its own; only a class must be given again.
        n_buckets: For a new database: hash buckets of the Booklet file.
        buffer_size: How many value bytes wait in memory before they are committed.
        lock_timeout: Seconds to wait for another session that has the file open for writing.
        retry: How failing requests are tried again; None for the connection's own.

    Raises:
        RemoteMissingError: There is no remote database, and the flag does not make one.
        UnsupportedFormatError: Something else lies at the place or the path.
        UUIDMismatchError: The local file belongs to another database.
        LockTimeoutError: Another session kept the local file.
        OfflineError: The remote can't be reached.
        RemoteAccessError: The store refuses.
    """
    connection = parse_connection(remote_conn)
    if flag not in ("r", "w", "c", "n"):
        raise InvalidArgumentError(f"unknown flag {flag!r}; give 'r', 'w', 'c' or 'n'")
    if flag != "r" and (isinstance(connection, HTTPConnection) or getattr(connection, "bucket", "") is None):
        raise ReadOnlyError(f"{connection.url} can only be read; open it with flag 'r'")
    serializer_given = resolve(value_serializer)
    path = Path(file_path).absolute()
    remote = remote_at(connection, retry=retry, for_writing=flag != "r", wrap=_wrap_store)
    settings = _Settings(value_serializer, n_buckets, buffer_size, lock_timeout)
    try:
        opener = {"r": _open_reading, "w": _open_writing, "c": _open_creating, "n": _open_anew}[flag]
        session = opener(remote, path, settings)
        try:
            # Booklet's name of the stored serializer wins; a class is needed only where one was used.
            given = value_serializer if serializer_given.name == CUSTOM else None
            serializer = session.local.serializer(given)
            session.serializer_name = serializer.name
            if session.local.writable:
                note_connection(session.journal, json.dumps(connection.to_dict(), sort_keys=True))
        except BaseException:
            session.local.abandon()
            raise
    except BaseException:
        remote.store.close()
        raise
    return Database(session, serializer, connection, buffer_size=buffer_size)


def remote_at(
    connection: Connection,
    *,
    retry: RetryPolicy | None = None,
    for_writing: bool = False,
    wrap: StoreWrapper | None = None,
) -> Remote:
    """Returns the remote at a place; nothing is sent yet.

    Args:
        connection: The place.
        retry: How failing requests are tried again; None for the connection's own.
        for_writing: Whether writes are meant.
        wrap: Puts a store of the caller's below the retries, to count requests or to fail them.
    """
    store = open_store(connection, policy=retry, for_writing=for_writing)
    if wrap is not None:
        store.inner = wrap(store.inner)
    return Remote(store, ObjectNames(connection.key), store.policy, threads=getattr(connection, "threads", 8))


class _Settings:
    """What a new local file is made with, and how long to wait for an old one."""

    def __init__(
        self, value_serializer: Any, n_buckets: int, buffer_bytes: int, lock_timeout_seconds: float
    ) -> None:
        if isinstance(n_buckets, bool) or not isinstance(n_buckets, int) or not 1 <= n_buckets <= 2**28:
            raise InvalidArgumentError(f"n_buckets must be an int from 1 to {2**28}, not {n_buckets!r}")
        self.value_serializer = value_serializer
        self.n_buckets = n_buckets
        self.buffer_bytes = buffer_bytes
        self.lock_timeout_seconds = lock_timeout_seconds

    def local(
        self, path: Path, *, create: bool, start_anew: bool = False, header: bytes | None = None
    ) -> LocalStore:
        return LocalStore.open_writer(
            path,
            create=create,
            start_anew=start_anew,
            value_serializer=self.value_serializer,
            n_buckets=self.n_buckets,
            buffer_bytes=self.buffer_bytes,
            timeout_seconds=self.lock_timeout_seconds,
            header=header,
        )

    def header_for(self, manifest: Manifest) -> bytes:
        """Returns the header of a local copy of a remote database."""
        name = manifest.value_serializer
        model = resolve(self.value_serializer if name == CUSTOM else name)
        if name == CUSTOM and model.name != CUSTOM:
            raise InvalidArgumentError(
                "the remote database was made with a serializer class; pass that class as value_serializer"
            )
        return model_header(bytes.fromhex(manifest.uuid), model.booklet_argument, manifest.n_buckets)


def _open_reading(remote: Remote, path: Path, settings: _Settings) -> Session:
    try:
        local = LocalStore.open_reader(path, buffer_bytes=settings.buffer_bytes)
    except LocalMissingError:
        session = _open_copy(remote, path, settings, must_exist=True)
        session.local.to_reader()
        return session
    return _started(Session(local, remote), _pull_if_changed)


def _pull_if_changed(session: Session) -> None:
    """Asks without the lock; takes it only when there is something to take in."""
    if session.journal.get_meta("replace_remote"):
        return
    try:
        fetched = read_root(session.remote, if_none_match=session.journal.get_meta("base_etag"))
    except ObjectMissingError as error:
        raise _missing(session.remote) from error
    if fetched is not None:
        session.local.try_maintain(lambda: take_in_root(session, fetched), READER_WAIT_SECONDS)


def _open_writing(remote: Remote, path: Path, settings: _Settings) -> Session:
    return _open_copy(remote, path, settings, must_exist=True)


def _open_creating(remote: Remote, path: Path, settings: _Settings) -> Session:
    return _open_copy(remote, path, settings, must_exist=False)


def _open_anew(remote: Remote, path: Path, settings: _Settings) -> Session:
    session = Session(settings.local(path, create=True, start_anew=True), remote)
    return _started(session, lambda s: mark_replacing(s.journal))


def _open_copy(remote: Remote, path: Path, settings: _Settings, *, must_exist: bool) -> Session:
    """Opens a pair for writing, makes it from the remote, or makes a new one."""
    if path.exists():
        session = Session(settings.local(path, create=False), remote)
        return _started(session, pull)
    fetched: FetchedRoot | None = None
    try:
        fetched = read_root(remote)
    except ObjectMissingError as error:
        if must_exist:
            raise _missing(remote) from error
    if fetched is None:
        return Session(settings.local(path, create=True), remote)
    found = fetched
    session = Session(settings.local(path, create=True, header=settings.header_for(found.manifest)), remote)
    return _started(session, lambda s: take_in_root(s, found))


def _started(session: Session, begin: Any) -> Session:
    try:
        begin(session)
    except BaseException:
        session.local.abandon()
        raise
    return session


def _missing(remote: Remote) -> RemoteMissingError:
    return RemoteMissingError(
        f"there is no database {remote.root_place}; check the place, or make one with flag 'c'"
    )
