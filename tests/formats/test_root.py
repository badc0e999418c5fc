"""Roots: round trips, every damage to a small one, foreign objects, and when segments merge."""

from __future__ import annotations

import hashlib
import json
import math
import random
import struct
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebooklet_tx.errors import Error, InvalidArgumentError, RemoteIntegrityError, UnsupportedFormatError
from ebooklet_tx.formats.root import (
    Manifest,
    Root,
    decode_root,
    encode_root,
    plan_segments,
)
from ebooklet_tx.formats.segment import build_segment, iter_log, iter_rows, read_segment
from ebooklet_tx.limits import MAX_SEGMENTS
from ebooklet_tx.records import CommitRecord, CommitWay, IndexRow, SegmentRef, digest_of

if TYPE_CHECKING:
    from collections.abc import Callable

GOLDEN = Path(__file__).parent.parent / "golden" / "root_v1.bin"


def segment_ref(number: int, first_seq: int, last_seq: int, size_bytes: int = 1000) -> SegmentRef:
    return SegmentRef(f"index/{number:032x}", f"etag-{number}", size_bytes, "ab" * 16, first_seq, last_seq)


MANIFEST = Manifest(
    uuid="0123456789abcdef" * 2,
    type="booklet",
    seq=9,
    commit_id="fedcba9876543210" * 2,
    parent="00112233445566778899aabbccddeeff",
    committed_at_us=1_700_000_000_000_000,
    writer="anna@höst:42",
    fence=3,
    value_serializer="orjson",
    key_count=12,
    tombstone_floor=2,
    n_buckets=12_007,
    segments=(segment_ref(1, 1, 4, 90_000), segment_ref(2, 5, 7)),
)
TAIL = build_segment(
    [
        IndexRow("station/1", 8, 1_700_000_000_000_001, digest_of(b"one"), None, None, 3, b"one"),
        IndexRow("station/2", 9, 1_700_000_000_000_002, None),
    ],
    {},
    [CommitRecord(9, "fedcba9876543210" * 2, 1_700_000_000_000_000, "anna@höst:42", 1, 1, 3)],
)
SMALL = encode_root(MANIFEST, TAIL)

HEX = st.binary(min_size=16, max_size=16).map(bytes.hex)
COUNT = st.integers(0, 2**53 - 1)
TEXT = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=50)


OPTIONAL = ("commits", "unknown")


def record_of(manifest: Manifest) -> dict[str, Any]:
    """A manifest's required fields as JSON has them."""
    return {name: value for name, value in asdict(manifest).items() if name not in OPTIONAL}


def ways() -> st.SearchStrategy[CommitWay]:
    return st.builds(CommitWay, st.sampled_from(["quoted", "unquoted", "tickets"]), TEXT, TEXT)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    bounds = sorted(draw(st.sets(st.integers(1, 2**52), max_size=6)))
    segments = tuple(
        SegmentRef(
            f"index/{number:032x}", draw(TEXT.map(ascii)), draw(st.integers(1, 2**40)), draw(HEX), a, b - 1
        )
        for number, (a, b) in enumerate(pairwise(bounds))
    )
    return Manifest(
        uuid=draw(HEX),
        type=draw(st.sampled_from(["booklet", "group"])),
        seq=draw(st.integers(bounds[-1] if bounds else 0, 2**53 - 1)),
        commit_id=draw(HEX),
        parent=draw(st.none() | HEX),
        committed_at_us=draw(st.integers(0, 2**55)),
        writer=draw(TEXT),
        fence=draw(COUNT),
        value_serializer=draw(st.none() | TEXT),
        key_count=draw(COUNT),
        tombstone_floor=draw(COUNT),
        n_buckets=draw(st.integers(1, 20_736_017)),
        segments=segments,
        commits=draw(st.none() | ways()),
        unknown=draw(st.dictionaries(st.sampled_from(["future", "later"]), st.integers() | TEXT)),
    )


def seal(manifest: bytes, tail: bytes = b"", version: int = 1, reserved: int = 0) -> bytes:
    """A root with a right digest over whatever a hostile writer likes."""
    head = struct.pack("<8sHHII", b"EBTXroot", version, reserved, len(manifest), len(tail))
    digest = hashlib.blake2b(head + manifest + tail, digest_size=16).digest()
    return head + digest + manifest + tail


