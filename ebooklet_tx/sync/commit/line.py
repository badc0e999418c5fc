"""How fast the line to the store is, as the packs of a push tell.

Side by side, packs on a slow line all arrive late: what ends the push in between loses all of them, and they are
sent anew. The invariant: until one pack has shown that the line is fast, they are sent one after another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

FAST_BYTES_PER_SECOND = 4e6
"""At this rate a pack takes four seconds."""

SHOWN_BYTES = 8 * 2**20
"""So much of a pack has to be gone before it tells the rate: the system takes the first megabytes at once."""

LOOK_SECONDS = 0.02
"""How often it is looked whether the line has shown to be fast."""


class Line:
    """A line, and whether it is fast.

    Attributes:
        is_fast: Whether one pack has gone so fast that several are sent at once from now on.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.is_fast = False
        self._clock = clock

    @contextmanager
    def sending(self, size_bytes: int, moved: Callable[[int], object]) -> Iterator[Callable[[int], None]]:
        """Gives a function that counts the bytes of a pack as they go, and passes them on to another one.

        Args:
            size_bytes: The size of the pack.
            moved: The other function.
        """
        began, gone_bytes = self._clock(), 0

        def count(byte_count: int) -> None:
            nonlocal gone_bytes
            moved(byte_count)
            gone_bytes += byte_count
            if gone_bytes >= SHOWN_BYTES:
                self._judge(gone_bytes, began)

        yield count
        self._judge(size_bytes, began)

    def _judge(self, gone_bytes: int, began: float) -> None:
        self.is_fast = self.is_fast or gone_bytes >= (self._clock() - began) * FAST_BYTES_PER_SECOND


__all__ = ["LOOK_SECONDS", "Line"]
