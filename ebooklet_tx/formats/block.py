"""The codec of blocks: up to some hundred rows of the index in the order of their keys, column by column.

A block names the packs of its own rows and needs nothing else to be understood. A root's tail is a block as well.

The invariant: a `Block` that `decode_block` returned keeps every rule of `records.IndexRow` and every limit; its
keys strictly ascend and lie in the slot that its directory gives it; each place lies inside its pack; each inline
value matches its digest. What `encode_block` writes, `decode_block` accepts.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import compress, repeat
from operator import is_not
from typing import TYPE_CHECKING, Any, NamedTuple

from ebooklet_tx.formats.checks import MAX_ETAG_CHARS, is_etag, short
from ebooklet_tx.formats.columns import FrameKind, FrameReader, FrameWriter, Texts, damaged
from ebooklet_tx.formats.index_records import BlockRef, PackUse
from ebooklet_tx.formats.row_rules import (
    FIRST_PACK,
    AnyRow,
    Columns,
    are_digests,
    are_integers,
    is_sound_pack,
    problem_of_keys,
    problem_of_packed_keys,
    problem_of_places,
    problem_of_row,
    problem_of_texts,
    refusal,
)
from ebooklet_tx.limits import (
    MAX_BLOCK_BYTES,
    MAX_BLOCK_ROWS,
    MAX_COUNT,
    MAX_INLINE_BYTES,
    MAX_TIMESTAMP_US,
    MAX_VALUE_BYTES,
)
from ebooklet_tx.records import DIGEST_BYTES, IndexRow, ObjectRef, digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = [
    "AnyRow",
    "Block",
    "Columns",
    "EncodedBlock",
    "build_block",
    "build_columns",
    "decode_block",
    "encode_block",
    "read_packs",
    "write_packs",
]

BLOCK_MAGIC = b"EBTXblk\n"

_KIND = FrameKind(BLOCK_MAGIC, "a block of the index", MAX_BLOCK_ROWS, MAX_BLOCK_BYTES, MAX_BLOCK_BYTES)
_TOMBSTONE, _INLINE = 0, 1


class EncodedBlock(NamedTuple):
    """A block's bytes, and what its directory and its object's list of packs say of it."""

    data: bytes
    first_key: str
    last_key: str
    row_count: int
    least_seq: int
    greatest_seq: int
    packs: tuple[PackUse, ...]


class Block:
    """The rows of a decoded block; keys and digests are cut apart where they are asked for.

    Attributes:
        keys: Strictly ascending.
        packs: Those that the rows name.
        least_seq: The least seq of a row, or 0 without rows.
        greatest_seq: The greatest.
    """

    __slots__ = ("_columns", "_digests", "_refs", "greatest_seq", "keys", "least_seq", "packs")

    def __init__(
        self, columns: Sequence[Sequence[Any]], packs: tuple[ObjectRef, ...], digests: bytes | None = None
    ) -> None:
        """Takes decoded columns.

        Args:
            columns: One for each field of a row; the last is empty where no value is inline.
            packs: The packs that they name.
            digests: The digests of all rows one after another, for an empty column of them.
        """
        self.keys: Sequence[str] = columns[0]
        self.packs = packs
        seqs = columns[1]
        uniform = _is_uniform(seqs)
        self.least_seq: int = seqs[0] if uniform else min(seqs, default=0)
        self.greatest_seq: int = seqs[0] if uniform else max(seqs, default=0)
        self._columns = columns
        self._digests = digests
        self._refs = {ref.name: ref for ref in packs}

    def __len__(self) -> int:
        return len(self.keys)

    def row(self, number: int) -> IndexRow:
        """Returns one row."""
        _, seq, stamp, digest, object_name, offset, length, value = self._columns
        joined, at = self._digests, number * DIGEST_BYTES
        return IndexRow(
            self.keys[number],
            seq[number],
            stamp[number],
            digest[number] if joined is None else joined[at : at + DIGEST_BYTES],
            object_name[number],
            offset[number],
            length[number],
            value[number] if value else None,
        )

    def find(self, key: str) -> IndexRow | None:
        """Returns the row of a key, or None."""
        number = bisect_left(self.keys, key)
        return self.row(number) if number < len(self.keys) and self.keys[number] == key else None

    def rows(self, lo: str = "", hi: str | None = None) -> Iterator[IndexRow]:
        """Yields the rows of a slot in the order of their keys."""
        columns = self.columns(lo, hi)
        columns[-1] = columns[-1] or repeat(None)
        # What NamedTuple's own constructor does, without a call of Python for each row.
        return map(tuple.__new__, repeat(IndexRow), zip(*columns, strict=False))

    def columns(self, lo: str = "", hi: str | None = None) -> list[Any]:
        """Returns a slot's rows, a sequence for each field; that of the values is empty where none is inline."""
        start = bisect_left(self.keys, lo) if lo else 0
        end = len(self.keys) if hi is None else bisect_left(self.keys, hi)
        columns: list[Any] = list(self._columns)
        columns[0] = self.keys.unpacked() if isinstance(self.keys, Texts) else self.keys
        if self._digests is not None:
            columns[3] = _cut(self._digests)
        if start > 0 or end < len(self.keys):
            return [column[start:end] for column in columns]
        return columns

    def ref_of(self, object_name: str) -> ObjectRef:
        """Returns the pack of a row."""
        return self._refs[object_name]

    def encoded_as(self, data: bytes) -> EncodedBlock:
        """Returns what a directory says of this block, whose bytes are given, to name it in a new object."""
        _, _, _, _, names, _, lengths, _ = self._columns
        numbers = {ref.name: number for number, ref in enumerate(self.packs)}
        placed = [numbers[name] for name in names if name is not None]
        uses = _uses(self.packs, placed, list(compress(lengths, map(is_not, names, repeat(None)))))
        return EncodedBlock(
            data, self.keys[0], self.keys[-1], len(self.keys), self.least_seq, self.greatest_seq, uses
        )


