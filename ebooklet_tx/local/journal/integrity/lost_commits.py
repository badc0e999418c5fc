"""Finding commits that a journal has lost, and putting its WAL right before SQLite cuts it short.

The invariant: nothing is opened for writing, and so nothing moved into the journal, before it
is known whether the WAL reaches as far as the commit mark says; the WAL is kept under another name before a
byte of it is changed or given up.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from ebooklet_tx.descriptors import Descriptor
from ebooklet_tx.errors import JournalDamagedError, LostCommitsError
from ebooklet_tx.local.files.file_calls import size_of, storage_errors, write_all
from ebooklet_tx.local.files.own_files import copy_new, open_file
from ebooklet_tx.local.journal.connections import connected
from ebooklet_tx.local.journal.integrity.commit_mark import missing_commits, read_mark
from ebooklet_tx.local.journal.integrity.wal import Fix, WalReading, read_wal
from ebooklet_tx.local.journal.sqlite_errors import sqlite_errors
from ebooklet_tx.timestamps import now_us

_BUSY_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class WalMending:
    """What was found about a WAL, and what was done.

    Attributes:
        lost: The mark, where the journal does not reach it and can't be made to.
        told: Sentences about it.
    """

    lost: int | None = None
    told: tuple[str, ...] = ()


def look_for_missing(location: Path, wal: Path, mark: int | None) -> int:
    """Returns how many acknowledged commits SQLite does not find in a journal; changes nothing.

    Args:
        location: The journal; its WAL is read along with it.
        wal: That WAL.
        mark: Its mark, read before: in a sound journal the count only grows.

    Raises:
        JournalDamagedError: It is no sound SQLite database.
        LocalStorageError: It can't be read now.
    """
    if mark is None:
        return 0
    # Without a WAL a journal can be read as it is, and where it must not be written beside.
    mode = "mode=ro" if size_of(wal) else "mode=ro&immutable=1"
    uri = f"{location.absolute().as_uri()}?{mode}"
    with (
        sqlite_errors(location),
        connected(uri, uri=True, isolation_level=None, timeout=_BUSY_TIMEOUT_SECONDS) as raw,
    ):
        return missing_commits(mark, commit_count(raw))


def commit_count(raw: sqlite3.Connection) -> int:
    """Returns to what a journal has counted its commits; within a transaction, those before it."""
    return int(raw.execute("PRAGMA user_version").fetchone()[0])


def mend_wal(location: Path, wal: Path, mark_path: Path) -> WalMending:
    """Sets right what can be in the WAL of a journal that is not open in this process.

    The caller holds the value file's lock. Nothing is done where the WAL holds all that was acknowledged.
    """
    if size_of(location) is None:
        with storage_errors(mark_path, "remove"):
            mark_path.unlink(missing_ok=True)
        return WalMending()
    mark = read_mark(mark_path)
    missing = _missing_or_unknown(location, wal, mark)
    if not missing and (mark is not None or not size_of(wal)):
        return WalMending()
    reading = _read(wal)
    told: list[str] = []
    if reading.fixes or reading.damaged or (missing and size_of(wal)):
        kept = _keep(location, wal)
        told.append(f"the damaged WAL of {location.name} is kept as {kept.name}")
    if reading.fixes:
        _apply(wal, reading.fixes)
        told.insert(0, f"{len(reading.fixes)} changed bits in {wal.name} were set right, by its checksums")
        missing = _missing_or_unknown(location, wal, mark)
    if missing and mark is not None:
        told.insert(
            0, f"{location.name} has lost at least {missing} acknowledged commits, the newest: {_FROM_HERE}"
        )
        return WalMending(mark, tuple(told))
    if reading.damaged:
        told.insert(0, f"{location.name} has lost acknowledged commits, at least one: {_FROM_HERE}")
    return WalMending(None, tuple(told))


_FROM_HERE = (
    "its WAL is damaged or missing. What is sound of it is used, what the Booklet file holds beyond it becomes "
    "pending; look whether your newest changes are there"
)


def check_unmarked(location: Path, wal: Path, mark_path: Path) -> None:
    """Looks through a WAL without a mark; to be called while no process writes to it.

    Raises:
        LostCommitsError: SQLite would end it before something that was acknowledged.
    """
    if size_of(location) is None or not size_of(wal) or read_mark(mark_path) is not None:
        return
    reading = _read(wal)
    if reading.damaged or reading.fixes:
        raise LostCommitsError(
            f"{wal} is damaged: it would end before acknowledged commits; open the database for writing, or run "
            "recover, which sets right what can be"
        )


def _missing_or_unknown(location: Path, wal: Path, mark: int | None) -> int:
    """Counts missing commits; 0 where the journal itself is damaged, which opening it will tell."""
    try:
        return look_for_missing(location, wal, mark)
    except JournalDamagedError:
        return 0


def _read(wal: Path) -> WalReading:
    if not size_of(wal):
        return WalReading()
    with (
        storage_errors(wal, "read"),
        contextlib.closing(Descriptor()) as opened,
        mmap.mmap(_open(opened, wal), 0, access=mmap.ACCESS_READ) as data,
    ):
        return read_wal(data)


def _open(opened: Descriptor, wal: Path) -> int:
    open_file(opened, wal, writable=False)
    return opened.number


def _keep(location: Path, wal: Path) -> Path:
    """Copies a journal and its WAL beside themselves, durably; returns the copied WAL's path."""
    aside = location.with_name(f"{location.name}.aside-{now_us()}")
    kept = aside.with_name(aside.name + "-wal")
    for source, target in ((wal, kept), (location, aside)):
        with contextlib.closing(Descriptor()) as opened:
            open_file(opened, source, writable=False)
            copy_new(opened.number, target)
    return kept


def _apply(wal: Path, fixes: list[Fix]) -> None:
    with storage_errors(wal, "write"), contextlib.closing(Descriptor()) as opened:
        open_file(opened, wal, writable=True)
        for offset, right in fixes:
            write_all(opened.number, right, offset)
        os.fsync(opened.number)
