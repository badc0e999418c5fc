"""A journal in a place that can't be written: read once, into a database of this session's own.

The invariant: nothing is made or changed beside the journal, not even what SQLite makes there to read. What the
session learns goes into its own copy, which SQLite keeps in memory and a temporary file, and is gone with it.

SQLite is told that nothing changes the file (`immutable`) only while a shared lock on the Booklet file keeps
every writer out, and only where no WAL lies beside it. Beside a writer that is at work, its WAL is read as it is.
A WAL that was left by a writer which died is read from a copy in the temporary folder.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ebooklet_tx.errors import LocalStorageError
from ebooklet_tx.local.files.file_calls import size_of, storage_errors
from ebooklet_tx.local.files.own_files import check_no_link
from ebooklet_tx.local.journal import migrate
from ebooklet_tx.local.journal.connections import OwnedConnection, connected
from ebooklet_tx.local.journal.integrity.commit_mark import MarkWriter, missing_commits, read_mark
from ebooklet_tx.local.journal.integrity.lost_commits import commit_count
from ebooklet_tx.local.journal.journal import Journal, is_open_here, lost_commits, side_files
from ebooklet_tx.local.journal.sqlite_errors import sqlite_errors

_WRITER_WAIT_SECONDS = 5.0


class PrivateJournal(Journal):
    """The copy of a journal that one session reads and writes; its path is that of the original."""

    @classmethod
    def read(cls, path: Path, *, in_use: bool) -> PrivateJournal:
        """Reads a journal; where there is none, or an empty one, the copy begins empty.

        Args:
            path: The journal file.
            in_use: Whether a writer has the Booklet file's lock; otherwise the caller keeps writers out.

        Raises:
            JournalDamagedError: It is no sound SQLite database, as far as this look goes.
            JournalUnusableError: It is one, but no journal of ours.
            LostCommitsError: Commits that were acknowledged are missing from it.
            LocalStorageError: It has to be migrated; or the system refuses.
            UnsupportedFormatError: It was written by a newer ebooklet_tx.
        """
        check_no_link(path)
        mark = read_mark(side_files(path).mark)
        owned = OwnedConnection()
        try:
            with sqlite_errors(path):
                raw = owned.open("", isolation_level=None, check_same_thread=False)
                if size_of(path) or size_of(side_files(path).wal):
                    with reading_journal(path, in_use=in_use) as source:
                        source.backup(raw)
                    missing = missing_commits(mark, commit_count(raw))
                    if missing:
                        raise lost_commits(path, missing)
                raw.execute("PRAGMA trusted_schema = OFF")
                revision = migrate.current_revision(raw, path)
                if migrate.check_revision(revision, path):
                    if revision is not None:
                        raise LocalStorageError(
                            0,
                            f"{path} has to be migrated, and its folder can't be written; open the database for "
                            "writing where that is allowed, or copy the file and its journal to another folder",
                        )
                    migrate.make(raw)
                return cls(path, owned, raw)
        except BaseException:
            owned.close()
            raise

    def __init__(self, path: Path, owned: OwnedConnection, raw: sqlite3.Connection) -> None:
        super().__init__(path, owned, raw)
        self.leave_registry()
        self._mark = _NoMark(side_files(path).mark)

    def is_current(self) -> bool:
        """True: nothing that happens to the original changes the copy."""
        return True

    def close(self) -> None:
        """Closes the connection, and with it the copy is gone; twice is no error."""
        self._owned.close()


class _NoMark(MarkWriter):
    """Vouches for nothing: no commit of a copy is durable."""

    def write(self, count: int) -> None:
        pass


@contextlib.contextmanager
def reading_journal(location: Path, *, in_use: bool) -> Iterator[sqlite3.Connection]:
    """Opens a journal to look at, so that no byte beside it changes.

    Args:
        location: The journal file.
        in_use: Whether a writer has the Booklet file's lock.
    """
    with contextlib.ExitStack() as stack:
        mode = "mode=ro"
        if in_use or is_open_here(location):
            pass
        elif not size_of(side_files(location).wal):
            mode += "&immutable=1"
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ebooklet_tx-")))
            location = _copied(location, folder)
        connection = connected(
            f"{location.absolute().as_uri()}?{mode}",
            uri=True,
            isolation_level=None,
            timeout=_WRITER_WAIT_SECONDS,
        )
        raw = stack.enter_context(connection)
        raw.execute("PRAGMA trusted_schema = OFF")
        raw.execute("BEGIN")
        yield raw


def _copied(location: Path, folder: Path) -> Path:
    """Copies a journal that no process writes to.

    The WAL comes first: a reader that closes may move it into the journal meanwhile, and what is in
    both is the same.
    """
    copy = folder / "journal"
    pairs = (side_files(location).wal, side_files(copy).wal), (location, copy)
    with storage_errors(location, "copy"):
        for source, target in pairs:
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(source, target)
    return copy


__all__ = ["PrivateJournal", "reading_journal"]
