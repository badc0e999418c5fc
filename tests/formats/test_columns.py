"""Frames of columns: round trips of numbers and texts, and frames that say more than they hold."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebooklet_tx.errors import InvalidArgumentError, RemoteIntegrityError, UnsupportedFormatError
from ebooklet_tx.formats.columns import FrameKind, FrameReader, FrameWriter
from tests.formats.samples import FRAME_HEADER, sealed

MAGIC = b"EBTXtst\n"
KIND = FrameKind(MAGIC, "a test's frame", 100, 10_000, 20_000)
MOST = 2**63 - 1

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def frame_of(numbers: list[int], texts: list[str], plain: bytes = b"") -> bytes:
    writer = FrameWriter(KIND)
    writer.integers(numbers)
    writer.texts(texts)
    writer.blob(b"blob")
    writer.plain(plain)
    return writer.finish(len(numbers))


@given(
    st.lists(st.integers(0, MOST), max_size=50) | st.lists(st.integers(0, 300), max_size=50),
    st.lists(TEXTS, max_size=20),
    TEXTS,
    st.binary(max_size=20),
)
def test_what_is_written_is_read(numbers: list[int], texts: list[str], prefix: str, plain: bytes) -> None:
    texts = [prefix + text for text in texts]
    reader = FrameReader(frame_of(numbers, texts, plain), KIND, "x")
    assert reader.row_count == len(numbers)
    assert list(reader.integers(len(numbers), 0, MOST, "numbers")) == numbers
    assert reader.texts(len(texts), "texts") == texts
    assert reader.blob(4) == b"blob"
    assert reader.plain(len(plain)) == plain
    reader.finish()


@given(st.integers(0, 2**40), st.integers(-1000, 2**32), st.integers(2, 60))
def test_an_even_stride_takes_no_room(first: int, stride: int, count: int) -> None:
    first = max(first, -stride * count)
    numbers = [first + stride * number for number in range(count)]
    writer = FrameWriter(KIND)
    writer.integers(numbers)
    data = writer.finish(count)
    assert FRAME_HEADER.unpack_from(data)[5] <= 17
    assert list(FrameReader(data, KIND, "x").integers(count, 0, MOST, "numbers")) == numbers


@pytest.mark.parametrize("width", range(9))
def test_numbers_of_every_width(width: int) -> None:
    numbers = [5, 5 + (2 ** (8 * width) - 1 if width < 8 else MOST - 5), 5, 6]
    reader = FrameReader(frame_of(numbers, []), KIND, "x")
    assert list(reader.integers(4, 0, MOST, "numbers")) == numbers


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "does not begin"),
        (b"EBTXblk\n" + bytes(30), "does not begin"),
        (MAGIC + bytes(5), "cut off"),
        (sealed(MAGIC, 101, b""), "announces 101 rows"),
        (sealed(MAGIC, 1, b"", announced=10_001), "announces 10001 bytes"),
        (sealed(MAGIC, 1, b"12", announced=1), "does not decompress to"),
        (sealed(MAGIC, 1, b"12", announced=3), "does not decompress to"),
        (sealed(MAGIC, 1, bytes(2_000_000), announced=9_000), "does not decompress to"),
        (FRAME_HEADER.pack(MAGIC, 2, 0, 1, 9, 1) + b"12", "announces 9"),
        (FRAME_HEADER.pack(MAGIC, 2, 0, 1, 9, 1) + bytes(9), "can't be decompressed"),
        (sealed(MAGIC, 1, b"", bytes(20_001)), "the limit is 20000"),
        (sealed(MAGIC, 1, b"", version=1), "its format is 1"),
    ],
)
def test_a_frame_that_is_not_sound(data: bytes, words: str) -> None:
    with pytest.raises(RemoteIntegrityError, match=rf"bucket/x .*a test's frame.*{words}"):
        FrameReader(data, KIND, "bucket/x")


@pytest.mark.parametrize("data", [sealed(MAGIC, 1, b"", version=3), sealed(MAGIC, 1, b"", flags=1)])
def test_a_newer_frame_asks_for_an_upgrade(data: bytes) -> None:
    with pytest.raises(UnsupportedFormatError, match=r"bucket/x .*Upgrade"):
        FrameReader(data, KIND, "bucket/x")


def test_bytes_behind_the_compressed_ones_belong_to_nothing() -> None:
    packed = zlib.compress(b"1") + b"2"
    data = FRAME_HEADER.pack(MAGIC, 2, 0, 1, len(packed), 1) + packed
    with pytest.raises(RemoteIntegrityError, match="does not decompress"):
        FrameReader(data, KIND, "x")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "cut off"),
        (b"\x01", "cut off"),
        (struct.pack("<Bq", 9, 0) + bytes(99), "a width of 9 bytes"),
        (struct.pack("<Bq", 0x21, 0) + bytes(99), "a width of 33 bytes"),
        (struct.pack("<Bq", 1, 0) + b"\0\0", "cut off"),
        (struct.pack("<Bq", 0, -1), "-1 to -1"),
        (struct.pack("<Bq", 1, 0) + b"\0\1\x0b", "0 to 11"),
        (struct.pack("<Bqq", 0x10, -1, 1), "-1 to 1"),
        (struct.pack("<Bqq", 0x18, 0, 1) + b"\xff" * 16, "is possible"),
        (struct.pack("<Bq", 8, 2**63 - 1) + b"\xff" * 24, "is possible"),
    ],
)
def test_numbers_that_are_not_sound(raw: bytes, words: str) -> None:
    reader = FrameReader(sealed(MAGIC, 3, raw), KIND, "x")
    with pytest.raises(RemoteIntegrityError, match=words):
        reader.integers(3, 0, 10, "numbers")


def texts_of(prefix: bytes, lengths: list[int], joined: bytes) -> bytes:
    body = struct.pack("<Bq", 1, 0) + bytes(lengths)
    return struct.pack("<II", len(prefix), len(joined)) + prefix + body + joined


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "cut off"),
        (texts_of(b"\xff", [1, 1], b"ab"), "not UTF-8"),
        (texts_of(b"", [1, 1], b"\xc3\x28"), "not UTF-8"),
        (texts_of(b"", [1, 1], b"\xed\xa0\x80"), "not UTF-8"),
        (texts_of(b"", [1, 0], b"ab"), "2 characters and announce 1"),
        (texts_of(b"", [2, 1], b"ab"), "2 characters and announce 3"),
        (texts_of(b"", [3, 0], b"ab"), "0 to 3"),
        (texts_of(b"x" * 5_000, [1, 1], b"ab"), "over 10000 bytes"),
        (struct.pack("<II", 2**32 - 1, 2**32 - 1), "over 10000 bytes"),
        (texts_of(b"x" * 99, [1, 2], b"abc"), "over 100 bytes long"),
    ],
)
def test_texts_that_are_not_sound(raw: bytes, words: str) -> None:
    reader = FrameReader(sealed(MAGIC, 2, raw), KIND, "x")
    with pytest.raises(RemoteIntegrityError, match=words):
        reader.texts(2, "texts", most_bytes=100)


def test_a_prefix_counts_for_all_columns_together() -> None:
    column = texts_of(b"x" * 4_000, [1, 1], b"ab")
    reader = FrameReader(sealed(MAGIC, 2, column * 2), KIND, "x")
    assert len(reader.texts(2, "texts")) == 2
    with pytest.raises(RemoteIntegrityError, match="over 10000 bytes"):
        reader.texts(2, "texts")
    writer = FrameWriter(KIND)
    writer.texts(["x" * 4_000 + "a", "x" * 4_000 + "b"])
    writer.texts(["x" * 4_000 + "a", "x" * 4_000 + "b"])
    with pytest.raises(InvalidArgumentError, match=r"16004 bytes before compression.*10000"):
        writer.finish(2)


@pytest.mark.parametrize(("raw", "plain"), [(b"1", b""), (b"", b"1")])
def test_what_is_left_over_is_damage(raw: bytes, plain: bytes) -> None:
    with pytest.raises(RemoteIntegrityError, match="belong to nothing"):
        FrameReader(sealed(MAGIC, 0, raw, plain), KIND, "x").finish()


def test_plain_bytes_and_single_numbers_are_held_to_their_ranges() -> None:
    reader = FrameReader(sealed(MAGIC, 0, struct.pack("<Q", 7), b"123"), KIND, "x")
    with pytest.raises(RemoteIntegrityError, match="cut off"):
        reader.plain(4)
    with pytest.raises(RemoteIntegrityError, match="its number is 7; 0 to 6 is possible"):
        reader.number(0, 6, "number")


@pytest.mark.parametrize(
    ("rows", "blob", "plain"), [(101, b"", b""), (1, bytes(10_001), b""), (1, b"", bytes(20_000))]
)
def test_a_writer_obeys_what_readers_ask(rows: int, blob: bytes, plain: bytes) -> None:
    writer = FrameWriter(KIND)
    writer.blob(blob)
    writer.plain(plain)
    with pytest.raises(InvalidArgumentError, match="no reader takes more than"):
        writer.finish(rows)
