"""Roots of format 2: round trips, every damage to a small one, foreign objects, and roots that lie."""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebooklet_tx import limits
from ebooklet_tx.errors import InvalidArgumentError, RemoteIntegrityError, UnsupportedFormatError
from ebooklet_tx.formats.block import encode_block
from ebooklet_tx.formats.index_records import Feed, Run, RunList
from ebooklet_tx.formats.manifest import PLAIN_FIELDS, Manifest, dump, plain_record
from ebooklet_tx.formats.root import (
    KEEP_RECENT,
    ROOT_BYTES,
    check_writable,
    decode_root,
    encode_root,
    too_large_root,
)
from ebooklet_tx.formats.root_body import decode_body, encode_body, entries_bytes
from ebooklet_tx.records import CommitWay, ObjectRef, SnapshotNote, digest_of
from tests.formats.samples import (
    ENTRIES,
    HISTORY,
    LIST,
    MANIFEST,
    REFS,
    ROOT,
    ROWS,
    TAIL,
    forged_root,
    hex_id,
    manifest_of,
    opened,
    parts_of_root,
    placed_rows,
    records,
    refs_of,
    sealed,
    sealed_root,
)

GOLDEN = Path(__file__).parent / "golden" / "root_v2.bin"
FORMAT_1 = Path(__file__).parent.parent / "golden" / "root_v1.bin"

HEX = st.binary(min_size=16, max_size=16).map(bytes.hex)
COUNT = st.integers(0, limits.MAX_COUNT)
TEXT = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=30)
JSON, BODY, _ = parts_of_root()
SMALL = manifest_of()
SMALL_BODY = encode_body(SMALL)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    seq = draw(st.integers(9, limits.MAX_COUNT))
    log = records(draw(st.integers(1, 70)) if seq > 100 else 3, seq)
    if seq > 10**8:
        log = tuple(replace(record, committed_at_us=1) for record in log)
    runs: list[Run] = draw(st.lists(st.sampled_from([ENTRIES, ENTRIES[:1], ENTRIES[2:], LIST]), max_size=5))
    return Manifest(
        uuid=draw(HEX),
        type=draw(st.sampled_from(["booklet", "group"])),
        seq=seq,
        commit_id=log[0].commit_id,
        parent=draw(st.none() | HEX),
        committed_at_us=draw(st.integers(0, 2**55)),
        writer=draw(TEXT),
        fence=draw(COUNT),
        value_serializer=draw(st.none() | TEXT),
        key_count=draw(COUNT),
        tombstone_floor=draw(COUNT),
        n_buckets=draw(st.integers(1, limits.MAX_BUCKETS)),
        recent=tuple((record.seq, record.commit_id) for record in log),
        records=log[: draw(st.integers(0, len(log)))],
        histories=(HISTORY,) if log[-1].seq > HISTORY.last_seq and draw(st.booleans()) else (),
        runs=tuple(runs),
        feed=draw(st.sampled_from([(), (Feed(7, ENTRIES),), (Feed(7, ENTRIES), Feed(7, ENTRIES[:1]))])),
        tail_after_seq=draw(st.integers(7, 9)),
        commits=draw(
            st.none() | st.builds(CommitWay, st.sampled_from(["quoted", "unquoted", "tickets"]), TEXT, TEXT)
        ),
        snapshot=draw(
            st.none()
            | st.builds(
                SnapshotNote,
                st.sampled_from(["monday", "v1.2-b_c", "2026-01-31"]),
                TEXT,
                st.integers(0, 2**55),
                TEXT,
            )
        ),
        min_reader=draw(st.integers(1, 2)),
        min_writer=draw(st.integers(1, 2)),
        unknown=draw(st.dictionaries(st.sampled_from(["future", "later"]), st.integers(0, 9) | TEXT)),
    )


@given(manifests(), st.sampled_from([b"", TAIL]))
def test_what_is_encoded_is_decoded(manifest: Manifest, tail: bytes) -> None:
    root = decode_root(encode_root(manifest, tail), name="D")
    assert (root.manifest, root.tail) == (manifest, tail)


def test_the_golden_root() -> None:
    root = decode_root(GOLDEN.read_bytes(), name="D")
    assert root.manifest == MANIFEST
    assert list(root.tail_block().rows()) == ROWS
    assert root.manifest.message == ""


