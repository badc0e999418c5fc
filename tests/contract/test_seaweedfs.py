"""The part of the contract on which commits rest, on SeaweedFS in the default run; the whole of it is slow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import ebooklet_tx
from ebooklet_tx.errors import PreconditionFailedError
from ebooklet_tx.stores.capabilities import Conditional, probe
from ebooklet_tx.stores.s3 import S3Store
from tests.contract.conftest import new_bucket, s3_connection


@pytest.fixture
def store(seaweedfs_endpoint: str) -> Iterator[S3Store]:
    store = S3Store(s3_connection(seaweedfs_endpoint, new_bucket(seaweedfs_endpoint)))
    yield store
    store.close()


def test_a_slice_of_the_contract(store: S3Store, tmp_path: Path) -> None:
    first = store.put("db", b"1", if_absent=True)
    with pytest.raises(PreconditionFailedError):
        store.put("db", b"2", if_absent=True)
    second = store.put("db", b"2", if_match=first)
    with pytest.raises(PreconditionFailedError):
        store.put("db", b"3", if_match=first)
    assert store.get("db", if_none_match=second) is None
    assert [store.get_range("db", 0, 1, if_match=second) for _ in range(3)] == [b"2"] * 3
    assert list(store._ranges._signed) == ["db"]
    with pytest.raises(PreconditionFailedError):
        store.get_range("db", 0, 1, if_match=first)
    store.delete("db")
    assert list(store.list("db")) == []
    assert probe(store, "db.lock", store) is Conditional.QUOTED
    place = store._connection
    with ebooklet_tx.open(place, tmp_path / "a.blt", "c", n_buckets=101, lock_timeout=5) as db:
        db["k"] = b"v"
        db.changes().push()
    with ebooklet_tx.open(place, tmp_path / "b.blt", "r", n_buckets=101) as db:
        assert dict(db.items()) == {"k": b"v"}
