"""The table of limits: what a writer can just write every reader takes, and one more both refuse."""

from __future__ import annotations

import hashlib
import json
import random
import sqlite3
import struct
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
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
from ebooklet_tx.formats.pack import PackBuilder, iter_pack
from ebooklet_tx.formats.root import Manifest, decode_root, encode_root
from ebooklet_tx.formats.segment import build_segment, count_rows, merge_segments, read_segment
from ebooklet_tx.formats.segment_image import beyond_limits, new_image
from ebooklet_tx.keys import check_key
from ebooklet_tx.locks.lease_rules import Holder, LeaseRecord, decode_lease, encode_lease
from ebooklet_tx.maintenance import collect
from ebooklet_tx.records import CommitRecord, IndexRow, ObjectRef, SegmentRef, digest_of
from ebooklet_tx.sync.commit import builder as building
from ebooklet_tx.timestamps import as_datetime, now_us, timestamp_us
from tests.pairs import Bench, root_of
from tests.remotes import Shelf

HEX = "0123456789abcdef" * 2
PACK = ObjectRef(f"pack/{HEX}", "e", limits.MAX_COUNT)
RECORD = CommitRecord(1, HEX, 1, "anna", 1, 0, 1)
MANIFEST = Manifest(HEX, "booklet", 1, HEX, None, 1, "anna", 0, None, 1, 0, 11)
SEGMENT = SegmentRef(f"index/{HEX}", "e", 1, HEX, 1, 1)


# -- roots -----------------------------------------------------------------------------------------


def forged_root(manifest: Manifest, tail: bytes = b"") -> bytes:
    """The bytes that a hostile writer makes of any manifest."""
    encoded = json.dumps(asdict(manifest)).encode()
    head = struct.pack("<8sHHII", b"EBTXroot", 1, 0, len(encoded), len(tail))
    return head + hashlib.blake2b(head + encoded + tail, digest_size=16).digest() + encoded + tail


def many_segments(count: int) -> tuple[SegmentRef, ...]:
    return tuple(
        replace(SEGMENT, name=f"index/{number:032x}", first_seq=number, last_seq=number)
        for number in range(1, count + 1)
    )


ROOT_LIMITS: dict[str, tuple[Any, Any]] = {
    "committed_at_us": (limits.MAX_TIMESTAMP_US, limits.MAX_TIMESTAMP_US + 1),
    "seq": (limits.MAX_COUNT, limits.MAX_COUNT + 1),
    "fence": (limits.MAX_COUNT, limits.MAX_COUNT + 1),
    "key_count": (limits.MAX_COUNT, limits.MAX_COUNT + 1),
    "tombstone_floor": (limits.MAX_COUNT, limits.MAX_COUNT + 1),
    "n_buckets": (limits.MAX_BUCKETS, limits.MAX_BUCKETS + 1),
    "segments": (many_segments(limits.MAX_SEGMENTS), many_segments(limits.MAX_SEGMENTS + 1)),
}


@pytest.mark.parametrize("field", ROOT_LIMITS)
def test_the_limits_of_a_root(field: str) -> None:
    base = replace(MANIFEST, seq=100)
    most, beyond = ROOT_LIMITS[field]
    sound = replace(base, **{field: most})
    assert decode_root(encode_root(sound, b""), name="root").manifest == sound
    bad = replace(base, **{field: beyond})
    with pytest.raises(InvalidArgumentError, match=field):
        encode_root(bad, b"")
    with pytest.raises(RemoteIntegrityError, match=field):
        decode_root(forged_root(bad), name="root")


@pytest.mark.parametrize("field", ["size_bytes", "last_seq"])
def test_the_limits_of_a_segment_that_a_root_names(field: str) -> None:
    base = replace(MANIFEST, seq=limits.MAX_COUNT)
    sound = replace(base, segments=(replace(SEGMENT, **{field: limits.MAX_COUNT}),))
    assert decode_root(encode_root(sound, b""), name="root").manifest == sound
    bad = replace(base, segments=(replace(SEGMENT, **{field: limits.MAX_COUNT + 1}),))
    with pytest.raises(InvalidArgumentError, match=field):
        encode_root(bad, b"")
    with pytest.raises(RemoteIntegrityError, match=field):
        decode_root(forged_root(bad), name="root")


