"""Booklets with values of one length, in which ebooklet keeps the index of a remote.

The invariant: nothing of the file is trusted. Each block carries its own key's hash and lies whole in the file,
or reading ends with what is wrong. No more than one block is held.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2s
from typing import BinaryIO

from ebooklet_tx.local.booklet.layout import (
    CRASHED_N_KEYS,
    FIXED_LENGTH_MAGIC,
    HASH_BYTES,
    HEADER_BYTES,
    POINTER_BYTES,
    Header,
    block_regions,
    parse_header,
)

_VALUE_LENGTH_OFFSET = 37
_HEAD_BYTES = HASH_BYTES + POINTER_BYTES + 2


@dataclass(frozen=True, slots=True)
class FixedLengthBooklet:
    """What the header of such a file says.

    Attributes:
        header: The header.
        value_bytes: The length of each value.
    """

    header: Header
    value_bytes: int


def read_fixed_header(file: BinaryIO, least_bytes: int) -> FixedLengthBooklet:
    """Reads the header of a Booklet with values of one length.

    Args:
        file: The file.
        least_bytes: What its values have at least.

    Raises:
        ValueError: It is none.
    """
    file.seek(0)
    header = parse_header(file.read(HEADER_BYTES))
    if header is None or header.magic != FIXED_LENGTH_MAGIC:
        raise ValueError("it is no Booklet with values of one length")
    value_bytes = int.from_bytes(header.raw[_VALUE_LENGTH_OFFSET : _VALUE_LENGTH_OFFSET + 4], "little")
    if not least_bytes <= value_bytes <= 255:
        raise ValueError(f"its values have {value_bytes} bytes")
    return FixedLengthBooklet(header, value_bytes)


def live_blocks(file: BinaryIO, file_bytes: int, booklet: FixedLengthBooklet) -> Iterator[tuple[bytes, bytes]]:
    """Yields key and value of each live block, in the order in which they were written.

    Args:
        file: The file.
        file_bytes: How long it is.
        booklet: What its header says.

    Raises:
        ValueError: It is damaged; what was yielded before may not be all.
    """
    header, value_bytes = booklet.header, booklet.value_bytes
    live = 0
    for start, end in block_regions(header, file_bytes):
        position = file.seek(start)
        while position < end:
            head = file.read(_HEAD_BYTES)
            key = file.read(int.from_bytes(head[-2:], "little") if len(head) == _HEAD_BYTES else 0)
            value = file.read(value_bytes)
            position += len(head) + len(key) + len(value)
            if len(value) < value_bytes or position > end:
                raise ValueError(f"it is cut off at byte {position}")
            is_live = any(head[HASH_BYTES:-2])
            if is_live and blake2s(key, digest_size=HASH_BYTES).digest() != head[:HASH_BYTES]:
                raise ValueError(f"the block before byte {position} does not carry its key's hash")
            live += is_live
            if is_live:
                yield key, value
    if header.n_keys not in (live, CRASHED_N_KEYS):
        raise ValueError(f"its header counts {header.n_keys} keys, and it holds {live}")
