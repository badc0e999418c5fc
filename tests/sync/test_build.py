"""Building a commit from plain values: no journal, and a store that is a dict."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest

from ebooklet_tx.formats.index_records import Sizes
from ebooklet_tx.formats.object_names import ObjectNames
from ebooklet_tx.formats.root import KEEP_RECENT, decode_root
from ebooklet_tx.index.building import IndexLimits
from ebooklet_tx.index.commit_index import CommitIndex, RemoteIndex
from ebooklet_tx.index.lookup import LocatedRow
from ebooklet_tx.index.pieces import NoCache
from ebooklet_tx.index.writing import RunWriter
from ebooklet_tx.records import CommitWay, IndexRow, ObjectRef, digest_of
from ebooklet_tx.sync.commit.builder import Below, Changes, Commit, DatabaseFacts, build
from ebooklet_tx.sync.commit.commit_mode import CommitMode
from tests.memory_store import MemoryStore

FACTS = DatabaseFacts("0" * 32, "booklet", "orjson", 12007)
PLACE = ("http://127.0.0.1:9", "bucket")
NOWHERE = ObjectRef("", "", 0)
PACK = ObjectRef("pack/" + "1" * 32, "etag", 100)
TINY = IndexLimits(tail_rows=2)


@dataclass
class Remote:
    """What commits are built with, and what was put on the way."""

    store: MemoryStore = field(default_factory=MemoryStore)
    names: ObjectNames = field(default_factory=lambda: ObjectNames("db"))
    numbers: itertools.count[int] = field(default_factory=itertools.count)
    put_names: list[str] = field(default_factory=list)

    @property
    def index(self) -> RemoteIndex:
        return RemoteIndex(self.store, self.names, NoCache(), threads=1)

    def put(self, name: str, data: bytes) -> ObjectRef:
        self.put_names.append(name)
        return ObjectRef(name, self.store.put(self.names.object(name), data), len(data))

    def writer(self) -> RunWriter:
        return RunWriter(
            lambda: f"index/{next(self.numbers):032x}",
            lambda: f"history/{next(self.numbers):032x}",
            self.put,
            sizes=Sizes(block_rows=2, object_blocks=2),
            threads=1,
        )

    def commit(
        self,
        below: Below,
        keys: dict[str, bytes | None],
        *,
        mode: CommitMode | None = None,
        limits: IndexLimits | None = None,
        key_change: int | None = None,
        merge_all: bool = False,
    ) -> Commit:
        rows = [row(key, below.seq + 1, value) for key, value in sorted(keys.items())]
        set_count = sum(value is not None for value in keys.values())
        changes = Changes(
            set_count,
            len(keys) - set_count,
            sum(len(value or b"") for value in keys.values()),
            set_count if key_change is None else key_change,
            len(rows),
            message="why",
        )
        way = mode or CommitMode()
        return build(FACTS, below, rows, changes, self.index, self.writer(), way, limits, merge_all=merge_all)

    def on(self, commit: Commit) -> Below:
        root = decode_root(commit.root, name="root")
        index = self.index.of(root, etag="etag", size_bytes=len(commit.root))
        return Below(root.manifest, index, root.manifest.fence)


def row(key: str, seq: int, value: bytes | None) -> LocatedRow:
    if value is None:
        return LocatedRow(IndexRow(key, seq, 1, None), NOWHERE)
    return LocatedRow(IndexRow(key, seq, 1, digest_of(value), None, None, len(value), value), NOWHERE)


def contents(below: Below) -> dict[str, bytes | None]:
    assert isinstance(below.index, CommitIndex)
    return {item.row.key: item.row.value for item in below.index.scan() if item.row.digest is not None}


@pytest.fixture
def remote() -> Remote:
    return Remote()


def test_the_first_commit_names_what_it_is_and_nothing_before_it(remote: Remote) -> None:
    commit = remote.commit(Below(), {"a": b"1", "b": b"2"})
    root = decode_root(commit.root, name="root")
    assert root.manifest == commit.manifest
    assert (root.manifest.seq, root.manifest.parent, root.manifest.key_count) == (1, None, 2)
    assert (root.manifest.uuid, root.manifest.value_serializer) == (FACTS.uuid, "orjson")
    assert (root.manifest.recent, root.manifest.records) == (((1, commit.record.commit_id),), (commit.record,))
    record = commit.record
    assert (record.set_count, record.deleted_count, record.value_bytes, record.message) == (2, 0, 2, "why")
    assert contents(remote.on(commit)) == {"a": b"1", "b": b"2"}
    # Few rows ride in the root: nothing else is written.
    assert (root.manifest.runs, remote.put_names) == ((), [])
    assert commit.swaps
    assert not commit.changes_mode


def test_a_commit_carries_the_tail_and_the_fence_of_the_one_below(remote: Remote) -> None:
    first = remote.on(remote.commit(Below(fence=3), {"a": b"1", "b": b"2"}))
    second = remote.commit(first, {"b": b"3", "c": None}, key_change=0)
    assert first.manifest is not None
    assert second.manifest.parent == first.manifest.commit_id
    assert (second.manifest.seq, second.manifest.fence, second.manifest.key_count) == (2, 3, 2)
    assert [record.seq for record in second.manifest.records] == [2, 1]
    below = remote.on(second)
    assert contents(below) == {"a": b"1", "b": b"3"}
    assert below.index is not None
    assert below.index.lookup(["b"])["b"].row.seq == 2


def test_rows_that_do_not_fit_become_a_run_together_with_the_tail(remote: Remote) -> None:
    first = remote.on(remote.commit(Below(), {"a": b"1", "b": b"1"}, limits=TINY))
    second = remote.commit(first, {"b": b"2", "c": b"2"}, limits=TINY)
    assert (second.tail, len(second.manifest.runs), len(remote.put_names)) == (b"", 1, 1)
    below = remote.on(second)
    assert contents(below) == {"a": b"1", "b": b"2", "c": b"2"}
    third = remote.on(remote.commit(below, {"a": None}, limits=TINY, key_change=-1))
    assert third.index is not None
    assert third.manifest is not None
    assert (third.manifest.runs, third.manifest.key_count) == (second.manifest.runs, 3)
    assert contents(third) == {"b": b"2", "c": b"2"}


def test_values_in_packs_keep_their_places(remote: Remote) -> None:
    packed = LocatedRow(IndexRow("k", 1, 1, digest_of(b"v" * 10), PACK.name, 7, 10), PACK)
    commit = build(FACTS, Below(), [packed], Changes(1, 0, 10, 1, 1), remote.index, remote.writer(), CommitMode())
    index = remote.on(commit).index
    assert index is not None
    found = index.lookup(["k"])["k"]
    assert (found.row, found.ref) == packed


def test_merging_all_leaves_one_run_and_the_tail(remote: Remote) -> None:
    below, expected = Below(), {}
    for number in range(6):
        keys = {f"k{number * 5 + each:02}": b"%d" % number for each in range(5)}
        expected |= keys
        below = remote.on(remote.commit(below, {**keys}, limits=TINY))
    below = remote.on(remote.commit(below, {"tail": b"t"}, limits=TINY))
    merged = remote.commit(below, {}, limits=TINY, key_change=0, merge_all=True)
    assert below.manifest is not None
    assert (len(merged.manifest.runs), merged.manifest.key_count) == (1, 31)
    assert contents(remote.on(merged)) == expected | {"tail": b"t"}


def test_what_replaces_a_database_has_nothing_of_it_and_a_floor(remote: Remote) -> None:
    first = remote.on(remote.commit(Below(), {"a": b"1"}))
    second = remote.commit(Below(first.manifest, None, 2), {"b": b"2"})
    assert (second.manifest.seq, second.manifest.key_count, second.manifest.fence) == (2, 1, 2)
    assert second.manifest.tombstone_floor == 2
    assert contents(remote.on(second)) == {"b": b"2"}


def test_older_records_leave_the_root_for_an_object(remote: Remote) -> None:
    below = Below()
    for number in range(KEEP_RECENT + 1):
        commit = remote.commit(below, {"k": b"%d" % number}, key_change=int(not number))
        below = remote.on(commit)
    manifest = commit.manifest
    assert (len(manifest.recent), len(manifest.records), len(manifest.histories)) == (KEEP_RECENT, 1, 1)
    assert [record.seq for record in remote.index.history.records(manifest)] == list(
        range(KEEP_RECENT + 1, 0, -1)
    )
    assert below.index is not None
    assert below.index.commit_at(1) is not None
    assert below.index.commit_at(KEEP_RECENT + 2) is None


def test_a_root_names_the_mode_of_its_commit(remote: Remote) -> None:
    swaps = CommitWay("quoted", *PLACE)
    first = remote.commit(Below(), {"a": b"1"}).with_mode(swaps)
    below = remote.on(first)
    commit = remote.commit(below, {"a": b"2"}, mode=CommitMode(place=PLACE))
    assert (commit.manifest.commits, commit.changes_mode) == (swaps, False)
    commit = remote.commit(below, {"a": b"2"}, mode=CommitMode(swaps=False, place=PLACE))
    assert commit.manifest.commits == CommitWay("tickets", *PLACE)
    assert (commit.swaps, commit.changes_mode) == (False, True)
    other = commit.with_mode(swaps)
    assert decode_root(other.root, name="root").manifest.commits == swaps
    assert other.swaps
