"""Opening: from a place and a flag to a session.

Owns no state. The invariant: when opening raises, nothing was changed that the flag did not ask
for, and no lock, descriptor or connection is left behind.
"""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ebooklet_tx.connection import Connection, parse_connection
from ebooklet_tx.database import Database
from ebooklet_tx.errors import (
    InvalidArgumentError,
    LocalIntegrityError,
    LocalMissingError,
    ObjectMissingError,
    OfflineError,
    OfflineWarning,
    ReadOnlyError,
    RemoteMissingError,
    UnsupportedFormatError,
    UUIDMismatchError,
)
from ebooklet_tx.group import GROUP_SERIALIZER, RemoteConnGroup, reading_entries
from ebooklet_tx.local.file_calls import size_of
from ebooklet_tx.local.serializers import Serializer, resolve, same_serializer, stored_name
from ebooklet_tx.local.store import LocalStore
from ebooklet_tx.open_settings import Settings, local_path
from ebooklet_tx.pickles import pickle_allowed, warn_of_pickle
from ebooklet_tx.remote.retry import RetryPolicy, patience
from ebooklet_tx.remote.root import Manifest
from ebooklet_tx.sync.fencing import fence_off
from ebooklet_tx.sync.forget import is_deletion_begun
from ebooklet_tx.sync.identity import check_public_side
from ebooklet_tx.sync.joining import mark_replacing
from ebooklet_tx.sync.locking import (
    agree,
    begin_locked,
    fit_lock_to_root,
    lock_session,
    settle_conditions,
    take_lock,
)
from ebooklet_tx.sync.origin import check_complete, is_made_here, note_made_here
from ebooklet_tx.sync.place import StoreWrapper, offline_remote, only_readable, remote_at
from ebooklet_tx.sync.pull import (
    FetchedRoot,
    known_type,
    look_at_root,
    note_connection,
    note_type,
    pull,
    read_root,
    take_in_root,
)
from ebooklet_tx.sync.resolve import Resolver, check_choice
from ebooklet_tx.sync.session import Remote, Session, WriterLock, read_base

_log = logging.getLogger("ebooklet_tx")

READER_WAIT_SECONDS = 0.5

UNREACHABLE_SECONDS = 5.0
"""How long a store to which no connection comes about is tried before `offline="auto"` goes without it."""


