"""The journal: one SQLite database that is the truth about the values beside it.

Owns `<file>.journal` with its `-wal` and `-shm`. The invariant: every change is one transaction
with `synchronous=FULL`, made while the session holds the value file's lock; what a commit returned
from survives power loss, and a reader sees whole transactions only. The one exception is a transaction
that says that it may wait for the fsync of the next one.

The tables are `schema`'s, and statements go to the driver: SQLAlchemy's part in a lookup costs three
times the lookup, and importing it more than opening. It is for the migrations alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ebooklet_tx.errors import JournalDamagedError, LocalMissingError, LocalStorageError, LostCommitsError
from ebooklet_tx.local.files.file_calls import size_of, storage_errors
from ebooklet_tx.local.files.own_files import JOURNAL_SUFFIX, check_no_link, make_beside
from ebooklet_tx.local.journal import migrate
from ebooklet_tx.local.journal.connections import OwnedConnection
from ebooklet_tx.local.journal.integrity.commit_mark import MarkWriter, count_after, read_mark
from ebooklet_tx.local.journal.integrity.lost_commits import commit_count, look_for_missing
from ebooklet_tx.local.journal.integrity.row_checks import (
    PENDING_ENDS_FIT,
    check_order,
    is_no_fact,
    misplaced,
    moved_ends,
)
from ebooklet_tx.local.journal.sqlite_errors import sqlite_errors

Found = TypeVar("Found")

MISSING_KEYS = "missing_keys"
MERGED = "merged"
"""The fact that lists keys whose deletion may be accepted, packed; it can be long."""

_SIDE_SUFFIXES = ("-wal", "-shm", "-journal", "-mark")
_BUSY_TIMEOUT_SECONDS = 30.0


class SideFiles(NamedTuple):
    """The files that go with a journal, in the order in which they may be removed after it."""

    wal: Path
    shm: Path
    rollback: Path
    mark: Path


def journal_path(path: Path) -> Path:
    """Returns where the journal of a Booklet file lies."""
    return path.with_name(path.name + JOURNAL_SUFFIX)


def side_files(location: Path) -> SideFiles:
    """Returns the names of the files that go with a journal."""
    return SideFiles(*(location.with_name(location.name + suffix) for suffix in _SIDE_SUFFIXES))


@dataclass(frozen=True, slots=True)
class Transaction:
    """A transaction at work: what a function asks for that must not write outside of one."""

    raw: sqlite3.Connection


def is_cut_to_nothing(location: Path) -> bool:
    """True of an empty journal beside a WAL: SQLite would throw the WAL away, and with it what was committed."""
    return size_of(location) == 0 and bool(size_of(side_files(location).wal))


_open_journals: weakref.WeakSet[Journal] = weakref.WeakSet()


def _named(path: Path) -> tuple[int, int] | None:
    with storage_errors(path, "look at"):
        try:
            found = path.stat()
        except FileNotFoundError:
            return None
    return found.st_dev, found.st_ino


def is_open_here(path: Path) -> bool:
    """True when this process has a journal open.

    Another descriptor on it must then not be closed here: that would drop SQLite's locks with it.
    """
    with storage_errors(path, "look at"):
        try:
            named = path.stat()
            return any(os.path.samestat(named, journal.path.stat()) for journal in _open_journals)
        except FileNotFoundError:
            return False


class Journal:
    """An open journal: one connection, used by one session.

    Attributes:
        mutex: Held by every method while it uses the connection, and by `transaction` and `reading` for the
            whole block. A session holds it itself where several of them belong together.
        whole_at: The version in which all that is pending was last found in its place.
        found: What `found_once` has found, each with the version in which it was.
    """

    def __init__(self, path: Path, owned: OwnedConnection, raw: sqlite3.Connection) -> None:
        self.path = path
        self.raw = raw
        self.mutex = threading.RLock()
        self._owned = owned
        self.whole_at: tuple[int, int] | None = None
        self.found: dict[str, tuple[tuple[int, int], Any]] = {}
        self._counts_cells: bool | None = None
        self._syncs = True
        self._mark = MarkWriter(side_files(path).mark)
        self._named = _named(path)
        _open_journals.add(self)

    @classmethod
    def open(cls, path: Path, *, create: bool) -> Journal:
        """Opens a journal and brings it to the current revision.

        Args:
            path: The journal file.
            create: Whether a missing or older one may be made or migrated; the caller then holds
                the value file's lock.

        Raises:
            JournalDamagedError: It is no sound SQLite database, as far as this look goes.
            JournalUnusableError: It is one, but not a journal of ours, or a part of a journal is missing.
            LocalMissingError: It is empty, and `create` is False: its maker died before it was filled.
            LocalStorageError: It is missing, or the system refuses.
            UnsupportedFormatError: It was written by a newer ebooklet_tx.
        """
        if is_cut_to_nothing(path):
            # Not opened even: SQLite would remove the WAL.
            raise JournalDamagedError(f"{path} is empty beside a WAL; run recover, which sets it aside")
        check_no_link(path)
        if not create:
            _check_commits(path)
        else:
            # Not by SQLite, which would make it through a link, and open to whom the system's mask says.
            make_beside(path, path.with_name(path.name.removesuffix(JOURNAL_SUFFIX)))
        owned = OwnedConnection()
        try:
            with sqlite_errors(path):
                raw = _connected(owned, path, create=create)
                revision = migrate.current_revision(raw, path)
                # Not before it is known to be ours: this writes into the file.
                raw.execute("PRAGMA journal_mode = WAL")
                journal = cls(path, owned, raw)
                if migrate.check_revision(revision, path):
                    if not create and revision is None:
                        raise LocalMissingError(2, f"{path} is empty; open the database with flag 'w'")
                    if not create:
                        raise LocalStorageError(0, f"{path} has to be migrated; open the database for writing")
                    if revision is None:
                        migrate.make(raw)
                    else:
                        migrate.migrate(raw, path, revision)
            return journal
        except BaseException:
            owned.close()
            raise

    def check_columns(self) -> None:
        """Looks whether every table has its columns, and closes the journal where one has not.

        Raises:
            JournalUnusableError: A column is missing.
        """
        try:
            with sqlite_errors(self.path):
                migrate.check_columns(self.raw, self.path)
        except BaseException:
            self.close()
            raise

    def is_current(self) -> bool:
        """True while the path names the file that it named when the journal was opened."""
        return self._named is not None and _named(self.path) == self._named

    def close(self) -> None:
        """Closes the connection; twice is no error."""
        _open_journals.discard(self)
        self._owned.close()
        self._mark.close()
        files = side_files(self.path)
        with contextlib.suppress(OSError):
            if not files.wal.exists():
                # All that was committed lies in the journal itself now.
                files.mark.unlink(missing_ok=True)

    def leave_registry(self) -> None:
        """Takes this journal for none that has the file at its path open."""
        _open_journals.discard(self)

    def forget_in_child(self) -> None:
        """In a forked child: makes sure that SQLite never closes what belongs to the parent.

        SQLite forbids carrying a connection through a fork. Closing it here could checkpoint the
        parent's WAL, so one reference is given away for good and the process's end cleans up.
        """
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.raw))

    # -- transactions ----------------------------------------------------------------------

    @contextlib.contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[Transaction]:
        """One BEGIN IMMEDIATE: durable as a whole when the block ends, absent when it raises.

        `driver(transaction)` gives the sqlite3 connection to execute statements on.

        Args:
            durable: False where power loss may take it back, as a whole, until a later one is durable: no fsync.
        """
        with self.mutex, sqlite_errors(self.path):
            # What an interrupt left open, in the handlers below, was never acknowledged.
            self._roll_back()
            try:
                self._sync_at_commit(durable)
                try:
                    self.raw.execute("BEGIN IMMEDIATE")
                    # What the last commit noted of a lost index would be gone with the next one.
                    if not self.raw.execute(f"SELECT {PENDING_ENDS_FIT}").fetchone()[0]:
                        raise misplaced(self.path, "what is pending is not what was")
                    yield Transaction(self.raw)
                    put_meta(Transaction(self.raw), moved_ends(self.raw))
                    count = count_after(commit_count(self.raw))
                    self.raw.execute(f"PRAGMA user_version = {count}")
                    # Not commit(), which says nothing where a failing disk has ended the transaction already.
                    self.raw.execute("COMMIT")
                except BaseException:
                    self._roll_back()
                    raise
            finally:
                # Nothing, unless an interrupt came between the failure and the rollback.
                self._roll_back()
            # Still with the mutex: marks are written in the order of the commits, one at a time.
            if durable:
                self._mark.write(count)

    def _sync_at_commit(self, durable: bool) -> None:
        """Says whether the next COMMIT ends with an fsync."""
        if not durable:
            self._syncs = False
            self.raw.execute("PRAGMA synchronous = NORMAL")
        elif not self._syncs:
            self.raw.execute("PRAGMA synchronous = FULL")
            self._syncs = True

    def catch_up(self, mark: int) -> None:
        """Sets the count of commits to a mark that is ahead of it."""
        with self.transaction() as transaction:
            driver(transaction).execute(f"PRAGMA user_version = {mark}")

    def _roll_back(self) -> None:
        if self.raw.in_transaction:
            self.raw.rollback()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The driver connection, with SQLite's errors translated."""
        with self.mutex, sqlite_errors(self.path):
            yield self.raw

    # -- single facts ----------------------------------------------------------------------

    def get_meta(self, name: str) -> Any:
        """Returns a fact of the meta table, or None."""
        with self.mutex, sqlite_errors(self.path):
            while True:
                row = self.raw.execute("SELECT name, value FROM meta WHERE name = ?", (name,)).fetchone()
                if row is None and self.found_once(f"no {name}", lambda: is_no_fact(self.raw, self.path, name)):
                    return None
                if row is not None and row[0] == name:
                    return row[1]
                if row is not None:
                    raise misplaced(self.path, f"a lookup of the fact {name!r} finds {row[0]!r}")

    def all_meta(self) -> dict[str, Any]:
        """Returns every fact of the meta table but those that can be long."""
        query = "SELECT name, value FROM meta WHERE name NOT IN (?, ?)"
        with self.mutex, sqlite_errors(self.path):
            facts = self.raw.execute(f"{query} ORDER BY name", (MISSING_KEYS, MERGED)).fetchall()
        check_order(self.path, (name for name, _ in facts), "")
        return dict(facts)

    # -- all of it -------------------------------------------------------------------------

    def rows(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Returns all rows of a query that only reads."""
        with self.mutex, sqlite_errors(self.path):
            return self.raw.execute(query, parameters).fetchall()

    def version(self) -> tuple[int, int]:
        """Returns what differs from before when anything was written, by this connection or another."""
        return self.data_version(), self.raw.total_changes

    def found_once(self, name: str, find: Callable[[], Found]) -> Found:
        """Returns what a function finds in the journal; it is not called again while nothing is written.

        What is found within a transaction is not kept: a rollback would leave the version as it is.
        """
        with self.mutex:
            version = self.version()
            known = self.found.get(name)
            if known is None or known[0] != version:
                known = version, find()
                if not self.raw.in_transaction:
                    self.found[name] = known
            found: Found = known[1]
            return found

    def data_version(self) -> int:
        """Returns a number that changes when another connection has committed."""
        with self.mutex, sqlite_errors(self.path):
            return int(self.raw.execute("PRAGMA data_version").fetchone()[0])

    def can_count_cells(self) -> bool:
        """True where SQLite was built with the table that tells how many cells an index has."""
        if self._counts_cells is None:
            options = self.raw.execute("PRAGMA compile_options").fetchall()
            self._counts_cells = ("ENABLE_DBSTAT_VTAB",) in options
        return self._counts_cells


def driver(transaction: Transaction) -> sqlite3.Connection:
    """Returns the sqlite3 connection below a transaction."""
    return transaction.raw


def put_meta(transaction: Transaction, facts: Mapping[str, Any]) -> None:
    """Sets facts of the meta table within a transaction; None removes one."""
    raw = driver(transaction)
    raw.executemany(
        "DELETE FROM meta WHERE name = ?", [(name,) for name, value in facts.items() if value is None]
    )
    raw.executemany(
        "INSERT INTO meta(name, value) VALUES (?, ?) ON CONFLICT(name) DO UPDATE SET value = excluded.value",
        [(name, value) for name, value in facts.items() if value is not None],
    )


def _check_commits(path: Path) -> None:
    """Refuses a journal that has lost acknowledged commits, before anything of it is moved or removed."""
    files = side_files(path)
    missing = 0 if size_of(path) is None else look_for_missing(path, files.wal, read_mark(files.mark))
    if missing:
        raise lost_commits(path, missing)


def lost_commits(path: Path, missing: int) -> LostCommitsError:
    """Returns the error of a journal that has lost so many commits."""
    return LostCommitsError(
        f"{path} has lost at least {missing} acknowledged commits: its WAL is damaged or missing; open the "
        "database for writing, or run recover, which sets right what can be"
    )


def _connected(owned: OwnedConnection, path: Path, *, create: bool) -> sqlite3.Connection:
    mode = "rwc" if create else "rw"
    raw = owned.open(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=_BUSY_TIMEOUT_SECONDS,
    )
    raw.execute("PRAGMA synchronous = FULL")
    raw.execute("PRAGMA temp_store = MEMORY")
    raw.execute("PRAGMA cache_size = -16000")
    raw.execute("PRAGMA trusted_schema = OFF")
    return raw


__all__ = [
    "MERGED",
    "MISSING_KEYS",
    "Journal",
    "Transaction",
    "driver",
    "is_cut_to_nothing",
    "is_open_here",
    "lost_commits",
    "put_meta",
    "sqlite_errors",
]