def test_the_golden_snapshot() -> None:
    """It is the golden root with a note, and nothing else."""
    copy = decode_root((GOLDEN.parent / "snapshot_v2.bin").read_bytes(), name="D")
    assert copy.manifest == replace(MANIFEST, snapshot=SnapshotNote("monday", "as\ndelivered", 9, "anna@höst:1"))
    assert list(copy.tail_block().rows()) == ROWS


def test_layout_is_that_of_the_specification() -> None:
    assert sealed_root(JSON, BODY, TAIL) == ROOT
    assert dump(plain_record(MANIFEST)) == JSON


@pytest.mark.parametrize("mask", [0xFF, 0x01, 0x80])
def test_every_flipped_byte_is_refused(mask: int) -> None:
    for position in range(len(ROOT)):
        data = bytearray(ROOT)
        data[position] ^= mask
        with pytest.raises((RemoteIntegrityError, UnsupportedFormatError)):
            decode_root(bytes(data), name="D")


def test_every_truncation_is_refused_as_damage() -> None:
    for length in range(len(ROOT)):
        with pytest.raises(RemoteIntegrityError, match=r"bucket/D .*snapshot"):
            decode_root(ROOT[:length], name="bucket/D")


def test_bytes_after_the_end_are_refused() -> None:
    with pytest.raises(RemoteIntegrityError):
        decode_root(ROOT + b"\x00", name="D")


# -- the tail ----------------------------------------------------------------------------------


def test_the_tail_is_looked_into_when_it_is_asked_for() -> None:
    root = decode_root(sealed_root(JSON, BODY, b"no block"), name="bucket/D")
    with pytest.raises(RemoteIntegrityError, match="the tail of bucket/D is not"):
        root.tail_block()
    assert len(decode_root(encode_root(SMALL, b""), name="D").tail_block()) == 0
    sound = decode_root(ROOT, name="D")
    assert sound.tail_block() is sound.tail_block()


def test_no_row_of_the_tail_is_of_a_later_commit() -> None:
    tail = encode_block([ROWS[1]._replace(seq=10)], REFS)
    with pytest.raises(InvalidArgumentError, match="its seqs are 10 to 10"):
        encode_root(SMALL, tail)
    with pytest.raises(RemoteIntegrityError, match="its seqs are 10 to 10"):
        decode_root(sealed_root(dump(plain_record(SMALL)), SMALL_BODY, tail), name="D").tail_block()


# -- what else may lie there -------------------------------------------------------------------


def test_a_root_of_format_1_is_refused_with_the_ways_on() -> None:
    with pytest.raises(UnsupportedFormatError, match=r"bucket/D .*format 1.*flag 'n'.*push\(force_push=True\)"):
        decode_root(FORMAT_1.read_bytes(), name="bucket/D")


@pytest.mark.parametrize(
    "start",
    [
        b"ebooklet-db\x00\x00\x02",
        b"\x04\xd3\xb2\x94\xf2\x10Ab\x95\x8d\x04\x00s\x8c\x9e\n",
        b"O~\x8a?\xe7\\GP\xadC\nr\x8f\xe3\x1c\xfe",
    ],
)
def test_what_ebooklet_stores_there_gets_the_recipe(start: bytes) -> None:
    with pytest.raises(UnsupportedFormatError, match=r"bucket/D .*NEW db_key.*left untouched"):
        decode_root(start + bytes(300), name="bucket/D")


@pytest.mark.parametrize("data", [b"\x00", b"<html>not found</html>", b"EBTXblk\n" + bytes(90), b"x" * 10_000])
def test_a_foreign_object_is_called_so(data: bytes) -> None:
    with pytest.raises(UnsupportedFormatError, match="a foreign object lies at bucket/D"):
        decode_root(data, name="bucket/D")


@pytest.mark.parametrize(
    "data",
    [
        sealed_root(b"{}", b"", version=3),
        b"EBTXroot\x03\x00" + bytes(40),
        sealed_root(b"{}", b"", flags=4),
        sealed_root(b'{"min_reader":3,"min_writer":2,"uuid":[]}', b""),
    ],
)
def test_a_newer_root_asks_for_an_upgrade(data: bytes) -> None:
    with pytest.raises(UnsupportedFormatError, match=r"bucket/D.*Upgrade ebooklet_tx"):
        decode_root(data, name="bucket/D")


@pytest.mark.parametrize(
    "sizes", [(limits.MAX_MANIFEST_BYTES + 1, 0, 0), (0, limits.MAX_BODY_BYTES + 1, 0), (0, 0, 2**32 - 1)]
)
def test_parts_over_the_limit_are_refused(sizes: tuple[int, int, int]) -> None:
    data = struct.pack("<8sHHIII16s", b"EBTXroot", 2, 0, *sizes, bytes(16))
    with pytest.raises(RemoteIntegrityError, match="over the limit"):
        decode_root(data, name="D")


