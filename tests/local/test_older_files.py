"""A Booklet file that is older than its journal, or emptied by plain booklet: nothing newer is undone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import booklet
import pytest

import ebooklet_tx
from ebooklet_tx import LocalIntegrityError
from ebooklet_tx.cli.commands import main
from ebooklet_tx.database import Database
from tests.pairs import LARGE, Bench, flip, pending, writer_store

BASE = {f"k{number:02}": b"value %d" % number for number in range(10)}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A copy "a" whose 10 keys and metadata are pushed."""
    bench = Bench(tmp_path)
    with bench.open("a") as db:
        db.update(BASE)
        db.set_metadata({"m": 1})
        db.changes().push()
    return bench


def keep_file(bench: Bench) -> Path:
    return Path(shutil.copy(bench.path(), bench.folder / "kept"))


def restore(bench: Bench, kept: Path) -> None:
    """Puts an older file in the place of the newer one, as a backup program does."""
    shutil.copy(kept, bench.path())


def change(bench: Bench, work: Callable[[Database], object]) -> None:
    with bench.open("a", "w") as db:
        work(db)
        db.changes().push()


def set_new(db: Database) -> None:
    db.update({"new": b"later", "large": LARGE})


def overwrite(db: Database) -> None:
    db.update({"k01": b"newer", "k02": b"another length, and newer"})


def delete(db: Database) -> None:
    del db["k03"]


def set_back(db: Database) -> None:
    db.set_timestamp("k04", 1_700_000_000_000_000)


def prune(db: Database) -> None:
    del db["k05"]
    db.sync()
    db.prune()


def clear(db: Database) -> None:
    db.clear()
    db["only"] = b"1"


@pytest.mark.parametrize("work", [set_new, overwrite, delete, set_back, prune, clear])
def test_an_older_file_changes_nothing(bench: Bench, work: Callable[[Database], object]) -> None:
    kept = keep_file(bench)
    change(bench, work)
    expected = bench.fresh_contents()
    restore(bench, kept)
    with bench.open("a", "w") as db:
        assert pending(db) == {}
        assert dict(db.items()) | {"": db.get_metadata()} == expected
        assert not db.changes().push()
    assert bench.contents("a") == bench.fresh_contents() == expected
    with booklet.open(bench.path()) as blt:
        assert {key: blt[key] for key in blt} == {key: expected[key] for key in blt}


def test_every_older_file_under_every_newer_journal(bench: Bench) -> None:
    """States of one file and its journal, each file put under each later journal."""
    states = []

    def note() -> None:
        folder = bench.folder / f"state{len(states)}"
        folder.mkdir()
        for path in (bench.path(), bench.journal()):
            shutil.copy(path, folder)
        states.append((folder, bench.fresh_contents()))

    note()
    for work in (overwrite, set_new, delete, prune, set_back, overwrite, clear, set_new):
        change(bench, work)
        note()
    with booklet.open(bench.path(), "w") as blt:
        blt["plain"] = b"edit"
        del blt["new"]
        blt.prune()
    change(bench, lambda db: None)
    note()
    with bench.open("remote only", "w") as db:
        remote = dict(db.items()) | {"": db.get_metadata()}
    for at, (newer, _) in enumerate(states):
        for older, _ in states[:at]:
            shutil.copy(older / "a.blt", bench.path())
            shutil.copy(newer / "a.blt.journal", bench.journal())
            with bench.open("a", "w") as db:
                assert pending(db) == {}, (older.name, newer.name)
                assert dict(db.items()) | {"": db.get_metadata()} == remote, (older.name, newer.name)


