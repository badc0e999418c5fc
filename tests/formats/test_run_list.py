"""Lists of runs: pages that hold what was written, and lists that lie."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebooklet_tx import limits
from ebooklet_tx.errors import InvalidArgumentError, RemoteIntegrityError
from ebooklet_tx.formats.columns import FrameKind, FrameWriter
from ebooklet_tx.formats.index_records import IndexEntry, RunPage, Sizes
from ebooklet_tx.formats.run_list import decode_run_page, encode_run_list, write_bounds, write_entries
from ebooklet_tx.records import digest_of
from tests.formats.samples import ENTRIES, LIST, LIST_DATA, TINY, hex_id

GOLDEN = Path(__file__).parent / "golden"
ANY = FrameKind(b"EBTXlst\n", "a hostile writer's frame", 2**30, 2**40, 2**40)
NAME = f"index/{hex_id(9)}"

KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@st.composite
def runs(draw: st.DrawFn) -> list[IndexEntry]:
    """Entries of one run, with gaps and without."""
    bounds: list[str | None] = [*sorted(draw(st.lists(KEYS, unique=True, min_size=2, max_size=30)))]
    if draw(st.booleans()):
        bounds.append(None)
    entries = []
    for number, (lo, hi) in enumerate(pairwise(bounds)):
        if number and number + 2 < len(bounds) and draw(st.booleans()):
            continue
        least = draw(st.integers(1, 2**50))
        entries.append(
            IndexEntry(
                f"index/{hex_id(draw(st.integers(0, 2**128 - 1)))}",
                draw(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=40)),
                draw(st.integers(10**6, limits.MAX_OBJECT_BYTES)),
                lo or "",
                hi,
                draw(st.integers(1, 2**17)),
                least,
                draw(st.integers(least, 2**53 - 1)),
                draw(st.integers(1, 10**6)),
                draw(st.binary(min_size=16, max_size=16)),
            )
        )
    return entries


def pages_of(data: bytes, pages: tuple[RunPage, ...]) -> list[bytes]:
    return [data[page.offset_bytes : page.offset_bytes + page.length_bytes] for page in pages]


@given(runs(), st.integers(1, 4))
def test_entries_are_read_back(entries: list[IndexEntry], each: int) -> None:
    data, run = encode_run_list(entries, NAME, Sizes(page_entries=each))
    found: list[IndexEntry] = []
    for page, piece in zip(run.pages, pages_of(data, run.pages), strict=True):
        here = decode_run_page(piece, page, name="x")
        assert len(here) <= each
        assert all(page.holds(entry.lo) for entry in here)
        found += here
    assert found == entries
    assert run.ref.size_bytes == len(data) == sum(page.length_bytes for page in run.pages)
    assert sum(page.row_count for page in run.pages) == sum(entry.row_count for entry in entries)


def test_pages_close_at_their_bounds_too() -> None:
    entries = [ENTRIES[0]._replace(lo=f"{n}" + "k" * 100, hi=f"{n}l") for n in range(9)]
    _, run = encode_run_list(entries, NAME, Sizes(fence_bytes=250))
    assert [page.entry_count for page in run.pages] == [2, 2, 2, 2, 1]


def test_the_golden_list() -> None:
    data = (GOLDEN / "run_list_v2.bin").read_bytes()
    pieces = pages_of(data, LIST.pages)
    found = [decode_run_page(piece, page, name="x") for piece, page in zip(pieces, LIST.pages, strict=True)]
    assert found == [ENTRIES[:2], ENTRIES[2:]]


E0, E1 = ENTRIES[:2]


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [E1, E0],
        [E0, E0],
        [E0._replace(hi=None), E1],
        [E0._replace(hi=E0.lo)],
        [E0._replace(hi="a")],
        [E0._replace(name="pack/" + "a" * 32)],
        [E0._replace(name="index/x")],
        [E0._replace(etag="")],
        [E0._replace(size_bytes=0)],
        [E0._replace(size_bytes=limits.MAX_OBJECT_BYTES + 1)],
        [E0._replace(row_count=0)],
        [E0._replace(least_seq=0)],
        [E0._replace(least_seq=2)],
        [E0._replace(greatest_seq=limits.MAX_COUNT + 1)],
        [E0._replace(directory_length_bytes=0)],
        [E0._replace(directory_length_bytes=E0.size_bytes + 1)],
        [E0._replace(directory_digest=b"")],
    ],
)
def test_a_list_that_no_reader_takes_is_not_written(entries: list[IndexEntry]) -> None:
    with pytest.raises(InvalidArgumentError):
        encode_run_list(entries, NAME)


def test_slots_that_overlap_across_pages_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="overlap"):
        encode_run_list([*ENTRIES[:2], ENTRIES[1]], NAME, TINY)


def forged(entries: list[IndexEntry], **changes: Any) -> tuple[bytes, RunPage]:
    writer = FrameWriter(ANY)
    write_entries(writer, entries)
    data = writer.finish(len(entries))
    page = RunPage(
        entries[0].lo,
        entries[-1].hi,
        0,
        len(data),
        digest_of(data),
        len(entries),
        sum(entry.row_count for entry in entries),
        min(entry.least_seq for entry in entries),
        max(entry.greatest_seq for entry in entries),
    )
    return data, page._replace(**changes)


def test_the_forger_writes_what_the_writer_does() -> None:
    assert forged(list(ENTRIES[:2]))[0] == pages_of(LIST_DATA, LIST.pages)[0]


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([E1, E0], "overlap"),
        ([E0._replace(hi=None), E1], "overlap"),
        ([E0._replace(hi=E0.lo)], "is empty"),
        ([E0._replace(etag="a\nb")], "can't be as it says"),
        ([E0._replace(etag="")], "can't be as it says"),
        ([E0._replace(size_bytes=limits.MAX_OBJECT_BYTES + 1)], "sizes of objects"),
        ([E0._replace(directory_length_bytes=E0.size_bytes + 1)], "can't be as it says"),
        ([E0._replace(directory_length_bytes=limits.MAX_LIST_BYTES + 1)], "lengths of directories"),
        ([E0._replace(row_count=0)], "rows of objects"),
        ([E0._replace(row_count=2**19)], "rows of objects"),
        ([E0._replace(least_seq=0)], "least seqs"),
        ([E0._replace(least_seq=3, greatest_seq=2)], "can't be as it says"),
        ([E0._replace(greatest_seq=10)], "greatest seqs"),
        ([E0._replace(directory_digest=b"")], "cut off"),
        ([E0] * 257, "announces 257 rows"),
    ],
)
def test_a_page_that_lies_is_refused(entries: list[IndexEntry], words: str) -> None:
    data, page = forged(entries)
    with pytest.raises(RemoteIntegrityError, match=words):
        decode_run_page(data, page, name="x", greatest_seq=9)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"digest": bytes(16)}, "digest"),
        ({"length_bytes": 1}, "digest"),
        ({"lo": ""}, "not those that the root says"),
        ({"hi": None}, "not those that the root says"),
        ({"entry_count": 1}, "not those that the root says"),
        ({"row_count": 1}, "not those that the root says"),
        ({"least_seq": 2}, "not those that the root says"),
        ({"greatest_seq": 2}, "not those that the root says"),
    ],
)
def test_a_page_is_what_its_root_says(changes: dict[str, Any], words: str) -> None:
    data, page = forged([E0, E1])
    assert decode_run_page(data, page, name="x") == (E0, E1)
    with pytest.raises(RemoteIntegrityError, match=rf"index/9 .*{words}"):
        decode_run_page(data, page._replace(**changes), name="index/9")


def test_an_empty_page_is_damage() -> None:
    writer = FrameWriter(ANY)
    write_entries(writer, [])
    data = writer.finish(0)
    page = RunPage("", None, 0, len(data), digest_of(data), 0, 0, 1, 1)
    with pytest.raises(RemoteIntegrityError, match="not those that the root says"):
        decode_run_page(data, page, name="x")


def test_a_last_slot_that_ends_at_no_next_one_is_damage() -> None:
    writer = FrameWriter(ANY)
    writer.texts(["a"])
    writer.integers([1])
    data = writer.finish(1)
    with pytest.raises(RemoteIntegrityError, match="there is none"):
        decode_run_page(data, RunPage("a", None, 0, len(data), digest_of(data), 1, 1, 1, 1), name="x")
    write_bounds(FrameWriter(ANY), [])
