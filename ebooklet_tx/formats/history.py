"""The codec of the history of commits: objects of older records, and the records that ride in the root.

History is no part of the index: a lookup never reads it. A pull does where its base is older than the root's own
list of recent commits, and so does whoever shows the log.

The invariant: a history's seqs strictly ascend, and its objects cover ranges of seqs that do not overlap.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from ebooklet_tx.errors import InvalidArgumentError
from ebooklet_tx.formats.checks import (
    MAX_ETAG_CHARS,
    MAX_TEXT_CHARS,
    is_etag,
    is_hex_128,
    is_message,
    is_plain_text,
)
from ebooklet_tx.formats.columns import FrameKind, FrameReader, FrameWriter, damaged
from ebooklet_tx.formats.index_records import HistoryRef
from ebooklet_tx.limits import (
    MAX_COUNT,
    MAX_HISTORY_BYTES,
    MAX_HISTORY_RECORDS,
    MAX_MESSAGE_BYTES,
    MAX_TIMESTAMP_US,
)
from ebooklet_tx.records import DIGEST_BYTES, CommitRecord, digest_of

if TYPE_CHECKING:
    from collections.abc import Sequence

HISTORY_MAGIC = b"EBTXhis\n"
KEEP_RECORDS = 10_000
"""Older records than the newest of this number are dropped, an object at a time."""

_HISTORY = FrameKind(
    HISTORY_MAGIC, "a part of the history", MAX_HISTORY_RECORDS, MAX_HISTORY_BYTES, MAX_HISTORY_BYTES
)
_TIER_RATIO = 4
_JOINED_BYTES = MAX_HISTORY_BYTES // 4


def encode_history(records: Sequence[CommitRecord]) -> bytes:
    """Returns the object of records in the order of their seqs.

    Raises:
        InvalidArgumentError: A record breaks a rule, they are out of order, or together past a limit.
    """
    check_records(records)
    seqs = [record.seq for record in records]
    if not seqs or any(one >= other for one, other in pairwise(seqs)):
        raise InvalidArgumentError("a part of the history can't be written: its seqs are not in strict order")
    writer = FrameWriter(_HISTORY)
    writer.integers(seqs)
    write_facts(writer, records)
    writer.plain(b"".join([bytes.fromhex(record.commit_id) for record in records]))
    return writer.finish(len(records))


def history_ref(data: bytes, name: str, records: Sequence[CommitRecord]) -> HistoryRef:
    """Returns what a root says of a history object but for its ETag."""
    return HistoryRef(name, "", len(data), digest_of(data), records[0].seq, records[-1].seq, len(records))


def decode_history(data: bytes | memoryview, *, ref: HistoryRef) -> tuple[CommitRecord, ...]:
    """Returns the records of a history object, oldest first, checked as foreign input.

    Args:
        data: The whole object.
        ref: By which a root names it.

    Raises:
        RemoteIntegrityError: It is truncated, altered, or not what the root says.
        UnsupportedFormatError: A newer version wrote it.
    """
    if len(data) != ref.size_bytes or digest_of(data) != ref.digest:
        raise damaged(ref.name, _HISTORY.what, "it does not match its digest")
    reader = FrameReader(data, _HISTORY, ref.name)
    count = reader.row_count
    seqs = reader.integers(count, ref.first_seq, ref.last_seq, "seqs")
    facts = read_facts(reader, count)
    ids = [reader.plain(16).hex() for _ in range(count)]
    reader.finish()
    if any(one >= other for one, other in pairwise(seqs)):
        raise reader.damaged("its seqs are not in strict order")
    if not seqs or (seqs[0], seqs[-1], count) != (ref.first_seq, ref.last_seq, ref.record_count):
        raise reader.damaged("its records are not those that the root says")
    return tuple(
        CommitRecord(seq, commit_id, *fact) for seq, commit_id, fact in zip(seqs, ids, facts, strict=True)
    )


def plan_history(refs: Sequence[HistoryRef], new_records: int) -> tuple[int, int]:
    """Returns how many of a root's history objects to drop from the old end, and to join at the new end.

    Objects join until each is some times as large as the next newer one, so that a record is written again
    only a few times, and a root names about ten objects.

    Args:
        refs: Those of the root, oldest first.
        new_records: How many records are about to be written to an object.
    """
    gathered, joined = new_records, 0
    for ref in reversed(refs):
        fits = gathered + ref.record_count <= MAX_HISTORY_RECORDS and ref.size_bytes <= _JOINED_BYTES
        if not fits or ref.record_count >= _TIER_RATIO * gathered:
            break
        gathered += ref.record_count
        joined += 1
    kept = new_records
    dropped = len(refs)
    for ref in reversed(refs):
        if kept >= KEEP_RECORDS:
            break
        kept += ref.record_count
        dropped -= 1
    return dropped, joined


# -- what a record says beside its seq and id, in whatever frame ---------------------------------


def check_records(records: Sequence[CommitRecord]) -> None:
    """Holds records that are to be written to what readers demand of them.

    Raises:
        InvalidArgumentError: One breaks a rule.
    """
    for record in records:
        counts = (record.set_count, record.deleted_count, record.value_bytes)
        if (
            not 1 <= record.seq <= MAX_COUNT
            or not is_hex_128(record.commit_id)
            or not 0 <= record.committed_at_us <= MAX_TIMESTAMP_US
            or not all(0 <= count <= MAX_COUNT for count in counts)
            or not is_plain_text(record.writer)
            or not is_message(record.message)
        ):
            raise InvalidArgumentError(
                f"the log record of seq {record.seq} can't be written: its commit_id must be 32 hex digits, its "
                f"writer at most {MAX_TEXT_CHARS} printable characters, its message printable and of at most "
                f"{MAX_MESSAGE_BYTES} bytes, and its numbers in their ranges"
            )


def write_facts(writer: FrameWriter, records: Sequence[CommitRecord]) -> None:
    """Adds what records say beside seq and commit id to a frame."""
    writer.integers([record.committed_at_us for record in records])
    writer.texts([record.writer for record in records])
    writer.integers([record.set_count for record in records])
    writer.integers([record.deleted_count for record in records])
    writer.integers([record.value_bytes for record in records])
    writer.texts([record.message for record in records])


def read_facts(reader: FrameReader, count: int) -> list[tuple[int, str, int, int, int, str]]:
    """Returns what `write_facts` wrote."""
    times = reader.integers(count, 0, MAX_TIMESTAMP_US, "times of commits")
    writers = reader.texts(count, "writers", most_bytes=4 * MAX_TEXT_CHARS)
    sets = reader.integers(count, 0, MAX_COUNT, "counts of keys set")
    deleted = reader.integers(count, 0, MAX_COUNT, "counts of keys deleted")
    value_bytes = reader.integers(count, 0, MAX_COUNT, "counts of bytes")
    messages = reader.texts(count, "messages", most_bytes=MAX_MESSAGE_BYTES)
    if not all(map(is_plain_text, writers)) or not all(map(is_message, messages)):
        raise reader.damaged("a writer's name or a message is not printable")
    return list(zip(times, writers, sets, deleted, value_bytes, messages, strict=True))


# -- history objects, as a root names them -----------------------------------------------------


def write_histories(writer: FrameWriter, refs: Sequence[HistoryRef]) -> None:
    """Adds a root's history objects to a frame; their number is not among it.

    Raises:
        InvalidArgumentError: One can't be named.
    """
    for ref in refs:
        if not ref.name.startswith("history/") or not is_hex_128(ref.name[8:]):
            raise InvalidArgumentError(f"the history object {ref.name[:100]!r} can't be named")
    writer.texts([ref.etag for ref in refs])
    writer.integers([ref.size_bytes for ref in refs])
    writer.integers([ref.first_seq for ref in refs])
    writer.integers([ref.last_seq for ref in refs])
    writer.integers([ref.record_count for ref in refs])
    writer.plain(b"".join([bytes.fromhex(ref.name[8:]) for ref in refs]))
    writer.plain(b"".join([ref.digest for ref in refs]))


def read_histories(reader: FrameReader, count: int, greatest_seq: int) -> tuple[HistoryRef, ...]:
    """Returns the history objects that `write_histories` wrote."""
    etags = reader.texts(count, "ETags", most_bytes=MAX_ETAG_CHARS)
    sizes = reader.integers(count, 1, MAX_HISTORY_BYTES, "sizes of objects")
    firsts = reader.integers(count, 1, greatest_seq, "first seqs")
    lasts = reader.integers(count, 1, greatest_seq, "last seqs")
    counts = reader.integers(count, 1, MAX_HISTORY_RECORDS, "counts of records")
    names = [f"history/{reader.plain(16).hex()}" for _ in range(count)]
    digests = [reader.plain(DIGEST_BYTES) for _ in range(count)]
    before = 0
    for etag, first, last, records in zip(etags, firsts, lasts, counts, strict=True):
        if not is_etag(etag) or first <= before or not records <= last - first + 1:
            raise reader.damaged("its history objects overlap, or have ETags that can't be")
        before = last
    return tuple(map(HistoryRef, names, etags, sizes, digests, firsts, lasts, counts))
