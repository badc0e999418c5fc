"""Writing runs: rows in order of key become index objects, and a list of entries that names them.

The invariant: nothing is named before it has arrived. What is written has new names, so a commit that never takes
place leaves garbage and nothing else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from ebooklet_tx.formats.block import Columns
from ebooklet_tx.formats.index_object import cut_columns, join_blocks
from ebooklet_tx.formats.index_records import IndexEntry, RunList, Sizes
from ebooklet_tx.formats.run_list import encode_run_list
from ebooklet_tx.index.lookup import LocatedRow
from ebooklet_tx.index.row_batches import RowBatch, in_batches
from ebooklet_tx.records import ObjectRef, digest_of
from ebooklet_tx.stores.workers import Workers

OBJECTS_IN_FLIGHT = 4
_DEFAULT_SIZES = Sizes()


@dataclass(frozen=True, slots=True)
class RunWriter:
    """Writes index objects into a store.

    Attributes:
        new_name: Returns a name that no other index object has.
        new_history_name: Returns a name that no other history object has.
        put: Uploads an object, or finds the same bytes where an interrupted push sent them; returns what names
            it.
        keep: Given each object that was written, with its entry, to keep its pieces.
        sizes: How many rows a block has, and how many blocks an object.
        threads: How many objects are uploaded at once.
        keep_pieces: Given the pieces of other objects that were written, by digest, to keep them.
    """

    new_name: Callable[[], str]
    new_history_name: Callable[[], str]
    put: Callable[[str, bytes], ObjectRef]
    keep: Callable[[bytes, IndexEntry], None] | None = None
    sizes: Sizes = _DEFAULT_SIZES
    threads: int = OBJECTS_IN_FLIGHT
    keep_pieces: Callable[[Mapping[bytes, bytes]], None] | None = None

    def put_plain(self, name: str, data: bytes) -> ObjectRef:
        """Uploads an object that is no part of a run."""
        if self.keep_pieces is not None:
            self.keep_pieces({digest_of(data): data})
        return self.put(name, data)

    def entries(
        self, rows: Iterable[LocatedRow], *, lo: str = "", hi: str | None = None
    ) -> tuple[IndexEntry, ...]:
        """Writes rows that come in order of key and lie in `[lo, hi)`; returns the entries that name them."""
        refs: dict[str, ObjectRef] = {}
        written: list[tuple[IndexEntry, Future[ObjectRef]]] = []
        running: deque[Future[ObjectRef]] = deque()
        with Workers(self.threads) as workers:
            blocks = cut_columns(_noting(in_batches(rows), refs), refs, self.sizes)
            objects = join_blocks(blocks, self.new_name, self.sizes, lo=lo, hi=hi)
            for data, entry in objects:
                if self.keep is not None:
                    self.keep(data, entry)
                future = workers.submit(self.put, entry.name, data)
                written.append((entry, future))
                running.append(future)
                if len(running) >= self.threads:
                    running.popleft().result()
            return tuple(_named(entry, future.result()) for entry, future in written)

    def encoded_list(self, entries: Sequence[IndexEntry]) -> tuple[bytes, RunList]:
        """Returns a list of entries as an object of its own, with its directory."""
        return encode_run_list(entries, self.new_name(), self.sizes)

    def put_list(self, encoded: tuple[bytes, RunList]) -> RunList:
        """Writes an encoded list of entries."""
        data, run_list = encoded
        if self.keep_pieces is not None:
            ends = ((page, page.offset_bytes + page.length_bytes) for page in run_list.pages)
            self.keep_pieces({page.digest: data[page.offset_bytes : end] for page, end in ends})
        return run_list._replace(ref=self.put(run_list.ref.name, data))


def _named(entry: IndexEntry, ref: ObjectRef) -> IndexEntry:
    return entry._replace(name=ref.name, etag=ref.etag)


def _noting(batches: Iterable[RowBatch], refs: dict[str, ObjectRef]) -> Iterator[Columns]:
    """Yields the columns of rows, and notes what holds them first."""
    for columns, holders in batches:
        # What holds a row that is not in a pack is noted for nothing.
        refs |= {ref.name: ref for ref in dict(zip(map(id, holders), holders, strict=True)).values()}
        yield columns


__all__ = ["RunWriter"]
