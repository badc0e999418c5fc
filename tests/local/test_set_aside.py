"""Journals that give way: only on proof, whole, and without piling up where nothing was pending."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

import ebooklet_tx
from ebooklet_tx.errors import JournalDamagedError, LocalStorageError
from ebooklet_tx.local.journal.entries import find_entry
from ebooklet_tx.local.journal.integrity.set_aside import set_aside
from ebooklet_tx.local.journal.journal import Journal, journal_path, side_files
from ebooklet_tx.local.local_store import LocalStore
from tests.pairs import Bench, push, writer_store

BASE = {f"k{number:03}": b"value %d" % number for number in range(40)}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A pushed copy whose journal alone holds one more, acknowledged value."""
    bench = Bench(tmp_path)
    push(bench, "a", BASE)
    stage(bench.path(), "staged", b"acknowledged")
    return bench


def stage(path: Path, key: str, value: bytes) -> None:
    store = LocalStore.open_writer(path, create=True)
    store.overlay.put(key, value, 5)
    store.commit()
    store.abandon()


def change(journal: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(journal, isolation_level=None)) as raw:
        raw.execute(statement)


def another_database(journal: Path) -> None:
    journal.unlink()
    change(journal, "CREATE TABLE of_another_program(x)")


def no_revision(journal: Path) -> None:
    change(journal, "DELETE FROM alembic_version")


def no_table(journal: Path) -> None:
    change(journal, "DROP TABLE entry")


def unknown_revision(journal: Path) -> None:
    change(journal, "UPDATE alembic_version SET version_num = '0000x'")


def test_a_definition_with_a_flipped_bit_is_for_recover(bench: Bench) -> None:
    content = bench.journal().read_bytes()
    bench.journal().write_bytes(content.replace(b"\ntimestamp_us INTEGER", b"\ntimestaop_us INTEGER"))
    with writer_store(bench.path()) as store, pytest.raises(LocalStorageError, match="run recover"):
        store.journal.rows("SELECT timestamp_us FROM staged")
    assert asides(bench) == []
    ebooklet_tx.recover(bench.path(), bench.url)
    assert len(asides(bench)) == 1
    with bench.open("a", "w") as db:
        assert dict(db.items()) == BASE


def test_a_definition_that_sqlite_calls_malformed_is_damage(bench: Bench) -> None:
    content = bench.journal().read_bytes()
    bench.journal().write_bytes(content.replace(b"local_timestamp_us INTEGER", b"local_timestaop_us INTEGER"))
    with bench.open("a", "w") as db:
        assert dict(db.items()) == BASE
        assert "malformed" in " ".join(db._session.local.report.actions)
    assert len(asides(bench)) == 1


def asides(bench: Bench) -> list[str]:
    return sorted(path.name for path in bench.folder.glob("a.blt.journal.aside-*"))


@pytest.mark.parametrize("make", [another_database, no_revision, no_table, unknown_revision])
def test_a_sound_database_of_no_use_is_left_until_recover_is_told(
    bench: Bench, make: Callable[[Path], None]
) -> None:
    make(bench.journal())
    kept = bench.journal().read_bytes()
    for flag in ("r", "w", "c"):
        with pytest.raises(LocalStorageError, match=r"nothing was changed|open the database for writing"):
            bench.open("a", flag)
        assert asides(bench) == []
        assert bench.journal().read_bytes() == kept
    report = ebooklet_tx.recover(bench.path(), bench.url)
    assert any("kept as" in action for action in report.actions)
    (aside,) = asides(bench)
    assert (bench.folder / aside).read_bytes() == kept
    with bench.open("a", "w") as db:
        assert dict(db.items()) == BASE


def test_status_tells_of_a_journal_of_no_use(bench: Bench) -> None:
    no_table(bench.journal())
    found = ebooklet_tx.status(bench.path())
    assert found.journal == "unusable"
    assert any("set aside" in repair for repair in found.repairs)