def test_an_object_longer_than_any_root() -> None:
    assert "over 262144 bytes" in str(too_large_root(b"EBTXroot" + bytes(90), name="D"))
    with pytest.raises(UnsupportedFormatError, match="foreign"):
        too_large_root(b"x" * 90, name="D")
    parts = limits.MAX_MANIFEST_BYTES, limits.MAX_BODY_BYTES, limits.MAX_TAIL_BYTES
    with pytest.raises(RemoteIntegrityError, match="over 262144 bytes"):
        decode_root(sealed_root(*map(bytes, parts)), name="D")


# -- versions and unknown fields ---------------------------------------------------------------


def test_a_database_may_ask_for_newer_writers_only() -> None:
    manifest = replace(SMALL, min_writer=3)
    data = sealed_root(dump(plain_record(manifest)), SMALL_BODY)
    assert decode_root(data, name="D").manifest == manifest
    with pytest.raises(UnsupportedFormatError, match=r"level 3 and later.*can be read; upgrade"):
        encode_root(manifest, b"")
    with pytest.raises(UnsupportedFormatError, match="bucket/D"):
        check_writable(manifest, name="bucket/D")
    check_writable(SMALL, name="D")


def test_unknown_fields_are_kept_for_who_rewrites_the_root() -> None:
    record = plain_record(SMALL) | {"future": {"a": [1.5]}, "commits": asdict(SMALL.commits) | {"since": 1}}  # type: ignore[arg-type]
    manifest = decode_root(sealed_root(dump(record), SMALL_BODY), name="D").manifest
    assert manifest == replace(SMALL, unknown={"future": {"a": [1.5]}})
    again = decode_root(encode_root(replace(manifest, fence=10), b""), name="D").manifest
    assert again.unknown == {"future": {"a": [1.5]}}


def test_an_unknown_field_never_stands_for_a_known_one() -> None:
    with_it = replace(SMALL, unknown={"seq": 1, "commits": "x", "future": 1})
    assert decode_root(encode_root(with_it, b""), name="D").manifest == replace(SMALL, unknown={"future": 1})


@pytest.mark.parametrize("value", ['"\\ud800"', "1e999", "NaN", "-Infinity"])
def test_an_unknown_field_that_could_not_be_written_again_is_refused(value: str) -> None:
    record = dump(plain_record(SMALL))[:-1] + b',"zzz":' + value.encode() + b"}"
    with pytest.raises(RemoteIntegrityError, match="is not JSON"):
        decode_root(sealed_root(record, SMALL_BODY), name="D")


# -- the manifest's plain fields ---------------------------------------------------------------


def with_fields(**changes: Any) -> bytes:
    return sealed_root(json.dumps(plain_record(SMALL) | changes).encode(), SMALL_BODY)


NOTE: dict[str, Any] = {"name": "monday", "message": "as delivered", "created_at_us": 1, "writer": "w"}


@pytest.mark.parametrize(
    "change", [{"name": "deleted-x"}, {"message": "\0"}, {"created_at_us": True}, {"writer": ""}]
)
def test_a_note_of_a_snapshot_is_held_to_its_rules_when_it_is_written(change: dict[str, Any]) -> None:
    note = SnapshotNote(**(NOTE | change))
    if change == {"writer": ""}:
        assert decode_root(encode_root(replace(SMALL, snapshot=note), b""), name="D").manifest.snapshot == note
        return
    with pytest.raises(InvalidArgumentError, match="its snapshot"):
        encode_root(replace(SMALL, snapshot=note), b"")


