"""Calls of the system on local files fail, or do less than asked: errors are ours, and nothing is lost."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import booklet
import pytest

from ebooklet_tx.errors import Error, JournalDamagedError, LocalStorageError
from ebooklet_tx.local.booklet.value_file import ValueFile
from ebooklet_tx.local.files.file_calls import read_at, size_of
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.local.local_store import LocalStore
from tests.pairs import Bench, make

VALUES = {f"key {number}": bytes([number]) * 300 for number in range(12)}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    make(bench, VALUES)
    return bench


@contextmanager
def failing(owner: Any, name: str, at: int, error: int) -> Iterator[Callable[[], bool]]:
    """Fails the n-th call of a function; what it gives tells whether it came to that."""
    genuine = getattr(owner, name)
    calls = 0

    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise OSError(error, os.strerror(error))
        return genuine(*arguments, **options)

    with mock.patch.object(owner, name, call):
        yield lambda: calls >= at


def work(bench: Bench) -> None:
    """Opens, reads, stages, appends with deletes, prunes and closes."""
    with bench.open("a", "w") as db:
        assert dict(db.items()) == VALUES
        db["staged"] = b"s"
        db.sync()
        del db["staged"]
        del db["key 3"]
        db["key 3"] = VALUES["key 3"]
        db.prune()


@pytest.mark.parametrize(
    ("owner", "name", "error"),
    [
        (os, "pread", errno.EIO),
        (os, "fstat", errno.EIO),
        (os, "close", errno.EIO),
        (Path, "stat", errno.EACCES),
        (fcntl, "flock", errno.ENOLCK),
        (Path, "replace", errno.EIO),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_each_failing_call_is_told_as_ours(bench: Bench, owner: Any, name: str, error: int) -> None:
    at, met, raised = 0, True, 0
    while met:
        at += 1
        with failing(owner, name, at, error) as reached:
            try:
                work(bench)
            except Error as told:
                raised += str(bench.folder) in str(told)
            met = reached()
        with bench.open("a", "w") as db:
            assert {key: value for key, value in db.items() if key != "staged"} == VALUES
            db.pop("staged", None)
    assert raised > 0 or name == "close"
    assert not list(bench.folder.glob("*.aside-*"))


@contextmanager
def short_reads() -> Iterator[None]:
    """Gives half of what is asked for, as a network drive may."""
    genuine = os.pread

    def pread(fd: int, length_bytes: int, offset_bytes: int) -> bytes:
        return genuine(fd, max(1, length_bytes // 2), offset_bytes)

    with mock.patch.object(os, "pread", pread):
        yield


def test_reads_that_give_half_change_nothing(bench: Bench) -> None:
    with short_reads():
        with bench.open("a", "w") as db:
            assert dict(db.items()) == VALUES
            for number in range(6):
                del db[f"key {number}"]
            db["new"] = b"n" * 1000
        with bench.path().open("r+b") as file:
            os.utime(file.fileno(), ns=(1, 1))
        with bench.open("a", "w") as db:
            assert list(db.changes().iter_changes())
            assert len(db) == 7
    with booklet.open(bench.path()) as plain:
        assert sorted(plain.keys()) == sorted([f"key {number}" for number in range(6, 12)] + ["new"])


def test_read_at_ends_where_the_file_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with path.open("rb") as file, short_reads():
        assert read_at(file.fileno(), 8, 1) == b"12345678"
        assert read_at(file.fileno(), 8, 6) == b"6789"
        assert read_at(file.fileno(), 8, 10) == b""


def test_what_the_system_does_not_say(tmp_path: Path) -> None:
    with failing(Path, "stat", 1, errno.EIO), pytest.raises(LocalStorageError, match="can't look at"):
        size_of(tmp_path)


def test_a_rename_that_took_place_and_failed(bench: Bench) -> None:
    genuine = Path.replace

    def replace(path: Path, target: Path) -> Path:
        genuine(path, target)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with bench.open("a", "w") as db:
        with mock.patch.object(Path, "replace", replace), pytest.raises(LocalStorageError):
            db.prune()
        assert dict(db.items()) == VALUES
        db.prune()
        db["after"] = b"a"
    assert bench.contents("a") == VALUES | {"after": b"a"}


def test_a_lock_that_the_file_system_has_not(bench: Bench) -> None:
    with failing(fcntl, "flock", 1, errno.ENOLCK), pytest.raises(LocalStorageError, match="no lock to give"):
        bench.open("a", "w")
    with closing(ValueFile.open(bench.path(), writable=True)) as file:
        assert file.try_lock()


def test_a_file_that_can_not_be_opened_is_not_called_another(bench: Bench) -> None:
    genuine = os.open

    def refuse(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path) == str(bench.path()):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return genuine(path, *arguments, **options)

    with mock.patch.object(os, "open", refuse), pytest.raises(LocalStorageError, match="Too many open files"):
        bench.open("a", "r")


def test_a_reader_proves_damage_before_it_speaks_of_it(bench: Bench) -> None:
    seeming = mock.patch.object(Journal, "open", side_effect=JournalDamagedError("malformed"))
    with seeming, pytest.raises(LocalStorageError, match="finds nothing wrong"):
        LocalStore.open_reader(bench.path())
    bench.journal().write_bytes(b"not SQLite" * 500)
    with pytest.raises(JournalDamagedError):
        LocalStore.open_reader(bench.path())


@pytest.mark.parametrize("name", ["exists", "is_dir", "stat"])
def test_a_remote_folder_of_which_the_system_does_not_tell(bench: Bench, name: str) -> None:
    def refuse(path: Path, *_: Any, **__: Any) -> Any:
        if path.is_relative_to(bench.folder / "remote"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return genuine(path, *_, **__)

    genuine = getattr(Path, name)
    with bench.open("a", "w") as db:
        db["new"] = b"n"
        with mock.patch.object(Path, name, refuse), suppress(Error):
            db.changes().push()
        db.changes().push()
    assert bench.fresh_contents() == VALUES | {"new": b"n"}
