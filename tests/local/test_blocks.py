"""The walk over a Booklet file: what booklet makes is sound, and no damage makes it hang or swell."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import booklet
import pytest

from ebooklet_tx.limits import METADATA_KEY_BYTES
from ebooklet_tx.local.booklet.layout import (
    BLOCK_HEAD_BYTES,
    HEADER_BYTES,
    Block,
    BlockDamageError,
    Header,
    Scan,
    block_regions,
    iter_blocks,
    parse_header,
    scan_file,
)
from tests.pairs import flip


@contextmanager
def opened(path: Path) -> Iterator[tuple[int, Header]]:
    fd = os.open(path, os.O_RDONLY)
    try:
        header = parse_header(os.pread(fd, HEADER_BYTES, 0))
        assert header is not None
        yield fd, header
    finally:
        os.close(fd)


def scan(path: Path) -> Scan:
    with opened(path) as (fd, header):
        return scan_file(fd, header)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Live, overwritten, deleted and reserved blocks; several in one chain."""
    path = tmp_path / "small.blt"
    with booklet.open(path, "n", key_serializer="str", value_serializer=None, n_buckets=20) as blt:
        for number in range(9):
            blt.set(f"k{number}", b"value %d" % number, timestamp=1000 + number)
        blt.sync()
        blt["k1"] = b"overwritten"
        del blt["k2"]
        blt.set_metadata({"m": 1})
        blt.set_reserved(1, b"reserved")
    return path


def test_a_header_is_read_as_booklet_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "x.blt"
    with booklet.open(path, "n", key_serializer="str", value_serializer="orjson", n_buckets=17) as blt:
        blt["k"] = 1
        uuid = blt.uuid.bytes
    with opened(path) as (_, header):
        assert (header.version, header.n_buckets, header.n_keys) == (5, 17, 1)
        assert header.uuid == uuid
        assert header.has_timestamps
        assert header.index_offset_bytes == HEADER_BYTES
        assert header.first_block_offset_bytes == HEADER_BYTES + 17 * 6
    assert parse_header(path.read_bytes()[: HEADER_BYTES - 1]) is None


def test_a_walk_finds_what_booklet_finds(small: Path) -> None:
    found = scan(small)
    assert found.damage == []
    with booklet.open(small) as blt:
        for key, timestamp_us, offset, length in blt.locations():
            block = found.live.pop(key.encode())
            assert (block.timestamp_us, block.value_offset_bytes, block.value_length_bytes) == (
                timestamp_us,
                offset,
                length,
            )
    assert METADATA_KEY_BYTES in found.live
    assert len(found.live) == 2
    assert len(found.reached) == 10


@pytest.mark.parametrize("how", ["grown", "pruned", "grown twice", "cleared"])
def test_a_walk_finds_what_booklet_has_moved(tmp_path: Path, how: str) -> None:
    path = tmp_path / "x.blt"
    with booklet.open(path, "n", key_serializer="str", value_serializer=None, n_buckets=17) as blt:
        for number in range(3000 if how != "grown twice" else 32_000):
            blt[f"k{number}"] = b"%d" % number
            if number in (2000, 30_000):
                blt.sync()
        if how == "pruned":
            del blt["k7"]
            blt.prune()
        if how == "cleared":
            # Booklet's clear leaves buffered pointers behind; what was synced it clears rightly.
            blt.sync()
            blt.clear()
        blt.sync()
        blt["after"] = b"1"
    found = scan(path)
    assert found.damage == []
    with booklet.open(path) as blt:
        assert {key.decode() for key in found.live} == set(blt)
    with opened(path) as (fd, header):
        regions = block_regions(header, path.stat().st_size)
        assert len(regions) == (1 if how == "cleared" else 2)
        blocks = [block for start, end in regions for block in iter_blocks(fd, start, end)]
        # The filler over an old index is passed over as a dead block.
        assert any(block.key == b"\0" for block in blocks) == (how == "grown twice")


