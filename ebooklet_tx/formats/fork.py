"""The codec of forks: the object that protects a fork, and the objects in which a worker lists its changes.

A fork's object is a note with a copy of the root that the fork was made on. What a worker changed is listed in
pages; a page is a block of the index with, beside each row, the digest that its key had at the fork's base.

The invariant: what a reader gets keeps every rule of `records.IndexRow` and every limit, its keys strictly
ascend, and each value lies in a pack. docs/reference/FORMAT.md gives the layout.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from ebooklet_tx.errors import InvalidArgumentError, RemoteIntegrityError, UnsupportedFormatError
from ebooklet_tx.formats.block import decode_block, encode_block
from ebooklet_tx.formats.checks import is_hex_128, is_plain_text, short
from ebooklet_tx.formats.columns import FrameKind, FrameReader, FrameWriter
from ebooklet_tx.formats.root import Root, decode_root
from ebooklet_tx.limits import (
    MAX_BLOCK_BYTES,
    MAX_BLOCK_ROWS,
    MAX_CHANGES_BYTES,
    MAX_FORK_BYTES,
    MAX_FORK_NOTE_BYTES,
    MAX_FORK_SECONDS,
    MAX_TIMESTAMP_US,
)
from ebooklet_tx.records import DIGEST_BYTES, IndexRow, ObjectRef

FORK_MAGIC = b"EBTXfork"
FORK_FORMAT_VERSION = 1
CHANGES_MAGIC = b"EBTXchgs"
CHANGES_FORMAT_VERSION = 1

PAGE_ROWS = 512
"""Rows of a page that a writer makes."""

OBJECT_ROWS = 128 * PAGE_ROWS
"""Rows of an object of changes that a writer makes."""

PAGE_KEY_BYTES = 32 * 2**10
"""A page ends where its keys take more than this."""

_FORK = struct.Struct("<8sHHII16s")
_CHANGES = struct.Struct("<8sHHI")
_LENGTH = struct.Struct("<I")
_PAGE = FrameKind(
    b"EBTXpage",
    "a page of a fork's changes",
    MAX_BLOCK_ROWS,
    16 * MAX_BLOCK_ROWS,
    MAX_BLOCK_BYTES + (DIGEST_BYTES + 16) * MAX_BLOCK_ROWS,
)
_OBJECT = re.compile(r"fork/[0-9a-f]{32}\.[0-9a-f]{32}", re.ASCII)
_NAME = re.compile(r"fork/[0-9a-f]{32}(\.[0-9a-f]{32})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class ForkNote:
    """What a fork's object says of the fork.

    Attributes:
        fork_id: Its id, 32 hex digits.
        uuid: The database's identity, likewise.
        ttl_seconds: For how long after its object was last written it is protected.
        created_at_us: When it was made, in microseconds since 1970 UTC by its maker's clock.
        writer: Who made it: host and process.
    """

    fork_id: str
    uuid: str
    ttl_seconds: int
    created_at_us: int
    writer: str


class ChangedRow(NamedTuple):
    """What a worker says of one key.

    Attributes:
        row: The row, whose `seq` means nothing; without a digest the key is deleted.
        base: The key's digest at the fork's base; None where it was not there.
        ref: The pack of its value; None for a deletion.
    """

    row: IndexRow
    base: bytes | None
    ref: ObjectRef | None


def is_fork_name(text: str) -> bool:
    """Tells whether this is the relative name of a fork's object, or of one of its objects of changes."""
    return _NAME.fullmatch(text) is not None


def is_changes_name(text: object) -> bool:
    """Tells whether this is the relative name of an object of changes."""
    return isinstance(text, str) and _OBJECT.fullmatch(text) is not None


# -- the fork's object ---------------------------------------------------------------------------


