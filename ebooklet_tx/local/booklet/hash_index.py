"""Booklet's hash index: chain heads by the page, and blocks taken out of their chains many at a time.

Owns the pages of the index that one append touches. The invariant: nothing is written before every chain of a
removal was followed as far as needed, and then only the index and the next pointers of blocks that were seen to
carry their own key's hash. So no value byte is ever overwritten, wherever a damaged pointer leads.

Booklet takes some six reads and writes for each key that it deletes. Here the chains of all keys are followed in
rounds, one block of each chain a round in the order of the file, so that one read serves many blocks.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
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
from ebooklet_tx.records import METADATA_KEY

PAGE_POINTERS = 1024
MAX_PAGES = 4096
"""Pages are written back when there are more, so that an index of any size takes 25 MB at most."""

HEAD = Struct("<13s6sHI7s")
HEAD_AND_KEY_BYTES = BLOCK_HEAD_BYTES + 64
DEAD = bytes(POINTER_BYTES)
"""The next pointer of a block that is in no chain."""

_WINDOW_BYTES = 2**14
_NEAR_BYTES = 2**11
"""Where the next block is nearer than this, more than one are read together."""

_IN_INDEX = -1


class ChainDamageError(Exception):
    """A chain of the hash index leads to something that is no live block of it."""


class HashIndex:
    """The chain heads of a hash index, read and written by the page."""

    def __init__(self, fd: int, offset_bytes: int, n_buckets: int) -> None:
        self.n_buckets = n_buckets
        self._fd = fd
        self._offset_bytes = offset_bytes
        self._pages: dict[int, bytearray] = {}
        self._changed: set[int] = set()

    def put_first(self, key_hash: bytes, position_bytes: int) -> int:
        """Makes a block the first of its chain; returns the pointer to the one that was."""
        return self.set_head(int.from_bytes(key_hash, "little") % self.n_buckets, position_bytes)

    def set_head(self, bucket: int, pointer: int) -> int:
        """Sets where a bucket's chain begins; returns where it began."""
        number, slot = divmod(bucket, PAGE_POINTERS)
        page = self._pages.get(number)
        if page is None:
            page = self._read(number)
        at = slot * POINTER_BYTES
        end = at + POINTER_BYTES
        first = int.from_bytes(page[at:end], "little")
        self._changed.add(number)
        page[at:end] = pointer.to_bytes(POINTER_BYTES, "little")
        return first

    def head(self, bucket: int) -> int:
        """Returns where a bucket's chain begins."""
        number, slot = divmod(bucket, PAGE_POINTERS)
        page = self._pages.get(number)
        if page is None:
            page = self._read(number)
        at = slot * POINTER_BYTES
        return int.from_bytes(page[at : at + POINTER_BYTES], "little")

    def _read(self, number: int) -> bytearray:
        if len(self._pages) >= MAX_PAGES:
            self.write()
        start = number * PAGE_POINTERS
        length = min(PAGE_POINTERS, self.n_buckets - start) * POINTER_BYTES
        page = bytearray(read_at(self._fd, length, self._offset_bytes + start * POINTER_BYTES))
        if len(page) < length:
            raise ChainDamageError("the index reaches beyond the file's end")
        self._pages[number] = page
        return page

    def write(self) -> None:
        """Writes back every page that was changed."""
        for number in sorted(self._changed):
            write_all(self._fd, self._pages[number], self._offset_bytes + number * PAGE_POINTERS * POINTER_BYTES)
        self._changed.clear()
        self._pages.clear()


class Removal(NamedTuple):
    """What has to be written to take blocks out of their chains.

    Attributes:
        heads: Buckets, with where their chains begin from then on.
        pointers: Offsets of next pointers in blocks that stay, with what they become.
        dead: Offsets of the next pointers of the blocks that go.
        user_keys: How many of those are keys that Booklet counts.
    """

    heads: list[tuple[int, int]]
    pointers: list[tuple[int, int]]
    dead: list[int]
    user_keys: int


_Step = tuple[int, int, int, bool, int]
"""Where one chain is followed next; steps sort in the order of the file.

The block's position; the chain's bucket; the offset of the next pointer in the last block that stays, `_IN_INDEX`
where none does; whether a block behind that one goes; how many blocks of the chain are still to be found.
"""


