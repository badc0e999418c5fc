"""Blocks written in a row and linked by the page: booklet finds them all, and nothing else is touched."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from hashlib import blake2s
from pathlib import Path
from typing import Any

import booklet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebooklet_tx.local import block_writer
from ebooklet_tx.local.block_writer import ChainDamageError, append_blocks
from ebooklet_tx.local.booklet_layout import HASH_BYTES, N_KEYS_OFFSET, POINTER_BYTES, parse_header, scan_file
from ebooklet_tx.local.files.checked_file import write_all
from ebooklet_tx.local.value_file import ValueFile, create_file


@pytest.fixture
def file(tmp_path: Path) -> Iterator[ValueFile]:
    file = create_file(tmp_path / "a.blt", None, value_serializer=None, n_buckets=20)
    yield file
    file.close()


def append(file: ValueFile, values: dict[str, bytes]) -> dict[str, tuple[int, int]]:
    header = parse_header(os.pread(file.fd, 200, 0))
    assert header is not None
    rows = [(key, 5, value) for key, value in values.items()]
    placed = append_blocks(file.fd, header, rows, expected_keys=len(rows))
    file.refresh()
    return {place.key: (place.offset_bytes, place.length_bytes) for place in placed}


def as_booklet_has_it(file: ValueFile) -> dict[str, bytes]:
    assert scan_file(file.fd, file.header).damage == []
    with booklet.open(io.BytesIO(file.read(0, file.state().length_bytes)), "r") as blt:
        items = list(blt.items())
        assert len(items) == len(blt) == len(dict(items))
        assert all(blt.get(key) == value for key, value in items)
        return dict(items)


def numbered(first: int, count: int, size: int = 3) -> dict[str, bytes]:
    return {f"key {number}": bytes([number % 251]) * size for number in range(first, first + count)}


def test_an_index_grows_twice_and_leaves_a_filler_behind(file: ValueFile) -> None:
    everything: dict[str, bytes] = {}
    for first, count, n_buckets in ((0, 15, 20), (15, 30, 12007), (45, 12_000, 144013), (12_045, 10, 144013)):
        more = numbered(first, count)
        places = append(file, more)
        everything |= more
        assert file.header.n_buckets == n_buckets
        assert {key: file.read(*place) for key, place in places.items()} == more
        assert as_booklet_has_it(file) == everything
    file.unlock()
    with booklet.open(file.path, "w") as blt:
        blt["key 3"] = b"booklet's"
        del blt["key 12050"]
        blt["new"] = b"too"
    file.refresh()
    assert file.try_lock()
    del everything["key 12050"]
    assert as_booklet_has_it(file) == everything | {"key 3": b"booklet's", "new": b"too"}


def test_one_append_may_pass_over_a_size(file: ValueFile) -> None:
    append(file, {"there": b"before"})
    append(file, numbered(0, 12_100, size=0))
    assert file.header.n_buckets == 144013
    assert as_booklet_has_it(file) == numbered(0, 12_100, size=0) | {"there": b"before"}


def test_the_largest_index_does_not_grow(file: ValueFile) -> None:
    header = file.header
    object.__setattr__(header, "n_buckets", 20736017)
    assert block_writer._wanted_buckets(header, 2**31) == 20736017


def test_large_values_go_alone(file: ValueFile, monkeypatch: pytest.MonkeyPatch) -> None:
    large = b"x" * block_writer.ROW_BYTES
    written: list[Any] = []
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: (written.append(len(data)), real(fd, data, at))[1])
    values = {"a": b"1", "b": large, "c": b"2", "d": large + b"y"}
    append(file, values)
    assert as_booklet_has_it(file) == values
    assert [size for size in written if size >= len(large)] == [len(large), len(large) + 1]


def test_pages_are_let_go_of(file: ValueFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_writer, "MAX_PAGES", 2)
    monkeypatch.setattr(block_writer, "PAGE_POINTERS", 3)
    monkeypatch.setattr(block_writer, "_EMPTY_INDEX", block_writer.CHAIN_END * 7)
    append(file, numbered(0, 20))
    append(file, numbered(20, 20))
    assert as_booklet_has_it(file) == numbered(0, 40)


@settings(max_examples=30, deadline=None)
@given(
    batches=st.lists(st.dictionaries(st.text(min_size=1, max_size=70), st.binary(max_size=40)), max_size=5),
    n_buckets=st.integers(1, 30),
)
def test_any_keys_in_any_batches(tmp_path_factory: Any, batches: list[dict[str, bytes]], n_buckets: int) -> None:
    folder = tmp_path_factory.mktemp("any")
    file = create_file(folder / "a.blt", None, value_serializer=None, n_buckets=n_buckets)
    everything: dict[str, bytes] = {}
    for batch in batches:
        fresh = {key: value for key, value in batch.items() if key not in everything}
        append(file, fresh)
        everything |= fresh
    assert as_booklet_has_it(file) == everything
    file.close()


# -- damage --------------------------------------------------------------------------------------


def pointer(position: int) -> bytes:
    return position.to_bytes(POINTER_BYTES, "little")


def grow(file: ValueFile) -> None:
    append(file, numbered(100, 20))


def test_a_chain_that_begins_behind_the_end(file: ValueFile) -> None:
    append(file, {"a": b"one"})
    bucket = int.from_bytes(blake2s(b"b", digest_size=HASH_BYTES).digest(), "little") % 20
    at = file.header.index_offset_bytes + bucket * POINTER_BYTES
    write_all(file.fd, pointer(file.state().length_bytes), at)
    with pytest.raises(ChainDamageError, match="behind the file's end"):
        append(file, {"b": b"two"})


def test_an_index_that_is_cut_off(file: ValueFile) -> None:
    os.ftruncate(file.fd, file.header.index_offset_bytes + 30)
    with pytest.raises(ChainDamageError, match="beyond the file's end"):
        append(file, {"b": b"two"})


def test_a_session_of_booklet_that_died(file: ValueFile) -> None:
    write_all(file.fd, b"\xff" * 4, N_KEYS_OFFSET)
    with pytest.raises(ChainDamageError, match="a session of booklet died"):
        append(file, {"b": b"two"})


@pytest.mark.parametrize("where", ["a value", "the end", "itself", "a dead block", "nowhere"])
def test_growth_follows_no_pointer_astray(file: ValueFile, where: str) -> None:
    places = append(file, {"a" * 100: b"x" * 13 + b"\x01" + bytes(200)})
    (block,) = scan_file(file.fd, file.header).live.values()
    offset, length = places["a" * 100]
    at = block.position_bytes + HASH_BYTES
    target = {
        "a value": offset,
        "the end": file.state().length_bytes + 5,
        "itself": block.position_bytes,
        "a dead block": 0,
        "nowhere": 1,
    }[where]
    write_all(file.fd, pointer(target), at)
    if where == "nowhere":
        write_all(file.fd, (7).to_bytes(4, "little"), N_KEYS_OFFSET)
    before = file.read(offset, length)
    with pytest.raises(ChainDamageError, match="leads to"):
        grow(file)
    assert file.read(offset, length) == before
