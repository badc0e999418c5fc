"""Keys and values of the benchmark: the same in every process, from a seed.

Owns a block of random bytes. The invariant: a key's number, version and size give its value, and values do
not compress.
"""

from __future__ import annotations

import functools
import random
import struct
from collections.abc import Iterator

_BLOCK_BYTES = 8 << 20
_STEP_BYTES = 4099
_HEAD = struct.Struct(">II")


@functools.cache
def _block() -> bytes:
    return random.Random(20250131).randbytes(_BLOCK_BYTES)


def key(number: int) -> str:
    """Returns the name of the key with a number."""
    return f"key-{number:08}"


def value(number: int, size_bytes: int, version: int = 0) -> bytes:
    """Returns a key's value; another version is another value of the same size."""
    head = _HEAD.pack(number, version)
    start = (number * _STEP_BYTES + version * 977) % (_BLOCK_BYTES - min(size_bytes, _BLOCK_BYTES // 2))
    body = _block()[start : start + size_bytes - len(head)]
    if len(body) < size_bytes - len(head):
        repeats = -(-size_bytes // len(body))
        body = (body * repeats)[: size_bytes - len(head)]
    return head + body


def pairs(count: int, size_bytes: int, *, version: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yields the first so many keys with their values."""
    for number in range(count):
        yield key(number), value(number, size_bytes, version)


def some_numbers(count: int, of: int, seed: int) -> list[int]:
    """Returns numbers of keys drawn at random, each once."""
    return random.Random(seed).sample(range(of), min(count, of))
