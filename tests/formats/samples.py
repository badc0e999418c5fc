"""Small objects of format 2, one of each kind, and ways to forge others."""

from __future__ import annotations

import hashlib
import random
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import islice
from unittest import mock

from ebooklet_tx.formats import root_body
from ebooklet_tx.formats.block import AnyRow, EncodedBlock, build_block, encode_block, write_packs
from ebooklet_tx.formats.columns import FrameKind, FrameWriter
from ebooklet_tx.formats.history import encode_history, history_ref
from ebooklet_tx.formats.index_object import cut_columns, join_blocks
from ebooklet_tx.formats.index_records import Feed, IndexEntry, Sizes
from ebooklet_tx.formats.manifest import Manifest, dump, plain_record
from ebooklet_tx.formats.root import encode_root
from ebooklet_tx.formats.run_list import encode_run_list
from ebooklet_tx.records import CommitRecord, CommitWay, IndexRow, ObjectRef, digest_of

FRAME_HEADER = struct.Struct("<8sHHIII")
ANY_BLOCK = FrameKind(b"EBTXblk\n", "a hostile writer's frame", 2**30, 2**40, 2**40)
TINY = Sizes(block_rows=2, block_bytes=200, object_blocks=2, page_entries=2)
NOW_US = 1_764_000_000_000_000

PACK_A, PACK_B = f"pack/{'a' * 32}", f"pack/{'b' * 32}"
REFS = {name: ObjectRef(name, f'"etag-{name[-1]}"', 2**40) for name in (PACK_A, PACK_B)}
ROWS = [
    IndexRow("", 3, NOW_US, digest_of(b'{"m":1}'), None, None, 7, b'{"m":1}'),
    IndexRow("gone", 2, NOW_US - 2, None),
    IndexRow("käy/\x00\U0001f511", 1, 0, b"d" * 16, PACK_A, 16, 4_294_967_295),
    IndexRow("station/1", 2, 2**55, digest_of(b""), None, None, 0, b""),
    IndexRow("station/2", 3, NOW_US + 1, b"e" * 16, PACK_B, 2**39, 0),
]


def hex_id(number: int) -> str:
    """32 hex digits."""
    return f"{number:032x}"


def numbered(prefix: str) -> Callable[[], str]:
    """Names of objects, one after another."""
    numbers = iter(range(1, 10**9))
    return lambda: f"{prefix}/{hex_id(next(numbers))}"


