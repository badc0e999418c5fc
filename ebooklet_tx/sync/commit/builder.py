"""Building a commit: pending entries become the root that names them, and the objects that the root names.

Owns the shape of an index: what rides in the root's tail, when the tail becomes a segment, which tombstones and
how much of the log a segment keeps. The invariant: nothing here changes the remote for a reader. What is uploaded
has a new name, and no root names it until the swap.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ebooklet_tx.errors import RemoteIntegrityError
from ebooklet_tx.formats.root import ROOT_TAIL_LIMIT_BYTES, Manifest, Root, encode_root, plan_segments
from ebooklet_tx.formats.segment import build_segment, merge_segments, read_segment
from ebooklet_tx.limits import MAX_BUCKETS, MAX_SEGMENTS
from ebooklet_tx.local.journal.base import Base
from ebooklet_tx.local.journal.commit_log import newest_commits
from ebooklet_tx.local.journal.entries import PENDING_SET, Entry
from ebooklet_tx.local.journal.index_rows import count_tombstones, remote_objects, remote_rows
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.local.journal.uploads import Place
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.records import METADATA_KEY, CommitRecord, CommitWay, IndexRow, SegmentRef
from ebooklet_tx.sync.commit.changes import Changes, is_remote, read_changes
from ebooklet_tx.sync.commit.commit_mode import CommitMode
from ebooklet_tx.sync.commit.packing import place_values
from ebooklet_tx.sync.pull.segments import fetch_segment
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.root_object import base_tail

_log = logging.getLogger("ebooklet_tx")

INLINE_VALUE_BYTES = 4 * 1024
"""A value up to this size may ride in the index instead of a pack."""

INLINE_TOTAL_BYTES = 32 * 1024
"""A push whose values together are up to this size sends no pack."""

TOMBSTONES_WORTH_DROPPING = 1000
KEPT_LOG_ROWS = 10_000

OWN_SEGMENT_BYTES = 16 * 1024
"""A commit with packs whose part of the index is longer than this does not join the tail."""


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
class Index:
    """The index that a root carries: the segments it names, and its tail."""

    segments: tuple[SegmentRef, ...]
    tombstone_floor: int
    tail: bytes


@dataclass(frozen=True, slots=True)
class Draft:
    """A commit's part of the index before it is known where that part goes.

    Attributes:
        image_blob: What the commit says, as a segment of its own.
        tail: The base's tail with it.
        joins_tail: Whether that becomes the root's tail; otherwise a segment is written.
        is_whole: Whether the image is all that a segment has to hold: the base has no tail and no segments.
    """

    image_blob: bytes
    tail: bytes
    joins_tail: bool
    is_whole: bool


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit, ready to be swapped in: the root's bytes and what to record once it is there.

    Attributes:
        manifest: The root's manifest.
        root: The root's bytes.
        tail: The root's tail.
        image_blob: What the commit says of each key, as an index segment.
        record: What the log says of it.
        changes_mode: Whether it changes how commits are made, so that both locks have to be held.
        swaps: Whether it is a compare-and-swap.
    """

    manifest: Manifest
    root: bytes
    tail: bytes
    image_blob: bytes
    record: CommitRecord
    changes_mode: bool = False
    swaps: bool = True

    @property
    def object_metadata(self) -> dict[str, str]:
        """What the root's object says of itself."""
        return {"commit-id": self.manifest.commit_id}

    def with_mode(self, way: CommitWay | None) -> Commit:
        """Returns the same commit with a root that names another mode."""
        manifest = replace(self.manifest, commits=way)
        swaps = way is None or way.swaps
        return replace(self, manifest=manifest, root=encode_root(manifest, self.tail), swaps=swaps)


# -- sending values ----------------------------------------------------------------------------


