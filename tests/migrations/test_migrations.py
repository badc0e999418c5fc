"""The journal's revisions: code and migrations agree, and a migration happens whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from ebooklet_tx.errors import (
    InvalidArgumentError,
    JournalUnusableError,
    LocalMissingError,
    LocalStorageError,
    UnsupportedFormatError,
)
from ebooklet_tx.local.journal import migrate, schema, tables
from ebooklet_tx.local.journal.journal import Journal, put_meta
from tests.pairs import Bench

OTHER = "9998"
"""A revision of a later version of this package, made up."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal of the current revision with a fact in it."""
    path = tmp_path / "x.journal"
    journal = Journal.open(path, create=True)
    with journal.transaction() as connection:
        put_meta(connection, {"kept": "fact"})
    journal.close()
    return path


def test_the_code_knows_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrate.migrations_folder()))
    assert ScriptDirectory.from_config(config).get_current_head() == schema.REVISION


@pytest.fixture
def migrated(tmp_path: Path) -> Path:
    """A journal that all migrations have made, from nothing."""
    path = tmp_path / "migrated.journal"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as raw:
        migrate.migrate(raw, path, None)
    return path


def test_a_new_journal_is_what_all_migrations_make(path: Path, migrated: Path) -> None:
    assert definitions(path) == definitions(migrated)
    for table, kind, sql in definitions(path):
        if kind == "table":
            assert sql
            for pragma in ("table_xinfo", "index_list", "foreign_key_list"):
                question = f"SELECT * FROM pragma_{pragma}(?)"
                assert ask(path, question, table) == ask(migrated, question, table), (table, pragma)
            assert table_options(path, table) == table_options(migrated, table)
    # Not user_version: that counts commits.
    for pragma in ("application_id", "page_size", "encoding", "auto_vacuum"):
        assert ask(path, f"PRAGMA {pragma}") == ask(migrated, f"PRAGMA {pragma}"), pragma
    versions = "SELECT version_num FROM alembic_version"
    assert ask(path, versions) == ask(migrated, versions) == [(schema.REVISION,)]


def test_the_tables_are_described_as_they_are(path: Path, tmp_path: Path) -> None:
    made = create_engine(f"sqlite:///{path}")
    with made.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []
    made.dispose()
    described = create_engine(f"sqlite:///{tmp_path / 'described'}")
    tables.metadata.create_all(described)
    described.dispose()
    expected = [one for one in definitions(path) if "alembic_version" not in one[0]]
    assert definitions(tmp_path / "described") == expected


def test_a_journal_whose_making_fails_stays_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.journal"
    with monkeypatch.context() as patch:
        patch.setattr(migrate, "CREATE", (*schema.CREATE[:-1], "CREATE TABLE meta(no"))
        with pytest.raises(LocalStorageError, match="incomplete input"):
            Journal.open(path, create=True)
    assert definitions(path) == []
    with pytest.raises(LocalMissingError, match="is empty"):
        Journal.open(path, create=False)
    Journal.open(path, create=True).close()
    assert ask(path, "SELECT version_num FROM alembic_version") == [(schema.REVISION,)]


def definitions(path: Path) -> list[tuple[str, str, str | None]]:
    """All tables and indexes by name, without what makes no difference in their text."""
    rows = ask(path, "SELECT name, type, sql FROM sqlite_schema ORDER BY name")
    return [(str(name), str(kind), None if sql is None else plain_sql(str(sql))) for name, kind, sql in rows]


def plain_sql(sql: str) -> str:
    return re.sub(r"\s*([(),])\s*", r"\1", " ".join(sql.replace('"', "").split()))


def ask(path: Path, statement: str, *parameters: object) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as raw:
        return raw.execute(statement, parameters).fetchall()


def table_options(path: Path, table: str) -> list[tuple[object, ...]]:
    return ask(path, "SELECT type, wr, strict FROM pragma_table_list WHERE name = ?", table)


