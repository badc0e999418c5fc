"""What each flag does: it opens a session on a remote and a local file, or offline on the file alone.

The invariant: whatever is made or locked on the way is given to the settings' `ending` at once, so that a failure
releases it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ebooklet_tx.connection import Connection
from ebooklet_tx.errors import (
    LocalIntegrityError,
    LocalMissingError,
    ObjectMissingError,
    OfflineError,
    RemoteMissingError,
    UUIDMismatchError,
)
from ebooklet_tx.formats.root import FirstFormatError, Manifest
from ebooklet_tx.local.files.file_calls import size_of
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.local.journal.facts import (
    is_replacing,
    known_type,
    note_connection,
    note_replacing,
    remembers_connection,
)
from ebooklet_tx.local.journal.pending.detachment import is_deletion_begun
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.opening.settings import Settings
from ebooklet_tx.sync.commit.fencing import fence_off
from ebooklet_tx.sync.commit.writer_locks import WriterLocks
from ebooklet_tx.sync.connecting import offline_remote
from ebooklet_tx.sync.locking import (
    adapt_lock,
    begin_locked,
    learn_mode,
    reconcile_mode,
)
from ebooklet_tx.sync.origin import check_complete, note_made_here
from ebooklet_tx.sync.pull.pull import apply_root, pull
from ebooklet_tx.sync.read.reader import Reader, reader_of
from ebooklet_tx.sync.read.whole_index import load_index, try_load_index
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.root_object import FetchedRoot, inspect_root, read_later_root, read_root
from ebooklet_tx.sync.session import Session
from ebooklet_tx.values.serializers import same_serializer, stored_name

_log = logging.getLogger("ebooklet_tx")

READER_WAIT_SECONDS = 0.5


def open_offline(connection: Connection, path: Path, settings: Settings) -> Session:
    """Opens a local pair as it was left; no request is sent."""
    if size_of(path) is None:
        raise OfflineError(
            f"{path} does not exist, and a database can't be fetched offline; open it once without offline",
            path=path,
            operation="open",
        )
    remote = offline_remote(connection)
    if settings.flag != "r":
        return new_session(settings.local(path, create=False), remote, settings)
    try:
        local = LocalStore.open_reader(path, buffer_bytes=settings.buffer_bytes, ending=settings.ending)
    except (LocalMissingError, LocalIntegrityError):
        # A pair that has to be made sound is a writer's work first.
        local = settings.local(path, create=False)
        local.to_reader()
    return new_session(local, remote, settings)


def open_reading(remote: Remote, path: Path, settings: Settings) -> Session:
    try:
        local = LocalStore.open_reader(path, buffer_bytes=settings.buffer_bytes, ending=settings.ending)
    except (LocalMissingError, LocalIntegrityError):
        # A pair that has to be made, or made sound, is a writer's work first.
        return _open_copy_to_read(remote, path, settings)
    deletion_begun = is_deletion_begun(local.journal)
    try:
        session = new_session(local, remote, settings)
        with undone_on_error(session.local, session.locks):
            _pull_if_changed(session)
            _bring_index(reader_of(session), settings)
        return session
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
    known = remembers_connection(session.journal) and not session.local.created
    if settings.noted_address is not None and not known:
        # While the file is still open for writing: a copy that is only ever read knows its remote as well, and
        # so does a journal that was made anew.
        with undone_on_error(session.local, session.locks):
            note_connection(session.journal, settings.noted_address)
    session.local.to_reader()
    return session


def _pull_if_changed(session: Session) -> None:
    """Asks without the lock; takes it only for the moment in which a commit is applied.

    A database that was never pushed, or was deleted from here, needs no remote.
    """
    if is_replacing(session.journal):
        return
    base = read_base(session.journal)
    try:
        fetched = read_later_root(session.remote, base.etag, session.local.file.header.uuid.hex(), base.seq)
    except ObjectMissingError as error:
        if base.seq == 0:
            return
        if not session.remote.store.writable:
            raise _missing(session.remote, error) from error
        raise RemoteMissingError(
            f"the database {session.remote.root_place} is gone; everything that is local is kept; open it with "
            "flag 'c', and push(force_push=True) writes it anew, and offline=True shows what is here",
            path=session.local.path,
            operation="open",
        ) from error
    except FirstFormatError:
        if base.format != 1:
            raise
        return
    if fetched is not None:
        apply_root(session, fetched, since=base, wait_seconds=READER_WAIT_SECONDS)


def open_writing(remote: Remote, path: Path, settings: Settings) -> Session:
    return _open_copy(remote, path, settings, must_exist=True)


def open_creating(remote: Remote, path: Path, settings: Settings) -> Session:
    return _open_copy(remote, path, settings, must_exist=False)


def open_anew(remote: Remote, path: Path, settings: Settings) -> Session:
    """Starts an empty pair, after the lock is taken: a wait that fails must not cost the old one."""
    learn_mode(remote)
    locks = WriterLocks(remote)
    settings.ending.add(locks.release)
    if settings.lock is not None:
        locks.take(settings.lock_timeout_seconds, force=settings.force_lock)
    kept = _database_to_keep(remote, settings)
    if locks.owes_fence:
        # What lies there stays until the push, and its last holder must not commit on top of it.
        fence_off(remote)
        locks.fence_raised(locks.fence)
    header = None if kept is None else settings.header_anew(kept)
    local = settings.local(path, create=True, start_anew=True, header=header)
    session = new_session(local, remote, settings, locks)
    with undone_on_error(local, locks):
        reconcile_mode(local.journal, remote, kept.commits if kept is not None else None)
        note_replacing(local.journal, kept_uuid=None if kept is None else kept.uuid)
        note_made_here(local)
        _bring_index(reader_of(session), settings)
    return session


def _database_to_keep(remote: Remote, settings: Settings) -> Manifest | None:
    """Returns the manifest of the remote's database if the new one keeps its uuid; None otherwise.

    Raises where the remote holds something that no push can replace, so that the old pair is kept.
    """
    seen = inspect_root(remote)
    if isinstance(seen, FetchedRoot) and settings.makes_one_like(seen.manifest):
        return seen.manifest
    return None


def _open_copy(remote: Remote, path: Path, settings: Settings, *, must_exist: bool) -> Session:
    """Opens a pair for writing, makes it from the remote, or makes a new one."""
    if size_of(path) is not None:
        session = new_session(settings.local(path, create=False), remote, settings)
        with undone_on_error(session.local, session.locks):
            _begin_writing(session, settings, known=None, must_exist=must_exist)
            _bring_index(reader_of(session), settings)
        return session
    return _make_copy(remote, path, settings, must_exist=must_exist)


def _make_copy(remote: Remote, path: Path, settings: Settings, *, must_exist: bool) -> Session:
    fetched: FetchedRoot | None = None
    try:
        fetched = read_root(remote)
    except ObjectMissingError as error:
        if must_exist:
            raise _missing(remote, error) from error
    header = settings.header_for(fetched.manifest) if fetched is not None else None
    session = new_session(settings.local(path, create=True, header=header), remote, settings)
    with undone_on_error(session.local, session.locks):
        if fetched is None and session.local.created:
            note_made_here(session.local)
        _begin_writing(session, settings, known=fetched)
        _bring_index(reader_of(session), settings)
    return session


def _pull_or_become(session: Session, settings: Settings, *, must_exist: bool) -> None:
    """Pulls; an empty pair whose making was interrupted becomes the remote's copy."""
    try:
        pull(session)
    except RemoteMissingError as error:
        if must_exist:
            raise RemoteMissingError(
                f"the database {session.remote.root_place} is gone; everything that is local is kept; open it "
                "with flag 'c', and push(force_push=True) writes it anew",
                path=session.local.path,
                operation="pull",
            ) from error
        # Flag 'c' may create the remote again; a push that is not forced still refuses.
        _log.warning("%s", error)
    except UUIDMismatchError:
        fetched = read_root(session.remote) if session.local.is_unused() else None
        if fetched is None:
            raise
        stored = fetched.manifest.value_serializer
        _check_same_values(session.local.path, session.serializer_name, stored, session.remote.root_place)
        session.local.become(settings.header_for(fetched.manifest))
        session.serializer_name = stored
        apply_root(session, fetched)


