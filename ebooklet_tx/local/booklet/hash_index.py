"""Booklet's hash index: chain heads by the page, and blocks taken out of their chains many at a time.

Owns the pages of the index that one append touches. The invariant: nothing is written before every chain of a
removal was followed as far as needed, and then only the index and the next pointers of blocks that were seen to
carry their own key's hash. So no value byte is ever overwritten, wherever a damaged pointer leads.

Booklet takes some six reads and writes for each key that it deletes. Here the chains of all keys are followed in
rounds, one block of each chain a round in the order of the file, so that one read serves many blocks.
"""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Iterable, Mapping
from hashlib import blake2s
from struct import Struct
from typing import NamedTuple

from ebooklet_tx.limits import METADATA_KEY_BYTES, RESERVED_KEYS
from ebooklet_tx.local.booklet.layout import (
    BLOCK_HEAD_BYTES,
    CHAIN_END,
    HASH_BYTES,
    POINTER_BYTES,
)
from ebooklet_tx.local.files.file_calls import read_at, write_all

PAGE_POINTERS = 1024
MAX_PAGES = 4096
"""Pages are written back when there are more, so that an index of any size takes 32 MB at most."""

HEAD_AND_KEY_BYTES = BLOCK_HEAD_BYTES + 64
DEAD = bytes(POINTER_BYTES)
"""The next pointer of a block that is in no chain."""

HASH_AND_NEXT = Struct("<13sQ")
"""The beginning of a block: the hash of its key, and one number of the next pointer and the key's length."""

KEY_LENGTH_BITS = 8 * POINTER_BYTES
NEXT_MASK = 2**KEY_LENGTH_BITS - 1

_WINDOW_BYTES = 2**14
_NEAR_BYTES = 2**11
"""Where the next block is nearer than this, more than one are read together."""

_IN_INDEX = -1
_BUCKET_BITS = 32
_BUCKET_MASK = 2**_BUCKET_BITS - 1
"""A header has 32 bits for the number of buckets."""


class ChainDamageError(Exception):
    """A chain of the hash index leads to something that is no live block of it."""


class HashIndex:
    """The chain heads of a hash index, read and written by the page: the pointers of `PAGE_POINTERS` buckets.

    Attributes:
        changed_pages: Those pages in memory, by number, that `write` has to write back.
    """

    def __init__(self, fd: int, offset_bytes: int, n_buckets: int) -> None:
        self.n_buckets = n_buckets
        self._fd = fd
        self._offset_bytes = offset_bytes
        self._pages: dict[int, array[int]] = {}
        self.changed_pages: dict[int, array[int]] = {}

    def set_head(self, bucket: int, pointer: int) -> int:
        """Sets where a bucket's chain begins; returns where it began."""
        number, slot = divmod(bucket, PAGE_POINTERS)
        page = self.page_to_change(number)
        first = page[slot]
        page[slot] = pointer
        return first

    def page(self, number: int) -> array[int]:
        """Returns a page to be looked at."""
        page = self._pages.get(number)
        return self._read(number) if page is None else page

    def page_to_change(self, number: int) -> array[int]:
        """Returns a page that will be written back; it is to be changed before the next one is asked for."""
        page = self._pages.get(number)
        if page is None:
            page = self._read(number)
        self.changed_pages[number] = page
        return page

    def _read(self, number: int) -> array[int]:
        if len(self._pages) >= MAX_PAGES:
            self.write()
        start = number * PAGE_POINTERS
        count = min(PAGE_POINTERS, self.n_buckets - start)
        data = read_at(self._fd, count * POINTER_BYTES, self._offset_bytes + start * POINTER_BYTES)
        if len(data) < count * POINTER_BYTES:
            raise ChainDamageError("the index reaches beyond the file's end")
        wide = bytearray(8 * count)
        for plane in range(POINTER_BYTES):
            wide[plane::8] = data[plane::POINTER_BYTES]
        page = self._pages[number] = _swapped(array("Q", bytes(wide)))
        return page

    def write(self) -> None:
        """Writes back every page that was changed, and lets go of all."""
        for number, page in sorted(self.changed_pages.items()):
            wide = _swapped(page).tobytes()
            data = bytearray(POINTER_BYTES * len(page))
            for plane in range(POINTER_BYTES):
                data[plane::POINTER_BYTES] = wide[plane::8]
            write_all(self._fd, data, self._offset_bytes + number * PAGE_POINTERS * POINTER_BYTES)
        self.changed_pages.clear()
        self._pages.clear()


