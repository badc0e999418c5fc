"""The one interface between this package and an object store.

Every implementation keeps these invariants (tests/contract runs one suite over all of them): `put` is atomic, so
a reader sees the old bytes or the new bytes of an object, never a mixture; a conditional `put` whose condition
does not hold changes nothing; the next `get`, `head` or `list` shows what a completed `put` wrote.

Errors are those of `ebooklet_tx.errors`, with the object's name and the operation as fields:
`ObjectMissingError` (404), `PreconditionFailedError` (412, and 404 on If-Match),
`ConditionUnsupportedError` (501), `RemoteAccessError` (401, 403, no such bucket),
`TransientStoreError` (time-outs, cut connections, 409, 429, 5xx), `RemoteIntegrityError` (a body
shorter than announced), `ReadOnlyError` (a write on a store that only reads).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What a store knows about an object, without its bytes."""

    key: str
    size_bytes: int
    etag: str
    last_modified: datetime | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Blob:
    """An object's bytes, with its ETag and metadata."""

    data: bytes
    etag: str
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UploadState:
    """The progress of a multipart upload; enough to resume it in another process.

    `parts` holds (part number from 1, ETag) of the parts that have arrived, in order.
    """

    upload_id: str
    parts: tuple[tuple[int, str], ...] = ()


class ByteSource(Protocol):
    """Bytes that can be read more than once in pieces, so that a part can be sent twice."""

    @property
    def size_bytes(self) -> int: ...

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        """Returns exactly `length_bytes` bytes from `offset_bytes` on."""
        ...


class ObjectStore(Protocol):
    """A flat namespace of objects: a bucket, or a folder that behaves like one.

    ETags are opaque strings, as the store sent them but without the surrounding quotes. Metadata names
    are lower-case ASCII.
    """

    @property
    def location(self) -> str:
        """Names the store for messages; never holds a credential."""
        ...

    @property
    def writable(self) -> bool: ...

    def get(self, key: str, *, if_none_match: str | None = None, max_bytes: int | None = None) -> Blob | None:
        """Returns the object, or None when its ETag still is `if_none_match`.

        Raises:
            ObjectTooLargeError: It is longer than `max_bytes`; no more than that was held in memory.
        """
        ...

    def get_range(self, key: str, offset_bytes: int, length_bytes: int, *, if_match: str | None = None) -> bytes:
        """Returns exactly `length_bytes` bytes from `offset_bytes` on.

        Raises:
            PreconditionFailedError: The object's ETag is not `if_match`.
            NotFoundInRangeError: The object is too short.
        """
        ...

    def head(self, key: str) -> StoredObject: ...

    def put(
        self,
        key: str,
        data: bytes,
        *,
        if_match: str | None = None,
        if_absent: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        """Writes the whole object in one request and returns its ETag.

        With `if_match` or `if_absent` the write takes place only if the object has that ETag, or
        does not exist. The store never sends a conditional write twice: after a `TransientStoreError` the
        caller reads back.
        """
        ...

    def put_parts(
        self,
        key: str,
        source: ByteSource,
        *,
        part_bytes: int,
        resume: UploadState | None = None,
        on_part: Callable[[UploadState], None] | None = None,
    ) -> str:
        """Writes an object of any size in parts, in constant memory, and returns its ETag.

        `on_part` is called when the upload has begun and after each part has arrived, with the state that
        `resume` takes later. An upload that the store no longer knows begins again.
        """
        ...

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yields the objects whose names begin with `prefix`, each once, in any order."""
        ...

    def delete(self, key: str) -> None:
        """Removes the object; it is no error if there is none."""
        ...

    def copy(self, source_key: str, target_key: str) -> str:
        """Copies an object inside the store and returns the copy's ETag."""
        ...

    def close(self) -> None: ...