def encode_fork(note: ForkNote, root: bytes) -> bytes:
    """Returns the object of a fork that is made on the commit of a root, whose bytes are given.

    Raises:
        InvalidArgumentError: The note breaks a rule.
    """
    record = asdict(note)
    problem = _problem_of(record)
    if problem is not None:
        raise InvalidArgumentError(f"a fork can't be written: {problem}")
    encoded = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
    head = FORK_MAGIC, FORK_FORMAT_VERSION, 0, len(encoded), len(root)
    digest = _digest_of(_FORK.pack(*head, bytes(DIGEST_BYTES)) + encoded + root)
    return _FORK.pack(*head, digest) + encoded + root


def decode_fork(data: bytes, *, name: str) -> tuple[ForkNote, Root, bytes]:
    """Returns what a fork's object says: its note, and the root with its bytes; checked as foreign input.

    Raises:
        RemoteIntegrityError: It is truncated or altered, or no fork.
        UnsupportedFormatError: A newer version wrote it.
    """
    if len(data) < _FORK.size or data[:8] != FORK_MAGIC:
        raise _damaged(name, "it does not begin as one")
    _, version, flags, note_bytes, root_bytes, digest = _FORK.unpack_from(data)
    _check_version(name, "a fork", version, flags, FORK_FORMAT_VERSION)
    if note_bytes > MAX_FORK_NOTE_BYTES or len(data) != _FORK.size + note_bytes + root_bytes:
        raise _damaged(name, f"it is {len(data)} bytes long, which is not what it announces")
    if len(data) > MAX_FORK_BYTES:
        raise _damaged(name, f"it is {len(data)} bytes long; the limit is {MAX_FORK_BYTES}")
    head = data[: _FORK.size - DIGEST_BYTES] + bytes(DIGEST_BYTES)
    if _digest_of(head + data[_FORK.size :]) != digest:
        raise _damaged(name, "it does not match its own digest")
    encoded = data[_FORK.size : _FORK.size + note_bytes]
    try:
        record = json.loads(encoded.decode())
    except (ValueError, RecursionError) as error:
        raise _damaged(name, f"its note is no JSON ({short(str(error))})") from error
    problem = _problem_of(record)
    if problem is not None:
        raise _damaged(name, problem)
    note = ForkNote(**{field: record[field] for field in ForkNote.__slots__})
    root = data[_FORK.size + note_bytes :]
    decoded = decode_root(root, name=f"the root in {name}")
    if decoded.manifest.uuid != note.uuid:
        raise _damaged(name, "its note and its root are of two databases")
    return note, decoded, root


def _problem_of(record: object) -> str | None:
    if not isinstance(record, dict):
        return "its note is not a JSON object"
    rules: Mapping[str, Any] = {
        "fork_id": is_hex_128,
        "uuid": is_hex_128,
        "ttl_seconds": lambda value: type(value) is int and 1 <= value <= MAX_FORK_SECONDS,
        "created_at_us": lambda value: type(value) is int and 0 <= value <= MAX_TIMESTAMP_US,
        "writer": is_plain_text,
    }
    for field, holds in rules.items():
        if field not in record:
            return f"its note has no {field}"
        if not holds(record[field]):
            return f"the {field} of its note is {short(record[field])}, which is not possible"
    return None


# -- objects of changes --------------------------------------------------------------------------


def encode_changes(rows: Sequence[ChangedRow]) -> bytes:
    """Returns an object that lists changes, which are in the order of their keys.

    Raises:
        InvalidArgumentError: There are none, a row breaks a rule, or they are past a limit.
    """
    pages = [_encode_page(page) for page in _pages(rows)]
    head = _CHANGES.pack(CHANGES_MAGIC, CHANGES_FORMAT_VERSION, 0, len(pages))
    data = b"".join((head, *(_LENGTH.pack(len(page)) for page in pages), *pages))
    if not rows or len(data) > MAX_CHANGES_BYTES:
        raise InvalidArgumentError(
            f"{len(rows)} changes of {len(data)} bytes can't be written as one object: no reader takes it"
        )
    return data