def _swapped(numbers: array[int]) -> array[int]:
    """Returns numbers whose lowest byte is the first in memory, as the file has them."""
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers


class Removal(NamedTuple):
    """What has to be written to take blocks out of their chains.

    Attributes:
        heads: Where the chains of buckets begin from then on.
        pointers: Offsets of next pointers in blocks that stay, with what they become.
        dead: Offsets of the next pointers of the blocks that go.
        user_keys: How many of those are keys that Booklet counts.
    """

    heads: dict[int, int]
    pointers: list[tuple[int, int]]
    dead: list[int]
    user_keys: int


_Step = tuple[int, int, bool, int]
"""How a chain is followed on from one of its blocks.

Its bucket; the offset of the next pointer in the last block that stays, `_IN_INDEX` where none does; whether a
block behind that one goes; how many blocks of the chain are still to be found.
"""


def hashes_of(keys: Iterable[str]) -> tuple[dict[str, bytes], dict[bytes, bytes]]:
    """Returns the hash of each key, and to each hash the key as the file has it."""
    names = list(keys)
    encoded = [name.encode() or METADATA_KEY_BYTES for name in names]
    hashes = [blake2s(key, digest_size=HASH_BYTES).digest() for key in encoded]
    return dict(zip(names, hashes, strict=True)), dict(zip(hashes, encoded, strict=True))


def remove_blocks(fd: int, index: HashIndex, end_bytes: int, keys: Mapping[bytes, bytes]) -> int:
    """Takes the blocks of some keys out of their chains and marks them dead; returns how many Booklet counted.

    Args:
        fd: The file, locked, with its guard up.
        index: Its index; its pages are for the caller to write back.
        end_bytes: Where its blocks end.
        keys: The keys by their hashes; one that has no block is passed over.

    Raises:
        ChainDamageError: A chain leads astray. No block was changed.
    """
    removal = plan_removal(fd, index, end_bytes, keys)
    page_of, page_pointers = index.changed_pages.get, PAGE_POINTERS
    for bucket, pointer in removal.heads.items():
        number, slot = divmod(bucket, page_pointers)
        page = page_of(number)
        if page is None:
            page = index.page_to_change(number)
        page[slot] = pointer
    for at, pointer in removal.pointers:
        write_all(fd, pointer.to_bytes(POINTER_BYTES, "little"), at)
    pwrite = os.pwrite
    for at in removal.dead:
        if pwrite(fd, DEAD, at) != POINTER_BYTES:
            write_all(fd, DEAD, at)
    return removal.user_keys


