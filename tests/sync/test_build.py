"""Building a commit from plain values: no journal, no store."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ebooklet_tx.formats.root import decode_root
from ebooklet_tx.formats.segment import iter_rows, read_segment
from ebooklet_tx.local.journal.base import Base
from ebooklet_tx.records import CommitRecord, CommitWay, IndexRow, ObjectRef, SegmentRef, digest_of
from ebooklet_tx.sync.commit import builder as building
from ebooklet_tx.sync.commit.builder import DatabaseFacts, Index, build, draft_index
from ebooklet_tx.sync.commit.changes import Changes
from ebooklet_tx.sync.commit.commit_mode import CommitMode
from ebooklet_tx.sync.root_object import base_of

FACTS = DatabaseFacts("0" * 32, "booklet", "orjson", 12007)
PLACE = ("http://127.0.0.1:9", "bucket")
PACK = ObjectRef("pack/" + "1" * 32, "etag", 100)
SEGMENT = SegmentRef("index/" + "2" * 32, "etag", 100, "3" * 32, 1, 4)


def record(seq: int) -> CommitRecord:
    return CommitRecord(seq, f"{seq:032x}", 1_000_000 + seq, "here:1", 1, 0, 1)


def changes(seq: int, *keys: str, has_packs: bool = False) -> Changes:
    value = b"v" * 10
    rows = [
        IndexRow(key, seq, 1, digest_of(value), PACK.name, 0, 10)
        if has_packs
        else IndexRow(key, seq, 1, digest_of(value), None, None, 10, value)
        for key in keys
    ]
    return Changes(rows, {PACK.name: PACK}, record(seq), len(keys), has_packs)


def commit_on(base: Base, of: Changes, mode: CommitMode | None = None) -> building.Commit:
    draft = draft_index(base, of, name="the tail")
    assert draft.joins_tail
    index = Index(base.segments, base.tombstone_floor, draft.tail)
    return build(FACTS, base, of, index, draft.image_blob, mode or CommitMode())


def keys_in(tail: bytes) -> list[str]:
    return [row.key for row in iter_rows(read_segment(tail, name="tail"))]


def test_the_first_commit_names_what_it_is_and_nothing_before_it() -> None:
    commit = commit_on(Base(), changes(1, "a", "b"))
    root = decode_root(commit.root, name="root")
    assert root.manifest == commit.manifest
    assert (root.manifest.seq, root.manifest.parent, root.manifest.key_count) == (1, None, 2)
    assert (root.manifest.uuid, root.manifest.value_serializer) == (FACTS.uuid, "orjson")
    assert keys_in(root.tail) == ["a", "b"]
    assert commit.swaps
    assert not commit.changes_mode


def test_a_commit_carries_the_tail_fence_and_unknown_fields_of_its_base() -> None:
    first = commit_on(Base(fence=3, unknown='{"newer": 1}'), changes(1, "a"))
    base = base_of(first.manifest, "etag", first.root)
    second = commit_on(base, changes(2, "b"))
    assert keys_in(second.tail) == ["a", "b"]
    assert keys_in(second.image_blob) == ["b"]
    assert second.manifest.parent == first.manifest.commit_id
    assert (second.manifest.fence, second.manifest.key_count) == (3, 2)
    assert second.manifest.unknown == {"newer": 1}


@pytest.mark.parametrize(("limit_bytes", "joins"), [(64 * 1024, True), (10, False)])
def test_a_tail_past_its_limit_becomes_a_segment(
    monkeypatch: pytest.MonkeyPatch, limit_bytes: int, joins: bool
) -> None:
    monkeypatch.setattr(building, "ROOT_TAIL_LIMIT_BYTES", limit_bytes)
    draft = draft_index(Base(), changes(1, "a"), name="the tail")
    assert (draft.joins_tail, draft.is_whole) == (joins, True)
    assert not draft_index(Base(segments=(SEGMENT,)), changes(5, "a"), name="the tail").is_whole


def test_many_keys_in_packs_do_not_join_the_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "OWN_SEGMENT_BYTES", 10)
    assert draft_index(Base(), changes(1, "a"), name="the tail").joins_tail
    assert not draft_index(Base(), changes(1, "a", has_packs=True), name="the tail").joins_tail


def test_a_tail_that_no_reader_takes_is_written_out() -> None:
    base = Base(seq=1, commit_id=record(1).commit_id, bare_tail=b"damaged")
    draft = draft_index(base, changes(2, "a"), name="the tail")
    assert not draft.joins_tail
    assert not draft.is_whole


def test_a_root_names_the_mode_of_its_commit() -> None:
    swaps = CommitWay("quoted", *PLACE)
    base = replace(Base(), seq=4, commit_id=record(4).commit_id, commits=swaps)
    commit = commit_on(base, changes(5, "a"), CommitMode(place=PLACE))
    assert (commit.manifest.commits, commit.changes_mode) == (swaps, False)
    commit = commit_on(base, changes(5, "a"), CommitMode(swaps=False, place=PLACE))
    assert commit.manifest.commits == CommitWay("tickets", *PLACE)
    assert (commit.swaps, commit.changes_mode) == (False, True)
    other = commit.with_mode(swaps)
    assert decode_root(other.root, name="root").manifest.commits == swaps
    assert other.swaps
