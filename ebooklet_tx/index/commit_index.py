"""The index of one commit: what its root says, and what can be asked of it.

The invariant: answers are those of that one commit, whatever has become of the remote since. Where an object that
it names is gone, it says so by `ObjectMissingError`, and never answers from a part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property

from ebooklet_tx.formats.block import Block
from ebooklet_tx.formats.index_records import RunList
from ebooklet_tx.formats.manifest import Manifest
from ebooklet_tx.formats.object_names import ObjectNames
from ebooklet_tx.formats.root import Root
from ebooklet_tx.index.difference import Holdings, changed_rows
from ebooklet_tx.index.history import HistoryReader
from ebooklet_tx.index.lookup import LocatedRow, RowColumns, lookup_in, scan_columns, scan_of
from ebooklet_tx.index.pieces import Piece, PieceCache, PieceReader
from ebooklet_tx.index.reader import IndexReader
from ebooklet_tx.records import ObjectRef
from ebooklet_tx.stores.object_store import ObjectStore

OBJECTS_AT_ONCE = 4
"""Index objects whose pieces are named together: a few MiB."""


class RemoteIndex:
    """Reads the indexes of a remote's commits; what it has decoded serves all of them."""

    def __init__(self, store: ObjectStore, names: ObjectNames, cache: PieceCache, *, threads: int = 8) -> None:
        self.reader = IndexReader(PieceReader(store, names, cache, threads=threads))
        self.history = HistoryReader(store, names)

    def of(self, root: Root, *, etag: str | None, size_bytes: int) -> CommitIndex:
        """Returns the index of the commit that a root was written by."""
        return CommitIndex(root, ObjectRef("", etag or "", size_bytes), self)


class CommitIndex:
    """The index of one commit.

    Attributes:
        root: The decoded root.
        ref: The root object, which rows of the tail come from.
        remote: Reads what the root names.
    """

    def __init__(self, root: Root, ref: ObjectRef, remote: RemoteIndex) -> None:
        self.root = root
        self.ref = ref
        self.remote = remote

    @property
    def manifest(self) -> Manifest:
        return self.root.manifest

    @cached_property
    def tail(self) -> Block | None:
        """The rows that ride in the root."""
        return self.root.tail_block() if self.root.tail else None

    def lookup(self, keys: Iterable[str]) -> dict[str, LocatedRow]:
        """Returns the row that counts of each key; see `lookup.lookup_in`."""
        return lookup_in(self.tail, self.ref, self.manifest.runs, self.remote.reader, keys)

    def scan(self, lo: str = "", hi: str | None = None) -> Iterator[LocatedRow]:
        """Yields the rows that count in `[lo, hi)`, in order of key; see `lookup.scan_of`."""
        return scan_of(self.tail, self.ref, self.manifest.runs, self.remote.reader, lo, hi)

    def scan_columns(self, lo: str = "") -> Iterator[RowColumns]:
        """Likewise from a key on, some hundred rows at a time; see `lookup.scan_columns`."""
        return scan_columns(self.tail, self.ref, self.manifest.runs, self.remote.reader, lo)

    def pieces(self) -> Iterator[list[Piece]]:
        """Yields every piece of the index, those of a few index objects at a time.

        With all of them at hand every question about this commit is answered without the store.
        """
        reader = self.remote.reader
        for run in self.manifest.runs:
            if isinstance(run, RunList):
                yield reader.page_pieces(run)
            entries = reader.all_entries(run)
            for start in range(0, len(entries), OBJECTS_AT_ONCE):
                yield reader.object_pieces(entries[start : start + OBJECTS_AT_ONCE])

    def changes_since(self, seq: int, holdings: Holdings) -> dict[str, LocatedRow]:
        """Returns the newest row after a commit of each held key that has one; see `difference.changed_rows`."""
        return changed_rows(
            self.tail, self.ref, self.manifest.runs, self.remote.reader, since_seq=seq, holdings=holdings
        )

    def commit_at(self, seq: int) -> str | None:
        """Returns the id of the commit of a number, None where the history does not go back so far."""
        return self.remote.history.commit_at(self.manifest, seq)


__all__ = ["CommitIndex", "RemoteIndex"]
