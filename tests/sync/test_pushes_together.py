"""Threads of one process that push together share a commit, and each hears that its changes are in the remote."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import ebooklet_tx
from ebooklet_tx import testing
from ebooklet_tx.sync.commit import push

THREADS = 8


def test_those_that_wait_for_a_push_are_sent_by_one_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, called = tmp_path / "a.blt", threading.Semaphore(0)
    real = push.is_any_pending

    def is_any_pending(raw: sqlite3.Connection) -> bool:
        # What follows is the wait for the push at work.
        called.release()
        return real(raw)

    testing.clear("together")
    with ebooklet_tx.open("memory://together", path, "c", "str", lock=None) as db:
        db["zero"] = "0"
        assert db.changes().push()
    with testing.wrapped_stores(lambda inner: testing.GatedStore(inner, 1, kind="put")) as stores:
        db = ebooklet_tx.open("memory://together", path, "w", lock=None)
    with db, ThreadPoolExecutor(THREADS + 1) as pool:
        db["first"] = "1"
        first = pool.submit(db.changes().push)
        stores[0].wait_until_stopped()
        monkeypatch.setattr(push, "is_any_pending", is_any_pending)

        def write_and_push(number: int) -> ebooklet_tx.PushResult:
            db[f"key {number}"] = "1"
            return db.changes().push()

        others = [pool.submit(write_and_push, number) for number in range(THREADS)]
        assert all(called.acquire(timeout=60) for _ in range(THREADS))
        stores[0].opened.set()
        results = [future.result(60) for future in others]
        assert first.result(60).seq == 2
        assert {(result.updated, result.seq, result.set_count) for result in results} == {(True, 3, THREADS)}
        assert [record.set_count for record in db.history()] == [THREADS, 1, 1]
        assert not db.changes().push()
    with ebooklet_tx.open("memory://together", tmp_path / "b.blt", "r") as again:
        assert len(again) == THREADS + 2


def test_a_push_after_another_found_nothing_says_so(tmp_path: Path) -> None:
    testing.clear("together")
    with ebooklet_tx.open("memory://together", tmp_path / "a.blt", "c", "str", lock=None) as db:
        db["a"] = "1"
        assert db.changes().push()
        assert not db.changes().push()
        db["b"] = "1"
        db.changes().discard()
        assert not db.changes().push()
