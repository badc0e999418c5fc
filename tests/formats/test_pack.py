"""Packs: round trips, every damage to a small one, and the golden file of format 1."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebooklet_tx.errors import (
    Error,
    InvalidArgumentError,
    InvalidKeyError,
    InvalidValueError,
    RemoteIntegrityError,
    UnsupportedFormatError,
)
from ebooklet_tx.formats.pack import (
    PACK_HEADER_BYTES,
    PackBuilder,
    iter_pack,
    pack_prefix,
    record_bytes,
)
from ebooklet_tx.limits import RESERVED_TEXTS
from ebooklet_tx.records import MAX_VALUE_BYTES, digest_of

GOLDEN = Path(__file__).parent.parent / "golden" / "pack_v1.bin"
GOLDEN_RECORDS = [
    ("station/1", 1_700_000_000_000_000, 45, b"twelve bytes"),
    ("", 1_700_000_000_000_001, 77, b'{"meta":1}'),
    ("käy/\x00\U0001f511", 0, 117, b""),
]

KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
TIMESTAMPS = st.integers(0, 2**55)
RECORDS = st.lists(st.tuples(KEYS, TIMESTAMPS, st.binary(max_size=300)), max_size=20)


def build(records: list[tuple[str, int, bytes]]) -> tuple[bytes, list[int]]:
    builder = PackBuilder()
    offsets = [builder.add(*record) for record in records]
    return builder.finish(), offsets


SMALL, _ = build([("a", 5, b"one"), ("bé", 2**50, b""), ("", 7, b"three and more")])
INDEX = [(key, stamp, offset, digest_of(value)) for key, stamp, offset, value in iter_pack(SMALL, name="p")]


def refused_or_seen(data: bytes) -> bool:
    """Whether reading raises, or shows something other than what the index has."""
    try:
        found = [(key, stamp, at, digest_of(value)) for key, stamp, at, value in iter_pack(data, name="p")]
    except Error:
        return True
    return found != INDEX


@given(RECORDS)
def test_what_is_added_is_read_back(records: list[tuple[str, int, bytes]]) -> None:
    data, offsets = build(records)
    assert [(k, t, v) for k, t, _, v in iter_pack(data, name="p")] == records
    assert [at for _, _, at, _ in iter_pack(data, name="p")] == offsets
    assert [data[at : at + len(r[2])] for at, r in zip(offsets, records, strict=True)] == [r[2] for r in records]
    assert len(data) == PACK_HEADER_BYTES + sum(record_bytes(k, len(v)) for k, _, v in records)


@given(RECORDS)
def test_size_is_known_before_the_end(records: list[tuple[str, int, bytes]]) -> None:
    builder = PackBuilder()
    for record in records:
        builder.add(*record)
        assert builder.size_bytes == len(builder.finish())


@given(KEYS, TIMESTAMPS, st.binary(max_size=300))
def test_prefix_and_value_are_the_pack_of_one(key: str, stamp: int, value: bytes) -> None:
    prefix = pack_prefix(key, stamp, len(value))
    assert prefix + value == build([(key, stamp, value)])[0]
    assert list(iter_pack(prefix + value, name="p")) == [(key, stamp, len(prefix), value)]


@pytest.mark.parametrize("mask", [0xFF, 0x01, 0x80, 0x10])
def test_every_flipped_byte_is_seen(mask: int) -> None:
    for position in range(len(SMALL)):
        data = bytearray(SMALL)
        data[position] ^= mask
        assert refused_or_seen(bytes(data)), position


def test_every_truncation_is_seen() -> None:
    for length in range(len(SMALL)):
        assert refused_or_seen(SMALL[:length]), length


def test_a_cut_record_is_refused_after_the_sound_ones() -> None:
    records = iter_pack(SMALL[:-1], name="pack/x")
    assert [next(records)[0], next(records)[0]] == ["a", "bé"]
    with pytest.raises(RemoteIntegrityError, match=r"pack/x.*longer than what is left.*verify"):
        next(records)


@pytest.mark.parametrize(
    ("key_len", "stamp", "value_len", "rest"),
    [
        (2**32 - 1, 0, 0, b"k"),
        (65_536, 0, 0, b"k" * 65_536),
        (1, 0, 2**64 - 1, b"k"),
        (1, 0, MAX_VALUE_BYTES, b"k"),
        (1, 2**55 + 1, 0, b"k"),
        (1, 0, 0, b"\xff"),
        (3, 0, 0, b"\xed\xa0\x80"),
        (1, 0, 1, b"k"),
    ],
)
def test_a_hostile_record_is_refused(key_len: int, stamp: int, value_len: int, rest: bytes) -> None:
    data = build([])[0] + struct.pack("<IQQ", key_len, stamp, value_len) + rest
    with pytest.raises(RemoteIntegrityError, match="pack/x: the record at byte 16"):
        list(iter_pack(data, name="pack/x"))


@pytest.mark.parametrize("head", [struct.pack("<HHI", 2, 0, 0), struct.pack("<HHI", 1, 1, 0)])
def test_a_newer_pack_asks_for_an_upgrade(head: bytes) -> None:
    with pytest.raises(UnsupportedFormatError, match=r"pack/x.*Upgrade ebooklet_tx"):
        list(iter_pack(SMALL[:8] + head + SMALL[16:], name="pack/x"))


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04" * 20, SMALL[:15], SMALL[:8] + bytes(8)])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteIntegrityError, match="pack/x"):
        list(iter_pack(data, name="pack/x"))


def test_bad_input_is_refused_and_changes_nothing() -> None:
    builder = PackBuilder()
    builder.add("a", 1, b"x")
    before = builder.finish()
    with pytest.raises(InvalidKeyError, match="surrogates"):
        builder.add("\ud800", 1, b"x")
    with pytest.raises(InvalidKeyError, match="65536 bytes"):
        builder.add("k" * 65_536, 1, b"x")
    with pytest.raises(InvalidArgumentError, match="timestamp -1"):
        builder.add("k", -1, b"x")
    with pytest.raises(InvalidArgumentError, match="timestamp"):
        pack_prefix("k", 2**55 + 1, 1)
    with pytest.raises(InvalidValueError, match="4294967296 bytes"):
        pack_prefix("k", 1, 2**32)
    assert builder.finish() == before
    assert builder.size_bytes == len(before)


def test_the_longest_key_fits() -> None:
    data, _ = build([("é" * 32_767 + "e", 1, b"x")])
    assert next(iter_pack(data, name="p"))[3] == b"x"


def test_format_1_is_read_and_written_for_ever() -> None:
    data = GOLDEN.read_bytes()
    assert list(iter_pack(data, name="golden")) == GOLDEN_RECORDS
    assert build([(key, stamp, value) for key, stamp, _, value in GOLDEN_RECORDS])[0] == data


# -- many at once ------------------------------------------------------------------------------


@given(RECORDS.filter(bool), RECORDS)
def test_many_at_once_are_laid_out_as_one_by_one(
    records: list[tuple[str, int, bytes]], before: list[tuple[str, int, bytes]]
) -> None:
    together, alone = PackBuilder(), PackBuilder()
    for record in before:
        assert together.add(*record) == alone.add(*record)
    offsets = [alone.add(*record) for record in records]
    keys, stamps, values = zip(*records, strict=True)
    assert together.add_all(keys, stamps, values, alone.size_bytes) == offsets
    assert together.finish() == alone.finish()
    assert together.size_bytes == alone.size_bytes


@pytest.mark.parametrize(
    "second",
    [
        (next(iter(RESERVED_TEXTS)), 2, b""),
        ("l", -1, b""),
        ("l", 2**63, b""),
        ("l" * 70_000, 1, b""),
        ("l", 1, b"w" * 2000),
    ],
    ids=["reserved key", "negative timestamp", "timestamp too late", "key too long", "does not fit"],
)
def test_many_of_which_one_is_refused_change_nothing(second: tuple[str, int, bytes]) -> None:
    builder = PackBuilder()
    builder.add("before", 1, b"value")
    before = builder.finish()
    keys, stamps, values = zip(("k", 1, b"v"), second, strict=True)
    assert builder.add_all(keys, stamps, values, 2000) is None
    assert (builder.finish(), builder.size_bytes) == (before, len(before))
