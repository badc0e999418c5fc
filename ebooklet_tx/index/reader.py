"""Directories, pages of entries and blocks of a remote's index, decoded.

The invariant: whatever is returned was held to the digest and to the bounds that its parent names. Decoded
pieces are kept by digest, the ones used last, up to a bound.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, TypeVar

from ebooklet_tx.formats.block import Block, decode_block
from ebooklet_tx.formats.index_object import decode_directory
from ebooklet_tx.formats.index_records import BlockRef, Directory, IndexEntry, Run, RunList, RunPage, least_bound
from ebooklet_tx.formats.run_list import decode_run_page
from ebooklet_tx.index.pieces import Piece, PieceReader

SMALL_OBJECT_BYTES = 64 * 2**10
"""An index object up to this size is read whole by one request."""

DECODED_BYTES = 16 * 2**20
"""Decoded pieces that are kept, counted by their encoded bytes."""

READ_AHEAD_BYTES = 4 * 2**20
"""The most that a scan asks for ahead of what it has yielded."""

T = TypeVar("T")


class IndexReader:
    """Reads the index of one remote."""

    def __init__(self, pieces: PieceReader) -> None:
        self._pieces = pieces
        self._decoded: OrderedDict[bytes, tuple[Any, int]] = OrderedDict()
        self._decoded_bytes = 0
        self._mutex = threading.Lock()

    # -- runs ------------------------------------------------------------------------------

    def entries_in(self, run: Run, lo: str, hi: str | None) -> list[IndexEntry]:
        """Returns the entries of a run whose slots meet `[lo, hi)`, in order."""
        if isinstance(run, RunList):
            pages = [page for page in run.pages if meets(page.lo, page.hi, lo, hi)]
            found = [entry for entries in self.pages(run, pages) for entry in entries]
        else:
            found = list(run)
        return [entry for entry in found if meets(entry.lo, entry.hi, lo, hi)]

    def entries_since(self, run: Run, seq: int) -> list[IndexEntry]:
        """Returns the entries of a run that may have rows of commits after one."""
        if isinstance(run, RunList):
            pages = self.pages(run, [page for page in run.pages if page.greatest_seq > seq])
            entries = [entry for page in pages for entry in page]
        else:
            entries = list(run)
        return [entry for entry in entries if entry.greatest_seq > seq]

    def entries_of(self, run: Run, keys: Sequence[str]) -> list[tuple[IndexEntry, list[str]]]:
        """Returns, for keys in order, the entries whose slots hold some of them, each with those keys."""
        if isinstance(run, RunList):
            numbers = sorted({_find(run.pages, "lo", key) for key in keys} - {-1})
            pages = self.pages(run, [run.pages[number] for number in numbers])
            entries: Sequence[IndexEntry] = [entry for page in pages for entry in page]
        else:
            entries = run
        grouped: dict[int, list[str]] = {}
        for key in keys:
            number = _find(entries, "lo", key)
            if number >= 0 and entries[number].holds(key):
                grouped.setdefault(number, []).append(key)
        return [(entries[number], group) for number, group in grouped.items()]

    def all_entries(self, run: Run) -> list[IndexEntry]:
        """Returns every entry of a run."""
        return self.entries_in(run, "", None)

    def pages(self, run: RunList, pages: Sequence[RunPage]) -> list[tuple[IndexEntry, ...]]:
        """Returns the entries on some pages of a run's list."""
        name = run.ref.name
        wanted = [_page_piece(run, page) for page in pages]

        def decode(number: int, data: bytes) -> tuple[IndexEntry, ...]:
            return decode_run_page(data, page=pages[number], name=f"a page of {name}")

        return self._read(wanted, decode)

    # -- index objects ---------------------------------------------------------------------

    def directories(self, entries: Sequence[IndexEntry]) -> list[Directory]:
        """Returns the directories of some index objects; a small object is read whole on the way."""
        small = {entry.name: entry for entry in entries if entry.size_bytes < SMALL_OBJECT_BYTES}
        for entry in small.values():
            self._read_whole(entry)
        wanted = [_directory_piece(entry) for entry in entries]

        def decode(number: int, data: bytes) -> Directory:
            return decode_directory(data, entry=entries[number], name=f"the directory of {entries[number].name}")

        return self._read(wanted, decode)

    def blocks(self, wanted: Sequence[tuple[IndexEntry, BlockRef]]) -> list[Block]:
        """Returns some blocks, fetching what is not at hand by few requests."""
        pieces = [_block_piece(entry, ref) for entry, ref in wanted]

        def decode(number: int, data: bytes) -> Block:
            entry, ref = wanted[number]
            return decode_block(data, expect=ref, name=f"a block of {entry.name}", has_digest=True)

        return self._read(pieces, decode)

    def slots(
        self, entry: IndexEntry, lo: str = "", hi: str | None = None
    ) -> Iterator[tuple[str, str | None, BlockRef]]:
        """Yields the blocks of an entry that meet `[lo, hi)`, each with the part of its slot inside."""
        lo, hi = intersection(entry.lo, entry.hi, lo, hi)
        (directory,) = self.directories([entry])
        for number, ref in enumerate(directory.blocks):
            begin, end = intersection(*directory.slot(number, entry.lo, entry.hi), lo, hi)
            if end is None or begin < end:
                yield begin, end, ref

    def scan(
        self, entries: Iterable[IndexEntry], lo: str = "", hi: str | None = None
    ) -> Iterator[tuple[str, str | None, IndexEntry, Block]]:
        """Yields blocks in order of key, each with the part of its slot that counts; reads ahead as it goes."""
        ahead_bytes = 0
        for entry in entries:
            slots = list(self.slots(entry, lo, hi))
            position = 0
            while position < len(slots):
                end, size_bytes = position, 0
                while end < len(slots) and (
                    end == position or size_bytes + slots[end][2].length_bytes <= ahead_bytes
                ):
                    size_bytes += slots[end][2].length_bytes
                    end += 1
                part = slots[position:end]
                for (begin, stop, _), block in zip(part, self._blocks_once(entry, part), strict=True):
                    yield begin, stop, entry, block
                position = end
                ahead_bytes = min(READ_AHEAD_BYTES, max(size_bytes * 2, ahead_bytes))

    def _blocks_once(
        self, entry: IndexEntry, slots: Sequence[tuple[str, str | None, BlockRef]]
    ) -> Iterator[Block]:
        """Likewise `blocks`, one decoded at a time, without pushing out what lookups have kept."""
        found = self._pieces.read([_block_piece(entry, ref) for _, _, ref in slots])
        for _, _, ref in slots:
            yield decode_block(found[ref.digest], expect=ref, name=f"a block of {entry.name}", has_digest=True)

    # -- pieces ----------------------------------------------------------------------------

    def page_pieces(self, run: RunList) -> list[Piece]:
        """Returns the pages of a run's list."""
        return [_page_piece(run, page) for page in run.pages]

    def object_pieces(self, entries: Sequence[IndexEntry]) -> list[Piece]:
        """Returns what a lookup may ask some index objects for: their directories, and the blocks that count."""
        self.directories(entries)
        blocks = [_block_piece(entry, ref) for entry in entries for _, _, ref in self.slots(entry)]
        return [*map(_directory_piece, entries), *blocks]

    def fetch(self, pieces: Iterable[Piece]) -> dict[bytes, bytes]:
        """Returns the bytes of pieces by digest, from the cache or the store."""
        return self._pieces.read(pieces)

    def _read_whole(self, entry: IndexEntry) -> None:
        """Brings all of a small object into the cache by one request, unless its directory is there."""
        directory = _directory_piece(entry)
        if directory.digest in self._decoded or self._pieces.cache.get([directory.digest]):
            return
        data = self._pieces.read_object(entry.name, entry.size_bytes)
        parts = self._pieces.cut([directory], data)
        name = f"the directory of {entry.name}"
        decoded = decode_directory(parts[directory.digest], entry=entry, name=name)
        parts.update(self._pieces.cut([_block_piece(entry, ref) for ref in decoded.blocks], data))
        self._pieces.cache.put(parts)
        self._keep(directory, decoded)

    def _read(self, wanted: Sequence[Piece], decode: Callable[[int, bytes], T]) -> list[T]:
        with self._mutex:
            kept = {
                piece.digest: self._decoded[piece.digest][0] for piece in wanted if piece.digest in self._decoded
            }
            for digest in kept:
                self._decoded.move_to_end(digest)
        found = self._pieces.read(piece for piece in wanted if piece.digest not in kept)
        for number, piece in enumerate(wanted):
            if piece.digest not in kept:
                kept[piece.digest] = decode(number, found[piece.digest])
                self._keep(piece, kept[piece.digest])
        return [kept[piece.digest] for piece in wanted]

    def _keep(self, piece: Piece, decoded: object) -> None:
        with self._mutex:
            if piece.digest in self._decoded:
                return
            self._decoded[piece.digest] = decoded, piece.length_bytes
            self._decoded_bytes += piece.length_bytes
            while self._decoded_bytes > DECODED_BYTES:
                _, (_, length_bytes) = self._decoded.popitem(last=False)
                self._decoded_bytes -= length_bytes


