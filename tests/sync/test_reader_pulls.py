"""A session that only reads pulls without a lock, and leaves the journal to a writer beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from ebooklet_tx.database import Database
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.local.pair_files import try_open_locked
from ebooklet_tx.opening.by_flag import _pull_if_changed
from ebooklet_tx.stores.object_store import ObjectStore
from tests.pairs import LARGE, Bench, limit_tails, make, many_large, push
from tests.store_wrappers import PassingStore

T = TypeVar("T")


class Watched(PassingStore):
    """At each request: whether another thread can use the session, and another session the file."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.database: Database | None = None
        self.seen: list[tuple[str, bool, bool]] = []

    def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
        if self.database is not None:
            self.seen.append((kind, *in_another_thread(self.database)))
        return send()


def in_another_thread(db: Database) -> tuple[bool, bool]:
    found: list[bool] = []

    def look() -> None:
        free = db._session.mutex.acquire(blocking=False)
        if free:
            db._session.mutex.release()
        file = try_open_locked(db._session.local.path)
        found.extend((free, file is not None))
        if file is not None:
            file.close()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return found[0], found[1]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A remote whose index lies in objects of its own, and a copy `b` that holds something of it."""
    limit_tails(monkeypatch, 200)
    bench = Bench(tmp_path)
    make(bench, many_large())
    bench.contents("b")
    return bench


@pytest.mark.parametrize("way", ["pull", "open"])
def test_no_request_is_made_under_the_mutex_or_the_lock(bench: Bench, way: str) -> None:
    push(bench, "a", {f"k{number:02}": b"newer %d" % number + LARGE for number in range(0, 10, 3)})
    store: list[Watched] = []

    def wrap(inner: ObjectStore) -> Watched:
        store.append(Watched(inner))
        return store[-1]

    with bench.open("b", "r", wrap_store=wrap) as db:
        push(bench, "a", {f"k{number:02}": b"newest" + LARGE for number in range(10)})
        store[0].database = db
        if way == "pull":
            assert db.changes().pull().changed
        else:
            _pull_if_changed(db._session)
        assert {kind for kind, _, _ in store[0].seen} >= {"get", "get_range"}
        assert all(free and unlocked for _, free, unlocked in store[0].seen), store[0].seen
        store[0].database = None
        assert db["k03"] == b"newest" + LARGE


def test_beside_a_writer_nothing_is_applied_until_it_is_closed(bench: Bench) -> None:
    push(bench, "a", {"k00": b"newer"})
    with bench.open("b", "r") as reader:
        with bench.open("b", "w", offline=True):
            push(bench, "a", {"k00": b"newest"})
            before = read_base(reader._session.journal)
            result = reader.changes().pull()
            assert not result.changed
            assert result.seq == before.seq
            assert read_base(reader._session.journal) == before
            assert reader["k00"] == b"newer"
        assert reader.changes().pull().changed
        assert reader["k00"] == b"newest"


def test_beside_a_writer_a_reader_moves_on_where_its_pack_is_gone(bench: Bench) -> None:
    with bench.open("b", "w") as db:
        db.prune(2**55)
    with bench.open("b", "r") as reader, bench.open("b", "w", offline=True):
        push(bench, "a", dict.fromkeys(many_large(), b"newest" + LARGE))
        for path in bench.objects("pack")[:1]:
            path.unlink()
        assert reader["k04"] == b"newest" + LARGE
