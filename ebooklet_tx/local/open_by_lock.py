"""Opening a pair: for a writer, who locks, repairs and may make it, and for a reader, who only looks.

The invariant: nothing that could hold a user's value is deleted. A damaged journal is set aside under a new name,
and a reader changes nothing but what it can repair while no writer is at work.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

from ebooklet_tx.errors import (
    JournalDamagedError,
    LocalIntegrityError,
    LocalMissingError,
    LocalStorageError,
    LostCommitsError,
    ReadOnlyError,
)
from ebooklet_tx.local.booklet.value_file import ValueFile
from ebooklet_tx.local.files.file_calls import size_of
from ebooklet_tx.local.files.own_files import can_write_beside, check_no_link, narrow_beside
from ebooklet_tx.local.journal.integrity.set_aside import check_damage
from ebooklet_tx.local.journal.journal import Journal, journal_path, side_files
from ebooklet_tx.local.open_pair import OpenPair
from ebooklet_tx.local.pair_files import (
    check_wal_at_rest,
    comes_and_goes,
    create_pair_file,
    has_leftovers,
    open_locked,
    open_unlocked,
    remove_leftovers,
    remove_pair,
)
from ebooklet_tx.local.recovery import adopt, as_recorded, open_journal, replace_damaged, set_journal_aside
from ebooklet_tx.local.unwritable.private_journal import PrivateJournal

_log = logging.getLogger("ebooklet_tx")

_PRIVATE_TRIES = 5
_MAKING_TRIES = 20


def lock_and_open(
    pair: OpenPair,
    *,
    create: bool,
    start_anew: bool,
    value_serializer: Any,
    n_buckets: int,
    timeout_seconds: float,
    header: bytes | None,
    replace_journal: bool,
) -> bool:
    """Locks, repairs and opens a pair for writing; the arguments are `LocalStore.open_writer`'s.

    Returns:
        Whether the file was made. When it raises, what it opened is the pair's to release.
    """
    path, report = pair.path, pair.report
    _check_writable(path)
    # Before anything gives way: a link is not ours to remove, and not to be made a journal of.
    check_no_link(journal_path(path))
    rights, created, file = None, False, None
    for _ in range(_MAKING_TRIES):
        file = pair.use_file(open_locked(path, timeout_seconds))
        if file is not None and start_anew:
            rights = file.rights()
            remove_pair(file)
            file = None
        if file is None:
            if not create:
                raise LocalMissingError(2, f"{path} does not exist; open it with flag 'c' to make it")
            file, created = create_pair_file(
                path,
                value_serializer,
                n_buckets,
                header,
                timeout_seconds,
                rights,
                set_aside=lambda: set_journal_aside(path, report),
            )
            pair.use_file(file)
        if created or not start_anew:
            break
        # What another session has made meanwhile gives way as well.
        file.close()
    else:
        raise comes_and_goes(path)
    # The need to make the file may mean the same as what lies beside it: a process died at work on its names.
    if created or has_leftovers(file):
        remove_leftovers(file)
    pair.use_journal(open_journal(path, report, replace=replace_journal))
    narrow_beside(path, file.rights(), side_files(journal_path(path)))
    if not _reconcile(pair, file):
        # What was found damaged is out of the way: from here the file speaks for itself.
        pair.release()
        lock_and_open(
            pair,
            create=False,
            start_anew=False,
            value_serializer=None,
            n_buckets=n_buckets,
            timeout_seconds=timeout_seconds,
            header=None,
            replace_journal=False,
        )
    return created


def _reconcile(pair: OpenPair, file: ValueFile) -> bool:
    """Reconciles the pair; False where that found damage in the journal, which is then set aside."""
    try:
        pair.reconcile(file)
    except JournalDamagedError as error:
        pair.journal.close()
        replace_damaged(pair.path, pair.report, error)
        return False
    return True


def open_to_read(pair: OpenPair) -> None:
    """Opens an existing pair for reading; raises what `LocalStore.open_reader` raises.

    When it raises, what it opened is the pair's to release.
    """
    path = pair.path
    if size_of(path) is not None and not can_write_beside(path):
        try:
            _open_private(pair)
        except LocalIntegrityError as error:
            raise ReadOnlyError(
                f"{error}. That can't be done in {path.parent}, which can't be written by this user: copy it and "
                "what lies beside it to another folder, and open it there",
                path=path,
            ) from error
        return
    if size_of(path) is None or size_of(journal_path(path)) is None:
        raise LocalMissingError(2, f"{path} or its journal does not exist; open it with flag 'c'")
    check_wal_at_rest(path)
    pair.use_journal(Journal.open(journal_path(path), create=False))
    if pair.journal.get_meta("file_uuid") is None:
        raise LocalMissingError(2, f"the journal of {path} is not filled yet; open it with flag 'w'")
    file = open_unlocked(path, pair.journal)
    pair.use_file(file)
    if not as_recorded(file, pair.journal.all_meta()):
        _record_edits(pair)


def _check_writable(path: Path) -> None:
    """Refuses to write where that is not allowed, before anything is opened.

    Raises:
        ReadOnlyError: The folder can't be written, or what is there of the pair.
    """
    if can_write_beside(path):
        return
    if size_of(path) is None:
        raise ReadOnlyError(
            f"{path} can't be made: {path.parent} can't be written by this user; give a file_path in a folder "
            "that can be written; reading needs none: with file_path None it is done from memory",
            path=path,
        )
    raise ReadOnlyError(
        f"{path} can't be written by this user: it, its journal or {path.parent} is read-only; open it with flag "
        "'r', or copy the file and its journal to a folder that can be written",
        path=path,
    )


def _open_private(pair: OpenPair) -> None:
    """Opens a pair beside which nothing can be written, with a copy of its journal, or a new one in memory."""
    path = pair.path
    check_wal_at_rest(path)
    for last in (False,) * (_PRIVATE_TRIES - 1) + (True,):
        with contextlib.closing(ValueFile.open(path, writable=False)) as held:
            in_use = not held.try_share()
            journal = PrivateJournal.read(journal_path(path), in_use=in_use)
            try:
                file = pair.use_file(_file_of(path, journal))
            except LocalIntegrityError:
                # A writer has replaced the file since its journal was read.
                journal.close()
                if last or not in_use:
                    raise
                continue
        break
    pair.is_private = True
    pair.use_journal(journal)
    if file is not None and journal.get_meta("file_uuid") is None:
        adopt(file, journal, pair.report, in_place=False)
    elif file is not None and not in_use and not as_recorded(file, journal.all_meta()):
        _log.warning("%s was changed by another program, and the changes can't be recorded there", path)


def _file_of(path: Path, journal: Journal) -> ValueFile:
    """Opens the file that a journal means; any that is there, where the journal is new."""
    if journal.get_meta("file_uuid") is None:
        return ValueFile.open(path, writable=False)
    return open_unlocked(path, journal)


def _record_edits(pair: OpenPair) -> None:
    """Records what was done to the file, unless a writer is at work, who has done that already."""
    try:
        pair.try_maintain(lambda: None)
    except (ReadOnlyError, LocalStorageError) as error:
        # The journal's values can be read all the same.
        _log.warning("%s was changed, and the changes could not be recorded: %s", pair.path, error)


def release_after(pair: OpenPair, error: BaseException) -> None:
    """Releases a pair whose opening for reading failed; proves damage of the journal, where that is the reason.

    Raises:
        LocalStorageError: The damage can't be proven; the system refuses, now.
    """
    pair.release()
    if isinstance(error, JournalDamagedError) and not isinstance(error, LostCommitsError):
        check_damage(journal_path(pair.path), error)
