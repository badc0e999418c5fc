"""The index of a new commit: what its rows add to the index of the commit below it.

The invariant: the sequence numbers of a key strictly fall from the tail through the runs. So rows that do not fit
into the tail become the first run together with the tail, never without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice

from ebooklet_tx.formats.block import encode_block
from ebooklet_tx.formats.index_records import Run, RunList
from ebooklet_tx.index.lookup import LocatedRow, newest
from ebooklet_tx.index.merging import MergeRules, merge_runs, write_upon
from ebooklet_tx.index.reader import IndexReader
from ebooklet_tx.index.row_batches import count_rows, draw, in_batches
from ebooklet_tx.index.writing import RunWriter
from ebooklet_tx.records import METADATA_KEY

TAIL_BYTES = 12 * 2**10
"""A tail is no longer than this: every push sends it again."""

TAIL_ROWS = 1000
"""More rows than this are not tried as a tail."""

METADATA_IN_TAIL_BYTES = 1024
"""Metadata up to this size stays in the tail, as whoever opens a database asks for it first."""

RUN_LIST_BYTES = 4 * 2**10
"""Lists of entries that together take more than this in the root are written apart, the longest first."""


@dataclass(frozen=True, slots=True)
class IndexLimits:
    """The sizes of the parts of an index that ride in the root."""

    tail_bytes: int = TAIL_BYTES
    tail_rows: int = TAIL_ROWS
    run_list_bytes: int = RUN_LIST_BYTES


@dataclass(frozen=True, slots=True)
class NewIndex:
    """The index of a commit that is being made.

    Attributes:
        runs: Newest first.
        tail: The encoded block that rides in the root; empty where there are no rows for it.
        floor_seq: The tombstone floor.
    """

    runs: tuple[Run, ...]
    tail: bytes
    floor_seq: int


def add_rows(
    tail: Iterable[LocatedRow],
    runs: Sequence[Run],
    rows: Iterable[LocatedRow],
    floor_seq: int,
    reader: IndexReader,
    writer: RunWriter,
    rules: MergeRules,
    limits: IndexLimits = IndexLimits(),
) -> NewIndex:
    """Returns an index with rows added to it.

    Args:
        tail: The rows of the tail below, in order of key.
        runs: The runs below, newest first.
        rows: The new rows, in order of key; each has a higher seq than any below.
        floor_seq: The tombstone floor below.
        reader: Reads the runs, where they have to be merged.
        writer: Writes index objects.
        rules: How much is merged.
        limits: What rides in the root.
    """
    # Merging costs something for each row.
    below = list(tail)
    batches = in_batches(newest([iter(below), iter(rows)]) if below else rows)
    first = draw(batches, limits.tail_rows)
    if count_rows(first) <= limits.tail_rows:
        encoded = encode_tail([item for batch in first for item in batch.rows()])
        if len(encoded) <= limits.tail_bytes:
            return NewIndex(tuple(runs), encoded, floor_seq)
    kept = [item for batch in first[:1] for item in islice(batch.rows(), 1) if _stays(item)]
    if kept:
        rest = first[0].without_first()
        first[:1] = [rest] if rest.row_count else []
    written = write_upon(chain(first, batches), runs, floor_seq, reader, writer, rules)
    left = replace(rules, budget_bytes=rules.budget_bytes - written.rewritten_bytes)
    merged = merge_runs(written.runs, written.floor_seq, reader, writer, left)
    return NewIndex(write_lists(merged.runs, writer, limits), encode_tail(kept), merged.floor_seq)


def _stays(item: LocatedRow) -> bool:
    row = item.row
    return row.key == METADATA_KEY and row.value is not None and len(row.value) <= METADATA_IN_TAIL_BYTES


def encode_tail(rows: Sequence[LocatedRow]) -> bytes:
    """Returns rows as the block that rides in a root; nothing where there are none."""
    refs = {item.row.object_name: item.ref for item in rows if item.row.object_name is not None}
    return encode_block([item.row for item in rows], refs) if rows else b""


def write_lists(runs: Sequence[Run], writer: RunWriter, limits: IndexLimits) -> tuple[Run, ...]:
    """Returns runs of which the long lists of entries are written apart, the longest first."""
    encoded = {
        number: writer.encoded_list(run) for number, run in enumerate(runs) if not isinstance(run, RunList)
    }
    placed = list(runs)
    room_bytes = limits.run_list_bytes
    for number in sorted(encoded, key=lambda each: len(encoded[each][0])):
        if len(encoded[number][0]) <= room_bytes:
            room_bytes -= len(encoded[number][0])
        else:
            room_bytes = 0
            placed[number] = writer.put_list(encoded[number])
    return tuple(placed)


__all__ = ["IndexLimits", "NewIndex", "add_rows", "encode_tail", "write_lists"]
