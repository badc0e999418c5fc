"""Making a commit: pending entries become the root that says them and the objects that it names.

Owns the shape of an index: what rides in the root's tail, when the tail becomes a segment, which
tombstones and how much of the log a segment keeps. Keeps no state of its own. The invariant: nothing
here changes the remote for a reader. What is uploaded has a new name, and no root names it until the
swap; what is read of the journal is read under the mutex.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import logging
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ebooklet_tx.errors import RemoteIntegrityError
from ebooklet_tx.formats.root import ROOT_TAIL_LIMIT_BYTES, Manifest, encode_root, plan_segments
from ebooklet_tx.formats.segment import build_segment, merge_segments, read_segment
from ebooklet_tx.limits import MAX_BUCKETS
from ebooklet_tx.local.journal.base import Base
from ebooklet_tx.local.journal.commit_log import newest_commits
from ebooklet_tx.local.journal.entries import PENDING_DELETE, PENDING_NONE, PENDING_SET, Entry
from ebooklet_tx.local.journal.index_rows import count_tombstones, object_ref, remote_objects, remote_rows
from ebooklet_tx.local.journal.uploads import Place, arrived_packs
from ebooklet_tx.records import METADATA_KEY, CommitRecord, CommitWay, IndexRow, ObjectRef, SegmentRef
from ebooklet_tx.sync.commit.commit_way import must_move, way_of
from ebooklet_tx.sync.commit.packing import place_values, read_pending
from ebooklet_tx.sync.root_object import FetchedRoot, base_tail
from ebooklet_tx.sync.session import Session, writer_name
from ebooklet_tx.timestamps import now_us

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
class Commit:
    """One commit, ready to be swapped in: the root's bytes and what to record once it is there.

    Attributes:
        moves: Whether it changes how commits are made, so that both locks have to be held.
        swaps: Whether it is a compare-and-swap.
    """

    manifest: Manifest
    root: bytes
    tail: bytes
    image_blob: bytes
    record: CommitRecord
    moves: bool = False
    swaps: bool = True

    @property
    def object_metadata(self) -> dict[str, str]:
        """What the root's object says of itself."""
        return {"commit-id": self.manifest.commit_id}

    def saying(self, way: CommitWay | None) -> Commit:
        """Returns the same commit with another word on how commits are made."""
        manifest = replace(self.manifest, commits=way)
        swaps = way is None or way.swaps
        return replace(self, manifest=manifest, root=encode_root(manifest, self.tail), swaps=swaps)


def place_pending(session: Session, entries: Sequence[Entry]) -> dict[bytes, Place]:
    """Sends the values that need a pack; those of a small push ride in the index.

    Returns:
        The places of the values in packs, by digest. When this raises, what has arrived is recorded.
    """
    values = [entry for entry in entries if entry.pending == PENDING_SET and not _is_remote(entry)]
    total = sum(entry.length_bytes for entry in values)
    inline = total <= INLINE_TOTAL_BYTES and all(e.length_bytes <= INLINE_VALUE_BYTES for e in values)
    # Whoever opens a database asks for its metadata first: it rides in the index if it is small.
    packed = [] if inline else [entry for entry in values if not _is_small_metadata(entry)]
    return place_values(session.local, session.remote, packed) if packed else {}


def _is_small_metadata(entry: Entry) -> bool:
    return entry.key == METADATA_KEY and entry.length_bytes <= INLINE_VALUE_BYTES


def _is_remote(entry: Entry) -> bool:
    """True when the remote already holds the value, and only its timestamp is new."""
    return entry.remote_digest is not None and entry.remote_digest == entry.digest


def _rows(
    session: Session, entries: Iterable[Entry], places: dict[bytes, Place], seq: int
) -> Iterator[tuple[IndexRow, ObjectRef | None]]:
    """Yields what the commit says of each key, with the object it lies in unless a pack is new."""
    for entry in entries:
        digest = entry.digest
        stamp = entry.timestamp_us
        if digest is None:
            yield IndexRow(entry.key, seq, stamp, None), None
        elif _is_remote(entry) and entry.remote_object is not None:
            ref = object_ref(session.journal, entry.remote_object)
            yield (
                IndexRow(
                    entry.key,
                    seq,
                    stamp,
                    digest,
                    ref.name,
                    entry.remote_offset_bytes,
                    entry.remote_length_bytes,
                ),
                ref,
            )
        elif digest in places:
            place = places[digest]
            yield (
                IndexRow(
                    entry.key, seq, stamp, digest, place.object_name, place.offset_bytes, place.length_bytes
                ),
                None,
            )
        else:
            value = read_pending(session.local, entry)
            yield IndexRow(entry.key, seq, stamp, digest, None, None, len(value), value), None