def encode_block(rows: Sequence[AnyRow], refs: Mapping[str, ObjectRef]) -> bytes:
    """Returns the bytes of a block that holds these rows, which are in the order of their keys.

    Args:
        rows: At least one but for a tail, and at most `MAX_BLOCK_ROWS`.
        refs: Every pack that a row names; others may be among them.

    Raises:
        InvalidArgumentError: A row breaks a rule of `records.IndexRow` or a limit, is out of order, or names a
            pack that is not among `refs` or is too short for it.
    """
    return _encode(list(zip(*rows, strict=True)), refs)[0]


def build_block(rows: Sequence[AnyRow], refs: Mapping[str, ObjectRef]) -> EncodedBlock:
    """Returns a block of at least one row with what its directory says of it; otherwise as `encode_block`."""
    return build_columns(list(zip(*rows, strict=True)), refs)


def build_columns(columns: Columns, refs: Mapping[str, ObjectRef]) -> EncodedBlock:
    """Likewise, of rows that come as a sequence for each field."""
    data, packs = _encode(columns, refs)
    keys, seqs = columns[:2]
    return EncodedBlock(data, keys[0], keys[-1], len(keys), min(seqs), max(seqs), packs)


def decode_block(
    data: bytes | memoryview,
    *,
    name: str,
    expect: BlockRef | None = None,
    greatest_seq: int = MAX_COUNT,
    has_digest: bool = False,
) -> Block:
    """Returns the rows of a block, checked as foreign input.

    Args:
        data: The block's bytes.
        name: How messages call the object that it lies in.
        expect: What the directory says of it: its digest, slot and numbers must hold.
        greatest_seq: The seq of the root that names it; no row is of a later commit.
        has_digest: Whether the caller has held the bytes to the digest of `expect`.

    Raises:
        RemoteIntegrityError: It is truncated, altered, or not what the directory says.
        UnsupportedFormatError: A newer version wrote it.
    """
    if expect is not None and (
        len(data) != expect.length_bytes or not (has_digest or digest_of(data) == expect.digest)
    ):
        raise damaged(name, _KIND.what, f"the one at byte {expect.offset_bytes} does not match its digest")
    reader = FrameReader(data, _KIND, name)
    count = reader.row_count
    packs = read_packs(reader, reader.number(0, count, "number of packs"))
    keys = reader.packed_texts(count, "keys")
    kinds = reader.integers(count, 0, len(packs) + 1, "packs of rows")
    seqs = reader.integers(count, 1, greatest_seq, "seqs")
    stamps = reader.integers(count, 0, MAX_TIMESTAMP_US, "timestamps")
    deleted, inline = kinds.count(_TOMBSTONE), kinds.count(_INLINE)
    placed = count - deleted - inline
    offsets: Sequence[Any] = reader.integers(placed, 0, MAX_COUNT, "offsets")
    lengths: Sequence[Any] = reader.integers(placed, 0, MAX_VALUE_BYTES, "lengths")
    sizes = reader.integers(inline, 0, MAX_INLINE_BYTES, "lengths of inline values")
    inlined = [reader.blob(size) for size in sizes]
    joined = reader.plain((count - deleted) * DIGEST_BYTES)
    reader.finish()
    digests: Sequence[Any] = ()
    objects: list[str | None] = [None, None, *(pack.name for pack in packs)]
    values: Sequence[Any] = ()
    uniform = _is_uniform(kinds)
    problem = problem_of_packed_keys(keys) or _problem_of_slot(keys, expect)
    if problem is None and len(packs) != len({*(kinds[:1] if uniform else kinds)} - {_TOMBSTONE, _INLINE}):
        problem = "it lists packs that no row names"
    if problem is None:
        packs_of_rows = [kind for kind in kinds if kind >= FIRST_PACK] if placed < count else kinds
        problem = problem_of_places(packs, packs_of_rows, offsets, lengths)
    if problem is not None:
        raise reader.damaged(problem)
    if placed < count:
        next_digest, next_value = iter(_cut(joined)), iter(inlined)
        digests = tuple([None if kind == _TOMBSTONE else next(next_digest) for kind in kinds])
        values = tuple([next(next_value) if kind == _INLINE else None for kind in kinds])
        for key, digest, value in zip(keys, digests, values, strict=True):
            if value is not None and digest_of(value) != digest:
                raise reader.damaged(f"the value of key {short(key)} does not match its digest")
        next_offset, next_length, next_size = iter(offsets), iter(lengths), iter(sizes)
        offsets = tuple([next(next_offset) if kind >= FIRST_PACK else None for kind in kinds])
        lengths = tuple(
            [
                next(next_length) if kind >= FIRST_PACK else next(next_size) if kind == _INLINE else None
                for kind in kinds
            ]
        )
    columns = (
        keys,
        seqs,
        stamps,
        digests,
        (objects[kinds[0]],) * count if uniform else tuple(map(objects.__getitem__, kinds)),
        offsets,
        lengths,
        values,
    )
    block = Block(columns, packs, joined if placed == count else None)
    problem = None if expect is None else _problem_of_numbers(block, expect)
    if problem is not None:
        raise reader.damaged(problem)
    return block


