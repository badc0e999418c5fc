"""Short bounds between keys: fences between blocks, and the outer bounds of index objects.

The invariant: a fence lies above one key and at most at the next, whatever the keys are; an outer bound lies at
or below the first key, or above the last. All are valid text, cut between code points.
"""

from __future__ import annotations

LONG_BOUND_CHARS = 64
"""An outer bound is not longer than this; it may be looser instead."""

_LAST_BELOW_SURROGATES = "\ud7ff"
_FIRST_ABOVE_SURROGATES = "\ue000"
_LAST = "\U0010ffff"


def fence(before: str, key: str) -> str:
    """Returns the shortest text that is above `before` and at most `key`, which is greater."""
    # Where the two part, `key` has the greater character, or goes on where `before` ended.
    return key[: common_length(before, key) + 1]


def common_length(one: str, other: str) -> int:
    """Returns the number of characters with which both texts begin."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def lower_bound(key: str) -> str:
    """Returns a text of bounded length that is at most `key`."""
    return key[:LONG_BOUND_CHARS]


def upper_bound(key: str) -> str | None:
    """Returns a text of bounded length that is above `key`, or None where there is none."""
    if len(key) < LONG_BOUND_CHARS:
        return key + "\0"
    kept = key[:LONG_BOUND_CHARS].rstrip(_LAST)
    return kept[:-1] + _next(kept[-1]) if kept else None


def _next(character: str) -> str:
    return _FIRST_ABOVE_SURROGATES if character == _LAST_BELOW_SURROGATES else chr(ord(character) + 1)