def place_pending(local: LocalStore, remote: Remote, entries: Sequence[Entry]) -> dict[bytes, Place]:
    """Sends the values that need a pack; those of a small push ride in the index.

    Returns:
        The places of the values in packs, by digest. When this raises, what has arrived is recorded.
    """
    values = [entry for entry in entries if entry.pending == PENDING_SET and not is_remote(entry)]
    total = sum(entry.length_bytes for entry in values)
    inline = total <= INLINE_TOTAL_BYTES and all(e.length_bytes <= INLINE_VALUE_BYTES for e in values)
    # A program that opens a database reads its metadata first: it rides in the index if it is small.
    packed = [] if inline else [entry for entry in values if not _is_small_metadata(entry)]
    return place_values(local, remote, packed) if packed else {}


def _is_small_metadata(entry: Entry) -> bool:
    return entry.key == METADATA_KEY and entry.length_bytes <= INLINE_VALUE_BYTES


# -- the commit --------------------------------------------------------------------------------


def make_commit(
    local: LocalStore,
    remote: Remote,
    facts: DatabaseFacts,
    base: Base,
    entries: Sequence[Entry],
    places: Mapping[bytes, Place],
) -> Commit:
    """Makes the commit of some entries on a base, uploading an index segment if the tail is full."""
    changes = read_changes(local, entries, places, base.seq + 1)
    draft = draft_index(base, changes, name=f"the tail of {remote.root_place}")
    if draft.joins_tail:
        index = Index(base.segments, base.tombstone_floor, draft.tail)
    else:
        index = _write_segment(local.journal, remote, base, changes, draft)
    return build(facts, base, changes, index, draft.image_blob, remote.mode)


def replacing_base(manifest: Manifest) -> Base:
    """Returns the base of a commit that replaces a whole database: of the old index nothing is left.

    Readers that stand on an older commit read all of the index anew.
    """
    return Base(
        seq=manifest.seq,
        commit_id=manifest.commit_id,
        fence=manifest.fence,
        tombstone_floor=manifest.seq + 1,
        commits=manifest.commits,
        unknown=json.dumps(manifest.unknown),
    )


def draft_index(base: Base, changes: Changes, *, name: str) -> Draft:
    """Decides where a commit's part of the index goes: into the root's tail, or into a segment."""
    image_blob = build_segment(changes.rows, changes.objects, [changes.record])
    image = read_segment(image_blob, name="a new index segment")
    base_image = base_tail(base)
    old = _readable_tail(base_image, name=name)
    tail = image_blob if old is None else merge_segments([old, image], drop_tombstones=False)
    # Many keys at once have a segment of their own: in the tail, each later push would send them again.
    many = changes.has_packs and len(image_blob) > OWN_SEGMENT_BYTES
    unreadable = old is None and bool(base_image)
    joins_tail = not (many or unreadable or len(tail) > ROOT_TAIL_LIMIT_BYTES)
    return Draft(image_blob, tail, joins_tail, is_whole=not base_image and not base.segments)


def _readable_tail(tail: bytes, *, name: str) -> bytes | None:
    """Returns the image of the base's tail; None where there is none, or none that can be built on.

    A tail that an earlier version applied may be past the limits. The journal has its rows as well, so that
    it can be written anew once the key in question has been set or deleted.
    """
    if not tail:
        return None
    try:
        return read_segment(tail, name=name)
    except RemoteIntegrityError as error:
        _log.warning("the tail of the journal's base can't be read and is written anew: %s", error)
        return None


def build(
    facts: DatabaseFacts, base: Base, changes: Changes, index: Index, image_blob: bytes, mode: CommitMode
) -> Commit:
    """Makes the root of a commit from plain values; asks neither the journal nor the store."""
    record = changes.record
    manifest = Manifest(
        uuid=facts.uuid,
        type=facts.type,
        seq=record.seq,
        commit_id=record.commit_id,
        parent=base.commit_id,
        committed_at_us=record.committed_at_us,
        writer=record.writer,
        fence=base.fence,
        value_serializer=facts.value_serializer,
        key_count=base.key_count + changes.key_change,
        tombstone_floor=index.tombstone_floor,
        n_buckets=min(facts.n_buckets, MAX_BUCKETS),
        segments=index.segments,
        commits=mode.to_advertise(),
        unknown=json.loads(base.unknown),
    )
    root = encode_root(manifest, index.tail)
    changes_mode = mode.must_change(base.commits, exists=base.seq > 0)
    return Commit(manifest, root, index.tail, image_blob, record, changes_mode, mode.swaps)


