"""Reads of a root that lag behind for a moment: a session that knows a later commit waits for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx
from ebooklet_tx.stores.object_store import Blob, ObjectStore
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.stores.wrapper import PassingStore
from ebooklet_tx.sync.connecting import wrapped_stores
from ebooklet_tx.sync.root_object import LOOKS_AT_AN_OLDER_ROOT
from tests.pairs import Bench, make


class LaggingStore(PassingStore):
    """Shows an older root so many times.

    Attributes:
        old: That root.
        lags: How often it is still shown.
    """

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.old: Blob | None = None
        self.lags = 0

    def get(self, key: str, *, if_none_match: str | None = None, max_bytes: int | None = None) -> Blob | None:
        if key == "db" and self.lags:
            self.lags -= 1
            return self.old
        return super().get(key, if_none_match=if_none_match, max_bytes=max_bytes)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def policy(waits: list[float]) -> RetryPolicy:
    # However long it waits for a store that fails.
    return RetryPolicy(base_seconds=20.0, cap_seconds=60.0, sleep=waits.append)


@pytest.mark.parametrize("has_file", [True, False])
@pytest.mark.parametrize("lags", [1, LOOKS_AT_AN_OLDER_ROOT])
def test_a_session_does_not_go_back_for_a_moment(bench: Bench, has_file: bool, lags: int) -> None:
    make(bench, {"a": b"1"})
    stores: list[LaggingStore] = []
    waits: list[float] = []

    def wrap(inner: ObjectStore) -> LaggingStore:
        stores.append(LaggingStore(inner))
        return stores[-1]

    path = bench.path("b") if has_file else None
    with wrapped_stores(wrap):
        opened: Any = ebooklet_tx.open(bench.url, path, "r", retry=policy(waits))
    pull = opened.changes().pull if has_file else opened.pull
    with opened as db:
        (store,) = stores
        store.old = store.get("db")
        make(bench, {"a": b"2"})
        assert pull()
        store.lags = lags
        assert not pull()
        assert (store.lags, len(waits)) == (0, lags)
        assert sum(waits) <= 1.5
        assert db["a"] == b"2"
        # One that stays older was put back.
        store.lags = 100
        assert pull()
        assert db["a"] == b"1"
        store.lags = 0
        assert pull()
        assert db["a"] == b"2"


@pytest.mark.parametrize("flag", ["r", "w"])
def test_opening_does_not_go_back_for_a_moment(bench: Bench, flag: Any) -> None:
    make(bench, {"a": b"1"})
    stores: list[LaggingStore] = []

    def wrap(inner: ObjectStore) -> LaggingStore:
        stores.append(LaggingStore(inner))
        stores[-1].old, stores[-1].lags = old, 1
        return stores[-1]

    with wrapped_stores(LaggingStore), bench.open("a", "r") as db:
        old = db._session.remote.store.get("db")
    make(bench, {"a": b"2"})
    with wrapped_stores(wrap):
        opened = ebooklet_tx.open(bench.url, bench.path("a"), flag, lock=None, retry=policy([]))
    with opened as db:
        assert db["a"] == b"2"
    assert [store.lags for store in stores] == [0]
