"""The root of a remote that ebooklet wrote: what it says of the database, and the index with a row for each key.

The invariant: nothing of it is trusted. A root counts as read only after its whole index was gone through once,
so that a damaged one is refused before anything is imported.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from heapq import nsmallest
from itertools import pairwise
from typing import Any, BinaryIO, NamedTuple

import orjson

from ebooklet_tx.errors import (
    InvalidKeyError,
    ObjectMissingError,
    RemoteIntegrityError,
    RemoteMissingError,
    UnsupportedFormatError,
)
from ebooklet_tx.importing.source_file import SourceFile, changed
from ebooklet_tx.keys import check_key
from ebooklet_tx.limits import MAX_TIMESTAMP_US, RESERVED_KEYS
from ebooklet_tx.local.booklet.fixed_length import FixedLengthBooklet, live_blocks, read_fixed_header
from ebooklet_tx.local.booklet.layout import FIXED_LENGTH_MAGIC, HEADER_BYTES, MAGIC, parse_header
from ebooklet_tx.sync.remote import Remote

WINDOW_KEYS = 150_000
"""How many rows of the index are held in memory at once, about 40 MB; a longer one is gone through again."""

MAX_PART_BYTES = 64 * 2**20
"""Of the list of groups, and of the user's metadata."""

_MAGIC = b"ebooklet-db\0"
_HEADER = struct.Struct(">12sHHQQQ")
_TIMESTAMP_BYTES = 7
_VERSION = 2
_GROUPS = "RemoteConnGroup"


class Place(NamedTuple):
    """Where one value lies.

    Attributes:
        key: Its key.
        timestamp_us: When it was set, in microseconds since 1970.
        group: The number of the group object that it lies in; None where it is an object of its own.
        offset_bytes: Where it begins in that object.
        length_bytes: How long it is; None for an object of its own, as the index does not say.
    """

    key: str
    timestamp_us: int
    group: int | None
    offset_bytes: int
    length_bytes: int | None


@dataclass(frozen=True)
class SourceRoot:
    """What the root of an ebooklet remote says.

    Attributes:
        name: How messages call it.
        layout: `per_key_0_5`, `per_key` or `grouped`.
        key_count: How many keys there are.
        serializer_code: Booklet's number of the serializer; None where the root came without it.
        metadata: The user's metadata with its timestamp; None where the remote has none.
        groups: The names of the group objects, below the database's key, by number.
    """

    name: str
    layout: str
    key_count: int
    serializer_code: int | None
    metadata: tuple[Any, int] | None
    groups: Mapping[int, str]
    _file: SourceFile
    _index_start: int
    _index: FixedLengthBooklet

    def is_current(self) -> bool:
        """Asks whether it still is the remote's root."""
        return self._file.is_current()

    def places(self) -> Iterator[Place]:
        """Yields where each value lies, in the order in which they were written.

        Raises:
            RemoteIntegrityError: The index is damaged.
            ContentionError: The root was replaced meanwhile.
        """
        for key, value in _rows(self.name, self._file, self._index_start, self._index):
            yield _place(self.name, key, value)

    def windows(self, window_keys: int = WINDOW_KEYS) -> Iterator[list[Place]]:
        """Yields all places in order of key, so many at a time; goes through the index once for each time.

        Raises:
            RemoteIntegrityError: The index is damaged, or has a key twice.
            ContentionError: The root was replaced meanwhile.
        """
        last: bytes | None = None
        found = 0
        while found < self.key_count:
            rows = _rows(self.name, self._file, self._index_start, self._index)
            behind = (row for row in rows if last is None or row[0] > last)
            window = nsmallest(window_keys, behind) if self.key_count > window_keys else sorted(behind)
            for before, row in pairwise(window):
                if before[0] == row[0]:
                    raise _damaged(self.name, f"the index has the key {row[0]!r} twice")
            if not window:
                raise _damaged(self.name, f"the index has {found} keys, and {self.key_count} rows")
            found += len(window)
            last = window[-1][0]
            yield [_place(self.name, key, value) for key, value in window]


def read_source(remote: Remote) -> SourceRoot:
    """Reads the root of an ebooklet remote, and goes through its index once.

    Raises:
        RemoteMissingError: There is no root.
        UnsupportedFormatError: Something else lies there, or a group of databases.
        RemoteIntegrityError: It is damaged.
    """
    name = remote.root_place
    try:
        found = remote.store.head(remote.names.root)
    except ObjectMissingError as error:
        raise RemoteMissingError(f"there is no database of ebooklet {name}; check the place") from error
    file = SourceFile(remote.store, found)
    head = file.part(0, min(_HEADER.size, file.size_bytes)).read(_HEADER.size)
    metadata: tuple[Any, int] | None = None
    groups: dict[int, str] = {}
    index_start = 0
    is_old = head.startswith(FIXED_LENGTH_MAGIC)
    if not is_old:
        listed, described, index_start = _parts(name, head, file)
        groups = _groups(name, listed)
        metadata = _metadata(name, described)
    if "num_groups" in found.metadata:
        raise _grouped_by_hash(name)
    if found.metadata.get("type") == _GROUPS:
        raise UnsupportedFormatError(
            f"{name} is a connection group of ebooklet: its values are addresses of other databases. Import each "
            "of these, and add them to a new group (open(..., remote_conn_group=True)); nothing was imported"
        )
    try:
        index = read_fixed_header(file.part(index_start, file.size_bytes), _TIMESTAMP_BYTES)
    except ValueError as error:
        raise _damaged(name, f"its index can't be read: {error}") from error
    layouts = {7: "per_key_0_5", 15: "per_key", 19: "grouped"}
    layout = layouts.get(index.value_bytes, "")
    if not layout or (index.value_bytes == 7) != is_old:
        raise UnsupportedFormatError(
            f"{name} has an index whose rows have {index.value_bytes} bytes, which no known version of ebooklet "
            "writes; nothing was imported"
        )
    return SourceRoot(
        name=name,
        layout=layout,
        key_count=sum(1 for key, value in _rows(name, file, index_start, index) if _place(name, key, value)),
        serializer_code=_serializer_code(name, found.metadata),
        metadata=metadata,
        groups=groups,
        _file=file,
        _index_start=index_start,
        _index=index,
    )