def build(
    session: Session,
    base: Base,
    replaced: FetchedRoot | None,
    entries: Sequence[Entry],
    places: dict[bytes, Place],
) -> Commit:
    """Makes the root of a commit on top of a base, uploading an index segment if the tail is full."""
    refs = arrived_packs(session.journal)
    seq = (replaced.manifest.seq if replaced is not None else base.seq) + 1
    record = _record(entries, seq)
    with session.mutex:
        rows = []
        for row, ref in _rows(session, entries, places, seq):
            rows.append(row)
            if ref is not None:
                refs[ref.name] = ref
    image_blob = build_segment(rows, refs, [record])
    image = read_segment(image_blob, name="a new index segment")
    if replaced is not None:
        base = Base(
            seq=replaced.manifest.seq,
            commit_id=replaced.manifest.commit_id,
            fence=replaced.manifest.fence,
            # Nothing of the old index is left: whoever stands on an older commit takes all of it anew.
            tombstone_floor=seq,
            commits=replaced.manifest.commits,
            unknown=json.dumps(replaced.manifest.unknown),
        )
    remote = session.remote
    moves = must_move(remote, base.commits, exists=base.seq > 0)
    tail = image_blob
    old = _old_tail(session, base)
    if old is not None:
        tail = merge_segments([old, image], drop_tombstones=False)
    segments, floor = base.segments, base.tombstone_floor
    # Many keys at once have a segment of their own: in the tail, each later push would send them again.
    many = bool(places) and len(image_blob) > OWN_SEGMENT_BYTES
    refused = old is None and bool(base_tail(base))
    if many or refused or len(tail) > ROOT_TAIL_LIMIT_BYTES:
        # The first of all: there is nothing to write out beside what this commit says.
        whole = image_blob if not base_tail(base) and not base.segments else None
        segments, floor = _write_segment(session, base, rows, refs, record, len(tail), whole)
        tail = b""
    manifest = Manifest(
        uuid=session.local.file.header.uuid.hex(),
        type=session.type,
        seq=seq,
        commit_id=record.commit_id,
        parent=base.commit_id,
        committed_at_us=record.committed_at_us,
        writer=record.writer,
        fence=base.fence,
        value_serializer=session.serializer_name,
        key_count=base.key_count + _key_change(entries),
        tombstone_floor=floor,
        n_buckets=min(session.local.file.header.n_buckets, MAX_BUCKETS),
        segments=segments,
        commits=way_of(remote),
        unknown=json.loads(base.unknown),
    )
    root = encode_root(manifest, tail)
    return Commit(manifest, root, tail, image_blob, record, moves, remote.conditional)


def _old_tail(session: Session, base: Base) -> bytes | None:
    """Returns the image of the base's tail; None where there is none, or none that can be built on.

    A tail that an earlier version took in may be past the limits. The journal has its rows as well, so that
    it can be written anew once the key in question has been set or deleted.
    """
    tail = base_tail(base)
    if not tail:
        return None
    try:
        return read_segment(tail, name=f"the tail of {session.remote.root_place}")
    except RemoteIntegrityError as error:
        _log.warning("the tail that this journal stands on is written anew: %s", error)
        return None


def _record(entries: Sequence[Entry], seq: int) -> CommitRecord:
    # An entry without an operation only gets another place.
    sets = [entry for entry in entries if entry.pending == PENDING_SET]
    return CommitRecord(
        seq=seq,
        commit_id=secrets.token_hex(16),
        committed_at_us=now_us(),
        writer=writer_name(),
        set_count=len(sets),
        deleted_count=sum(entry.pending == PENDING_DELETE for entry in entries),
        value_bytes=sum(entry.length_bytes for entry in sets),
    )


def _key_change(entries: Sequence[Entry]) -> int:
    return sum(
        (entry.pending == PENDING_SET) - (entry.remote_digest is not None)
        for entry in entries
        if entry.pending != PENDING_NONE and entry.key != METADATA_KEY
    )


def _write_segment(
    session: Session,
    base: Base,
    rows: Sequence[IndexRow],
    refs: dict[str, ObjectRef],
    record: CommitRecord,
    new_bytes: int,
    whole: bytes | None,
) -> tuple[tuple[SegmentRef, ...], int]:
    """Writes tail, new rows and the newest small segments out as one segment.

    The rows of the older segments come from the journal, which has them all; nothing is read back.
    """
    count = plan_segments(base.segments, new_bytes)
    kept = base.segments[: len(base.segments) - count]
    first_seq = kept[-1].last_seq + 1 if kept else 1
    if whole is not None:
        return (_put_segment(session, whole, first_seq, record.seq),), base.tombstone_floor
    with session.mutex:
        tombstones = _tombstones_to_drop(session, first_seq) if not kept else 0
        refs |= {ref.name: ref for ref in remote_objects(session.journal).values()}
        replaced = {row.key for row in rows}
        older = (
            row
            for row in remote_rows(session.journal, first_seq)
            if row.key not in replaced and not (tombstones and row.digest is None)
        )
        log = newest_commits(session.journal, first_seq, KEPT_LOG_ROWS - 1)
        blob = build_segment(_in_key_order(older, rows), refs, [*log, record])
    # A root that names what no reader takes could be read by nobody: by this one's own limits, before that.
    read_segment(blob, name="a merge of index segments")
    segment = _put_segment(session, blob, first_seq, record.seq)
    return (*kept, segment), record.seq if tombstones else base.tombstone_floor


def _put_segment(session: Session, blob: bytes, first_seq: int, last_seq: int) -> SegmentRef:
    name = session.remote.names.new_segment()
    etag = session.remote.store.put(session.remote.names.object(name), blob)
    digest = hashlib.blake2b(blob, digest_size=16).hexdigest()
    return SegmentRef(name, etag, len(blob), digest, first_seq, last_seq)


def _tombstones_to_drop(session: Session, first_seq: int) -> int:
    """Counts tombstones, and says 0 where they are too few to make others read everything anew."""
    gone, alive = count_tombstones(session.journal, first_seq)
    return gone if gone > max(TOMBSTONES_WORTH_DROPPING, alive // 4) else 0


def _in_key_order(older: Iterable[IndexRow], rows: Sequence[IndexRow]) -> Iterator[IndexRow]:
    yield from heapq.merge(older, sorted(rows, key=_key_of), key=_key_of)


def _key_of(row: IndexRow) -> str:
    return row.key


__all__ = ["Commit", "build", "place_pending"]