def with_fields(**changes: Any) -> bytes:
    return seal(json.dumps(record_of(MANIFEST) | changes).encode())


@given(manifests(), st.binary(max_size=200))
def test_what_is_encoded_is_decoded(manifest: Manifest, tail: bytes) -> None:
    assert decode_root(encode_root(manifest, tail), name="D") == Root(manifest, tail)


def test_layout_is_that_of_the_specification() -> None:
    body = json.dumps(record_of(MANIFEST), sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    assert seal(body, TAIL) == SMALL


@pytest.mark.parametrize("mask", [0xFF, 0x01, 0x80, 0x20])
def test_every_flipped_byte_is_refused(mask: int) -> None:
    for position in range(len(SMALL)):
        data = bytearray(SMALL)
        data[position] ^= mask
        with pytest.raises((RemoteIntegrityError, UnsupportedFormatError)):
            decode_root(bytes(data), name="D")


def test_every_truncation_is_refused_as_damage() -> None:
    for length in range(len(SMALL)):
        with pytest.raises(RemoteIntegrityError, match=r"bucket/D .*snapshot"):
            decode_root(SMALL[:length], name="bucket/D")


def test_bytes_after_the_end_are_refused() -> None:
    with pytest.raises(RemoteIntegrityError):
        decode_root(SMALL + b"\x00", name="D")


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


@pytest.mark.parametrize("data", [b"\x00", b"<html>not found</html>", b"EBTXseg\n" + bytes(90), b"x" * 10_000])
def test_a_foreign_object_is_called_so(data: bytes) -> None:
    with pytest.raises(UnsupportedFormatError, match="a foreign object lies at bucket/D"):
        decode_root(data, name="bucket/D")


@pytest.mark.parametrize(
    "data", [seal(b"{}", version=2), b"EBTXroot\x02\x00" + bytes(90), seal(b"{}", reserved=4)]
)
def test_a_newer_root_asks_for_an_upgrade(data: bytes) -> None:
    with pytest.raises(UnsupportedFormatError, match=r"bucket/D.*Upgrade ebooklet_tx"):
        decode_root(data, name="bucket/D")


@pytest.mark.parametrize(
    ("manifest_bytes", "tail_bytes"), [(2**32 - 1, 0), (16 * 2**20 + 1, 0), (0, 64 * 2**20 + 1)]
)
def test_parts_over_the_limit_are_refused(manifest_bytes: int, tail_bytes: int) -> None:
    data = struct.pack("<8sHHII16s", b"EBTXroot", 1, 0, manifest_bytes, tail_bytes, bytes(16))
    with pytest.raises(RemoteIntegrityError, match="over the limit"):
        decode_root(data, name="D")


def test_unknown_fields_are_kept_for_who_rewrites_the_root() -> None:
    segments = [asdict(segment) | {"bloom": "index/b"} for segment in MANIFEST.segments]
    manifest = decode_root(with_fields(future={"a": [1]}, segments=segments), name="D").manifest
    assert manifest == replace(MANIFEST, unknown={"future": {"a": [1]}})
    again = decode_root(encode_root(replace(manifest, seq=10), b""), name="D").manifest
    assert again.unknown == {"future": {"a": [1]}}


def test_an_unknown_field_never_stands_for_a_known_one() -> None:
    with_it = replace(MANIFEST, unknown={"seq": 1, "commits": "x", "future": 1})
    assert decode_root(encode_root(with_it, b""), name="D").manifest == replace(MANIFEST, unknown={"future": 1})


def test_how_commits_are_made_may_be_said() -> None:
    way = CommitWay("tickets", "http://127.0.0.1:9", "bucket")
    said = replace(MANIFEST, commits=way)
    assert decode_root(encode_root(said, b""), name="D").manifest == said
    assert decode_root(with_fields(commits=asdict(way) | {"since": 1}), name="D").manifest == said
    assert decode_root(with_fields(commits=None), name="D").manifest == MANIFEST


@pytest.mark.parametrize("field", sorted(record_of(MANIFEST)))
def test_every_field_is_required(field: str) -> None:
    record = record_of(MANIFEST)
    del record[field]
    with pytest.raises(RemoteIntegrityError, match=rf"it has no {field}\b"):
        decode_root(seal(json.dumps(record).encode()), name="D")


@pytest.mark.parametrize("field", sorted(asdict(MANIFEST.segments[0])))
def test_every_field_of_a_segment_is_required(field: str) -> None:
    record = record_of(MANIFEST)
    del record["segments"][1][field]
    with pytest.raises(RemoteIntegrityError, match=rf"segment 1 has no {field}\b"):
        decode_root(seal(json.dumps(record).encode()), name="D")


BAD_HEX: list[Any] = [None, 1, "", "AB" * 16, "ab" * 15, "ab" * 16 + "\n"]
BAD_FIELDS: list[tuple[str, Any]] = [
    *((name, bad) for name in ("uuid", "commit_id") for bad in BAD_HEX),
    *(("type", bad) for bad in (None, "tree", ["booklet"], 1)),
    *(("parent", bad) for bad in ("", "xy" * 16, 0, False)),
    *(
        (name, bad)
        for name in ("seq", "committed_at_us", "fence", "key_count", "tombstone_floor")
        for bad in (None, "1", 1.0, True, -1, 2**55 + 1)
    ),
    *(("n_buckets", bad) for bad in (0, 2**28 + 1, True, "12007")),
    *(("writer", bad) for bad in (None, 5, "esc\x1b[2J", "x" * 2000)),
    *(("value_serializer", bad) for bad in (5, "a\nb", ["str"])),
    *(("segments", bad) for bad in (None, {}, "index", 7)),
]
BAD_SEGMENT_FIELDS: list[tuple[str, Any]] = [
    *(("name", bad) for bad in ("pack/" + "0" * 32, "index/../../etc/passwd", "index/" + "0" * 33, 3, "index/")),
    *(("etag", bad) for bad in ("", "a\r\nX-Evil: 1", "é", None)),
    *(("size_bytes", bad) for bad in (0, -1, 1.5, True)),
    *(("digest", bad) for bad in ("", "zz" * 16, None)),
    *(("first_seq", bad) for bad in (0, True, "5", 4, 6, 8)),
    *(("last_seq", bad) for bad in (0, 4, 10, None)),
]


@pytest.mark.parametrize(("field", "bad"), BAD_FIELDS)
def test_a_bad_field_is_refused_both_ways(field: str, bad: Any) -> None:
    with pytest.raises(RemoteIntegrityError, match=rf"bucket/D .*{field}"):
        decode_root(with_fields(**{field: bad}), name="bucket/D")
    with pytest.raises(InvalidArgumentError, match=field):
        encode_root(replace(MANIFEST, **{field: bad}), b"")


@pytest.mark.parametrize(("field", "bad"), BAD_SEGMENT_FIELDS)
def test_a_bad_segment_is_refused_both_ways(field: str, bad: Any) -> None:
    record = record_of(MANIFEST)
    record["segments"][1][field] = bad
    with pytest.raises(RemoteIntegrityError, match=r"bucket/D .*segment 1"):
        decode_root(seal(json.dumps(record).encode()), name="bucket/D")
    segments = (MANIFEST.segments[0], replace(MANIFEST.segments[1], **{field: bad}))
    with pytest.raises(InvalidArgumentError, match="segment 1"):
        encode_root(replace(MANIFEST, segments=segments), b"")


@pytest.mark.parametrize(
    "bad",
    [
        "tickets",
        [],
        {"how": "luck", "endpoint": "e", "bucket": "b"},
        {"how": ["tickets"], "endpoint": "e", "bucket": "b"},
        {"how": "tickets", "endpoint": "e"},
        {"how": "tickets", "endpoint": "e\x1b", "bucket": "b"},
        {"how": "tickets", "endpoint": "e", "bucket": None},
    ],
)
def test_a_bad_word_on_commits_is_damage(bad: Any) -> None:
    with pytest.raises(RemoteIntegrityError, match="commits"):
        decode_root(with_fields(commits=bad), name="D")


def test_a_segment_named_twice_is_refused() -> None:
    segments = (segment_ref(1, 1, 4), segment_ref(1, 5, 7))
    with pytest.raises(InvalidArgumentError, match="twice"):
        encode_root(replace(MANIFEST, segments=segments), b"")
    with pytest.raises(RemoteIntegrityError, match="twice"):
        decode_root(with_fields(segments=[asdict(segment) for segment in segments]), name="D")


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe{}",
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b'{"seq":NaN}',
        b'{"seq":' + b"9" * 10_000 + b"}",
        b'{"segments":[1]}',
    ],
)
def test_hostile_json_is_refused(manifest: bytes) -> None:
    with pytest.raises(RemoteIntegrityError, match="its manifest is not"):
        decode_root(seal(manifest), name="D")


