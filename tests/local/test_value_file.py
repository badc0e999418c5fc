"""The value file: appends that are guarded and checked, and refusals of the system in words of ours."""

from __future__ import annotations

import errno
import io
import os
from hashlib import blake2s
from pathlib import Path
from typing import Any

import booklet
import pytest

from ebooklet_tx.errors import LocalStorageError, UnsupportedFormatError
from ebooklet_tx.limits import METADATA_KEY_BYTES
from ebooklet_tx.local.booklet.file_header import new_header
from ebooklet_tx.local.booklet.layout import MAGIC, scan_file
from ebooklet_tx.local.booklet.value_file import (
    IndexDamagedError,
    ValueFile,
    create_file,
    new_append_number,
    storage_errors,
)
from ebooklet_tx.local.files.file_calls import write_all


@pytest.fixture
def file(tmp_path: Path) -> Any:
    file = create_file(tmp_path / "a.blt", new_header(1, 50))
    yield file
    file.close()
    file.close()


def append(file: ValueFile, *sets: tuple[str, int, bytes], deletes: tuple[str, ...] = ()) -> list[int]:
    number = new_append_number()
    offsets = file.append(number, deletes, sets)
    assert file.guard_number() == number
    file.release(file.state_to_record())
    return offsets


def test_an_append_says_where_it_put_what(file: ValueFile) -> None:
    offsets = append(file, ("a", 5, b"one"), ("", 6, b'{"m":1}'), ("b", 7, b""))
    blocks = [file.scan().live[key] for key in (b"a", METADATA_KEY_BYTES, b"b")]
    assert [(block.value_offset_bytes, block.timestamp_us) for block in blocks] == list(
        zip(offsets, (5, 6, 7), strict=True)
    )
    assert [file.read(block.value_offset_bytes, block.value_length_bytes) for block in blocks] == [
        b"one",
        b'{"m":1}',
        b"",
    ]
    append(file, ("a", 8, b"two"), deletes=("a", "b", "never there", ""))
    assert scan_file(file.fd, file.header).damage == []
    path = file.path
    file.close()
    with booklet.open(path) as blt:
        assert dict(blt.items()) == {"a": b"two"}
        assert blt.get_metadata() is None


def test_a_guarded_file_is_refused_by_booklet(file: ValueFile) -> None:
    file.append(new_append_number(), (), [("a", 5, b"one")])
    # From memory: booklet leaves a file that it refuses unclosed.
    with pytest.raises(TypeError, match="not the correct file type"):
        booklet.open(io.BytesIO(file.path.read_bytes()), "r")
    file.release()
    file.unlock()
    with booklet.open(file.path) as blt:
        assert blt["a"] == b"one"


def test_a_full_disk_in_an_append(file: ValueFile, monkeypatch: pytest.MonkeyPatch) -> None:
    append(file, ("a", 5, b"one"))
    before = file.state().length_bytes

    def full(fd: int, data: Any, offset: int) -> int:
        if offset >= before:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data, offset)

    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(LocalStorageError, match="the disk is full"):
        file.append(new_append_number(), (), [("b", 6, b"two")])
    monkeypatch.undo()
    assert file.state().length_bytes == before
    assert file.guard_number() is not None


def test_a_circle_in_a_chain_ends(tmp_path: Path) -> None:
    file = create_file(tmp_path / "a.blt", new_header(1, 1))
    append(file, ("a", 5, b"one"))
    (block,) = scan_file(file.fd, file.header).live.values()
    write_all(file.fd, block.position_bytes.to_bytes(6, "little"), block.position_bytes + 13)
    with pytest.raises(IndexDamagedError, match="circle"):
        file.append(new_append_number(), ("b",), ())
    file.close()


def test_a_pointer_into_a_value_is_not_followed_by_a_write(tmp_path: Path) -> None:
    file = create_file(tmp_path / "a.blt", new_header(1, 1))
    # To booklet the value's inside looks like a block at a chain's end.
    trap = blake2s(b"b", digest_size=13).digest() + b"\x01" + bytes(30)
    (offset,) = append(file, ("a", 5, trap))
    write_all(file.fd, offset.to_bytes(6, "little"), file.header.index_offset_bytes)
    with pytest.raises(IndexDamagedError, match="a pointer leads to byte"):
        file.append(new_append_number(), ("b",), ())
    assert file.read(offset, len(trap)) == trap
    file.close()


def test_a_file_that_ends_early_is_read_as_far_as_it_goes(file: ValueFile) -> None:
    (offset,) = append(file, ("a", 5, b"one"))
    assert file.read(offset, 100) == b"one"
    assert file.read(offset + 1000, 5) == b""


def test_locks_and_identity(file: ValueFile) -> None:
    other = ValueFile.open(file.path, writable=True)
    assert not other.try_lock()
    assert file.locked
    file.unlock()
    assert other.try_lock()
    assert other.is_current()
    other.path.rename(other.path.with_name("moved"))
    assert not other.is_current()
    other.close()


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EACCES, "no permission"),
        (errno.EROFS, "no permission"),
        (errno.ENOENT, "make the folder"),
        (errno.EIO, "the last commit is intact"),
    ],
)
def test_the_systems_refusals(number: int, words: str) -> None:
    with pytest.raises(LocalStorageError, match=words) as caught, storage_errors(Path("a.blt"), "write"):
        raise OSError(number, "reason")
    assert caught.value.errno == number


def test_our_own_refusal_passes_as_it_is() -> None:
    mine = LocalStorageError(0, "mine")
    with pytest.raises(LocalStorageError) as caught, storage_errors(Path("a.blt"), "write"):
        raise mine
    assert caught.value is mine


def test_short_writes_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:3], offset))
    with (tmp_path / "x").open("w+b") as target:
        write_all(target.fileno(), b"0123456789", 2)
    assert (tmp_path / "x").read_bytes() == b"\0\x000123456789"


def test_a_header_that_is_not_ours(file: ValueFile) -> None:
    write_all(file.fd, b"\0" * len(MAGIC), 0)
    with pytest.raises(UnsupportedFormatError, match="not a Booklet file"):
        ValueFile.open(file.path, writable=False)