def _check_same_values(path: Path, here: str | None, there: str | None, root_place: str) -> None:
    """Refuses to make an unused pair a copy of a database whose values are of another serializer."""
    if here is not None and not same_serializer(here, there):
        raise UUIDMismatchError(
            f"{path} was made for values of the serializer {here!r}, but the values of {root_place} are of "
            f"{there!r}; nothing was ever written to the file: remove it, or give another file_path, to open "
            "the remote",
            path=path,
            operation="open",
        )


def _begin_writing(
    session: Session, settings: Settings, known: FetchedRoot | None, *, must_exist: bool = False
) -> None:
    """Takes the lock, then brings the journal to the newest commit, fencing a lost holder off."""
    if not settings.reading:
        reconcile_mode(session.journal, session.remote, known.manifest.commits if known is not None else None)
    if settings.lock is not None:
        session.locks.take(settings.lock_timeout_seconds, force=settings.force_lock)
    if known is not None:
        apply_root(session, known)
    if known is None or session.locks.held is not None:
        _pull_or_become(session, settings, must_exist=must_exist)
    adapt_lock(session, settings.lock_timeout_seconds)
    if not settings.reading:
        check_complete(session.local, accept_partial=settings.accept_partial)
    begin_locked(session)


def new_session(
    local: LocalStore, remote: Remote, settings: Settings, locks: WriterLocks | None = None
) -> Session:
    """Joins the local and the remote half; the type and serializer are known before the first commit."""
    name = stored_name(local.file.header.value_serializer_code, str(local.path))
    settings.check_serializer(name, str(local.path))
    locks = locks or WriterLocks(remote)
    settings.ending.add(locks.release)
    return Session(
        local,
        remote,
        locks,
        type=known_type(local.journal) or settings.type,
        serializer_name=name,
        holds_index=settings.wants_index,
    )


@contextmanager
def undone_on_error(local: LocalStore, locks: WriterLocks) -> Iterator[None]:
    """Removes what an opening has made, and gives the locks back, where it fails."""
    try:
        yield
    except BaseException:
        local.undo_creation()
        locks.release()
        raise


def _bring_index(reader: Reader, settings: Settings) -> None:
    """Brings the whole index here where that is wanted; it has to succeed only where "full" was said."""
    if reader.remote.offline or not settings.wants_index:
        return
    if settings.index == "full":
        load_index(reader)
    else:
        try_load_index(reader)


def _missing(remote: Remote, error: ObjectMissingError) -> RemoteMissingError:
    if not remote.store.writable:
        return RemoteMissingError(f"there is no database {remote.root_place}, or it is not public: {error}")
    return RemoteMissingError(
        f"there is no database {remote.root_place}; check the address, or make one with flag 'c'"
    )