def plan_removal(fd: int, index: HashIndex, end_bytes: int, keys: Mapping[bytes, bytes]) -> Removal:
    """Follows the chains of some keys and returns what taking out their blocks changes; writes nothing."""
    firsts, several = _first_blocks(index, keys)
    removal = Removal({}, [], [], 0)
    hidden = 0
    # By local names, and with few objects: this runs once for each key of a bulk change.
    dead, new_heads, pointers = removal.dead, removal.heads, removal.pointers
    key_of, unpack = keys.get, HASH_AND_NEXT.unpack_from
    is_any_hidden = not RESERVED_KEYS.isdisjoint(keys.values())
    seen: set[int] = set()
    steps: dict[int, _Step] = {}
    places = sorted(firsts)
    while places:
        is_first = not steps
        seen.update([place >> _BUCKET_BITS for place in places])
        following_steps: dict[int, _Step] = {}
        start, window_end, last = 0, 0, -1
        for number, place in enumerate(places, 1):
            position = place >> _BUCKET_BITS
            if position == last:
                raise ChainDamageError("two chains of the hash index lead to the same block")
            last = position
            if position + HEAD_AND_KEY_BYTES > window_end:
                window = _window(fd, position, places[number : number + 1], end_bytes)
                start, window_end = position, position + len(window)
            at = position - start
            key_hash, following = unpack(window, at)
            key_length = following >> KEY_LENGTH_BITS
            following &= NEXT_MASK
            at += BLOCK_HEAD_BYTES
            key = window[at : at + key_length]
            if len(key) < key_length:
                key = read_at(fd, key_length, position + BLOCK_HEAD_BYTES)
            wanted = key_of(key_hash)
            if wanted != key and (
                wanted is not None or blake2s(key, digest_size=HASH_BYTES).digest() != key_hash
            ):
                raise ChainDamageError(f"a pointer leads to byte {position}, where no block is")
            if following == 0:
                raise ChainDamageError(f"a chain leads to the dead block at byte {position}")
            if wanted is not None:
                dead.append(position + HASH_BYTES)
                hidden += is_any_hidden and wanted in RESERVED_KEYS
                if is_first and place & _BUCKET_MASK not in several:
                    # Most are the first of their chain, and the only one of it that goes.
                    new_heads[place & _BUCKET_MASK] = following
                    continue
            if is_first:
                bucket, before, is_cut = place & _BUCKET_MASK, _IN_INDEX, False
                count = several.get(bucket, 1)
            else:
                bucket, before, is_cut, count = steps[position]
            if wanted is not None:
                is_cut = True
                count -= 1
            else:
                if is_cut:
                    _link(new_heads, pointers, bucket, before, position)
                before, is_cut = position + HASH_BYTES, False
            if count and following > 1:
                if following in seen or following in following_steps:
                    raise ChainDamageError("a chain of the hash index runs in a circle, or two of them meet")
                following_steps[following] = bucket, before, is_cut, count
            elif is_cut:
                _link(new_heads, pointers, bucket, before, following)
        steps = following_steps
        places = [position << _BUCKET_BITS for position in sorted(steps)]
    return removal._replace(user_keys=len(dead) - hidden)


def _first_blocks(index: HashIndex, key_hashes: Iterable[bytes]) -> tuple[list[int], dict[int, int]]:
    """Returns the blocks with which the chains of some keys begin, and buckets of more than one of the keys.

    Each block comes as its position, and its bucket in the last `_BUCKET_BITS` bits.
    """
    n_buckets, from_bytes = index.n_buckets, int.from_bytes
    buckets = sorted([from_bytes(key_hash, "little") % n_buckets for key_hash in key_hashes])
    places: list[int] = []
    several: dict[int, int] = {}
    last_number, last_bucket, page = -1, -1, array("Q")
    for bucket in buckets:
        if bucket == last_bucket:
            several[bucket] = several.get(bucket, 1) + 1
            continue
        last_bucket = bucket
        number, slot = divmod(bucket, PAGE_POINTERS)
        if number != last_number:
            last_number, page = number, index.page(number)
        position = page[slot]
        if position > 1:
            places.append(position << _BUCKET_BITS | bucket)
    return places, several


def _link(heads: dict[int, int], pointers: list[tuple[int, int]], bucket: int, before: int, pointer: int) -> None:
    if before == _IN_INDEX:
        heads[bucket] = pointer
    else:
        pointers.append((before, pointer))


def _window(fd: int, position: int, following: list[int], end_bytes: int) -> bytes:
    """Returns bytes of the file from a block on: more than it, where the next place to be looked at is near."""
    near = bool(following) and (following[0] >> _BUCKET_BITS) - position < _NEAR_BYTES
    length = min(_WINDOW_BYTES if near else HEAD_AND_KEY_BYTES, end_bytes - position)
    window = read_at(fd, length, position) if length >= BLOCK_HEAD_BYTES else b""
    if len(window) < BLOCK_HEAD_BYTES:
        raise ChainDamageError(f"a pointer leads to byte {position}, where no block is")
    return window


def next_pointer(position: int) -> bytes:
    """Returns the next pointer that leads to a position, or ends the chain where there is none."""
    return position.to_bytes(POINTER_BYTES, "little") if position > 1 else CHAIN_END