def test_a_name_that_comes_twice_is_refused() -> None:
    encoded = json.dumps(record_of(MANIFEST))
    with pytest.raises(RemoteIntegrityError, match="a name comes twice"):
        decode_root(seal(('{"seq":1,' + encoded[1:]).encode()), name="D")


def test_a_segment_that_is_no_object_is_refused() -> None:
    with pytest.raises(RemoteIntegrityError, match="segment 0 is not a JSON object"):
        decode_root(with_fields(segments=["index/" + "0" * 32]), name="D")


def test_an_oversized_tail_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="write it out as a segment"):
        encode_root(MANIFEST, bytes(64 * 2**20 + 1))


@given(st.binary(max_size=300), st.booleans())
def test_arbitrary_bytes_never_escape_our_errors(noise: bytes, sealed: bool) -> None:
    with pytest.raises(Error):
        decode_root(seal(noise) if sealed else b"EBTXroot" + noise, name="D")


def test_format_1_is_read_for_ever() -> None:
    root = decode_root(GOLDEN.read_bytes(), name="golden")
    assert root.manifest == MANIFEST
    image = read_segment(root.tail, name="golden tail")
    assert [row.key for row in iter_rows(image)] == ["station/1", "station/2"]
    assert [record.seq for record in iter_log(image)] == [9]


