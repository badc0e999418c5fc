"""A database in a folder that can't be written is read as it is, and nothing is made or changed there."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import booklet
import pytest

import ebooklet_tx
from ebooklet_tx.errors import LocalStorageError, ReadOnlyError
from ebooklet_tx.local import open_by_lock
from ebooklet_tx.local.files.own_files import can_write_beside
from ebooklet_tx.local.journal.journal import side_files
from tests.maintenance.test_repair import fingerprint, unchanged
from tests.pairs import LARGE, Bench, make, pending, push

NOBODY = 65534
VALUES = {"k": b"value", "large": LARGE}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A pushed database, and a change that was not pushed; the local file lies in a folder of its own."""
    (tmp_path / "shelf").mkdir()
    bench = Bench(tmp_path)
    make(bench, VALUES, "shelf/a")
    with bench.open("shelf/a") as db:
        db["own"] = b"pending"
    return bench


@pytest.fixture
def unwritable(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, which this process takes for one that it can't write."""
    shelf = bench.folder / "shelf"
    monkeypatch.setattr(open_by_lock, "can_write_beside", lambda path: path.parent != shelf)
    return shelf


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("offline", [False, True])
def test_it_is_read_with_all_that_is_in_it_and_stays_as_it_was(
    bench: Bench, unwritable: Path, offline: bool
) -> None:
    with unchanged(unwritable), bench.open("shelf/a", "r", offline=offline) as db:
        assert dict(db.items()) == VALUES | {"own": b"pending"}
        assert pending(db) == {"own": "set"}
        assert not db.writable
        assert len(db) == 3
        assert names(unwritable) == {"a.blt", "a.blt.journal"}


def test_what_others_push_is_seen_and_not_kept(bench: Bench, unwritable: Path) -> None:
    with bench.open("shelf/a", "r") as db, unchanged(unwritable):
        push(bench, "b", {"k": b"newer", "more": LARGE + b"2"})
        assert db["k"] == b"value"
        db.changes().pull()
        assert db["k"] == b"newer"
        assert db["more"] == LARGE + b"2"
        assert dict(db.get_items(["k", "more"])) == {"k": b"newer", "more": LARGE + b"2"}
    with bench.open("shelf/a", "r") as db:
        # The base that the journal has is the old one; opening moves the copy on.
        assert db["more"] == LARGE + b"2"


@pytest.mark.parametrize("options", [{}, {"max_local_bytes": 2**20}, {"index": "full"}])
def test_values_that_are_not_here_are_fetched_each_time(
    bench: Bench, unwritable: Path, options: dict[str, Any]
) -> None:
    push(bench, "b", {f"n{number}": bytes([number]) * 300_000 for number in range(6)})
    with unchanged(unwritable), bench.open("shelf/a", "r", **options) as db:
        for _ in range(2):
            for number in range(6):
                assert db[f"n{number}"] == bytes([number]) * 300_000
        assert len(dict(db.items())) == 9


def test_load_items_says_that_nothing_can_be_kept(bench: Bench, unwritable: Path) -> None:
    with bench.open("shelf/a", "r") as db, pytest.raises(ReadOnlyError, match="no value can be kept") as error:
        db.load_items()
    assert str(unwritable) in str(error.value)
    assert "file_path" in str(error.value)


@pytest.mark.parametrize("flag", ["w", "c", "n"])
def test_writing_is_refused_with_the_place_and_the_way_out(bench: Bench, unwritable: Path, flag: str) -> None:
    with unchanged(unwritable), pytest.raises(ReadOnlyError) as error:
        bench.open("shelf/a", flag)
    assert f"{unwritable}/a.blt can't be written by this user" in str(error.value)
    assert "flag 'r'" in str(error.value)
    with pytest.raises(ReadOnlyError, match="give a file_path in a folder that can be written"):
        bench.open("shelf/new", flag)
    with bench.open("shelf/a", "r") as db, pytest.raises(ReadOnlyError):
        db["k"] = b"2"


def test_a_copy_that_is_missing_there_is_refused_with_the_way_out(bench: Bench, unwritable: Path) -> None:
    with pytest.raises(ReadOnlyError, match=r"new\.blt can't be made.*file_path"):
        bench.open("shelf/new", "r")


@pytest.mark.parametrize("offline", [False, True])
def test_a_plain_booklet_is_read_without_a_journal_of_its_own(
    bench: Bench, unwritable: Path, offline: bool
) -> None:
    bench.journal("shelf/a").unlink()
    with unchanged(unwritable), bench.open("shelf/a", "r", offline=offline) as db:
        assert dict(db.items()) == VALUES | {"own": b"pending"}
    assert names(unwritable) == {"a.blt"}


def test_a_booklet_that_booklet_itself_made(bench: Bench, unwritable: Path) -> None:
    with booklet.open(unwritable / "plain.blt", "n", key_serializer="str", value_serializer="bytes") as plain:
        plain["theirs"] = b"1"
    with unchanged(unwritable), bench.open("shelf/plain", "r", offline=True) as db:
        assert dict(db.items()) == {"theirs": b"1"}


def test_beside_a_writer_it_shows_what_was_committed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with bench.open("shelf/a", "w") as writer:
        with writer.transaction():
            writer["staged"] = b"1"
        monkeypatch.setattr(open_by_lock, "can_write_beside", lambda _path: False)
        with bench.open("shelf/a", "r", offline=True) as db:
            assert db["staged"] == b"1"
            writer["later"] = LARGE
            writer.sync()
            writer.prune()
            # The file that it reads is the one that was there, whatever took its name.
            assert db["large"] == LARGE
            assert "later" not in db
        with bench.open("shelf/a", "r", offline=True) as db:
            assert db["later"] == LARGE


def test_a_wal_that_a_dead_writer_has_left_is_read_and_left(bench: Bench, unwritable: Path) -> None:
    with bench.open("b") as db:
        with db.transaction():
            db["k5"] = b"in the WAL"
        # As they lie when the process dies here.
        for path in bench.folder.glob("b.blt*"):
            if not path.name.endswith("-shm"):
                shutil.copy(path, unwritable)
    wal = side_files(bench.journal("shelf/b")).wal
    assert wal.stat().st_size > 0
    with unchanged(unwritable), bench.open("shelf/b", "r") as db:
        assert db["k5"] == b"in the WAL"
        assert db["k"] == b"value"
    wal.write_bytes(b"")
    with (
        unchanged(unwritable),
        pytest.raises(ReadOnlyError, match=r"lost at least 1 .*copy it and what lies"),
    ):
        bench.open("shelf/b", "r")


def test_a_journal_of_an_older_version_is_told_and_left(
    bench: Bench, unwritable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ebooklet_tx.local.journal.migrate.REVISION", "9999")
    with unchanged(unwritable), pytest.raises(LocalStorageError, match="copy the file and its journal"):
        bench.open("shelf/a", "r", offline=True)


def test_a_snapshot_and_a_status_are_read_there(bench: Bench, unwritable: Path) -> None:
    with bench.open("b") as db:
        db.snapshot("monday")
    push(bench, "b", {"k": b"newer"})
    with unchanged(unwritable):
        assert ebooklet_tx.status(bench.path("shelf/a")).pending_sets == 1
        with bench.open("shelf/a", "r", at="monday") as db:
            assert db["k"] == b"value"


# -- for real ----------------------------------------------------------------------------------


@contextlib.contextmanager
def without_rights(folder: Path) -> Iterator[None]:
    """Takes the right to write to a folder and its files away from this process."""
    for path in (*folder.rglob("*"), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)
    if os.geteuid() == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        folder.chmod(0o755)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that other users reach as well."""
    folder = Path(tempfile.mkdtemp(dir="/tmp", prefix="ebooklet_tx-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_folder_that_belongs_to_another_user(shared: Path) -> None:
    bench = Bench(shared)
    make(bench, VALUES)
    assert can_write_beside(bench.path())
    # So that nothing has to be imported later, from a folder that is closed as well.
    assert bench.contents("a") == VALUES
    with bench.open("a", "r") as db:
        db.load_items()
    before = fingerprint(shared)
    with without_rights(shared):
        assert not can_write_beside(bench.path())
        with bench.open("a", "r") as db:
            assert dict(db.items()) == VALUES
        with pytest.raises(ReadOnlyError, match="can't be written by this user"):
            bench.open("a", "w", offline=True)
        with bench.open("a", "r", offline=True) as db:
            assert dict(db.items()) == VALUES
    assert fingerprint(shared) == before
