"""Blocks: round trips, rows that no writer may write, and blocks made to harm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebooklet_tx import limits
from ebooklet_tx.errors import InvalidArgumentError, RemoteIntegrityError, UnsupportedFormatError
from ebooklet_tx.formats.block import Block, build_block, decode_block, encode_block
from ebooklet_tx.formats.columns import FrameWriter
from ebooklet_tx.formats.index_records import BlockRef, PackUse
from ebooklet_tx.records import IndexRow, ObjectRef, digest_of
from tests.formats.samples import (
    ANY_BLOCK,
    PACK_A,
    PACK_B,
    REFS,
    ROWS,
    forged_block,
    opened,
    placed_rows,
    refs_of,
    sealed,
)

MAGIC = b"EBTXblk\n"
GOLDEN = Path(__file__).parent / "golden"

KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(
    lambda key: key not in limits.RESERVED_TEXTS
)
SEQS = st.integers(1, limits.MAX_COUNT)


@st.composite
def row_lists(draw: st.DrawFn) -> list[IndexRow]:
    keys = sorted(draw(st.lists(KEYS, unique=True, min_size=1, max_size=15)))
    kinds = draw(st.sampled_from([["placed"], ["deleted", "inline", "placed"], ["deleted"], ["inline"]]))
    rows = []
    for key in keys:
        seq, stamp, kind = draw(SEQS), draw(st.integers(0, 2**55)), draw(st.sampled_from(kinds))
        if kind == "deleted":
            rows.append(IndexRow(key, seq, stamp, None))
        elif kind == "inline":
            value = draw(st.binary(max_size=100))
            rows.append(IndexRow(key, seq, stamp, digest_of(value), None, None, len(value), value))
        else:
            digest, name = draw(st.binary(min_size=16, max_size=16)), draw(st.sampled_from(sorted(REFS)))
            place = draw(st.integers(0, 2**39)), draw(st.integers(0, 2**32 - 1))
            rows.append(IndexRow(key, seq, stamp, digest, name, *place))
    return rows


def ref_of(rows: list[IndexRow], **changes: Any) -> tuple[bytes, BlockRef]:
    """A block and what its directory says of it."""
    block = build_block(rows, REFS if rows[0] in ROWS else refs_of(rows))
    ref = BlockRef(
        "", None, 0, len(block.data), digest_of(block.data), block.row_count, block.least_seq, block.greatest_seq
    )
    return block.data, ref._replace(**changes)


# -- round trips -------------------------------------------------------------------------------


@given(row_lists())
def test_rows_are_read_back(rows: list[IndexRow]) -> None:
    block = decode_block(encode_block(rows, REFS), name="x")
    assert list(block.rows()) == rows
    assert [block.row(number) for number in range(len(block))] == rows
    assert all(isinstance(row, IndexRow) for row in block.rows())
    assert {ref.name for ref in block.packs} == {row.object_name for row in rows} - {None}
    assert all(block.ref_of(ref.name) == REFS[ref.name] for ref in block.packs)
    seqs = [row.seq for row in rows]
    assert (block.least_seq, block.greatest_seq) == (min(seqs), max(seqs))


@given(row_lists(), KEYS, KEYS | st.none())
def test_lookups_and_ranges(rows: list[IndexRow], lo: str, hi: str | None) -> None:
    block = decode_block(encode_block(rows, REFS), name="x")
    assert list(block.rows(lo, hi)) == [row for row in rows if lo <= row.key and (hi is None or row.key < hi)]
    by_key = {row.key: row for row in rows}
    for key in [lo, *by_key]:
        assert block.find(key) == by_key.get(key)


@given(row_lists())
def test_plain_tuples_are_written_as_rows_are(rows: list[IndexRow]) -> None:
    assert encode_block([tuple(row) for row in rows], REFS) == encode_block(rows, REFS)  # type: ignore[misc]


@given(row_lists())
def test_a_block_is_named_anew_without_encoding_it(rows: list[IndexRow]) -> None:
    encoded = build_block(rows, REFS)
    again = decode_block(encoded.data, name="x").encoded_as(encoded.data)
    assert again == encoded
    placed = [row for row in rows if row.object_name is not None]
    assert sum(use.row_count for use in encoded.packs) == len(placed)
    assert sum(use.value_bytes for use in encoded.packs) == sum(row.length_bytes or 0 for row in placed)


def test_an_empty_block_is_one() -> None:
    block = decode_block(encode_block([], {}), name="x")
    assert (len(block), list(block.rows()), block.find("k"), block.packs) == (0, [], None, ())
    assert (block.least_seq, block.greatest_seq) == (0, 0)


def test_a_full_block_takes_no_more_room_than_stated() -> None:
    rows = placed_rows(512)
    assert len(encode_block(rows, refs_of(rows))) < 512 * 27


def test_packs_that_no_row_names_are_left_out() -> None:
    assert build_block([ROWS[2]], REFS).packs == (PackUse(REFS[PACK_A], 1, 4_294_967_295),)


def test_the_golden_block() -> None:
    data = (GOLDEN / "block_v2.bin").read_bytes()
    assert list(decode_block(data, name="x").rows()) == ROWS


# -- rows that can't be written ----------------------------------------------------------------

D = b"d" * 16
BAD_ROWS = [
    IndexRow("bad", 0, 1, None),
    IndexRow("bad", limits.MAX_COUNT + 1, 1, None),
    IndexRow("bad", 1, -1, None),
    IndexRow("bad", 1, 2**55 + 1, None),
    IndexRow("bad", 1, 1, None, None, None, 3),
    IndexRow("bad", 1, 1, None, None, None, None, b""),
    IndexRow("bad", 1, 1, None, PACK_A),
    IndexRow("bad", 1, 1, D),
    IndexRow("bad", 1, 1, D[:-1], PACK_A, 0, 1),
    IndexRow("bad", 1, 1, D, PACK_A, 0),
    IndexRow("bad", 1, 1, D, PACK_A, None, 1),
    IndexRow("bad", 1, 1, D, PACK_A, -1, 1),
    IndexRow("bad", 1, 1, D, PACK_A, 0, -1),
    IndexRow("bad", 1, 1, D, PACK_A, 0, 2**32),
    IndexRow("bad", 1, 1, D, PACK_A, 2**40, 1),
    IndexRow("bad", 1, 1, D, None, 0, 1),
    IndexRow("bad", 1, 1, digest_of(b"x"), PACK_A, 0, 1, b"x"),
    IndexRow("bad", 1, 1, D, None, None, 1, b"x"),
    IndexRow("bad", 1, 1, digest_of(b"x"), None, None, 2, b"x"),
    IndexRow("bad", 1, 1, digest_of(bytes(65_537)), None, None, 65_537, bytes(65_537)),
    IndexRow("bad", 1, 1, "d" * 16, PACK_A, 0, 1),  # type: ignore[arg-type]
    IndexRow("bad", 1.0, 1, None),  # type: ignore[arg-type]
    IndexRow("bad", 1, 1.0, D, PACK_A, 0, 1),  # type: ignore[arg-type]
    IndexRow("bad" + "k" * 65_533, 1, 1, None),
    IndexRow("bad\ud800", 1, 1, None),
    IndexRow("bad", 1, 1, D, f"pack/{'c' * 32}", 0, 1),
    *(IndexRow(key, 1, 1, None) for key in sorted(limits.RESERVED_TEXTS)),
]


@pytest.mark.parametrize("bad", BAD_ROWS)
@pytest.mark.parametrize("mixed", [True, False])
def test_a_row_that_breaks_a_rule_is_refused_by_name(bad: IndexRow, mixed: bool) -> None:
    rows = [bad, IndexRow("zz", 1, 1, None)] if mixed else [bad]
    with pytest.raises(InvalidArgumentError, match=f"the index row of key '{bad.key[:3]}"):
        encode_block(rows, REFS)


def test_keys_that_are_out_of_order_are_refused() -> None:
    for rows in ([ROWS[2], ROWS[1]], [ROWS[1], ROWS[1]]):
        with pytest.raises(InvalidArgumentError, match="'gone' can't be written: it is not above"):
            encode_block(rows, REFS)


@pytest.mark.parametrize(
    "ref",
    [
        ObjectRef("pack/../x", "e", 1),
        ObjectRef(f"index/{'a' * 32}", "e", 1),
        ObjectRef(PACK_A, "", 1),
        ObjectRef(PACK_A, "a\nb", 1),
        ObjectRef(PACK_A, "e" * 1025, 1),
        ObjectRef(PACK_A, "e", -1),
        ObjectRef(PACK_A, "e", limits.MAX_COUNT + 1),
        ObjectRef(PACK_B, "e", 1),
    ],
)
def test_a_bad_object_is_refused(ref: ObjectRef) -> None:
    name = PACK_A if ref.name.startswith("pack/b") else ref.name
    with pytest.raises(InvalidArgumentError, match="'k' can't be written: it names the object"):
        encode_block([IndexRow("k", 1, 1, D, name, 0, 1)], {name: ref})


def test_more_rows_than_any_reader_takes_are_refused() -> None:
    rows = placed_rows(limits.MAX_BLOCK_ROWS)
    assert len(decode_block(encode_block(rows, refs_of(rows)), name="x")) == limits.MAX_BLOCK_ROWS
    rows = placed_rows(limits.MAX_BLOCK_ROWS + 1)
    with pytest.raises(InvalidArgumentError, match="1025 rows can't be written"):
        encode_block(rows, refs_of(rows))


def test_the_longest_keys_and_inline_values_fit() -> None:
    value = bytes(limits.MAX_INLINE_BYTES)
    rows = [
        IndexRow("k" * 65_535, 1, 1, digest_of(value), None, None, len(value), value),
        IndexRow("é" * 32_767 + "e", limits.MAX_COUNT, 2**55, None),
    ]
    assert list(decode_block(encode_block(rows, {}), name="x").rows()) == rows


# -- what a directory says ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"digest": bytes(16)}, "the one at byte 0 does not match its digest"),
        ({"length_bytes": 1}, "does not match its digest"),
        ({"row_count": 4}, "its directory says otherwise"),
        ({"least_seq": 2}, "its directory says otherwise"),
        ({"greatest_seq": 4}, "its directory says otherwise"),
        ({"fence": "a"}, "outside its slot"),
        ({"next_fence": "station/2"}, "outside its slot"),
    ],
)
def test_a_block_is_what_its_directory_says(changes: dict[str, Any], words: str) -> None:
    data, ref = ref_of(ROWS)
    assert list(decode_block(data, name="x", expect=ref).rows()) == ROWS
    assert len(decode_block(memoryview(data), name="x", expect=ref._replace(next_fence="station/20"))) == 5
    with pytest.raises(RemoteIntegrityError, match=rf"index/1 .*{words}"):
        decode_block(data, name="index/1", expect=ref._replace(**changes))


def test_no_row_is_of_a_later_commit_than_the_root() -> None:
    data, _ = ref_of(ROWS)
    assert len(decode_block(data, name="x", greatest_seq=3)) == 5
    with pytest.raises(RemoteIntegrityError, match="its seqs are 1 to 3; 1 to 2 is possible"):
        decode_block(data, name="x", greatest_seq=2)


# -- blocks made to harm -----------------------------------------------------------------------


A, B = IndexRow("a", 1, 1, D, PACK_A, 0, 1), IndexRow("b", 1, 1, D, PACK_B, 0, 1)
ALL_A = [REFS[PACK_A]]


def test_the_forger_writes_what_the_writer_does() -> None:
    assert forged_block(ROWS) == encode_block(ROWS, REFS)
    assert forged_block([A], packs=ALL_A) == encode_block([A], REFS)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (forged_block([B, A]), "strict order"),
        (forged_block([A, A], packs=ALL_A), "strict order"),
        (forged_block([IndexRow(min(limits.RESERVED_TEXTS), 1, 1, None)], packs=[]), "Booklet keeps"),
        (forged_block([IndexRow("k" * 65_536, 1, 1, None)], packs=[]), "over 65535 bytes"),
        (forged_block([IndexRow("é" * 32_768, 1, 1, None)], packs=[]), "over 65535 bytes"),
        (forged_block([A], packs=list(REFS.values())), "number of packs is 2"),
        (forged_block([A, B._replace(object_name=PACK_A)]), "packs that no row names"),
        (forged_block([A._replace(seq=0)], packs=ALL_A), "seqs"),
        (forged_block([A._replace(seq=2**53)], packs=ALL_A), "seqs"),
        (forged_block([A._replace(timestamp_us=2**55 + 1)], packs=ALL_A), "timestamps"),
        (forged_block([A._replace(offset_bytes=2**53)], packs=ALL_A), "offsets"),
        (forged_block([A._replace(length_bytes=2**32)], packs=ALL_A), "lengths"),
        (forged_block([A._replace(offset_bytes=2**40)], packs=ALL_A), "past the end of its pack"),
        (forged_block([A, B._replace(offset_bytes=2**40)]), "past the end of its pack"),
        (forged_block([A], kinds=[3], packs=ALL_A), "packs of rows are 3 to 3"),
        (forged_block([A], packs=[replace(REFS[PACK_A], etag="a\nb")]), "ETag"),
        (forged_block([A], packs=[replace(REFS[PACK_A], etag="")]), "ETag"),
        (forged_block([A], packs=[replace(REFS[PACK_A], size_bytes=2**53)]), "sizes of packs"),
        (forged_block([A, B], kinds=[2, 3], packs=ALL_A * 2), "a pack twice"),
        (forged_block([ROWS[0]._replace(value=b'{"m":2}')], packs=[]), "key '' does not match its digest"),
        (forged_block([ROWS[0]._replace(value=bytes(65_537))], packs=[]), "inline values"),
        (forged_block([ROWS[0]], packs=[], sizes=[8]), "cut off"),
        (forged_block([ROWS[0]], packs=[], sizes=[6]), "belong to nothing"),
        (forged_block([A._replace(digest=D[1:])], packs=ALL_A), "cut off"),
        (forged_block([A._replace(digest=D + b"d")], packs=ALL_A), "belong to nothing"),
        (forged_block(placed_rows(1025), packs=list(refs_of(placed_rows(1025)).values())), "announces 1025 rows"),
        (sealed(MAGIC, 1, b""), "cut off"),
    ],
)
def test_a_block_that_lies_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(RemoteIntegrityError, match=words):
        decode_block(data, name="x")


def test_a_long_prefix_of_many_keys_is_refused_before_it_is_made() -> None:
    rows = [IndexRow("k" * 60_000 + f"{number:04d}", 1, 1, None) for number in range(1000)]
    writer = FrameWriter(ANY_BLOCK)
    writer.number(0)
    writer.texts([row.key for row in rows])
    data = writer.finish(1000)
    assert len(data) < 10_000
    with pytest.raises(RemoteIntegrityError, match=f"over {limits.MAX_BLOCK_BYTES} bytes"):
        decode_block(data, name="x")
    with pytest.raises(InvalidArgumentError, match="before compression"):
        encode_block(rows, {})


def test_a_newer_block_asks_for_an_upgrade() -> None:
    rows, raw, plain = opened(encode_block(ROWS, REFS))
    with pytest.raises(UnsupportedFormatError, match=r"index/1 .*Upgrade"):
        decode_block(sealed(MAGIC, rows, raw, plain, version=3), name="index/1")


def test_every_truncation_is_refused() -> None:
    data = encode_block(ROWS, REFS)
    for length in range(len(data)):
        with pytest.raises(RemoteIntegrityError):
            decode_block(data[:length], name="x")


def test_a_block_tells_its_length() -> None:
    assert len(Block(((),) * 8, ())) == 0
