"""Unlocking: taking a lock away from a writer that is surely gone.

The invariant: nothing but the lock is touched, and the next writer that takes it fences the old holder off, in
case that one is alive.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from ebooklet_tx.connection import Connection, RemoteConn, parse_connection
from ebooklet_tx.errors import InvalidArgumentError, LocalMissingError, ReadOnlyError
from ebooklet_tx.local.files.file_calls import size_of
from ebooklet_tx.local.files.own_files import local_path
from ebooklet_tx.local.journal.journal import Journal, journal_path
from ebooklet_tx.maintenance.break_locks import unlock as remove_lock
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.sync.commit.commit_mode import recorded_results
from ebooklet_tx.sync.connecting import noted_connection, only_readable, remote_at
from ebooklet_tx.sync.locking import learn_mode
from ebooklet_tx.tracebacks import at_edge


@at_edge
def unlock(
    file_path: str | os.PathLike[str] | None = None,
    remote_conn: RemoteConn | None = None,
    *,
    force: bool = False,
    lock_timeout: float = 0.0,
    conditional_writes: bool | Literal["auto"] = "auto",
    retry: RetryPolicy | None = None,
) -> str | None:
    """Removes the lock that a writer has left on a remote.

    A process of this machine that has ended is known to be gone, and so is a holder that has not renewed its
    lock for its whole TTL (60 seconds) while it was watched. Any other may be at work, and keeps its lock
    unless `force` is given; it then finds out at its next push, which raises `LockLostError` with every change
    still pending.

    Args:
        file_path: A local file of the database: its journal tells where the remote is.
        remote_conn: The remote, as `open` takes it; needed where no local file is, or where the remote
            wants credentials that the environment does not give.
        force: Take the lock away even if its holder may be at work.
        lock_timeout: Seconds to watch a lock whose holder may live; over 60, one that stands still counts as
            left behind.
        conditional_writes: As in `open`.
        retry: As in `open`.

    Returns:
        Who held the lock, for people to read; None when nobody did.

    Raises:
        InvalidArgumentError: Neither is given, or the file was never opened with a remote.
        LocalMissingError: There is no journal beside the file.
        ReadOnlyError: The remote can only be read.
        LockHeldError: The holder may be at work; the message names it. Nothing was changed.
        OfflineError: The remote can't be reached.

    Examples:
        >>> print(ebooklet_tx.unlock("db.blt"))
        None
    """
    if isinstance(lock_timeout, bool) or not isinstance(lock_timeout, int | float) or not lock_timeout >= 0:
        raise InvalidArgumentError(f"lock_timeout must be a number of seconds, not {lock_timeout!r}")
    if file_path is None and remote_conn is None:
        raise InvalidArgumentError("unlock() needs a file_path or a remote_conn: which database?")
    journal_file = journal_path(local_path(file_path)) if file_path is not None else None
    facts = _journal_facts(journal_file) if journal_file is not None else {}
    connection: Connection | None = None
    if remote_conn is not None:
        connection = parse_connection(remote_conn)
    elif journal_file is not None:
        connection = noted_connection(facts, journal_file)
    if connection is None:
        raise InvalidArgumentError(f"the journal of {file_path} names no remote; give remote_conn")
    if only_readable(connection):
        raise ReadOnlyError(f"{connection.url} can only be read; unlock it through its bucket or folder")
    remote = remote_at(
        connection,
        retry=retry,
        for_writing=True,
        conditional_writes=conditional_writes,
    )
    try:
        known = {} if journal_file is None else recorded_results(facts.get("conditional_writes"), journal_file)
        learn_mode(remote, known.get(remote.store.location))
        return remove_lock(remote, force=force, watch_seconds=lock_timeout)
    finally:
        remote.store.close()


def _journal_facts(journal_file: Path) -> dict[str, Any]:
    """Reads what a journal knows of its remote, beside a session that is at work."""
    if size_of(journal_file) is None:
        raise LocalMissingError(2, f"{journal_file} does not exist; give remote_conn to say where the lock is")
    journal = Journal.open(journal_file, create=False)
    try:
        return journal.all_meta()
    finally:
        journal.close()