# -- segments ----------------------------------------------------------------------------------


def _write_segment(journal: Journal, remote: Remote, base: Base, changes: Changes, draft: Draft) -> Index:
    """Writes tail, new rows and the newest small segments out as one segment.

    The rows of the older segments come from the journal, which has them all; nothing is read back.
    """
    record = changes.record
    count = plan_segments(base.segments, len(draft.tail))
    kept = base.segments[: len(base.segments) - count]
    first_seq = kept[-1].last_seq + 1 if kept else 1
    if draft.is_whole:
        segment = put_segment(remote, draft.image_blob, first_seq, record.seq)
        return Index((segment,), base.tombstone_floor, b"")
    with journal.mutex:
        drops = not kept and _is_worth_dropping(*count_tombstones(journal, first_seq))
        replaced = {row.key for row in changes.rows}
        older = (
            row
            for row in remote_rows(journal, first_seq)
            if row.key not in replaced and not (drops and row.digest is None)
        )
        objects = {**changes.objects, **{ref.name: ref for ref in remote_objects(journal).values()}}
        log = newest_commits(journal, first_seq, KEPT_LOG_ROWS - 1)
        blob = build_segment(_in_key_order(older, changes.rows), objects, [*log, record])
    # By a reader's own limits, before a root names it: what no reader takes would make the root unreadable.
    read_segment(blob, name="a merge of index segments")
    segment = put_segment(remote, blob, first_seq, record.seq)
    return Index((*kept, segment), record.seq if drops else base.tombstone_floor, b"")


def index_with_record(remote: Remote, root: Root, record: CommitRecord) -> Index:
    """Returns a root's index with one more log record, for a commit that changes no key and has no journal.

    A tail that would become too long is written out as a segment. Only where the root has no room for one more
    are some read back to be merged; where those are damaged the tail goes on growing, as far as a root may.
    """
    manifest = root.manifest
    image = read_segment(build_segment([], {}, [record]), name="a new log record")
    images = [read_segment(root.tail, name="the root's tail")] if root.tail else []
    tail = merge_segments([*images, image], drop_tombstones=False)
    index = Index(manifest.segments, manifest.tombstone_floor, tail)
    if len(tail) <= ROOT_TAIL_LIMIT_BYTES:
        return index
    is_full = len(manifest.segments) >= MAX_SEGMENTS
    count = plan_segments(manifest.segments, len(tail)) if is_full else 0
    kept = manifest.segments[: len(manifest.segments) - count]
    try:
        older = [fetch_segment(remote, segment) for segment in manifest.segments[len(kept) :]]
    except RemoteIntegrityError as error:
        _log.warning("the tail of %s grows: %s", remote.root_place, error)
        return index
    if older:
        tail = merge_segments([*older, read_segment(tail, name="a tail")], drop_tombstones=False)
        read_segment(tail, name="a merge of index segments")
    first_seq = kept[-1].last_seq + 1 if kept else 1
    return Index((*kept, put_segment(remote, tail, first_seq, record.seq)), manifest.tombstone_floor, b"")


def put_segment(remote: Remote, blob: bytes, first_seq: int, last_seq: int) -> SegmentRef:
    """Uploads a segment of the commits from one number to another."""
    name = remote.names.new_segment()
    etag = remote.store.put(remote.names.object(name), blob)
    digest = hashlib.blake2b(blob, digest_size=16).hexdigest()
    return SegmentRef(name, etag, len(blob), digest, first_seq, last_seq)


def _is_worth_dropping(deleted: int, present: int) -> bool:
    """False where tombstones are too few to make other readers read everything anew."""
    return deleted > max(TOMBSTONES_WORTH_DROPPING, present // 4)


def _in_key_order(older: Iterable[IndexRow], rows: Sequence[IndexRow]) -> Iterator[IndexRow]:
    yield from heapq.merge(older, sorted(rows, key=_key_of), key=_key_of)


def _key_of(row: IndexRow) -> str:
    return row.key


__all__ = ["Commit", "DatabaseFacts", "build", "make_commit", "place_pending"]
