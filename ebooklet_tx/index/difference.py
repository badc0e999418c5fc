"""What later commits say of the keys that a machine holds something of.

The invariant: for a base whose commit the newer root's history has, and that is not below its tombstone floor,
the rows of later commits are the whole difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from ebooklet_tx.formats.block import Block
from ebooklet_tx.formats.index_records import BlockRef, IndexEntry, Run
from ebooklet_tx.index.lookup import BLOCKS_AT_ONCE, LocatedRow, located, tail_rows
from ebooklet_tx.index.reader import IndexReader
from ebooklet_tx.records import ObjectRef


class Holdings(Protocol):
    """Tells which keys a machine holds something of."""

    def any_in(self, lo: str, hi: str | None) -> bool:
        """Whether there is one in `[lo, hi)`."""
        ...

    def of(self, keys: Sequence[str]) -> set[str]:
        """Returns those of some keys that are."""
        ...


def changed_rows(
    tail: Block | None,
    root: ObjectRef,
    runs: Sequence[Run],
    reader: IndexReader,
    *,
    since_seq: int,
    holdings: Holdings,
) -> dict[str, LocatedRow]:
    """Returns the newest row after a commit of each held key that has one.

    Reads the blocks that have a row after it and in whose slots a held key lies, and nothing else.

    Raises:
        ObjectMissingError: An index object is gone.
        RemoteIntegrityError: One is damaged.
        OfflineError: The store can't be reached.
    """
    found: dict[str, LocatedRow] = {}
    for rows in _rows_since(tail, root, runs, reader, since_seq, holdings):
        held = holdings.of([item.row.key for item in rows])
        for item in rows:
            key = item.row.key
            if key in held and (key not in found or item.row.seq > found[key].row.seq):
                found[key] = item
    return found


def _rows_since(
    tail: Block | None,
    root: ObjectRef,
    runs: Sequence[Run],
    reader: IndexReader,
    seq: int,
    holdings: Holdings,
) -> Iterator[list[LocatedRow]]:
    if tail is not None:
        yield later_rows(tail_rows(tail, root), seq)
    entries = [
        entry for run in runs for entry in reader.entries_since(run, seq) if holdings.any_in(entry.lo, entry.hi)
    ]
    wanted: list[tuple[IndexEntry, BlockRef]] = []
    slots: list[tuple[str, str | None]] = []
    for entry, directory in zip(entries, reader.directories(entries), strict=True):
        for number, ref in enumerate(directory.blocks):
            lo, hi = directory.slot(number, entry.lo, entry.hi)
            if ref.greatest_seq > seq and (hi is None or lo < hi) and holdings.any_in(lo, hi):
                wanted.append((entry, ref))
                slots.append((lo, hi))
    for start in range(0, len(wanted), BLOCKS_AT_ONCE):
        part = wanted[start : start + BLOCKS_AT_ONCE]
        for (entry, _), slot, block in zip(part, slots[start:], reader.blocks(part), strict=False):
            yield later_rows((located(row, block, entry.ref) for row in block.rows(*slot)), seq)


def later_rows(rows: Iterable[LocatedRow], seq: int) -> list[LocatedRow]:
    """Returns the rows of later commits: of an older one the newer row may lie in a block that was not read."""
    return [item for item in rows if item.row.seq > seq]


__all__ = ["Holdings", "changed_rows", "later_rows"]
