"""What differs between two commits of a database, told by their indexes.

The invariant: blocks that both indexes have under the same slot are not read, whatever run they stand in. Of a
key that differs one of the other blocks has a row: where all its rows are shared, the one that counts is the same
in both. So the cost goes by what differs, and by what was merged since, not by the size of the database.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from typing import NamedTuple

from ebooklet_tx.formats.block import Block
from ebooklet_tx.formats.index_records import BlockRef, IndexEntry, Run, RunList
from ebooklet_tx.index.commit_index import CommitIndex
from ebooklet_tx.index.lookup import LocatedRow, tail_rows
from ebooklet_tx.index.reader import IndexReader
from ebooklet_tx.records import METADATA_KEY, KeyChange

BLOCKS_AT_ONCE = 16
KEYS_AT_ONCE = 1000


class _Part(NamedTuple):
    """A block with the part of its slot that counts."""

    lo: str
    hi: str | None
    entry: IndexEntry
    ref: BlockRef


class _Row(NamedTuple):
    """What one of the two commits, 0 or 1, says of a key in a block that the other does not have."""

    key: str
    side: int
    seq: int
    digest: bytes | None


def changes_between(one: CommitIndex, other: CommitIndex) -> Iterator[KeyChange]:
    """Yields the keys whose values differ between two commits, in order, with what became of each.

    Args:
        one: The index of a commit.
        other: That of another, of the same database, read through the same reader.

    Raises:
        ObjectMissingError: A part of an index is gone, as happens to an old commit.
        RemoteIntegrityError: One is damaged.
        OfflineError: The store can't be reached.
    """
    keys = _keys_to_compare(one, other)
    while some := list(islice(keys, KEYS_AT_ONCE)):
        before, after = (_digests(index, some) for index in (one, other))
        for key in some:
            change = _change(key, before.get(key), after.get(key))
            if change is not None:
                yield change


def _change(key: str, before: bytes | None, after: bytes | None) -> KeyChange | None:
    if before == after:
        return None
    return KeyChange(key, "added" if before is None else "removed" if after is None else "changed")


def _digests(index: CommitIndex, keys: Sequence[str]) -> dict[str, bytes | None]:
    return {key: item.row.digest for key, item in index.lookup(keys).items()}


def _keys_to_compare(one: CommitIndex, other: CommitIndex) -> Iterator[str]:
    """Yields the keys, in order, of which blocks and tails that only one of the two has say different things."""
    reader = one.remote.reader
    parts = _parts_apart(reader, one.manifest.runs, other.manifest.runs)
    streams = [_rows(reader, side, run) for side in (0, 1) for run in parts[side]]
    if one.root.tail != other.root.tail:
        streams += [_tail(side, index) for side, index in enumerate((one, other)) if index.tail is not None]
    for key, rows in groupby(heapq.merge(*streams, key=_key_of), key=_key_of):
        # Rows of one key are told apart by seq: where both sides have the same newest one, all else is older.
        newest: list[tuple[int, bytes | None] | None] = [None, None]
        for row in rows:
            known = newest[row.side]
            if known is None or row.seq > known[0]:
                newest[row.side] = row.seq, row.digest
        if newest[0] != newest[1] and key != METADATA_KEY:
            yield key


def _key_of(row: _Row) -> str:
    return row.key


def _tail(side: int, index: CommitIndex) -> Iterator[_Row]:
    block = index.tail
    return iter(()) if block is None else _as_rows(side, tail_rows(block, index.ref))


def _as_rows(side: int, located: Iterator[LocatedRow]) -> Iterator[_Row]:
    for item in located:
        yield _Row(item.row.key, side, item.row.seq, item.row.digest)


def _rows(reader: IndexReader, side: int, parts: Sequence[_Part]) -> Iterator[_Row]:
    for start in range(0, len(parts), BLOCKS_AT_ONCE):
        some = parts[start : start + BLOCKS_AT_ONCE]
        blocks: list[Block] = reader.blocks([(part.entry, part.ref) for part in some])
        for part, block in zip(some, blocks, strict=True):
            for row in block.rows(part.lo, part.hi):
                yield _Row(row.key, side, row.seq, row.digest)


# -- what only one of them has -----------------------------------------------------------------------


def _parts_apart(
    reader: IndexReader, one: Sequence[Run], other: Sequence[Run]
) -> tuple[list[list[_Part]], list[list[_Part]]]:
    """Returns for both the blocks, by run and in order, that the other does not have under the same slot."""
    entries = _entries_apart(reader, one, other)
    parts = [[_parts_of(reader, run) for run in runs] for runs in entries]
    have = [{_of_part(part) for run in runs for part in run} for runs in parts]
    shared = have[0] & have[1]
    apart = [[[part for part in run if _of_part(part) not in shared] for run in runs] for runs in parts]
    return apart[0], apart[1]


def _of_part(part: _Part) -> tuple[bytes, str, str | None]:
    return part.ref.digest, part.lo, part.hi


def _of_entry(entry: IndexEntry) -> tuple[bytes, str, str | None]:
    return entry.directory_digest, entry.lo, entry.hi


def _entries_apart(reader: IndexReader, one: Sequence[Run], other: Sequence[Run]) -> list[list[list[IndexEntry]]]:
    """Returns for both the index objects, by run, that the other does not name under the same slot."""
    pages = [{page for run in runs if isinstance(run, RunList) for page in run.pages} for runs in (one, other)]
    shared_pages = pages[0] & pages[1]
    entries: list[list[list[IndexEntry]]] = []
    for runs in (one, other):
        found = []
        for run in runs:
            if isinstance(run, RunList):
                wanted = [page for page in run.pages if page not in shared_pages]
                found.append([entry for page in reader.pages(run, wanted) for entry in page])
            else:
                found.append(list(run))
        entries.append(found)
    have = [{_of_entry(entry) for run in runs for entry in run} for runs in entries]
    shared = have[0] & have[1]
    return [[[entry for entry in run if _of_entry(entry) not in shared] for run in runs] for runs in entries]


def _parts_of(reader: IndexReader, entries: Sequence[IndexEntry]) -> list[_Part]:
    parts = []
    for entry, directory in zip(entries, reader.directories(entries), strict=True):
        for number, ref in enumerate(directory.blocks):
            lo, hi = directory.slot(number, entry.lo, entry.hi)
            if hi is None or lo < hi:
                parts.append(_Part(lo, hi, entry, ref))
    return parts


__all__ = ["changes_between"]
