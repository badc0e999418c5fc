"""Writing data blocks behind the end of a Booklet file, and linking them into its hash index.

The invariant: into the part of the file that was there before, nothing is written but the index, fields of the
header, and the next pointer of a block that was seen to carry its own key's hash; so no value byte is ever
overwritten, wherever a damaged pointer leads.

Booklet itself reads and writes some six times for each key that it sets, and four times more for each that it
moves when its index grows; here a page of the index is read and written once an append, and the blocks are
written in a row. The layout is `layout`'s. A new block becomes the first of its chain.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from hashlib import blake2s
from struct import Struct

from ebooklet_tx.limits import METADATA_KEY_BYTES, RESERVED_KEYS
from ebooklet_tx.local.booklet.hash_index import (
    HASH_AND_NEXT,
    HEAD_AND_KEY_BYTES,
    KEY_LENGTH_BITS,
    NEXT_MASK,
    PAGE_POINTERS,
    ChainDamageError,
    HashIndex,
    hashes_of,
    next_pointer,
    remove_blocks,
)
from ebooklet_tx.local.booklet.layout import (
    BLOCK_HEAD_BYTES,
    CHAIN_END,
    CRASHED_N_KEYS,
    GROWTH_OF_BUCKETS,
    HASH_BYTES,
    HEADER_BYTES,
    INDEX_PLACE_OFFSET,
    N_BUCKETS_OFFSET,
    N_KEYS_OFFSET,
    POINTER_BYTES,
    TIMESTAMP_BYTES,
    Header,
)
from ebooklet_tx.local.files.file_calls import read_at, write_all
from ebooklet_tx.local.files.file_region import FileRegion
from ebooklet_tx.records import METADATA_KEY

ROW_BYTES = 2**20
"""Blocks are written together up to this size; a value above it goes alone, and is not copied for that."""

_HEAD = Struct("<13sQI7s")
"""A block's head: the hash of its key, next pointer and key length as one number, value length, timestamp."""

_EMPTY_INDEX = CHAIN_END * 2**16


Value = bytes | FileRegion


class ShortAppendError(Exception):
    """The file does not end where the last block does, or a value came short, although no call failed."""


def append_blocks(
    fd: int,
    header: Header,
    sets: Iterable[tuple[str, int, Value]],
    *,
    expected_keys: int,
    removed: Collection[str] = (),
) -> list[int]:
    """Takes blocks out of a file's index, writes new ones behind its end and links them in.

    The index grows first if it has to.

    Args:
        fd: The file, locked, with its guard up.
        header: Its header as it stands.
        sets: (key, timestamp in microseconds, encoded value); a key that has a live block is to be among
            those that are removed.
        expected_keys: How many they are, for the size of the index; a wrong number does no harm.
        removed: Keys whose block is to be dead; one that has none is passed over.

    Returns:
        The offsets of the values, in the order of `sets`.

    Raises:
        ChainDamageError: The index is damaged; the guard has to stay up.
        ShortAppendError, OSError: The disk is full or failing; likewise.
    """
    if header.n_keys == CRASHED_N_KEYS:
        raise ChainDamageError("the header says that a session of booklet died")
    index = HashIndex(fd, header.index_offset_bytes, header.n_buckets)
    hashes, keys = hashes_of(removed)
    if removed:
        n_keys = header.n_keys - remove_blocks(fd, index, os.fstat(fd).st_size, keys)
        if n_keys < 0:
            raise ChainDamageError(f"the header counts {header.n_keys} keys, and more were found")
        header = replace(header, n_keys=n_keys)
    wanted = _wanted_buckets(header, expected_keys)
    if wanted != header.n_buckets:
        index.write()
        index = _grow(fd, header, wanted)
    row = _Row(fd, os.fstat(fd).st_size)
    offsets, user_keys = _append_all(row, index, sets, hashes)
    row.write()
    index.write()
    write_all(fd, (header.n_keys + user_keys).to_bytes(4, "little"), N_KEYS_OFFSET)
    size = os.fstat(fd).st_size
    if size != row.end_bytes:
        raise ShortAppendError(f"it ends at byte {size} instead of {row.end_bytes}")
    return offsets