@pytest.mark.parametrize("field", PLAIN_FIELDS)
def test_every_field_is_required(field: str) -> None:
    record = plain_record(SMALL)
    del record[field]
    with pytest.raises(RemoteIntegrityError, match=rf"it has no {field}\b"):
        decode_root(sealed_root(json.dumps(record).encode(), SMALL_BODY), name="D")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("uuid", "x"),
        ("uuid", 1),
        ("type", "other"),
        ("type", []),
        ("seq", 0),
        ("seq", True),
        ("seq", 9.0),
        ("seq", 2**53),
        ("commit_id", "F" * 32),
        ("parent", ""),
        ("committed_at_us", 2**55 + 1),
        ("committed_at_us", -1),
        ("writer", "a\nb"),
        ("writer", "a" * 1025),
        ("writer", None),
        ("fence", -1),
        ("fence", 2**53),
        ("value_serializer", "\x1b"),
        ("key_count", 2**53),
        ("tombstone_floor", 2**53),
        ("n_buckets", 0),
        ("n_buckets", limits.MAX_BUCKETS + 1),
        ("min_reader", 0),
        ("min_writer", "2"),
        ("commits", 1),
        ("commits", {"how": "quoted", "endpoint": "e"}),
        ("commits", {"how": "other", "endpoint": "e", "bucket": ""}),
        ("snapshot", []),
        ("snapshot", NOTE | {"name": "a/b"}),
        ("snapshot", NOTE | {"name": "17"}),
        ("snapshot", NOTE | {"message": "\x1b"}),
        ("snapshot", NOTE | {"message": "m" * 4097}),
        ("snapshot", NOTE | {"created_at_us": -1}),
        ("snapshot", NOTE | {"created_at_us": 2**55 + 1}),
        ("snapshot", NOTE | {"writer": 1}),
        ("snapshot", {name: NOTE[name] for name in ("name", "message", "writer")}),
    ],
)
def test_a_field_out_of_range_is_refused_by_both_sides(field: str, value: Any) -> None:
    with pytest.raises(RemoteIntegrityError, match=field):
        decode_root(with_fields(**{field: value}), name="D")
    if field not in ("commits", "snapshot"):
        with pytest.raises(InvalidArgumentError):
            encode_root(replace(SMALL, **{field: value}), b"")


@pytest.mark.parametrize(
    "encoded",
    [b"", b"[]", b"1", b"{", b"\xff", b'{"a":1,"a":2}', b"[" * 60_000, b'{"a":' * 10_000 + b"1" + b"}" * 10_000],
)
def test_a_manifest_that_is_none_is_damage(encoded: bytes) -> None:
    with pytest.raises(RemoteIntegrityError, match="manifest is not"):
        decode_root(sealed_root(encoded, SMALL_BODY), name="D")


# -- the binary part ---------------------------------------------------------------------------

E0, E1 = ENTRIES[:2]
RECENT = SMALL.recent

BAD: dict[str, dict[str, Any]] = {
    "too many recent commits": {
        "seq": 300,
        "commit_id": hex_id(300),
        "recent": tuple((n, hex_id(n)) for n in range(300, 0, -1)),
        "records": (),
    },
    "no recent commit": {"recent": (), "records": ()},
    "another commit first": {"recent": RECENT[1:], "records": ()},
    "another id first": {"recent": ((9, hex_id(0)), *RECENT[1:]), "records": ()},
    "recent commits out of order": {"recent": (RECENT[0], RECENT[2], RECENT[1]), "records": ()},
    "a commit twice": {"recent": (RECENT[0], RECENT[0]), "records": ()},
    "a commit of seq 0": {"recent": (RECENT[0], (0, hex_id(0))), "records": ()},
    "records of other commits": {"records": SMALL.records[1:]},
    "more records than commits": {"recent": RECENT[:1]},
    "a record with control characters": {"records": (replace(SMALL.records[0], message="\x1b"),)},
    "history that overlaps records": {"histories": (HISTORY._replace(last_seq=7),)},
    "history that overlaps": {"histories": (HISTORY, HISTORY)},
    "history of a later commit": {"histories": (HISTORY._replace(last_seq=10),), "records": ()},
    "history with more records than commits": {"histories": (HISTORY._replace(record_count=6),)},
    "history of another name": {"histories": (HISTORY._replace(name="index/" + "a" * 32),)},
    "history without an ETag": {"histories": (HISTORY._replace(etag=""),)},
    "too many histories": {
        "histories": tuple(HISTORY._replace(first_seq=n, last_seq=n, record_count=1) for n in range(1, 66))
    },
    "too many runs": {"runs": (ENTRIES,) * 17},
    "an empty run": {"runs": ((),)},
    "slots that overlap": {"runs": ((E1, E0),)},
    "an object of a later commit": {"runs": ((E0._replace(greatest_seq=10),),)},
    "an object without an ETag": {"runs": ((E0._replace(etag=""),),)},
    "a list without an ETag": {"runs": (LIST._replace(ref=replace(LIST.ref, etag="")),)},
    "a list of a pack's name": {"runs": (LIST._replace(ref=replace(LIST.ref, name="pack/" + "a" * 32)),)},
    "a list without pages": {"runs": (LIST._replace(pages=()),)},
    "pages that overlap": {"runs": (LIST._replace(pages=LIST.pages[::-1]),)},
    "a page of a later commit": {"runs": (LIST._replace(pages=(LIST.pages[0]._replace(greatest_seq=10),)),)},
    "a page of no rows": {"runs": (LIST._replace(pages=(LIST.pages[0]._replace(row_count=0),)),)},
    "a page whose seqs are the wrong way": {
        "runs": (LIST._replace(pages=(LIST.pages[0]._replace(least_seq=2),)),)
    },
    "too many flushes": {"feed": (Feed(0, ENTRIES),) * 17},
    "an empty flush": {"feed": (Feed(0, ()),)},
    "a feed out of order": {"feed": (Feed(1, ENTRIES), Feed(2, ENTRIES)), "tail_after_seq": 3},
    "a feed that begins behind the tail": {"feed": (Feed(4, ENTRIES),), "tail_after_seq": 3},
    "a tail of a later commit": {"tail_after_seq": 10},
    "a negative number": {"tail_after_seq": -1},
    "too many entries": {
        "runs": ((E0._replace(lo="", hi="a"),),) * 1
        + (tuple(E0._replace(lo=f"{n:05d}", hi=f"{n + 1:05d}") for n in range(4096)),)
    },
}


