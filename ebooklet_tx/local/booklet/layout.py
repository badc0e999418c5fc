"""The byte layout of a Booklet file (format 4 and 5), read without trusting it.

The invariant: nothing here follows a pointer or a length out of the file, loops
without end, or allocates more than the file holds; whatever does not fit is reported as damage.

Layout facts were read off booklet 0.12.10: a 200-byte header; data blocks of
`key hash 13 | next 6 | key_len 2 | value_len 4 | timestamp 7 | key | value`, little-endian, where
next is 0 in a dead block, 1 at a chain's end, else the file offset of the chain's next block; an
index of 6-byte chain heads, either behind the header or somewhere among the blocks.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2s

from ebooklet_tx.limits import RESERVED_KEYS
from ebooklet_tx.local.files.file_calls import read_at

HEADER_BYTES = 200
MAGIC = b"O~\x8a?\xe7\\GP\xadC\nr\x8f\xe3\x1c\xfe"
VERSION = 5
"""The format of the files that are made here, which is that of Booklet 0.12."""
FIXED_LENGTH_MAGIC = b"\x04\xd3\xb2\x94\xf2\x10Ab\x95\x8d\x04\x00s\x8c\x9e\n"
GUARD_BYTES = 16
GUARD_PREFIX = b"ebtxflux"
"""First half of the mark that stands in place of the magic while the file is in flux."""

POINTER_BYTES = 6
KEY_LENGTH_BYTES = 2
VALUE_LENGTH_BYTES = 4
TIMESTAMP_BYTES = 7
UNSET_POSITIONS = (0, int.from_bytes(b"0" * POINTER_BYTES, "little"))
"""What stands for the place of index or first block where it is the usual one; older booklets put digits."""

BLOCK_HEAD_BYTES = 32
HASH_BYTES = 13
N_BUCKETS_OFFSET = 21
N_KEYS_OFFSET = 33
UUID_OFFSET = 49
INDEX_PLACE_OFFSET = 65
"""Where the header says where the index lies, and behind that, where the first block does."""

CHAIN_END = b"\x01\0\0\0\0\0"
CRASHED_N_KEYS = 2**32 - 1
GENERATION_OFFSET = 192
GENERATION_BYTES = 8
APPEND_NUMBER_OFFSET = 184
APPEND_NUMBER_BYTES = 8
"""Where the header has the number of the last append of ours, in spare bytes as the generation."""

FIXED_HEADER_FIELDS = ((18, 21), (25, 33), (37, 42), (49, 65), (77, 184), (192, 200))
"""What no session changes in the header of an existing file: sizes of fields, serializers, uuid, generation."""

DEFAULT_N_BUCKETS = 12007
GROWTH_OF_BUCKETS = (12007, 144013, 1728017, 20736017)
"""The sizes through which a hash index grows."""

_LENGTHS = struct.Struct("<HI")


@dataclass(frozen=True, slots=True)
class Header:
    """The fields of a Booklet header that matter here."""

    magic: bytes
    version: int
    n_buckets: int
    value_serializer_code: int
    key_serializer_code: int
    n_keys: int
    has_timestamps: bool
    uuid: bytes
    index_offset_bytes: int
    first_block_offset_bytes: int
    generation: bytes
    append_number: bytes
    raw: bytes = field(repr=False)


def parse_header(raw: bytes) -> Header | None:
    """Reads a Booklet header, or returns None when the bytes are too short to be one."""
    if len(raw) < HEADER_BYTES:
        return None
    n_buckets = int.from_bytes(raw[21:25], "little")
    index_offset = int.from_bytes(raw[65:71], "little")
    if index_offset in UNSET_POSITIONS:
        index_offset = HEADER_BYTES
    first_block = int.from_bytes(raw[71:77], "little")
    if first_block in UNSET_POSITIONS:
        first_block = HEADER_BYTES + n_buckets * POINTER_BYTES
    return Header(
        magic=raw[:16],
        version=int.from_bytes(raw[16:18], "little"),
        n_buckets=n_buckets,
        value_serializer_code=int.from_bytes(raw[29:31], "little"),
        key_serializer_code=int.from_bytes(raw[31:33], "little"),
        n_keys=int.from_bytes(raw[33:37], "little"),
        has_timestamps=raw[41] == 1,
        uuid=raw[49:65],
        index_offset_bytes=index_offset,
        first_block_offset_bytes=first_block,
        generation=raw[GENERATION_OFFSET : GENERATION_OFFSET + GENERATION_BYTES],
        append_number=raw[APPEND_NUMBER_OFFSET : APPEND_NUMBER_OFFSET + APPEND_NUMBER_BYTES],
        raw=raw[:HEADER_BYTES],
    )


def emptied_header(raw: bytes, generation: bytes) -> bytes:
    """Returns the header of an empty file that has another's uuid, serializers and number of buckets."""
    empty = bytearray(raw)
    index_end = HEADER_BYTES + int.from_bytes(raw[N_BUCKETS_OFFSET:][:4], "little") * POINTER_BYTES
    empty[N_KEYS_OFFSET : N_KEYS_OFFSET + 4] = bytes(4)
    places = b"".join(place.to_bytes(POINTER_BYTES, "little") for place in (HEADER_BYTES, index_end))
    empty[INDEX_PLACE_OFFSET : INDEX_PLACE_OFFSET + len(places)] = places
    empty[GENERATION_OFFSET : GENERATION_OFFSET + GENERATION_BYTES] = generation
    return bytes(empty)


