"""Fences that are raised again and again, without a push between."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebooklet_tx.formats.root import ROOT_TAIL_LIMIT_BYTES
from ebooklet_tx.limits import MAX_SEGMENTS
from ebooklet_tx.sync.commit import builder as building
from ebooklet_tx.sync.commit.fencing import fence_off
from ebooklet_tx.sync.pull.segments import fetch_images, log_of
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.root_object import FetchedRoot, read_root
from tests.remotes import Shelf


def taken_over(shelf: Shelf, times: int) -> tuple[Remote, FetchedRoot]:
    remote = shelf.remote("db")
    for _ in range(times):
        fence_off(remote)
    fetched = read_root(remote)
    assert fetched is not None
    assert fetched.manifest.fence == times
    assert len(fetched.manifest.segments) <= MAX_SEGMENTS
    return remote, fetched


def works_on(shelf: Shelf, seq: int) -> None:
    """Makes sure that a copy from before follows, that a new one reads, and that both push."""
    shelf.push("db", "a", {"k": b"2"})
    assert shelf.contents("db") == shelf.contents("db", "a") == {"k": b"2"}
    with shelf.open("db", "b") as db:
        db["k"] = b"3"
        assert db.changes().push().seq == seq + 2


@pytest.mark.slow
def test_three_thousand_takeovers_without_a_push_do_not_fill_the_tail(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.push("db", "a", {"k": b"1"})
    remote, fetched = taken_over(shelf, 3000)
    assert len(fetched.root.tail) <= ROOT_TAIL_LIMIT_BYTES
    assert sorted(log_of(fetch_images(remote, fetched, 0))) == list(range(1, 3002))
    works_on(shelf, 3001)


def test_small_segments_of_takeovers_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "ROOT_TAIL_LIMIT_BYTES", 600)
    shelf = Shelf(tmp_path)
    shelf.push("db", "a", {"k": b"1"})
    remote, fetched = taken_over(shelf, 100)
    assert sorted(log_of(fetch_images(remote, fetched, 0))) == list(range(1, 102))
    works_on(shelf, 101)


def test_takeovers_go_on_where_a_segment_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "ROOT_TAIL_LIMIT_BYTES", 600)
    shelf = Shelf(tmp_path)
    shelf.push("db", "a", {"k": b"1"})
    # The push before has filled the first.
    remote, fetched = taken_over(shelf, MAX_SEGMENTS - 1)
    assert len(fetched.manifest.segments) == MAX_SEGMENTS
    for segment in fetched.manifest.segments:
        shelf.store.delete(remote.names.object(segment.name))
    for _ in range(20):
        fence_off(remote)
    fetched_after = read_root(remote)
    assert fetched_after is not None
    assert fetched_after.manifest.fence == MAX_SEGMENTS + 19
    assert fetched_after.manifest.segments == fetched.manifest.segments