def test_the_limits_of_a_tail_and_a_whole_root() -> None:
    tail = bytes(limits.MAX_TAIL_BYTES)
    assert decode_root(encode_root(MANIFEST, tail), name="root").tail == tail
    with pytest.raises(InvalidArgumentError, match="tail"):
        encode_root(MANIFEST, tail + b"x")
    with pytest.raises(RemoteIntegrityError, match="over the limit"):
        decode_root(forged_root(MANIFEST, tail + b"x"), name="root")
    assert 36 + limits.MAX_MANIFEST_BYTES + limits.MAX_TAIL_BYTES <= limits.MAX_ROOT_BYTES
    # What a writer of ours rides in a root never comes near it.
    assert building.ROOT_TAIL_LIMIT_BYTES < limits.MAX_TAIL_BYTES


# -- segments and tails ----------------------------------------------------------------------------


def forged_segment(*statements: str) -> bytes:
    """A segment blob with whatever the schema lets through."""
    with closing(new_image(1024)) as image:
        for statement in statements:
            image.execute(statement)
        data = image.serialize()
    payload = zlib.compress(data, 1)
    head = struct.pack("<8sHHQ", b"EBTXseg\n", 1, 0, len(data))
    return head + hashlib.blake2b(head + payload, digest_size=16).digest() + payload


ROW = IndexRow("k", 1, 1, digest_of(b"v"), PACK.name, 0, 1)
SEGMENT_LIMITS: dict[str, Callable[[int], tuple[IndexRow, ObjectRef, CommitRecord]]] = {
    "timestamp_us": lambda n: (ROW._replace(timestamp_us=limits.MAX_TIMESTAMP_US + n), PACK, RECORD),
    "seq": lambda n: (ROW._replace(seq=limits.MAX_COUNT + n), PACK, RECORD),
    "size_bytes": lambda n: (ROW, replace(PACK, size_bytes=limits.MAX_COUNT + n), RECORD),
    "committed_at_us": lambda n: (ROW, PACK, replace(RECORD, committed_at_us=limits.MAX_TIMESTAMP_US + n)),
    "record seq": lambda n: (ROW, PACK, replace(RECORD, seq=limits.MAX_COUNT + n)),
    "set_count": lambda n: (ROW, PACK, replace(RECORD, set_count=limits.MAX_COUNT + n)),
    "deleted_count": lambda n: (ROW, PACK, replace(RECORD, deleted_count=limits.MAX_COUNT + n)),
    "value_bytes": lambda n: (ROW, PACK, replace(RECORD, value_bytes=limits.MAX_COUNT + n)),
    "key": lambda n: (ROW._replace(key="k" * (limits.MAX_KEY_BYTES + n)), PACK, RECORD),
    "length_bytes": lambda n: (ROW._replace(length_bytes=limits.MAX_VALUE_BYTES + n), PACK, RECORD),
}


@pytest.mark.parametrize("what", SEGMENT_LIMITS)
def test_the_limits_of_a_segment(what: str) -> None:
    row, ref, record = SEGMENT_LIMITS[what](0)
    blob = build_segment([row], {ref.name: ref}, [record])
    image = read_segment(blob, name="s")
    assert read_segment(merge_segments([image], drop_tombstones=False), name="m")
    row, ref, record = SEGMENT_LIMITS[what](1)
    with pytest.raises(InvalidArgumentError, match=r"can't be written"):
        build_segment([row], {ref.name: ref}, [record])
    forged = forged_segment(
        "PRAGMA ignore_check_constraints=1",
        f"INSERT INTO entry VALUES ('{row.key}', {row.seq}, {row.timestamp_us}, x'{(row.digest or b'').hex()}', "
        f"1, 0, {row.length_bytes}, NULL)",
        f"INSERT INTO object VALUES (1, '{ref.name}', '{ref.etag}', {ref.size_bytes})",
        f"INSERT INTO commit_log VALUES ({record.seq}, '{record.commit_id}', {record.committed_at_us}, 'anna', "
        f"{record.set_count}, {record.deleted_count}, {record.value_bytes})",
    )
    with pytest.raises(RemoteIntegrityError, match="not a sound index segment"):
        read_segment(forged, name="s")


