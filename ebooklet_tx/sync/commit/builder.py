"""Building a commit: rows on an index become the root that names them, and the objects that the root names.

The invariant: nothing here changes the remote for a reader. What is uploaded has a new name, and no root names it
until the swap. What is built has been read back by a reader's own code before that.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ebooklet_tx.formats.index_records import Run
from ebooklet_tx.formats.manifest import Manifest
from ebooklet_tx.formats.root import Root, encoded_root
from ebooklet_tx.index.building import IndexLimits, NewIndex, add_rows, write_lists
from ebooklet_tx.index.commit_index import CommitIndex, RemoteIndex
from ebooklet_tx.index.history import extended, horizon_seq
from ebooklet_tx.index.lookup import LocatedRow, tail_rows
from ebooklet_tx.index.merging import MergeRules, merge_runs
from ebooklet_tx.index.writing import RunWriter
from ebooklet_tx.limits import MAX_BUCKETS
from ebooklet_tx.locks.process_identity import writer_name
from ebooklet_tx.records import CommitRecord, CommitWay
from ebooklet_tx.sync.commit.commit_mode import CommitMode
from ebooklet_tx.timestamps import now_us

MERGE_BYTES = 8 * 2**20
"""The most index bytes that a push rewrites beyond what it adds."""

MERGE_FACTOR = 4
"""A push that adds much may rewrite this many times as much."""

ROW_BYTES = 40
"""About what a row takes in the index, for the budget of a push."""


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """What a root says of its database, whatever the commit.

    Attributes:
        uuid: The database's identity, in hex.
        type: What it is: `booklet`, or a group.
        value_serializer: How its values are encoded.
        n_buckets: The hash buckets of a new local copy.
    """

    uuid: str
    type: str
    value_serializer: str | None
    n_buckets: int


@dataclass(frozen=True, slots=True)
class Changes:
    """What one commit changes.

    Attributes:
        set_count: How many keys it sets.
        deleted_count: How many it deletes.
        value_bytes: The encoded bytes of what is set.
        key_change: How many keys more, or fewer, the database has after it.
        row_count: How many rows it adds to the index.
        message: What its writer says of it.
    """

    set_count: int = 0
    deleted_count: int = 0
    value_bytes: int = 0
    key_change: int = 0
    row_count: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True)
class Below:
    """What a commit is built on.

    Attributes:
        manifest: The root that it replaces; None where there is none.
        index: The index that it adds to; None where it begins with an empty one.
        fence: The fence that its root carries.
        restored: The index of an earlier commit, which takes the place of `index` as it is; None where nothing is
            restored.
    """

    manifest: Manifest | None = None
    index: CommitIndex | None = None
    fence: int = 0
    restored: CommitIndex | None = None

    @property
    def seq(self) -> int:
        """The number of the commit below, or of the restored one if that is higher; 0 where there is none."""
        below = 0 if self.manifest is None else self.manifest.seq
        return below if self.restored is None else max(below, self.restored.manifest.seq)


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit, ready to be swapped in.

    Attributes:
        manifest: The root's manifest.
        root: The root's bytes.
        tail: The root's tail.
        record: What the history says of it.
        changes_mode: Whether it changes how commits are made, so that both locks have to be held.
        swaps: Whether it is a compare-and-swap.
        decoded: What a reader makes of the root's bytes, where that is known.
    """

    manifest: Manifest
    root: bytes
    tail: bytes
    record: CommitRecord
    changes_mode: bool = False
    swaps: bool = True
    decoded: Root | None = None

    @property
    def object_metadata(self) -> dict[str, str]:
        """What the root's object says of itself."""
        return {"commit-id": self.manifest.commit_id}

    def with_mode(self, way: CommitWay | None) -> Commit:
        """Returns the same commit with a root that names another mode."""
        manifest = replace(self.manifest, commits=way)
        swaps = way is None or way.swaps
        root, decoded = encoded_root(manifest, self.tail)
        return replace(self, manifest=manifest, root=root, swaps=swaps, decoded=decoded)


def new_record(seq: int, changes: Changes) -> CommitRecord:
    """Returns what the history says of a commit that is made now, under a new id."""
    return CommitRecord(
        seq=seq,
        commit_id=secrets.token_hex(16),
        committed_at_us=now_us(),
        writer=writer_name(),
        set_count=changes.set_count,
        deleted_count=changes.deleted_count,
        value_bytes=changes.value_bytes,
        message=changes.message,
    )


