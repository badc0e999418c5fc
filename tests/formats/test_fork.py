"""The objects of a fork: round trips, golden files, and every damage to small ones."""

from __future__ import annotations

import random
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from ebooklet_tx.errors import InvalidArgumentError, RemoteIntegrityError, UnsupportedFormatError
from ebooklet_tx.formats import fork as codec
from ebooklet_tx.formats.fork import (
    ChangedRow,
    ForkNote,
    decode_changes,
    decode_fork,
    encode_changes,
    encode_fork,
    is_changes_name,
    is_fork_name,
)
from ebooklet_tx.records import IndexRow, ObjectRef
from tests.formats.samples import NOW_US, PACK_A, PACK_B, REFS, ROOT, hex_id, placed_rows, refs_of

GOLDEN = Path(__file__).parent / "golden"
UUID = codec.decode_root(ROOT, name="D").manifest.uuid
NOTE = ForkNote(hex_id(7), UUID, 86_400, NOW_US, "höst:1")
CHANGES = [
    ChangedRow(IndexRow("gone", 1, NOW_US, None), b"o" * 16, None),
    ChangedRow(IndexRow("käy/\x00\U0001f511", 1, 0, b"d" * 16, PACK_A, 16, 4_294_967_295), None, REFS[PACK_A]),
    ChangedRow(IndexRow("station/2", 1, 2**55, b"e" * 16, PACK_B, 2**39, 0), b"p" * 16, REFS[PACK_B]),
]
REFUSED = (RemoteIntegrityError, UnsupportedFormatError)


def rows_in(data: bytes) -> list[ChangedRow]:
    return [row for page in decode_changes(data, name="C") for row in page]


def test_the_golden_fork() -> None:
    note, root, root_bytes = decode_fork((GOLDEN / "fork_v1.bin").read_bytes(), name="F")
    assert (note, root_bytes) == (NOTE, ROOT)
    assert root.manifest == codec.decode_root(ROOT, name="D").manifest


def test_the_golden_changes() -> None:
    assert rows_in((GOLDEN / "changes_v1.bin").read_bytes()) == CHANGES


def test_what_is_encoded_is_decoded() -> None:
    assert decode_fork(encode_fork(NOTE, ROOT), name="F")[0] == NOTE
    plain = placed_rows(1300, packs=3)
    refs = refs_of(plain)
    rows = [
        ChangedRow(row, row.digest if number % 3 else None, refs[row.object_name or ""])
        for number, row in enumerate(plain)
    ]
    data = encode_changes(rows)
    assert [len(page) for page in decode_changes(data, name="C")] == [512, 512, 276]
    assert rows_in(data) == rows
    # Ten bytes a row beside the two digests.
    assert len(data) < 1300 * 43


def test_names() -> None:
    assert is_fork_name(f"fork/{hex_id(1)}")
    assert is_fork_name(f"fork/{hex_id(1)}.{hex_id(2)}")
    assert is_changes_name(f"fork/{hex_id(1)}.{hex_id(2)}")
    assert not is_changes_name(f"fork/{hex_id(1)}")
    for name in ("fork/", f"fork/{hex_id(1)}.", f"fork/{hex_id(1)}x", f"fork/{'A' * 32}", f"xfork/{hex_id(1)}"):
        assert not is_fork_name(name)


@pytest.mark.parametrize("mask", [0xFF, 0x01])
def test_every_flipped_byte_of_a_fork_is_refused(mask: int) -> None:
    whole = encode_fork(NOTE, ROOT)
    for position in range(len(whole)):
        data = bytearray(whole)
        data[position] ^= mask
        with pytest.raises(REFUSED):
            decode_fork(bytes(data), name="F")


def test_every_cut_is_refused() -> None:
    for whole, read in ((encode_fork(NOTE, ROOT), decode_fork), (encode_changes(CHANGES), decode_changes)):
        for length in range(len(whole)):
            with pytest.raises(REFUSED):
                list(read(whole[:length], name="F"))
        with pytest.raises(REFUSED):
            list(read(whole + b"\0", name="F"))


def test_an_altered_list_is_refused_or_keeps_every_rule() -> None:
    """Its digest is in the receipt; a hostile receipt has one that fits."""
    whole, rng = encode_changes(CHANGES), random.Random(5)
    read = 0
    for _ in range(1500):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            rows = rows_in(bytes(data))
        except REFUSED:
            continue
        read += 1
        assert rows_in(encode_changes(rows)) == rows
        assert all(row.row.key and (row.ref is None) == (row.row.digest is None) for row in rows)
    assert read


def test_a_newer_version_is_told_from_damage() -> None:
    for whole, read in ((encode_fork(NOTE, ROOT), decode_fork), (encode_changes(CHANGES), decode_changes)):
        for version, flags in ((2, 0), (1, 1)):
            data = bytearray(whole)
            struct.pack_into("<HH", data, 8, version, flags)
            with pytest.raises(UnsupportedFormatError, match="Upgrade ebooklet_tx"):
                list(read(bytes(data), name="F"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"fork_id": "x" * 32},
        {"uuid": "U" * 32},
        {"ttl_seconds": 0},
        {"ttl_seconds": 30 * 86_400 + 1},
        {"ttl_seconds": True},
        {"created_at_us": -1},
        {"writer": "two\nlines"},
    ],
)
def test_a_note_that_no_reader_takes_is_not_written(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidArgumentError):
        encode_fork(replace(NOTE, **wrong), ROOT)  # type: ignore[arg-type]


def test_a_root_of_another_database_is_refused() -> None:
    with pytest.raises(RemoteIntegrityError, match="two databases"):
        decode_fork(encode_fork(replace(NOTE, uuid=hex_id(3)), ROOT), name="F")


def test_rows_that_no_worker_writes_are_refused() -> None:
    inline = ChangedRow(IndexRow("k", 1, 0, codec._digest_of(b"v"), None, None, 1, b"v"), None, None)
    metadata = ChangedRow(IndexRow("", 1, 0, b"d" * 16, PACK_A, 16, 1), None, REFS[PACK_A])
    for row in (inline, metadata):
        with pytest.raises(RemoteIntegrityError):
            rows_in(encode_changes([row]))
    with pytest.raises(InvalidArgumentError):
        encode_changes([])
    with pytest.raises(InvalidArgumentError):
        encode_changes(CHANGES[::-1])
    one = ObjectRef(PACK_A, "e", 10)
    with pytest.raises(InvalidArgumentError):
        encode_changes([ChangedRow(IndexRow("k", 1, 0, b"d" * 16, PACK_A, 16, 1), None, one)])