def placed_rows(count: int, *, seed: int = 1, packs: int = 1, seq: int = 1) -> list[IndexRow]:
    """Rows as a first push makes them: each with a place in a pack."""
    rng = random.Random(seed)
    names = [f"pack/{hex_id(number)}" for number in range(1, packs + 1)]
    return [
        IndexRow(
            f"station/{number:06d}/temp",
            seq,
            NOW_US + number * 11 + rng.randrange(9),
            rng.randbytes(16),
            names[number * packs // count],
            16 + number * 142,
            100,
        )
        for number in range(count)
    ]


def refs_of(rows: list[IndexRow]) -> dict[str, ObjectRef]:
    """A pack for each that rows name."""
    names = {row.object_name for row in rows if row.object_name is not None}
    return {name: ObjectRef(name, f'"{digest_of(name.encode()).hex()}"', 2**32) for name in sorted(names)}


def block_of(rows: list[IndexRow]) -> EncodedBlock:
    """A block of rows with packs of their own."""
    return build_block(rows, REFS if set(rows) <= set(ROWS) else refs_of(rows))


def cut_rows(
    rows: Iterable[AnyRow], refs: Mapping[str, ObjectRef], sizes: Sizes | None = None
) -> Iterator[EncodedBlock]:
    """The blocks of rows, which are drawn some at a time."""
    sizes = sizes or Sizes()
    source = iter(rows)
    batches = iter(lambda: list(islice(source, sizes.block_rows)), [])
    return cut_columns((list(zip(*batch, strict=True)) for batch in batches), refs, sizes)


def write_objects(
    rows: Iterable[AnyRow],
    refs: Mapping[str, ObjectRef],
    sizes: Sizes | None = None,
    *,
    lo: str = "",
    hi: str | None = None,
) -> Iterator[tuple[bytes, IndexEntry]]:
    """The index objects of rows, without ETags."""
    sizes = sizes or Sizes()
    return join_blocks(cut_rows(rows, refs, sizes), numbered("index"), sizes, lo=lo, hi=hi)


def objects_of(
    rows: list[IndexRow], sizes: Sizes = TINY, *, lo: str = "", hi: str | None = None
) -> list[tuple[bytes, IndexEntry]]:
    """Index objects of rows, with ETags."""
    return [
        (data, entry._replace(etag=f'"{digest_of(data).hex()}"'))
        for data, entry in write_objects(rows, refs_of(rows), sizes, lo=lo, hi=hi)
    ]


def records(count: int, last_seq: int, message: str = "") -> tuple[CommitRecord, ...]:
    """The records of the last commits, newest first."""
    return tuple(
        CommitRecord(seq, hex_id(seq), NOW_US + seq * 61_000_000, f"anna@höst:{seq % 3}", 2, 1, 7, message)
        for seq in range(last_seq, last_seq - count, -1)
    )


def manifest_of(seq: int = 9, log_count: int = 5, **changes: object) -> Manifest:
    """A manifest with all that a small database has."""
    log = records(log_count, seq)
    fields: dict[str, object] = {
        "uuid": "0123456789abcdef" * 2,
        "type": "booklet",
        "seq": seq,
        "commit_id": hex_id(seq),
        "parent": hex_id(seq - 1),
        "committed_at_us": NOW_US,
        "writer": "anna@höst:42",
        "fence": 3,
        "value_serializer": "orjson",
        "key_count": 12,
        "tombstone_floor": 2,
        "n_buckets": 12_007,
        "recent": tuple((record.seq, record.commit_id) for record in log),
        "records": log[:3],
        "commits": CommitWay("quoted", "https://s3.example.org", "bucket"),
    }
    return Manifest(**fields | changes)  # type: ignore[arg-type]


OBJECTS = objects_of(placed_rows(15, packs=3))
ENTRIES = tuple(entry for _, entry in OBJECTS)
LIST_DATA, LIST = encode_run_list(ENTRIES, f"index/{hex_id(99)}", TINY)
LIST = LIST._replace(ref=ObjectRef(LIST.ref.name, '"list"', LIST.ref.size_bytes))
HISTORY_RECORDS = records(5, 6, "a message\nof two lines")[::-1]
HISTORY_DATA = encode_history(HISTORY_RECORDS)
HISTORY = history_ref(HISTORY_DATA, f"history/{hex_id(7)}", HISTORY_RECORDS)._replace(etag='"history"')
TAIL = encode_block(ROWS, REFS)
UPPER = (ENTRIES[0]._replace(name=f"index/{hex_id(50)}", hi="station/000002"), ENTRIES[1])
MANIFEST = manifest_of(
    histories=(HISTORY,),
    runs=(UPPER, ENTRIES, LIST),
    feed=(Feed(5, ENTRIES[:1]), Feed(4, ENTRIES[1:2])),
    tail_after_seq=7,
    unknown={"future": {"a": [1]}},
)
ROOT = encode_root(MANIFEST, TAIL)


def opened(frame: bytes) -> tuple[int, bytes, bytes]:
    """Row count, columns and plain bytes of a frame."""
    _, _, _, rows, packed, _ = FRAME_HEADER.unpack_from(frame)
    return rows, zlib.decompress(frame[24 : 24 + packed]), frame[24 + packed :]


def sealed(
    magic: bytes,
    rows: int,
    raw: bytes,
    plain: bytes = b"",
    *,
    version: int = 2,
    flags: int = 0,
    announced: int = -1,
) -> bytes:
    """A frame around whatever a hostile writer likes."""
    packed = zlib.compress(raw)
    return FRAME_HEADER.pack(
        magic, version, flags, rows, len(packed), len(raw) if announced < 0 else announced
    ) + (packed + plain)


def sealed_root(manifest: bytes, body: bytes, tail: bytes = b"", *, version: int = 2, flags: int = 0) -> bytes:
    """A root with a right digest around whatever a hostile writer likes."""
    head = struct.pack("<8sHHIII", b"EBTXroot", version, flags, len(manifest), len(body), len(tail))
    parts = manifest + body + tail
    return head + hashlib.blake2b(head + parts, digest_size=16).digest() + parts


def parts_of_root(data: bytes = ROOT) -> tuple[bytes, bytes, bytes]:
    """Manifest, binary part and tail of a root."""
    manifest, body, _ = struct.unpack_from("<III", data, 12)
    return data[40 : 40 + manifest], data[40 + manifest : 40 + manifest + body], data[40 + manifest + body :]


def forged_block(
    rows: list[IndexRow],
    *,
    kinds: list[int] | None = None,
    packs: list[ObjectRef] | None = None,
    sizes: list[int] | None = None,
) -> bytes:
    """A block as `encode_block` would write it if it checked nothing."""
    writer = FrameWriter(ANY_BLOCK)
    packs = list(REFS.values()) if packs is None else packs
    numbers: dict[str | None, int] = {pack.name: number for number, pack in enumerate(packs, 2)}
    if kinds is None:
        kinds = [0 if row.digest is None else numbers.get(row.object_name, 1) for row in rows]
    placed = [row for row, kind in zip(rows, kinds, strict=True) if kind >= 2]
    inline = [row for row, kind in zip(rows, kinds, strict=True) if kind == 1]
    writer.number(len(packs))
    write_packs(writer, packs)
    writer.texts([row.key for row in rows])
    writer.integers(kinds)
    writer.integers([row.seq for row in rows])
    writer.integers([row.timestamp_us for row in rows])
    writer.integers([row.offset_bytes or 0 for row in placed])
    writer.integers([row.length_bytes or 0 for row in placed])
    writer.integers([len(row.value or b"") for row in inline] if sizes is None else sizes)
    writer.blob(b"".join(row.value or b"" for row in inline))
    writer.plain(b"".join(row.digest for row in rows if row.digest is not None))
    return writer.finish(len(rows))


def forged_root(manifest: Manifest, tail: bytes = b"") -> bytes:
    """The bytes that a hostile writer makes of any manifest."""
    module = "ebooklet_tx.formats.root_body"
    with ExitStack() as patches:
        for limit in ("MAX_RECENT", "MAX_HISTORIES", "MAX_RUNS", "MAX_FEED"):
            patches.enter_context(mock.patch(f"{module}.{limit}", 2**30))
        patches.enter_context(mock.patch(f"{module}.check_records"))
        patches.enter_context(mock.patch(f"{module}.check_entries"))
        patches.enter_context(mock.patch("ebooklet_tx.formats.run_list.is_etag", return_value=True))
        kind = root_body._BODY._replace(most_rows=2**30, most_raw_bytes=2**40, most_bytes=2**40)
        patches.enter_context(mock.patch(f"{module}._BODY", kind))
        body = root_body.encode_body(manifest)
    return sealed_root(dump(plain_record(manifest)), body, tail)


def mutations(data: bytes, rng: random.Random, count: int) -> Iterator[bytes]:
    """Copies of bytes with a few changes: flips, cuts, repeats, splices, other numbers."""
    for _ in range(count):
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            at = rng.randrange(len(changed)) if changed else 0
            kind = rng.randrange(6)
            if kind == 0 and changed:
                changed[at] ^= 1 << rng.randrange(8)
            elif kind == 1 and changed:
                changed[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            elif kind == 2:
                del changed[at : at + rng.choice((1, 2, 8, 100))]
            elif kind == 3:
                changed[at:at] = rng.randbytes(rng.choice((1, 2, 8)))
            elif kind == 4:
                piece = changed[at : at + rng.choice((1, 4, 16))]
                other = rng.randrange(len(changed) + 1)
                changed[other : other + len(piece)] = piece
            else:
                changed[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 2**16, 2**31, 2**32 - 1)))
        if changed != data:
            yield bytes(changed)
