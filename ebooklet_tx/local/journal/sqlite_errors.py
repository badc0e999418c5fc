"""SQLite's complaints about a journal, in errors of ours that name it and the way out.

The invariant: `JournalDamagedError` is raised only where reading the whole file again, through a
connection of its own, says too that the bytes are no sound database: a read that fails passes for damage, now
and then. Whatever may be the disk's, the system's or another process's doing is `LocalStorageError`, which
promises that nothing was changed.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from ebooklet_tx.errors import JournalDamagedError, LetGoError, LocalStorageError
from ebooklet_tx.local.journal.connections import connected
from ebooklet_tx.local.journal.schema import SOUND_ROW

SQLITE_FAULTS = (sqlite3.DatabaseError, UnicodeDecodeError)
"""What the driver raises about a database: with text that is no UTF-8 it can't even form its message."""

_BUSY_TIMEOUT_SECONDS = 30.0

_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_FORMAT")
_UNDECODABLE = "Could not decode to UTF-8"
_CLOSED = "closed database"

_WAYS_OUT = (
    (("SQLITE_FULL",), "the disk is full: make room and do it again; the last commit is intact"),
    (
        ("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH"),
        "check the owner and mode of the file and its folder",
    ),
    (
        ("SQLITE_BUSY", "SQLITE_LOCKED"),
        "another process keeps it locked; do it again when that has finished",
    ),
    (
        ("SQLITE_PROTOCOL",),
        "the system has refused to release a lock of this session on it, or other processes use it all the time; "
        "the last commit is intact, close the database and open it again",
    ),
    (("SQLITE_IOERR", "SQLITE_NOLFS"), "the disk fails or is full; the last commit is intact"),
    (("SQLITE_NOMEM",), "there is no memory left; the last commit is intact, do it again"),
)
_NO_WAY_KNOWN = (
    "the journal was left as it is; do it again, and if that does not help run recover, which sets it aside"
)


@contextlib.contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Turns SQLite's complaints about a journal into errors that name it and the way out."""
    try:
        yield
    except SQLITE_FAULTS as error:
        raise translated(error, path) from error
    except Exception as error:
        original = getattr(error, "orig", None)
        if isinstance(original, sqlite3.DatabaseError):
            raise translated(original, path) from error
        raise


def translated(error: Exception, path: Path) -> Exception:
    """Returns the error of ours for one of SQLite's about a journal, damage only where that is proven."""
    said = _as_said(error, path)
    if not isinstance(said, JournalDamagedError):
        return said
    try:
        proven = fails_its_check(path)
    except LocalStorageError as refused:
        return refused
    return said if proven else seeming_damage(path, error)


def seeming_damage(path: Path, error: Exception) -> LocalStorageError:
    """Returns what is raised of a journal that was called damaged, and is sound."""
    return LocalStorageError(
        0,
        f"{path} seemed damaged ({error}), but reading all of it again finds nothing wrong; nothing was changed, "
        "do it again",
    )


def fails_its_check(path: Path) -> bool:
    """Reads a whole journal through a connection of its own; True where it is damaged.

    Raises:
        LocalStorageError: It could not be read.
    """
    try:
        # Only reading: another connection's close would move a damaged WAL into the journal.
        address = f"{path.absolute().as_uri()}?mode=ro"
        with connected(address, uri=True, timeout=_BUSY_TIMEOUT_SECONDS) as raw:
            raw.execute("PRAGMA trusted_schema = OFF")
            return raw.execute("PRAGMA integrity_check(1)").fetchall() != [("ok",)] or _has_changed_rows(raw)
    except SQLITE_FAULTS as error:
        said = _as_said(error, path)
        if isinstance(said, JournalDamagedError):
            return True
        raise said from error


def _has_changed_rows(raw: sqlite3.Connection) -> bool:
    """True where a row of the index is not as it was written; older revisions have no check sums."""
    summed = raw.execute("SELECT 1 FROM pragma_table_xinfo('entry') WHERE name = 'row_check'").fetchone()
    return summed is not None and bool(
        raw.execute(f"SELECT 1 FROM entry WHERE NOT {SOUND_ROW} LIMIT 1").fetchone()
    )


def _as_said(error: Exception, path: Path) -> JournalDamagedError | LocalStorageError:
    name = getattr(error, "sqlite_errorname", "") or ""
    undecodable = isinstance(error, UnicodeDecodeError) or str(error).startswith(_UNDECODABLE)
    if undecodable or name.startswith(_DAMAGE):
        return JournalDamagedError(
            f"{path} is damaged ({error}); run recover, which sets it aside and rebuilds it"
        )
    if _CLOSED in str(error):
        return LetGoError(0, f"{path} was closed while it was used; open the database again", path=path)
    way_out = next((words for names, words in _WAYS_OUT if name.startswith(names)), _NO_WAY_KNOWN)
    return LocalStorageError(0, f"can't use the journal {path}: {error}; {way_out}")