def remove_blocks(fd: int, index: HashIndex, end_bytes: int, keys: Collection[str]) -> int:
    """Takes the blocks of some keys out of their chains and marks them dead; returns how many Booklet counted.

    Args:
        fd: The file, locked, with its guard up.
        index: Its index; its pages are for the caller to write back.
        end_bytes: Where its blocks end.
        keys: The keys; one that has no block is passed over.

    Raises:
        ChainDamageError: A chain leads astray. No block was changed.
    """
    removal = plan_removal(fd, index, end_bytes, keys)
    for bucket, pointer in removal.heads:
        index.set_head(bucket, pointer)
    for at, pointer in removal.pointers:
        write_all(fd, pointer.to_bytes(POINTER_BYTES, "little"), at)
    for at in removal.dead:
        if os.pwrite(fd, DEAD, at) != POINTER_BYTES:
            write_all(fd, DEAD, at)
    return removal.user_keys


def plan_removal(fd: int, index: HashIndex, end_bytes: int, keys: Iterable[str]) -> Removal:
    """Follows the chains of some keys and returns what taking out their blocks changes; writes nothing."""
    targets: dict[bytes, bytes] = {}
    wanted: dict[int, int] = {}
    n_buckets = index.n_buckets
    for name in keys:
        key_bytes = name.encode() if name != METADATA_KEY else METADATA_KEY_BYTES
        key_hash = blake2s(key_bytes, digest_size=HASH_BYTES).digest()
        targets[key_hash] = key_bytes
        bucket = int.from_bytes(key_hash, "little") % n_buckets
        wanted[bucket] = wanted.get(bucket, 0) + 1
    removal = Removal([], [], [], 0)
    found_user_keys = 0
    heads = ((index.head(bucket), bucket, count) for bucket, count in sorted(wanted.items()))
    steps: list[_Step] = [(first, bucket, _IN_INDEX, False, count) for first, bucket, count in heads if first > 1]
    seen: set[int] = set()
    # By local names: this runs once for each key of a bulk change.
    dead, pointers, new_heads = removal.dead, removal.pointers, removal.heads
    while steps:
        steps.sort()
        following_steps: list[_Step] = []
        for (position, bucket, before, is_cut, count), window, at in _heads(fd, steps, end_bytes):
            if position in seen:
                raise ChainDamageError("a chain of the hash index runs in a circle, or two of them meet")
            seen.add(position)
            key_hash, pointer, key_length, _, _ = HEAD.unpack_from(window, at)
            key_at = at + BLOCK_HEAD_BYTES
            key = window[key_at : key_at + key_length]
            if len(key) < key_length:
                key = read_at(fd, key_length, position + BLOCK_HEAD_BYTES)
            target = targets.get(key_hash)
            if target != key and (
                target is not None or blake2s(key, digest_size=HASH_BYTES).digest() != key_hash
            ):
                raise ChainDamageError(f"a pointer leads to byte {position}, where no block is")
            following = int.from_bytes(pointer, "little")
            if following == 0:
                raise ChainDamageError(f"a chain leads to the dead block at byte {position}")
            if target is not None:
                dead.append(position + HASH_BYTES)
                found_user_keys += key not in RESERVED_KEYS
                is_cut = True
                count -= 1
            else:
                if is_cut:
                    _link(new_heads, pointers, bucket, before, position)
                before, is_cut = position + HASH_BYTES, False
            if count and following > 1:
                following_steps.append((following, bucket, before, is_cut, count))
            elif is_cut:
                _link(new_heads, pointers, bucket, before, following)
        steps = following_steps
    return removal._replace(user_keys=found_user_keys)


def _link(
    heads: list[tuple[int, int]], pointers: list[tuple[int, int]], bucket: int, before: int, pointer: int
) -> None:
    if before == _IN_INDEX:
        heads.append((bucket, pointer))
    else:
        pointers.append((before, pointer))


def _heads(fd: int, steps: Sequence[_Step], end_bytes: int) -> Iterator[tuple[_Step, bytes, int]]:
    """Yields each step with bytes of the file, and where in them the step's block begins."""
    window, start, window_end = b"", 0, 0
    last = len(steps) - 1
    for number, step in enumerate(steps):
        position = step[0]
        if position + HEAD_AND_KEY_BYTES > window_end:
            near = number < last and steps[number + 1][0] - position < _NEAR_BYTES
            length = min(_WINDOW_BYTES if near else HEAD_AND_KEY_BYTES, end_bytes - position)
            if length < BLOCK_HEAD_BYTES:
                raise ChainDamageError(f"a pointer leads to byte {position}, where no block is")
            window, start = read_at(fd, length, position), position
            window_end = start + len(window)
            if len(window) < BLOCK_HEAD_BYTES:
                raise ChainDamageError(f"a pointer leads to byte {position}, where no block is")
        yield step, window, position - start


def next_pointer(position: int) -> bytes:
    """Returns the next pointer that leads to a position, or ends the chain where there is none."""
    return position.to_bytes(POINTER_BYTES, "little") if position > 1 else CHAIN_END
