"""Altered objects of format 2, each kind by the thousand: no wrong value, no error but ours.

Each is altered twice over. As it lies in the remote, under the digest that its parent carries: all of these are
refused. And as a hostile writer alters it, columns and all, with digests that fit: these are refused, or what is
read keeps every rule, which writing it again shows.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from ebooklet_tx.errors import RemoteIntegrityError, UnsupportedFormatError
from ebooklet_tx.formats.block import decode_block, encode_block
from ebooklet_tx.formats.history import decode_history, encode_history
from ebooklet_tx.formats.index_object import decode_directory, decode_pack_list, read_whole
from ebooklet_tx.formats.index_records import BlockRef
from ebooklet_tx.formats.root import decode_root, encode_root
from ebooklet_tx.formats.run_list import check_entries, decode_run_page
from ebooklet_tx.records import IndexRow, digest_of
from tests.campaigns import amounts
from tests.formats.samples import (
    HISTORY,
    HISTORY_DATA,
    LIST,
    LIST_DATA,
    OBJECTS,
    ROOT,
    ROWS,
    TAIL,
    block_of,
    mutations,
    opened,
    parts_of_root,
    placed_rows,
    sealed,
    sealed_root,
)

SLICE = 300
CAMPAIGN = 10_000

Reader = Callable[[bytes, bool], None]
"""Reads a frame, under the digest that it had or under one that fits, and checks what was read."""


def block_reader(rows: list[IndexRow]) -> Reader:
    made = block_of(rows)
    ref = BlockRef(
        "", None, 0, len(made.data), digest_of(made.data), made.row_count, made.least_seq, made.greatest_seq
    )

    def read(data: bytes, fits: bool) -> None:
        block = decode_block(data, name="x", expect=None if fits else ref)
        found = list(block.rows())
        refs = {pack.name: pack for pack in block.packs}
        assert list(decode_block(encode_block(found, refs), name="x").rows()) == found
        assert all(block.find(row.key) == row for row in found)

    return read


PLACED = placed_rows(20, packs=3)


def read_directory(data: bytes, fits: bool) -> None:
    _, entry = OBJECTS[0]
    if fits:
        size_bytes = entry.directory_offset_bytes + len(data)
        entry = entry._replace(
            size_bytes=size_bytes, directory_length_bytes=len(data), directory_digest=digest_of(data)
        )
    directory = decode_directory(data, entry=entry, name="x")
    assert sum(block.length_bytes for block in directory.blocks) == directory.packs_offset_bytes
    assert directory.packs_offset_bytes + directory.packs_length_bytes == entry.directory_offset_bytes


OBJECT, ENTRY = OBJECTS[0]
DIRECTORY = read_whole(OBJECT, entry=ENTRY, name="x")
PACKS = OBJECT[DIRECTORY.packs_offset_bytes : ENTRY.directory_offset_bytes]


def read_packs(data: bytes, fits: bool) -> None:
    directory = DIRECTORY
    if fits:
        directory = replace(DIRECTORY, packs_length_bytes=len(data), packs_digest=digest_of(data))
    uses = decode_pack_list(data, directory=directory, name="x")
    assert len({use.ref.name for use in uses}) == len(uses)


PAGE = LIST_DATA[: LIST.pages[0].length_bytes]


def read_page(data: bytes, fits: bool) -> None:
    page = LIST.pages[0]
    if fits:
        page = page._replace(length_bytes=len(data), digest=digest_of(data))
    entries = decode_run_page(data, page, name="x")
    check_entries(entries)
    assert len(entries) == 2


def read_history(data: bytes, fits: bool) -> None:
    ref = HISTORY._replace(size_bytes=len(data), digest=digest_of(data)) if fits else HISTORY
    records = decode_history(data, ref=ref)
    encode_history(records)


def read_body(data: bytes, fits: bool) -> None:
    manifest, body, tail = parts_of_root()
    whole = sealed_root(manifest, data, tail) if fits else ROOT.replace(body, data)
    root = decode_root(whole, name="x")
    assert decode_root(encode_root(root.manifest, root.tail), name="x") == root


def read_manifest(data: bytes, fits: bool) -> None:
    manifest, body, tail = parts_of_root()
    root = decode_root(sealed_root(data, body, tail) if fits else ROOT.replace(manifest, data), name="x")
    if root.manifest.min_writer <= 2:
        assert decode_root(encode_root(root.manifest, root.tail), name="x") == root


def read_root(data: bytes, fits: bool) -> None:
    decode_root(data, name="x").tail_block()


KINDS: dict[str, tuple[bytes, Reader]] = {
    "block": (TAIL, block_reader(ROWS)),
    "block of places": (block_of(PLACED).data, block_reader(PLACED)),
    "directory": (OBJECT[ENTRY.directory_offset_bytes :], read_directory),
    "list of packs": (PACKS, read_packs),
    "page": (PAGE, read_page),
    "history": (HISTORY_DATA, read_history),
    "binary part": (parts_of_root()[1], read_body),
}
TEXTS: dict[str, tuple[bytes, Reader]] = {"manifest": (parts_of_root()[0], read_manifest)}


def refused(read: Reader, data: bytes, fits: bool) -> bool:
    """Whether an altered object is refused, as it should be."""
    try:
        read(data, fits)
    except (RemoteIntegrityError, UnsupportedFormatError):
        return True
    return False


def campaign(name: str, count: int, seed: int) -> int:
    """Alters an object many times; returns how many with fitting digests were taken for sound."""
    data, read = (KINDS | TEXTS)[name]
    read(data, True)
    rng = random.Random(f"{name} {seed}")
    taken = 0
    for altered in mutations(data, rng, count):
        assert refused(read, altered, False)
        taken += not refused(read, altered, True)
    if name in KINDS:
        rows, raw, plain = opened(data)
        for altered in mutations(raw, rng, count):
            taken += not refused(read, sealed(data[:8], rows, altered, plain), True)
        for altered in mutations(plain, rng, count // 10):
            taken += not refused(read, sealed(data[:8], rows, raw, altered), True)
    return taken


@pytest.mark.parametrize("name", [*KINDS, *TEXTS])
def test_a_slice_of_the_campaign(name: str) -> None:
    campaign(name, SLICE, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*KINDS, *TEXTS])
def test_the_campaign(name: str) -> None:
    taken = campaign(name, CAMPAIGN, 1)
    print(f"{name}: {taken} taken for sound, all of them were")


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is kept by Linux alone")
@pytest.mark.parametrize("count", amounts(30, 1000))
def test_no_altered_object_costs_much_memory(count: int) -> None:
    """A `MemoryError` is no error of ours, so that the campaign of a process with 64 MiB fails by it."""
    code = (
        "from tests.formats import bombs, test_mutations as mutations; bombs.limit_memory(); "
        f"[mutations.campaign(name, {count}, 2) for name in (*mutations.KINDS, *mutations.TEXTS)]"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr[-3000:]


@pytest.mark.parametrize("count", [SLICE, pytest.param(CAMPAIGN, marks=pytest.mark.slow)])
def test_roots_as_they_lie_in_the_remote(count: int) -> None:
    rng = random.Random(count)
    assert all(refused(read_root, altered, False) for altered in mutations(ROOT, rng, count))


@pytest.mark.parametrize("count", [SLICE, pytest.param(CAMPAIGN, marks=pytest.mark.slow)])
def test_whole_objects_as_they_lie_in_the_remote(count: int) -> None:
    """Each byte of an index object is under a digest."""

    def read(data: bytes, fits: bool) -> None:
        directory = read_whole(data, entry=ENTRY, name="x")
        decode_pack_list(
            data[directory.packs_offset_bytes : ENTRY.directory_offset_bytes], directory=directory, name="x"
        )
        for ref in directory.blocks:
            decode_block(data[ref.offset_bytes : ref.offset_bytes + ref.length_bytes], name="x", expect=ref)

    read(OBJECT, True)
    rng = random.Random(count)
    assert all(refused(read, altered, False) for altered in mutations(OBJECT, rng, count))
