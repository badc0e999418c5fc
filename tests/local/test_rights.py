"""Mode, owner and attributes: a file in another's place has them, and what lies beside it is no more open."""

from __future__ import annotations

import os
import sqlite3
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

import ebooklet_tx
from ebooklet_tx.errors import LocalStorageError
from ebooklet_tx.local.booklet.layout import GUARD_PREFIX
from ebooklet_tx.local.files.own_files import copy_new
from ebooklet_tx.local.files.rights import ACCESS_LIST, Rights, give, narrow, rights_of
from tests.pairs import LARGE, Bench, make

VALUES = {"k": b"value", "large": LARGE}
IS_ROOT = os.geteuid() == 0


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    make(bench, VALUES)
    return bench


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def beside(bench: Bench) -> list[Path]:
    """What lies beside the Booklet under names of ours."""
    return sorted(path for path in bench.folder.glob("a.blt?*") if path.is_file())


def prune(bench: Bench) -> None:
    with bench.open("a", "w") as db:
        db.prune()


def recover(bench: Bench) -> None:
    with bench.path().open("r+b") as file:
        file.write(GUARD_PREFIX + b"unknown!")
    ebooklet_tx.recover(bench.path())


def start_anew(bench: Bench) -> None:
    bench.open("a", "n").close()


WAYS = [prune, recover, start_anew]


@pytest.mark.parametrize("work", WAYS)
@pytest.mark.parametrize("bits", [0o600, 0o640, 0o664])
def test_a_file_in_another_ones_place_has_its_mode(
    bench: Bench, work: Callable[[Bench], None], bits: int
) -> None:
    bench.path().chmod(bits)
    # While it is open no other file has its number.
    with bench.path().open("rb") as before:
        work(bench)
        assert bench.path().stat().st_ino != os.fstat(before.fileno()).st_ino
    assert mode(bench.path()) == bits
    assert {mode(path) & ~bits for path in beside(bench)} == {0}


@pytest.mark.parametrize("work", WAYS)
def test_it_has_its_attributes(bench: Bench, work: Callable[[Bench], None]) -> None:
    try:
        os.setxattr(bench.path(), "user.origin", b"a survey")
    except OSError:
        pytest.skip("this file system has no attributes")
    work(bench)
    assert os.getxattr(bench.path(), "user.origin") == b"a survey"


@pytest.mark.skipif(not IS_ROOT, reason="only root may give a file away")
@pytest.mark.parametrize("work", WAYS)
def test_it_has_its_owner(bench: Bench, work: Callable[[Bench], None]) -> None:
    os.chown(bench.path(), 1234, 2345)
    bench.path().chmod(0o640)
    work(bench)
    found = bench.path().stat()
    assert (found.st_uid, found.st_gid, mode(bench.path())) == (1234, 2345, 0o640)
    for path in beside(bench):
        assert (path.stat().st_gid, mode(path) & ~0o640) == (2345, 0), path


def test_a_journal_is_made_with_the_rights_of_its_file(bench: Bench) -> None:
    bench.journal().unlink()
    bench.path().chmod(0o600)
    with bench.open("a", "w") as db:
        db["more"] = b"1"
        with db.transaction():
            db["staged"] = b"1"
        found = {path.name: mode(path) for path in beside(bench)}
        parts = ("", "-wal", "-shm", "-mark")
        assert found == {f"a.blt.journal{part}": 0o600 for part in parts}


def test_an_open_narrows_what_was_made_before(bench: Bench) -> None:
    names = (
        "a.blt.journal.aside-1234567890123456",
        "a.blt.journal.aside-clean",
        "a.blt.journal.aside-1234567890123456-wal",
        "a.blt.journal.before-0001",
        "a.blt.damaged-1234567890123456",
        "a.blt.older-1234567890123456",
        "a.blt.1-2.new",
    )
    for name in names:
        (bench.folder / name).write_bytes(b"values")
        (bench.folder / name).chmod(0o664)
    theirs = bench.folder / "a.blt.txt"
    theirs.write_bytes(b"not ours")
    theirs.chmod(0o664)
    link = bench.folder / "a.blt.damaged-1"
    link.symlink_to(theirs)
    bench.path().chmod(0o640)
    with bench.open("a", "w"):
        ours = [path for path in beside(bench) if path not in (theirs, link)]
        assert {path.name for path in ours} >= {*names, "a.blt.journal", "a.blt.journal-wal", "a.blt.journal-shm"}
        assert {mode(path) for path in ours} == {0o640}
    assert mode(theirs) == 0o664