def open(
    remote_conn: Any,
    file_path: str | os.PathLike[str],
    flag: str = "r",
    value_serializer: Any = None,
    n_buckets: int = 12007,
    buffer_size: int = 2**22,
    remote_conn_group: bool = False,
    *,
    lock: str | None = "exclusive",
    lock_timeout: float = 300.0,
    force_lock: bool = False,
    offline: bool | str = False,
    allow_pickle: bool | None = None,
    conditional_writes: bool | str = "auto",
    on_conflict: str | Resolver = "raise",
    accept_partial: bool = False,
    trust_entries: bool = False,
    retry: RetryPolicy | None = None,
    _wrap_store: StoreWrapper | None = None,
) -> Database:
    """Opens a database: a local Booklet file with its journal, and the remote that it syncs with.

    Args:
        remote_conn: An `S3Connection`; a URL (`s3://bucket/key`, `file:///folder/name`, or
            `http(s)://...` for reading only); a dict of connection parameters; or an entry of a
            connection group.
        file_path: The local Booklet file; its journal lies beside it as `<file>.journal`.
        flag: `r` reads an existing database, also one that is only here and was never pushed; `w` reads and
            writes it; `c` makes it if it is missing; `n` starts an empty one, and the next push replaces the
            remote by it.
        value_serializer: For a new database: None for bytes, one of booklet's names, or a class with
            `dumps` and `loads`. An existing database has its own: naming another one is refused before any
            value is decoded, None takes what is stored, and only a class must be given again.
        n_buckets: For a new database: hash buckets of the Booklet file.
        buffer_size: How many value bytes wait in memory before they are committed; an empty value, and a delete,
            count as the bytes of the key.
        remote_conn_group: For a new database: whether it is a `RemoteConnGroup`. An existing one is what it is.
        lock: "exclusive" keeps other writers of the remote out from open to close; None lets any
            number of writers work, and conflicts come up when they push.
        lock_timeout: Seconds to wait for another writer, of the local file or of the remote.
        force_lock: Take the remote's lock whoever holds it; his next push raises `LockLostError`.
        offline: True works with the local file alone; "auto" does so, with an `OfflineWarning`, when the
            remote can't be reached. What is written waits for the next push of a session that is not offline.
        allow_pickle: False refuses a database whose values are pickled, before any is unpickled; True says that
            they are trusted, as naming the serializer does. None for what the environment variable
            EBOOKLET_TX_ALLOW_PICKLE says; where nobody said, a database that this journal did not make warns
            once (`PickleWarning`).
        conditional_writes: Whether the store's conditional writes work: "auto" tries them once for each
            endpoint and bucket that is not AWS itself, True and False say so.
        on_conflict: What each push does about keys that another writer changed too, unless the push itself is
            told: "raise", "ours", "theirs", "newest", or a function, as in `Change.push`.
        accept_partial: Whether a file that ebooklet used is taken although it lacks keys that the index beside it
            (`<file>.remote_index`) lists; a copy made from a remote of ebooklet_tx is never asked.
        trust_entries: Whether an entry of a group is followed wherever it leads, with the credentials of the
            environment. Without that its `db_url` is read anonymously, and a bucket or folder is opened only at
            the endpoint, or in the folder, at which you opened the group.
        retry: How failing requests are tried again; None for the connection's own.

    Raises:
        RemoteMissingError: There is no remote database, and the flag does not make one.
        UnsupportedFormatError: Something else lies at the place or the path.
        InvalidArgumentError: An argument is wrong, or another serializer was named than the stored one.
        PartialCopyError: The file is ebooklet's, and lacks keys of its remote.
        UUIDMismatchError: The local file belongs to another database.
        LockTimeoutError: Another session kept the local file, or another writer the remote.
        OfflineError: The remote can't be reached; or `offline` is True and there is no local file.
        PickleRefusedError: The values are pickled, and pickle is refused.
        RemoteAccessError: The store refuses.
    """
    _check_process()
    connection = parse_connection(remote_conn, trust_entries=trust_entries, for_reading=flag == "r")
    path = local_path(file_path)
    resolve(value_serializer)
    check_choice(on_conflict)
    settings = Settings(
        flag=flag,
        value_serializer=value_serializer,
        n_buckets=n_buckets,
        buffer_bytes=buffer_size,
        lock_timeout_seconds=lock_timeout,
        type="group" if remote_conn_group else "booklet",
        lock=lock,
        force_lock=force_lock,
        offline=offline,
        pickle_allowed=pickle_allowed(allow_pickle),
        place=connection.url,
        accept_partial=accept_partial,
    )
    if flag != "r" and only_readable(connection):
        raise ReadOnlyError(f"{connection.url} can only be read: the flag must be r")
    # Twice, as an interrupt can come in the middle of the first exit as well.
    with settings.ending, settings.ending:
        remote = remote_at(
            connection,
            retry=retry,
            for_writing=flag != "r",
            wrap=_wrap_store,
            conditional_writes=conditional_writes,
        )
        settings.ending.add(remote.store.close)
        session = _open_session(remote, connection, path, settings)
        session.on_conflict = on_conflict
        serializer = _begin_serving(session, connection, settings)
        if not (settings.pickle_wanted or is_made_here(session.local)):
            warn_of_pickle(serializer.name, connection.url, stacklevel=2)
        kind = RemoteConnGroup if session.type == "group" else Database
        return kind(session, serializer, connection, buffer_size=buffer_size)


