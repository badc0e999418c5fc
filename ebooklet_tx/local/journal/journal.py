"""The journal: one SQLite database that is the truth about the values beside it.

Owns `<file>.journal` with its `-wal` and `-shm`. The invariant: every change is one transaction
with `synchronous=FULL`, made while the session holds the value file's lock; what a commit returned
from survives power loss, and a reader sees whole transactions only.

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ebooklet_tx.errors import JournalDamagedError, LocalMissingError, LocalStorageError, LostCommitsError
from ebooklet_tx.local.files.file_calls import size_of, storage_errors
from ebooklet_tx.local.files.own_files import JOURNAL_SUFFIX, check_no_link, make_beside
from ebooklet_tx.local.journal import migrate
from ebooklet_tx.local.journal.connections import OwnedConnection
from ebooklet_tx.local.journal.integrity.commit_mark import MarkWriter, count_after, read_mark
from ebooklet_tx.local.journal.integrity.lost_commits import commit_count, look_for_missing
from ebooklet_tx.local.journal.integrity.row_checks import (
    NO_ENTRY,
    PENDING_ENDS_FIT,
    check_order,
    is_absent,
    is_no_fact,
    is_sound,
    is_sound_place,
    location_of,
    misplaced,
    moved_ends,
)
from ebooklet_tx.local.journal.schema import SOUND_ROW, STALE
from ebooklet_tx.local.journal.sqlite_errors import SQLITE_FAULTS, sqlite_errors, translated

PENDING_NONE, PENDING_SET, PENDING_DELETE = 0, 1, 2

MISSING_KEYS = "missing_keys"
"""The fact that lists keys whose deletion may be accepted, packed; it can be long."""

VISIBLE = "(pending = 1 OR (pending = 0 AND remote_digest IS NOT NULL))"
"""SQL that is true of an entry that a reader sees."""

_ENTRY_COLUMNS = (
    f"key, CASE WHEN {SOUND_ROW} THEN pending END, pending_timestamp_us, pending_digest, pending_length_bytes, "
    "remote_seq, remote_timestamp_us, remote_digest, remote_object, remote_offset_bytes, "
    "remote_length_bytes, local_timestamp_us, local_digest, local_offset_bytes, local_length_bytes"
)
"""Of a row that is not as it was written `pending` is NULL, which `is_sound` finds."""

_VISIBLE_DIGEST = "CASE pending WHEN 0 THEN remote_digest WHEN 1 THEN pending_digest END"
_ONE_PLACE = f"""
SELECT CASE WHEN {SOUND_ROW} THEN key END,
  CASE pending WHEN 0 THEN remote_timestamp_us ELSE pending_timestamp_us END,
  local_digest, local_offset_bytes, local_length_bytes
FROM entry WHERE key = ?
  AND local_digest = {_VISIBLE_DIGEST}
"""
_COUNTS = """
SELECT (SELECT value FROM meta WHERE name = 'base_key_count'), count(*), count(DISTINCT key),
  coalesce(sum(+pending IN (1, 2) AND {sound}), 0),
  coalesce(sum(CASE WHEN key != '' THEN (pending = 1) - (remote_digest IS NOT NULL) END), 0), {indexed}, {fit}