def decode_changes(data: bytes, *, name: str) -> Iterator[list[ChangedRow]]:
    """Yields the rows of an object of changes page by page, checked as foreign input.

    Raises:
        RemoteIntegrityError: It is truncated or altered, or none; what was yielded before is sound by itself.
        UnsupportedFormatError: A newer version wrote it.
    """
    if len(data) < _CHANGES.size or data[:8] != CHANGES_MAGIC:
        raise _damaged(name, "it does not begin as one")
    _, version, flags, count = _CHANGES.unpack_from(data)
    _check_version(name, "the changes of a fork", version, flags, CHANGES_FORMAT_VERSION)
    start = _CHANGES.size + count * _LENGTH.size
    if not count or start > len(data) or len(data) > MAX_CHANGES_BYTES:
        raise _damaged(name, f"it is {len(data)} bytes long and announces {count} pages")
    lengths = [_LENGTH.unpack_from(data, _CHANGES.size + number * _LENGTH.size)[0] for number in range(count)]
    if start + sum(lengths) != len(data):
        raise _damaged(name, "it is not as long as its pages")
    last = ""
    for length in lengths:
        rows = _decode_page(memoryview(data)[start : start + length], name)
        if rows[0].row.key <= last:
            raise _damaged(name, "its keys are not in strict order, or one is empty")
        last = rows[-1].row.key
        start += length
        yield rows


def _pages(rows: Sequence[ChangedRow]) -> Iterator[list[ChangedRow]]:
    page: list[ChangedRow] = []
    key_bytes = 0
    for row in rows:
        if page and (len(page) == PAGE_ROWS or key_bytes > PAGE_KEY_BYTES):
            yield page
            page, key_bytes = [], 0
        page.append(row)
        key_bytes += len(row.row.key)
    if page:
        yield page


def _encode_page(rows: Sequence[ChangedRow]) -> bytes:
    refs = {row.ref.name: row.ref for row in rows if row.ref is not None}
    block = encode_block([row.row for row in rows], refs)
    writer = FrameWriter(_PAGE)
    writer.integers([int(row.base is not None) for row in rows])
    writer.number(len(block))
    writer.plain(block)
    writer.plain(b"".join(row.base for row in rows if row.base is not None))
    return writer.finish(len(rows))


def _decode_page(data: memoryview, name: str) -> list[ChangedRow]:
    reader = FrameReader(data, _PAGE, name)
    based = reader.integers(reader.row_count, 0, 1, "marks of bases")
    block_bytes = reader.number(1, MAX_BLOCK_BYTES, "block's length")
    block = decode_block(reader.plain(block_bytes), name=f"a page of {name}")
    joined = reader.plain(DIGEST_BYTES * sum(based))
    reader.finish()
    if len(block) != reader.row_count or not block.keys:
        raise reader.damaged(f"it announces {reader.row_count} rows and has {len(block)}")
    bases = (joined[at : at + DIGEST_BYTES] for at in range(0, len(joined), DIGEST_BYTES))
    found = []
    for row, has_base in zip(block.rows(), based, strict=True):
        if row.digest is not None and row.object_name is None:
            raise reader.damaged(f"the value of key {short(row.key)} lies in no pack")
        ref = None if row.object_name is None else block.ref_of(row.object_name)
        found.append(ChangedRow(row, next(bases) if has_base else None, ref))
    return found


def _check_version(name: str, what: str, version: int, flags: int, known: int) -> None:
    if version > known or (version == known and flags):
        raise UnsupportedFormatError(
            f"{name} holds {what} of format {version} with flags {flags:#x}; this version of ebooklet_tx reads "
            f"up to {known}. Upgrade ebooklet_tx"
        )
    if version != known:
        raise _damaged(name, f"it says that its format is {version}, which has none")


def _digest_of(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def _damaged(name: str, problem: str) -> RemoteIntegrityError:
    return RemoteIntegrityError(
        f"{name} is not an object of a fork that is sound: {problem}. Nothing that was pushed depends on it: run "
        "the work again on a new fork"
    )


__all__ = [
    "OBJECT_ROWS",
    "ChangedRow",
    "ForkNote",
    "decode_changes",
    "decode_fork",
    "encode_changes",
    "encode_fork",
    "is_changes_name",
    "is_fork_name",
]
