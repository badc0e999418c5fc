"""Every request is counted once, with its bytes, and passed on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ebooklet_tx.errors import ObjectMissingError, PreconditionFailedError, TransientStoreError
from ebooklet_tx.stores.counting import CountingStore
from ebooklet_tx.stores.directory import DirectoryStore
from ebooklet_tx.stores.object_store import ObjectStore, StoredObject, UploadState


class Source:
    """Bytes in memory, to be read in pieces."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size_bytes = len(data)

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        return self.data[offset_bytes : offset_bytes + length_bytes]


def test_each_request_counts_once_with_its_bytes(tmp_path: Path) -> None:
    counted = CountingStore(DirectoryStore(tmp_path))
    store: ObjectStore = counted
    assert (store.location, store.writable) == (counted.inner.location, True)
    etag = store.put("db", b"12345")
    assert (counted.requests, counted.bytes_up, counted.bytes_down) == (1, 5, 0)
    with pytest.raises(PreconditionFailedError):
        store.put("db", b"123", if_absent=True)
    assert (counted.requests, counted.bytes_up) == (2, 8)
    assert store.get("db", if_none_match=etag) is None
    assert (counted.requests, counted.bytes_down) == (3, 0)
    blob = store.get("db")
    assert blob is not None
    assert blob.data == b"12345"
    assert store.get_range("db", 1, 2) == b"23"
    assert (counted.requests, counted.bytes_down) == (5, 7)
    assert store.head("db").size_bytes == 5
    store.copy("db", "db.d/copy")
    assert [found.key for found in store.list("db.d/")] == ["db.d/copy"]
    store.delete("db")
    with pytest.raises(ObjectMissingError):
        store.head("db")
    assert (counted.requests, counted.bytes_up, counted.bytes_down) == (10, 8, 7)
    store.close()


def test_an_upload_in_parts_counts_begin_parts_and_end(tmp_path: Path) -> None:
    counted = CountingStore(DirectoryStore(tmp_path))
    seen: list[UploadState] = []
    data = bytes(range(256)) * 100
    counted.put_parts("db.d/pack/x", Source(data), part_bytes=10_000, on_part=seen.append)
    assert counted.bytes_up == len(data)
    assert counted.requests == len(seen) + 1
    blob = counted.get("db.d/pack/x")
    assert blob is not None
    assert blob.data == data


def test_a_listing_counts_a_request_for_each_thousand(tmp_path: Path) -> None:
    class Full(DirectoryStore):
        def list(self, prefix: str) -> Iterator[StoredObject]:
            return (StoredObject(f"{prefix}{number}", 1, "e", 0.0) for number in range(2001))

    counted = CountingStore(Full(tmp_path))
    assert len(list(counted.list("db"))) == 2001
    assert counted.requests == 3


def test_an_upload_that_fails_counts_what_was_sent(tmp_path: Path) -> None:
    counted = CountingStore(DirectoryStore(tmp_path))

    def stop(state: UploadState) -> None:
        if state.parts:
            raise TransientStoreError("no answer")

    with pytest.raises(TransientStoreError):
        counted.put_parts("db.d/pack/x", Source(b"12345678"), part_bytes=3, on_part=stop)
    # Its begin and one part; no end was asked for.
    assert (counted.requests, counted.bytes_up) == (2, 3)
