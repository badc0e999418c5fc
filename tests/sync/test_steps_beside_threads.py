"""What counts or deletes all keys is one step for the threads beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ebooklet_tx.database import Database
from ebooklet_tx.sync.read import visible_keys
from ebooklet_tx.sync.read.reader import Reader
from tests.pairs import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def db(bench: Bench) -> Iterator[Database]:
    with bench.open() as db:
        db.update({f"k{number}": b"value" for number in range(6)})
        db.changes().push()
        yield db


def in_another_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def before_entries(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> None:
    """Has another thread work, once, right before the entries of uncommitted keys are looked up."""
    entries, pending = Reader.entries, [work]

    def look(*arguments: Any, **options: Any) -> Any:
        while pending:
            in_another_thread(pending.pop())
        return entries(*arguments, **options)

    monkeypatch.setattr(Reader, "entries", look)


def behind_first_page(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> None:
    """Has another thread work, once, when the first of several pages of keys is read and the last is not."""
    pending_page, calls = visible_keys.pending_page, iter((None, work))

    def read(*arguments: Any) -> Any:
        page = pending_page(*arguments)
        if (then := next(calls, None)) is not None:
            in_another_thread(then)
        return page

    monkeypatch.setattr(visible_keys, "PAGE_KEYS", 3)
    monkeypatch.setattr(visible_keys, "pending_page", read)


def test_keys_are_counted_while_another_thread_commits(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    db["new"] = b"uncommitted"
    del db["k0"], db["k1"]
    before_entries(monkeypatch, db.sync)
    assert len(db) == 5


def test_keys_are_counted_while_another_thread_pulls(
    bench: Bench, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bench.open("b") as other:
        other["new"] = b"theirs"
        other.changes().push()
    db["new"] = b"uncommitted"
    before_entries(monkeypatch, db.changes().pull)
    assert len(db) == 7


@pytest.mark.parametrize("committed", [False, True])
def test_keys_that_another_thread_sets_in_one_step_are_cleared_together(
    db: Database, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    def write() -> None:
        db.update({"a": b"1", "z": b"2"})
        if committed:
            db.sync()

    behind_first_page(monkeypatch, write)
    db.clear()
    assert set(db) in ({"a", "z"}, set())
    assert len(db) == len(set(db))


def test_keys_that_come_by_another_threads_pull_are_cleared_or_stay(
    bench: Bench, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bench.open("b") as other:
        other.update({"a": b"1", "z": b"2"})
        other.changes().push()
    behind_first_page(monkeypatch, db.changes().pull)
    db.clear()
    assert not set(db)
    db.changes().push()
    assert not set(db)


def test_keys_are_cleared_while_another_thread_keeps_pushing(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys_of, pushed = Database.__iter__, list[int]()

    def push() -> None:
        db["k0"] = f"{len(pushed)}".encode()
        db.changes().push()

    def iterate(read: Database) -> Iterator[str]:
        keys = list(keys_of(read))
        if not db._session.mutex._is_owned():  # type: ignore[attr-defined]
            pushed.append(len(pushed))
            assert len(pushed) < 5, "the keys are read again and again"
            in_another_thread(push)
        return iter(keys)

    monkeypatch.setattr(Database, "__iter__", iterate)
    db.clear()
    assert pushed == [0]
    assert not list(keys_of(db))
