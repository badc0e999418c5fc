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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebooklet_tx.local.booklet import block_writer, hash_index
from ebooklet_tx.local.booklet.block_writer import append_blocks
from ebooklet_tx.local.booklet.file_header import new_header
from ebooklet_tx.local.booklet.hash_index import ChainDamageError
from ebooklet_tx.local.booklet.layout import HASH_BYTES, N_KEYS_OFFSET, POINTER_BYTES, parse_header, scan_file
from ebooklet_tx.local.booklet.value_file import ValueFile, create_file
from ebooklet_tx.local.files.file_calls import write_all


@pytest.fixture
def file(tmp_path: Path) -> Iterator[ValueFile]:
    file = create_file(tmp_path / "a.blt", new_header(1, 20))
    yield file
    file.close()


def append(file: ValueFile, values: dict[str, bytes]) -> dict[str, tuple[int, int]]:
    header = parse_header(os.pread(file.fd, 200, 0))
    assert header is not None
    rows = [(key, 5, value) for key, value in values.items()]
    offsets = append_blocks(file.fd, header, rows, expected_keys=len(rows))
    file.refresh()
    return {key: (offset, len(value)) for (key, _, value), offset in zip(rows, offsets, strict=True)}


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
    monkeypatch.setattr(hash_index, "MAX_PAGES", 2)
    monkeypatch.setattr(hash_index, "PAGE_POINTERS", 3)
    monkeypatch.setattr(block_writer, "PAGE_POINTERS", 3)
    monkeypatch.setattr(block_writer, "_EMPTY_INDEX", block_writer.CHAIN_END * 7)
    append(file, numbered(0, 20))
    append(file, numbered(20, 20))
    assert as_booklet_has_it(file) == numbered(0, 40)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    batches=st.lists(st.dictionaries(st.text(min_size=1, max_size=70), st.binary(max_size=40)), max_size=5),
    n_buckets=st.integers(1, 30),
)
def test_any_keys_in_any_batches(tmp_path_factory: Any, batches: list[dict[str, bytes]], n_buckets: int) -> None:
    folder = tmp_path_factory.mktemp("any")
    file = create_file(folder / "a.blt", new_header(1, n_buckets))
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


# -- removal ---------------------------------------------------------------------------------------


def change(file: ValueFile, removed: set[str], values: dict[str, bytes]) -> None:
    header = parse_header(os.pread(file.fd, 200, 0))
    assert header is not None
    rows = [(key, 5, value) for key, value in values.items()]
    append_blocks(file.fd, header, rows, expected_keys=len(rows), removed=removed)
    file.refresh()


def dead_blocks(file: ValueFile) -> int:
    return len(scan_file(file.fd, file.header).dead)


@pytest.mark.parametrize("n_buckets", [1, 3, 20])
@pytest.mark.parametrize("which", ["first", "last", "middle", "every other", "all", "none"])
def test_blocks_are_taken_out_of_any_part_of_a_chain(tmp_path: Path, n_buckets: int, which: str) -> None:
    file = create_file(tmp_path / "a.blt", new_header(1, n_buckets))
    # As many as an index of this size holds without growing.
    everything = dict(list(numbered(0, 12).items())[:n_buckets])
    append(file, everything)
    keys = list(everything)
    removed = {
        "first": keys[:1],
        "last": keys[-1:],
        "middle": keys[1:-1],
        "every other": keys[::2],
        "all": keys,
        "none": ["not there"],
    }[which]
    change(file, set(removed), {})
    assert as_booklet_has_it(file) == {key: value for key, value in everything.items() if key not in removed}
    assert file.header.n_buckets == n_buckets
    file.close()


OPERATIONS = st.dictionaries(
    st.sampled_from([f"key {number}" for number in range(40)] + ["k" * 100, "é" * 40]),
    st.one_of(st.none(), st.binary(max_size=60)),
    max_size=40,
)