def _is_uniform(values: Sequence[int]) -> bool:
    """Tells whether all are the same, of which there is at least one."""
    return bool(values) and values.count(values[0]) == len(values)


def _cut(joined: bytes) -> list[bytes]:
    return [joined[at : at + DIGEST_BYTES] for at in range(0, len(joined), DIGEST_BYTES)]


# -- packs, as blocks and index objects list them ----------------------------------------------


def write_packs(writer: FrameWriter, packs: Sequence[ObjectRef]) -> None:
    """Adds packs to a frame; their number is not among it."""
    writer.texts([pack.etag for pack in packs])
    writer.integers([pack.size_bytes for pack in packs])
    writer.plain(b"".join([bytes.fromhex(pack.name[5:]) for pack in packs]))


def read_packs(reader: FrameReader, count: int) -> tuple[ObjectRef, ...]:
    """Returns the packs that `write_packs` wrote."""
    etags = reader.texts(count, "ETags of packs", most_bytes=MAX_ETAG_CHARS)
    sizes = reader.integers(count, 0, MAX_COUNT, "sizes of packs")
    ids = [reader.plain(16) for _ in range(count)]
    if len(set(ids)) != count:
        raise reader.damaged("it lists a pack twice")
    if not all(map(is_etag, etags)):
        raise reader.damaged("a pack's ETag is not printable ASCII")
    return tuple(
        ObjectRef(f"pack/{pack_id.hex()}", etag, size)
        for pack_id, etag, size in zip(ids, etags, sizes, strict=True)
    )