def test_every_byte_flipped_in_turn(small: Path) -> None:
    size = small.stat().st_size
    sound = scan(small).live
    values = {
        at
        for b in sound.values()
        for at in range(b.value_offset_bytes, b.value_offset_bytes + b.value_length_bytes)
    }
    unseen = []
    for byte in range(size):
        for bit in (0, 3, 7):
            flip(small, byte, bit)
            found = scan(small)
            for key, block in found.live.items():
                assert block.value_offset_bytes + block.value_length_bytes <= size
                assert len(key) <= size
            if not found.damage and found.live != sound:
                unseen.append(byte)
            if not found.damage and byte in values:
                assert found.live == sound
            flip(small, byte, bit)
    # Only a timestamp can change without a trace.
    stamps = {at for b in sound.values() for at in range(b.position_bytes + 25, b.position_bytes + 32)}
    assert set(unseen) <= stamps


def test_every_truncation(small: Path) -> None:
    data = small.read_bytes()
    sound = scan(small).live
    for length in range(HEADER_BYTES, len(data)):
        small.write_bytes(data[:length])
        found = scan(small)
        assert found.damage
        assert all(sound[key] == block for key, block in found.live.items() if key != b"k1" and key != b"k2")


def test_random_bytes_behind_a_header(tmp_path: Path) -> None:
    path = tmp_path / "x.blt"
    with booklet.open(path, "n", key_serializer="str", value_serializer=None, n_buckets=3) as blt:
        blt["k"] = b"1"
    head = path.read_bytes()[:HEADER_BYTES]
    rng = random.Random(4)
    for _ in range(200):
        path.write_bytes(head + rng.randbytes(rng.randrange(2000)))
        found = scan(path)
        assert found.damage
        assert found.live == {}


def header_with(path: Path, start: int, value: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(value)


@pytest.mark.parametrize(
    ("start", "value"),
    [(21, b"\xff" * 4), (21, bytes(4)), (65, b"\xff" * 6), (71, b"\xff" * 6), (21, b"\x15"), (33, b"\x07")],
    ids=["huge n_buckets", "no buckets", "index outside", "blocks outside", "one bucket more", "count"],
)
def test_a_hostile_header_is_damage(small: Path, start: int, value: bytes) -> None:
    header_with(small, start, value)
    # Nothing of 24 GB is allocated for an index of 2**32 - 1 buckets.
    assert scan(small).damage


def test_chains_in_a_circle_cost_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.blt"
    with booklet.open(path, "n", key_serializer="str", value_serializer=None, n_buckets=4000) as blt:
        for number in range(4000):
            blt[f"k{number}"] = b"1"
    blocks = list(scan(path).live.values())
    with path.open("r+b") as file:
        # Every bucket leads into one endless chain through all blocks.
        for block, following in zip(blocks, [*blocks[1:], blocks[0]], strict=True):
            file.seek(block.position_bytes + 13)
            file.write(following.position_bytes.to_bytes(6, "little"))
        file.seek(HEADER_BYTES)
        file.write(blocks[0].position_bytes.to_bytes(6, "little") * 4000)
    begun = time.process_time()
    assert scan(path).damage
    # Followed to their ends from each bucket, they would take 16 million steps.
    assert time.process_time() - begun < 5


def test_a_block_is_given_out_once_it_is_confirmed(small: Path) -> None:
    with opened(small) as (fd, header):
        start, end = header.first_block_offset_bytes, small.stat().st_size
        blocks = list(iter_blocks(fd, start, end))
        last = blocks[-1]
        for cut in range(last.position_bytes + 1, end):
            got, damage = blocks_until_damage(fd, start, cut)
            if cut < last.position_bytes + BLOCK_HEAD_BYTES + len(last.key):
                assert got == blocks[:-2]
                assert damage.before == blocks[-2]
            else:
                assert got == blocks[:-1]
                assert damage.before is None


def blocks_until_damage(fd: int, start: int, end: int) -> tuple[list[Block], BlockDamageError]:
    got = []
    try:
        for block in iter_blocks(fd, start, end):
            got.append(block)
    except BlockDamageError as error:
        return got, error
    raise AssertionError("no damage was found")
