"""Index objects: what a stream of rows becomes, and directories that lie."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebooklet_tx import limits
from ebooklet_tx.errors import InvalidArgumentError, RemoteIntegrityError, UnsupportedFormatError
from ebooklet_tx.formats import index_object
from ebooklet_tx.formats.block import AnyRow, decode_block
from ebooklet_tx.formats.columns import FrameKind, FrameWriter
from ebooklet_tx.formats.index_object import (
    IndexObjectBuilder,
    decode_directory,
    decode_pack_list,
    join_blocks,
    read_whole,
)
from ebooklet_tx.formats.index_records import Directory, IndexEntry, Sizes
from ebooklet_tx.formats.run_list import problem_of_slots
from ebooklet_tx.records import IndexRow, ObjectRef, digest_of
from tests.formats.samples import (
    ENTRIES,
    OBJECTS,
    TINY,
    cut_rows,
    numbered,
    objects_of,
    opened,
    placed_rows,
    refs_of,
    sealed,
    write_objects,
)

GOLDEN = Path(__file__).parent / "golden"
MAGIC = b"EBTXdir\n"
ANY = FrameKind(MAGIC, "a hostile writer's frame", 2**30, 2**40, 2**40)


def rows_of(data: bytes, entry: IndexEntry) -> list[IndexRow]:
    """All rows of an object, each block held to what its directory says."""
    directory = read_whole(data, entry=entry, name=entry.name)
    rows: list[IndexRow] = []
    for ref in directory.blocks:
        piece = data[ref.offset_bytes : ref.offset_bytes + ref.length_bytes]
        rows += decode_block(piece, name=entry.name, expect=ref, greatest_seq=entry.greatest_seq).rows()
    return rows


KEYS = st.text(st.sampled_from("ab\0\ud7ff\ue000\U0010ffff"), min_size=1, max_size=6)


@given(st.lists(KEYS, unique=True, min_size=1, max_size=40), st.integers(1, 3), st.integers(1, 3))
def test_rows_become_disjoint_objects_that_readers_take(
    keys: list[str], rows_each: int, blocks_each: int
) -> None:
    rows = [IndexRow(key, 1 + number % 3, 0, None) for number, key in enumerate(sorted(keys))]
    sizes = Sizes(block_rows=rows_each, object_blocks=blocks_each)
    found: list[IndexRow] = []
    entries: list[IndexEntry] = []
    for data, entry in write_objects(rows, {}, sizes):
        here = rows_of(data, entry)
        assert all(entry.holds(row.key) for row in here)
        assert entry.row_count == len(here) <= rows_each * blocks_each
        assert (entry.least_seq, entry.greatest_seq) == (min(r.seq for r in here), max(r.seq for r in here))
        directory = read_whole(data, entry=entry, name="x")
        for row in here:
            number = directory.find(row.key)
            lo, hi = directory.slot(number, entry.lo, entry.hi)
            assert lo <= row.key
            assert hi is None or row.key < hi
        found += here
        entries.append(entry)
    assert found == rows
    assert problem_of_slots(entries) is None
    assert all(one.hi == other.lo for one, other in pairwise(entries))


@given(st.lists(KEYS, unique=True, min_size=4, max_size=20))
def test_outer_bounds_stay_in_the_range_given(keys: list[str]) -> None:
    keys = sorted(keys)
    rows = [IndexRow(key, 1, 0, None) for key in keys[1:-1]]
    made = [entry for _, entry in write_objects(rows, {}, TINY, lo=keys[0], hi=keys[-1])]
    assert made[0].lo >= keys[0]
    assert made[-1].hi is not None
    assert made[-1].hi <= keys[-1]


def test_long_keys_have_short_outer_bounds() -> None:
    rows = [IndexRow("k" * 60_000 + end, 1, 0, None) for end in "ab"]
    ((_, entry),) = write_objects(rows, {})
    assert (entry.lo, entry.hi) == ("k" * 64, "k" * 63 + "l")


def test_blocks_close_at_their_bytes_too() -> None:
    sizes = Sizes(block_bytes=100)
    keys = [f"{number:03d}" + "k" * 27 for number in range(10)] + ["9" * 500, "99", "991"]
    value = bytes(90)
    rows: list[AnyRow] = [IndexRow(key, 1, 0, None) for key in sorted(keys)]
    rows.append(IndexRow("x", 1, 0, digest_of(value), None, None, 90, value))
    rows.append(IndexRow("y" * 10, 1, 0, None))
    counts = [block.row_count for block in cut_rows(iter(rows), {}, sizes)]
    assert sum(counts) == len(rows)
    assert counts[:3] == [3, 3, 3]
    for block in cut_rows(iter(rows), {}, sizes):
        weight = sum(len(r.key) + len(r.value or b"") for r in decode_block(block.data, name="x").rows())
        assert weight <= 100 or block.row_count == 1


def test_objects_close_at_their_bytes_packs_and_fences_too(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = placed_rows(40, packs=40)
    by_bytes = objects_of(rows, replace(TINY, object_blocks=100, object_bytes=1))
    assert {entry.row_count for _, entry in by_bytes} == {4}
    by_fences = objects_of(rows, replace(TINY, object_blocks=100, fence_bytes=1))
    assert {entry.row_count for _, entry in by_fences} == {4}
    monkeypatch.setattr(index_object, "MAX_OBJECT_PACKS", 7)
    by_packs = objects_of(rows, replace(TINY, object_blocks=100))
    assert {entry.row_count for _, entry in by_packs} == {6, 4}


def test_memory_does_not_follow_the_number_of_rows() -> None:
    refs = refs_of(placed_rows(1))

    def stream() -> Iterator[AnyRow]:
        (name,) = refs
        for number in range(30_000):
            yield (f"k{number:09d}", 1, number, b"d" * 16, name, number * 100, 100, None)

    sizes = Sizes(object_blocks=4)
    list(write_objects(placed_rows(600), refs, sizes))
    tracemalloc.start()
    rows = sum(entry.row_count for _, entry in write_objects(stream(), refs, sizes))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == 30_000
    assert peak_bytes < 2_000_000


def test_blocks_are_reused_as_they_are() -> None:
    data, entry = OBJECTS[0]
    directory = read_whole(data, entry=entry, name="x")
    pieces = [data[ref.offset_bytes : ref.offset_bytes + ref.length_bytes] for ref in directory.blocks]
    blocks = [decode_block(piece, name="x").encoded_as(piece) for piece in pieces]
    ((again, other),) = join_blocks(blocks, numbered("index"), TINY, hi=entry.hi)
    assert again == data
    assert other.directory_digest == entry.directory_digest


def test_the_packs_of_an_object_stand_apart() -> None:
    rows = [*placed_rows(4, packs=2), IndexRow("z", 1, 1, None)]
    ((data, entry),) = objects_of(rows, Sizes())
    directory = read_whole(data, entry=entry, name="x")
    start = directory.packs_offset_bytes
    piece = data[start : start + directory.packs_length_bytes]
    uses = decode_pack_list(piece, directory=directory, name="x")
    assert [(use.ref, use.row_count, use.value_bytes) for use in uses] == [
        (ref, 2, 200) for ref in refs_of(rows).values()
    ]
    for changed, words in (
        (piece + b"x", "digest"),
        (bytes(len(piece)), "digest"),
    ):
        with pytest.raises(RemoteIntegrityError, match=words):
            decode_pack_list(changed, directory=directory, name="x")
    with pytest.raises(RemoteIntegrityError, match="2 packs, and the directory says 3"):
        decode_pack_list(piece, directory=replace(directory, pack_count=3), name="x")


def test_lookups_in_a_directory() -> None:
    data, entry = objects_of(placed_rows(10), Sizes(block_rows=2))[0]
    directory = read_whole(data, entry=entry, name="x")
    assert [directory.find(f"station/{n:06d}/temp") for n in range(10)] == [n // 2 for n in range(10)]
    assert directory.find("") == 0
    assert directory.find("zz") == 4
    assert directory.slot(0, "a", None) == ("a", "station/000002")
    assert directory.slot(4, "a", "station/000009") == ("station/000008", "station/000009")


def test_the_golden_object() -> None:
    data = (GOLDEN / "index_object_v2.bin").read_bytes()
    assert rows_of(data, ENTRIES[0]) == placed_rows(15, packs=3)[:4]


# -- writers -----------------------------------------------------------------------------------


def test_a_builder_refuses_what_no_reader_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    builder = IndexObjectBuilder("index/x", "")
    with pytest.raises(InvalidArgumentError, match="without a block"):
        builder.finish(None)
    (first, second) = list(cut_rows(placed_rows(4), refs_of(placed_rows(4)), TINY))
    builder.add(second)
    with pytest.raises(InvalidArgumentError, match="can't follow"):
        builder.add(first)
    monkeypatch.setattr(index_object, "MAX_OBJECT_BYTES", 10)
    with pytest.raises(InvalidArgumentError, match="no reader takes more than 10"):
        builder.finish(None)


def test_a_stream_out_of_order_is_refused() -> None:
    rows = placed_rows(10)
    with pytest.raises(InvalidArgumentError, match="can't follow"):
        list(write_objects([*rows[4:8], *rows[:4]], refs_of(rows), TINY))


def test_an_error_of_the_source_comes_through() -> None:
    def stream() -> Iterator[AnyRow]:
        yield from placed_rows(3)
        raise OSError("the disk")

    with pytest.raises(OSError, match="the disk"):
        list(write_objects(stream(), refs_of(placed_rows(3)), TINY))


# -- directories that lie ----------------------------------------------------------------------


def directory_of(data: bytes, entry: IndexEntry) -> bytes:
    return data[entry.directory_offset_bytes :]


def forged(changes: dict[str, Any], **of_entry: Any) -> tuple[bytes, IndexEntry]:
    """A directory with other columns than the first object's, and an entry with a right digest of it."""
    data, entry = OBJECTS[0]
    true = read_whole(data, entry=entry, name="x")
    columns: dict[str, Any] = {
        "packs_length": true.packs_length_bytes,
        "pack_count": true.pack_count,
        "fences": [block.fence for block in true.blocks],
        "lengths": [block.length_bytes for block in true.blocks],
        "rows": [block.row_count for block in true.blocks],
        "least": [block.least_seq for block in true.blocks],
        "greatest": [block.greatest_seq for block in true.blocks],
        "digests": [true.packs_digest, *(block.digest for block in true.blocks)],
    } | changes
    writer = FrameWriter(ANY)
    writer.number(columns["packs_length"])
    writer.number(columns["pack_count"])
    writer.texts(columns["fences"])
    for name in ("lengths", "rows", "least", "greatest"):
        writer.integers(columns[name])
    writer.plain(b"".join(columns["digests"]))
    made = writer.finish(len(columns["fences"]))
    size_bytes = entry.directory_offset_bytes + len(made)
    entry = entry._replace(
        size_bytes=size_bytes, directory_length_bytes=len(made), directory_digest=digest_of(made)
    )
    return made, entry._replace(**of_entry)


