"""The codec of packs: many values one after another, each with its key and timestamp.

Owns no state but a builder's records. The invariant: the value offset that `PackBuilder.add` returns is
where those bytes lie in what `finish` returns, and a pack explains itself without the index.

A pack carries no digest: each value is held to the digest that the index has for it, which is what a
reader of a part of a pack needs anyway. docs/reference/FORMAT.md gives the layout.
"""

from __future__ import annotations

import struct
from itertools import accumulate, chain, repeat
from operator import add
from typing import TYPE_CHECKING, NamedTuple

from ebooklet_tx.errors import (
    InvalidArgumentError,
    InvalidKeyError,
    InvalidValueError,
    RemoteIntegrityError,
    UnsupportedFormatError,
)
from ebooklet_tx.limits import MAX_KEY_BYTES, MAX_TIMESTAMP_US, MAX_VALUE_BYTES, RESERVED_TEXTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

PACK_MAGIC = b"EBTXpak\n"
PACK_FORMAT_VERSION = 1
PACK_BYTES = 16 * 2**20
"""The size at which a pack is full; a larger value has a pack of its own."""

_HEADER = struct.Struct("<8sHHI")
_RECORD_HEAD = struct.Struct("<IQQ")

PACK_HEADER_BYTES = _HEADER.size
RECORD_HEAD_BYTES = _RECORD_HEAD.size

_HEADER_V1 = _HEADER.pack(PACK_MAGIC, PACK_FORMAT_VERSION, 0, 0)

INCOMPLETE_MARK = bytes(RECORD_HEAD_BYTES)
"""Stands behind the end of a pack that was written back without some of its values: a record of nothing, which
makes the pack longer than the index says."""


