"""Paths that no database can be at, and a file that goes while it is open: told at once, as errors of ours."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

import ebooklet_tx
from ebooklet_tx.errors import Error, InvalidArgumentError, LocalStorageError, UnsupportedFormatError
from tests.pairs import Bench, make, pending

VALUES = {"k": b"value", "other": b"1"}
FLAGS = ("r", "w", "c", "n")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    make(bench, VALUES)
    return bench


def pipe(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        # A socket's path has 107 bytes at most.
        os.chdir(path.parent)
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


KINDS = {pipe: "a pipe", folder: "a folder", listening: "a socket", device: "a device"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flag", FLAGS)
def test_what_is_no_file_is_refused_at_once(bench: Bench, kind: Callable[[Path], None], flag: str) -> None:
    kind(bench.path("odd"))
    with pytest.raises(UnsupportedFormatError, match=f"is {KINDS[kind]}, and not a file"):
        bench.open("odd", flag)
    assert [path.name for path in bench.folder.glob("odd*")] == ["odd.blt"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ask", [ebooklet_tx.status, ebooklet_tx.recover])
def test_nor_is_it_looked_into(bench: Bench, kind: Callable[[Path], None], ask: Callable[[Path], object]) -> None:
    kind(bench.path("odd"))
    with pytest.raises(UnsupportedFormatError, match="not a file"):
        ask(bench.path("odd"))


@pytest.mark.parametrize("kind", [pipe, folder])
@pytest.mark.parametrize("flag", FLAGS)
def test_a_journal_that_is_no_file(bench: Bench, kind: Callable[[Path], None], flag: str) -> None:
    bench.journal().unlink()
    kind(bench.journal())
    with pytest.raises(UnsupportedFormatError, match="journal is"):
        bench.open("a", flag)
    bench.journal().rmdir() if kind is folder else bench.journal().unlink()
    assert bench.contents("a") == VALUES


@pytest.mark.parametrize("kind", [pipe, folder])
def test_a_rebuild_that_is_no_file(bench: Bench, kind: Callable[[Path], None]) -> None:
    waiting = bench.path().with_name("a.blt.rebuild")
    kind(waiting)
    with bench.open("a", "w") as db:
        assert dict(db) == VALUES
        with pytest.raises(UnsupportedFormatError, match="rebuild is"):
            db.prune()
        assert dict(db) == VALUES
    assert waiting.exists()


@pytest.mark.parametrize("name_bytes", [218, 255, 300])
@pytest.mark.parametrize("flag", FLAGS)
def test_a_name_too_long_for_what_is_made_of_it(bench: Bench, name_bytes: int, flag: str) -> None:
    path = bench.folder / ("x" * name_bytes)
    with pytest.raises(InvalidArgumentError, match="too long"):
        ebooklet_tx.open(bench.url, path, flag)
    for ask in (ebooklet_tx.status, ebooklet_tx.recover):
        with pytest.raises(InvalidArgumentError, match="too long"):
            ask(path)
    assert not list(bench.folder.glob("x*"))


def test_the_longest_name_takes_everything_that_is_made_of_it(bench: Bench) -> None:
    name = "ä" * 107 + "x"
    with ebooklet_tx.open(bench.url, bench.folder / name, "c", lock=None) as db:
        db["more"] = b"1"
        db.prune()
    (bench.folder / f"{name}.journal").write_bytes(b"garbage" * 1000)
    with ebooklet_tx.open(bench.url, bench.folder / name, "w", lock=None) as db:
        assert dict(db) == VALUES | {"more": b"1"}
    assert list(bench.folder.glob("*.aside-*"))


def test_a_path_too_long(bench: Bench) -> None:
    path = Path(str(bench.folder) + "/y" * 2100)
    with pytest.raises(InvalidArgumentError, match="too long"):
        ebooklet_tx.open(bench.url, path, "c")


def without_rights(work: Callable[[], None]) -> None:
    """Runs work as somebody who may do nothing here."""
    if os.geteuid() != 0:
        work()
        return
    os.seteuid(65534)
    try:
        work()
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("closed", ["folder", "file"])
def test_missing_rights_are_an_error_of_ours(bench: Bench, flag: str, closed: str) -> None:
    work = bench.folder / "closed"
    work.mkdir()
    shutil.copy(bench.path(), work / "a.blt")
    shutil.copy(bench.journal(), work / "a.blt.journal")
    (work / "a.blt").chmod(0o000)
    (work if closed == "folder" else work / "a.blt").chmod(0o000)

    def attempt() -> None:
        with pytest.raises(Error, match=r"a\.blt"):
            ebooklet_tx.open(bench.url, work / "a.blt", flag, lock=None)
        for ask in (ebooklet_tx.status, ebooklet_tx.recover):
            with pytest.raises(Error, match=r"a\.blt"):
                ask(work / "a.blt")

    without_rights(attempt)
    work.chmod(0o700)


# -- a file that goes while it is open -----------------------------------------------------------


def delete_file(bench: Bench) -> None:
    bench.path().unlink()


def replace_file(bench: Bench) -> None:
    shutil.copy(bench.path(), bench.folder / "kept")
    (bench.folder / "kept").replace(bench.path())


def delete_journal(bench: Bench) -> None:
    bench.journal().unlink()


def replace_journal(bench: Bench) -> None:
    shutil.copy(bench.journal(), bench.folder / "kept")
    (bench.folder / "kept").replace(bench.journal())


GOES = {
    delete_file: r"a\.blt was deleted",
    replace_file: r"a\.blt was replaced",
    delete_journal: r"journal was deleted",
    replace_journal: r"journal was replaced",
}


@pytest.mark.parametrize("goes", GOES)
def test_a_file_that_went_is_told_before_anything_is_said_to_be_durable(
    bench: Bench, goes: Callable[[Bench], None]
) -> None:
    db = bench.open("a", "w")
    db["before"] = b"1"
    db.sync()
    db["k"] = b"changed"
    goes(bench)
    for ask in (db.sync, db.changes().push, db.prune, db.changes().pull):
        with pytest.raises(LocalStorageError, match=GOES[goes]):
            ask()
    with pytest.raises(LocalStorageError, match=GOES[goes]), db.transaction():
        db["in a transaction"] = b"1"
    # All that was written can still be read, and put elsewhere.
    kept = dict(db)
    assert kept == VALUES | {"before": b"1", "k": b"changed"}
    with pytest.raises(LocalStorageError, match=GOES[goes]):
        db.close()
    assert db.closed


def test_a_file_put_back_is_gone_on_with(bench: Bench) -> None:
    with bench.open("a", "w") as db:
        db["k"] = b"changed"
        bench.path().rename(bench.folder / "moved")
        with pytest.raises(LocalStorageError, match="put the file back"):
            db.sync()
        (bench.folder / "moved").rename(bench.path())
        db.sync()
    assert bench.contents("a") == VALUES | {"k": b"changed"}


def test_what_was_written_goes_into_the_journal_when_the_file_was_replaced(bench: Bench) -> None:
    db = bench.open("a", "w")
    db["k"] = b"changed"
    replace_file(bench)
    with pytest.raises(LocalStorageError):
        db.close()
    with bench.open("a", "w") as db:
        assert pending(db) == {"k": "set"}
        assert dict(db) == VALUES | {"k": b"changed"}
