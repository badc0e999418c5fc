"""How many packs are sent at once: one, until the line has shown to be fast."""

from __future__ import annotations

from ebooklet_tx.sync.commit.line import FAST_BYTES_PER_SECOND, SHOWN_BYTES, Line

PACK_BYTES = 16 * 2**20
PIECE_BYTES = 2**16


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def fast_after(bytes_per_second: float, *, taken_at_once: int = 0, size_bytes: int = PACK_BYTES) -> int | None:
    """Sends one pack; returns how many bytes had gone when the line counted as fast, None where it never does."""
    clock, counted = Clock(), []
    line = Line(clock)
    found = None
    with line.sending(size_bytes, counted.append) as count:
        for gone in range(PIECE_BYTES, size_bytes + 1, PIECE_BYTES):
            clock.now = max(gone - taken_at_once, 0) / bytes_per_second
            count(PIECE_BYTES)
            if line.is_fast and found is None:
                found = gone
    assert sum(counted) == size_bytes
    return found if found is not None else size_bytes if line.is_fast else None


def test_a_fast_line_is_known_before_a_pack_is_gone() -> None:
    assert fast_after(30e6) == SHOWN_BYTES


def test_a_slow_line_stays_slow_although_the_system_takes_megabytes_at_once() -> None:
    assert fast_after(1e6, taken_at_once=4 * 2**20) is None
    assert fast_after(FAST_BYTES_PER_SECOND * 0.7, taken_at_once=2**20) is None


def test_a_small_pack_that_was_quick_tells_as_well() -> None:
    assert fast_after(10e6, size_bytes=2**20) == 2**20
    assert fast_after(0.5e6, size_bytes=2**20) is None


def test_once_fast_is_fast() -> None:
    clock = Clock()
    line = Line(clock)
    for seconds in (0.1, 1000.0):
        with line.sending(PACK_BYTES, lambda _count: None):
            clock.now += seconds
        assert line.is_fast
