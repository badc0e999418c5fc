"""Opening: from a place and a flag to a session.

Owns no state. The invariant: when opening raises, nothing was changed that the flag did not ask
for, and no lock, descriptor or connection is left behind.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ebooklet_tx.connection import HTTPConnection, parse_connection
from ebooklet_tx.database import Database
from ebooklet_tx.errors import (
    InvalidArgumentError,
    LocalIntegrityError,
    LocalMissingError,
    ObjectMissingError,
    ReadOnlyError,
    RemoteMissingError,
    UUIDMismatchError,
)
from ebooklet_tx.local.serializers import CUSTOM, resolve, stored_name
from ebooklet_tx.local.store import LocalStore
from ebooklet_tx.local.value_file import model_header
from ebooklet_tx.remote.retry import RetryPolicy
from ebooklet_tx.remote.root import Manifest
from ebooklet_tx.sync.locking import (
    begin_locked,
    find_out,
    lock_session,
    new_lock,
    settle_conditions,
)
from ebooklet_tx.sync.place import StoreWrapper, remote_at
from ebooklet_tx.sync.pull import (
    FetchedRoot,
    mark_replacing,
    note_connection,
    pull,
    read_root,
    take_in_root,
)
from ebooklet_tx.sync.session import Remote, Session, WriterLock, read_base

READER_WAIT_SECONDS = 0.5


def open(
    remote_conn: Any,
    file_path: str | os.PathLike[str],
    flag: str = "r",
    value_serializer: Any = None,
    n_buckets: int = 12007,
    buffer_size: int = 2**22,
    *,
    lock: str | None = "exclusive",
    lock_timeout: float = 300.0,
    force_lock: bool = False,
    conditional_writes: bool | str = "auto",
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
        lock: "exclusive" keeps other writers of the remote out from open to close; None lets any
            number of writers work, and conflicts come up when they push.
        lock_timeout: Seconds to wait for another writer, of the local file or of the remote.
        force_lock: Take the remote's lock whoever holds it; his next push raises `LockLostError`.
        conditional_writes: Whether the store's conditional writes work: "auto" tries them once for each
            endpoint and bucket that is not AWS itself, True and False say so.
        retry: How failing requests are tried again; None for the connection's own.

    Raises:
        RemoteMissingError: There is no remote database, and the flag does not make one.
        UnsupportedFormatError: Something else lies at the place or the path.
        UUIDMismatchError: The local file belongs to another database.
        LockTimeoutError: Another session kept the local file, or another writer the remote.
        OfflineError: The remote can't be reached.
        RemoteAccessError: The store refuses.
    """
    connection = parse_connection(remote_conn)
    if flag not in ("r", "w", "c", "n"):
        raise InvalidArgumentError(f"unknown flag {flag!r}; give 'r', 'w', 'c' or 'n'")
    if flag != "r" and (isinstance(connection, HTTPConnection) or getattr(connection, "bucket", "") is None):
        raise ReadOnlyError(f"{connection.url} can only be read; open it with flag 'r'")
    if lock not in ("exclusive", None):
        raise InvalidArgumentError(f"unknown lock {lock!r}; give 'exclusive' or None")
    serializer_given = resolve(value_serializer)
    path = _local_path(file_path)
    settings = _Settings(value_serializer, n_buckets, buffer_size, lock_timeout, lock, force_lock)
    remote = remote_at(
        connection,
        retry=retry,
        for_writing=flag != "r",
        wrap=_wrap_store,
        conditional_writes=conditional_writes,
    )
    try:
        opener = {"r": _open_reading, "w": _open_writing, "c": _open_creating, "n": _open_anew}[flag]
        session = opener(remote, path, settings)
        try:
            # Booklet's name of the stored serializer wins; a class is needed only where one was used.
            given = value_serializer if serializer_given.name == CUSTOM else None
            serializer = session.local.serializer(given)
            session.decode, session.encode = serializer.loads_any, serializer.dumps_any
            if session.local.writable:
                note_connection(session.journal, json.dumps(connection.to_dict(), sort_keys=True))
        except BaseException:
            _give_up(session)
            raise
    except BaseException:
        remote.store.close()
        raise
    return Database(session, serializer, connection, buffer_size=buffer_size)


def _local_path(file_path: Any) -> Path:
    try:
        path = os.fspath(file_path)
    except TypeError:
        path = None
    if not isinstance(path, str) or not path or "\0" in path:
        raise InvalidArgumentError(f"file_path must be the path of a local file, not {file_path!r}")
    return Path(path).absolute()


