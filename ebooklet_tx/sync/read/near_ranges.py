"""Which places of an object are read together: those that lie near each other.

Pure. A gap that is read along costs less than a request of its own, up to a bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

JOIN_GAP_BYTES = 64 * 1024
"""Places of one object that lie closer than this are read by one request."""


class Extent(Protocol):
    """Anything that lies at a place of an object."""

    @property
    def offset_bytes(self) -> int: ...

    @property
    def length_bytes(self) -> int: ...


Item = TypeVar("Item", bound=Extent)


def near_ranges(places: Iterable[Item], max_bytes: int) -> Iterator[list[Item]]:
    """Groups places of one object so that each group is read by one request.

    Args:
        places: The places, in order of their offsets; they may overlap.
        max_bytes: No group reaches further, unless it is one place.
    """
    group: list[Item] = []
    start = end = 0
    for place in places:
        place_end = place.offset_bytes + place.length_bytes
        too_far = place.offset_bytes - end > JOIN_GAP_BYTES
        if group and (too_far or max(end, place_end) - start > max_bytes):
            yield group
            group = []
        if not group:
            start, end = place.offset_bytes, place_end
        group.append(place)
        end = max(end, place_end)
    if group:
        yield group


def span_of(group: Sequence[Extent]) -> tuple[int, int]:
    """Returns offset and length of the bytes from the first place of a group to the end of the last."""
    start = group[0].offset_bytes
    return start, max(place.offset_bytes + place.length_bytes for place in group) - start
