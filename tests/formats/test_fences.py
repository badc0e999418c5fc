"""Bounds between keys: above the one, at most the next, and not longer than needed."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from ebooklet_tx.formats.fences import LONG_BOUND_CHARS, common_length, fence, lower_bound, upper_bound

LAST = "\U0010ffff"
KEYS = st.text(st.sampled_from(["\0", "a", "b", "\ud7ff", "\ue000", "\U00010000", LAST]), max_size=6) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=100
)


@given(KEYS, KEYS)
def test_a_fence_parts_two_keys_and_no_shorter_text_does(one: str, other: str) -> None:
    if one == other:
        return
    before, key = sorted([one, other])
    bound = fence(before, key)
    assert before < bound <= key
    bound.encode()
    assert key.startswith(bound)
    assert not before < bound[:-1]
    assert common_length(before, key) == len(bound) - 1


@given(KEYS)
@example(LAST * LONG_BOUND_CHARS)
@example("a" + LAST * LONG_BOUND_CHARS)
@example("a" * (LONG_BOUND_CHARS - 1) + "\ud7ff" + "x")
@example("")
def test_outer_bounds_hold_a_key_and_stay_short(key: str) -> None:
    lo, hi = lower_bound(key), upper_bound(key)
    assert lo <= key
    assert len(lo) <= LONG_BOUND_CHARS
    lo.encode()
    if hi is None:
        assert key.startswith(LAST * LONG_BOUND_CHARS)
        return
    assert key < hi
    assert len(hi) <= LONG_BOUND_CHARS
    hi.encode()
