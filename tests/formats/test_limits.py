"""The table of limits: what a writer can just write every reader takes, and one more both refuse."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from ebooklet_tx import limits
from ebooklet_tx.errors import (
    InvalidArgumentError,
    InvalidKeyError,
    InvalidValueError,
    RemoteIntegrityError,
)
from ebooklet_tx.formats.block import decode_block, encode_block
from ebooklet_tx.formats.columns import FrameKind, FrameWriter
from ebooklet_tx.formats.history import decode_history, encode_history, history_ref, write_facts
from ebooklet_tx.formats.index_object import read_whole
from ebooklet_tx.formats.pack import PackBuilder, iter_pack
from ebooklet_tx.formats.root import ROOT_BYTES, decode_root, encode_root
from ebooklet_tx.keys import check_key
from ebooklet_tx.locks.lease_rules import Holder, LeaseRecord, decode_lease, encode_lease
from ebooklet_tx.maintenance import collect
from ebooklet_tx.records import CommitRecord, IndexRow, ObjectRef, digest_of
from ebooklet_tx.timestamps import as_datetime, now_us, timestamp_us
from tests.formats.samples import (
    ENTRIES,
    PACK_A,
    forged_block,
    forged_root,
    hex_id,
    manifest_of,
    sealed_root,
    write_objects,
)
from tests.pairs import Bench, root_of
from tests.remotes import Shelf

PACK = ObjectRef(PACK_A, "e", limits.MAX_COUNT)
RECORD = CommitRecord(1, hex_id(1), 1, "anna", 1, 0, 1)
MANIFEST = manifest_of()


# -- roots -----------------------------------------------------------------------------------------


ENTRY = ENTRIES[0]
ROOT_LIMITS: dict[str, tuple[Any, Any]] = {
    "committed_at_us": (limits.MAX_TIMESTAMP_US, limits.MAX_TIMESTAMP_US + 1),
    "fence": (limits.MAX_COUNT, limits.MAX_COUNT + 1),
    "key_count": (limits.MAX_COUNT, limits.MAX_COUNT + 1),
    "tombstone_floor": (limits.MAX_COUNT, limits.MAX_COUNT + 1),
    "n_buckets": (limits.MAX_BUCKETS, limits.MAX_BUCKETS + 1),
    "runs": ((ENTRIES,) * limits.MAX_RUNS, (ENTRIES,) * (limits.MAX_RUNS + 1)),
}


@pytest.mark.parametrize("field", ROOT_LIMITS)
def test_the_limits_of_a_root(field: str) -> None:
    most, beyond = ROOT_LIMITS[field]
    sound = replace(MANIFEST, **{field: most})
    assert decode_root(encode_root(sound, b""), name="root").manifest == sound
    bad = replace(MANIFEST, **{field: beyond})
    with pytest.raises(InvalidArgumentError, match=field):
        encode_root(bad, b"")
    with pytest.raises(RemoteIntegrityError, match=field):
        decode_root(forged_root(bad), name="root")


def test_the_limit_of_a_roots_number() -> None:
    last, beyond = limits.MAX_COUNT, limits.MAX_COUNT + 1
    sound = manifest_of(seq=last, recent=((last, hex_id(last)),), records=())
    assert decode_root(encode_root(sound, b""), name="root").manifest == sound
    bad = manifest_of(seq=beyond, recent=((beyond, hex_id(beyond)),), records=())
    with pytest.raises(InvalidArgumentError, match="seq"):
        encode_root(bad, b"")
    with pytest.raises(RemoteIntegrityError, match="seq"):
        decode_root(forged_root(bad), name="root")


@pytest.mark.parametrize(
    ("field", "most", "words"),
    [
        ("size_bytes", limits.MAX_OBJECT_BYTES, "sizes of objects"),
        ("directory_length_bytes", limits.MAX_LIST_BYTES, "lengths of directories"),
        ("row_count", limits.MAX_BLOCK_ROWS * limits.MAX_OBJECT_BLOCKS, "rows of objects"),
        ("greatest_seq", MANIFEST.seq, "greatest seqs"),
    ],
)
def test_the_limits_of_an_index_object_that_a_root_names(field: str, most: int, words: str) -> None:
    base = ENTRY._replace(size_bytes=limits.MAX_OBJECT_BYTES)
    sound = replace(MANIFEST, runs=((base._replace(**{field: most}),),))
    assert decode_root(encode_root(sound, b""), name="root").manifest == sound
    bad = replace(MANIFEST, runs=((base._replace(**{field: most + 1}),),))
    with pytest.raises(InvalidArgumentError, match="can't be named: IndexEntry"):
        encode_root(bad, b"")
    with pytest.raises(RemoteIntegrityError, match=words):
        decode_root(forged_root(bad), name="root")


def test_the_limits_of_a_tail_and_a_whole_root() -> None:
    tail = bytes(limits.MAX_TAIL_BYTES)
    assert decode_root(forged_root(MANIFEST, tail), name="root").tail == tail
    with pytest.raises(InvalidArgumentError, match="over the limit"):
        encode_root(MANIFEST, tail + b"x")
    with pytest.raises(RemoteIntegrityError, match="over the limit"):
        decode_root(forged_root(MANIFEST, tail + b"x"), name="root")
    parts = limits.MAX_MANIFEST_BYTES, limits.MAX_BODY_BYTES, limits.MAX_TAIL_BYTES
    with pytest.raises(RemoteIntegrityError, match=f"over {limits.MAX_ROOT_BYTES} bytes"):
        decode_root(sealed_root(*map(bytes, parts)), name="root")
    # What a writer of ours makes of a root never comes near it.
    assert ROOT_BYTES < limits.MAX_TAIL_BYTES


# -- the index and the history ---------------------------------------------------------------------


ROW = IndexRow("k", 1, 1, digest_of(b"v"), PACK.name, 0, 1)
ROW_LIMITS: dict[str, Callable[[int], tuple[IndexRow, ObjectRef]]] = {
    "timestamps": lambda n: (ROW._replace(timestamp_us=limits.MAX_TIMESTAMP_US + n), PACK),
    "seqs": lambda n: (ROW._replace(seq=limits.MAX_COUNT + n), PACK),
    "sizes of packs": lambda n: (ROW, replace(PACK, size_bytes=limits.MAX_COUNT + n)),
    f"over {limits.MAX_KEY_BYTES} bytes": lambda n: (ROW._replace(key="k" * (limits.MAX_KEY_BYTES + n)), PACK),
    "its lengths": lambda n: (ROW._replace(length_bytes=limits.MAX_VALUE_BYTES + n), PACK),
}


@pytest.mark.parametrize("words", ROW_LIMITS)
def test_the_limits_of_a_row_of_the_index(words: str) -> None:
    row, ref = ROW_LIMITS[words](0)
    data = encode_block([row], {ref.name: ref})
    assert list(decode_block(data, name="b").rows()) == [row]
    assert forged_block([row], packs=[ref]) == data
    row, ref = ROW_LIMITS[words](1)
    with pytest.raises(InvalidArgumentError, match=r"can't be written"):
        encode_block([row], {ref.name: ref})
    with pytest.raises(RemoteIntegrityError, match=words):
        decode_block(forged_block([row], packs=[ref]), name="b")


def forged_history(record: CommitRecord) -> bytes:
    """A history object with whatever the layout lets through."""
    writer = FrameWriter(FrameKind(b"EBTXhis\n", "a hostile writer's history", 2**30, 2**40, 2**40))
    writer.integers([record.seq])
    write_facts(writer, [record])
    writer.plain(bytes.fromhex(record.commit_id))
    return writer.finish(1)


RECORD_LIMITS = {
    "seq": limits.MAX_COUNT,
    "committed_at_us": limits.MAX_TIMESTAMP_US,
    "set_count": limits.MAX_COUNT,
    "deleted_count": limits.MAX_COUNT,
    "value_bytes": limits.MAX_COUNT,
    "message": limits.MAX_MESSAGE_BYTES,
}


@pytest.mark.parametrize("field", RECORD_LIMITS)
def test_the_limits_of_a_record_of_the_history(field: str) -> None:
    most = RECORD_LIMITS[field]

    def record_of(value: int) -> CommitRecord:
        return replace(RECORD, **{field: "m" * value if field == "message" else value})  # type: ignore[arg-type]

    sound = record_of(most)
    data = encode_history([sound])
    assert decode_history(data, ref=history_ref(data, "history/h", [sound])) == (sound,)
    assert forged_history(sound) == data
    bad = record_of(most + 1)
    with pytest.raises(InvalidArgumentError, match=r"can't be written"):
        encode_history([bad])
    forged = forged_history(bad)
    # The root that names it says the seq that it has, or another one of those that can be.
    ref = history_ref(forged, "history/h", [bad])
    with pytest.raises(RemoteIntegrityError, match="history/h"):
        decode_history(forged, ref=ref._replace(first_seq=1, last_seq=min(ref.last_seq, limits.MAX_COUNT)))


@pytest.mark.parametrize("key", sorted(limits.RESERVED_TEXTS))
def test_keys_that_booklet_keeps_for_itself_are_refused_at_every_door(key: str) -> None:
    with pytest.raises(InvalidKeyError, match="keeps for itself"):
        check_key(key)
    with pytest.raises(InvalidArgumentError, match="keeps for itself"):
        encode_block([IndexRow(key, 1, 1, None)], {})
    with pytest.raises(RemoteIntegrityError, match="keeps for itself"):
        decode_block(forged_block([IndexRow(key, 1, 1, None)], packs=[]), name="b")
    with pytest.raises(InvalidKeyError, match="keeps for itself"):
        PackBuilder().add(key, 1, b"v")
    with pytest.raises(RemoteIntegrityError, match="keeps for itself"):
        list(iter_pack(forged_pack(key, 1, b"v"), name="p"))


def test_what_compresses_beyond_measure_is_cut_into_blocks_that_are_read() -> None:
    rows = [IndexRow(f"{number:04}" + "a" * 60_000, 1, 1, None) for number in range(90)]
    found: list[IndexRow] = []
    for data, entry in write_objects(iter(rows), {}):
        assert len(data) < 100_000
        for ref in read_whole(data, entry=entry, name=entry.name).blocks:
            part = data[ref.offset_bytes : ref.offset_bytes + ref.length_bytes]
            found += decode_block(part, name=entry.name, expect=ref).rows()
    assert found == rows


def test_an_index_object_larger_than_any_reader_takes_is_not_written() -> None:
    with (
        mock.patch("ebooklet_tx.formats.index_object.MAX_OBJECT_BYTES", 100),
        pytest.raises(InvalidArgumentError, match="no reader takes more"),
    ):
        list(write_objects(iter([ROW]), {PACK.name: PACK}))


# -- packs and locks -------------------------------------------------------------------------------


def forged_pack(key: str, stamp: int, value: bytes) -> bytes:
    sound = PackBuilder()
    head = sound.finish()
    encoded = key.encode()
    return head + struct.pack("<IQQ", len(encoded), stamp, len(value)) + encoded + value


def test_the_limits_of_a_pack() -> None:
    pack = PackBuilder()
    offset = pack.add("k" * limits.MAX_KEY_BYTES, limits.MAX_TIMESTAMP_US, b"v")
    found = [("k" * limits.MAX_KEY_BYTES, limits.MAX_TIMESTAMP_US, offset, b"v")]
    assert list(iter_pack(pack.finish(), name="p")) == found
    with pytest.raises(InvalidArgumentError, match="timestamp"):
        pack.add("k", limits.MAX_TIMESTAMP_US + 1, b"v")
    with pytest.raises(RemoteIntegrityError, match="timestamp"):
        list(iter_pack(forged_pack("k", limits.MAX_TIMESTAMP_US + 1, b"v"), name="p"))
    with pytest.raises(InvalidKeyError, match="at most"):
        pack.add("k" * (limits.MAX_KEY_BYTES + 1), 1, b"v")
    with pytest.raises(RemoteIntegrityError, match="no record can have"):
        list(iter_pack(forged_pack("k" * (limits.MAX_KEY_BYTES + 1), 1, b"v"), name="p"))

    class Huge(bytes):
        def __len__(self) -> int:
            return limits.MAX_VALUE_BYTES + 1

    with pytest.raises(InvalidValueError, match="at most"):
        pack.add("k", 1, Huge())


def test_the_limits_of_a_lock() -> None:
    def lock(stamp: int) -> bytes:
        return encode_lease(LeaseRecord(True, Holder("o", "h" * 255, "b", 1), "t", 60.0, stamp))

    assert decode_lease(lock(limits.MAX_TIMESTAMP_US), name="l").acquired_at_us == limits.MAX_TIMESTAMP_US
    assert len(lock(limits.MAX_TIMESTAMP_US)) < limits.MAX_LOCK_BYTES
    with pytest.raises(RemoteIntegrityError, match="out of range"):
        decode_lease(lock(limits.MAX_TIMESTAMP_US + 1), name="l")


def test_the_limits_of_what_a_collection_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(tmp_path)
    remote = shelf.remote("db")
    longest = f"snapshot/{'s' * 64}"
    entry = json.dumps({longest: limits.MAX_TIMESTAMP_US})
    assert len(entry) < 128
    monkeypatch.setattr(collect, "MAX_NOTED_NAMES", 2)
    epoch = datetime(2026, 1, 1, tzinfo=UTC)
    since = {f"pack/{number:032x}": epoch + timedelta(days=-number) for number in range(5)}
    collect._write_note(remote, since)
    # The oldest, which go first.
    assert sorted(collect._read_note(remote)) == [f"pack/{3:032x}", f"pack/{4:032x}"]
    shelf.store.put("db.d/garbage", b" " * (limits.MAX_NOTE_BYTES + 1))
    assert collect._read_note(remote) == {}


# -- whole databases -------------------------------------------------------------------------------


def with_tail_row(bench: Bench, key: str, column: str, value: int | str) -> bytes:
    """The root with one column of one row of its tail set to whatever a hostile writer likes."""
    root = root_of(bench)
    block = root.tail_block()
    rows = [row._replace(**{column: value}) if row.key == key else row for row in block.rows()]  # type: ignore[arg-type]
    return forged_root(root.manifest, forged_block(sorted(rows), packs=list(block.packs)))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    with bench.open("a") as db:
        db["k"] = b"v"
        db["other"] = b"w"
        db.changes().push()
    return bench


@pytest.mark.parametrize("stamp", [2**55 + 1, 2**56, 2**63 - 1])
@pytest.mark.parametrize("flag", ["r", "w"])
def test_a_remote_timestamp_past_the_limit_is_refused_before_anything_is_taken_in(
    bench: Bench, stamp: int, flag: str
) -> None:
    sound = bench.root.read_bytes()
    bench.root.write_bytes(with_tail_row(bench, "k", "timestamp_us", stamp))
    with pytest.raises(RemoteIntegrityError, match="timestamp"):
        bench.open("b", flag)
    bench.root.write_bytes(sound)
    assert bench.contents("b") == {"k": b"v", "other": b"w"}


@pytest.mark.parametrize("key", sorted(limits.RESERVED_TEXTS))
def test_a_remote_key_of_booklets_own_never_becomes_local_metadata(bench: Bench, key: str) -> None:
    bench.root.write_bytes(with_tail_row(bench, "k", "key", key))
    with pytest.raises(RemoteIntegrityError, match="keeps for itself"):
        bench.open("b", "r")


def test_a_users_timestamp_past_the_limit_is_refused_and_the_greatest_travels(bench: Bench) -> None:
    with bench.open("a", "w") as db:
        for call in (
            lambda: db.set("k", b"1", timestamp=limits.MAX_TIMESTAMP_US + 1),
            lambda: db.set_timestamp("k", "9999-12-31T23:59:59+00:00"),
            lambda: db.set_timestamp("k", "9999-12-31T23:59:59-23:59"),
            lambda: db.set_timestamp("k", "0001-01-01T00:00:00+23:59"),
            lambda: db.set_timestamp("k", 10**5000),
            lambda: db.set_metadata({"m": 1}, timestamp=-(10**5000)),
            lambda: db.prune(timestamp=2**63),
        ):
            with pytest.raises(InvalidArgumentError, match="outside"):
                call()
        db.set("k", b"last", timestamp=limits.MAX_TIMESTAMP_US)
        db.changes().push()
    with bench.open("b", "r") as db:
        assert db.get_timestamp("k") == limits.MAX_TIMESTAMP_US
        assert db["k"] == b"last"


def test_what_a_plain_booklet_dated_past_the_limit_is_pushed_with_the_greatest(bench: Bench) -> None:
    import booklet

    with booklet.open(bench.path("a"), "w") as plain:
        plain.set("k", b"far", timestamp=2**56 - 1, encode_value=False)
    with bench.open("a", "w") as db:
        assert db["k"] == b"far"
        db.changes().push()
    with bench.open("a", "w") as db:
        assert not list(db.changes().iter_changes())
    with bench.open("b", "r") as db:
        assert (db["k"], db.get_timestamp("k")) == (b"far", limits.MAX_TIMESTAMP_US)


@pytest.mark.parametrize(("clock_ns", "stamp"), [(-(10**18), 0), (10**20, limits.MAX_TIMESTAMP_US)])
def test_a_clock_out_of_range_gives_the_nearest_timestamp(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, clock_ns: int, stamp: int
) -> None:
    with bench.open("b", "r"):
        pass
    monkeypatch.setattr("time.time_ns", lambda: clock_ns)
    assert now_us() == timestamp_us(None) == stamp
    with bench.open("a", "w", lock="exclusive") as db:
        db["k"] = b"by a wrong clock"
        db.set_metadata({"m": 1})
        db.changes().push()
        assert db.get_timestamp("k") == stamp
    assert bench.contents("b") == {"k": b"by a wrong clock", "other": b"w", "": {"m": 1}}
    with pytest.raises(InvalidArgumentError, match="clock"):
        bench.open("new", "r")
    assert not bench.path("new").exists()


def test_what_is_past_the_year_9999_is_shown_as_its_end() -> None:
    shown = as_datetime(2**62)
    assert shown is not None
    assert shown.year == 9999


# -- hash buckets ----------------------------------------------------------------------------------


def test_a_user_asks_for_no_more_buckets_than_readers_take(bench: Bench) -> None:
    with pytest.raises(InvalidArgumentError, match="n_buckets"):
        bench.open("c", n_buckets=limits.MAX_BUCKETS + 1)


@pytest.mark.parametrize("key_count", [2, limits.MAX_COUNT])
def test_a_copy_has_no_more_buckets_than_its_keys_ask_for(bench: Bench, key_count: int) -> None:
    root = root_of(bench)
    bench.root.write_bytes(
        forged_root(replace(root.manifest, n_buckets=limits.MAX_BUCKETS, key_count=key_count), root.tail)
    )
    with mock.patch("ebooklet_tx.opening.settings.MAX_COPY_BUCKETS", 20_000), bench.open("b", "w") as db:
        assert db._n_buckets == (12_007 if key_count == 2 else 20_000)
        assert db["k"] == b"v"