def set_revision(path: Path, revision: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as raw:
        raw.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        raw.commit()


def test_a_newer_journal_is_refused_and_left_alone(path: Path) -> None:
    set_revision(path, OTHER)
    before = path.read_bytes()
    for create in (True, False):
        with pytest.raises(UnsupportedFormatError, match="upgrade ebooklet_tx"):
            Journal.open(path, create=create)
    assert path.read_bytes() == before


def test_a_newer_journal_is_not_set_aside(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with bench.open() as db:
        db["k"] = b"1"
        db.changes().push()
    set_revision(bench.journal(), OTHER)
    for flag in ("r", "w", "c"):
        with pytest.raises(UnsupportedFormatError, match="upgrade ebooklet_tx"):
            bench.open("a", flag)
    assert list(tmp_path.glob("*.aside-*")) == []


def test_databases_of_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other"
    with contextlib.closing(sqlite3.connect(path)) as raw:
        raw.execute("CREATE TABLE alembic_version(version_num)")
        raw.commit()
    with pytest.raises(JournalUnusableError, match="no journal of ebooklet_tx"):
        Journal.open(path, create=True)


def test_opening_imports_neither_alembic_nor_sqlalchemy(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "import ebooklet_tx\n"
        "for flag in ('n', 'w', 'r'):\n"
        "    with ebooklet_tx.open(sys.argv[1], sys.argv[2], flag) as db:\n"
        "        if flag == 'n':\n"
        "            db['k'] = b'1'\n"
        "            db.changes().push()\n"
        "        assert db['k'] == b'1'\n"
        "ebooklet_tx.status(sys.argv[2])\n"
        "print(sorted({'alembic', 'sqlalchemy'} & set(sys.modules)))\n"
    )
    url, path = f"file://{tmp_path}/remote/db", tmp_path / "x.blt"
    run = subprocess.run(
        [sys.executable, "-c", program, url, str(path)], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


# -- an older journal ----------------------------------------------------------------------------

NEXT_REVISION = """
import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = "{before}"
branch_labels = None
depends_on = None


def upgrade():
    op.add_column("meta", sa.Column("added", sa.Integer))
    {then}
"""


@contextlib.contextmanager
def later_version(folder: Path, monkeypatch: pytest.MonkeyPatch, then: str = "pass") -> Iterator[None]:
    """The package as it will be with one more migration."""
    migrations = folder / "migrations 100%"
    shutil.copytree(migrate.migrations_folder(), migrations, ignore=shutil.ignore_patterns("__pycache__"))
    text = NEXT_REVISION.format(revision=OTHER, before=schema.REVISION, then=then)
    (migrations / "versions" / f"{OTHER}_next.py").write_text(text)
    with monkeypatch.context() as patch:
        patch.setattr(migrate, "REVISION", OTHER)
        patch.setattr(migrate, "migrations_folder", lambda: migrations)
        yield


def test_an_older_journal_is_copied_and_migrated(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with later_version(tmp_path, monkeypatch):
        journal = Journal.open(path, create=True)
        assert journal.get_meta("kept") == "fact"
        journal.close()
        assert ask(path, "SELECT version_num FROM alembic_version") == [(OTHER,)]
        assert ask(path, "SELECT name, added FROM meta") == [("kept", None)]
    copy = path.with_name(f"{path.name}.before-{schema.REVISION}")
    assert ask(copy, "SELECT version_num FROM alembic_version") == [(schema.REVISION,)]
    assert ask(copy, "SELECT name, value FROM meta") == [("kept", "fact")]
    assert not list(tmp_path.glob("*.partial"))
    # The copy is a journal that this version opens.
    Journal.open(copy, create=True).close()


def test_of_the_copies_the_last_is_kept(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older = path.with_name(f"{path.name}.before-0001")
    older.write_bytes(b"of an earlier migration")
    with later_version(tmp_path, monkeypatch):
        Journal.open(path, create=True).close()
    assert [found.name for found in path.parent.glob("x.journal.before-*")] == [
        f"{path.name}.before-{schema.REVISION}"
    ]
    # For who opens it with the version that it was migrated from.
    with pytest.raises(UnsupportedFormatError, match=rf"{OTHER}.*x\.journal\.before-{schema.REVISION}"):
        Journal.open(path, create=True)


def test_a_migration_that_the_disk_has_no_room_for_is_not_begun(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = path.stat().st_size

    with later_version(tmp_path, monkeypatch), monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: Usage)
        with pytest.raises(LocalStorageError, match="are free; nothing was changed") as caught:
            Journal.open(path, create=True)
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.glob("*.before-*"))
    assert ask(path, "SELECT version_num FROM alembic_version") == [(schema.REVISION,)]
    Journal.open(path, create=True).close()


def test_reading_migrates_nothing(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = pytest.raises(LocalStorageError, match="open the database for writing")
    with later_version(tmp_path, monkeypatch), refused:
        Journal.open(path, create=False)
    assert ask(path, "SELECT version_num FROM alembic_version") == [(schema.REVISION,)]
    assert not list(tmp_path.glob("*.before-*"))


def test_a_failing_migration_leaves_the_old_journal(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = 'raise RuntimeError("no more")'
    with later_version(tmp_path, monkeypatch, then=fails), pytest.raises(RuntimeError, match="no more"):
        Journal.open(path, create=True)
    assert ask(path, "SELECT version_num FROM alembic_version") == [(schema.REVISION,)]
    assert "added" not in [row[1] for row in ask(path, "PRAGMA table_info(meta)")]
    journal = Journal.open(path, create=True)
    assert journal.get_meta("kept") == "fact"
    journal.close()


def test_a_database_of_an_older_version_is_migrated_by_a_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)
    with bench.open() as db:
        db["k"] = b"1"
        db.changes().push()
    with later_version(tmp_path, monkeypatch):
        with pytest.raises(LocalStorageError, match="open the database for writing"):
            bench.open("a", "r")
        with bench.open("a", "w") as db:
            assert db["k"] == b"1"
        with bench.open("a", "r") as db:
            assert db["k"] == b"1"


def test_migrations_run_by_the_package_alone() -> None:
    from alembic import command

    config = Config()
    config.set_main_option("script_location", str(migrate.migrations_folder()))
    with pytest.raises(InvalidArgumentError):
        command.upgrade(config, "head")


def test_a_package_without_its_migrations_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Spec:
        origin = str(tmp_path / "package" / "__init__.py")

    monkeypatch.setattr("importlib.util.find_spec", lambda _: Spec)
    with pytest.raises(UnsupportedFormatError, match="install the package again"):
        migrate.migrations_folder()
    inside = tmp_path / "package" / "migrations"
    inside.mkdir(parents=True)
    (inside / "env.py").touch()
    assert migrate.migrations_folder() == inside
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UnsupportedFormatError, match="install it from a wheel"):
        migrate.migrations_folder()
