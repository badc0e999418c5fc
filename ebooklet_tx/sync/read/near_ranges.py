"""Which places of an object are read together: those that lie near each other.

Pure. A gap that is read along costs less than a request of its own, up to a bound; and where many are read along,
up to a bound on all of them together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import tee
from typing import Protocol, TypeVar

JOIN_GAP_BYTES = 64 * 1024
"""Places of one object that lie closer than this are read by one request."""

READ_ALONG_BYTES = 4 * 2**20
"""Gaps are read along up to so many bytes in all, or up to as many as are wanted, where that is more."""


class Extent(Protocol):
    """Anything that lies at a place of an object."""

    @property
    def offset_bytes(self) -> int: ...

    @property
    def length_bytes(self) -> int: ...


Item = TypeVar("Item", bound=Extent)


def near_ranges(places: Iterable[Item], max_bytes: int, gap_bytes: int | None = None) -> Iterator[list[Item]]:
    """Groups places of one object so that each group is read by one request.

    Args:
        places: The places, in order of their offsets; they may overlap.
        max_bytes: No group reaches further, unless it is one place.
        gap_bytes: The longest gap that is read along; None for `JOIN_GAP_BYTES`.
    """
    places, again = tee(places)
    extents = ((place.offset_bytes, place.length_bytes) for place in again)
    group: list[Item] = []
    for place, is_first in zip(places, are_first(extents, max_bytes, gap_bytes), strict=True):
        if is_first and group:
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def are_first(extents: Iterable[tuple[int, int]], max_bytes: int, gap_bytes: int | None = None) -> Iterator[bool]:
    """Yields for each place, of which offset and length are given, whether a group begins with it."""
    gap_bytes = JOIN_GAP_BYTES if gap_bytes is None else gap_bytes
    start, end = -max_bytes - 1, -1
    for offset, length in extents:
        place_end = max(end, offset + length)
        is_first = offset - end > gap_bytes or place_end - start > max_bytes
        if is_first:
            start, place_end = offset, offset + length
        end = place_end
        yield is_first


def gap_to_join(objects: Iterable[Iterable[tuple[int, int]]]) -> int:
    """Returns how long a gap may be to be read along, so that all of them together keep the bound on them.

    Args:
        objects: Of each object the places, by offset and length, in order of their offsets.
    """
    wanted_bytes = 0
    gaps: list[int] = []
    for extents in objects:
        end: int | None = None
        for offset, length in extents:
            wanted_bytes += length
            if end is not None and 0 < offset - end <= JOIN_GAP_BYTES:
                gaps.append(offset - end)
            end = offset + length if end is None else max(end, offset + length)
    room = max(READ_ALONG_BYTES, wanted_bytes)
    if sum(gaps) <= room:
        return JOIN_GAP_BYTES
    # The shortest first: they save most requests for a byte.
    for gap in sorted(gaps):
        room -= gap
        if room < 0:
            return gap - 1
    return JOIN_GAP_BYTES


def span_of(group: Sequence[Extent]) -> tuple[int, int]:
    """Returns offset and length of the bytes from the first place of a group to the end of the last."""
    start = group[0].offset_bytes
    return start, max([place.offset_bytes + place.length_bytes for place in group]) - start
