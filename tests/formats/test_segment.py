"""Index segments: round trips, merges, every damage to a small one, and images made to harm."""

from __future__ import annotations

import hashlib
import random
import sqlite3
import struct
import tracemalloc
import zlib
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebooklet_tx.errors import Error, InvalidArgumentError, RemoteIntegrityError, UnsupportedFormatError
from ebooklet_tx.formats.segment import (
    build_segment,
    count_rows,
    iter_log,
    iter_objects,
    iter_rows,
    merge_segments,
    read_segment,
)
from ebooklet_tx.records import CommitRecord, IndexRow, ObjectRef, digest_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

GOLDEN = Path(__file__).parent.parent / "golden" / "segment_v1.bin"

PACK_A, PACK_B = f"pack/{'a' * 32}", f"pack/{'b' * 32}"
OBJECTS = {name: ObjectRef(name, f"etag-{name[-1]}", 2**40) for name in (PACK_A, PACK_B)}
ROWS = [
    IndexRow("", 3, 1_700_000_000_000_003, digest_of(b'{"m":1}'), None, None, 7, b'{"m":1}'),
    IndexRow("gone", 2, 1_700_000_000_000_002, None),
    IndexRow("käy/\x00\U0001f511", 1, 0, b"d" * 16, PACK_A, 16, 4_294_967_295),
    IndexRow("station/1", 2, 2**55, digest_of(b""), None, None, 0, b""),
    IndexRow("station/2", 3, 1_700_000_000_000_001, b"e" * 16, PACK_B, 2**39, 0),
]
LOG = [
    CommitRecord(seq, f"{seq:032x}", 1_700_000_000_000_000 + seq, "anna@höst:42", 2, 1, 7) for seq in (1, 2, 3)
]


def image_of(rows: Iterable[IndexRow], log: Iterable[CommitRecord] = ()) -> bytes:
    return read_segment(build_segment(rows, OBJECTS, log), name="s")


SMALL = build_segment(ROWS, OBJECTS, LOG)
IMAGE = read_segment(SMALL, name="s")

KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
TIMESTAMPS = st.integers(0, 2**55)
SEQS = st.integers(1, 2**53 - 1)


@st.composite
def index_rows(draw: st.DrawFn, key: str, seq: int) -> IndexRow:
    stamp = draw(TIMESTAMPS)
    kind = draw(st.sampled_from(["deleted", "inline", "placed"]))
    if kind == "deleted":
        return IndexRow(key, seq, stamp, None)
    if kind == "inline":
        value = draw(st.binary(max_size=100))
        return IndexRow(key, seq, stamp, digest_of(value), None, None, len(value), value)
    digest = draw(st.binary(min_size=16, max_size=16))
    place = draw(st.integers(0, 2**39)), draw(st.integers(0, 2**32 - 1))
    return IndexRow(key, seq, stamp, digest, draw(st.sampled_from(sorted(OBJECTS))), *place)


@st.composite
def row_lists(draw: st.DrawFn, seqs: st.SearchStrategy[int] = SEQS) -> list[IndexRow]:
    keys = draw(st.lists(KEYS, unique=True, max_size=15))
    return [draw(index_rows(key, draw(seqs))) for key in keys]


def seal(image: bytes, *, image_bytes: int | None = None, version: int = 1, reserved: int = 0) -> bytes:
    """A blob with a right digest around whatever a hostile writer likes."""
    return seal_payload(
        zlib.compress(image, 1), len(image) if image_bytes is None else image_bytes, version, reserved
    )


def seal_payload(payload: bytes, image_bytes: int, version: int = 1, reserved: int = 0) -> bytes:
    head = struct.pack("<8sHHQ", b"EBTXseg\n", version, reserved, image_bytes)
    return head + hashlib.blake2b(head + payload, digest_size=16).digest() + payload


