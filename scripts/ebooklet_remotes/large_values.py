"""The values of a large remote: pseudo-random bytes that depend on the key's number alone."""

from __future__ import annotations

import random
from collections.abc import Iterator

FIRST_US = 1_700_000_000_000_000


def large_values(count: int, size: int) -> Iterator[tuple[str, tuple[int, bytes]]]:
    """Yields keys with timestamps and values, in an order that is not the keys'."""
    numbers = list(range(count))
    random.Random(1).shuffle(numbers)
    for number in numbers:
        value = random.Random(number).randbytes(size)
        yield f"station/{number * 2654435761 % 2**32:08x}", (FIRST_US + number, value)
