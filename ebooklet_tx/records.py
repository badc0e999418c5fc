"""Frozen records that travel between the rooms.

The invariant: a record is plain data, checked where it is decoded from foreign bytes, so its types and ranges
can be trusted everywhere else.

Keys are str; the key `""`, which no user can write, holds the database's metadata, so that it is
stored, synced and checked as any other value. Timestamps are int microseconds since 1970 UTC.
Digests are blake2b, 16 bytes, of the encoded value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ebooklet_tx.limits import MAX_KEY_BYTES, MAX_VALUE_BYTES

METADATA_KEY = ""
"""The reserved key under which a database's own metadata is kept."""

DIGEST_BYTES = 16


def digest_of(value: bytes | memoryview) -> bytes:
    """Returns the 16-byte blake2b digest under which an encoded value is known."""
    return hashlib.blake2b(value, digest_size=DIGEST_BYTES).digest()


def digests_of(values: Iterable[bytes]) -> list[bytes]:
    """Returns the digests of many values."""
    blake2b = hashlib.blake2b
    return [blake2b(value, digest_size=DIGEST_BYTES).digest() for value in values]


def digest_of_chunks(chunks: Iterable[bytes]) -> bytes:
    """Returns the digest of a value that comes in pieces."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for chunk in chunks:
        digest.update(chunk)
    return digest.digest()


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """An immutable object of the remote; `name` is relative: `pack/<id>`, `index/<id>`."""

    name: str
    etag: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class CommitWay:
    """How commits of a database are made at one store, as its root says for all writers.

    Attributes:
        how: `quoted` or `unquoted`: by compare-and-swap, with ETags sent so; `tickets`: in one's turn.
        endpoint: The store where this was found out; it counts nowhere else.
        bucket: The bucket there.
    """

    how: str
    endpoint: str
    bucket: str

    @property
    def swaps(self) -> bool:
        """Whether a commit is a compare-and-swap."""
        return self.how != "tickets"


class IndexRow(NamedTuple):
    """What one commit says of one key.

    Exactly one of three: a tombstone (`digest` None, no place, no value), a value in an object
    (`object_name`, `offset_bytes`), or a value inline (`value`). `seq` is the commit that wrote it.
    """

    key: str
    seq: int
    timestamp_us: int
    digest: bytes | None
    object_name: str | None = None
    offset_bytes: int | None = None
    length_bytes: int | None = None
    value: bytes | None = None


class RemoteSide(NamedTuple):
    """What a commit of the remote says of one key, as the journal keeps it.

    Of a key that the commit does not have, or not any more, `digest` is None. `ref` is the object that the value
    lies in: a pack, with an offset; or, without an offset, the index object or root in which it rides.
    """

    key: str
    seq: int | None
    timestamp_us: int | None
    digest: bytes | None
    ref: ObjectRef | None
    offset_bytes: int | None
    length_bytes: int | None


@dataclass(frozen=True, slots=True)
class CommitRecord:
    """One commit in the remote's history.

    Attributes:
        seq: Its number.
        commit_id: Its id, 32 hex digits.
        committed_at_us: When it was made, in microseconds since 1970 UTC by its writer's clock.
        writer: Who made it: host and process.
        set_count: How many keys it set.
        deleted_count: How many keys it deleted.
        value_bytes: Encoded bytes of the values that it set.
        message: What its writer says of it.
    """

    seq: int
    commit_id: str
    committed_at_us: int
    writer: str
    set_count: int
    deleted_count: int
    value_bytes: int
    message: str = ""


class KeyChange(NamedTuple):
    """What became of a key from one state to another.

    Attributes:
        key: The key.
        kind: `added`, `changed` or `removed`; `set` for added or changed, where it can't be told which.
    """

    key: str
    kind: str


@dataclass(frozen=True, slots=True)
class SnapshotNote:
    """What a copy of a root that is kept as a snapshot says of itself."""

    name: str
    message: str
    created_at_us: int
    writer: str


__all__ = [
    "DIGEST_BYTES",
    "MAX_KEY_BYTES",
    "MAX_VALUE_BYTES",
    "METADATA_KEY",
    "CommitRecord",
    "IndexRow",
    "KeyChange",
    "ObjectRef",
    "SnapshotNote",
    "digest_of",
    "digest_of_chunks",
    "digests_of",
]
