"""Brings a journal to the revision that this code works with.

Owns the `alembic_version` table. The invariant: a journal is made, or migrated, within one BEGIN
IMMEDIATE, an older one after it was copied beside itself, so a kill leaves the old journal or the new
one. A new journal is made by the statements of `schema`. Alembic and SQLAlchemy are imported only to
migrate an older one: together they cost a third of a second.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import importlib.util
import os
import shutil
import sqlite3
from pathlib import Path

from ebooklet_tx.descriptors import Descriptor
from ebooklet_tx.errors import JournalUnusableError, LocalStorageError, UnsupportedFormatError
from ebooklet_tx.local.files.file_calls import fsync_folder, size_of, storage_errors
from ebooklet_tx.local.files.own_files import create_own
from ebooklet_tx.local.files.rights import rights_of
from ebooklet_tx.local.journal.schema import APPLICATION_ID, CREATE, REVISION, TABLES

_VERSION = "alembic_version"

ROOM_FACTOR = 4
"""How many times the size of a journal its migration may take beside it."""


def current_revision(raw: sqlite3.Connection, path: Path) -> str | None:
    """Returns a journal's revision by plain SQLite, or None when it is empty.

    Raises:
        JournalUnusableError: It is an SQLite database of another program, or a column of a journal is missing.
    """
    names = {row[0] for row in raw.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if not names:
        return None
    (application_id,) = raw.execute("PRAGMA application_id").fetchone()
    if application_id != APPLICATION_ID and not names >= TABLES:
        raise _unusable(path, "is an SQLite database, but no journal of ebooklet_tx")
    versions = raw.execute("SELECT version_num FROM alembic_version").fetchall() if _VERSION in names else []
    if len(versions) != 1:
        raise _unusable(path, "has lost its revision")
    revision = str(versions[0][0])
    if revision == REVISION and not names >= TABLES:
        raise _unusable(path, f"has lost its tables {', '.join(sorted(TABLES - names))}")
    return revision


def _unusable(path: Path, problem: str) -> JournalUnusableError:
    return JournalUnusableError(
        0,
        f"{path} {problem}; nothing was changed: put the right file in its place, or run recover, which sets "
        "this one aside and makes a new one from the Booklet file",
    )


def check_columns(raw: sqlite3.Connection, path: Path) -> None:
    """Looks whether the tables of a journal of the current revision have the columns that they should have.

    Raises:
        JournalUnusableError: Some are missing, as where a bit of the tables' definition has changed.
    """
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as model:
        make(model)
        for table in sorted(TABLES):
            missing = _columns(model, table) - _columns(raw, table)
            if missing:
                raise _unusable(path, f"has lost columns of the table {table}: {', '.join(sorted(missing))}")


def _columns(raw: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in raw.execute(f"PRAGMA table_xinfo({table})")}


def check_revision(revision: str | None, path: Path) -> bool:
    """Tells whether a journal has to be made or migrated.

    Raises:
        UnsupportedFormatError: It was written by a newer ebooklet_tx.
    """
    if revision == REVISION:
        return False
    if revision is not None and revision > REVISION:
        raise UnsupportedFormatError(
            f"{path} has revision {revision}, this ebooklet_tx knows up to {REVISION}; upgrade ebooklet_tx"
            f"{_told_backup(path)}"
        )
    return True


def _told_backup(path: Path) -> str:
    backups = _backups(path)
    if not backups:
        return ""
    return f". The journal as it was before it was migrated lies beside it: {backups[-1].name}"


def _backups(path: Path) -> list[Path]:
    """Returns the copies that were made before migrations, the oldest revision first."""
    return sorted(path.parent.glob(f"{glob.escape(path.name)}.before-[0-9][0-9][0-9][0-9]"))


def make(raw: sqlite3.Connection) -> None:
    """Makes a new journal's tables, as one transaction; durable when it returns, absent when it raises."""
    raw.execute("BEGIN IMMEDIATE")
    try:
        raw.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        for statement in CREATE:
            raw.execute(statement)
        raw.execute("INSERT INTO alembic_version(version_num) VALUES (?)", (REVISION,))
        raw.execute("COMMIT")
    except BaseException:
        raw.rollback()
        raise


def migrate(raw: sqlite3.Connection, path: Path, revision: str | None) -> None:
    """Runs the migrations that a journal has not seen, all of them when it is empty, as one transaction.

    Durable when it returns; when it raises, the journal is as it was, and for an older one the
    copy `<journal>.before-<revision>` lies beside it.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError
    from sqlalchemy import create_engine
    from sqlalchemy.pool import StaticPool

    if revision is not None:
        _check_room(path)
        _back_up(raw, path, revision)
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    # Never disposed of: that would close the journal's connection.
    engine = create_engine("sqlite://", creator=lambda: raw, poolclass=StaticPool)
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        try:
            connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
            command.upgrade(config, "head")
            connection.commit()
        except CommandError as error:
            connection.rollback()
            raise _unusable(path, f"has a revision that is not known ({error})") from error
        except BaseException:
            connection.rollback()
            raise


def migrations_folder() -> Path:
    """Finds the alembic environment: inside an installed package, beside it in a source tree."""
    spec = importlib.util.find_spec("ebooklet_tx")
    if spec is None or spec.origin is None:
        raise UnsupportedFormatError("the package ebooklet_tx has no files on disk; install it from a wheel")
    package = Path(spec.origin).parent
    for folder in (package / "migrations", package.parent / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise UnsupportedFormatError(
        f"the migrations of ebooklet_tx are missing beside {package}; install the package again"
    )


def _check_room(path: Path) -> None:
    """Refuses to begin a migration that the disk has no room for: the copy, the new tables, and the WAL."""
    size_bytes = sum(size_of(path.with_name(path.name + suffix)) or 0 for suffix in ("", "-wal"))
    with storage_errors(path, "look at"):
        free_bytes = shutil.disk_usage(path.parent).free
    if free_bytes < ROOM_FACTOR * size_bytes:
        raise LocalStorageError(
            errno.ENOSPC,
            f"{path} has to be migrated, which takes up to {ROOM_FACTOR * size_bytes} bytes beside it, and "
            f"{free_bytes} are free; nothing was changed: make room and open the database again",
        )


def _back_up(raw: sqlite3.Connection, path: Path, revision: str) -> None:
    """Copies a journal beside itself; of the copies that earlier migrations made none is left."""
    copy_path = path.with_name(f"{path.name}.before-{revision}")
    partial = copy_path.with_name(copy_path.name + ".partial")
    with storage_errors(partial, "write"), contextlib.closing(Descriptor()) as made:
        create_own(made, partial, rights_of(path))
        with contextlib.closing(sqlite3.connect(partial)) as copy:
            raw.backup(copy)
        os.fsync(made.number)
        partial.replace(copy_path)
        fsync_folder(path.parent)
        for other in _backups(path):
            if other != copy_path:
                other.unlink()
