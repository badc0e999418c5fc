"""Frozen records of the index of format 2: what names a block, an index object, a run.

The invariant: a record that a codec returned keeps the rules of docs/reference/FORMAT.md; each carries the
digest of the bytes that it names, so that no byte of the index is read without being held to one.

Slots are intervals `[lo, hi)` of keys, compared by code point; `hi` None has no upper bound.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

from ebooklet_tx.records import ObjectRef


@dataclass(frozen=True, slots=True)
class Sizes:
    """Where a writer closes a block, an index object, a page; tests take tiny ones.

    Attributes:
        block_rows: Rows of a block.
        block_bytes: Keys and inline values of a block, unless one row alone has more.
        object_blocks: Blocks of an index object.
        object_bytes: Blocks of an index object together, unless two have more.
        fence_bytes: Fences of a directory or page, unless two have more.
        page_entries: Entries of a page of a run's list.
    """

    block_rows: int = 512
    block_bytes: int = 32 * 2**10
    object_blocks: int = 128
    object_bytes: int = 4 * 2**20
    fence_bytes: int = 64 * 2**10
    page_entries: int = 128


@dataclass(frozen=True, slots=True)
class PackUse:
    """How much of a pack rows name: their number, and the bytes of their values."""

    ref: ObjectRef
    row_count: int
    value_bytes: int


class BlockRef(NamedTuple):
    """A block as its directory names it.

    Attributes:
        fence: Where its slot begins; `""` for an object's first block, whose slot begins at its entry's lo.
        next_fence: Where its slot ends, or None for the last block, whose slot ends at its entry's hi.
        offset_bytes: Where it begins in the object.
        length_bytes: Its length.
        digest: Of its bytes.
        row_count: Rows in it.
        least_seq: The least seq of a row in it.
        greatest_seq: The greatest.
    """

    fence: str
    next_fence: str | None
    offset_bytes: int
    length_bytes: int
    digest: bytes
    row_count: int
    least_seq: int
    greatest_seq: int


@dataclass(frozen=True)
class Directory:
    """What an index object holds.

    Attributes:
        blocks: In the order of their keys; they tile the object from its first byte.
        packs_offset_bytes: Where the list of the packs that its rows name lies, right behind the blocks.
        packs_length_bytes: The list's length.
        packs_digest: The list's digest.
        pack_count: The packs in it.
    """

    blocks: tuple[BlockRef, ...]
    packs_offset_bytes: int
    packs_length_bytes: int
    packs_digest: bytes
    pack_count: int

    @cached_property
    def _fences(self) -> list[str]:
        return [block.fence for block in self.blocks]

    def find(self, key: str) -> int:
        """Returns the number of the block in whose slot a key lies, if it lies in the entry's slot."""
        return max(bisect_right(self._fences, key) - 1, 0)

    def slot(self, number: int, lo: str, hi: str | None) -> tuple[str, str | None]:
        """Returns the slot of a block under an entry whose slot is `[lo, hi)`; it may be empty."""
        block = self.blocks[number]
        return max(block.fence, lo), least_bound(block.next_fence, hi)


class IndexEntry(NamedTuple):
    """An index object as a run names it.

    Only rows inside the slot count: a merge may clip the slot, and leaves all else as it is.

    Attributes:
        name: `index/<id>`.
        etag: The object's ETag; `""` until it was stored.
        size_bytes: The object's size.
        lo: Where the slot begins.
        hi: Where it ends, or None.
        row_count: Rows in the whole object.
        least_seq: The least seq of a row in the whole object.
        greatest_seq: The greatest.
        directory_length_bytes: The length of the directory, which is the object's end.
        directory_digest: The directory's digest.
    """

    name: str
    etag: str
    size_bytes: int
    lo: str
    hi: str | None
    row_count: int
    least_seq: int
    greatest_seq: int
    directory_length_bytes: int
    directory_digest: bytes

    @property
    def directory_offset_bytes(self) -> int:
        """Where the directory begins in the object."""
        return self.size_bytes - self.directory_length_bytes

    @property
    def ref(self) -> ObjectRef:
        """The object."""
        return ObjectRef(self.name, self.etag, self.size_bytes)

    def holds(self, key: str) -> bool:
        """Tells whether a key lies in the slot."""
        return self.lo <= key and (self.hi is None or key < self.hi)


class RunPage(NamedTuple):
    """A page of a run's list, as the root names it.

    Attributes:
        lo: Where the slot of its first entry begins.
        hi: Where the slot of its last entry ends, or None.
        offset_bytes: Where it begins in the list's object.
        length_bytes: Its length.
        digest: Its digest.
        entry_count: Its entries.
        row_count: Rows in the objects of its entries.
        least_seq: The least seq of a row in them.
        greatest_seq: The greatest.
    """

    lo: str
    hi: str | None
    offset_bytes: int
    length_bytes: int
    digest: bytes
    entry_count: int
    row_count: int
    least_seq: int
    greatest_seq: int

    def holds(self, key: str) -> bool:
        """Tells whether a key lies between its first slot's begin and its last slot's end."""
        return self.lo <= key and (self.hi is None or key < self.hi)


class RunList(NamedTuple):
    """A run whose list of entries left the root for an object of its own; the pages tile that object.

    Attributes:
        ref: The object, `index/<id>`; its ETag is `""` until it was stored.
        pages: In the order of their keys.
    """

    ref: ObjectRef
    pages: tuple[RunPage, ...]


Run: TypeAlias = tuple[IndexEntry, ...] | RunList
"""Index objects that are disjoint by key, in the order of their keys: listed in the root, or in an object."""


class Feed(NamedTuple):
    """A flush as it was written, for pulls whose base lies not before it.

    Attributes:
        after_seq: The flush holds every row of a later seq, up to where the next newer flush or the tail begins.
        entries: Its index objects.
    """

    after_seq: int
    entries: tuple[IndexEntry, ...]


class HistoryRef(NamedTuple):
    """An object of older history, as the root names it.

    Attributes:
        name: `history/<id>`.
        etag: The object's ETag; `""` until it was stored.
        size_bytes: The object's size.
        digest: Of the whole object.
        first_seq: Of the oldest commit in it.
        last_seq: Of the newest.
        record_count: Commits in it.
    """

    name: str
    etag: str
    size_bytes: int
    digest: bytes
    first_seq: int
    last_seq: int
    record_count: int


def least_bound(one: str | None, other: str | None) -> str | None:
    """Returns the lower of two upper bounds, where None is none."""
    if one is None:
        return other
    return one if other is None else min(one, other)
