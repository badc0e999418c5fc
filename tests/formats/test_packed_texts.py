"""Columns of texts that stay packed are the lists that they unpack to."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebooklet_tx.formats.columns import FrameKind, FrameReader, FrameWriter, Texts

KIND = FrameKind(b"EBTXtest", "a test", 1000, 2**20, 2**20)


def packed(texts: list[str]) -> Texts:
    writer = FrameWriter(KIND)
    writer.texts(texts)
    return FrameReader(writer.finish(len(texts)), KIND, "x").packed_texts(len(texts), "texts")


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(max_size=6), max_size=12), prefix=st.text(max_size=3))
def test_packed_texts_are_a_sequence(texts: list[str], prefix: str) -> None:
    texts = sorted(prefix + text for text in texts)
    column = packed(texts)
    assert list(column) == column.unpacked() == texts
    assert [column[number] for number in range(-len(texts), len(texts))] == [*texts, *texts]
    assert len(column) == len(texts)
    assert column[1:3] == texts[1:3]
    assert [column.prefix + text for text in column.without_prefix()] == texts
    assert all(bisect_left(column, text) == bisect_left(texts, text) for text in [*texts, "", "k"])
    with pytest.raises(IndexError):
        column[len(texts)]


@pytest.mark.parametrize("texts", [[""], ["", ""], ["one"], ["a1", "a2"], ["a", "ab"], ["é1", "é2", "é345"]])
def test_texts_of_one_length_and_empty_ones(texts: list[str]) -> None:
    assert packed(texts).unpacked() == texts


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=6), min_size=1, max_size=9) | st.lists(st.text("ab\0é", min_size=2, max_size=2)))
def test_they_are_compared_without_being_cut_apart(texts: list[str]) -> None:
    comparable: list[Any] = list(packed(texts).comparable())
    assert len(comparable) == len(texts)
    for some, text in zip(comparable, texts, strict=True):
        assert [some < other for other in comparable] == [text < other for other in texts]
        assert [some == other for other in comparable] == [text == other for other in texts]