@dataclass(frozen=True, slots=True)
class Block:
    """One data block: where it is, where its chain goes on, and what it holds."""

    position_bytes: int
    next_pointer: int
    key: bytes
    timestamp_us: int
    value_offset_bytes: int
    value_length_bytes: int

    @property
    def live(self) -> bool:
        return self.next_pointer != 0


class BlockDamageError(Exception):
    """A block runs out of its region or does not carry its own key's hash.

    Attributes:
        before: The block before it where a torn end is the likely cause: it looks sound, but nothing
            confirms its length.
    """

    def __init__(self, message: str, before: Block | None = None) -> None:
        super().__init__(message)
        self.before = before


def iter_blocks(fd: int, start: int, end: int) -> Iterator[Block]:
    """Yields the blocks between two offsets, reading heads and keys but no values.

    A block is yielded once its length is known to be right: it leads to the region's end, or to
    another block that carries its own key's hash.

    Raises:
        BlockDamageError: A block does not fit; what was yielded before it is sound.
    """
    position = start
    window = b""
    window_start = start
    before: Block | None = None
    while position < end:
        head_at = position - window_start
        if head_at + BLOCK_HEAD_BYTES > len(window):
            window = read_at(fd, min(65_536, end - position), position)
            window_start = position
            head_at = 0
        head = window[head_at : head_at + BLOCK_HEAD_BYTES]
        if len(head) < BLOCK_HEAD_BYTES:
            raise BlockDamageError(f"block at byte {position} is cut off", before)
        key_length, value_length = _LENGTHS.unpack_from(head, 19)
        value_offset = position + BLOCK_HEAD_BYTES + key_length
        if value_offset > end:
            raise BlockDamageError(f"block at byte {position} is cut off", before)
        key_at = head_at + BLOCK_HEAD_BYTES
        key = window[key_at : key_at + key_length]
        if len(key) < key_length:
            key = read_at(fd, key_length, position + BLOCK_HEAD_BYTES)
        next_pointer = int.from_bytes(head[13:19], "little")
        if not _carries_its_hash(head, key, next_pointer):
            raise BlockDamageError(f"block at byte {position} does not carry its key's hash")
        if before is not None:
            yield before
        if value_offset + value_length > end:
            raise BlockDamageError(f"block at byte {position} runs past byte {end}")
        before = Block(
            position_bytes=position,
            next_pointer=next_pointer,
            key=key,
            timestamp_us=int.from_bytes(head[25:32], "little"),
            value_offset_bytes=value_offset,
            value_length_bytes=value_length,
        )
        position = value_offset + value_length
    if before is not None:
        yield before


def _carries_its_hash(head: bytes, key: bytes, next_pointer: int) -> bool:
    if blake2s(key, digest_size=HASH_BYTES).digest() == head[:HASH_BYTES]:
        return True
    # The filler that booklet puts over an old index is a dead block with a zero hash and one zero as key.
    return next_pointer == 0 and key == b"\0" and not any(head[:HASH_BYTES])


