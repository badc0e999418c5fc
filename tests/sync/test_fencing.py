"""Fences that are raised again and again, without a push between."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebooklet_tx.formats.root import KEEP_RECENT, ROOT_BYTES
from ebooklet_tx.index.history import HistoryReader
from ebooklet_tx.sync.commit.fencing import fence_off
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.root_object import FetchedRoot, read_root
from tests.pairs import limit_tails
from tests.remotes import Shelf


def taken_over(shelf: Shelf, times: int) -> tuple[Remote, FetchedRoot]:
    remote = shelf.remote("db")
    for _ in range(times):
        fence_off(remote)
    fetched = read_root(remote)
    assert fetched is not None
    assert fetched.manifest.fence == times
    return remote, fetched


def history_of(remote: Remote, fetched: FetchedRoot) -> list[int]:
    """The numbers of the commits that the root's history has, oldest first."""
    records = HistoryReader(remote.store, remote.names).records(fetched.manifest)
    return [record.seq for record in records][::-1]


def works_on(shelf: Shelf, seq: int) -> None:
    """Makes sure that a copy from before follows, that a new one reads, and that both push."""
    shelf.push("db", "a", {"k": b"2"})
    assert shelf.contents("db") == shelf.contents("db", "a") == {"k": b"2"}
    with shelf.open("db", "b") as db:
        db["k"] = b"3"
        assert db.changes().push().seq == seq + 2


@pytest.mark.slow
def test_three_thousand_takeovers_without_a_push_do_not_fill_the_root(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.push("db", "a", {"k": b"1"})
    remote, fetched = taken_over(shelf, 3000)
    assert len(fetched.data) <= ROOT_BYTES
    assert history_of(remote, fetched)[-1] == 3001
    works_on(shelf, 3001)


@pytest.mark.parametrize("tail_bytes", [0, 12_000])
def test_takeovers_leave_the_index_as_it_is_and_the_history_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tail_bytes: int
) -> None:
    limit_tails(monkeypatch, tail_bytes)
    shelf = Shelf(tmp_path)
    shelf.push("db", "a", {"k": b"1"})
    before = shelf.keys("db.d/index/")
    remote, fetched = taken_over(shelf, 3 * KEEP_RECENT)
    assert shelf.keys("db.d/index/") == before
    assert len(before) == (tail_bytes == 0)
    assert len(fetched.data) <= ROOT_BYTES
    assert history_of(remote, fetched) == list(range(1, 3 * KEEP_RECENT + 2))
    works_on(shelf, 3 * KEEP_RECENT + 1)


def test_takeovers_go_on_where_the_index_and_the_history_are_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_tails(monkeypatch, 0)
    shelf = Shelf(tmp_path)
    shelf.push("db", "a", {"k": b"1"})
    _, fetched = taken_over(shelf, KEEP_RECENT)
    assert fetched.manifest.histories
    for key in (*shelf.keys("db.d/index/"), *shelf.keys("db.d/history/")):
        shelf.store.delete(key)
    remote = shelf.remote("db")
    for _ in range(KEEP_RECENT + 20):
        fence_off(remote)
    fetched_after = read_root(remote)
    assert fetched_after is not None
    assert fetched_after.manifest.fence == 2 * KEEP_RECENT + 20
    assert fetched_after.manifest.runs == fetched.manifest.runs
    assert fetched_after.manifest.histories[: len(fetched.manifest.histories)] == fetched.manifest.histories