class _Settings:
    """What a new local file is made with, and how long to wait for an old one."""

    def __init__(
        self,
        value_serializer: Any,
        n_buckets: int,
        buffer_bytes: int,
        lock_timeout_seconds: float,
        lock: str | None,
        force_lock: bool,
    ) -> None:
        if isinstance(n_buckets, bool) or not isinstance(n_buckets, int) or not 1 <= n_buckets <= 2**28:
            raise InvalidArgumentError(f"n_buckets must be an int from 1 to {2**28}, not {n_buckets!r}")
        if isinstance(buffer_bytes, bool) or not isinstance(buffer_bytes, int) or buffer_bytes < 0:
            raise InvalidArgumentError(f"buffer_size must be a number of bytes, not {buffer_bytes!r}")
        timeout = lock_timeout_seconds
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0:
            raise InvalidArgumentError(f"lock_timeout must be a number of seconds, not {timeout!r}")
        self.value_serializer = value_serializer
        self.n_buckets = n_buckets
        self.buffer_bytes = buffer_bytes
        self.lock_timeout_seconds = lock_timeout_seconds
        self.lock = lock
        self.force_lock = force_lock
        self.reading = False

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
    except (LocalMissingError, LocalIntegrityError):
        # A pair that has to be made, or made sound, is a writer's work first.
        return _open_copy_to_read(remote, path, settings)
    try:
        return _started(_session(local, remote), _pull_if_changed)
    except UUIDMismatchError:
        # Raised once more unless the pair holds nothing, and so becomes the remote's copy.
        return _open_copy_to_read(remote, path, settings)


def _open_copy_to_read(remote: Remote, path: Path, settings: _Settings) -> Session:
    settings.lock, settings.reading = None, True
    session = _open_copy(remote, path, settings, must_exist=True)
    session.local.to_reader()
    return session


def _pull_if_changed(session: Session) -> None:
    """Asks without the lock; takes it only when there is something to take in."""
    if session.journal.get_meta("replace_remote"):
        return
    base = read_base(session.journal)
    try:
        fetched = read_root(session.remote, if_none_match=base.etag)
    except ObjectMissingError as error:
        raise _missing(session.remote) from error
    if fetched is not None:
        session.local.try_maintain(lambda: take_in_root(session, fetched, since=base), READER_WAIT_SECONDS)


def _open_writing(remote: Remote, path: Path, settings: _Settings) -> Session:
    return _open_copy(remote, path, settings, must_exist=True)


def _open_creating(remote: Remote, path: Path, settings: _Settings) -> Session:
    return _open_copy(remote, path, settings, must_exist=False)


def _open_anew(remote: Remote, path: Path, settings: _Settings) -> Session:
    """Starts an empty pair, after the lock is taken: a wait that fails must not cost the old one."""
    find_out(remote, None)
    lock = None
    if settings.lock is not None:
        lock = new_lock(remote)
        lock.acquire(settings.lock_timeout_seconds, force=settings.force_lock)
    try:
        session = _session(settings.local(path, create=True, start_anew=True), remote, lock)
    except BaseException:
        if lock is not None:
            lock.release()
        raise

    def begin(session: Session) -> None:
        settle_conditions(session)
        mark_replacing(session.journal)

    return _started(session, begin)


def _open_copy(remote: Remote, path: Path, settings: _Settings, *, must_exist: bool) -> Session:
    """Opens a pair for writing, makes it from the remote, or makes a new one."""
    if path.exists():
        session = _session(settings.local(path, create=False), remote)
        return _started(session, lambda session: _begin_writing(session, settings, known=None))
    return _make_copy(remote, path, settings, must_exist=must_exist)


def _make_copy(remote: Remote, path: Path, settings: _Settings, *, must_exist: bool) -> Session:
    fetched: FetchedRoot | None = None
    try:
        fetched = read_root(remote)
    except ObjectMissingError as error:
        if must_exist:
            raise _missing(remote) from error
    header = settings.header_for(fetched.manifest) if fetched is not None else None
    session = _session(settings.local(path, create=True, header=header), remote)
    return _started(session, lambda session: _begin_writing(session, settings, known=fetched))


def _pull_or_become(session: Session, settings: _Settings) -> None:
    """Pulls; a pair whose making was cut short, and which holds nothing, becomes the remote's copy."""
    try:
        pull(session)
    except UUIDMismatchError:
        fetched = read_root(session.remote) if session.local.is_unused() else None
        if fetched is None:
            raise
        session.local.become(settings.header_for(fetched.manifest))
        take_in_root(session, fetched)


def _begin_writing(session: Session, settings: _Settings, known: FetchedRoot | None) -> None:
    """Takes the lock, then brings the journal to the newest commit, fencing a lost holder off."""
    if settings.lock is not None:
        settle_conditions(session)
        lock_session(session, settings.lock_timeout_seconds, force=settings.force_lock)
    elif not settings.reading:
        settle_conditions(session)
    if known is not None:
        take_in_root(session, known)
    if known is None or session.lock is not None:
        _pull_or_become(session, settings)
    begin_locked(session)


def _session(local: LocalStore, remote: Remote, lock: WriterLock | None = None) -> Session:
    """Joins the halves; what the manifest of a commit says is known before the first one is made."""
    try:
        name = stored_name(local.file.header.value_serializer_code, str(local.path))
    except BaseException:
        local.abandon()
        raise
    return Session(local, remote, serializer_name=name, lock=lock)


def _started(session: Session, begin: Callable[[Session], None]) -> Session:
    try:
        begin(session)
    except BaseException:
        session.local.undo_creation()
        _give_up(session)
        raise
    return session


def _give_up(session: Session) -> None:
    session.local.abandon()
    if session.lock is not None:
        session.lock.release()


def _missing(remote: Remote) -> RemoteMissingError:
    return RemoteMissingError(
        f"there is no database {remote.root_place}; check the place, or make one with flag 'c'"
    )
