"""Opening a database as a snapshot keeps it, for reading alone.

The invariant: a local file that is there already keeps its base and what is pending in it; a session at a
snapshot writes to a copy of its own. That copy is a local file like any other; its base is the snapshot's commit.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from ebooklet_tx.errors import LockTimeoutError, UUIDMismatchError
from ebooklet_tx.local.files.file_calls import size_of
from ebooklet_tx.local.inspection import Inspection, inspect_pair
from ebooklet_tx.local.journal.facts import is_origin
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.maintenance.snapshots import kept
from ebooklet_tx.opening.by_flag import new_session, undone_on_error
from ebooklet_tx.opening.settings import Settings
from ebooklet_tx.sync.origin import note_made_here
from ebooklet_tx.sync.pull.pull import apply_root
from ebooklet_tx.sync.read.reader import reader_of
from ebooklet_tx.sync.read.whole_index import load_index
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.root_object import FetchedRoot
from ebooklet_tx.sync.session import Session

COPY_NAME = "snapshot.blt"


def open_at(remote: Remote, path: Path | None, name: str, settings: Settings) -> Session:
    """Opens the state that a snapshot keeps.

    Args:
        remote: The remote.
        path: A local file of the same database; one that is missing is made, and stands on the snapshot's commit.
            None for a temporary one.
        name: The snapshot's name.
        settings: What the session is opened with.

    Raises:
        RemoteMissingError: There is no such snapshot.
        UUIDMismatchError: The file holds another database.
    """
    found = kept.read(remote, name)
    if path is None or size_of(path) is None:
        return _make(remote, path, name, found, settings)
    there = inspect_pair(path)
    if there.uuid != found.manifest.uuid:
        raise UUIDMismatchError(
            f"{path} holds the database {there.uuid}, and the snapshot {name!r} of {remote.root_place} is of "
            f"{found.manifest.uuid}; give a file of that one, a path where nothing is, or None",
            path=path,
            operation="open",
        )
    if not _stands_at(there, found):
        session = _make(remote, None, name, found, settings)
        if is_origin(there.facts, session.local.file.header.uuid):
            # Its values are this user's own, as those of the file are.
            note_made_here(session.local)
        return session
    local = LocalStore.open_reader(path, buffer_bytes=settings.buffer_bytes, ending=settings.ending)
    session = new_session(local, remote, settings)
    session.at = name
    if settings.wants_index:
        load_index(reader_of(session))
    return session


def _stands_at(there: Inspection, found: FetchedRoot) -> bool:
    """Whether a local file shows the very commit of a snapshot, and nothing else."""
    if there.journal != "current" or there.guard is not None or there.edited or there.rebuild is not None:
        return False
    is_pending = there.pending_sets or there.pending_deletes or there.facts.get("replace_remote")
    return not is_pending and there.facts.get("base_commit_id") == found.manifest.commit_id


def _make(remote: Remote, path: Path | None, name: str, found: FetchedRoot, settings: Settings) -> Session:
    """Makes a local file that stands on a snapshot's commit."""
    remove: Callable[[], object] | None = None
    if path is None:
        folder = Path(tempfile.mkdtemp(prefix="ebooklet_tx-"))
        remove = partial(shutil.rmtree, folder, ignore_errors=True)
        settings.ending.add(remove)
        path = folder / COPY_NAME
    local = settings.local(path, create=True, header=settings.header_for(found.manifest))
    if not local.created:
        raise LockTimeoutError(
            f"another session made {path} at the same moment, and it was left as it is; open it again", path=path
        )
    session = new_session(local, remote, settings)
    session.ended = remove
    with undone_on_error(local, session.locks):
        # Without the ETag, which is the snapshot's own.
        apply_root(session, replace(found, etag=""))
        session.at = name
        if settings.wants_index:
            load_index(reader_of(session))
    local.to_reader()
    return session


__all__ = ["open_at"]
