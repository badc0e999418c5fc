"""The zarr store passes zarr's own tests of stores, and arrays travel through a remote in one commit."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.core.buffer import Buffer, cpu
from zarr.errors import ZarrUserWarning
from zarr.testing.store import StoreTests

import ebooklet_tx
from ebooklet_tx.zarr import Store


@pytest.fixture
def database(tmp_path: Path) -> Iterator[ebooklet_tx.Database]:
    with ebooklet_tx.open(
        f"file://{tmp_path}/r/grid", tmp_path / "grid.blt", "c", value_serializer="bytes"
    ) as db:
        yield db


class TestZarrsOwn(StoreTests[Store, cpu.Buffer]):
    """What zarr asks of every store."""

    store_cls = Store
    buffer_cls = cpu.Buffer

    @pytest.fixture
    def store_kwargs(self, database: ebooklet_tx.Database) -> dict[str, Any]:
        return {"database": database}

    async def set(self, store: Store, key: str, value: Buffer) -> None:
        store._database[key] = value.to_bytes()

    async def get(self, store: Store, key: str) -> Buffer:
        return self.buffer_cls.from_bytes(store._database.get(key))

    def test_store_repr(self, store: Store) -> None:
        assert repr(store).startswith("Store(<ebooklet_tx database ")
        assert repr(store.with_read_only(True)).endswith(", read_only=True)")

    def test_store_supports_writes(self, store: Store) -> None:
        assert store.supports_writes

    def test_store_supports_listing(self, store: Store) -> None:
        assert store.supports_listing

    def test_what_is_no_buffer_is_refused(self, store: Store) -> None:
        with pytest.raises(ebooklet_tx.InvalidArgumentError, match="take a Buffer, not bytes"):
            store.set_sync("a", b"1")  # type: ignore[arg-type]


def test_an_array_is_one_commit_and_another_machine_reads_it(tmp_path: Path) -> None:
    remote = f"file://{tmp_path}/r/grid"
    numbers = np.arange(60 * 40, dtype="i4").reshape(60, 40)
    with ebooklet_tx.open(remote, tmp_path / "one.blt", "c", value_serializer="bytes") as db:
        root = zarr.open_group(Store(db), mode="a")
        depth = root.create_array("depth", shape=(60, 40), chunks=(20, 20), dtype="i4")
        depth[:] = numbers
        # A shard of several chunks: zarr reads its index from the end of the value, and a chunk from the middle.
        sharded = root.create_array("sharded", shape=(60, 40), chunks=(10, 10), shards=(60, 20), dtype="i4")
        sharded[:] = numbers
        with pytest.warns(ZarrUserWarning, match="Consolidated metadata"):
            zarr.consolidate_metadata(Store(db))
        assert not db.history()
        pushed = db.changes().push(message="depths")
        assert pushed.set_count == len(db) == 3 + 6 + 2
        assert len(db.history()) == 1
    with ebooklet_tx.open(remote, tmp_path / "two.blt", "r") as db:
        store = Store(db)
        assert store.read_only
        again = zarr.open_group(store, mode="r")
        assert again.metadata.consolidated_metadata is not None
        assert sorted(again.array_keys()) == ["depth", "sharded"]
        assert np.array_equal(again["depth"][:], numbers)
        assert np.array_equal(again["sharded"][15:25, 5:15], numbers[15:25, 5:15])


def test_a_push_sends_the_chunks_that_changed(database: ebooklet_tx.Database) -> None:
    depth = zarr.create_array(Store(database), shape=(100,), chunks=(10,), dtype="i4", fill_value=0)
    depth[:] = 1
    database.changes().push()
    depth[35] = 2
    assert database.changes().push().set_count == 1
    depth[:] = 0
    # Zarr stores no chunk that is all fill value.
    assert database.changes().push().deleted_count == 10
    assert list(database) == ["zarr.json"]


def test_deleting_an_array_leaves_its_neighbours(database: ebooklet_tx.Database) -> None:
    root = zarr.open_group(Store(database), mode="a")
    for name in ("a", "a-b", "ab"):
        root.create_array(name, shape=(4,), chunks=(2,), dtype="i4")[:] = 1
    assert sorted(root.array_keys()) == ["a", "a-b", "ab"]
    del root["a"]
    assert sorted(root.array_keys()) == ["a-b", "ab"]
    assert not any(key.startswith("a/") for key in database)


def test_many_keys_are_listed_whole(database: ebooklet_tx.Database) -> None:
    database.update({f"c/{number}": b"1" for number in range(2500)})

    async def listed() -> list[str]:
        return [key async for key in Store(database).list_prefix("c/")]

    async def children() -> list[str]:
        return [key async for key in Store(database).list_dir("c")]

    wanted = sorted(str(number) for number in range(2500))
    assert zarr.core.sync.sync(listed()) == [f"c/{number}" for number in wanted]
    assert zarr.core.sync.sync(children()) == wanted


def test_another_serializer_is_refused(tmp_path: Path) -> None:
    with (
        ebooklet_tx.open(f"file://{tmp_path}/r/x", tmp_path / "x.blt", "c", value_serializer="orjson") as db,
        pytest.raises(ebooklet_tx.InvalidArgumentError, match="has the serializer 'orjson'"),
    ):
        Store(db)


def test_a_store_on_a_reader_can_not_be_made_writable(tmp_path: Path) -> None:
    remote, path = f"file://{tmp_path}/r/x", tmp_path / "x.blt"
    with ebooklet_tx.open(remote, path, "c") as db:
        db["a"] = b"1"
    with ebooklet_tx.open(remote, path, "r") as db:
        with pytest.raises(ebooklet_tx.InvalidArgumentError, match="open it with the flag 'w'"):
            Store(db).with_read_only(False)
        assert Store(db).with_read_only(True) == Store(db)


def test_a_store_in_another_process_says_what_to_do(database: ebooklet_tx.Database, tmp_path: Path) -> None:
    pickled = tmp_path / "store"
    pickled.write_bytes(pickle.dumps(Store(database)))
    code = (
        "import pathlib, pickle, zarr; "
        f"zarr.open_group(pickle.loads(pathlib.Path({str(pickled)!r}).read_bytes()), mode='r')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "For reading hand out Store(db.fork())" in done.stderr


def test_workers_write_an_array_through_a_fork_and_read_it_through_another(
    database: ebooklet_tx.Database, tmp_path: Path
) -> None:
    zarr.create_array(Store(database), name="depth", shape=(40, 40), chunks=(20, 20), dtype="i4", fill_value=0)
    database.changes().push()
    fork = database.fork()
    receipts = []
    for number in range(2):
        with fork.open() as part:
            depth = zarr.open_array(Store(part), path="depth", mode="r+")
            depth[20 * number : 20 * number + 20] = number + 1
        receipts.append(part.receipt)
    assert np.array_equal(zarr.open_array(Store(fork), path="depth")[:], np.zeros((40, 40)))
    database.merge(*receipts)
    assert database.changes().push().set_count == 4
    pickled = tmp_path / "store"
    pickled.write_bytes(pickle.dumps(Store(database.fork())))
    database["depth/c/0/0"] = b"not read by the fork"
    database.changes().push()
    code = (
        f"import pathlib, pickle, zarr; store = pickle.loads(pathlib.Path({str(pickled)!r}).read_bytes()); "
        "print(zarr.open_array(store, path='depth', mode='r')[:].sum())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == (f"{20 * 40 * 1 + 20 * 40 * 2}\n", "")


def test_a_store_on_a_fork_is_for_reading(database: ebooklet_tx.Database) -> None:
    database["a"] = b"1"
    database.changes().push()
    fork = database.fork()
    assert Store(fork).read_only
    assert Store(fork) == Store(fork) == pickle.loads(pickle.dumps(Store(fork)))
    with pytest.raises(ebooklet_tx.InvalidArgumentError, match="opens its part, with"):
        Store(fork).with_read_only(False)


def test_without_zarr_the_extra_is_named() -> None:
    code = "import sys; sys.modules['zarr'] = None; sys.modules['zarr.abc.store'] = None; import ebooklet_tx.zarr"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert 'pip install "ebooklet-tx[zarr]"' in done.stderr


# -- forks, and readers without a file --------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.ci
class TestZarrsOwnOnAFork(TestZarrsOwn):
    """The same on a worker's part of a fork."""

    @pytest.fixture
    def store_kwargs(self, database: ebooklet_tx.Database) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        database.changes().push()
        with database.fork().open() as part:
            yield {"database": part}

    def test_store_repr(self, store: Store) -> None:
        assert repr(store).startswith("Store(<the part of the fork ")


def test_a_reader_without_a_file_reads_arrays(database: ebooklet_tx.Database) -> None:
    zarr.create_array(Store(database), name="depth", shape=(4,), chunks=(2,), dtype="i4")[:] = 7
    database.changes().push()
    with ebooklet_tx.open(database._connection.url, None) as reader:
        assert zarr.open_array(Store(reader), path="depth", mode="r")[:].tolist() == [7] * 4
        with pytest.raises(ValueError, match="read-only"):
            zarr.open_array(Store(reader), path="depth", mode="r+")
        with pytest.raises(ebooklet_tx.InvalidArgumentError, match="open for reading"):
            Store(reader, read_only=False)


def test_few_parts_are_kept_for_forks_that_are_read(
    database: ebooklet_tx.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ebooklet_tx.zarr, "_MAX_PARTS", 2)
    database["a"] = b"1"
    database.changes().push()
    stores = [Store(database.fork()) for _ in range(4)]
    assert len(ebooklet_tx.zarr._parts) == 2
    assert [store.get_sync("a").to_bytes() for store in stores] == [b"1"] * 4