def block_regions(header: Header, file_bytes: int) -> list[tuple[int, int]]:
    """Returns the (start, end) offsets between which a file's blocks lie."""
    index_end = header.index_offset_bytes + header.n_buckets * POINTER_BYTES
    if header.index_offset_bytes == HEADER_BYTES:
        return [(header.first_block_offset_bytes, file_bytes)]
    regions = [(header.first_block_offset_bytes, header.index_offset_bytes), (index_end, file_bytes)]
    return [(start, end) for start, end in regions if start < end]


def count_dead_blocks(fd: int, header: Header, file_bytes: int) -> int:
    """Counts the blocks of values that were replaced or deleted, up to the first damage."""
    count = 0
    with contextlib.suppress(BlockDamageError):
        for start, end in block_regions(header, file_bytes):
            for block in iter_blocks(fd, start, end):
                is_filler = block.key == b"\0" and block.timestamp_us == 0
                count += not block.live and not is_filler
    return count


@dataclass(slots=True)
class Scan:
    """All that a walk over a whole file found.

    `live` maps each key (bytes, booklet's reserved ones included) to its last live block, `dead` each
    position to the dead block there.
    `reached` holds the positions of the blocks to which Booklet's own index leads, `unconfirmed` those
    of blocks whose length nothing confirms.
    `damage` holds a sentence for each thing that was wrong; an empty list means that the index
    leads to exactly these blocks.
    """

    live: dict[bytes, Block] = field(default_factory=dict)
    dead: dict[int, Block] = field(default_factory=dict)
    reached: set[int] = field(default_factory=set)
    unconfirmed: set[int] = field(default_factory=set)
    damage: list[str] = field(default_factory=list)


def scan_file(fd: int, header: Header) -> Scan:
    """Walks every block of a Booklet file and checks its hash chains against them."""
    scan = Scan()
    by_position: dict[int, Block] = {}
    file_bytes = os.fstat(fd).st_size
    index_end = header.index_offset_bytes + header.n_buckets * POINTER_BYTES
    index_fits = header.n_buckets > 0 and index_end <= file_bytes
    if not index_fits or header.first_block_offset_bytes > file_bytes:
        scan.damage.append("the header points outside the file")
    for start, end in block_regions(header, file_bytes):
        try:
            for block in iter_blocks(fd, start, end):
                _note_block(scan, by_position, block)
        except BlockDamageError as error:
            scan.damage.append(str(error))
            if error.before is not None:
                scan.unconfirmed.add(error.before.position_bytes)
                _note_block(scan, by_position, error.before)
    if index_fits:
        scan.damage.extend(_chain_damage(fd, header, by_position, scan.reached))
    counted = sum(key not in RESERVED_KEYS for key in scan.live)
    if header.n_keys != counted and not scan.damage:
        scan.damage.append(f"the header counts {header.n_keys} keys, the file holds {counted}")
    return scan


def _note_block(scan: Scan, by_position: dict[int, Block], block: Block) -> None:
    if not block.live:
        scan.dead[block.position_bytes] = block
        return
    by_position[block.position_bytes] = block
    if block.key in scan.live:
        scan.damage.append(f"two live blocks for the key {block.key!r}")
    scan.live[block.key] = block


def _chain_damage(fd: int, header: Header, blocks: dict[int, Block], reached: set[int]) -> Iterator[str]:
    """Follows each chain in memory; yields what keeps booklet from finding a live block.

    No block is visited twice, so that chains that meet or run in a circle cost nothing.
    """
    index = read_at(fd, header.n_buckets * POINTER_BYTES, header.index_offset_bytes)
    if not blocks and index == CHAIN_END * header.n_buckets:
        return
    for bucket in range(header.n_buckets):
        pointer = int.from_bytes(index[bucket * POINTER_BYTES : (bucket + 1) * POINTER_BYTES], "little")
        while pointer > 1:
            block = blocks.get(pointer)
            if block is None or pointer in reached or _bucket_of(block.key, header.n_buckets) != bucket:
                yield f"the chain of bucket {bucket} leads astray"
                break
            reached.add(pointer)
            pointer = block.next_pointer
    if len(reached) != len(blocks):
        yield f"the index leads to {len(reached)} of {len(blocks)} live blocks"


def _bucket_of(key: bytes, n_buckets: int) -> int:
    return int.from_bytes(blake2s(key, digest_size=HASH_BYTES).digest(), "little") % n_buckets
