"""An object store in memory, whose treatment of conditional writes, clock and moments are the test's."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from ebooklet_tx.errors import (
    ConditionUnsupportedError,
    InvalidArgumentError,
    NotFoundInRangeError,
    ObjectMissingError,
    ObjectTooLargeError,
    PreconditionFailedError,
)
from ebooklet_tx.stores.object_store import Blob, ByteSource, StoredObject, UploadState

Conditions = Literal["work", "want unquoted", "refused", "ignored"]
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class _Object:
    data: bytes
    etag: str
    modified: datetime
    metadata: dict[str, str]


class MemoryStore:
    """Keeps objects in a dict.

    Attributes:
        quote_etags: As the S3 store's; matters where conditions "want unquoted".
        conditions: How conditions on writes are treated; may be changed at any time.
        stuck: Keys of objects that refuse every ETag, as in Ceph once versioning was switched on.
        on_request: Called with kind and key before each request takes effect.
        clock: Tells the seconds that stand in listings as times of modification.
    """

    def __init__(self, conditions: Conditions = "work", *, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.quote_etags = True
        self.etags_proven = False
        self.on_request: Callable[[str, str], None] = lambda kind, key: None
        self.clock = clock
        self.objects: dict[str, _Object] = {}
        self.conditions: Conditions = conditions
        self.stuck: set[str] = set()
        self._mutex = threading.Lock()
        self._writes = 0

    @property
    def location(self) -> str:
        return "memory"

    @property
    def writable(self) -> bool:
        return True

    def _find(self, key: str) -> _Object:
        found = self.objects.get(key)
        if found is None:
            raise ObjectMissingError(f"there is no {key!r} in memory")
        return found

    def get(self, key: str, *, if_none_match: str | None = None, max_bytes: int | None = None) -> Blob | None:
        self.on_request("get", key)
        with self._mutex:
            found = self._find(key)
            if found.etag == if_none_match:
                return None
            if max_bytes is not None and len(found.data) > max_bytes:
                raise ObjectTooLargeError(
                    f"{key!r} in memory is too long", etag=found.etag, start=found.data[:64]
                )
            return Blob(found.data, found.etag, dict(found.metadata))

    def get_range(self, key: str, offset_bytes: int, length_bytes: int, *, if_match: str | None = None) -> bytes:
        self.on_request("get_range", key)
        with self._mutex:
            found = self._find(key)
        if if_match not in (None, found.etag):
            raise PreconditionFailedError(f"{key!r} in memory has changed")
        if offset_bytes + length_bytes > len(found.data):
            raise NotFoundInRangeError(f"{key!r} in memory is too short")
        return found.data[offset_bytes : offset_bytes + length_bytes]

    def head(self, key: str) -> StoredObject:
        self.on_request("head", key)
        with self._mutex:
            return self._described(key)

    def _described(self, key: str) -> StoredObject:
        found = self._find(key)
        return StoredObject(key, len(found.data), found.etag, found.modified, dict(found.metadata))

    def put(
        self,
        key: str,
        data: bytes,
        *,
        if_match: str | None = None,
        if_absent: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        if if_match is not None and if_absent:
            raise InvalidArgumentError("if_match and if_absent exclude each other")
        self.on_request("put", key)
        with self._mutex:
            self._check(key, if_match, if_absent)
            self._writes += 1
            etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
            modified = EPOCH + timedelta(seconds=self.clock())
            self.objects[key] = _Object(bytes(data), etag, modified, dict(metadata or {}))
            return etag

    def _check(self, key: str, if_match: str | None, if_absent: bool) -> None:
        if if_match is None and not if_absent:
            return
        if self.conditions == "ignored" and key not in self.stuck:
            return
        if self.conditions == "refused":
            raise ConditionUnsupportedError("501: memory refuses conditional writes")
        if key in self.stuck and not if_absent:
            raise PreconditionFailedError(f"412: {key!r} in memory refuses every ETag")
        found = self.objects.get(key)
        lost = found is not None if if_absent else found is None or found.etag != if_match
        if not if_absent and self.conditions == "want unquoted" and self.quote_etags:
            lost = True
        if lost:
            raise PreconditionFailedError(f"412: {key!r} in memory is not in the expected state")

    def put_parts(
        self,
        key: str,
        source: ByteSource,
        *,
        part_bytes: int,
        resume: UploadState | None = None,
        on_part: Callable[[UploadState], None] | None = None,
    ) -> str:
        return self.put(key, source.read_at(0, source.size_bytes))

    def list(self, prefix: str) -> Iterator[StoredObject]:
        self.on_request("list", prefix)
        with self._mutex:
            found = [self._described(key) for key in sorted(self.objects) if key.startswith(prefix)]
        yield from found

    def delete(self, key: str) -> None:
        self.on_request("delete", key)
        with self._mutex:
            self.objects.pop(key, None)

    def copy(self, source_key: str, target_key: str) -> str:
        self.on_request("copy", source_key)
        blob = self.get(source_key)
        return self.put(target_key, blob.data if blob is not None else b"")

    def close(self) -> None:
        pass