FROM entry WHERE pending != 0
"""
_INDEXED = "(SELECT sum(ncell) FROM dbstat WHERE name = 'entry_pending')"
"""How many keys the index of what is pending has; a key whose row is not found is left out by all other SQL."""

_ONE_ENTRY = f"SELECT {_ENTRY_COLUMNS} FROM entry WHERE key = ?"
_SIDE_SUFFIXES = ("-wal", "-shm", "-journal", "-mark")
_BUSY_TIMEOUT_SECONDS = 30.0
_KEYS_AT_ONCE = 500


class Entry(NamedTuple):
    """One row of the index, without the base columns."""

    key: str
    pending: int
    pending_timestamp_us: int | None
    pending_digest: bytes | None
    pending_length_bytes: int | None
    remote_seq: int | None
    remote_timestamp_us: int | None
    remote_digest: bytes | None
    remote_object: int | None
    remote_offset_bytes: int | None
    remote_length_bytes: int | None
    local_timestamp_us: int | None
    local_digest: bytes | None
    local_offset_bytes: int | None
    local_length_bytes: int | None

    @property
    def digest(self) -> bytes | None:
        """The digest of the value that a reader sees; None when it sees none."""
        if self.pending == PENDING_NONE:
            return self.remote_digest
        return self.pending_digest if self.pending == PENDING_SET else None

    @property
    def timestamp_us(self) -> int:
        """When the value that a reader sees was set."""
        stamp = self.remote_timestamp_us if self.pending == PENDING_NONE else self.pending_timestamp_us
        return stamp or 0

    @property
    def length_bytes(self) -> int:
        """The encoded length of the value that a reader sees."""
        length = self.remote_length_bytes if self.pending == PENDING_NONE else self.pending_length_bytes
        return length or 0


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
    """

    def __init__(self, path: Path, owned: OwnedConnection, raw: sqlite3.Connection) -> None:
        self.path = path
        self.raw = raw
        self.mutex = threading.RLock()
        self._owned = owned
        self._counts_cells: bool | None = None
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
            JournalUnusableError: It is one, but not a journal of ours, or lacks what a journal has.
            LocalMissingError: It is empty, and `create` is False: whoever began to make it died.
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

    def forget_in_child(self) -> None:
        """In a forked child: makes sure that SQLite never closes what belongs to the parent.

        SQLite forbids carrying a connection through a fork. Closing it here could checkpoint the
        parent's WAL, so one reference is given away for good and the process's end cleans up.
        """
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.raw))

    # -- transactions ----------------------------------------------------------------------

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """One BEGIN IMMEDIATE: durable as a whole when the block ends, absent when it raises.

        `driver(transaction)` gives the sqlite3 connection to execute statements on.
        """
        with self.mutex, sqlite_errors(self.path):
            # What an interrupt left open, in the handlers below, was never acknowledged.
            self._roll_back()
            try:
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
        self._mark.write(count)

    def catch_up(self, mark: int) -> None:
        """Goes on counting commits behind a mark that this journal no longer reaches."""
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
                if row is None and is_no_fact(self.raw, self.path, name):
                    return None
                if row is not None and row[0] == name:
                    return row[1]
                if row is not None:
                    raise misplaced(self.path, f"a lookup of the fact {name!r} finds {row[0]!r}")

    def all_meta(self) -> dict[str, Any]:
        """Returns every fact of the meta table but the one that can be long."""
        query = "SELECT name, value FROM meta WHERE name != ?"
        with self.mutex, sqlite_errors(self.path):
            facts = self.raw.execute(f"{query} ORDER BY name", (MISSING_KEYS,)).fetchall()
        check_order(self.path, (name for name, _ in facts), "")
        return dict(facts)

    # -- entries ---------------------------------------------------------------------------

    def entry(self, key: str) -> Entry | None:
        """Looks one key up."""
        try:
            while (row := self.raw.execute(_ONE_ENTRY, (key,)).fetchone()) is None:
                if is_absent(self.raw, self.path, key):
                    return None
        except SQLITE_FAULTS as error:
            raise translated(error, self.path) from error
        if row[0] != key or not is_sound(row):
            raise misplaced(self.path, f"a lookup of {key!r} finds a row of {row[0]!r}")
        return Entry(*row)

    def place(self, key: str) -> tuple[int | None, bytes, int, int] | None:
        """Returns (timestamp, digest, offset, length) of a key whose visible value the Booklet file holds."""
        try:
            found = self.raw.execute(_ONE_PLACE, (key,)).fetchone()
        except SQLITE_FAULTS as error:
            raise translated(error, self.path) from error
        if found is None:
            return None
        if found[0] != key:
            raise misplaced(self.path, f"a lookup of {key!r} finds a row of {found[0]!r}")
        place: tuple[int | None, bytes, int, int] = found[1:]
        if not is_sound_place(*place):
            raise misplaced(self.path, f"the place of {key!r} is none")
        return place

    def entries(self, where: str, parameters: tuple[Any, ...] = ()) -> Iterator[Entry]:
        """Yields the entries for which some SQL holds, in order of key, from one snapshot."""
        with sqlite_errors(self.path):
            rows = self.raw.execute(f"SELECT {_ENTRY_COLUMNS} FROM entry WHERE {where} ORDER BY key", parameters)
            yield from self._in_order(rows)

    def _in_order(self, rows: Iterable[tuple[Any, ...]]) -> Iterator[Entry]:
        """Yields rows as entries, after a look at each: whether it is one, and behind the one before it."""
        before: str | None = None
        for row in rows:
            key = row[0]
            if not isinstance(key, str) or (before is not None and key <= before) or not is_sound(row):
                raise misplaced(self.path, f"{key!r} comes behind {before!r}")
            before = key
            yield Entry._make(row)

    def entries_of(self, keys: Sequence[str]) -> dict[str, Entry]:
        """Looks many keys up; those that it has never heard of are left out."""
        rows = self._rows_of(keys, f"SELECT {_ENTRY_COLUMNS} FROM entry")
        return self._all_there(keys, {row[0]: Entry._make(row) for row in rows})

    def entries_in_order(self, keys: Sequence[str]) -> dict[str, Entry]:
        """Likewise, for keys in order that are about all that there are from the first to the last."""
        query = f"SELECT {_ENTRY_COLUMNS} FROM entry WHERE key >= ? AND key <= ? ORDER BY key"
        with self.mutex, sqlite_errors(self.path):
            rows = self.raw.execute(query, (keys[0], keys[-1])).fetchall()
        return self._all_there(keys, {entry.key: entry for entry in self._in_order(rows)})

    def _all_there(self, keys: Sequence[str], found: dict[str, Entry]) -> dict[str, Entry]:
        """Adds to what was found what came meanwhile; each key that is not in it is absent indeed."""
        for key in keys:
            entry = found.get(key)
            if entry is None and (entry := self.entry(key)) is not None:
                found[key] = entry
            elif entry is not None and not is_sound(entry):
                raise misplaced(self.path, f"a lookup of {key!r} finds no row of the index")
        return found

    def digests_of(self, keys: Sequence[str]) -> dict[str, tuple[bytes | None, bytes | None]]:
        """Returns the digests of what a reader sees and of what the Booklet file holds, for many keys."""
        rows = self._rows_of(keys, f"SELECT key, {_VISIBLE_DIGEST}, local_digest FROM entry")
        return {key: (visible, local) for key, visible, local in rows}

    def keys_with_local_copy(self, keys: Sequence[str]) -> list[str]:
        """Returns those of some keys for which the Booklet file holds something, current or not."""
        return [
            key for key, there in self._rows_of(keys, "SELECT key, local_digest IS NOT NULL FROM entry") if there
        ]

    def rows(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Returns all rows of a query that only reads."""
        with self.mutex, sqlite_errors(self.path):
            return self.raw.execute(query, parameters).fetchall()

    def version(self) -> tuple[int, int]:
        """Returns what differs from before when anything was written, by this connection or another."""
        return self.data_version(), self.raw.total_changes

    def _rows_of(self, keys: Sequence[str], select: str) -> Iterator[tuple[Any, ...]]:
        for start in range(0, len(keys), _KEYS_AT_ONCE):
            some = keys[start : start + _KEYS_AT_ONCE]
            marks = ",".join("?" * len(some))
            with self.mutex, sqlite_errors(self.path):
                rows = self.raw.execute(f"{select} WHERE key IN ({marks})", some).fetchall()
            yield from rows

    def pending_entries(self) -> list[Entry]:
        """Returns the entries that have an operation still to be pushed."""
        while True:
            version = self.version()
            found = list(self.entries("pending != 0"))
            count = _INDEXED if self._can_count_cells() else str(len(found))
            indexed, fits = self.rows(f"SELECT {count}, {PENDING_ENDS_FIT}")[0]
            if indexed == len(found) and fits and all(entry.pending for entry in found):
                return found
            if self.version() == version:
                raise misplaced(self.path, f"{indexed} keys are pending, and {len(found)} are found")

    def stale_keys(self) -> list[str]:
        """Returns the keys whose bytes in the Booklet file are not what a reader sees."""
        with self.mutex, sqlite_errors(self.path):
            return [row[0] for row in self.raw.execute(f"SELECT key FROM entry WHERE {STALE}")]

    def keys_page(self, after: str, prefix: str, limit: int) -> list[str]:
        """Returns up to `limit` visible user keys behind `after`, in order; none only where there are no more."""
        upper = _prefix_end(prefix)
        ends = () if upper is None else (upper,)
        while True:
            # One bound below: of two SQLite would take the first, however far away it is.
            begun = after >= prefix and bool(after)
            position = after if begun else prefix
            bounds = ("key > ?" if begun else "key >= ?") + ("" if upper is None else " AND key < ?")
            query = (
                f"SELECT key, {VISIBLE}, {NO_ENTRY} FROM entry WHERE {bounds} AND key != '' ORDER BY key LIMIT ?"
            )
            self.entry(position)
            with self.mutex, sqlite_errors(self.path):
                rows = self.raw.execute(query, (position, *ends, limit)).fetchall()
            check_order(self.path, (row[0] for row in rows), after)
            if any(row[2] for row in rows):
                raise misplaced(self.path, f"a row behind {position!r} is none of the index")
            if not rows:
                # Where a page of other keys begins here, the end would come too early.
                self.entry(position + "\0")
                return []
            page = [row[0] for row in rows if row[1]]
            if page:
                return page
            after = rows[-1][0]

    def visible_count(self) -> int:
        """Returns how many user keys a reader sees; costs the pending operations, not the size."""
        with self.mutex, sqlite_errors(self.path):
            # One statement: between two of them a push beside could move keys from one count to the other.
            indexed = _INDEXED if self._can_count_cells() else "count(*)"
            query = _COUNTS.format(indexed=indexed, sound=SOUND_ROW, fit=PENDING_ENDS_FIT)
            remote_count, *counts, change, indexed, fits = self.raw.execute(query).fetchone()
        if {*counts} != {indexed} or not fits:
            raise misplaced(self.path, f"{indexed} keys are pending, and {counts[-1]} are found")
        if remote_count is None:
            remote_count = self.get_meta("base_key_count") or 0
        return int(remote_count) + int(change)

    def _can_count_cells(self) -> bool:
        """True where SQLite was built with the table that tells how many cells an index has."""
        if self._counts_cells is None:
            options = self.raw.execute("PRAGMA compile_options").fetchall()
            self._counts_cells = ("ENABLE_DBSTAT_VTAB",) in options
        return self._counts_cells

    def data_version(self) -> int:
        """Returns a number that changes when another connection has committed."""
        with self.mutex, sqlite_errors(self.path):
            return int(self.raw.execute("PRAGMA data_version").fetchone()[0])

    def staged_bytes(self) -> int:
        """Returns how many value bytes wait in the journal for the Booklet file."""
        with self.mutex, sqlite_errors(self.path):
            return int(self.raw.execute("SELECT coalesce(sum(length(value)), 0) FROM staged").fetchone()[0])

    def has_staged(self) -> bool:
        """True when values wait in the journal for the Booklet file."""
        with self.mutex, sqlite_errors(self.path):
            return self.raw.execute("SELECT 1 FROM staged LIMIT 1").fetchone() is not None

    def held_value(self, key: str, digest: bytes) -> bytes | None:
        """Returns a value of that digest that lies in the journal itself, staged or inline."""
        with self.mutex, sqlite_errors(self.path):
            row = self.raw.execute(
                "SELECT value FROM staged WHERE key = ? AND digest = ? "
                "UNION ALL SELECT value FROM inline_value WHERE digest = ? LIMIT 1",
                (key, digest, digest),
            ).fetchone()
        return None if row is None else bytes(row[0])


def entries_of(raw: sqlite3.Connection, keys: Sequence[str]) -> list[Entry]:
    """Looks up a few hundred keys at most; those that the journal has never heard of are left out."""
    marks = ",".join("?" * len(keys))
    query = f"SELECT {_ENTRY_COLUMNS} FROM entry WHERE key IN ({marks}) ORDER BY key"
    found = [Entry._make(row) for row in raw.execute(query, keys)]
    for entry in found:
        if not is_sound(entry):
            raise misplaced(location_of(raw), f"the row of {entry.key!r} is not as it was written")
    return found


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
        raise LostCommitsError(
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


def _prefix_end(prefix: str) -> str | None:
    """Returns the least str above every str with a prefix, or None when there is none."""
    while prefix:
        last = ord(prefix[-1])
        if last < 0x10FFFF:
            following = last + 1
            # Surrogates are no characters that UTF-8 can hold.
            return prefix[:-1] + chr(0xE000 if 0xD800 <= following <= 0xDFFF else following)
        prefix = prefix[:-1]
    return None


__all__ = [
    "MISSING_KEYS",
    "PENDING_DELETE",
    "PENDING_NONE",
    "PENDING_SET",
    "Entry",
    "Journal",
    "Transaction",
    "driver",
    "entries_of",
    "is_cut_to_nothing",
    "is_open_here",
    "put_meta",
    "sqlite_errors",
]