def _check_process() -> None:
    """Raises in a process that only imports its parent's main program, and would open all of it again."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise InvalidArgumentError(
            "a database was about to be opened in a worker process that imports the main program; put what the "
            "program does under if __name__ == '__main__'"
        )


def _open_session(remote: Remote, connection: Connection, path: Path, settings: Settings) -> Session:
    """Opens by the flag, or offline where that is wanted or all that can be had."""
    if settings.offline is True:
        remote.store.close()
        return _open_offline(connection, path, settings)
    opener = {"r": _open_reading, "w": _open_writing, "c": _open_creating, "n": _open_anew}[settings.flag]
    seconds = UNREACHABLE_SECONDS if settings.offline == "auto" else math.inf
    try:
        with patience(unreachable_seconds=seconds):
            return opener(remote, path, settings)
    except OfflineError as error:
        if settings.offline != "auto" or settings.flag == "n" or size_of(path) is None:
            raise
        warnings.warn(
            f"{connection.url} is unreachable, so {path} is opened offline, as it was left: {error}",
            OfflineWarning,
            stacklevel=3,
        )
        remote.store.close()
        return _open_offline(connection, path, settings)


def _begin_serving(session: Session, connection: Connection, settings: Settings) -> Serializer:
    """Gives a session its serializer, and notes in its journal what it is and where its remote lies."""
    serializer = session.local.serializer(settings.value_serializer)
    settings.check_pickle(serializer.name)
    if session.type == "group" and serializer.name != GROUP_SERIALIZER:
        raise UnsupportedFormatError(
            f"{session.local.path} holds values of the serializer {serializer.name!r}, so it is no connection "
            "group; open it without remote_conn_group"
        )
    if session.type == "group":
        serializer = reading_entries(serializer, connection)
    session.decode, session.encode = serializer.loads_any, serializer.dumps_any
    if session.local.writable:
        if not session.remote.offline:
            check_public_side(session, connection)
        note_connection(session.journal, json.dumps(connection.to_dict(), sort_keys=True))
        note_type(session.journal, session.type)
    return serializer


def _open_offline(connection: Connection, path: Path, settings: Settings) -> Session:
    """Opens a local pair as it was left; nothing is asked of the remote."""
    if size_of(path) is None:
        raise OfflineError(
            f"{path} does not exist, and a database can't be fetched offline; open it once without offline"
        )
    remote = offline_remote(connection)
    if settings.flag != "r":
        return _session(settings.local(path, create=False), remote, settings)
    try:
        local = LocalStore.open_reader(path, buffer_bytes=settings.buffer_bytes, ending=settings.ending)
    except (LocalMissingError, LocalIntegrityError):
        # A pair that has to be made sound is a writer's work first.
        local = settings.local(path, create=False)
        local.to_reader()
    return _session(local, remote, settings)


def _open_reading(remote: Remote, path: Path, settings: Settings) -> Session:
    try:
        local = LocalStore.open_reader(path, buffer_bytes=settings.buffer_bytes, ending=settings.ending)
    except (LocalMissingError, LocalIntegrityError):
        # A pair that has to be made, or made sound, is a writer's work first.
        return _open_copy_to_read(remote, path, settings)
    deletion_begun = is_deletion_begun(local.journal)
    try:
        return _started(_session(local, remote, settings), _pull_if_changed)
    except UUIDMismatchError:
        # Raised once more unless the pair holds nothing, and so becomes the remote's copy.
        return _open_copy_to_read(remote, path, settings)
    except RemoteMissingError:
        if not deletion_begun:
            raise
        # It was deleted from here, and the journal is still to be told: a writer's work first.
        return _open_copy_to_read(remote, path, settings)


def _open_copy_to_read(remote: Remote, path: Path, settings: Settings) -> Session:
    settings.lock, settings.reading = None, True
    session = _open_copy(remote, path, settings, must_exist=True)
    session.local.to_reader()
    return session


def _pull_if_changed(session: Session) -> None:
    """Asks without the lock; takes it only when there is something to take in.

    What was never pushed, or was deleted from here, has no remote to be missed.
    """
    if session.journal.get_meta("replace_remote"):
        return
    base = read_base(session.journal)
    try:
        fetched = read_root(session.remote, if_none_match=base.etag)
    except ObjectMissingError as error:
        if base.seq == 0:
            return
        raise _missing(session.remote, error) from error
    if fetched is not None:
        session.local.try_maintain(lambda: take_in_root(session, fetched, since=base), READER_WAIT_SECONDS)


def _open_writing(remote: Remote, path: Path, settings: Settings) -> Session:
    return _open_copy(remote, path, settings, must_exist=True)


def _open_creating(remote: Remote, path: Path, settings: Settings) -> Session:
    return _open_copy(remote, path, settings, must_exist=False)


def _open_anew(remote: Remote, path: Path, settings: Settings) -> Session:
    """Starts an empty pair, after the lock is taken: a wait that fails must not cost the old one."""
    agree(remote)
    lock = None
    if settings.lock is not None:
        lock = take_lock(
            remote,
            settings.lock_timeout_seconds,
            lambda lock: settings.ending.add(lock.release),
            force=settings.force_lock,
        )
    kept = _database_to_keep(remote, settings)
    if lock is not None and lock.taken_over:
        # What lies there stays until the push, and its last holder must not commit on top of it.
        fence_off(remote)
        lock.fence_raised()
    header = None if kept is None else settings.header_anew(kept)
    local = settings.local(path, create=True, start_anew=True, header=header)
    session = _session(local, remote, settings, lock)

    def begin(session: Session) -> None:
        settle_conditions(session, kept.commits if kept is not None else None)
        mark_replacing(session, kept_uuid=None if kept is None else kept.uuid)
        note_made_here(session.local)

    return _started(session, begin)


def _database_to_keep(remote: Remote, settings: Settings) -> Manifest | None:
    """Returns the manifest of the database there if the new one is to go on under its uuid; None otherwise.

    Raises where something lies that no push replaces: the old pair must not give way to a dead end.
    """
    seen = look_at_root(remote)
    if isinstance(seen, FetchedRoot) and settings.makes_one_like(seen.manifest):
        return seen.manifest
    return None


def _open_copy(remote: Remote, path: Path, settings: Settings, *, must_exist: bool) -> Session:
    """Opens a pair for writing, makes it from the remote, or makes a new one."""
    if size_of(path) is not None:
        session = _session(settings.local(path, create=False), remote, settings)
        return _started(
            session, lambda session: _begin_writing(session, settings, known=None, must_exist=must_exist)
        )
    return _make_copy(remote, path, settings, must_exist=must_exist)


def _make_copy(remote: Remote, path: Path, settings: Settings, *, must_exist: bool) -> Session:
    fetched: FetchedRoot | None = None
    try:
        fetched = read_root(remote)
    except ObjectMissingError as error:
        if must_exist:
            raise _missing(remote, error) from error
    header = settings.header_for(fetched.manifest) if fetched is not None else None
    session = _session(settings.local(path, create=True, header=header), remote, settings)

    def begin(session: Session) -> None:
        if fetched is None and session.local.created:
            note_made_here(session.local)
        _begin_writing(session, settings, known=fetched)

    return _started(session, begin)


def _pull_or_become(session: Session, settings: Settings, *, must_exist: bool) -> None:
    """Pulls; a pair whose making was cut short, and which holds nothing, becomes the remote's copy."""
    try:
        pull(session)
    except RemoteMissingError as error:
        if must_exist:
            raise RemoteMissingError(
                f"the database {session.remote.root_place} is gone; everything that is local is kept; open it "
                "with flag 'c', and push(force_push=True) writes it anew"
            ) from error
        # Who may make a remote may make this one again; a push that is not forced still refuses.
        _log.warning("%s", error)
    except UUIDMismatchError:
        fetched = read_root(session.remote) if session.local.is_unused() else None
        if fetched is None:
            raise
        _become_copy(session, fetched, settings)