@pytest.mark.parametrize("name", BAD)
def test_what_no_reader_takes_is_not_written(name: str) -> None:
    with pytest.raises(InvalidArgumentError):
        encode_root(replace(SMALL, **BAD[name]), b"")


# What the layout, or the forger below, has no way to say.
UNSAID = {
    "records of other commits",
    "more records than commits",
    "history of another name",
    "an empty run",
    "an empty flush",
    "a list of a pack's name",
    "a list without pages",
    "a negative number",
}


@pytest.mark.parametrize("name", [name for name in BAD if name not in UNSAID])
def test_what_no_writer_writes_is_not_read(name: str) -> None:
    with pytest.raises(RemoteIntegrityError, match="bucket/D"):
        decode_root(forged_root(replace(SMALL, **BAD[name])), name="bucket/D")


def test_a_newer_binary_part_asks_for_an_upgrade() -> None:
    rows, raw, plain = opened(SMALL_BODY)
    newer = sealed(b"EBTXbdy\n", rows, raw, plain, version=3)
    with pytest.raises(UnsupportedFormatError, match="Upgrade"):
        decode_body(newer, name="D", seq=9, commit_id=hex_id(9))


# -- sizes -------------------------------------------------------------------------------------


def large_run(count: int) -> Run:
    return tuple(
        E0._replace(
            name=f"index/{digest_of(b'n%d' % n).hex()}",
            etag=f'"{digest_of(b"e%d" % n).hex()}"',
            directory_digest=digest_of(b"d%d" % n),
            lo=f"station/{n * 16_384:09d}",
            hi=f"station/{(n + 1) * 16_384:09d}",
            size_bytes=1_240_000 + n * 7919 % 5000,
            directory_length_bytes=2_650 + n % 60,
        )
        for n in range(count)
    )


def test_a_run_of_a_million_keys_takes_about_a_kilobyte_of_the_root() -> None:
    run = large_run(16)
    assert not isinstance(run, RunList)
    assert entries_bytes(run) < 1_200


def test_a_root_of_a_million_keys_has_room_for_a_tail() -> None:
    log = records(KEEP_RECENT, 2_000)
    log = tuple(replace(record, commit_id=digest_of(record.commit_id.encode()).hex()) for record in log)
    histories = tuple(
        HISTORY._replace(
            name=f"history/{digest_of(b'h%d' % n).hex()}",
            first_seq=n * 100 + 1,
            last_seq=n * 100 + 100,
            record_count=100,
        )
        for n in range(10)
    )
    manifest = manifest_of(
        seq=2_000,
        commit_id=log[0].commit_id,
        recent=tuple((record.seq, record.commit_id) for record in log),
        records=log,
        histories=histories,
        runs=(*[large_run(1)] * 5, large_run(16)),
    )
    empty = len(encode_root(manifest, b""))
    assert empty < 5_000
    rows = placed_rows(64, packs=64)
    assert len(encode_root(manifest, encode_block(rows, refs_of(rows)))) < ROOT_BYTES


def test_names_of_objects() -> None:
    assert ObjectRef(E0.name, E0.etag, E0.size_bytes) == E0.ref
    assert SMALL.message == ""
    assert manifest_of(records=records(1, 9, "why")).message == "why"