def intersection(lo: str, hi: str | None, other_lo: str, other_hi: str | None) -> tuple[str, str | None]:
    """Returns what two half-open intervals have in common; None is no upper bound."""
    return max(lo, other_lo), least_bound(hi, other_hi)


def row_count(run: Run) -> int:
    """Returns about how many rows a run has, never less than it has."""
    return sum(part.row_count for part in (run.pages if isinstance(run, RunList) else run))


def meets(lo: str, hi: str | None, other_lo: str, other_hi: str | None) -> bool:
    """Whether two half-open intervals have something in common."""
    begin, end = intersection(lo, hi, other_lo, other_hi)
    return end is None or begin < end


def _find(items: Sequence[Any], name: str, key: str) -> int:
    return bisect_right(items, key, key=attrgetter(name)) - 1


def _page_piece(run: RunList, page: RunPage) -> Piece:
    return Piece(run.ref.name, page.offset_bytes, page.length_bytes, page.digest)


def _directory_piece(entry: IndexEntry) -> Piece:
    return Piece(entry.name, entry.directory_offset_bytes, entry.directory_length_bytes, entry.directory_digest)


def _block_piece(entry: IndexEntry, ref: BlockRef) -> Piece:
    return Piece(entry.name, ref.offset_bytes, ref.length_bytes, ref.digest)


__all__ = ["IndexReader", "intersection", "meets", "row_count"]