def _parts(name: str, head: bytes, file: SourceFile) -> tuple[bytes, bytes, int]:
    """Returns the list of groups, the user's metadata, and where the index begins."""
    if not head.startswith(_MAGIC):
        what = "a local file of ebooklet or booklet" if head.startswith(MAGIC) else "no database of ebooklet"
        raise UnsupportedFormatError(f"{name} is {what}: name the key that ebooklet's S3Connection has as db_key")
    if len(head) < _HEADER.size:
        raise _damaged(name, f"it is cut off after {len(head)} bytes")
    _, version, _, *lengths = _HEADER.unpack(head)
    if version != _VERSION:
        raise UnsupportedFormatError(
            f"{name} is a root of version {version}, and only what ebooklet 0.5 and 0.11 write is known here; "
            "nothing was imported"
        )
    if _HEADER.size + sum(lengths) != file.size_bytes or max(lengths[:2]) > MAX_PART_BYTES:
        raise _damaged(name, f"it has {file.size_bytes} bytes, and its header says otherwise")
    first = _HEADER.size + lengths[0]
    second = first + lengths[1]
    return file.part(_HEADER.size, first).read(lengths[0]), file.part(first, second).read(lengths[1]), second


def _groups(name: str, listed: bytes) -> dict[int, str]:
    try:
        found = orjson.loads(listed or b"{}")
        # The names become parts of object names, and of addresses.
        return {int(number): f"{int(number)}.{int(suffix, 16):013x}" for number, suffix in found.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise _damaged(name, f"its list of groups can't be read: {error}") from error


def _metadata(name: str, described: bytes) -> tuple[Any, int] | None:
    if not described:
        return None
    try:
        found = orjson.loads(described)
        return found["data"], _checked_stamp(found["timestamp"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(name, f"the user's metadata can't be read: {error}") from error


def _serializer_code(name: str, described: Mapping[str, str]) -> int | None:
    text = described.get("init_bytes")
    if text is None:
        return None
    try:
        header = parse_header(base64.urlsafe_b64decode(text)[:HEADER_BYTES])
    except (binascii.Error, ValueError) as error:
        raise _damaged(name, f"what it says of the serializer can't be decoded: {error}") from error
    if header is None or header.magic != MAGIC:
        raise _damaged(name, "what it says of the serializer is no header of a Booklet")
    return header.value_serializer_code


def _rows(name: str, file: SourceFile, start: int, index: FixedLengthBooklet) -> Iterator[tuple[bytes, bytes]]:
    part: BinaryIO = file.part(start, file.size_bytes)
    try:
        for key, value in live_blocks(part, file.size_bytes - start, index):
            if key not in RESERVED_KEYS:
                yield key, value
    except ValueError as error:
        raise _damaged(name, f"its index is damaged: {error}") from error


def _place(name: str, raw_key: bytes, value: bytes) -> Place:
    numbers = [int.from_bytes(value[at : at + 4], "little") for at in range(7, len(value), 4)]
    try:
        key = raw_key.decode()
        check_key(key)
        stamp = _checked_stamp(int.from_bytes(value[:_TIMESTAMP_BYTES], "little"))
    except (InvalidKeyError, ValueError) as error:
        raise _damaged(name, f"the row of the key {raw_key[:80]!r} in its index is wrong: {error}") from error
    if len(numbers) == 3:
        return Place(key, stamp, *numbers)
    if any(numbers):
        raise _grouped_by_hash(name)
    return Place(key, stamp, None, 0, None)


def _checked_stamp(stamp: Any) -> int:
    if not isinstance(stamp, int) or not 0 <= stamp <= MAX_TIMESTAMP_US:
        raise ValueError(f"{stamp!r} is no time from 1970 to 3111 in microseconds")
    return stamp


def _grouped_by_hash(name: str) -> UnsupportedFormatError:
    return UnsupportedFormatError(
        f"{name} keeps its values in groups by hash, as ebooklet before 0.11 could, and that layout is not read. "
        "Load all of it with the version that wrote it, and adopt its local file; nothing was imported"
    )


def _damaged(name: str, problem: str) -> RemoteIntegrityError:
    return RemoteIntegrityError(
        f"{name} is a damaged root of ebooklet: {problem}. Nothing more was imported, and nothing of the source "
        "was changed. Push it anew from a machine where ebooklet still opens it, or adopt that machine's local "
        "file"
    )


__all__ = ["Place", "SourceRoot", "changed", "read_source"]
