"""Errors of SQLite that pass: an opening that meets one fails, and costs no acknowledged commit."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ebooklet_tx.errors import Error, JournalDamagedError, LocalStorageError
from ebooklet_tx.local.journal import journal as journal_module
from ebooklet_tx.local.journal.entries import entries_where
from ebooklet_tx.local.journal.journal import journal_path
from ebooklet_tx.local.local_store import LocalStore

PASSING = (
    "SQLITE_IOERR_READ",
    "SQLITE_IOERR_SHMMAP",
    "SQLITE_IOERR_LOCK",
    "SQLITE_PROTOCOL",
    "SQLITE_CANTOPEN",
    "SQLITE_NOMEM",
    "SQLITE_MISUSE",
    "SQLITE_ERROR",
    "SQLITE_INTERNAL",
    "SQLITE_BUSY",
    "SQLITE_FULL",
    "SQLITE_SCHEMA",
    "SQLITE_NOTICE_RECOVER_WAL",
    "",
)
MISREAD = ("SQLITE_NOTADB", "SQLITE_CORRUPT", "SQLITE_CORRUPT_INDEX")
STATEMENTS = range(0, 24, 2)


class Complaint(sqlite3.DatabaseError):
    sqlite_errorname = ""


class Failing:
    """A connection whose statement of one number fails, and none before or after it."""

    def __init__(self, raw: sqlite3.Connection, name: str, left: list[int]) -> None:
        self._raw = raw
        self._name = name
        self._left = left

    def execute(self, *arguments: Any) -> Any:
        self._left[0] -= 1
        if self._left[0] == -1:
            error = Complaint(f"a passing error {self._name}")
            error.sqlite_errorname = self._name
            raise error
        return self._raw.execute(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A pair whose journal alone holds an acknowledged value."""
    path = tmp_path / "a.blt"
    store = LocalStore.open_writer(path, create=True, n_buckets=11)
    for key in ("first", "second"):
        store.overlay.put(key, b"acknowledged", 5)
    store.commit()
    store.abandon()
    return path


def held(path: Path) -> dict[str, bytes | None]:
    store = LocalStore.open_writer(path, create=False, timeout_seconds=1.0)
    try:
        return {entry.key: store.read(entry) for entry in entries_where(store.journal, "1")}
    finally:
        store.abandon()


def names(path: Path) -> list[str]:
    side = {f"{path.name}.journal-wal", f"{path.name}.journal-shm"}
    return sorted(there.name for there in path.parent.iterdir() if there.name not in side)


def openings(path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Exception]:
    """Opens again and again, with another statement failing each time; yields what was raised."""
    genuine = journal_module._connected
    for number in STATEMENTS:
        left = [number]

        def connect(*arguments: Any, left: list[int] = left, **options: Any) -> Any:
            return Failing(genuine(*arguments, **options), name, left)

        with monkeypatch.context() as patch:
            patch.setattr(journal_module, "_connected", connect)
            try:
                LocalStore.open_writer(path, create=False, timeout_seconds=1.0).abandon()
            except Exception as error:
                yield error
            # Beyond the last statement of an opening nothing fails.


@pytest.mark.parametrize("name", PASSING)
def test_a_passing_error_changes_nothing(path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = names(path)
    raised = list(openings(path, name, monkeypatch))
    assert len(raised) > 3
    assert {type(error).__mro__.index(LocalStorageError) >= 0 for error in raised} == {True}
    assert all("a.blt.journal" in str(error) for error in raised)
    assert not any(isinstance(error, JournalDamagedError) for error in raised)
    assert names(path) == before
    assert held(path) == {"first": b"acknowledged", "second": b"acknowledged"}


@pytest.mark.parametrize("name", MISREAD)
def test_damage_that_a_second_look_does_not_find_changes_nothing(
    path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = names(path)
    raised = list(openings(path, name, monkeypatch))
    assert raised
    assert all(isinstance(error, LocalStorageError) for error in raised)
    assert names(path) == before
    assert held(path) == {"first": b"acknowledged", "second": b"acknowledged"}


def test_a_second_look_that_fails_is_no_proof(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal_path(path).write_bytes(b"garbage" * 2000)
    before = names(path)

    def connect(*arguments: Any, **options: Any) -> Any:
        raise _complaint("SQLITE_IOERR_READ")

    with monkeypatch.context() as patch:
        patch.setattr("ebooklet_tx.local.journal.sqlite_errors.connected", connect)
        with pytest.raises(Error):
            LocalStore.open_writer(path, create=False)
    assert names(path) == before


def _complaint(name: str) -> Complaint:
    error = Complaint("x")
    error.sqlite_errorname = name
    return error