def _become_copy(session: Session, fetched: FetchedRoot, settings: Settings) -> None:
    """Makes an unused pair a copy of the remote's database, unless it was made for other values."""
    stored = fetched.manifest.value_serializer
    if session.serializer_name is not None and not same_serializer(session.serializer_name, stored):
        raise UUIDMismatchError(
            f"{session.local.path} was made for values of the serializer {session.serializer_name!r}, but the "
            f"values of {session.remote.root_place} are of {stored!r}; nothing was ever written to the file: "
            "remove it, or give another file_path, to open the remote"
        )
    session.local.become(settings.header_for(fetched.manifest))
    session.serializer_name = stored
    take_in_root(session, fetched)


def _begin_writing(
    session: Session, settings: Settings, known: FetchedRoot | None, *, must_exist: bool = False
) -> None:
    """Takes the lock, then brings the journal to the newest commit, fencing a lost holder off."""
    if not settings.reading:
        settle_conditions(session, known.manifest.commits if known is not None else None)
    if settings.lock is not None:
        lock_session(session, settings.lock_timeout_seconds, force=settings.force_lock)
    if known is not None:
        take_in_root(session, known)
    if known is None or session.lock is not None:
        _pull_or_become(session, settings, must_exist=must_exist)
    fit_lock_to_root(session, settings.lock_timeout_seconds)
    if not settings.reading:
        check_complete(session.local, accept_partial=settings.accept_partial)
    begin_locked(session)


def _session(local: LocalStore, remote: Remote, settings: Settings, lock: WriterLock | None = None) -> Session:
    """Joins the halves; what the manifest of a commit says is known before the first one is made."""
    name = stored_name(local.file.header.value_serializer_code, str(local.path))
    settings.check_serializer(name, str(local.path))
    session = Session(
        local, remote, type=known_type(local.journal) or settings.type, serializer_name=name, lock=lock
    )
    settings.ending.add(session.release_locks)
    return session


def _started(session: Session, begin: Callable[[Session], None]) -> Session:
    try:
        begin(session)
    except BaseException:
        session.local.undo_creation()
        session.release_locks()
        raise
    return session


def _missing(remote: Remote, error: ObjectMissingError) -> RemoteMissingError:
    if not remote.store.writable:
        return RemoteMissingError(f"there is no database {remote.root_place}, or it is not public: {error}")
    return RemoteMissingError(
        f"there is no database {remote.root_place}; check the place, or make one with flag 'c'"
    )