def test_an_open_never_widens(bench: Bench) -> None:
    bench.path().chmod(0o664)
    bench.journal().chmod(0o600)
    bench.open("a", "w").close()
    assert mode(bench.journal()) == 0o600


def test_a_copy_that_is_kept_is_open_to_nobody_else(bench: Bench) -> None:
    bench.path().chmod(0o600)
    with bench.path().open("r+b") as file:
        file.truncate(bench.path().stat().st_size - 3)
    bench.journal().unlink()
    with bench.open("a", "w"):
        pass
    (kept,) = bench.folder.glob("a.blt.damaged-*")
    assert mode(kept) == 0o600


def test_the_backup_of_a_migration_is_open_to_nobody_else(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from ebooklet_tx.local.journal import migrate

    with sqlite3.connect(bench.journal()) as raw:
        bench.journal().chmod(0o600)
        migrate._back_up(raw, bench.journal(), "0000")
    raw.close()
    assert mode(bench.journal().with_name("a.blt.journal.before-0000")) == 0o600


# -- what the system refuses ---------------------------------------------------------------------


def refuse(*_: object, **__: object) -> None:
    raise PermissionError(1, "Operation not permitted")


def test_without_the_right_to_give_it_away_the_rest_is_kept(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = Rights(0o664, os.geteuid() + 1, os.getegid() + 1)
    monkeypatch.setattr("ebooklet_tx.local.booklet.value_file.rights_of", lambda _: other)
    monkeypatch.setattr(os, "fchown", refuse)
    prune(bench)
    # Its group would be another one: what its members may do that nobody else may is left out.
    assert mode(bench.path()) == 0o644
    assert "could not be given the owner, group of the file it goes with" in caplog.text
    assert bench.contents("a") == VALUES


@pytest.mark.parametrize(("bits", "without"), [(0o660, 0o600), (0o664, 0o644), (0o676, 0o666), (0o604, 0o604)])
def test_members_of_another_group_get_what_everybody_gets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int, without: int
) -> None:
    monkeypatch.setattr(os, "fchown", refuse)
    path = tmp_path / "new"
    path.touch(0o600)
    fd = os.open(path, os.O_RDWR)
    assert give(fd, Rights(bits, os.geteuid(), os.getegid() + 1)) == ["group"]
    os.close(fd)
    assert mode(path) == without


def test_a_journal_of_another_user_is_said_to_be_open(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench.path().chmod(0o600)
    bench.journal().chmod(0o644)
    monkeypatch.setattr(os, "chmod", refuse)
    with bench.open("a", "w") as db:
        assert dict(db) == VALUES
    assert "a.blt.journal may be open to more people" in caplog.text


def test_a_failure_half_way_leaves_nothing(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fchmod", fail)
    with bench.path().open("rb") as file, pytest.raises(LocalStorageError, match="kept"):
        copy_new(file.fileno(), tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


# -- access lists --------------------------------------------------------------------------------


def access_list(user: int, bits: int) -> bytes:
    """One that lets one more user in, and the owning group not at all."""
    nobody = 0xFFFFFFFF
    entries = ((1, 6, nobody), (2, bits, user), (4, 0, nobody), (16, bits, nobody), (32, 0, nobody))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


@pytest.fixture
def listed(bench: Bench) -> Bench:
    try:
        os.setxattr(bench.path(), ACCESS_LIST, access_list(1234, 6))
    except OSError:
        pytest.skip("this file system has no access lists")
    return bench


@pytest.mark.parametrize("work", WAYS)
def test_an_access_list_goes_along(listed: Bench, work: Callable[[Bench], None]) -> None:
    before = os.getxattr(listed.path(), ACCESS_LIST)
    work(listed)
    for path in (listed.path(), listed.journal()):
        assert os.getxattr(path, ACCESS_LIST) == before, path
    with listed.open("a", "w"):
        # The mark holds nothing but a count.
        for path in (path for path in beside(listed) if not path.name.endswith("-mark")):
            assert os.getxattr(path, ACCESS_LIST) == before, path


def test_a_list_that_the_file_does_not_have_goes(listed: Bench) -> None:
    os.setxattr(listed.journal(), ACCESS_LIST, access_list(2345, 6))
    os.removexattr(listed.path(), ACCESS_LIST)
    listed.path().chmod(0o600)
    assert narrow(listed.journal(), rights_of(listed.path()))
    assert ACCESS_LIST not in os.listxattr(listed.journal())
    assert mode(listed.journal()) == 0o600
    assert not narrow(listed.journal(), rights_of(listed.path()))