def test_a_flipped_application_id_costs_nothing(bench: Bench) -> None:
    with bench.journal().open("r+b") as file:
        file.seek(68)
        file.write(b"?")
    with bench.open("a", "w") as db:
        assert dict(db.items()) == BASE | {"staged": b"acknowledged"}


def garble_tables(journal: Path) -> None:
    """Damages every page but the first two, so that the damage is met after the journal was opened."""
    size = journal.stat().st_size
    with journal.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xa5" * (size - 8192))


def garble_schema(journal: Path) -> None:
    """Puts bytes that are no UTF-8 into the names of tables, which SQLite repeats in its message."""
    content = journal.read_bytes()
    journal.write_bytes(content.replace(b"CREATE TABLE", b"CREATE \xff\xfeBLE"))


@pytest.mark.parametrize("garble", [garble_tables, garble_schema])
@pytest.mark.parametrize("way", ["open", "recover"])
def test_damage_wherever_it_lies_is_set_aside(bench: Bench, garble: Callable[[Path], None], way: str) -> None:
    garble(bench.journal())
    kept = bench.journal().read_bytes()
    if way == "recover":
        ebooklet_tx.recover(bench.path(), bench.url)
    with bench.open("a", "w") as db:
        assert dict(db.items()) == BASE
    (aside,) = asides(bench)
    assert (bench.folder / aside).read_bytes() == kept


def test_a_journal_cut_to_nothing_does_not_take_its_wal_along(bench: Bench) -> None:
    journal, wal = bench.journal(), side_files(bench.journal()).wal
    reader = Journal.open(journal, create=False)
    stage(bench.path(), "in the WAL", b"acknowledged")
    kept = wal.read_bytes()
    reader.close()
    journal.write_bytes(b"")
    wal.write_bytes(kept)
    with pytest.raises(JournalDamagedError, match="empty beside a WAL"):
        Journal.open(journal, create=False)
    assert wal.read_bytes() == kept
    with bench.open("a", "w") as db:
        assert dict(db.items()) == BASE
    assert any((bench.folder / name).read_bytes() == kept for name in asides(bench))


def test_a_journal_is_whole_under_its_new_name(bench: Bench) -> None:
    journal = bench.journal()
    reader = Journal.open(journal, create=False)
    stage(bench.path(), "in the WAL", b"acknowledged")
    for part in (journal, side_files(journal).wal):
        shutil.copy(part, part.with_name(f"x{part.name[5:]}"))
    reader.close()
    aside = set_aside(bench.folder / "x.journal")
    assert not list(bench.folder.glob("x.journal-*"))
    kept = Journal.open(aside, create=False)
    assert find_entry(kept, "in the WAL") is not None
    kept.close()


def test_journals_without_pending_work_do_not_pile_up(bench: Bench) -> None:
    with bench.open("a", "w") as db:
        db.changes().push()
    for _ in range(4):
        bench.path().unlink()
        with bench.open("a", "c") as db:
            assert len(db) == len(BASE) + 1
            db.load_items()
    assert asides(bench) == ["a.blt.journal.aside-clean"]


def test_journals_with_pending_work_are_all_kept(bench: Bench) -> None:
    for number in range(3):
        stage(bench.path(), f"pending {number}", b"of this machine alone")
        bench.path().unlink()
        bench.open("a", "c").close()
    assert len(asides(bench)) == 3


def test_a_file_that_cannot_be_seen_is_not_missing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = os.stat

    def fail(path: object, *arguments: object, **options: object) -> os.stat_result:
        if path == bench.path():
            raise OSError(5, "Input/output error")
        return genuine(path, *arguments, **options)  # type: ignore[call-overload,no-any-return]

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", fail)
        with pytest.raises(LocalStorageError):
            LocalStore.open_writer(bench.path(), create=True)
    assert asides(bench) == []
    assert journal_path(bench.path()).exists()
