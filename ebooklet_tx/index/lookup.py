"""Looking keys up in the index of one commit.

The invariant: of the rows that tail and runs have of a key the one with the highest seq counts, and no row counts
outside the slot of its block. The search never ends at the first row found.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress, islice, repeat
from typing import Any, NamedTuple

from ebooklet_tx.formats.block import Block
from ebooklet_tx.formats.index_records import BlockRef, IndexEntry, Run
from ebooklet_tx.index.reader import IndexReader
from ebooklet_tx.records import IndexRow, ObjectRef

KEYS_AT_ONCE = 4000
BLOCKS_AT_ONCE = 256


class LocatedRow(NamedTuple):
    """A row of the index with the object that holds what it says.

    Attributes:
        row: The row; without a digest it is a tombstone.
        ref: The pack of its value; for a tombstone or an inline value the object that carries the row.
    """

    row: IndexRow
    ref: ObjectRef


def lookup_in(
    tail: Block | None, root: ObjectRef, runs: Sequence[Run], reader: IndexReader, keys: Iterable[str]
) -> dict[str, LocatedRow]:
    """Returns the row that counts of each key; a key that the commit never heard of is left out.

    Costs a directory and a block for each run whose slots hold a key, asked for together.

    Args:
        tail: The rows that ride in the root.
        root: The root object, which tombstones and inline values of the tail come from.
        runs: The runs that the root names.
        reader: Reads them.
        keys: What is asked for.

    Raises:
        ObjectMissingError: An index object is gone, as happens to an old commit.
        RemoteIntegrityError: One is damaged.
        OfflineError: The store can't be reached.
    """
    ordered = sorted(set(keys))
    found: dict[str, LocatedRow] = {}
    for start in range(0, len(ordered), KEYS_AT_ONCE):
        some = ordered[start : start + KEYS_AT_ONCE]
        if tail is not None:
            for key in some:
                _take(found, tail.find(key), tail, root)
        for part in _wanted(runs, reader, some):
            _look_into(found, reader, part)
    return found


def _wanted(
    runs: Sequence[Run], reader: IndexReader, keys: Sequence[str]
) -> Iterator[list[tuple[IndexEntry, BlockRef, list[str]]]]:
    """Yields parts of what has to be looked into: blocks of all runs, each with the keys in its slot."""
    entries = [group for run in runs for group in reader.entries_of(run, keys)]
    part: list[tuple[IndexEntry, BlockRef, list[str]]] = []
    directories = reader.directories([entry for entry, _ in entries])
    for (entry, group), directory in zip(entries, directories, strict=True):
        by_block: dict[int, list[str]] = {}
        for key in group:
            by_block.setdefault(directory.find(key), []).append(key)
        part += ((entry, directory.blocks[number], some) for number, some in by_block.items())
    for start in range(0, len(part), BLOCKS_AT_ONCE):
        yield part[start : start + BLOCKS_AT_ONCE]


def _look_into(
    found: dict[str, LocatedRow], reader: IndexReader, wanted: Sequence[tuple[IndexEntry, BlockRef, list[str]]]
) -> None:
    blocks = reader.blocks([(entry, ref) for entry, ref, _ in wanted])
    for (entry, _, keys), block in zip(wanted, blocks, strict=True):
        for key in keys:
            _take(found, block.find(key), block, entry.ref)


def _take(found: dict[str, LocatedRow], row: IndexRow | None, block: Block, holder: ObjectRef) -> None:
    if row is None:
        return
    known = found.get(row.key)
    if known is None or row.seq > known.row.seq:
        found[row.key] = located(row, block, holder)


def located(row: IndexRow, block: Block, holder: ObjectRef) -> LocatedRow:
    """Returns a row with the object that holds what it says."""
    return LocatedRow(row, holder if row.object_name is None else block.ref_of(row.object_name))


# -- in order ----------------------------------------------------------------------------------


def scan_of(
    tail: Block | None,
    root: ObjectRef,
    runs: Sequence[Run],
    reader: IndexReader,
    lo: str = "",
    hi: str | None = None,
) -> Iterator[LocatedRow]:
    """Yields the rows that count of the keys in `[lo, hi)`, in order of key, tombstones included.

    Streams: it reads ahead by up to 4 MiB of each run, and needs no memory in proportion.

    Raises:
        ObjectMissingError, RemoteIntegrityError, OfflineError: As for `lookup_in`; what was yielded is right.
    """
    streams = [run_rows(run, reader, lo, hi) for run in runs]
    if tail is not None:
        streams.append(tail_rows(tail, root, lo, hi))
    return newest(streams)


def run_rows(run: Run, reader: IndexReader, lo: str = "", hi: str | None = None) -> Iterator[LocatedRow]:
    """Yields the rows of one run in order of key."""
    return entry_rows(reader.entries_in(run, lo, hi), reader, lo, hi)


def entry_rows(
    entries: Iterable[IndexEntry], reader: IndexReader, lo: str = "", hi: str | None = None
) -> Iterator[LocatedRow]:
    """Yields the rows of some entries of a run in order of key."""
    for begin, end, entry, block in reader.scan(entries, lo, hi):
        yield from _block_rows(block, entry.ref, begin, end)


def tail_rows(tail: Block, root: ObjectRef, lo: str = "", hi: str | None = None) -> Iterator[LocatedRow]:
    """Yields the rows of a tail in order of key."""
    return _block_rows(tail, root, lo, hi)


def _block_rows(block: Block, holder: ObjectRef, lo: str, hi: str | None) -> Iterator[LocatedRow]:
    refs = _refs_of(block, holder, block.columns(lo, hi)[4])
    # As its own constructor makes it, without a call of Python for each row.
    return map(tuple.__new__, repeat(LocatedRow), zip(block.rows(lo, hi), refs, strict=True))


def _refs_of(block: Block, holder: ObjectRef, object_names: Iterable[str | None]) -> list[ObjectRef]:
    """Returns the objects that hold what the rows of a block say."""
    refs: dict[str | None, ObjectRef] = {ref.name: ref for ref in block.packs}
    refs[None] = holder
    return list(map(refs.__getitem__, object_names))


class RowColumns(NamedTuple):
    """Some rows in order of key, a sequence for each field: of many rows this is a small part of their tuples.

    Attributes:
        refs: The object of each row that holds what it says.
    """

    keys: Sequence[str]
    seqs: Sequence[int]
    timestamps_us: Sequence[int]
    digests: Sequence[bytes | None]
    refs: Sequence[ObjectRef]
    offsets_bytes: Sequence[int | None]
    lengths_bytes: Sequence[int | None]

    def picked(self, numbers: Sequence[int]) -> RowColumns:
        """Returns the rows of some numbers."""
        columns: Sequence[Any] = self
        return RowColumns(*([column[number] for number in numbers] for column in columns))

    def without_tombstones(self) -> RowColumns:
        """Returns the rows that have a value."""
        if None not in self.digests:
            return self
        columns: Sequence[Any] = self
        return RowColumns(*(list(compress(column, self.digests)) for column in columns))


def put_together(parts: Iterable[RowColumns]) -> RowColumns:
    """Returns the rows of several parts."""
    columns: tuple[list[Any], ...] = ([], [], [], [], [], [], [])
    for part in parts:
        for column, more in zip(columns, part, strict=True):
            column.extend(more)
    return RowColumns(*columns)


def scan_columns(
    tail: Block | None, root: ObjectRef, runs: Sequence[Run], reader: IndexReader, lo: str = ""
) -> Iterator[RowColumns]:
    """Yields what `scan_of` yields, some hundred rows at a time."""
    if tail is None and len(runs) == 1:
        for begin, end, entry, block in reader.scan(reader.entries_in(runs[0], lo, None), lo, None):
            keys, seqs, stamps, digests, names, offsets, lengths, _ = block.columns(begin, end)
            yield RowColumns(keys, seqs, stamps, digests, _refs_of(block, entry.ref, names), offsets, lengths)
        return
    rows = scan_of(tail, root, runs, reader, lo)
    while some := list(islice(rows, KEYS_AT_ONCE)):
        keys, seqs, stamps, digests, _, offsets, lengths, _ = zip(*(item.row for item in some), strict=True)
        yield RowColumns(keys, seqs, stamps, digests, [item.ref for item in some], offsets, lengths)


def newest(streams: Sequence[Iterator[LocatedRow]]) -> Iterator[LocatedRow]:
    """Merges streams in order of key; of one key's rows the one with the highest seq is left."""
    if len(streams) < 2:
        return streams[0] if streams else iter(())
    if len(streams) == 2:
        return _newest_of_two(*streams)
    return _newest(heapq.merge(*streams, key=_order))


def _newest_of_two(some: Iterator[LocatedRow], others: Iterator[LocatedRow]) -> Iterator[LocatedRow]:
    """Merges two streams, of which each has a key once: most merges are of two, and this takes half the time."""
    one, other = next(some, None), next(others, None)
    while one is not None and other is not None:
        key, other_key = one[0][0], other[0][0]
        if key < other_key:
            yield one
            one = next(some, None)
        elif other_key < key:
            yield other
            other = next(others, None)
        else:
            yield one if one.row.seq >= other.row.seq else other
            one, other = next(some, None), next(others, None)
    if one is not None:
        yield one
        yield from some
    elif other is not None:
        yield other
        yield from others


def _newest(rows: Iterator[LocatedRow]) -> Iterator[LocatedRow]:
    last: str | None = None
    for item in rows:
        if item.row.key != last:
            last = item.row.key
            yield item


def _order(item: LocatedRow) -> tuple[str, int]:
    return item.row.key, -item.row.seq


__all__ = [
    "LocatedRow",
    "RowColumns",
    "entry_rows",
    "located",
    "lookup_in",
    "newest",
    "put_together",
    "run_rows",
    "scan_columns",
    "scan_of",
    "tail_rows",
]