@settings(max_examples=80, deadline=None)
@given(
    batches=st.lists(OPERATIONS, max_size=6), n_buckets=st.integers(1, 50), reads=st.sampled_from([40, 96, 2**14])
)
def test_any_changes_leave_what_booklet_leaves(
    tmp_path_factory: Any, batches: list[dict[str, bytes | None]], n_buckets: int, reads: int
) -> None:
    """Sets, overwrites and deletes in batches, every other one of them by booklet itself."""
    folder = tmp_path_factory.mktemp("any")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hash_index, "_WINDOW_BYTES", reads)
        file = create_file(folder / "a.blt", new_header(1, n_buckets))
        with booklet.open(folder / "b.blt", "n", key_serializer="str", n_buckets=n_buckets) as blt:
            everything: dict[str, bytes] = {}
            for number, batch in enumerate(batches):
                gone = {key for key in batch if key in everything}
                absent = {key for key, value in batch.items() if value is None}
                fresh = {key: value for key, value in batch.items() if value is not None}
                if number % 2:
                    file.unlock()
                    with booklet.open(file.path, "w") as ours:
                        _apply(ours, batch, everything)
                    file.refresh()
                    assert file.try_lock()
                else:
                    change(file, gone | absent, fresh)
                _apply(blt, batch, everything)
                everything = {key: value for key, value in everything.items() if key not in absent} | fresh
                assert as_booklet_has_it(file) == everything
        assert as_booklet_has_it(file) == everything
        header = parse_header((folder / "b.blt").read_bytes()[:200])
        assert header is not None
        with (folder / "b.blt").open("rb") as theirs:
            assert dead_blocks(file) == len(scan_file(theirs.fileno(), header).dead)
        assert (file.header.n_keys, file.header.n_buckets) == (header.n_keys, header.n_buckets)
        file.close()


def _apply(blt: Any, batch: dict[str, bytes | None], before: dict[str, bytes]) -> None:
    for key, value in batch.items():
        if value is not None:
            blt[key] = value
        elif key in before:
            del blt[key]
    blt.sync()


def test_metadata_is_removed_and_is_no_key(file: ValueFile) -> None:
    append(file, {"": b"{}", "a": b"one"})
    assert file.header.n_keys == 1
    change(file, {"", "a"}, {"": b"{1}"})
    assert file.header.n_keys == 0
    assert len(scan_file(file.fd, file.header).live) == 1


def test_one_read_serves_many_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = create_file(tmp_path / "a.blt", new_header(1, 5000))
    append(file, numbered(0, 2000, size=20))
    reads: list[int] = []
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, at: (reads.append(at), real(fd, size, at))[1])
    change(file, set(numbered(0, 2000)), numbered(0, 2000))
    monkeypatch.undo()
    assert len(reads) < 500
    assert as_booklet_has_it(file) == numbered(0, 2000)
    file.close()


@pytest.mark.parametrize("where", ["a value", "the end", "behind the end", "itself", "a dead block"])
def test_nothing_is_written_where_a_chain_leads_astray(tmp_path: Path, where: str) -> None:
    file = create_file(tmp_path / "a.blt", new_header(1, 1))
    # To booklet the value's inside looks like a block at a chain's end.
    trap = blake2s(b"b", digest_size=HASH_BYTES).digest() + b"\x01" + bytes(30)
    places = append(file, {"a": trap})
    (block,) = scan_file(file.fd, file.header).live.values()
    target = {
        "a value": places["a"][0],
        "the end": file.state().length_bytes - 10,
        "behind the end": file.state().length_bytes + 1000,
        "itself": block.position_bytes,
        "a dead block": 0,
    }[where]
    write_all(file.fd, pointer(target), block.position_bytes + HASH_BYTES)
    before = file.read(0, file.state().length_bytes)
    with pytest.raises(ChainDamageError, match=r"leads to|circle"):
        change(file, {"a", "b"}, {})
    assert file.read(0, file.state().length_bytes) == before
    file.close()


def test_a_key_that_another_block_pretends_to_have(file: ValueFile) -> None:
    append(file, {"a": b"one"})
    (block,) = scan_file(file.fd, file.header).live.values()
    write_all(file.fd, b"b", block.position_bytes + 32)
    with pytest.raises(ChainDamageError, match="where no block is"):
        change(file, {"a"}, {})
