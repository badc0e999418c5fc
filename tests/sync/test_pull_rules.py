"""What a root means for a journal, by plain values."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ebooklet_tx.formats.root import Manifest
from ebooklet_tx.local.journal.base import Base
from ebooklet_tx.local.journal.intents import Intent
from ebooklet_tx.local.journal.pending.pull_view import PullView
from ebooklet_tx.records import SegmentRef
from ebooklet_tx.sync.pull.identity import Identity, may_join, replacing_uuid
from ebooklet_tx.sync.pull.pull_rules import (
    dead_intents,
    key_count_of,
    leads_on_from,
    needs_whole_index,
    settle_intents,
)

BASE = Base(seq=7, commit_id="seven", segments=(SegmentRef("index/a", "e", 10, "digest a", 1, 7),))
MANIFEST = Manifest(
    uuid="u" * 32,
    type="booklet",
    seq=9,
    commit_id="nine",
    parent="eight",
    committed_at_us=0,
    writer="host:1",
    fence=0,
    value_serializer=None,
    key_count=20,
    tombstone_floor=3,
    n_buckets=12007,
)
HERE = Identity("a.blt", "a" * 32, "booklet", None)
THERE = Identity("'db'", "b" * 32, "booklet", None)
VIEW = PullView(Base(), (), False, bytes.fromhex("a" * 32), False)


def intent(commit_id: str, base_etag: str | None = None) -> Intent:
    return Intent(commit_id, 8, base_etag, b"")


@pytest.mark.parametrize(
    ("seq", "commit_id", "floor", "whole"),
    [
        (9, "nine", 7, False),
        (7, "seven", 0, False),
        (9, "nine", 8, True),
        (7, "another", 0, True),
        (6, "six", 0, True),
    ],
)
def test_the_whole_index_is_read_where_history_is_cut(seq: int, commit_id: str, floor: int, whole: bool) -> None:
    assert needs_whole_index(BASE, seq, commit_id, tombstone_floor=floor) is whole


def test_a_first_pull_reads_the_whole_index() -> None:
    assert needs_whole_index(Base(), 1, "one", tombstone_floor=0)


@pytest.mark.parametrize(
    ("manifest", "log", "leads_on"),
    [
        (MANIFEST, {7: "seven", 8: "eight"}, True),
        (MANIFEST, {7: "another", 8: "eight"}, False),
        (replace(MANIFEST, seq=7, commit_id="seven"), {}, True),
        (replace(MANIFEST, seq=7), {}, False),
        (replace(MANIFEST, segments=BASE.segments), {8: "eight"}, True),
        (replace(MANIFEST, segments=(replace(BASE.segments[0], digest="of another"),)), {8: "eight"}, False),
        (MANIFEST, {}, False),
    ],
)
def test_history_leads_on_where_it_has_the_base(manifest: Manifest, log: dict[int, str], leads_on: bool) -> None:
    assert leads_on_from(BASE, manifest, log) is leads_on


def test_a_push_is_applied_where_the_root_or_its_log_names_it() -> None:
    first, second, third = intent("nine"), intent("eight"), intent("lost")
    assert settle_intents([first, second, third], "nine", {"eight"}) == ((first, second), (third,))
    assert settle_intents([], "nine", {"eight"}) == ((), ())


def test_a_push_that_is_only_late_is_not_dead() -> None:
    assert dead_intents([intent("first"), intent("second", "etag")], None) == ["second"]


def test_a_count_is_believed_as_far_as_the_index_shows_it() -> None:
    assert key_count_of(MANIFEST, known_keys=15, rows=10) == 20
    assert key_count_of(MANIFEST, known_keys=0, rows=4) == 4


@pytest.mark.parametrize(
    ("view", "there", "joins"),
    [
        (VIEW, THERE, True),
        (VIEW, replace(THERE, uuid=HERE.uuid), False),
        (VIEW, replace(THERE, type="group"), False),
        (VIEW, replace(THERE, serializer="pickle"), False),
        (replace(VIEW, base=BASE), THERE, False),
        (replace(VIEW, origin_uuid=None), THERE, False),
        (replace(VIEW, origin_uuid=b"c" * 16), THERE, False),
        (replace(VIEW, detached=True), THERE, False),
    ],
)
def test_a_file_joins_while_nobody_has_a_copy_of_it(view: PullView, there: Identity, joins: bool) -> None:
    assert may_join(HERE, there, view) is joins


def test_a_replacement_keeps_the_uuid_of_its_own_kind_alone() -> None:
    assert replacing_uuid(HERE, THERE, None) == THERE.uuid
    assert replacing_uuid(replace(HERE, uuid=THERE.uuid), THERE, None) is None
    group = replace(THERE, type="group")
    assert replacing_uuid(HERE, group, None) is None
    assert replacing_uuid(HERE, None, None) is None
    for kept, there in ((HERE.uuid, None), (HERE.uuid, group), (None, replace(group, uuid=HERE.uuid))):
        assert replacing_uuid(HERE, there, kept) not in (None, HERE.uuid, THERE.uuid)
