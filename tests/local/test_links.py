"""Links beside a Booklet, and a Booklet that is a link: nothing of a stranger's is followed or changed."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import booklet
import pytest

import ebooklet_tx
from ebooklet_tx.errors import Error, LocalStorageError
from ebooklet_tx.local.booklet.layout import GUARD_PREFIX
from ebooklet_tx.local.journal import migrate
from ebooklet_tx.local.journal.journal import Journal, journal_path
from ebooklet_tx.local.local_store import LocalStore
from tests.pairs import Bench, make, pending

VALUES = {f"k{number}": b"value %d" % number for number in range(5)}
STRANGERS = b"a stranger's file"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    make(bench, VALUES)
    return bench


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    path = tmp_path / "elsewhere" / "precious"
    path.parent.mkdir()
    path.write_bytes(STRANGERS)
    return path


def tear(bench: Bench) -> None:
    """Leaves the file as an append does that was cut short, so that it has to be rebuilt."""
    with bench.path().open("r+b") as file:
        file.write(GUARD_PREFIX + b"unknown!")


# -- a Booklet that is a link --------------------------------------------------------------------


def linked(bench: Bench, name: str = "link") -> Path:
    folder = bench.folder / "links"
    folder.mkdir(exist_ok=True)
    link = folder / f"{name}.blt"
    link.symlink_to(bench.path())
    return link


def prune(bench: Bench, link: Path) -> None:
    with ebooklet_tx.open(bench.url, link, "w", lock=None) as db:
        del db["k0"]
        db.sync()
        db.prune()


def recover(bench: Bench, link: Path) -> None:
    tear(bench)
    ebooklet_tx.recover(link)
    with ebooklet_tx.open(bench.url, link, "w", lock=None) as db:
        del db["k0"]


def start_anew(bench: Bench, link: Path) -> None:
    with ebooklet_tx.open(bench.url, link, "n", lock=None, n_buckets=1009) as db:
        db.update({key: value for key, value in VALUES.items() if key != "k0"})


@pytest.mark.parametrize("work", [prune, recover, start_anew])
def test_a_link_and_its_file_are_one_database(bench: Bench, work: Callable[[Bench, Path], None]) -> None:
    link = linked(bench)
    with ebooklet_tx.open(bench.url, link, "w", lock=None) as db:
        db["k1"] = VALUES["k1"]
    work(bench, link)
    expected = {key: value for key, value in VALUES.items() if key != "k0"}
    assert link.is_symlink()
    assert not bench.path().is_symlink()
    assert [path.name for path in link.parent.iterdir()] == ["link.blt"]
    for path in (link, bench.path()):
        with booklet.open(path) as blt:
            assert {key: blt[key] for key in blt} == expected
        with ebooklet_tx.open(bench.url, path, "r") as db:
            assert dict(db) == expected
        assert ebooklet_tx.status(path).file == str(bench.path())


def test_a_dangling_link_makes_the_file_behind_it(bench: Bench) -> None:
    link = linked(bench)
    bench.path().unlink()
    bench.journal().unlink()
    with ebooklet_tx.open(bench.url, link, "c", lock=None) as db:
        assert dict(db) == VALUES
    assert link.is_symlink()
    assert bench.path().is_file()


def test_a_link_in_a_circle_is_refused(bench: Bench) -> None:
    circle = bench.folder / "circle.blt"
    circle.symlink_to(circle)
    for flag in ("r", "w", "c", "n"):
        with pytest.raises(LocalStorageError, match=r"circle\.blt"):
            bench.open("circle", flag)
    assert circle.is_symlink()


def test_a_journal_beside_the_link_is_not_passed_over(bench: Bench) -> None:
    link = linked(bench)
    journal = link.with_name("link.blt.journal")
    bench.journal().rename(journal)
    with pytest.raises(LocalStorageError, match="move it"):
        ebooklet_tx.open(bench.url, link, "w", lock=None)
    journal.rename(bench.journal())
    with ebooklet_tx.open(bench.url, link, "w", lock=None) as db:
        assert pending(db) == {}


# -- links where our own files should be ---------------------------------------------------------


def test_a_link_for_the_rebuilt_file_is_not_followed(bench: Bench, stranger: Path) -> None:
    link = bench.path().with_name("a.blt.rebuild")
    link.symlink_to(stranger)
    tear(bench)
    with pytest.raises(LocalStorageError, match=r"a\.blt\.rebuild is a link"):
        bench.open("a", "w")
    assert stranger.read_bytes() == STRANGERS
    link.unlink()
    assert bench.contents("a") == VALUES


def test_a_link_to_a_booklet_is_not_put_in_place(bench: Bench) -> None:
    """Even of the generation that the journal means."""
    link = bench.path().with_name("a.blt.rebuild")
    moved = bench.path().rename(bench.folder / "moved")
    link.symlink_to(moved)
    with pytest.raises(Error):
        LocalStore.open_reader(bench.path())
    assert moved.is_file()
    with bench.open("a", "c") as db:
        assert dict(db) == VALUES
    assert link.is_symlink()
    assert moved.is_file()


@pytest.mark.parametrize("target", ["file", "nothing", "database"])
@pytest.mark.parametrize("flag", ["r", "w", "c", "n"])
def test_a_link_for_the_journal_is_not_followed(bench: Bench, stranger: Path, target: str, flag: str) -> None:
    if target == "database":
        stranger.unlink()
        raw = sqlite3.connect(stranger)
        raw.execute("CREATE TABLE precious(x)")
        raw.close()
    elif target == "nothing":
        stranger.unlink()
    before = stranger.read_bytes() if stranger.exists() else None
    bench.journal().unlink()
    bench.journal().symlink_to(stranger)
    with pytest.raises(LocalStorageError, match="journal is a link"):
        bench.open("a", flag)
    assert (stranger.read_bytes() if stranger.exists() else None) == before
    with pytest.raises(LocalStorageError, match="journal is a link"):
        ebooklet_tx.status(bench.path())
    bench.journal().unlink()
    assert bench.contents("a") == VALUES


def test_copies_that_are_kept_never_go_through_a_link(
    bench: Bench, stranger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ebooklet_tx.local.recovery.now_us", lambda: 123)
    bench.path().with_name("a.blt.damaged-123").symlink_to(stranger)
    bench.journal().unlink()
    with bench.path().open("r+b") as file:
        file.truncate(bench.path().stat().st_size - 3)
    with pytest.raises(LocalStorageError, match=r"a\.blt\.damaged-123"):
        bench.open("a", "w")
    assert stranger.read_bytes() == STRANGERS


def test_the_backup_of_a_migration_never_goes_through_a_link(
    bench: Bench, stranger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = bench.journal().with_name("a.blt.journal.before-0000.partial")
    partial.symlink_to(stranger)
    with sqlite3.connect(bench.journal()) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '0000'")
    raw.close()
    with pytest.raises(LocalStorageError, match="partial is a link"):
        bench.open("a", "w")
    assert stranger.read_bytes() == STRANGERS
    assert migrate.REVISION != "0000"


def test_only_our_own_unfinished_files_are_removed(bench: Bench, stranger: Path) -> None:
    folder = bench.folder
    ours = folder / "a.blt.123-456.new"
    ours.write_bytes(b"cut short")
    theirs = [folder / "a.blt.old.new", folder / "a.blt.1-2.new.new", folder / "b.blt.123-456.new"]
    for path in theirs:
        path.write_bytes(STRANGERS)
    link = folder / "a.blt.12-34.new"
    link.symlink_to(stranger)
    bench.path().unlink()
    bench.open("a", "c").close()
    assert not ours.exists()
    assert all(path.read_bytes() == STRANGERS for path in theirs)
    assert link.is_symlink()
    assert stranger.read_bytes() == STRANGERS


def test_a_new_file_is_never_made_through_a_link(
    tmp_path: Path, stranger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)
    monkeypatch.setattr(time, "monotonic_ns", lambda: 7)
    (tmp_path / f"a.blt.{os.getpid()}-7.new").symlink_to(stranger)
    with pytest.raises(LocalStorageError, match="is a link"):
        bench.open("a", "c")
    assert stranger.read_bytes() == STRANGERS
    assert not bench.path().exists()


def test_a_journal_is_made_where_the_file_lies(bench: Bench) -> None:
    link = linked(bench)
    assert journal_path(link) != journal_path(bench.path())
    with pytest.raises(LocalStorageError, match="is a link"):
        LocalStore.open_writer(link, create=False)
    # Whoever opens a journal by itself meets the same.
    alias = bench.folder / "alias.journal"
    alias.symlink_to(bench.journal())
    with pytest.raises(LocalStorageError, match=re.escape(str(alias))):
        Journal.open(alias, create=True)
