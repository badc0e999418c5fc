"""Merging streams of rows: of one key the row with the highest seq is left, whichever stream has it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ebooklet_tx.index.lookup import LocatedRow, newest
from ebooklet_tx.records import IndexRow, ObjectRef

ROOT = ObjectRef("", "etag", 1)

STREAMS = st.lists(st.dictionaries(st.sampled_from("abcdefg"), st.integers(1, 9), max_size=7), max_size=4)


@settings(max_examples=100, deadline=None)
@given(STREAMS)
def test_the_newest_row_of_each_key_is_left(streams: list[dict[str, int]]) -> None:
    rows = [[LocatedRow(IndexRow(key, seqs[key], 1, None), ROOT) for key in sorted(seqs)] for seqs in streams]
    expected = {key: max(seqs.get(key, 0) for seqs in streams) for seqs in streams for key in seqs}
    found = [(item.row.key, item.row.seq) for item in newest([iter(each) for each in rows])]
    assert found == sorted(expected.items())