def _append_all(
    row: _Row, index: HashIndex, sets: Iterable[tuple[str, int, Value]], hashes: Mapping[str, bytes]
) -> tuple[list[int], int]:
    """Writes blocks; returns the offsets of their values, and how many of them Booklet counts as keys.

    Args:
        row: Where to write.
        index: What to link them into.
        sets: As `append_blocks` takes them.
        hashes: The hashes of some keys, which need not be computed again.
    """
    offsets: list[int] = []
    user_keys = 0
    # In one loop and by local names: this runs once for each key of a bulk load.
    page_of, n_buckets, page_pointers = index.changed_pages.get, index.n_buckets, PAGE_POINTERS
    pack, from_bytes, waiting, end = _HEAD.pack, int.from_bytes, row.waiting, row.end_bytes
    last_us, stamp, row_end = -1, b"", end + ROW_BYTES
    for key, timestamp_us, value in sets:
        if key != METADATA_KEY:
            key_bytes = key.encode()
            user_keys += 1
        else:
            key_bytes = METADATA_KEY_BYTES
        key_hash = hashes.get(key) or blake2s(key_bytes, digest_size=HASH_BYTES).digest()
        number, slot = divmod(from_bytes(key_hash, "little") % n_buckets, page_pointers)
        page = page_of(number)
        if page is None:
            page = index.page_to_change(number)
        first = page[slot]
        page[slot] = end
        if first >= end:
            raise ChainDamageError(f"a chain begins at byte {first}, behind the file's end")
        if timestamp_us != last_us:
            last_us, stamp = timestamp_us, timestamp_us.to_bytes(TIMESTAMP_BYTES, "little")
        key_length, length = len(key_bytes), len(value)
        # A chain ends with a pointer of 1.
        waiting += (pack(key_hash, (first or 1) | key_length << KEY_LENGTH_BITS, length, stamp), key_bytes)
        offset = end + BLOCK_HEAD_BYTES + key_length
        offsets.append(offset)
        end = offset + length
        if length < ROW_BYTES and isinstance(value, bytes):
            waiting.append(value)
        else:
            row.write_alone(value)
        if end >= row_end:
            row.write()
            row_end = end + ROW_BYTES
    return offsets, user_keys


class _Row:
    """Bytes that are written one behind the other, many pieces at a time.

    Attributes:
        waiting: Pieces that `write` writes.
        end_bytes: Where what has been written ends.
    """

    def __init__(self, fd: int, start_bytes: int) -> None:
        self.end_bytes = start_bytes
        self.waiting: list[bytes] = []
        self._fd = fd

    def write_alone(self, value: Value) -> None:
        """Writes what waits, and behind it a value that is too long to be copied for that."""
        self.write()
        start = self.end_bytes
        for piece in (value,) if isinstance(value, bytes) else value.chunks():
            self._write(piece)
        if self.end_bytes - start != len(value):
            raise ShortAppendError(f"a value of {len(value)} bytes is cut off where it was to be copied from")

    def write(self) -> None:
        """Writes what waits."""
        self._write(b"".join(self.waiting))
        self.waiting.clear()

    def _write(self, data: bytes) -> None:
        write_all(self._fd, data, self.end_bytes)
        self.end_bytes += len(data)


def _wanted_buckets(header: Header, more_keys: int) -> int:
    """Returns how many buckets a file should have: as Booklet has it, one for each key or more."""
    keys = header.n_keys + more_keys
    if keys <= header.n_buckets:
        return header.n_buckets
    larger = [size for size in GROWTH_OF_BUCKETS if size > header.n_buckets]
    return next((size for size in larger if size >= keys), larger[-1] if larger else header.n_buckets)


