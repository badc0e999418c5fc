"""Setting a journal aside: the one way in which a journal gives way to a new one.

Owns the files `<journal>.aside-*`. The invariant: a journal gives way only when it is proven that it can't be
gone on with, its content is durable under another name before its own name is free, and only what holds
nothing of a user's is ever removed.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from ebooklet_tx.descriptors import Descriptor
from ebooklet_tx.errors import Error
from ebooklet_tx.local.files.file_calls import fsync_folder, size_of, storage_errors
from ebooklet_tx.local.files.own_files import copy_new, open_file, remove_own
from ebooklet_tx.local.journal.journal import Journal, is_cut_to_nothing, side_files
from ebooklet_tx.local.journal.sqlite_errors import fails_its_check, seeming_damage
from ebooklet_tx.timestamps import now_us

_WORK = """
SELECT 1 FROM entry WHERE pending != 0 UNION ALL SELECT 1 FROM staged UNION ALL SELECT 1 FROM intent
UNION ALL SELECT 1 FROM meta WHERE name = 'replace_remote' LIMIT 1
"""


def check_damage(location: Path, suspicion: Exception) -> None:
    """Reads a whole journal through a connection of its own; returns when it is damaged indeed.

    Args:
        location: The journal.
        suspicion: What was said about it.

    Raises:
        LocalStorageError: It could not be read, or is sound after all; nothing was changed.
    """
    if not is_damaged(location):
        raise seeming_damage(location, suspicion) from suspicion


def is_damaged(location: Path) -> bool:
    """Reads a whole journal through a connection of its own; True where that proves it damaged.

    Raises:
        LocalStorageError: It could not be read.
    """
    return is_cut_to_nothing(location) or fails_its_check(location)


def set_aside(location: Path) -> Path:
    """Gives a journal and its WAL another name, durably; it must not be open in this process.

    One that is sound and holds nothing that is still to be pushed takes the place of the last one of its
    kind, so that these don't pile up.

    Returns:
        The new name.
    """
    clean = _holds_no_work(location)
    aside = location.with_name(f"{location.name}.aside-{'clean' if clean else now_us()}")
    files = side_files(location)
    with storage_errors(location, "set aside"):
        if size_of(files.wal):
            # Copied, as it says nothing without its journal, and the two can't be renamed in one step.
            kept = aside.with_name(aside.name + "-wal")
            remove_own(kept)
            with contextlib.closing(Descriptor()) as wal:
                open_file(wal, files.wal, writable=False)
                copy_new(wal.number, kept)
        with contextlib.suppress(FileNotFoundError):
            location.replace(aside)
        fsync_folder(location.parent)
        for part in files:
            remove_own(part)
        fsync_folder(location.parent)
    return aside


def _holds_no_work(location: Path) -> bool:
    """True of a sound journal in which nothing waits for a push, and whose WAL is emptied."""
    if not size_of(location):
        return False
    try:
        journal = Journal.open(location, create=False)
    except Error:
        return False
    try:
        work = bool(journal.rows(_WORK))
    except Error:
        work = True
    finally:
        journal.close()
    return not work and not size_of(side_files(location).wal)
