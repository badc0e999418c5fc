"""What the stub of S3 stores: buckets of objects, and uploads in parts.

Owns every byte that was sent to the stub. The invariants: an object that was stored is never changed, only
replaced, so that a snapshot of all buckets is a copy of dicts; and a body is kept once, in memory up to a
bound and in an unnamed file above it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

MIN_PART_BYTES = 5 << 20
SPILLED_BODY_BYTES = 1 << 20
"""Only bodies of at least this size go to the file."""

CHUNK_BYTES = 1 << 20


class S3Error(Exception):
    """An answer of S3 that is an error."""

    def __init__(self, status: int, code: str, message: str = "") -> None:
        super().__init__(f"{status} {code} {message}")
        self.status = status
        self.code = code
        self.message = message or code


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes that lie in the file of spilled bodies."""

    offset_bytes: int
    length_bytes: int


Piece = bytes | bytearray | Span


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object, or one part of an upload.

    Attributes:
        pieces: The bytes, in order; parts of an upload stay apart.
        size_bytes: How many they are.
        etag: MD5, or the MD5 of the parts' MD5s with their number; without quotes.
        modified_seconds: When it was stored, since the epoch.
        metadata: `x-amz-meta-` names without that prefix, in lower case.
        content_type: As it was sent.
    """

    pieces: tuple[Piece, ...]
    size_bytes: int
    etag: str
    modified_seconds: float
    metadata: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "binary/octet-stream"


@dataclass(slots=True)
class Upload:
    """An upload in parts that was begun and neither completed nor aborted."""

    bucket: str
    key: str
    metadata: Mapping[str, str]
    content_type: str
    parts: dict[int, StoredObject] = field(default_factory=dict)


class ObjectSpace:
    """All buckets of the stub.

    Attributes:
        buckets: Objects by key, by bucket.
        uploads: Unfinished uploads, by their ids.
    """

    def __init__(self, memory_bytes: int) -> None:
        """Makes an empty space.

        Args:
            memory_bytes: Up to how many bytes of bodies are kept in memory.
        """
        self.buckets: dict[str, dict[str, StoredObject]] = {}
        self.uploads: dict[str, Upload] = {}
        self._saved: dict[str, dict[str, dict[str, StoredObject]]] = {}
        self._memory_bytes = memory_bytes
        self._kept_bytes = 0
        self._spilled_bytes = 0
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # lives as long as the stub

    def bucket(self, name: str) -> dict[str, StoredObject]:
        """Returns the objects of a bucket."""
        try:
            return self.buckets[name]
        except KeyError:
            raise S3Error(404, "NoSuchBucket") from None

    def find(self, bucket: str, key: str) -> StoredObject:
        """Returns an object."""
        try:
            return self.bucket(bucket)[key]
        except KeyError:
            raise S3Error(404, "NoSuchKey") from None

    def put(
        self,
        bucket: str,
        key: str,
        body: bytes | bytearray,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
        metadata: Mapping[str, str] | None = None,
        content_type: str = "binary/octet-stream",
    ) -> StoredObject:
        """Stores an object if the conditions hold."""
        objects = self.bucket(bucket)
        there = objects.get(key)
        if if_none_match is not None and there is not None and if_none_match in ("*", there.etag):
            raise S3Error(412, "PreconditionFailed")
        if if_match is not None:
            if there is None:
                raise S3Error(404, "NoSuchKey")
            if if_match not in ("*", there.etag):
                raise S3Error(412, "PreconditionFailed")
        stored = self._stored(body, metadata or {}, content_type)
        objects[key] = stored
        return stored

    def copy(
        self, source: StoredObject, bucket: str, key: str, metadata: Mapping[str, str] | None
    ) -> StoredObject:
        """Stores an object's bytes under another name; None for the metadata keeps it."""
        kept = source.metadata if metadata is None else metadata
        copied = StoredObject(
            source.pieces, source.size_bytes, source.etag, time.time(), kept, source.content_type
        )
        self.bucket(bucket)[key] = copied
        return copied

    def begin_upload(self, bucket: str, key: str, metadata: Mapping[str, str], content_type: str) -> str:
        """Returns the id of a new upload in parts."""
        self.bucket(bucket)
        upload_id = secrets.token_hex(16)
        self.uploads[upload_id] = Upload(bucket, key, metadata, content_type)
        return upload_id

    def upload(self, bucket: str, key: str, upload_id: str) -> Upload:
        """Returns an unfinished upload of this object."""
        found = self.uploads.get(upload_id)
        if found is None or (found.bucket, found.key) != (bucket, key):
            raise S3Error(404, "NoSuchUpload")
        return found

    def put_part(self, upload: Upload, number: int, body: bytes | bytearray) -> StoredObject:
        """Stores one part."""
        upload.parts[number] = part = self._stored(body, {}, "")
        return part

    def complete(self, upload_id: str, upload: Upload, named: list[tuple[int, str]]) -> StoredObject:
        """Makes an object of the parts that are named, in their order."""
        parts = []
        for number, etag in named:
            part = upload.parts.get(number)
            if part is None or part.etag != etag:
                raise S3Error(400, "InvalidPart")
            parts.append(part)
        numbers = [number for number, _ in named]
        if not parts or numbers != sorted(set(numbers)):
            raise S3Error(400, "InvalidPartOrder")
        if any(part.size_bytes < MIN_PART_BYTES for part in parts[:-1]):
            raise S3Error(400, "EntityTooSmall")
        joined = hashlib.md5(b"".join(bytes.fromhex(part.etag) for part in parts), usedforsecurity=False)
        stored = StoredObject(
            tuple(piece for part in parts for piece in part.pieces),
            sum(part.size_bytes for part in parts),
            f"{joined.hexdigest()}-{len(parts)}",
            time.time(),
            upload.metadata,
            upload.content_type,
        )
        self.bucket(upload.bucket)[upload.key] = stored
        del self.uploads[upload_id]
        return stored

    def read(self, stored: StoredObject, offset_bytes: int, length_bytes: int) -> Iterator[memoryview | bytes]:
        """Yields a range of an object in chunks; a chunk in memory is a view, never a copy."""
        skipped, left = offset_bytes, length_bytes
        for piece in stored.pieces:
            size = piece.length_bytes if isinstance(piece, Span) else len(piece)
            if skipped >= size:
                skipped -= size
                continue
            stop = min(size, skipped + left)
            for at in range(skipped, stop, CHUNK_BYTES):
                upto = min(at + CHUNK_BYTES, stop)
                if isinstance(piece, Span):
                    yield os.pread(self._file.fileno(), upto - at, piece.offset_bytes + at)
                else:
                    yield memoryview(piece)[at:upto]
            left -= stop - skipped
            skipped = 0
            if left == 0:
                return

    def save(self, name: str) -> None:
        """Notes the state of all buckets under a name."""
        self._saved[name] = {bucket: dict(objects) for bucket, objects in self.buckets.items()}

    def restore(self, name: str) -> bool:
        """Goes back to a state that was noted; False if there is none of that name."""
        saved = self._saved.get(name)
        if saved is None:
            return False
        self.buckets = {bucket: dict(objects) for bucket, objects in saved.items()}
        self.uploads.clear()
        return True

    def forget(self, name: str) -> None:
        """Lets go of a state that was noted; what lies in the file stays there."""
        self._saved.pop(name, None)

    def _stored(self, body: bytes | bytearray, metadata: Mapping[str, str], content_type: str) -> StoredObject:
        etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
        return StoredObject((self._kept(body),), len(body), etag, time.time(), metadata, content_type)

    def _kept(self, body: bytes | bytearray) -> Piece:
        if len(body) < SPILLED_BODY_BYTES or self._kept_bytes + len(body) <= self._memory_bytes:
            self._kept_bytes += len(body)
            return body
        span = Span(self._spilled_bytes, len(body))
        rest = memoryview(body)
        while rest:
            written = os.pwrite(self._file.fileno(), rest, self._spilled_bytes)
            self._spilled_bytes += written
            rest = rest[written:]
        return span
