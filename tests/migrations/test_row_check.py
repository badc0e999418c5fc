"""From a journal of revision 0001, which has no check sums: all that it held is there, and summed."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

from ebooklet_tx.errors import LocalStorageError
from ebooklet_tx.local.journal import migrate
from ebooklet_tx.local.journal.schema import APPLICATION_ID, SOUND_ROW, TABLES
from tests.pairs import LARGE, Bench, make, push

VALUES = {f"k{number:03}": b"value %d" % number for number in range(300)}


def make_older(path: Path) -> None:
    """Writes a journal down as revision 0001 has it, made by its migration."""
    older = path.with_name("older")
    with contextlib.closing(sqlite3.connect(older, isolation_level=None, check_same_thread=False)) as raw:
        config = Config()
        config.set_main_option("script_location", str(migrate.migrations_folder()))
        engine = create_engine("sqlite://", creator=lambda: raw, poolclass=StaticPool)
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "0001")
            connection.commit()
        raw.execute("ATTACH ? AS newer", (str(path),))
        for table in sorted(TABLES - {"alembic_version"}):
            names = ", ".join(row[1] for row in raw.execute(f"PRAGMA main.table_xinfo({table})"))
            assert "row_check" not in names
            raw.execute(f"INSERT INTO main.{table}({names}) SELECT {names} FROM newer.{table}")
        (count,) = raw.execute("PRAGMA newer.user_version").fetchone()
        raw.execute(f"PRAGMA main.user_version = {count}")
        raw.execute(f"PRAGMA main.application_id = {APPLICATION_ID}")
        raw.execute("DETACH newer")
        assert raw.execute("SELECT version_num FROM alembic_version").fetchall() == [("0001",)]
        raw.execute("PRAGMA journal_mode = WAL")
    older.replace(path)


def state(bench: Bench, flag: str) -> dict[str, Any]:
    with bench.open("a", flag, offline=True) as db:
        changes = db.changes()
        return {
            "items": dict(db.items()),
            "timestamps": dict(db.timestamps()),
            "length": len(db),
            "metadata": db.get_metadata(),
            "changes": list(changes.iter_changes()),
            "conflicts": [
                (one.key, one.base_version, one.ours_version, one.theirs_version) for one in changes.conflicts()
            ],
        }


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A copy with values in its file, staged ones, pending sets and deletes, tombstones and conflicts."""
    bench = Bench(tmp_path)
    make(bench, VALUES | {"large": LARGE})
    with bench.open("a", "w") as db:
        db.set_metadata({"m": 1})
        db["k001"] = b"ours"
        db["k002"] = b"ours"
        db["new"] = b"new"
        del db["k003"]
        db.sync()
    push(bench, "b", {"k001": b"theirs", "k002": None, "k004": None, "k005": b"of b"})
    with bench.open("a", "w") as db:
        db.changes().pull()
        assert {one.key for one in db.changes().conflicts()} == {"k001", "k002"}
        db.load_items()
    return bench


def test_a_journal_without_sums_is_migrated(bench: Bench) -> None:
    before = state(bench, "r")
    assert len(before["conflicts"]) == 2
    assert {"k001", "k002", "k003", "new"} <= {change["key"] for change in before["changes"]}
    make_older(bench.journal())
    with pytest.raises(LocalStorageError, match="open the database for writing"):
        bench.open("a", "r")
    assert state(bench, "w") == before
    assert bench.journal().with_name("a.blt.journal.before-0001").exists()
    with contextlib.closing(sqlite3.connect(bench.journal())) as raw:
        assert raw.execute(f"SELECT count(*) FROM entry WHERE NOT {SOUND_ROW}").fetchone() == (0,)
        assert raw.execute("SELECT count(*) FROM entry WHERE row_check IS NULL").fetchone() == (0,)
        assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert not raw.execute("SELECT 1 FROM sqlite_schema WHERE name LIKE '%before%'").fetchall()
    assert state(bench, "r") == before
    with bench.open("a", "w") as db:
        db.changes().push(on_conflict="ours")
    assert bench.fresh_contents() == before["items"] | {"": {"m": 1}}