# -- when segments merge -----------------------------------------------------------------------


def push_all(sizes: list[int]) -> tuple[int, float]:
    """Simulates pushes; returns the most segments there ever were, and bytes written per new byte."""
    segments: list[SegmentRef] = []
    most, written_bytes = 0, 0
    for size in sizes:
        count = plan_segments(segments, size)
        assert 0 <= count <= len(segments)
        keep = len(segments) - count
        merged_bytes = size + sum(segment.size_bytes for segment in segments[keep:])
        segments[keep:] = [segment_ref(0, 1, 1, merged_bytes)]
        written_bytes += merged_bytes
        most = max(most, len(segments))
    return most, written_bytes / sum(sizes)


LAWS: dict[str, Callable[[random.Random, int], int]] = {
    "equal": lambda rng, i: 65_536,
    "uniform": lambda rng, i: rng.randint(65_536, 2_000_000),
    "lognormal": lambda rng, i: 16_384 + int(math.exp(rng.gauss(11, 2))),
    "heavy tail": lambda rng, i: int(20_000 * rng.paretovariate(1.1)),
    "one giant first": lambda rng, i: 10**12 if i == 0 else 65_536,
    "shrinking": lambda rng, i: max(16_384, 10**9 // (i + 1)),
    "growing": lambda rng, i: 16_384 + 10 * i,
    "saw teeth": lambda rng, i: max(16_384, int(4e9 * 0.3 ** (i % 16))),
}


@pytest.mark.parametrize("law", LAWS)
def test_100_000_pushes_stay_cheap_and_few(law: str) -> None:
    rng = random.Random(law)
    pushes = 100_000
    most, rewrites = push_all([LAWS[law](rng, i) for i in range(pushes)])
    assert most <= MAX_SEGMENTS
    assert rewrites <= 2 * math.log2(pushes)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=300).filter(any))
def test_there_are_never_more_than_the_limit(sizes: list[int]) -> None:
    most, _ = push_all(sizes)
    assert most <= MAX_SEGMENTS


def test_the_number_of_segments_follows_the_logarithm() -> None:
    most, _ = push_all([65_536] * 80)
    assert most <= 1 + math.log(80, 3)


def test_a_large_old_segment_is_left_alone() -> None:
    assert plan_segments([segment_ref(1, 1, 4, 100_000_000), segment_ref(2, 5, 5, 70_000)], 65_536) == 1
    assert plan_segments([segment_ref(1, 1, 4, 100_000_000)], 65_536) == 0
    assert plan_segments([], 65_536) == 0


def test_a_manifest_with_too_many_segments_is_merged_down() -> None:
    segments = [segment_ref(i, i, i, 10 ** (30 - i)) for i in range(1, 20)]
    assert len(segments) - plan_segments(segments, 1) + 1 <= MAX_SEGMENTS