@pytest.mark.parametrize("key", sorted(limits.RESERVED_TEXTS))
def test_keys_that_booklet_keeps_for_itself_are_refused_at_every_door(key: str) -> None:
    with pytest.raises(InvalidKeyError, match="keeps for itself"):
        check_key(key)
    with pytest.raises(InvalidArgumentError, match="keeps for itself"):
        build_segment([IndexRow(key, 1, 1, None)], {}, [RECORD])
    with pytest.raises(RemoteIntegrityError, match="keeps for itself"):
        read_segment(
            forged_segment(f"INSERT INTO entry VALUES ('{key}', 1, 1, NULL, NULL, NULL, NULL, NULL)"), name="s"
        )
    with pytest.raises(InvalidKeyError, match="keeps for itself"):
        PackBuilder().add(key, 1, b"v")
    with pytest.raises(RemoteIntegrityError, match="keeps for itself"):
        list(iter_pack(forged_pack(key, 1, b"v"), name="p"))


def test_what_compresses_beyond_measure_is_stored_as_it_is_and_read() -> None:
    rows = [IndexRow(f"{number:04}" + "a" * 60_000, 1, 1, None) for number in range(90)]
    blob = build_segment(rows, {}, [RECORD])
    image = read_segment(blob, name="s")
    assert count_rows(image) == 90
    assert len(image) > limits.FREE_IMAGE_BYTES
    assert len(image) <= limits.image_limit_bytes(len(blob))


def test_an_image_larger_than_any_reader_takes_is_not_written() -> None:
    with (
        mock.patch("ebooklet_tx.formats.segment.MAX_IMAGE_BYTES", 4000),
        pytest.raises(InvalidArgumentError, match="no reader takes more"),
    ):
        build_segment([ROW], {PACK.name: PACK}, [RECORD])


def test_a_sound_image_is_within_the_limits() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.deserialize(read_segment(build_segment([ROW], {PACK.name: PACK}, [RECORD]), name="s"))
        assert beyond_limits(connection) is None


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
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.deserialize(read_segment(root.tail, name="tail"))
        connection.execute("PRAGMA ignore_check_constraints=1")
        connection.execute(f"UPDATE entry SET {column} = ? WHERE key = ?", (value, key))
        data = connection.serialize()
    payload = zlib.compress(data, 1)
    head = struct.pack("<8sHHQ", b"EBTXseg\n", 1, 0, len(data))
    tail = head + hashlib.blake2b(head + payload, digest_size=16).digest() + payload
    return forged_root(replace(root.manifest, commit_id=f"{random.Random(key).getrandbits(128):032x}"), tail)


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


@pytest.fixture
def before_the_limits(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Copy b has taken a row in that lies past the limits, as versions without them did."""
    sound = bench.root.read_bytes()
    bench.root.write_bytes(with_tail_row(bench, "k", "timestamp_us", 2**60))
    with monkeypatch.context() as patch:
        patch.setattr("ebooklet_tx.formats.segment_image.beyond_limits", lambda connection: None)
        bench.open("b", "w").close()
    (bench.folder / "sound").write_bytes(sound)
    return bench


def test_a_session_that_took_such_a_row_in_serves_and_closes(before_the_limits: Bench) -> None:
    with before_the_limits.open("b", "w") as db:
        assert db["k"] == b"v"
        assert db.get_timestamp("k") == 2**60
        db.sync()
        db["mine"] = b"1"
        db.sync()
        assert [change["key"] for change in db.changes().iter_changes()] == ["mine"]
        db["k"] = b"2"
        assert {change["key"] for change in db.changes().iter_changes()} == {"mine", "k"}


def test_a_session_that_took_such_a_row_in_is_told_which_key_to_mend_and_pushes(
    before_the_limits: Bench,
) -> None:
    bench = before_the_limits
    with bench.open("b", "w") as db:
        db["mine"] = b"1"
        with pytest.raises(InvalidArgumentError, match=r"'k'.*set that key anew, or delete it"):
            db.changes().push()
        del db["k"]
        assert db.changes().push()
    assert bench.fresh_contents() == {"mine": b"1", "other": b"w"}


def test_a_session_that_took_such_a_row_in_pulls_a_mended_root(before_the_limits: Bench) -> None:
    bench = before_the_limits
    bench.root.write_bytes((bench.folder / "sound").read_bytes())
    with bench.open("a", "w") as db:
        db["k"] = b"mended"
        db.changes().push()
    assert bench.contents("b") == {"k": b"mended", "other": b"w"}


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