def test_an_older_journal_deletes_nothing_of_a_newer_file(bench: Bench) -> None:
    """A backup that copied the journal first: what a pull took from the file was deleted by nobody."""
    kept = Path(shutil.copy(bench.journal(), bench.folder / "kept"))
    with bench.open("b", "w") as db:
        db["k07"] = b"another writer's"
        del db["k08"]
        db["k09"] = LARGE
        db.changes().push()
    change(bench, set_new)
    with bench.open("a", "w") as db:
        db["mine"] = b"never pushed"
    shutil.copy(kept, bench.journal())
    with bench.open("a", "w") as db:
        assert {key: kind for key, kind in pending(db).items() if key not in ("new", "large")} == {"mine": "set"}
        assert db.changes().conflicts() == []
        assert db["k07"] == b"another writer's"
        db.changes().push()
    expected = BASE | {"k07": b"another writer's", "k09": LARGE, "mine": b"never pushed", "": {"m": 1}}
    expected |= {"new": b"later", "large": LARGE}
    del expected["k08"]
    assert bench.contents("a") == bench.fresh_contents() == expected


def test_a_plain_delete_in_an_older_file_is_not_counted(bench: Bench) -> None:
    kept = keep_file(bench)
    change(bench, set_new)
    restore(bench, kept)
    with booklet.open(bench.path(), "w") as blt:
        del blt["k01"]
        blt["plain"] = b"set on the older file"
    with bench.open("a", "w") as db:
        assert pending(db) == {"plain": "set"}
        assert db["k01"] == BASE["k01"]