# -- encoding ----------------------------------------------------------------------------------


def _encode(columns: Columns, refs: Mapping[str, ObjectRef]) -> tuple[bytes, tuple[PackUse, ...]]:
    writer = FrameWriter(_KIND)
    if not columns:
        writer.number(0)
        return writer.finish(0), ()
    keys, seqs, stamps, digests, names, offsets, lengths, values = columns
    used = dict.fromkeys(names)
    used.pop(None, None)
    if not all(name in refs and is_sound_pack(name, refs[name]) for name in used):
        raise refusal(list(zip(*columns, strict=True)), refs)
    packs = tuple(refs[name] for name in used)
    numbers: dict[str | None, int] = {pack.name: number for number, pack in enumerate(packs, FIRST_PACK)}
    inlined: Sequence[bytes] = ()
    if None not in names:
        kinds = placed = list(map(numbers.__getitem__, names))
        sound = values.count(None) == len(values)
    else:
        numbers[None] = _INLINE
        kinds = [
            numbers[name] if digest is not None else _TOMBSTONE
            for name, digest in zip(names, digests, strict=True)
        ]
        rows = zip(*columns, strict=True)
        sound = all(problem_of_row(row, refs) is None for row in rows if None in row[3:5] or row[7] is not None)
        is_placed = [kind >= FIRST_PACK for kind in kinds]
        placed = list(compress(kinds, is_placed))
        offsets, lengths = tuple(compress(offsets, is_placed)), tuple(compress(lengths, is_placed))
        inlined = [value for value, kind in zip(values, kinds, strict=True) if kind == _INLINE]
        digests = tuple(compress(digests, kinds))
    if (
        not sound
        or not are_integers(seqs, 1, MAX_COUNT)
        or not are_integers(stamps, 0, MAX_TIMESTAMP_US)
        or not are_integers(offsets, 0, MAX_COUNT)
        or not are_integers(lengths, 0, MAX_VALUE_BYTES)
        or not are_digests(digests)
        or problem_of_texts(keys) is not None
        or problem_of_keys(keys) is not None
        or problem_of_places(packs, placed, offsets, lengths) is not None
    ):
        raise refusal(list(zip(*columns, strict=True)), refs)
    writer.number(len(packs))
    write_packs(writer, packs)
    writer.texts(keys)
    writer.integers(kinds)
    writer.integers(seqs)
    writer.integers(stamps)
    writer.integers(offsets)
    writer.integers(lengths)
    writer.integers(list(map(len, inlined)))
    writer.blob(b"".join(inlined))
    writer.plain(b"".join(digests))
    return writer.finish(len(keys)), _uses(packs, [kind - FIRST_PACK for kind in placed], lengths)


def _uses(packs: Sequence[ObjectRef], placed: Sequence[int], lengths: Sequence[int]) -> tuple[PackUse, ...]:
    """Returns what rows use of each pack; `placed` has the number of each row's pack."""
    if len(packs) == 1:
        return (PackUse(packs[0], len(placed), sum(lengths)),)
    counts, sums = [0] * len(packs), [0] * len(packs)
    for number, length in zip(placed, lengths, strict=True):
        counts[number] += 1
        sums[number] += length
    return tuple(map(PackUse, packs, counts, sums))


def _problem_of_slot(keys: Sequence[str], expect: BlockRef | None) -> str | None:
    if expect is None or not keys:
        return None
    if keys[0] < expect.fence or (expect.next_fence is not None and keys[-1] >= expect.next_fence):
        return "it has a row outside its slot"
    return None


def _problem_of_numbers(block: Block, expect: BlockRef) -> str | None:
    count, least, greatest = len(block), block.least_seq, block.greatest_seq
    if (count, least, greatest) != (expect.row_count, expect.least_seq, expect.greatest_seq):
        return f"it has {count} rows of the seqs {least} to {greatest}, and its directory says otherwise"
    return None
