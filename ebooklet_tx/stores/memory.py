"""An object store in memory, and the stores of this process by name.

Owns the objects. The invariants are those of every store: a put is one step under one lock, conditional or not,
and what is read next is what was written. Nothing outlives the process, and a forked one has a copy of its own.
"""

from __future__ import annotations

import hashlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ebooklet_tx.connection import check_object_key
from ebooklet_tx.errors import (
    InvalidArgumentError,
    ObjectMissingError,
    ObjectTooLargeError,
    PreconditionFailedError,
)
from ebooklet_tx.stores.bodies import check_end, check_range
from ebooklet_tx.stores.object_store import Blob, ByteSource, StoredObject, UploadState
from ebooklet_tx.stores.request import Request

_START_BYTES = 64


@dataclass
class MemoryObject:
    """An object as it was put."""

    data: bytes
    etag: str
    modified: datetime
    metadata: dict[str, str]


@dataclass
class _Upload:
    """An upload in parts that was begun."""

    key: str
    parts: list[bytes] = field(default_factory=list)


class MemoryStore:
    """Keeps objects in a dict.

    Attributes:
        objects: The objects by their keys; a test may look at them and alter them.
        clock: Returns the time of day in seconds, for when an object was written.
    """

    place = ("memory", "")
    """Endpoint and bucket, as roots name them."""

    def __init__(self, location: str = "memory", *, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.objects: dict[str, MemoryObject] = {}
        self._location = location
        self._mutex = threading.Lock()
        self._uploads: dict[str, _Upload] = {}

    @property
    def location(self) -> str:
        """Names the store for messages."""
        return self._location

    @property
    def writable(self) -> bool:
        """Always True."""
        return True

    def clear(self) -> None:
        """Forgets all objects and uploads."""
        with self._mutex:
            self.objects.clear()
            self._uploads.clear()

    def get(self, key: str, *, if_none_match: str | None = None, max_bytes: int | None = None) -> Blob | None:
        """Returns the object, or None when its ETag still is `if_none_match`."""
        request = self._begin("get", key)
        with self._mutex:
            found = self._find(request)
            if found.etag == if_none_match:
                return None
            if max_bytes is not None and len(found.data) > max_bytes:
                raise ObjectTooLargeError(
                    f"{request.describe()}: the object is over the limit of {max_bytes} bytes for its kind",
                    etag=found.etag,
                    start=found.data[:_START_BYTES],
                    **request.fields,
                )
            return Blob(found.data, found.etag, dict(found.metadata))

    def get_range(self, key: str, offset_bytes: int, length_bytes: int, *, if_match: str | None = None) -> bytes:
        """Returns exactly `length_bytes` bytes from `offset_bytes` on; no bytes need no object."""
        check_range(offset_bytes, length_bytes)
        request = self._begin("get_range", key)
        if length_bytes == 0:
            return b""
        with self._mutex:
            found = self._find(request)
        if if_match not in (None, found.etag):
            raise PreconditionFailedError(
                f"{request.describe()}: the object has changed; read it again", **request.fields
            )
        check_end(request, offset_bytes, length_bytes, len(found.data))
        return found.data[offset_bytes : offset_bytes + length_bytes]

    def head(self, key: str) -> StoredObject:
        """Returns the object's size, ETag, time of writing and metadata."""
        request = self._begin("head", key)
        with self._mutex:
            self._find(request)
            return self._described(key)

    def put(
        self,
        key: str,
        data: bytes,
        *,
        if_match: str | None = None,
        if_absent: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        """Writes the whole object and returns its ETag."""
        if if_match is not None and if_absent:
            raise InvalidArgumentError(f"put of {key!r}: if_match and if_absent exclude each other")
        request = self._begin("put", key)
        with self._mutex:
            if if_match is not None or if_absent:
                self._check(request, if_match)
            return self._keep(key, data, metadata or {})

    def put_parts(
        self,
        key: str,
        source: ByteSource,
        *,
        part_bytes: int,
        resume: UploadState | None = None,
        on_part: Callable[[UploadState], None] | None = None,
    ) -> str:
        """Writes an object part by part and returns its ETag; a failed upload is kept for `resume`."""
        if part_bytes < 1:
            raise InvalidArgumentError(f"part_bytes must be at least 1, not {part_bytes}")
        self._begin("put_parts", key)
        upload, state = self._begun_upload(key, source.size_bytes, resume)
        offset_bytes = sum(map(len, upload.parts))
        if on_part is not None:
            on_part(state)
        while offset_bytes < source.size_bytes:
            part = source.read_at(offset_bytes, min(part_bytes, source.size_bytes - offset_bytes))
            upload.parts.append(part)
            offset_bytes += len(part)
            state = UploadState(state.upload_id, (*state.parts, (len(upload.parts), _etag_of(part))))
            if on_part is not None:
                on_part(state)
        with self._mutex:
            self._uploads.pop(state.upload_id, None)
            return self._keep(key, b"".join(upload.parts), {})

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yields the objects whose names begin with `prefix`, in order of name."""
        self._begin("list", prefix)
        with self._mutex:
            found = [self._described(key) for key in sorted(self.objects) if key.startswith(prefix)]
        yield from found

    def delete(self, key: str) -> None:
        """Removes the object."""
        self._begin("delete", key)
        with self._mutex:
            self.objects.pop(key, None)

    def copy(self, source_key: str, target_key: str) -> str:
        """Copies an object with its metadata and returns the copy's ETag."""
        request = self._begin("copy", source_key)
        check_object_key(target_key)
        with self._mutex:
            found = self._find(request)
            return self._keep(target_key, found.data, found.metadata)

    def close(self) -> None:
        """Does nothing: there is no connection."""

    def _begin(self, operation: str, key: str) -> Request:
        """Called before each request takes effect; a subclass may do so too."""
        if operation != "list":
            check_object_key(key)
        return Request(operation, self.location, key)

    def _check(self, request: Request, if_match: str | None) -> None:
        """Refuses a write whose condition does not hold; `if_match` None means that the object must be absent."""
        found = self.objects.get(request.key)
        if (None if found is None else found.etag) != if_match:
            state = "the object exists" if if_match is None else "the object has changed or is gone"
            raise PreconditionFailedError(f"{request.describe()}: {state}; read it again", **request.fields)

    def _find(self, request: Request) -> MemoryObject:
        found = self.objects.get(request.key)
        if found is None:
            raise ObjectMissingError(f"{request.describe()}: there is no such object", **request.fields)
        return found

    def _described(self, key: str) -> StoredObject:
        """Returns what a listing says of an object that is there; called under the lock."""
        found = self.objects[key]
        return StoredObject(key, len(found.data), found.etag, found.modified, dict(found.metadata))

    def _keep(self, key: str, data: bytes, metadata: Mapping[str, str]) -> str:
        kept = {name.lower(): value for name, value in metadata.items()}
        self.objects[key] = MemoryObject(bytes(data), _etag_of(data), self._now(), kept)
        return self.objects[key].etag

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.clock(), UTC)

    def _begun_upload(self, key: str, size_bytes: int, resume: UploadState | None) -> tuple[_Upload, UploadState]:
        """Returns the upload to resume, cut to the parts that are recorded, or a new one."""
        with self._mutex:
            if resume is not None:
                known = self._uploads.get(resume.upload_id)
                parts = [] if known is None else known.parts[: len(resume.parts)]
                tags = tuple((number, _etag_of(part)) for number, part in enumerate(parts, start=1))
                fits = sum(map(len, parts)) <= size_bytes
                if known is not None and known.key == key and tags == resume.parts and fits:
                    known.parts = parts
                    return known, resume
            state = UploadState(uuid.uuid4().hex)
            self._uploads[state.upload_id] = upload = _Upload(key)
            return upload, state


def _etag_of(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


_stores: dict[str, MemoryStore] = {}
_stores_mutex = threading.Lock()


def store_named(name: str) -> MemoryStore:
    """Returns the store of a name, one for the whole process; it begins empty."""
    with _stores_mutex:
        return _stores.setdefault(name, MemoryStore(f"memory://{name}"))


def clear_stores(name: str | None = None) -> None:
    """Empties the store of a name, or all of them; sessions that are open on one find it empty."""
    with _stores_mutex:
        found = [store for known, store in _stores.items() if name in (None, known)]
    for store in found:
        store.clear()


__all__ = ["MemoryObject", "MemoryStore", "clear_stores", "store_named"]