def test_a_value_that_was_never_pushed_is_lost_and_not_deleted(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    kept = keep_file(bench)
    with bench.open("a", "w") as db:
        db.update({"mine": b"only here", "k01": b"newer, only here"})
    restore(bench, kept)
    with bench.open("a", "w") as db:
        assert pending(db) == {"k01": "set", "mine": "set"}
        for key in ("mine", "k01"):
            with pytest.raises(LocalIntegrityError, match=key):
                db[key]
        assert db["k02"] == BASE["k02"]
        with pytest.raises(LocalIntegrityError):
            db.changes().push()
    assert "2 values that were never pushed" in caplog.text
    report = ebooklet_tx.recover(bench.path())
    assert report.lost_keys == ("k01", "mine")
    assert report.needs_decision
    with bench.open("a", "w") as db:
        assert db.changes().discard(["k01"]) == 1
        assert db["k01"] == BASE["k01"]


# -- what plain booklet deletes without a trace --------------------------------------------------


def plain_clear(path: Path) -> None:
    with booklet.open(path, "w") as blt:
        blt.clear()
        blt["only"] = b"1"


def plain_prune(path: Path) -> None:
    with booklet.open(path, "w") as blt:
        for key in [key for key in blt if key not in ("k00", "k09")]:
            del blt[key]
        blt["only"] = b"1"
        blt.prune()


GONE = {plain_clear: set(BASE) | {""}, plain_prune: set(BASE) - {"k00", "k09"}}


@pytest.mark.parametrize("empty", [plain_clear, plain_prune])
def test_keys_stay_that_may_have_been_deleted(
    bench: Bench, caplog: pytest.LogCaptureFixture, empty: Callable[[Path], None]
) -> None:
    empty(bench.path())
    with bench.open("a", "w") as db:
        assert pending(db) == {"only": "set"}
        assert dict(db.items()) == BASE | {"only": b"1"}
        db.changes().push()
    assert bench.fresh_contents() == BASE | {"only": b"1", "": {"m": 1}}
    assert f"{len(GONE[empty])} keys" in caplog.text
    assert "--accept-deletes" in caplog.text


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("empty", [plain_clear, plain_prune])
def test_accepted_deletes_are_pending(bench: Bench, empty: Callable[[Path], None], opened: bool) -> None:
    empty(bench.path())
    if opened:
        # Reading everything brings the values back, and takes the choice from nobody.
        assert set(bench.contents("a")) == {*BASE, "", "only"}
    told = ebooklet_tx.recover(bench.path())
    assert set(told.missing_keys) == GONE[empty]
    assert not told.deleted_keys
    would = ebooklet_tx.recover(bench.path(), dry_run=True, accept_deletes=True)
    assert set(would.missing_keys) == GONE[empty]
    report = ebooklet_tx.recover(bench.path(), accept_deletes=True)
    assert set(report.deleted_keys) == GONE[empty]
    assert (report.missing_keys, report.pending_deletes) == ((), len(GONE[empty]))
    with bench.open("a", "w") as db:
        db.changes().push()
    expected = ({**BASE, "": {"m": 1}, "only": b"1"}).items()
    assert bench.fresh_contents() == {key: value for key, value in expected if key not in GONE[empty]}
    assert ebooklet_tx.recover(bench.path(), accept_deletes=True).deleted_keys == ()


def test_what_was_written_since_is_not_deleted(bench: Bench) -> None:
    plain_clear(bench.path())
    with bench.open("a", "w") as db:
        db["k01"] = b"set again"
    with bench.open("b", "w") as db:
        db["k02"] = b"another writer's"
        db.changes().push()
    with bench.open("a", "w"):
        pass
    report = ebooklet_tx.recover(bench.path(), accept_deletes=True)
    assert set(report.deleted_keys) == set(BASE) - {"k01", "k02"} | {""}
    with bench.open("a", "w") as db:
        db.changes().push()
    assert bench.fresh_contents() == {"only": b"1", "k01": b"set again", "k02": b"another writer's"}


def test_what_another_writer_changes_meanwhile_is_a_conflict(bench: Bench) -> None:
    plain_clear(bench.path())
    with bench.open("b", "w") as db:
        db["k02"] = b"another writer's"
        db.changes().push()
    report = ebooklet_tx.recover(bench.path(), accept_deletes=True)
    assert [sides.key for sides in report.conflicts] == ["k02"]


def test_a_database_that_was_never_pushed(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with bench.open("a") as db:
        db.update(BASE)
    plain_clear(bench.path())
    with bench.open("a") as db:
        assert set(pending(db)) == set(BASE) | {"only"}
    assert set(ebooklet_tx.recover(bench.path()).lost_keys) == set(BASE)
    report = ebooklet_tx.recover(bench.path(), accept_deletes=True)
    assert (set(report.deleted_keys), report.lost_keys) == (set(BASE), ())
    with bench.open("a") as db:
        assert pending(db) == {"only": "set"}


def test_the_command(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    plain_clear(bench.path())
    assert main(["recover", str(bench.path())]) == 0
    assert "11 keys" in capsys.readouterr().out
    assert main(["recover", str(bench.path()), "--dry-run", "--accept-deletes", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["missing_keys"]) == 11
    assert main(["recover", str(bench.path()), "--accept-deletes", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (len(told["deleted_keys"]), told["missing_keys"], told["pending_deletes"]) == (11, [], 11)


# -- files that are older and damaged ------------------------------------------------------------


def test_an_older_value_in_a_damaged_file_is_no_edit(bench: Bench) -> None:
    kept = keep_file(bench)
    change(bench, overwrite)
    restore(bench, kept)
    flip(bench.path(), bench.path().stat().st_size - 40, 1)
    with bench.open("a", "w") as db:
        assert pending(db) == {}
        assert db["k01"] == b"newer"


def test_a_plain_edit_with_an_early_timestamp_is_an_edit(bench: Bench) -> None:
    with booklet.open(bench.path(), "w") as blt:
        blt.set("k01", b"edited", timestamp=1)
        del blt["k02"]
    with bench.open("a", "w") as db:
        assert pending(db) == {"k01": "set", "k02": "delete"}


def test_an_older_file_taken_over_begins_a_history_of_its_own(bench: Bench) -> None:
    kept = keep_file(bench)
    change(bench, set_new)
    newer = Path(shutil.copy(bench.path(), bench.folder / "newer"))
    restore(bench, kept)
    with writer_store(bench.path()) as store:
        store.overlay.put("k07", None, 1_900_000_000_000_000)
        store.commit(fold=True)
    # The newer file again: a deleted key's block lives in it, and does not bring the key back.
    shutil.copy(newer, bench.path())
    with bench.open("a", "w") as db:
        assert pending(db) == {"k07": "delete"}