class PackBuilder:
    """Gathers records in memory into one pack."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = [_HEADER_V1]
        self._size_bytes = PACK_HEADER_BYTES

    @property
    def size_bytes(self) -> int:
        """The size of the pack if it were finished now."""
        return self._size_bytes

    def add(self, key: str, timestamp_us: int, value: bytes) -> int:
        """Adds a record and returns the offset of its value in the pack.

        Raises:
            InvalidKeyError: The key is not valid text of at most 65,535 UTF-8 bytes, or Booklet's own.
            InvalidValueError: The value is over 4 GiB - 1.
            InvalidArgumentError: The timestamp is out of range.
        """
        return self.add_within(key, timestamp_us, value, MAX_VALUE_BYTES * 2)

    def add_within(self, key: str, timestamp_us: int, value: bytes, most_bytes: int) -> int:
        """Likewise, if the pack stays within `most_bytes`, or holds nothing yet; otherwise returns 0."""
        head = _record_head(key, timestamp_us, len(value))
        offset_bytes = self._size_bytes + len(head)
        size_bytes = offset_bytes + len(value)
        if size_bytes > most_bytes and len(self._pieces) > 1:
            return 0
        self._pieces += (head, value)
        self._size_bytes = size_bytes
        return offset_bytes

    def add_all(
        self, keys: Sequence[str], stamps: Sequence[int], values: Sequence[bytes], most_bytes: int
    ) -> list[int] | None:
        """Adds records of which each is sound and all fit, and returns the values' offsets; otherwise None.

        What this refuses is to be added one by one, which tells what is wrong. It takes a tenth of the time.
        """
        if not keys or not RESERVED_TEXTS.isdisjoint(keys) or not _are_in_range(stamps):
            return None
        encoded = _encode_keys(keys)
        key_lens, value_lens = list(map(len, encoded)), list(map(len, values))
        if max(key_lens) > MAX_KEY_BYTES or max(value_lens) > MAX_VALUE_BYTES:
            return None
        ends = list(accumulate(map(add, map(add, key_lens, value_lens), repeat(RECORD_HEAD_BYTES))))
        first = self._size_bytes
        if first + ends[-1] > most_bytes:
            return None
        heads = map(_RECORD_HEAD.pack, key_lens, stamps, value_lens)
        self._pieces += chain.from_iterable(zip(heads, encoded, values, strict=True))
        self._size_bytes = first + ends[-1]
        return [first + end - value_len for end, value_len in zip(ends, value_lens, strict=True)]

    def finish(self) -> bytes:
        """Returns the pack with all records added so far."""
        return b"".join(self._pieces)


def record_bytes(key: str, value_len: int) -> int:
    """Returns how many bytes a record of this key and a value of this length takes in a pack."""
    return RECORD_HEAD_BYTES + (len(key) if key.isascii() else len(_encode_key(key))) + value_len


def pack_prefix(key: str, timestamp_us: int, value_len: int) -> bytes:
    """Returns all that precedes the value in a pack that holds this one value.

    The value's offset is the prefix's length; prefix and value together are the whole pack.
    """
    return _HEADER_V1 + _record_head(key, timestamp_us, value_len)


class RecordPlace(NamedTuple):
    """A value of a pack as the index has it.

    Attributes:
        offset_bytes: Where the value begins.
        length_bytes: Its length.
        heads: Key and timestamp of each row that lies there; the record has one of the keys.
    """

    offset_bytes: int
    length_bytes: int
    heads: tuple[tuple[str, int], ...]


def pack_without_values(size_bytes: int, places: Iterable[RecordPlace]) -> bytearray:
    """Returns a pack whose records are what the index says of them, with zeros in place of all values.

    What lay between them, records that the index names no more, becomes records without a key.

    Args:
        size_bytes: The pack's size.
        places: The values, in order of offset.
    """
    data = bytearray(size_bytes)
    data[:PACK_HEADER_BYTES] = _HEADER_V1
    position = PACK_HEADER_BYTES
    for place in places:
        _put_head(data, position, place)
        position = max(position, place.offset_bytes + place.length_bytes)
    _put_dead(data, position, size_bytes)
    return data


def _put_head(data: bytearray, position: int, place: RecordPlace) -> None:
    """Puts the head of a record right before its value, and a dead record before that where there is room."""
    heads = [_record_head(key, stamp, place.length_bytes) for key, stamp in place.heads]
    rooms = [place.offset_bytes - len(head) - position for head in heads]
    for room, head in sorted(zip(rooms, heads, strict=True)):
        if room == 0 or room >= RECORD_HEAD_BYTES:
            _put_dead(data, position, position + room)
            data[position + room : place.offset_bytes] = head
            return


def _put_dead(data: bytearray, start: int, end: int) -> None:
    """Makes a range of zeros, which has room for it, a record of no key."""
    if end - start >= RECORD_HEAD_BYTES:
        _RECORD_HEAD.pack_into(data, start, 0, 0, end - start - RECORD_HEAD_BYTES)


def iter_pack(data: bytes, *, name: str) -> Iterator[tuple[str, int, int, bytes]]:
    """Yields key, timestamp, value offset and value of each record of a foreign pack.

    The values are not checked against digests: the pack has none.

    Raises:
        RemoteIntegrityError: It is not a pack, is cut off, or a record is not well formed; the records
            before that have been yielded.
        UnsupportedFormatError: A newer version wrote it.
    """
    _check_header(data, name)
    position = PACK_HEADER_BYTES
    while position < len(data):
        if len(data) - position < RECORD_HEAD_BYTES:
            raise _damaged(name, position, "is cut off")
        key_len, timestamp_us, value_len = _RECORD_HEAD.unpack_from(data, position)
        key_start = position + RECORD_HEAD_BYTES
        if key_len > MAX_KEY_BYTES or value_len > MAX_VALUE_BYTES or timestamp_us > MAX_TIMESTAMP_US:
            raise _damaged(name, position, "has lengths or a timestamp that no record can have")
        if key_len + value_len > len(data) - key_start:
            raise _damaged(name, position, "is longer than what is left of the pack")
        value_start = key_start + key_len
        try:
            key = data[key_start:value_start].decode()
        except UnicodeDecodeError as error:
            raise _damaged(name, position, "has a key that is not UTF-8") from error
        if key in RESERVED_TEXTS:
            raise _damaged(name, position, "has a key that Booklet keeps for itself")
        yield key, timestamp_us, value_start, data[value_start : value_start + value_len]
        position = value_start + value_len


def _encode_key(key: str) -> bytes:
    try:
        encoded = key.encode()
    except UnicodeEncodeError as error:
        raise InvalidKeyError(
            f"the key {key[:100]!r} has surrogates, which UTF-8 can't hold; use another key"
        ) from error
    if len(encoded) > MAX_KEY_BYTES:
        raise InvalidKeyError(
            f"the key {key[:100]!r}... is {len(encoded)} bytes long in UTF-8; use one of at most {MAX_KEY_BYTES}"
        )
    return encoded


def _encode_keys(keys: Sequence[str]) -> list[bytes]:
    return list(map(str.encode if "".join(keys).isascii() else _encode_key, keys))


def _are_in_range(stamps: Sequence[int]) -> bool:
    return min(stamps) >= 0 and max(stamps) <= MAX_TIMESTAMP_US


def _record_head(key: str, timestamp_us: int, value_len: int) -> bytes:
    encoded = key.encode() if key.isascii() and len(key) <= MAX_KEY_BYTES else _encode_key(key)
    sound = 0 <= value_len <= MAX_VALUE_BYTES and 0 <= timestamp_us <= MAX_TIMESTAMP_US
    if sound and key not in RESERVED_TEXTS:
        return _RECORD_HEAD.pack(len(encoded), timestamp_us, value_len) + encoded
    if key in RESERVED_TEXTS:
        raise InvalidKeyError(f"the key {key!r} is one that Booklet keeps for itself; use another key")
    if not 0 <= value_len <= MAX_VALUE_BYTES:
        raise InvalidValueError(
            f"the value of key {key[:100]!r} is {value_len} bytes long when encoded; split it into values "
            f"of at most {MAX_VALUE_BYTES}"
        )
    raise InvalidArgumentError(
        f"the timestamp {timestamp_us} of key {key[:100]!r} is not from 0 to {MAX_TIMESTAMP_US} microseconds "
        "since 1970; set the key anew, or delete it"
    )


def _check_header(data: bytes, name: str) -> None:
    if data[:8] != PACK_MAGIC or len(data) < PACK_HEADER_BYTES:
        raise RemoteIntegrityError(f"{name} is not a pack of ebooklet_tx, or is cut off. {_WAY_OUT}")
    _, version, *reserved = _HEADER.unpack_from(data)
    if version > PACK_FORMAT_VERSION or any(reserved):
        raise UnsupportedFormatError(
            f"{name} is a pack of format {version}; this version of ebooklet_tx reads up to "
            f"{PACK_FORMAT_VERSION}. Upgrade ebooklet_tx"
        )
    if version < 1:
        raise RemoteIntegrityError(f"{name} is a pack of format 0, which never was. {_WAY_OUT}")


_WAY_OUT = (
    "The download may have been cut short: try again. If it stays, run `python -m ebooklet_tx verify` for "
    "what is affected; values that a local file still holds can be pushed again"
)


def _damaged(name: str, position: int, problem: str) -> RemoteIntegrityError:
    return RemoteIntegrityError(f"{name}: the record at byte {position} {problem}. {_WAY_OUT}")