def index_bytes_wanted(header: Header, more_keys: int) -> int:
    """Returns how many bytes of index an append of so many keys adds to a file; mostly none."""
    wanted = _wanted_buckets(header, more_keys)
    return 0 if wanted == header.n_buckets else wanted * POINTER_BYTES


def _grow(fd: int, header: Header, n_buckets: int) -> HashIndex:
    """Writes a larger index behind the file's end and links every live block into it, as Booklet does."""
    offset = os.fstat(fd).st_size
    write_empty_index(fd, offset, n_buckets)
    index = HashIndex(fd, offset, n_buckets)
    user_keys = 0
    for block_position, key_hash, key in _linked_blocks(fd, header, offset):
        user_keys += key not in RESERVED_KEYS
        first = index.set_head(int.from_bytes(key_hash, "little") % n_buckets, block_position)
        write_all(fd, next_pointer(first), block_position + HASH_BYTES)
    if user_keys != header.n_keys:
        raise ChainDamageError(f"the index leads to {user_keys} keys, the header counts {header.n_keys}")
    if header.index_offset_bytes != HEADER_BYTES:
        write_all(fd, _filler(header.n_buckets * POINTER_BYTES), header.index_offset_bytes)
    write_all(fd, n_buckets.to_bytes(4, "little"), N_BUCKETS_OFFSET)
    places = (offset, header.first_block_offset_bytes)
    write_all(fd, b"".join(place.to_bytes(POINTER_BYTES, "little") for place in places), INDEX_PLACE_OFFSET)
    return index


def write_empty_index(fd: int, offset_bytes: int, n_buckets: int) -> None:
    """Writes an index of which every chain is empty."""
    end = offset_bytes + n_buckets * POINTER_BYTES
    for position in range(offset_bytes, end, len(_EMPTY_INDEX)):
        write_all(fd, _EMPTY_INDEX[: end - position], position)


def _linked_blocks(fd: int, header: Header, end_bytes: int) -> Iterator[tuple[int, bytes, bytes]]:
    """Yields (position, key hash, key) of every block to which the index leads, each held to its hash."""
    pointers = read_at(fd, header.n_buckets * POINTER_BYTES, header.index_offset_bytes)
    found = 0
    for at in range(0, len(pointers), POINTER_BYTES):
        position = int.from_bytes(pointers[at : at + POINTER_BYTES], "little")
        while position > 1:
            found += 1
            head = read_at(fd, HEAD_AND_KEY_BYTES, position) if position < end_bytes else b""
            if len(head) < BLOCK_HEAD_BYTES or found > header.n_keys + len(RESERVED_KEYS):
                raise ChainDamageError(f"a chain leads to byte {position}, or in a circle")
            key_hash, following = HASH_AND_NEXT.unpack_from(head)
            key_length = following >> KEY_LENGTH_BITS
            key = head[BLOCK_HEAD_BYTES : BLOCK_HEAD_BYTES + key_length]
            if len(key) < key_length:
                key = read_at(fd, key_length, position + BLOCK_HEAD_BYTES)
            if blake2s(key, digest_size=HASH_BYTES).digest() != key_hash:
                raise ChainDamageError(f"a chain leads to byte {position}, where no block is")
            # Before the caller puts another pointer there.
            next_position = following & NEXT_MASK
            if next_position == 0:
                raise ChainDamageError(f"a chain leads to the dead block at byte {position}")
            yield position, key_hash, key
            position = next_position


def _filler(size_bytes: int) -> bytes:
    """Returns the beginning of a dead block that covers an index that is no longer used, as Booklet's does."""
    value_bytes = size_bytes - BLOCK_HEAD_BYTES - 1
    return _HEAD.pack(bytes(HASH_BYTES), 1 << KEY_LENGTH_BITS, value_bytes, bytes(TIMESTAMP_BYTES)) + b"\0"
