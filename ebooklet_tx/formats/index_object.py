"""The codec of index objects: blocks one after another, the list of the packs that they name, the directory.

A lookup reads the directory and one block. Collect and compact read the list of packs. Nothing lies between or
around the three, so that each byte is held to a digest: that of a block or of the list stands in the directory,
the directory's in the entry by which a run names the object.

The invariant: what `join_blocks` yields is disjoint and ascending by key, lies in the range that it was given,
and every reader accepts it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from ebooklet_tx.errors import InvalidArgumentError
from ebooklet_tx.formats.block import (
    Columns,
    EncodedBlock,
    build_columns,
    read_packs,
    write_packs,
)
from ebooklet_tx.formats.columns import FrameKind, FrameReader, FrameWriter, damaged
from ebooklet_tx.formats.fences import fence, lower_bound, upper_bound
from ebooklet_tx.formats.index_records import (
    BlockRef,
    Directory,
    IndexEntry,
    PackUse,
    Sizes,
    least_bound,
)
from ebooklet_tx.limits import (
    MAX_BLOCK_BYTES,
    MAX_BLOCK_ROWS,
    MAX_COUNT,
    MAX_LIST_BYTES,
    MAX_OBJECT_BLOCKS,
    MAX_OBJECT_BYTES,
    MAX_OBJECT_PACKS,
    MAX_PACK_LIST_BYTES,
)
from ebooklet_tx.records import DIGEST_BYTES, ObjectRef, digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

DIRECTORY_MAGIC = b"EBTXdir\n"
PACK_LIST_MAGIC = b"EBTXpks\n"
WHOLE_BYTES = 64 * 2**10
"""An index object below this is better read whole, in one request."""

_DIRECTORY = FrameKind(
    DIRECTORY_MAGIC, "an index object's directory", MAX_OBJECT_BLOCKS, MAX_LIST_BYTES, MAX_LIST_BYTES
)
_PACK_LIST = FrameKind(
    PACK_LIST_MAGIC, "an index object's list of packs", MAX_OBJECT_PACKS, MAX_PACK_LIST_BYTES, MAX_PACK_LIST_BYTES
)
_DEFAULT_SIZES = Sizes()


class IndexObjectBuilder:
    """Gathers blocks in the order of their keys into one index object."""

    def __init__(self, name: str, lo: str) -> None:
        """Begins an object whose slot begins at `lo`, which is at most its first key."""
        self.name = name
        self._lo = lo
        self._blocks: list[EncodedBlock] = []
        self._fences = [""]
        self._fence_bytes = 0
        self._size_bytes = 0
        self._packs: dict[str, list[int]] = {}
        self._refs: dict[str, ObjectRef] = {}

    @property
    def size_bytes(self) -> int:
        """The size of all blocks so far."""
        return self._size_bytes

    @property
    def block_count(self) -> int:
        """The number of blocks so far."""
        return len(self._blocks)

    @property
    def last_key(self) -> str:
        """The greatest key so far; there is a block."""
        return self._blocks[-1].last_key

    def has_room(self, block: EncodedBlock, sizes: Sizes) -> bool:
        """Tells whether a block may still be added."""
        count = len(self._blocks)
        if count == 0:
            return True
        if count >= min(sizes.object_blocks, MAX_OBJECT_BLOCKS):
            return False
        if len(self._packs.keys() | {use.ref.name for use in block.packs}) > MAX_OBJECT_PACKS:
            return False
        # Two are held in any case: a tree whose inner nodes have one child each has no height.
        fence_bytes = self._fence_bytes + len(self.fence_before(block).encode())
        return count < 2 or (
            self._size_bytes + len(block.data) <= sizes.object_bytes and fence_bytes <= sizes.fence_bytes
        )

    def fence_before(self, block: EncodedBlock) -> str:
        """Returns the fence between the last block so far and another.

        Raises:
            InvalidArgumentError: The other's keys are not above.
        """
        if block.first_key <= self.last_key:
            raise InvalidArgumentError(
                f"a block that begins at {block.first_key[:100]!r} can't follow one that ends at "
                f"{self.last_key[:100]!r}"
            )
        return fence(self.last_key, block.first_key)

    def add(self, block: EncodedBlock) -> None:
        """Adds a block whose keys are above those of the block before it.

        Raises:
            InvalidArgumentError: They are not, or the object would be past a limit.
        """
        if self._blocks:
            bound = self.fence_before(block)
            self._fences.append(bound)
            self._fence_bytes += len(bound.encode())
        self._blocks.append(block)
        self._size_bytes += len(block.data)
        for use in block.packs:
            self._refs[use.ref.name] = use.ref
            counts = self._packs.setdefault(use.ref.name, [0, 0])
            counts[0] += use.row_count
            counts[1] += use.value_bytes

    def finish(self, hi: str | None) -> tuple[bytes, IndexEntry]:
        """Returns the object and its entry, whose ETag is still to be filled in.

        Args:
            hi: Where the slot ends, above the last key; None is no bound.

        Raises:
            InvalidArgumentError: There is no block, or the object is past a limit.
        """
        if not self._blocks:
            raise InvalidArgumentError("an index object without a block can't be written")
        packs = self._pack_list()
        directory = self._directory(packs)
        data = b"".join([*(block.data for block in self._blocks), packs, directory])
        if len(data) > MAX_OBJECT_BYTES:
            raise InvalidArgumentError(
                f"an index object of {len(data)} bytes can't be written: no reader takes more than "
                f"{MAX_OBJECT_BYTES}"
            )
        entry = IndexEntry(
            self.name,
            "",
            len(data),
            self._lo,
            hi,
            sum(block.row_count for block in self._blocks),
            min(block.least_seq for block in self._blocks),
            max(block.greatest_seq for block in self._blocks),
            len(directory),
            digest_of(directory),
        )
        return data, entry

    def _pack_list(self) -> bytes:
        writer = FrameWriter(_PACK_LIST)
        write_packs(writer, list(self._refs.values()))
        writer.integers([counts[0] for counts in self._packs.values()])
        writer.integers([counts[1] for counts in self._packs.values()])
        return writer.finish(len(self._packs))

    def _directory(self, packs: bytes) -> bytes:
        writer = FrameWriter(_DIRECTORY)
        writer.number(len(packs))
        writer.number(len(self._packs))
        writer.texts(self._fences)
        writer.integers([len(block.data) for block in self._blocks])
        writer.integers([block.row_count for block in self._blocks])
        writer.integers([block.least_seq for block in self._blocks])
        writer.integers([block.greatest_seq for block in self._blocks])
        writer.plain(digest_of(packs))
        for block in self._blocks:
            writer.plain(digest_of(block.data))
        return writer.finish(len(self._blocks))


def cut_columns(
    batches: Iterable[Columns], refs: Mapping[str, ObjectRef], sizes: Sizes = _DEFAULT_SIZES
) -> Iterator[EncodedBlock]:
    """Yields the blocks of rows that come as columns, some at a time, in the order of their keys.

    Args:
        batches: Drawn as blocks are taken: memory does not follow their number.
        refs: Every pack that a row names; a mapping that grows while batches are drawn will do.
        sizes: Where a block closes.

    Raises:
        InvalidArgumentError: A row breaks a rule or a limit.
    """
    most = min(sizes.block_rows, MAX_BLOCK_ROWS)
    rest: Columns = [()] * 8
    for batch in batches:
        columns = [[*left, *more] for left, more in zip(rest, batch, strict=True)] if rest[0] else batch
        taken = yield from _cut(columns, most, most, refs, sizes)
        rest = [column[taken:] for column in columns]
    yield from _cut(rest, 1, most, refs, sizes)


def _cut(
    columns: Columns, least: int, most: int, refs: Mapping[str, ObjectRef], sizes: Sizes
) -> Generator[EncodedBlock, None, int]:
    """Yields blocks of up to `most` rows while `least` are left; returns how many rows they have together."""
    start, end = 0, len(columns[0])
    while end - start >= least:
        part = [column[start : start + most] for column in columns]
        count = _rows_of_block(part, sizes.block_bytes)
        yield build_columns([column[:count] for column in part] if count < len(part[0]) else part, refs)
        start += count
    return start


def join_blocks(
    blocks: Iterable[EncodedBlock],
    names: Callable[[], str],
    sizes: Sizes = _DEFAULT_SIZES,
    *,
    lo: str = "",
    hi: str | None = None,
) -> Iterator[tuple[bytes, IndexEntry]]:
    """Yields the index objects that hold blocks, each with its entry, as soon as each is full.

    Args:
        blocks: New ones or reused ones, in the order of their keys, and inside `[lo, hi)`.
        names: Called for the name of each object, `index/<id>`.
        sizes: Where objects close.
        lo: No slot begins below.
        hi: No slot ends above; None is no bound.

    Raises:
        InvalidArgumentError: A block is out of order, or an object would be past a limit.
    """
    builder: IndexObjectBuilder | None = None
    for block in blocks:
        if builder is None:
            builder = IndexObjectBuilder(names(), max(lo, lower_bound(block.first_key)))
        elif not builder.has_room(block, sizes):
            bound = builder.fence_before(block)
            yield builder.finish(bound)
            builder = IndexObjectBuilder(names(), bound)
        builder.add(block)
    if builder is not None:
        yield builder.finish(least_bound(upper_bound(builder.last_key), hi))


def decode_directory(data: bytes | memoryview, *, entry: IndexEntry, name: str) -> Directory:
    """Returns the directory of an index object, checked as foreign input.

    Args:
        data: The object's last `entry.directory_length_bytes` bytes.
        entry: By which a run names the object.
        name: How messages call the object.

    Raises:
        RemoteIntegrityError: It is truncated, altered, or not what the entry says.
        UnsupportedFormatError: A newer version wrote it.
    """
    if len(data) != entry.directory_length_bytes or digest_of(data) != entry.directory_digest:
        raise damaged(name, _DIRECTORY.what, "it does not match its digest")
    reader = FrameReader(data, _DIRECTORY, name)
    count = reader.row_count
    packs_length_bytes = reader.number(0, MAX_PACK_LIST_BYTES, "list of packs' length")
    pack_count = reader.number(0, MAX_OBJECT_PACKS, "number of packs")
    fences = reader.texts(count, "fences")
    lengths = reader.integers(count, 1, MAX_BLOCK_BYTES, "lengths of blocks")
    row_counts = reader.integers(count, 1, MAX_BLOCK_ROWS, "rows of blocks")
    least = reader.integers(count, 1, entry.greatest_seq, "least seqs")
    greatest = reader.integers(count, 1, entry.greatest_seq, "greatest seqs")
    packs_digest = reader.plain(DIGEST_BYTES)
    digests = [reader.plain(DIGEST_BYTES) for _ in range(count)]
    reader.finish()
    blocks_bytes = sum(lengths)
    if count == 0 or fences[0] != "" or any(map(str.__ge__, fences, fences[1:])):
        raise reader.damaged("its fences are not in strict order")
    if blocks_bytes + packs_length_bytes != entry.directory_offset_bytes:
        raise reader.damaged("its parts do not fill the object")
    if any(one > other for one, other in zip(least, greatest, strict=True)):
        raise reader.damaged("a block's least seq is above its greatest")
    if (sum(row_counts), min(least), max(greatest)) != (entry.row_count, entry.least_seq, entry.greatest_seq):
        raise reader.damaged("its rows and seqs are not those that the run says")
    offsets = accumulate(lengths, initial=0)
    blocks = map(BlockRef, fences, [*fences[1:], None], offsets, lengths, digests, row_counts, least, greatest)
    return Directory(tuple(blocks), blocks_bytes, packs_length_bytes, packs_digest, pack_count)


def decode_pack_list(data: bytes | memoryview, *, directory: Directory, name: str) -> tuple[PackUse, ...]:
    """Returns the packs that the rows of an index object name, checked as foreign input.

    Args:
        data: The bytes that the directory names.
        directory: Of the object.
        name: How messages call the object.

    Raises:
        RemoteIntegrityError: It is truncated, altered, or not what the directory says.
        UnsupportedFormatError: A newer version wrote it.
    """
    if len(data) != directory.packs_length_bytes or digest_of(data) != directory.packs_digest:
        raise damaged(name, _PACK_LIST.what, "it does not match its digest")
    reader = FrameReader(data, _PACK_LIST, name)
    count = reader.row_count
    if count != directory.pack_count:
        raise reader.damaged(f"it has {count} packs, and the directory says {directory.pack_count}")
    packs = read_packs(reader, count)
    row_counts = reader.integers(count, 1, MAX_COUNT, "rows of packs")
    value_bytes = reader.integers(count, 0, MAX_COUNT, "bytes of packs")
    reader.finish()
    return tuple(map(PackUse, packs, row_counts, value_bytes))


def read_whole(data: bytes, *, entry: IndexEntry, name: str) -> Directory:
    """Returns the directory of an index object that was read whole; its blocks are slices of `data`.

    Raises:
        RemoteIntegrityError: The object's size or its directory is not what the entry says.
        UnsupportedFormatError: A newer version wrote it.
    """
    if len(data) != entry.size_bytes:
        raise damaged(
            name, _DIRECTORY.what, f"the object has {len(data)} bytes, and its run says {entry.size_bytes}"
        )
    return decode_directory(memoryview(data)[entry.directory_offset_bytes :], entry=entry, name=name)


def _rows_of_block(columns: Columns, most_bytes: int) -> int:
    """Returns how many of the rows fit into one block, at least one."""
    weights = list(map(len, columns[0]))
    if any(columns[7]):
        weights = [weight + len(value or b"") for weight, value in zip(weights, columns[7], strict=True)]
    if sum(weights) <= most_bytes:
        return len(weights)
    return max(1, next(count for count, total in enumerate(accumulate(weights)) if total > most_bytes))