def build(
    facts: DatabaseFacts,
    below: Below,
    rows: Iterable[LocatedRow],
    changes: Changes,
    remote: RemoteIndex,
    writer: RunWriter,
    mode: CommitMode,
    limits: IndexLimits | None = None,
    *,
    merge_all: bool = False,
) -> Commit:
    """Makes the root of a commit, and writes the index objects that it names.

    Args:
        facts: What the root says of the database.
        below: What the commit is built on.
        rows: The rows of the commit, in the order of key, each with its seq, which is `below.seq + 1`.
        changes: What the history says of it.
        remote: Reads the index below.
        writer: Writes index objects.
        mode: How commits are made.
        limits: What rides in the root.
        merge_all: Whether all runs are merged into one.
    """
    record = new_record(below.seq + 1, changes)
    limits = limits or IndexLimits()
    if below.restored is not None:
        # Rows of it say nothing of what was changed since: copies read everything anew.
        restored = below.restored.root
        index = NewIndex(restored.manifest.runs, restored.tail, record.seq)
    elif merge_all and below.index is not None:
        index = _merged(below.index, remote, writer, limits)
    else:
        index = _index(below, rows, changes, record.seq, remote, writer, limits)
    history = extended(
        below.manifest, record, remote.history, new_name=writer.new_history_name, put=writer.put_plain
    )
    manifest = Manifest(
        uuid=facts.uuid,
        type=facts.type,
        seq=record.seq,
        commit_id=record.commit_id,
        parent=None if below.manifest is None else below.manifest.commit_id,
        committed_at_us=record.committed_at_us,
        writer=record.writer,
        fence=below.fence,
        value_serializer=facts.value_serializer,
        key_count=_keys_below(below) + changes.key_change,
        tombstone_floor=index.floor_seq,
        n_buckets=min(facts.n_buckets, MAX_BUCKETS),
        recent=history.recent,
        records=history.records,
        histories=history.histories,
        runs=index.runs,
        commits=mode.to_advertise(),
        unknown={} if below.manifest is None else below.manifest.unknown,
    )
    root, decoded = encoded_root(manifest, index.tail)
    advertised = None if below.manifest is None else below.manifest.commits
    changes_mode = mode.must_change(advertised, exists=below.seq > 0)
    return Commit(manifest, root, index.tail, record, changes_mode, mode.swaps, decoded)


def _keys_below(below: Below) -> int:
    index = below.restored or below.index
    return 0 if index is None else index.manifest.key_count


def _index(
    below: Below,
    rows: Iterable[LocatedRow],
    changes: Changes,
    seq: int,
    remote: RemoteIndex,
    writer: RunWriter,
    limits: IndexLimits,
) -> NewIndex:
    budget_bytes = max(MERGE_BYTES, MERGE_FACTOR * ROW_BYTES * changes.row_count)
    if below.index is None:
        floor_seq = first_floor(below.manifest, seq)
        return add_rows((), (), rows, floor_seq, remote.reader, writer, MergeRules(budget_bytes, 0), limits)
    manifest, tail = below.index.manifest, below.index.tail
    rules = MergeRules(budget_bytes, horizon_seq(manifest, remote.history, now_us=now_us()))
    kept: Sequence[LocatedRow] = () if tail is None else list(tail_rows(tail, below.index.ref))
    runs: tuple[Run, ...] = manifest.runs
    return add_rows(kept, runs, rows, manifest.tombstone_floor, remote.reader, writer, rules, limits)


def first_floor(replaced: Manifest | None, seq: int) -> int:
    """Returns the tombstone floor of a commit that begins with an empty index.

    Of what it replaces nothing is left: copies of that read everything anew.
    """
    return 0 if replaced is None else seq


def _merged(below: CommitIndex, remote: RemoteIndex, writer: RunWriter, limits: IndexLimits) -> NewIndex:
    """Returns the same index with its runs merged into one."""
    manifest = below.manifest
    horizon = horizon_seq(manifest, remote.history, now_us=now_us())
    rules = MergeRules(2**62, horizon, max_runs=1)
    merged = merge_runs(manifest.runs, manifest.tombstone_floor, remote.reader, writer, rules)
    return NewIndex(write_lists(merged.runs, writer, limits), below.root.tail, merged.floor_seq)


__all__ = [
    "Below",
    "Changes",
    "Commit",
    "DatabaseFacts",
    "build",
    "first_floor",
    "new_record",
]
