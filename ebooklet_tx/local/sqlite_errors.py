"""SQLite's complaints about a journal, in errors of ours that name it and the way out.

Owns no state. The invariant: only what says that the bytes are no sound database is `JournalDamagedError`;
whatever may be the disk's, the system's or another process's doing is `LocalStorageError`, which promises
that nothing was changed.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from ebooklet_tx.errors import JournalDamagedError, LocalStorageError

SQLITE_FAULTS = (sqlite3.DatabaseError, UnicodeDecodeError)
"""What the driver raises about a database: with text that is no UTF-8 it can't even form its message."""

_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_FORMAT")
_UNDECODABLE = "Could not decode to UTF-8"

_WAYS_OUT = (
    (("SQLITE_FULL",), "the disk is full: make room and do it again; the last commit is intact"),
    (
        ("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH"),
        "check the owner and mode of the file and its folder",
    ),
    (
        ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL"),
        "another process keeps it locked; do it again when that has finished",
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
    """Returns the error of ours for one of SQLite's about a journal."""
    name = getattr(error, "sqlite_errorname", "") or ""
    undecodable = isinstance(error, UnicodeDecodeError) or str(error).startswith(_UNDECODABLE)
    if undecodable or name.startswith(_DAMAGE):
        return JournalDamagedError(
            f"{path} is damaged ({error}); run recover, which sets it aside and rebuilds it"
        )
    way_out = next((words for names, words in _WAYS_OUT if name.startswith(names)), _NO_WAY_KNOWN)
    return LocalStorageError(0, f"can't use the journal {path}: {error}; {way_out}")
