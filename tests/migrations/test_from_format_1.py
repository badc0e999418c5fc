"""From journals of the revisions that knew format 1: what they held is there, and can be written anew.

The golden pairs are of revision 0002. In both everything was pushed once, and pulled after another writer's
commits; of the complete one every value is on this machine, one of them in the journal alone, as it rode in the
index; the partial one knows of one more, which lies in a pack.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

from ebooklet_tx.errors import InvalidArgumentError, LocalStorageError, OfflineError, UnsupportedFormatError
from ebooklet_tx.local.journal import migrate
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.local.journal.schema import APPLICATION_ID, SOUND_ROW
from tests.documents.page_blocks import REPOSITORY
from tests.pairs import Bench, pending, root_of

GOLDEN = REPOSITORY / "tests" / "golden"
VALUES = {f"k{number:03}": b"value %d" % number for number in range(30) if number not in (3, 4)}
ITEMS = VALUES | {"k001": b"ours", "k002": b"ours", "k005": b"of b", "new": b"new", "large": b"l" * 10_000}
LATE = {"late": b"rides in the index"}
PENDING = {"k001": "set", "k002": "set", "k003": "delete", "new": "set"}
METADATA = {"m": 1}


def use(bench: Bench, name: str, revision: str = "0002", copy: str = "a") -> None:
    """Puts a golden pair in a bench, and a root of format 1 where its remote is."""
    shutil.copyfile(GOLDEN / f"{name}.blt", bench.path(copy))
    shutil.copyfile(GOLDEN / f"{name}.blt.journal", bench.journal(copy))
    if revision == "0001":
        make_older(bench.journal(copy))
    bench.root.parent.mkdir(exist_ok=True)
    shutil.copyfile(GOLDEN / "root_v1.bin", bench.root)


def make_older(path: Path) -> None:
    """Writes a journal of revision 0002 down as revision 0001 has it, made by its migration."""
    older = path.with_name("older")
    with contextlib.closing(sqlite3.connect(older, isolation_level=None, check_same_thread=False)) as raw:
        config = Config()
        config.set_main_option("script_location", str(migrate.migrations_folder()))
        engine = create_engine("sqlite://", creator=lambda: raw, poolclass=StaticPool)
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "0001")
            connection.commit()
        tables = [row[0] for row in raw.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        raw.execute("ATTACH ? AS newer", (str(path),))
        for table in tables:
            if table != "alembic_version":
                names = ", ".join(row[1] for row in raw.execute(f"PRAGMA main.table_xinfo({table})"))
                assert "row_check" not in names
                raw.execute(f"INSERT INTO main.{table}({names}) SELECT {names} FROM newer.{table}")
        (count,) = raw.execute("PRAGMA newer.user_version").fetchone()
        raw.execute(f"PRAGMA main.user_version = {count}")
        raw.execute(f"PRAGMA main.application_id = {APPLICATION_ID}")
        raw.execute("DETACH newer")
        raw.execute("PRAGMA journal_mode = WAL")
    older.replace(path)


def state(bench: Bench, flag: str, **options: Any) -> dict[str, Any]:
    with bench.open("a", flag, **options) as db:
        return {
            "items": dict(db.items()),
            "listed": list(db),
            "length": len(db),
            "metadata": db.get_metadata(),
            "pending": pending(db),
            "conflicts": [conflict.key for conflict in db.changes().conflicts()],
            "timestamps": dict(db.timestamps()).keys(),
        }


HELD = {
    "items": ITEMS | LATE,
    "listed": sorted(ITEMS | LATE),
    "length": len(ITEMS | LATE),
    "metadata": METADATA,
    # What rode in the index is here too, and has to be written again.
    "pending": PENDING | {"late": "set"},
    "conflicts": ["k001", "k002"],
    "timestamps": (ITEMS | LATE).keys(),
}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.parametrize("offline", [True, False])
@pytest.mark.parametrize("revision", ["0001", "0002"])
def test_all_that_it_held_is_there(bench: Bench, revision: str, offline: bool) -> None:
    use(bench, "journal_0002", revision)
    with pytest.raises(LocalStorageError, match="open the database for writing"):
        bench.open("a", "r")
    assert state(bench, "w", offline=offline) == HELD
    assert state(bench, "r", offline=offline) == HELD
    assert bench.journal().with_name(f"a.blt.journal.before-{revision}").exists()
    with contextlib.closing(sqlite3.connect(bench.journal())) as raw:
        assert raw.execute(f"SELECT count(*) FROM entry WHERE NOT {SOUND_ROW}").fetchone() == (0,)
        assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert raw.execute("PRAGMA foreign_key_check").fetchall() == []
        assert not raw.execute("SELECT 1 FROM sqlite_schema WHERE name LIKE '%before%'").fetchall()


def test_what_is_written_and_taken_back_on_top(bench: Bench) -> None:
    use(bench, "journal_0002")
    with bench.open("a", "w") as db:
        db["k006"] = b"changed"
        del db["k007"]
        db.sync()
        assert pending(db) == PENDING | {"late": "set", "k006": "set", "k007": "delete"}
        assert (db["k006"], "k007" in db, "no such" in db) == (b"changed", False, False)
        assert list(db.keys("k00")) == ["k000", "k001", "k002", "k005", "k006", "k008", "k009"]
    with bench.open("a", "w") as db:
        # The copy that it replaced was the last one that this version can read.
        assert db.changes().discard(["k006"]) == 1
        assert db["k008"] == VALUES["k008"]
        with pytest.raises(UnsupportedFormatError, match="1 key with values only in a remote"):
            list(db)


@pytest.mark.parametrize("revision", ["0001", "0002"])
def test_a_forced_push_alone_writes_the_remote_anew(bench: Bench, revision: str) -> None:
    use(bench, "journal_0002", revision)
    before = bench.root.read_bytes()
    with bench.open("a", "w") as db:
        with pytest.raises(UnsupportedFormatError, match=r"of format 1.*push\(force_push=True\)"):
            db.changes().push()
        assert pending(db) == HELD["pending"]
        assert bench.root.read_bytes() == before
        result = db.changes().push(force_push=True)
        assert (result.updated, result.set_count) == (True, len(ITEMS | LATE) + 1)
        assert pending(db) == {}
        assert (read_base(db._session.journal).format, read_base(db._session.journal).seq) == (2, 1)
        assert dict(db.items()) == ITEMS | LATE
    assert root_of(bench).manifest.uuid == "01a215a6be5282a2acce42fc3ea8d81c"
    assert bench.fresh_contents() == ITEMS | LATE | {"": METADATA}
    assert bench.contents("a") == ITEMS | LATE | {"": METADATA}
    with bench.open("a", "w") as db:
        db["more"] = b"1"
        assert db.changes().push()


def test_another_copy_follows_once_it_was_written_anew(bench: Bench) -> None:
    use(bench, "journal_0002")
    use(bench, "journal_0002_partial", copy="c")
    with bench.open("a", "w") as db:
        db.changes().push(force_push=True)
    with bench.open("c", "w") as db:
        db.changes().push(on_conflict="theirs")
    assert bench.contents("c") == bench.fresh_contents() == ITEMS | LATE | {"": METADATA}


def test_a_forced_push_that_fails_is_done_again(bench: Bench) -> None:
    use(bench, "journal_0002")
    with bench.open("a", "w", offline=True) as db, pytest.raises(OfflineError):
        db.changes().push(force_push=True)
    assert state(bench, "w")["items"] == ITEMS | LATE
    with bench.open("a", "w") as db:
        with pytest.raises(UnsupportedFormatError, match=r"push\(force_push=True\)"):
            db.changes().push()
        assert db.changes().push(force_push=True)
    assert bench.fresh_contents() == ITEMS | LATE | {"": METADATA}


def test_a_remote_that_is_gone_is_written_anew(bench: Bench) -> None:
    use(bench, "journal_0002")
    bench.root.unlink()
    with bench.open("a", "c") as db:
        assert db.changes().push(force_push=True)
    assert bench.fresh_contents() == ITEMS | LATE | {"": METADATA}


def test_what_the_old_remote_alone_has_is_never_taken_for_missing(bench: Bench) -> None:
    use(bench, "journal_0002_partial")
    before = bench.root.read_bytes()
    with bench.open("a", "w") as db:
        assert (db["k000"], db["late"], db.get_metadata()) == (b"value 0", LATE["late"], METADATA)
        for read in (
            lambda: db["far"],
            lambda: "far" in db,
            lambda: list(db),
            lambda: dict(db.items()),
            lambda: db.load_items(),
            lambda: db.changes().push(force_push=True),
        ):
            with pytest.raises(UnsupportedFormatError, match="1 key with values only in a remote"):
                read()
    assert bench.root.read_bytes() == before
    with bench.open("a", "n") as db:
        db["anew"] = b"1"
        db.changes().push()
    assert bench.fresh_contents() == {"anew": b"1"}


def test_a_row_past_the_limits_is_served_and_told_how_to_mend(bench: Bench) -> None:
    """As versions without limits took in."""
    use(bench, "journal_0002")
    with contextlib.closing(sqlite3.connect(bench.journal())) as raw:
        raw.execute("UPDATE entry SET remote_timestamp_us = ? WHERE key = 'k006'", (2**60,))
        raw.commit()
    with bench.open("a", "w") as db:
        assert (db["k006"], db.get_timestamp("k006")) == (VALUES["k006"], 2**60)
        db["mine"] = b"1"
        db.sync()
        assert "k006" not in pending(db)
        with pytest.raises(InvalidArgumentError, match=r"'k006'.*set the key anew, or delete it"):
            db.changes().push(force_push=True)
        db["k006"] = b"anew"
        assert db.changes().push(force_push=True)
    assert bench.fresh_contents() == ITEMS | LATE | {"mine": b"1", "k006": b"anew", "": METADATA}


def test_a_copy_that_never_heard_of_it_is_told_the_ways_on(bench: Bench) -> None:
    use(bench, "journal_0002")
    for flag in ("r", "w", "c"):
        with pytest.raises(UnsupportedFormatError, match=r"format 1.*flag 'n'"):
            bench.open("other", flag)
