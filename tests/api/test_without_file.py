"""Reading without a local file: what it costs, what it shows, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx
from ebooklet_tx import RemoteReader
from ebooklet_tx.errors import (
    InvalidArgumentError,
    InvalidTypeError,
    OfflineError,
    PickleRefusedError,
    RemoteIntegrityError,
    RemoteMissingError,
    SessionClosedError,
    TransientStoreError,
)
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.sync.connecting import wrapped_stores
from ebooklet_tx.sync.read.commit_reader import BytesByDigest
from tests.pairs import limit_tails
from tests.servers import folder_handler, http_server
from tests.store_wrappers import CountingStore, FaultyStore
from tests.yard import Yard, value

VALUES = {f"k{number:03}": value(number, 300) for number in range(200)} | {
    "large": value("l", 20_000),
    "empty": b"",
}


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    made = Yard(tmp_path)
    made.push(dict(VALUES))
    return made


def reading(yard: Yard, store: ObjectStore | None = None, **options: Any) -> RemoteReader:
    options.setdefault("retry", RetryPolicy.without_backoff(2))
    with wrapped_stores(lambda _inner: yard.store if store is None else store):
        return ebooklet_tx.open(yard.url, None, **options)  # type: ignore[no-any-return, call-overload]


def test_it_reads_what_a_session_reads(yard: Yard) -> None:
    with yard.open() as db:
        db.set_metadata({"unit": "m"})
        db.set_timestamp("k000", 1_700_000_000_000_000)
        db.changes().push()
        expected, stamps, history = dict(db), dict(db.timestamps()), db.history()
        uuid = db.uuid
    before = set(yard.folder.iterdir())
    with reading(yard) as reader:
        assert dict(reader) == expected
        assert (len(reader), list(reader), list(reader.keys("k19"))) == (
            202,
            sorted(expected),
            sorted(key for key in expected if key.startswith("k19")),
        )
        assert dict(reader.timestamps()) == stamps
        assert (reader.get_metadata(), reader.history(), reader.uuid) == ({"unit": "m"}, history, uuid)
        assert (reader.get("no"), reader.get("no", 1), "no" in reader, "" in reader) == (None, 1, False, False)
        assert dict(reader.get_items(["k001", "no", ""], default=0)) == {"k001": expected["k001"], "no": 0, "": 0}
        assert reader.get_timestamp("k000", include_value=True)[0] == 1_700_000_000_000_000
        assert "202 keys" in repr(reader)
        with pytest.raises(KeyError):
            reader["no"]
        with pytest.raises(InvalidArgumentError):
            reader.history(0)
        with pytest.raises(InvalidTypeError):
            __import__("pickle").dumps(reader)
        with pytest.raises(TypeError):
            reader["k"] = b"x"  # type: ignore[index]
    assert set(yard.folder.iterdir()) == before
    with pytest.raises(SessionClosedError):
        reader["k001"]
    reader.close()
    assert "closed" in repr(reader)


@pytest.mark.parametrize("small", [False, True])
def test_opening_and_one_key_cost_at_most_five_requests(
    yard: Yard, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not small:
        limit_tails(monkeypatch, 300)
        yard.push({f"more{number:05}": value(number, 40) for number in range(3000)})
    counting = CountingStore(yard.store)
    with reading(yard, counting) as reader:
        assert counting.total == 1
        assert reader["large"] == VALUES["large"]
        assert counting.total <= 5
        assert counting.bytes_down < 128 * 1024
        counting.reset()
        assert reader["large"] == VALUES["large"]
        assert counting.total == 0
        assert reader["k007"] == reader["k007"] == VALUES["k007"]
        assert counting.total <= 4
        counting.reset()
        assert reader.pull() is False
        assert counting.log == [("get", "db")]


def test_many_values_come_in_few_requests(yard: Yard) -> None:
    counting = CountingStore(yard.store)
    with reading(yard, counting) as reader:
        assert dict(reader.items()) == VALUES
        assert counting.total < 8


def test_it_stays_on_its_commit_until_it_pulls(yard: Yard) -> None:
    with reading(yard) as reader:
        yard.push({"k000": b"new", "k001": None})
        assert (reader["k000"], "k001" in reader, reader.seq) == (VALUES["k000"], True, 1)
        assert reader.pull() is True
        assert (reader["k000"], "k001" in reader, reader.seq) == (b"new", False, 2)


def test_a_commit_that_was_collected_is_left_for_the_newest(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_tails(monkeypatch, 300)
    with reading(yard) as reader, reading(yard) as iterating:
        keys = iter(iterating)
        assert next(keys) == "empty"
        yard.push({key: value(("new", key), 300) for key in VALUES})
        yard.collect(at_hours=100)
        assert reader["k005"] == value(("new", "k005"), 300)
        assert dict(reader.get_items(["k006"])) == {"k006": value(("new", "k006"), 300)}
        assert ["empty", *keys] == sorted(VALUES)


def test_what_is_damaged_or_missing_is_never_served(yard: Yard) -> None:
    (pack,) = yard.keys("pack")
    data = yard.store.objects[pack].data
    yard.store.put(pack, bytes(len(data)))
    with reading(yard) as reader:
        with pytest.raises(RemoteIntegrityError, match="damaged"):
            reader["k001"]
        with pytest.raises(RemoteIntegrityError):
            dict(reader)
    yard.store.delete(pack)
    with reading(yard) as reader, pytest.raises(RemoteIntegrityError, match="no such object"):
        reader["k001"]


def test_a_store_that_fails_and_a_database_that_is_not_there(yard: Yard, tmp_path: Path) -> None:
    with pytest.raises(RemoteMissingError, match="there is no database"):
        ebooklet_tx.open(f"file://{tmp_path}/nothing/db", None)
    with reading(yard) as reader:
        reader["k001"]
    flaky = FaultyStore(yard.store)
    with reading(yard, flaky) as reader:
        assert reader["k001"] == VALUES["k001"]
        flaky.error = TransientStoreError("503")
        assert reader["k001"] == VALUES["k001"]
        for use in (lambda: reader["k002"], lambda: dict(reader), reader.pull):
            with pytest.raises(OfflineError):
                use()
        flaky.error = None
        assert dict(reader) == VALUES


def test_what_needs_a_file_is_refused_before_any_request(yard: Yard) -> None:
    counting = CountingStore(yard.store)
    for options in ({"flag": "w"}, {"flag": "c"}, {"flag": "n"}, {"offline": True}, {"value_serializer": "no"}):
        with pytest.raises(InvalidArgumentError):
            reading(yard, counting, **options)
    assert counting.total == 0
    with pytest.raises(InvalidArgumentError, match="leave it out"):
        reading(yard, counting, value_serializer="orjson")


class Upper:
    @staticmethod
    def dumps(text: str) -> bytes:
        return text.upper().encode()

    @staticmethod
    def loads(data: bytes) -> str:
        return data.decode().lower()


def test_serializers(yard: Yard, tmp_path: Path) -> None:
    for name, given, one in (("own", Upper, "text"), ("pickled", "pickle", {1, 2})):
        url = f"file://{tmp_path}/{name}/db"
        with ebooklet_tx.open(url, tmp_path / f"{name}.blt", "c", given, lock=None) as db:
            db["k"] = one
            db.changes().push()
        with ebooklet_tx.open(url, None, value_serializer=given) as reader:
            assert reader["k"] == one
    with pytest.raises(PickleRefusedError):
        ebooklet_tx.open(url, None, allow_pickle=False)
    with ebooklet_tx.open(url, None, allow_pickle=True) as reader:
        assert reader["k"] == {1, 2}
    with pytest.raises(InvalidArgumentError, match="class"):
        ebooklet_tx.open(f"file://{tmp_path}/own/db", None)


def test_a_public_address_and_a_group(tmp_path: Path) -> None:
    url, other = f"file://{tmp_path}/remote/db", f"file://{tmp_path}/remote/other"
    with ebooklet_tx.open(other, tmp_path / "o.blt", "c", lock=None) as db:
        db.changes().push()
    with ebooklet_tx.open(url, tmp_path / "a.blt", "c", remote_conn_group=True, lock=None) as group:
        group.add(other)
        group.changes().push()
        (name,) = group
    with http_server(folder_handler(tmp_path / "remote", capable=True)) as address:
        with ebooklet_tx.open(f"{address}/db", None) as reader:
            assert list(reader) == [name]
        with ebooklet_tx.open(url, None) as reader:
            assert ebooklet_tx.connect(reader[name]).url == other


def test_bytes_by_digest_stay_within_their_bound() -> None:
    kept = BytesByDigest(100)
    for number in range(50):
        kept.put({bytes([number]): bytes(20)})
        kept.get([bytes([0])])
    assert kept.size_bytes <= 100
    assert set(kept.get([bytes([0]), bytes([1]), bytes([49])])) == {bytes([0]), bytes([49])}
    kept.put({b"large": bytes(26)})
    assert not kept.get([b"large"])