def altered(*statements: str, image: bytes = IMAGE) -> bytes:
    """A blob of the image after SQL that our own code would never run."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.deserialize(image)
        for statement in ("PRAGMA ignore_check_constraints=1", "PRAGMA writable_schema=1", *statements):
            connection.execute(statement)
        return seal(connection.serialize())


# -- round trips -------------------------------------------------------------------------------


@given(row_lists(), st.randoms(use_true_random=False))
def test_rows_in_any_order_are_read_back_in_the_order_of_keys(rows: list[IndexRow], rng: random.Random) -> None:
    rng.shuffle(rows)
    image = image_of(iter(rows))
    assert list(iter_rows(image)) == sorted(rows, key=lambda row: row.key.encode())
    assert count_rows(image) == len(rows)
    used = {row.object_name for row in rows} - {None}
    assert {ref.name for ref in iter_objects(image)} == used


def test_everything_is_read_back() -> None:
    assert list(iter_rows(IMAGE)) == ROWS
    assert list(iter_objects(IMAGE)) == [OBJECTS[PACK_A], OBJECTS[PACK_B]]
    assert list(iter_log(IMAGE)) == LOG


def test_an_empty_segment_is_one() -> None:
    image = image_of([])
    assert (list(iter_rows(image)), list(iter_log(image)), count_rows(image)) == ([], [], 0)


def test_many_rows_stream_in_and_take_larger_pages() -> None:
    def stream() -> Iterator[IndexRow]:
        for number in range(25_003):
            yield IndexRow(f"k{number:06d}", number + 1, number, b"d" * 16, PACK_A, number * 160, 100)

    image = image_of(stream())
    assert struct.unpack_from(">H", image, 16) == (4096,)
    assert struct.unpack_from(">H", IMAGE, 16) == (1024,)
    assert list(iter_rows(image)) == list(stream())


def test_objects_that_no_row_names_are_left_out() -> None:
    assert [ref.name for ref in iter_objects(image_of([ROWS[2]]))] == [PACK_A]


def test_the_longest_key_fits() -> None:
    row = IndexRow("é" * 32_767 + "e", 1, 1, None)
    assert list(iter_rows(image_of([row]))) == [row]


def test_a_small_segment_is_small() -> None:
    value = bytes(100)
    assert len(build_segment([IndexRow("k", 1, 1, digest_of(value), None, None, 100, value)], {}, LOG[:1])) < 1500


# -- bad rows ----------------------------------------------------------------------------------

D = b"d" * 16
BAD_ROWS = [
    IndexRow("bad", 0, 1, None),
    IndexRow("bad", 1, -1, None),
    IndexRow("bad", 1, 2**63, None),
    IndexRow("bad", 1, 1, None, None, None, 3),
    IndexRow("bad", 1, 1, None, None, None, None, b""),
    IndexRow("bad", 1, 1, None, PACK_A),
    IndexRow("bad", 1, 1, D),
    IndexRow("bad", 1, 1, D[:-1], PACK_A, 0, 1),
    IndexRow("bad", 1, 1, D, PACK_A, 0),
    IndexRow("bad", 1, 1, D, PACK_A, None, 1),
    IndexRow("bad", 1, 1, D, PACK_A, -1, 1),
    IndexRow("bad", 1, 1, D, PACK_A, 0, -1),
    IndexRow("bad", 1, 1, D, PACK_A, 0, 2**32),
    IndexRow("bad", 1, 1, D, None, 0, 1),
    IndexRow("bad", 1, 1, D, PACK_A, 0, 1, b"x"),
    IndexRow("bad", 1, 1, D, None, None, 2, b"x"),
    IndexRow("bad", 1, 1, D, None, None, None, b"x"),
    IndexRow("bad", 1, 1, "d" * 16, PACK_A, 0, 1),  # type: ignore[arg-type]
    IndexRow("bad", 1.5, 1, None),  # type: ignore[arg-type]
    IndexRow("bad" + "k" * 65_533, 1, 1, None),
    IndexRow("bad\ud800", 1, 1, None),
]


@pytest.mark.parametrize("bad", BAD_ROWS)
def test_a_row_that_breaks_the_rule_is_refused_by_name(bad: IndexRow) -> None:
    with pytest.raises(InvalidArgumentError, match="'bad"):
        build_segment([*ROWS, bad], OBJECTS, [])


def test_a_key_that_comes_twice_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"'gone'.*UNIQUE"):
        build_segment([*ROWS, ROWS[1]], OBJECTS, [])


def test_an_object_that_was_not_given_is_named() -> None:
    with pytest.raises(InvalidArgumentError, match=f"'station/2' names the object '{PACK_B}'"):
        build_segment(ROWS, {PACK_A: OBJECTS[PACK_A]}, [])


@pytest.mark.parametrize(
    "ref", [ObjectRef("pack/../x", "e", 1), ObjectRef(PACK_A, "", 1), ObjectRef(PACK_A, "a\nb", 1)]
)
def test_a_bad_object_is_refused(ref: ObjectRef) -> None:
    with pytest.raises(InvalidArgumentError, match="the object"):
        build_segment([IndexRow("k", 1, 1, D, ref.name, 0, 1)], {ref.name: ref}, [])


@pytest.mark.parametrize(
    "record",
    [
        CommitRecord(0, "0" * 32, 1, "w", 0, 0, 0),
        CommitRecord(1, "xyz", 1, "w", 0, 0, 0),
        CommitRecord(1, "0" * 32, 1, "w\x1b[2J", 0, 0, 0),
        CommitRecord(1, "0" * 32, 1, "w", -1, 0, 0),
    ],
)
def test_a_bad_log_record_is_refused(record: CommitRecord) -> None:
    with pytest.raises(InvalidArgumentError, match="log record of seq"):
        build_segment([], {}, [record])


def test_a_failing_source_is_not_taken_for_a_bad_row() -> None:
    def stream() -> Iterator[IndexRow]:
        yield from ROWS
        raise sqlite3.OperationalError("the journal is locked")

    with pytest.raises(sqlite3.OperationalError, match="the journal is locked"):
        build_segment(stream(), OBJECTS, [])


# -- merges ------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(0, 20), st.booleans())
def test_a_merge_says_what_its_parts_say_together(data: st.DataObject, parts: int, drop: bool) -> None:
    newest: dict[str, IndexRow] = {}
    images = []
    for part in range(parts):
        rows = data.draw(row_lists(st.integers(part * 10 + 1, part * 10 + 10)))
        newest |= {row.key: row for row in rows}
        images.append(image_of(rows, [CommitRecord(part + 1, f"{part:032x}", part, "w", 1, 0, 0)]))
    merged = read_segment(merge_segments(images, drop_tombstones=drop), name="merged")
    kept = [row for _, row in sorted(newest.items()) if row.digest is not None or not drop]
    assert list(iter_rows(merged)) == kept
    assert {ref.name for ref in iter_objects(merged)} == {row.object_name for row in kept} - {None}
    assert [record.seq for record in iter_log(merged)] == list(range(1, parts + 1))


def test_only_the_newest_log_records_stay() -> None:
    images = [image_of([], LOG[:2]), image_of([], LOG[1:])]
    assert (
        list(iter_log(read_segment(merge_segments(images, drop_tombstones=True, keep_log=2), name="m")))
        == LOG[1:]
    )
    assert not list(iter_log(read_segment(merge_segments(images, drop_tombstones=True, keep_log=0), name="m")))


def test_the_newer_etag_of_an_object_stays() -> None:
    moved = {PACK_A: ObjectRef(PACK_A, "newer", 2**40)}
    newer = read_segment(build_segment([IndexRow("z", 9, 1, D, PACK_A, 0, 1)], moved, []), name="s")
    merged = read_segment(merge_segments([IMAGE, newer], drop_tombstones=False), name="m")
    assert list(iter_objects(merged)) == [moved[PACK_A], OBJECTS[PACK_B]]


def test_ids_of_objects_are_told_apart_between_parts() -> None:
    older = image_of([IndexRow("x", 1, 1, D, PACK_B, 0, 1)])
    newer = image_of([IndexRow("y", 2, 1, D, PACK_A, 0, 1), IndexRow("z", 2, 1, D, PACK_B, 0, 1)])
    merged = read_segment(merge_segments([older, newer], drop_tombstones=False), name="m")
    assert [(row.key, row.object_name) for row in iter_rows(merged)] == [
        ("x", PACK_B),
        ("y", PACK_A),
        ("z", PACK_B),
    ]


def test_a_merge_refuses_what_is_no_image() -> None:
    with pytest.raises(RemoteIntegrityError):
        merge_segments([IMAGE, b"x" * 4096], drop_tombstones=False)


# -- damage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0xFF, 0x01, 0x80, 0x08])
def test_every_flipped_byte_is_refused(mask: int) -> None:
    for position in range(len(SMALL)):
        data = bytearray(SMALL)
        data[position] ^= mask
        with pytest.raises((RemoteIntegrityError, UnsupportedFormatError)):
            read_segment(bytes(data), name="s")


def test_every_truncation_is_refused() -> None:
    for length in range(len(SMALL)):
        with pytest.raises(RemoteIntegrityError, match=r"index/x .*verify"):
            read_segment(SMALL[:length], name="index/x")


def test_every_flipped_byte_of_the_image_is_refused_or_changes_no_row() -> None:
    for position, byte in enumerate(IMAGE):
        if not byte and position % 16:
            continue  # most of a small image is zeros between the cells
        data = bytearray(IMAGE)
        data[position] ^= 0xFF
        try:
            image = read_segment(seal(bytes(data)), name="s")
        except (RemoteIntegrityError, UnsupportedFormatError):
            continue
        # Nothing but a digest tells a changed place or key from another: that is the blob's, which a
        # hostile writer makes right. What passes must be readable to the end, and obey the rules.
        rows = list(iter_rows(image))
        assert [row.key for row in rows] == sorted(row.key for row in rows)
        assert all(digest_of(row.value) == row.digest for row in rows if row.value is not None)
        list(iter_log(image))
        merge_segments([image], drop_tombstones=True)


@given(st.binary(max_size=300), st.integers(0, 2**64 - 1), st.booleans())
def test_arbitrary_bytes_never_escape_our_errors(noise: bytes, image_bytes: int, compressed: bool) -> None:
    blob = seal(noise) if compressed else seal_payload(noise, image_bytes)
    with pytest.raises(Error):
        read_segment(blob, name="s")


@pytest.mark.parametrize(
    "blob",
    [
        seal_payload(zlib.compress(IMAGE), len(IMAGE) - 1),
        seal_payload(zlib.compress(IMAGE), len(IMAGE) + 1),
        seal_payload(zlib.compress(IMAGE)[:-1], len(IMAGE)),
        seal_payload(zlib.compress(IMAGE) + b"\x00", len(IMAGE)),
        seal_payload(zlib.compress(IMAGE) + zlib.compress(IMAGE), len(IMAGE)),
        seal_payload(b"", 0),
        seal_payload(b"this was never compressed", 4096),
        seal_payload(zlib.compress(b""), 0),
        b"",
        b"EBTXroot" + bytes(90),
    ],
)
def test_a_payload_that_is_not_as_announced_is_refused(blob: bytes) -> None:
    with pytest.raises(RemoteIntegrityError, match=r"index/x"):
        read_segment(blob, name="index/x")


def test_a_bomb_is_refused_before_it_goes_off() -> None:
    payload = zlib.compress(bytes(200 * 2**20), 9)
    for announced in (4096, 300 * 2**20, 2**62):
        tracemalloc.start()
        try:
            with pytest.raises(RemoteIntegrityError):
                read_segment(seal_payload(payload, announced), name="s", max_image_bytes=2**20)
            assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
        finally:
            tracemalloc.stop()


def test_an_image_over_the_limit_is_refused() -> None:
    with pytest.raises(RemoteIntegrityError, match="the limit is"):
        read_segment(SMALL, name="s", max_image_bytes=len(IMAGE) - 1)
    assert read_segment(SMALL, name="s", max_image_bytes=len(IMAGE)) == IMAGE


@pytest.mark.parametrize(
    "blob",
    [
        seal(IMAGE, version=2),
        b"EBTXseg\n\x02\x00" + bytes(50),
        seal(IMAGE, reserved=1),
        altered("PRAGMA user_version=2"),
    ],
)
def test_a_newer_segment_asks_for_an_upgrade(blob: bytes) -> None:
    with pytest.raises(UnsupportedFormatError, match=r"index/x.*Upgrade ebooklet_tx"):
        read_segment(blob, name="index/x")


# -- images made to harm -----------------------------------------------------------------------

INLINE = "x'" + digest_of(b"x").hex() + "'"
HOSTILE_SQL = {
    "extra table": "CREATE TABLE extra(x)",
    "view": "CREATE VIEW v AS SELECT load_extension('x')",
    "trigger": "CREATE TRIGGER t AFTER INSERT ON entry BEGIN DELETE FROM entry; END",
    "extra index": "CREATE INDEX i ON entry(seq)",
    "virtual table": "CREATE VIRTUAL TABLE f USING fts5(x)",
    "statistics": "ANALYZE",
    "missing table": "DROP TABLE commit_log",
    "renamed table": "ALTER TABLE commit_log RENAME TO log",
    "extra column": "ALTER TABLE entry ADD COLUMN extra TEXT",
    "view in place of a table": "UPDATE sqlite_schema SET type = 'view' WHERE name = 'commit_log'",
    "schema text": "UPDATE sqlite_schema SET sql = replace(sql, 'seq >= 1', 'seq >= 0') WHERE name = 'entry'",
    "looser schema": "UPDATE sqlite_schema SET sql = replace(sql, 'STRICT', '') WHERE name = 'object'",
    "other application": "PRAGMA application_id=1",
    "older schema": "PRAGMA user_version=0",
    "seq 0": "UPDATE entry SET seq = 0 WHERE key = 'gone'",
    "negative timestamp": "UPDATE entry SET timestamp_us = -1 WHERE key = 'gone'",
    "short digest": "UPDATE entry SET digest = x'00' WHERE key = 'station/2'",
    "tombstone with a value": "UPDATE entry SET value = x'00', length_bytes = 1 WHERE key = 'gone'",
    "tombstone with a place": "UPDATE entry SET object = 1, offset_bytes = 0, length_bytes = 1 WHERE seq = 2",
    "no place": "UPDATE entry SET object = NULL WHERE key = 'station/2'",
    "no length": "UPDATE entry SET length_bytes = NULL WHERE key = 'station/2'",
    "no offset": "UPDATE entry SET offset_bytes = NULL WHERE key = 'station/2'",
    "negative offset": "UPDATE entry SET offset_bytes = -1 WHERE key = 'station/2'",
    "giant length": "UPDATE entry SET length_bytes = 1 << 32 WHERE key = 'station/2'",
    "place and value": "UPDATE entry SET object = 1, offset_bytes = 0 WHERE key = 'station/1'",
    "length of the value": "UPDATE entry SET length_bytes = 9 WHERE key = 'station/1'",
    "digest of the value": f"UPDATE entry SET digest = {INLINE} WHERE key = 'station/1'",
    "value of the digest": "UPDATE entry SET value = x'00', length_bytes = 1 WHERE key = 'station/1'",
    "long key": "UPDATE entry SET key = CAST(zeroblob(65536) AS TEXT) WHERE key = 'gone'",
    "key not UTF-8": "UPDATE entry SET key = CAST(x'67ff' AS TEXT) WHERE key = 'gone'",
    "key with a surrogate": "UPDATE entry SET key = CAST(x'eda080' AS TEXT) WHERE key = 'gone'",
    "dangling object": "DELETE FROM object WHERE id = 1",
    "object too short": "UPDATE object SET size_bytes = 10",
    "place past the end": "UPDATE entry SET offset_bytes = 9223372036854775807 WHERE key = 'station/2'",
    "negative size": "UPDATE object SET size_bytes = -1 WHERE id = 1",
    "path-like name": f"UPDATE object SET name = 'pack/../../{'a' * 26}' WHERE id = 1",
    "absolute name": "UPDATE object SET name = '/etc/passwd' WHERE id = 1",
    "upper-case name": "UPDATE object SET name = upper(name) WHERE id = 1",
    "name with a tail": "UPDATE object SET name = name || char(10) WHERE id = 1",
    "name with a NUL": "UPDATE object SET name = name || char(0) || 'x' WHERE id = 1",
    "root as object": "UPDATE object SET name = 'snapshot/x' WHERE id = 1",
    "header in the ETag": "UPDATE object SET etag = 'a' || char(13, 10) || 'X-Evil: 1'",
    "empty ETag": "UPDATE object SET etag = ''",
    "ETag not UTF-8": "UPDATE object SET etag = CAST(x'ff' AS TEXT)",
    "log commit_id": "UPDATE commit_log SET commit_id = 'nonsense'",
    "log writer": "UPDATE commit_log SET writer = 'x' || char(27) || '[2J'",
    "log writer not UTF-8": "UPDATE commit_log SET writer = CAST(x'ff' AS TEXT)",
    "log count": "UPDATE commit_log SET set_count = -1",
    "log seq": "UPDATE commit_log SET seq = 0 WHERE seq = 1",
    "log time": "UPDATE commit_log SET committed_at_us = -5",
}


@pytest.mark.parametrize("what", HOSTILE_SQL)
def test_a_hostile_image_is_refused(what: str) -> None:
    with pytest.raises(RemoteIntegrityError, match="index/x is not a sound index segment"):
        read_segment(altered(HOSTILE_SQL[what]), name="index/x")


def test_the_untouched_image_passes_the_same_way() -> None:
    assert list(iter_rows(read_segment(altered("SELECT 1"), name="s"))) == ROWS


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("key", "x'00'"),
        ("key", "5"),
        ("seq", "'1'"),
        ("seq", "1.5"),
        ("seq", "NULL"),
        ("timestamp_us", "'now'"),
        ("timestamp_us", "NULL"),
        ("digest", "'dddddddddddddddd'"),
        ("object", "'1'"),
        ("offset_bytes", "0.5"),
        ("length_bytes", "'3'"),
    ],
)
def test_wrong_types_are_refused(column: str, value: str) -> None:
    # The rows are written under a schema without types, which is then given our schema's text.
    columns = dict.fromkeys(("seq", "timestamp_us", "object", "offset_bytes", "length_bytes"), "1")
    columns |= {"key": "'k'", "digest": "x'" + "00" * 16 + "'", "value": "NULL"} | {column: value}
    order = ("key", "seq", "timestamp_us", "digest", "object", "offset_bytes", "length_bytes", "value")
    row = ", ".join(columns[name] for name in order)
    blob = altered(
        "CREATE TEMP TABLE was AS SELECT sql FROM sqlite_schema WHERE name = 'entry'",
        "DROP TABLE entry",
        f"CREATE TABLE entry({', '.join(order)}, PRIMARY KEY(key)) WITHOUT ROWID",
        f"INSERT INTO entry VALUES ({row})",
        "UPDATE sqlite_schema SET sql = (SELECT sql FROM was) WHERE name = 'entry'",
    )
    with pytest.raises(RemoteIntegrityError, match="SQLite finds"):
        read_segment(blob, name="s")


def patched(old: bytes, new: bytes, times: int) -> bytes:
    assert IMAGE.count(old) == times
    assert len(old) == len(new)
    return seal(IMAGE.replace(old, new))


def test_a_key_that_comes_twice_in_an_image_is_refused() -> None:
    with pytest.raises(RemoteIntegrityError, match="not in PRIMARY KEY order"):
        read_segment(patched(b"station/1", b"station/2", 1), name="s")


def test_keys_out_of_order_are_refused() -> None:
    with pytest.raises(RemoteIntegrityError, match="not in PRIMARY KEY order"):
        read_segment(patched(b"station/1", b"station/9", 1), name="s")


def test_an_object_name_that_comes_twice_is_refused() -> None:
    with pytest.raises(RemoteIntegrityError, match="SQLite finds"):
        read_segment(patched(PACK_B.encode(), PACK_A.encode(), 2), name="s")


def test_two_tables_on_one_page_are_refused() -> None:
    blob = altered(
        "UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = 'object') "
        "WHERE name = 'commit_log'"
    )
    with pytest.raises(RemoteIntegrityError):
        read_segment(blob, name="s")


def test_images_in_other_modes_are_refused() -> None:
    for pragma in ("encoding='UTF-16le'", "auto_vacuum=1", "page_size=512", "page_size=65536"):
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            connection.execute(f"PRAGMA {pragma}")
            with closing(sqlite3.connect(":memory:")) as ours:
                ours.deserialize(IMAGE)
                for (sql,) in ours.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL"):
                    connection.execute(sql)
            connection.execute(f"PRAGMA application_id={int.from_bytes(b'EBTX')}")
            connection.execute("PRAGMA user_version=1")
            with pytest.raises(RemoteIntegrityError, match="SQLite header"):
                read_segment(seal(connection.serialize()), name="s")


def test_an_image_in_wal_mode_is_refused() -> None:
    with pytest.raises(RemoteIntegrityError, match="mode that segments never use"):
        read_segment(seal(IMAGE[:18] + b"\x02\x02" + IMAGE[20:]), name="s")


def lattice(levels: int) -> bytes:
    """An image whose few pages make its schema seem to hold 60 ** levels rows."""
    page_bytes, fan_out = 1024, 60
    pages = [bytearray(IMAGE[at : at + page_bytes]) for at in range(0, len(IMAGE), page_bytes)]

    def interior(cells: list[bytes], right: int, at: int = 0, page: bytearray | None = None) -> bytearray:
        page = bytearray(page_bytes) if page is None else page
        content = page_bytes - sum(map(len, cells))
        struct.pack_into(">BHHHBI", page, at, 5, 0, len(cells), content, 0, right)
        position = content
        for number, cell in enumerate(cells):
            struct.pack_into(">H", page, at + 12 + 2 * number, position)
            page[position : position + len(cell)] = cell
            position += len(cell)
        return page

    with closing(sqlite3.connect(":memory:")) as connection:
        connection.deserialize(IMAGE)
        query = "SELECT rootpage FROM sqlite_schema WHERE type = 'index'"
        ((index_root,),) = connection.execute(query)
    name = b"sqlite_autoindex_object_1"
    record = bytes([6, 13 + 2 * 5, 13 + 2 * len(name), 13 + 2 * 6, 1, 0]) + b"index" + name + b"object"
    record += bytes([index_root])
    cell = bytes([len(record), 9]) + record
    leaf = bytearray(page_bytes)
    struct.pack_into(">BHHHBH", leaf, 0, 13, 0, 1, page_bytes - len(cell), 0, page_bytes - len(cell))
    leaf[page_bytes - len(cell) :] = cell
    pages.append(leaf)
    for _ in range(levels):
        child = len(pages)
        pages.append(interior([struct.pack(">IB", child, 9)] * fan_out, child))
    first = pages[0]
    assert first[100] == 5
    (cell_count,) = struct.unpack_from(">H", first, 103)
    (right,) = struct.unpack_from(">I", first, 108)
    starts = struct.unpack_from(f">{cell_count}H", first, 112)
    cells = [bytes(first[start : start + 5]) for start in starts] + [struct.pack(">IB", right, 8)]
    pages[0] = interior(cells, len(pages), 100, first)
    struct.pack_into(">I", pages[0], 28, len(pages))
    return b"".join(pages)


def test_a_lattice_of_pages_does_not_hold_the_reader_up() -> None:
    with pytest.raises(RemoteIntegrityError, match="SQLite refuses its image: 'interrupted'"):
        read_segment(seal(lattice(8)), name="s")


# -- the specification and the golden file -----------------------------------------------------


def test_the_specification_shows_the_schema_as_it_is() -> None:
    text = (Path(__file__).parent.parent.parent / "docs" / "reference" / "FORMAT.md").read_text(encoding="utf-8")
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.deserialize(IMAGE)
        for (sql,) in connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL"):
            assert f"{sql};\n" in text


def test_format_1_is_read_for_ever() -> None:
    image = read_segment(GOLDEN.read_bytes(), name="golden")
    assert list(iter_rows(image)) == ROWS
    assert list(iter_objects(image)) == [OBJECTS[PACK_A], OBJECTS[PACK_B]]
    assert list(iter_log(image)) == LOG