def test_the_forger_writes_what_the_writer_does() -> None:
    data, entry = OBJECTS[0]
    made, forged_entry = forged({})
    assert made == directory_of(data, entry)
    assert forged_entry == entry
    assert isinstance(decode_directory(made, entry=entry, name="x"), Directory)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fences": ["a", "b"]}, "strict order"),
        ({"fences": ["", ""]}, "strict order"),
        ({"fences": [], "lengths": [], "rows": [], "least": [], "greatest": [], "digests": [bytes(16)]}, "order"),
        ({"lengths": [0, 1]}, "lengths of blocks"),
        ({"lengths": [limits.MAX_BLOCK_BYTES + 1, 1]}, "lengths of blocks"),
        ({"lengths": [1, 1]}, "do not fill the object"),
        ({"packs_length": 1}, "do not fill the object"),
        ({"packs_length": limits.MAX_PACK_LIST_BYTES + 1}, "length is"),
        ({"pack_count": limits.MAX_OBJECT_PACKS + 1}, "number of packs"),
        ({"rows": [0, 4]}, "rows of blocks"),
        ({"rows": [1025, 1]}, "rows of blocks"),
        ({"rows": [1, 2]}, "not those that the run says"),
        ({"least": [0, 1]}, "least seqs"),
        ({"greatest": [1, 2]}, "greatest seqs"),
        ({"digests": [bytes(16)] * 2}, "cut off"),
        ({"digests": [bytes(16)] * 4}, "belong to nothing"),
        (
            {
                "fences": [*map(str, range(257))],
                "lengths": [1] * 257,
                "rows": [1] * 257,
                "least": [1] * 257,
                "greatest": [1] * 257,
            },
            "announces 257 rows",
        ),
    ],
)
def test_a_directory_that_lies_is_refused(changes: dict[str, Any], words: str) -> None:
    data, entry = forged(changes)
    with pytest.raises(RemoteIntegrityError, match=words):
        decode_directory(data, entry=entry, name="x")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"row_count": 5}, "not those that the run says"),
        ({"greatest_seq": 2}, "not those that the run says"),
        ({"least_seq": 2}, "not those that the run says"),
        ({"directory_digest": bytes(16)}, "digest"),
        ({"size_bytes": 10_000}, "do not fill the object"),
    ],
)
def test_a_directory_is_what_its_entry_says(changes: dict[str, Any], words: str) -> None:
    data, entry = OBJECTS[0]
    with pytest.raises(RemoteIntegrityError, match=rf"index/7 .*{words}"):
        decode_directory(directory_of(data, entry), entry=entry._replace(**changes), name="index/7")


