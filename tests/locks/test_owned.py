"""Locks, descriptors and transactions are owned from the moment they exist, whatever raises then."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ebooklet_tx.descriptors import Descriptor
from ebooklet_tx.ending import Ending
from ebooklet_tx.errors import LocalStorageError
from ebooklet_tx.local.journal.journal import Journal, driver
from ebooklet_tx.locks.lease import Lease
from ebooklet_tx.locks.lease_rules import decode_lease
from ebooklet_tx.locks.tickets import TicketLock
from ebooklet_tx.stores import deadline
from ebooklet_tx.stores.retry import RetryPolicy
from tests.memory_store import MemoryStore
from tests.pairs import Bench
from tests.remotes import Shelf
from tests.store_wrappers import PassingStore


class Interrupting(PassingStore):
    """Takes a request, and interrupts before its answer arrives."""

    at: Callable[[str, str], bool] = staticmethod(lambda kind, key: False)

    def _pass(self, kind: str, key: str, send: Callable[[], Any]) -> Any:
        answer = send()
        if self.at(kind, key):
            self.at = lambda kind, key: False
            raise KeyboardInterrupt
        return answer


def held(store: MemoryStore) -> list[str]:
    return [
        entry.key
        for entry in store.list("db.lock")
        if entry.key != "db.lock" or decode_lease(store.objects[entry.key].data, name=entry.key).held
    ]


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("number", [1, 2])
def test_an_open_that_is_interrupted_while_it_takes_the_lock_holds_none(
    tmp_path: Path, conditional: bool, number: int
) -> None:
    shelf = Shelf(tmp_path, MemoryStore("work" if conditional else "ignored"), conditional)
    shelf.push("db", "a", {"k": b"v"})
    store, seen = Interrupting(shelf.store), []

    def at(kind: str, key: str) -> bool:
        if kind == "put" and key.startswith("db.lock"):
            seen.append(key)
        return len(seen) == number

    store.at = at
    with pytest.raises(KeyboardInterrupt):
        shelf.open("db", "a", "w", lock="exclusive", wrap=lambda _: store)
    assert len(seen) == number
    assert held(shelf.store) == []
    assert not [thread for thread in threading.enumerate() if "ebooklet_tx" in thread.name]
    with shelf.open("db", "a", "w", lock="exclusive", lock_timeout=0.0) as db:
        assert db["k"] == b"v"


def test_a_close_that_is_interrupted_while_it_frees_the_lock_has_freed_it(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    store = Interrupting(shelf.store)
    db = shelf.open("db", "a", lock="exclusive", wrap=lambda _: store)
    db["k"] = b"v"
    store.at = lambda kind, key: kind == "put"
    with pytest.raises(KeyboardInterrupt):
        db.close()
    assert held(shelf.store) == []
    db.close()
    with shelf.open("db", "a", "w", offline=True) as again:
        assert again["k"] == b"v"


def test_a_close_that_is_interrupted_all_the_time_is_finished_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)
    db = bench.open(lock="exclusive")
    db["k"] = b"v"

    def commit(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ebooklet_tx.local.local_store.stage", commit)
        patch.setattr("ebooklet_tx.local.open_pair.append", commit)
        with pytest.raises(KeyboardInterrupt):
            db.close()
    db.close()
    with bench.open(flag="w", lock="exclusive", lock_timeout=0.0, offline=True) as again:
        assert again["k"] == b"v"


@pytest.mark.parametrize("kind", [Lease, TicketLock])
def test_a_lock_that_nobody_has_any_more_is_not_renewed(kind: Any) -> None:
    lock = kind(MemoryStore(), "db.lock", ttl_seconds=60.0, **({} if kind is Lease else {"settle_seconds": 0.0}))
    lock.acquire(1.0)
    thread = lock._thread
    assert thread is not None
    del lock
    thread.join(5.0)
    assert not thread.is_alive()


def test_a_transaction_that_an_interrupt_left_open_is_rolled_back_at_the_next(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal", create=True)
    try:
        journal.raw.execute("BEGIN IMMEDIATE")
        journal.raw.execute("INSERT INTO meta(name, value) VALUES ('half', 1)")
        with journal.transaction() as connection:
            driver(connection).execute("INSERT INTO meta(name, value) VALUES ('whole', 1)")
        assert (journal.get_meta("half"), journal.get_meta("whole")) == (None, 1)
    finally:
        journal.close()


def test_a_disk_that_fails_between_lock_and_header_keeps_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)
    with bench.open() as db:
        db["k"] = b"v"
    reads = []

    def pread(fd: int, length: int, offset: int) -> bytes:
        reads.append(offset)
        if len(reads) == 2:
            raise OSError(errno.EIO, "Input/output error")
        return read(fd, length, offset)

    read = os.pread
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", pread)
        with pytest.raises(LocalStorageError, match=r"can't read .*a\.blt"):
            bench.open(flag="w", offline=True)
    with bench.open(flag="w", offline=True, lock_timeout=0.0) as db:
        assert db["k"] == b"v"


def test_an_ending_runs_every_step_whatever_one_raises() -> None:
    done: list[int] = []
    raising: list[BaseException] = [ValueError("first"), KeyboardInterrupt(), OSError("later")]

    def step(number: int) -> Callable[[], None]:
        def run() -> None:
            done.append(number)
            if number % 2 == 0 and raising:
                raise raising.pop(0)

        return run

    ending = Ending()
    for number in range(5):
        ending.add(step(number))
    with pytest.raises(KeyboardInterrupt):
        ending.finish()
    assert done == [4, 3, 2]
    assert not ending.is_finished
    with pytest.raises(OSError, match="later"):
        ending.finish()
    assert done == [4, 3, 2, 2, 1, 0]
    assert ending.is_finished


def test_a_descriptor_is_closed_with_its_owner(tmp_path: Path) -> None:
    owned = Descriptor()
    owned.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    number = owned.number
    assert os.get_inheritable(number) is False
    del owned
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    owned = Descriptor()
    owned.open(tmp_path / "file", os.O_RDONLY)
    owned.close()
    owned.close()
    assert owned.number == -1


def test_an_interrupt_on_the_way_into_an_attempt_comes_out_and_leaves_no_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    before = deadline._current.get()
    with monkeypatch.context() as patch:
        patch.setattr(deadline, "Deadline", interrupted)
        for attempt in RetryPolicy.without_backoff().attempts_for("lock"):
            with pytest.raises(KeyboardInterrupt), attempt:
                raise AssertionError("it began")
            break
    assert deadline._current.get() is before
