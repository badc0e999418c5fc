"""Rows on their way into the index, some at a time, as columns.

A commit of many keys goes from the journal into blocks without an object for each row; rows become objects only
where they are merged with others.

The invariant: what is drawn row by row and what is drawn batch by batch are the same rows in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, repeat
from typing import NamedTuple

from ebooklet_tx.formats.block import Columns
from ebooklet_tx.index.lookup import LocatedRow
from ebooklet_tx.records import IndexRow, ObjectRef

_ROWS_AT_ONCE = 1000


class RowBatch(NamedTuple):
    """Some rows in order of key; there is at least one.

    Attributes:
        columns: A sequence for each field of `IndexRow`.
        refs: The object of each row that holds what it says.
    """

    columns: Columns
    refs: Sequence[ObjectRef]

    @property
    def row_count(self) -> int:
        """How many they are."""
        return len(self.refs)

    def rows(self) -> Iterator[LocatedRow]:
        """Yields them one by one."""
        # What NamedTuple's own constructor does, without a call of Python for each row.
        indexed = map(tuple.__new__, repeat(IndexRow), zip(*self.columns, strict=True))
        return map(tuple.__new__, repeat(LocatedRow), zip(indexed, self.refs, strict=True))

    def without_first(self) -> RowBatch:
        """Returns all but the first, of which there is one more."""
        return RowBatch([column[1:] for column in self.columns], self.refs[1:])


class BatchedRows:
    """Rows in order of key that come in batches; they can be drawn once, in either way."""

    def __init__(self, batches: Iterable[RowBatch]) -> None:
        self._batches = iter(batches)

    def __iter__(self) -> Iterator[LocatedRow]:
        return chain.from_iterable(batch.rows() for batch in self._batches)

    def batches(self) -> Iterator[RowBatch]:
        """Returns them as they come."""
        return self._batches


def batch_of(rows: Sequence[LocatedRow]) -> RowBatch:
    """Returns rows as a batch; there is at least one."""
    indexed, refs = zip(*rows, strict=True)
    return RowBatch(list(zip(*indexed, strict=True)), refs)


def in_batches(rows: Iterable[LocatedRow]) -> Iterator[RowBatch]:
    """Returns rows in batches, drawn as they are asked for."""
    if isinstance(rows, BatchedRows):
        return rows.batches()
    source = iter(rows)
    return map(batch_of, iter(lambda: list(islice(source, _ROWS_AT_ONCE)), []))


def draw(batches: Iterator[RowBatch], more_than: int) -> list[RowBatch]:
    """Returns the first batches that have more rows than a number together, or all of them."""
    drawn: list[RowBatch] = []
    count = 0
    while count <= more_than and (batch := next(batches, None)) is not None:
        drawn.append(batch)
        count += batch.row_count
    return drawn


def count_rows(batches: Iterable[RowBatch]) -> int:
    """Returns how many rows batches have together."""
    return sum(batch.row_count for batch in batches)


__all__ = ["BatchedRows", "RowBatch", "batch_of", "count_rows", "draw", "in_batches"]