def test_a_seq_above_the_greatest_of_the_entry_is_refused() -> None:
    data, entry = forged({"least": [1, 3], "greatest": [1, 2]}, greatest_seq=3)
    with pytest.raises(RemoteIntegrityError, match="least seq is above"):
        decode_directory(data, entry=entry, name="x")


def test_clipping_a_slot_changes_nothing_else() -> None:
    data, entry = OBJECTS[1]
    clipped = entry._replace(lo=entry.lo + "x", hi="station/000006")
    assert read_whole(data, entry=clipped, name="x") == read_whole(data, entry=entry, name="x")


def test_a_whole_object_of_another_size_is_refused() -> None:
    data, entry = OBJECTS[0]
    with pytest.raises(RemoteIntegrityError, match="and its run says"):
        read_whole(data + b"x", entry=entry, name="x")


def test_a_newer_directory_asks_for_an_upgrade() -> None:
    data, entry = OBJECTS[0]
    rows, raw, plain = opened(directory_of(data, entry))
    made = sealed(MAGIC, rows, raw, plain, version=3)
    entry = entry._replace(directory_length_bytes=len(made), directory_digest=digest_of(made))
    with pytest.raises(UnsupportedFormatError, match="Upgrade"):
        decode_directory(made, entry=entry, name="x")


def test_a_pack_list_that_lies_is_refused() -> None:
    writer = FrameWriter(replace_magic(b"EBTXpks\n"))
    writer.texts(["e"])
    writer.integers([1])
    writer.plain(bytes(16))
    writer.integers([0])
    writer.integers([1])
    data = writer.finish(1)
    directory = Directory((), 0, len(data), digest_of(data), 1)
    with pytest.raises(RemoteIntegrityError, match="rows of packs"):
        decode_pack_list(data, directory=directory, name="x")


def replace_magic(magic: bytes) -> FrameKind:
    return ANY._replace(magic=magic)


def test_many_packs_fit() -> None:
    rows = placed_rows(limits.MAX_OBJECT_PACKS, packs=limits.MAX_OBJECT_PACKS)
    refs = {name: ObjectRef(name, "e" * 1024, 2**32) for name in refs_of(rows)}
    ((data, entry),) = write_objects(rows, refs)
    directory = read_whole(data, entry=entry, name="x")
    start = directory.packs_offset_bytes
    uses = decode_pack_list(data[start : start + directory.packs_length_bytes], directory=directory, name="x")
    assert len(uses) == limits.MAX_OBJECT_PACKS
